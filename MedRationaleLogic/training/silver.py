"""Silver readings: what can be measured on a lesion's mask where no report says it. Always marked "silver".

Measured are contrast against the lesion's own zone (T2W, ADC, high-b), texture, sharpness of the rim, shape and size.
PI-RADS v2.1 grades by eye and gives no numbers but 15 mm: every threshold here is a choice of ours, listed with its
reason in :class:`Thresholds`. What lies too near a threshold is left out, so a triple has fewer answers rather than
wrong ones. A silver reading trains or checks nothing as if a reader had said it. Research use only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from MedRationaleLogic.imaging import measure as measures
from MedRationaleLogic.imaging.volume import Volume

Floats = NDArray[np.float64]

SILVER: Final = "silver"
IMAGES: Final = ("t2w", "adc", "hbv")
SIZE: Final = "size"
"""Key of the size among the readings; the others are attribute ids of the lexicon."""


@dataclass(frozen=True)
class Thresholds:
    """Where one answer ends and the next begins, each with its reason.

    Attributes:
        t2w_levels: lesion / zone, medians on T2W: up to the first moderately, up to the second mildly hypointense, up
            to the third isointense, above it hyperintense. T2W has no unit, so only ratios can be compared; "moderate"
            is read as at least a third of the zone's signal lost, "iso" as within noise and coil shading (about 10 %).
        adc_levels: up to the first markedly hypointense, up to the second hypointense, above it normal. With a normal
            PZ near 1,500e-6 mm2/s, .63 is about 950 and .88 about 1,300: on either side of the 750-900 that PI-RADS
            names as a helper for suspicion lies "marked".
        hbv_levels: up to the first normal, up to the second hyperintense, above it markedly hyperintense. At
            b = 1,400 s/mm2 the ADC ratio .63 alone makes a normal PZ's signal exp(1.4 x .37 x 1.5) = 2.2 times as
            bright, .88 makes it 1.3 times.
        texture: robust spread (interquartile range / 1.349) of the interior, smoothed in plane over 1 mm against noise,
            over the zone's median; homogeneous up to it.
        sharpness: share of the step between inside and outside that happens within 1.5 mm of the outline, 0 to 1;
            circumscribed from it. A reader's outline is itself about a pixel or two off, hence not higher.
        least_contrast: below this step (over the zone's median) an edge cannot be judged, and no margin is read.
        round_ratio: minor / major axis of the largest slice from which a compact outline is round.
        lenticular_ratio: minor / major axis up to which a compact outline is lenticular.
        solidity: area / convex hull from which an outline is compact; well below it, it is irregular.
        size_mm: PI-RADS v2.1.
        ratio_doubt, texture_doubt, sharpness_doubt, shape_doubt, solidity_doubt, size_doubt_mm: nearer to a threshold
            than this, the reading is left out; for high-b as a share of the threshold, which spans a wider range.
        least_voxels: of lesion interior and of zone reference; fewer measure nothing.
        clear_mm: how far reference tissue stays from the lesion, and an interior from its rim at half of it.
    """

    t2w_levels: tuple[float, float, float] = (0.66, 0.90, 1.20)
    adc_levels: tuple[float, float] = (0.63, 0.88)
    hbv_levels: tuple[float, float] = (1.25, 1.95)
    texture: float = 0.13
    sharpness: float = 0.60
    least_contrast: float = 0.20
    round_ratio: float = 0.80
    lenticular_ratio: float = 0.55
    solidity: float = 0.90
    size_mm: float = 15.0
    ratio_doubt: float = 0.04
    texture_doubt: float = 0.02
    sharpness_doubt: float = 0.06
    shape_doubt: float = 0.04
    solidity_doubt: float = 0.02
    size_doubt_mm: float = 1.0
    least_voxels: int = 12
    clear_mm: float = 3.0


DEFAULT: Final = Thresholds()


@dataclass(frozen=True)
class SilverReading:
    """One measured answer.

    Attributes:
        value: a value of the attribute; for the size "ge15" or "lt15".
        measured: the number it rests on.
        threshold: the threshold nearest to it, in the same unit.
        confident: not too near that threshold.
        status: always "silver".
        how: what the number is, for a person.
    """

    value: str
    measured: float
    threshold: float
    confident: bool
    how: str = ""
    status: str = SILVER

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"value": self.value, "measured": self.measured, "threshold": self.threshold,
                "confident": self.confident, "how": self.how, "status": self.status}  # fmt: skip


def measure(
    images: Mapping[str, Volume],
    zones: Volume,
    lesion: Volume,
    *,
    thresholds: Thresholds = DEFAULT,
    keep_doubtful: bool = False,
) -> dict[str, SilverReading]:
    """Silver readings of one lesion.

    Args:
        images: any of "t2w", "adc", "hbv", each on its own grid; what is absent is not read.
        zones: label map, 1 PZ, 2 TZ, 0 outside.
        lesion: bool or int mask of this lesion alone, on any grid (z, y, x), LPS mm. Outside both zones, or on an image
            whose zone is not above 0, there is nothing to compare it with: only its shape and size are measured.
        thresholds: see :class:`Thresholds`.
        keep_doubtful: also return readings too near a threshold, marked ``confident=False``.

    Returns:
        Readings under attribute ids and :data:`SIZE`. Of "t2.margin" only "circumscribed" is ever confident: an outline
        that is drawn beside the edge looks like a soft one. "t2.shape" never says "drop"; pattern and capsule are not
        measured.

    Raises:
        ValueError: the lesion is empty, or an image or the zones are none; it is named.
    """
    unknown = sorted(set(images) - set(IMAGES))
    if unknown:
        raise ValueError(f"unknown images {', '.join(unknown)}; expected some of {', '.join(IMAGES)}")
    shares = measures.zone_shares(lesion, zones)
    if shares["PZ"] + shares["TZ"] <= 0:  # an automatic zone map may miss a lesion: there is nothing to compare it with
        images = {}
    zone = measures.TZ if shares["TZ"] > shares["PZ"] else measures.PZ
    found: dict[str, SilverReading] = {}
    t = thresholds
    for name, volume in images.items():
        inside, edge_mm, reference = _tissues(volume, zones, lesion, zone, t)
        if min(np.count_nonzero(inside), np.count_nonzero(reference)) < t.least_voxels:
            continue
        array = volume.array.astype(np.float64)
        normal = float(np.median(array[reference]))
        core = inside & (edge_mm <= -t.clear_mm / 2)
        core = core if np.count_nonzero(core) >= t.least_voxels else inside
        if not np.isfinite(normal) or normal <= 0:  # blank, or scaled to a mean of 0: no ratio says anything
            continue
        ratio = float(np.median(array[core])) / normal
        found |= _signal(name, ratio, t)
        if name == "t2w":
            found |= _texture(array, core, normal, volume.geometry.spacing, t)
            found |= _margin(array, edge_mm, normal, t)
    found |= _shape(lesion, t)
    found |= _size(lesion, t)
    return {name: reading for name, reading in found.items() if reading.confident or keep_doubtful}


def _tissues(
    volume: Volume, zones: Volume, lesion: Volume, zone: int, t: Thresholds
) -> tuple[NDArray[np.bool_], Floats, NDArray[np.bool_]]:
    """On an image's grid: the lesion, millimetres to its outline (negative inside), and the zone's other tissue."""
    grid = volume.geometry
    inside = lesion.resample(grid, nearest=True).array.astype(bool)
    labels = zones.resample(grid, nearest=True).array
    if not inside.any():
        return inside, np.full(grid.shape, np.inf), labels == zone
    out = ndimage.distance_transform_edt(~inside, sampling=grid.spacing)
    within = ndimage.distance_transform_edt(inside, sampling=grid.spacing)
    # Voxel centres lie half a pixel off the outline on both sides.
    half = min(grid.spacing) / 2
    edge = np.where(inside, half - within, out - half)
    return inside, edge, (labels == zone) & (edge > t.clear_mm)


def _read(values: tuple[str, ...], levels: tuple[float, ...], number: float, doubt: float, how: str,
          *, relative: bool = False) -> SilverReading:  # fmt: skip
    """The value of the interval that a number lies in; each value ends at the level of the same place."""
    nearest = min(levels, key=lambda level: abs(level - number))
    margin = doubt * nearest if relative else doubt
    value = values[int(np.searchsorted(levels, number))]
    return SilverReading(value, number, nearest, abs(number - nearest) >= margin, how)


def _signal(name: str, ratio: float, t: Thresholds) -> dict[str, SilverReading]:
    how = "median of the lesion over the median of its zone"
    if name == "t2w":
        values = ("moderate_hypo", "mild_hypo", "iso", "hyper")
        return {"t2.signal": _read(values, t.t2w_levels, ratio, t.ratio_doubt, how)}
    if name == "adc":
        return {"adc.signal": _read(("marked", "altered", "normal"), t.adc_levels, ratio, t.ratio_doubt, how)}
    reading = _read(("normal", "altered", "marked"), t.hbv_levels, ratio, 2 * t.ratio_doubt, how, relative=True)
    return {"hbv.signal": reading}


def _texture(
    array: Floats, core: NDArray[np.bool_], normal: float, spacing: tuple[float, float, float], t: Thresholds
) -> dict[str, SilverReading]:
    # Normalised smoothing within the lesion: what lies outside must not bleed in.
    sigma = (0.0, 0.5 / spacing[1], 0.5 / spacing[2])
    weight = ndimage.gaussian_filter(core.astype(np.float64), sigma)
    smooth = ndimage.gaussian_filter(np.where(core, array, 0.0), sigma)[core] / np.maximum(weight[core], 1e-6)
    low, high = np.percentile(smooth, (25, 75))
    spread = float(high - low) / 1.349 / normal
    how = "robust spread of the interior over the zone's median"
    return {"t2.texture": _read(("homogeneous", "heterogeneous"), (t.texture,), spread, t.texture_doubt, how)}


def _margin(array: Floats, edge_mm: Floats, normal: float, t: Thresholds) -> dict[str, SilverReading]:
    deep, near_in, near_out, far = (
        array[(edge_mm > low) & (edge_mm <= high)]
        for low, high in ((-np.inf, -2.0), (-1.5, 0.0), (0.0, 1.5), (2.0, 4.0))
    )
    if min(deep.size, near_in.size, near_out.size, far.size) < t.least_voxels:
        return {}
    step = float(np.median(far) - np.median(deep))
    if abs(step) < t.least_contrast * normal:
        return {}
    sharpness = float(np.clip((np.median(near_out) - np.median(near_in)) / step, 0.0, 1.0))
    how = "share of the step in signal within 1.5 mm of the outline"
    circumscribed = sharpness >= t.sharpness
    # A soft step may be the lesion's or the outline's that lies beside it: it is never a confident reading.
    sure = sharpness >= t.sharpness + t.sharpness_doubt
    value = "circumscribed" if circumscribed else "non_circumscribed"
    return {"t2.margin": SilverReading(value, sharpness, t.sharpness, sure, how)}


def _shape(lesion: Volume, t: Thresholds) -> dict[str, SilverReading]:
    """From the largest slice: axis ratio of its second moments, and how much of its convex hull it fills."""
    areas = np.count_nonzero(lesion.array, axis=(1, 2))
    index = np.argwhere(lesion.array[int(areas.argmax())])
    if len(index) < 4 * t.least_voxels:  # some fifty pixels: fewer are steps, not an outline
        return {}
    points = index * np.asarray(lesion.geometry.spacing[1:])
    minor, major = np.sqrt(np.linalg.eigvalsh(np.cov(points.T)))
    ratio = float(minor / major)
    from scipy.spatial import ConvexHull

    pixel = float(np.prod(lesion.geometry.spacing[1:]))
    corners = np.concatenate([points + np.asarray(lesion.geometry.spacing[1:]) * d / 2
                              for d in ((1, 0), (-1, 0), (0, 1), (0, -1))])  # fmt: skip
    solidity = min(1.0, len(index) * pixel / float(ConvexHull(corners).volume))
    if solidity < t.solidity - t.solidity_doubt:
        return {"t2.shape": SilverReading("irregular", solidity, t.solidity, True, "area over convex hull")}
    sure = solidity >= t.solidity + t.solidity_doubt
    how = "minor over major axis of the largest slice"
    if ratio >= t.round_ratio:
        clear = ratio >= t.round_ratio + t.shape_doubt
        return {"t2.shape": SilverReading("round", ratio, t.round_ratio, sure and clear, how)}
    if ratio <= t.lenticular_ratio:
        clear = ratio <= t.lenticular_ratio - t.shape_doubt
        return {"t2.shape": SilverReading("lenticular", ratio, t.lenticular_ratio, sure and clear, how)}
    return {}  # an oval: the lexicon has no word for it


def _size(lesion: Volume, t: Thresholds) -> dict[str, SilverReading]:
    mm = measures.feret_in_plane(lesion).mm
    value = "ge15" if mm >= t.size_mm else "lt15"
    confident = abs(mm - t.size_mm) > t.size_doubt_mm
    return {SIZE: SilverReading(value, mm, t.size_mm, confident, "greatest in-plane diameter, mm")}
