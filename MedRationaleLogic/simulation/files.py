"""Simulated studies as folders that every reader of ours opens, with their truth beside the images.

| file of a study | what |
|---|---|
| ``t2w.nii.gz``, ``adc.nii.gz``, ``hbv_b1400.nii.gz`` | the images; ADC in 1e-6 mm2/s, the b-value as it was drawn |
| ``zones.nii.gz`` | uint8 on the T2W's grid: 1 PZ, 2 TZ |
| ``lesions.nii.gz`` | uint8 on the T2W's grid: numbers of the regions of category >= 4 |
| ``regions.nii.gz``, ``diffusion_regions.nii.gz`` | uint8 numbers of all regions, on T2W's and on diffusion's grid |
| ``rationale.json`` | what was drawn: place, size, values, extents, scores, category |

``cohort.json`` beside the studies says how they were made.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from MedRationaleLogic.imaging.volume import Geometry, Volume
from MedRationaleLogic.model.grids import DIFFUSION, FINE, GridSpec
from MedRationaleLogic.model.pooling import CONTEXT_MM, EXTENTS, RIM_MM, supports
from MedRationaleLogic.pirads import lexicon
from MedRationaleLogic.simulation.labels import LabelBank
from MedRationaleLogic.simulation.sample import CENTER
from MedRationaleLogic.simulation.study import VERSION, Domain, Offset, SimulatedStudy, simulate

#: File at the top of a written set.
RECORD: Final = "cohort.json"
#: Truth of a study.
TRUTH: Final = "rationale.json"
FORMAT: Final = "medrationale-simulated-set"
#: Stored steps per unit: T2W and high-b arbitrary, ADC 1e-6 mm2/s.
_SCALE: Final = {"t2w": 500.0, "adc": 1000.0, "hbv": 4000.0}
_NOTICE: Final = "Simulated: no patient. Research use only."

Progress = Callable[[int, int], None]
"""Told (studies done, of how many)."""


class SimulatedSetError(OSError):
    """A set cannot be written where it was asked for; the text names the folder, why, and what to do."""


def geometry(spec: GridSpec, offset: Offset) -> Geometry:
    """Where a grid lies in the patient: ``offset`` is (z, y, x) mm from the gland's centre to its middle."""
    middle = [c + o for c, o in zip(CENTER, offset[::-1], strict=True)]
    return Geometry(spec.shape, spec.spacing).centered_on(middle, spec.shape, spec.spacing)


def truth(study: SimulatedStudy, name: str) -> dict[str, Any]:
    """What was drawn, as plain values for JSON; points are LPS millimetres.

    A region's ``extents`` are voxel counts on the T2W's grid of the parts in which evidence can lie: its interior, its
    rim and its context (:func:`MedRationaleLogic.model.pooling.supports`); ``attributes`` says which attribute has
    which. A region of which no T2W voxel is seen has none.
    """
    voxel_ml = float(np.prod(FINE.spacing)) / 1000.0
    gland = int((study.zones > 0).sum())
    regions = []
    for number, region in enumerate(study.drawn, 1):
        mask = study.t2w.regions == number
        extents = {k: len(v) for k, v in supports(mask, FINE.spacing).items()} if mask.any() else {}
        middle = [round(c + o, 2) for c, o in zip(CENTER, region.center[::-1], strict=True)]
        regions.append(
            {
                "number": number, "kind": region.archetype, "zone": region.zone, "center_lps_mm": middle,
                "diameter_mm": region.diameter_mm, "volume_ml": round(int(mask.sum()) * voxel_ml, 3),
                "values": dict(region.values), "t2w_score": region.t2w_score, "dwi_score": region.dwi_score,
                "category": region.category, "extents": extents,
            }
        )  # fmt: skip
    return {
        "format": "medrationale-simulated-study", "notice": _NOTICE, "name": name, "generator": VERSION,
        "gland_center_lps_mm": list(CENTER), "gland_ml": round(gland * voxel_ml, 2),
        "b_value": study.hbv.b_value, "category": max((r.category for r in study.drawn), default=1),
        "extents": {"classes": list(EXTENTS), "rim_mm": RIM_MM, "context_mm": CONTEXT_MM,
                    "attributes": {a.id: a.extent for a in lexicon.load().attributes}},
        "regions": regions,
    }  # fmt: skip


