"""The whole road on real cases, by case, each with a model that never saw its patient.

``python -m MedRationaleLogic.evaluation.real --data DIR --fold A=BUNDLE --output docs/results.md`` writes the page
and the figures as JSON beside it. A fold's bundle reads the labelled cases of that fold, which it was trained without;
labelled cases of a fold without a bundle are left out. Cases without a label are run with the shipped bundle and have
no DSC. Nothing here is a claim about patients: n is small, and is stated.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from MedRationaleLogic.evaluation.statistics import bootstrap, mean_of
from MedRationaleLogic.imaging.study import read_study
from MedRationaleLogic.imaging.volume import Volume
from MedRationaleLogic.inference.explainer import Explainer
from MedRationaleLogic.inference.explanation import Explanation

#: Folders of cases under the data.
GROUPS = ("bpmri", "adc_dwi_only", "t2_only")
DICOM, SHIPPED = "dicom", "shipped"
FOLDS = ("A", "B", SHIPPED)
#: DSC from which on a reported region has found a lesion.
HIT_DSC = 0.1


@dataclass(frozen=True)
class CaseResult:
    """One case.

    Attributes:
        case, group, fold: name, folder, and which fold's bundle read it ("shipped" for a case without labels).
        sequences: what it has.
        gland, pz, tz: DSC against the label, on the label's grid; None without that label.
        label: what the gland was compared with.
        csPCa: "found n/m": how many of the lesions that humans outlined as csPCa a reported region overlaps with
            DSC >= .1; "negative" for an empty mask; "" without one.
        lesions: number of reported regions; category: the patient's; per_lesion: categories and suspicions.
        seconds: of a warm run, reading the files not counted.
    """

    case: str
    group: str
    fold: str
    sequences: str
    gland: float | None
    pz: float | None
    tz: float | None
    label: str
    csPCa: str  # noqa: N815  (the field's own spelling)
    lesions: int
    category: str
    per_lesion: str
    seconds: float


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Dice similarity coefficient; 1 when both are empty."""
    total = int(a.sum()) + int(b.sum())
    return 1.0 if total == 0 else 2.0 * int((a & b).sum()) / total


def _on(prediction: Volume, truth: Volume) -> NDArray[Any]:
    return prediction.resample(truth.geometry, nearest=True).array


def truth_of(folder: Path) -> tuple[Volume | None, Volume | None, str]:
    """(zones or None, gland or None, name of the gland's label) of a case folder."""
    zones_file, gland_file = folder / "zones_ai_hevi23.nii.gz", folder / "gland.nii.gz"
    if zones_file.is_file():
        zones = _label(zones_file)
        return zones, zones.with_array(zones.array > 0), "zones_ai_hevi23 > 0 (AI)"
    if gland_file.is_file():
        gland = _label(gland_file)
        return None, gland.with_array(gland.array > 0), "gland (human)"
    return None, None, ""


def _label(path: Path) -> Volume:
    import SimpleITK as sitk

    return Volume.from_sitk(sitk.ReadImage(str(path)), path.name)


def lesions_of(mask: Volume) -> list[Volume]:
    """The lesions that a mask (z, y, x; over 0 inside) outlines, as bool masks; none of an empty one.

    A lesion is a connected part (26 neighbours); one under ``LEAST_ML`` is a stray stroke, unless there is none larger.
    """
    from MedRationaleLogic.training.curate import LEAST_ML

    labels, count = ndimage.label(mask.array > 0, np.ones((3, 3, 3)))
    if not count:
        return []
    sizes = np.bincount(labels.ravel())[1:] * mask.geometry.voxel_volume / 1000
    return [mask.with_array(labels == k) for k, ml in enumerate(sizes, 1) if ml >= min(LEAST_ML, float(sizes.max()))]


def found_lesions(explanation: Explanation, folder: Path) -> str:
    """How many of the csPCa lesions (ISUP >= 2) that humans outlined in a case folder a reported region overlaps.

    An outlined finding (``lesion_human_prostatex_finding1``) need not be one, and where it is, this mask has it.
    """
    file = folder / "lesion_human_isup.nii.gz"
    if not file.is_file():
        return ""
    lesions = lesions_of(_label(file))
    if not lesions:
        return "negative"
    hits = sum(
        any(dice(_on(x.mask, truth) > 0, truth.array) >= HIT_DSC for x in explanation.lesions) for truth in lesions
    )
    return f"found {hits}/{len(lesions)}"


