"""Bring the file lists of the CMakeLists.txt up to date with the tree.

Run from the repository root, after adding, moving or removing a file:

    python docs/dev/update_cmake.py
    python docs/dev/update_cmake.py --check     # change nothing, exit code 1 if something is to change
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = "Resources"


def _visible(path: Path, root: Path) -> bool:
    parts = path.relative_to(root).parts
    return path.is_file() and "__pycache__" not in parts and not any(part.startswith(".") for part in parts)


def scripts(folder: Path) -> list[str]:
    """Every Python file under a folder, as sorted POSIX paths relative to it."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.py") if _visible(path, folder))


def resources(folder: Path, relative_to: Path) -> list[str]:
    """Every file under a folder (none if it is absent), as sorted POSIX paths relative to another folder."""
    return sorted(path.relative_to(relative_to).as_posix() for path in folder.rglob("*") if _visible(path, folder))


def with_list(text: str, name: str, items: list[str]) -> str:
    """A CMakeLists text with the lines between `# begin <name>` and `# end <name>` replaced by items, one to a line.

    Raises:
        ValueError: the two marks are not there exactly once.
    """
    begin, end = f"  # begin {name}\n", f"  # end {name}\n"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"expected the marks '# begin {name}' and '# end {name}' exactly once")
    # A name with a blank or a semicolon would be two names to CMake.
    lines = "".join(f'  "{item}"\n' if re.search(r"[\s;#()]", item) else f"  {item}\n" for item in items)
    return text[: text.index(begin) + len(begin)] + lines + text[text.index(end) :]


def up_to_date(root: Path) -> dict[Path, str]:
    """The two generated CMakeLists.txt under `root`, by path, with the text that they should have."""
    module, package = root / "MedRationale", root / "MedRationaleLogic"
    lists = {
        module: {"scripts": scripts(module), "resources": resources(module / "Resources", module)},
        package: {"scripts": scripts(package), "shared": resources(root / SHARED, root)},
    }
    texts = {}
    for folder, parts in lists.items():
        path = folder / "CMakeLists.txt"
        text = path.read_text(encoding="utf-8")
        for name, items in parts.items():
            text = with_list(text, name, items)
        texts[path] = text
    return texts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say what would change")
    check = parser.parse_args().check
    stale = {path: text for path, text in up_to_date(ROOT).items() if path.read_text(encoding="utf-8") != text}
    for path, text in stale.items():
        print(f"{path.relative_to(ROOT)}: {'out of date' if check else 'written'}")
        if not check:
            path.write_text(text, encoding="utf-8", newline="\n")
    return 1 if stale and check else 0


if __name__ == "__main__":
    sys.exit(main())
