"""What a scene says about a volume node besides its voxels: DICOM files, subject hierarchy, name.

The DICOM database is Slicer's (``slicer.dicomDatabase``); without one, or where a node has no instance UIDs, the
subject hierarchy's attributes and the name have to do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import slicer
import vtk

from MedRationaleLogic.imaging import files as image_files
from MedRationaleLogic.imaging.acquisition import LOWEST_USABLE_HIGH_B, ROLES, Role, StudyError, plane_of
from MedRationaleLogic.mrml.parts import B_VALUE, OWNER, ROLE

if TYPE_CHECKING:
    from MedRationaleLogic.imaging.dicom import DicomFolder, Stack

_SERIES_NUMBER = re.compile(r"^\s*\d+\s*:\s*")  # Slicer's DICOM module names a volume "4: t2_tse_tra"
_NOT_PLAIN = (
    "vtkMRMLLabelMapVolumeNode",
    "vtkMRMLVectorVolumeNode",
    "vtkMRMLTensorVolumeNode",
    "vtkMRMLStreamingVolumeNode",
    "vtkMRMLMultiVolumeNode",
)


@dataclass(frozen=True)
class Identity:
    """Whose image a node is, and of which examination; None where nothing says so. Never logged.

    Attributes:
        patient, study: what tells patients and studies apart: DICOM's, else the subject hierarchy item.
        patient_id, study_uid, study_date: DICOM's own, the date as ``YYYY-MM-DD``.
        modality: of DICOM.
    """

    patient: str | None = field(default=None, repr=False)
    study: str | None = field(default=None, repr=False)
    patient_id: str | None = field(default=None, repr=False)
    study_uid: str | None = field(default=None, repr=False)
    study_date: str | None = field(default=None, repr=False)
    modality: str | None = None


@dataclass(frozen=True)
class NamedRole:
    """What a node's name says.

    Attributes:
        role: what it is, or None for a localizer, a dynamic series, a result.
        b_value: s/mm2, where the name spells it out.
        numbers: words with at least two digits before the role: a patient's or case's number.
        rank: to sort by, the one to take first.
    """

    role: Role | None
    b_value: float | None
    numbers: tuple[str, ...]
    rank: tuple[Any, ...]


def is_plain_volume(node: Any) -> bool:
    """Whether a node is a greyscale 3D volume with voxels, and none that a case has made."""
    image = node.GetImageData()
    return bool(
        node.IsA("vtkMRMLScalarVolumeNode")
        and not any(node.IsA(name) for name in _NOT_PLAIN)
        and node.GetAttribute(OWNER) is None
        and not node.GetHideFromEditors()
        and image is not None
        and min(image.GetDimensions()) > 1
        and image.GetNumberOfScalarComponents() == 1
    )


def plane(node: Any) -> str:
    """The plane of a volume's slices, transforms apart: axial, sagittal or coronal."""
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    columns = np.array([[matrix.GetElement(row, column) for column in range(3)] for row in range(3)])
    spacing = np.linalg.norm(columns, axis=0)
    coarse = int(np.argmax(spacing))
    # where no axis is coarser, the slices may be any: a volume with isotropic voxels is as good as axial
    if spacing[coarse] <= 1.2 * float(np.median(spacing)):
        return "axial"
    x, y, z = (float(v) for v in columns[:, coarse])
    return plane_of((x, y, z))


def named_role(name: str, b_value: float | None = None) -> NamedRole | None:
    """What a name says by the rules for file names, else by those for series descriptions; None when nothing.

    Args:
        name: of a node, a leading series number ("4: ") apart.
        b_value: where it is known otherwise.
    """
    from pydicom.dataset import Dataset

    from MedRationaleLogic.imaging.dicom_header import CALCULATED, b_value_of, kind_of

    text = _SERIES_NUMBER.sub("", name).strip()
    if not text or image_files.names_a_result(text):
        return None
    header = Dataset()
    header.SeriesDescription = text
    said = b_value_of(header) if b_value is None else b_value
    kind = kind_of(header, said)
    named = image_files.parse_name(Path(re.sub(r"[\\/]", "_", text)))
    if kind in ("localizer", "dce"):
        return NamedRole(None, None, (), ())
    if named is not None and named.role is not None:
        b = named.b_value if b_value is None else b_value
        if named.role == "hbv" and b is None:
            b = said
        numbers = tuple(w for w in named.case[1:] if re.search(r"\d\d", w))
        named = image_files.NamedFile(named.path, named.case, named.role, named.extras, b)
        return NamedRole(named.role, b if named.role == "hbv" else None, numbers, image_files.rank(named))
    if kind == "t2w" or kind == "adc":
        return NamedRole(kind, None, (), (3, 0, 99, text))
    if kind == "dwi":
        calculated = bool(CALCULATED.search(text.lower()))
        return NamedRole("hbv", said, (), (1 if calculated else 3, -(said or 0), 99, text))
    return None


