"""DICOM folders: files to stacks, which stack is taken for which role and why, and what its header says.

Everything goes by the header, never by folder or file names. ``dicom_header`` reads one header, ``dicom_pixels`` makes
a volume of a stack.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from MedRationaleLogic.imaging.acquisition import (
    HIGH_B,
    LOWEST_USABLE_HIGH_B,
    ROLE_NAMES,
    AcquisitionHeader,
    Role,
    SeriesChoice,
    StudyError,
    count,
    plane_of,
)
from MedRationaleLogic.imaging.dicom_header import (
    CALCULATED,
    Kind,
    b_value_of,
    described_b_value,
    first_line,
    image_type,
    kind_of,
    number,
    pixel_spacing,
    private,
    source_b_values,
)

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"
# Files written before the 128-byte preamble became usual start with group 0002 or 0008, element length small.
_BARE_STARTS = (b"\x08\x00\x00\x00", b"\x08\x00\x05\x00", b"\x08\x00\x08\x00", b"\x02\x00\x00\x00")


@dataclass(frozen=True, eq=False)
class Slice:
    """One placed image: a whole classic file, or one frame of an enhanced multi-frame file.

    ``header`` holds this image's own attributes in classic, flat form; ``file`` the dataset with the pixels.
    """

    path: Path
    header: Dataset
    file: Dataset
    frame: int | None
    kind: Kind
    b_value: float | None

    @cached_property
    def position(self) -> NDArray[np.float64] | None:
        """Patient point (x, y, z), LPS mm, of the first pixel's centre; None where the header does not say.

        Raises:
            ValueError: it is NaN or infinite.
        """
        return self._finite("ImagePositionPatient", 3)

    @cached_property
    def orientation(self) -> NDArray[np.float64] | None:
        """Unit LPS vectors, shape (2, 3): along a row (towards the next column), and along a column.

        Raises:
            ValueError: they are NaN or infinite.
        """
        values = self._finite("ImageOrientationPatient", 6)
        return None if values is None else values.reshape(2, 3)

    def _finite(self, keyword: str, size: int) -> NDArray[np.float64] | None:
        value = self.header.get(keyword)
        if value is None or len(value) != size:
            return None
        numbers = np.asarray(value, dtype=float)
        if not np.isfinite(numbers).all():  # every comparison with NaN is false: no check of the grid would see it
            series = self.header.get("SeriesNumber") or "without number"
            raise ValueError(f"{keyword} of series {series} is not {size} finite numbers")
        return numbers

    @cached_property
    def plane(self) -> str | None:
        """``axial``, ``sagittal`` or ``coronal``."""
        if self.orientation is None:
            return None
        x, y, z = np.cross(*self.orientation)
        return plane_of((float(x), float(y), float(z)))

    @cached_property
    def height(self) -> float | None:
        """Position along the slice normal in mm, the order of the stack."""
        if self.position is None or self.orientation is None:
            return None
        return round(float(np.cross(*self.orientation) @ self.position), 3)


@dataclass(frozen=True, eq=False)
class Stack:
    """Images of one series that make one volume: same kind, same b-value, one image per position.

    Attributes:
        slices: in no particular order.
        directions: where a diffusion image was stored once per gradient direction and no trace image exists, the
            slices of every direction (``slices`` is then the first of them).
        kind: of the whole stack; a series of several orientations becomes ``localizer``.
        b_value: s/mm2.
        frames: how many images there are per position (time points of a dynamic series).
    """

    slices: tuple[Slice, ...]
    kind: Kind
    b_value: float | None = None
    directions: tuple[tuple[Slice, ...], ...] = ()
    frames: int = 1

    @property
    def header(self) -> Dataset:
        """The header of one image of the stack, for facts that all of them share."""
        return self.slices[0].header

    @property
    def uid(self) -> str:
        """SeriesInstanceUID."""
        return str(self.header.get("SeriesInstanceUID", ""))

    @property
    def number(self) -> int | None:
        """SeriesNumber."""
        value = number(self.header.get("SeriesNumber"))
        return None if value is None else int(value)

    @property
    def description(self) -> str:
        """SeriesDescription, else ProtocolName."""
        return str(self.header.get("SeriesDescription") or self.header.get("ProtocolName") or "").strip()

    @cached_property
    def plane(self) -> str | None:
        """The plane of most of its slices."""
        planes = Counter(one.plane for one in self.slices if one.plane)
        return planes.most_common(1)[0][0] if planes else None

    @cached_property
    def calculated(self) -> bool | None:
        """Whether a diffusion image was extrapolated; None where nothing says so either way."""
        if self.kind != "dwi":
            return None
        types = " ".join(image_type(self.header))
        text = f"{self.description} {types} {self.header.get('DerivationDescription', '')}".lower()
        if CALCULATED.search(text):
            return True
        # Siemens names the source's range in a derived image, "ep_b50_800", and the own b-value in an acquired one.
        return False if self.b_value is not None and not source_b_values(self.header) else None

    @property
    def title(self) -> str:
        """``series 9``, or the description where the series has no number."""
        return f"series {self.number}" if self.number is not None else f"series '{self.description or 'unnamed'}'"

    @property
    def label(self) -> str:
        """In a person's words: ``series 9, calculated b1400``; ``series 10 (t2_tse_tra)``."""
        if self.kind == "dwi":
            how = {True: "calculated ", False: "acquired ", None: ""}[self.calculated]
            value = "b-value unknown" if self.b_value is None else f"b{self.b_value:.0f}"
            return f"{self.title}, {how}{value}"
        return f"{self.title} ({self.description})" if self.description else self.title


