"""``medrationale view``: the browser face. What is slow to import starts in other processes before this one goes on."""

from __future__ import annotations

import importlib.util
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

#: Module -> package of the extra `viewer`; slicer_core, for an unrelated package is called slicer.
PACKAGES: Final = {
    "aiohttp": "aiohttp",
    "slicer_core": "slicer-core",
    "trame": "trame",
    "trame_slicer": "trame-slicer",
    "MedRationaleViewer": "medrationale",
}
#: In the checkout, as the documents say it.
INSTALL: Final = 'pip install -c requirements/constraints.txt -e ".[viewer]"'
MISSING: Final = 3


class ViewDevice(StrEnum):
    """Where the network runs."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


def view(
    study: Annotated[
        Path | None,
        typer.Argument(help="Opened first: a DICOM folder, or one of image files.", show_default="the sample study"),
    ] = None,
    root: Annotated[
        Path | None, typer.Option("--root", help="Studies can be chosen below this folder.", show_default="none")
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="Listen here; for any but this machine a token is asked for.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 picks a free one.")] = 8080,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the address.")] = False,
    read_only: Annotated[bool, typer.Option("--read-only", help="Cases can be looked at, not changed.")] = False,
    bundle: Annotated[
        str | None, typer.Option("--bundle", help="Name or folder of a bundle.", show_default="medrationale-bpmri")
    ] = None,
    device: Annotated[ViewDevice, typer.Option("--device", help="Where the network runs.")] = ViewDevice.AUTO,
    upload_mb: Annotated[int, typer.Option("--upload-mb", min=1, help="An upload may be so large, in MiB.")] = 512,
    max_tabs: Annotated[
        int, typer.Option("--max-tabs", min=1, max=200, help="Browser tabs at a time; each takes some 500 MB.")
    ] = 12,
    headless: Annotated[
        bool, typer.Option("--headless", help="Start, check that all of it works without a browser, and end.")
    ] = False,
) -> None:
    """Open the viewer in the browser: Slicer's views, the rationale, review and report. Ctrl-C ends it."""
    lacking = [package for module, package in PACKAGES.items() if importlib.util.find_spec(module) is None]
    if lacking:
        print(
            f"medrationale: the viewer needs {', '.join(lacking)}; install with: {INSTALL}",
            file=sys.stderr,
        )
        raise typer.Exit(MISSING)
    first, below = _study(study), _root(root)
    if bundle is not None:
        from MedRationaleLogic.model import bundle as bundles

        bundles.find(bundle)

    from MedRationaleViewer import tabs

    tabs.warm()  # before anything else is imported here
    from MedRationaleViewer import serve

    wishes = serve.Wishes(
        study=first, root=below, host=host, port=port, browser=not (no_browser or headless), read_only=read_only,
        bundle=bundle, device=device.value, upload_mb=upload_mb, max_tabs=max_tabs, headless=headless,
    )  # fmt: skip
    try:
        code = serve.run(wishes)
    except serve.ListenError as error:
        raise typer.BadParameter(str(error), param_hint=error.option) from error
    if code:
        raise typer.Exit(code)


def _study(path: Path | None) -> Path | None:
    if path is None:
        return None
    from MedRationaleLogic.imaging.acquisition import StudyError

    found = path.expanduser().resolve()
    if not found.exists():
        raise StudyError(f"{path.name}: there is no such file or folder")
    if not os.access(found, os.R_OK | (os.X_OK if found.is_dir() else 0)):
        raise StudyError(f"{path.name}: cannot be read; check its rights")
    if found.is_dir() and not any(found.iterdir()):
        raise StudyError(f"{path.name}: the folder is empty; give the folder of one study")
    return found


def _root(path: Path | None) -> Path | None:
    if path is None:
        return None
    found = path.expanduser().resolve()
    if not found.is_dir() or not os.access(found, os.R_OK | os.X_OK):
        raise typer.BadParameter(f"{path} is not a folder that can be read", param_hint="--root")
    return found
