"""A small synthetic explanation for tests: no network, no patient, every number by construction.

    explanation = make_explanation()                       # PZ region on the patient's left, TZ region, oblique grid
    explanation = make_explanation(lesions=())             # an explicit negative result
    explanation = make_explanation(roles=("t2w",))         # T2W only

The gland is an ellipsoid around :data:`CENTER` with a smaller one for the transition zone. Regions are spheres at known
patient points; what is "read" of them is spelled out in :data:`READINGS`, and their evidence lies where they lie.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from MedRationaleLogic.imaging import measure, quality
from MedRationaleLogic.imaging.acquisition import AcquisitionHeader, Role, SeriesChoice
from MedRationaleLogic.imaging.study import InputRecord, Study
from MedRationaleLogic.imaging.volume import Geometry, Volume
from MedRationaleLogic.inference.evidence import EvidenceField, EvidenceMaps
from MedRationaleLogic.inference.explanation import (
    ConceptReading,
    Dropped,
    Explanation,
    Lesion,
    Provenance,
    SuspicionParts,
)
from MedRationaleLogic.pirads import lexicon, rationale

CENTER = (12.0, -8.0, 25.0)
"""Patient point (LPS, mm) in the middle of the gland and of every grid."""
GLAND_RADII = (24.0, 17.0, 18.0)
TZ_RADII = (14.0, 10.0, 13.0)
TZ_OFFSET = (0.0, -4.0, 1.0)
THRESHOLDS = {"lesion_peak": 0.3, "evidence": 0.5, "suspicion": 0.4}
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

Readings = Mapping[str, Mapping[str, float]]

SURE_PZ: Readings = {
    "t2.pattern": {"focal": 0.86, "diffuse": 0.09, "normal": 0.05},
    "t2.signal": {"moderate_hypo": 0.91, "mild_hypo": 0.08, "iso": 0.01},
    "t2.texture": {"homogeneous": 0.83, "heterogeneous": 0.17},
    "t2.margin": {"circumscribed": 0.78, "indistinct": 0.12, "non_circumscribed": 0.10},
    "t2.shape": {"round": 0.74, "irregular": 0.20, "lenticular": 0.06},
    "t2.capsule": {"none": 0.95, "partial": 0.05},
    "adc.signal": {"marked": 0.88, "altered": 0.12},
    "adc.pattern": {"focal": 0.93, "diffuse": 0.07},
    "hbv.signal": {"marked": 0.81, "altered": 0.19},
    "hbv.pattern": {"focal": 0.90, "diffuse": 0.10},
}
"""Peripheral zone, small: T2W 4, DWI 4, category 4, nothing else within reach."""

UNSURE_TZ: Readings = {
    "t2.pattern": {"focal": 0.80, "nodule": 0.20},
    "t2.signal": {"moderate_hypo": 0.77, "mild_hypo": 0.23},
    "t2.texture": {"homogeneous": 0.52, "heterogeneous": 0.48},
    "t2.margin": {"non_circumscribed": 0.55, "obscured": 0.40, "circumscribed": 0.05},
    "t2.shape": {"lenticular": 0.70, "irregular": 0.30},
    "t2.capsule": {"none": 0.90, "partial": 0.10},
    "adc.signal": {"altered": 0.85, "marked": 0.15},
    "adc.pattern": {"focal": 0.90, "diffuse": 0.10},
    "hbv.signal": {"altered": 0.90, "marked": 0.10},
    "hbv.pattern": {"focal": 0.90, "diffuse": 0.10},
}
"""Transition zone: the texture decides between T2W 3 and 4, so category 3 and 4 are within reach."""


@dataclass(frozen=True)
class Region:
    """A region to be made.

    Attributes:
        offset: of its centre from :data:`CENTER`, LPS mm.
        radius: mm.
        readings: what is "read" of it.
        suspicion: its suspicion.
        flags: consistency flags.
    """

    offset: tuple[float, float, float]
    radius: float
    readings: Readings
    suspicion: float = 0.83
    flags: tuple[str, ...] = ()


PZ_LEFT = Region((14.0, 8.0, 0.0), 4.5, SURE_PZ)
"""Posterolateral peripheral zone on the patient's left."""
TZ_RIGHT = Region((-7.0, -6.0, 1.0), 5.0, UNSURE_TZ, 0.55, ("mask without rationale: a made-up remark",))
"""Transition zone, anterior, on the patient's right."""
MIXED = Region((-10.0, 3.0, 0.0), 5.0, UNSURE_TZ, 0.61)
"""Across both zones on the patient's right: the zone is uncertain."""


def grid(shape: tuple[int, int, int], spacing: tuple[float, float, float], direction: ArrayLike) -> Geometry:
    """A grid whose middle is :data:`CENTER`, with any orientation (nine numbers, columns are the x, y, z axes)."""
    base = Geometry(shape, spacing, (0.0, 0.0, 0.0), tuple(float(v) for v in np.ravel(np.asarray(direction))))
    return base.centered_on(CENTER, shape, spacing)


