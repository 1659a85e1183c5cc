"""Image files (NIfTI, MHA/MHD, NRRD): which file is what by its name, and reading them with errors that help."""

from __future__ import annotations

import gzip
import io
import math
import re
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from MedRationaleLogic.imaging.acquisition import (
    HIGH_B,
    LOWEST_USABLE_HIGH_B,
    ROLE_NAMES,
    Role,
    SeriesChoice,
    StudyError,
    count,
    plane_of,
)
from MedRationaleLogic.imaging.volume import Volume, trace_image

if TYPE_CHECKING:
    import SimpleITK as sitk

SUFFIXES = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".nhdr")

# Words in a file name that mark a label map or a result, not an image.
_NOT_AN_IMAGE = re.compile(
    r"gland|zones?|lesions?|masks?|seg|segmentation|labels?|anatomy|tumou?r|seminal|vesicles?|roi|[pt]z|cz|afs|pred"
    r"|prediction|empty|evidence|isup|reader\d"
)
_ROLE_WORDS: dict[Role, frozenset[str]] = {
    "t2w": frozenset({"t2w", "t2"}),
    "adc": frozenset({"adc"}),
    "hbv": frozenset({"hbv", "highb", "dwi", "cdwi", "hb"}),
}
_PLANE_WORDS = {"sag": "sagittal", "sagittal": "sagittal", "cor": "coronal", "coronal": "coronal"}
_CHANNELS: dict[str, Role] = {"0000": "t2w", "0001": "adc", "0002": "hbv"}  # PI-CAI's order in nnU-Net's layout


@dataclass(frozen=True)
class NamedFile:
    """An image file that its name gives a role.

    Attributes:
        case: the part of the name (and folder) that is the same for all images of one patient.
        role: what the name says it is; None for an orthogonal T2W.
        extras: words after the role, e.g. ``("n4", "norm")``; fewer is the plainer image.
        b_value: s/mm2 where the name spells it out.
        plane: ``sagittal`` or ``coronal`` where the name says so.
    """

    path: Path
    case: tuple[str, ...]
    role: Role | None
    extras: tuple[str, ...] = ()
    b_value: float | None = None
    plane: str | None = None

    @property
    def label(self) -> str:
        """The file name, with the b-value that it spells out."""
        return self.path.name if self.b_value is None else f"{self.path.name}, b{self.b_value:.0f}"


def is_image_file(path: Path) -> bool:
    """Whether the suffix is one of the image formats read here."""
    return path.name.lower().endswith(SUFFIXES)


def stem(path: Path) -> str:
    """File name without its (double) suffix."""
    lower = path.name.lower()
    return next((path.name[: -len(s)] for s in SUFFIXES if lower.endswith(s)), path.stem)


def parse_name(path: Path) -> NamedFile | None:
    """What a file name says, or None when it is no image of a known role (label maps included)."""
    words = _words(stem(path))
    if not words or names_a_result(stem(path)):
        return None
    if words[-1] in _CHANNELS:
        return NamedFile(path, (str(path.parent), *words[:-1]), _CHANNELS[words[-1]])
    plane = next((_PLANE_WORDS[w] for w in words if w in _PLANE_WORDS), None)
    b_words = [re.fullmatch(r"c?b(\d{1,5})", w) for w in words]
    b_value = next((float(m[1]) for m in b_words if m), None)
    for role, names in _ROLE_WORDS.items():
        at = next((i for i, w in enumerate(words) if w in names), None)
        if at is None and role == "hbv":
            at = next((i for i, m in enumerate(b_words) if m), None)
        if at is not None:
            case = (str(path.parent), *words[:at])
            extras = tuple(w for w in words[at + 1 :] if w not in _PLANE_WORDS and w not in ("tra", "ax", "axial"))
            kind = role if plane is None else None
            return NamedFile(path, case, kind, extras, b_value if role == "hbv" else None, plane)
    if words[-1] in _PLANE_WORDS:  # PI-CAI: <patient>_<study>_sag.mha
        return NamedFile(path, (str(path.parent), *words[:-1]), None, plane=plane)
    return None


def _words(name: str) -> list[str]:
    return [w for w in re.split(r"[^a-z0-9]+", name.lower()) if w]


