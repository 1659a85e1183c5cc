"""What leaves the house: report, sector map, RIS text, JSON, result files. Importing it loads neither Jinja2 nor
matplotlib; each comes with the first call that needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from MedRationaleLogic.export.files import ResultsError, write_results
    from MedRationaleLogic.export.json_document import to_json
    from MedRationaleLogic.export.report import render_report
    from MedRationaleLogic.export.sector_map import explanation_map_svg, sector_map_svg
    from MedRationaleLogic.export.text import ris_text

__all__ = [
    "ResultsError",
    "explanation_map_svg",
    "render_report",
    "ris_text",
    "sector_map_svg",
    "to_json",
    "write_results",
]

_WHERE = {
    "ResultsError": "files",
    "explanation_map_svg": "sector_map",
    "render_report": "report",
    "ris_text": "text",
    "sector_map_svg": "sector_map",
    "to_json": "json_document",
    "write_results": "files",
}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
