"""The Slicer module's panel on the bench: from the click to the result, and from one evidence map to the next.

    python Testing/benchmark/bench_panel.py --study FOLDER [--runs 5] [--output docs/benchmark-panel.json]

Both are measured in one run with a warm worker. The peer of "click to result" is `Explainer.explain` of the very same
study, warm, in this process, in turn with it; what the panel adds is the difference. Views are not rendered meanwhile
(the bench has only software rendering); Slicer's own frame time comes on top.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import slicer

from MedRationaleLogic.inference.explainer import Explainer
from Testing.bench.bench import Bench


def click_to_result(bench: Bench, peer: Explainer) -> tuple[float, float]:
    """Seconds from the click to a filled table, and the seconds of explaining the same study in this process."""
    widget = bench.widget
    widget.desk.close()
    # another image each time: the worker gives back at once what it has seen already
    image = slicer.util.arrayFromVolume(bench.ui.t2wSelector.currentNode())
    image += 1
    slicer.util.arrayFromVolumeModified(bench.ui.t2wSelector.currentNode())
    bench.process(1.0)
    began = time.perf_counter()
    bench.click(bench.ui.explainButton)
    if not bench.process(120, until=lambda: not widget.desk.busy):
        raise RuntimeError(f"not done: {bench.ui.messageLabel.text}")
    bench.process(10, until=lambda: bench.ui.findingsTable.rowCount == len(widget.desk.explanation.lesions))
    seconds = time.perf_counter() - began
    bench.process(1.5)  # the worker is at rest again
    began = time.perf_counter()
    peer.explain(widget.desk.case.study)
    return seconds, time.perf_counter() - began


def evidence_switches(bench: Bench) -> list[float]:
    """Seconds of each switch to the next concept, the panel's part included; the first map of the study left out."""
    widget = bench.widget
    out = []
    for _ in range(2 * len(widget.evidence.concepts()) + 1):
        began = time.perf_counter()
        widget.evidence.step(1)
        wanted = widget.desk.case.selection.concept
        bench.process(5, until=lambda wanted=wanted: widget.desk.view.evidence_concept == wanted)
        out.append(time.perf_counter() - began)
        bench.process(0.05)
    return out[1:]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    with Bench() as bench:
        bench.widget.study.loadFolder(args.study)
        bench.click(bench.ui.explainButton)
        bench.process(180, until=lambda: not bench.widget.desk.busy)  # starts the worker
        peer = Explainer()
        peer.explain(bench.widget.desk.case.study)  # warm
        runs = [click_to_result(bench, peer) for _ in range(args.runs)]
        if not bench.widget.desk.explanation.lesions:
            raise SystemExit("no suspicious region in this study: nothing to switch between")
        bench.process(3.0)
        switches = evidence_switches(bench)
    added = [total - alone for total, alone in runs]
    result: dict[str, Any] = {
        "study": args.study.name,
        "runs": len(runs),
        "click_to_result_s": {"median": statistics.median(t for t, _ in runs), "all": [t for t, _ in runs]},
        "explain_in_process_s": {"median": statistics.median(n for _, n in runs)},
        "ratio": statistics.median(t / n for t, n in runs),
        "added_by_panel_s": {"median": statistics.median(added), "largest": max(added)},
        "evidence_switch_s": {
            "n": len(switches), "median": statistics.median(switches), "largest": max(switches),
        },
    }  # fmt: skip
    text = json.dumps(result, indent=1)
    print(text)
    if args.output is not None:
        args.output.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
