"""What a region's reading looks at: its interior, its rim, its context, and attention within them.

The same functions serve training, inference and a reader's own outline, so a reading means one thing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

#: Extent classes in the order of the network's embedding and attention channels.
EXTENTS: Final = ("interior", "rim", "context")
#: Half widths (mm): the rim reaches this far in and out, the context this far out.
RIM_MM: Final = 1.6
CONTEXT_MM: Final = 4.5
#: A drawn region of fewer voxels on a sequence's grid is neither learnt from nor measured there: it has no form and no
#: margin left.
LEAST_VOXELS: Final = 4
#: Voxels around a region's context, in plane, that belong to its surroundings (:func:`window`).
MARGIN: Final = 8


def _dilate(mask: Tensor, radius: tuple[int, int, int]) -> Tensor:
    x = mask[None, None]
    for axis, r in enumerate(radius):  # a box is separable: one axis at a time looks at 13 + 13 voxels, not at 13 * 13
        if r:
            reach = [r if i == axis else 0 for i in range(3)]
            x = F.max_pool3d(x, [2 * n + 1 for n in reach], stride=1, padding=reach)
    return x[0, 0]


def supports(mask: Tensor, spacing: tuple[float, float, float]) -> dict[str, Tensor]:
    """Where each extent class of a region lies.

    Args:
        mask: bool (z, y, x), the region; must not be empty.
        spacing: millimetres along (z, y, x).

    Returns:
        extent class -> long tensor of flat voxel indices into the (z, y, x) grid, ascending.

    Raises:
        ValueError: the mask is empty.
    """
    where = mask.nonzero()
    if not len(where):
        raise ValueError("a region without a voxel has no reading")
    pad = [max(1, round(CONTEXT_MM / s)) + 1 for s in spacing]
    low = [max(0, int(where[:, i].min()) - pad[i]) for i in range(3)]
    high = [min(mask.shape[i], int(where[:, i].max()) + pad[i] + 1) for i in range(3)]
    box = mask[low[0] : high[0], low[1] : high[1], low[2] : high[2]].float()
    # in slices thicker than the rim, the rim is an in-plane band
    rim = tuple(round(RIM_MM / s) if i else 0 for i, s in enumerate(spacing))
    far = tuple(round(CONTEXT_MM / s) for s in spacing)
    outer = _dilate(box, (rim[0], max(1, rim[1]), max(1, rim[2]))) > 0
    inner = 1 - _dilate(1 - box, (rim[0], max(1, rim[1]), max(1, rim[2]))) > 0
    parts = {"interior": box > 0, "rim": outer & ~inner, "context": _dilate(box, (far[0], far[1], far[2])) > 0}
    _, height, width = mask.shape
    result = {}
    for name, part in parts.items():
        index = part.nonzero()
        result[name] = ((index[:, 0] + low[0]) * height + index[:, 1] + low[1]) * width + index[:, 2] + low[2]
    return result


def window(mask: Tensor, spacing: tuple[float, float, float], others: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Where a region's evidence is judged, and its extents there.

    Args:
        mask: bool (z, y, x), the region.
        spacing: millimetres along (z, y, x).
        others: bool (z, y, x), the other regions: their voxels are left out, a value may rightly be shown there.

    Returns:
        Flat voxel indices of the region's surroundings, and extent class -> bool over these.
    """
    parts = supports(mask, spacing)
    _, height, width = mask.shape
    context = parts["context"]
    z, y, x = context // (height * width), context // width % height, context % width
    box = torch.zeros_like(mask)
    box[
        int(z.min()) : int(z.max()) + 1,
        max(0, int(y.min()) - MARGIN) : int(y.max()) + MARGIN + 1,
        max(0, int(x.min()) - MARGIN) : int(x.max()) + MARGIN + 1,
    ] = True
    index = (box & ~others).flatten().nonzero()[:, 0]
    return index, {e: torch.isin(index, part) for e, part in parts.items()}


