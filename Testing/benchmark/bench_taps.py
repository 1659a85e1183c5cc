"""The gland of our whole road against the one peer that can be installed, lavlab-taps, paired by case in one process.

    python Testing/benchmark/bench_taps.py --data DATA [--pairs 1] [--threads 2] [--output docs/results-taps.md]

TAPS (PyPI ``lavlab-taps``; SegResNet as ONNX, its weights in the package) outlines the whole gland on a T2W. Both roads
go from the T2W's file to a gland mask's file on the CPU, in turn, A B A B ..., each with its model loaded beforehand;
ours makes zones, regions, evidence and the rationale on the way. The figures are DSC on the label's own grid and the
median over cases of the ratio of times, so that a machine whose speed drifts does not decide. Nothing here is a test:
a time is measured, never asserted.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

GROUPS: Final = ("bpmri", "t2_only")
T2W: Final = ("t2w.nii.gz", "t2w_n4_nyul_norm.nii.gz")
#: Outlines by other programs, of no part in our training: what we agree with because we learnt its style, these do not.
OTHERS: Final = ("gland_ai_bosma22b.nii.gz", "gland_ai_guerbet23.nii.gz")
KEPT: Final = "gland_taps.nii.gz"

Road = Callable[[Path, Path], Any]


def cases(data: Path) -> Iterator[tuple[str, Path, Path]]:
    """(group, folder, T2W) of every case that has one."""
    for group in GROUPS:
        for folder in sorted((data / group).iterdir()):
            for name in T2W:
                if (folder / name).is_file():
                    yield group, folder, folder / name


def ours(bundle: str | None) -> tuple[Any, Road]:
    """(explainer, T2W file to gland mask file): everything that ``explain`` does, on the T2W alone."""
    import SimpleITK as sitk

    from MedRationaleLogic.imaging.study import read_study
    from MedRationaleLogic.inference.explainer import Explainer

    explainer = Explainer(bundle, device="cpu")

    def road(source: Path, target: Path) -> Any:
        explanation = explainer.explain(read_study(t2w=source))
        zones = explanation.zones
        sitk.WriteImage(zones.with_array((zones.array > 0).astype(np.uint8)).to_sitk(), str(target))
        return explanation

    return explainer, road


def theirs(threads: int) -> tuple[float, Road]:
    """(seconds to load the model, T2W file to gland mask file): the package's own ``segment``, its session kept."""
    import onnxruntime
    from taps import inference

    plain = onnxruntime.SessionOptions

    def limited() -> Any:
        options = plain()
        options.intra_op_num_threads = threads  # the package leaves it to the machine's cores
        return options

    onnxruntime.SessionOptions = limited

    logging.getLogger("taps").setLevel(logging.ERROR)
    inference.logger.setLevel(logging.ERROR)
    before = time.perf_counter()
    session = inference.ONNXPredictor(inference.resolve_checkpoint(None), "cpu")
    loading = time.perf_counter() - before
    inference.ONNXPredictor = lambda *_arguments, **_named: session  # type: ignore[assignment, misc]

    def road(source: Path, target: Path) -> Any:
        try:
            return inference.segment(source, target, None, "cpu", exact=True)
        except inference.BlankMaskError:
            return None

    return loading, road


def overlap(predicted: Path, truth: Any) -> float:
    """DSC on the truth's grid; 0 where nothing was written."""
    from MedRationaleLogic.evaluation.real import dice

    if not predicted.is_file():
        return 0.0
    return round(dice(_read(predicted).resample(truth.geometry, nearest=True).array > 0, truth.array > 0), 4)


def _read(path: Path) -> Any:
    import SimpleITK as sitk

    from MedRationaleLogic.imaging.volume import Volume

    return Volume.from_sitk(sitk.ReadImage(str(path)), path.name)


def _role(name: str) -> str:
    """What our bundle has seen of a case: nothing ("unseen"), its labels, or an outline made by another program."""
    from MedRationaleLogic.training.run import FOLD_A, FOLD_B

    return "unseen" if name in FOLD_A else "trained on" if name in FOLD_B else "trained on a machine's outline"