def run_case(folder: Path, group: str, fold: str, explainer: Explainer, source: Path | None = None) -> CaseResult:
    """Explain one case and hold it against its labels.

    Args:
        folder: where the labels are.
        group, fold: for the table.
        explainer: with the bundle of the fold that did not see this patient.
        source: where the images are, when not in ``folder`` (the DICOM study).
    """
    study = read_study(source or folder)
    explainer.explain(study)
    start = time.perf_counter()
    explanation = explainer.explain(study)
    seconds = time.perf_counter() - start
    zones, gland, label = truth_of(folder)
    scores: dict[str, float | None] = {"gland": None, "pz": None, "tz": None}
    if gland is not None:
        predicted = _on(explanation.zones, gland)
        scores["gland"] = round(dice(predicted > 0, gland.array.astype(bool)), 3)
        if zones is not None:
            scores["pz"] = round(dice(predicted == 1, zones.array == 1), 3)
            scores["tz"] = round(dice(predicted == 2, zones.array == 2), 3)
    per_lesion = ", ".join(
        f"{x.category} ({x.suspicion.value:.2f})" if x.suspicion else str(x.category) for x in explanation.lesions
    )
    return CaseResult(
        (source or folder).name + (" (DICOM)" if source else ""), group, fold, "+".join(study.roles), scores["gland"],
        scores["pz"], scores["tz"], label, found_lesions(explanation, folder), len(explanation.lesions),
        str(explanation.category.category), per_lesion, round(seconds, 2),
    )  # fmt: skip


def bootstrap_mean(values: Sequence[float], seed: int = 0, draws: int = 2000) -> tuple[float, float, float]:
    """Mean and its percentile 95 % interval over cases."""
    found = bootstrap(len(values), mean_of(values), draws=draws, seed=seed)
    return found.value, found.low, found.high


def run_all(data: Path, folds: Mapping[str, str], shipped: str | None) -> list[CaseResult]:
    """Every case folder of ``data`` whose fold has a bundle that did not train on it, and the DICOM study.

    Args:
        data: folder of real cases, see its README.
        folds: fold ("A", "B") to the bundle that was trained without its cases.
        shipped: bundle for cases without a label.
    """
    from MedRationaleLogic.training.run import FOLD_A, FOLD_B

    explainers = {name: Explainer(bundle) for name, bundle in folds.items()}
    if shipped is not None:
        explainers["shipped"] = Explainer(shipped)
    out = []
    for group in GROUPS:
        for folder in sorted((data / group).iterdir()):
            fold = "A" if folder.name in FOLD_A else "B" if folder.name in FOLD_B else "shipped"
            if fold in explainers:
                out.append(run_case(folder, group, fold, explainers[fold]))
    raw = data / "dicom" / "ProstateX-0001"
    if raw.is_dir() and "A" in explainers:
        out.append(run_case(data / "bpmri" / "ProstateX-0001", "dicom", "A", explainers["A"], raw))
    return out


