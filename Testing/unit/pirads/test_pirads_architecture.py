"""The room stands on the standard library alone, and finds its resources."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from MedRationaleLogic import resources
from MedRationaleLogic.resources import resource_path

MODULES = ("lexicon", "rules", "sectors", "rationale")


def test_source_imports_standard_library_and_own_room_only(repository: Path) -> None:
    files = [*(repository / "MedRationaleLogic" / "pirads").glob("*.py"), Path(resources.__file__)]
    assert len(files) == len(MODULES) + 2
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                own = name.startswith(("MedRationaleLogic.pirads", "MedRationaleLogic.resources"))
                assert own or name.split(".")[0] in sys.stdlib_module_names, f"{file.name} imports {name}"


def test_importing_the_room_loads_neither_torch_nor_numpy(repository: Path) -> None:
    imports = "; ".join(f"import MedRationaleLogic.pirads.{module}" for module in MODULES)
    code = (
        f"import sys, MedRationaleLogic; before = set(sys.modules); {imports}; "
        "MedRationaleLogic.pirads.lexicon.load(); "
        "print(sorted({'torch', 'numpy', 'slicer'} & (set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_resource_path_finds_files_and_folders() -> None:
    assert resource_path("Lexicon", "lexicon.toml").is_file()
    assert resource_path("Lexicon").is_dir()


def test_resources_inside_the_package_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, beside = tmp_path / "Package" / "Resources", tmp_path / "Resources"
    for folder in (inside, beside):
        folder.mkdir(parents=True)
        (folder / "a.txt").write_text("a")
    (beside / "b.txt").write_text("b")
    monkeypatch.setattr(resources, "_ROOTS", (inside, beside))
    assert resource_path("a.txt") == inside / "a.txt"
    assert resource_path("b.txt") == beside / "b.txt"


def test_a_missing_resource_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"Lexicon/none\.toml is missing; looked for .*install MedRationale"):
        resource_path("Lexicon", "none.toml")
