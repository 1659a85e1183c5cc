"""From data sets, our own cases and reports to triples: what is stated, what follows, what was measured.

A case that cannot be used is skipped with its reason and counted; the rest is not lost. Research use only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from MedRationaleLogic.imaging import files as image_files
from MedRationaleLogic.imaging.measure import LesionMeasures, measure_lesion
from MedRationaleLogic.imaging.study import adc_in_standard_units, read_study
from MedRationaleLogic.imaging.volume import Volume
from MedRationaleLogic.training import rationales, reports, silver
from MedRationaleLogic.training.layouts import Image, Mask, SourceCase
from MedRationaleLogic.training.triples import (
    Document,
    Region,
    Triple,
    TripleError,
    TripleSet,
    TripleWriter,
    on_frame,
    positive_of,
)

#: Components of a lesion mask smaller than this are drawing errors, no lesions.
LEAST_ML: Final = 0.02
#: More regions than a training item has rows for are left out, the smallest first.
MOST_REGIONS: Final = 6

Progress = Callable[[str, str], None]
"""Told (case, "ok" or the reason it was skipped)."""


def curate(
    cases: Iterable[SourceCase], folder: Path, *, measure_silver: bool = True, folds: Mapping[str, int] | None = None,
    facts: Mapping[str, Any] | None = None, progress: Progress | None = None,
) -> TripleSet:  # fmt: skip
    """Write a set of triples.

    Args:
        cases: from :mod:`MedRationaleLogic.training.layouts`.
        folder: new or empty.
        measure_silver: measure readings where nothing is stated; always marked "silver".
        folds: case or patient -> fold of a published cross-validation.
        facts: for the header.
        progress: told after each case.

    Raises:
        TripleError: the folder cannot be written, no case can be used, a patient is in two splits.
    """
    with TripleWriter(folder) as writer:
        for case in cases:
            fold = -1 if folds is None else folds.get(case.id, folds.get(case.patient, -1))
            try:
                if case.notes:
                    raise TripleError(f"{case.id}: {'; '.join(case.notes)}")
                add_case(writer, case, fold, measure_silver)
            except (ValueError, RuntimeError) as error:  # StudyError, TripleError, what a reader or a measure refuses
                reason = str(error).removeprefix(f"{case.id}: ")
                writer.skip(case.id, reason)
                if progress:
                    progress(case.id, reason)
            else:
                if progress:
                    progress(case.id, "ok")
        return writer.close(facts or {})


def add_case(writer: TripleWriter, case: SourceCase, fold: int, measure_silver: bool) -> Triple:
    """Read one case and write its triple.

    Raises:
        ValueError: the case cannot be used; nothing of it is left.
    """
    if "case" in case.images:
        images, own_zones, regions, known = _own_case(case.images["case"].path)
        zones: Volume | None = own_zones
        document = Document(known, case.complete, case.source)
    else:
        images = read_images(case)
        regions = None
        frame = images.get("t2w") or images.get("adc")
        if frame is None:
            raise TripleError(f"{case.id}: neither T2W nor ADC is there")
        zones = _mask(case.zones, frame, case.id) if case.zones else None
        if case.numbered is not None:
            regions = _mask(case.numbered, frame, case.id)
            known = _still_there(case.regions, regions)
            document = Document(known, case.complete, case.source)
        else:
            outlined = _mask(case.lesions, frame, case.id) if case.lesions else None
            regions = _numbered(outlined) if outlined is not None else None
            document = _describe(case, images, zones, regions, measure_silver)
    return writer.add(
        case.id, images, zones, regions if document.regions else None, document, patient=case.patient,
        study=case.study, split=case.split, fold=fold, source=case.source,
    )  # fmt: skip


def read_images(case: SourceCase) -> dict[str, Volume]:
    """Images by role, ADC in 1e-6 mm2/s.

    Raises:
        StudyError, TripleError: an image cannot be read.
    """
    if "study" in case.images:
        study = read_study(case.images["study"].path)
        return {role: volume for role in study.roles if (volume := study.volume(role)) is not None}
    out: dict[str, Volume] = {}
    for role, image in case.images.items():
        volume = _read(image, role)
        if not np.isfinite(volume.array).all():
            raise TripleError(f"{case.id}: {image.path.name} holds values that are not numbers")
        if float(volume.array.max()) <= float(volume.array.min()):
            raise TripleError(f"{case.id}: {image.path.name} holds one value only; expected an image")
        if role == "adc":
            volume = volume.with_array(adc_in_standard_units(volume.array, image.path.name)[0])
        out[role] = volume
    return out


def _read(image: Image, role: str) -> Volume:
    if image.channel is None:
        return image_files.read_image(image.path, role)[0]  # type: ignore[arg-type]
    import SimpleITK as sitk

    try:
        whole = sitk.ReadImage(str(image.path))
    except RuntimeError as error:
        raise TripleError(f"{image.path.name} cannot be read; it may be cut off") from error
    if whole.GetDimension() != 4 or image.channel >= whole.GetSize()[3]:
        raise TripleError(f"{image.path.name}: expected a 4D image with channel {image.channel} ({role})")
    return Volume.from_sitk(whole[:, :, :, image.channel], f"{image.path.name}[{image.channel}]")


def _mask(mask: Mask, frame: Volume, name: str) -> Volume:
    import SimpleITK as sitk

    try:
        volume = Volume.from_sitk(sitk.ReadImage(str(mask.path)), mask.path.name)
    except (RuntimeError, ValueError) as error:
        raise TripleError(f"{name}: {mask.path.name} cannot be read; it may be cut off") from error
    volume = on_frame(volume, frame, f"{name}: {mask.path.name}")
    if mask.meaning is not None:
        array = np.zeros_like(volume.array)
        for label, ours in mask.meaning.items():
            array[volume.array == label] = ours
        return volume.with_array(array)
    return (
        volume.with_array(np.where(volume.array > 0, mask.otherwise, 0).astype(np.uint8)) if mask.otherwise else volume
    )


def _numbered(lesions: Volume) -> Volume:
    """Regions 1 to n, the largest first: the mask's own numbers where it has several, else 26-connected components."""
    from scipy import ndimage

    labels = np.unique(lesions.array[lesions.array > 0])
    if len(labels) > 1:
        parts = [lesions.array == label for label in labels]
    else:
        components, count = ndimage.label(lesions.array > 0, np.ones((3, 3, 3)))
        parts = [components == k for k in range(1, count + 1)]
    voxel_ml = lesions.geometry.voxel_volume / 1000
    parts = sorted((p for p in parts if p.sum() * voxel_ml >= LEAST_ML), key=lambda p: -int(p.sum()))[:MOST_REGIONS]
    out = np.zeros(lesions.array.shape, np.uint8)
    for number, part in enumerate(parts, 1):
        out[part] = number
    return lesions.with_array(out)


