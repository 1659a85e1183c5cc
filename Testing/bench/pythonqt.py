"""PySide6 behaving like PythonQt, Slicer's binding, for as long as the bench runs.

PythonQt shows Qt's properties as attributes and hides the getters of the same name; PySide6 does the opposite. The
classes of PySide6 are patched in place and put back afterwards, rather than subclassed, so that objects which Qt itself
makes (children of a .ui, a tree's header, a layout's widgets) behave alike.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from types import FunctionType, MethodType, ModuleType
from typing import Any, ClassVar

import shiboken6
from PySide6 import QtCore, QtGui, QtSvg, QtSvgWidgets, QtUiTools, QtWidgets

MODULES = (QtCore, QtGui, QtWidgets, QtSvg, QtSvgWidgets, QtUiTools)
#: Their properties are static functions, which PythonQt leaves callable.
APPLICATIONS = (QtCore.QCoreApplication, QtGui.QGuiApplication, QtWidgets.QApplication)
REFUSED = {
    "Signal": "a signal defined in Python crashes Slicer: use a plain Python callback",
    "Slot": "PythonQt needs no Slot: connect the function itself",
    "Property": "a Qt property cannot be defined in Python in Slicer",
}
ABSENT = object()


class BenchError(AssertionError):
    """The module did what Slicer would not stand, or the bench cannot do what was asked."""


class UnansweredBox(BenchError):  # noqa: N818 - says what happened
    """A modal box opened and no answer was waiting for it in `bench.answers`; in Slicer it would have waited."""


@dataclass(frozen=True)
class Message:
    """A modal box that opened, and what it was answered.

    Attributes:
        kind: "info", "warning", "error", "question", "box" (no icon), "dialog", "menu", "file", "input".
        text: what it said: a box's text, a dialog's or file dialog's title, an input's label.
        title: window title.
        detail: informative and detailed text of a box, each on its own line.
        choices: captions of the buttons or entries that it offered.
        answer: what the queue answered.
    """

    kind: str
    text: str
    title: str = ""
    detail: str = ""
    choices: tuple[str, ...] = ()
    answer: Any = None


@dataclass
class Desk:
    """Answers that wait for modal boxes, first in first out, and the boxes that have been."""

    answers: list[Any] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)

    def take(self, message: Message) -> Any:
        """The next answer. Raises UnansweredBox when there is none; the box is recorded all the same."""
        if not self.answers:
            self.messages.append(message)
            said = " | ".join(part for part in (message.title, message.text, message.detail) if part)
            raise UnansweredBox(f"a {message.kind} box opened and bench.answers is empty: {said}")
        answer = self.answers.pop(0)
        self.messages.append(Message(**{**vars(message), "answer": answer}))
        return answer


class Patches:
    """Attributes set for a while."""

    def __init__(self) -> None:
        self._undo: list[tuple[Any, str, Any]] = []

    def set(self, owner: Any, name: str, value: Any) -> None:
        self._undo.append((owner, name, vars(owner).get(name, ABSENT)))
        setattr(owner, name, value)

    def item(self, mapping: Any, key: str, value: Any) -> None:
        self._undo.append((mapping, key, mapping.get(key, ABSENT)))
        mapping[key] = value

    def undo(self) -> None:
        for owner, name, old in reversed(self._undo):
            if isinstance(owner, dict):
                if old is ABSENT:
                    owner.pop(name, None)
                else:
                    owner[name] = old
            elif old is ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, old)
        self._undo.clear()


class BoolResult:
    """PythonQt's way of passing a `bool*`: `ok = qt.BoolResult(); ...; if ok:`."""

    def __init__(self) -> None:
        self.value = False

    def __bool__(self) -> bool:
        return self.value


# Properties ----------------------------------------------------------------------------------------------------------


@cache
def qobject_classes() -> tuple[type, ...]:
    """Every QObject class of the merged modules, bases first."""
    found: dict[type, None] = {}
    for module in MODULES:
        for name in dir(module):
            thing = getattr(module, name)
            if isinstance(thing, type) and issubclass(thing, QtCore.QObject):
                found[thing] = None
    return tuple(sorted(found, key=lambda cls: len(cls.__mro__)))


