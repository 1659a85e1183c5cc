"""Silver readings on drawn regions with known values: right direction, doubt left out, bad input named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from MedRationaleLogic.imaging.volume import Geometry, Volume
from MedRationaleLogic.training.silver import SILVER, SIZE, measure

GRID = Geometry((20, 96, 96), (3.0, 0.75, 0.75))
COARSE = Geometry((20, 48, 48), (3.0, 1.5, 1.5), (0.375, 0.375, 0.0))


def drawn(
    ratio: dict[str, float], *, radii: tuple[float, float, float] = (9.0, 9.0, 9.0), blur_mm: float = 0.0,
    spread: float = 0.0,
) -> tuple[dict[str, Volume], Volume, Volume]:  # fmt: skip
    """A gland that is all PZ, with an ellipsoid of given levels against it (1 = as the zone)."""
    rng = np.random.default_rng(3)
    volumes = {}
    masks = {}
    for grid in (GRID, COARSE):
        points = np.moveaxis(grid.to_patient(np.moveaxis(np.indices(grid.shape), 0, -1)), -1, 0)
        x, y, z = points[0] - 36, points[1] - 36, points[2] - 28.5
        masks[grid] = (z / radii[0]) ** 2 + (y / radii[1]) ** 2 + (x / radii[2]) ** 2 <= 1
    for name, level in ratio.items():
        grid = GRID if name == "t2w" else COARSE
        weight = masks[grid].astype(float)
        if blur_mm:
            weight = ndimage.gaussian_filter(weight, [blur_mm / s for s in grid.spacing])
        texture = ndimage.gaussian_filter(rng.standard_normal(grid.shape), (0, 2, 2))
        texture *= spread / texture.std()
        image = 100 * (1 + (level - 1 + texture) * weight) + rng.normal(0, 1.5, grid.shape)
        volumes[name] = Volume(image.astype(np.float32), grid, name)
    zones = np.zeros(GRID.shape, np.uint8)
    zones[2:18, 8:88, 8:88] = 1
    return volumes, Volume(zones, GRID, "zones"), Volume(masks[GRID], GRID, "lesion")


@pytest.mark.parametrize(
    ("name", "ratio", "attribute", "value"),
    [
        ("t2w", 0.5, "t2.signal", "moderate_hypo"),
        ("t2w", 0.78, "t2.signal", "mild_hypo"),
        ("t2w", 1.0, "t2.signal", "iso"),
        ("t2w", 1.5, "t2.signal", "hyper"),
        ("adc", 0.5, "adc.signal", "marked"),
        ("adc", 0.75, "adc.signal", "altered"),
        ("adc", 1.0, "adc.signal", "normal"),
        ("hbv", 1.0, "hbv.signal", "normal"),
        ("hbv", 1.55, "hbv.signal", "altered"),
        ("hbv", 3.0, "hbv.signal", "marked"),
    ],
)
def test_contrast_against_the_zone(name: str, ratio: float, attribute: str, value: str) -> None:
    reading = measure(*drawn({name: ratio}))[attribute]
    assert (reading.value, reading.status, reading.confident) == (value, SILVER, True)
    assert reading.measured == pytest.approx(ratio, abs=0.05)


def test_too_near_a_threshold_is_left_out() -> None:
    images, zones, lesion = drawn({"t2w": 0.66})
    assert "t2.signal" not in measure(images, zones, lesion)
    assert not measure(images, zones, lesion, keep_doubtful=True)["t2.signal"].confident


def test_texture_and_margin() -> None:
    sharp = measure(*drawn({"t2w": 0.5}))
    assert (sharp["t2.texture"].value, sharp["t2.margin"].value) == ("homogeneous", "circumscribed")
    mixed = measure(*drawn({"t2w": 0.5}, spread=0.3), keep_doubtful=True)
    assert mixed["t2.texture"].value == "heterogeneous"
    blurred = measure(*drawn({"t2w": 0.5}, blur_mm=3.0), keep_doubtful=True)
    assert blurred["t2.margin"].measured < sharp["t2.margin"].measured
    assert (blurred["t2.margin"].value, blurred["t2.margin"].confident) == ("non_circumscribed", False)
    assert "t2.margin" not in measure(*drawn({"t2w": 1.0}), keep_doubtful=True)  # no edge to judge


@pytest.mark.parametrize(
    ("radii", "shape", "size"),
    [((9, 9, 9), "round", "ge15"), ((9, 4, 11), "lenticular", "ge15"), ((6, 5, 5), "round", "lt15")],
)
def test_shape_and_size(radii: Any, shape: str, size: str) -> None:
    readings = measure(*drawn({"t2w": 0.5}, radii=radii))
    assert (readings["t2.shape"].value, readings[SIZE].value) == (shape, size)
    assert readings[SIZE].measured == pytest.approx(2 * max(radii[1:]), abs=1.0)


def test_a_torn_outline_is_irregular_and_an_oval_has_no_word() -> None:
    images, zones, lesion = drawn({"t2w": 0.5}, radii=(9, 10, 10))
    torn = lesion.array.copy()
    torn[:, 40:56, 48:] = False
    assert measure(images, zones, lesion.with_array(torn))["t2.shape"].value == "irregular"
    assert "t2.shape" not in measure(*drawn({"t2w": 0.5}, radii=(9, 7, 10)), keep_doubtful=True)


def test_what_cannot_be_compared_is_not_read_and_loses_nothing_else() -> None:
    images, zones, lesion = drawn({"t2w": 0.5, "adc": 0.5})
    outlined = {"t2.shape", SIZE}
    beside = measure(images, zones.with_array(np.zeros_like(zones.array)), lesion)
    assert set(beside) == outlined, "an automatic zone map may miss a lesion"
    t2w = images["t2w"]
    centred = images | {"t2w": t2w.with_array(t2w.array - 2 * t2w.array.max())}
    assert set(measure(centred, zones, lesion)) == outlined | {"adc.signal"}
    blank = images | {"adc": images["adc"].with_array(np.zeros_like(images["adc"].array))}
    assert "adc.signal" not in measure(blank, zones, lesion)
    assert "t2.signal" in measure(blank, zones, lesion)


def test_bad_input_is_named() -> None:
    images, zones, lesion = drawn({"t2w": 0.5})
    with pytest.raises(ValueError, match="empty"):
        measure(images, zones, lesion.with_array(np.zeros_like(lesion.array)))
    with pytest.raises(ValueError, match="unknown images dce"):
        measure({"dce": images["t2w"]}, zones, lesion)