@dataclass(frozen=True, eq=False)
class DicomFolder:
    """All that a folder holds in DICOM: its stacks, notes on what was not used, and the files that are not DICOM."""

    name: str
    stacks: tuple[Stack, ...]
    notes: tuple[str, ...]
    unread: tuple[Path, ...]
    patient_id: str | None
    study_uid: str | None
    study_date: str | None

    @property
    def acquired_b_values(self) -> tuple[float, ...]:
        """b-values in s/mm2 of all acquired diffusion images, ascending."""
        stacks = (s for s in self.stacks if s.kind == "dwi" and not s.calculated)
        return tuple(sorted({s.b_value for s in stacks if s.b_value is not None}))

    @property
    def orthogonal_t2w(self) -> tuple[str, ...]:
        """Sagittal and coronal T2W series, in a person's words."""
        found = (s for s in self.stacks if s.kind == "t2w" and s.plane in ("sagittal", "coronal"))
        return tuple(f"{s.title}, {s.plane} ({s.description})" for s in found)

    @property
    def found(self) -> str:
        """One line that lists every series, for messages."""
        series: dict[str, list[Stack]] = {}
        for stack in self.stacks:
            series.setdefault(stack.uid, []).append(stack)
        lines = []
        for stacks in series.values():
            kinds = ", ".join(dict.fromkeys(_kind_words(s) for s in stacks))
            images = sum(len(s.slices) * max(1, len(s.directions)) for s in stacks)
            text = f" '{stacks[0].description}'" if stacks[0].number is not None and stacks[0].description else ""
            lines.append(f"{stacks[0].title}{text} ({kinds}, {count(images, 'image')})")
        return "; ".join(lines) or "no MR series"

    def dynamic(self) -> tuple[int, Stack] | None:
        """Number of time points and one stack of the dynamic (DCE) acquisition, or None.

        Some scanners write every time point as a series of its own: those of one description and grid are counted
        together.
        """
        groups: dict[Hashable, list[Stack]] = {}
        for stack in self.stacks:
            if stack.kind == "dce" and stack.plane == "axial":
                base = re.sub(r"\d+", "", stack.description.lower())
                groups.setdefault((base, stack.header.get("Rows"), stack.header.get("Columns")), []).append(stack)
        if not groups:
            return None
        best = max(groups.values(), key=lambda stacks: sum(s.frames for s in stacks))
        return sum(s.frames for s in best), best[0]