@cache
def property_names(cls: type) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Inherited and own Qt properties of a class. Asked once: PySide6 lets go of some meta-objects later."""
    meta = cls.staticMetaObject  # type: ignore[attr-defined]
    names = [meta.property(i).name() for i in range(meta.propertyCount())]
    return tuple(names[: meta.propertyOffset()]), tuple(names[meta.propertyOffset() :])


def qt_property(name: str, getter: Any) -> property:
    """A Python property for a Qt one.

    The class's own getter is preferred: it returns enums as enums, and it does not call itself through Qt's virtual
    functions, which look up `sizeHint` in Python first.
    """
    setter_name = f"set{name[0].upper()}{name[1:]}"

    def read(self: Any) -> Any:
        if getter is not None:
            try:
                return getter.__get__(self)()
            except TypeError:  # a method of the same name that takes arguments
                pass
        return QtCore.QObject.property(self, name)

    def write(self: Any, value: Any) -> None:
        setter = getattr(self, setter_name, None)
        if setter is not None:
            try:
                setter(value)
                return
            except TypeError:  # PythonQt converts more kindly than PySide6; so does setProperty
                pass
        meta = self.metaObject()
        described = meta.property(meta.indexOfProperty(name))
        if not described.isWritable():
            raise AttributeError(f"property '{name}' of {meta.className()} is not writable")
        if not QtCore.QObject.setProperty(self, name, value):
            raise TypeError(f"property '{name}' of {meta.className()} does not take {value!r}")

    return property(read, write)


def install_properties(patches: Patches) -> None:
    for cls in qobject_classes():
        if issubclass(cls, APPLICATIONS):
            continue
        inherited, own = property_names(cls)
        for name in inherited + own:
            method = vars(cls).get(name)
            if isinstance(method, staticmethod) or (method is None and name not in own):
                continue
            patches.set(cls, name, qt_property(name, method))


def guarded_setattr(self: Any, name: str, value: Any) -> None:
    """PythonQt refuses attributes that a C++ class does not have; a class made in Python may have its own."""
    cls = type(self)
    known = getattr(cls, name, ABSENT)
    if isinstance(known, QtCore.Property):
        if known.fset is None:
            raise AttributeError(f"property '{name}' of {cls.__name__} is not writable")
        known.fset(self, value)
    elif hasattr(type(known), "__set__"):
        type(known).__set__(known, self, value)
    else:
        in_cpp = cls.__module__.startswith("PySide6.") or vars(cls).get("_stands_for_cpp", False)
        # Both bindings show a .ui's children as attributes of its root; PySide6 sets them in this way.
        is_child = isinstance(value, QtCore.QObject) and value.objectName == name
        if in_cpp and not is_child and not name.startswith("_"):
            if known is ABSENT:
                raise AttributeError(f"{cls.__name__} has no property '{name}', and PythonQt lets none be added")
            raise AttributeError(f"'{name}' of {cls.__name__} is a method or signal: it cannot be replaced")
        self.__dict__[name] = value


def see_patches_first(patches: Patches) -> None:
    """Let the patched methods be found.

    PySide6 finds functions that are both static and not (`connect`, `QMenu.exec`) on its own road past the class's
    attributes, so a patch of the class alone would be overlooked.
    """
    twofold = frozenset({"connect", "disconnect", "exec", "exec_"})

    def finder(plain: Any) -> Callable[[Any, str], Any]:
        def find(self: Any, name: str) -> Any:
            if name in twofold:
                held = next((vars(cls)[name] for cls in type(self).__mro__ if name in vars(cls)), None)
                if isinstance(held, FunctionType):
                    return MethodType(held, self)
            return plain(self, name)

        return find

    for cls in qobject_classes():
        if "__getattribute__" in vars(cls):
            patches.set(cls, "__getattribute__", finder(vars(cls)["__getattribute__"]))


# Signals by signature ------------------------------------------------------------------------------------------------


def signature(text: str | bytes) -> str:
    """Qt's normal form; pointers to VTK objects, which PySide6 does not know, pass as Python objects."""
    plain = _text(text)
    plain = plain[1:] if plain[:1] in "012" else plain
    return _text(QtCore.QMetaObject.normalizedSignature(re.sub(r"vtk\w+\s*\*", "PyObject", plain)))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else bytes(value.data() if hasattr(value, "data") else value).decode()


