"""What one DICOM header says about its image: kind, b-value, numbers in whatever form they were written.

Source of the tags: DICOM PS3.3 (MR Image, Enhanced MR Image, MR Diffusion macro) and PS3.6; the private b-values of
Siemens (0019,xx0C), GE (0043,xx39) and Philips (2001,xx03) as the vendors' conformance statements give them.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Sequence
from typing import Any, Literal

from pydicom.dataset import Dataset

Kind = Literal["t2w", "adc", "dwi", "dce", "localizer", "other"]


def number(value: Any) -> float | None:
    """The first number of a DICOM value, whatever its form: number, text, list, or the raw bytes of an unknown VR."""
    if value is None or isinstance(value, Dataset):
        return None
    if isinstance(value, bytes):
        try:
            return float(value.strip(b" \0").split(b"\\")[0])
        except ValueError:
            form = {4: "<f", 8: "<d"}.get(len(value))
            return float(struct.unpack(form, value)[0]) if form else None
    if isinstance(value, Sequence) and not isinstance(value, str):
        return number(value[0]) if len(value) else None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def text_of(header: Dataset) -> str:
    """The series description, else the protocol name, in lower case."""
    return str(header.get("SeriesDescription") or header.get("ProtocolName") or "").lower()


def image_type(header: Dataset) -> tuple[str, ...]:
    """ImageType in upper case."""
    value = header.get("ImageType") or ()
    return tuple(str(v).upper() for v in ((value,) if isinstance(value, str) else value))


def scanning_sequence(header: Dataset) -> tuple[str, ...]:
    """ScanningSequence as a tuple, e.g. ``("EP", "SE")``; empty where the header does not say."""
    value = header.get("ScanningSequence") or ()
    return (value,) if isinstance(value, str) else tuple(str(v) for v in value)


def private(header: Dataset, group: int, creator: str, element: int, vendor: str) -> Any:
    """A private element's value, by its creator, else at the vendor's usual place; None when absent."""
    try:
        return header.private_block(group, creator)[element].value
    except KeyError:
        pass
    # Some de-identifiers drop the creator element and leave the block where the vendor always puts it.
    found = header.get((group, 0x1000 + element))
    return found.value if found is not None and vendor in str(header.get("Manufacturer", "")).lower() else None


def b_value_of(header: Dataset) -> float | None:
    """b-value in s/mm2: the standard tag, then the vendors' private ones, the sequence's name, the description.

    A tag of 0 is taken at its word beside a description of more: the description is the whole series', and only the
    whole series can tell whether it has b0 images among its others.
    """
    ge = None
    if "EP" in (scanning := scanning_sequence(header)) or not scanning:  # elsewhere GE keeps other numbers there
        ge = number(private(header, 0x0043, "GEMS_PARM_01", 0x39, "ge "))
    candidates = (
        number(header.get("DiffusionBValue")),
        number(private(header, 0x0019, "SIEMENS MR HEADER", 0x0C, "siemens")),
        None if ge is None else ge % 1e9,  # GE marks some by adding 10^9
        number(private(header, 0x2001, "Philips Imaging DD 001", 0x03, "philips")),
    )
    sequence = re.search(r"ep_b(\d+)(?:t|#\d+)?$", str(header.get("SequenceName", "")).strip().lower())
    named = float(sequence[1]) if sequence else described_b_value(header)
    for value in candidates:
        if value is not None and 0 <= value <= 20000:
            # A calculated image may keep its source's b-value in the tag: there a name that says more is right. Beside
            # a 0 it is where it is the image's own, as the sequence's is.
            better = sequence if value == 0 else CALCULATED.search(text_of(header))
            return named if named is not None and named > value and better else float(round(value))
    return named


def described_b_value(header: Dataset) -> float | None:
    """The one b-value in s/mm2 that the series description spells out; None where it spells out none or several."""
    values = b_values_in(text_of(header))
    return values[0] if len(values) == 1 else None


def b_values_in(text: str) -> tuple[float, ...]:
    """The b-values that a description or file name spells out: ``dwi_b1400``, ``b=50_400_800``, ``BVAL 1500``."""
    text = text.lower()
    found = re.search(r"(?<![a-z])c?b(?:[-_ =]*val(?:ue)?s?)?[-_ =]*(\d{1,5})((?:[-_/,;+ ]+\d{2,5}(?!\d))*)", text)
    if not found:
        return ()
    return tuple(float(v) for v in [found[1], *re.findall(r"\d+", found[2])])


def source_b_values(header: Dataset) -> tuple[float, ...]:
    """b-values that a derived image names as its source, e.g. the sequence ``*ep_b50_800``."""
    sequence = re.search(r"ep_b(\d+)_(\d+)", str(header.get("SequenceName", "")).lower())
    if sequence:
        return (float(sequence[1]), float(sequence[2]))
    values = b_values_in(text_of(header))
    return values if len(values) > 1 else ()


CALCULATED = re.compile(r"calc|synth|computed|extrapol|(?<![a-z])cdwi|(?<![a-z])cb\d")
_LOCALIZER = re.compile(r"locali[sz]er|(?<![a-z])loc(?![a-z])|scout|survey|three.?plane|3.?plane")
_ADC = re.compile(r"(?<![a-z])d?adc(?![a-z])|apparent.?diff")
_EXPONENTIAL = re.compile(r"(?<![a-z])e.?adc|exponential")
_DIFFUSION = re.compile(r"dwi|diff(?!er)|(?<![a-z])b\d{2,4}(?!\d)|resolve|zoomit|focus")
_T2 = re.compile(r"(?<![a-z0-9])t2(?!\d)")
_T2_MAP = re.compile(r"t2.?(map|star|\*)")
_DYNAMIC = re.compile(r"dce|dyn|twist|tricks|disco|perf|contrast|(?<![a-z])(gd|gad|\+c)|grasp|radial.?vibe")
_DERIVED_MAP = re.compile(r"ktrans|(?<![a-z])(kep|iauc|mip|sub)(?![a-z0-9])|subtract|wash.?(in|out)|colou?r")


def kind_of(header: Dataset, b_value: float | None) -> Kind:
    """What an image is, from its header alone."""
    types, text = image_type(header), text_of(header)
    te, tr = number(header.get("EchoTime")), number(header.get("RepetitionTime"))
    scanning = scanning_sequence(header)
    gradient_echo = "GR" in scanning and "SE" not in scanning
    if int(header.get("SamplesPerPixel") or 1) != 1 or "MOSAIC" in types:
        return "other"
    if "LOCALIZER" in types or _LOCALIZER.search(text):
        return "localizer"
    if "EADC" in types or _EXPONENTIAL.search(text):
        return "other"
    if "ADC" in types or _ADC.search(text):
        return "adc"
    if "DIFFUSION" in types or (b_value or 0) > 0 or _DIFFUSION.search(text):
        return "other" if "FA" in types else "dwi"
    if _DERIVED_MAP.search(text) or _T2_MAP.search(text):
        return "other"
    if not gradient_echo and (te is None or te >= 50):
        timed = te is not None and te >= 60 and tr is not None and tr >= 1500 and "EP" not in scanning
        if _T2.search(text) or timed:
            return "t2w"
    if _DYNAMIC.search(text) or (header.get("ContrastBolusAgent") and gradient_echo):
        return "dce"
    return "other"


def pixel_spacing(header: Dataset) -> tuple[float, float] | None:
    """(row, column) spacing in mm; None where it is absent, no number, not finite or not positive."""
    try:
        row, column = (float(v) for v in header.get("PixelSpacing") or ())
    except (ValueError, TypeError):
        return None
    return (row, column) if 0 < row < math.inf and 0 < column < math.inf else None


def first_line(error: BaseException) -> str:
    """What a library complained of, without its details."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(". ")