def names_a_result(name: str) -> bool:
    """Whether a name speaks of a label map or a result rather than an image."""
    return any(_NOT_AN_IMAGE.fullmatch(w) for w in _words(name))


@dataclass(frozen=True)
class FileChoice:
    """The chosen image files of one case."""

    files: dict[Role, NamedFile]
    choices: tuple[SeriesChoice, ...]
    orthogonal_t2w: tuple[str, ...]
    b_values: tuple[float, ...]


def choose(files: Iterable[Path], name: str) -> FileChoice | None:
    """Picks the images of one case by their names, or None when no name gives a role.

    Raises:
        StudyError: the files belong to several cases.
    """
    named = [n for n in map(parse_name, sorted(files)) if n is not None]
    by_role: dict[Role, list[NamedFile]] = {}
    for one in named:
        if one.role is not None:
            by_role.setdefault(one.role, []).append(one)
    cases = _cases(by_role)
    if cases > 1:
        raise StudyError(
            f"{name}: the folder holds the images of {cases} cases. One study is needed: give the folder of one "
            "case, or its files by role (T2W, ADC, high-b)"
        )
    chosen: dict[Role, NamedFile] = {}
    choices: list[SeriesChoice] = []
    for role, group in by_role.items():
        usable = [f for f in group if f.b_value is None or f.b_value >= LOWEST_USABLE_HIGH_B]
        if not usable:
            continue
        best, *others = sorted(usable, key=rank)
        others += sorted((f for f in group if f not in usable), key=lambda f: -(f.b_value or 0))
        chosen[role] = best
        choices.append(SeriesChoice(role, best.label, _reason(best, role), tuple(f.label for f in others)))
    if not chosen:
        return None
    b_values = tuple(sorted({f.b_value for f in by_role.get("hbv", ()) if f.b_value is not None}))
    return FileChoice(
        chosen, tuple(choices), tuple(f"{f.path.name} ({f.plane})" for f in named if f.plane is not None), b_values
    )


def _cases(by_role: dict[Role, list[NamedFile]]) -> int:
    """How many cases the names speak of: one role under several prefixes, or several numbers of patients."""
    prefixes = max((len({one.case for one in group}) for group in by_role.values()), default=0)
    numbers = (tuple(w for w in one.case[1:] if re.search(r"\d\d", w)) for group in by_role.values() for one in group)
    return max(prefixes, len({n for n in numbers if n}))


def rank(file: NamedFile) -> tuple[Any, ...]:
    """What to sort the images of one role by, the one to take first."""
    # A name without b-value ("hbv", "dwi") is a data set's own choice of high-b; a b-value of at least 1400 comes next.
    b_value = file.b_value
    bucket = 0 if b_value is None else (1 if b_value >= HIGH_B else 2)
    return (bucket, -(b_value or 0), len(file.extras), file.path.name)


def _reason(file: NamedFile, role: Role) -> str:
    if role == "hbv" and file.b_value is not None and file.b_value < HIGH_B:
        return f"the highest b-value by file name, below the {HIGH_B:.0f} that PI-RADS asks for"
    if stem(file.path)[-4:] in _CHANNELS:
        return "by its channel number, in PI-CAI's order (0000 T2W, 0001 ADC, 0002 high-b)"
    return "by its file name"


# ---------------------------------------------------------------------------------------------------------------------
# Reading


