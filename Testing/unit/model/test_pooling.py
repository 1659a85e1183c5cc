"""Where a reading looks: interior, rim and context of a region."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from scipy import ndimage
from torch import Tensor

from MedRationaleLogic.model.pooling import CONTEXT_MM, EXTENTS, GEOMETRY, RIM_MM, attend, gather, region, supports

SHAPE = (7, 21, 23)


def box(shape: tuple[int, int, int] = SHAPE) -> Tensor:
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[2:5, 8:14, 7:15] = True
    return mask


def as_mask(index: Tensor, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    out = torch.zeros(math.prod(shape), dtype=torch.bool)
    out[index] = True
    return out.reshape(shape)


def grown(mask: Tensor, radius: tuple[int, int, int]) -> Tensor:
    """Dilation by a box, by another library."""
    return torch.from_numpy(ndimage.binary_dilation(mask.numpy(), np.ones([2 * r + 1 for r in radius], bool)))


def shrunk(mask: Tensor, radius: tuple[int, int, int]) -> Tensor:
    return torch.from_numpy(
        ndimage.binary_erosion(mask.numpy(), np.ones([2 * r + 1 for r in radius], bool), border_value=1)
    )


def test_the_interior_is_the_region() -> None:
    assert torch.equal(as_mask(supports(box(), (3.0, 0.75, 0.75))["interior"]), box())


@pytest.mark.parametrize(
    ("spacing", "rim", "context"),
    [((3.0, 0.75, 0.75), (0, 2, 2), (2, 6, 6)), ((3.0, 1.5, 1.5), (0, 1, 1), (2, 3, 3))],
    ids=["fine", "diffusion"],
)
def test_rim_and_context_are_bands_of_millimetres(
    spacing: tuple[float, float, float], rim: tuple[int, int, int], context: tuple[int, int, int]
) -> None:
    """On the network's own two grids: the rim in plane, 1.6 mm in and out; the context 4.5 mm around."""
    parts = supports(box(), spacing)

    assert rim[1] == round(RIM_MM / spacing[1])
    assert torch.equal(as_mask(parts["rim"]), grown(box(), rim) & ~shrunk(box(), rim))
    assert context == tuple(round(CONTEXT_MM / s) for s in spacing)
    assert torch.equal(as_mask(parts["context"]), grown(box(), context))


def test_a_single_voxel_has_all_three() -> None:
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[3, 10, 11] = True
    parts = supports(mask, (3.0, 1.5, 1.5))

    assert [len(parts[e]) for e in EXTENTS] == [1, 9, 5 * 7 * 7]


def test_an_empty_mask_has_no_reading() -> None:
    with pytest.raises(ValueError, match="without a voxel"):
        supports(torch.zeros(SHAPE, dtype=torch.bool), (3.0, 1.5, 1.5))


def test_the_whole_grid_has_no_rim() -> None:
    parts = supports(torch.ones(SHAPE, dtype=torch.bool), (3.0, 1.5, 1.5))

    assert len(parts["rim"]) == 0
    assert len(parts["interior"]) == len(parts["context"]) == math.prod(SHAPE)


masks = st.builds(
    lambda seed, share: torch.from_numpy(np.random.default_rng(seed).random(SHAPE) < share),
    st.integers(0, 10_000), st.floats(0.002, 0.5),
).filter(lambda m: bool(m.any()))  # fmt: skip


@given(mask=masks, spacing=st.sampled_from([(3.0, 0.75, 0.75), (3.0, 1.5, 1.5), (1.0, 1.0, 1.0), (4.0, 3.0, 3.5)]))
@settings(max_examples=40, deadline=None)
def test_any_region_also_at_the_grids_edge(mask: Tensor, spacing: tuple[float, float, float]) -> None:
    parts = supports(mask, spacing)
    reach = tuple(round(CONTEXT_MM / s) for s in spacing)
    band = (round(RIM_MM / spacing[0]) * 0, max(1, round(RIM_MM / spacing[1])), max(1, round(RIM_MM / spacing[2])))

    assert tuple(parts) == EXTENTS
    assert torch.equal(as_mask(parts["interior"]), mask)
    assert torch.equal(as_mask(parts["rim"]), grown(mask, band) & ~shrunk(mask, band))
    assert torch.equal(as_mask(parts["context"]), grown(mask, (reach[0], reach[1], reach[2])))
    for index in parts.values():
        assert torch.equal(index, torch.unique(index))  # ascending, each once


