"""Stand-in for `slicer.parameterNodeWrapper`: typed fields on a vtkMRMLScriptedModuleNode, bound to widgets.

What it writes into the node is what Slicer writes for these types: numbers and strings as text, booleans as "True" or
"False", an Enum by its name, a node as a reference of the field's name beside an empty parameter, a pack's fields as
"pack.field". Lists, tuples and dictionaries are written as JSON, which is not Slicer's form.
"""

# ruff: noqa: N802, N815

from __future__ import annotations

import enum
import json
import pathlib
import types
import typing
from collections.abc import Callable
from types import ModuleType
from typing import Any

from PySide6 import QtWidgets

PROPERTY = "SlicerParameterName"


class Default:
    """`Annotated[int, Default(3)]`."""

    def __init__(self, value: Any) -> None:
        self.value = value


class _Check:
    def check(self, value: Any) -> None:
        raise NotImplementedError


class WithinRange(_Check):
    def __init__(self, minimum: float, maximum: float) -> None:
        self.minimum, self.maximum = minimum, maximum

    def check(self, value: Any) -> None:
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"{value} is not within {self.minimum} to {self.maximum}")


class Minimum(_Check):
    def __init__(self, minimum: float) -> None:
        self.minimum = minimum

    def check(self, value: Any) -> None:
        if value < self.minimum:
            raise ValueError(f"{value} is less than {self.minimum}")


class Maximum(_Check):
    def __init__(self, maximum: float) -> None:
        self.maximum = maximum

    def check(self, value: Any) -> None:
        if value > self.maximum:
            raise ValueError(f"{value} is more than {self.maximum}")


class Choice(_Check):
    def __init__(self, choices: Any) -> None:
        self.choices = list(choices)

    def check(self, value: Any) -> None:
        if value not in self.choices:
            raise ValueError(f"{value!r} is none of {self.choices}")


class Field:
    """One typed field: its default, and how it lies in the node."""

    def __init__(self, owner: type, name: str, hint: Any) -> None:
        self.name = name
        notes: tuple[Any, ...] = ()
        if typing.get_origin(hint) is typing.Annotated:
            hint, *rest = typing.get_args(hint)
            notes = tuple(rest)
        self.checks = [note for note in notes if isinstance(note, _Check)]
        options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
        self.optional = type(None) in options
        self.kind = next(option for option in options if option is not type(None))
        given = [note.value for note in notes if isinstance(note, Default)]
        if name in vars(owner):
            given = [vars(owner)[name]]
        self.default = given[0] if given else self._plain_default()
        self._known()

    def _known(self) -> None:
        plain = typing.get_origin(self.kind) or self.kind
        plain_known = plain in (int, float, bool, str, list, tuple, dict)
        is_path = isinstance(plain, type) and issubclass(plain, pathlib.PurePath)
        if not (plain_known or is_path or self.is_node or self.is_enum or self.is_pack):
            raise TypeError(f"the parameter node wrapper does not know the type {self.kind} of field '{self.name}'")

    @property
    def is_node(self) -> bool:
        import slicer

        return isinstance(self.kind, type) and issubclass(self.kind, slicer.vtkMRMLNode)

    @property
    def is_enum(self) -> bool:
        return isinstance(self.kind, type) and issubclass(self.kind, enum.Enum)

    @property
    def is_pack(self) -> bool:
        return bool(getattr(self.kind, "_is_parameter_pack", False))

    def _plain_default(self) -> Any:
        if self.is_node or self.optional:
            return None
        if self.is_enum:
            return next(iter(self.kind))
        return (typing.get_origin(self.kind) or self.kind)()

    def key(self, prefix: str) -> str:
        return f"{prefix}{self.name}"

    def has(self, node: Any, prefix: str) -> bool:
        if self.is_pack:
            return all(field.has(node, f"{self.key(prefix)}.") for field in self.kind.allParameters.values())
        return bool(node.HasParameter(self.key(prefix)))

    def read(self, node: Any, prefix: str) -> Any:
        key = self.key(prefix)
        if self.is_pack:
            return self.kind._bound(node, f"{key}.")
        if not node.HasParameter(key):
            self.write(node, prefix, self.default)
        if self.is_node:
            return node.GetNodeReference(key)
        text = node.GetParameter(key)
        if self.optional and text == "None":
            return None
        if self.is_enum:
            return self.kind[text]
        if self.kind is bool:
            return text == "True"
        plain = typing.get_origin(self.kind) or self.kind
        return plain(json.loads(text)) if plain in (list, tuple, dict) else plain(text)

    def write(self, node: Any, prefix: str, value: Any) -> None:
        key = self.key(prefix)
        if self.is_pack:
            for field in self.kind.allParameters.values():
                field.write(node, f"{key}.", getattr(value, field.name))
            return
        self._must_be_typed(value)
        for check in self.checks:
            check.check(value)
        changing = node.StartModify()
        try:
            if self.is_node:
                node.SetParameter(key, "")
                node.SetNodeReferenceID(key, value.GetID() if value is not None else None)
            else:
                node.SetParameter(key, self._text(value))
        finally:
            node.EndModify(changing)

    def _text(self, value: Any) -> str:
        if self.is_enum and value is not None:
            return str(value.name)
        plain = typing.get_origin(self.kind) or self.kind
        return json.dumps(value) if plain in (list, tuple, dict) else str(value)

    def _must_be_typed(self, value: Any) -> None:
        if value is None and (self.is_node or self.optional):
            return
        plain = typing.get_origin(self.kind) or self.kind
        allowed = (int, float) if plain is float else pathlib.PurePath if issubclass(plain, pathlib.PurePath) else plain
        if not isinstance(value, allowed):
            raise TypeError(f"field '{self.name}' takes {plain.__name__}, and was given {value!r}")


