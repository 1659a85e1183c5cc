"""From data sets, our own cases and reports to triples: what is stated, what follows, what was measured.

A case that cannot be used is skipped with its reason and counted; the rest is not lost. Research use only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from MedRationaleLogic.imaging import files as image_files
from MedRationaleLogic.imaging.measure import LesionMeasures, measure_lesion
from MedRationaleLogic.imaging.study import adc_in_standard_units, read_study
from MedRationaleLogic.imaging.volume import Volume
from MedRationaleLogic.pirads.rationale import ZONE_SHARE_UNCERTAIN
from MedRationaleLogic.training import rationales, reports, silver
from MedRationaleLogic.training.layouts import Image, Mask, SourceCase
from MedRationaleLogic.training.triples import (
    GLAND,
    Document,
    OutputError,
    Region,
    Triple,
    TripleError,
    TripleSet,
    TripleWriter,
    has_zones,
    on_frame,
    positive_of,
)

#: Components of a lesion mask smaller than this are drawing errors, no lesions.
LEAST_ML: Final = 0.02
#: More regions than a training item has rows for are left out, the smallest first.
MOST_REGIONS: Final = 6
#: A region with less than this share of itself in the gland lies off it: candidates are held to the same.
LEAST_IN_GLAND: Final = 0.5

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
        TripleError: the folder holds something, no case can be used, a patient is in two splits or folds.
        OutputError: the folder cannot be written; nothing is left of it.
    """
    with TripleWriter(folder) as writer:
        for case in cases:
            fold = -1 if folds is None else folds.get(case.id, folds.get(case.patient, -1))
            try:
                if case.notes:
                    raise TripleError(f"{case.id}: {'; '.join(case.notes)}")
                add_case(writer, case, fold, measure_silver)
            except OutputError:  # no case's fault: the next one could not be written either
                raise
            # StudyError, TripleError, what a reader or a measure refuses, what the system does not let be read
            except (ValueError, RuntimeError, OSError) as error:
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
        ValueError, RuntimeError, OSError: the case cannot be used; nothing of it is left.
        OutputError: it cannot be written.
    """
    if "case" in case.images:
        images, own_zones, outlined, known, patient = _own_case(case.images["case"].path)
        zones: Volume | None = own_zones
        regions, known, left_out = _kept(known, outlined)
        document = Document(known, case.complete and not left_out, case.source, contradictions=left_out)
    else:
        images, patient = read_images(case)
        regions = None
        frame = images.get("t2w") or images.get("adc")
        if frame is None:
            raise TripleError(f"{case.id}: neither T2W nor ADC is there")
        zones = _mask(case.zones, frame, case.id) if case.zones else None
        left_out = ()
        if zones is not None and not zones.array.any():
            zones, left_out = None, ("the mask of zones is empty; they are unknown",)
        if case.numbered is not None:
            regions, known, lost = _kept(case.regions, _mask(case.numbered, frame, case.id))
            document = Document(known, case.complete and not lost, case.source, contradictions=(*left_out, *lost))
        else:
            lost = ()
            if case.lesions is not None:
                regions, lost = _numbered(_mask(case.lesions, frame, case.id))
            document = _describe(case, images, zones, regions, measure_silver)
            against = (*left_out, *lost, *document.contradictions)
            document = replace(document, complete=document.complete and not lost, contradictions=against)
    return writer.add(
        case.id, images, zones, regions if document.regions else None, document,
        patient=case.patient or _pseudonym(patient) or case.id, study=case.study, split=case.split, fold=fold,
        source=case.source,
    )  # fmt: skip


def _pseudonym(patient: str | None) -> str:
    """Of a DICOM PatientID, which is written nowhere; the same in every set, "" without one."""
    text = (patient or "").strip()
    return f"dicom-{hashlib.sha256(f'medrationale-patient-1/{text}'.encode()).hexdigest()[:16]}" if text else ""


def read_images(case: SourceCase) -> tuple[dict[str, Volume], str | None]:
    """Images by role, ADC in 1e-6 mm2/s; and DICOM's patient, None where there is none.

    Raises:
        StudyError, TripleError: an image cannot be read.
    """
    if "study" in case.images:
        study = read_study(case.images["study"].path)
        there = {role: volume for role in study.roles if (volume := study.volume(role)) is not None}
        return {str(role): volume for role, volume in there.items()}, study.patient_id
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
    return out, None


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
        if mask.within:
            _without_detached(array, np.isin(volume.array, list(mask.within)))
        return volume.with_array(array)
    return (
        volume.with_array(np.where(volume.array > 0, mask.otherwise, 0).astype(np.uint8)) if mask.otherwise else volume
    )


def _without_detached(array: NDArray[np.uint8], within: NDArray[np.bool_]) -> None:
    """Make background of each part of ``within`` that no other label touches."""
    from scipy import ndimage

    around = ndimage.binary_dilation((array > 0) & ~within, np.ones((3, 3, 3)))
    parts, count = ndimage.label(within, np.ones((3, 3, 3)))
    for number in range(1, count + 1):
        if not (around & (parts == number)).any():
            array[parts == number] = 0


def _numbered(lesions: Volume) -> tuple[Volume, tuple[str, ...]]:
    """Regions 1 to n, the largest first: the mask's own numbers where it has several, else 26-connected components.
    And what of the mask is no region now, one sentence each."""
    from scipy import ndimage

    labels = np.unique(lesions.array[lesions.array > 0])
    if len(labels) > 1:
        parts = [lesions.array == label for label in labels]
    else:
        components, count = ndimage.label(lesions.array > 0, np.ones((3, 3, 3)))
        parts = [components == k for k in range(1, count + 1)]
    voxel_ml = lesions.geometry.voxel_volume / 1000
    large = sorted((p for p in parts if p.sum() * voxel_ml >= LEAST_ML), key=lambda p: -int(p.sum()))
    out = np.zeros(lesions.array.shape, np.uint8)
    for number, part in enumerate(large[:MOST_REGIONS], 1):
        out[part] = number
    small = len(parts) - len(large)
    lost = (f"{small} outlined parts are under {LEAST_ML} mL and left out",) if small else ()
    return lesions.with_array(out), (*lost, *_surplus(len(large)))


def _surplus(regions: int) -> tuple[str, ...]:
    if regions <= MOST_REGIONS:
        return ()
    return (f"{regions} regions are outlined; the {regions - MOST_REGIONS} smallest are left out",)


def _kept(known: Sequence[Region], regions: Volume) -> tuple[Volume, tuple[Region, ...], tuple[str, ...]]:
    """Of numbered regions those that have voxels, the largest ones, numbered 1 to n in their order; and what is lost.

    Training reads what is known of region n from place n.

    Raises:
        TripleError: the mask holds a region of which nothing is said.
    """
    unknown = set(np.unique(regions.array).tolist()) - {0} - {r.number for r in known}
    if unknown:
        raise TripleError(f"{regions.name} holds regions {sorted(unknown)}, of which nothing is said")
    sizes = {r.number: int((regions.array == r.number).sum()) for r in known}
    there = [r for r in known if sizes[r.number]]
    lost = [f"region {r.number} has no voxel of its own and is left out" for r in known if not sizes[r.number]]
    largest = {r.number for r in sorted(there, key=lambda r: -sizes[r.number])[:MOST_REGIONS]}
    out = []
    array = np.zeros(regions.array.shape, np.uint8)
    for number, region in enumerate((r for r in there if r.number in largest), 1):
        array[regions.array == region.number] = number
        out.append(replace(region, number=number))
    return regions.with_array(array), tuple(out), (*lost, *_surplus(len(there)))


# ---------------------------------------------------------------------------------------------------------------------
# What is said, what follows, what is measured


def _describe(case: SourceCase, images: Mapping[str, Volume], zones: Volume | None, regions: Volume | None,
              measure_silver: bool) -> Document:  # fmt: skip
    text, findings = _report(case)
    parts: list[Volume] = []
    if regions is not None:
        parts = [regions.with_array(regions.array == n) for n in np.unique(regions.array) if n]
    zonal = _all_zoned(zones) if zones is not None and has_zones(zones.array) else None
    measured = [_measures(part, zonal, images) for part in parts]
    matched = match(findings, measured)
    described = []
    for number, (part, size) in enumerate(zip(parts, measured, strict=True), 1):
        finding = matched.get(number - 1)
        found: dict[str, str] = {}
        if measure_silver and zonal is not None:
            readings = silver.measure(images, zonal, part)
            found = {name: str(r.value) for name, r in readings.items() if name != silver.SIZE}
        in_gland = 1.0 if zones is None else float((zones.array[part.array > 0] > 0).mean())
        described.append(_region(number, case, size, finding, found, tuple(images), in_gland))
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
        text = case.report.read_text(encoding="utf-8-sig")  # an editor may have put a byte order mark
        parsed = reports.parse_structured(json.loads(text)) if case.report.suffix == ".json" else reports.parse_report(
            text)  # fmt: skip
    except (OSError, ValueError) as error:
        raise TripleError(f"{case.id}: {case.report.name}: {error}") from error
    return text, parsed.findings


def _all_zoned(zones: Volume) -> Volume:
    """Zones in which gland of unknown zone has that of the nearest voxel that has one: to measure on, not to train."""
    from scipy import ndimage

    unknown = zones.array == GLAND
    if not unknown.any():
        return zones
    nearest = ndimage.distance_transform_edt(~np.isin(zones.array, (1, 2)), zones.geometry.spacing,
                                             return_distances=False, return_indices=True)  # fmt: skip
    return zones.with_array(np.where(unknown, zones.array[tuple(nearest)], zones.array))


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


def _elsewhere(finding: reports.Finding, size: LesionMeasures) -> bool:
    """Whether a report's lesion lies on the other side, or in the other zone, than a mask."""
    sides = {key.split("-")[2] for key, _ in size.sectors}
    if sides and finding.side in ("R", "L") and finding.side not in sides:
        return True
    inside = size.zone_shares.get("PZ", 0.0) + size.zone_shares.get("TZ", 0.0)
    share = size.zone_shares.get(finding.zone or "", 0.0)
    return finding.zone in ("PZ", "TZ") and inside > 0 and share < ZONE_SHARE_UNCERTAIN


