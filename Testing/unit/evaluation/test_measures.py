"""What one study is measured by, and a whole run over a few studies with a tiny network."""

from __future__ import annotations

import json
import math
from pathlib import Path
from shutil import copy
from typing import Any

import numpy as np
import pytest
import torch

from MedRationaleLogic.evaluation import cohort, measures, page, summary
from MedRationaleLogic.model import pooling
from MedRationaleLogic.model.grids import DIFFUSION, FINE, STEM_GRIDS
from MedRationaleLogic.model.network import RationaleNet
from MedRationaleLogic.model.text import load_cached
from MedRationaleLogic.pirads import rules
from MedRationaleLogic.simulation.sample import sample_bank
from MedRationaleLogic.simulation.study import MAX_REGIONS
from MedRationaleLogic.training.data import SimulatedSet
from Testing.bundle_factory import tiny_spec
from Testing.unit.training import coarse_grids

SEED = 3


@pytest.fixture
def box() -> torch.Tensor:
    mask = torch.zeros((6, 40, 40), dtype=torch.bool)
    mask[2:4, 15:25, 15:25] = True
    return mask


def test_dsc_of_known_masks(box: torch.Tensor) -> None:
    half = box.clone()
    half[3] = False
    assert measures.dsc(box, box) == 1.0
    assert measures.dsc(half, box) == pytest.approx(2 / 3)
    assert measures.dsc(half, torch.zeros_like(box)) is None
    assert measures.dsc(~box, box, known=box) == 0.0, "outside what is known nothing counts"
    assert measures.slice_dsc(half, box) == 0.5


def test_a_uniform_map_has_the_mask_s_share(box: torch.Tensor) -> None:
    heat = torch.full(box.shape, 0.3)
    assert measures.relevance_mass(heat, box) == pytest.approx(float(box.float().mean()))
    assert measures.relevance_mass(box.float(), box) == 1.0
    assert measures.relevance_mass(torch.zeros(box.shape), box) == 0.0


@pytest.mark.parametrize("extent", ["interior", "rim", "context"])
def test_a_map_of_the_extent_itself_is_perfect_and_the_mask_is_not(box: torch.Tensor, extent: str) -> None:
    index, inside = pooling.window(box, FINE.spacing, torch.zeros_like(box))
    assert measures.extent_figures(inside[extent].float(), inside, extent) == (1.0, True)
    by_mask = measures.jaccard(box.flatten()[index], inside[extent])
    assert by_mask == 1.0 if extent == "interior" else by_mask < 0.7


def test_other_regions_are_left_out_of_the_window(box: torch.Tensor) -> None:
    others = torch.zeros_like(box)
    others[2:4, 15:25, 26:30] = True
    index, _ = pooling.window(box, FINE.spacing, others)
    assert not others.flatten()[index].any()
    assert box.flatten()[index].sum() == box.sum()


def test_cosine() -> None:
    a = torch.tensor([1.0, 0.0])
    assert measures.cosine(a, a) == 1.0
    assert measures.cosine(a, torch.tensor([0.0, 1.0])) == 0.0
    assert measures.cosine(a, torch.zeros(2)) == measures.cosine(torch.zeros(2), a) == 0.0, "one shows nothing"
    assert measures.cosine(torch.zeros(2), torch.zeros(2)) is None


def test_a_mask_keeps_its_place_on_the_diffusion_grid() -> None:
    from MedRationaleLogic.training.data import theta

    mask = torch.zeros(FINE.shape, dtype=torch.bool)
    mask[10:14, 50:62, 40:52] = True
    moved = cohort.to_stem(mask, theta((0.0, 0.0, 0.0), (3.0, 0.0, -6.0), DIFFUSION), DIFFUSION.shape)

    def middle(where: torch.Tensor, spec: Any, offset: tuple[float, ...]) -> torch.Tensor:
        index = where.nonzero().float().mean(0)
        half = torch.tensor([(n - 1) / 2 for n in spec.shape])
        return (index - half) * torch.tensor(spec.spacing) + torch.tensor(offset)

    torch.testing.assert_close(middle(mask, FINE, (0, 0, 0)), middle(moved, DIFFUSION, (3, 0, -6)), atol=0.8, rtol=0)