def fields_of(cls: type) -> dict[str, Field]:
    return {name: Field(cls, name, hint) for name, hint in typing.get_type_hints(cls, include_extras=True).items()}


def parameterPack(cls: type) -> type:
    """Fields kept together: plain values by themselves, "pack.field" in the node once they belong to a wrapper."""
    found = fields_of(cls)

    def initialise(self: Any, *args: Any, **kwargs: Any) -> None:
        self.__dict__["_values"] = {name: field.default for name, field in found.items()}
        self.__dict__["_node"] = None
        self.__dict__["_values"].update(dict(zip(found, args, strict=False)) | kwargs)

    def bound(node: Any, prefix: str) -> Any:
        pack = cls()
        pack.__dict__.update(_node=node, _prefix=prefix)
        return pack

    def accessor(field: Field) -> property:
        def read(self: Any) -> Any:
            return self._values[field.name] if self._node is None else field.read(self._node, self._prefix)

        def write(self: Any, value: Any) -> None:
            if self._node is None:
                self._values[field.name] = value
            else:
                field.write(self._node, self._prefix, value)

        return property(read, write)

    for name, field in found.items():
        setattr(cls, name, accessor(field))
    cls.__init__ = initialise  # type: ignore[misc]
    cls.allParameters = found  # type: ignore[attr-defined]
    cls._bound = staticmethod(bound)  # type: ignore[attr-defined]
    cls._is_parameter_pack = True  # type: ignore[attr-defined]
    cls.getValue = lambda self, name: getattr(self, name)  # type: ignore[attr-defined]
    cls.setValue = lambda self, name, value: setattr(self, name, value)  # type: ignore[attr-defined]
    cls.__eq__ = lambda self, other: (  # type: ignore[method-assign]
        type(self) is type(other) and all(getattr(self, n) == getattr(other, n) for n in found)
    )
    cls.__hash__ = None  # type: ignore[method-assign, assignment]
    return cls


class Wrapped:
    """What a decorated class can do beside its fields."""

    allParameters: dict[str, Field]

    def __init__(self, parameterNode: Any, prefix: str = "") -> None:
        if parameterNode is None:
            raise AssertionError("a parameter node wrapper needs a node")
        self.parameterNode = parameterNode
        self._prefix = prefix or ""
        self._guis: dict[int, tuple[dict[str, Connector], int]] = {}
        self._next_tag, self._writing = 0, False
        for field in self.allParameters.values():
            if not field.has(parameterNode, self._prefix):
                field.write(parameterNode, self._prefix, field.default)

    def _split(self, name: str) -> tuple[Field, str]:
        top, _, rest = name.partition(".")
        if top not in self.allParameters:
            raise ValueError(f"no parameter '{name}'; there are {', '.join(self.allParameters)}")
        return self.allParameters[top], rest

    def getValue(self, name: str) -> Any:
        field, rest = self._split(name)
        value = field.read(self.parameterNode, self._prefix)
        return getattr(value, rest) if rest else value

    def setValue(self, name: str, value: Any) -> None:
        field, rest = self._split(name)
        if rest:
            setattr(field.read(self.parameterNode, self._prefix), rest, value)
        else:
            field.write(self.parameterNode, self._prefix, value)

    def default(self, name: str) -> Default:
        return Default(self._split(name)[0].default)

    def dataType(self, name: str) -> Any:
        field, rest = self._split(name)
        return field.kind.allParameters[rest].kind if rest else field.kind

    def StartModify(self) -> int:
        return int(self.parameterNode.StartModify())

    def EndModify(self, was: int) -> int:
        return int(self.parameterNode.EndModify(was))

    def Modified(self) -> None:
        self.parameterNode.Modified()

    def AddObserver(self, event: Any, call: Callable[..., Any], priority: float = 0.0) -> int:
        return int(self.parameterNode.AddObserver(event, call, priority))

    def RemoveObserver(self, tag: int) -> None:
        self.parameterNode.RemoveObserver(tag)

    def connectGui(self, gui: Any) -> int:
        """Bind every widget that carries the dynamic property SlicerParameterName; returns a tag to undo it."""
        widgets = gui.findChildren(QtWidgets.QWidget) if isinstance(gui, QtWidgets.QWidget) else vars(gui).values()
        named = [(widget.property(PROPERTY), widget) for widget in widgets if hasattr(widget, "property")]
        return self.connectParametersToGui({name: widget for name, widget in named if name})

    def connectParametersToGui(self, mapping: dict[str, Any]) -> int:
        for name in mapping:
            self.getValue(name)
        connectors = {name: Connector(widget, self.dataType(name)) for name, widget in mapping.items()}
        for name, connector in connectors.items():
            connector.write(self.getValue(name))
            connector.listen(self._gui_listener(name, connector))
        tag = self._next_tag
        self._next_tag += 1
        self._guis[tag] = connectors, self.AddObserver("ModifiedEvent", lambda *_: self._to_gui())
        return tag

    def disconnectGui(self, tag: int) -> None:
        if tag in self._guis:
            connectors, observer = self._guis.pop(tag)
            self.RemoveObserver(observer)
            for connector in connectors.values():
                connector.listen(None)

    def _gui_listener(self, name: str, connector: Connector) -> Callable[[], None]:
        def changed() -> None:
            if not self._writing:
                self.setValue(name, connector.read())

        return changed

    def _to_gui(self) -> None:
        if self._writing:
            return
        self._writing = True
        try:
            for connectors, _tag in list(self._guis.values()):
                for name, connector in connectors.items():
                    connector.write(self.getValue(name))
        finally:
            self._writing = False