def read_image(path: Path, role: Role) -> tuple[Volume, float | None, tuple[float, ...], tuple[str, ...]]:
    """Reads one image file as a volume whose first axis runs through the slices.

    A 4D file with a ``.bval`` file beside it is split, and the highest b-value is taken for high-b: the trace image
    where several volumes have it. The grid stays as stored, flips and obliqueness included; axes are only put in
    another order where slices are not the first one.

    Args:
        path: NIfTI, MHA/MHD or NRRD.
        role: what it is for.

    Returns:
        The volume, its b-value (s/mm2) and all b-values where a ``.bval`` file tells them, and notes.

    Raises:
        StudyError: missing, not an image, cut off, 2D, 4D without b-values or with none of at least 500 s/mm2,
            several components, complex, in no place, or a T2W in a sagittal or coronal plane.
    """
    import SimpleITK as sitk

    _check_file(path)
    non_finite = _nifti_non_finite(path) if path.name.lower().endswith((".nii", ".nii.gz")) else None
    warned = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise StudyError(f"{path.name}: {_plain(str(error))}") from error
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(warned)
    if non_finite is not None:
        image = _with_nan(image, non_finite)
    notes: list[str] = []
    if "complex" in image.GetPixelIDTypeAsString():
        raise StudyError(f"{path.name}: complex values; give the magnitude image")
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise StudyError(
            f"{path.name}: {image.GetNumberOfComponentsPerPixel()} components per voxel (colour or vectors); a plain "
            "greyscale MRI is needed"
        )
    image, b_value, b_values = _three_dimensional(image, path, role, notes)
    image = slices_first(image, path.name, role, notes)
    if image.GetPixelID() in (sitk.sitkFloat64, sitk.sitkInt64, sitk.sitkUInt64):
        image = sitk.Cast(image, sitk.sitkFloat32)
    try:
        volume = Volume.from_sitk(image, path.name)
    except ValueError as error:
        raise StudyError(f"{path.name}: {error}; convert it again from DICOM") from error
    return volume, b_value, b_values, tuple(notes)


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise StudyError(f"{path.name}: there is no such file")
    if not is_image_file(path):
        raise StudyError(f"{path.name}: not an image format that is read here ({', '.join(SUFFIXES)})")
    if path.stat().st_size == 0:
        raise StudyError(f"{path.name}: the file is empty; copy it again")


# Bits of a voxel by the NIfTI code of its type (nifti1.h).
_NIFTI_BITS = {
    2: 8, 4: 16, 8: 32, 16: 32, 32: 64, 64: 64, 128: 24, 256: 8, 512: 16, 768: 32, 1024: 64, 1280: 64, 1536: 128,
    1792: 128, 2048: 256, 2304: 32,
}  # fmt: skip


@dataclass(frozen=True)
class _Nifti:
    """What a NIfTI-1 or -2 header says about its voxels.

    Attributes:
        size: along (x, y, z, ...).
        code, bits: type of a voxel, and what it takes.
        offset: byte where the voxels start.
        order: of bytes, ``<`` or ``>``.
        place: every number that counts for the image's place: voxel size, and the forms whose code says so.
    """

    size: tuple[int, ...]
    code: int
    bits: int
    offset: int
    order: str
    place: tuple[float, ...]

    @property
    def length(self) -> int:
        """Bytes that the (unzipped) file must have."""
        return self.offset + math.prod(self.size) * self.bits // 8


def _nifti_header(header: bytes) -> _Nifti | None:
    """None when the bytes are not NIfTI. Offsets: nifti1.h and nifti2.h, nifti.nimh.nih.gov."""
    for order in "<>":
        own = struct.unpack(order + "i", header[:4])[0] if len(header) >= 348 else 0
        if own == 348:
            dim = struct.unpack(order + "8h", header[40:56])
            code, bits = struct.unpack(order + "2h", header[70:74])
            offset = struct.unpack(order + "f", header[108:112])[0]
            forms = struct.unpack(order + "2h18f", header[252:328])
            spacing = struct.unpack(order + "3f", header[80:92])
        elif own == 540 and len(header) >= 540:
            dim = struct.unpack(order + "8q", header[16:80])
            code, bits = struct.unpack(order + "2h", header[12:16])
            offset = struct.unpack(order + "q", header[168:176])[0]
            forms = struct.unpack(order + "2i18d", header[344:496])
            spacing = struct.unpack(order + "3d", header[112:136])
        else:
            continue
        if 1 <= dim[0] <= 7 and np.isfinite(offset):
            # ITK takes what lies inside of the header, 0 above all, for the header's end
            start = max(int(offset), own) if int(offset) >= 0 else int(offset)
            qform, sform = forms[2:8] if forms[0] > 0 else (), forms[8:] if forms[1] > 0 else ()
            size = tuple(max(1, n) for n in dim[1 : dim[0] + 1])
            return _Nifti(size, code, bits, start, order, (*spacing, *qform, *sform))
    return None


