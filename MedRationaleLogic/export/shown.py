"""What of the evidence is shown to a person: the maps near the gland.

Evidence is a dense field over the whole crop that the network saw, and is exported as such. Its concepts are terms for
prostate tissue: what a map says of muscle, rectum or bladder means nothing, and drawn there it drowns what it says of
the gland. So pictures and views stop a little outside the outlined gland, and say so.
"""

from __future__ import annotations

from typing import Final
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from MedRationaleLogic.imaging.volume import Volume
from MedRationaleLogic.inference.explanation import Explanation

MARGIN_MM: Final = 6.0
"""A margin's evidence lies outside a region, and a region may bulge out of the outline."""
WORDS: Final = f"Shown within {MARGIN_MM:.0f} mm of the outlined gland and regions; the exported maps are whole."

_kept: WeakKeyDictionary[Volume, tuple[frozenset[int], NDArray[np.bool_]]] = WeakKeyDictionary()


def near_gland(explanation: Explanation) -> NDArray[np.bool_]:
    """Where evidence is shown: within :data:`MARGIN_MM` of the gland or of a region; everywhere without either.

    Returns:
        bool (z, y, x) on the frame's grid.
    """
    zones = explanation.zones
    key = frozenset(id(lesion.mask) for lesion in explanation.lesions)
    kept = _kept.get(zones)
    if kept is not None and kept[0] == key:
        return kept[1]
    inside = zones.array > 0
    for lesion in explanation.lesions:
        inside = inside | lesion.mask.array
    shown = np.ones(inside.shape, bool)
    if inside.any():
        spacing = zones.geometry.spacing
        box = tuple(
            slice(max(0, int(there[0]) - pad), int(there[-1]) + pad + 1)
            for axis, pitch in enumerate(spacing)
            for there in [np.flatnonzero(inside.any(tuple(a for a in range(3) if a != axis)))]
            for pad in [int(np.ceil(MARGIN_MM / pitch))]
        )
        shown[:] = False
        shown[box] = ndimage.distance_transform_edt(~inside[box], sampling=spacing) <= MARGIN_MM
    _kept[zones] = (key, shown)
    return shown