def oblique(degrees: tuple[float, float, float] = (12.0, -9.0, 5.0)) -> tuple[float, ...]:
    """Direction cosines of an axial grid tilted about x, y and z."""
    return tuple(Rotation.from_euler("xyz", degrees, degrees=True).as_matrix().ravel().tolist())


def flipped() -> tuple[float, ...]:
    """An axial grid with rows from left to right and from posterior to anterior, slices from top to bottom."""
    return tuple(np.diag([-1.0, -1.0, -1.0]).ravel().tolist())


def transposed() -> tuple[float, ...]:
    """An axial grid whose rows run from anterior to posterior and columns from right to left, as few scanners do."""
    return (0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, -1.0)


def sphere(geometry: Geometry, offset: tuple[float, float, float], radius: float) -> NDArray[np.bool_]:
    """Voxels within ``radius`` mm of :data:`CENTER` + ``offset``."""
    return _ellipsoid(geometry, offset, (radius, radius, radius))


def make_explanation(
    *,
    lesions: Sequence[Region] = (PZ_LEFT, TZ_RIGHT),
    roles: Sequence[Role] = ("t2w", "adc", "hbv"),
    direction: Sequence[float] | None = None,
    name: str = "synthetic",
    psa: float | None = 7.2,
    overrides: Mapping[int, Sequence[tuple[str, Any, str]]] | None = None,
    gland: bool = True,
    shape: tuple[int, int, int] = (14, 72, 80),
) -> Explanation:
    """An explanation by construction.

    Args:
        lesions: the regions, numbered from 1.
        roles: sequences that are there.
        direction: direction cosines of the T2W grid; tilted by default. ADC and high-b have a plain 2 mm grid.
        name: of the study; appears wherever a name can appear.
        psa: ng/mL.
        overrides: lesion number -> (step, answer, reader) in order.
        gland: False leaves the zones empty.
        shape: of the T2W's grid.
    """
    t2w_grid = grid(shape, (3.0, 0.8, 0.8), oblique() if direction is None else direction)
    dwi_grid = grid((14, 32, 36), (3.0, 2.0, 2.0), IDENTITY)
    volumes = {role: _image(role, t2w_grid if role == "t2w" else dwi_grid, lesions, f"{name} {role}") for role in roles}
    study = _study(name, volumes, psa)
    zones = _zones(study.frame.geometry) if gland else _nothing(study.frame.geometry)
    evidence = EvidenceMaps({role: _evidence(role, lesions) for role in roles}, study.frame.geometry, 0.5)
    made = tuple(
        _lesion(number, region, study, zones, evidence, (overrides or {}).get(number, ()))
        for number, region in enumerate(lesions, 1)
    )
    probability = np.zeros(study.frame.geometry.shape, np.float32)
    for lesion in made:
        probability[lesion.mask.array] = 0.8
    return Explanation(
        study=study,
        zones=zones,
        lesion_probability=study.frame.with_array(probability, "lesion probability"),
        lesions=made,
        dropped=(Dropped(0.31, (CENTER[0] + 4, CENTER[1], CENTER[2]), 0.12, f"dropped: too small ({name})"),),
        evidence=evidence,
        gland=measure.gland_size(zones) if gland else None,
        quality=(*quality.check(study), *(quality.check_coverage(study, zones) if gland else ())),
        flags=() if len(roles) == 3 else ("absent: some sequence",),
        provenance=_provenance(study, name),
    )


def _ellipsoid(
    geometry: Geometry, offset: tuple[float, float, float], radii: tuple[float, float, float]
) -> NDArray[np.bool_]:
    points = geometry.to_patient(np.moveaxis(np.indices(geometry.shape), 0, -1))
    far = (points - np.asarray(CENTER) - np.asarray(offset)) / np.asarray(radii)
    return np.asarray((far**2).sum(-1) <= 1.0)


def _zones(geometry: Geometry) -> Volume:
    gland = _ellipsoid(geometry, (0.0, 0.0, 0.0), GLAND_RADII)
    tz = _ellipsoid(geometry, TZ_OFFSET, TZ_RADII) & gland
    return Volume(np.where(gland, np.where(tz, measure.TZ, measure.PZ), 0).astype(np.uint8), geometry, "zones")


def _nothing(geometry: Geometry) -> Volume:
    return Volume(np.zeros(geometry.shape, np.uint8), geometry, "zones")


def _image(role: Role, geometry: Geometry, lesions: Sequence[Region], name: str) -> Volume:
    """Gland brighter than the pelvis, regions dark on T2W and ADC and bright on high-b, a little texture."""
    pelvis, gland, region = {"t2w": (150, 400, 180), "adc": (900, 1600, 650), "hbv": (20, 40, 110)}[role]
    array = np.full(geometry.shape, float(pelvis))
    array[_ellipsoid(geometry, (0.0, 0.0, 0.0), GLAND_RADII)] = gland
    for one in lesions:
        array[sphere(geometry, one.offset, one.radius)] = region
    texture = np.random.default_rng(7).normal(1.0, 0.05, geometry.shape)
    kind = np.float32 if role == "adc" else np.int16
    return Volume((array * texture).astype(kind), geometry, name)


