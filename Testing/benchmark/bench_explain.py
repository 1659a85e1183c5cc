"""Warm ``explain`` against a MONAI BasicUNet run sliding-window over the same T2W, paired in one process.

    python Testing/benchmark/bench_explain.py [--study DIR] [--pairs 5] [--output FILE.json]

The reference is what a reader of the field knows: BasicUNet, fp32, roi 16x96x96, overlap .25, over the whole volume at
its own resolution, random weights. Both run in turn, A B A B ..., and the figure is the median of the pairs' ratios, so
that a machine whose speed drifts does not decide. Peak memory is that of a fresh process that only explains; the import
time is the median over fresh processes. Nothing here is a test: a time is measured, never asserted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

IMPORT = """
import sys, time
start = time.perf_counter()
import MedRationaleLogic
print(time.perf_counter() - start, "torch" in sys.modules)
"""
MEMORY = """
import resource, sys
import MedRationaleLogic
explanation = MedRationaleLogic.explain(sys.argv[1], device="cpu")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def seconds(work: Callable[[], Any]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def reference(array: Any) -> Callable[[], Any]:
    """BasicUNet, sliding-window over a (z, y, x) array."""
    import torch
    from monai.inferers import sliding_window_inference
    from monai.networks.nets import BasicUNet

    torch.manual_seed(0)
    net = BasicUNet(spatial_dims=3, in_channels=1, out_channels=3).eval()
    x = torch.from_numpy(array).float()[None, None]

    def run() -> Any:
        with torch.inference_mode():
            return sliding_window_inference(x, (16, 96, 96), 1, net, overlap=0.25)

    return run


def fresh(code: str, *arguments: str) -> str:
    """Standard output of a new Python process."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def measure(study_path: Path, pairs: int, threads: int | None) -> dict[str, Any]:
    """All figures of one study."""
    import torch

    from MedRationaleLogic.imaging.study import read_study
    from MedRationaleLogic.inference.explainer import Explainer

    if threads:
        torch.set_num_threads(threads)
    study = read_study(study_path)
    if study.t2w is None:
        raise SystemExit(f"{study_path}: the benchmark needs a T2W")
    explainer = Explainer(device="cpu")
    peer = reference(study.t2w.array.astype("float32"))
    explainer.explain(study)
    peer()
    ours, theirs = [], []
    for _ in range(pairs):
        ours.append(seconds(lambda: explainer.explain(study)))
        theirs.append(seconds(peer))
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    imports = [fresh(IMPORT).split() for _ in range(7)]
    return {
        "study": study_path.name, "t2w_shape": list(study.t2w.array.shape), "pairs": pairs,
        "threads": torch.get_num_threads(), "precision": explainer.place.precision,
        "explain_s": {"median": statistics.median(ours), "min": min(ours), "max": max(ours)},
        "basicunet_s": {"median": statistics.median(theirs), "min": min(theirs), "max": max(theirs)},
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
        "peak_memory_mb": float(fresh(MEMORY, str(study_path)).split()[-1]),
        "import_s": {"median": statistics.median(float(t) for t, _ in imports)},
        "import_brings_torch": any(torch_there == "True" for _, torch_there in imports),
    }  # fmt: skip


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, help="a study with a T2W; default: the sample")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        study = args.study
        if study is None:
            from MedRationaleLogic.simulation.sample import write_sample

            write_sample(Path(scratch) / "sample")
            study = Path(scratch) / "sample" / "dicom"
        result = measure(study.resolve(), args.pairs, args.threads)
    text = json.dumps(result, indent=1)
    print(text)
    if args.output:
        args.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
