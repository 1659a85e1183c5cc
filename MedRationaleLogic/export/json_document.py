"""The explanation as JSON: what ``explanation.json`` holds, and the schema it is published with."""

from __future__ import annotations

import json
from typing import Any

from MedRationaleLogic.inference.explanation import Explanation
from MedRationaleLogic.resources import resource_path

FORMAT = "medrationale-explanation"


def to_json(explanation: Explanation) -> str:
    """Everything but the images as JSON text (ASCII, indented, one line end at the end).

    It is valid by :func:`schema`. Masks and maps travel as images (:func:`MedRationaleLogic.export.write_results`).

    Raises:
        ValueError: a number is NaN or infinite, which JSON cannot hold.
    """
    try:
        return json.dumps(explanation.to_dict(), indent=1, allow_nan=False) + "\n"
    except ValueError as error:
        raise ValueError(f"the explanation cannot be written as JSON: {error}; some number is not finite") from error


def schema() -> dict[str, Any]:
    """The published JSON Schema (draft 2020-12) of :func:`to_json`'s output.

    Raises:
        FileNotFoundError: the installation lacks ``Resources/Schema/explanation.schema.json``.
    """
    text = resource_path("Schema", "explanation.schema.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded
