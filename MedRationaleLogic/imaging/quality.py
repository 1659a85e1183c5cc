"""Image quality: the acquisition minimums that headers can show, coverage, and the reader's PI-QUAL score.

The checks only *flag*. They read what a header says (PI-RADS v2.1, minimum technical parameters); what it does not say
is "unknown", never "met": a NIfTI file knows no echo time. The visual score, PI-QUAL v2 (de Rooij et al., Eur Radiol
2024), is a reader's and stays "not assessed" until a reader enters it. Lengths in mm, times in ms, b-values in s/mm².
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from .measure import in_field, slice_plane
from .volume import Geometry, Volume

if TYPE_CHECKING:
    from .study import AcquisitionHeader, Role, Study

Status = Literal["met", "below minimum", "unknown", "info"]
"""``info`` states a fact that is neither good nor bad, such as a biparametric protocol."""

Code = tuple[str, str, str]
"""Value, scheme designator, meaning."""

# DICOM PS3.16 CID 6315, series quality finding.
COVERAGE_INCOMPLETE: Code = ("130576", "DCM", "Anatomy coverage incomplete")
POOR_FOV: Code = ("130577", "DCM", "Poor FOV selection")
B_VALUE_MISSING: Code = ("130583", "DCM", "Expected b-value is missing")
ADC_MISSING: Code = ("130585", "DCM", "Expected ADC map is missing")

LENGTH_TOLERANCE_MM = 0.05
"""Headers round: a slice of 3.04 mm counts as one of 3 mm."""
PIXEL_TOLERANCE_MM = 0.005
FOV_TOLERANCE_MM = 1.0
SAME_PLANE_DEGREES = 10.0
"""Two stacks whose slice normals differ by no more than this lie in the same plane (our choice)."""
OVERLAP_MINIMUM = 0.5
"""Share of the smaller field of view that has to lie in the other (our choice; the gland itself is checked later)."""

SEQUENCES: dict[Role, str] = {"t2w": "T2W", "adc": "ADC", "hbv": "DWI"}
"""How flags call the sequence of a role."""
DWI_ROLES = ("hbv", "adc")
"""Where to read how diffusion was acquired, best first."""


@dataclass(frozen=True)
class QualityFlag:
    """One requirement and how a study stands to it.

    Attributes:
        sequence: "T2W", "DWI", "ADC" or "DCE".
        item: what was looked at, for a person.
        status: "met", "below minimum", "unknown" (the header does not say), "info".
        found: what the study has, for a person.
        required: what is asked for, for a person.
        code: CID 6315 code of a shortfall where one fits, else None.
    """

    sequence: str
    item: str
    status: Status
    found: str
    required: str
    code: Code | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; :meth:`from_dict` reads them back unchanged."""
        return {**asdict(self), "code": list(self.code) if self.code else None}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> QualityFlag:
        """The inverse of :meth:`to_dict`."""
        code = data["code"]
        return cls(**{**data, "code": (code[0], code[1], code[2]) if code else None})


@dataclass(frozen=True)
class _Minimum:
    """One row of the table: what to read, when it passes, and how to show it."""

    item: str
    required: str
    read: Callable[[AcquisitionHeader], Any]
    passes: Callable[[Any], bool]
    show: Callable[[Any], str]
    code: Code | None = None


def _mm(value: float) -> str:
    return f"{value:.2f} mm"


def _ms(value: float) -> str:
    return f"{value:g} ms"


def _s(value: float) -> str:
    return f"{value:g} s"


def _pair(value: Iterable[float]) -> str:
    return " x ".join(f"{v:.2f}" for v in value) + " mm"


def _gap(header: AcquisitionHeader) -> float | None:
    if header.slice_spacing_mm is None or header.slice_thickness_mm is None:
        return None
    return header.slice_spacing_mm - header.slice_thickness_mm


def _thickness(limit: float) -> _Minimum:
    return _Minimum(
        "slice thickness",
        f"<= {limit:g} mm",
        lambda h: h.slice_thickness_mm,
        lambda v: v <= limit + LENGTH_TOLERANCE_MM,
        _mm,
    )


def _field_of_view(low: float, high: float) -> _Minimum:
    return _Minimum(
        "field of view",
        f"{low:g}-{high:g} mm",
        lambda h: h.fov_mm,
        lambda v: low - FOV_TOLERANCE_MM <= min(v) and max(v) <= high + FOV_TOLERANCE_MM,
        _pair,
        POOR_FOV,
    )


def _resolution(header: AcquisitionHeader) -> tuple[float, float, str] | None:
    """Pixel (phase, frequency) in mm and where it comes from: the measured matrix, else the stored image.

    Headers rarely name the phase-encoded axis. Its field of view is the one that is cut down, and its pixels are the
    coarser ones, so the shorter side, or the coarser spacing, is taken for it.
    """
    if header.acquisition_matrix is not None and header.fov_mm is not None:
        frequency, phase = header.acquisition_matrix
        if frequency > 0 and phase > 0:
            return min(header.fov_mm) / phase, max(header.fov_mm) / frequency, "measured matrix"
    if header.pixel_spacing_mm is None:
        return None
    return max(header.pixel_spacing_mm), min(header.pixel_spacing_mm), "stored pixels, maybe interpolated"


def _pixels(phase: float, frequency: float) -> _Minimum:
    return _Minimum(
        "in-plane resolution",
        f"<= {phase:g} (phase) x {frequency:g} (frequency) mm",
        _resolution,
        lambda v: v[0] <= phase + PIXEL_TOLERANCE_MM and v[1] <= frequency + PIXEL_TOLERANCE_MM,
        lambda v: f"{_pair(v[:2])} ({v[2]})",
    )


def _observation(header: AcquisitionHeader) -> float | None:
    if header.dce_frames is None or header.temporal_resolution_s is None:
        return None
    return header.dce_frames * header.temporal_resolution_s


_NO_GAP = _Minimum("slice gap", "none", _gap, lambda v: v <= LENGTH_TOLERANCE_MM, lambda v: _mm(v) if v > 0 else "none")

T2W_MINIMUMS = (_thickness(3), _NO_GAP, _field_of_view(120, 200), _pixels(0.7, 0.4))
DWI_MINIMUMS = (
    _thickness(4),
    _NO_GAP,
    _field_of_view(160, 220),
    _pixels(2.5, 2.5),
    _Minimum("echo time", "<= 90 ms", lambda h: h.te_ms, lambda v: v <= 90, _ms),
    _Minimum("repetition time", "> 3000 ms", lambda h: h.tr_ms, lambda v: v > 3000, _ms),
)
DCE_MINIMUMS = (
    _thickness(3),
    _NO_GAP,
    _pixels(2, 2),
    _Minimum("repetition time", "< 100 ms", lambda h: h.tr_ms, lambda v: v < 100, _ms),
    _Minimum("echo time", "< 5 ms", lambda h: h.te_ms, lambda v: v < 5, _ms),
    _Minimum("temporal resolution", "<= 15 s", lambda h: h.temporal_resolution_s, lambda v: v <= 15, _s),
    _Minimum("observation", "> 120 s", _observation, lambda v: v > 120, _s),
)


def check(study: Study) -> tuple[QualityFlag, ...]:
    """Every acquisition minimum of PI-RADS v2.1 that a header can show, T2W then DWI then DCE.

    Args:
        study: sequences that are absent are flagged, not an error.

    Returns:
        One flag per requirement, all statuses; :func:`shortfalls` picks those below the minimum.
    """
    return (*_check_t2w(study), *_check_dwi(study), *_check_dce(study))


def shortfalls(flags: Iterable[QualityFlag]) -> tuple[QualityFlag, ...]:
    """The flags below their minimum."""
    return tuple(flag for flag in flags if flag.status == "below minimum")