# ---------------------------------------------------------------------------------------------------------------------
# From files to stacks


def scan(files: Sequence[Path], name: str, required: bool = True) -> DicomFolder | None:
    """Reads the headers of all DICOM images among ``files`` (pixels stay on disk until ``dicom_pixels.load``).

    Args:
        files: candidates of any kind; DICOMDIR and files that are not DICOM are passed over and counted.
        name: what messages call the folder.
        required: whether DICOM without an MR image is an error, rather than None.

    Returns:
        The stacks, or None when no file is DICOM at all.

    Raises:
        StudyError: a DICOM file is broken; images of two patients or two studies; no MR among the images.
    """
    slices: list[Slice] = []
    seen: set[str] = set()
    others: Counter[str] = Counter()
    unread: list[Path] = []
    for path in files:
        dataset = _read(path)
        if dataset is None:
            unread.append(path)
            continue
        modality = str(dataset.get("Modality") or "unknown")
        if modality != "MR" or not _has_pixels(dataset):
            others[modality if _has_pixels(dataset) else "non-image"] += 1
            continue
        instance = str(dataset.get("SOPInstanceUID") or path)
        if instance in seen:
            others["repeated"] += 1
            continue
        seen.add(instance)
        try:
            placed = list(_slices_of(path, dataset))
            for one in placed:
                _ = one.height  # reads position and orientation now, where the file can still be named
        except StudyError:
            raise
        except (ValueError, TypeError) as error:  # a value that is not of its type, e.g. text in a number
            raise StudyError(
                f"{path.name}: a header value cannot be read ({first_line(error)}); export the file again"
            ) from error
        slices.extend(placed)
    if not slices and (not others or not required):
        return None
    if not slices:
        kinds = ", ".join(sorted(others))
        raise StudyError(
            f"{name}: {count(others.total(), 'DICOM file')} of modality {kinds} and no MR image. A prostate MRI is "
            "needed (T2W, ADC, high-b): choose the folder of the MR study"
        )
    notes: list[str] = []
    patient = _one(slices, "PatientID", ("patient", "patients"), name, notes)
    study = _one(slices, "StudyInstanceUID", ("study", "studies"), name, notes)
    stacks = tuple(_stacks_of(slices))
    for kind, n in sorted(others.items()):
        what = "whose image another file holds already" if kind == "repeated" else f"of kind {kind}"
        notes.append(f"{count(n, 'DICOM file')} {what}: ignored")
    date = str(slices[0].header.get("StudyDate") or "")
    return DicomFolder(
        name=name,
        stacks=tuple(sorted(stacks, key=lambda s: (s.number is None, s.number or 0, s.b_value or 0.0))),
        notes=tuple(notes),
        unread=tuple(unread),
        patient_id=patient,
        study_uid=study,
        study_date=f"{date[:4]}-{date[4:6]}-{date[6:8]}" if re.fullmatch(r"\d{8}", date) else None,
    )