def write_study(study: SimulatedStudy, folder: Path, name: str) -> None:
    """Write one study into a new folder.

    Args:
        study: made on any device.
        folder: does not exist yet; its parent does.
        name: of the study, for its truth.

    Raises:
        OSError: the folder exists or cannot be written.
    """
    import SimpleITK as sitk

    fine, coarse = geometry(FINE, study.offsets["t2w"]), geometry(DIFFUSION, study.offsets["adc"])
    lesions = study.t2w.regions.clone()
    for number, region in enumerate(study.drawn, 1):
        if region.category < 4:
            lesions[lesions == number] = 0
    assert study.hbv.b_value is not None
    volumes = {
        "t2w": _image(study.t2w.image, "t2w", fine),
        "adc": _image(study.adc.image, "adc", coarse),
        f"hbv_b{study.hbv.b_value:.0f}": _image(study.hbv.image, "hbv", coarse),
        "zones": _labels(study.zones, fine),
        "lesions": _labels(lesions, fine),
        "regions": _labels(study.t2w.regions, fine),
        "diffusion_regions": _labels(study.adc.regions, coarse),
    }
    folder.mkdir()
    for file, volume in volumes.items():
        sitk.WriteImage(volume.to_sitk(), str(folder / f"{file}.nii.gz"))
    (folder / TRUTH).write_text(json.dumps(truth(study, name), indent=1) + "\n", encoding="utf-8", newline="\n")


def _image(image: Tensor, sequence: str, where: Geometry) -> Volume:
    values = np.clip(np.rint(image.cpu().numpy() * _SCALE[sequence]), 0, 65535).astype(np.uint16)
    return Volume(values, where, sequence)


def _labels(array: Tensor, where: Geometry) -> Volume:
    return Volume(array.cpu().numpy(), where)


def write_set(
    folder: Path, bank: LabelBank, seed: int, count: int, *, first: int = 0, scanner: int = 0, domain: Domain = "seen",
    workers: int = 1, progress: Progress | None = None,
) -> Path:  # fmt: skip
    """Simulate studies and write them, all or none: they are made in a hidden folder that takes its place at the end.

    Args:
        folder: new or empty.
        bank: label maps to draw anatomy from.
        seed: of the set.
        count: of studies, at least 1.
        first: index of the first study.
        scanner: number of the acquisition, see :func:`simulate`.
        domain: "seen" or "unseen" scanners.
        workers: processes; the bytes are the same for any number.
        progress: told after each study.

    Returns:
        The folder.

    Raises:
        SimulatedSetError: the folder is a file, holds something, or cannot be written.
        ValueError: no study, no worker, or no label map.
    """
    if count < 1 or workers < 1:
        raise ValueError(f"expected at least one study and one worker, got {count} and {workers}")
    if not len(bank):
        raise ValueError("the bank has no label map to draw anatomy from")
    advice = "give a new or empty folder"
    if folder.exists() and not folder.is_dir():
        raise SimulatedSetError(f"{folder} is a file; {advice}")
    if folder.exists() and any(folder.iterdir()):
        raise SimulatedSetError(f"{folder} is not empty; {advice}")
    digits = max(4, len(str(first + count - 1)))
    names = [f"study{first + i:0{digits}d}" for i in range(count)]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
            place = Path(scratch) / "set"
            place.mkdir()
            rows = []
            for row in _made(bank, place, names, seed, first, scanner, domain, workers):
                rows.append(row)
                if progress:
                    progress(len(rows), count)
            record = {
                "format": FORMAT, "notice": _NOTICE, "generator": VERSION, "seed": seed, "first": first,
                "count": count, "scanner": scanner, "domain": domain, "label_maps": len(bank),
                "bank_sha256": bank.sha256, "sha256": _digest(place, names), "studies": rows,
            }  # fmt: skip
            (place / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8", newline="\n")
            if folder.exists():
                folder.rmdir()
            os.replace(place, folder)
    except OSError as error:
        raise SimulatedSetError(
            f"{folder}: the studies cannot be written ({error.strerror or error}); nothing was left there"
        ) from error
    return folder


_bank: LabelBank | None = None


def _start(bank: LabelBank) -> None:
    global _bank  # one copy a process, not one a study
    _bank = bank


def _start_worker(bank: LabelBank) -> None:
    _start(bank)
    torch.set_num_threads(1)


def _one(place: Path, name: str, seed: int, index: int, scanner: int, domain: Domain) -> dict[str, Any]:
    assert _bank is not None
    study = simulate(_bank, seed, index, scanner=scanner, domain=domain, coarse=False)
    write_study(study, place / name, name)
    return {"name": name, "index": index, "patient": study.patient, "categories": [r.category for r in study.drawn]}


def _made(
    bank: LabelBank, place: Path, names: list[str], seed: int, first: int, scanner: int, domain: Domain, workers: int
) -> Iterator[dict[str, Any]]:
    """The studies' rows for the record, in order."""
    n = len(names)
    arguments = (
        repeat(place, n), names, repeat(seed, n), range(first, first + n), repeat(scanner, n), repeat(domain, n),
    )  # fmt: skip
    if workers == 1:
        _start(bank)
        yield from map(_one, *arguments)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (bank,)) as pool:
        yield from pool.map(_one, *arguments)


def _digest(place: Path, names: list[str]) -> str:
    """SHA-256 over all files of the studies, in order."""
    digest = hashlib.sha256()
    for name in names:
        for file in sorted((place / name).iterdir()):
            digest.update(f"{name}/{file.name}\n".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()
