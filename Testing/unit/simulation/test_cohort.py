"""Shares of patients, scanners, the fit to real lesions, and the frozen cohort."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from MedRationaleLogic.model.grids import FINE
from MedRationaleLogic.simulation import cohort, labels, lesions
from MedRationaleLogic.simulation.cohort import (
    Cohort,
    CohortError,
    freeze,
    hash_study,
    load_bank,
    load_cohort,
    split_bank,
)
from MedRationaleLogic.simulation.labels import LabelBank
from MedRationaleLogic.simulation.regions import Region
from MedRationaleLogic.simulation.sample import sample_bank
from MedRationaleLogic.simulation.scanner import SCANNERS
from MedRationaleLogic.simulation.study import SimulatedStudy, draw_scene, simulate

SEED = 31


def bank_of(patients: tuple[str, ...]) -> LabelBank:
    """Glands by formula of several sizes."""
    one = sample_bank()
    shift = (np.arange(len(patients)) % 3 - 1).astype(np.int16)[:, None, None, None] * int(3.0 / labels.STEP_MM)
    gland, tz = (np.clip(m.astype(np.int16) + shift, -127, 127).astype(np.int8) for m in (one.gland, one.transition))
    return LabelBank(gland, tz, patients)


@pytest.fixture(scope="module")
def bank() -> LabelBank:
    return bank_of(("1", "2", "3"))


@pytest.fixture(scope="module")
def frozen(bank: LabelBank) -> Cohort:
    return freeze(bank, "tiny", SEED, 3)


@pytest.fixture(scope="module")
def scenes(bank: LabelBank) -> list[list[Region]]:
    """The regions of many studies, without a picture."""
    out = []
    for number in range(80):
        gland, tz = (torch.from_numpy(m[number % 3]).float() * labels.STEP_MM for m in (bank.gland, bank.transition))
        out.append(draw_scene(torch.Generator().manual_seed(number), gland, tz).drawn)
    return out


def distance(a: list[float], b: list[float]) -> float:
    """Kolmogorov-Smirnov distance of two samples."""
    x, y, at = np.sort(a), np.sort(b), np.sort([*a, *b])
    return float(np.abs(np.searchsorted(x, at, "right") / len(x) - np.searchsorted(y, at, "right") / len(y)).max())


# -- shares ------------------------------------------------------------------------------------------------------------


def test_shares_are_patient_disjoint_and_hold_what_they_say() -> None:
    patients = tuple(str(10_000 + n // 2) for n in range(1200))  # two maps a patient
    blank = np.zeros((len(patients), 1, 1, 1), np.int8)
    parts = split_bank(LabelBank(blank, blank, patients))

    assert sum(map(len, parts)) == len(patients)
    sets = [set(part.patients) for part in parts]
    assert len(set.union(*sets)) == sum(map(len, sets))
    for found, wanted in zip(sets, cohort.SHARES, strict=True):
        assert len(found) / 600 == pytest.approx(wanted, abs=0.04)


def test_leaving_patients_out_moves_nobody_else() -> None:
    patients = tuple(str(n) for n in range(300))
    blank = np.zeros((len(patients), 1, 1, 1), np.int8)
    whole = LabelBank(blank, blank, patients)

    for before, after in zip(split_bank(whole), split_bank(whole.without({"5", "17"})), strict=True):
        assert set(before.patients) - {"5", "17"} == set(after.patients)


# -- what is drawn -----------------------------------------------------------------------------------------------------


def test_the_quantiles_give_the_measured_distribution() -> None:
    g = torch.Generator().manual_seed(1)
    volumes = [lesions.draw_volume(g) for _ in range(2000)]

    assert np.quantile(volumes, [0.1, 0.5, 0.9]) == pytest.approx([0.238, 1.077, 7.791], rel=0.15)
    assert min(volumes) >= 0.059
    assert max(volumes) <= 71.03
    assert max(lesions.draw_volume(g, 0.9) for _ in range(200)) <= 7.8
    shares = np.array([lesions.draw_pz_share(g, 0.4) for _ in range(500)])
    large = np.array([lesions.draw_pz_share(g, 20.0) for _ in range(500)])
    assert ((shares >= 0) & (shares <= 1)).all()
    assert shares.mean() > large.mean() + 0.3  # large lesions fill the TZ
    assert Counter(lesions.draw_number(g) for _ in range(600))[1] > 520


def test_half_of_the_studies_have_a_suspicious_region_and_every_category_occurs(scenes: list[list[Region]]) -> None:
    positive = [any(r.category >= 4 for r in drawn) for drawn in scenes]
    count = Counter(r.category for drawn in scenes for r in drawn)

    assert 0.35 < np.mean(positive) < 0.65
    assert set(count) == {1, 2, 3, 4, 5}
    assert sum(count.values()) / len(scenes) > 1.5
    assert all(1000 * count[c] / len(scenes) >= 50 for c in count)


def test_lesions_show_the_volume_that_was_drawn(bank: LabelBank, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kolmogorov-Smirnov distance of what is visible on the fine grid to what real masks have."""
    wanted: list[float] = []
    draw = lesions.draw_volume

    def recorded(g: torch.Generator, highest: float = 1.0) -> float:
        volume = draw(g, min(highest, 0.9))  # the procedural gland has no room for the largest tenth
        if highest == 1.0:
            wanted.append(volume)
        return volume

    monkeypatch.setattr(lesions, "draw_volume", recorded)
    seen = []
    for index in range(12):
        study = simulate(bank, SEED, index, coarse=False)
        for number, region in enumerate(study.drawn, 1):
            if region.category >= 4:
                voxels = int((study.t2w.regions == number).sum())
                seen.append(voxels * float(np.prod(FINE.spacing)) / 1000.0)

    assert len(seen) >= 4
    assert distance(seen, wanted) <= 0.3
    assert distance([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) == 0.0
    assert distance([1.0, 2.0], [3.0, 4.0]) == 1.0


# -- scanners ----------------------------------------------------------------------------------------------------------


def equal(a: SimulatedStudy, b: SimulatedStudy) -> bool:
    return all(torch.equal(getattr(a, s).image, getattr(b, s).image) for s in ("t2w", "adc", "hbv"))


@pytest.mark.parametrize(("scanner", "domain"), [(1, "seen"), (0, "unseen")])
def test_the_same_anatomy_by_another_scanner(bank: LabelBank, scanner: int, domain: str) -> None:
    index = next(i for i in range(9) if simulate(bank, SEED, i, coarse=False).drawn)
    one = simulate(bank, SEED, index)
    two = simulate(bank, SEED, index, scanner=scanner, domain=domain)  # type: ignore[arg-type]

    assert torch.equal(one.t2w.regions, two.t2w.regions)
    assert torch.equal(one.zones, two.zones)
    assert one.offsets == two.offsets
    assert [(r.values, r.center, r.levels) for r in one.drawn] == [(r.values, r.center, r.levels) for r in two.drawn]
    assert not torch.equal(one.t2w.image, two.t2w.image)
    assert not torch.equal(one.adc.image, two.adc.image)
    again = simulate(bank, SEED, index, scanner=scanner, domain=domain, coarse=False)  # type: ignore[arg-type]
    assert equal(two, again)


def test_unseen_scanners_lie_outside_of_the_seen_ranges() -> None:
    seen, unseen = SCANNERS["seen"], SCANNERS["unseen"]

    for name in ("muscle", "fat", "bias", "blur", "noise", "spread", "signal_noise", "adc_noise"):
        (a, b), (c, d) = getattr(seen, name), getattr(unseen, name)
        assert c >= b or d <= a, name
    assert not set(seen.b_values) & set(unseen.b_values)
    low, high = seen.gamma[0]
    assert all(d < low or c > high for c, d in unseen.gamma)


def test_a_study_does_not_depend_on_the_number_of_threads(bank: LabelBank) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        two = simulate(bank, SEED, 1, coarse=False)
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        assert equal(two, simulate(bank, SEED, 1, coarse=False))
    finally:
        torch.set_num_threads(before)


def test_bad_arguments_are_named(bank: LabelBank) -> None:
    with pytest.raises(ValueError, match="unknown domain 'mars'; expected one of seen, unseen"):
        simulate(bank, SEED, 0, domain="mars")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no label map"):
        simulate(bank.without(bank.patients), SEED, 0)


# -- the frozen cohort -------------------------------------------------------------------------------------------------


def test_a_cohort_survives_its_file_and_verifies(bank: LabelBank, frozen: Cohort, tmp_path: Path) -> None:
    frozen.save(tmp_path / "tiny.json")
    again = load_cohort(tmp_path / "tiny.json")

    assert again == frozen
    assert again.verify(bank, [0, 2]) == {}
    assert frozen.counts["studies"] == 3
    assert sum(frozen.counts["regions_by_category"].values()) == frozen.counts["regions"]


def test_a_difference_is_found_and_named(bank: LabelBank, frozen: Cohort) -> None:
    one = frozen.studies[0]
    drawn = replace(frozen, studies=(replace(one, drawn="0" * 16), *frozen.studies[1:]))
    images = replace(frozen, studies=(replace(one, images="0" * 16), *frozen.studies[1:]))

    assert drawn.verify(bank, [0]) == {0: "drawn"}
    assert images.verify(bank, [0]) == {0: "images"}
    with pytest.raises(ValueError, match="not those of the cohort tiny"):
        frozen.verify(bank.without({"2"}))
    with pytest.raises(ValueError, match=r"frozen with simulation 0\.0\.1"):
        replace(frozen, version="0.0.1").verify(bank)


def test_the_hash_sees_a_voxel_and_a_value(bank: LabelBank) -> None:
    index = next(i for i in range(9) if simulate(bank, SEED, i, coarse=False).drawn)
    study = simulate(bank, SEED, index, coarse=False)
    before = hash_study(study)
    study.t2w.image[3, 4, 5] += 0.01
    after = hash_study(study)
    study.drawn[0] = replace(study.drawn[0], zone="TZ" if study.drawn[0].zone == "PZ" else "PZ")

    assert (after.drawn, after.images == before.images) == (before.drawn, False)
    assert hash_study(study).drawn != before.drawn


def test_a_file_that_is_no_cohort_is_refused(frozen: Cohort, tmp_path: Path) -> None:
    frozen.save(tmp_path / "tiny.json")
    text = (tmp_path / "tiny.json").read_text(encoding="utf-8")
    (tmp_path / "cut.json").write_text(text[:200], encoding="utf-8")
    (tmp_path / "other.json").write_text(text.replace(frozen.studies[0].drawn, "0" * 16), encoding="utf-8")

    with pytest.raises(ValueError, match=r"cut\.json: expected a cohort"):
        load_cohort(tmp_path / "cut.json")
    with pytest.raises(ValueError, match=r"other\.json: its hashes do not belong together"):
        load_cohort(tmp_path / "other.json")
    with pytest.raises(FileNotFoundError, match=r"there is no cohort nowhere; .*simulated-test-1"):
        load_cohort("nowhere")
    with pytest.raises(FileNotFoundError, match=r"there is no cohort .*nowhere\.json"):
        load_cohort(tmp_path / "nowhere.json")


def test_what_is_no_file_of_label_maps_is_refused(bank: LabelBank, tmp_path: Path) -> None:
    bank.save(tmp_path / "labels.npz")
    assert load_bank(tmp_path / "labels.npz").sha256 == bank.sha256
    (tmp_path / "notes.npz").write_text("remember the milk", encoding="utf-8")
    with pytest.raises(CohortError, match=r"notes\.npz: expected label maps .*it is no \.npz$"):
        load_bank(tmp_path / "notes.npz")
    np.savez(tmp_path / "other.npz", gland=np.zeros(3))
    with pytest.raises(CohortError, match=r"other\.npz: expected label maps"):
        load_bank(tmp_path / "other.npz")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npz is not a file"):
        load_bank(tmp_path / "nowhere.npz")


def test_the_test_cohort_is_what_the_results_ask_for() -> None:
    test = load_cohort()

    assert test.version == "0.2.0"
    assert test.count == len(test.studies) >= 1000
    assert test.counts["studies_with_category_4_or_5"] / test.count == pytest.approx(0.5, abs=0.05)
    assert all(test.counts["regions_by_category"][str(c)] >= 50 for c in range(1, 6))
