"""All that a case shows in a scene: made, brought up to date, saved, opened again and removed in one place.

    shown = CaseScene(slicer.mrmlScene, case, found.nodes)
    shown.update()                       # after every event of the case
    shown.show_evidence("t2.lenticular")
    shown.save()                         # before the scene is saved
    shown.remove()

Works without a layout manager, without Slicer, and whatever the user deletes: what is missing is made again by the next
``update()``. Research use only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import slicer
from numpy.typing import ArrayLike

from MedRationaleLogic.case import Case
from MedRationaleLogic.imaging.acquisition import ROLE_NAMES, ROLES, Role
from MedRationaleLogic.imaging.volume import Volume
from MedRationaleLogic.mrml import hierarchy
from MedRationaleLogic.mrml.evidence import Evidence
from MedRationaleLogic.mrml.geometry import NodeError, ras
from MedRationaleLogic.mrml.inputs import volumes_from_nodes
from MedRationaleLogic.mrml.markers import Markers, remove_with_displays
from MedRationaleLogic.mrml.node_facts import hierarchy_of, is_plain_volume, of_class
from MedRationaleLogic.mrml.parts import OWNER, PART, find, mark, owned
from MedRationaleLogic.mrml.segments import Segments

if TYPE_CHECKING:
    from MedRationaleLogic.case import ExplainerLike
    from MedRationaleLogic.inference.explanation import Explanation

__all__ = ["CaseScene"]

CASE: Final = "case"
CASE_NAME: Final = "MedRationale case"


class CaseScene:
    """What a case shows in a scene; see the module's text.

    Args:
        scene: vtkMRMLScene.
        case: explained or not; without an explanation nothing is shown.
        nodes: by role, the volume nodes that the case's study was read from.
        owner: ID of an earlier case scene whose nodes to take over; a new one by default.
    """

    def __init__(self, scene: Any, case: Case, nodes: Mapping[Role, Any], *, owner: str | None = None) -> None:
        self.scene, self.case = scene, case
        self.owner = owner or uuid4().hex
        self._inputs = {role: node.GetID() for role, node in nodes.items() if node is not None}
        self._segments = Segments(scene, self.owner)
        self._markers = Markers(scene, self.owner)
        self._evidence = Evidence(scene, self.owner)

    # ------------------------------------------------------------------------------------------------- what is there

    @property
    def nodes(self) -> dict[Role, Any]:
        """The case's images that are still in the scene, by role."""
        found = {role: self.scene.GetNodeByID(id_) for role, id_ in self._inputs.items()}
        return {role: node for role, node in found.items() if node is not None}

    @property
    def segmentation(self) -> Any:
        """vtkMRMLSegmentationNode, or None."""
        return self._segments.node()

    @property
    def markers(self) -> Any:
        """vtkMRMLMarkupsFiducialNode with a point a region, or None."""
        return self._markers.points()

    @property
    def evidence_node(self) -> Any:
        """The evidence volume, or None."""
        return self._evidence.node()

    @property
    def evidence_concept(self) -> str | None:
        """The concept whose evidence the volume holds, or None."""
        return self._evidence.concept

    @property
    def evidence_shown(self) -> bool:
        """Whether some slice view shows the evidence."""
        return self._evidence.shown

    @property
    def study_item(self) -> int:
        """The subject hierarchy item that holds all of it; 0 where there is none."""
        tree = hierarchy_of(self.scene)
        return 0 if tree is None else hierarchy.study_item(tree, self.owner)

    def line(self, number: int) -> Any:
        """vtkMRMLMarkupsLineNode of a region's greatest diameter, or None."""
        return self._markers.line(number)

    # ------------------------------------------------------------------------------------------------------- showing

    def update(self, *, discard_edits: bool = False) -> None:
        """Bring the scene up to date with the case; makes what is missing, takes out what is no longer true.

        A segment that the user has changed in the Segment Editor stays as drawn until the case changes that region.

        Args:
            discard_edits: write all segments as the case has them.
        """
        explanation = self.case.explanation
        if explanation is None:
            self._clear_results()
            return
        nodes = [self._segments.update(explanation, self._frame_node(explanation), discard_edits=discard_edits)]
        nodes += self._markers.update(explanation)
        if (evidence := self._evidence.node()) is not None:
            nodes.append(evidence)
        self._gather(nodes)
        self.select(self.case.selection.lesion)

    def show_evidence(self, concept_id: str, *, everywhere: bool = True) -> Any:
        """Show where a concept's evidence lies, in the views of its own sequence.

        One volume is used for all concepts. On the frame's grid, 0..1, fixed window, transparent below the threshold,
        with a colour legend. Slice views that show the concept's sequence get it as foreground, others lose it.

        Args:
            concept_id: of the lexicon, seen in one of the study's sequences.
            everywhere: False leaves out what lies away from the gland and the regions, as the report does
                (:mod:`MedRationaleLogic.export.shown`).

        Returns:
            vtkMRMLScalarVolumeNode.

        Raises:
            NodeError: the case is not explained yet.
            KeyError: there is no such map.
        """
        explanation = self.case.explanation
        if explanation is None:
            raise NodeError("the study is not explained yet; explain it first")
        node = self._evidence.show(concept_id, explanation, self.nodes, everywhere=everywhere)
        self._gather([node])
        return node

    def hide_evidence(self) -> None:
        """Take the evidence out of the views."""
        self._evidence.hide()

    def set_evidence(self, opacity: float | None = None, threshold: float | None = None) -> None:
        """How evidence is shown: opacity (0..1) of the strongest, and the evidence (0..1) from which on it is shown.

        Raises:
            ValueError: not between 0 and 1.
        """
        self._evidence.set(opacity, threshold)

    def show_surfaces(self, shown: bool = True) -> None:
        """Gland and regions in 3D views."""
        self._segments.show_surfaces(shown)

    def select(self, number: int | None) -> None:
        """Let one region stand out: its outline, and the line of its diameter. None: all alike, no line."""
        self._segments.select(number)
        self._markers.select(number)

    def jump(self, point_lps: ArrayLike) -> None:
        """Bring all slice views to a patient point (x, y, z; LPS, mm), keeping zoom where the point is in sight."""
        r, a, s = (float(v) for v in ras(point_lps))
        slicer.vtkMRMLSliceNode.JumpAllSlices(self.scene, r, a, s, slicer.vtkMRMLSliceNode.OffsetJumpSlice)

    # ------------------------------------------------------------------------------------------------------- editing

    def edited_masks(self) -> dict[int, Volume]:
        """Regions whose segment the user has changed, by number: what to give to :meth:`Case.edit_region`.

        Bool, on the frame's grid where the segment lies on its voxels, else on the segment's own. A segment without
        voxels is there, empty; a deleted segment is not: ``update()`` makes it again.
        """
        explanation = self.case.explanation
        return {} if explanation is None else self._segments.edited(explanation)

    def drawn_masks(self) -> dict[str, Volume]:
        """Segments that the user has added to the segmentation, by segment ID: for :meth:`Case.add_region`."""
        explanation = self.case.explanation
        return {} if explanation is None else self._segments.drawn(explanation)

    def remove_segment(self, segment_id: str) -> None:
        """Remove a segment that the user has added, once it is a region of the case."""
        node = self._segments.node()
        if node is not None:
            node.GetSegmentation().RemoveSegment(segment_id)

    # ------------------------------------------------------------------------------------- saving, restoring, removing

    def save(self) -> Any:
        """Write the case into a text node of the scene, so that it is saved with it.

        Returns:
            vtkMRMLTextNode that refers to the case's images and segmentation.
        """
        text = self.case.to_text()
        node = find(self.scene, self.owner, CASE)
        if node is None:
            node = mark(self.scene.AddNewNodeByClass("vtkMRMLTextNode", CASE_NAME), self.owner, CASE)
        if node.GetText() != text:
            node.SetText(text)
        # an image that was removed keeps its reference: the case was made with it
        for role, image in self.nodes.items():
            node.SetNodeReferenceID(role, image.GetID())
        segmentation = self._segments.node()
        node.SetNodeReferenceID("segmentation", segmentation.GetID() if segmentation is not None else None)
        self._gather([node])
        return node

    @staticmethod
    def saved(scene: Any) -> list[Any]:
        """The text nodes of a scene that hold a case."""
        return [node for node in of_class(scene, "vtkMRMLTextNode") if node.GetAttribute(PART) == CASE]

    @classmethod
    def restore(cls, scene: Any, text_node: Any, explainer: ExplainerLike | None = None) -> CaseScene:
        """The case of a text node, with the nodes that it had in the scene; call ``update()`` next.

        An image that is no longer there under its reference is looked for among the scene's volumes, by its voxels and
        its place: it may have been loaded again.

        Args:
            scene: that holds the node and the case's images.
            text_node: one of :meth:`saved`.
            explainer: what runs the network when it is needed; by default that of the case's bundle.

        Raises:
            NodeError: an image of the case is not in the scene, or cannot be used.
            CaseError: the text is damaged, or an image is not the one of the case.
        """
        text = text_node.GetText() or ""
        nodes: dict[Role, Any] = {}
        for role in ROLES:
            if (node := text_node.GetNodeReference(role)) is not None:
                nodes[role] = node
        if len(nodes) < len(ROLES):  # of a study with all of them nothing can be missing
            nodes |= _found_again(scene, text, text_node.GetName(), nodes)
        case = Case.from_text(text, volumes_from_nodes(nodes), explainer)
        return cls(scene, case, nodes, owner=text_node.GetAttribute(OWNER))

    def remove(self) -> None:
        """Take everything out of the scene that this case has put there, and nothing else."""
        self._evidence.hide()
        hierarchy.forget(self.scene, self.owner)
        self._remove_nodes(lambda node: True)

    def _clear_results(self) -> None:
        """Nothing is explained: only the saved case may stay."""
        self._evidence.hide()
        self._remove_nodes(lambda node: node.GetAttribute(PART) != CASE)

    def _remove_nodes(self, which: Any) -> None:
        # displayed nodes first: what is left alone afterwards (colours, displays) is shown by nobody any more
        mine = [node for node in owned(self.scene, self.owner) if which(node)]
        mine.sort(key=lambda node: not node.IsA("vtkMRMLDisplayableNode"))
        tree = hierarchy_of(self.scene)
        for node in mine:
            if not self.scene.IsNodePresent(node):
                continue
            item = tree.GetItemByDataNode(node) if tree is not None else 0
            if item:
                tree.RemoveItem(item, False, False)
            remove_with_displays(self.scene, node)

    def _gather(self, nodes: list[Any]) -> None:
        reference = next(iter(self.nodes.values()), None)
        hierarchy.gather(self.scene, self.owner, reference, nodes)

    def _frame_node(self, explanation: Explanation) -> Any:
        return self.nodes.get(explanation.study.roles[0])


def _found_again(scene: Any, text: str, name: str, there: Mapping[Role, Any]) -> dict[Role, Any]:
    """The images of a case's text that no reference leads to, by role.

    Raises:
        NodeError: one of them is not in the scene.
        CaseError: the text is damaged.
    """
    found: dict[Role, Any] = {}
    for role, is_it in Case.images_of(text).items():
        if role in there:
            continue
        for node in of_class(scene, "vtkMRMLScalarVolumeNode"):
            if is_plain_volume(node) and _fits(node, role, is_it):
                found[role] = node
                break
        else:
            raise NodeError(
                f"the {ROLE_NAMES[role]} of '{name}' is not in the scene; load it again, or open an earlier copy of "
                "the scene"
            )
    return found


def _fits(node: Any, role: Role, is_it: Callable[[Volume], bool]) -> bool:
    try:
        return is_it(volumes_from_nodes({role: node})[role])
    except NodeError:  # it could not be this sequence at all
        return False
