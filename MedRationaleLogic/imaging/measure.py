"""Sizes, shares and places from masks, in the patient's own frame.

Every length is in millimetres, every point is LPS (see :mod:`MedRationaleLogic.imaging.volume`), and every function
works through the geometry: a mask may be oblique, flipped or anisotropic. A *slice* is one index of the grid's z axis;
the plane it is called by ("axial", ...) comes from its normal.

**What a mask's border is.** A voxel reaches half a pitch from its centre along each of the grid's axes; diameters go
between those points, the middles of the voxel's faces (in a plane: of its edges). They are the vertices of the mask's
0.5 isosurface, which IBSI's maximum diameters use too (Zwanenburg et al., Radiology 2020;295:328). ``n`` voxels in a
row are exactly ``n`` pitches long, where centres alone would make them one too short. A disc, digitised by its voxels'
centres, comes out 0 to 1 pixel too long at any rotation (0.7 on average; outer corners would reach 1.4): on a 2 mm ADC
grid that is a millimetre or more, one reason for the "near threshold" flag.

Sources: PI-RADS v2.1 (measurement, sector map); the choices that PI-RADS leaves open are named where they are made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import ConvexHull, KDTree
from scipy.spatial.distance import pdist

from .volume import Geometry, Volume

Point = tuple[float, float, float]
Floats = NDArray[np.float64]

PZ, TZ = 1, 2
"""Values of a zone label map; 0 lies outside the gland."""

NEAR_THRESHOLD_MM = (14.0, 16.0)
"""Diameters that an outline's uncertainty can carry over the 15 mm line between scores 4 and 5."""

SHARE_LISTED = 0.10
"""A sector is listed from this share of the lesion's volume."""

NEAREST_SECTOR_MM = 5.0
"""How far outside the segmented gland a lesion voxel is still counted to the nearest sector."""

KEPT_ON_MEASURING_GRID = 0.5
"""A mask that keeps less of its volume than this on the measuring sequence's grid counts as vanished there."""

PSA_DENSITY_LINE = 0.15
"""Usual attention line of PSA density, ng/mL per mL."""

CZ_AFS_NOTE = "CZ/AFS not segmented"
CONTACT_NOTE = "capsule contact is approximate: outline of the gland mask, in-plane, capsule and AFS not told apart"
PLANIMETRY = "planimetry: voxel count x voxel volume of the gland mask"
ELLIPSOID = "ellipsoid: AP x transverse x longitudinal x 0.52, diameters from the gland mask"

_SUBSECTORS = ("PZa", "PZpl", "PZpm", "TZa", "TZp")
_LEVEL_START = {"base": (1, 3, 5, 7, 9), "mid": (15, 17, 19, 21, 23), "apex": (27, 29, 31, 33, 35)}

SECTOR_NUMBERS: dict[str, int] = {
    f"{sub}-{level}-{side}": start + offset
    for level, starts in _LEVEL_START.items()
    for sub, start in zip(_SUBSECTORS, starts, strict=True)
    for offset, side in enumerate("RL")
}
"""The 30 PZ and TZ sectors of the v2.1 map: key to number in a :func:`sector_map` (CZ, AFS, US, SV have no mask)."""

SECTOR_KEYS: dict[int, str] = {number: key for key, number in SECTOR_NUMBERS.items()}


# ------------------------------------------------------------------------------------------------------- diameters


@dataclass(frozen=True)
class Diameter:
    """A greatest dimension with the two points it was measured between, so that a reader can correct it.

    Attributes:
        mm: length.
        ends: the two end points (x, y, z), LPS mm, on the mask's border.
        plane: what was measured, for a person: "axial, in-plane" or "3D".
        slice_index: z index on the measured grid; None for a 3D diameter.
    """

    mm: float
    ends: tuple[Point, Point]
    plane: str
    slice_index: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; :meth:`from_dict` reads them back unchanged."""
        return {
            "mm": self.mm,
            "ends_lps_mm": [list(end) for end in self.ends],
            "plane": self.plane,
            "slice_index": self.slice_index,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Diameter:
        """The inverse of :meth:`to_dict`."""
        first, second = data["ends_lps_mm"]
        return cls(data["mm"], (_point(first), _point(second)), data["plane"], data["slice_index"])


def slice_plane(geometry: Geometry) -> str:
    """The anatomical plane nearest to the grid's slices: "axial", "coronal" or "sagittal"."""
    normal = np.abs(geometry.affine[:3, 0])
    return ("sagittal", "coronal", "axial")[int(normal.argmax())]


