"""The pipeline: coarse pass, stems, evidence, masks, candidates, readings, scores; one road for every caller."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from MedRationaleLogic.imaging import measure, quality
from MedRationaleLogic.imaging.preprocess import axial_axis, axial_geometry, normalise, sample
from MedRationaleLogic.imaging.study import Role, Study, check_geometry
from MedRationaleLogic.imaging.volume import Geometry, Volume
from MedRationaleLogic.inference import lesions as candidates
from MedRationaleLogic.inference.device import Device, Placement, choose
from MedRationaleLogic.inference.evidence import EvidenceField, EvidenceMaps
from MedRationaleLogic.inference.explanation import (
    ConceptReading,
    Dropped,
    Explanation,
    Lesion,
    Provenance,
    SuspicionParts,
)
from MedRationaleLogic.model.grids import COARSE, FINE, SEQUENCES, STEM_GRIDS, TYPICAL_GLAND_MM, ZOOM_LIMITS
from MedRationaleLogic.pirads import lexicon, rationale, rules

if TYPE_CHECKING:
    from torch import Tensor

    from MedRationaleLogic.model.bundle import Bundle
    from MedRationaleLogic.model.network import RationaleNet

Progress = Callable[[float, str], None]
Cancelled = Callable[[], bool]
Precision = Literal["auto", "float32", "bfloat16"]

#: Share of a minor zone from which the lesion is flagged as mixed (method 8).
MIXED_SHARE: Final = 0.25
#: "Explain here" grows a region of at most this radius around the point.
REACH_MM: Final = 12.0
#: A sequence that shows less of a region than this share says nothing of it: as if it were absent (score X).
SEEN_SHARE: Final = 0.5
#: Passes over the T2W alone that settle the crop's place and zoom, after the coarse one.
ZOOM_PASSES: Final = 2
#: A smaller find is no gland, and the crop stays where it is.
SMALLEST_GLAND_MM3: Final = 2000.0
#: A gland outside this range is no prostate that the network has seen.
PLAUSIBLE_GLAND_ML: Final = (8.0, 250.0)


class ExplainCancelledError(RuntimeError):
    """The caller asked to stop; nothing was written."""


@dataclass(eq=False)
class StudyReader:
    """A study as the network saw it: any region can be read again without running the network again.

    Attributes:
        study: what was seen.
        bundle: with what.
        place: where.
        fields: evidence by sequence.
        features: stem features (c, voxels) by sequence, float32.
        grids: each stem's grid in the patient.
        valid: bool (z, y, x) by sequence: where on its grid it has voxels; a grid may reach beyond the images.
        fine: the mask grid.
        residual: the trunk's residual logits (z, y, x) on ``fine``.
        lesion_probability: on ``fine``.
        coarse_flags: what the coarse pass had to say.
    """

    study: Study
    bundle: Bundle
    place: Placement
    fields: dict[str, EvidenceField]
    features: dict[str, Tensor]
    grids: dict[str, Geometry]
    valid: dict[str, NDArray[np.bool_]]
    fine: Geometry
    zone_probability: NDArray[np.float32]
    lesion_probability: NDArray[np.float32]
    residual: NDArray[np.float32]
    coarse_flags: tuple[str, ...] = ()
    _values: Any = field(default=None, repr=False)
    _regions: tuple[Volume | None, dict[str, NDArray[np.bool_]]] = field(default=(None, {}), repr=False)

    @property
    def net(self) -> RationaleNet:
        """The network."""
        return self.bundle.network()

    def readings(self, mask: Volume) -> dict[str, dict[str, float]]:
        """Calibrated attribute probabilities of a region, each sequence from its own stem.

        Args:
            mask: bool, any grid in the patient.

        Returns:
            attribute id -> value -> probability. A sequence that shows less than half of the region has none.
        """
        import torch

        from MedRationaleLogic.model import pooling

        out: dict[str, dict[str, float]] = {}
        values = self.net.value_embeddings() if self._values is None else self._values
        self._values = values
        with torch.inference_mode():
            for sequence, features in self.features.items():
                region = self._region(mask, sequence)
                if not region.any():
                    continue
                place = pooling.region(torch.from_numpy(region), self.grids[sequence].spacing)
                seen = self.net.embed(sequence, features[:, place.index])
                logits = self.net.read(sequence, seen, place, values)
                for name, x in logits.items():
                    p = torch.softmax(x / self.bundle.manifest.calibration.get(name, 1.0), 0)
                    out[name] = dict(zip(lexicon.load().attribute(name).value_ids, p.tolist(), strict=True))
        return out

    def _region(self, mask: Volume, sequence: str) -> NDArray[np.bool_]:
        """What a sequence shows of a region, on its stem's grid; nothing where that is less than :data:`SEEN_SHARE`.

        Kept as long as the same mask is asked about.
        """
        kept = self._regions
        if kept[0] is not mask:
            kept = self._regions = (mask, {})
        if sequence not in kept[1]:
            whole = region_on(mask, self.grids[sequence])
            shown = whole & self.valid[sequence]
            enough = np.count_nonzero(shown) >= SEEN_SHARE * np.count_nonzero(whole)
            kept[1][sequence] = shown if enough else np.zeros_like(whole)
        return kept[1][sequence]

    def suspicion(self, mask: Volume, zone: rules.Zone, readings: Mapping[str, Mapping[str, float]]) -> SuspicionParts:
        """The region's suspicion: a monotone function of its readings plus a bounded residual, all parts shown."""
        import torch

        region = self._region(mask, "t2w") if self.grids.get("t2w") == self.fine else region_on(mask, self.fine)
        pooled = float(self.residual[region].mean()) if region.any() else 0.0
        # a sequence that does not show the region says nothing of it: the same as absent
        presence = [s in self.features and bool(self._region(mask, s).any()) for s in SEQUENCES]
        tensors = {a: torch.tensor(list(v.values())) for a, v in readings.items()}
        with torch.inference_mode():
            s = self.net.suspicion(zone, tensors, torch.tensor(pooled), presence)
        terms = tuple((name, float(x)) for name, x in s.terms)
        residual = float(s.residual)
        logit = float(s.logit)
        bias = logit - sum(x for _, x in terms) - residual
        return SuspicionParts(
            1 / (1 + math.exp(-logit)), bias, terms, residual, float(s.residual_share),
            self.bundle.manifest.thresholds["suspicion"],
        )  # fmt: skip

    def lesion(
        self, number: int, mask: Volume, zones: Volume, *, origin: Literal["model", "reader"] = "model",
        sectors: Volume | None = None,
    ) -> Lesion:  # fmt: skip
        """Measure, read, score and explain one region.

        Args:
            number: its name.
            mask: bool on the frame's grid, not empty.
            zones: uint8 on the frame's grid, 1 PZ, 2 TZ.
            origin: who outlined it.
            sectors: ``measure.sector_map(zones)`` when known.

        Raises:
            ValueError: the mask is empty.
        """
        shares = measure.zone_shares(mask, zones)
        nominal = measure.nominal_sequence(shares)
        volume = self.study.adc if nominal == "ADC" else self.study.t2w
        measures = measure.measure_lesion(
            mask, zones, measuring_grid=volume.geometry if volume else None, measured_on=nominal, sectors=sectors
        )
        readings = self.readings(mask)
        zone, _ = rationale.zone_of_origin(measures.zone_shares)
        suspicion = self.suspicion(mask, zone, readings) if readings else None
        read_sequences = frozenset(lexicon.load().attribute(a).sequence for a in readings)
        findings = rationale.Findings(
            zone_shares=measures.zone_shares,
            attributes=readings,
            size_mm=measures.in_plane.mm,
            size_source=f"{measures.in_plane.plane}, {measures.measured_on}",
            available=read_sequences,
            suspicion=suspicion.value if suspicion else None,
        )
        built = rationale.build(findings)
        concepts = self._concepts(mask, readings)
        flags = self._flags(mask, measures)
        return Lesion(number, mask, measures, readings, concepts, suspicion, built, flags, origin)

    def _concepts(self, mask: Volume, readings: Mapping[str, Mapping[str, float]]) -> tuple[ConceptReading, ...]:
        known = lexicon.load()
        maps = self.evidence()
        out = []
        masks: dict[str, NDArray[np.bool_]] = {}
        for concept in known.seen_concepts():
            p = concept.probability(readings)
            if p is None:
                continue
            sequence = concept.sequences[0]
            grid = self.grids[sequence]
            if sequence not in masks:
                # the region and its rim: a margin's evidence lies just outside
                masks[sequence] = ndimage.binary_dilation(self._region(mask, sequence), np.ones((1, 3, 3), bool))
            where = np.flatnonzero(masks[sequence])
            values = maps.native_at(concept.id, where)
            best = int(values.argmax())
            index = np.unravel_index(int(where[best]), grid.shape)
            x, y, z = (float(v) for v in grid.to_patient(index))
            frame = self.study.frame.geometry
            k = int(np.clip(round(float(frame.to_index((x, y, z))[0])), 0, frame.shape[0] - 1))
            out.append(ConceptReading(concept.id, p, sequence, (x, y, z), k, float(values[best])))
        for concept in known.ruled_concepts():
            p = concept.probability(readings)
            if p is not None:
                out.append(ConceptReading(concept.id, p, "dwi"))
        return tuple(out)

    def _flags(self, mask: Volume, measures: measure.LesionMeasures) -> tuple[str, ...]:
        """What holds whatever a reader answers; :attr:`Lesion.consistency` depends on the category in force."""
        flags = []
        shares = measures.zone_shares
        inside = shares.get("PZ", 0.0) + shares.get("TZ", 0.0)
        if inside < candidates.INSIDE_SHARE:
            flags.append(f"only {inside:.0%} of the region lies in the gland")
        if min(shares.get("PZ", 0.0), shares.get("TZ", 0.0)) >= MIXED_SHARE:
            flags.append("zone mixed: at least 25 % of the volume in each of PZ and TZ")
        absent = [_NAMES[s] for s in SEQUENCES if s in self.features and not self._region(mask, s).any()]
        flags += [f"not read on {name}: its images show less than half of the region" for name in absent]
        return tuple(flags)

    def evidence(self) -> EvidenceMaps:
        """The study's evidence, brought to the frame's grid when asked for."""
        return EvidenceMaps(
            dict(self.fields), self.study.frame.geometry, float(self.bundle.manifest.thresholds["evidence"])
        )

    def region_at(self, point: ArrayLike, zones: Volume) -> Volume:
        """The region around a point that a reader clicked ("explain here").

        Grown on the lesion probability from the point's own neighbourhood, within 12 mm and within the gland; where the
        model sees nothing at all, a sphere of 5 mm radius, which the reader can then edit.

        Args:
            point: patient point (x, y, z), LPS mm.
            zones: uint8 on the frame's grid.

        Returns:
            bool on the frame's grid.

        Raises:
            ValueError: the point is not in the study's field of view or not within 5 mm of the gland.
        """
        frame = self.study.frame.geometry
        at = np.asarray(point, dtype=float)
        index = frame.to_index(at)
        if not np.all((index > -0.5) & (index < np.asarray(frame.shape) - 0.5)):
            raise ValueError("the point lies outside the images; click inside the prostate")
        z, y, x = np.indices(frame.shape, sparse=True)
        steps = frame.affine[:3, :3]
        shift = [
            steps[i, 0] * (z - index[0]) + steps[i, 1] * (y - index[1]) + steps[i, 2] * (x - index[2]) for i in range(3)
        ]
        far = np.sqrt(shift[0] ** 2 + shift[1] ** 2 + shift[2] ** 2)
        gland = zones.array > 0
        if not gland[far <= 5.0].any():
            raise ValueError("the point lies more than 5 mm outside the segmented gland; click inside the prostate")
        probability = self.probability_on_frame().array
        near = far <= 2.5
        peak = float(probability[near].max()) if near.any() else 0.0
        if peak >= 0.05:
            grown = (probability >= peak / candidates.PEAK_SHARE) & (far <= REACH_MM) & gland
            labels, _ = ndimage.label(grown, structure=np.ones((3, 3, 3), bool))
            touched = np.unique(labels[near & grown])
            touched = touched[touched > 0]
            mask = np.isin(labels, touched) if touched.size else np.zeros(frame.shape, bool)
            if mask.sum() * frame.voxel_volume >= 60.0:
                return Volume(mask, frame, "region")
        ball = (far <= 5.0) & gland
        return Volume(ball if ball.any() else far <= 5.0, frame, "region")

    def probability_on_frame(self) -> Volume:
        """Lesion probability on the frame's grid, float32."""
        volume = Volume(self.lesion_probability, self.fine, "lesion probability")
        return volume.resample(self.study.frame.geometry)


