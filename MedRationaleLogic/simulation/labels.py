"""Zone label maps as smooth signed distances: the anatomy that simulation draws from.

A label map is kept as two signed distances (gland and TZ, millimetres, negative inside) on a small gland-centred grid.
Distances stay smooth when a map is warped or shown on another grid, and give capsule and depth for nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

SHAPE = (32, 64, 64)
SPACING = (3.0, 1.5, 1.5)
STEP_MM = 0.25  # int8 quantisation: +-31.75 mm


@dataclass(frozen=True)
class LabelBank:
    """Signed distances of many glands.

    Attributes:
        gland: int8 (n, 32, 64, 64), (z, y, x) at 3.0 x 1.5 x 1.5 mm, gland-centred, in steps of 0.25 mm, < 0 inside.
        transition: the same for the TZ.
        patients: patient id of each map (an empty text where a map is not tied to a patient).
    """

    gland: NDArray[np.int8]
    transition: NDArray[np.int8]
    patients: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.patients)

    @property
    def sha256(self) -> str:
        """Identifies the very maps that a training used."""
        digest = hashlib.sha256("\n".join(self.patients).encode())
        digest.update(self.gland.tobytes())
        digest.update(self.transition.tobytes())
        return digest.hexdigest()

    def without(self, patients: Collection[str]) -> LabelBank:
        """The bank without these patients' maps: what a fold must use that is tested on them."""
        keep = [i for i, patient in enumerate(self.patients) if patient not in set(patients)]
        return LabelBank(self.gland[keep], self.transition[keep], tuple(self.patients[i] for i in keep))

    def save(self, path: Path) -> None:
        """Write a compressed .npz (no pickles inside)."""
        np.savez_compressed(path, gland=self.gland, transition=self.transition, patients=np.array(self.patients))

    @classmethod
    def load(cls, path: Path) -> LabelBank:
        """Read what :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as data:
            return cls(data["gland"], data["transition"], tuple(str(p) for p in data["patients"]))


def signed_distance(mask: NDArray[np.bool_], spacing: tuple[float, float, float]) -> NDArray[np.float32]:
    """Millimetres to the mask's border, negative inside; +100 everywhere for an empty mask."""
    if not mask.any():
        return np.full(mask.shape, 100.0, np.float32)
    outside = ndimage.distance_transform_edt(~mask, sampling=spacing)
    inside = ndimage.distance_transform_edt(mask, sampling=spacing)
    return (outside - inside).astype(np.float32)


def _distances(
    zones: NDArray[np.uint8], spacing: tuple[float, float, float]
) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    """Gland-centred, quantised distances of one zone map (1 PZ, 2 TZ), axes (z, y, x)."""
    gland = zones > 0
    index = np.argwhere(gland)
    center = (index.min(0) + index.max(0)) / 2  # the box's middle, so that both ends of a long gland fit
    axes = [center[i] + (np.arange(SHAPE[i]) - (SHAPE[i] - 1) / 2) * SPACING[i] / spacing[i] for i in range(3)]
    sample = np.meshgrid(*axes, indexing="ij")
    out = []
    for mask in (gland, zones == 2):
        # distances on a padded crop at half resolution in plane cost a tenth and lose nothing at 1.5 mm
        distance = signed_distance(mask, spacing)
        values = ndimage.map_coordinates(distance, sample, order=1, mode="nearest")
        out.append(np.clip(np.round(values / STEP_MM), -127, 127).astype(np.int8))
    return out[0], out[1]


def _read(path: Path, swap: bool) -> tuple[NDArray[np.int8], NDArray[np.int8]] | None:
    import SimpleITK as sitk

    # the field is drawn on axes (z, y, x) to the head, the back and the left, however the file stores them
    image = sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS")
    zones = sitk.GetArrayFromImage(image).astype(np.uint8)
    if swap:
        zones = np.take(np.array([0, 2, 1], np.uint8), zones)
    if not (zones > 0).any():
        return None
    # the far field is never drawn: crop around the gland before the distance transforms
    spacing = image.GetSpacing()[::-1]
    index = np.argwhere(zones > 0)
    margin = [int(np.ceil(12 / s)) for s in spacing]
    low = [max(0, int(index[:, i].min()) - margin[i]) for i in range(3)]
    high = [min(zones.shape[i], int(index[:, i].max()) + margin[i] + 1) for i in range(3)]
    zones = zones[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    zones = np.pad(zones, [(max(0, 1),) * 2, (1, 1), (1, 1)])
    return _distances(zones, (spacing[0], spacing[1], spacing[2]))


def read_bank(files: Iterable[Path], *, swapped: Collection[Path] = (), workers: int = 2) -> LabelBank:
    """Read zone maps (NIfTI; 1 PZ, 2 TZ) named ``<patient>_<study>.nii.gz``.

    Args:
        files: the maps; empty ones are left out.
        swapped: those of ``files`` whose labels are the other way round (1 TZ, 2 PZ).
        workers: reading threads.
    """
    paths = sorted(files)
    other = set(swapped)
    with ThreadPoolExecutor(workers) as pool:
        maps = list(pool.map(lambda p: _read(p, p in other), paths))
    kept = [(p, m) for p, m in zip(paths, maps, strict=True) if m is not None]
    if not kept:
        raise ValueError("no zone map with a gland was found; expected NIfTI label maps with 1 = PZ and 2 = TZ")
    patients = tuple(p.name.split("_")[0] for p, _ in kept)
    return LabelBank(np.stack([m[0] for _, m in kept]), np.stack([m[1] for _, m in kept]), patients)