def in_field(grid: Geometry, points: Floats) -> NDArray[np.bool_]:
    """Which points (..., 3), LPS mm, lie within the outer voxel edges of a grid; bool (...)."""
    index = grid.to_index(points)
    inside = (index >= -0.5 - 1e-6) & (index <= np.asarray(grid.shape) - 0.5 + 1e-6)
    return np.asarray(inside.all(-1))


def feret_in_plane(mask: Volume) -> Diameter:
    """The greatest in-plane (maximum Feret) diameter over all slices, exact for the mask's border.

    Args:
        mask: bool or int (z, y, x), non-zero inside.

    Returns:
        The longest one; of equals that of the lowest slice index.

    Raises:
        ValueError: the mask is empty or not a mask.
    """
    array, start = _cropped(mask)
    best, ends, at = -1.0, np.zeros((2, 2)), 0
    for k in np.flatnonzero(array.any((1, 2))):
        mm, pair = _feret(array[k], mask.geometry.spacing[1:])
        if mm > best:
            best, ends, at = mm, pair, int(k)
    index = np.column_stack([np.full(2, at), ends]) + start
    first, second = mask.geometry.to_patient(index)
    plane = f"{slice_plane(mask.geometry)}, in-plane"
    return Diameter(best, (_point(first), _point(second)), plane, at + int(start[0]))


def feret_3d(mask: Volume) -> Diameter:
    """The greatest diameter in any direction, slice thickness included; input and errors as :func:`feret_in_plane`."""
    array, start = _cropped(mask)
    mm, ends = _feret(array, mask.geometry.spacing)
    first, second = mask.geometry.to_patient(ends + start)
    return Diameter(mm, (_point(first), _point(second)), "3D")


def near_threshold(mm: float) -> bool:
    """Whether a diameter is so near 15 mm (14.0 to 16.0, both included) that the outline decides the score."""
    low, high = NEAR_THRESHOLD_MM
    return low <= round(mm, 6) <= high  # 28 pixels of 0.5 mm are 14 mm, whatever the last bit says


def _feret(mask: NDArray[np.bool_], spacing: tuple[float, ...]) -> tuple[float, Floats]:
    """Maximum Feret diameter (mm) of a non-empty 2D or 3D mask and its two ends (2, ndim) as fractional indices."""
    rows = np.argwhere(mask.any(-1))
    lines = mask[tuple(rows.T)]
    first, last = lines.argmax(1), mask.shape[-1] - 1 - lines[:, ::-1].argmax(1)
    # Between the ends of a row lies nothing that the convex hull could need.
    centres = np.concatenate([np.column_stack([rows, first]), np.column_stack([rows, last])])
    # In half voxels the border points are whole numbers, never coplanar: Qhull needs no help, whatever the spacing is,
    # and the chosen pair does not depend on how the grid lies in the patient.
    steps = np.concatenate([np.eye(mask.ndim, dtype=int), -np.eye(mask.ndim, dtype=int)])
    border = (2 * centres[:, None, :] + steps).reshape(-1, mask.ndim)
    hull = border[ConvexHull(border).vertices] / 2
    distances = pdist(hull * np.asarray(spacing))
    i, j = (int(a[distances.argmax()]) for a in np.triu_indices(len(hull), 1))
    return float(distances.max()), hull[[i, j]]


# ---------------------------------------------------------------------------------------------- volumes and shares


def volume_ml(mask: Volume) -> float:
    """Volume of a mask in millilitres: voxels times voxel volume (0 for an empty one)."""
    return int(np.count_nonzero(_inside(mask))) * mask.geometry.voxel_volume / 1000


