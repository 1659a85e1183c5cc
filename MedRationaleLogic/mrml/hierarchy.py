"""A case's place in the subject hierarchy: one study item, under the patient of its images, that holds all we made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import slicer
import vtk

from MedRationaleLogic.mrml.node_facts import hierarchy_of
from MedRationaleLogic.mrml.parts import OWNER

STUDY_NAME = "MedRationale (research use only)"


def gather(scene: Any, owner: str, reference: Any, nodes: Iterable[Any]) -> int:
    """Put nodes into the case's study item; makes the item where it is missing.

    Args:
        scene: vtkMRMLScene.
        owner: ID of the case scene.
        reference: the node whose patient the item goes under, or None.
        nodes: ours.

    Returns:
        The item's ID; 0 where the scene has no subject hierarchy.
    """
    tree = hierarchy_of(scene)
    if tree is None:
        return 0
    item = study_item(tree, owner)
    if not item:
        item = int(tree.CreateStudyItem(_patient(tree, reference) or tree.GetSceneItemID(), STUDY_NAME))
        tree.SetItemAttribute(item, OWNER, owner)
    for child in _children(tree, item):
        # without Slicer's plugin logic, the item of a node that the user deleted stays behind
        if tree.GetItemDataNode(child) is None and not tree.GetItemLevel(child) and not _children(tree, child):
            tree.RemoveItem(child, False, False)
    for node in nodes:
        mine = tree.GetItemByDataNode(node)
        if not mine:
            tree.CreateItem(item, node)
        elif not tree.GetItemAttribute(mine, OWNER):
            tree.SetItemParent(mine, item)
        # once: a user who moves a node elsewhere finds it there again
        tree.SetItemAttribute(tree.GetItemByDataNode(node), OWNER, owner)
    return item


def file_study(scene: Any, nodes: Iterable[Any], *, name: str, study_uid: str | None) -> None:
    """Put the images of a study that was read from files under a patient and a study of their own.

    What tells two patients apart is the item: a patient's ID does not come into the scene.

    Args:
        scene: vtkMRMLScene.
        nodes: the images.
        name: of the study, for both items.
        study_uid: DICOM's, where there is one.
    """
    tree = hierarchy_of(scene)
    if tree is None:
        return
    study = int(tree.CreateStudyItem(tree.CreateSubjectItem(tree.GetSceneItemID(), name), name))
    if study_uid is not None:
        tree.SetItemUID(study, slicer.vtkMRMLSubjectHierarchyConstants.GetDICOMUIDName(), study_uid)
    for node in nodes:
        item = tree.GetItemByDataNode(node)
        if item:
            tree.SetItemParent(item, study)
        else:
            tree.CreateItem(study, node)


def study_item(tree: Any, owner: str) -> int:
    """The case's study item, or 0."""
    for item in _all(tree, tree.GetSceneItemID()):
        if tree.GetItemAttribute(item, OWNER) == owner and tree.GetItemDataNode(item) is None:
            return item
    return 0


def forget(scene: Any, owner: str) -> None:
    """Remove the case's items; what the user has put into the study item moves up to its parent."""
    tree = hierarchy_of(scene)
    if tree is None:
        return
    for item in [i for i in _all(tree, tree.GetSceneItemID()) if tree.GetItemAttribute(i, OWNER) == owner]:
        for child in _children(tree, item):
            if tree.GetItemAttribute(child, OWNER) != owner:
                tree.SetItemParent(child, tree.GetItemParent(item))
        tree.RemoveItem(item, False, False)


def _patient(tree: Any, node: Any) -> int:
    item = tree.GetItemByDataNode(node) if node is not None else 0
    level = slicer.vtkMRMLSubjectHierarchyConstants.GetDICOMLevelPatient()
    return int(tree.GetItemAncestorAtLevel(item, level)) if item else 0


def _children(tree: Any, item: int) -> list[int]:
    found = vtk.vtkIdList()
    tree.GetItemChildren(item, found, False)
    return [found.GetId(i) for i in range(found.GetNumberOfIds())]


def _all(tree: Any, item: int) -> Iterator[int]:
    found = vtk.vtkIdList()
    tree.GetItemChildren(item, found, True)
    return iter([found.GetId(i) for i in range(found.GetNumberOfIds())])
