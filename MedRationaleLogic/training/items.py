"""Triples as training items: read when first asked for, cached on the model's wide grids, bad ones passed over."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from MedRationaleLogic.imaging.preprocess import sample
from MedRationaleLogic.imaging.volume import Geometry, Volume
from MedRationaleLogic.model.network import NetworkSpec
from MedRationaleLogic.simulation.study import MAX_REGIONS
from MedRationaleLogic.training.data import IGNORE, WIDE, Item, LabelledRegion, RealCase, RealSet
from MedRationaleLogic.training.triples import GLAND, Region, Triple, TripleError, has_zones

#: Of whom an answer is trained on: stated or drawn, let stand by a reader who signed the case, measured.
AUTHORITIES: Final = ("gold", "accepted", "silver")
#: An epoch in which more than this share of the items cannot be read is no epoch.
MOST_SKIPPED: Final = 0.5


def wide_case(triple: Triple, authorities: Sequence[str] = ("gold", "accepted")) -> RealCase:
    """A triple on the wide, gland-centred grids that augmentation pulls from.

    Args:
        triple: of any split.
        authorities: whose answers become labels, some of :data:`AUTHORITIES`.

    Raises:
        TripleError: a part of it cannot be read, or nothing in it can be trained on.
    """
    document = triple.document()
    volumes = {role: _standard(triple.read(role)) for role in triple.roles}
    frame = volumes["t2w"] if "t2w" in volumes else volumes["adc"]
    if not all(np.isfinite(v.array).all() and v.array.max() > v.array.min() for v in volumes.values()):
        raise TripleError(f"{triple.id}: an image is constant or holds values that are not numbers")
    zones = _standard(triple.read("zones")) if triple.zones else None
    regions = _standard(triple.read("regions")) if triple.regions else None
    if zones is None and regions is None:
        raise TripleError(f"{triple.id}: neither zones nor regions are there, so nothing can be trained on")
    if len(document.regions) > MAX_REGIONS:
        raise TripleError(
            f"{triple.id}: {len(document.regions)} regions, at most {MAX_REGIONS} can be trained on; leave some out"
        )
    where = zones if zones is not None and zones.array.any() else regions
    assert where is not None
    index = np.argwhere(where.array > 0)
    middle = where.geometry.to_patient((index.min(0) + index.max(0)) / 2) if len(index) else frame.geometry.center

    def grid(name: str) -> Geometry:
        return frame.geometry.centered_on(middle, WIDE[name].shape, WIDE[name].spacing)

    def image(volume: Volume, name: str) -> Tensor:
        values, known = sample(volume, grid(name))
        return torch.from_numpy(np.where(known, values, np.nan).astype(np.float32))

    def labels(volume: Volume | None, name: str) -> Tensor:
        if volume is None:
            return torch.full(WIDE[name].shape, IGNORE, dtype=torch.uint8)
        return torch.from_numpy(volume.resample(grid(name), nearest=True).array.astype(np.uint8))

    fine_zones = labels(zones, "t2w")
    if zones is not None and has_zones(zones.array):
        fine_zones[fine_zones == GLAND] = IGNORE  # in a map of zones: which one this is nobody says
    numbers = labels(regions, "t2w") if regions is not None else torch.zeros_like(fine_zones)
    coarse = labels(zones, "coarse")
    return RealCase(
        name=triple.id, patient=triple.patient, images={r: image(v, r) for r, v in volumes.items()}, zones=fine_zones,
        lesion=_lesion(document.regions, numbers, document.complete),
        # without a gland there is nothing to teach the localiser
        coarse={r: image(v, "coarse") for r, v in volumes.items()} if zones is not None else {},
        coarse_gland=(coarse > 0).to(torch.uint8), regions=numbers,
        known=tuple(_known(r, authorities) for r in document.regions),
    )  # fmt: skip


def _standard(volume: Volume) -> Volume:
    """Axes along the patient's, as the model's grids lie."""
    from MedRationaleLogic.imaging.preprocess import reorient

    return reorient(volume)


def _lesion(regions: Sequence[Region], numbers: Tensor, complete: bool) -> Tensor:
    lesion = torch.full(numbers.shape, 0 if complete else IGNORE, dtype=torch.uint8)
    for region in regions:
        lesion[numbers == region.number] = {True: 1, False: 0, None: IGNORE}[region.positive]
    return lesion


def _known(region: Region, authorities: Sequence[str]) -> LabelledRegion:
    values = {a: v for a, v in region.values.items() if region.status.get(a) in authorities}
    category = region.category or (4 if region.positive else 0)
    return LabelledRegion(region.zone or "PZ", category if region.zone else 0, values)


class CachedCases(Sequence[RealCase]):
    """Wide cases, each read once and kept as tensors in a folder; a damaged file of the cache is made again.

    Args:
        triples: what to read.
        folder: of the cache; None reads every time.
        authorities: see :func:`wide_case`.
    """

    def __init__(self, triples: Sequence[Triple], folder: Path | None, authorities: Sequence[str]) -> None:
        self.triples, self.folder, self.authorities = list(triples), folder, tuple(authorities)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def __len__(self) -> int:
        return len(self.triples)

    def __getitem__(self, index: Any) -> Any:
        triple = self.triples[index]
        if self.folder is None:
            return wide_case(triple, self.authorities)
        file = self.folder / f"{triple.id}-{triple.sha256[:12]}-{'-'.join(self.authorities)}.pt"
        if file.is_file():
            try:
                return _unpacked(torch.load(file, weights_only=True))
            except (RuntimeError, OSError, KeyError, EOFError, ValueError, UnpicklingError):
                file.unlink(missing_ok=True)
        case = wide_case(triple, self.authorities)
        beside = file.with_suffix(f".{os.getpid()}.tmp")
        try:
            torch.save(_packed(case), beside)
            beside.replace(file)
        except (OSError, RuntimeError):  # a full disk costs the cache, not the run
            beside.unlink(missing_ok=True)
        return case


def _packed(case: RealCase) -> dict[str, Any]:
    return {
        "name": case.name, "patient": case.patient, "images": case.images, "zones": case.zones, "lesion": case.lesion,
        "coarse": case.coarse, "coarse_gland": case.coarse_gland, "regions": case.regions,
        "known": [(r.zone, r.category, dict(r.values)) for r in case.known],
    }  # fmt: skip


def _unpacked(data: dict[str, Any]) -> RealCase:
    known = tuple(LabelledRegion(*entry) for entry in data.pop("known"))
    return RealCase(**data, known=known)


class TripleItems(Dataset[Item]):
    """Augmented draws of triples, in an order that follows from the seed alone; what cannot be read is passed over.

    Every epoch shows each triple once. A triple that cannot be read is noted in ``skipped.jsonl`` and the next readable
    one stands in, so that the count of items, and with it a resumed run's place, stays the same.

    Args:
        cases: see :class:`CachedCases`.
        spec: for the label layout.
        seed: of order and augmentation.
        count: items in all.
        strength: 0 shows each case as it is.
        log: file that skips are noted in; None keeps no record.

    Raises:
        TripleError: (when asked for an item) more than half of all triples cannot be read.
    """

    def __init__(self, cases: CachedCases, spec: NetworkSpec, seed: int, count: int, *, strength: float = 1.0,
                 log: Path | None = None) -> None:  # fmt: skip
        self.cases, self.spec, self.seed, self.count, self.strength, self.log = cases, spec, seed, count, strength, log
        self._bad: set[int] = set()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Item:
        n = len(self.cases)
        epoch, turn = divmod(index, n)
        order = torch.randperm(n, generator=torch.Generator().manual_seed(self.seed * 6_700_417 + epoch)).tolist()
        for step in range(n):
            number = order[(turn + step) % n]
            if number in self._bad:
                continue
            try:
                case = self.cases[number]
                return RealSet([case], self.spec, self.seed, self.count, self.strength, first=index)[0]
            except (ValueError, RuntimeError, OSError) as error:
                self._bad.add(number)
                self._note(self.cases.triples[number].id, str(error))
            if len(self._bad) > MOST_SKIPPED * n:
                break
        raise TripleError(
            f"{len(self._bad)} of {n} triples cannot be read, the last: {self.cases.triples[number].id}; "
            "see skipped.jsonl and curate the set again"
        )

    def _note(self, name: str, reason: str) -> None:
        if self.log is not None:
            line = json.dumps({"id": name, "reason": reason})
            with self.log.open("a", encoding="utf-8") as file:
                file.write(line + "\n")


def skipped(log: Path) -> dict[str, str]:
    """Triples that a run passed over -> why; each once, however many workers met it."""
    if not log.is_file():
        return {}
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
    return {row["id"]: row["reason"] for row in rows}
