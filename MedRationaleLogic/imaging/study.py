"""A prostate MRI study: finds T2W, ADC and high-b in a DICOM folder or among image files, reads and checks them.

Any subset of the three is a study. What was chosen and why, what the headers say, and what was odd but tolerable is
kept with it; what is not tolerable is a :class:`StudyError` that names the file or series.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from MedRationaleLogic.imaging import files as image_files
from MedRationaleLogic.imaging.acquisition import (
    HIGH_B,
    LOWEST_USABLE_HIGH_B,
    ROLE_NAMES,
    ROLES,
    AcquisitionHeader,
    Role,
    SeriesChoice,
    StudyError,
    count,
    plane_of,
)
from MedRationaleLogic.imaging.volume import Volume

if TYPE_CHECKING:
    from MedRationaleLogic.imaging.dicom import DicomFolder

__all__ = [
    "AcquisitionHeader",
    "GeometryCheck",
    "InputRecord",
    "Role",
    "SeriesChoice",
    "Study",
    "StudyError",
    "adc_in_standard_units",
    "check_geometry",
    "read_study",
    "study_from_volumes",
]

MAX_BAD_SHARE = 0.01
"""Share of NaN or infinite voxels up to which they are replaced; above, the image is refused."""

OVERLAP_FLAG = 0.8
"""Share of the T2W's central region that ADC or high-b must cover to pass without a flag."""
OVERLAP_REFUSED = 0.2
"""Below this share the images do not show the same place, and nothing sensible can be fused."""

# Power of ten that brings stored ADC values to 1e-6 mm2/s -> the unit's name.
_ADC_UNITS = {
    1.0: "1e-6 mm2/s",
    1e3: "1e-3 mm2/s",
    1e6: "mm2/s",
    10.0: "1e-5 mm2/s",
    0.1: "1e-7 mm2/s (scaled by 10)",
    1e-3: "1e-9 mm2/s (scaled by 1000)",
}
# Upper-quartile ADC in the middle of a pelvis, 1e-6 mm2/s. Narrower than a decade, so that at most one unit fits.
_TISSUE_ADC = (450.0, 3500.0)


@dataclass(frozen=True)
class InputRecord:
    """Where one volume came from, for provenance: no path, no identity.

    Attributes:
        role: what it was used for.
        name: file name, or the series in a person's words.
        series_uid: SeriesInstanceUID; None for image files.
        sha256: over voxel values and geometry as used (:attr:`Volume.sha256`).
    """

    role: Role
    name: str
    series_uid: str | None
    sha256: str