def signals_of(sender: QtCore.QObject) -> Iterator[str]:
    meta = sender.metaObject()
    for i in range(meta.methodCount()):
        method = meta.method(i)
        if method.methodType() == QtCore.QMetaMethod.MethodType.Signal:
            yield _text(method.methodSignature())


def accepted(call: Callable[..., Any]) -> int | None:
    """How many positional arguments a callable takes; None for any number or unknown."""
    function = call.__func__ if isinstance(call, MethodType) else call
    if not isinstance(function, FunctionType):
        return None
    code = function.__code__
    if code.co_flags & 0x04:
        return None
    return code.co_argcount - isinstance(call, MethodType)


def trimmed(call: Callable[..., Any]) -> Callable[..., Any]:
    """The callable, held strongly and called with no more arguments than it takes, as PythonQt does."""
    count = accepted(call)

    def run(*args: Any) -> None:
        if count is not None:
            call(*args[:count])
            return
        try:
            call(*args)
        except TypeError:
            if isinstance(call, FunctionType | MethodType) or not args:
                raise
            call()  # a method of Qt's own, such as `dialog.accept`, on a signal that carries a value

    return run


class Connections:
    """`sender.connect("signal(args)", f)` and its undoing."""

    def __init__(self) -> None:
        self._plain_connect = vars(QtCore.QObject)["connect"]
        self._plain_disconnect = vars(QtCore.QObject)["disconnect"]
        self._made: dict[tuple[int, str], list[tuple[Any, Any]]] = {}

    def install(self, patches: Patches) -> None:
        me = self
        patches.set(QtCore.QObject, "connect", lambda sender, *args: me.connect(sender, *args))
        patches.set(QtCore.QObject, "disconnect", lambda sender, *args: me.disconnect(sender, *args))

    @staticmethod
    def _key(sender: Any, sig: str) -> tuple[int, str]:
        return shiboken6.getCppPointer(sender)[0], sig

    def connect(self, sender: Any, *args: Any) -> bool:
        if not isinstance(args[0], str | bytes):  # Qt's own static form, which PySide6 calls itself for a single shot
            return bool(self._plain_connect.__get__(None, QtCore.QObject)(*args))
        signal, receiver, *rest = args
        slot = rest[0] if rest and isinstance(rest[0], str) else None
        sig = signature(signal)
        known = list(signals_of(sender))
        if sig not in known:
            name = sig.partition("(")[0]
            alike = [other for other in known if other.partition("(")[0] == name] or known
            raise BenchError(f"{sender.metaObject().className()} has no signal {signal}; it has {', '.join(alike)}")
        target = receiver if slot is None else getattr(receiver, slot.partition("(")[0])
        wrapper = trimmed(target)
        self._made.setdefault(self._key(sender, sig), []).append((target, wrapper))
        return bool(self._plain_connect.__get__(None, QtCore.QObject)(sender, f"2{sig}", wrapper))

    def disconnect(self, sender: Any, *args: Any) -> bool:
        if not args or not isinstance(args[0], str | bytes):
            return bool(self._plain_disconnect.__get__(None, QtCore.QObject)(sender, *args))
        sig = signature(args[0])
        made = self._made.get(self._key(sender, sig), [])
        target = None if len(args) < 2 else args[1] if len(args) < 3 else getattr(args[1], args[2].partition("(")[0])
        gone = [pair for pair in made if target is None or pair[0] == target]
        for pair in gone:
            made.remove(pair)
            self._plain_disconnect.__get__(None, QtCore.QObject)(sender, f"2{sig}", pair[1])
        return bool(gone)


