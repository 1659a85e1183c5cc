"""Small pictures of a region with a concept's evidence: in place, in their colours, quick, and readable everywhere."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from MedRationaleLogic.export import thumbnails
from MedRationaleLogic.export.palette import evidence_table
from MedRationaleLogic.export.thumbnails import SIZE, data_url, png, ppm, thumbnail
from Testing.explanation_factory import PZ_LEFT, TZ_RIGHT, flipped, make_explanation, transposed

SMALL = (10, 60, 64)


def coloured(picture: np.ndarray) -> np.ndarray:
    """Where a picture is not grey."""
    wide = picture.astype(int)
    return np.asarray(wide.max(-1) - wide.min(-1) > 20)


def test_ppm_png_and_data_url_hold_the_same_picture() -> None:
    explanation = make_explanation(shape=SMALL)
    picture = thumbnail(explanation, explanation.lesion(1), "adc.focal")
    assert picture.shape == (SIZE, SIZE, 3)
    assert picture.dtype == np.uint8
    head, _, content = data_url(picture).partition(",")
    assert head == "data:image/png;base64"
    for file in (ppm(picture), png(picture), base64.b64decode(content)):
        with Image.open(io.BytesIO(file)) as opened:
            opened.load()
            assert np.array_equal(np.asarray(opened.convert("RGB")), picture)
    assert png(picture) == png(picture.copy())


def test_a_png_of_any_shape_is_read_back() -> None:
    picture = np.random.default_rng(3).integers(0, 256, (5, 9, 3), dtype=np.uint8)
    with Image.open(io.BytesIO(png(picture))) as opened:
        assert opened.mode == "RGB"
        assert np.array_equal(np.asarray(opened), picture)


@pytest.mark.parametrize("direction", [None, flipped(), transposed()])
@pytest.mark.parametrize(("region", "concept"), [(PZ_LEFT, "adc.focal"), (TZ_RIGHT, "t2.lenticular")])
def test_the_evidence_lies_on_the_region_in_the_middle(direction, region, concept) -> None:
    explanation = make_explanation(lesions=(region,), direction=direction, shape=(10, 100, 100))  # 14 mm all round
    picture = thumbnail(explanation, explanation.lesion(1), concept)
    there = np.argwhere(coloured(picture))
    assert len(there) > 100
    assert np.abs(there.mean(0) - SIZE / 2).max() < SIZE / 8
    white = np.argwhere((picture == 255).all(-1))
    assert np.abs(white.mean(0) - SIZE / 2).max() < SIZE / 8  # its outline


def test_evidence_below_the_threshold_is_not_shown() -> None:
    explanation = make_explanation(lesions=(PZ_LEFT,), shape=SMALL)
    high = replace(explanation, evidence=replace(explanation.evidence, threshold=0.99))
    assert coloured(thumbnail(explanation, explanation.lesion(1), "adc.focal")).any()
    assert not coloured(thumbnail(high, high.lesion(1), "adc.focal")).any()


def test_the_colours_are_those_of_the_report() -> None:
    table = (np.asarray(evidence_table()) * 255).round().astype(int)
    values = np.array([[0.0, 0.5, 1.0]])
    got = (thumbnails._colours(values) * 255).round().astype(int)
    assert got[0].tolist() == [table[0].tolist(), table[128].tolist(), table[255].tolist()]


def test_a_region_without_a_peak_is_shown_on_its_largest_slice() -> None:
    explanation = make_explanation(lesions=(PZ_LEFT,), shape=SMALL)
    lesion = replace(explanation.lesion(1), readings=())
    assert (thumbnail(explanation, lesion, "t2.homog") == 255).all(-1).any()


@pytest.mark.parametrize("concept", ["t2.homog", "dwi.no-such", "size"])
def test_a_concept_without_a_map_is_refused_by_name(concept) -> None:
    explanation = make_explanation(lesions=(PZ_LEFT,), roles=("adc", "hbv"), shape=SMALL)
    with pytest.raises(KeyError, match=concept):
        thumbnail(explanation, explanation.lesion(1), concept)