@dataclass(frozen=True, eq=False)
class Study:
    """One prostate MRI as the road needs it.

    Attributes:
        name: what a person calls it (folder or file name unless given).
        t2w, hbv: volumes in the stored integer type or float32; None where absent.
        adc: float32, always in 1e-6 mm2/s; None where absent.
        headers: by role, and ``dce`` where a dynamic series was recognised.
        choices: which series or file was taken for each role, and why.
        notes: what was odd and how it was handled, for the reader.
        patient_id, study_uid: from DICOM; kept out of ``repr`` and never logged.
        study_date: ``YYYY-MM-DD``.
        psa: ng/ml, as given by the caller.
        orthogonal_t2w: sagittal and coronal T2W that exist (not read).
        dce_frames: time points of a dynamic series (not read); None where there is none or nothing says so.
        inputs: provenance of the volumes.
    """

    name: str
    t2w: Volume | None = None
    adc: Volume | None = None
    hbv: Volume | None = None
    headers: Mapping[str, AcquisitionHeader] = field(default_factory=dict)
    choices: tuple[SeriesChoice, ...] = ()
    notes: tuple[str, ...] = ()
    patient_id: str | None = field(default=None, repr=False)
    study_uid: str | None = field(default=None, repr=False)
    study_date: str | None = field(default=None, repr=False)
    psa: float | None = None
    orthogonal_t2w: tuple[str, ...] = ()
    dce_frames: int | None = None
    inputs: tuple[InputRecord, ...] = ()

    def __post_init__(self) -> None:
        if not self.roles:
            raise StudyError(f"{self.name}: a study needs at least one of T2W, ADC and high-b")

    @property
    def roles(self) -> tuple[Role, ...]:
        """The sequences that are there, in the order T2W, ADC, high-b."""
        return tuple(role for role in ROLES if self.volume(role) is not None)

    def volume(self, role: Role) -> Volume | None:
        """The volume of a role, or None."""
        return {"t2w": self.t2w, "adc": self.adc, "hbv": self.hbv}[role]

    @property
    def frame(self) -> Volume:
        """The volume on whose grid masks and evidence live: T2W, else ADC, else high-b."""
        found = self.volume(self.roles[0])
        assert found is not None
        return found

    def with_shift(self, role: Role, lps_mm: ArrayLike) -> Study:
        """The study with ADC or high-b moved by hand.

        Its provenance and its note on the overlap are those of where the volume lies afterwards.

        Args:
            role: ``adc`` or ``hbv``; not the sequence that is the frame.
            lps_mm: (x, y, z) in mm, patient frame LPS, added to where the volume lies now.

        Raises:
            StudyError: T2W (or whatever is the frame), an absent sequence, or not three finite numbers.
        """
        volume = self.volume(role)
        if volume is None:
            raise StudyError(f"{self.name}: there is no {ROLE_NAMES[role]} to move")
        if role == self.roles[0]:
            raise StudyError(f"{self.name}: {ROLE_NAMES[role]} is the frame of reference; move the other sequences")
        shift = np.asarray(lps_mm, dtype=float)
        if shift.shape != (3,) or not np.isfinite(shift).all():
            raise StudyError(f"{self.name}: a shift is three finite numbers (x, y, z) in millimetres")
        if not shift.any():
            return self
        x, y, z = (float(v) for v in np.asarray(volume.geometry.origin) + shift)
        moved = Volume(volume.array, replace(volume.geometry, origin=(x, y, z)), volume.name, volume.metadata)
        left, back, up = shift
        note = f"{ROLE_NAMES[role]} moved by hand: {left:+.1f} mm left, {back:+.1f} mm back, {up:+.1f} mm up"
        volumes: dict[str, Any] = {role: moved}
        inputs = tuple(replace(i, sha256=moved.sha256) if i.role == role else i for i in self.inputs)
        study = replace(self, inputs=inputs, **volumes)
        known = (n for n in self.notes if not n.startswith(f"{_pair(study, role)}{_OVERLAP_IN_PART}"))
        return replace(study, notes=(*known, *_overlap_notes(study, role, _coverage(study, role)), note))

    def with_psa(self, psa: float | None) -> Study:
        """The study with another PSA (ng/ml).

        Raises:
            StudyError: the value is not a positive number.
        """
        return replace(self, psa=_checked_psa(psa))


@dataclass(frozen=True)
class GeometryCheck:
    """How the sequences lie to each other.

    Attributes:
        coverage: role -> share (0..1) of the frame's central region that the sequence covers.
        notes: what the reader should know.
    """

    coverage: Mapping[Role, float]
    notes: tuple[str, ...]


@dataclass
class _Parts:
    """What has been collected so far; becomes a Study."""

    volumes: dict[Role, Volume] = field(default_factory=dict)
    headers: dict[str, AcquisitionHeader] = field(default_factory=dict)
    choices: dict[Role, SeriesChoice] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    identity: dict[str, str | None] = field(default_factory=dict)
    orthogonal_t2w: tuple[str, ...] = ()
    dce_frames: int | None = None


