"""A case: what a reader has open. The study, its explanation, and everything that readers did to it.

    case = Case.open(read_study(folder))
    case.explain()
    case.override(1, "t2.shape", "lenticular", reader="Dr A")
    case.sign_off("Dr A")
    case.save(folder_of_the_case)

Plain Python: every face is a view of a case and hears of changes by :meth:`Case.subscribe`. The objects inside are
immutable, so undo is a stack of earlier states. The model's own result is never lost (:attr:`Case.original`), nor is
what was done to it (:attr:`Case.log`, append-only). After an edit of an outline everything that follows from it is
computed anew: readings, size, sectors, scores, category. Points are (x, y, z) in mm, patient frame LPS.

Which of a reader's earlier answers hold for a changed region: **the newest statement wins**.

- A new outline (edit, merge, split) comes with its own size: an answer to ``size`` goes. An answer to ``zone`` goes
  when the region has left that zone. In a merge, two different answers to one step both go. The largest part of a
  split keeps number and answers; what was said of the whole is not said of the other parts.
- Every other answer is given again to the new rationale; one that it refuses goes. What goes is written to the log.

Region numbers are names: one that was given is never given to another region, not even after undo.

A case is not thread-safe: use it from one thread. Research use only.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol
from uuid import uuid4

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from MedRationaleLogic.imaging import measure
from MedRationaleLogic.imaging.acquisition import ROLES, Role
from MedRationaleLogic.imaging.study import Study, check_geometry, read_study
from MedRationaleLogic.imaging.volume import Geometry, Volume
from MedRationaleLogic.inference.evidence import EvidenceField, EvidenceMaps
from MedRationaleLogic.inference.explainer import region_on
from MedRationaleLogic.inference.explanation import NOTICE, Dropped, Explanation, Lesion
from MedRationaleLogic.inference.storage import (
    GivenImages,
    ImageStore,
    Inline,
    NiftiFolder,
    StorageError,
    explanation_from_json,
    explanation_to_json,
    is_input,
    lesions_from_json,
    lesions_to_json,
    study_from_json,
    study_to_json,
)
from MedRationaleLogic.pirads import lexicon

if TYPE_CHECKING:
    from MedRationaleLogic.inference.device import Device
    from MedRationaleLogic.inference.explainer import Cancelled, Progress
    from MedRationaleLogic.model.bundle import Bundle
    from MedRationaleLogic.pirads.rationale import Answer, Override

__all__ = [
    "AuditEntry",
    "Case",
    "CaseError",
    "CaseEvent",
    "CaseSignedOffError",
    "ExplainerLike",
    "RegionReader",
    "Selection",
    "SignOff",
    "verify_log",
]

FORMAT: Final = "medrationale-case"
FORMAT_VERSION: Final = 1
TEXT_FORMAT: Final = "medrationale-case-text"
CASE_FILE: Final = "case.json"
FROM_BACKUP: Final = "restore the folder from a backup"

SAME_REGION_DSC: Final = 0.3
"""From this overlap (Dice) on, a region that the network outlines after a shift is the one it outlined before."""
SAME_PLACE_SHARE: Final = 0.5
"""A region with this share inside what readers outlined or deleted is no new one."""
KEPT_FLAG: Final = "kept from before a shift: the network did not find it again, its readings are the earlier ones"
UNDO_LIMIT: Final = 50
"""States that can be undone; a region's mask may take 10 MB, so the stack is bounded."""
MAX_NUMBER: Final = 255
"""Region numbers are voxel values of uint8 label maps."""

Action = Literal[
    "open", "explain", "select", "override", "reset_step", "edit_region", "add_region", "explain_here", "delete",
    "merge", "split", "shift", "set_psa", "undo", "redo", "reset", "sign_off", "reopen", "save",
]  # fmt: skip
Json = dict[str, Any]

_log = logging.getLogger(__name__)


class CaseError(ValueError):
    """An action that this case does not allow, or a folder that holds no usable case; the text says what to do."""


class CaseSignedOffError(CaseError):
    """The case is signed off and stays as it is until :meth:`Case.reopen`."""


# ---------------------------------------------------------------------------------------- what a case is made of


class RegionReader(Protocol):
    """A study as the network saw it; :class:`~MedRationaleLogic.inference.explainer.StudyReader` is one."""

    def lesion(
        self, number: int, mask: Volume, zones: Volume, *, origin: Literal["model", "reader"] = "model",
        sectors: Volume | None = None,
    ) -> Lesion:  # fmt: skip
        """Measure, read, score and explain one region; ``mask`` is bool on the frame's grid."""

    def region_at(self, point: ArrayLike, zones: Volume) -> Volume:
        """The region around a patient point, bool on the frame's grid."""

    def evidence(self) -> EvidenceMaps:
        """The study's evidence."""


class ExplainerLike(Protocol):
    """What a case needs to run the network; :class:`~MedRationaleLogic.inference.explainer.Explainer` is one."""

    def open(
        self, study: Study, *, progress: Progress | None = None, cancelled: Cancelled | None = None
    ) -> tuple[Explanation, RegionReader]:
        """Explain a study and keep what is needed to read further regions of it."""

    def see(self, study: Study) -> RegionReader:
        """Only what is needed to read regions of a study that was explained before."""


@dataclass(frozen=True)
class Selection:
    """What the reader looks at: a region, a concept, both or nothing."""

    lesion: int | None = None
    concept: str | None = None


@dataclass(frozen=True)
class CaseEvent:
    """Something happened to the case; the selection may have changed with it.

    Attributes:
        kind: the action.
        lesion: the region it was about, or None.
        detail: in words.
    """

    kind: Action
    lesion: int | None = None
    detail: str = ""


@dataclass(frozen=True)
class SignOff:
    """A reader's signature.

    Attributes:
        reader: who.
        time: when, UTC, ISO 8601.
        result_sha256: over what was signed: images, zones, PSA, and of each region outline, size, answers, category.
    """

    reader: str
    time: str
    result_sha256: str


@dataclass(frozen=True)
class AuditEntry:
    """One thing that was done to a case.

    Attributes:
        number: 1, 2, ...
        time: UTC, ISO 8601.
        reader: who did it; None for the model, and for undo, redo and reset where no name was given.
        action: what was done.
        lesion: the region it was about, or None.
        before, after: what it changed, as plain values: PSA, images, zones, category, and the facts of each region
            that came, went or changed.
        detail: in words; names the answers that did not carry over to a changed region.
        previous: ``sha256`` of the entry before; empty for the first.
        sha256: over all of the above.
    """

    number: int
    time: str
    reader: str | None
    action: Action
    lesion: int | None
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    detail: str
    previous: str
    sha256: str = ""

    def digest(self) -> str:
        """What ``sha256`` has to be."""
        return _sha256({k: v for k, v in asdict(self).items() if k != "sha256"})


