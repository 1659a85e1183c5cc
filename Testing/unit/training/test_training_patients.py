"""No patient who is measured on lends his own gland to the simulation; a real case drawn as it is stays what it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from MedRationaleLogic.model.grids import COARSE, DIFFUSION, FINE
from MedRationaleLogic.model.network import spec_from_lexicon
from MedRationaleLogic.simulation.labels import LabelBank
from MedRationaleLogic.simulation.sample import sample_bank
from MedRationaleLogic.training import fit, run, ship
from MedRationaleLogic.training.data import IGNORE, WIDE, RealCase, RealSet
from MedRationaleLogic.training.run import HELD_OUT


@pytest.fixture
def bank_file(tmp_path: Path) -> Path:
    """Maps of every held-out patient, two of one of them, and of three others, the last of the validation share."""
    patients = (*HELD_OUT, HELD_OUT[0], "20000", "20001", "20002")
    one = sample_bank()
    bank = LabelBank(
        np.repeat(one.gland, len(patients), axis=0), np.repeat(one.transition, len(patients), axis=0), patients
    )
    bank.save(tmp_path / "bank.npz")
    return tmp_path / "bank.npz"


def test_no_training_run_draws_a_held_out_patient(
    bank_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def note(output: Path, dataset: Any, *given: Any, **more: Any) -> Path:
        seen.append(dataset.simulated.bank.patients)
        return output / "last.ckpt"

    monkeypatch.setattr(run, "train", note)
    (tmp_path / "out").mkdir()
    run.main(["base", "--bank", str(bank_file), "--output", str(tmp_path / "out"), "--steps", "4", "--threads", "1"])

    assert seen == [("20000", "20001")]
    assert '"maps": 2' in (tmp_path / "out" / "run.json").read_text(encoding="utf-8")


def test_calibration_draws_no_held_out_patient_either(
    bank_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, ...]] = []

    class StopHereError(Exception):
        pass

    def note(checkpoint: Path, bank: LabelBank, *given: Any, **more: Any) -> None:
        seen.append(bank.patients)
        raise StopHereError

    monkeypatch.setattr(ship, "ship", note)
    with pytest.raises(StopHereError):
        ship.main(
            [
                "--checkpoint",
                "none.ckpt",
                "--bank",
                str(bank_file),
                "--output",
                str(tmp_path / "b-0.1"),
                "--threads",
                "1",
            ]
        )
    assert seen == [("20002",)]


def test_a_fine_tune_on_given_maps_leaves_the_test_cohort_unseen(bank_file: Path, tmp_path: Path) -> None:
    settings = fit.Settings(tmp_path, tmp_path / "run", labels=bank_file)
    train, validation = fit._maps(settings)
    assert train.patients == ("20000", "20001")
    assert validation.patients == ("20002",)

    whole = LabelBank.load(bank_file)
    whole.without(("20002",)).save(bank_file)  # none is left to validate on
    for maps in fit._maps(settings):
        assert maps.patients == ("20000", "20001")
    whole.without(("20000", "20001", "20002")).save(bank_file)
    with pytest.raises(fit.TrainingError, match=r"bank\.npz: all its maps are of patients"):
        fit._maps(settings)


# -- real cases --------------------------------------------------------------------------------------------------------


def made_up(names: tuple[str, ...], zones: int) -> RealCase:
    """A case with a box of gland, brighter in all its sequences."""
    at = torch.zeros(WIDE["t2w"].shape, dtype=torch.uint8)
    at[10:22, 60:108, 54:114] = 1

    def image(name: str) -> torch.Tensor:
        g = torch.Generator().manual_seed(len(name))
        return 400 + 100 * torch.rand(WIDE[name].shape, generator=g)

    images = {n: image(n) for n in names}
    images[names[0]][:5] = torch.nan
    coarse = torch.zeros(WIDE["coarse"].shape, dtype=torch.uint8)
    coarse[10:22, 38:54, 36:56] = 1
    return RealCase(
        name="made up", patient="", images=images, zones=at * zones,
        lesion=torch.full(at.shape, IGNORE, dtype=torch.uint8), coarse={n: image("coarse") for n in names},
        coarse_gland=coarse,
    )  # fmt: skip


def test_a_case_as_it_is_is_its_middle() -> None:
    case = made_up(("t2w", "adc", "hbv"), 1)
    spec = spec_from_lexicon()
    for index in range(4):  # whatever was drawn: neither mirrored, moved, bent nor recoloured
        item = RealSet([case], spec, 5, 4, strength=0.0)[index]
        low = [(a - b) // 2 for a, b in zip(WIDE["t2w"].shape, FINE.shape, strict=True)]
        crop = tuple(slice(a, a + n) for a, n in zip(low, FINE.shape, strict=True))
        known = torch.isfinite(case.images["t2w"][crop])

        assert torch.equal(item["zones"][known], case.zones[crop][known])
        assert (item["zones"][~known] == IGNORE).all()
        assert (item["lesion"] == IGNORE).all()
        assert (item["t2w"][0][~known] == 0).all()
        assert torch.equal(item["presence"], torch.ones(3))
        assert not bool(item["gland_only"])
        assert torch.allclose(item["theta_adc"], item["theta_hbv"])


@pytest.mark.parametrize("names", [("t2w",), ("adc", "hbv")])
def test_a_case_without_a_sequence_says_so(names: tuple[str, ...]) -> None:
    item = RealSet([made_up(names, 3)], spec_from_lexicon(), 5, 2)[0]

    assert item["presence"].tolist() == [float(n in names) for n in ("t2w", "adc", "hbv")]
    assert bool(item["gland_only"])
    assert set(item["zones"].unique().tolist()) <= {0, 3, IGNORE}
    assert int(item["coarse_sequence"]) in [("t2w", "adc", "hbv").index(n) for n in names]
    assert item["t2w"].shape == (1, *FINE.shape)
    assert item["adc"].shape == item["hbv"].shape == (1, *DIFFUSION.shape)
    assert item["coarse"].shape == (1, *COARSE.shape)
    for name in ("t2w", "adc", "hbv"):
        assert bool(item[name].any()) == (name in names)
        assert torch.isfinite(item[name]).all()


def test_augmented_draws_repeat_and_differ() -> None:
    data = RealSet([made_up(("t2w", "adc"), 1)], spec_from_lexicon(), 5, 4)
    one, again, other = data[0], data[0], data[1]

    assert all(torch.equal(one[k], again[k]) for k in one)
    assert not torch.equal(one["t2w"], other["t2w"])
    moved = RealSet([made_up(("t2w", "adc"), 1)], spec_from_lexicon(), 5, 3, first=1)
    assert torch.equal(moved[0]["t2w"], other["t2w"])
