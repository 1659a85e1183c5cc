"""What a region's reading looks at: its interior, its rim, its context, and attention within them.

The same functions serve training, inference and a reader's own outline, so a reading means one thing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

#: Extent classes in the order of the network's embedding and attention channels.
EXTENTS: Final = ("interior", "rim", "context")
#: Half widths (mm): the rim reaches this far in and out, the context this far out.
RIM_MM: Final = 1.6
CONTEXT_MM: Final = 4.5


def _dilate(mask: Tensor, radius: tuple[int, int, int]) -> Tensor:
    kernel = [2 * r + 1 for r in radius]
    return F.max_pool3d(mask[None, None], kernel, stride=1, padding=list(radius))[0, 0]


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