def tiny_network() -> RationaleNet:
    spec = tiny_spec()
    torch.manual_seed(0)
    made = RationaleNet(spec).eval()
    made.phrases.copy_(load_cached())
    return made


def test_true_extents_as_maps_are_as_good_as_a_map_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    coarse_grids.exchange(monkeypatch)
    net = tiny_network()
    items = SimulatedSet(sample_bank(), net.spec, SEED, 8)
    item = next(i for i in (items[k] for k in range(8)) if bool((i["lesion"] == 1).any()))
    rows = {row: dict[str, Any]() for row in range(len(item["labels"])) if bool((item["labels"][row] >= 0).any())}
    evidence = {}
    for i, a in enumerate(net.spec.attributes):
        maps = torch.zeros((len(a.values), *STEM_GRIDS[a.sequence].shape))
        for row in rows:
            mask = item[f"regions_{a.sequence}"] == row + 1
            label = int(item["labels"][row, i])
            if label >= 0 and int(mask.sum()) >= 4:
                maps[label].flatten()[pooling.supports(mask, STEM_GRIDS[a.sequence].spacing)[a.extent]] = 1
        evidence[a.id] = maps
    nothing = torch.zeros(FINE.shape)
    figures = cohort._masses(cohort.Prediction(nothing, nothing, (), rows, evidence), item, net)
    assert {"rma", "rma_truth", "rma_interior", "rma_context_truth"} <= set(figures)
    for name in ("rma", "rma_interior", "rma_rim", "rma_context"):
        assert figures[name] == pytest.approx(figures[f"{name}_truth"], abs=1e-6)
    assert figures["rma_interior_truth"] > figures["rma_rim_truth"] > figures["rma_context_truth"]