def measure(data: Path, bundle: str | None, pairs: int, threads: int) -> dict[str, Any]:
    """All figures, by case."""
    import torch

    from MedRationaleLogic.evaluation.real import truth_of

    torch.set_num_threads(threads)
    explainer, a = ours(bundle)
    loading, b = theirs(threads)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        one, two = Path(scratch) / "ours.nii.gz", Path(scratch) / "taps.nii.gz"
        for group, folder, t2w in cases(data):
            seconds: dict[str, list[float]] = {"ours": [], "taps": []}
            for path in (one, two):
                path.unlink(missing_ok=True)
            if not rows:  # neither pays for being first
                a(t2w, one)
                b(t2w, two)
            for _ in range(pairs):
                for name, road, target in (("ours", a, one), ("taps", b, two)):
                    before = time.perf_counter()
                    road(t2w, target)
                    seconds[name].append(time.perf_counter() - before)
            _, gland, label = truth_of(folder)
            row: dict[str, Any] = {"case": folder.name, "group": group, "ours_has_seen": _role(folder.name),
                                   "label": label or None, "others": {}}  # fmt: skip
            row |= {f"{k}_s": round(statistics.median(v), 2) for k, v in seconds.items()}
            row["ratio"] = round(
                statistics.median(t / o for o, t in zip(seconds["ours"], seconds["taps"], strict=True)), 2
            )
            if gland is not None:
                row["dsc"] = {"ours": overlap(one, gland), "taps": overlap(two, gland)}
            for other in OTHERS:
                if (folder / other).is_file():
                    truth = _read(folder / other)
                    row["others"][other.split(".")[0]] = {"ours": overlap(one, truth), "taps": overlap(two, truth)}
            if (folder / KEPT).is_file():
                row["taps_against_gland_taps"] = overlap(two, _read(folder / KEPT))
            rows.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
    manifest = explainer.bundle.manifest
    return {
        "bundle": f"{manifest.name} {manifest.version}", "taps": importlib.metadata.version("lavlab-taps"),
        "onnxruntime": _version("onnxruntime", "onnxruntime-gpu"), "pairs": pairs, "threads": threads,
        "cores": os.cpu_count(), "precision": explainer.place.precision, "taps_loading_s": round(loading, 2),
        "cases": rows, "summary": summary(rows),
    }  # fmt: skip


