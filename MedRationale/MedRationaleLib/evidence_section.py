"""The section Evidence: which concept's map lies over its own sequence, and all concepts of a region side by side."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any
from uuid import uuid4

import qt

from MedRationaleLib.widgets import currentData, fillBox, later, onSignal


class EvidenceSection:
    """Concepts of the selected region in the order of the rationale; without a region, all maps of the study."""

    def __init__(self, panel: Any) -> None:
        self.panel, self.ui = panel, panel.ui
        self.shown: tuple[Any, ...] | None = None
        self.filling = False
        from MedRationaleLogic.export.thumbnails import SIZE

        ui = self.ui
        ui.conceptList.setIconSize(qt.QSize(SIZE, SIZE))
        ui.conceptList.setMinimumHeight(SIZE + 70)
        onSignal(ui.evidenceCheckBox, "toggled(bool)", lambda *_args: panel.attempt(self.show))
        onSignal(ui.conceptBox, "currentIndexChanged(int)", lambda *_args: panel.attempt(self._boxChosen))
        onSignal(ui.conceptList, "currentRowChanged(int)", lambda row: panel.attempt(lambda: self._listChosen(row)))
        onSignal(ui.previousConceptButton, "clicked(bool)", lambda *_args: panel.attempt(lambda: self.step(-1)))
        onSignal(ui.nextConceptButton, "clicked(bool)", lambda *_args: panel.attempt(lambda: self.step(1)))
        onSignal(ui.wholeFieldCheckBox, "toggled(bool)", lambda *_args: panel.attempt(self.show))
        for slider in (ui.opacitySlider, ui.thresholdSlider):
            onSignal(slider, "valueChanged(int)", lambda *_args: panel.attempt(self.adjust))

    # ---------------------------------------------------------------------------------------------------- which concept

    def concepts(self) -> list[tuple[str, str]]:
        """(words, concept id): the selected region's answers that have a map, else every map of the study."""
        from MedRationaleLogic.export import walk

        explanation = self.panel.desk.explanation
        if explanation is None:
            return []
        offers = walk.concepts(explanation, self.panel.desk.case.selection.lesion)
        return [(offer.named, offer.concept) for offer in offers]

    def step(self, by: int) -> None:
        """The next or the previous concept, round and round."""
        from MedRationaleLogic.export import walk

        entries = [concept for _text, concept in self.concepts()]
        if entries:
            selection = self.panel.desk.case.selection
            self.panel.select(selection.lesion, walk.following(entries, selection.concept, by))

    def _boxChosen(self) -> None:
        case = self.panel.desk.case
        if not self.filling and case is not None:
            # asked of the case itself: "(none)" must not become the concept that a region is opened with
            case.select(case.selection.lesion, currentData(self.ui.conceptBox))

    def _listChosen(self, row: int) -> None:
        entries = self.concepts()
        if not self.filling and 0 <= row < len(entries):
            self.panel.select(self.panel.desk.case.selection.lesion, entries[row][1])

    # --------------------------------------------------------------------------------------------------------- showing

    def show(self) -> bool:
        """Bring the views to the selected concept: its map on its own sequence, at its strongest slice. False where it
        has to be asked for again, see `Desk.show_evidence`."""
        self.adjust()
        return self.panel.desk.show_evidence(
            everywhere=bool(self.ui.wholeFieldCheckBox.checked), shown=bool(self.ui.evidenceCheckBox.checked),
            then=self.refresh,  # the network has run for a reopened case: now the pictures can be made
        )  # fmt: skip

    def toggle(self) -> None:
        self.ui.evidenceCheckBox.setChecked(not self.ui.evidenceCheckBox.checked)

    def adjust(self) -> None:
        """Opacity and threshold of what is shown."""
        desk = self.panel.desk
        if desk.view is not None:
            opacity, threshold = self.ui.opacitySlider.value / 100, self.ui.thresholdSlider.value / 100
            desk.view.set_evidence(opacity=opacity, threshold=threshold)

    def refresh(self) -> None:
        entries = self.concepts()
        case = self.panel.desk.case
        concept = None if case is None else case.selection.concept
        self.filling = True
        try:
            fillBox(self.ui.conceptBox, [("(none)", None), *entries], concept)
            lesion = None if case is None else case.selection.lesion
            hand = self.panel.desk.evidence_at_hand()
            key = None if lesion is None else (hand, id(self.panel.desk.explanation.lesion(lesion)), *entries)
            if key != self.shown:
                self.shown = key
                self._sheet(entries if lesion is not None else [])
            names = [c for _text, c in entries]
            self.ui.conceptList.setCurrentRow(names.index(concept) if lesion is not None and concept in names else -1)
        finally:
            self.filling = False
        self.ui.legendLabel.setText(self._legend(concept))

    def _legend(self, concept: str | None) -> str:
        from MedRationaleLogic.export import words

        if concept is None:
            return words.WHAT_EVIDENCE_IS
        case, explanation = self.panel.desk.case, self.panel.desk.explanation
        lesion = None if case.selection.lesion is None else explanation.lesion(case.selection.lesion)
        parts = [f"<b>{escape(words.concept_phrase(concept))}</b>", words.evidence_words(explanation, lesion, concept)]
        return "<br>".join(part for part in parts if part)

    def _sheet(self, entries: list[tuple[str, str]]) -> None:
        """The pictures side by side, one a turn of the event loop; made only where the evidence is at hand."""
        self.ui.conceptList.clear()
        desk = self.panel.desk
        if not entries or not desk.evidence_at_hand():
            return
        lesion = desk.explanation.lesion(desk.case.selection.lesion)
        for text, concept in entries:
            reading = lesion.reading(concept)
            share = "" if reading is None else f"\n{reading.probability:.0%}"
            self.ui.conceptList.addItem(f"{text}{share}")
        shown, explanation = self.shown, desk.explanation

        def picture(row: int) -> None:
            if self.shown is not shown or row >= len(entries):  # another region was chosen meanwhile
                return
            self.ui.conceptList.item(row).setIcon(self._icon(explanation, lesion, entries[row][1]))
            later(lambda: self.panel.attempt(lambda: picture(row + 1)))

        later(lambda: self.panel.attempt(lambda: picture(0)))

    def _icon(self, explanation: Any, lesion: Any, concept: str) -> Any:
        from MedRationaleLogic.export import thumbnails

        path = Path(self.panel.scratch()) / f"{uuid4().hex}.ppm"
        path.write_bytes(thumbnails.ppm(thumbnails.thumbnail(explanation, lesion, concept)))
        icon = qt.QIcon(qt.QPixmap(str(path)))
        path.unlink(missing_ok=True)
        return icon
