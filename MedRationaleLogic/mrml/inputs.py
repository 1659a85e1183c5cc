"""Which nodes of a scene are T2W, ADC and high-b, and a Study of them.

    found = find_inputs(slicer.mrmlScene)
    study = study_from_nodes(found.t2w, found.adc, found.hbv)

What cannot be right is a :class:`NodeError`. What looks wrong but may be right is a :class:`NodeQuestion`: ask the
user, and call again with its key among ``confirmed``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from MedRationaleLogic.imaging.acquisition import (
    HIGH_B,
    ROLE_NAMES,
    ROLES,
    AcquisitionHeader,
    Role,
    SeriesChoice,
    StudyError,
)
from MedRationaleLogic.imaging.study import Study, study_from_volumes
from MedRationaleLogic.imaging.volume import Volume
from MedRationaleLogic.mrml.geometry import NodeError, volume_from_node
from MedRationaleLogic.mrml.node_facts import (
    Identity,
    dicom_folder,
    identity,
    is_plain_volume,
    named_role,
    node_b_value,
    of_class,
    plane,
    proxies,
    said_of,
    stack_of,
    usable_high_b,
)
from MedRationaleLogic.mrml.parts import B_VALUE

if TYPE_CHECKING:
    from MedRationaleLogic.imaging.dicom import DicomFolder, Stack

__all__ = ["FoundInputs", "NodeError", "NodeQuestion", "find_inputs", "study_from_nodes", "volumes_from_nodes"]

ALIKE = 0.7
"""Correlation of ADC and high-b from which one of them is asked about. In six bpMRI examinations that are at hand it
was at most 0.53 for the right pair, and at least 0.74 for ADC with a b-value of up to 400."""
_ROLE_KINDS: Mapping[str, Role] = {"t2w": "t2w", "adc": "adc", "dwi": "hbv"}
_UNUSUAL_UNIT = re.compile(r"ADC stored in (1e-5|1e-7|1e-9) ")


class NodeQuestion(NodeError):  # noqa: N818 - a question, not an error
    """Nodes that look wrong together but may be right.

    Attributes:
        key: what to put among ``confirmed`` once the user has said yes; another choice of nodes has another key.
        question: to be answered with yes or no.
    """

    def __init__(self, key: str, question: str) -> None:
        super().__init__(question)
        self.key, self.question = key, question


# ------------------------------------------------------------------------------------------------------------- finding


@dataclass(frozen=True)
class FoundInputs:
    """What :func:`find_inputs` found.

    Attributes:
        t2w, adc, hbv: volume nodes, None where nothing looked like it.
        why: per role in words: why the node was taken, or that none was found.
        alternatives: per role the other nodes that may be meant, best first.
    """

    t2w: Any = None
    adc: Any = None
    hbv: Any = None
    why: Mapping[Role, str] = field(default_factory=dict)
    alternatives: Mapping[Role, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def nodes(self) -> dict[Role, Any]:
        """The nodes that were found, by role."""
        every: dict[Role, Any] = {"t2w": self.t2w, "adc": self.adc, "hbv": self.hbv}
        return {role: node for role, node in every.items() if node is not None}


@dataclass(frozen=True)
class _Candidate:
    """A node that may be meant for a role; ``take`` makes the node where it still lies in a sequence."""

    role: Role
    node: Any
    group: str
    rank: tuple[Any, ...]
    why: str
    sequence: tuple[Any, int, float] | None = None

    def take(self, scene: Any) -> Any:
        return self.node if self.sequence is None else _out_of_sequence(scene, *self.sequence)


def find_inputs(scene: Any) -> FoundInputs:
    """The nodes of a scene that look like T2W, ADC and high-b of one examination.

    By DICOM headers where Slicer's database has the files (the same choice as for a DICOM folder), else by name and
    by the orientation of the slices. Images of one study (subject hierarchy, or the number in their names) go
    together; the study with most of the three is taken. A multi-b sequence counts with its highest b-value: where that
    is the best there is, a copy of it is added to the scene as a volume of its own. Nodes that a case made, and nodes
    that a sequence browser plays, are passed over.
    """
    candidates = [*_candidates(scene)]
    groups: dict[str, list[_Candidate]] = {}
    for one in candidates:
        groups.setdefault(one.group, []).append(one)
    best = max(groups.values(), key=lambda group: len({one.role for one in group}), default=[])
    found: dict[Role, Any] = {}
    why: dict[Role, str] = {}
    others: dict[Role, tuple[Any, ...]] = {}
    for role in ROLES:
        ranked = sorted((c for c in candidates if c.role == role and c in best), key=lambda c: c.rank)
        # a node that nothing ties to any study may belong to this one
        ranked += sorted((c for c in candidates if c.role == role and c not in best and not c.group), key=_rank)
        rest = sorted((c for c in candidates if c.role == role and c not in ranked), key=_rank)
        if not ranked:
            why[role] = f"no volume looks like {ROLE_NAMES[role]} by its DICOM header or its name; choose it by hand"
        else:
            found[role] = ranked[0].take(scene)
            why[role] = ranked[0].why
        others[role] = tuple(c.node for c in [*ranked[1:], *rest] if c.sequence is None)
    return FoundInputs(found.get("t2w"), found.get("adc"), found.get("hbv"), why, others)


def _rank(candidate: _Candidate) -> tuple[Any, ...]:
    return candidate.rank


def _candidates(scene: Any) -> Iterator[_Candidate]:
    played = proxies(scene)
    nodes = [n for n in of_class(scene, "vtkMRMLScalarVolumeNode") if is_plain_volume(n) and n.GetID() not in played]
    with_dicom: dict[str, list[tuple[Any, Stack, DicomFolder]]] = {}
    for node in nodes:
        folder = dicom_folder(node)
        stack = stack_of(node, folder) if folder is not None else None
        if folder is not None and stack is not None:
            with_dicom.setdefault(folder.study_uid or "", []).append((node, stack, folder))
        elif plane(node) == "axial":
            yield from _by_name(node)
    for study, members in with_dicom.items():
        yield from _by_dicom(study, members)
    taken = {node.GetAttribute(_FROM_SEQUENCE) for node in nodes}
    for sequence in of_class(scene, "vtkMRMLSequenceNode"):
        yield from _in_sequence(sequence, taken)


def _by_name(node: Any) -> Iterator[_Candidate]:
    said = said_of(node)
    if said is None or said.role is None or (said.role == "hbv" and not usable_high_b(said.b_value)):
        return
    study = identity(node).study
    group = f"study {study}" if study else " ".join(said.numbers)
    yield _Candidate(said.role, node, group, (1, *said.rank), _name_reason(node.GetName(), said.role, said.b_value))


def _name_reason(name: str, role: Role, b_value: float | None) -> str:
    if role != "hbv" or b_value is None:
        return f"'{name}': by its name"
    if b_value < HIGH_B:
        return f"'{name}': the highest b-value by name (b{b_value:.0f}), below the {HIGH_B:.0f} that PI-RADS asks for"
    return f"'{name}': by its name, b{b_value:.0f}"


def _by_dicom(study: str, members: Sequence[tuple[Any, Stack, DicomFolder]]) -> Iterator[_Candidate]:
    from MedRationaleLogic.imaging import dicom

    by_stack = {id(stack): node for node, stack, _ in members}
    folder = replace(members[0][2], stacks=tuple(stack for _, stack, _ in members))
    for role in ROLES:
        left, place = folder, 0
        while (chosen := dicom.choose(left, role)) is not None:
            stack, choice = chosen
            node = by_stack[id(stack)]
            why = f"'{node.GetName()}': {choice.label}, {choice.reason}"
            yield _Candidate(role, node, f"study {study}" if study else "", (0, place), why)
            left = replace(left, stacks=tuple(s for s in left.stacks if s is not stack))
            place += 1


# ----------------------------------------------------------------------------------------------------------- sequences

_FROM_SEQUENCE = "MedRationale.from_sequence"


def _in_sequence(sequence: Any, taken: Collection[str | None]) -> Iterator[_Candidate]:
    """The highest b-value of a sequence of diffusion images, unless it was taken out before."""
    found = max(_b_values(sequence), default=None)
    if found is None or not usable_high_b(found[0]) or _sequence_key(sequence, found[0]) in taken:
        return
    b_value, item = found
    node = sequence.GetNthDataNode(item)
    if not is_plain_volume(node) or plane(node) != "axial":
        return
    name = sequence.GetName()
    said = named_role(name)
    why = f"'{name}': the highest b-value of the sequence, b{b_value:.0f}"
    if b_value < HIGH_B:
        why += f", below the {HIGH_B:.0f} that PI-RADS asks for"
    # an image of its own that a data set calls high-b goes first; below 1400, so does anything above it
    rank = (1, 1 if b_value >= HIGH_B else 2, -b_value, 50, name)
    yield _Candidate("hbv", node, " ".join(said.numbers) if said else "", rank, why, (sequence, item, b_value))


def _b_values(sequence: Any) -> Iterator[tuple[float, int]]:
    """(b-value in s/mm2, item) of a sequence whose index, items or name speak of diffusion."""
    said = named_role(sequence.GetName() or "")
    index = (sequence.GetIndexName() or "").strip().lower()
    diffusion = re.fullmatch(r"b|b[-_ ]?val(ue)?s?|diffusion.*", index) or (said is not None and said.role == "hbv")
    timed = re.search(r"time|frame|trigger|phase", index) is not None
    for item in range(sequence.GetNumberOfDataNodes()):
        value = (sequence.GetNthIndexValue(item) or "").strip()
        named = re.fullmatch(r"b[-_= ]*(\d{1,5})(\.0+)?", value.lower())
        if named:
            yield float(named[1]), item
        elif diffusion and not timed and re.fullmatch(r"\d{1,5}(\.\d+)?", value):
            yield float(value), item


def _sequence_key(sequence: Any, b_value: float) -> str:
    return f"{sequence.GetID()} b{b_value:.0f}"


def _out_of_sequence(scene: Any, sequence: Any, item: int, b_value: float) -> Any:
    """A copy of a sequence's item as a volume of the scene: an input, not a result."""
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", f"{sequence.GetName()} b{b_value:.0f}")
    source = sequence.GetNthDataNode(item)
    image = source.GetImageData().NewInstance()
    image.DeepCopy(source.GetImageData())
    node.CopyOrientation(source)
    node.SetAndObserveImageData(image)
    node.CreateDefaultDisplayNodes()
    node.SetAttribute(B_VALUE, f"{b_value:.0f}")
    node.SetAttribute(_FROM_SEQUENCE, _sequence_key(sequence, b_value))
    return node