def _read(path: Path) -> Dataset | None:
    """The dataset of a DICOM file with large elements left on disk; None when the file is something else."""
    try:
        with path.open("rb") as stream:
            start = stream.read(132)
    except OSError as error:
        raise StudyError(f"{path.name}: the file cannot be opened ({error.strerror}); check its permissions") from error
    preamble = start[128:132] == b"DICM"
    if path.name.upper() == "DICOMDIR" or not (preamble or start[:4] in _BARE_STARTS):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(path, defer_size=1024, force=not preamble)
            meta = dataset.get("file_meta") or FileMetaDataset()
            if str(meta.get("MediaStorageSOPClassUID", "")) == _MEDIA_DIRECTORY:
                return None
            if "TransferSyntaxUID" not in meta:
                implicit = dataset.original_encoding[0]
                meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
                dataset.file_meta = meta
            # Both say what the file is; the one in the file's preamble survives a cut that ends inside the other.
            classes = (meta.get("MediaStorageSOPClassUID"), dataset.get("SOPClassUID"))
            image = any("Image Storage" in UID(str(c or "")).name for c in classes)
            whole = "SOPClassUID" in dataset and (not image or any(k in dataset for k in _PIXELS))
    except InvalidDicomError:
        return None
    except Exception as error:  # pydicom raises many types on broken bytes; all mean the same to the reader
        raise StudyError(
            f"{path.name}: the DICOM file is damaged or cut off ({first_line(error)}); copy or export it again"
        ) from error
    if not whole:
        if not preamble:
            return None
        raise StudyError(f"{path.name}: the DICOM file ends before its pixels; copy or export it again")
    return dataset


def _has_pixels(dataset: Dataset) -> bool:
    return "Rows" in dataset and "Columns" in dataset


def _one(slices: Iterable[Slice], keyword: str, nouns: tuple[str, str], name: str, notes: list[str]) -> str | None:
    """The one value of an identity (``nouns``: what it tells apart, one and many), or None where no image has it."""
    values = Counter(str(s.header.get(keyword) or "").strip() for s in slices)
    silent = values.pop("", 0)
    if len(values) > 1:  # how many, not who: identities do not belong in a message that may end in a log
        raise StudyError(
            f"{name}: the folder holds images of {len(values)} {nouns[1]}. One study of one patient is needed: choose "
            "a folder that holds only that study"
        )
    if not values:
        return None
    if silent:  # some workstations leave it out of the maps that they derive
        notes.append(f"{count(silent, 'image')} without {keyword}: taken for the same {nouns[0]} as the others")
    return next(iter(values))


def _slices_of(path: Path, dataset: Dataset) -> Iterator[Slice]:
    frames = int(number(dataset.get("NumberOfFrames")) or 1)
    if "PerFrameFunctionalGroupsSequence" not in dataset:
        if frames > 1:
            raise StudyError(
                f"{path.name}: {frames} frames in one file without the functional groups that place them; export "
                "the series as Enhanced MR or as single images"
            )
        b_value = b_value_of(dataset)
        yield Slice(path, dataset, dataset, None, kind_of(dataset, b_value), b_value)
        return
    groups = dataset.PerFrameFunctionalGroupsSequence
    if len(groups) != frames:
        raise StudyError(f"{path.name}: the header places {len(groups)} of {frames} frames; export the series again")
    shared = dataset.get("SharedFunctionalGroupsSequence") or [Dataset()]
    for index, group in enumerate(groups):
        header = _flat(dataset, shared[0], group)
        b_value = b_value_of(header)
        yield Slice(path, header, dataset, index, kind_of(header, b_value), b_value)


_TOP_LEVEL = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "PatientID",
    "StudyDate",
    "Modality",
    "Manufacturer",
    "SeriesDescription",
    "ProtocolName",
    "SeriesNumber",
    "ImageType",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "MagneticFieldStrength",
    "ScanningSequence",
    "EchoPulseSequence",
    "ContrastBolusAgent",
    "DerivationDescription",
)


def _flat(dataset: Dataset, *groups: Dataset) -> Dataset:
    """One frame of an enhanced file as if it were a classic one: its functional groups, laid flat."""
    flat = Dataset()
    for keyword in _TOP_LEVEL:
        if keyword in dataset:
            flat[keyword] = dataset[keyword]
    for group in groups:
        for element in group:
            if element.VR == "SQ" and len(element.value):
                flat.update({inner.tag: inner for inner in element.value[0]})
            elif element.VR != "SQ":
                flat[element.tag] = element
    if "FrameType" in flat:
        flat.ImageType = flat.FrameType
    if "EffectiveEchoTime" in flat:
        flat.EchoTime = str(flat.EffectiveEchoTime)
    return flat


