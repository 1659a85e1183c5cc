"""How a node says that a case made it, so that it can be found again: after a reload, after a rename, after a deletion.

Nodes are never remembered by object or ID: the user may delete any of them at any time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

OWNER: Final = "MedRationale.owner"
"""Attribute: the ID of the case scene that made a node or a subject hierarchy item."""
PART: Final = "MedRationale.part"
"""Attribute: what the node is there for, e.g. ``segmentation``, ``line 2``."""
CONCEPT: Final = "MedRationale.concept"
"""Attribute of an evidence volume: the concept that it shows."""
B_VALUE: Final = "MedRationale.b_value"
"""Attribute of a volume taken out of a sequence: its b-value in s/mm2. Such a volume is an input and has no owner."""
ROLE: Final = "MedRationale.role"
"""Attribute of a volume that we read from files: t2w, adc or hbv. Such a volume is an input and has no owner."""
NOTICE: Final = "Research use only"
"""Description of everything that shows a result."""


def mark(node: Any, owner: str, part: str) -> Any:
    """Say that a node is a case's own."""
    node.SetAttribute(OWNER, owner)
    node.SetAttribute(PART, part)
    if hasattr(node, "SetDescription"):
        node.SetDescription(NOTICE)
    return node


def owned(scene: Any, owner: str) -> Iterator[Any]:
    """All nodes of a scene that a case scene made."""
    nodes = [scene.GetNthNode(i) for i in range(scene.GetNumberOfNodes())]
    return (node for node in nodes if node is not None and node.GetAttribute(OWNER) == owner)


def find(scene: Any, owner: str, part: str) -> Any:
    """The node of a part, or None when there is none (yet, or any more)."""
    return next((node for node in owned(scene, owner) if node.GetAttribute(PART) == part), None)