# ------------------------------------------------------------------------------------------------------------ checking


@dataclass(frozen=True)
class _Given:
    """A chosen node with what the scene says about it."""

    role: Role
    node: Any
    folder: DicomFolder | None
    stack: Stack | None
    who: Identity

    @property
    def name(self) -> str:
        return self.node.GetName() or "unnamed volume"

    @property
    def label(self) -> str:
        return f"'{self.name}' ({ROLE_NAMES[self.role]})"


def study_from_nodes(
    t2w: Any, adc: Any = None, hbv: Any = None, *, psa: float | None = None, name: str | None = None,
    confirmed: Collection[str] = frozenset(),
) -> Study:  # fmt: skip
    """A study of volume nodes, checked like files; transforms above the nodes are part of their place.

    Args:
        t2w, adc, hbv: vtkMRMLScalarVolumeNode or None; at least one.
        psa: ng/ml.
        name: what to call the study; the first node's name by default.
        confirmed: keys of :class:`NodeQuestion` that the user has answered with yes.

    Returns:
        The study; volumes are named like their nodes. Acquisition facts come from the DICOM database, if any.

    Raises:
        NodeQuestion: something looks wrong but may be right.
        NodeError: a node that cannot be used: another kind of node, a label map, colour, empty, 2D, a CT, a sagittal
            series, values that are no ADC in any unit, images of different places, a PSA that is no number.
    """
    chosen: dict[Role, Any] = {"t2w": t2w, "adc": adc, "hbv": hbv}
    given = _all_looked_at(chosen)
    for question in _questions(given):
        if question.key not in confirmed:
            raise question
    study = _read(given, name or given[0].name, psa)
    for question in _questions_on_values(given, study):
        if question.key not in confirmed:
            raise question
    return study


