"""What the module's logic gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Result:
    """What `MedRationaleLogic.explain` gives back.

    Attributes:
        explanation: the whole result; `explanation.lesions`, `.category`, `.evidence`.
        case: overrides, undo, audit log, `save`.
        segmentation: vtkMRMLSegmentationNode with gland, zones and regions.
        nodes: all nodes that were added to the scene.
    """

    explanation: Any
    case: Any
    segmentation: Any
    nodes: tuple[Any, ...]