def check_coverage(study: Study, zones: Volume) -> tuple[QualityFlag, ...]:
    """Whether the gland is wholly in the images: inside its own stack, and inside every sequence's field of view.

    A gland that reaches the first or last slice, or an edge in the plane, may go on beyond it.

    Args:
        study: the sequences.
        zones: label map of the gland, non-zero inside, on the grid of the study's frame (T2W, else ADC, else high-b).

    Returns:
        One flag for the stack and one per sequence; "unknown" when no gland was segmented.
    """
    frame = SEQUENCES[study.roles[0]]
    required = "whole gland, with a slice to spare at each end"
    index = np.argwhere(zones.array)
    if not len(index):
        return (QualityFlag(frame, "gland coverage", "unknown", "no gland segmented", required),)
    last = np.asarray(zones.array.shape) - 1
    touched = [
        *(["first slice"] if (index[:, 0] == 0).any() else []),
        *(["last slice"] if (index[:, 0] == last[0]).any() else []),
        *(["edge of the image"] if ((index[:, 1:] == 0) | (index[:, 1:] == last[1:])).any() else []),
    ]
    found = f"gland reaches the {' and the '.join(touched)}" if touched else "gland ends inside the stack"
    flags = [_flag(frame, "gland coverage", not touched, found, required, COVERAGE_INCOMPLETE)]
    points = zones.geometry.to_patient(index)
    for role, sequence in SEQUENCES.items():
        volume = study.volume(role)
        if volume is not None:
            share = float(in_field(volume.geometry, points).mean())
            found = f"{share:.1%} of the gland"
            item = "gland in the field of view"
            flags.append(_flag(sequence, item, share >= 1, found, "whole gland", COVERAGE_INCOMPLETE))
    return tuple(flags)


def field_overlap(first: Geometry, second: Geometry) -> float:
    """Share (0 to 1) of the smaller field of view that lies in the larger, in patient space, to about 0.02."""
    smaller, larger = sorted((first, second), key=lambda grid: float(np.prod(grid.extent)))
    n = 20
    cell = (np.arange(n) + 0.5) / n
    unit = np.stack(np.meshgrid(cell, cell, cell, indexing="ij"), axis=-1).reshape(-1, 3)
    points = smaller.to_patient(unit * smaller.shape - 0.5)
    return float(in_field(larger, points).mean())


def _check_t2w(study: Study) -> list[QualityFlag]:
    if study.t2w is None:
        return [QualityFlag("T2W", "axial plane", "below minimum", "no axial T2W", "axial T2W")]
    header = study.headers.get("t2w")
    plane = slice_plane(study.t2w.geometry)
    flags = [_flag("T2W", "axial plane", plane == "axial", plane, "axial T2W")]
    required = "sagittal or coronal T2W"
    if study.orthogonal_t2w:
        flags.append(QualityFlag("T2W", "orthogonal plane", "met", "; ".join(study.orthogonal_t2w), required))
    elif header is not None and header.series_uid is not None:
        flags.append(QualityFlag("T2W", "orthogonal plane", "below minimum", "none in the study", required))
    else:  # single files were given: that says nothing about what was acquired
        flags.append(QualityFlag("T2W", "orthogonal plane", "unknown", "none given", required))
    return flags + _rows("T2W", [header], T2W_MINIMUMS)


def _check_dwi(study: Study) -> list[QualityFlag]:
    flags = [
        _flag("ADC", "ADC map", study.adc is not None, _presence(study.adc), "ADC map", ADC_MISSING),
        _flag("DWI", "high-b image", study.hbv is not None, _presence(study.hbv), "high-b image", B_VALUE_MISSING),
    ]
    if study.adc is None and study.hbv is None:
        return flags
    for sequence, volume in (("ADC", study.adc), ("DWI", study.hbv)):
        if volume is not None:
            flags += _against_t2w(sequence, volume.geometry, study.t2w)
    headers = [study.headers.get(role) for role in DWI_ROLES]
    return flags + _rows("DWI", headers, DWI_MINIMUMS) + _b_values(study)