def taken_over(file: Path, without: Iterable[str]) -> list[CaseResult]:
    """Cases of an earlier page's JSON, of the folds that are not measured now.

    Args:
        file: the JSON that lies beside an earlier page.
        without: the folds that are measured now.

    Raises:
        ValueError: the file is none of such.
    """
    try:
        found = [CaseResult(**case) for case in json.loads(file.read_text(encoding="utf-8"))["cases"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not the JSON of an earlier page of real cases: {error}") from error
    for case in found:
        if case.group not in (*GROUPS, DICOM) or case.fold not in FOLDS:
            raise ValueError(f"{file}: {case.case} is of group {case.group}, fold {case.fold}, which there is not")
    measured = set(without)
    return [case for case in found if case.fold not in measured]


def in_order(results: Iterable[CaseResult]) -> list[CaseResult]:
    """By group as :data:`GROUPS` has them, the DICOM study last, then by name."""
    return sorted(results, key=lambda r: ([*GROUPS, DICOM].index(r.group), r.case))


def summary(results: Iterable[CaseResult]) -> dict[str, Any]:
    """Means with bootstrap intervals over patients; the DICOM copy of a case is not counted twice."""
    rows = [r for r in results if r.group != "dicom"]
    out: dict[str, Any] = {}
    groups = {
        "gland, all labelled cases": [r.gland for r in rows],
        "gland, cases with T2W": [r.gland for r in rows if "t2w" in r.sequences],
        "gland, ADC and high-b only": [r.gland for r in rows if "t2w" not in r.sequences],
        "PZ, cases with T2W": [r.pz for r in rows if "t2w" in r.sequences],
        "TZ, cases with T2W": [r.tz for r in rows if "t2w" in r.sequences],
    }
    for name, values in groups.items():
        known = [v for v in values if v is not None]
        if known:
            mean, low, high = bootstrap_mean(known)
            out[name] = {"n": len(known), "mean": round(mean, 3), "low": round(low, 3), "high": round(high, 3),
                         "min": round(min(known), 3)}  # fmt: skip
    return out


def _of_before(folds: Sequence[str]) -> str:
    names = " and ".join("the shipped bundle" if fold == SHIPPED else f"fold {fold}" for fold in folds)
    return f"Rows of {names} were taken over from the page before: its bundles, measured then."


def to_markdown(
    results: Sequence[CaseResult], totals: dict[str, Any], command: str, remark: str = "", others: Sequence[str] = ()
) -> str:
    """The page docs/results.md.

    Args:
        results: its rows.
        totals: :func:`summary` of them.
        command: that made it.
        remark: what has to be said of the bundles.
        others: folds whose rows were taken over from an earlier page.
    """

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    lines = [
        "# Results on real cases",
        "",
        "Research use only. Made by one command; docs/training.md says how the bundles were trained:",
        "",
        f"    {command}",
        "",
        "Each labelled case was read by the model of the fold that saw neither the patient's images nor the patient's "
        "label map, in training or in simulation. Cases without a label were read by the shipped bundle, in whose "
        "training their T2W were, with a gland outlined by another program: what it says of them is no test. Seconds "
        f"are of a warm run on {platform.machine()}, without reading files.",
        "",
        "DSC on the label's own grid. *csPCa*: lesions of ISUP >= 2 outlined by humans that a reported region overlaps "
        "with DSC >= .1. "
        "*regions*: category and suspicion of each reported region. In the means below a patient counts once, by the "
        "first row.",
        "",
        *([_of_before(others), ""] if others else []),
        *([remark, ""] if remark else []),
        "| case | group | fold | sequences | gland DSC | PZ DSC | TZ DSC | gland label | csPCa | regions | category "
        "| s |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        lines.append(
            f"| {r.case} | {r.group} | {r.fold} | {r.sequences} | {number(r.gland)} | {number(r.pz)} | {number(r.tz)} "
            f"| {r.label or 'none'} | {r.csPCa or '-'} | {r.per_lesion or 'none'} | {r.category} | {r.seconds:.2f} |"
        )
    lines += ["", "| measure | n | mean | 95 % interval (bootstrap over cases) | smallest |", "|---|---|---|---|---|"]
    for name, t in totals.items():
        lines.append(f"| {name} | {t['n']} | {t['mean']:.3f} | {t['low']:.3f} to {t['high']:.3f} | {t['min']:.3f} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description="Evaluate on real cases by case (research use only).")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--fold", action="append", required=True, metavar="A=BUNDLE",
                        help="a fold and the bundle trained without its cases; may be repeated")  # fmt: skip
    parser.add_argument("--shipped", help="bundle for cases without labels")
    parser.add_argument("--others", type=Path, help="JSON of an earlier page: its cases of other folds are taken over")
    parser.add_argument("--remark", default="", help="what has to be said of the bundles, for the page")
    parser.add_argument("--output", type=Path, required=True, help="the Markdown page; the JSON lies beside it")
    args = parser.parse_args(arguments)
    folds = dict(str(text).partition("=")[::2] for text in args.fold)
    if unknown := sorted(set(folds) - {"A", "B"}):
        parser.error(f"there is no fold {', '.join(unknown)}; the folds are A and B")
    measured = [*folds, *([SHIPPED] if args.shipped else [])]
    # read before the work: a wrong file is told first
    others = taken_over(args.others, measured) if args.others else []
    now = run_all(args.data, folds, args.shipped)
    others = [case for case in others if case.case not in {r.case for r in now}]
    results = in_order([*now, *others])
    totals = summary(results)
    command = " ".join([
        "python -m MedRationaleLogic.evaluation.real --data DATA",
        *(f"--fold {k}={Path(v).name}" for k, v in folds.items()),
        *([f"--shipped {Path(args.shipped).name}"] if args.shipped else []),
        *([f"--others {args.others.as_posix()}"] if args.others else []), *(["--remark '...'"] if args.remark else []),
        f"--output {args.output.as_posix()}",
    ])  # fmt: skip
    args.output.write_text(
        to_markdown(results, totals, command, args.remark, sorted({r.fold for r in others})), encoding="utf-8"
    )
    facts = {"cases": [asdict(r) for r in results], "summary": totals}
    args.output.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(args.output.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