#: What :attr:`Region.geometry` says of a voxel, in order: whether it is inside; signed distance to the outline (mm,
#: inside positive) through two squashings, for the rim and for the context; squared offsets from the centroid along the
#: long and the short in-plane axis and across slices, in units of the region's own radius; and of the region: its
#: radius, its in-plane and its through-plane elongation (logarithms).
GEOMETRY: Final = ("inside", "near", "far", "long", "short", "across", "radius", "elongation", "thickness")
#: Those that are of the region, the same at each voxel.
OF_A_REGION: Final = GEOMETRY[-3:]


@dataclass(frozen=True)
class Region:
    """A region on one stem's grid: its voxels and those around it that a reading looks at.

    Attributes:
        index: flat voxel indices of all its extents, ascending, (k,).
        place: extent class -> positions in ``index``.
        geometry: float32 (len(GEOMETRY), k), how each of these voxels lies to the outline; nothing of any image.
    """

    index: Tensor
    place: dict[str, Tensor]
    geometry: Tensor


def region(mask: Tensor, spacing: tuple[float, float, float]) -> Region:
    """A region's extents and geometry; arguments and errors as :func:`supports`."""
    index, place = gather(supports(mask, spacing))
    return Region(index, place, _geometry(mask, spacing, index))


def _geometry(mask: Tensor, spacing: tuple[float, float, float], index: Tensor) -> Tensor:
    _, height, width = mask.shape
    at = np.stack([(index // (height * width)).cpu(), (index // width % height).cpu(), (index % width).cpu()])
    low, high = at.min(1), at.max(1) + 1
    # one voxel more on each side, so that the distance inside is to the outline and not to the crop
    box = np.pad(mask[low[0] : high[0], low[1] : high[1], low[2] : high[2]].cpu().numpy(), 1)
    here = tuple(at - low[:, None] + 1)
    step = np.array(spacing)
    signed = ndimage.distance_transform_edt(box, step) - ndimage.distance_transform_edt(~box, step)
    inside = box[here]
    mm = at * step[:, None]
    offset = mm - mm[:, inside].mean(1, keepdims=True)
    plane = offset[1:, inside]
    # a voxel's own extent keeps a region of one row or slice from being infinitely thin
    spread, axes = np.linalg.eigh(plane @ plane.T / plane.shape[1] + np.diag(step[1:] ** 2 / 12))
    short, long = axes.T @ offset[1:]
    across = np.sqrt((offset[0, inside] ** 2).mean() + step[0] ** 2 / 12)
    radius = np.sqrt(spread.sum())
    whole = np.log([radius / 4.0, np.sqrt(spread[1] / spread[0]), across / radius])
    rows = [
        inside, np.tanh(signed[here] / 1.5), np.tanh(signed[here] / 5.0),
        *(np.minimum((x / radius) ** 2, 9.0) / 3.0 for x in (long, short, offset[0])),
        *(np.full(len(index), x) for x in whole),
    ]  # fmt: skip
    return torch.from_numpy(np.stack(rows).astype(np.float32)).to(mask.device)


def gather(parts: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """The distinct voxels of several index sets, and each set's places among them.

    Reading a region needs embeddings of its own voxels only; computing just these is what makes a reading cheap.

    Returns:
        ascending flat indices (k,), and name -> positions in it.
    """
    index = torch.unique(torch.cat(list(parts.values())))
    return index, {name: torch.searchsorted(index, part) for name, part in parts.items()}


def attend(embedding: Tensor, attention: Tensor, index: Tensor) -> Tensor:
    """Attention-pooled, normalised embedding of a region.

    Args:
        embedding: (d, k) of one extent class.
        attention: (k,) logits of the same class.
        index: which of the k voxels belong to the region.

    Returns:
        (d,) unit vector.
    """
    weights = torch.softmax(attention[index], 0)
    return F.normalize(embedding[:, index] @ weights, dim=0)
