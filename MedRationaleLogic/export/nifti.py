"""NIfTI-1 files of 8-bit volumes, header and all.

Why not SimpleITK: its NIfTI writer always stores slope 1 for uint8, and an evidence map needs slope 1/255 to read back
as 0 to 1. A NIfTI-1 header is 348 fixed bytes; written here as the standard lays them out (nifti1.h, NIfTI DFWG 2005),
with the place in the patient as sform and qform alike. Readers that know slopes (SimpleITK, ITK-SNAP, nibabel, Slicer)
then see 0 to 1 in float.
"""

from __future__ import annotations

import gzip

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from MedRationaleLogic.imaging.volume import Geometry, Volume

LEVEL = 1
"""gzip level: maps are mostly zeros, and a higher one costs four times the seconds for a fifth of the size."""

_HEADER = np.dtype(
    [
        ("sizeof_hdr", "<i4"), ("data_type", "S10"), ("db_name", "S18"), ("extents", "<i4"),
        ("session_error", "<i2"), ("regular", "S1"), ("dim_info", "u1"),
        ("dim", "<i2", 8), ("intent_p", "<f4", 3), ("intent_code", "<i2"), ("datatype", "<i2"), ("bitpix", "<i2"),
        ("slice_start", "<i2"), ("pixdim", "<f4", 8), ("vox_offset", "<f4"), ("scl_slope", "<f4"),
        ("scl_inter", "<f4"), ("slice_end", "<i2"), ("slice_code", "u1"), ("xyzt_units", "u1"), ("cal_max", "<f4"),
        ("cal_min", "<f4"), ("slice_duration", "<f4"), ("toffset", "<f4"), ("glmax", "<i4"), ("glmin", "<i4"),
        ("descrip", "S80"), ("aux_file", "S24"), ("qform_code", "<i2"), ("sform_code", "<i2"), ("quatern", "<f4", 3),
        ("qoffset", "<f4", 3), ("srow", "<f4", (3, 4)), ("intent_name", "S16"), ("magic", "S4"),
    ]
)  # fmt: skip
_UINT8, _SCANNER, _MILLIMETRES, _OFFSET = 2, 1, 2, 352


def nifti_gz(volume: Volume, *, slope: float = 1.0, description: str = "") -> bytes:
    """A volume as the bytes of a ``.nii.gz`` file; the same volume always gives the same bytes.

    Args:
        volume: uint8 or bool, (z, y, x).
        slope: what a stored value of 1 means.
        description: up to 79 ASCII characters, kept in the header; no identity belongs there.

    Raises:
        ValueError: another data type, or a description that does not fit.
    """
    array = volume.array.view(np.uint8) if volume.array.dtype == np.bool_ else volume.array
    if array.dtype != np.uint8:
        raise ValueError(f"{volume.name or 'volume'}: expected uint8 or bool voxels, got {array.dtype}")
    header = nifti_header(volume.geometry, slope=slope, description=description)
    # (z, y, x) in C order is NIfTI's order: x runs fastest. Time 0: a file's bytes depend on its content only.
    return gzip.compress(header + bytes(_OFFSET - len(header)) + np.ascontiguousarray(array).tobytes(), LEVEL, mtime=0)


def nifti_header(geometry: Geometry, *, slope: float = 1.0, description: str = "") -> bytes:
    """The 348 bytes of the header of an 8-bit volume on a grid; arguments and errors as :func:`nifti_gz`."""
    if not description.isascii() or len(description) > 79:
        raise ValueError(f"a NIfTI description is up to 79 ASCII characters, got {description!r}")
    z, y, x = geometry.shape
    if max(geometry.shape) > np.iinfo(np.int16).max:
        raise ValueError(f"NIfTI-1 holds up to 32767 voxels along an axis, got {geometry.shape}")
    to_ras = np.diag([-1.0, -1.0, 1.0])
    columns = to_ras @ np.asarray(geometry.direction).reshape(3, 3)
    origin = to_ras @ np.asarray(geometry.origin)
    spacing = np.asarray(geometry.spacing[::-1])
    quaternion, handedness = _quaternion(columns)
    header = np.zeros((), _HEADER)
    header["sizeof_hdr"] = 348
    header["regular"] = b"r"
    header["dim"] = (3, x, y, z, 1, 1, 1, 1)
    header["datatype"], header["bitpix"] = _UINT8, 8
    header["pixdim"] = (handedness, *spacing, 0, 0, 0, 0)
    header["vox_offset"] = _OFFSET
    header["scl_slope"] = slope
    header["xyzt_units"] = _MILLIMETRES
    header["descrip"] = description.encode("ascii")
    header["qform_code"] = header["sform_code"] = _SCANNER
    header["quatern"], header["qoffset"] = quaternion, origin
    header["srow"] = np.column_stack([columns * spacing, origin])
    header["magic"] = b"n+1"
    return header.tobytes()


def _quaternion(columns: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """The (b, c, d) of a rotation and its handedness: -1 turns the third axis round, as NIfTI's ``qfac`` says."""
    handedness = 1.0 if np.linalg.det(columns) > 0 else -1.0
    b, c, d, a = Rotation.from_matrix(columns * (1.0, 1.0, handedness)).as_quat()
    # NIfTI leaves out `a` and takes it for positive.
    return np.array([b, c, d]) * (1.0 if a >= 0 else -1.0), handedness