def region_on(mask: Volume, grid: Geometry) -> NDArray[np.bool_]:
    """A region on another grid: more than half covered voxels; the nearest ones if it is thinner than that.

    Returns:
        bool (z, y, x); empty only where the grid misses the region.
    """
    if mask.geometry == grid:
        return np.array(mask.array, dtype=bool)
    if mask.occupied is None:
        return np.zeros(grid.shape, bool)
    # only its own box is looked at, with a voxel of nothing around it
    low = [max(0, s.start - 1) for s in mask.occupied]
    high = [min(n, s.stop + 1) for s, n in zip(mask.occupied, mask.array.shape, strict=True)]
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    part = Volume(mask.array[box].astype(np.float32), mask.geometry.part(low, high))
    soft = part.resample(grid).array >= 0.5
    if soft.any():
        return soft
    points = part.geometry.to_patient(np.argwhere(part.array))
    index = np.round(grid.to_index(points)).astype(int)
    index = index[((index >= 0) & (index < np.asarray(grid.shape))).all(1)]
    out = np.zeros(grid.shape, bool)
    out[tuple(index.T)] = True
    return out


class _Clock:
    """Seconds per stage, progress and cancellation in one place."""

    def __init__(self, progress: Progress | None, cancelled: Cancelled | None) -> None:
        self.seconds: dict[str, float] = {}
        self.progress, self.cancelled = progress, cancelled

    @contextmanager
    def stage(self, name: str, share: float) -> Iterator[None]:
        if self.cancelled is not None and self.cancelled():
            raise ExplainCancelledError("stopped at the caller's wish")
        if self.progress is not None:
            self.progress(share, name)
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