def volumes_from_nodes(nodes: Mapping[Role, Any]) -> dict[Role, Volume]:
    """The images of nodes as :func:`study_from_nodes` reads them, without questions: of a case that was opened before.

    Raises:
        NodeError: as there.
    """
    found: dict[Role, Volume] = {}
    for one in _all_looked_at(nodes):
        # each for itself: whether they lie where the case had them is for the case to say
        volume = _read([one], one.name, None).volume(one.role)
        if volume is not None:
            found[one.role] = volume
    return found


def _all_looked_at(nodes: Mapping[Role, Any]) -> list[_Given]:
    given = [_looked_at(role, node) for role in ROLES if (node := nodes.get(role)) is not None]
    if not given:
        raise NodeError("no volume is chosen; choose at least one of T2W, ADC and high-b")
    return given


def _read(given: Sequence[_Given], name: str, psa: float | None) -> Study:
    volumes: dict[Role, Volume] = {one.role: volume_from_node(one.node) for one in given}
    first = given[0].who
    try:
        return study_from_volumes(
            name,
            volumes,
            headers=_headers(given, volumes),
            choices=[SeriesChoice(one.role, _label(one), "chosen in the scene") for one in given],
            psa=psa,
            patient_id=first.patient_id,
            study_uid=first.study_uid,
            study_date=first.study_date,
        )
    except StudyError as error:
        raise NodeError(str(error)) from error


