"""Training items, losses, a few real optimisation steps, the way to a bundle, and the page of real results.

The network is the real one with a few channels; studies are simulated from the procedural gland.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from MedRationaleLogic.evaluation import real
from MedRationaleLogic.evaluation.real import CaseResult
from MedRationaleLogic.imaging.volume import Geometry
from MedRationaleLogic.inference.explainer import _theta
from MedRationaleLogic.model import bundle
from MedRationaleLogic.model.grids import COARSE, DIFFUSION, FINE, SEQUENCES, GridSpec
from MedRationaleLogic.model.network import NetworkSpec, RationaleNet
from MedRationaleLogic.model.pooling import EXTENTS
from MedRationaleLogic.model.text import load_cached
from MedRationaleLogic.simulation.labels import LabelBank
from MedRationaleLogic.simulation.sample import sample_bank
from MedRationaleLogic.simulation.study import MAX_REGIONS, simulate
from MedRationaleLogic.training import run, ship
from MedRationaleLogic.training.data import IGNORE, ROWS, Item, SimulatedSet, theta
from MedRationaleLogic.training.losses import attribute_loss, gland_loss, lesion_loss, zone_loss
from MedRationaleLogic.training.module import RationaleTask
from MedRationaleLogic.training.readings import Sample
from Testing.bundle_factory import tiny_spec
from Testing.unit.training import coarse_grids

SEED, INDEX = 3, 5  # regions of both zones, positives among them


class _Items(Dataset[Item]):
    """One item, as often as asked."""

    def __init__(self, item: Item, count: int) -> None:
        self.item, self.count = item, count
        self.asked: list[int] = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Item:
        if index >= self.count:
            raise IndexError(index)
        self.asked.append(index)
        return self.item


@pytest.fixture(scope="module")
def spec() -> NetworkSpec:
    return tiny_spec()


@pytest.fixture(scope="module")
def item(spec: NetworkSpec) -> Item:
    return SimulatedSet(sample_bank(), spec, SEED, 1, first=INDEX)[0]


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Grids of an eighth of the voxels, for what is about the way and not about the pictures."""
    coarse_grids.exchange(monkeypatch)


@pytest.fixture(scope="module")
def small_item(spec: NetworkSpec) -> Item:
    with pytest.MonkeyPatch.context() as patch:
        coarse_grids.exchange(patch)
        return SimulatedSet(sample_bank(), spec, SEED, 1, first=INDEX)[0]