def test_a_run_over_a_cohort_ends_in_a_page_and_goes_on_where_it_was_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("picai_eval")
    coarse_grids.exchange(monkeypatch)
    monkeypatch.setattr(summary, "DRAWS", 20)  # of three studies: more draws only repeat themselves
    net = tiny_network()
    items = SimulatedSet(sample_bank(), net.spec, SEED, 3, first=4)
    unseen = SimulatedSet(sample_bank(), net.spec, SEED, 3, first=4, scanner=1, domain="unseen")
    models = {}
    thresholds = {"lesion_peak": 0.1, "suspicion": 0.3, "min_volume_ml": 0.1}
    for name in (summary.OURS, summary.TWIN):
        file = tmp_path / f"{name}.jsonl"
        predictor = cohort.ConceptPredictor(net, thresholds=thresholds)
        assert list(cohort.run(predictor, items, range(3), file, unseen=unseen, net=net)) == [1, 2, 3]
        models[name] = cohort.read(file)
    whole = (tmp_path / f"{summary.OURS}.jsonl").read_text(encoding="utf-8")
    (tmp_path / "cut.jsonl").write_text(whole[: len(whole) // 2], encoding="utf-8")
    copy(tmp_path / f"{summary.OURS}.about.json", tmp_path / "cut.about.json")
    for _ in cohort.run(predictor, items, range(3), tmp_path / "cut.jsonl", unseen=unseen, net=net, jobs=2):
        pass
    assert cohort.read(tmp_path / "cut.jsonl") == models[summary.OURS]
    with pytest.raises(ValueError, match=r"cut\.jsonl.*unseen.*give a new --output"):
        next(cohort.run(cohort.ConceptPredictor(net), items, range(3), tmp_path / "cut.jsonl", net=net))
    with pytest.raises(ValueError, match="another weights"):
        next(cohort.run(cohort.ConceptPredictor(net), items, range(3), tmp_path / "cut.jsonl", unseen=unseen, net=net,
                        facts={"weights": "others"}))  # fmt: skip

    rows = summary.table(models, net.spec)
    assert any(row.name == "reported regions, a study" for row in rows)
    for row in rows:
        difference = row.differences.get(summary.TWIN)
        if difference is not None and difference.value == difference.value:
            assert difference.value == 0.0, f"{row.name}: a model against itself"
    details = summary.details(models[summary.OURS], net.spec)
    facts = {"cohort": "<made up>", "studies": 3, "positive_studies": 1, "remark": "", "draws": summary.DRAWS}
    written = page.write(tmp_path / "page", rows, models, details, [], facts)
    text = written.read_text(encoding="utf-8")
    assert "Research use only" in text
    assert "&lt;made up&gt;" in text
    assert "<made up>" not in text
    assert len(json.loads((tmp_path / "page" / "results.json").read_text(encoding="utf-8"))["table"]) == len(rows)
    assert (tmp_path / "page" / "results.csv").read_text(encoding="utf-8").startswith("measure,model,value")
    markdown = (tmp_path / "page" / "results.md").read_text(encoding="utf-8")
    assert markdown.startswith("# Results on simulated studies\n\nResearch use only.")
    for row in rows:
        assert sum(line.startswith(f"| {row.name} | ") for line in markdown.splitlines()) == 1
    for name, counts in details["confusion"].items():
        start = next(i for i, line in enumerate(markdown.splitlines()) if line.startswith(f"| {name}: as drawn |"))
        read = [[int(x) for x in line.split("|")[2:-1]] for line in markdown.splitlines()[start + 2 : start + 7]]
        assert read == counts
    widths = [line.count(" | ") for line in markdown.splitlines() if line.startswith("| gland DSC")]
    assert widths == [4]
    with pytest.raises(ValueError, match="measured on other studies"):
        summary.table({summary.OURS: models[summary.OURS], summary.TWIN: models[summary.TWIN][1:]}, net.spec)


def test_what_is_reported_is_told_with_what_it_is_of(monkeypatch: pytest.MonkeyPatch) -> None:
    coarse_grids.exchange(monkeypatch)
    net = tiny_network()
    items = SimulatedSet(sample_bank(), net.spec, SEED, 8)
    item, row = next(
        (item, row) for item in (items[k] for k in range(8)) for row in range(MAX_REGIONS)
        if int((item["regions_t2w"] == row + 1).sum()) > 20 and bool((item["zones"] == cohort.IGNORE).any())
    )  # fmt: skip
    drawn, cut = item["regions_t2w"], item["zones"] == cohort.IGNORE
    region = drawn == row + 1
    nothing = (drawn == 0) & ~cut
    # each attribute's first value: what a candidate is read as is the rules' business
    p = {a.id: [1.0] + [0.0] * (len(a.values) - 1) for a in net.spec.attributes}
    facts = {"peak": 0.7, "zone": "PZ", "p": p}
    grazed = nothing.clone()
    grazed.flatten()[int(region.flatten().nonzero()[0])] = True
    shown = tuple(cohort.Candidate(m, 0.4, facts) for m in (region, nothing, cut, grazed))
    rows = {k: dict[str, Any]() for k in range(len(item["labels"])) if bool((item["labels"][k] >= 0).any())}
    blank = torch.zeros(FINE.shape)
    told = cohort._reported(cohort.Prediction(blank, blank, (), rows, shown=shown), item, net)
    assert len(told) == 3, "what lies in cut slices is left out"
    assert [c["of"] for c in told] == [[row], [], []]
    assert [c["nothing"] for c in told] == [False, True, True], "a voxel of a region makes it none"
    read = {a.id: a.values[0] for a in net.spec.attributes}
    size = cohort.feret_in_plane(cohort._volume(region)).mm
    by_rule = rules.overall("PZ", rules.t2w_score("PZ", read, size), rules.dwi_score(read, size), "X")
    assert told[0]["category"] == by_rule
    one = cohort.Candidate(region, 0.4, facts | {"p": {"t2.pattern": p["t2.pattern"]}})
    assert cohort.category_of(one, net) == "X"


def test_of_what_is_reported_regions_are_counted() -> None:
    def said(*of: int, nothing: bool = False) -> dict[str, Any]:
        return {"suspicion": 0.5, "category": 4, "of": list(of), "nothing": nothing}

    regions = [{"row": k, "category": c, "cut": k == 3} for k, c in enumerate((5, 2, 4, 4))]
    one = {"reported": [said(0, 1), said(nothing=True), said()], "regions": regions}
    none = {"reported": [], "regions": regions[:1]}
    both = np.arange(2)
    assert summary.reported([one, none])(both) == 1.5
    assert summary.reported([one, none], of_nothing=True)(both) == 0.5
    assert summary.shown_share([one, none], (4, 5))(both) == pytest.approx(1 / 3), "one that is cut does not count"
    assert summary.shown_share([one, none], (1, 2))(both) == 1.0
    assert np.isnan(summary.shown_share([one, none], (3,))(both))


def test_without_thresholds_nothing_is_said_of_what_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    coarse_grids.exchange(monkeypatch)
    net = tiny_network()
    item = SimulatedSet(sample_bank(), net.spec, SEED, 1, first=4)[0]
    assert cohort.ConceptPredictor(net).predict(item).shown is None
    everything = {"lesion_peak": 0.0, "min_volume_ml": 0.0, "suspicion": 0.0}
    shown = cohort.ConceptPredictor(net, thresholds=everything).predict(item).shown
    none = cohort.ConceptPredictor(net, thresholds=everything | {"lesion_peak": 1.0}).predict(item).shown
    assert shown
    assert none == ()


def test_without_a_lesion_there_is_no_precision_and_no_crash() -> None:
    pytest.importorskip("picai_eval")
    healthy = {"detection": {"results": [], "case": 0.0, "target": 0}}
    found = {"detection": {"results": [[1, 0.9, 0.5]], "case": 0.9, "target": 1}}
    ap = summary.average_precision([healthy, found])
    assert math.isnan(ap(np.array([0, 0])))
    assert ap(np.array([0, 1])) == 1.0


def test_figures_of_drawn_regions_know_nothing_of_normal_tissue() -> None:
    """Regions are said with .9 and half of them right, normal tissue with .6 and right: together that looks well."""
    spec = tiny_spec()
    adc = next(a for a in spec.attributes if a.id == "adc.signal")

    def region(row: int, p: float, label: int) -> dict[str, Any]:
        said = [p, *[(1 - p) / (len(adc.values) - 1)] * (len(adc.values) - 1)]
        return {
            "row": row, "category": 4 if row < summary.MAX_REGIONS else 0, "labels": {adc.id: label},
            "p": {adc.id: said}, "matched": {"overlap": 0.5, "p": {adc.id: said[::-1]}},
            "share": 0.1 if row < summary.MAX_REGIONS else 0.0,
            "extents": [], "means": {adc.id: [0.5] * len(adc.values)},
        }  # fmt: skip

    one = {
        "regions": [region(0, 0.9, 0), region(1, 0.9, 1), *(region(summary.MAX_REGIONS + k, 0.6, 0) for k in (0, 1))]
    }
    index = np.array([0])
    assert summary.calibration_error([one])(index) == pytest.approx(0.4, abs=1e-6)
    assert summary.calibration_error([one], "normal")(index) == pytest.approx(0.4, abs=1e-6)
    assert summary.calibration_error([one], "candidates")(index) == pytest.approx(0.9, abs=1e-6)
    assert summary.concept_table([one], spec)[adc.id]["n"] == 2
    assert summary.residual_share([one], 0)(index) == pytest.approx(0.1)
    assert math.isnan(summary.calibration_error([{}])(index))


def test_a_difference_of_what_not_every_study_has_is_that_of_the_same_studies() -> None:
    first = [{"cosine": 0.9}, {"cosine": 0.5}, {"cosine": None}]
    second = [{"cosine": 0.7}, {}, {"cosine": 0.1}]
    assert summary._common(first, second, "cosine")(np.arange(3)) == pytest.approx(0.2)


def test_deleting_the_most_important_first_falls_fastest() -> None:
    region = {"row": 0, "category": 4, "terms": {"a": 3.0, "b": 0.1, "c": 1.0}, "logit": 2.0, "share": 0.1}
    areas = summary.deletion([{"regions": [region]}])
    assert areas["most important first"] < areas["least important first"]
    assert areas["most important first"] <= areas["at random"] <= areas["least important first"]