def _looked_at(role: Role, node: Any) -> _Given:
    """A node with its facts, once it is a volume that can be an image."""
    name, wanted = node.GetName() or "unnamed node", ROLE_NAMES[role]
    if node.IsA("vtkMRMLLabelMapVolumeNode") or node.IsA("vtkMRMLSegmentationNode"):
        raise NodeError(
            f"'{name}' is a label map or segmentation, not an image; choose the {wanted} image itself (an image that "
            "was loaded as a label map has to be loaded again without that option)"
        )
    if not node.IsA("vtkMRMLScalarVolumeNode"):
        raise NodeError(f"'{name}' is no volume; choose the {wanted} image")
    image = node.GetImageData()
    if image is None or 0 in image.GetDimensions():
        raise NodeError(f"'{name}' has no image data; load the image again or choose another volume for {wanted}")
    components = image.GetNumberOfScalarComponents()
    if components != 1 or node.IsA("vtkMRMLVectorVolumeNode"):
        what = "several b-values or directions" if node.IsA("vtkMRMLDiffusionImageVolumeNode") else "colour or vectors"
        raise NodeError(
            f"'{name}' has {components} components per voxel ({what}); {wanted} must be a plain greyscale volume: "
            "load the series again as scalar volumes"
        )
    if 1 in image.GetDimensions():
        raise NodeError(f"'{name}' is a 2D image, not a volume; load the whole {wanted} series")
    folder = dicom_folder(node)
    one = _Given(role, node, folder, stack_of(node, folder) if folder is not None else None, identity(node, folder))
    modality = one.who.modality
    units = node.GetVoxelValueUnits()
    hounsfield = units is not None and "hnsf" in (units.GetCodeValue() or "").lower()
    if hounsfield or (modality is not None and modality.upper() != "MR"):
        said = f"of modality {modality}" if modality else "in Hounsfield units, a CT"
        raise NodeError(f"'{name}' is {said}; {wanted} must be a prostate MRI")
    return one


def _questions(given: Sequence[_Given]) -> Iterator[NodeQuestion]:
    """What can be asked before a voxel is looked at."""
    for a, b in combinations(given, 2):
        pair = f"{a.node.GetID()}:{b.node.GetID()}"
        if a.node is b.node:
            roles = f"{ROLE_NAMES[a.role]} and {ROLE_NAMES[b.role]}"
            yield NodeQuestion(f"twice:{pair}", f"'{a.name}' is chosen for {roles} at once. Is that meant?")
            continue
        yield from _same_examination(a, b, pair)
    for one in given:
        said = _said_role(one)
        if said is not None and said != one.role:
            key = f"role:{one.role}:{one.node.GetID()}"
            yield NodeQuestion(
                key, f"'{one.name}' looks like {ROLE_NAMES[said]}. Is it meant to be used as {ROLE_NAMES[one.role]}?"
            )