def _region(number: int, case: SourceCase, size: LesionMeasures, finding: reports.Finding | None,
            found: Mapping[str, str], available: tuple[str, ...], in_gland: float) -> Region:  # fmt: skip
    """What is trained on of a region: nothing that was said of another place, and nothing at all off the gland."""
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
    zone = by_report or by_mask
    against = list(rationales.contradictions(finding, size)) if finding else []
    if finding and _elsewhere(finding, size):
        # the outline is of something else than the report speaks of; what is measured on it stays
        zone, category, positive = by_mask, None, True if case.positive else None
        stated, silver_values = {}, dict(found)
    if in_gland < LEAST_IN_GLAND:
        against.append(f"outline: {in_gland:.0%} of it lies in the gland; it is not trained on")
        category, positive, stated, silver_values = None, None, {}, {}
    status = dict.fromkeys(stated, "gold") | dict.fromkeys(silver_values, "silver")
    return Region(number, zone, category, positive, {**silver_values, **stated}, status, completed,
                  tuple(against))  # fmt: skip


def _own_case(folder: Path) -> tuple[dict[str, Volume], Volume, Volume, tuple[Region, ...], str | None]:
    """Images, zones, regions, answers and DICOM's patient of a signed-off case; an answer the model gave and the reader
    let stand is "accepted", one that the reader gave is "gold"."""
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
    return images, explanation.zones, explanation.zones.with_array(numbers), tuple(known), study.patient_id
