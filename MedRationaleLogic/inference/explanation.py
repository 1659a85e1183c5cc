"""What comes out of the road: masks, lesions with their rationale, evidence, quality, and where it all came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Final, Literal, get_args

import numpy as np

from MedRationaleLogic.imaging.measure import GlandSize, LesionMeasures, PsaDensity, in_field, psa_density
from MedRationaleLogic.imaging.quality import QualityFlag
from MedRationaleLogic.imaging.study import Study
from MedRationaleLogic.imaging.volume import Volume
from MedRationaleLogic.inference.evidence import EvidenceMaps
from MedRationaleLogic.pirads import lexicon, rules
from MedRationaleLogic.pirads.rationale import Rationale

Point = tuple[float, float, float]
NOTICE = "Research use only. AI-generated, unverified."
#: Flags of a region whose outline, readings and suspicion disagree (method 8).
NO_RATIONALE: Final = "mask without rationale: outlined as suspicious, but its readings give category 1 or 2"
LITTLE_SUSPICION: Final = (
    "rationale without suspicion: its readings give category 4 or 5, its suspicion is under the threshold"
)
#: Begins the study's flag of such regions.
DISAGREEMENT: Final = "outline and readings of "
#: A sequence that shows less than this share of the gland is inadequate: that it shows nothing is no category 1.
COVERED_SHARE: Final = 0.9


@dataclass(frozen=True)
class ConceptReading:
    """How strongly a concept holds for a lesion, and where its evidence is strongest.

    Attributes:
        concept: id of the lexicon.
        probability: calibrated, 0..1.
        sequence: "t2w", "adc", "hbv", or "dwi" for what follows from ADC and high-b by rule.
        peak: patient point (LPS, mm) of the strongest evidence in the lesion and its rim; None without a map.
        peak_slice: its z index on the frame's grid.
        peak_value: the evidence there.
    """

    concept: str
    probability: float
    sequence: str
    peak: Point | None = None
    peak_slice: int | None = None
    peak_value: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "peak": list(self.peak) if self.peak else None}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ConceptReading:
        """The inverse of :meth:`to_dict`."""
        return cls(**{**data, "peak": tuple(data["peak"]) if data["peak"] else None})


@dataclass(frozen=True)
class SuspicionParts:
    """A lesion's suspicion and what it is made of; ``bias + sum(terms) + residual`` is the logit of ``value``.

    Attributes:
        value: 0..1; what detection ranks by.
        bias: constant of the zone and the sequences that are there.
        terms: (name, contribution >= 0) of the readings.
        residual: what the fused network adds beyond the readings, bounded.
        residual_share: |residual| over the sum of all contributions' sizes.
        threshold: value from which the bundle reports a candidate; None where it is not known.
    """

    value: float
    bias: float
    terms: tuple[tuple[str, float], ...]
    residual: float
    residual_share: float
    threshold: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "terms": [{"name": n, "contribution": c} for n, c in self.terms]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SuspicionParts:
        """The inverse of :meth:`to_dict`."""
        return cls(**{**data, "terms": tuple((t["name"], t["contribution"]) for t in data["terms"])})


@dataclass(frozen=True, eq=False)
class Lesion:
    """One suspicious region.

    Attributes:
        number: 1, 2, ...; the value in ``Explanation.lesion_labels``.
        mask: bool on the frame's grid.
        measures: sizes, shares, sectors.
        attributes: attribute id -> value -> calibrated probability.
        readings: per concept.
        suspicion: None for a region that could not be read.
        rationale: the PI-RADS path; holds the overrides of a reader.
        flags: what stays whatever a reader answers (zone mixed, a sequence that does not show the region, ...).
        origin: who outlined it.
    """

    number: int
    mask: Volume
    measures: LesionMeasures
    attributes: Mapping[str, Mapping[str, float]]
    readings: tuple[ConceptReading, ...]
    suspicion: SuspicionParts | None
    rationale: Rationale
    flags: tuple[str, ...] = ()
    origin: Literal["model", "reader"] = "model"

    @property
    def category(self) -> rules.Score:
        """PI-RADS category in force."""
        return self.rationale.category

    @property
    def consistency(self) -> tuple[str, ...]:
        """Where the network contradicts itself: outline, readings and suspicion of a region that no reader answered."""
        s = self.suspicion
        if s is None or s.threshold is None or self.rationale.overrides:
            return ()
        if s.value >= s.threshold and self.category in (1, 2) and self.origin == "model":
            return (NO_RATIONALE,)
        if s.value < s.threshold and self.category in (4, 5):
            return (LITTLE_SUSPICION,)
        return ()

    @property
    def all_flags(self) -> tuple[str, ...]:
        """Flags of the region, of its consistency and of the rationale, each once."""
        return tuple(dict.fromkeys((*self.flags, *self.consistency, *self.rationale.flags)))

    def reading(self, concept: str) -> ConceptReading | None:
        """The reading of a concept, or None."""
        return next((r for r in self.readings if r.concept == concept), None)

    @property
    def largest_slice(self) -> tuple[float, float, float]:
        """The middle of the region in the slice where it is largest; a patient point (x, y, z; LPS, mm)."""
        array = self.mask.array > 0
        k = int(array.sum((1, 2)).argmax())
        rows, columns = array[k].nonzero()
        x, y, z = self.mask.geometry.to_patient((k, float(rows.mean()), float(columns.mean())))
        return float(x), float(y), float(z)

    @property
    def leading_concept(self) -> str | None:
        """The concept to look at first: of the answers with a map one that speaks for the score that its sequence has
        got, in the order of what dominates in the zone (PZ: diffusion, TZ: T2W), there the one whose map lies closest
        to the region (inside it before its rim before its surroundings), and then the most probable; None where no
        answer has a map."""
        rationale = self.rationale
        order = ("adc", "hbv", "t2w") if rationale.zone == "PZ" else ("t2w", "adc", "hbv")
        found = []
        for step in rationale.steps:
            if step.evidence is not None and step.sequence in order:
                scores = lexicon.load().concept(step.evidence).supports.get(rationale.zone, ())
                score = rationale.t2w if step.sequence == "t2w" else rationale.dwi
                extent = get_args(lexicon.Extent).index(lexicon.load().attribute(step.id).extent)
                place = (score not in scores, order.index(step.sequence), extent, -(step.probability or 0.0))
                found.append((*place, step.evidence))
        return min(found)[-1] if found else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the mask travels as an image."""
        return {
            "number": self.number,
            "origin": self.origin,
            "category": self.category,
            "category_reachable": sorted(self.rationale.category_reachable, key=str),
            "zone": self.rationale.zone,
            "suspicion": self.suspicion.to_dict() if self.suspicion else None,
            "measures": self.measures.to_dict(),
            "attributes": {a: dict(v) for a, v in self.attributes.items()},
            "readings": [r.to_dict() for r in self.readings],
            "rationale": self.rationale.to_dict(),
            "rationale_text": self.rationale.explain(),
            "flags": list(dict.fromkeys((*self.flags, *self.consistency))),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], mask: Volume) -> Lesion:
        """The inverse of :meth:`to_dict`, with the mask read from its image."""
        return cls(
            number=data["number"], mask=mask, measures=LesionMeasures.from_dict(data["measures"]),
            attributes=data["attributes"], readings=tuple(ConceptReading.from_dict(r) for r in data["readings"]),
            suspicion=SuspicionParts.from_dict(data["suspicion"]) if data["suspicion"] else None,
            rationale=Rationale.from_dict(data["rationale"]), origin=data["origin"],
            flags=tuple(f for f in data["flags"] if f not in (NO_RATIONALE, LITTLE_SUSPICION)),
        )  # fmt: skip