def read_study(
    path: Path | str | None = None,
    *,
    t2w: Path | str | None = None,
    adc: Path | str | None = None,
    hbv: Path | str | None = None,
    psa: float | None = None,
    series: Mapping[Role, str] | None = None,
    name: str | None = None,
) -> Study:
    """Reads a study from a folder, from single files, or from a folder with single files in place of its own.

    Args:
        path: a folder of DICOM files (any number of series, nested) or of image files with telling names; or one
            image file with a telling name.
        t2w, adc, hbv: an image file, or a DICOM folder, for this role; wins over what ``path`` holds.
        psa: ng/ml.
        series: overrides the choice of DICOM series by role: series number or UID, with ``:b800`` for one b-value.
        name: what to call the study; the folder's or file's name by default.

    Returns:
        The study, its geometry checked. ADC is float32 in 1e-6 mm2/s whatever the stored unit.

    Raises:
        StudyError: nothing usable, or any input that is broken, ambiguous or not an MRI; ``docs/bad-input.md`` lists
            them all.
    """
    given = {r: Path(p) for r, p in zip(ROLES, (t2w, adc, hbv), strict=True) if p is not None}
    wanted = dict(series or {})
    for role in wanted:
        if role not in ROLES:
            raise StudyError(f"'{role}' is not a role; series can be chosen for {', '.join(ROLES)}")
    if path is None and not given:
        raise StudyError("nothing to read: give a study folder, or T2W, ADC or high-b files")
    psa = _checked_psa(psa)
    parts = _Parts()
    if path is not None:
        _read_path(Path(path), parts, wanted, skip=frozenset(given))
    elif wanted:
        raise StudyError("a series can be chosen only from a DICOM study folder; give the folder")
    for role, source in given.items():
        _read_given(source, role, parts)
    source = Path(path) if path is not None else next(iter(given.values()))
    title = name or (image_files.stem(source) if source.is_file() else source.resolve().name)
    return _checked_study(title, parts, psa)


def study_from_volumes(
    name: str,
    volumes: Mapping[Role, Volume],
    *,
    headers: Mapping[str, AcquisitionHeader] | None = None,
    choices: Iterable[SeriesChoice] = (),
    notes: Iterable[str] = (),
    psa: float | None = None,
    patient_id: str | None = None,
    study_uid: str | None = None,
    study_date: str | None = None,
) -> Study:
    """A study of volumes that somebody else has read, through the same checks and cleaning as files.

    Args:
        name: what to call the study.
        volumes: by role, any stored unit, grid and order of axes; named as a person knows them.
        headers: acquisition facts, by role and ``dce``; where one is missing, only the orientation is known.
        choices: why each volume was taken; "given by role" where nothing is said.
        notes: what the reader should know already.
        psa: ng/ml.
        patient_id, study_uid, study_date: from DICOM, where known.

    Returns:
        The study, its geometry checked. ADC is float32 in 1e-6 mm2/s whatever the stored unit.

    Raises:
        StudyError: no volume, or one that is 2D, not axial, not an MRI, empty, or in another place than the others.
    """
    if not any(role in volumes for role in ROLES):
        raise StudyError(f"{name}: a study needs at least one of T2W, ADC and high-b")
    psa = _checked_psa(psa)
    said = {choice.role: choice for choice in choices}
    parts = _Parts(notes=list(notes), headers=dict(headers or {}))
    parts.identity = {"patient_id": patient_id, "study_uid": study_uid, "study_date": study_date}
    for role in ROLES:
        if role not in volumes:
            continue
        volume = _in_slice_order(volumes[role], role, parts.notes)
        parts.volumes[role] = volume
        parts.choices[role] = said.get(role, SeriesChoice(role, volume.name, "given by role"))
        if role not in parts.headers:
            parts.headers[role] = AcquisitionHeader(role=role, orientation=_plane(volume))
    dynamic = parts.headers.get("dce")
    parts.dce_frames = dynamic.dce_frames if dynamic is not None else None
    return _checked_study(name, parts, psa)


def _in_slice_order(volume: Volume, role: Role, notes: list[str]) -> Volume:
    """A volume as :func:`~MedRationaleLogic.imaging.files.read_image` would give it."""
    name = volume.name or ROLE_NAMES[role]
    if 1 in volume.array.shape:
        raise StudyError(f"{name}: a 2D image is not a volume; give the whole series")
    if volume.array.dtype in (np.float64, np.int64, np.uint64):
        volume = volume.with_array(volume.array.astype(np.float32))
    image = volume.to_sitk()
    ordered = image_files.slices_first(image, name, role, notes)
    return volume if ordered is image else Volume.from_sitk(ordered, volume.name, volume.metadata)


