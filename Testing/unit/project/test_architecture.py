"""Arrows point down only: which room of the package may import which, read off the source."""

from __future__ import annotations

import ast
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


def imported(path: Path, *, at_import: bool = False) -> set[str]:
    """Absolute names that a module imports; only those run at its import when ``at_import``."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes: list[ast.AST] = list(tree.body) if at_import else list(ast.walk(tree))
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
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
        for name in imported(path):
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
        for name in imported(path)
        if name.split(".")[0] in FORBIDDEN - (MRML if room(path, package) == "mrml" else set())
    ]
    assert not found


@pytest.mark.parametrize("ground", ["pirads", "resources"])
def test_the_rules_are_plain_python(repository: Path, ground: str) -> None:
    package = repository / "MedRationaleLogic"
    mine = [p for p in modules(repository) if room(p, package) == ground]
    assert mine
    assert not [f"{p.name}: {n}" for p in mine for n in imported(p) if n.split(".")[0] in HEAVY]


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
        for name in imported(path, at_import=True)
        if name.split(".")[0] in {"torch", "monai"}
    ]
    assert not found
