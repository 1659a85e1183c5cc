"""The sample study: simulated, no patient; drawn once for each user and version, and kept."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

import MedRationaleLogic
from MedRationaleLogic.model.bundle import user_folder

__all__ = ["SampleError", "folder"]

PREFIX: Final = "sample-"


class SampleError(RuntimeError):
    """The sample study could not be drawn; the text says why."""


def _key() -> str:
    """Changes with whatever draws the sample."""
    digest = hashlib.sha256(MedRationaleLogic.__version__.encode())
    for path in sorted((Path(MedRationaleLogic.__file__).parent / "simulation").glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


async def folder() -> Path:
    """The DICOM folder of the sample study; drawn by a process of its own where this user has none yet (seconds).

    It is kept beside the user's bundles: in ``~/.medrationale`` or ``MEDRATIONALE_HOME``.

    Raises:
        SampleError: it could not be drawn or written.
    """
    home = user_folder().parent
    place = home / f"{PREFIX}{_key()}"
    if not (place / "sample.json").is_file():
        code, said = await _draw(place)
        if code != 0:
            why = said.strip()[-400:] or f"exit code {code}"
            raise SampleError(f"the sample study could not be drawn in {home}: {why}")
        for old in home.glob(f"{PREFIX}*"):
            if old != place:
                with suppress(OSError):
                    shutil.rmtree(old)
    return place / "dicom"


async def _draw(place: Path) -> tuple[int, str]:
    # PyTorch draws it: in a process of its own, so that no tab has to carry that library
    source = str(Path(MedRationaleLogic.__file__).parents[1])
    path = os.pathsep.join(p for p in (source, os.environ.get("PYTHONPATH")) if p)
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "MedRationaleLogic.cli", "sample", str(place), "--quiet",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env=environment,
    )  # fmt: skip
    said, _ = await process.communicate()
    return int(process.returncode or 0), said.decode("utf-8", "replace")