def _check_dce(study: Study) -> list[QualityFlag]:
    header = study.headers.get("dce")
    if header is None:
        return [QualityFlag("DCE", "protocol", "info", "DCE absent: bpMRI", "DCE for mpMRI")]
    # The image header has no field for the injection rate.
    rate = QualityFlag("DCE", "injection rate", "unknown", "not in the header", "2-3 mL/s")
    return [*_rows("DCE", [header], DCE_MINIMUMS), rate]


def _against_t2w(sequence: str, grid: Geometry, t2w: Volume | None) -> list[QualityFlag]:
    """Plane, and overlap with T2W, of a diffusion image."""
    if t2w is None:
        return [_flag(sequence, "plane", slice_plane(grid) == "axial", slice_plane(grid), "axial")]
    cosine = abs(float(np.dot(_normal(grid), _normal(t2w.geometry))))
    angle = float(np.degrees(np.arccos(min(cosine, 1.0))))
    share = field_overlap(grid, t2w.geometry)
    return [
        _flag(sequence, "plane", angle <= SAME_PLANE_DEGREES, f"{angle:.0f}° from T2W", "as T2W"),
        _flag(
            sequence,
            "overlap with T2W",
            share >= OVERLAP_MINIMUM,
            f"{share:.0%} of the smaller field of view",
            f">= {OVERLAP_MINIMUM:.0%} of the smaller field of view",
            COVERAGE_INCOMPLETE,
        ),
    ]


def _b_values(study: Study) -> list[QualityFlag]:
    """Low b, highest b of the ADC fit, and the high-b image's own b-value."""
    adc, hbv = study.headers.get("adc"), study.headers.get("hbv")
    of_adc = sorted((adc.b_values if adc is not None else None) or ())
    acquired = sorted({*of_adc, *((hbv.b_values if hbv is not None else None) or ())})
    flags = [_lowest_b(of_adc if len(of_adc) > 1 else acquired), _highest_b_of_adc(of_adc, acquired)]
    if study.hbv is not None:
        flags.append(_high_b(hbv))
    return flags


def _lowest_b(b_values: list[float]) -> QualityFlag:
    item, required = "lowest b-value", "0-100"
    if len(b_values) < 2:  # a single b-value does not tell what the ADC was made from
        return QualityFlag("DWI", item, "unknown", _listed(b_values) or "not in the header", required)
    return _flag("DWI", item, b_values[0] <= 100, _listed(b_values), required, B_VALUE_MISSING)


def _highest_b_of_adc(of_adc: list[float], acquired: list[float]) -> QualityFlag:
    item, required = "highest b-value of the ADC", "<= 1000"
    if len(of_adc) > 1:
        return _flag("ADC", item, of_adc[-1] <= 1000, _listed(of_adc), required, B_VALUE_MISSING)
    if len(acquired) > 1 and not any(100 < b <= 1000 for b in acquired):  # it can only come from higher ones
        return QualityFlag("ADC", item, "below minimum", f"acquired: {_listed(acquired)}", required, B_VALUE_MISSING)
    found = f"not in the ADC's header; acquired: {_listed(acquired)}" if acquired else "not in the header"
    return QualityFlag("ADC", item, "unknown", found, required)


def _high_b(header: AcquisitionHeader | None) -> QualityFlag:
    item, required = "high b-value", ">= 1400"
    if header is None or header.b_value is None:
        return QualityFlag("DWI", item, "unknown", "not in the header", required)
    origin = {True: " (calculated)", False: " (acquired)", None: ""}[header.calculated]
    found = f"b{header.b_value:g}{origin}"
    return _flag("DWI", item, header.b_value >= 1400, found, required, B_VALUE_MISSING)


def _listed(b_values: Iterable[float]) -> str:
    return ", ".join(f"b{b:g}" for b in b_values)