@dataclass(frozen=True)
class Dropped:
    """A candidate that was not kept, and why: nothing disappears silently."""

    peak: float
    center: Point
    volume_ml: float
    reason: str


@dataclass(frozen=True)
class Provenance:
    """Where an explanation came from.

    Attributes:
        inputs: per sequence: role, name, series UID, SHA-256 of voxels and geometry.
        bundle: name, version, SHA-256, licence of the weights.
        lexicon_version, software_version: of this package.
        thresholds: in force.
        device, precision: where and how the network ran.
        seconds: per stage.
        notes: what was said on the way (fall-backs, choices).
    """

    inputs: tuple[Mapping[str, Any], ...]
    bundle: Mapping[str, Any]
    lexicon_version: str
    software_version: str
    thresholds: Mapping[str, float]
    device: str
    precision: str
    seconds: Mapping[str, float]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "inputs": [dict(i) for i in self.inputs], "notes": list(self.notes)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Provenance:
        """The inverse of :meth:`to_dict`."""
        return cls(**{**data, "inputs": tuple(data["inputs"]), "notes": tuple(data["notes"])})


@dataclass(frozen=True, eq=False)
class Explanation:
    """The result of explaining a study; the same object whichever face shows it.

    Attributes:
        study: what was explained.
        zones: uint8 on the frame's grid: 0 background, 1 PZ, 2 TZ.
        lesion_probability: float32 on the frame's grid.
        lesions: in order of number.
        dropped: candidates that were not kept.
        evidence: concept id -> map, computed when asked for.
        gland: sizes; None when no gland was found.
        quality: acquisition minimums of PI-RADS v2.1.
        flags: what holds for the whole study whatever a reader does.
        provenance: inputs, bundle, versions, seconds.
    """

    study: Study
    zones: Volume
    lesion_probability: Volume
    lesions: tuple[Lesion, ...]
    dropped: tuple[Dropped, ...]
    evidence: EvidenceMaps
    gland: GlandSize | None
    quality: tuple[QualityFlag, ...]
    flags: tuple[str, ...]
    provenance: Provenance

    @property
    def frame(self) -> Volume:
        """The volume whose grid everything is on."""
        return self.study.frame

    @property
    def category(self) -> rules.PatientCategory:
        """The patient's category, from the lesions' categories in force.

        Never 1 where T2W or diffusion is absent or shows less than nine tenths of the gland, or no gland was found.
        """
        summaries = [
            rules.LesionSummary(str(x.number), x.category, x.rationale.size_mm, x.rationale.epe_definite)
            for x in self.lesions
        ]
        enough = {role for role, share in self._covered.items() if share >= COVERED_SHARE}
        return rules.patient_category(
            summaries, t2w_adequate="t2w" in enough, dwi_adequate={"adc", "hbv"} <= enough,
            searched=self.gland is not None,
        )  # fmt: skip

    @cached_property
    def _covered(self) -> dict[str, float]:
        """Share of the gland in each sequence's field of view; 1 without a gland."""
        inside = self.zones.geometry.to_patient(np.argwhere(self.zones.array))
        volumes = {role: self.study.volume(role) for role in self.study.roles}
        return {
            role: float(in_field(volume.geometry, inside).mean()) if len(inside) else 1.0
            for role, volume in volumes.items() if volume is not None
        }  # fmt: skip

    @property
    def all_flags(self) -> tuple[str, ...]:
        """What holds for the study, and of which regions no reader should take the category at its word."""
        numbers = [str(x.number) for x in self.lesions if NO_RATIONALE in x.consistency]
        if not numbers:
            return self.flags
        which = f"region {numbers[0]}" if len(numbers) == 1 else f"regions {', '.join(numbers)}"
        text = f"{DISAGREEMENT}{which} disagree: the category may be too low; look at the evidence and the images"
        return (*self.flags, text)

    @cached_property
    def psa_density(self) -> PsaDensity | None:
        """PSA over planimetric volume, when both are known."""
        if self.study.psa is None or self.gland is None:
            return None
        return psa_density(self.study.psa, self.gland.planimetry_ml)

    @cached_property
    def lesion_labels(self) -> Volume:
        """uint8 on the frame's grid: instance numbers; where two overlap, the lower number."""
        labels = np.zeros(self.frame.geometry.shape, np.uint8)
        for lesion in reversed(self.lesions):
            labels[lesion.mask.array] = lesion.number
        return Volume(labels, self.frame.geometry, "lesions")

    def lesion(self, number: int) -> Lesion:
        """The lesion of this number.

        Raises:
            KeyError: there is none.
        """
        for lesion in self.lesions:
            if lesion.number == number:
                return lesion
        raise KeyError(f"no lesion {number}; there are {[x.number for x in self.lesions]}")

    def with_lesion(self, lesion: Lesion) -> Explanation:
        """The same with one lesion exchanged (by its number)."""
        return replace(self, lesions=tuple(lesion if x.number == lesion.number else x for x in self.lesions))

    def to_dict(self) -> dict[str, Any]:
        """Everything but the images, as plain values; the schema is ``Resources/Schema/explanation.schema.json``."""
        category = self.category
        density = self.psa_density
        return {
            "format": "medrationale-explanation",
            "format_version": 1,
            "notice": NOTICE,
            "study": {
                "name": self.study.name,
                "study_date": self.study.study_date,
                "study_uid": self.study.study_uid,
                "sequences": list(self.study.roles),
                "psa_ng_ml": self.study.psa,
                "choices": [str(c) for c in self.study.choices],
                "notes": list(self.study.notes),
            },
            "frame": self.frame.geometry.to_dict(),
            "category": {
                "value": category.category,
                "index_lesion": int(category.index) if category.index else None,
                "reported": [int(k) for k in category.reported],
                "text": category.text,
                "protocol": "mpMRI" if any(x.rationale.protocol == "mpMRI" for x in self.lesions) else "bpMRI",
            },
            "gland": self.gland.to_dict() if self.gland else None,
            "psa_density": None
            if density is None
            else {"ng_ml_per_ml": density.value, "text": density.text, "method": "planimetry"},
            "lesions": [lesion.to_dict() for lesion in self.lesions],
            "dropped": [{**asdict(d), "center": list(d.center)} for d in self.dropped],
            "evidence": {"threshold": self.evidence.threshold, "maps": list(self.evidence)},
            "quality": [q.to_dict() for q in self.quality],
            "flags": list(self.all_flags),
            "provenance": self.provenance.to_dict(),
        }