def zone_shares(lesion: Volume, zones: Volume) -> dict[str, float]:
    """How a lesion's volume lies over the zones.

    Args:
        lesion: bool or int mask.
        zones: label map, 1 PZ, 2 TZ, 0 outside; on any grid (read at each lesion voxel's centre, nearest voxel).

    Returns:
        Shares of lesion volume under "PZ", "TZ" and "outside"; they sum to 1.

    Raises:
        ValueError: the lesion is empty, or the zones hold other labels.
    """
    labels = _labels_at(_zone_map(zones), zones.geometry, _points(lesion))
    pz, tz = float(np.mean(labels == PZ)), float(np.mean(labels == TZ))
    return {"PZ": pz, "TZ": tz, "outside": float(np.mean(labels == 0))}


def sector_map(zones: Volume) -> Volume:
    """The PI-RADS v2.1 sectors of a gland, from its zones.

    Levels are thirds of the gland's extent along the patient's craniocaudal axis (superior third: base). Right and left
    are parted by the sagittal plane through the gland's centroid, anterior and posterior by the coronal plane through
    the centroid of the gland at that level. The posterior PZ of a side spans an arc about the point where those planes
    meet, from the midline to its most lateral voxel; its medial half is "pm", its lateral half "pl". Planes are the
    patient's, not the grid's, so the same gland has the same sectors on every grid. CZ, AFS, urethral sphincter and
    seminal vesicles have no mask here and are never claimed (:data:`CZ_AFS_NOTE`).

    Args:
        zones: label map, 1 PZ, 2 TZ, 0 outside.

    Returns:
        uint8 label map on the zones' grid with the numbers of :data:`SECTOR_NUMBERS`, 0 outside the gland.

    Raises:
        ValueError: the zones hold other labels.
    """
    labels = _zone_map(zones)
    inside = np.nonzero(labels)
    numbers = np.zeros(labels.shape, np.uint8)
    if inside[0].size:
        points = zones.geometry.to_patient(np.column_stack(inside))
        numbers[inside] = _sectors_of(points, labels[inside] == PZ, _half_voxel(zones.geometry, 2))
    return zones.with_array(numbers, "sectors")


def sector_shares(lesion: Volume, zones: Volume, *, sectors: Volume | None = None) -> tuple[tuple[str, float], ...]:
    """The sectors that a lesion occupies, biggest share first, down to :data:`SHARE_LISTED`.

    A lesion voxel outside the segmented gland counts to the nearest sector within :data:`NEAREST_SECTOR_MM`, else to
    none; shares are always of the whole lesion, so they sum to at most 1.

    Args:
        lesion: bool or int mask, on any grid.
        zones: label map, 1 PZ, 2 TZ, 0 outside.
        sectors: ``sector_map(zones)``, when the caller has it already.

    Returns:
        ``(key, share)`` pairs; empty when no gland is near.

    Raises:
        ValueError: the lesion is empty, or the zones hold other labels.
    """
    sectors = sector_map(zones) if sectors is None else sectors
    points = _points(lesion)
    numbers = _labels_at(sectors.array, sectors.geometry, points)
    outside = numbers == 0
    if outside.any():
        numbers[outside] = _nearest_labels(sectors, points[outside], NEAREST_SECTOR_MM)
    shares = np.bincount(numbers, minlength=max(SECTOR_KEYS) + 1) / len(points)
    listed = [(key, float(shares[number])) for number, key in SECTOR_KEYS.items() if shares[number] >= SHARE_LISTED]
    return tuple(sorted(listed, key=lambda item: -item[1]))


def _sectors_of(points: Floats, is_pz: NDArray[np.bool_], half_voxel_z: float) -> NDArray[np.uint8]:
    """Sector numbers (N,) of all gland voxels, given as centres (N, 3), LPS mm, and whether each is PZ."""
    x, y, z = points.T
    low, high = z.min() - half_voxel_z, z.max() + half_voxel_z
    height = (z - low) / (high - low)
    middle = x.mean()
    left = (x >= middle).astype(int)
    numbers = np.zeros(len(points), np.uint8)
    thirds = {"apex": height < 1 / 3, "mid": (height >= 1 / 3) & (height < 2 / 3), "base": height >= 2 / 3}
    for level, here in thirds.items():
        if not here.any():
            continue
        depth = y - y[here].mean()
        posterior = depth > 0
        angle = np.arctan2(np.abs(x - middle), depth)
        sub = np.where(is_pz, np.where(posterior, 1, 0), np.where(posterior, 4, 3))
        for side in (0, 1):
            arc = here & is_pz & posterior & (left == side)
            if arc.any():
                sub[arc & (angle <= angle[arc].max() / 2)] = 2
        numbers[here] = (np.asarray(_LEVEL_START[level])[sub] + left)[here]
    return numbers