def _stacks_of(slices: Iterable[Slice]) -> Iterator[Stack]:
    series: dict[str, list[Slice]] = {}
    for one in slices:
        series.setdefault(str(one.header.get("SeriesInstanceUID")), []).append(one)
    for images in series.values():
        members = _with_described_b_value(images)
        planes = Counter(one.plane for one in members)
        if len(planes) > 1 and planes.most_common(1)[0][1] < 0.8 * len(members):
            yield Stack(tuple(members), "localizer")
            continue
        groups: dict[tuple[Kind, float | None], list[Slice]] = {}
        for one in members:
            groups.setdefault((one.kind, one.b_value if one.kind == "dwi" else None), []).append(one)
        for (kind, b_value), group in groups.items():
            yield from _split_repeats(group, kind, b_value)


def _with_described_b_value(members: list[Slice]) -> list[Slice]:
    """The images of a series; where none says more than b0, with the b-value that the description names.

    Some writers leave 0 in the tag, in calculated images above all. Beside images of a higher b-value it is meant.
    """
    if any(one.b_value for one in members):
        return members
    named = [described_b_value(one.header) if one.b_value == 0 else None for one in members]
    return [
        replace(one, kind=kind_of(one.header, value), b_value=value) if value else one
        for one, value in zip(members, named, strict=True)
    ]


def _split_repeats(group: list[Slice], kind: Kind, b_value: float | None) -> Iterator[Stack]:
    """A group whose positions repeat is several volumes (echoes, time points, directions): one stack for each."""
    positions = {one.height for one in group}
    repeats = len(group) / len(positions)
    if kind in ("dce", "other", "localizer"):
        te = number(group[0].header.get("EchoTime"))
        dynamic = kind == "other" and repeats >= 3 and te is not None and te < 20
        yield Stack(tuple(group), "dce" if dynamic else kind, frames=max(1, round(repeats)))
        return
    for key in _SPLIT_KEYS if repeats > 1 else ():
        parts: dict[Hashable, list[Slice]] = {}
        for one in group:
            parts.setdefault(key(one.header), []).append(one)
        if len(parts) > 1 and all(len(p) == len({one.height for one in p}) == len(positions) for p in parts.values()):
            if key is not _gradient or kind != "dwi":
                for part in parts.values():
                    yield Stack(tuple(part), kind, b_value)
                return
            trace = [part for how, part in parts.items() if _is_trace(how)]
            if trace:
                yield Stack(tuple(trace[0]), kind, b_value)
            else:
                every = tuple(tuple(part) for part in parts.values())
                yield Stack(every[0], kind, b_value, directions=every)
            return
    yield Stack(tuple(group), kind, b_value)


def _gradient(header: Dataset) -> Hashable:
    direction = header.get("DiffusionGradientOrientation")
    if direction is None and (items := header.get("DiffusionGradientDirectionSequence")):
        direction = items[0].get("DiffusionGradientOrientation")
    if direction is None:
        direction = private(header, 0x0019, "SIEMENS MR HEADER", 0x0E, "siemens")
    how = header.get("DiffusionDirectionality") or private(header, 0x0019, "SIEMENS MR HEADER", 0x0D, "siemens") or ""
    how = how.decode("ascii", "replace") if isinstance(how, bytes) else str(how)
    return how.strip().upper(), str(direction)


def _is_trace(gradient: Hashable) -> bool:
    return isinstance(gradient, tuple) and gradient[0] == "ISOTROPIC"


_SPLIT_KEYS: tuple[Callable[[Dataset], Hashable], ...] = (
    lambda h: str(h.get("EchoTime")),
    lambda h: str(h.get("TemporalPositionIdentifier", h.get("TemporalPositionIndex"))),
    _gradient,
    lambda h: str(h.get("AcquisitionNumber")),
    lambda h: image_type(h),
)


