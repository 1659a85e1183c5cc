"""Where the shared resources lie: lexicon, terminology, models, schema, templates."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
# Inside the package first (a wheel): beside it, in site-packages, a folder of this name could be anybody's.
_ROOTS = (_PACKAGE / "Resources", _PACKAGE.parent / "Resources")


def resource_path(*parts: str) -> Path:
    """Path of a shared resource, e.g. ``resource_path("Lexicon", "lexicon.toml")``.

    Looks in ``MedRationaleLogic/Resources`` (a wheel), then in ``Resources`` beside the package (the source tree and
    Slicer's install).

    Args:
        parts: folder and file names below ``Resources``; a file or a folder.

    Raises:
        FileNotFoundError: the resource is in neither place; the message names it and both places.
    """
    places = [root.joinpath(*parts) for root in _ROOTS]
    for place in places:
        if place.exists():
            return place
    raise FileNotFoundError(
        f"MedRationale's resource {'/'.join(parts) or 'Resources'} is missing; looked for "
        f"{' and '.join(str(place) for place in places)}. The installation is incomplete: install MedRationale again."
    )
