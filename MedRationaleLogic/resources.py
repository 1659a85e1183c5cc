"""Where the shared resources lie: lexicon, terminology, models, schema, templates; and how a folder takes its place."""

from __future__ import annotations

import shutil
from pathlib import Path
from uuid import uuid4

_PACKAGE = Path(__file__).resolve().parent
# Inside the package first (a wheel): beside it, in site-packages, a folder of this name could be anybody's.
_ROOTS = (_PACKAGE / "Resources", _PACKAGE.parent / "Resources")


def put_folder(made: Path, folder: Path) -> None:
    """Give a finished folder its place, in exchange for one that is there; where that fails, the old one stays.

    Args:
        made: on the same disk as ``folder``.
        folder: the place.

    Raises:
        OSError: it cannot be moved there.
    """
    old = folder.with_name(f".{folder.name}-old-{uuid4().hex[:8]}")
    there = folder.exists()
    if there:
        folder.rename(old)
    try:
        made.rename(folder)
    except BaseException:
        if there:
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


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