# ---------------------------------------------------------------------------------------------------------------------
# Which stack for which role


def choose(folder: DicomFolder, role: Role, wanted: str | None = None) -> tuple[Stack, SeriesChoice] | None:
    """The stack for a role with the explanation of the choice, or None when the folder has none.

    Args:
        folder: from :func:`scan`.
        role: what is looked for. Only axial stacks are considered unless ``wanted`` names one.
        wanted: a series number, or a series UID; ``7:b800`` names one b-value of series 7.

    Raises:
        StudyError: the wanted series does not exist, is ambiguous or has no such b-value.
    """
    if wanted is not None:
        return _wanted(folder, role, wanted)
    rank = {"t2w": _t2w_rank, "adc": _adc_rank, "hbv": _high_b_rank}[role]
    kind = {"t2w": "t2w", "adc": "adc", "hbv": "dwi"}[role]
    candidates = [s for s in folder.stacks if s.kind == kind and s.plane == "axial"]
    usable = [s for s in candidates if role != "hbv" or _can_be_high_b(s)]
    if not usable:
        return None
    ranked = sorted(usable, key=rank)
    best = ranked[0]
    # Acquired lower b-values stay in the list: they tell the reader what a calculated image was made from.
    others = ranked[1:] + sorted((s for s in candidates if s not in usable), key=lambda s: -(s.b_value or 0))
    return best, SeriesChoice(role, best.label, _reason(best, role, len(usable)), tuple(s.label for s in others))


def _can_be_high_b(stack: Stack) -> bool:
    return stack.calculated is True if stack.b_value is None else stack.b_value >= LOWEST_USABLE_HIGH_B


def _reason(stack: Stack, role: Role, candidates: int) -> str:
    if role == "hbv":
        if stack.b_value is None:
            return "a calculated high-b image; the header does not tell its b-value"
        if stack.b_value < HIGH_B:
            return f"the highest b-value there is, below the {HIGH_B:.0f} that PI-RADS asks for"
        return f"the highest b-value of at least {HIGH_B:.0f}"
    if candidates == 1:
        return f"the only axial {ROLE_NAMES[role]} series"
    return (
        "the finest in plane, then the fullest, then the latest axial T2W"
        if role == "t2w"
        else ("the ADC map of the standard b-values, then the fullest, then the latest")
    )


def _t2w_rank(stack: Stack) -> tuple[Any, ...]:
    text = stack.description.lower()
    # Fat-saturated and single-shot T2W are not the PI-RADS T2W; a field of view over 26 cm is the pelvic overview.
    special = bool(re.search(r"haste|ssfse|single.?shot|(?<![a-z])fs(?![a-z])|fat.?sat|spair|stir|dixon", text))
    spacing = pixel_spacing(stack.header) or (9.0, 9.0)
    wide = spacing[0] * float(stack.header.get("Rows") or 0) > 260
    return (len(stack.slices) < 3, special, wide, round(max(spacing), 2), -len(stack.slices), -(stack.number or 0))


def _adc_rank(stack: Stack) -> tuple[Any, ...]:
    source = source_b_values(stack.header)
    above = bool(source and max(source) > 1000) or "highb" in stack.description.lower()
    return (len(stack.slices) < 3, above, -len(stack.slices), -(stack.number or 0))


def _high_b_rank(stack: Stack) -> tuple[Any, ...]:
    b_value = stack.b_value
    bucket = 1 if b_value is None else (0 if b_value >= HIGH_B else 2)
    return (len(stack.slices) < 3, bucket, -(b_value or 0), stack.calculated is True, -(stack.number or 0))