def _field_property(name: str) -> property:
    return property(lambda self: self.getValue(name), lambda self, value: self.setValue(name, value))


def parameterNodeWrapper(cls: type | None = None) -> Any:
    if cls is None:
        return parameterNodeWrapper
    found = fields_of(cls)
    taken = sorted(set(found) & set(dir(Wrapped)))
    if taken:
        raise ValueError(f"reserved names in a parameter node wrapper: {', '.join(taken)}")
    body = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__", "__init__")}
    body |= {name: _field_property(name) for name in found} | {"allParameters": found}
    return type(cls.__name__, (Wrapped, *(base for base in cls.__bases__ if base is not object)), body)


class Connector:
    """A widget's value, read, written and listened to by the widget's class."""

    #: widget class -> (signal, property); the first that fits, so special classes come first.
    KINDS = (
        ("qMRMLNodeComboBox", "currentNodeChanged(vtkMRMLNode*)", None),
        ("ctkPathLineEdit", "currentPathChanged(QString)", "currentPath"),
        ("QComboBox", "currentIndexChanged(int)", "currentText"),
        ("QLineEdit", "textChanged(QString)", "text"),
        ("QTextEdit", "textChanged()", "plainText"),
        ("QPlainTextEdit", "textChanged()", "plainText"),
        ("QDoubleSpinBox", "valueChanged(double)", "value"),
        ("QSpinBox", "valueChanged(int)", "value"),
        ("QAbstractSlider", "valueChanged(int)", "value"),
        ("QAbstractButton", "toggled(bool)", "checked"),
    )

    def __init__(self, widget: Any, kind: Any) -> None:
        self.widget, self.kind = widget, kind
        for name, signal, prop in self.KINDS:
            if widget.inherits(name):
                self.signal, self.property = signal, prop
                break
        else:
            raise TypeError(f"no parameter of type {kind} can be bound to a {widget.className()}")
        self._call: Callable[[], None] | None = None
        if self.is_enum_box and widget.count == 0:
            for choice in kind:
                widget.addItem(choice.value if isinstance(choice.value, str) else choice.name)

    @property
    def is_enum_box(self) -> bool:
        return isinstance(self.kind, type) and issubclass(self.kind, enum.Enum) and self.property == "currentText"

    def listen(self, call: Callable[[], None] | None) -> None:
        if self._call is not None:
            self.widget.disconnect(self.signal, self._call)
        self._call = call
        if call is not None:
            self.widget.connect(self.signal, call)

    def read(self) -> Any:
        if self.property is None:
            return self.widget.currentNode()
        value = getattr(self.widget, self.property)
        if self.is_enum_box:
            return list(self.kind)[self.widget.currentIndex]
        return self.kind(value) if self.kind in (int, float, bool, str) else self.kind(str(value))

    def write(self, value: Any) -> None:
        if self.property is None:
            if self.widget.currentNode() is not value:
                self.widget.setCurrentNode(value)
        elif self.is_enum_box:
            self.widget.setCurrentIndex(list(self.kind).index(value))
        elif self.property == "currentText":
            self.widget.setCurrentText(str(value))
        else:
            plain = value if isinstance(value, int | float | bool) else str(value)
            if getattr(self.widget, self.property) != plain:
                setattr(self.widget, self.property, plain)


def module() -> ModuleType:
    """`slicer.parameterNodeWrapper`."""
    made = ModuleType("slicer.parameterNodeWrapper")
    for thing in (parameterPack, Default, WithinRange, Minimum, Maximum, Choice):
        setattr(made, thing.__name__, thing)
    made.parameterNodeWrapper = parameterNodeWrapper  # type: ignore[attr-defined]
    made.SlicerParameterNamePropertyName = PROPERTY  # type: ignore[attr-defined]
    return made
