"""An explainer by construction for tests of a case: real measures and rationales, readings that are spelled out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from MedRationaleLogic.case import Case
from MedRationaleLogic.imaging import measure
from MedRationaleLogic.imaging.study import Study
from MedRationaleLogic.imaging.volume import Volume
from MedRationaleLogic.inference.evidence import EvidenceMaps
from MedRationaleLogic.inference.explainer import ExplainCancelledError
from MedRationaleLogic.inference.explanation import Explanation, Lesion
from MedRationaleLogic.pirads import lexicon, rationale
from Testing.explanation_factory import PZ_LEFT, SURE_PZ, TZ_RIGHT, UNSURE_TZ, Region, make_explanation

_MADE: dict[str, Explanation] = {}


def made(regions: Sequence[Region], options: dict[str, Any]) -> Explanation:
    """``make_explanation``, each one made once: it never changes."""
    key = repr((regions, options))
    if key not in _MADE:
        _MADE[key] = make_explanation(lesions=regions, **options)
    return _MADE[key]


@dataclass
class FakeReader:
    """Reads every region of the peripheral zone as one thing and every other as another."""

    study: Study
    maps: EvidenceMaps
    unread: set[str]

    def lesion(
        self, number: int, mask: Volume, zones: Volume, *, origin: Literal["model", "reader"] = "model",
        sectors: Volume | None = None,
    ) -> Lesion:  # fmt: skip
        shares = measure.zone_shares(mask, zones)
        nominal = measure.nominal_sequence(shares)
        volume = self.study.adc if nominal == "ADC" else self.study.t2w
        measures = measure.measure_lesion(
            mask, zones, measuring_grid=volume.geometry if volume else None, measured_on=nominal, sectors=sectors
        )
        given = SURE_PZ if shares["PZ"] >= shares["TZ"] else UNSURE_TZ
        there = set(self.study.roles) - self.unread
        readings = {a: v for a, v in given.items() if lexicon.load().attribute(a).sequence in there}
        built = rationale.build(
            rationale.Findings(shares, readings, measures.in_plane.mm, measures.measured_on, frozenset(there))
        )
        return Lesion(number, mask, measures, readings, (), None, built, (), origin)

    def region_at(self, point: ArrayLike, zones: Volume) -> Volume:
        geometry = zones.geometry
        far = geometry.to_patient(np.moveaxis(np.indices(geometry.shape), 0, -1)) - np.asarray(point, dtype=float)
        near = np.linalg.norm(far, axis=-1) <= 5.0
        if not near.any():
            raise ValueError("the point lies outside the images")
        return Volume(near, geometry, "region")

    def evidence(self) -> EvidenceMaps:
        return self.maps


@dataclass
class FakeExplainer:
    """Finds ``regions``; on any other study than its own ``after_shift``.

    Attributes:
        runs, sights: how often ``open`` and ``see`` ran.
        unread: sequences of which a reader of regions reads nothing.
    """

    regions: Sequence[Region] = (PZ_LEFT, TZ_RIGHT)
    after_shift: Sequence[Region] = (PZ_LEFT, TZ_RIGHT)
    options: dict[str, Any] = field(default_factory=dict)
    unread: set[str] = field(default_factory=set)
    runs: int = 0
    sights: int = 0

    def __post_init__(self) -> None:
        self.study = self._made(self.regions).study

    def _made(self, regions: Sequence[Region]) -> Explanation:
        return made(regions, self.options)

    def open(self, study: Study, *, progress: Any = None, cancelled: Any = None) -> tuple[Explanation, FakeReader]:
        if progress is not None:
            progress(0.5, "reading")
        if cancelled is not None and cancelled():
            raise ExplainCancelledError("stopped")
        self.runs += 1
        return self._explanation(study), self._reader(study)

    def see(self, study: Study) -> FakeReader:
        self.sights += 1
        return self._reader(study)

    def _explanation(self, study: Study) -> Explanation:
        mine = [study.volume(r).sha256 for r in study.roles] == [self.study.volume(r).sha256 for r in self.study.roles]
        return replace(self._made(self.regions if mine else self.after_shift), study=study)

    def _reader(self, study: Study) -> FakeReader:
        return FakeReader(study, self._explanation(study).evidence, self.unread)


def opened(**options: Any) -> Case:
    """A case that is explained."""
    fake = FakeExplainer(**options)
    case = Case.open(fake.study, fake)
    case.explain()
    return case