def verify_log(log: Sequence[AuditEntry]) -> bool:
    """Whether every entry is as it was written and follows the one before.

    The chain shows an entry that was changed, removed or put in. Whoever writes the whole log anew can make it fit:
    keep the last entry's ``sha256`` elsewhere (a report, a notary) where that matters.
    """
    previous = ""
    for number, entry in enumerate(log, 1):
        if entry.number != number or entry.previous != previous or entry.sha256 != entry.digest():
            return False
        previous = entry.sha256
    return True


@dataclass(frozen=True, eq=False)
class _State:
    """All that undo takes back: the study (shifts, PSA), its explanation, and regions that readers deleted."""

    study: Study
    explanation: Explanation | None = None
    removed: tuple[Lesion, ...] = ()


class _FieldsOnDemand(Mapping[str, EvidenceField]):
    """Evidence of a loaded case: names the sequences at once, runs the network when a map is asked for."""

    def __init__(self, roles: Sequence[Role], reader: Callable[[], RegionReader]) -> None:
        self._roles, self._reader = roles, reader

    def __getitem__(self, sequence: str) -> EvidenceField:
        if sequence not in self._roles:
            raise KeyError(sequence)
        return self._reader().evidence().fields[sequence]

    def __iter__(self) -> Iterator[str]:
        return iter(self._roles)

    def __len__(self) -> int:
        return len(self._roles)


# -------------------------------------------------------------------------------------------------------- the case