def _rows(
    sequence: str, headers: Iterable[AcquisitionHeader | None], minimums: Iterable[_Minimum]
) -> list[QualityFlag]:
    """Each minimum against the first header that says anything about it."""
    known = [header for header in headers if header is not None]
    flags = []
    for row in minimums:
        value = next((v for header in known if (v := row.read(header)) is not None), None)
        if value is None:
            flags.append(QualityFlag(sequence, row.item, "unknown", "not in the header", row.required))
        else:
            flags.append(_flag(sequence, row.item, row.passes(value), row.show(value), row.required, row.code))
    return flags


def _flag(sequence: str, item: str, met: bool, found: str, required: str, code: Code | None = None) -> QualityFlag:
    """A flag whose code is given only when the requirement is not met."""
    return QualityFlag(sequence, item, "met" if met else "below minimum", found, required, None if met else code)


def _presence(volume: Volume | None) -> str:
    return "absent" if volume is None else "present"


def _normal(grid: Geometry) -> NDArray[np.float64]:
    return grid.affine[:3, 0] / grid.spacing[0]


# ---------------------------------------------------------------------------------------------------------- PI-QUAL

_PI_QUAL_MEANING = {1: "inadequate", 2: "acceptable", 3: "optimal"}


def pi_qual(t2w: int, dwi: int, dce: int | None = None) -> int:
    """PI-QUAL v2 from the reader's points.

    1 when T2W or DWI has 2 points or fewer; 3 when both have 4 (and, with DCE, both DCE criteria are met); else 2.
    With DCE, a 1 becomes 2 when both DCE criteria are met and T2W or DWI has 4.

    Args:
        t2w: visual criteria met on T2W, 0 to 4.
        dwi: the same on DWI, 0 to 4.
        dce: criteria met on DCE, 0 to 2; None for a biparametric study.

    Returns:
        1 inadequate, 2 acceptable, 3 optimal.

    Raises:
        ValueError: points outside those ranges.
    """
    for name, points, top in (("T2W", t2w, 4), ("DWI", dwi, 4), ("DCE", dce, 2)):
        if points is not None and points not in range(top + 1):
            raise ValueError(f"PI-QUAL {name}: expected a whole number of points from 0 to {top}, got {points}")
    if min(t2w, dwi) <= 2:
        return 2 if dce == 2 and max(t2w, dwi) == 4 else 1
    return 3 if t2w == dwi == 4 and dce in (None, 2) else 2


@dataclass(frozen=True)
class PiQual:
    """The visual score, as far as a reader has entered it.

    Attributes:
        t2w: points 0 to 4, None until entered.
        dwi: points 0 to 4, None until entered.
        dce: criteria met, 0 to 2; None for a biparametric study.
        reader: who entered it.

    Raises:
        ValueError: points outside those ranges.
    """

    t2w: int | None = None
    dwi: int | None = None
    dce: int | None = None
    reader: str = ""

    def __post_init__(self) -> None:
        pi_qual(self.t2w or 0, self.dwi or 0, self.dce)  # refuses what no reader can have meant

    @property
    def score(self) -> int | None:
        """1, 2 or 3; None until both T2W and DWI have points."""
        return None if self.t2w is None or self.dwi is None else pi_qual(self.t2w, self.dwi, self.dce)

    @property
    def inadequate(self) -> bool:
        """Whether the reader found the study inadequate: then no PI-RADS scores should be given."""
        return self.score == 1

    @property
    def text(self) -> str:
        """ "not assessed", or the score with its meaning."""
        score = self.score
        return "not assessed" if score is None else f"PI-QUAL {score} ({_PI_QUAL_MEANING[score]})"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with score and text; :meth:`from_dict` reads them back unchanged."""
        return {**asdict(self), "score": self.score, "text": self.text}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PiQual:
        """The inverse of :meth:`to_dict`."""
        return cls(data["t2w"], data["dwi"], data["dce"], data["reader"])
