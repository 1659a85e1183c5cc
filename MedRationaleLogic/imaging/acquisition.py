"""What a header says about an acquisition, and how a choice of series is explained.

The vocabulary that ``study``, ``dicom`` and ``files`` share. ``study`` re-exports it: import from there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

Role = Literal["t2w", "adc", "hbv"]
ROLES: tuple[Role, ...] = get_args(Role)
ROLE_NAMES: dict[str, str] = {"t2w": "T2W", "adc": "ADC", "hbv": "high-b"}

HIGH_B = 1400.0
"""b-value in s/mm2 from which PI-RADS v2.1 calls an image high-b, acquired or calculated."""
LOWEST_USABLE_HIGH_B = 500.0
"""Below this an image shows perfusion and T2 more than diffusion: it is never offered as high-b."""


class StudyError(ValueError):
    """The input cannot be read as a study; the text names the file or series, what was expected and what to do."""


@dataclass(frozen=True)
class SeriesChoice:
    """Which image was taken for a role, and why.

    Attributes:
        role: what it was taken for.
        label: the chosen image in a person's words, e.g. ``series 9, calculated b1400``.
        reason: why it was preferred.
        alternatives: what else would have been possible, best first, in the same words.
    """

    role: Role
    label: str
    reason: str
    alternatives: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"{ROLE_NAMES[self.role]}: {self.label}"
        if self.alternatives:
            text += "; " + ", ".join(self.alternatives) + " available"
        return f"{text} ({self.reason})"


@dataclass(frozen=True)
class AcquisitionHeader:
    """Acquisition facts exactly as the header states them; ``None`` where it does not say. Nothing is guessed.

    Image files (NIfTI, MHA, NRRD) say almost nothing here: their voxel size may be a resampled one, so it is left to
    the volume's geometry and does not appear as an acquisition fact.

    Attributes:
        role: ``t2w``, ``adc``, ``hbv``, or ``dce`` for a recognised but unread dynamic series.
        manufacturer: as written.
        field_strength_t: tesla.
        tr_ms, te_ms: repetition and echo time.
        slice_thickness_mm: nominal thickness.
        slice_spacing_mm: distance of slice centres, measured from the slice positions.
        pixel_spacing_mm: (row, column) distance of the stored, possibly interpolated pixels.
        fov_mm: (row direction count x spacing, column direction count x spacing): height and width of the slice.
        b_value: of this image, s/mm2.
        b_values: ADC: the b-values that the header names as the map's source; high-b: all acquired in the study.
        calculated: whether the high-b image was extrapolated rather than acquired.
        acquisition_matrix: (frequency, phase) counts of the measured matrix.
        orientation: ``axial``, ``sagittal`` or ``coronal``: the plane nearest to the slices.
        dce_frames, temporal_resolution_s: of a dynamic series.
    """

    role: str
    manufacturer: str | None = None
    field_strength_t: float | None = None
    tr_ms: float | None = None
    te_ms: float | None = None
    slice_thickness_mm: float | None = None
    slice_spacing_mm: float | None = None
    pixel_spacing_mm: tuple[float, float] | None = None
    fov_mm: tuple[float, float] | None = None
    b_value: float | None = None
    b_values: tuple[float, ...] | None = None
    calculated: bool | None = None
    series_number: int | None = None
    series_uid: str | None = None
    description: str | None = None
    modality: str | None = None
    acquisition_matrix: tuple[int, int] | None = None
    orientation: str | None = None
    frame_of_reference_uid: str | None = field(default=None, repr=False)
    dce_frames: int | None = None
    temporal_resolution_s: float | None = None


def plane_of(normal: tuple[float, float, float]) -> str:
    """The anatomical plane nearest to slices with this normal (LPS): ``sagittal``, ``coronal`` or ``axial``."""
    sizes = [abs(component) for component in normal]
    return ("sagittal", "coronal", "axial")[sizes.index(max(sizes))]


def count(number: int, noun: str) -> str:
    """``1 file``, ``3 files``."""
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun}" + ("" if noun.endswith("series") else "s")