def _wanted(folder: DicomFolder, role: Role, wanted: str) -> tuple[Stack, SeriesChoice]:
    series, _, b_text = str(wanted).strip().partition(":")
    matching = [s for s in folder.stacks if series in (s.uid, str(s.number))]
    name = ROLE_NAMES[role]
    if not matching:
        raise StudyError(f"{folder.name}: there is no series {series} for {name}. Found: {folder.found}")
    if len({s.uid for s in matching}) > 1:
        raise StudyError(f"{folder.name}: series number {series} occurs more than once; give the series UID for {name}")
    if b_text:
        b_value = number(b_text.strip().lower().removeprefix("b"))
        chosen = [s for s in matching if s.b_value is not None and s.b_value == b_value]
        if not chosen:
            there = ", ".join(f"b{s.b_value:.0f}" for s in matching if s.b_value is not None) or "none"
            raise StudyError(f"{folder.name}: series {series} has no b-value {b_text} (found: {there})")
    else:
        kind = {"t2w": "t2w", "adc": "adc", "hbv": "dwi"}[role]
        chosen = sorted(matching, key=lambda s: (s.kind != kind, -(s.b_value or 0)))
    others = tuple(s.label for s in folder.stacks if s.kind == chosen[0].kind and s is not chosen[0])
    return chosen[0], SeriesChoice(role, chosen[0].label, "chosen by hand", others)


def _kind_words(stack: Stack) -> str:
    if stack.kind == "dwi":
        return "DWI" if stack.b_value is None else f"DWI b{stack.b_value:.0f}"
    words = {
        "t2w": f"{stack.plane or 'unplaced'} T2W",
        "adc": "ADC",
        "dce": "DCE",
        "localizer": "localizer",
        "other": "other",
    }
    return words[stack.kind]


def acquisition_header(stack: Stack, folder: DicomFolder, role: str, spacing: float | None) -> AcquisitionHeader:
    """The acquisition facts of a stack; ``spacing`` is the measured distance of its slices in mm."""
    header = stack.header
    pixel = pixel_spacing(header)
    matrix = [int(v) for v in header.get("AcquisitionMatrix") or () if int(v)]
    field_strength = number(header.get("MagneticFieldStrength"))
    modality = header.get("Modality")
    b_values: tuple[float, ...] = ()
    if role == "adc":
        b_values = source_b_values(header)
    elif role == "hbv":
        b_values = folder.acquired_b_values
    return AcquisitionHeader(
        role=role,
        manufacturer=str(header.get("Manufacturer") or "").strip() or None,
        # Some scanners write gauss.
        field_strength_t=field_strength / 1e4 if field_strength and field_strength > 100 else field_strength,
        tr_ms=number(header.get("RepetitionTime")),
        te_ms=number(header.get("EchoTime")),
        slice_thickness_mm=number(header.get("SliceThickness")),
        slice_spacing_mm=spacing,
        pixel_spacing_mm=pixel,
        fov_mm=(pixel[0] * int(header.Rows), pixel[1] * int(header.Columns)) if pixel else None,
        b_value=stack.b_value if role == "hbv" else None,
        b_values=b_values or None,
        calculated=stack.calculated if role == "hbv" else None,
        series_number=stack.number,
        series_uid=stack.uid or None,
        description=stack.description or None,
        modality=str(modality) if modality else None,
        acquisition_matrix=(matrix[0], matrix[1]) if len(matrix) == 2 else None,
        orientation=stack.plane,
        frame_of_reference_uid=str(header.get("FrameOfReferenceUID") or "") or None,
    )


def dynamic_header(folder: DicomFolder) -> AcquisitionHeader | None:
    """Acquisition facts of the dynamic series (never read), or None without one."""
    found = folder.dynamic()
    if found is None:
        return None
    frames, stack = found
    resolution = number(stack.header.get("TemporalResolution"))
    heights = sorted({one.height for one in stack.slices if one.height is not None})
    spacing = (heights[-1] - heights[0]) / (len(heights) - 1) if len(heights) > 1 else None
    return replace(
        acquisition_header(stack, folder, "dce", spacing),
        dce_frames=frames,
        temporal_resolution_s=None if resolution is None else resolution / 1000,
    )