def _nifti_non_finite(path: Path) -> NDArray[np.bool_] | None:
    """Where a NIfTI file is NaN or infinite, in numpy's axis order; None where it is nowhere.

    ITK's NIfTI reader fills what is cut off with zeros and turns NaN into zeros, both without a word; zero in an ADC
    map looks like marked restriction. So the length is checked here, and floating-point voxels are looked at.
    """
    zipped = path.name.lower().endswith(".gz") and _starts_with(path, b"\x1f\x8b")  # ITK reads a misnamed one as well
    try:
        with gzip.open(path, "rb") if zipped else path.open("rb") as stream:
            start = stream.read(540)
            header = _nifti_header(start)
            if header is None:
                raise StudyError(f"{path.name}: not a NIfTI file, whatever its name says; give an MRI volume")
            bits = _NIFTI_BITS.get(header.code, header.bits)
            if header.offset < 0 or header.bits != bits:
                raise StudyError(
                    f"{path.name}: the header is damaged: voxels of {header.bits} bits from byte {header.offset} on, "
                    f"where {bits} bits and a place after the header are expected; copy or convert it again"
                )
            if not np.isfinite(header.place).all():  # ITK takes some of these for 0
                raise StudyError(
                    f"{path.name}: the header has NaN or infinite numbers for voxel size, origin or axes; finite ones "
                    "are expected: convert it again from DICOM"
                )
            kind = {16: "f4", 64: "f8"}.get(header.code)
            if kind is None and zipped and _zipped_length(path) == header.length % 2**32:
                return None  # integers, and gzip's own record of the length agrees: no need to unzip twice
            content = start + _read(stream, header.length - len(start)) if kind or zipped else b""
            length = len(content) if content else path.stat().st_size
    except (OSError, EOFError, zlib.error) as error:
        raise StudyError(f"{path.name}: the file is damaged or cut off; copy or download it again") from error
    if length < header.length:
        raise StudyError(
            f"{path.name}: the file is cut off ({length} of {header.length} bytes); copy or download it again"
        )
    if kind is None:
        return None
    values = np.frombuffer(content, header.order + kind, math.prod(header.size), header.offset)
    bad = ~np.isfinite(values)
    return bad.reshape(header.size[::-1]) if bad.any() else None


def _read(stream: io.BufferedIOBase, size: int) -> bytes:
    """At most ``size`` bytes, piece by piece: a damaged header asks for more than any memory holds."""
    pieces = []
    while size > 0 and (piece := stream.read(min(size, 1 << 24))):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _starts_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(magic)) == magic


def _zipped_length(path: Path) -> int:
    """The unzipped length (modulo 2**32) that a gzip file of one member records at its end."""
    with path.open("rb") as stream:
        stream.seek(-4, 2)
        return int(struct.unpack("<I", stream.read(4))[0])


def _with_nan(image: sitk.Image, where: NDArray[np.bool_]) -> sitk.Image:
    """Puts NaN back where the file has it."""
    import SimpleITK as sitk

    array = sitk.GetArrayFromImage(image)
    array[where.reshape(array.shape)] = np.nan
    marked = sitk.GetImageFromArray(array, isVector=False)
    marked.CopyInformation(image)
    return marked


def _plain(error: str) -> str:
    """SimpleITK's C++ report in one sentence that says what to do."""
    if "Unable to determine ImageIO reader" in error:
        return "not an image that can be read, whatever its name says; give NIfTI, MHA, NRRD or a DICOM folder"
    if "orthonormal" in error:
        return "its axes are not at right angles (sheared header); convert it again from DICOM"
    if re.search(r"fread got|not read completely|cannot be read|Read failed|truncat|data bytes|unexpected end", error):
        return "the file is cut off, or the data file that its header names is missing; copy it again"
    lines = [line.strip() for line in error.splitlines() if line.strip() and "/" not in line]
    return f"cannot be read ({lines[-1] if lines else 'unknown reason'}); convert or copy it again"