def test_gather_keeps_each_set_and_no_voxel_twice() -> None:
    parts = {"a": torch.tensor([7, 3, 5]), "b": torch.tensor([5, 9]), "c": torch.tensor([], dtype=torch.int64)}
    index, place = gather(parts)

    assert index.tolist() == [3, 5, 7, 9]
    assert all(torch.equal(index[place[name]], parts[name]) for name in parts)


def test_attention_decides_whose_embedding_counts() -> None:
    embedding = torch.tensor([[1.0, 0.0, 5.0], [0.0, 2.0, 5.0]])
    index = torch.tensor([0, 1])

    even = attend(embedding, torch.zeros(3), index)
    first = attend(embedding, torch.tensor([50.0, 0.0, 99.0]), index)

    assert even.tolist() == pytest.approx([1 / math.sqrt(5), 2 / math.sqrt(5)])
    assert first.tolist() == pytest.approx([1.0, 0.0])
    assert float(even.norm()) == pytest.approx(1.0)


# -- geometry ----------------------------------------------------------------------------------------------------------


def ellipsoid(radii: tuple[float, float, float], turn: float = 0.0, shift: tuple[int, int] = (0, 0)) -> Tensor:
    """Half axes in mm along z, and in plane along y and x before a turn; on a 3 x .75 x .75 mm grid."""
    shape, spacing = (16, 96, 96), (3.0, 0.75, 0.75)
    z, y, x = np.meshgrid(
        *((np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True)), indexing="ij"
    )
    y, x = y - shift[0] * 0.75, x - shift[1] * 0.75
    u, v = np.cos(turn) * y - np.sin(turn) * x, np.sin(turn) * y + np.cos(turn) * x
    return torch.from_numpy((z / radii[0]) ** 2 + (u / radii[1]) ** 2 + (v / radii[2]) ** 2 <= 1)


def whole(mask: Tensor) -> dict[str, float]:
    """What geometry says of a region as a whole."""
    made = region(mask, (3.0, 0.75, 0.75)).geometry
    return {name: float(made[GEOMETRY.index(name)][0]) for name in ("radius", "elongation", "thickness")}


def test_geometry_tells_inside_from_outside_and_how_far() -> None:
    mask = ellipsoid((9.0, 9.0, 9.0))
    made = region(mask, (3.0, 0.75, 0.75))
    inside = mask.flatten()[made.index]
    g = dict(zip(GEOMETRY, made.geometry, strict=True))
    assert torch.equal(g["inside"] > 0.5, inside)
    assert bool((g["near"][inside] > 0).all())
    assert bool((g["near"][~inside] < 0).all())
    assert torch.equal(made.index, made.index.sort().values)
    distance = torch.atanh(g["far"]) * 5.0
    assert float(distance.max()) == pytest.approx(9.0, abs=1.5), "the centre is as deep as the radius"


@settings(max_examples=25, deadline=None)
@given(st.floats(0, math.pi), st.integers(-12, 12), st.integers(-12, 12))
def test_geometry_of_a_whole_region_does_not_depend_on_where_it_lies_or_how_it_is_turned(
    turn: float, dy: int, dx: int
) -> None:
    straight, turned = whole(ellipsoid((9.0, 12.0, 6.0))), whole(ellipsoid((9.0, 12.0, 6.0), turn, (dy, dx)))
    assert turned == pytest.approx(straight, abs=0.05)
    assert straight["elongation"] == pytest.approx(math.log(2.0), abs=0.05)


def test_geometry_knows_size_and_thin_regions() -> None:
    small, large = whole(ellipsoid((6.0, 6.0, 6.0))), whole(ellipsoid((12.0, 12.0, 12.0)))
    assert large["radius"] - small["radius"] == pytest.approx(math.log(2.0), abs=0.1)
    line = torch.zeros((16, 96, 96), dtype=torch.bool)
    line[7, 40, 20:60] = True
    made = region(line, (3.0, 0.75, 0.75)).geometry
    assert bool(torch.isfinite(made).all())
    assert whole(line)["elongation"] > 2
    one = torch.zeros_like(line)
    one[7, 40, 20] = True
    assert bool(torch.isfinite(region(one, (3.0, 0.75, 0.75)).geometry).all())
