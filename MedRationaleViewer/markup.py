"""The page's templates, put together."""

from __future__ import annotations

from importlib.resources import files

__all__ = ["markup"]


def markup(name: str) -> str:
    """A template of the page with what it includes.

    Raises:
        FileNotFoundError: no such template.
    """
    folder = files("MedRationaleViewer") / "templates"
    text = (folder / name).read_text(encoding="utf-8")
    start, end = "<!-- include: ", " -->"
    while start in text:
        before, _, rest = text.partition(start)
        included, _, after = rest.partition(end)
        text = before + markup(included.strip()) + after
    return text