def said_of(node: Any) -> NamedRole | None:
    """What a node is: as what it was read from files, else what its name says; None when nothing does."""
    name = node.GetName() or ""
    for role in ROLES:
        if node.GetAttribute(ROLE) == role:
            return NamedRole(role, node_b_value(node), (), (0, 0, 0, name))
    return named_role(name, node_b_value(node))


def usable_high_b(b_value: float | None) -> bool:
    """Whether an image of this b-value (s/mm2) may stand for high-b."""
    return b_value is None or b_value >= LOWEST_USABLE_HIGH_B


def node_b_value(node: Any) -> float | None:
    """The b-value that a node was given when it was taken out of a sequence."""
    with suppress(TypeError, ValueError):
        return float(node.GetAttribute(B_VALUE))
    return None


def proxies(scene: Any) -> set[str]:
    """IDs of nodes that show the current item of a sequence: what they hold changes when the sequence is played."""
    found: set[str] = set()
    for browser in of_class(scene, "vtkMRMLSequenceBrowserNode"):
        nodes = vtk.vtkCollection()
        browser.GetAllProxyNodes(nodes)
        found |= {nodes.GetItemAsObject(i).GetID() for i in range(nodes.GetNumberOfItems())}
    return found


def of_class(scene: Any, cls: str) -> Iterator[Any]:
    """The nodes of a class, as a list that does not change while it is walked through."""
    found = scene.GetNodesByClass(cls)
    found.UnRegister(found)  # the collection is ours, with one reference more than Python counts
    return iter([found.GetItemAsObject(i) for i in range(found.GetNumberOfItems())])


# --------------------------------------------------------------------------------------------------------------- DICOM


def dicom_folder(node: Any) -> DicomFolder | None:
    """The DICOM headers of a node's files, or None: no database, no instance UIDs, or files that are gone."""
    database = getattr(slicer, "dicomDatabase", None)
    uids = (node.GetAttribute("DICOM.instanceUIDs") or "").split()
    if database is None or not uids:
        return None
    from MedRationaleLogic.imaging import dicom

    files = sorted({Path(file) for uid in uids if (file := str(database.fileForInstance(uid) or ""))})
    present = [file for file in files if file.is_file()]
    if not present:
        return None
    try:
        return dicom.scan(present, node.GetName() or "volume", required=False)
    except StudyError:
        return None  # what is wrong with the files is no reason to refuse voxels that were read from them


def stack_of(node: Any, folder: DicomFolder) -> Stack | None:
    """The stack that a node's voxels were read from; None where its files make several and none fits."""
    slices = node.GetImageData().GetDimensions()[2] if node.GetImageData() is not None else 0
    fitting = [s for s in folder.stacks if len(s.slices) == slices]
    if len(folder.stacks) == 1:
        return folder.stacks[0]
    return fitting[0] if len(fitting) == 1 else None


def identity(node: Any, folder: DicomFolder | None = None) -> Identity:
    """Whose image a node is; ``folder`` is what :func:`dicom_folder` gave for it."""
    if folder is not None and (folder.patient_id or folder.study_uid):
        modality = next((str(s.header.get("Modality") or "") or None for s in folder.stacks), None)
        return Identity(
            folder.patient_id, folder.study_uid, folder.patient_id, folder.study_uid, folder.study_date, modality
        )
    tree = hierarchy_of(node.GetScene())
    item = tree.GetItemByDataNode(node) if tree is not None else 0
    if not item:
        return Identity()
    names = slicer.vtkMRMLSubjectHierarchyConstants
    patient = tree.GetItemAncestorAtLevel(item, names.GetDICOMLevelPatient())
    study = tree.GetItemAncestorAtLevel(item, names.GetDICOMLevelStudy())
    patient_id = _attribute(tree, patient, names.GetDICOMPatientIDAttributeName())
    study_uid = tree.GetItemUID(study, names.GetDICOMUIDName()) or None if study else None
    date = _attribute(tree, study, names.GetDICOMStudyDateAttributeName())
    return Identity(
        patient=patient_id or (f"item {patient}" if patient else None),
        study=study_uid or (f"item {study}" if study else None),
        patient_id=patient_id,
        study_uid=study_uid,
        study_date=_iso_date(date),
        modality=_attribute(tree, item, names.GetDICOMSeriesModalityAttributeName()),
    )


def hierarchy_of(scene: Any) -> Any:
    """The subject hierarchy of a scene, or None."""
    return None if scene is None else slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)


def _attribute(tree: Any, item: int, name: str) -> str | None:
    return (tree.GetItemAttribute(item, name) or None) if item else None


def _iso_date(date: str | None) -> str | None:
    digits = re.sub(r"\D", "", date or "")
    return f"{digits[:4]}-{digits[4:6]}-{digits[6:]}" if len(digits) == 8 else None
