"""How long the scene keeps the reader waiting: update, evidence switch, edits, save, restore, remove.

    python Testing/benchmark/bench_mrml.py [--shape 30 400 400] [--repeats 20]

A made-up explanation on a T2W of the given shape (slices, rows, columns), on slicer-core, no view attached: what a
click costs before anything is drawn. Medians and worst values in milliseconds. Nothing here is a test: a time is
measured, never asserted.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def milliseconds(work: Callable[[], Any], repeats: int) -> list[float]:
    """Wall times of several calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - start))
    return times


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(30, 400, 400))
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()

    import slicer

    from MedRationaleLogic.mrml.case_scene import CaseScene
    from MedRationaleLogic.mrml.geometry import node_from_volume
    from Testing.unit.case.fake_explainer import FakeExplainer, opened

    case = opened(options={"shape": tuple(arguments.shape)})
    scene = slicer.vtkMRMLScene()
    logic = slicer.vtkSlicerApplicationLogic()
    logic.SetMRMLScene(scene)
    nodes = {role: node_from_volume(scene, case.study.volume(role), role) for role in case.study.roles}
    shown = CaseScene(scene, case, nodes)
    explanation = case.explanation
    assert explanation is not None
    concepts = itertools.cycle(explanation.evidence)
    rows = {
        "update, first": milliseconds(shown.update, 1),
        "update, nothing changed": milliseconds(shown.update, arguments.repeats),
        "evidence, first": milliseconds(lambda: shown.show_evidence(next(concepts)), 1),
        "evidence, another concept": milliseconds(lambda: shown.show_evidence(next(concepts)), arguments.repeats),
        "opacity and threshold": milliseconds(lambda: shown.set_evidence(0.4, 0.4), arguments.repeats),
        "edited masks": milliseconds(shown.edited_masks, arguments.repeats),
        "save": milliseconds(shown.save, 3),
    }
    saved = shown.save()
    rows |= {
        "restore": milliseconds(lambda: CaseScene.restore(scene, saved, FakeExplainer()), 3),
        "remove": milliseconds(shown.remove, 1),
    }
    print(f"T2W {' x '.join(map(str, arguments.shape))}, {len(explanation.lesions)} regions; milliseconds")
    for name, times in rows.items():
        print(f"{name:28s} median {statistics.median(times):8.1f}   worst {max(times):8.1f}   n {len(times)}")


if __name__ == "__main__":
    main()