class Case:
    """What a reader has open; see the module's text. Made by :meth:`open` or :meth:`load`."""

    def __init__(
        self, state: _State, explainer: ExplainerLike | None, *, bundle: Bundle | str | None = None,
        device: Device = "auto", progress: Progress | None = None, cancelled: Cancelled | None = None,
    ) -> None:  # fmt: skip
        self._state = state
        self._original: Explanation | None = state.explanation
        self._explainer, self._bundle, self._device = explainer, bundle, device
        self._progress, self._cancelled = progress, cancelled
        self._selection = Selection()
        self._log: tuple[AuditEntry, ...] = ()
        self._sign_off: SignOff | None = None
        self._past: list[tuple[Action, _State]] = []
        self._future: list[tuple[Action, _State]] = []
        self._next_number = 1
        self._subscribers: dict[object, Callable[[CaseEvent], None]] = {}
        self._readers: dict[tuple[str, ...], RegionReader] = {}
        self._sectors: tuple[Volume, Volume] | None = None
        self._saved_head = ""
        self._opened = {role: v.geometry for role in state.study.roles if (v := state.study.volume(role)) is not None}

    @classmethod
    def open(
        cls, study: Study | Path | str, explainer: ExplainerLike | None = None, *, bundle: Bundle | str | None = None,
        device: Device = "auto", progress: Progress | None = None, cancelled: Cancelled | None = None,
    ) -> Case:  # fmt: skip
        """A case of a study that nobody has explained yet; :meth:`explain` runs the network.

        Args:
            study: from :func:`~MedRationaleLogic.imaging.study.read_study`, or a path that it can read.
            explainer: what runs the network; made from ``bundle`` and ``device`` when it is first needed if None.
            bundle: name, folder or bundle; the default one if None.
            device: "auto", "cpu" or "cuda".
            progress, cancelled: for every run of the network, unless the call brings its own.

        Raises:
            StudyError: the path cannot be read as a study.
        """
        opened = read_study(Path(study)) if isinstance(study, str | Path) else study
        case = cls(_State(opened), explainer, bundle=bundle, device=device, progress=progress, cancelled=cancelled)
        case._record("open", None, None, {}, _facts(case._state), "")
        return case

    # ------------------------------------------------------------------------------------------------- what is there

    @property
    def study(self) -> Study:
        """The study in force, with a reader's shifts and PSA."""
        return self._state.study

    @property
    def explanation(self) -> Explanation | None:
        """The explanation in force, with all edits; None before :meth:`explain`."""
        return self._state.explanation

    @property
    def original(self) -> Explanation | None:
        """The model's own result, whatever readers did since; None before :meth:`explain`."""
        return self._original

    @property
    def selection(self) -> Selection:
        """What the reader looks at; not part of undo."""
        return self._selection

    @property
    def log(self) -> tuple[AuditEntry, ...]:
        """The audit log, oldest first; it only ever grows."""
        return self._log

    @property
    def signed_off(self) -> SignOff | None:
        """The signature in force, or None."""
        return self._sign_off

    @property
    def history(self) -> tuple[Action, ...]:
        """Actions that :meth:`undo` can take back, oldest first."""
        return tuple(action for action, _ in self._past)

    @property
    def can_undo(self) -> bool:
        """Whether :meth:`undo` would do something."""
        return bool(self._past) and self._sign_off is None

    @property
    def can_redo(self) -> bool:
        """Whether :meth:`redo` would do something."""
        return bool(self._future) and self._sign_off is None

    @property
    def evidence_at_hand(self) -> bool:
        """Whether evidence maps can be had without running the network: not after loading, until it has run once."""
        if self.explanation is None:
            return False
        on_demand = isinstance(self.explanation.evidence.fields, _FieldsOnDemand)
        return not on_demand or _voxels(self.explanation.study) in self._readers

    @property
    def unsaved(self) -> bool:
        """Whether the log has entries that no folder holds yet."""
        return self._head != self._saved_head

    @property
    def touched(self) -> bool:
        """Whether a reader has done anything that the log keeps, a signature or taking it back included."""
        return any(entry.action not in ("open", "explain") for entry in self._log)

    @property
    def made_with(self) -> str | None:
        """The bundle that the model's own result was made with (name-version), or None before there is one."""
        return _bundle_name(self._original)

    def read_with(self, explainer: ExplainerLike) -> None:
        """Have another explainer run the network from now on; it has to be of the case's own bundle."""
        self._explainer = explainer

    def verify_log(self) -> bool:
        """See :func:`verify_log`."""
        return verify_log(self._log)

    def subscribe(self, callback: Callable[[CaseEvent], None]) -> Callable[[], None]:
        """Hear of every change, after it; returns what ends the subscription.

        An exception in a callback does not reach the case or the other callbacks; its type is logged, not its text.
        """
        token = object()
        self._subscribers[token] = callback

        def unsubscribe() -> None:
            self._subscribers.pop(token, None)

        return unsubscribe

    # ------------------------------------------------------------------------------------------------------ the road

    def explain(self, *, progress: Progress | None = None, cancelled: Cancelled | None = None) -> Explanation:
        """Run the network. What was done before (PSA, shifts) stays and can no longer be undone.

        Raises:
            CaseError: the case is explained already.
            StudyError, BundleError, DeviceError, ExplainCancelledError: as :func:`MedRationaleLogic.explain`; the case
                stays as it was.
        """
        self._unsigned()
        if self.explanation is not None:
            raise CaseError("this case is explained already; shift a sequence, or open the study as a new case")
        explanation = self._run(self.study, progress, cancelled)
        self._original = explanation
        self._past.clear()
        self._future.clear()
        self._next_number = max((x.number for x in explanation.lesions), default=0) + 1
        bundle = explanation.provenance.bundle
        detail = f"{bundle.get('name', 'unnamed bundle')} {bundle.get('version', '')}".strip()
        self._move(_State(explanation.study, explanation), "explain", None, None, detail)
        self._settle("explain", None, detail)
        return explanation

    def select(self, lesion: int | None = None, concept: str | None = None) -> None:
        """Look at a region, a concept, both or (without arguments) nothing. Allowed when signed off, not logged.

        Raises:
            CaseError: no such region or concept.
        """
        if lesion is not None:
            lesion = self._lesion(lesion).number  # a plain number, whatever was given
        if concept is not None:
            try:
                lexicon.load().concept(concept)
            except KeyError as error:
                raise CaseError(str(error.args[0])) from error
        chosen = Selection(lesion, concept)
        if chosen != self._selection:
            self._selection = chosen
            self._tell(CaseEvent("select", lesion, concept or ""))

    # --------------------------------------------------------------------------------------------------- the rationale

    def override(self, lesion: int, step: str, answer: Answer, reader: str) -> Lesion:
        """A reader's answer to a step of a region's rationale; see :meth:`~.rationale.Rationale.override`.

        Raises:
            CaseError: no such region, no reader's name, signed off.
            ValueError: no such step, or an answer that it cannot have.
        """
        name, one = self._begin(reader), self._lesion(lesion)
        if isinstance(answer, Integral) and not isinstance(answer, bool):
            answer = int(answer)  # of numpy, as an array of labels gives them
        changed = replace(one, rationale=one.rationale.override(step, answer, name))
        self._exchange("override", name, changed, f"{step} = {answer}")
        return changed

    def reset_step(self, lesion: int, step: str, reader: str | None = None) -> Lesion:
        """Take back the readers' answer to a step; nothing happens where there is none.

        Raises:
            CaseError: no such region, signed off.
            ValueError: no such step.
        """
        self._unsigned()
        one = self._lesion(lesion)
        changed = replace(one, rationale=one.rationale.reset(step))
        if changed.rationale is one.rationale:
            return one
        self._exchange("reset_step", _optional(reader), changed, step)
        return changed

    # ------------------------------------------------------------------------------------------------------- regions

    def edit_region(self, lesion: int, mask: Volume, reader: str) -> Lesion:
        """Give a region another outline; it counts as the reader's from now on.

        Args:
            lesion: its number, which it keeps.
            mask: bool or integer, any grid in the patient; non-zero inside. Brought to the frame's grid (linear,
                voxels that are at least half covered; the nearest ones where it is thinner than that).
            reader: who draws.

        Raises:
            CaseError: no such region, an empty outline or one outside the images, no reader's name, signed off.
        """
        name, one = self._begin(reader), self._lesion(lesion)
        outline = self._outline(mask)
        if np.array_equal(outline.array, one.mask.array):
            return one
        changed, lost = _with_answers(self._read(one.number, outline), (one,), new_outline=True)
        self._exchange("edit_region", name, changed, _lost_text(lost))
        return changed

    def add_region(self, mask: Volume, reader: str) -> Lesion:
        """Add a region that a reader drew and select it; ``mask`` and errors as :meth:`edit_region`."""
        name = self._begin(reader)
        self._explained()
        return self._add("add_region", self._outline(mask), name, "")

    def explain_here(self, point: ArrayLike, reader: str) -> Lesion:
        """Add the region around a patient point (x, y, z; LPS, mm) and select it: "explain here".

        Raises:
            CaseError: not explained yet, no reader's name, signed off.
            ValueError: the point lies outside the images or the gland.
        """
        name, explanation = self._begin(reader), self._explained()
        mask = self._reader_of(self.study).region_at(point, explanation.zones)
        at = ", ".join(f"{v:.1f}" for v in np.asarray(point, dtype=float))
        return self._add("explain_here", mask, name, f"at ({at}) mm LPS")

    def delete(self, lesion: int, reader: str) -> None:
        """Take a region out. It stays in ``explanation.dropped`` in words and does not come back with a shift.

        Raises:
            CaseError: no such region, no reader's name, signed off.
        """
        name, gone, explanation = self._begin(reader), self._lesion(lesion), self._explained()
        rest = tuple(x for x in explanation.lesions if x is not gone)
        dropped = (*explanation.dropped, _dropped_by_reader(gone))
        changed = replace(explanation, lesions=rest, dropped=dropped)
        self._commit(_State(self.study, changed, (*self._state.removed, gone)), "delete", name, gone.number, "")

    def merge(self, lesions: Iterable[int], reader: str) -> Lesion:
        """Make one region of several; it has the lowest of their numbers and is selected.

        Raises:
            CaseError: fewer than two regions, one that is not there, no reader's name, signed off.
        """
        name = self._begin(reader)
        parts = [self._lesion(n) for n in sorted(set(lesions))]
        numbers = [x.number for x in parts]
        if len(parts) < 2:
            raise CaseError("merging needs at least two different regions")
        together = np.logical_or.reduce([x.mask.array for x in parts])
        fresh = self._read(numbers[0], parts[0].mask.with_array(together, "region"))
        merged, lost = _with_answers(fresh, parts, new_outline=True)
        rest = [x for x in self._explained().lesions if x.number not in numbers]
        detail = _sentences(f"regions {', '.join(map(str, numbers))}", _lost_text(lost))
        self._commit(self._with_lesions([*rest, merged]), "merge", name, merged.number, detail)
        return merged

    def split(
        self, lesion: int, reader: str, *, plane: tuple[ArrayLike, ArrayLike] | None = None
    ) -> tuple[Lesion, ...]:
        """Make several regions of one; the largest part keeps the number and the readers' answers.

        Args:
            lesion: which.
            reader: who.
            plane: (point, normal), LPS, mm and direction: one part on each side of it (its own voxels go with the side
                that the normal points to). None: the 26-connected pieces.

        Returns:
            the parts, largest first.

        Raises:
            CaseError: there is only one part, no such region, a plane that is none, no reader's name, signed off.
        """
        name, one = self._begin(reader), self._lesion(lesion)
        masks = _pieces(one.mask) if plane is None else _sides(one.mask, plane)
        if len(masks) < 2:
            hint = "it is one connected piece; give a plane to cut it" if plane is None else "the plane does not cut it"
            raise CaseError(f"region {lesion} cannot be split: {hint}")
        first, lost = _with_answers(self._read(one.number, masks[0]), (one,), new_outline=True)
        with self._numbers_if_done():
            parts = (first, *(self._read(self._new_number(), mask) for mask in masks[1:]))
        rest = [x for x in self._explained().lesions if x is not one]
        detail = _sentences(f"into regions {', '.join(str(x.number) for x in parts)}", _lost_text(lost))
        self._commit(self._with_lesions([*rest, *parts]), "split", name, one.number, detail)
        return parts

    # --------------------------------------------------------------------------------------------- the study's own

    def shift(
        self, role: Role, lps_mm: ArrayLike, reader: str, *, progress: Progress | None = None,
        cancelled: Cancelled | None = None,
    ) -> None:  # fmt: skip
        """Move ADC or high-b against the frame by hand; an explained study is run through the network again.

        What happens to the regions (masks are on the frame, which does not move):

        - one that a reader drew or edited keeps number and outline and is read anew;
        - one of the model takes the outline and readings that the network gives now to the region which overlaps it
          most, from a DSC of :data:`SAME_REGION_DSC` on, under its old number; without such a region it stays as it
          was, with :data:`KEPT_FLAG`;
        - readers' answers stay on all of them, where the rationale still takes them;
        - what the network outlines besides is a new region with a new number, unless readers have had their say there:
          it matches what a reader outlined or deleted, or lies in that by half.

        Args:
            role: "adc" or "hbv", not the frame.
            lps_mm: (x, y, z), added to where the volume lies now.
            reader: who moves it.

        Raises:
            StudyError: the frame, an absent sequence, not three finite numbers, or no overlap afterwards.
            CaseError: no reader's name, signed off.
            ExplainCancelledError: on request; the case stays as it was.
        """
        name = self._begin(reader)
        study = self.study.with_shift(role, lps_mm)
        if study is self.study:
            return
        x, y, z = (float(v) for v in np.asarray(lps_mm, dtype=float))
        moved = f"{role} by ({x:+.1f}, {y:+.1f}, {z:+.1f}) mm LPS"
        if self.explanation is None:
            check_geometry(study)
            self._commit(_State(study), "shift", name, None, moved)
            return
        state, remarks = self._after_shift(self._run(study, progress, cancelled))
        self._commit(state, "shift", name, None, _sentences(moved, *remarks))

    def set_psa(self, psa: float | None, reader: str) -> None:
        """Set the PSA (ng/ml), or None for unknown; the PSA density follows.

        Raises:
            StudyError: not a positive number.
            CaseError: no reader's name, signed off.
        """
        name = self._begin(reader)
        study = self.study.with_psa(psa)
        if study.psa == self.study.psa:
            return
        explanation = replace(self.explanation, study=study) if self.explanation is not None else None
        self._commit(_State(study, explanation, self._state.removed), "set_psa", name, None, "")

    # ------------------------------------------------------------------------------------------------------- history

    def undo(self, reader: str | None = None) -> None:
        """Take back the last change; itself an entry of the log.

        Raises:
            CaseError: there is nothing to take back, or the case is signed off.
        """
        self._step(self._past, self._future, "undo", "nothing to undo", reader)

    def redo(self, reader: str | None = None) -> None:
        """Do again what was taken back last; errors as :meth:`undo`."""
        self._step(self._future, self._past, "redo", "nothing to redo", reader)

    def reset(self, reader: str | None = None) -> None:
        """Back to the model's own result, with the study as it was then (PSA, shifts); can be undone.

        Raises:
            CaseError: not explained yet, or signed off.
        """
        self._unsigned()
        self._explained()
        assert self._original is not None
        if self.explanation is not self._original:
            state = _State(self._original.study, self._original)
            self._commit(state, "reset", _optional(reader), None, "to the model's own result")

    def sign_off(self, reader: str) -> SignOff:
        """Freeze the case under a reader's name.

        Raises:
            CaseError: not explained yet, no reader's name, or signed off already.
        """
        name = self._begin(reader)
        self._explained()
        signature = SignOff(name, _now(), _sha256(_facts(self._state)))
        self._sign_off = signature
        self._record("sign_off", name, None, {}, asdict(signature), "")
        self._tell(CaseEvent("sign_off"))
        return signature

    def reopen(self, reader: str, reason: str) -> None:
        """Take a signature back, with a reason that the log keeps.

        Raises:
            CaseError: not signed off, no reader's name or no reason.
        """
        if self._sign_off is None:
            raise CaseError("the case is not signed off, so there is nothing to reopen")
        name = _name(reader)
        if not reason.strip():
            raise CaseError("reopening a signed case needs a reason")
        before = asdict(self._sign_off)
        self._sign_off = None
        self._record("reopen", name, None, before, {}, reason.strip())
        self._tell(CaseEvent("reopen", detail=reason.strip()))

    # ------------------------------------------------------------------------------------------------------- storage

    def save(self, folder: Path | str) -> Path:
        """Write the case to a folder of its own: all of it or nothing.

        Everything is written beside the folder first; an existing case there is replaced by renaming, once the new one
        is complete. Files in it that are none of a case's own (an exported report) move along.

        The folder holds ``case.json`` and compressed NIfTI: ``images/<role>``, ``zones``, ``lesion_probability``,
        ``regions/<number>``, ``removed/<number>`` (deleted ones) and, where it differs from that, the model's own
        result under ``original/``. Undo history is not kept, nor are evidence maps: they are computed again when asked
        for. The patient's ID is left out; names of study and files, the study's date and UIDs are written as given,
        because exports need them. Keep the folder as confidential as the study itself.

        Raises:
            CaseError: the folder exists and holds something else than a case, or cannot be written; or the case is
                saved, but not every foreign file moved along (the text says where they are).
        """
        target = Path(folder).resolve()  # a link stays one, its folder is written
        _check_target(target)
        fresh = target.with_name(f".{target.name}.new-{uuid4().hex[:8]}")
        try:
            fresh.mkdir(parents=True)
            _write(fresh, self._contents(NiftiFolder(fresh)))
            left = _put_in_place(fresh, target)
        except OSError as error:
            raise CaseError(f"{target.name}: the case cannot be written ({error.strerror or error})") from error
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        self._saved_head = self._head
        self._tell(CaseEvent("save"))
        if left is not None:
            raise CaseError(
                f"{target.name}: the case is saved, but other files of the folder could not be moved along; they lie "
                f"in {left.name} beside it: move them by hand"
            )
        return target

    @classmethod
    def load(
        cls, folder: Path | str, explainer: ExplainerLike | None = None, *, device: Device = "auto",
        progress: Progress | None = None, cancelled: Cancelled | None = None,
    ) -> Case:  # fmt: skip
        """Read a saved case. The network runs when a region is edited or an evidence map is asked for, not before.

        Args:
            folder: that :meth:`save` wrote.
            explainer: what runs the network; by default made from the bundle that the case was explained with.
            device, progress, cancelled: as :meth:`open`.

        Raises:
            CaseError: no case, a newer format, a file missing, damaged or changed.
        """
        place = Path(folder).absolute()
        data = _read_json(place)
        said = f"{place.name}/{CASE_FILE}"
        return cls._restored(
            data, lambda: NiftiFolder(place, data["images"], said), (said, FROM_BACKUP), explainer, device, progress,
            cancelled,
        )  # fmt: skip

    def to_text(self) -> str:
        """The case as one text, for a place that keeps texts: a scene's text node.

        Everything that :meth:`save` writes but the input images (T2W, ADC, high-b): whoever keeps the text has them,
        and gives them to :meth:`from_text`. The patient's ID is left out; names, dates and UIDs are as given.
        """
        store = Inline(outside=is_input)
        contents = self._contents(store) | {"format": TEXT_FORMAT}
        contents["opened"] = {role: place.to_dict() for role, place in self._opened.items()}
        return _signed(contents)

    @classmethod
    def from_text(
        cls, text: str, volumes: Mapping[Role, Volume], explainer: ExplainerLike | None = None, *,
        device: Device = "auto", progress: Progress | None = None, cancelled: Cancelled | None = None,
    ) -> Case:  # fmt: skip
        """The case of a text and of the images that it was made with. The network does not run before it must.

        Args:
            text: that :meth:`to_text` wrote.
            volumes: the images of the case, by role; others are ignored. An image counts as the one of the case when
                its voxels have the recorded SHA-256 and its corners lie within 0.01 mm of where it was opened or of
                where a reader shifted it to; the recorded place is then used.
            explainer, device, progress, cancelled: as :meth:`load`.

        Raises:
            CaseError: no case, a newer format, damaged or changed, an image absent or another one (named).
        """
        said, advice = "the case's text", "open an earlier copy of the scene"
        data = _parsed(text, said, TEXT_FORMAT, "choose a text that a case wrote", advice)

        def opened() -> Inline:
            return Inline(data["images"], said, given=GivenImages(volumes, data["opened"], data["images"]))

        case = cls._restored(data, opened, (said, advice), explainer, device, progress, cancelled)
        case._opened = {role: Geometry.from_dict(place) for role, place in data["opened"].items()}
        return case

    @staticmethod
    def images_of(text: str) -> dict[Role, Callable[[Volume], bool]]:
        """By role, how to tell whether an image is the one that the case of a text was made with.

        Raises:
            CaseError: no case, a newer format, damaged or changed.
        """
        data = _parsed(text, "the case's text", TEXT_FORMAT, "choose a text that a case wrote", "open an earlier copy")
        records = {path.rpartition("/")[2]: (path, kept) for path, kept in data["images"].items() if is_input(path)}

        def same(role: Role) -> Callable[[Volume], bool]:
            def is_it(volume: Volume) -> bool:
                try:
                    GivenImages({role: volume}, data["opened"], data["images"])(*records[role])
                except StorageError:
                    return False
                return True

            return is_it

        return {role: same(role) for role in ROLES if role in records}

    @classmethod
    def _restored(
        cls, data: Json, open_store: Callable[[], ImageStore], words: tuple[str, str],
        explainer: ExplainerLike | None, device: Device, progress: Progress | None, cancelled: Cancelled | None,
    ) -> Case:  # fmt: skip
        """A case out of what :meth:`_contents` made; ``words`` for errors: what it is called, what to do."""
        said, advice = words
        try:
            store = open_store()
            current = _state_from_json(data["current"], store)
            original = None if data["original"] is None else _state_from_json(data["original"], store).explanation
            bundle = _bundle_name(original)
            case = cls(current, explainer, bundle=bundle, device=device, progress=progress, cancelled=cancelled)
            case._original = original
            case._selection = Selection(**data["selection"])
            case._log = tuple(AuditEntry(**entry) for entry in data["log"])
            case._sign_off = SignOff(**data["sign_off"]) if data["sign_off"] is not None else None
            case._next_number = int(data["next_number"])
        except CaseError:
            raise
        except StorageError as error:
            raise CaseError(str(error)) from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CaseError(
                f"{said}: an entry is missing or malformed ({type(error).__name__}: {error}); {advice}"
            ) from error
        if not case.verify_log():
            raise CaseError(f"{said}: the audit log was changed; {advice}")
        case._state = replace(current, explanation=case._with_evidence(current.explanation))
        case._original = (
            case._state.explanation if data["original"] == data["current"] else case._with_evidence(original)
        )
        case._saved_head = case._head
        return case

    def _contents(self, store: ImageStore) -> Json:
        original = None if self._original is None else _State(self._original.study, self._original)
        current = _state_to_json(self._state, store, "")
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "notice": NOTICE,
            "current": current,
            "original": None if original is None else _state_to_json(original, store, "original/"),
            "images": store.records,
            "selection": asdict(self._selection),
            "next_number": self._next_number,
            "log": [asdict(entry) for entry in self._log],
            "sign_off": asdict(self._sign_off) if self._sign_off is not None else None,
        }

    def _with_evidence(self, explanation: Explanation | None) -> Explanation | None:
        """The explanation as loaded, its evidence computed by this case when asked for."""
        if explanation is None:
            return None
        study = explanation.study
        fields = _FieldsOnDemand(study.roles, lambda: self._reader_of(study))
        return replace(explanation, evidence=replace(explanation.evidence, fields=fields))

    # -------------------------------------------------------------------------------------------------------- inside

    @property
    def _head(self) -> str:
        return self._log[-1].sha256 if self._log else ""

    def _unsigned(self) -> None:
        if self._sign_off is not None:
            raise CaseSignedOffError(
                f"the case was signed off by {self._sign_off.reader} and cannot be changed; reopen it first"
            )

    def _begin(self, reader: str) -> str:
        self._unsigned()
        return _name(reader)

    def _explained(self) -> Explanation:
        if self.explanation is None:
            raise CaseError("the study is not explained yet; explain it first")
        return self.explanation

    def _lesion(self, number: int) -> Lesion:
        try:
            return self._explained().lesion(number)
        except KeyError as error:
            raise CaseError(str(error.args[0])) from error

    def _new_number(self) -> int:
        if self._next_number > MAX_NUMBER:
            raise CaseError(f"all {MAX_NUMBER} region numbers of this case are used up; open the study as a new case")
        self._next_number += 1
        return self._next_number - 1

    @contextmanager
    def _numbers_if_done(self) -> Iterator[None]:
        """What cannot be read takes no number."""
        before = self._next_number
        try:
            yield
        except BaseException:
            self._next_number = before
            raise

    def _outline(self, mask: Volume) -> Volume:
        """A reader's mask as bool on the frame's grid."""
        if mask.array.dtype.kind not in "biu":
            raise CaseError(f"an outline must be a bool or integer mask, got {mask.array.dtype}; threshold it first")
        inside = mask.array != 0
        if not inside.any():
            raise CaseError("the outline is empty; draw at least one voxel, or delete the region")
        frame = self.study.frame.geometry
        # a mask that went through a file has its grid rounded; resampling it could lose voxels at the border
        same = mask.geometry.almost_equal(frame)
        drawn = inside if same else region_on(Volume(inside, mask.geometry), frame)
        if not drawn.any():
            raise CaseError("the outline lies outside the images; draw it on the study that is open")
        return Volume(drawn, frame, "region")

    def _read(self, number: int, mask: Volume) -> Lesion:
        """A region that a reader outlined, read by the network."""
        zones = self._explained().zones
        reader = self._reader_of(self.study)
        return reader.lesion(number, mask, zones, origin="reader", sectors=self._sectors_of(zones))

    def _sectors_of(self, zones: Volume) -> Volume | None:
        if self._sectors is None or self._sectors[0] is not zones:
            self._sectors = (zones, measure.sector_map(zones))
        return self._sectors[1] if zones.array.any() else None

    def _add(self, action: Action, mask: Volume, reader: str, detail: str) -> Lesion:
        with self._numbers_if_done():
            added = self._read(self._new_number(), mask)
        state = self._with_lesions([*self._explained().lesions, added])
        self._commit(state, action, reader, added.number, detail)
        return added

    def _with_lesions(self, lesions: Iterable[Lesion]) -> _State:
        ordered = tuple(sorted(lesions, key=lambda x: x.number))
        return replace(self._state, explanation=replace(self._explained(), lesions=ordered))

    def _exchange(self, action: Action, reader: str | None, lesion: Lesion, detail: str) -> None:
        state = replace(self._state, explanation=self._explained().with_lesion(lesion))
        self._commit(state, action, reader, lesion.number, detail)

    # the network

    def _network(self) -> ExplainerLike:
        if self._explainer is None:
            from MedRationaleLogic.inference.explainer import Explainer

            self._explainer = Explainer(self._bundle, self._device)
        if self._original is not None:
            _check_same_bundle(self._explainer, self._original)
        return self._explainer

    def _run(self, study: Study, progress: Progress | None, cancelled: Cancelled | None) -> Explanation:
        explanation, reader = self._network().open(
            study, progress=progress or self._progress, cancelled=cancelled or self._cancelled
        )
        self._keep_reader(study, reader)
        return explanation

    def _reader_of(self, study: Study) -> RegionReader:
        """The study as the network sees it; run again only where it was not seen yet (after loading, after undo)."""
        key = _voxels(study)
        if key not in self._readers:
            self._keep_reader(study, self._network().see(study))
        return self._readers[key]

    def _keep_reader(self, study: Study, reader: RegionReader) -> None:
        self._readers[_voxels(study)] = reader
        while len(self._readers) > 2:  # a reader takes about 100 MB; two make a shift and its undo quick
            del self._readers[next(iter(self._readers))]

    def _after_shift(self, new: Explanation) -> tuple[_State, list[str]]:
        """The state after a shift, from what the network says now, and remarks for the log."""
        old, removed = self._explained(), self._state.removed
        reader, sectors = self._reader_of(new.study), self._sectors_of(new.zones)
        readers_own = [x for x in old.lesions if x.origin == "reader"]
        again = _matches((*old.lesions, *removed), new.lesions)
        result: list[Lesion] = []
        remarks: list[str] = []
        for one in old.lesions:
            if one.origin == "reader":
                fresh = reader.lesion(one.number, one.mask, new.zones, origin="reader", sectors=sectors)
            elif one.number in again:
                fresh = replace(again[one.number], number=one.number)
            else:
                flags = tuple(dict.fromkeys((*one.flags, KEPT_FLAG)))
                result.append(replace(one, flags=flags))
                remarks.append(f"region {one.number} was not found again and kept")
                continue
            carried, lost = _with_answers(fresh, (one,), new_outline=False)
            result.append(carried)
            if lost:
                remarks.append(f"region {one.number}: {_lost_text(lost)}")
        matched = {id(x) for x in again.values()}
        settled = [x.mask.array for x in (*readers_own, *removed)]
        said = np.logical_or.reduce(settled) if settled else np.zeros(new.zones.geometry.shape, bool)
        for fresh in new.lesions:
            if id(fresh) in matched:
                continue
            if said[fresh.mask.array].mean() >= SAME_PLACE_SHARE:
                remarks.append("a region of the network was left out: a reader has outlined or deleted it")
                continue
            result.append(replace(fresh, number=self._new_number()))
            remarks.append(f"region {result[-1].number} is new")
        result.sort(key=lambda x: x.number)
        dropped = (*new.dropped, *(_dropped_by_reader(x) for x in removed))
        return _State(new.study, replace(new, lesions=tuple(result), dropped=dropped), removed), remarks

    # history, log, events

    def _commit(self, state: _State, action: Action, reader: str | None, lesion: int | None, detail: str) -> None:
        """A change that can be undone."""
        before = self._state
        self._move(state, action, reader, lesion, detail)
        self._past.append((action, before))
        del self._past[:-UNDO_LIMIT]
        self._future.clear()
        self._settle(action, lesion, detail)

    def _step(
        self, source: list[tuple[Action, _State]], sink: list[tuple[Action, _State]], action: Action, nothing: str,
        reader: str | None,
    ) -> None:  # fmt: skip
        self._unsigned()
        if not source:
            raise CaseError(nothing)
        name = _optional(reader)
        (done, state), now = source[-1], self._state
        self._move(state, action, name, None, done)
        source.pop()
        sink.append((done, now))
        self._settle(action, None, done)

    def _move(self, state: _State, action: Action, reader: str | None, lesion: int | None, detail: str) -> None:
        """Write a change down, then put its state in force: what cannot be written down does not happen."""
        before, after = _changes(_facts(self._state), _facts(state))
        self._record(action, reader, lesion, before, after, detail)
        self._state = state

    def _settle(self, action: Action, lesion: int | None, detail: str) -> None:
        """After a change: what is selected, and telling it."""
        explanation = self.explanation
        there = {x.number for x in explanation.lesions} if explanation is not None else set()
        if action in ("add_region", "explain_here", "merge"):
            self._selection = replace(self._selection, lesion=lesion)
        elif self._selection.lesion not in there:
            self._selection = replace(self._selection, lesion=None)
        self._tell(CaseEvent(action, lesion, detail))

    def _record(
        self, action: Action, reader: str | None, lesion: int | None, before: Json, after: Json, detail: str
    ) -> None:
        entry = AuditEntry(len(self._log) + 1, _now(), reader, action, lesion, before, after, detail, self._head)
        # through JSON and back: the entry in memory is the entry in the file
        plain: Json = json.loads(json.dumps(asdict(entry), allow_nan=False))
        entry = AuditEntry(**plain)
        self._log = (*self._log, replace(entry, sha256=entry.digest()))

    def _tell(self, event: CaseEvent) -> None:
        for callback in tuple(self._subscribers.values()):
            try:
                callback(event)
            except Exception as error:
                # only the type: a message may quote what it was working on, and that may be a patient's
                _log.warning("a subscriber failed on '%s' with %s", event.kind, type(error).__name__)