def _still_there(known: Sequence[Region], regions: Volume) -> tuple[Region, ...]:
    numbers = set(np.unique(regions.array).tolist())
    return tuple(r for r in known if r.number in numbers)


# ---------------------------------------------------------------------------------------------------------------------
# What is said, what follows, what is measured


def _describe(case: SourceCase, images: Mapping[str, Volume], zones: Volume | None, regions: Volume | None,
              measure_silver: bool) -> Document:  # fmt: skip
    text, findings = _report(case)
    parts: list[Volume] = []
    if regions is not None:
        parts = [regions.with_array(regions.array == n) for n in np.unique(regions.array) if n]
    zonal = None if zones is None or (zones.array == 3).any() else zones
    measured = [_measures(part, zonal, images) for part in parts]
    matched = match(findings, measured)
    described = []
    for number, (part, size) in enumerate(zip(parts, measured, strict=True), 1):
        finding = matched.get(number - 1)
        found: dict[str, str] = {}
        if measure_silver and zonal is not None:
            readings = silver.measure(images, zonal, part)
            found = {name: str(r.value) for name, r in readings.items() if name != silver.SIZE}
        described.append(_region(number, case, size, finding, found, tuple(images), text))
    spare = [f for f in findings if not any(f is m for m in matched.values())]
    missing = [f"the report names {f.name or 'a lesion'}, which no mask outlines" for f in spare]
    if findings and len(parts) > len(matched):
        missing.append(f"{len(parts) - len(matched)} outlined regions are not in the report")
    complete = case.complete and not spare
    return Document(tuple(described), complete, case.source, text, tuple(missing))


def _report(case: SourceCase) -> tuple[str, Sequence[reports.Finding]]:
    if case.report is None:
        return "", ()
    try:
        text = case.report.read_text(encoding="utf-8")
        parsed = reports.parse_structured(json.loads(text)) if case.report.suffix == ".json" else reports.parse_report(
            text)  # fmt: skip
    except (OSError, ValueError) as error:
        raise TripleError(f"{case.id}: {case.report.name}: {error}") from error
    return text, parsed.findings