@pytest.fixture(scope="module")
def trained(spec: NetworkSpec, small_item: Item, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run that stopped after one step and went on to the second, with its checkpoint at both times."""
    folder = tmp_path_factory.mktemp("run")
    data = _Items(small_item, 2)
    states = []
    with pytest.MonkeyPatch.context() as patch:
        coarse_grids.exchange(patch)
        for stop in (1, None):
            path = run.train(folder, data, spec, steps=2, stop=stop, batch=1, every=1, workers=0, precision="32-true")
            states.append(torch.load(path, map_location="cpu", weights_only=True))
    return {"folder": folder, "path": path, "first": states[0], "second": states[1], "asked": data.asked}


# ---------------------------------------------------------------------------------------------------------------------
# Items


def test_item_has_the_shapes_that_the_network_eats(item: Item, spec: NetworkSpec) -> None:
    shapes = {
        "presence": (3,), "zones": FINE.shape, "gland_only": (), "lesion": FINE.shape,
        "labels": (ROWS, len(spec.attributes)), "category": (ROWS,), "zone": (ROWS,), "coarse": (1, *COARSE.shape),
        "coarse_gland": COARSE.shape, "coarse_sequence": (), "theta_adc": (3, 4), "theta_hbv": (3, 4),
        "t2w": (1, *FINE.shape), "adc": (1, *DIFFUSION.shape), "hbv": (1, *DIFFUSION.shape),
        "regions_t2w": FINE.shape, "regions_adc": DIFFUSION.shape, "regions_hbv": DIFFUSION.shape,
        "twin_of_previous": (),
    }  # fmt: skip
    assert {k: tuple(v.shape) for k, v in item.items()} == shapes
    for name in ("t2w", "adc", "hbv", "coarse", "presence", "theta_adc", "theta_hbv"):
        assert item[name].dtype == torch.float32
        assert bool(torch.isfinite(item[name]).all())
    for name in ("zones", "lesion", "coarse_gland", "regions_t2w", "regions_adc", "regions_hbv"):
        assert item[name].dtype == torch.uint8
    for name in ("labels", "category", "zone", "coarse_sequence"):
        assert item[name].dtype == torch.int64
    assert item["gland_only"].dtype == torch.bool


def test_item_tells_what_was_drawn(item: Item, spec: NetworkSpec) -> None:
    study = simulate(sample_bank(), SEED, INDEX, coarse=False)
    assert len(study.drawn) >= 3
    for row, region in enumerate(study.drawn):
        told = {a.id: a.values[int(item["labels"][row, i])] for i, a in enumerate(spec.attributes)}
        assert told == region.values
        assert int(item["category"][row]) == region.category
        assert int(item["zone"][row]) == ("PZ", "TZ").index(region.zone)
        # 4 and 5 are positive, 3 is nobody's business, 1 and 2 are negative
        mine = item["lesion"][(study.t2w.regions == row + 1) & (item["zones"] != IGNORE)]
        expected = {3: IGNORE, 4: 1, 5: 1}.get(region.category, 0)
        assert set(mine.tolist()) <= {expected}
    assert (item["labels"][len(study.drawn) : MAX_REGIONS] == -1).all()
    assert {0, 1} <= set(item["lesion"].unique().tolist()) <= {0, 1, IGNORE}
    assert set(item["zones"].unique().tolist()) <= {0, 1, 2, IGNORE}
    assert torch.equal(item["zones"] == IGNORE, (item["zones"] == IGNORE) & (item["lesion"] == IGNORE))


def test_normal_tissue_lies_off_every_drawn_region(item: Item) -> None:
    study = simulate(sample_bank(), SEED, INDEX, coarse=False)
    rows = [row for row in (MAX_REGIONS, MAX_REGIONS + 1) if (item["labels"][row] >= 0).any()]
    assert rows
    for row in rows:
        mask = item["regions_t2w"] == row + 1
        assert int(mask.sum()) > 0
        assert not bool((study.t2w.regions[mask] > 0).any())
        assert set(item["zones"][mask].tolist()) == {int(item["zone"][row]) + 1}
        assert int(item["category"][row]) == 1


def test_simulated_study_stays_in_its_limits() -> None:
    study = simulate(sample_bank(), SEED, INDEX, coarse=False)
    assert all(abs(v) <= 5.0 for v in study.offsets["t2w"])
    assert all(abs(v) <= 7.0 for v in study.offsets["adc"])
    adc = study.adc.image  # 1e-3 mm2/s; free water at body temperature has 3.0, noise comes on top
    assert 0.0 <= float(adc.min()) < float(adc.max()) < 4.5
    gland = adc[8:16, 24:40, 24:40][study.adc.regions[8:16, 24:40, 24:40] == 0]
    assert 0.5 < float(gland.median()) < 2.2
    assert float(study.hbv.image.min()) >= 0.0


def _place(spec: GridSpec, middle: tuple[float, float, float]) -> Geometry:
    return Geometry(spec.shape, spec.spacing).centered_on(middle[::-1], spec.shape, spec.spacing)


_mm = st.tuples(*[st.floats(-12, 12)] * 3)


@settings(max_examples=20, deadline=None)
@given(source=_mm, target=_mm, other=st.sampled_from([DIFFUSION, COARSE, FINE]))
def test_theta_is_inference_s_affine(
    source: tuple[float, float, float], target: tuple[float, float, float], other: GridSpec
) -> None:
    general = _theta(_place(FINE, source), _place(other, target))[0]
    torch.testing.assert_close(theta(source, target, other), general, atol=2e-5, rtol=1e-4)


# ---------------------------------------------------------------------------------------------------------------------
# Losses


@pytest.fixture
def zones() -> Tensor:
    """Two samples (2, 3, 6, 6) with every zone and voxels that are not known."""
    out = torch.zeros((2, 3, 6, 6), dtype=torch.uint8)
    out[:, :, 1:5, 1:5] = 1
    out[:, :, 2:4, 2:4] = 2
    out[:, :, 0] = IGNORE
    return out


def _perfect(zones: Tensor, size: float = 20.0) -> Tensor:
    known = torch.where(zones == IGNORE, torch.zeros((), dtype=torch.uint8), zones)
    return size * torch.nn.functional.one_hot(known.long(), 3).movedim(-1, 1).float()


def test_zone_loss_is_least_where_everything_is_right(zones: Tensor) -> None:
    full = torch.tensor([False, False])
    right = float(zone_loss(_perfect(zones), zones, full))
    assert right == pytest.approx(0.0, abs=1e-3)
    swapped = _perfect(zones)[:, [0, 2, 1]]
    assert float(zone_loss(torch.zeros_like(swapped), zones, full)) > 0.5
    assert float(zone_loss(swapped, zones, full)) > 1.0


def test_gland_only_looks_at_the_gland_only(zones: Tensor) -> None:
    torch.manual_seed(0)
    logits = torch.randn((2, 3, 3, 6, 6))
    swapped = logits[:, [0, 2, 1]]
    gland = torch.where(zones == IGNORE, zones, (zones > 0).to(torch.uint8) * 3)
    only, full = torch.tensor([True, True]), torch.tensor([False, False])
    torch.testing.assert_close(zone_loss(logits, gland, only), zone_loss(swapped, gland, only))
    assert float(zone_loss(_perfect(zones)[:, [0, 2, 1]], gland, only)) == pytest.approx(0.0, abs=1e-3)
    assert float(zone_loss(-_perfect(zones), gland, only)) > 1.0
    assert abs(float(zone_loss(logits, zones, full) - zone_loss(swapped, zones, full))) > 1e-3
    # in a mixed batch, the sample with zones still counts
    one = torch.tensor([True, False])
    mixed = torch.stack([gland[0], zones[1]])
    assert abs(float(zone_loss(logits, mixed, one) - zone_loss(swapped, mixed, one))) > 1e-3


@pytest.mark.parametrize("only", [False, True])
def test_unknown_voxels_do_not_move_the_zone_loss(zones: Tensor, only: bool) -> None:
    torch.manual_seed(0)
    logits = torch.randn((2, 3, 3, 6, 6))
    flags = torch.tensor([only, only])
    other = torch.where((zones == IGNORE)[:, None], 9.0 * torch.randn_like(logits), logits)
    torch.testing.assert_close(zone_loss(logits, zones, flags), zone_loss(other, zones, flags))
    # and a known voxel does
    logits[:, 0, 1, 3, 0] += 3.0
    assert abs(float(zone_loss(logits, zones, flags) - zone_loss(other, zones, flags))) > 1e-4


@pytest.fixture
def lesion() -> Tensor:
    out = torch.zeros((2, 3, 6, 6), dtype=torch.uint8)
    out[0, :, 2:4, 2:4] = 1
    out[:, 0] = IGNORE
    return out


def test_lesion_loss_is_least_where_everything_is_right(lesion: Tensor) -> None:
    right = torch.where(lesion == 1, 20.0, -20.0)[:, None]
    assert float(lesion_loss(right, lesion)) == pytest.approx(0.0, abs=1e-3)
    assert float(lesion_loss(torch.zeros_like(right), lesion)) > 0.5
    assert float(lesion_loss(-right, lesion)) > 5.0
    # one that is missed costs more than as many false voxels elsewhere
    negative = torch.full_like(right, -20.0)
    assert float(lesion_loss(negative, lesion)) > 1.0


def test_unknown_voxels_do_not_move_the_lesion_loss(lesion: Tensor) -> None:
    torch.manual_seed(0)
    logits = torch.randn((2, 1, 3, 6, 6))
    other = torch.where((lesion == IGNORE)[:, None], 9.0 * torch.randn_like(logits), logits)
    torch.testing.assert_close(lesion_loss(logits, lesion), lesion_loss(other, lesion))
    assert float(lesion_loss(logits, torch.full_like(lesion, IGNORE))) == 0.0


def test_gland_and_attribute_loss_are_least_where_right() -> None:
    gland = torch.zeros((1, 3, 6, 6), dtype=torch.uint8)
    gland[:, :, 2:4, 2:4] = 1
    right = torch.where(gland > 0, 20.0, -20.0)[:, None]
    assert float(gland_loss(right, gland)) == pytest.approx(0.0, abs=1e-3)
    assert float(gland_loss(-right, gland)) > 5.0
    logits = torch.tensor([-20.0, 20.0, -20.0])
    assert float(attribute_loss(logits, torch.tensor(1))) == pytest.approx(0.0, abs=1e-3)
    assert float(attribute_loss(logits, torch.tensor(0))) > 5.0


# ---------------------------------------------------------------------------------------------------------------------
# Optimisation


def test_a_few_steps_on_one_batch_lower_the_loss(spec: NetworkSpec, small_item: Item, coarse: None) -> None:
    torch.manual_seed(0)
    task = RationaleTask(spec.to_dict(), load_cached(), lr=1e-2, steps=4).eval()  # the same paraphrase every time
    batch = default_collate([small_item])
    optimizer = torch.optim.AdamW(task.parameters(), lr=task.lr)
    totals = []
    for _ in range(4):
        torch.manual_seed(1)  # the same background voxels every time
        losses = task.losses(batch, train=False)
        assert set(losses) == {"zones", "lesion", "coarse", "apart", "align", "conspicuous", "localise", "mass",
                               "exclude", "disentangle", "suspicion"}  # fmt: skip
        total = torch.stack(list(losses.values())).sum()
        assert bool(torch.isfinite(total))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(float(total.detach()))
    assert totals[-1] < 0.98 * totals[0], totals
    silent = [n for n, p in task.named_parameters() if p.requires_grad and p.grad is None]
    # the localiser of a sequence learns from that sequence's coarse pictures only; everything else learns from any item
    other = [s for s in SEQUENCES if s != SEQUENCES[int(small_item["coarse_sequence"])]]
    assert all(any(s in name for s in other) for name in silent), silent


def test_a_stop_between_two_checkpoints_keeps_the_run_s_own_weights(
    spec: NetworkSpec, small_item: Item, tmp_path: Path, coarse: None
) -> None:
    """What a stop at 3 leaves is the same, whether a checkpoint was due there or not."""
    due, between = (
        torch.load(
            run.train(tmp_path / str(every), _Items(small_item, 4), spec, steps=4, stop=3, batch=1, every=every,
                      workers=0, precision="32-true"), map_location="cpu", weights_only=True)
        for every in (3, 2)
    )  # fmt: skip
    assert due["global_step"] == between["global_step"] == 3
    for state in ("state_dict", "current_model_state"):
        for name, value in due[state].items():
            assert torch.equal(between[state][name], value), name
    assert any(not torch.equal(v, between["state_dict"][k]) for k, v in between["current_model_state"].items())


def test_a_run_goes_on_from_its_checkpoint(trained: dict[str, Any]) -> None:
    first, second = trained["first"], trained["second"]
    assert (first["global_step"], second["global_step"]) == (1, 2)
    assert second["lr_schedulers"][0]["last_epoch"] == 2, "the learning rate's schedule went on, it did not start again"
    steps = {float(s["step"]) for s in second["optimizer_states"][0]["state"].values()}
    assert max(steps) == 2.0, "so did the optimiser's moments"
    assert [p.name for p in trained["folder"].glob("*.ckpt")] == ["last.ckpt"]
    name = "net.trunk.zones.weight"
    for state in ("state_dict", "current_model_state"):
        assert not torch.equal(first[state][name], second[state][name])
    assert not torch.equal(second["state_dict"][name], second["current_model_state"][name]), "the model is the average"


def test_a_run_that_goes_on_sees_the_items_it_has_not_seen(trained: dict[str, Any]) -> None:
    assert trained["asked"] == [0, 1]


def test_a_finished_run_is_not_trained_further(
    trained: dict[str, Any], spec: NetworkSpec, small_item: Item, coarse: None
) -> None:
    path = run.train(trained["folder"], _Items(small_item, 2), spec, steps=2, batch=1, every=1, workers=0,
                     precision="32-true")  # fmt: skip
    state = torch.load(path, map_location="cpu", weights_only=True)
    assert state["global_step"] == 2
    for name, value in trained["second"]["state_dict"].items():
        assert torch.equal(value, state["state_dict"][name]), name


def test_soup_is_the_mean_of_the_weights(trained: dict[str, Any], tmp_path: Path) -> None:
    paths = []
    for name in ("first", "second"):
        paths.append(tmp_path / f"{name}.ckpt")
        torch.save({k: trained[name][k] for k in ("state_dict", "hyper_parameters")}, paths[-1])
    run.soup(paths, tmp_path / "new" / "soup.ckpt")
    mean = torch.load(tmp_path / "new" / "soup.ckpt", map_location="cpu", weights_only=True)
    assert set(mean["state_dict"]) == set(trained["first"]["state_dict"])
    for name, value in mean["state_dict"].items():
        a, b = trained["first"]["state_dict"][name], trained["second"]["state_dict"][name]
        torch.testing.assert_close(value, (a + b) / 2 if value.is_floating_point() else a)
    ship.load_network(tmp_path / "new" / "soup.ckpt")


def test_a_checkpoint_becomes_a_bundle(trained: dict[str, Any], coarse: None, tmp_path: Path) -> None:
    maps = sample_bank()
    made = ship.ship(
        trained["path"], maps, tmp_path / "tiny-0.0.2", name="tiny", version="0.0.2", studies=2, training={"steps": 2}
    )
    again = bundle.read(tmp_path / "tiny-0.0.2")
    manifest = again.manifest
    assert manifest == made.manifest
    assert manifest.training["labels_sha256"] == maps.sha256
    assert manifest.training["steps"] == 2
    assert all(0.25 <= t <= 8.0 for t in manifest.calibration.values())
    assert 0.1 <= manifest.thresholds["lesion_peak"] <= 0.5
    assert 0.05 <= manifest.thresholds["suspicion"] <= 0.8
    figures = manifest.results["simulated_validation"]
    assert figures["studies"] == 2
    assert 0.0 <= figures["dsc"]["gland"]["mean"] <= 1.0
    weights = trained["second"]["state_dict"]
    for name, value in again.network().state_dict().items():
        torch.testing.assert_close(value, weights[f"net.{name}"], atol=2e-3, rtol=2e-3)  # stored at half precision


def test_conspicuity_is_fitted_before_a_bundle_is_written(
    trained: dict[str, Any], coarse: None, tmp_path: Path
) -> None:
    maps = sample_bank()
    net = ship.load_network(trained["path"])
    pair = SimulatedSet(maps, net.spec, 5, 2, paired=1.0)
    made = ship.ship(
        trained["path"], maps, tmp_path / "tiny-0.0.3", name="tiny", version="0.0.3", studies=1, training={},
        looked_at=pair,
    )  # fmt: skip
    facts = made.manifest.training["conspicuity"]
    assert facts["pairs"] == 1
    again = bundle.read(tmp_path / "tiny-0.0.3").network()
    for key, chosen in facts["maps"].items():
        sequence, extent = key.split()
        row = EXTENTS.index(extent)
        before, after = net.stem(sequence).conspicuity, again.stem(sequence).conspicuity
        torch.testing.assert_close(after.weight[row], before.weight[row] * chosen["slope"], atol=2e-3, rtol=2e-3)


def test_the_last_stage_of_a_bundle_can_be_fitted_once_more(
    trained: dict[str, Any], coarse: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = sample_bank()
    first = ship.ship(
        trained["path"], maps, tmp_path / "tiny-0.0.4", name="tiny", version="0.0.4", studies=1, training={"steps": 2}
    )
    told = json.loads((tmp_path / "tiny-0.0.4" / "manifest.json").read_text(encoding="utf-8"))
    told["licence"] = "of a test"
    told["training"]["validation_as_met"] = "of the bundle before"
    (tmp_path / "tiny-0.0.4" / "manifest.json").write_text(json.dumps(told), encoding="utf-8")
    first_half, second_half = set[int](), set[int]()
    calibrated, judged = ship.calibrate_as_met, ship.as_met

    def calibrate(net: RationaleNet, samples: list[Sample]) -> dict[str, float]:
        if len({s.study for s in samples}) < 4:  # not the four that suspicion is fitted to
            first_half.update(s.study for s in samples)
        return calibrated(net, samples)

    def judge(net: RationaleNet, samples: list[Sample], calibration: dict[str, float]) -> dict[str, dict[str, Any]]:
        second_half.update(s.study for s in samples)
        return judged(net, samples, calibration)

    monkeypatch.setattr(ship, "calibrate_as_met", calibrate)
    monkeypatch.setattr(ship, "as_met", judge)
    made = ship.ship(
        tmp_path / "tiny-0.0.4", maps, tmp_path / "tiny-0.0.5", name="tiny", version="0.0.5", studies=6,
        training={"stages": [{"command": "again"}]}, ranking=SimulatedSet(maps, tiny_spec(), SEED, 4),
    )  # fmt: skip
    facts = made.manifest.training
    assert facts["steps"] == 2
    assert facts["stages"] == [{"bundle": "tiny-0.0.4", "sha256": first.manifest.sha256}, {"command": "again"}]
    assert facts["readings"]["studies"] == 4
    assert facts["validation_as_met"]["drawn"]["readings"] > 0
    assert set(made.manifest.calibration) == {a.id for a in tiny_spec().attributes}
    assert first_half
    assert max(first_half) < min(second_half), "no study gives both"
    assert facts["temperatures"]["studies"] == min(second_half)
    assert made.manifest.licence == "of a test"
    assert "conspicuity" not in facts
    old, new = first.network().state_dict(), bundle.read(tmp_path / "tiny-0.0.5").network().state_dict()
    changed = {name for name, value in new.items() if not torch.equal(value, old[name])}
    fitted = (".placed.", ".attention.", ".together.", "suspicion_", "trunk.residual.")
    assert changed
    assert all(any(part in name for part in fitted) for name in changed), "masks and maps stay to the bit"
    with pytest.raises(bundle.BundleError, match="manifest"):
        ship.load_network(tmp_path)
    with pytest.raises(ValueError, match="1 validation studies are too few"):
        ship.ship(
            tmp_path / "tiny-0.0.4", maps, tmp_path / "tiny-0.0.6", name="tiny", version="0.0.6", studies=1,
            training={}, ranking=SimulatedSet(maps, tiny_spec(), SEED, 4),
        )  # fmt: skip
    assert not (tmp_path / "tiny-0.0.6").exists()


def test_one_of_category_3_is_reported_from_what_most_such_have(monkeypatch: pytest.MonkeyPatch) -> None:
    net = RationaleTask(tiny_spec().to_dict(), load_cached()).net.eval()
    said = iter([0.5, 0.1, 0.2, 0.3, 0.4])
    monkeypatch.setattr(ship.suspicion, "of", lambda _net, judged: next(said) if judged.positive else 0.0)
    monkeypatch.setattr(ship, "_longest_in_plane", lambda _region: 9.0)
    monkeypatch.setattr(ship.rules, "biparametric", lambda *_: 3)
    region = SimpleNamespace()
    looks = {"t2w": (torch.zeros(1), region)}
    monkeypatch.setattr(
        ship.readings, "read", lambda _net, _s, _v: {a.id: torch.zeros(len(a.values)) for a in net.spec.attributes}
    )
    one = Sample(0, looks, torch.zeros(10), 0, {7: 0.0}, True, "candidate", peak=0.6)  # type: ignore[arg-type]
    nothing = replace(one, positive=False, normal=True)
    others = [nothing, replace(one, peak=0.1), replace(one, outline="drawn"), replace(one, lesions={3: 0.0})]
    assert ship._threshold_of_equivocal(net, [*others, *[one] * 5], {}, 0.4) == {"equivocal": 0.2}, "four of the five"
    assert ship._threshold_of_equivocal(net, others, {}, 0.4) == {}


class _Numbers(Dataset[Any]):
    def __init__(self, name: str, count: int) -> None:
        self.name, self.count = name, count

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"name": self.name, "number": index, "twin_of_previous": torch.tensor(index % 2 == 1)}


@pytest.mark.parametrize("share", [0.0, 0.25, 0.6, 1.0])
def test_mixture_has_its_share_of_real_items_everywhere(share: float) -> None:
    mixture = run.Mixture(_Numbers("real", 200), _Numbers("simulated", 200), share)  # type: ignore[arg-type]
    assert len(mixture) == 200
    items = [(item["name"], item["number"]) for item in (mixture[i] for i in range(200))]
    mine = [number for name, number in items if name == "real"]
    assert mine == list(range(round(200 * share))), "each real draw once, in order"
    for n in range(1, 201):
        there = sum(name == "real" for name, _ in items[:n])
        assert abs(there - n * share) < 1 + 1e-9
    assert all(number == i for i, (name, number) in enumerate(items) if name == "simulated")
    for i in range(1, 200, 2):
        if items[i][0] == "simulated":
            told = bool(mixture[i]["twin_of_previous"])
            assert told == (items[i - 1][0] == "simulated"), "a twin's anatomy was shown just before"


def test_mixture_without_real_cases_is_the_simulation() -> None:
    mixture = run.Mixture(None, _Numbers("simulated", 10), 0.6)  # type: ignore[arg-type]
    assert [(mixture[i]["name"], mixture[i]["number"]) for i in range(10)] == [("simulated", i) for i in range(10)]


def test_folds_share_no_case() -> None:
    assert not set(run.FOLD_A) & set(run.FOLD_B)
    cases: list[Any] = [SimpleNamespace(name=n) for n in (*run.FOLD_A, *run.FOLD_B, "other")]
    for _, training, test in run._folds(cases):
        assert not {c.name for c in training} & {c.name for c in test}
        assert len(training) + len(test) == len(cases)
    # simulation must not see the anatomy of a case that is tested
    tested = {n.removeprefix("PICAI-").split("_")[0] for n in (*run.FOLD_A, *run.FOLD_B) if n.startswith("PICAI-")}
    assert tested <= set(run.HELD_OUT)


# ---------------------------------------------------------------------------------------------------------------------
# Patients that simulation must not know


@pytest.fixture
def four_maps() -> LabelBank:
    """Four maps, two of them of held-out patients."""
    one = sample_bank()
    gland = np.concatenate([np.clip(one.gland.astype(int) + k, -127, 127).astype(np.int8) for k in range(4)])
    return LabelBank(gland, np.repeat(one.transition, 4, axis=0), (run.HELD_OUT[0], "20001", run.HELD_OUT[1], "20002"))


def test_bank_s_sha256_sees_every_map_and_every_patient(four_maps: LabelBank) -> None:
    gland, transition = four_maps.gland.copy(), four_maps.transition.copy()
    gland[0, 0, 0, 0] -= 1
    transition[3, 0, 0, 0] -= 1
    patients = ("20000", *four_maps.patients[1:])
    others = [replace(four_maps, gland=gland), replace(four_maps, transition=transition),
              replace(four_maps, patients=patients), four_maps.without(run.HELD_OUT)]  # fmt: skip
    assert len({four_maps.sha256, *(b.sha256 for b in others)}) == 5


def test_held_out_patients_never_reach_a_training(
    four_maps: LabelBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[LabelBank] = []

    def train(output: Path, dataset: run.Mixture, *_: object, **__: object) -> Path:
        used.append(dataset.simulated.bank)
        output.mkdir()
        return output / "last.ckpt"

    monkeypatch.setattr(run, "train", train)
    four_maps.save(tmp_path / "bank.npz")
    run.main(["base", "--bank", str(tmp_path / "bank.npz"), "--output", str(tmp_path / "run"), "--steps", "1",
              "--threads", "1"])  # fmt: skip
    assert used[0].patients == ("20001",), "20002 falls to the validation share"
    np.testing.assert_array_equal(used[0].gland, four_maps.gland[[1]])
    assert used[0].sha256 in (tmp_path / "run" / "run.json").read_text(encoding="utf-8")


def test_held_out_patients_never_reach_a_calibration(
    four_maps: LabelBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[LabelBank] = []

    def made(_checkpoint: Path, maps: LabelBank, _folder: Path, **_: object) -> Any:
        used.append(maps)
        return SimpleNamespace(manifest=SimpleNamespace(results={}))

    monkeypatch.setattr(ship, "ship", made)
    four_maps.save(tmp_path / "bank.npz")
    ship.main(["--checkpoint", "none", "--bank", str(tmp_path / "bank.npz"), "--output", str(tmp_path / "a-1"),
               "--threads", "1"])  # fmt: skip
    assert used[0].patients == ("20002",), "20001 was trained on"


# ---------------------------------------------------------------------------------------------------------------------
# Calibration


@pytest.mark.parametrize("true", [0.5, 1.0, 2.5])
def test_temperature_is_recovered(true: float) -> None:
    g = torch.Generator().manual_seed(0)
    logits = 1.5 * torch.randn((6000, 4), generator=g)
    drawn = torch.multinomial(torch.softmax(logits, 1), 1, generator=g)[:, 0]
    assert ship.temperature(logits * true, drawn) == pytest.approx(true, rel=0.12)


def test_a_weight_is_as_many_answers() -> None:
    g = torch.Generator().manual_seed(0)
    logits, labels = torch.randn((60, 4), generator=g), torch.randint(4, (60,), generator=g)
    weights = torch.ones(60)
    weights[:20] = 3.0
    thrice = torch.cat([logits, logits[:20], logits[:20]]), torch.cat([labels, labels[:20], labels[:20]])
    assert ship.temperature(logits, labels, weights) == ship.temperature(*thrice)
    assert ship.temperature(logits, labels, torch.ones(60)) == ship.temperature(logits, labels)


def test_patches_of_normal_tissue_are_no_readings_of_drawn_regions(
    spec: NetworkSpec, small_item: Item, coarse: None
) -> None:
    torch.manual_seed(0)
    net = RationaleTask(spec.to_dict(), load_cached()).net.eval()
    seen = ship.validate(net, [small_item])  # type: ignore[arg-type]
    rows = [row for row in range(ROWS) if bool((small_item["labels"][row] >= 0).any())]
    assert {r.normal for r in seen["regions"]} == {True, False}
    assert sum(r.normal for r in seen["regions"]) == sum(row >= MAX_REGIONS for row in rows)
    for a, labels in seen["labels"].items():
        assert 0 < len(labels) <= sum(row < MAX_REGIONS for row in rows), a
    few = ship.summarise(net, seen, {})[1]["suspicion_auroc"]
    assert few["n"] == sum(not r.normal and r.category != 3 for r in seen["regions"])


def test_a_sequence_that_is_absent_is_neither_read_nor_fused(spec: NetworkSpec, small_item: Item, coarse: None) -> None:
    torch.manual_seed(0)
    net = RationaleTask(spec.to_dict(), load_cached()).net.eval()
    blind = {k: v.clone() for k, v in small_item.items()} | {"presence": torch.tensor([1.0, 1.0, 0.0])}
    other = blind | {"hbv": torch.randn_like(blind["hbv"])}
    seen, again = (ship.validate(net, [item]) for item in (blind, other))  # type: ignore[arg-type]
    assert {a.split(".")[0] for a in seen["logits"]} == {"t2", "adc"}
    assert seen["regions"]
    for one, two in zip(seen["regions"], again["regions"], strict=True):
        assert one.presence == (True, True, False)
        assert torch.equal(one.residual, two.residual)
        assert all(torch.equal(x, two.logits[a]) for a, x in one.logits.items())


def test_what_is_not_labelled_has_no_dsc(spec: NetworkSpec, small_item: Item, coarse: None) -> None:
    torch.manual_seed(0)
    net = RationaleTask(spec.to_dict(), load_cached()).net.eval()
    whole = small_item | {"zones": torch.where(small_item["zones"] == IGNORE, IGNORE, 3).to(torch.uint8)}
    gland = whole | {"gland_only": torch.tensor(True)}
    none = small_item | {"zones": torch.full_like(small_item["zones"], IGNORE)}
    dsc = ship.validate(net, [gland, none])["dsc"]  # type: ignore[arg-type]
    assert {k: len(v) for k, v in dsc.items() if k != "lesion"} == {"gland": 1}


def test_temperature_of_nothing_is_one() -> None:
    assert ship.temperature(torch.zeros((0, 3)), torch.zeros(0, dtype=torch.int64)) == 1.0


def test_calibration_error_of_certain_answers() -> None:
    p = torch.tensor([[1.0, 0.0]] * 4)
    assert ship.expected_calibration_error(p, torch.tensor([0, 0, 0, 0])) == pytest.approx(0.0)
    assert ship.expected_calibration_error(p, torch.tensor([0, 0, 1, 1])) == pytest.approx(0.5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=25))
def test_area_under_roc_is_the_share_of_ordered_pairs(pairs: list[tuple[int, bool]]) -> None:
    scores = np.array([s for s, _ in pairs], dtype=float)
    positive = np.array([p for _, p in pairs], dtype=bool)
    value = ship.area_under_roc(scores, positive)
    if positive.all() or not positive.any():
        assert math.isnan(value)
        return
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a in scores[positive] for b in scores[~positive]]
    assert value == pytest.approx(sum(wins) / len(wins))


# ---------------------------------------------------------------------------------------------------------------------
# The page of real results


def _result(case: str = "case", gland: float | None = 0.8, group: str = "bpmri", **changes: Any) -> CaseResult:
    row = CaseResult(case, group, "A", "t2w+adc+hbv", gland, 0.6, 0.7, "gland (human)", "", 1, "4", "4 (0.80)", 3.0)
    return replace(row, **changes)


def test_dice_of_masks() -> None:
    a, b = np.zeros((2, 4, 4), bool), np.zeros((2, 4, 4), bool)
    assert real.dice(a, b) == 1.0
    a[0, 0] = True
    assert real.dice(a, b) == 0.0
    b[0, 0, :2] = True
    assert real.dice(a, b) == pytest.approx(2 * 2 / (4 + 2))
    assert real.dice(a, b) == real.dice(b, a)
    assert real.dice(a, a) == 1.0


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_bootstrap_interval_holds_its_mean(values: list[float]) -> None:
    mean, low, high = real.bootstrap_mean(values, draws=400)
    assert mean == pytest.approx(np.mean(values))
    assert min(values) - 1e-9 <= low <= mean + 1e-9
    assert mean - 1e-9 <= high <= max(values) + 1e-9
    assert real.bootstrap_mean(values, draws=400) == (mean, low, high)


def test_bootstrap_of_one_case_has_no_width() -> None:
    assert real.bootstrap_mean([0.7]) == pytest.approx((0.7, 0.7, 0.7))


def test_summary_counts_a_patient_once() -> None:
    rows = [_result("a", 0.9), _result("b", 0.7), _result("c", None, pz=None, tz=None, label=""),
            _result("d", 0.5, "adc_dwi_only", sequences="adc+hbv", pz=None, tz=None)]  # fmt: skip
    copy = _result("a (DICOM)", 0.1, "dicom")
    totals = real.summary([*rows, copy])
    assert totals == real.summary(rows)
    assert totals["gland, all labelled cases"]["n"] == 3
    assert totals["gland, all labelled cases"]["mean"] == pytest.approx(0.7)
    assert totals["gland, all labelled cases"]["min"] == 0.5
    assert totals["gland, cases with T2W"]["n"] == 2
    assert totals["gland, ADC and high-b only"]["n"] == 1
    assert totals["PZ, cases with T2W"]["n"] == 2
    assert "gland, ADC and high-b only" not in real.summary(rows[:2]), "a measure without a case has no row"


def test_cases_of_folds_that_are_not_measured_now_are_taken_over(tmp_path: Path) -> None:
    rows = [_result("a", 0.9), replace(_result("b", 0.7), fold="B"), _result("c (DICOM)", 0.5, "dicom"),
            replace(_result("d", None, "adc_dwi_only"), fold="shipped")]  # fmt: skip
    file = tmp_path / "results.json"
    file.write_text(json.dumps({"cases": [asdict(r) for r in rows]}), encoding="utf-8")
    others = real.taken_over(file, ["A", "shipped"])
    assert others == [rows[1]]
    assert real.in_order([rows[2], *others, rows[3], rows[0]]) == [rows[0], rows[1], rows[3], rows[2]]
    page = real.to_markdown(rows, real.summary(rows), "python -m something", others=["B", "shipped"])
    assert "Rows of fold B and the shipped bundle were taken over from the page before" in page
    assert "taken over" not in real.to_markdown(rows, real.summary(rows), "python -m something")
    file.write_text(json.dumps({"cases": [asdict(replace(rows[0], group="ct"))]}), encoding="utf-8")
    with pytest.raises(ValueError, match="a is of group ct, fold A, which there is not"):
        real.taken_over(file, [])
    file.write_text('{"cases": [{"case": "a"}]}', encoding="utf-8")
    for wrong in (file, tmp_path / "none.json"):
        with pytest.raises(ValueError, match=f"{wrong.name} is not the JSON of an earlier page"):
            real.taken_over(wrong, [])


def test_page_has_a_row_for_every_case() -> None:
    rows = [_result("first", 0.912), _result("second", None, pz=None, tz=None, label="", per_lesion="")]
    totals = real.summary(rows)
    page = real.to_markdown(rows, totals, "python -m something")
    lines = page.splitlines()
    table = [line for line in lines if line.startswith(("| first |", "| second |"))]
    assert len(table) == 2
    header = next(line for line in lines if line.startswith("| case |"))
    assert all(line.count("|") == header.count("|") for line in table)
    assert "| 0.912 |" in table[0]
    assert "| - | - | - | none |" in table[1]
    assert all(any(line.startswith(f"| {name} | ") for line in lines) for name in totals)
    assert "Research use only" in page
    assert "    python -m something" in lines


def test_a_threshold_is_the_middle_of_the_good_ones_and_lies_within_its_limits() -> None:
    scores = np.array([0.01, 0.02, 0.03, 0.6, 0.7, 0.8])
    positive = scores > 0.5
    assert ship._youden(scores, positive, 0.05, 0.8) == pytest.approx((0.05 + 0.6) / 2, abs=0.02)
    # two groups of good ones, nothing but bad ones between them
    mixed, truth = np.array([0.2, 0.4, 0.3, 0.5] * 20), np.array([False, False, True, True] * 20)
    one = ship._youden(mixed, truth, 0.05, 0.8)
    assert 0.4 < one <= 0.5 or 0.2 < one <= 0.3
    assert ship._youden(scores, positive & False, 0.1, 0.5) == pytest.approx(0.3)
