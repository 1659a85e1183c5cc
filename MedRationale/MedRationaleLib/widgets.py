"""Small Qt helpers that every section uses; written for PythonQt in Slicer and for PySide on the bench."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import qt

RED = "#5b1a1f"
READER_COLOUR = "#2f6fd0"
"""What a reader said is never in the model's colour."""


def onSignal(sender: Any, signal: str, call: Callable[..., Any]) -> None:
    """Connect by Qt's signature ("clicked(bool)"): understood by PythonQt and by the bench alike."""
    sender.connect(signal, call)


def later(call: Callable[[], Any]) -> None:
    """Do something when Qt is back in its event loop: a widget must not be rebuilt within its own signal."""
    qt.QTimer.singleShot(0, call)


def fillBox(box: Any, entries: Sequence[tuple[str, Any]], current: Any = None) -> None:
    """Fill a combo box with (text, data) without telling anybody; `current` is selected where it is among them."""
    blocked = box.blockSignals(True)
    box.clear()
    for text, data in entries:
        box.addItem(text, data)
    index = next((i for i, (_text, data) in enumerate(entries) if data == current), 0 if entries else -1)
    box.setCurrentIndex(index)
    box.blockSignals(blocked)


def currentData(box: Any) -> Any:
    """The data of a combo box's current entry, None without one."""
    index = box.currentIndex
    return None if index < 0 else box.itemData(index)


def colourCell(item: Any, colour: str, text: str) -> None:
    """Background and text colour of a table's cell; both "#rrggbb"."""
    item.setBackground(qt.QBrush(qt.QColor(colour)))
    item.setForeground(qt.QBrush(qt.QColor(text)))


def bold(item: Any, column: int, colour: str | None = None) -> None:
    """A tree item's cell in bold, and in a colour."""
    font = item.font(column)
    font.setBold(True)
    item.setFont(column, font)
    if colour is not None:
        item.setForeground(column, qt.QBrush(qt.QColor(colour)))
