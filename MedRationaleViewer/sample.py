"""The sample study: simulated, no patient; drawn once for each user and version, and kept."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import MedRationaleLogic
from MedRationaleLogic.model.bundle import user_folder

__all__ = ["SampleError", "folder"]

PREFIX: Final = "sample-"
LOCKED_S: Final = 120.0
"""A drawing that takes longer was broken off."""


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
    if not _is_there(place):
        try:
            home.mkdir(parents=True, exist_ok=True)
            await _draw_once(place)
        except OSError as error:
            raise SampleError(f"the sample study cannot be kept in {home} ({error.strerror or error})") from error
        for old in home.glob(f"{PREFIX}*"):
            if old != place:
                with suppress(OSError):
                    shutil.rmtree(old)
    return place / "dicom"


def _is_there(place: Path) -> bool:
    return (place / "sample.json").is_file()


async def _draw_once(place: Path) -> None:
    """Draw it, or wait for the tab that is drawing it; it appears whole, and is never taken away from a reader."""
    lock = place.with_name(f".{place.name}.lock")
    while not _is_there(place):
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            with suppress(FileNotFoundError):
                if time.time() - lock.stat().st_mtime > LOCKED_S:  # whoever made it has ended without a word
                    lock.unlink()
            await asyncio.sleep(0.2)
            continue
        beside = place.with_name(f".{place.name}-{os.getpid()}")
        try:
            code, said = await _draw(beside)
            if code != 0:
                why = said.strip()[-400:] or f"exit code {code}"
                raise SampleError(f"the sample study could not be drawn in {place.parent}: {why}")
            if not _is_there(place):
                beside.rename(place)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
            lock.unlink(missing_ok=True)


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