def _version(*names: str) -> str:
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Paired means over the cases that ours had not seen, with bootstrap intervals over cases; ratios over all."""
    from MedRationaleLogic.evaluation.real import bootstrap_mean

    def of(pairs: Sequence[dict[str, float]]) -> dict[str, Any]:
        mean, low, high = bootstrap_mean([p["ours"] - p["taps"] for p in pairs])
        return {
            "n": len(pairs), "ours": round(statistics.mean(p["ours"] for p in pairs), 3),
            "taps": round(statistics.mean(p["taps"] for p in pairs), 3), "difference": round(mean, 3),
            "low": round(low, 3), "high": round(high, 3),
        }  # fmt: skip

    unseen = [r for r in rows if r["ours_has_seen"] == "unseen" and "dsc" in r]
    out: dict[str, Any] = {"gland, cases that ours had not seen": of([r["dsc"] for r in unseen])}
    for other in (o.split(".")[0] for o in OTHERS):
        if pairs := [r["others"][other] for r in unseen if other in r["others"]]:
            out[f"the same against {other}"] = of(pairs)
    if trained := [r["dsc"] for r in rows if r["ours_has_seen"] == "trained on" and "dsc" in r]:
        out["gland, cases that ours was trained on (says nothing of ours)"] = of(trained)
    ratios = [r["ratio"] for r in rows]
    out["ratio"] = {"n": len(ratios), "median": round(statistics.median(ratios), 1), "min": min(ratios),
                    "max": max(ratios)}  # fmt: skip
    for name in ("ours_s", "taps_s"):
        out[name] = {"median": round(statistics.median(r[name] for r in rows), 2), "min": min(r[name] for r in rows),
                     "max": max(r[name] for r in rows)}  # fmt: skip
    return out


def page(result: dict[str, Any], command: str) -> str:
    """The Markdown page."""
    s = result["summary"]
    agree = sorted(r["taps_against_gland_taps"] for r in result["cases"] if "taps_against_gland_taps" in r)
    unseen = next(x for x in s.values() if "difference" in x)
    held = {True: "held", False: "missed"}
    lines = [
        "# The gland against TAPS",
        "",
        "Research use only. Made by one command:",
        "",
        f"    {command}",
        "",
        f"The peer is `lavlab-taps` {result['taps']} from PyPI (whole gland on T2W; SegResNet as ONNX, run by "
        f"onnxruntime {result['onnxruntime']} on the CPU; its weights lie in the package, nothing is downloaded). Ours "
        f"is {result['bundle']} on the same T2W alone ({result['precision']}), the whole of `explain`: zones, regions, "
        "evidence, rationale. Both go from file to file with the model loaded beforehand (the peer's own command loads "
        f"it anew for each case, {result['taps_loading_s']:.1f} s more), in turn, {result['pairs']} pair(s) a case, on "
        f"{result['cores']} x86-64 cores, {result['threads']} threads. The machine is shared: ratios are read, not "
        "seconds.",
        "",
        "*Ours has seen*: our bundle was trained on the real cases outside fold A, and on the T2W without a label with "
        "a machine's outline, which is nearly the peer's own (last line). Only the unseen cases say anything of our "
        "DSC; the others are here for the peer's DSC and for the times. What the peer was trained on is not known.",
        "",
        "| case | ours has seen | gland label | DSC ours | DSC TAPS | difference | ours s | TAPS s | ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in result["cases"]:
        d = r.get("dsc")
        shown = f"{d['ours']:.3f} | {d['taps']:.3f} | {d['ours'] - d['taps']:+.3f}" if d else "- | - | -"
        lines.append(
            f"| {r['case']} | {r['ours_has_seen']} | {r['label'] or 'none'} | {shown} | {r['ours_s']:.2f} "
            f"| {r['taps_s']:.2f} | {r['ratio']:.1f} |"
        )
    lines += ["", "| mean DSC | n | ours | TAPS | paired difference | 95 % interval (bootstrap over cases) |",
              "|---|---|---|---|---|---|"]  # fmt: skip
    for name, x in s.items():
        if "difference" in x:
            lines.append(f"| {name} | {x['n']} | {x['ours']:.3f} | {x['taps']:.3f} | {x['difference']:+.3f} "
                         f"| {x['low']:+.3f} to {x['high']:+.3f} |")  # fmt: skip
    lines += [
        "",
        f"Median ratio of times (TAPS over ours) over {s['ratio']['n']} cases: {s['ratio']['median']:.1f} (smallest "
        f"{s['ratio']['min']:.1f}); ours {s['ours_s']['median']:.2f} s, TAPS {s['taps_s']['median']:.1f} s, medians.",
        "",
        f"Asked for: gland DSC within .02 of the peer's, {held[unseen['difference'] >= -0.02]} on the cases that ours "
        f"had not seen; at least 5 times faster, {held[s['ratio']['median'] >= 5]}.",
    ]
    if agree:
        lines += ["", "`gland_taps` of the data folder (a machine's prediction) against the peer's masks of "
                  f"this run: DSC {agree[0]:.3f} to {agree[-1]:.3f}, median {statistics.median(agree):.3f}, over "
                  f"{len(agree)} cases: the same program, or one much like it."]  # fmt: skip
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of real cases")
    parser.add_argument("--bundle", help="bundle name or folder; the default one if not given")
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="the Markdown page; the JSON lies beside it")
    args = parser.parse_args(arguments)
    result = measure(args.data, args.bundle, args.pairs, args.threads)
    command = f"python Testing/benchmark/bench_taps.py --data DATA --pairs {args.pairs} --threads {args.threads}"
    if args.output:
        text = page(result, f"{command} --output {args.output.as_posix()}")
        args.output.write_text(text, encoding="utf-8")
        args.output.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(page(result, command))


if __name__ == "__main__":
    main()
