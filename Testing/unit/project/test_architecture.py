"""Arrows point down only: which room of the package may import which, read off the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

#: Room -> rooms it may import beside itself. A room that is not named here may import none.
GROUND = {"resources"}
ALLOWED = {
    "resources": set(),
    "pirads": GROUND,
    "imaging": GROUND | {"pirads"},
    "model": GROUND | {"pirads"},
    "inference": GROUND | {"pirads", "imaging", "model"},
    "case": GROUND | {"pirads", "imaging", "model", "inference"},
    "export": GROUND | {"pirads", "imaging", "model", "inference", "case"},
    "simulation": GROUND | {"pirads", "imaging", "model"},
    # a case on its way through a run, for a face that must not wait
    "session": GROUND | {"pirads", "imaging", "model", "inference", "case"},
    # the palette, words and maps of the report are those of the scene
    "mrml": GROUND | {"pirads", "imaging", "model", "inference", "case", "session", "export"},
    "batch": GROUND | {"pirads", "imaging", "model", "inference", "case", "export", "batch_source"},
    "batch_source": GROUND | {"imaging", "export"},
    # signed-off cases are training data
    "training": GROUND | {"pirads", "imaging", "model", "inference", "simulation", "case"},
    "evaluation": GROUND | {"pirads", "imaging", "model", "inference", "simulation", "training", "case"},
    # pieces of the door `cli`, one file a command
    "commands": GROUND
    | {"pirads", "imaging", "model", "inference", "simulation", "training", "evaluation", "case", "batch", "cli"},
}
FORBIDDEN = {"slicer", "vtk", "qt", "ctk"}
#: What only `mrml` may know of these; Qt belongs to the face in Slicer alone.
MRML = {"slicer", "vtk"}
HEAVY = {"torch", "numpy", "SimpleITK", "scipy", "monai", "matplotlib", "jinja2", "pydicom"}


def room(path: Path, package: Path) -> str:
    """The first part of a module's place in the package."""
    return path.relative_to(package).with_suffix("").parts[0]


def imported(path: Path, package: Path, *, at_import: bool = False) -> set[str]:
    """Absolute names that a module imports; only those run at its import when ``at_import``."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    here = list(path.relative_to(package.parent).with_suffix("").parts[:-1])
    names: set[str] = set()
    for node in _run_at_import(tree.body) if at_import else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            whole = ".".join([*base, *([node.module] if node.module else [])])
            names |= {f"{whole}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            names |= {a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str)}
    return names


def _run_at_import(body: Sequence[ast.stmt]) -> Iterator[ast.AST]:
    """Statements of a module's body and of what stands in `try`, `with` and `if`, but for what is for types only."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _run_at_import(node.orelse)
            continue
        yield node
        for name in ("body", "orelse", "finalbody"):
            yield from _run_at_import(getattr(node, name, []))
        for handler in getattr(node, "handlers", []):
            yield from _run_at_import(handler.body)
        if isinstance(node, ast.Assign | ast.Expr):
            yield from (part for part in ast.walk(node) if isinstance(part, ast.Call))


def brought(start: Path, package: Path) -> set[str]:
    """All names that come with a module's import: its own, and those of the package's modules that it brings."""
    names: set[str] = set()
    waiting, seen = [start], set[Path]()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        found = imported(path, package, at_import=True)
        names |= found
        for name in (*found, ".".join(path.relative_to(package.parent).with_suffix("").parts)):
            parts = name.split(".")
            if parts[0] != package.name:
                continue
            for k in range(1, len(parts) + 1):  # a module brings the packages that it lies in
                place = package.parent.joinpath(*parts[:k])
                waiting += [p for p in (place / "__init__.py", place.with_suffix(".py")) if p.is_file()]
    return names


def modules(repository: Path) -> list[Path]:
    return sorted((repository / "MedRationaleLogic").rglob("*.py"))


def test_arrows_point_down(repository: Path) -> None:
    package = repository / "MedRationaleLogic"
    wrong = []
    for path in modules(repository):
        mine = room(path, package)
        if mine in ("__init__", "cli"):  # the door and the package's face may open every room
            continue
        for name in imported(path, package):
            first, _, rest = name.partition(".")
            other = rest.partition(".")[0]
            if first == "MedRationaleLogic" and other and other not in ALLOWED[mine] | {mine, "__version__"}:
                wrong.append(f"{path.relative_to(package)} imports {name}")
    assert not wrong


def test_nothing_here_knows_slicer(repository: Path) -> None:
    package = repository / "MedRationaleLogic"
    found = [
        f"{path.relative_to(package)} imports {name}"
        for path in modules(repository)
        for name in imported(path, package)
        if name.split(".")[0] in FORBIDDEN - (MRML if room(path, package) == "mrml" else set())
    ]
    assert not found


@pytest.mark.parametrize("ground", ["pirads", "resources"])
def test_the_rules_are_plain_python(repository: Path, ground: str) -> None:
    package = repository / "MedRationaleLogic"
    mine = [p for p in modules(repository) if room(p, package) == ground]
    assert mine
    assert not [f"{p.name}: {n}" for p in mine for n in imported(p, package) if n.split(".")[0] in HEAVY]


def test_torch_is_never_imported_on_the_way_up(repository: Path) -> None:
    """At import only ``model``, ``simulation``, ``training`` may bring torch; a face that starts up pays nothing."""
    package = repository / "MedRationaleLogic"
    rooms = (
        "imaging",
        "inference",
        "export",
        "case",
        "session",
        "batch",
        "batch_source",
        "mrml",
        "commands",
        "cli",
        "__init__",
    )
    found = [
        f"{path.relative_to(package)}: {name}"
        for path in modules(repository)
        if room(path, package) in rooms
        for name in brought(path, package)
        if name.split(".")[0] in {"torch", "monai"}
    ]
    assert not found


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("from ..inference import lesions", "MedRationaleLogic.inference.lesions"),
        ("from .. import training", "MedRationaleLogic.training"),
        (
            "def f():\n    import importlib\n    importlib.import_module('MedRationaleLogic.mrml')",
            "MedRationaleLogic.mrml",
        ),
        ("from MedRationaleLogic.case import Case", "MedRationaleLogic.case.Case"),
    ],
)
def test_every_way_to_import_is_seen(tmp_path: Path, text: str, name: str) -> None:
    package = tmp_path / "MedRationaleLogic"
    module = package / "imaging" / "one.py"
    module.parent.mkdir(parents=True)
    module.write_text(text)
    assert name in imported(module, package)


@pytest.mark.parametrize(
    ("text", "comes"),
    [
        ("try:\n    import torch\nexcept ImportError:\n    pass", True),
        ("from MedRationaleLogic.model.network import Net", True),
        ("from ..model import network", True),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch", False),
        ("def f():\n    import torch", False),
    ],
)
def test_what_comes_with_an_import_is_followed(tmp_path: Path, text: str, comes: bool) -> None:
    package = tmp_path / "MedRationaleLogic"
    for name, content in (("imaging/one", text), ("model/network", "import torch"), ("imaging/__init__", ""),
                          ("model/__init__", ""), ("__init__", "")):  # fmt: skip
        file = package / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    assert ("torch" in brought(package / "imaging" / "one.py", package)) is comes
