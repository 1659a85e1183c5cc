"""The section Findings: the suspicious regions in a table, the patient's category above it."""

from __future__ import annotations

from html import escape
from typing import Any

import qt

from MedRationaleLib.widgets import colourCell, onSignal

COLUMNS = ("#", "PI-RADS", "Zone", "Size", "T2W", "DWI", "Susp.", "Flags", "Sectors")


class FindingsSection:
    """One row a region; selecting one selects it in the case, and every view jumps there."""

    def __init__(self, panel: Any) -> None:
        self.panel, self.ui, self.table = panel, panel.ui, panel.ui.findingsTable
        self.numbers: list[int] = []
        self.filling = False
        self.table.setColumnCount(len(COLUMNS))
        self.table.setHorizontalHeaderLabels(list(COLUMNS))
        self.table.verticalHeader().setVisible(False)
        onSignal(self.table, "itemSelectionChanged()", self._chosen)
        onSignal(self.ui.previousLesionButton, "clicked(bool)", lambda *_args: panel.attempt(lambda: self.step(-1)))
        onSignal(self.ui.nextLesionButton, "clicked(bool)", lambda *_args: panel.attempt(lambda: self.step(1)))
        onSignal(self.ui.removeResultsButton, "clicked(bool)", lambda *_args: panel.attempt(panel.removeResults))

    def selected(self) -> list[int]:
        """Numbers of all selected rows, for merging."""
        rows = sorted({item.row() for item in self.table.selectedItems()})
        return [self.numbers[row] for row in rows if row < len(self.numbers)]

    def step(self, by: int) -> None:
        """Select the next or the previous region, round and round."""
        from MedRationaleLogic.export import walk

        if self.numbers:
            self.panel.select(walk.following(self.numbers, self.panel.desk.case.selection.lesion, by))

    def _chosen(self) -> None:
        if self.filling:
            return
        row = self.table.currentRow()
        chosen = self.selected()
        if 0 <= row < len(self.numbers) and self.numbers[row] in chosen:
            self.panel.attempt(lambda: self.panel.select(self.numbers[row]))

    def refresh(self) -> None:
        from MedRationaleLogic.export import words

        explanation = self.panel.desk.explanation
        self.filling = True
        try:
            self.numbers = [] if explanation is None else [x.number for x in explanation.lesions]
            self.table.setRowCount(len(self.numbers))
            for row, number in enumerate(self.numbers):
                self._row(row, explanation.lesion(number), words)
            self.table.resizeColumnsToContents()
            self.table.resizeRowsToContents()
            self._fit()
            self.showSelection()
        finally:
            self.filling = False
        self.ui.summaryLabel.setText(self._summary(explanation))
        for button in (self.ui.previousLesionButton, self.ui.nextLesionButton):
            button.setEnabled(bool(self.numbers))
        self.ui.removeResultsButton.setEnabled(self.panel.desk.view is not None)

    def _fit(self) -> None:
        """As high as its rows, up to six: the rationale below is what a reader wants to see."""
        rows = [self.table.rowHeight(row) for row in range(min(6, max(1, self.table.rowCount)))]
        self.table.setFixedHeight(sum(rows) + self.table.horizontalHeader().height + 24)

    def showSelection(self) -> None:
        """Bring the table's selection to the case's."""
        case = self.panel.desk.case
        chosen = None if case is None else case.selection.lesion
        before, self.filling = self.filling, True
        try:
            if chosen in self.numbers:
                if chosen not in self.selected():
                    self.table.selectRow(self.numbers.index(chosen))
            else:
                self.table.clearSelection()
        finally:
            self.filling = before

    def _row(self, row: int, lesion: Any, words: Any) -> None:
        from MedRationaleLogic.export.palette import CATEGORY_COLOURS, text_on

        rationale = lesion.rationale
        others = words.reachable_words(rationale.category_reachable, lesion.category)
        suspicion = "-" if lesion.suspicion is None else f"{lesion.suspicion.value:.2f}"
        cells = (
            f"{lesion.number}" + (" R" if lesion.origin == "reader" else ""),
            f"{lesion.category}" + (f" (or {others})" if others else ""),
            rationale.zone + ("?" if rationale.zone_uncertain else ""),
            words.lesion_size(lesion)[0],
            f"{rationale.t2w}",
            f"{rationale.dwi}",
            suspicion,
            f"{len(lesion.all_flags)}" if lesion.all_flags else "",
            "\n".join(words.main_sectors(lesion)) or "-",
        )
        tips = {
            0: words.origin_words(lesion),
            3: words.lesion_size(lesion)[1],
            7: "\n".join(lesion.all_flags),
            8: words.sectors_words(lesion),
        }
        for column, text in enumerate(cells):
            item = qt.QTableWidgetItem(text)
            if column in tips:
                item.setToolTip(tips[column])
            if column == 1:
                colour = CATEGORY_COLOURS[lesion.category]
                colourCell(item, colour, text_on(colour))
            self.table.setItem(row, column, item)

    @staticmethod
    def _summary(explanation: Any) -> str:
        from MedRationaleLogic.export import words
        from MedRationaleLogic.export.palette import CATEGORY_COLOURS, text_on

        if explanation is None:
            return words.NOT_EXPLAINED
        category = explanation.category
        colour = CATEGORY_COLOURS[category.category]
        badge = (
            f'<span style="background:{colour}; color:{text_on(colour)}; font-weight:bold;">'
            f"&nbsp;PI-RADS {escape(str(category.category))}&nbsp;</span>"
        )
        return "<br>".join([f"{badge} {escape(category.text)}", *map(escape, words.summary_words(explanation))])