def _three_dimensional(
    image: sitk.Image, path: Path, role: Role, notes: list[str]
) -> tuple[sitk.Image, float | None, tuple[float, ...]]:
    """The 3D image in a file that may be 4D: with b-values beside it the highest for high-b, else refused."""
    import SimpleITK as sitk

    if image.GetDimension() == 2 or (image.GetDimension() == 3 and 1 in image.GetSize()):
        raise StudyError(f"{path.name}: a 2D image is not a volume; give the whole series")
    if image.GetDimension() == 3:
        return image, None, ()
    size = image.GetSize()
    volumes = int(np.prod(size[3:]))
    b_values: tuple[float, ...] = ()
    highest = None
    chosen = [0]
    if volumes > 1:
        if image.GetDimension() > 4:
            raise StudyError(f"{path.name}: {image.GetDimension()} dimensions; a 3D volume is needed")
        b_values = _bval(path)
        if role != "hbv" or not b_values:
            sidecar = f"{stem(path)}.bval"
            help_text = f"put its b-values beside it as {sidecar}, or give" if role == "hbv" else "give"
            raise StudyError(
                f"{path.name}: {volumes} volumes in one file (4D) for {ROLE_NAMES[role]}; {help_text} a 3D file"
            )
        if len(b_values) != volumes:
            raise StudyError(f"{path.name}: {volumes} volumes but {len(b_values)} values in {stem(path)}.bval")
        highest = max(b_values)
        if highest < LOWEST_USABLE_HIGH_B:
            found = ", ".join(f"b{b:.0f}" for b in sorted(set(b_values)))
            raise StudyError(
                f"{path.name}: no high-b image among {found}; b{HIGH_B:.0f} or more is wanted, and "
                f"b{LOWEST_USABLE_HIGH_B:.0f} the least: give a file that has it, or the study without this file"
            )
        chosen = [i for i, b in enumerate(b_values) if b == highest]
    rest = [0] * (image.GetDimension() - 4)
    volume_size = [*size[:3], *[0] * (image.GetDimension() - 3)]
    images = [sitk.Extract(image, volume_size, [0, 0, 0, i, *rest]) for i in chosen]
    three = images[0]
    if 1 in three.GetSize():
        raise StudyError(f"{path.name}: a 2D image is not a volume; give the whole series")
    if len(images) > 1:
        three = sitk.GetImageFromArray(trace_image([sitk.GetArrayViewFromImage(i) for i in images]))
        three.CopyInformation(images[0])
        notes.append(f"{path.name}: trace image computed from {len(images)} volumes of b{highest:.0f}")
    return three, highest, tuple(dict.fromkeys(b_values))


def _bval(path: Path) -> tuple[float, ...]:
    """Values of the FSL-style ``.bval`` file beside an image, rounded as those of DICOM are."""
    sidecar = path.with_name(f"{stem(path)}.bval")
    if not sidecar.is_file():
        return ()
    try:
        return tuple(float(round(float(v))) for v in sidecar.read_text(encoding="utf-8").split())
    except (ValueError, OverflowError) as error:  # round() takes neither NaN nor infinity
        raise StudyError(f"{sidecar.name}: not a list of numbers; expected one b-value (s/mm2) per volume") from error


def slices_first(image: sitk.Image, name: str, role: Role, notes: list[str]) -> sitk.Image:
    """Puts the axis nearest to head-foot last in ITK's order (first in the array's), without resampling.

    Raises:
        StudyError: the slices are sagittal or coronal.
    """
    import SimpleITK as sitk

    direction = np.asarray(image.GetDirection(), dtype=float).reshape(3, 3)
    spacing = np.asarray(image.GetSpacing())
    coarse = int(np.argmax(spacing))
    slices_lie = coarse if spacing[coarse] > 1.2 * np.median(spacing) else None
    head_foot = int(np.argmax(np.abs(direction[2])))
    if slices_lie is not None and slices_lie != head_foot:
        x, y, z = (float(v) for v in direction[:, slices_lie])
        plane = plane_of((x, y, z))
        raise StudyError(f"{name}: a {plane} series; {ROLE_NAMES[role]} must be axial")
    if head_foot == 2:
        return image
    order = [axis for axis in range(3) if axis != head_foot] + [head_foot]
    notes.append(f"{name}: axes put in slice order (no resampling)")
    return sitk.PermuteAxes(image, order)


def looks_like_images(files: Sequence[Path]) -> str:
    """What to say about a folder without usable images."""
    images = [f for f in files if is_image_file(f)]
    if not files:
        return "the folder is empty"
    if images:
        shown = ", ".join(f.name for f in images[:5]) + (", ..." if len(images) > 5 else "")
        return f"{count(len(images), 'image file')} whose names tell no role ({shown})"
    return f"{count(len(files), 'file')}, none of them DICOM or an image"