def _study(name: str, volumes: Mapping[Role, Volume], psa: float | None) -> Study:
    b_value = {"hbv": 1400.0}
    return Study(
        name=name,
        t2w=volumes.get("t2w"),
        adc=volumes.get("adc"),
        hbv=volumes.get("hbv"),
        headers={r: AcquisitionHeader(r, "ACME", field_strength_t=3.0, b_value=b_value.get(r)) for r in volumes},
        choices=tuple(SeriesChoice(r, f"series {i}, {name}", "made up", ("series 99",)) for i, r in enumerate(volumes)),
        notes=(f"a note on {name}",),
        study_uid="1.2.3.4",
        study_date="2026-01-31",
        psa=psa,
        inputs=tuple(InputRecord(r, f"{name}.nii.gz", None, v.sha256) for r, v in volumes.items()),
    )


def _evidence(role: Role, lesions: Sequence[Region]) -> EvidenceField:
    """Evidence of a value: its probability inside the region that has it, fading over 3 mm; faint elsewhere."""
    spacing = (3.0, 1.0, 1.0) if role == "t2w" else (3.0, 2.0, 2.0)
    geometry = grid((12, 56, 64) if role == "t2w" else (12, 28, 32), spacing, IDENTITY)
    points = geometry.to_patient(np.moveaxis(np.indices(geometry.shape), 0, -1))
    values = {}
    for attribute in lexicon.load().attributes_of(role):
        fields = np.full((len(attribute.values), *geometry.shape), 0.03, np.float32)
        for region in lesions:
            far = np.linalg.norm(points - np.asarray(CENTER) - np.asarray(region.offset), axis=-1)
            weight = np.clip((region.radius + 3.0 - far) / 3.0, 0.0, 1.0)
            for i, value in enumerate(attribute.value_ids):
                there = region.readings[attribute.id].get(value, 0.0)
                fields[i] = np.maximum(fields[i], weight * there)
        values[attribute.id] = fields
    return EvidenceField(role, geometry, values)


def _lesion(
    number: int,
    region: Region,
    study: Study,
    zones: Volume,
    evidence: EvidenceMaps,
    overrides: Sequence[tuple[str, Any, str]],
) -> Lesion:
    mask = Volume(sphere(zones.geometry, region.offset, region.radius), zones.geometry, f"lesion {number}")
    shares = measure.zone_shares(mask, zones)
    nominal = measure.nominal_sequence(shares)
    volume = study.adc if nominal == "ADC" else study.t2w
    measures = measure.measure_lesion(
        mask, zones, measuring_grid=volume.geometry if volume else None, measured_on=nominal
    )
    readings = {a: v for a, v in region.readings.items() if lexicon.load().attribute(a).sequence in study.roles}
    terms = tuple((a, 0.2 * max(v.values())) for a, v in readings.items())
    residual = 0.25
    share = residual / (residual + sum(t for _, t in terms))
    parts = SuspicionParts(region.suspicion, -1.0, terms, residual, share, THRESHOLDS["suspicion"])
    built = rationale.build(
        rationale.Findings(
            zone_shares=measures.zone_shares,
            attributes=readings,
            size_mm=measures.in_plane.mm,
            size_source=f"{measures.in_plane.plane}, {measures.measured_on}",
            available=frozenset(study.roles),
            suspicion=region.suspicion,
        )
    )
    for step, answer, reader in overrides:
        built = built.override(step, answer, reader)
    return Lesion(
        number, mask, measures, readings, _readings(region, readings, evidence, zones.geometry), parts, built,
        region.flags,
    )  # fmt: skip


def _readings(
    region: Region, readings: Readings, evidence: EvidenceMaps, frame: Geometry
) -> tuple[ConceptReading, ...]:
    at = np.asarray(CENTER) + np.asarray(region.offset)
    slice_index = int(np.clip(round(float(frame.to_index(at)[0])), 0, frame.shape[0] - 1))
    out = []
    for concept in (*lexicon.load().seen_concepts(), *lexicon.load().ruled_concepts()):
        probability = concept.probability(readings)
        if probability is None:
            continue
        if concept.kind == "ruled":
            out.append(ConceptReading(concept.id, probability, "dwi"))
            continue
        native = evidence.native(concept.id)
        z, y, x = (int(v) for v in np.round(native.geometry.to_index(at)))
        point = (float(at[0]), float(at[1]), float(at[2]))
        peak = float(native.array[z, y, x])
        out.append(ConceptReading(concept.id, probability, concept.sequences[0], point, slice_index, peak))
    return tuple(out)


def _provenance(study: Study, name: str) -> Provenance:
    return Provenance(
        inputs=tuple({"role": i.role, "name": i.name, "series_uid": None, "sha256": i.sha256} for i in study.inputs),
        bundle={
            "name": f"bundle of {name}",
            "version": "0.0.1",
            "sha256": hashlib.sha256(b"bundle").hexdigest(),
            "licence": "CC-BY-4.0",
        },
        lexicon_version=lexicon.load().version,
        software_version="0.1.0",
        thresholds=THRESHOLDS,
        device="cpu",
        precision="float32",
        seconds={"reading T2W": 0.4, "measuring": 0.2},
        notes=("no GPU: the CPU was used",),
    )