def _nearest_labels(volume: Volume, points: Floats, limit_mm: float) -> NDArray[np.uint8]:
    """Label of the nearest labelled voxel to each point (N, 3), 0 where none lies within the limit."""
    index = np.argwhere(volume.array)
    where = volume.geometry.to_patient(index)
    near = ((where >= points.min(0) - limit_mm) & (where <= points.max(0) + limit_mm)).all(1)
    if not near.any():
        return np.zeros(len(points), np.uint8)
    distance, at = KDTree(where[near]).query(points, distance_upper_bound=limit_mm)
    found = np.isfinite(distance)
    labels = np.zeros(len(points), np.uint8)
    labels[found] = volume.array[tuple(index[near][at[found]].T)]
    return labels


# ------------------------------------------------------------------------------------------------------- the gland


@dataclass(frozen=True)
class GlandSize:
    """The gland's volume by both usual methods, each under its name; they differ, so a report says which it uses.

    Attributes:
        planimetry_ml: volume of the mask (:data:`PLANIMETRY`).
        ellipsoid_ml: AP x transverse x longitudinal x 0.52 (:data:`ELLIPSOID`).
        ap_mm, longitudinal_mm: anteroposterior and craniocaudal diameter in the mid-sagittal plane.
        transverse_mm: greatest right-left diameter on a slice.
    """

    planimetry_ml: float
    ellipsoid_ml: float
    ap_mm: float
    transverse_mm: float
    longitudinal_mm: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with the methods' names; :meth:`from_dict` reads them back unchanged."""
        return {**asdict(self), "methods": {"planimetry_ml": PLANIMETRY, "ellipsoid_ml": ELLIPSOID}}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> GlandSize:
        """The inverse of :meth:`to_dict`."""
        return cls(**{name: value for name, value in data.items() if name != "methods"})


def gland_size(zones: Volume) -> GlandSize:
    """Volume and diameters of the gland (PZ and TZ together) from its mask.

    As a reader measures: transverse is the greatest R-L extent on any one slice; in the mid-sagittal plane, through the
    gland's centroid, anteroposterior is the greatest A-P extent on any one slice, and longitudinal the S-I extent.
    Directions are the patient's; a gland's tilt against them makes the ellipsoid differ from planimetry.

    Raises:
        ValueError: no gland in the zones, or other labels.
    """
    labels = _zone_map(zones)
    index = np.argwhere(labels)
    if not len(index):
        raise ValueError(f"{zones.name or 'zones'}: no gland voxel (1 PZ or 2 TZ), so the gland has no size")
    points = zones.geometry.to_patient(index)
    slices = index[:, 0]
    half = [_half_voxel(zones.geometry, axis) for axis in range(3)]
    # Half the voxel box's width along R-L: every voxel that the plane cuts belongs to it.
    reach = float(np.abs(zones.geometry.affine[0, :3]).sum()) / 2
    section = np.abs(points[:, 0] - points[:, 0].mean()) <= reach + 1e-6
    if not section.any():  # a gland segmented as two halves
        section[:] = True
    transverse = _greatest_extent(points[:, 0], slices) + 2 * half[0]
    ap = _greatest_extent(points[section, 1], slices[section]) + 2 * half[1]
    longitudinal = float(np.ptp(points[section, 2])) + 2 * half[2]
    return GlandSize(
        planimetry_ml=len(index) * zones.geometry.voxel_volume / 1000,
        ellipsoid_ml=ap * transverse * longitudinal * 0.52 / 1000,
        ap_mm=ap,
        transverse_mm=transverse,
        longitudinal_mm=longitudinal,
    )


