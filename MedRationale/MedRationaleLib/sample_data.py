"""The sample study in Slicer: made on this computer when it is first asked for, offered by the module SampleData.

It is drawn by the project's own simulation (no patient, nothing downloaded). Drawing needs PyTorch, whose first import
can take long, so it happens in a child process; what was drawn is kept and loaded the next time. No Qt here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from MedRationaleLib import install

CATEGORY: Final = "MedRationale"
SAMPLE: Final = "MedRationaleSample"
TIMEOUT_S: Final = 600.0

#: File below the sample's folder -> name of the node.
NODES: Final = {
    "nifti/t2w.nii.gz": f"{SAMPLE} T2W",
    "nifti/adc.nii.gz": f"{SAMPLE} ADC",
    "nifti/hbv_b1400.nii.gz": f"{SAMPLE} high-b 1400",
}
_MAKE: Final = (
    "import sys; sys.path.insert(0, sys.argv[1])\n"
    "from pathlib import Path\n"
    "from MedRationaleLogic.simulation.sample import write_sample\n"
    "write_sample(Path(sys.argv[2]))\n"
)


class SampleStudyError(RuntimeError):
    """The sample study cannot be made; the text says why and what to do."""


def place() -> Path:
    """Where the sample of this version is kept: in Slicer's cache, else in the user's folder of MedRationale."""
    from MedRationaleLogic import __version__
    from MedRationaleLogic.model.bundle import user_folder

    cache = _slicer_cache()
    return (cache or user_folder().parent) / f"{SAMPLE}-{__version__}"


def makeSample(folder: Path | None = None, *, run: install.Run | None = None) -> Path:
    """The folder with the whole sample study (``dicom``, ``nifti``, ``truth``), made if it is not there yet.

    Args:
        folder: where; :func:`place` if None.
        run: starts a process; for tests.

    Raises:
        SampleStudyError: PyTorch is missing, or the folder cannot be written.
    """
    from MedRationaleLogic import __file__ as package

    target = place() if folder is None else folder
    if all((target / name).is_file() for name in ("sample.json", *NODES)) and (target / "dicom").is_dir():
        return target
    root = str(Path(package).resolve().parents[1])
    command = [install.python_executable(), "-c", _MAKE, root, str(target)]
    code, text = (run or install.run_process)(command, timeout_s=TIMEOUT_S)
    if code == 0:
        return target
    if "No module named 'torch'" in text:
        raise SampleStudyError("the sample study is drawn with PyTorch, which is not installed yet; install it first")
    lines = [line for line in text.splitlines() if line.strip()][-5:]
    why = "it took too long" if code is None else f"exit code {code}"
    raise SampleStudyError("\n".join([f"the sample study could not be made ({why}); its last lines:", *lines]))


def sampleFolder() -> Path:
    """The sample study as a DICOM folder, made if it is not there yet.

    Raises:
        SampleStudyError: it cannot be made.
    """
    return makeSample() / "dicom"


def loadSample(load: Callable[[str, dict[str, Any]], Any] | None = None) -> list[Any]:
    """Load T2W, ADC and high-b of the sample study as volume nodes.

    Args:
        load: loads a file with properties; ``slicer.util.loadVolume`` if None.

    Raises:
        SampleStudyError: it cannot be made.
    """
    folder = makeSample()
    if load is None:
        import slicer

        load = slicer.util.loadVolume
    return [load(str(folder / file), {"name": name}) for file, name in NODES.items()]


def register(resources: Path | None = None) -> bool:
    """Offer the sample study in Slicer's module SampleData; calling it again changes nothing.

    Args:
        resources: the module's ``Resources`` folder, for the picture on the button.

    Returns:
        whether it is offered: False in a Slicer without the module SampleData, and outside Slicer.
    """
    try:
        import SampleData
        import slicer

        logic = SampleData.SampleDataLogic
        offered = getattr(slicer.modules, "sampleDataSources", {})
    except (ImportError, AttributeError):
        return False
    # SampleData compares sources by their text, in which a reloaded function differs: it would be offered twice
    offered[CATEGORY] = [s for s in offered.get(CATEGORY, []) if s.sampleName != SAMPLE]
    icons = (resources or Path(__file__).resolve().parents[1] / "Resources") / "Icons"
    folder = place()
    logic.registerCustomSampleDataSource(
        category=CATEGORY,
        sampleName=SAMPLE,
        # where `downloader` puts them: SampleData wants as many addresses as files, and never fetches one itself here
        uris=[(folder / name).as_uri() for name in NODES],
        fileNames=[f"{SAMPLE}-{Path(name).name}" for name in NODES],
        nodeNames=list(NODES.values()),
        customDownloader=downloader,
        thumbnailFileName=str(icons / f"{SAMPLE}.png"),
    )
    return True


def downloader(source: Any = None) -> list[Any]:
    """What the button in SampleData calls: the nodes, or a message and none."""
    try:
        return loadSample()
    except SampleStudyError as error:
        import slicer

        slicer.util.errorDisplay(str(error), windowTitle="MedRationale")
        return []


def _slicer_cache() -> Path | None:
    """Slicer's cache folder, which its settings can clear; None outside Slicer."""
    scene = getattr(sys.modules.get("slicer"), "mrmlScene", None)
    manager = scene.GetCacheManager() if hasattr(scene, "GetCacheManager") else None
    folder = manager.GetRemoteCacheDirectory() if manager is not None else ""
    return Path(folder) if folder else None