def _same_examination(a: _Given, b: _Given, pair: str) -> Iterator[NodeQuestion]:
    both = f"{a.label} and {b.label}"
    if a.who.patient and b.who.patient:
        if a.who.patient != b.who.patient:
            yield NodeQuestion(f"patients:{pair}", f"{both} belong to different patients. Are they of one patient?")
        elif a.who.study and b.who.study and a.who.study != b.who.study:
            yield NodeQuestion(
                f"studies:{pair}", f"{both} belong to different examinations. Are they meant to be read together?"
            )
    elif not a.who.patient and not b.who.patient:
        numbers = [named.numbers if (named := named_role(one.name)) else () for one in (a, b)]
        if all(numbers) and set(numbers[0]).isdisjoint(numbers[1]):
            yield NodeQuestion(
                f"patients:{pair}", f"{both} have different numbers in their names. Are they of one patient?"
            )


def _said_role(one: _Given) -> Role | None:
    """What DICOM, else the name, says a node is."""
    if one.stack is not None:
        return _ROLE_KINDS.get(one.stack.kind)
    said = said_of(one.node)
    return said.role if said is not None else None


def _questions_on_values(given: Sequence[_Given], study: Study) -> Iterator[NodeQuestion]:
    """What the voxels give rise to ask."""
    by_role = {one.role: one for one in given}
    unusual = next((found for note in study.notes if (found := _UNUSUAL_UNIT.search(note))), None)
    if unusual is not None and "adc" in by_role:
        one = by_role["adc"]
        yield NodeQuestion(
            f"unit:{one.node.GetID()}",
            f"{one.label} would be an ADC map only in the unusual unit {unusual[1]} mm2/s. Is it an ADC map?",
        )
    if study.adc is None or study.hbv is None or by_role["adc"].node is by_role["hbv"].node:
        return
    alike = _correlation(study.adc, study.hbv)
    if alike >= ALIKE:
        pair = f"{by_role['adc'].node.GetID()}:{by_role['hbv'].node.GetID()}"
        yield NodeQuestion(
            f"alike:{pair}",
            f"{by_role['adc'].label} and {by_role['hbv'].label} look alike (correlation {alike:.2f}), as an ADC map "
            "and an image of a high b-value do not: one of them may be an image of a low b-value. Are both right?",
        )


def _correlation(a: Volume, b: Volume) -> float:
    """Of the middle of two images, on a thinned grid of the first."""
    z, y, x = a.geometry.shape
    axes = [
        np.linspace(lo * (n - 1), hi * (n - 1), min(n, 40))
        for n, lo, hi in ((z, 0, 1), (y, 0.25, 0.75), (x, 0.25, 0.75))
    ]
    points = a.geometry.to_patient(
        np.stack(np.meshgrid(*[np.round(v) for v in axes], indexing="ij"), -1).reshape(-1, 3)
    )
    values = []
    inside = np.ones(len(points), bool)
    for volume in (a, b):
        index = np.rint(volume.geometry.to_index(points)).astype(int)
        inside &= np.all((index >= 0) & (index < volume.geometry.shape), axis=1)
        values.append((volume, index))
    if inside.sum() < 100:
        return 0.0
    first, second = (v.array[tuple(i[inside].T)].astype(float) for v, i in values)
    if first.std() == 0 or second.std() == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


# ------------------------------------------------------------------------------------------------------------- headers


def _label(one: _Given) -> str:
    return one.stack.label if one.stack is not None else one.name


def _headers(given: Sequence[_Given], volumes: Mapping[Role, Volume]) -> dict[str, AcquisitionHeader]:
    """Acquisition facts from DICOM; without it the b-value at least, where a name or a sequence tells it."""
    headers: dict[str, AcquisitionHeader] = {}
    stacks = tuple(one.stack for one in given if one.stack is not None)
    for one in given:
        if one.stack is not None and one.folder is not None:
            from MedRationaleLogic.imaging import dicom

            folder = replace(one.folder, stacks=stacks)
            spacing = volumes[one.role].geometry.spacing[0]
            headers[one.role] = dicom.acquisition_header(one.stack, folder, one.role, spacing)
        elif one.role == "hbv":
            said = said_of(one.node)
            b_value = said.b_value if said is not None and said.role == "hbv" else node_b_value(one.node)
            headers["hbv"] = AcquisitionHeader("hbv", orientation=plane(one.node), b_value=b_value)
    return headers