@dataclass(frozen=True)
class PsaDensity:
    """PSA divided by gland volume: context for the reader, never an input of a PI-RADS category.

    Attributes:
        value: ng/mL per mL.
        psa_ng_ml: the PSA it came from.
        volume_ml: the gland volume it came from.
    """

    value: float
    psa_ng_ml: float
    volume_ml: float

    @property
    def attention(self) -> bool:
        """Whether the value reaches the usual attention line (:data:`PSA_DENSITY_LINE`)."""
        return self.value >= PSA_DENSITY_LINE

    @property
    def text(self) -> str:
        """One sentence for a report."""
        relation = "at or above" if self.attention else "below"
        return (
            f"PSA density {self.value:.2f} ng/mL/mL, {relation} the attention line of {PSA_DENSITY_LINE:.2f}; "
            "it does not change the PI-RADS category"
        )


def psa_density(psa_ng_ml: float, gland_volume_ml: float) -> PsaDensity:
    """PSA density from a PSA (ng/mL) and a gland volume (mL).

    Raises:
        ValueError: the PSA is negative, the volume not positive, or either not finite.
    """
    if not math.isfinite(psa_ng_ml) or psa_ng_ml < 0:
        raise ValueError(f"PSA must be a number of ng/mL, zero or more, got {psa_ng_ml}")
    if not math.isfinite(gland_volume_ml) or gland_volume_ml <= 0:
        raise ValueError(f"gland volume must be a positive number of mL, got {gland_volume_ml}")
    return PsaDensity(psa_ng_ml / gland_volume_ml, psa_ng_ml, gland_volume_ml)


def capsule_contact(lesion: Volume, zones: Volume) -> float:
    """Greatest in-plane length (mm) over which a lesion touches the gland's border.

    The border is the outline of the gland mask in each slice, drawn between the centres of neighbouring voxels
    (marching squares); a piece counts when one of the four voxels around it belongs to the lesion. An approximation:
    such outlines are up to 8 % too long on curves and slants, each end is uncertain by a pixel, separate pieces in a
    slice are added, and the capsule is not told from the anterior stroma, bladder neck or apex. A measurement only:
    it asserts no extraprostatic extension.

    Args:
        lesion: bool or int mask.
        zones: label map, 1 PZ, 2 TZ, 0 outside; on any grid.

    Raises:
        ValueError: the lesion is empty, or the zones hold other labels.
    """
    array, start = _cropped(lesion)
    touching = np.pad(array, ((0, 0), (1, 1), (1, 1)))
    box = np.moveaxis(np.indices(touching.shape), 0, -1) + start - (0, 1, 1)
    gland = _labels_at(_zone_map(zones), zones.geometry, lesion.geometry.to_patient(box)) > 0

    a, b, c, d = _blocks(gland)  # a b above c d
    _, row, column = lesion.geometry.spacing
    slant = math.hypot(row, column) / 2
    count = a.astype(int) + b + c + d
    length = np.where((count == 1) | (count == 3), slant, 0.0)
    length[(count == 2) & (a == b)] = column  # one row inside: the border runs along it
    length[(count == 2) & (a == c)] = row
    length[(count == 2) & (a == d)] = 2 * slant
    touched = np.logical_or.reduce(_blocks(touching))
    return float((length * touched).sum((1, 2)).max())


def _blocks(array: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], ...]:
    """The four voxels of every in-plane 2 x 2 block: above left, above right, below left, below right."""
    return array[:, :-1, :-1], array[:, :-1, 1:], array[:, 1:, :-1], array[:, 1:, 1:]


# ------------------------------------------------------------------------------------------------------ one lesion


