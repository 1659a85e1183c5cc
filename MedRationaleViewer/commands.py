"""What a page can ask for, by name. Each command does one thing to the desk or the views of its tab; nothing here knows
how a page looks, and nothing here decides about a study: that is the case's.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from MedRationaleLogic.case import Case, CaseError
from MedRationaleLogic.export import walk
from MedRationaleLogic.imaging.acquisition import ROLE_NAMES, ROLES, Role
from MedRationaleLogic.mrml.geometry import lps
from MedRationaleViewer import page

if TYPE_CHECKING:
    from MedRationaleViewer.studies import Shelf
    from MedRationaleViewer.tab import Tab

__all__ = ["CommandError", "Commands", "where"]

_log = logging.getLogger(__name__)

EDITS: Final = frozenset({
    "answer", "reset_step", "undo", "redo", "reset", "delete", "merge", "explain_here", "explain_at", "shift", "psa",
    "sign_off", "reopen",
})  # fmt: skip
"""What a read-only server refuses."""
OF_ONE_STUDY: Final = EDITS | {
    "close",
    "explain",
    "cancel",
    "select",
    "mark",
    "choose_step",
    "concept",
    "window",
    "jump",
}
"""What means the study that the page showed when it was asked for, and no other."""
DOUBT: Final = "The open case holds a reader's changes that no download has saved. Put it away?"


class CommandError(ValueError):
    """Something that cannot be done now; the text says what to do."""


class Commands:
    """The commands of one tab."""

    def __init__(self, tab: Tab) -> None:
        self.tab = tab
        self._listed: dict[str, Any] = {"folder": "", "studies": [], "folders": [], "up": None, "message": ""}
        """What the page shows of the shelf: kept, for to list a folder may take seconds."""
        self._asked: str | None = None
        """The folder of the shelf that is being listed."""
        self._uploaded: Path | None = None
        """A study that was uploaded and is not opened yet."""
        self._commands: Mapping[str, Callable[..., None]] = {
            "open_sample": self.open_sample, "open_study": self.open_study, "open_upload": self.open_upload,
            "browse": self.browse, "close": self.close, "explain": self.explain, "cancel": self.cancel,
            "select": self.select, "mark": self.mark,
            "choose_step": self.choose_step, "concept": self.concept, "next_lesion": self.next_lesion,
            "next_concept": self.next_concept, "scroll": self.scroll, "jump": self.jump, "answer": self.answer,
            "reset_step": self.reset_step, "undo": self.undo, "redo": self.redo, "reset": self.reset,
            "delete": self.delete, "merge": self.merge, "explain_here": self.explain_here,
            "explain_at": self.explain_at, "shift": self.shift, "psa": self.psa, "reader": self.reader,
            "sign_off": self.sign_off, "reopen": self.reopen, "layout": self.layout, "evidence": self.evidence,
            "gland": self.gland, "opacity": self.opacity, "whole": self.whole, "reset_views": self.reset_views,
            "crosshair": self.crosshair, "window": self.window, "dismiss": self.dismiss,
        }  # fmt: skip

    def do(self, name: str, args: Mapping[str, Any], study: int | None = None) -> None:
        """Do what a page asks for; what cannot be done is told there, and nothing is raised.

        Args:
            name: of the command.
            args: by name.
            study: the number of the study that the page showed; None where it showed none yet.
        """
        command = self._commands.get(name)
        try:
            if command is None:
                raise CommandError(f"this page asks for '{name}', which this server does not know; reload the page")
            if self.tab.options.read_only and name in EDITS:
                raise CommandError("this server is read-only: a case can be looked at, not changed")
            if name in OF_ONE_STUDY and study is not None and study != self.tab.number:
                raise CommandError("another study has come meanwhile; what was asked of the one before is not done")
            command(**args)
        except Exception as error:
            self.tell(error)

    def tell(self, error: Exception) -> None:
        """Say to the reader what went wrong."""
        self.tab.notify("error", self.words(error), detail=getattr(error, "log_tail", ""))

    @staticmethod
    def words(error: Exception) -> str:
        """An error as a reader is to see it; what nobody foresaw is logged by its type and place, for a message may
        quote a patient's data."""
        if isinstance(error, (ValueError, OSError, RuntimeError)) and str(error):
            return str(error)
        if isinstance(error, KeyError) and error.args:
            return str(error.args[0])
        _log.error("failed with %s at %s", type(error).__name__, where(error))
        return f"That did not work ({type(error).__name__}). The server's log says more."

    # ------------------------------------------------------------------------------------------------------ the study

    def chooser(self) -> dict[str, Any]:
        """The page's section of studies to choose from, as they were listed last."""
        options = self.tab.options
        return {
            "root": self.tab.shelf is not None, "uploads": not options.read_only, "limit_mb": options.upload_mb,
            "listing": self._asked is not None, **self._listed,
        }  # fmt: skip

    def browse(self, id: str) -> None:
        """List a folder of the shelf, beside the event loop; the page shows it when that is done."""
        shelf, folder = self._shelf(), str(id)
        if folder != self._asked:
            self._asked = folder
            self.tab.spawn(self._list(shelf, folder))

    def list_again(self) -> None:
        """List the folder that the page shows once more, where there is a shelf."""
        if self.tab.shelf is not None:
            self.browse(self._listed["folder"])

    async def _list(self, shelf: Shelf, folder: str) -> None:
        listed: dict[str, Any] = {"folder": folder, "studies": [], "folders": [], "up": "", "message": ""}
        try:
            found = await asyncio.to_thread(shelf.list, folder)
            listed |= {
                "up": folder.rpartition("/")[0] if folder else None, "message": found.message,
                "studies": [{"id": s.id, "name": s.name, "detail": s.detail} for s in found.studies],
                "folders": [{"id": f.id, "name": f.name} for f in found.folders],
            }  # fmt: skip
        except ValueError as error:
            listed["message"] = str(error)
        finally:
            if self._asked == folder:  # else the reader went on to another folder meanwhile
                self._asked, self._listed = None, listed

    def _shelf(self) -> Shelf:
        if self.tab.shelf is None:
            raise CommandError("this server was started without a folder of studies (--root)")
        return self.tab.shelf

    def open_sample(self, confirmed: bool = False) -> None:
        """Open the sample study."""
        if self._may_leave("open_sample", {}, confirmed):
            # asked once more when it is drawn: the reader goes on meanwhile
            self.tab.spawn(self.tab.open_sample(lambda: self._may_leave("open_sample", {}, confirmed)))

    def open_study(self, id: str, confirmed: bool = False) -> None:
        """Open a study of the shelf."""
        folder = self._shelf().resolve(str(id))
        if self._may_leave("open_study", {"id": id}, confirmed):
            self.tab.open(folder)

    def take_upload(self, folder: Path, before: int) -> None:
        """Open an uploaded study. The reader is asked where work would go, or another study was opened meanwhile.

        Args:
            folder: that it lies in.
            before: the number of the study that was open when the upload began.
        """
        self._uploaded = folder
        if self.tab.desk.case is None or self.tab.number == before:
            self.open_upload()
        elif not self.tab.desk.readers_work_would_go():
            # not yet confirmed: the reader may go on working before saying yes, and is then asked about that
            question = {"yes": "Put it away", "no": "Keep it", "command": "open_upload", "args": {}}
            text = "The upload is here. Put the study away that was opened meanwhile?"
            self.tab.notify("question", text, question=question)
        else:
            self._may_leave("open_upload", {}, False)

    def open_upload(self, confirmed: bool = False) -> None:
        """Open the study that was uploaded last."""
        folder = self._uploaded
        if folder is None or not folder.is_dir():
            raise CommandError("the upload is not there any more; upload the study again")
        if self._may_leave("open_upload", {}, confirmed):
            self._uploaded = None
            self.tab.open(folder)

    def close(self, confirmed: bool = False) -> None:
        """Put the study away."""
        if self._may_leave("close", {}, confirmed):
            self.tab.close_study()

    def _may_leave(self, command: str, args: dict[str, Any], confirmed: bool) -> bool:
        """Whether the open case may go; the reader is asked where work would go with it."""
        if confirmed or not self.tab.desk.readers_work_would_go():
            self.tab.dismiss()
            return True
        question = {"yes": "Put it away", "no": "Keep it", "command": command, "args": {**args, "confirmed": True}}
        self.tab.notify("question", DOUBT, question=question)
        return False

    def explain(self) -> None:
        """Explain the open study."""
        self.tab.desk.explain()

    def cancel(self) -> None:
        """Stop what runs."""
        self.tab.mode = ""
        self.tab.desk.cancel()

    # --------------------------------------------------------------------------------------------------------- looking

    def _case(self) -> Case:
        case = self.tab.desk.case
        if case is None or case.explanation is None:
            raise CommandError("nothing is explained yet; open a study and explain it first")
        return case

    def _lesion(self) -> int:
        number = self._case().selection.lesion
        if number is None:
            raise CommandError("no region is selected; select one under Findings first")
        return number

    def select(self, lesion: int | None) -> None:
        """Look at a region, and at the concept that its category rests on first."""
        self._case()
        self.tab.step = None
        self.tab.desk.select(None if lesion is None else int(lesion))

    def mark(self, lesion: int) -> None:
        """Mark a region for merging, or take the mark away."""
        self.tab.marked = self.tab.marked ^ {int(lesion)}

    def choose_step(self, step: str | None) -> None:
        """Look at a step of the rationale, and at what it was read from."""
        case, number = self._case(), self._lesion()
        self.tab.step = step
        if step is not None and case.explanation is not None:
            concept = case.explanation.lesion(number).rationale.step(step).evidence
            if concept is not None:
                self.tab.desk.select(number, concept)

    def concept(self, id: str | None) -> None:
        """Look at a concept's evidence; None: at none."""
        case = self._case()
        if id is None:
            case.select(case.selection.lesion, None)
        else:
            self.tab.desk.select(case.selection.lesion, id)

    def next_lesion(self, by: int) -> None:
        """Select the next or the previous region, round and round."""
        case = self._case()
        assert case.explanation is not None
        numbers = [lesion.number for lesion in case.explanation.lesions]
        if numbers:
            self.select(walk.following(numbers, case.selection.lesion, int(by)))

    def next_concept(self, by: int) -> None:
        """Look at the next or the previous concept."""
        case = self._case()
        assert case.explanation is not None
        names = page.concepts(case.explanation, case.selection.lesion)
        if names:
            self.tab.desk.select(case.selection.lesion, walk.following(names, case.selection.concept, int(by)))

    def scroll(self, by: int) -> None:
        """Move all views by slices."""
        self.tab.views.scroll(self.tab.desk.nodes, int(by))

    def jump(self, slice: int) -> None:
        """Bring all views to a slice, counted from 1."""
        self.tab.views.jump(self.tab.desk.nodes, int(slice))

    def layout(self, n: int) -> None:
        """Show another layout."""
        self.tab.views.show_layout(int(n))

    def evidence(self, on: bool) -> None:
        """Show or hide the evidence."""
        self.tab.evidence_shown = bool(on)
        self.tab.show_evidence()

    def whole(self, on: bool) -> None:
        """Show evidence also away from gland and regions."""
        self.tab.whole = bool(on)
        self.tab.show_evidence()

    def opacity(self, value: float) -> None:
        """How strongly evidence covers the image, 0 to 1."""
        if not 0 <= float(value) <= 1:
            raise CommandError("opacity lies between 0 and 1")
        self.tab.opacity = float(value)
        if self.tab.desk.view is not None:
            self.tab.desk.view.set_evidence(opacity=float(value))

    def gland(self, on: bool) -> None:
        """Show or hide gland and regions in 3D."""
        self.tab.gland = bool(on)
        if self.tab.desk.view is not None and self.tab.desk.explanation is not None:
            self.tab.desk.view.show_surfaces(bool(on))

    def crosshair(self, on: bool) -> None:
        """Show or hide the crosshair."""
        self.tab.crosshair = bool(on)
        self.tab.views.show_crosshair(bool(on))

    def reset_views(self) -> None:
        """Fit the views to the gland, or to the image where nothing is explained."""
        from MedRationaleLogic.mrml import layout

        desk = self.tab.desk
        if desk.explanation is None:
            self.tab.views.show(desk.nodes)
        else:
            layout.zoom_to(desk.scene, desk.explanation.zones)
            desk.jump()

    def window(self, role: Role | None = None, low: float | None = None, high: float | None = None) -> None:
        """Grey levels of a sequence, in its node's units; without numbers the automatic ones, of all unless named."""
        from MedRationaleLogic.mrml import layout

        desk = self.tab.desk
        for name in ROLES if role is None else (role,):
            node = desk.nodes.get(name)
            display = None if node is None else node.GetDisplayNode()
            if display is None:
                if role is not None:
                    raise CommandError(f"there is no {ROLE_NAMES.get(role, role)} image")
                continue
            if low is not None and high is not None:
                if not float(low) < float(high):
                    raise CommandError("the lower grey level has to lie below the upper one")
                display.SetAutoWindowLevel(False)
                display.SetWindowLevelMinMax(float(low), float(high))
            else:
                display.SetAutoWindowLevel(True)
        if low is None and desk.explanation is not None:
            layout.set_windows(desk.nodes, desk.explanation)

    # ------------------------------------------------------------------------------------------------------ correcting

    def _reader(self) -> str:
        if not self.tab.reader:
            raise CommandError("enter your name or initials under Review first: a change is kept under a name")
        return self.tab.reader

    def reader(self, name: str) -> None:
        """Who reads."""
        self.tab.reader = str(name).strip()[:80]

    def answer(self, step: str, index: int | None = None, size_mm: float | None = None) -> None:
        """Put a reader's answer to a step in place: one of its answers by place, or the size in mm."""
        case, number, reader = self._case(), self._lesion(), self._reader()
        assert case.explanation is not None
        if size_mm is not None:
            case.override(number, step, float(size_mm), reader)
        else:
            answers = case.explanation.lesion(number).rationale.answers(step)
            if index is None or not 0 <= int(index) < len(answers):
                raise CommandError("this step is computed, or has no such answer; answer one of those it rests on")
            case.override(number, step, answers[int(index)], reader)
        self.tab.step = step

    def reset_step(self, step: str) -> None:
        """Take a reader's answer back."""
        self._case().reset_step(self._lesion(), step, self._reader())

    def undo(self) -> None:
        """Take the last change back."""
        self._case().undo(self.tab.reader or None)

    def redo(self) -> None:
        """Do again what was taken back."""
        self._case().redo(self.tab.reader or None)

    def reset(self) -> None:
        """Go back to what the model said."""
        self._case().reset(self.tab.reader or None)

    def delete(self) -> None:
        """Delete the selected region."""
        self._case().delete(self._lesion(), self._reader())

    def merge(self) -> None:
        """Make one region of those that are marked, and the selected one."""
        case, reader = self._case(), self._reader()
        chosen = sorted({*self.tab.marked, *([case.selection.lesion] if case.selection.lesion is not None else [])})
        if len(chosen) < 2:
            raise CommandError("mark at least two regions under Findings first")
        self.tab.desk.perform(lambda: case.merge(chosen, reader), "merging regions", repeatable=True)

    def explain_here(self) -> None:
        """Let the reader click on a place that the model passed over; a second time: not any more."""
        self._case()
        self._reader()
        self.tab.mode = "" if self.tab.mode else "explain_here"

    def explain_at(self, view: str, x: float, y: float) -> None:
        """Add the region around a place of a view (shares of its width and height, from the upper left corner)."""
        case, reader = self._case(), self._reader()
        point = lps(self.tab.views.point(view, float(x), float(y)))
        self.tab.mode = ""

        def add() -> None:
            self.tab.desk.select(case.explain_here(point, reader).number)

        self.tab.desk.perform(add, "reading this place", repeatable=True)

    def shift(self, role: Role, x: float, y: float, z: float) -> None:
        """Move ADC or high-b by millimetres (towards left, posterior, superior)."""
        if self.tab.desk.case is None:
            raise CommandError("no study is open")
        self.tab.desk.shift(role, [float(x), float(y), float(z)], self._reader())

    def psa(self, value: float | None) -> None:
        """Set the PSA in ng/ml; None: not known."""
        if self.tab.desk.case is None:
            raise CommandError("no study is open")
        self.tab.desk.case.set_psa(None if value is None else float(value), self._reader())

    def sign_off(self) -> None:
        """Close the case under the reader's name."""
        self._case().sign_off(self._reader())

    def reopen(self, reason: str) -> None:
        """Open a signed case again, for a reason that is kept."""
        if self.tab.desk.case is None:
            raise CommandError("no study is open")
        self.tab.desk.case.reopen(self._reader(), str(reason))

    def dismiss(self) -> None:
        """Take away what was said."""
        self.tab.dismiss()


def where(error: BaseException) -> str:
    """Where an error was raised, innermost first, without anything that it was raised about."""
    frames = traceback.extract_tb(error.__traceback__)
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames))


assert issubclass(CaseError, ValueError)  # words() shows its text