def _checked_study(name: str, parts: _Parts, psa: float | None) -> Study:
    """What was collected, cleaned, in the standard unit, and held against each other."""
    for role, volume in parts.volumes.items():
        parts.volumes[role] = _clean(volume, role, parts.notes)
    if (found := parts.volumes.get("adc")) is not None:
        values, note = adc_in_standard_units(found.array, found.name)
        parts.volumes["adc"] = found.with_array(values)
        if note:
            parts.notes.append(note)
    _check_high_b(parts)
    study = Study(
        name=name,
        t2w=parts.volumes.get("t2w"),
        adc=parts.volumes.get("adc"),
        hbv=parts.volumes.get("hbv"),
        headers=parts.headers,
        choices=tuple(parts.choices[r] for r in ROLES if r in parts.choices),
        notes=tuple(parts.notes),
        psa=psa,
        orthogonal_t2w=parts.orthogonal_t2w,
        dce_frames=parts.dce_frames,
        inputs=tuple(
            InputRecord(r, parts.volumes[r].name, parts.headers[r].series_uid, parts.volumes[r].sha256)
            for r in ROLES
            if r in parts.volumes
        ),
        patient_id=parts.identity.get("patient_id"),
        study_uid=parts.identity.get("study_uid"),
        study_date=parts.identity.get("study_date"),
    )
    return replace(study, notes=(*study.notes, *check_geometry(study).notes))


def _checked_psa(psa: float | None) -> float | None:
    if psa is not None and not (math.isfinite(psa) and psa > 0):
        raise StudyError(f"PSA must be a positive number in ng/ml, got {psa}")
    return None if psa is None else float(psa)


# ---------------------------------------------------------------------------------------------------------------------
# Collecting


def _read_path(path: Path, parts: _Parts, wanted: Mapping[Role, str], skip: frozenset[Role]) -> None:
    if not path.exists():
        raise StudyError(f"{path.name}: there is no such file or folder")
    if path.is_file():
        if not image_files.is_image_file(path):
            raise StudyError(
                f"{path.name}: not a study. Give the folder that holds the DICOM study, or image files "
                f"({', '.join(image_files.SUFFIXES)}) by role"
            )
        named = image_files.parse_name(path)
        if named is None or named.role is None:
            raise StudyError(
                f"{path.name}: the file name does not tell the sequence; give it by role (T2W, ADC or high-b)"
            )
        _take_file(named, SeriesChoice(named.role, named.label, "by its file name"), (), parts)
        return
    every = sorted(p for p in path.rglob("*") if p.is_file() and not _is_hidden(p, path))
    images = [p for p in every if image_files.is_image_file(p)]
    candidates = [p for p in every if p not in set(images)]
    dicom = _scan(candidates, path.name, required=not images) if candidates else None
    if dicom is not None:
        if images:
            parts.notes.append(f"{count(len(images), 'image file')} ignored: the folder holds a DICOM study")
        _take_dicom(dicom, ROLES, wanted, skip, parts)
        junk = len(dicom.unread)
    else:
        if wanted:
            raise StudyError(f"{path.name}: a series can be chosen only from DICOM, and the folder holds none")
        direct = [p for p in images if p.parent == path]
        choice = image_files.choose(direct, path.name) or image_files.choose(images, path.name)
        if choice is None:
            if skip:
                return
            raise StudyError(
                f"{path.name}: no study found: {image_files.looks_like_images(every)}. Give a DICOM folder, or files "
                "named like t2w.nii.gz, adc.nii.gz, hbv.nii.gz, or files by role"
            )
        for one in choice.choices:
            if one.role not in skip:
                _take_file(choice.files[one.role], one, choice.b_values, parts)
        parts.orthogonal_t2w = choice.orthogonal_t2w
        # Tables, sidecars and pictures beside images are usual and not worth a word.
        junk = 0
    if junk:
        parts.notes.append(f"{count(junk, 'file')} neither DICOM nor an image: ignored")


