"""MedRationale: the PI-RADS rationale of a suspicious region on prostate MRI, and the evidence for each of its steps.

Research use only. ``read_study`` reads a folder or files, ``explain`` takes it to an ``Explanation``, ``show`` draws
that for a notebook; everything else builds on these. Importing this package imports neither torch nor SimpleITK.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from MedRationaleLogic.case import Case
    from MedRationaleLogic.export.notebook import show
    from MedRationaleLogic.imaging.study import Study, StudyError, read_study
    from MedRationaleLogic.inference.explanation import Explanation

__version__ = "0.1.0"
__all__ = ["Case", "Explanation", "Study", "StudyError", "__version__", "explain", "read_study", "show"]

_LAZY = {
    "Case": "MedRationaleLogic.case",
    "Explanation": "MedRationaleLogic.inference.explanation",
    "Study": "MedRationaleLogic.imaging.study",
    "StudyError": "MedRationaleLogic.imaging.study",
    "read_study": "MedRationaleLogic.imaging.study",
    "show": "MedRationaleLogic.export.notebook",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def explain(
    study: Study | str | Path,
    *,
    bundle: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    progress: Callable[[float, str], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Explanation:
    """Explain a prostate MRI study: zones, lesions, evidence maps and the PI-RADS rationale. Research use only.

    Args:
        study: from :func:`read_study`, or a path that it can read.
        bundle: name or folder of a model bundle; the default one if None.
        device: "auto", "cpu" or "cuda".
        precision: "auto", "float32" or "bfloat16".
        progress: called with (share done 0..1, stage in words) before each stage.
        cancelled: asked before each stage; return True to stop.

    Returns:
        the explanation; deterministic for the same input, bundle, device and precision.

    Raises:
        StudyError: the input cannot be read as a study.
        BundleError: no usable bundle.
        DeviceError: the device cannot be used.
        ExplainCancelledError: ``cancelled`` said so.
    """
    from pathlib import Path

    from MedRationaleLogic.imaging.study import read_study
    from MedRationaleLogic.inference.explainer import Explainer

    opened = read_study(Path(study)) if isinstance(study, str | Path) else study
    explainer = Explainer(bundle, device, precision)  # type: ignore[arg-type]
    return explainer.explain(opened, progress=progress, cancelled=cancelled)