# Modal boxes ---------------------------------------------------------------------------------------------------------


class Modal:
    """Everything that would stop and wait for a person is answered from the desk instead."""

    KINDS: ClassVar = {
        "Information": "info",
        "Warning": "warning",
        "Critical": "error",
        "Question": "question",
        "NoIcon": "box",
    }
    STATIC: ClassVar = {
        "information": "info",
        "warning": "warning",
        "critical": "error",
        "question": "question",
        "about": "info",
    }

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def install(self, patches: Patches) -> None:
        widgets = QtWidgets
        for name in ("exec", "exec_"):
            patches.set(widgets.QDialog, name, self._method(self.dialog))
            patches.set(widgets.QMenu, name, self._method(self.menu))
        for name, kind in self.STATIC.items():
            patches.set(widgets.QMessageBox, name, staticmethod(self._static_box(kind)))
        for name in ("getOpenFileName", "getOpenFileNames", "getSaveFileName", "getExistingDirectory"):
            patches.set(widgets.QFileDialog, name, staticmethod(self._file(name)))
        for name in ("getText", "getMultiLineText", "getItem", "getInt", "getDouble"):
            patches.set(widgets.QInputDialog, name, staticmethod(self._input(name)))

    @staticmethod
    def _method(call: Callable[..., Any]) -> Callable[..., Any]:
        return lambda self, *args, **kwargs: call(self, *args, **kwargs)

    def dialog(self, dialog: QtWidgets.QDialog, *_: Any) -> Any:
        if isinstance(dialog, QtWidgets.QMessageBox):
            return self.box(dialog)
        title = dialog.windowTitle
        answer = self.desk.take(Message("dialog", title or dialog.metaObject().className(), title))
        if callable(answer):
            dialog.show()
            answer = answer(dialog)
            if answer is None:
                dialog.hide()
                return dialog.result()
        dialog.done(int(answer.value if hasattr(answer, "value") else answer))
        return dialog.result()

    def box(self, box: QtWidgets.QMessageBox) -> Any:
        buttons = list(box.buttons()) or [box.addButton(QtWidgets.QMessageBox.StandardButton.Ok)]
        captions = tuple(button.text for button in buttons)
        detail = "\n".join(part for part in (box.informativeText, box.detailedText) if part)
        kind = self.KINDS[box.icon.name]
        answer = self.desk.take(Message(kind, box.text, box.windowTitle, detail, captions))
        if callable(answer):
            answer = answer(box)
        for button in buttons:
            if self._means(answer, button.text, box.standardButton(button)):
                button.click()
                return box.result()
        raise BenchError(f"the box {box.text!r} offers {captions}, and was answered {answer!r}")

    @staticmethod
    def _means(answer: Any, caption: str, standard: Any) -> bool:
        if isinstance(answer, bool):
            yes = {"Yes", "Ok", "Open", "Save", "Retry", "Apply"}
            return (standard.name in yes) if answer else standard.name in {"No", "Cancel", "Close", "Discard", "Abort"}
        if isinstance(answer, str):
            plain = caption.replace("&", "").lower()
            return answer.replace("&", "").lower() in (plain, standard.name.lower())
        return bool(standard.name != "NoButton" and answer == standard)

    def _static_box(self, kind: str) -> Callable[..., Any]:
        standard = QtWidgets.QMessageBox.StandardButton

        def show(parent: Any = None, title: str = "", text: str = "", buttons: Any = None, *_: Any) -> Any:
            usual = standard.Yes | standard.No if kind == "question" else standard.Ok
            offered = usual if buttons is None else buttons
            box = QtWidgets.QMessageBox(getattr(QtWidgets.QMessageBox.Icon, _icon(kind)), title, text, offered)
            return standard(self.box(box))

        return show

    def menu(self, menu: QtWidgets.QMenu, *_: Any) -> Any:
        actions = [action for action in menu.actions() if action.text]
        answer = self.desk.take(Message("menu", menu.title, choices=tuple(action.text for action in actions)))
        if answer is None:
            return None
        for action in actions:
            if action.text.replace("&", "") == str(answer).replace("&", ""):
                if not action.enabled:
                    raise BenchError(f"the menu's entry {answer!r} is disabled")
                action.trigger()
                return action
        raise BenchError(f"the menu offers {[action.text for action in actions]}, and was answered {answer!r}")

    def _file(self, name: str) -> Callable[..., Any]:
        def ask(parent: Any = None, caption: str = "", directory: str = "", filters: str = "", *_: Any) -> Any:
            answer = self.desk.take(Message("file", caption or name, caption, directory, (str(filters),)))
            if name == "getOpenFileNames":
                return [str(path) for path in answer or ()]
            return "" if answer is None else str(answer)

        return ask

    def _input(self, name: str) -> Callable[..., Any]:
        def ask(parent: Any, title: str = "", label: str = "", *args: Any) -> Any:
            offered = tuple(str(item) for item in args[0]) if name == "getItem" and args else ()
            answer = self.desk.take(Message("input", label, title, choices=offered))
            for result in args:
                if isinstance(result, BoolResult):
                    result.value = answer is not None
            empty = {"getInt": 0, "getDouble": 0.0}.get(name, "")
            return empty if answer is None else answer

        return ask