@dataclass(frozen=True)
class LesionMeasures:
    """All that is measured on one lesion's mask.

    Attributes:
        in_plane: greatest in-plane diameter, on the grid that ``measured_on`` names.
        measured_on: sequence whose grid carried the in-plane diameter ("ADC", "T2W"), or "mask grid".
        three_d: greatest diameter in any direction, on the mask's own grid.
        volume_ml: volume.
        near_threshold: ``in_plane`` lies between 14 and 16 mm.
        zone_shares: shares of volume under "PZ", "TZ", "outside".
        sectors: (key, share) from :func:`sector_shares`.
        contact_mm: :func:`capsule_contact`; None without a segmented gland.
        centroid: LPS mm.
        slice_range: first and last z index on the mask's own grid.
        key_slice: z index of the largest area on the mask's own grid.
        notes: what a reader of these numbers has to know.
    """

    in_plane: Diameter
    measured_on: str
    three_d: Diameter
    volume_ml: float
    near_threshold: bool
    zone_shares: Mapping[str, float]
    sectors: tuple[tuple[str, float], ...]
    contact_mm: float | None
    centroid: Point
    slice_range: tuple[int, int]
    key_slice: int
    notes: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; :meth:`from_dict` reads them back unchanged."""
        return {
            "in_plane": self.in_plane.to_dict(),
            "measured_on": self.measured_on,
            "three_d": self.three_d.to_dict(),
            "volume_ml": self.volume_ml,
            "near_threshold": self.near_threshold,
            "zone_shares": dict(self.zone_shares),
            "sectors": [{"key": key, "share": share} for key, share in self.sectors],
            "contact_mm": self.contact_mm,
            "centroid_lps_mm": list(self.centroid),
            "slice_range": list(self.slice_range),
            "key_slice": self.key_slice,
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LesionMeasures:
        """The inverse of :meth:`to_dict`."""
        first, last = data["slice_range"]
        return cls(
            in_plane=Diameter.from_dict(data["in_plane"]),
            measured_on=data["measured_on"],
            three_d=Diameter.from_dict(data["three_d"]),
            volume_ml=data["volume_ml"],
            near_threshold=data["near_threshold"],
            zone_shares=dict(data["zone_shares"]),
            sectors=tuple((item["key"], item["share"]) for item in data["sectors"]),
            contact_mm=data["contact_mm"],
            centroid=_point(data["centroid_lps_mm"]),
            slice_range=(first, last),
            key_slice=data["key_slice"],
            notes=tuple(data["notes"]),
        )


def nominal_sequence(shares: Mapping[str, float]) -> str:
    """The sequence that PI-RADS measures a lesion on, from its zone shares: "ADC" in the PZ, "T2W" in the TZ."""
    return "T2W" if shares["TZ"] > shares["PZ"] else "ADC"


def measure_lesion(
    lesion: Volume,
    zones: Volume,
    *,
    measuring_grid: Geometry | None,
    measured_on: str,
    sectors: Volume | None = None,
) -> LesionMeasures:
    """Measure one lesion.

    The in-plane diameter is taken on the grid of the nominal sequence (:func:`nominal_sequence`), onto which the mask
    is resampled (linear, more than half inside). Where that sequence is absent, does not cover the lesion, or its grid
    loses more than half of the mask, the mask's own grid is used and a note says so.

    Args:
        lesion: bool or int mask of this lesion alone.
        zones: label map, 1 PZ, 2 TZ, 0 outside.
        measuring_grid: grid of the nominal sequence, None when the study has none.
        measured_on: that sequence's name, "ADC" or "T2W".
        sectors: ``sector_map(zones)``, when the caller has it already.

    Raises:
        ValueError: the lesion is empty, or the zones hold other labels.
    """
    inside, points = _inside(lesion), _points(lesion)
    in_plane, used, notes = _nominal_diameter(lesion, points, measuring_grid, measured_on)
    near = near_threshold(in_plane.mm)
    if near:
        notes.append(f"near threshold: {in_plane.mm:.1f} mm lies within 14.0-16.0 mm")
    has_gland = bool(_zone_map(zones).any())
    notes += [CZ_AFS_NOTE, CONTACT_NOTE] if has_gland else ["no gland segmented: no sectors, no capsule contact"]
    areas = np.count_nonzero(inside, axis=(1, 2))
    occupied = np.flatnonzero(areas)
    return LesionMeasures(
        in_plane=in_plane,
        measured_on=used,
        three_d=feret_3d(lesion),
        volume_ml=volume_ml(lesion),
        near_threshold=near,
        zone_shares=zone_shares(lesion, zones),
        sectors=sector_shares(lesion, zones, sectors=sectors),
        contact_mm=capsule_contact(lesion, zones) if has_gland else None,
        centroid=_point(points.mean(0)),
        slice_range=(int(occupied[0]), int(occupied[-1])),
        key_slice=int(areas.argmax()),
        notes=tuple(notes),
    )


def _nominal_diameter(
    lesion: Volume, points: Floats, grid: Geometry | None, sequence: str
) -> tuple[Diameter, str, list[str]]:
    """The in-plane diameter, the grid's name it was taken on, and a note when that is not the nominal one."""
    if grid is None:
        why = f"{sequence} is absent"
    elif not in_field(grid, points).all():
        why = f"{sequence} does not cover the whole region"
    else:
        binary = lesion.with_array(_inside(lesion).astype(np.uint8))
        there = Volume(binary.resample(grid).array > 0.5, grid, lesion.name)
        if volume_ml(there) >= KEPT_ON_MEASURING_GRID * volume_ml(lesion):
            return feret_in_plane(there), sequence, []
        why = f"the region is lost on the {sequence} grid"
    return feret_in_plane(lesion), "mask grid", [f"{why}: measured on the mask's own grid"]


