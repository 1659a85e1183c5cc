"""Speed of the simulation, and its fit to real lesions.

    python Testing/benchmark/bench_simulate.py [--labels labels.npz] [--studies 20] [--processes 2] [--device cpu]
    python Testing/benchmark/bench_simulate.py --masks FOLDER --zones FOLDER --labels labels.npz [--studies 1000]

The first measures studies a second at 24 x 112 x 112 (diffusion at 24 x 64 x 64), with and without the localiser's
picture: wall time over all processes, one thread each, label maps loaded and one study made before the clock starts.
The second gives Kolmogorov-Smirnov distances of volume, number and PZ share of the regions of category >= 4 to those of
real csPCa masks (``<patient>_<study>_*.nii.gz``, PI-CAI) with zone maps of the same studies (``<patient>_<study>``).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

_state: dict[str, Any] = {}


def start(labels: Path | None, coarse: bool, device: str) -> None:
    """What every process does before the clock starts."""
    import torch

    from MedRationaleLogic.commands.simulate import label_bank
    from MedRationaleLogic.simulation.study import simulate

    torch.set_num_threads(1)
    _state.update(bank=label_bank(labels), coarse=coarse, device=device)
    simulate(_state["bank"], 1, 0, coarse=coarse, device=device)


def make(index: int) -> float:
    """Make one study; its processor time in seconds."""
    from MedRationaleLogic.simulation.study import simulate

    before = time.process_time()
    simulate(_state["bank"], 1, index, coarse=_state["coarse"], device=_state["device"])
    if _state["device"] != "cpu":
        import torch

        torch.cuda.synchronize()
    return time.process_time() - before


def speed(labels: Path | None, studies: int, processes: int, device: str) -> dict[str, float]:
    """Studies a second (wall), and processor seconds a study, with and without the coarse picture."""
    result = {}
    for coarse in (False, True):
        context = multiprocessing.get_context("spawn")
        with context.Pool(processes, start, (labels, coarse, device)) as pool:
            pool.map(make, range(processes), chunksize=1)
            before = time.perf_counter()
            used = pool.map(make, range(studies), chunksize=1)
            wall = time.perf_counter() - before
        name = "with the coarse picture" if coarse else "three sequences"
        result[f"studies a second, {name}"] = round(studies / wall, 2)
        result[f"processor seconds a study, {name}"] = round(float(np.median(used)), 3)
    return result


def real_lesions(masks: Path, zones: Path) -> tuple[list[float], list[int], list[float]]:
    """Volume (mL) and PZ share of each 26-connected lesion, and the number in each study that has one."""
    import SimpleITK as sitk
    from scipy import ndimage

    volumes: list[float] = []
    numbers: list[int] = []
    shares: list[float] = []
    for file in sorted(masks.glob("*.nii.gz")):
        image = sitk.ReadImage(str(file))
        labelled, count = ndimage.label(sitk.GetArrayFromImage(image) > 0, np.ones((3, 3, 3)))
        if not count:
            continue
        other = zones / ("_".join(file.name.split("_")[:2]) + ".nii.gz")
        zone = np.zeros_like(labelled)
        if other.is_file():  # a few pairs lie on different grids
            moved = sitk.Resample(sitk.ReadImage(str(other)), image, sitk.Transform(), sitk.sitkNearestNeighbor)
            zone = sitk.GetArrayFromImage(moved)
        numbers.append(count)
        for k in range(1, count + 1):
            inside = labelled == k
            pz, tz = int((zone[inside] == 1).sum()), int((zone[inside] == 2).sum())
            volumes.append(float(inside.sum() * np.prod(image.GetSpacing()) / 1000.0))
            if pz + tz:
                shares.append(pz / (pz + tz))
    return volumes, numbers, shares


def drawn_lesions(labels: Path, studies: int) -> tuple[list[float], list[int], list[float]]:
    """The same of the regions of category >= 4 as they show on the fine grid, test maps and seed of the test cohort."""
    import torch

    from MedRationaleLogic.model.grids import FINE
    from MedRationaleLogic.simulation.cohort import TEST_SEED, split_bank
    from MedRationaleLogic.simulation.labels import LabelBank
    from MedRationaleLogic.simulation.regions import signed_distance
    from MedRationaleLogic.simulation.study import draw_anatomy

    torch.set_num_threads(1)
    bank = split_bank(LabelBank.load(labels))[2]
    volumes: list[float] = []
    numbers: list[int] = []
    shares: list[float] = []
    for index in range(studies):
        scene, offsets, _ = draw_anatomy(bank, TEST_SEED, index)
        suspicious = [r for r in scene.drawn if r.category >= 4]
        if not suspicious:
            continue
        numbers.append(len(suspicious))
        at, gland, transition = scene.on(FINE, offsets["t2w"])
        for region in suspicious:
            inside = signed_distance(region, at, gland, transition) < 0
            volumes.append(float(inside.sum()) * float(np.prod(FINE.spacing)) / 1000.0)
            shares.append(float((transition[inside] >= 0).float().mean()))
    return volumes, numbers, shares


def fit(masks: Path, zones: Path, labels: Path, studies: int) -> dict[str, Any]:
    """Kolmogorov-Smirnov distances, drawn against real."""
    from scipy.stats import ks_2samp

    real, drawn = real_lesions(masks, zones), drawn_lesions(labels, studies)
    out: dict[str, Any] = {"lesions": {"real": len(real[0]), "drawn": len(drawn[0])}}
    for name, a, b in zip(("volume", "number", "PZ share"), real, drawn, strict=True):
        out[name] = {"distance": round(float(ks_2samp(a, b).statistic), 3), "real": _quantiles(a),
                     "drawn": _quantiles(b)}  # fmt: skip
    return out


def _quantiles(values: list[Any]) -> list[float]:
    return [round(float(q), 2) for q in np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95])]


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=Path, help="zone maps, as `medrationale simulate --labels`")
    parser.add_argument("--studies", type=int, default=20)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--masks", type=Path, help="real csPCa masks")
    parser.add_argument("--zones", type=Path, help="zone maps of the same studies")
    options = parser.parse_args()
    if options.masks:
        if not (options.zones and options.labels):
            parser.error("--masks needs --zones and a packed --labels")
        result: Any = fit(options.masks, options.zones, options.labels, options.studies)
    else:
        result = speed(options.labels, options.studies, options.processes, options.device)
    json.dump(result, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