class Explainer:
    """A bundle, ready to explain studies; keep one and ask it again (it holds the network).

    Args:
        bundle: name, folder or a :class:`~MedRationaleLogic.model.bundle.Bundle`; None takes the default.
        device: "auto", "cpu" or "cuda".
        precision: "auto" takes bfloat16 where a probe shows that it pays.

    Raises:
        BundleError: no such bundle, or it is refused.
        DeviceError: the device cannot be used.
    """

    def __init__(
        self, bundle: Bundle | str | None = None, device: Device = "auto", precision: Precision = "auto"
    ) -> None:
        from MedRationaleLogic.model import bundle as bundles

        self.bundle = bundle if isinstance(bundle, bundles.Bundle) else bundles.find(bundle)
        self.place = choose(device, precision)

    def explain(
        self, study: Study, *, progress: Progress | None = None, cancelled: Cancelled | None = None
    ) -> Explanation:
        """Explain a study; see :func:`MedRationaleLogic.explain`."""
        return self.open(study, progress=progress, cancelled=cancelled)[0]

    def open(
        self, study: Study, *, progress: Progress | None = None, cancelled: Cancelled | None = None
    ) -> tuple[Explanation, StudyReader]:
        """Explain a study and keep what is needed to read further regions of it.

        Args:
            study: any subset of T2W, ADC, high-b.
            progress: called with (share done 0..1, stage in words).
            cancelled: asked before each stage; True stops with :class:`ExplainCancelledError`.

        Raises:
            StudyError: the fields of view do not overlap.
            ExplainCancelledError: on request.
        """
        clock = _Clock(progress, cancelled)
        with clock.stage("checking geometry", 0.0):
            overlap = check_geometry(study)
        reader = self._see(study, clock)
        with clock.stage("outlining gland and zones", 0.65):
            zones = self._zones(reader)
            gland = measure.gland_size(zones) if zones.array.any() else None
        with clock.stage("looking for suspicious regions", 0.72):
            kept, dropped, probability = self._candidates(reader, zones)
            sectors = measure.sector_map(zones) if zones.array.any() else None
        found = []
        for number, mask in enumerate(kept, 1):
            with clock.stage("reading the regions", 0.75 + 0.2 * number / (len(kept) + 1)):
                found.append(reader.lesion(number, mask, zones, sectors=sectors))
        with clock.stage("checking quality", 0.96):
            found, more = self._report_or_drop(found)
            flags = [*reader.coarse_flags, *overlap.notes, *self._study_flags(study, gland)]
            checks = (*quality.check(study), *(quality.check_coverage(study, zones) if gland else ()))
        explanation = Explanation(
            study=study, zones=zones, lesion_probability=probability, lesions=tuple(found),
            dropped=(*dropped, *more), evidence=reader.evidence(), gland=gland, quality=checks,
            flags=tuple(dict.fromkeys(flags)), provenance=self._provenance(study, clock.seconds),
        )  # fmt: skip
        if progress is not None:
            progress(1.0, "done")
        return explanation, reader

    def see(self, study: Study) -> StudyReader:
        """Only run the network: for a case that was saved and is edited again."""
        return self._see(study, _Clock(None, None))

    def _see(self, study: Study, clock: _Clock) -> StudyReader:
        net = self.bundle.network().to(self.place.device)
        try:
            return self._run(net, study, clock)
        finally:
            net.to("cpu")  # readings run there, also after a stop half-way

    def _run(self, net: RationaleNet, study: Study, clock: _Clock) -> StudyReader:
        import torch

        autocast = torch.autocast(self.place.device, torch.bfloat16, enabled=self.place.bfloat16)
        grids: dict[str, Geometry] = {}
        flags: list[str] = []
        features: dict[str, Tensor] = {}
        flat: dict[str, Tensor] = {}
        fields: dict[str, EvidenceField] = {}
        shown: dict[str, NDArray[np.bool_]] = {}
        values = net.value_embeddings()
        zoomed: tuple[Tensor, NDArray[np.bool_]] | None = None
        with torch.inference_mode():
            with clock.stage("finding the gland", 0.05):
                for role in study.roles:
                    grids[role], said = self._locate(net, autocast, study, role)
                    flags += said
            if study.t2w is not None:
                with clock.stage("zooming in on the gland", 0.1):
                    grids["t2w"], zoomed = self._zoom(net, autocast, study.t2w, grids["t2w"])
            for i, role in enumerate(study.roles):
                with clock.stage(f"reading {_NAMES[role]}", 0.3 + 0.08 * i):
                    volume = study.volume(role)
                    assert volume is not None
                    grid = grids[role]
                    known = zoomed if role == "t2w" else None
                    seen, valid = known or self._stem(net, autocast, role, volume, grid)
                    features[role], shown[role] = seen, valid
                    with autocast:
                        read = net.for_concepts(role, seen).float()
                    fields[role] = self._field(net, role, read, values, grid, valid)
                    flat[role] = read[0].flatten(1).cpu()
            with clock.stage("fusing the sequences", 0.55):
                lead = study.roles[0]
                fine = grids[lead]
                if lead != "t2w":
                    fine = fine.centered_on(fine.center, FINE.shape, FINE.spacing)
                thetas = {s: _theta(fine, grids[s]).to(self.place.device) for s in features if s != "t2w"}
                presence = torch.tensor([[float(s in features) for s in SEQUENCES]], device=self.place.device)
                with autocast:
                    zones, lesion, residual = net.trunk(features, thetas, presence)
                zone_p = torch.softmax(zones[0].float(), 0).cpu().numpy()
                lesion_p = torch.sigmoid(lesion[0, 0].float()).cpu().numpy()
                rest = residual[0, 0].float().cpu().numpy()
        return StudyReader(
            study, self.bundle, self.place, fields, flat, grids, shown, fine, zone_p, lesion_p, rest, tuple(flags)
        )

    def _stem(
        self, net: RationaleNet, autocast: Any, role: str, volume: Volume, grid: Geometry
    ) -> tuple[Tensor, NDArray[np.bool_]]:
        """One sequence's features (1, c, z, y, x) on a grid, and where the sequence has voxels there."""
        import torch

        image, valid = sample(volume, grid)
        x = torch.from_numpy(normalise(role, image, valid, grid.spacing))[None, None]
        with autocast:
            return net.stems[role](x.to(self.place.device)), valid

    def _zoom(
        self, net: RationaleNet, autocast: Any, t2w: Volume, grid: Geometry
    ) -> tuple[Geometry, tuple[Tensor, NDArray[np.bool_]] | None]:
        """The T2W's grid, moved and zoomed until the gland has its typical place and size in it; reads T2W only.

        Returns:
            The grid, and what :meth:`_stem` gives on it, where that had to be known anyway.
        """
        import torch

        alone = torch.tensor([[1.0, 0.0, 0.0]], device=self.place.device)
        for _ in range(ZOOM_PASSES):
            seen, valid = self._stem(net, autocast, "t2w", t2w, grid)
            with autocast:
                zones, _, _ = net.trunk({"t2w": seen}, {}, alone)
            gland = torch.softmax(zones[0].float(), 0)[1:].sum(0).cpu().numpy() > 0.5
            found = _largest(gland & valid)
            if found.sum() * grid.voxel_volume < SMALLEST_GLAND_MM3:
                return grid, (seen, valid)
            center = grid.to_patient(_middle(found))
            zoomed = _zoomed(grid, center, _in_plane_size(found, grid))
            moved = float(np.linalg.norm(center - grid.center))
            if abs(zoomed.spacing[2] / grid.spacing[2] - 1) < 0.03 and moved < 3.0:
                return grid, (seen, valid)
            grid = zoomed
        return grid, None

    def _locate(self, net: RationaleNet, autocast: Any, study: Study, role: Role) -> tuple[Geometry, list[str]]:
        """The stem's grid around the gland, found in one sequence alone; around the middle when it is not found.

        The T2W's is zoomed to the gland's size. Diffusion's is not: it is coarser, wider, and the gland always fits.
        """
        import torch

        volume = study.volume(role)
        assert volume is not None
        axial = axial_geometry(volume.geometry)
        slices = max(COARSE.shape[0], 4 * math.ceil(axial.extent[0] / COARSE.spacing[0] / 4))
        grid = axial.centered_on(axial.center, (slices, *COARSE.shape[1:]), COARSE.spacing)
        image, valid = sample(volume, grid)
        x = torch.from_numpy(normalise(role, image, valid, grid.spacing))[None, None].to(self.place.device)
        with autocast:
            p = torch.sigmoid(net.locate(role, x)[0, 0].float()).cpu().numpy()
        spec = STEM_GRIDS[role]
        found = _largest((p > 0.5) & valid)
        if found.sum() * grid.voxel_volume >= SMALLEST_GLAND_MM3:
            around = axial.centered_on(grid.to_patient(_middle(found)), spec.shape, spec.spacing)
            return (_zoomed(around, around.center, _in_plane_size(found, grid)) if role == "t2w" else around), []
        note = f"gland not found by the coarse pass on {_NAMES[role]}; the middle of the field of view was used"
        lead = role == study.roles[0]
        return axial.centered_on(axial.center, spec.shape, spec.spacing), [note] if lead else []

    def _field(
        self, net: RationaleNet, role: str, seen: Tensor, values: Tensor, grid: Geometry, valid: NDArray[np.bool_]
    ) -> EvidenceField:
        """Evidence of every value, in slabs: embeddings of all voxels at once would take half a gigabyte."""
        import torch

        flat = seen[0].flatten(1)
        slab = grid.shape[1] * grid.shape[2] * 4
        parts: dict[str, list[Tensor]] = {}
        for start in range(0, flat.shape[1], slab):
            voxels = net.embed(role, flat[:, start : start + slab])
            for name, e in net.evidence(role, voxels, values).items():
                parts.setdefault(name, []).append(e.cpu())
        outside = ~valid
        maps = {}
        for name, pieces in parts.items():
            shown = net.as_shown(role, torch.cat(pieces, 1).reshape(-1, *grid.shape))
            stacked = np.array(shown.numpy(), dtype=np.float32)
            stacked[:, outside] = 0.0  # where the sequence has no voxel it shows nothing
            maps[name] = stacked
        return EvidenceField(role, grid, maps)

    def _zones(self, reader: StudyReader) -> Volume:
        """PZ and TZ on the frame: the largest connected gland, holes filled."""
        frame = reader.study.frame.geometry
        pz = Volume(reader.zone_probability[1], reader.fine).resample(frame).array
        tz = Volume(reader.zone_probability[2], reader.fine).resample(frame).array
        gland = (pz + tz) > 0.5
        box = Volume(gland, frame).occupied
        if box is not None:
            inside = _largest(gland[box]).copy()
            slices = np.moveaxis(inside, axial_axis(frame), 0)  # a view: filling it fills the gland
            for k in range(len(slices)):
                slices[k] = ndimage.binary_fill_holes(slices[k])
            gland[box] = inside
        zones = np.where(gland, np.where(tz > pz, 2, 1), 0).astype(np.uint8)
        return Volume(zones, frame, "zones")

    def _candidates(self, reader: StudyReader, zones: Volume) -> tuple[list[Volume], list[Dropped], Volume]:
        thresholds = self.bundle.manifest.thresholds
        fine = reader.fine
        gland = (
            region_on(Volume(zones.array > 0, zones.geometry), fine)
            if zones.array.any()
            else np.zeros(fine.shape, bool)
        )
        probability = reader.probability_on_frame()
        kept, dropped = [], []
        for c in candidates.extract(
            reader.lesion_probability, gland, fine.voxel_volume, min_peak=thresholds["lesion_peak"],
            min_volume_ml=thresholds["min_volume_ml"],
        ):  # fmt: skip
            mask = Volume(region_on(Volume(c.mask, fine), zones.geometry), zones.geometry, "lesion")
            if c.kept and mask.array.any():
                kept.append(mask)
            else:
                dropped.append(_dropped(c.mask, fine, c.peak, c.reason or "dropped: outside the frame's grid"))
        return kept, dropped, probability

    def _report_or_drop(self, found: list[Lesion]) -> tuple[list[Lesion], list[Dropped]]:
        """Candidates whose suspicion is under the threshold are told, not shown as lesions; the rest by suspicion."""
        thresholds = self.bundle.manifest.thresholds
        kept, dropped = [], []
        for lesion in found:
            s = lesion.suspicion.value if lesion.suspicion else 1.0
            category = lesion.category
            if candidates.is_reported(s, category, thresholds):
                kept.append((s, lesion))
            else:
                least = thresholds["equivocal" if category == 3 else "suspicion"]
                reason = f"not reported: suspicion {s:.2f} under {least:.2f} and category {category}"
                dropped.append(_dropped(lesion.mask.array, lesion.mask.geometry, s, reason))
        kept.sort(key=lambda pair: -pair[0])
        return [replace(lesion, number=i) for i, (_, lesion) in enumerate(kept, 1)], dropped

    def _study_flags(self, study: Study, gland: measure.GlandSize | None) -> list[str]:
        flags = []
        names = {"t2w": "T2W", "adc": "ADC", "hbv": "high-b"}
        absent = [names[r] for r in SEQUENCES if r not in study.roles]
        if absent:
            flags.append(f"absent: {', '.join(absent)}")
        if gland is None:
            flags.append("no gland was found: masks and sectors are missing; look at the input")
        elif not PLAUSIBLE_GLAND_ML[0] <= gland.planimetry_ml <= PLAUSIBLE_GLAND_ML[1]:
            flags.append(f"out of distribution: a gland of {gland.planimetry_ml:.0f} mL; check the segmentation")
        return flags

    def _provenance(self, study: Study, seconds: Mapping[str, float]) -> Provenance:
        from MedRationaleLogic import __version__

        m = self.bundle.manifest
        return Provenance(
            inputs=tuple(
                {"role": i.role, "name": i.name, "series_uid": i.series_uid, "sha256": i.sha256} for i in study.inputs
            ),
            bundle={"name": m.name, "version": m.version, "sha256": m.sha256, "licence": m.licence},
            lexicon_version=lexicon.load().version, software_version=__version__, thresholds=dict(m.thresholds),
            device=self.place.device, precision=self.place.precision,
            seconds={k: round(v, 4) for k, v in seconds.items()}, notes=self.place.notes,
        )  # fmt: skip


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest connected part of a mask."""
    labels, count = ndimage.label(mask)
    if count <= 1:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(labels == int(sizes.argmax()))


def _middle(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Index (z, y, x) between the centroid, which is steady, and the box's middle, which keeps both ends of a gland."""
    index = np.argwhere(mask)
    return np.asarray((index.mean(0) + (index.min(0) + index.max(0)) / 2) / 2)