def _is_hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.relative_to(root).parts)


def _scan(files: list[Path], name: str, required: bool = True) -> DicomFolder | None:
    from MedRationaleLogic.imaging import dicom  # pydicom costs a tenth of a second that image files need not pay

    return dicom.scan(files, name, required)


def _take_dicom(
    folder: DicomFolder, roles: tuple[Role, ...], wanted: Mapping[Role, str], skip: frozenset[Role], parts: _Parts
) -> None:
    from MedRationaleLogic.imaging import dicom, dicom_pixels

    taken = 0
    for role in roles:
        found = None if role in skip else dicom.choose(folder, role, wanted.get(role))
        if found is None:
            continue
        stack, choice = found
        volume, notes = dicom_pixels.load(stack)
        parts.volumes[role] = volume
        parts.choices[role] = choice
        parts.headers[role] = dicom.acquisition_header(stack, folder, role, volume.geometry.spacing[0])
        parts.notes.extend(notes)
        taken += 1
    if not taken and not skip:
        names = " or ".join(f"axial {ROLE_NAMES[r]}" for r in roles)
        raise StudyError(f"{folder.name}: no {names} series. Found: {folder.found}")
    identity = {"patient_id": folder.patient_id, "study_uid": folder.study_uid, "study_date": folder.study_date}
    for key, value in identity.items():
        if value is not None and parts.identity.setdefault(key, value) != value:
            noun = "patients" if key == "patient_id" else "studies"
            raise StudyError(f"{folder.name}: the inputs come from different {noun}; give images of one study")
    parts.notes.extend(folder.notes)
    parts.orthogonal_t2w = parts.orthogonal_t2w or folder.orthogonal_t2w
    dynamic = dicom.dynamic_header(folder)
    if dynamic is not None:
        parts.headers["dce"] = dynamic
        parts.dce_frames = dynamic.dce_frames


def _take_file(file: image_files.NamedFile, choice: SeriesChoice, others: tuple[float, ...], parts: _Parts) -> None:
    role = choice.role
    volume, b_value, b_values, notes = image_files.read_image(file.path, role)
    parts.volumes[role] = volume
    parts.choices[role] = choice
    parts.notes.extend(notes)
    header = AcquisitionHeader(role=role, orientation=_plane(volume))
    if role == "hbv":
        header = replace(
            header,
            b_value=file.b_value if b_value is None else b_value,
            b_values=b_values or others or None,
        )
        if b_value is not None:
            parts.choices[role] = replace(choice, label=f"{file.path.name}, b{b_value:.0f}")
    parts.headers[role] = header


def _plane(volume: Volume) -> str:
    x, y, z = (float(v) for v in np.asarray(volume.geometry.direction).reshape(3, 3)[:, 2])
    return plane_of((x, y, z))


def _read_given(source: Path, role: Role, parts: _Parts) -> None:
    if not source.exists():
        raise StudyError(f"{source.name}: there is no such file ({ROLE_NAMES[role]})")
    if source.is_dir():
        files = sorted(p for p in source.rglob("*") if p.is_file() and not _is_hidden(p, source))
        folder = _scan(files, source.name)
        if folder is None:
            raise StudyError(f"{source.name}: no DICOM images for {ROLE_NAMES[role]}; give an image file or a series")
        _take_dicom(folder, (role,), {}, frozenset(), parts)
        return
    parsed = image_files.parse_name(source)
    b_value = parsed.b_value if parsed is not None and role == "hbv" else None
    file = image_files.NamedFile(source, (), role, b_value=b_value)
    _take_file(file, SeriesChoice(role, file.label, "given by role"), (), parts)


