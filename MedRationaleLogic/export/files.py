"""The result folder: everything a user asked for, all of it or nothing.

| file | what |
|---|---|
| ``explanation.json`` | the explanation without images (``Resources/Schema/explanation.schema.json``) |
| ``zones.nii.gz`` | uint8 on the frame's grid: 1 PZ, 2 TZ |
| ``lesions.nii.gz`` | uint8 on the frame's grid: instance numbers |
| ``evidence/<concept-id>.nii.gz`` | dense evidence on the frame's grid: uint8 with slope 1/255, reads as 0..1 |
| ``report.html`` | the report, one self-contained file |
| ``report.txt`` | the same for a RIS, ASCII |
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from MedRationaleLogic.export.json_document import FORMAT, to_json
from MedRationaleLogic.export.nifti import nifti_gz
from MedRationaleLogic.export.report import render_report
from MedRationaleLogic.export.text import ris_text
from MedRationaleLogic.imaging.volume import Geometry, Volume
from MedRationaleLogic.inference.explanation import Explanation

REPORT = "report.html"
EXPLANATION = "explanation.json"
EVIDENCE = "evidence"
EVIDENCE_SLOPE = 1 / 255
"""What a stored 1 means in an evidence map."""

_OURS = frozenset({EXPLANATION, "zones.nii.gz", "lesions.nii.gz", EVIDENCE, REPORT, "report.txt"})
# What file browsers leave behind; nobody misses it.
_LITTER = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
_SUFFIX = ".nii.gz"


class ResultsError(OSError):
    """Results cannot be written where they were asked for; the text names the folder, why, and what to do."""


def write_results(explanation: Explanation, folder: Path | str) -> Path:
    """Writes an explanation's result folder, all of it or nothing.

    Everything is first written into a hidden folder beside the target, which then takes the target's place. An earlier
    result in the same place is replaced when the new one is complete, never mixed with it.

    Args:
        explanation: with or without lesions; a negative result is a result.
        folder: made with its parents; empty, absent, or holding nothing but an earlier result.

    Returns:
        Path of ``report.html`` in the folder.

    Raises:
        ResultsError: the folder is a file, holds something that is not ours, or cannot be written. Nothing is left
            behind, and what was there stays as it was.
    """
    try:
        target = Path(folder).expanduser().resolve()
    except RuntimeError as error:
        text = f"{Path(folder).parts[0]}: there is no home folder of that name; write the path out"
        raise ResultsError(text) from error
    _check(target)
    with _made_parents(target.parent), _scratch(target) as scratch:
        _write(explanation, scratch)
        _check(target)  # again: writing took a moment
        _take_place(scratch, target)
    return target / REPORT


def evidence_bytes(explanation: Explanation, concept: str) -> Volume:
    """A concept's evidence on the frame's grid in 256 steps: uint8, 255 for 1.

    The same values as ``explanation.evidence[concept]`` to half a step, but only the part of the frame that the
    model's grid can reach is resampled: a fifth of the work for a usual study.

    Raises:
        KeyError: there is no such map.
    """
    frame = explanation.frame.geometry
    native = explanation.evidence.native(concept)
    array = np.zeros(frame.shape, np.uint8)
    box = _reach(native.geometry, frame)
    if box is not None:
        start = tuple(s.start for s in box)
        x, y, z = (float(v) for v in frame.to_patient(start))
        shape = tuple(s.stop - s.start for s in box)
        part = replace(frame, shape=shape, origin=(x, y, z))
        values = np.clip(native.resample(part, outside=0.0).array, 0.0, 1.0)
        array[box] = np.rint(values * 255).astype(np.uint8)
    return Volume(array, frame, concept)


def _reach(source: Geometry, frame: Geometry) -> tuple[slice, slice, slice] | None:
    """The block of a frame that a grid's field of view can touch, None when it touches nothing."""
    ends = [(-0.5, n - 0.5) for n in source.shape]
    corners = np.array(np.meshgrid(*ends, indexing="ij")).reshape(3, -1).T
    index = frame.to_index(source.to_patient(corners))
    low = np.maximum(np.floor(index.min(0)).astype(int), 0)
    high = np.minimum(np.ceil(index.max(0)).astype(int) + 1, frame.shape)
    if (high <= low).any():
        return None
    (z0, y0, x0), (z1, y1, x1) = low.tolist(), high.tolist()
    return slice(z0, z1), slice(y0, y1), slice(x0, x1)


