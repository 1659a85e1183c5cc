"""The peer of the comparison: shapes, a short run with its milestones, and its Grad-CAM."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset

from MedRationaleLogic.model.grids import FINE
from MedRationaleLogic.model.network import spec_from_lexicon
from MedRationaleLogic.simulation.sample import sample_bank
from MedRationaleLogic.training import baseline
from MedRationaleLogic.training.data import Item, SimulatedSet

CHANNELS = (4, 8, 8, 8, 8, 8)


class Once(Dataset[Item]):
    """One item, as often as asked."""

    def __init__(self, item: Item, count: int) -> None:
        self.item, self.count = item, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Item:
        return self.item


@pytest.fixture(scope="module")
def item() -> Item:
    return SimulatedSet(sample_bank(), spec_from_lexicon(), 3, 1, first=5)[0]


@pytest.fixture(scope="module")
def run(item: Item, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unet")
    baseline.train(folder, Once(item, 4), steps=4, batch=1, workers=0, precision="32-true", channels=CHANNELS)
    return folder


def test_a_run_leaves_its_learning_curve(run: Path) -> None:
    steps = [torch.load(run / f"{n}.ckpt", weights_only=True)["global_step"] for n in ("quarter", "half", "last")]
    assert steps == [1, 2, 4]


def test_it_predicts_on_the_fine_grid(run: Path, item: Item) -> None:
    zones, lesion = baseline.predict(baseline.load(run / "last.ckpt"), item)
    assert zones.shape == lesion.shape == FINE.shape
    assert set(zones.unique().tolist()) <= {0, 1, 2}
    assert 0 <= float(lesion.min()) <= float(lesion.max()) <= 1


def test_an_absent_sequence_is_not_looked_at(run: Path, item: Item) -> None:
    net = baseline.load(run / "last.ckpt")
    one = item | {"presence": torch.tensor([1.0, 0.0, 1.0])}
    other = one | {"adc": torch.randn_like(item["adc"])}
    assert torch.equal(baseline.predict(net, one)[1], baseline.predict(net, other)[1])


def test_grad_cam_speaks_for_a_region_or_not_at_all(run: Path, item: Item) -> None:
    net = baseline.load(run / "last.ckpt")
    region = torch.zeros(FINE.shape, dtype=torch.bool)
    assert not baseline.grad_cam(net, item, region).any()  # nothing asked, nothing shown
    region[10:12, 30:40, 30:40] = True
    heat = baseline.grad_cam(net, item, region)
    assert heat.shape == FINE.shape
    assert torch.isfinite(heat).all()
    assert float(heat.min()) >= 0
    assert float(heat.max()) == pytest.approx(1.0), "it speaks for this one"
