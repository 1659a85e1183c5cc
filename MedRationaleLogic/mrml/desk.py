"""The desk: what every face and the Python console share: a case, what reads for it, and what a scene shows of it.

No Qt and no layout manager, so it works with ``--no-main-window``, in a browser's server and in tests.

    desk = Desk(slicer.mrmlScene)
    desk.open(t2w, adc, hbv)
    desk.explain()
    while desk.busy: desk.poll()          # a face does this from a timer
    desk.case.explanation, desk.view.segmentation
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

# Made when Slicer starts: everything else is imported when it is first used.
if TYPE_CHECKING:
    from MedRationaleLogic.case import Case
    from MedRationaleLogic.imaging.acquisition import Role
    from MedRationaleLogic.imaging.study import Study
    from MedRationaleLogic.inference.device import Device
    from MedRationaleLogic.inference.explanation import Explanation
    from MedRationaleLogic.mrml.case_scene import CaseScene
    from MedRationaleLogic.session import Job, Session, SessionEvent

__all__ = ["Desk", "DeskError"]

NODE_NAMES: Final[Mapping[Role, str]] = {"t2w": "T2W", "adc": "ADC", "hbv": "High-b DWI"}


class DeskError(ValueError):
    """Something that cannot be done now; the text says what to do."""


class Desk:
    """One reader's place: at most one case at a time.

    Args:
        scene: vtkMRMLScene.
        bundle: name or folder of the model bundle; the default one if None.
        device: "auto", "cpu" or "cuda".
        in_process: run the network in this process instead of a child: everything waits for it.
        rooms: folder of a shared network (:class:`~MedRationaleLogic.inference.shared.SharedModel`) to use instead.

    Attributes:
        at_peak: whether :meth:`jump` goes to where the chosen concept's evidence is strongest, or to where the region
            is largest.
    """

    def __init__(
        self, scene: Any, *, bundle: str | None = None, device: Device = "auto", in_process: bool = False,
        rooms: Path | str | None = None,
    ) -> None:  # fmt: skip
        self.scene, self.bundle, self.device, self.in_process, self.rooms = scene, bundle, device, in_process, rooms
        self.session: Session | None = None
        self.view: CaseScene | None = None
        self.nodes: dict[Role, Any] = {}
        self._listeners: list[Callable[[str, SessionEvent | None], None]] = []
        self._session_of: tuple[str | None, str, bool] | None = None
        self.at_peak = False
        self._loaded: tuple[Study, dict[Role, str], dict[Role, int]] | None = None
        self._only_in_scene = False
        self._asked = (False, False)

    @property
    def loaded_study(self) -> Study | None:
        """The study that `load_folder` read last, or None."""
        return None if self._loaded is None else self._loaded[0]

    # ------------------------------------------------------------------------------------------------ what is there

    @property
    def case(self) -> Case | None:
        """The open case, or None."""
        return None if self.session is None else self.session.case

    @property
    def explanation(self) -> Explanation | None:
        """The explanation in force, or None."""
        return None if self.case is None else self.case.explanation

    @property
    def job(self) -> Job | None:
        """What runs or ran last, or None before anything did."""
        return None if self.session is None else self.session.job

    @property
    def busy(self) -> bool:
        """Whether something runs; `poll` moves it on."""
        return self.session is not None and self.session.job.state == "running"

    def subscribe(self, listener: Callable[[str, SessionEvent | None], None]) -> None:
        """Hear of changes: ("job", event), ("case", event), and ("view", None) when a case comes or goes."""
        self._listeners.append(listener)

    # ------------------------------------------------------------------------------------------------------- opening

    def load_folder(self, folder: Path | str) -> dict[Role, Any]:
        """Read a study folder (DICOM, NIfTI, MHA, NRRD) into volume nodes.

        Returns:
            role -> new node, for the sequences that were found.

        Raises:
            StudyError: nothing usable; the message names the folder or file and what was expected.
        """
        from MedRationaleLogic.imaging.study import read_study

        study = read_study(Path(folder))
        nodes = self._load(study)
        self._loaded = (study, {r: n.GetID() for r, n in nodes.items()}, {r: _stamp(n) for r, n in nodes.items()})
        return nodes

    def _load(self, study: Study) -> dict[Role, Any]:
        """The images of a study as nodes that say what they are and, by name and place, which study they are of."""
        from MedRationaleLogic.mrml.geometry import node_from_volume
        from MedRationaleLogic.mrml.hierarchy import file_study
        from MedRationaleLogic.mrml.parts import B_VALUE, ROLE

        nodes: dict[Role, Any] = {}
        for role in study.roles:
            volume = study.volume(role)
            assert volume is not None
            node = node_from_volume(self.scene, volume, f"{NODE_NAMES[role]} ({study.name})")
            if node.GetDisplayNode() is None:
                node.CreateDefaultDisplayNodes()
            node.SetAttribute(ROLE, role)
            header = study.headers.get(role)
            if role == "hbv" and header is not None and header.b_value is not None:
                node.SetAttribute(B_VALUE, f"{header.b_value:.0f}")
            nodes[role] = node
        file_study(self.scene, nodes.values(), name=study.name, study_uid=study.study_uid)
        return nodes

    def load_case(self, folder: Path | str) -> Case:
        """Go on with a case that was saved to a folder, in place of the open one; its images come into the scene.

        Raises:
            CaseError: no case, a newer format, a file missing, damaged or changed; the open case stays.
        """
        from MedRationaleLogic.case import Case
        from MedRationaleLogic.mrml.case_scene import CaseScene

        case = Case.load(folder)
        fresh = self._reads_with(case)
        self.close()
        if fresh is not None:
            self._drop_session()
        nodes = self._load(case.study)
        self._take(case, fresh)
        self.nodes = nodes
        self.view = CaseScene(self.scene, case, nodes)
        self.view.update()
        self._tell("view", None)
        return case

    def study(
        self, nodes: Mapping[Role, Any], *, psa: float | None = None, confirmed: frozenset[str] = frozenset()
    ) -> Study:
        """The study of these nodes. One that `load_folder` read keeps its headers while its nodes are as they were.

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

        return study_from_nodes(given.get("t2w"), given.get("adc"), given.get("hbv"), psa=psa, confirmed=confirmed)

    def open(
        self, t2w: Any = None, adc: Any = None, hbv: Any = None, *, psa: float | None = None,
        confirmed: frozenset[str] = frozenset(),
    ) -> Case:  # fmt: skip
        """A new case of these volume nodes, in place of the open one, whose results leave the scene. Who asks for it
        looks first whether a reader's work would go (the panel does).

        Raises:
            NodeError: see :meth:`study`.
            BundleError, DeviceError: the chosen model or device cannot be used. The open case stays as it is.
        """
        from MedRationaleLogic.mrml.case_scene import CaseScene

        given: dict[Role, Any] = {"t2w": t2w, "adc": adc, "hbv": hbv}
        nodes = {role: node for role, node in given.items() if node is not None}
        study = self.study(nodes, psa=psa, confirmed=confirmed)
        # another model, device or way of running may have been chosen meanwhile; the open case goes when it can be used
        fresh = self._explainer() if self.session is None or self._session_of != self._wanted() else None
        self.close()
        if fresh is not None:
            self._drop_session()
        session = self._ready(fresh)
        case = session.open(study)
        self.nodes = nodes
        self.view = CaseScene(self.scene, case, nodes)
        self._tell("view", None)
        return case

    def _ready(self, explainer: Any = None, bundle: str | None = None) -> Session:
        """The session, made when it is first needed: neither torch nor a child process before that."""
        if self.session is None:
            from MedRationaleLogic.session import Session

            self.session = Session(explainer if explainer is not None else self._explainer())
            self.session.subscribe(self._heard)
            self._session_of = self._wanted(bundle)
        return self.session

    def _wanted(self, bundle: str | None = None) -> tuple[str | None, str, bool]:
        return bundle or self.bundle, self.device, self.in_process

    def _explainer(self, bundle: str | None = None) -> Any:
        from MedRationaleLogic.inference import worker

        if self.in_process:
            from MedRationaleLogic.inference.explainer import Explainer

            return Explainer(bundle or self.bundle, self.device)
        return worker.RemoteExplainer(bundle or self.bundle, self.device, rooms=self.rooms)

    def _reads_with(self, case: Case) -> Any:
        """What has to run the network for a case that was opened again: its own bundle, where it is installed. None
        where the present session does that already.

        Raises:
            BundleError, DeviceError: the chosen model or device cannot be used.
        """
        bundle = self._bundle_of(case)
        stays = self.session is not None and self._session_of == self._wanted(bundle)
        return None if stays else self._explainer(bundle)

    def _bundle_of(self, case: Case) -> str | None:
        """The case's own bundle; None, for the chosen one, where that is it or the case's is not there."""
        from MedRationaleLogic.model import bundle as bundles

        own = case.made_with
        if self.rooms is not None:  # a network that is shared has one bundle for all
            return None
        try:
            chosen = bundles.find(self.bundle).manifest
            if own is None or own == f"{chosen.name}-{chosen.version}":
                return None
            bundles.find(own)
        except bundles.BundleError:
            return None
        return own

    def _take(self, case: Case, fresh: Any) -> None:
        """Have the session, with another explainer where there is one, go on with a case that was opened again."""
        session = self._ready(fresh, self._bundle_of(case))
        case.read_with(session.explainer)
        session.adopt(case)

    def warm(self) -> None:
        """Start the child process, so that the first click does not wait for PyTorch; returns at once."""
        self._ready().explainer.warm()

    def configure(self, *, bundle: str | None, device: Device, in_process: bool) -> None:
        """Another model, device or way of running; takes effect with the next study."""
        self.bundle, self.device, self.in_process = bundle, device, in_process

    # ------------------------------------------------------------------------------------------------------- running

    def explain(self) -> None:
        """Start explaining the open case; `poll` brings it to its end."""
        self._opened().explain()

    def perform(self, action: Callable[[], Any], what: str, *, repeatable: bool = False) -> None:
        """Do something to the case that may need the network: at once when it is warm, else as soon as it is.

        ``repeatable``: see :meth:`~MedRationaleLogic.session.Session.perform`.
        """
        self._opened().perform(action, what, repeatable=repeatable)

    def shift(self, role: Role, lps_mm: list[float], reader: str) -> None:
        """Move ADC or high-b by millimetres (x, y, z; LPS); an explained study is run through the network again."""
        self._opened().shift(role, lps_mm, reader)

    def evidence_at_hand(self) -> bool:
        """Whether a map can be shown at once, without running the network first."""
        return self.case is not None and self.case.evidence_at_hand

    def poll(self) -> None:
        """Move on what runs; never waits."""
        if self.session is not None:
            self.session.poll()

    def wait(self, alive: Callable[[], object] | None = None) -> Explanation | None:
        """Poll until nothing runs (for the console and for batch).

        Args:
            alive: called between two polls, for example ``slicer.app.processEvents``.

        Raises:
            DeskError: the job failed or was stopped; the message is the job's.
        """

        def tick(_job: Job) -> None:
            if alive is not None:
                alive()

        self._opened().wait(tick=tick)
        if self.job is not None and self.job.state in ("failed", "cancelled"):
            raise DeskError(self.job.message or f"{self.job.kind} was stopped")
        return self.explanation

    def cancel(self) -> None:
        """Stop what runs, at once; the case stays as it was."""
        if self.session is not None:
            self.session.cancel()

    def _opened(self) -> Session:
        if self.session is None or self.session.case is None:
            raise DeskError("no study is open; choose T2W, ADC or high-b first")
        return self.session

    # ------------------------------------------------------------------------------------------------------- looking

    def select(self, lesion: int | None, concept: str | None = None) -> None:
        """Look at a region where it is largest; with a concept, at that where its evidence is strongest. Without one
        the map of the concept that the region's scores rest on first is shown."""
        case = self.case
        if case is None or case.explanation is None:
            return
        self.at_peak = concept is not None
        if lesion is not None and concept is None:
            concept = case.explanation.lesion(lesion).leading_concept
        case.select(lesion, concept)

    def jump(self) -> None:
        """Bring all views to what :meth:`select` was asked for last."""
        case = self.case
        if case is None or case.explanation is None or self.view is None or case.selection.lesion is None:
            return
        lesion, concept = case.explanation.lesion(case.selection.lesion), case.selection.concept
        reading = None if concept is None or not self.at_peak else lesion.reading(concept)
        peak = None if reading is None else reading.peak
        self.view.jump(lesion.largest_slice if peak is None else peak)

    def present(self) -> None:
        """A study was just explained: the gland fills the views, the index region is selected."""
        from MedRationaleLogic.mrml import layout

        explanation = self.explanation
        if explanation is None:
            return
        layout.set_windows(self.nodes, explanation)
        layout.zoom_to(self.scene, explanation.zones)
        if explanation.lesions:
            index = explanation.category.index
            self.select(int(index) if index else explanation.lesions[0].number)

    def show_evidence(
        self, *, everywhere: bool = False, shown: bool = True, then: Callable[[], object] | None = None
    ) -> bool:
        """Bring the views to the selected concept's map, or take the maps out of them.

        A saved case that was opened again has no maps at hand: the network runs once more first.

        Args:
            everywhere: also what lies away from the gland and the regions.
            shown: False takes evidence out of the views.
            then: called when a map that the network had to be run for is shown.

        Returns:
            whether the views show what is asked for, or will when the network has run for it; False while it runs for
            something else: ask again when it has ended.
        """
        case, view = self.case, self.view
        self._asked = (shown, everywhere)
        if case is None or view is None or case.explanation is None:
            return True
        concept = case.selection.concept
        if concept is None or not shown or concept not in case.explanation.evidence:
            view.hide_evidence()
            return True

        def show_late() -> None:
            # what is asked for by then, not what was asked for first
            now, explanation, (wanted, whole) = case.selection.concept, case.explanation, self._asked
            there = now is not None and explanation is not None and now in explanation.evidence
            if self.view is view and wanted and now is not None and there:
                view.show_evidence(now, everywhere=whole)
            if then is not None:
                then()

        if case.evidence_at_hand:
            view.show_evidence(concept, everywhere=everywhere)
        elif not self.busy:
            self.perform(show_late, "reading the evidence")
        else:
            return False
        return True

    def readers_work_would_go(self) -> bool:
        """Whether the open case holds a reader's work, a signature included, that nothing but the scene has."""
        case = self.case
        if case is None or case.explanation is None or not case.touched:
            return False
        return case.unsaved or self._only_in_scene

    # ------------------------------------------------------------------------------------------------------- closing

    def close(self) -> None:
        """Put the case away: what runs is stopped, what the case shows is removed from the scene."""
        self.cancel_quietly()
        if self.view is not None:
            self.view.remove()
        self.forget()

    def forget(self) -> None:
        """Put the case away without touching the scene (it is being closed, or its nodes are gone)."""
        self.cancel_quietly()
        self.view, self.nodes, self._only_in_scene = None, {}, False
        if self.session is not None:
            self.session.close_case()
        self._tell("view", None)

    def cancel_quietly(self) -> None:
        """Stop what runs, if anything does."""
        if self.session is not None and self.busy:
            self.session.cancel()

    def shut_down(self) -> None:
        """End the child process, too."""
        self._listeners.clear()
        self._drop_session()
        self.view, self.nodes = None, {}

    def _drop_session(self) -> None:
        if self.session is not None:
            self.session.close()
            self.session = None

    # ------------------------------------------------------------------------------------------------- saved scenes

    def own_nodes(self) -> tuple[Any, ...]:
        """All nodes that the open case has put into the scene."""
        from MedRationaleLogic.mrml.parts import owned

        return () if self.view is None else tuple(owned(self.scene, self.view.owner))

    def save(self) -> None:
        """Write the case into the scene's text node, so that a saved scene opens with it."""
        if self.view is not None and self.explanation is not None:
            self.view.save()

    def saved_cases(self) -> list[Any]:
        """Text nodes of the scene that hold a case."""
        from MedRationaleLogic.mrml.case_scene import CaseScene

        return CaseScene.saved(self.scene)

    def restore(self, text_node: Any) -> Case:
        """Open the case that a scene was saved with: overrides, audit log and all.

        Raises:
            CaseError: damaged, or the images are not those that it was made from; the message names the sequence.
        """
        from MedRationaleLogic.mrml.case_scene import CaseScene

        self.cancel_quietly()
        view = CaseScene.restore(self.scene, text_node)
        fresh = self._reads_with(view.case)
        if fresh is not None:
            self._drop_session()
        self._take(view.case, fresh)
        self.view, self.nodes = view, dict(view.nodes)
        self._only_in_scene = True
        view.update()
        self._tell("view", None)
        return view.case

    # --------------------------------------------------------------------------------------------------------- events

    def _heard(self, event: SessionEvent) -> None:
        case = self.case
        if event.kind == "case" and self.view is not None and case is not None and case.explanation is not None:
            kind = event.case_event.kind if event.case_event is not None else ""
            if kind == "save":
                self._only_in_scene = False
            if kind == "select":
                self.view.select(case.selection.lesion)
            elif kind and kind != "save":
                self.view.update()
        self._tell(event.kind, event)

    def _tell(self, kind: str, what: SessionEvent | None) -> None:
        for listener in tuple(self._listeners):
            listener(kind, what)


def _stamp(node: Any) -> int:
    """Changes when the voxels or the place of a volume do."""
    import vtk

    image = node.GetImageData()
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    place = tuple(round(matrix.GetElement(r, c), 6) for r in range(3) for c in range(4))
    return hash((0 if image is None else image.GetMTime(), place))