# ------------------------------------------------------------------------------------------------------------- writing


def _write(explanation: Explanation, folder: Path) -> None:
    (folder / EXPLANATION).write_text(to_json(explanation), encoding="utf-8", newline="\n")
    zones = explanation.zones.with_array(explanation.zones.array.astype(np.uint8, copy=False))
    (folder / "zones.nii.gz").write_bytes(nifti_gz(zones, description="zones: 1 PZ, 2 TZ. Research use only"))
    (folder / "lesions.nii.gz").write_bytes(
        nifti_gz(explanation.lesion_labels, description="suspicious regions by number. Research use only")
    )
    (folder / EVIDENCE).mkdir()
    for concept in explanation.evidence:
        said = f"{concept}. Research use only"
        content = nifti_gz(evidence_bytes(explanation, concept), slope=EVIDENCE_SLOPE, description=said)
        (folder / EVIDENCE / f"{concept}{_SUFFIX}").write_bytes(content)
    (folder / REPORT).write_text(render_report(explanation), encoding="utf-8", newline="\n")
    (folder / "report.txt").write_text(ris_text(explanation), encoding="ascii", newline="\n")


@contextmanager
def _made_parents(parent: Path) -> Iterator[None]:
    """Makes a folder with its parents; takes those it made away again when the work in it fails."""
    missing = []
    while not parent.exists():
        missing.append(parent)
        parent = parent.parent
    try:
        for folder in reversed(missing):
            folder.mkdir()
        yield
    except BaseException as error:
        for folder in missing:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        if isinstance(error, OSError) and not isinstance(error, ResultsError):
            raise ResultsError(
                f"results cannot be written below {parent.name or parent}: {error.strerror or error}; "
                "give a folder that can be written"
            ) from error
        raise


@contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    """An empty hidden folder beside the target, on the same disk; gone at the end, however that comes."""
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
    try:
        # mkdtemp makes it private; a result gets the rights of any other folder.
        mask = os.umask(0)
        os.umask(mask)
        scratch.chmod(0o777 & ~mask)
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _take_place(scratch: Path, target: Path) -> None:
    """Puts the complete folder where the target is; what was there goes only after the new one stands."""
    if not target.exists():
        scratch.rename(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".old", dir=target.parent))
    try:
        target.rename(old / target.name)
        try:
            scratch.rename(target)
        except BaseException:
            (old / target.name).rename(target)
            raise
    finally:
        if target.exists():  # else the earlier result could not be put back, and `old` is where it is
            shutil.rmtree(old, ignore_errors=True)


def _check(target: Path) -> None:
    """Whether the place may be taken.

    Raises:
        ResultsError: it may not.
    """
    if not target.exists():
        return
    if not target.is_dir():
        raise ResultsError(f"{target.name} is a file; give a folder for the results")
    if target == Path(target.anchor):
        raise ResultsError("the results cannot take the place of the root folder; give a new folder")
    found = {p.name for p in target.iterdir()} - _LITTER
    if not found:
        return
    advice = "give a new or empty folder"
    if not _is_ours(target / EXPLANATION):
        raise ResultsError(f"{target.name} is not empty and holds no earlier result of MedRationale; {advice}")
    strange = sorted(found - _OURS)
    evidence = target / EVIDENCE
    if evidence.is_dir():
        strange += sorted(
            f"{EVIDENCE}/{p.name}" for p in evidence.iterdir() if p.name not in _LITTER and not p.name.endswith(_SUFFIX)
        )
    if strange:
        raise ResultsError(
            f"{target.name} holds an earlier result, but also {strange[0]}, which would be lost; move it away or "
            f"{advice}"
        )


def _is_ours(file: Path) -> bool:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT
