"""What the front tells a tab's process: known to both, so it imports nothing of either."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["SECRET_HEADER", "TabOptions"]

SECRET_HEADER: Final = "X-MedRationale-Tab"
"""Every request of the front to a tab carries the tab's secret in it."""


@dataclass(frozen=True)
class TabOptions:
    """What a tab shows, and for whom.

    Attributes:
        secret: every request of the front carries it in the header :data:`SECRET_HEADER`.
        folder: private folder of this tab (mode 0700); the front makes and removes it.
        rooms: folder of the shared network; None: a network of the tab's own.
        root: studies can be chosen below it; None: no chooser.
        study: opened first; None: the sample study.
        read_only: cases can be looked at, not changed.
        bundle: name or folder of the model's bundle; None: the default one.
        device: "auto", "cpu" or "cuda".
        upload_mb: an upload may be so large, in MiB.
    """

    secret: str
    folder: str
    rooms: str | None
    root: str | None
    study: str | None
    read_only: bool = False
    bundle: str | None = None
    device: str = "auto"
    upload_mb: int = 512