# ------------------------------------------------------------------------------------------------- regions and answers


def _with_answers(new: Lesion, old: Sequence[Lesion], *, new_outline: bool) -> tuple[Lesion, list[str]]:
    """A region with the readers' answers of those it came from, and in words the answers that did not carry over."""
    given = [(override, source) for source in old for override in source.rationale.overrides]
    rationale, lost = new.rationale, []
    for override, source in given:
        reason = _outdated(override, source, new, [o for o, _ in given], new_outline=new_outline)
        if not reason:
            try:
                rationale = rationale.override(override.step, override.answer, override.reader)
            except ValueError as error:
                reason = str(error)
        if reason:
            lost.append(f"{override.step} = {override.answer} ({override.reader}): {reason}")
    return replace(new, rationale=rationale), lost


def _outdated(override: Override, source: Lesion, new: Lesion, given: Sequence[Override], *, new_outline: bool) -> str:
    """Why a reader's answer says nothing of the changed region; empty when it does."""
    if any(o.step == override.step and o.answer != override.answer for o in given):
        return "the regions had different answers"
    if override.step == "size" and new_outline:
        return "measured anew on the new outline"
    if override.step == "zone":
        zone = str(override.answer)
        before, after = (x.measures.zone_shares.get(zone, 0.0) for x in (source, new))
        if before > 0 and after == 0:
            return f"the region no longer lies in {zone}"
    return ""


def _lost_text(lost: Sequence[str]) -> str:
    return f"answers not carried over: {'; '.join(lost)}" if lost else ""


def _sentences(*parts: str) -> str:
    return ". ".join(part for part in parts if part)


def _pieces(mask: Volume) -> list[Volume]:
    """The 26-connected pieces of a mask, largest first."""
    labels, count = ndimage.label(mask.array, structure=np.ones((3, 3, 3), bool))
    return _largest_first(mask, [labels == n for n in range(1, count + 1)])


def _sides(mask: Volume, plane: tuple[ArrayLike, ArrayLike]) -> list[Volume]:
    """The parts of a mask on the two sides of a plane (point, normal; LPS), largest first; an empty one is left out."""
    point, normal = (np.asarray(v, dtype=float) for v in plane)
    if point.shape != (3,) or normal.shape != (3,) or not np.isfinite([point, normal]).all() or not normal.any():
        raise CaseError("a plane is a point and a normal, three finite numbers (x, y, z) each, the normal not zero")
    index = np.argwhere(mask.array)
    front = (mask.geometry.to_patient(index) - point) @ normal >= 0
    sides = []
    for chosen in (index[front], index[~front]):
        side = np.zeros(mask.geometry.shape, bool)
        side[tuple(chosen.T)] = True
        sides.append(side)
    return _largest_first(mask, [side for side in sides if side.any()])