def _icon(kind: str) -> str:
    return next(icon for icon, name in Modal.KINDS.items() if name == kind)


# The module `qt` -----------------------------------------------------------------------------------------------------


class QtModule(ModuleType):
    """`import qt`: the modules of PySide6 in one, as in Slicer."""

    def __init__(self, extra: dict[str, Any]) -> None:
        super().__init__("qt", "PySide6 with PythonQt's semantics")
        vars(self).update(extra)

    def __getattr__(self, name: str) -> Any:
        if name in REFUSED:
            raise AttributeError(f"qt.{name}: {REFUSED[name]}")
        for module in MODULES:
            if hasattr(module, name):
                return getattr(module, name)
        raise AttributeError(f"qt has no {name!r}")


def find_children(plain: Any) -> Callable[..., list[Any]]:
    """`findChildren("QLabel", "name")` and `findChildren(qt.QLabel)` both."""

    def find(self: Any, kind: Any = QtCore.QObject, *args: Any) -> list[Any]:
        if isinstance(kind, str):
            return [child for child in plain(self, QtCore.QObject, *args) if child.inherits(kind)]
        return list(plain(self, kind, *args))

    return find


def find_child(plain: Any) -> Callable[..., Any]:
    def find(self: Any, kind: Any = QtCore.QObject, *args: Any) -> Any:
        if isinstance(kind, str):
            every = self.findChildren(QtCore.QObject, *args)
            return next((child for child in every if child.inherits(kind)), None)
        return plain(self, kind, *args)

    return find


def install(desk: Desk, patches: Patches, extra: dict[str, Any]) -> QtModule:
    """Give PySide6 the semantics of PythonQt; `patches.undo()` takes them away.

    Args:
        desk: where modal boxes are answered and recorded.
        extra: further names of the module, such as a QUiLoader that knows Slicer's widgets.
    """
    base = QtCore.QObject
    plain = base.__dict__
    Modal(desk).install(patches)
    Connections().install(patches)
    patches.set(base, "findChildren", find_children(plain["findChildren"]))
    patches.set(base, "findChild", find_child(plain["findChild"]))
    patches.set(base, "className", lambda self: self.metaObject().className())
    patches.set(base, "delete", lambda self: shiboken6.delete(self))
    install_properties(patches)
    patches.set(base, "name", qt_property("objectName", None))
    for cls in qobject_classes():  # each of them has a __setattr__ of its own
        patches.set(cls, "__setattr__", guarded_setattr)
    see_patches_first(patches)
    module = QtModule({"BoolResult": BoolResult, **extra})
    patches.item(sys.modules, "qt", module)
    return module
