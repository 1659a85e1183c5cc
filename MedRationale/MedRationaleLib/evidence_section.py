"""The section Evidence: which concept's map lies over its own sequence, and all concepts of a region side by side."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import qt

from MedRationaleLib.widgets import currentData, fillBox, later, onSignal

THUMBNAIL = 116
"""Pixels; a region and its surroundings are still told apart."""


class EvidenceSection:
    """Concepts of the selected region in the order of the rationale; without a region, all maps of the study."""

    def __init__(self, panel: Any) -> None:
        self.panel, self.ui = panel, panel.ui
        self.shown: tuple[Any, ...] | None = None
        self.filling = False
        ui = self.ui
        ui.conceptList.setIconSize(qt.QSize(THUMBNAIL, THUMBNAIL))
        ui.conceptList.setMinimumHeight(THUMBNAIL + 70)
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
        from MedRationaleLogic.export import words

        explanation = self.panel.desk.explanation
        if explanation is None:
            return []
        chosen = self.panel.desk.case.selection.lesion
        if chosen is None:
            return [(words.concept_phrase(c), c) for c in explanation.evidence]
        found: dict[str, str] = {}
        for step in explanation.lesion(chosen).rationale.steps:
            if step.evidence is not None and step.evidence in explanation.evidence:
                sequence = words.CONCEPT_GROUPS[step.sequence]
                said = words.answer_words(step.id, step.answer)
                # two answers may share a map: the term of the standard stands for both
                found.setdefault(step.evidence, f"{sequence} {words.step_label(step)}: {said}")
        return [(text, concept) for concept, text in found.items()]

    def step(self, by: int) -> None:
        """The next or the previous concept, round and round."""
        entries = [concept for _text, concept in self.concepts()]
        if entries:
            now = self.panel.desk.case.selection.concept
            at = entries.index(now) + by if now in entries else (0 if by > 0 else -1)
            self.panel.select(self.panel.desk.case.selection.lesion, entries[at % len(entries)])

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

    def show(self) -> None:
        """Bring the views to the selected concept: its map on its own sequence, at its strongest slice."""
        desk = self.panel.desk
        if desk.view is None or desk.explanation is None:
            return
        concept = desk.case.selection.concept
        if concept is None or not self.ui.evidenceCheckBox.checked or concept not in desk.explanation.evidence:
            desk.view.hide_evidence()
            return
        if desk.evidenceAtHand():
            self._show(concept)
        elif not desk.busy:  # a saved case that was opened again: the network runs once more
            desk.perform(lambda: self._show(concept), "reading the evidence")

    def _show(self, concept: str) -> None:
        desk = self.panel.desk
        if desk.view is None or desk.case.selection.concept != concept:  # something else was chosen meanwhile
            return
        self.adjust()
        hadPictures = self.shown is not None and self.shown[0]
        desk.view.show_evidence(concept, everywhere=bool(self.ui.wholeFieldCheckBox.checked))
        if not hadPictures:  # the network has run for a reopened case: now the pictures can be made
            self.refresh()

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
            hand = self.panel.desk.evidenceAtHand()
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
        if concept is None:
            return "Evidence is what the network saw for a concept in that concept's own sequence, 0 to 1."
        from MedRationaleLogic.export import words

        case, explanation = self.panel.desk.case, self.panel.desk.explanation
        lesion = None if case.selection.lesion is None else explanation.lesion(case.selection.lesion)
        reading = None if lesion is None else lesion.reading(concept)
        text = f"<b>{escape(words.concept_phrase(concept))}</b>"
        if reading is not None and reading.peak_slice is not None:
            where = words.slice_words(explanation.frame.geometry, reading.peak_slice)
            text += f"<br>probability {reading.probability:.0%}; strongest evidence {reading.peak_value:.2f}, {where}"
        return text

    def _sheet(self, entries: list[tuple[str, str]]) -> None:
        """The pictures side by side, one a turn of the event loop; made only where the evidence is at hand."""
        self.ui.conceptList.clear()
        desk = self.panel.desk
        if not entries or not desk.evidenceAtHand():
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
        from MedRationaleLib.thumbnails import thumbnail

        path = Path(thumbnail(explanation, lesion, concept, self.panel.scratch()))
        icon = qt.QIcon(qt.QPixmap(str(path)))
        path.unlink(missing_ok=True)
        return icon