def _largest_first(mask: Volume, parts: list[NDArray[np.bool_]]) -> list[Volume]:
    parts.sort(key=lambda part: -int(part.sum()))
    return [mask.with_array(part, "region") for part in parts]


def _matches(old: Sequence[Lesion], new: Sequence[Lesion]) -> dict[int, Lesion]:
    """By the number of an old region the new one that it is: pairs of greatest DSC first, each region used once."""
    pairs = [(_dsc(a.mask.array, b.mask.array), a, b) for a in old for b in new]
    pairs.sort(key=lambda pair: (-pair[0], pair[1].number, pair[2].number))
    found: dict[int, Lesion] = {}
    for overlap, a, b in pairs:
        if overlap >= SAME_REGION_DSC and a.number not in found and not any(b is x for x in found.values()):
            found[a.number] = b
    return found


def _dsc(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float(2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)))


def _dropped_by_reader(lesion: Lesion) -> Dropped:
    peak = lesion.suspicion.value if lesion.suspicion is not None else 0.0
    reason = f"region {lesion.number} was deleted by a reader"
    return Dropped(peak, lesion.measures.centroid, lesion.measures.volume_ml, reason)


def _voxels(study: Study) -> tuple[str, ...]:
    """What of a study the network sees; the PSA is no part of it."""
    return tuple(f"{role} {volume.sha256}" for role in study.roles if (volume := study.volume(role)) is not None)


