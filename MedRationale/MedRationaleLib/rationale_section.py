"""The section Rationale: the PI-RADS path of the selected region as a tree, and the reader's answers to it."""

from __future__ import annotations

from html import escape
from typing import Any

import qt

from MedRationaleLib.widgets import READER_COLOUR, bold, currentData, fillBox, onSignal

COLUMNS = ("Step", "Answer", "Probability", "Said by")


class RationaleSection:
    """A row a step, from the category down to what was seen.

    Answers are changed below the tree, with a button: a combo box in every row would take a turn of the mouse wheel for
    a judgement.
    """

    def __init__(self, panel: Any) -> None:
        self.panel, self.ui, self.tree = panel, panel.ui, panel.ui.rationaleTree
        self.items: dict[str, Any] = {}
        self.filling = False
        self.tree.setColumnCount(len(COLUMNS))
        self.tree.setHeaderLabels(list(COLUMNS))
        self.tree.setMinimumHeight(330)
        ui = self.ui
        onSignal(self.tree, "currentItemChanged(QTreeWidgetItem*,QTreeWidgetItem*)", self._chosen)
        for button, call in (
            (ui.answerButton, self.answer), (ui.resetStepButton, self.resetStep), (ui.undoButton, self.undo),
            (ui.redoButton, self.redo), (ui.resetAllButton, self.resetAll),
        ):  # fmt: skip
            onSignal(button, "clicked(bool)", lambda *_args, call=call: panel.attempt(call))

    # -------------------------------------------------------------------------------------------------- what is chosen

    def lesion(self) -> Any:
        """The selected region, or None."""
        case, explanation = self.panel.desk.case, self.panel.desk.explanation
        chosen = None if case is None else case.selection.lesion
        return explanation.lesion(chosen) if explanation is not None and chosen is not None else None

    def stepId(self) -> str | None:
        """Id of the selected step, or None."""
        item = self.tree.currentItem()
        name = None if item is None else item.data(0, qt.Qt.UserRole)
        return name if name in self.items else None

    def _chosen(self, *_args: Any) -> None:
        if self.filling:
            return
        self._showStep()
        lesion, step = self.lesion(), self.stepId()
        if lesion is None or step is None:
            return
        evidence = lesion.rationale.step(step).evidence
        if evidence is not None:
            self.panel.attempt(lambda: self.panel.select(lesion.number, evidence))

    # --------------------------------------------------------------------------------------------------------- actions

    def answer(self) -> None:
        """Put the reader's answer to the selected step in place."""
        lesion, step = self.lesion(), self.stepId()
        if lesion is None or step is None:
            raise ValueError("Select a region and a step of its rationale first.")
        value = float(self.ui.sizeSpinBox.value) if step == "size" else currentData(self.ui.answerBox)
        if value is None:
            raise ValueError("This step is computed; answer one of those that it rests on.")
        self.override(step, value)

    def override(self, step: str, value: Any) -> None:
        """The same for any step of the selected region."""
        lesion, reader = self.lesion(), self.panel.reader()
        self.panel.desk.case.override(lesion.number, step, value, reader)

    def resetStep(self) -> None:
        lesion, step = self.lesion(), self.stepId()
        if lesion is None or step is None:
            raise ValueError("Select the step whose answer you want to take back.")
        self.panel.desk.case.reset_step(lesion.number, step, self.panel.reader())

    def undo(self) -> None:
        self.panel.desk.case.undo(self.panel.readerOrNone())

    def redo(self) -> None:
        self.panel.desk.case.redo(self.panel.readerOrNone())

    def resetAll(self) -> None:
        self.panel.desk.case.reset(self.panel.readerOrNone())

    # --------------------------------------------------------------------------------------------------------- showing

    def refresh(self) -> None:
        from MedRationaleLogic.export import walk

        chosen = self.stepId()
        lesion = self.lesion()
        self.filling = True
        try:
            self.tree.clear()
            self.items = {}
            if lesion is not None:
                self._fill(lesion.rationale)
                chosen = walk.step_shown(lesion.rationale, chosen, self.panel.desk.case.selection.concept)
                if chosen is not None:
                    self.tree.setCurrentItem(self.items[chosen])
        finally:
            self.filling = False
        self.ui.pathLabel.setText(self._heading(lesion))
        self._showStep()

    def _heading(self, lesion: Any) -> str:
        from MedRationaleLogic.export import words

        if lesion is None:
            return words.NO_REGION_SELECTED
        rationale = lesion.rationale
        others = words.reachable_words(rationale.category_reachable, rationale.category)
        lines = [
            f"<b>Region {lesion.number}: PI-RADS {rationale.category}</b>"
            + (f", within reach: {escape(others)}" if others else "")
        ]
        lines += map(escape, words.rationale_words(lesion))
        lines += [f"&#9888; {escape(flag)}" for flag in lesion.all_flags]
        return "<br>".join(lines)

    def _fill(self, rationale: Any) -> None:
        path = rationale.path
        root = self._add(self.tree.invisibleRootItem(), path.step("category"))
        bold(root, 0)
        for top, below in path.branches():
            item = self._add(root, top)
            for step in below:
                self._add(item, step)
        self.tree.expandAll()
        for column, width in enumerate((175, 135, 62)):
            self.tree.setColumnWidth(column, width)

    def _add(self, parent: Any, step: Any) -> Any:
        from MedRationaleLogic.export import words

        item = qt.QTreeWidgetItem(parent)
        item.setData(0, qt.Qt.UserRole, step.id)
        item.setText(0, words.step_name(step))
        answer = words.answer_words(step.id, step.answer)
        if step.original is not None:
            answer += f"  (model: {words.answer_words(step.id, step.original)})"
        item.setText(1, answer + (" ?" if step.uncertain else ""))
        item.setText(3, words.asserted_words(step))
        tip = "\n".join(x for x in (step.question, step.rule, step.detail) if x)
        for column in range(len(COLUMNS)):
            item.setToolTip(column, tip)
        if step.overridden:
            bold(item, 1, READER_COLOUR)
            bold(item, 3, READER_COLOUR)
        if step.probability is not None:
            bar = qt.QProgressBar()
            bar.setRange(0, 100)
            bar.setValue(round(100 * step.probability))
            bar.setMaximumHeight(14)
            bar.setToolTip(", ".join(f"{a} {p:.0%}" for a, p in step.alternatives if p is not None))
            self.tree.setItemWidget(item, 2, bar)
        self.items[step.id] = item
        return item

    def _showStep(self) -> None:
        """The row below the tree: what can be answered, and what the step rests on."""
        from MedRationaleLogic.export import words

        ui, case = self.ui, self.panel.desk.case
        lesion, step_id = self.lesion(), self.stepId()
        step = None if lesion is None or step_id is None else lesion.rationale.step(step_id)
        open_ = case is not None and case.signed_off is None and not self.panel.desk.busy
        answers = () if step is None else lesion.rationale.answers(step.id)
        size = step is not None and step.id == "size"
        ui.answerBox.setVisible(not size)
        ui.sizeSpinBox.setVisible(size)
        if size:
            ui.sizeSpinBox.setValue(float(step.answer))
        fillBox(ui.answerBox, [(words.answer_words(step.id, a), a) for a in answers], step.answer if step else None)
        for widget in (ui.answerBox, ui.sizeSpinBox, ui.answerButton):
            widget.setEnabled(open_ and (size or bool(answers)))
        ui.answerLabel.setText("Your answer:" if step is None else f"{words.step_label(step)}, your answer:")
        ui.detailLabel.setText(
            "" if step is None else "\n".join(x for x in (step.question, step.rule, step.detail) if x)
        )
        ui.resetStepButton.setEnabled(bool(open_ and step is not None and step.overridden))
        ui.undoButton.setEnabled(bool(open_ and case.can_undo))
        ui.redoButton.setEnabled(bool(open_ and case.can_redo))
        ui.resetAllButton.setEnabled(bool(open_ and self.panel.desk.explanation is not case.original))