def _check_high_b(parts: _Parts) -> None:
    """Notes a b-value that is unknown or under PI-RADS's; refuses one that shows no diffusion, though asked for it."""
    header = parts.headers.get("hbv")
    if header is None or "hbv" not in parts.volumes:
        return
    if header.b_value is None:
        parts.notes.append("high-b: the b-value is not known from the input")
    elif header.b_value < LOWEST_USABLE_HIGH_B:
        raise StudyError(
            f"{parts.volumes['hbv'].name}: b{header.b_value:.0f} shows perfusion and T2 more than diffusion and cannot "
            f"stand for high-b; give an image of b{HIGH_B:.0f} or more (b{LOWEST_USABLE_HIGH_B:.0f} the least), or the "
            "study without it"
        )
    elif header.b_value < HIGH_B:
        parts.notes.append(f"high-b: b{header.b_value:.0f} is below the {HIGH_B:.0f} s/mm2 that PI-RADS v2.1 asks for")


# ---------------------------------------------------------------------------------------------------------------------
# Checking values


def _clean(volume: Volume, role: Role, notes: list[str]) -> Volume:
    """Refuses constant and CT-like images; replaces a few NaN or infinite voxels by their nearest finite neighbour."""
    array = volume.array
    name = f"{volume.name} ({ROLE_NAMES[role]})"
    if np.issubdtype(array.dtype, np.floating):
        finite = np.isfinite(array)
        bad = int(array.size - np.count_nonzero(finite))
        if bad:
            share = bad / array.size
            if share >= MAX_BAD_SHARE:
                raise StudyError(
                    f"{name}: {share:.1%} of the voxels are NaN or infinite (at most {MAX_BAD_SHARE:.0%} can be "
                    "repaired); export the image again"
                )
            array = _filled(array, finite)
            notes.append(f"{name}: {count(bad, 'voxel')} NaN or infinite, replaced by the nearest finite value")
            volume = volume.with_array(array)
    if array.min() == array.max():
        raise StudyError(f"{name}: every voxel is {array.flat[0]}; the image is empty, export it again")
    if np.issubdtype(array.dtype, np.signedinteger) or np.issubdtype(array.dtype, np.floating):
        air = float(np.mean(array < -500))  # MR magnitudes are not negative; air in a CT is near -1000 HU
        if air > 0.05:
            raise StudyError(f"{name}: {air:.0%} of the voxels are below -500, as in a CT; a prostate MRI is needed")
    return volume


def _filled(array: NDArray[Any], finite: NDArray[np.bool_]) -> NDArray[Any]:
    from scipy.ndimage import distance_transform_edt

    # Zero would look like marked diffusion restriction in an ADC map; a neighbour invents nothing.
    nearest = distance_transform_edt(~finite, return_distances=False, return_indices=True)
    return array[tuple(nearest)]