def _measures(part: Volume, zones: Volume | None, images: Mapping[str, Volume]) -> LesionMeasures:
    nothing = part.with_array(np.zeros(part.array.shape, np.uint8))
    grid = images["adc"].geometry if "adc" in images else None
    return measure_lesion(part, zones or nothing, measuring_grid=grid, measured_on="ADC" if grid else "T2W")


def match(findings: Sequence[reports.Finding], measured: Sequence[LesionMeasures]) -> dict[int, reports.Finding]:
    """Which finding of a report speaks of which outlined region: the pairing with the fewest contradictions.

    Ties keep the report's order against the masks' (largest first), as reports name the index lesion first.

    Returns:
        index of the region -> its finding; the smaller of the two numbers of pairs.
    """
    if not findings or not measured:
        return {}
    from scipy.optimize import linear_sum_assignment

    # what a report says against itself speaks for no mask
    alone = [len(rationales.contradictions(f)) for f in findings]
    cost = np.array([
        [len(rationales.contradictions(f, m)) - alone[k] + 0.01 * abs(i - k) for k, f in enumerate(findings)]
        for i, m in enumerate(measured)
    ])  # fmt: skip
    rows, columns = linear_sum_assignment(cost)
    return {int(i): findings[int(k)] for i, k in zip(rows, columns, strict=True)}


def _region(number: int, case: SourceCase, size: LesionMeasures, finding: reports.Finding | None,
            found: Mapping[str, str], available: tuple[str, ...], text: str) -> Region:  # fmt: skip
    stated = dict(finding.values) if finding else {}
    inside = size.zone_shares.get("PZ", 0.0) + size.zone_shares.get("TZ", 0.0)
    by_mask = max(("PZ", "TZ"), key=lambda z: size.zone_shares.get(z, 0.0)) if inside > 0 else None
    by_report = finding.zone if finding and finding.zone in ("PZ", "TZ") else None
    silver_values = {a: v for a, v in found.items() if a not in stated}
    measured = [item for item, said in (("zone", by_report), ("size", finding and finding.greatest_mm)) if not said]
    completed = rationales.complete(
        stated, by_report or by_mask, (finding.greatest_mm if finding else None) or size.in_plane.mm,
        silver=silver_values, scores=finding.scores if finding else None,
        category=finding.category if finding else None, epe=finding.epe if finding else None, measured=measured,
        available=available, spans=finding.spans if finding else (), source=case.source,
    )  # fmt: skip
    category = finding.category if finding and isinstance(finding.category, int) else None
    positive = True if case.positive else positive_of(category)
    status = dict.fromkeys(stated, "gold") | dict.fromkeys(silver_values, "silver")
    against = tuple(rationales.contradictions(finding, size)) if finding else ()
    return Region(number, by_report or by_mask, category, positive, {**silver_values, **stated}, status, completed,
                  against)  # fmt: skip


def _own_case(folder: Path) -> tuple[dict[str, Volume], Volume, Volume | None, tuple[Region, ...]]:
    """Images, zones, regions and answers of a signed-off case; an answer the model gave and the reader let stand is
    "accepted", one that the reader gave is "gold"."""
    from MedRationaleLogic.case import Case, CaseError
    from MedRationaleLogic.pirads import lexicon

    try:
        case = Case.load(folder)
    except CaseError as error:
        raise TripleError(f"{folder.name}: {error}") from error
    explanation = case.explanation
    if explanation is None:
        raise TripleError(f"{folder.name}: nothing was explained in this case")
    study = case.study
    images: dict[str, Volume] = {role: volume for role in study.roles if (volume := study.volume(role)) is not None}
    numbers = np.zeros(explanation.zones.array.shape, np.uint8)
    known = []
    for number, lesion in enumerate(explanation.lesions, 1):
        numbers[lesion.mask.array > 0] = number
        values, status = {}, {}
        by_id = {s.id: s for s in lesion.rationale.steps}
        for attribute in lexicon.load().attributes:
            step = by_id.get(attribute.id)
            if step is not None and step.answer in attribute.value_ids:
                values[attribute.id] = str(step.answer)
                status[attribute.id] = "gold" if step.overridden else "accepted"
        category = lesion.category if isinstance(lesion.category, int) else None
        zone = lesion.rationale.zone
        known.append(
            Region(number, zone, category, positive_of(category), values, status,
                   lesion.rationale.to_dict())
        )  # fmt: skip
    kept = [r for r in known if (numbers == r.number).any()]
    regions = explanation.zones.with_array(numbers) if kept else None
    return images, explanation.zones, regions, tuple(kept)