# --------------------------------------------------------------------------------------------------------- helpers


def _point(values: ArrayLike) -> Point:
    x, y, z = np.asarray(values, dtype=float).tolist()
    return (x, y, z)


def _inside(mask: Volume) -> NDArray[np.bool_]:
    """A mask as bool (z, y, x)."""
    if mask.array.dtype.kind not in "biu":
        raise ValueError(
            f"{mask.name or 'mask'}: expected a bool or integer mask, got {mask.array.dtype}; threshold it first"
        )
    return mask.array.astype(bool, copy=False)


def _zone_map(zones: Volume) -> NDArray[np.uint8]:
    """A zone label map as uint8, its labels checked."""
    array = zones.array
    if array.dtype.kind not in "iu" or int(array.min()) < 0 or int(array.max()) > TZ:
        raise ValueError(
            f"{zones.name or 'zones'}: expected an integer label map of 0 outside, 1 PZ, 2 TZ, "
            f"got {array.dtype} from {array.min()} to {array.max()}"
        )
    return array.astype(np.uint8, copy=False)


def _cropped(mask: Volume) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """The mask within its bounding box, and the index (z, y, x) where the box begins.

    Raises:
        ValueError: the mask is empty.
    """
    inside = _inside(mask)
    spans = [np.flatnonzero(inside.any(axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    if not spans[0].size:
        raise ValueError(f"{mask.name or 'mask'}: the mask is empty, so there is nothing to measure")
    box = tuple(slice(int(span[0]), int(span[-1]) + 1) for span in spans)
    return inside[box], np.array([span[0] for span in spans], dtype=np.int64)


def _points(mask: Volume) -> Floats:
    """Centres (N, 3) of the mask's voxels, LPS mm; the mask is not empty."""
    array, start = _cropped(mask)
    return mask.geometry.to_patient(np.argwhere(array) + start)


def _labels_at(labels: NDArray[Any], grid: Geometry, points: Floats) -> NDArray[np.uint8]:
    """The label (...) of the voxel that each point (..., 3), LPS mm, lies in; 0 beyond the grid."""
    index = np.floor(grid.to_index(points) + 0.5).astype(np.int64)
    known = ((index >= 0) & (index < grid.shape)).all(-1)
    found = np.zeros(index.shape[:-1], np.uint8)
    found[known] = labels[tuple(index[known].T)]
    return found


def _half_voxel(grid: Geometry, axis: int) -> float:
    """How far a voxel's border (middles of faces) reaches from its centre along patient axis x, y or z (0, 1, 2)."""
    return float(np.abs(grid.affine[axis, :3]).max()) / 2


def _greatest_extent(coordinate: Floats, slices: NDArray[np.int64]) -> float:
    """Greatest range of a coordinate (N,) within one slice (N,), centre to centre."""
    return max(float(np.ptp(coordinate[slices == k])) for k in np.unique(slices))