def _in_plane_size(gland: NDArray[np.bool_], grid: Geometry) -> float:
    """Mean diameter (mm) of the circle with the gland's area, over slices with more than half the largest area."""
    area = np.count_nonzero(gland, axis=(1, 2)) * grid.spacing[1] * grid.spacing[2]
    return float(np.sqrt(4 / np.pi * area[area > 0.5 * area.max()]).mean())


def _zoomed(grid: Geometry, center: ArrayLike, size_mm: float) -> Geometry:
    """The fine grid around a point at the zoom that brings a gland of this size to the typical one."""
    zoom = float(np.clip(size_mm / TYPICAL_GLAND_MM, *ZOOM_LIMITS))
    z, y, x = FINE.spacing
    return grid.centered_on(center, FINE.shape, (z, y * zoom, x * zoom))


_NAMES: Final = {"t2w": "T2W", "adc": "ADC", "hbv": "high-b"}


def _theta(fine: Geometry, other: Geometry) -> Tensor:
    """(1, 3, 4) affine from the fine grid's normalised (x, y, z) to another grid's; both may lie at any angle."""
    import torch

    size = np.asarray(fine.shape, dtype=float)
    to_index = np.diag([*((size - 1) / 2), 1.0])
    to_index[:3, 3] = (size - 1) / 2
    step = other.inverse_affine @ fine.affine @ to_index
    target = np.asarray(other.shape, dtype=float)
    normalised = np.diag([*(2 / (target - 1)), 1.0])
    normalised[:3, 3] = -1.0
    zyx = (normalised @ step)[:3]
    return torch.tensor(zyx[::-1][:, [2, 1, 0, 3]].copy(), dtype=torch.float32)[None]


def _dropped(mask: NDArray[np.bool_], grid: Geometry, peak: float, reason: str) -> Dropped:
    x, y, z = (float(v) for v in grid.to_patient(np.argwhere(mask).mean(0)))
    return Dropped(peak, (x, y, z), float(mask.sum() * grid.voxel_volume / 1000.0), reason)