def adc_in_standard_units(array: NDArray[Any], name: str = "ADC") -> tuple[NDArray[np.float32], str | None]:
    """ADC values in 1e-6 mm2/s, the stored unit recognised by the range of tissue.

    The upper quartile of the positive voxels in the middle of a pelvic image lies near 1.0 to 1.4e-3 mm2/s; the one
    power of ten that puts it between 0.45 and 3.5e-3 mm2/s is the unit.

    Args:
        array: (z, y, x), any unit.
        name: for messages.

    Returns:
        float32 values in 1e-6 mm2/s, and a note where they had to be scaled.

    Raises:
        StudyError: no unit brings the values into the range of tissue.
    """
    _, height, width = array.shape
    middle = array[:, height // 4 : height - height // 4, width // 4 : width - width // 4]
    positive = middle[middle > 0]
    if positive.size < 0.01 * middle.size:
        positive = array[array > 0]
    typical = float(np.percentile(positive, 75)) if positive.size else 0.0
    for factor, unit in _ADC_UNITS.items():
        if _TISSUE_ADC[0] <= typical * factor < _TISSUE_ADC[1]:
            values = array.astype(np.float32)
            if factor == 1.0:
                return values, None
            return values * np.float32(factor), f"{name}: ADC stored in {unit}, recognised by its range and converted"
    raise StudyError(
        f"{name}: the values do not look like an ADC map in any usual unit (tissue is near {typical:.4g}, expected "
        "about 1000 in 1e-6 mm2/s or 1 in 1e-3 mm2/s); check that the right series was given"
    )


# ---------------------------------------------------------------------------------------------------------------------
# Checking geometry


def check_geometry(study: Study) -> GeometryCheck:
    """How well the sequences overlap in the patient, whatever their orientation, and whether the spacing is sane.

    The central region of the frame (T2W where present) is its middle half in plane and middle 70 % of slices: there
    the prostate lies. Coverage is the share of that region that lies inside the other volume's field of view.

    Raises:
        StudyError: coverage below 20 %, or spacing that no MRI has.
    """
    notes: list[str] = []
    for role in study.roles:
        volume = study.volume(role)
        assert volume is not None
        notes.extend(_spacing_notes(volume, role))
    reference, other_roles = study.roles[0], study.roles[1:]
    coverage = {role: _coverage(study, role) for role in other_roles}
    for role, share in coverage.items():
        if share < OVERLAP_REFUSED:
            raise StudyError(
                f"{study.name}: {_pair(study, role)} do not show the same place: {share:.0%} of the central region of "
                f"{ROLE_NAMES[reference]} is covered. Check that both belong to one examination and keep their position"
            )
        notes.extend(_overlap_notes(study, role, share))
    frames = {r: h.frame_of_reference_uid for r in study.roles if (h := study.headers.get(r)) is not None}
    for role in other_roles:
        if frames.get(role) and frames.get(reference) and frames[role] != frames[reference]:
            notes.append(
                f"{ROLE_NAMES[role]} and {ROLE_NAMES[reference]} have different frames of reference: the patient may "
                "have been repositioned; check the alignment"
            )
    return GeometryCheck(coverage, tuple(notes))


def _coverage(study: Study, role: Role) -> float:
    """The share (0..1) of the frame's central region that a sequence covers."""
    volume = study.volume(role)
    assert volume is not None
    index = volume.geometry.to_index(_central_points(study.frame))
    inside = np.all((index >= -0.5) & (index <= np.asarray(volume.geometry.shape) - 0.5), axis=-1)
    return float(inside.mean())


def _pair(study: Study, role: Role) -> str:
    """A sequence and the frame, in a person's words."""
    volume = study.volume(role)
    assert volume is not None
    return f"{ROLE_NAMES[role]} ({volume.name}) and {ROLE_NAMES[study.roles[0]]} ({study.frame.name})"


_OVERLAP_IN_PART = " overlap only in part: "


def _overlap_notes(study: Study, role: Role, share: float) -> list[str]:
    if share >= OVERLAP_FLAG:
        return []
    return [f"{_pair(study, role)}{_OVERLAP_IN_PART}{share:.0%} of the central region"]


def _central_points(volume: Volume) -> NDArray[np.float64]:
    shares = ((0.15, 0.85, 9), (0.25, 0.75, 15), (0.25, 0.75, 15))
    axes = [np.linspace(a, b, n) * size - 0.5 for (a, b, n), size in zip(shares, volume.geometry.shape, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    return volume.geometry.to_patient(grid)


def _spacing_notes(volume: Volume, role: Role) -> list[str]:
    z, y, x = volume.geometry.spacing
    name = f"{ROLE_NAMES[role]} ({volume.name})"
    if min(z, y, x) < 0.05 or max(z, y, x) > 20:
        raise StudyError(
            f"{name}: a voxel of {z:.4g} x {y:.4g} x {x:.4g} mm (z, y, x) is not an MRI's; is the unit millimetres?"
        )
    notes = []
    if max(y, x) > 4 or z > 8:
        notes.append(f"{name}: coarse voxels of {z:.1f} x {y:.1f} x {x:.1f} mm (z, y, x)")
    if max(y, x) > 1.05 * min(y, x):
        notes.append(f"{name}: pixels are not square ({y:.2f} x {x:.2f} mm)")
    height, width = volume.geometry.extent[1:]
    if min(height, width) < 60:
        notes.append(f"{name}: a field of view of {height:.0f} x {width:.0f} mm may cut the prostate")
    return notes
