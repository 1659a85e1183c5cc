"""What the constrained optimisation is made of: projection, extents, dual ascent, views, and the runs' own data."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from MedRationaleLogic.model.network import NetworkSpec, RationaleNet, fold, unfold
from MedRationaleLogic.model.text import load_cached
from MedRationaleLogic.simulation.sample import sample_bank
from MedRationaleLogic.training import run
from MedRationaleLogic.training.data import IGNORE, Item, SimulatedSet
from MedRationaleLogic.training.losses import Multiplier, branch, jaccard_loss, overlap_excess
from MedRationaleLogic.training.module import RationaleTask, _agreement, _outside, _unknown
from Testing.bundle_factory import tiny_spec

pytestmark = pytest.mark.usefixtures("coarse_module")


@pytest.fixture(scope="module")
def spec() -> NetworkSpec:
    return tiny_spec()


@pytest.fixture(scope="module")
def items(spec: NetworkSpec) -> list[Item]:
    data = SimulatedSet(sample_bank(), spec, 3, 2, first=5)
    return [data[0], data[1]]


def _gradient(a: Tensor, b: Tensor) -> Tensor:
    features = torch.zeros((1, *a.shape), requires_grad=True)
    masks, evidence = branch(features)
    ((masks[0] * a).sum() + (evidence[0] * b).sum()).backward()
    assert features.grad is not None
    return features.grad[0]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000))
def test_evidence_never_acts_against_masks(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    a, b = torch.randn((2, 3, 2, 2), generator=g), torch.randn((2, 3, 2, 2), generator=g)
    total = _gradient(a, b)
    along = float((a * b).sum())
    rest = total - a
    if along >= 0:
        torch.testing.assert_close(rest, b)
    else:
        assert abs(float((rest * a).sum())) < 1e-4, "what opposed the masks is gone"
        torch.testing.assert_close(rest, b - along / float((a * a).sum()) * a)


def test_projection_is_by_study() -> None:
    features = torch.zeros((2, 1, 1, 1, 2), requires_grad=True)
    masks, evidence = branch(features)
    wish = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).reshape(2, 1, 1, 1, 2)
    other = torch.tensor([[-2.0, 1.0], [2.0, 1.0]]).reshape(2, 1, 1, 1, 2)
    ((masks * wish).sum() + (evidence * other).sum()).backward()
    assert features.grad is not None
    assert features.grad.reshape(2, 2).tolist() == [[1.0, 1.0], [3.0, 1.0]]


def test_jaccard_of_right_and_wrong_maps() -> None:
    inside = torch.tensor([True, True, False, False])
    assert float(jaccard_loss(torch.tensor([1.0, 1.0, 0.0, 0.0]), inside)) == 0.0
    assert float(jaccard_loss(torch.tensor([0.0, 0.0, 1.0, 1.0]), inside)) == 1.0
    assert float(jaccard_loss(torch.tensor([1.0, 1.0, 1.0, 1.0]), inside)) == pytest.approx(0.5)


def test_overlap_is_free_as_far_as_truth_overlaps() -> None:
    a, b = torch.tensor([1.0, 1.0, 0.0]), torch.tensor([0.0, 1.0, 1.0])
    assert float(overlap_excess(a, b, 1 / 3)) == pytest.approx(0.0, abs=1e-6)
    assert float(overlap_excess(a, b, 0.1)) == pytest.approx(1 / 3 - 0.1)
    assert float(overlap_excess(a, 1 - a, 0.0)) == 0.0


def test_multiplier_rises_while_masks_are_worse_than_the_twin_s_and_stays_in_bounds() -> None:
    worse = Multiplier(twin=[(0, 1.0), (100, 1.0)])
    for step in range(400):
        worse.update(step, 2.0)
    assert worse.value == worse.high
    better = Multiplier(twin=[(0, 1.0)])
    for step in range(400):
        better.update(step, 0.2)
    assert better.value == better.low
    kept = Multiplier(twin=[(0, 1.0)])
    kept.update(0, 1.02)
    assert kept.value == pytest.approx(1.0), "at 1.02 times the twin's loss the constraint is just kept"


def test_multiplier_without_a_twin_or_with_a_loss_that_is_not_a_number_stays() -> None:
    alone = Multiplier()
    assert [alone.update(k, 9.0) for k in range(3)] == [1.0, 1.0, 1.0]
    beside = Multiplier(twin=[(0, 1.0)])
    assert beside.update(0, math.nan) == 1.0
    assert beside.average is None


def test_twin_s_curve_is_interpolated() -> None:
    m = Multiplier(twin=[(0, 4.0), (10, 2.0)])
    assert [m.twin_at(s) for s in (0, 5, 10, 99)] == [4.0, 3.0, 2.0, 2.0]


def test_twin_s_curve_is_read_from_its_log(tmp_path: Path) -> None:
    assert run.twin_curve(tmp_path) == []
    (tmp_path / "version_0").mkdir()
    with (tmp_path / "version_0" / "metrics.csv").open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, ["step", "train/segmentation"])
        writer.writeheader()
        writer.writerows([{"step": 9, "train/segmentation": 3.5}, {"step": 19, "train/segmentation": ""}])
    assert run.twin_curve(tmp_path) == [(9, 3.5)]


def test_folding_loses_nothing_and_keeps_neighbours_together() -> None:
    x = torch.arange(2 * 3 * 2 * 4 * 6, dtype=torch.float32).reshape(2, 3, 2, 4, 6)
    folded = fold(x)
    assert folded.shape == (2, 12, 2, 2, 3)
    assert torch.equal(unfold(folded), x)
    # the same blocks as PyTorch's own, slice by slice
    assert torch.equal(folded[:, :, 1], torch.nn.functional.pixel_unshuffle(x[:, :, 1], 2))


def test_voxels_away_from_regions_are_away_from_regions() -> None:
    regions = torch.zeros((4, 40, 40), dtype=torch.uint8)
    regions[1, 10:20, 10:20] = 1
    torch.manual_seed(0)
    index = _outside(regions)
    z, y, x = index // 1600, index // 40 % 40, index % 40
    gap = torch.stack([(10 - y).clamp(min=0) + (y - 19).clamp(min=0), (10 - x).clamp(min=0) + (x - 19).clamp(min=0)])
    near = ((z - 1).abs() <= 1) & (gap.amax(0) <= 2)
    assert len(index) > 3000
    assert not near.any()
    unknown = torch.zeros(regions.shape, dtype=torch.bool)
    unknown[2:] = True
    assert (_outside(regions, unknown) // 1600).max() == 1


def test_where_lesions_are_not_known_no_evidence_is_called_stray(spec: NetworkSpec, items: list[Item]) -> None:
    """An outlined region of a case whose other findings have no outline: only the region itself teaches."""
    item = {k: v.clone() for k, v in next(i for i in items if (i["labels"] >= 0).any()).items()}
    item["lesion"][item["regions_t2w"] == 0] = IGNORE
    batch = default_collate([item])
    for sequence in ("t2w", "adc", "hbv"):
        unknown = _unknown(batch, 0, sequence)
        regions = batch[f"regions_{sequence}"][0]
        assert not (unknown & (regions > 0)).any()
        # the diffusion grids reach beyond the T2W one: there is no prostate
        assert float(unknown.sum()) > 0.7 * float((regions == 0).sum())
    losses = _task(spec, constrained=True).losses(batch, train=False)
    assert all(bool(torch.isfinite(v)) for v in losses.values())


def _task(spec: NetworkSpec, *, constrained: bool) -> RationaleTask:
    torch.manual_seed(0)
    return RationaleTask(spec.to_dict(), load_cached(), constrained=constrained)


def test_the_twin_has_no_say_on_where_evidence_lies(spec: NetworkSpec, items: list[Item]) -> None:
    batch = default_collate(items)
    assert set(_task(spec, constrained=False).losses(batch, train=True)) == {
        "zones", "lesion", "coarse", "apart", "align", "suspicion"
    }  # fmt: skip
    mine = set(_task(spec, constrained=True).losses(batch, train=True))
    assert {"conspicuous", "localise", "exclude", "disentangle", "mirror"} <= mine


def test_concepts_alone_learn_and_masks_stay_to_the_bit(spec: NetworkSpec, items: list[Item]) -> None:
    torch.manual_seed(0)
    task = RationaleTask(spec.to_dict(), load_cached(), frozen=True)
    before = {k: v.clone() for k, v in task.net.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in task.parameters() if p.requires_grad], 0.1)
    losses = task.losses(default_collate(items), train=True)
    assert not {"zones", "lesion", "coarse"} & set(losses)
    for_towers = losses["align"] + losses["conspicuous"]
    for_towers.backward()
    optimizer.step()
    changed = {k for k, v in task.net.state_dict().items() if not torch.equal(v, before[k])}
    assert not [k for k in changed if ".body." in k or k.startswith(("trunk.", "localizer."))]
    for sequence in ("t2w", "adc", "hbv"):
        assert f"stems.{sequence}.tower.leave.weight" in changed
        assert f"stems.{sequence}.conspicuity.weight" in changed
        assert f"stems.{sequence}.embed.weight" in changed


def test_the_twin_s_concepts_learn_alone_without_a_say_on_where_evidence_lies(
    spec: NetworkSpec, items: list[Item]
) -> None:
    task = RationaleTask(spec.to_dict(), load_cached(), frozen=True, constrained=False)
    assert set(task.losses(default_collate(items), train=True)) == {"apart", "align", "suspicion"}


def test_extents_are_those_of_what_a_sequence_shows(spec: NetworkSpec) -> None:
    """A region that is marked on ADC and quiet on high-b has an extent on ADC alone."""
    task = RationaleTask(spec.to_dict(), load_cached())
    ids = [a.id for a in spec.attributes]
    labels = torch.full((1, len(ids)), -1)
    attributes = {a.id: a.values for a in spec.attributes}
    for name, value in (("adc.signal", "marked"), ("hbv.signal", "normal"), ("hbv.pattern", "none")):
        labels[0, ids.index(name)] = attributes[name].index(value)
    parts = {"0 interior": torch.tensor([3, 4]), "0 rim": torch.tensor([5]), "0 context": torch.tensor([3, 4, 5, 6])}
    adc, hbv = (task._extents(s, [0], parts, labels, 9) for s in ("adc", "hbv"))
    assert adc[0].nonzero()[:, 0].tolist() == [3, 4]
    assert not adc[1:].any()
    assert not hbv.any()


def test_a_run_takes_over_what_a_bundle_has(tmp_path: Path, spec: NetworkSpec) -> None:
    from dataclasses import replace

    from safetensors.torch import save_file

    torch.manual_seed(1)
    old = RationaleNet(replace(spec, tower=0))
    folder = tmp_path / "bundle"
    folder.mkdir()
    save_file({k: v.half() for k, v in old.state_dict().items()}, folder / "weights.safetensors")
    new = RationaleNet(spec)
    run.take_over(new, folder)
    for k, v in old.state_dict().items():
        torch.testing.assert_close(new.state_dict()[k], v, atol=1e-3, rtol=1e-3)
    other = RationaleNet(replace(spec, embedding=16))
    with pytest.raises(ValueError, match="bundle"):
        run.take_over(other, folder)
    more = {k: v for k, v in old.state_dict().items() if k != "scale"}
    save_file(more, folder / "weights.safetensors")
    with pytest.raises(ValueError, match="scale"):
        run.take_over(new, folder)


def test_two_scanners_of_one_anatomy_are_compared(spec: NetworkSpec, items: list[Item]) -> None:
    pair = [items[0] | {"twin_of_previous": torch.tensor(False)}, items[0] | {"twin_of_previous": torch.tensor(True)}]
    losses = _task(spec, constrained=True).losses(default_collate(pair), train=True)
    assert float(losses["scanner"].detach()) == pytest.approx(0.0, abs=1e-5), "the same picture has the same evidence"
    pair[1] = pair[1] | {"t2w": 1 - 2 * items[0]["t2w"]}
    losses = _task(spec, constrained=True).losses(default_collate(pair), train=True)
    assert float(losses["scanner"].detach()) > 1e-4


def test_maps_agree_by_their_shape_whatever_their_size() -> None:
    small = torch.zeros(2, 1000)
    small[0, :5] = 0.9  # the second value is shown by nobody
    moved = small.roll(5, 1)
    assert float(_agreement(small, small)) == pytest.approx(1.0)
    assert float(_agreement(small, moved)) == pytest.approx(0.0)
    assert float(torch.nn.functional.mse_loss(small, moved)) < 0.005, "which the mean squared error hardly sees"
    assert float(_agreement(0.1 * small, 0.1 * moved)) == 1.0


class _Counted(Dataset[Item]):
    def __init__(self, items: list[Item]) -> None:
        self.items, self.made = items, 0

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:
        self.made += 1
        return self.items[index]


def test_kept_items_are_made_once_and_are_the_same(items: list[Item], tmp_path: Path) -> None:
    source = _Counted(items)
    kept = run.Kept(source, tmp_path / "kept", "key")
    kept[1]
    again: dict[str, Any] = run.Kept(source, tmp_path / "kept", "key")[1]
    assert source.made == 1
    assert set(again) == set(items[1])
    for name, value in items[1].items():
        assert again[name].dtype == value.dtype
        torch.testing.assert_close(again[name], value, atol=2e-3, rtol=1e-3)
    run.Kept(source, tmp_path / "kept", "other")[1]
    assert source.made == 2, "another set has files of its own"
    assert not list((tmp_path / "kept").glob("*.tmp"))