def _bundle_name(explanation: Explanation | None) -> str | None:
    """The bundle an explanation was made with, as :func:`MedRationaleLogic.model.bundle.find` takes it."""
    if explanation is None or not explanation.provenance.bundle.get("name"):
        return None
    bundle = explanation.provenance.bundle
    return f"{bundle['name']}-{bundle['version']}" if bundle.get("version") else str(bundle["name"])


def _check_same_bundle(explainer: ExplainerLike, explanation: Explanation) -> None:
    """Readings of two bundles must not meet in one case."""
    manifest = getattr(getattr(explainer, "bundle", None), "manifest", None)
    used = explanation.provenance.bundle
    if manifest is not None and manifest.sha256 != used.get("sha256"):
        raise CaseError(
            f"the case was explained with bundle {used.get('name')} {used.get('version')}, the explainer has "
            f"{manifest.name} {manifest.version} or other weights of that name; use the bundle of the case, or open "
            "the study as a new case"
        )


# ------------------------------------------------------------------------------------------------------ facts and log


def _name(reader: str) -> str:
    if not isinstance(reader, str) or not reader.strip():
        raise CaseError("this action needs the reader's name")
    return reader.strip()


def _optional(reader: str | None) -> str | None:
    return None if reader is None else _name(reader)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _sha256(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _facts(state: _State) -> Json:
    """What a state says, as plain values that fit a log: hashes in place of images."""
    facts: Json = {"psa_ng_ml": state.study.psa, "images": list(_voxels(state.study))}
    if state.explanation is not None:
        facts["zones"] = state.explanation.zones.sha256
        facts["category"] = state.explanation.category.category
        facts["regions"] = {str(x.number): _region_facts(x) for x in state.explanation.lesions}
    return facts


def _region_facts(lesion: Lesion) -> Json:
    rationale = lesion.rationale
    return {
        "outline": lesion.mask.sha256,
        "origin": lesion.origin,
        "category": rationale.category,
        "zone": rationale.zone,
        "size_mm": rationale.size_mm,
        "volume_ml": lesion.measures.volume_ml,
        "answers": {o.step: {"answer": o.answer, "reader": o.reader} for o in rationale.overrides},
    }


def _changes(before: Json, after: Json) -> tuple[Json, Json]:
    """What differs between two states' facts; of the regions only those that differ."""
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    was, now = ({name: facts[name] for name in names if name in facts} for facts in (before, after))
    if "regions" in was and "regions" in now:
        a, b = was["regions"], now["regions"]
        was["regions"] = {n: x for n, x in a.items() if b.get(n) != x}
        now["regions"] = {n: x for n, x in b.items() if a.get(n) != x}
    return was, now


# ------------------------------------------------------------------------------------------------------ the case folder

#: What a case writes into its folder, and nothing else is read from there.
_OWN: Final = (CASE_FILE, "images", "zones.nii.gz", "lesion_probability.nii.gz", "regions", "removed", "original")


def _state_to_json(state: _State, store: ImageStore, prefix: str) -> Json:
    """A state as plain values; its images go to ``store`` under ``prefix``."""
    explanation = state.explanation
    return {
        "study": study_to_json(state.study, store, prefix),
        "explanation": None if explanation is None else explanation_to_json(explanation, store, prefix),
        "removed": lesions_to_json(state.removed, store, f"{prefix}removed"),
    }


def _state_from_json(data: Json, store: ImageStore) -> _State:
    """A state; its evidence has no fields yet."""
    study = study_from_json(data["study"], store)
    explanation = None if data["explanation"] is None else explanation_from_json(data["explanation"], store, study)
    return _State(study, explanation, lesions_from_json(data["removed"], store))


def _signed(contents: Json) -> str:
    """Contents as JSON text with their own checksum."""
    try:
        return json.dumps(contents | {"sha256": _sha256(contents)}, indent=1, allow_nan=False) + "\n"
    except ValueError as error:
        raise CaseError(f"the case cannot be written as JSON: some number is not finite ({error})") from error


def _write(folder: Path, contents: Json) -> None:
    (folder / CASE_FILE).write_text(_signed(contents), encoding="utf-8")


def _parsed(text: str | bytes, said: str, expected: str, foreign: str, damaged: str) -> Json:
    """JSON text that a case wrote, checked as a whole.

    Raises:
        CaseError: unreadable, foreign, newer, or changed.
    """
    try:
        data = json.loads(text)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CaseError(f"{said} cannot be read as JSON; {damaged}") from error
    if not isinstance(data, dict) or data.get("format") != expected:
        raise CaseError(f"{said} is not of MedRationale; {foreign}")
    if data.get("format_version") != FORMAT_VERSION:
        raise CaseError(
            f"{said} has format version {data.get('format_version')}, this MedRationale reads {FORMAT_VERSION}; "
            "update MedRationale"
        )
    if data.pop("sha256", None) != _sha256(data):
        raise CaseError(f"{said} is damaged or was changed since it was saved; {damaged}")
    return data


def _read_json(folder: Path) -> Json:
    """``case.json``, checked as a whole.

    Raises:
        CaseError: there is none, or it is unreadable, foreign, newer, or was changed.
    """
    file, said = folder / CASE_FILE, f"{folder.name}/{CASE_FILE}"
    if not file.is_file():
        raise CaseError(f"{folder.name} is not a case: it has no {CASE_FILE}; choose a folder that 'save' wrote")
    try:
        text = file.read_bytes()
    except OSError as error:
        raise CaseError(
            f"{said} cannot be read ({error.strerror or error}); restore the folder from a backup"
        ) from error
    return _parsed(text, said, FORMAT, "choose a folder that 'save' wrote", FROM_BACKUP)


def _check_target(target: Path) -> None:
    """Only a new place, an empty folder or a case may be written to."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    advice = "choose another name"
    if not target.is_dir():
        raise CaseError(f"{target.name} is a file; a case needs a folder: {advice}")
    try:
        found = json.loads((target / CASE_FILE).read_text(encoding="utf-8")).get("format")
    except (OSError, ValueError, AttributeError):
        found = None
    if found != FORMAT:
        raise CaseError(f"{target.name} exists and is not a case of MedRationale, so it is left alone: {advice}")


def _put_in_place(fresh: Path, target: Path) -> Path | None:
    """Exchange a complete new folder for an old one; foreign files of the old one move along.

    Returns:
        The old folder, where one of these could not be moved out of it; else None.

    Raises:
        OSError: nothing was exchanged.
    """
    if not target.exists():
        fresh.rename(target)
        return None
    aside = target.with_name(f".{target.name}.old-{uuid4().hex[:8]}")
    target.rename(aside)
    try:
        fresh.rename(target)
    except OSError:
        aside.rename(target)
        raise
    left = None
    for entry in list(aside.iterdir()):
        if entry.name not in _OWN:
            try:
                entry.rename(target / entry.name)
            except OSError:
                left = aside
    if left is None:
        shutil.rmtree(aside, ignore_errors=True)
    return left
