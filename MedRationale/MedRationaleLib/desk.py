"""The desk: what the panel and the Python console share. A case, the worker that reads for it, and what the scene shows
of it. Uses MRML and never Qt, so it works with `--no-main-window` too.

    desk = Desk()
    desk.open(t2w, adc, hbv)
    desk.explain()
    while desk.busy: desk.poll()          # the panel does this from a timer
    desk.case.explanation, desk.view.segmentation
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import slicer

ROLES = ("t2w", "adc", "hbv")


class DeskError(ValueError):
    """Something that cannot be done now; the text says what to do."""


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


class Desk:
    """One reader's place: at most one case at a time.

    Args:
        bundle: name or folder of the model bundle; the default one if None.
        device: "auto", "cpu" or "cuda".
        inProcess: run the network in this process instead of a child: everything waits for it.
        python: interpreter of the child; found by itself if None.
    """

    def __init__(
        self, *, bundle: str | None = None, device: str = "auto", inProcess: bool = False, python: str | None = None
    ) -> None:
        self.bundle, self.device, self.inProcess, self.python = bundle, device, inProcess, python
        self.session: Any = None
        self.view: Any = None
        self.nodes: dict[str, Any] = {}
        self._listeners: list[Callable[[str, Any], None]] = []
        self._sessionOf: tuple[str | None, str, bool] | None = None
        self._loaded: tuple[Any, dict[str, str], dict[str, int]] | None = None

    @property
    def loadedStudy(self) -> Any:
        """The study that `loadFolder` read last, or None."""
        return None if self._loaded is None else self._loaded[0]

    # ------------------------------------------------------------------------------------------------ what is there

    @property
    def case(self) -> Any:
        """The open case, or None."""
        return None if self.session is None else self.session.case

    @property
    def explanation(self) -> Any:
        """The explanation in force, or None."""
        return None if self.case is None else self.case.explanation

    @property
    def job(self) -> Any:
        """What runs or ran last, or None before anything did."""
        return None if self.session is None else self.session.job

    @property
    def busy(self) -> bool:
        """Whether something runs; `poll` moves it on."""
        return self.session is not None and self.session.job.state == "running"

    def subscribe(self, listener: Callable[[str, Any], None]) -> None:
        """Hear of changes: ("job", event), ("case", event), and ("view", None) when a case comes or goes."""
        self._listeners.append(listener)

    # ------------------------------------------------------------------------------------------------------- opening

    def loadFolder(self, folder: Path | str) -> dict[str, Any]:
        """Read a study folder (DICOM, NIfTI, MHA, NRRD) into volume nodes.

        Returns:
            role -> new node, for the sequences that were found.

        Raises:
            StudyError: nothing usable; the message names the folder or file and what was expected.
        """
        from MedRationaleLogic.imaging.study import read_study
        from MedRationaleLogic.mrml.geometry import node_from_volume

        study = read_study(Path(folder))
        nodes = {}
        for role in study.roles:
            node = node_from_volume(slicer.mrmlScene, study.volume(role), NODE_NAMES[role])
            if node.GetDisplayNode() is None:
                node.CreateDefaultDisplayNodes()
            nodes[role] = node
        self._loaded = (study, {r: n.GetID() for r, n in nodes.items()}, {r: _stamp(n) for r, n in nodes.items()})
        return nodes

    def study(
        self, nodes: Mapping[str, Any], *, psa: float | None = None, confirmed: frozenset[str] = frozenset()
    ) -> Any:
        """The study of these nodes. One that `loadFolder` read keeps its headers while its nodes are as they were.

        Raises:
            NodeError: a node that cannot be used; NodeQuestion where the user may say that it is right.
        """
        given = {role: node for role, node in nodes.items() if node is not None}
        if self._loaded is not None:
            study, ids, stamps = self._loaded
            same = {r: n.GetID() for r, n in given.items()} == ids
            if same and all(_stamp(n) == stamps[r] and n.GetParentTransformNode() is None for r, n in given.items()):
                return study.with_psa(psa)
        from MedRationaleLogic.mrml.inputs import study_from_nodes

        return study_from_nodes(*(given.get(role) for role in ROLES), psa=psa, confirmed=confirmed)

    def open(
        self, t2w: Any = None, adc: Any = None, hbv: Any = None, *, psa: float | None = None,
        confirmed: frozenset[str] = frozenset(),
    ) -> Any:  # fmt: skip
        """A new case of these volume nodes, in place of the open one, whose results leave the scene. Who asks for it
        looks first whether a reader's work would go (the panel does).

        Raises:
            NodeError: see :meth:`study`.
        """
        from MedRationaleLogic.mrml.case_scene import CaseScene

        nodes = {role: node for role, node in zip(ROLES, (t2w, adc, hbv), strict=True) if node is not None}
        study = self.study(nodes, psa=psa, confirmed=confirmed)
        self.close()
        if self._sessionOf != self._wanted():  # another model, device or way of running was chosen meanwhile
            self._dropSession()
        session = self._ready()
        session.open(study)
        self.nodes = nodes
        self.view = CaseScene(slicer.mrmlScene, session.case, nodes)
        self._tell("view", None)
        return session.case

    def _ready(self) -> Any:
        """The session, made when it is first needed: neither torch nor a child process before that."""
        if self.session is None:
            from MedRationaleLogic.session import Session

            self.session = Session(self._explainer())
            self.session.subscribe(self._heard)
            self._sessionOf = self._wanted()
        return self.session

    def _wanted(self) -> tuple[str | None, str, bool]:
        return self.bundle, self.device, self.inProcess

    def _explainer(self) -> Any:
        from MedRationaleLogic.inference import worker

        if self.inProcess:
            from MedRationaleLogic.inference.explainer import Explainer

            return Explainer(self.bundle, self.device)
        return worker.RemoteExplainer(bundle=self.bundle, device=self.device, python=self.python)

    def warm(self) -> None:
        """Start the child process, so that the first click does not wait for PyTorch; returns at once."""
        self._ready().explainer.warm()

    def configure(self, *, bundle: str | None, device: str, inProcess: bool) -> None:
        """Another model, device or way of running; takes effect with the next study."""
        self.bundle, self.device, self.inProcess = bundle, device, inProcess

    # ------------------------------------------------------------------------------------------------------- running

    def explain(self) -> None:
        """Start explaining the open case; `poll` brings it to its end."""
        self._opened().explain()

    def perform(self, action: Callable[[], Any], what: str) -> None:
        """Do something to the case that may need the network: at once when it is warm, else as soon as it is."""
        self._opened().perform(action, what)

    def shift(self, role: str, lpsMm: list[float], reader: str) -> None:
        """Move ADC or high-b by millimetres (x, y, z; LPS); an explained study is run through the network again."""
        self._opened().shift(role, lpsMm, reader)

    def evidenceAtHand(self) -> bool:
        """Whether a map can be shown at once, without running the network first."""
        return self.case is not None and self.case.evidence_at_hand

    def poll(self) -> None:
        """Move on what runs; never waits."""
        if self.session is not None:
            self.session.poll()

    def wait(self, alive: Callable[[], None] | None = None) -> Any:
        """Poll until nothing runs (for the console and for batch).

        Args:
            alive: called between two polls, e.g. `slicer.app.processEvents`.

        Raises:
            DeskError: the job failed or was stopped; the message is the job's.
        """
        self._opened().wait(tick=None if alive is None else lambda _job: alive())
        if self.job is not None and self.job.state in ("failed", "cancelled"):
            raise DeskError(self.job.message or f"{self.job.kind} was stopped")
        return self.explanation

    def cancel(self) -> None:
        """Stop what runs, at once; the case stays as it was."""
        if self.session is not None:
            self.session.cancel()

    def _opened(self) -> Any:
        if self.session is None or self.session.case is None:
            raise DeskError("no study is open; choose T2W, ADC or high-b first")
        return self.session

    # ------------------------------------------------------------------------------------------------------- closing

    def close(self) -> None:
        """Put the case away: what runs is stopped, what the case shows is removed from the scene."""
        self.cancelQuietly()
        if self.view is not None:
            self.view.remove()
        self.forget()

    def forget(self) -> None:
        """Put the case away without touching the scene (it is being closed, or its nodes are gone)."""
        self.cancelQuietly()
        self.view, self.nodes = None, {}
        if self.session is not None:
            self.session.close_case()
        self._tell("view", None)

    def cancelQuietly(self) -> None:
        if self.busy:
            self.session.cancel()

    def shutDown(self) -> None:
        """End the child process, too."""
        self._listeners.clear()
        self._dropSession()
        self.view, self.nodes = None, {}

    def _dropSession(self) -> None:
        if self.session is not None:
            self.session.close()
            self.session = None

    # ------------------------------------------------------------------------------------------------- saved scenes

    def ownNodes(self) -> tuple[Any, ...]:
        """All nodes that the open case has put into the scene."""
        from MedRationaleLogic.mrml.parts import owned

        return () if self.view is None else tuple(owned(slicer.mrmlScene, self.view.owner))

    def save(self) -> None:
        """Write the case into the scene's text node, so that a saved scene opens with it."""
        if self.view is not None and self.explanation is not None:
            self.view.save()

    def savedCases(self) -> list[Any]:
        """Text nodes of the scene that hold a case."""
        from MedRationaleLogic.mrml.case_scene import CaseScene

        return CaseScene.saved(slicer.mrmlScene)

    def restore(self, textNode: Any) -> Any:
        """Open the case that a scene was saved with: overrides, audit log and all.

        Raises:
            CaseError: damaged, or the images are not those that it was made from; the message names the sequence.
        """
        from MedRationaleLogic.mrml.case_scene import CaseScene

        self.cancelQuietly()
        session = self._ready()
        view = CaseScene.restore(slicer.mrmlScene, textNode, session.explainer)
        session.adopt(view.case)
        self.view, self.nodes = view, dict(view.nodes)
        view.update()
        self._tell("view", None)
        return view.case

    # --------------------------------------------------------------------------------------------------------- events

    def _heard(self, event: Any) -> None:
        if event.kind == "case" and self.view is not None and self.explanation is not None:
            kind = event.case_event.kind if event.case_event is not None else ""
            if kind == "select":
                self.view.select(self.case.selection.lesion)
            elif kind and kind != "save":
                self.view.update()
        self._tell(event.kind, event)

    def _tell(self, kind: str, what: Any) -> None:
        for listener in tuple(self._listeners):
            listener(kind, what)


NODE_NAMES = {"t2w": "T2W", "adc": "ADC", "hbv": "High-b DWI"}


def _stamp(node: Any) -> int:
    """Changes when the voxels or the place of a volume do."""
    image = node.GetImageData()
    import vtk

    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    place = tuple(round(matrix.GetElement(r, c), 6) for r in range(3) for c in range(4))
    return hash((0 if image is None else image.GetMTime(), place))
