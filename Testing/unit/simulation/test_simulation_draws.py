"""The simulation: what was drawn is known, repeats, and lies where it is said to lie."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from numpy.typing import NDArray

from MedRationaleLogic.imaging.volume import Geometry, Volume
from MedRationaleLogic.model.grids import COARSE, DIFFUSION, FINE, GridSpec
from MedRationaleLogic.pirads import lexicon, rules
from MedRationaleLogic.simulation import labels
from MedRationaleLogic.simulation.labels import LabelBank, read_bank, signed_distance
from MedRationaleLogic.simulation.regions import ARCHETYPES, ATTRIBUTES, Region, choose, draw_region, draw_values
from MedRationaleLogic.simulation.sample import sample_bank
from MedRationaleLogic.simulation.study import (
    MAX_REGIONS,
    SimulatedStudy,
    draw_scene,
    points,
    simulate,
    smooth_noise,
)

SEED = 77


@pytest.fixture(scope="module")
def bank() -> LabelBank:
    """Three glands by formula, each of another size."""
    one = sample_bank()
    step = int(4.0 / labels.STEP_MM)
    shifts = np.array([0, step, -step], dtype=np.int16)[:, None, None, None]
    gland, tz = (np.clip(x.astype(np.int16) + shifts, -127, 127).astype(np.int8) for x in (one.gland, one.transition))
    return LabelBank(gland, tz, ("10021", "20000", "20001"))


@pytest.fixture(scope="module")
def studies(bank: LabelBank) -> list[SimulatedStudy]:
    return [simulate(bank, SEED, index) for index in range(4)]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def drawn(bank: LabelBank) -> list[Region]:
    """All regions of many scenes, without a picture."""
    out: list[Region] = []
    for seed in range(60):
        gland, tz = (torch.from_numpy(x[seed % 3]).float() * labels.STEP_MM for x in (bank.gland, bank.transition))
        out += draw_scene(generator(seed), gland, tz).drawn
    return out


# -- determinism -------------------------------------------------------------------------------------------------------


def same(a: SimulatedStudy, b: SimulatedStudy) -> bool:
    pictures = all(
        torch.equal(getattr(a, s).image, getattr(b, s).image)
        and torch.equal(getattr(a, s).regions, getattr(b, s).regions)
        for s in ("t2w", "adc", "hbv")
    )
    values = [r.values for r in a.drawn] == [r.values for r in b.drawn]
    return pictures and values and torch.equal(a.zones, b.zones) and a.offsets == b.offsets and a.patient == b.patient


def test_a_study_is_the_same_whoever_asks_in_whatever_order(bank: LabelBank, studies: list[SimulatedStudy]) -> None:
    torch.manual_seed(123456)
    torch.rand(100)  # no global state takes part
    again = simulate(bank, SEED, 2)

    assert same(again, studies[2])
    assert not same(studies[1], studies[2])
    assert not same(simulate(bank, SEED + 1, 2, coarse=False), studies[2])


def test_the_coarse_picture_does_not_change_the_others(bank: LabelBank, studies: list[SimulatedStudy]) -> None:
    without = simulate(bank, SEED, 1, coarse=False)

    assert without.coarse is None
    assert same(without, studies[1])


# -- values ------------------------------------------------------------------------------------------------------------


def test_attributes_are_the_lexicons() -> None:
    assert {a.id: a.value_ids for a in lexicon.load().attributes} == ATTRIBUTES
    for archetype in ARCHETYPES:
        for attribute, weights in archetype.values.items():
            assert set(weights) <= set(ATTRIBUTES[attribute]), archetype.name
            assert sum(weights.values()) == pytest.approx(1.0), (archetype.name, attribute)


@pytest.mark.parametrize("archetype", ARCHETYPES, ids=lambda a: f"{a.zone} {a.name}")
def test_drawn_values_are_complete_and_consistent(archetype) -> None:  # type: ignore[no-untyped-def]
    g = generator(3)
    for _ in range(60):
        values = draw_values(g, archetype)

        assert set(values) == set(ATTRIBUTES)
        assert all(value in ATTRIBUTES[attribute] for attribute, value in values.items())
        assert values["t2.pattern"] in archetype.values["t2.pattern"]
        if values["t2.capsule"] != "none":
            assert values["t2.margin"] == "circumscribed"
        for sequence in ("adc", "hbv"):
            quiet = values[f"{sequence}.signal"] == "normal"
            assert (values[f"{sequence}.pattern"] == "none") == quiet
        shown = {values["adc.pattern"], values["hbv.pattern"]} - {"none"}
        assert len(shown) <= 1  # one region has one extent on both diffusion images
        if values["t2.pattern"] not in ("focal", "nodule"):
            assert values["t2.capsule"] == "none"


def test_values_are_not_tied_to_their_archetype() -> None:
    """A share is drawn freely: else a network could read one attribute off another."""
    focus = next(a for a in ARCHETYPES if a.name == "suspicious focus" and a.zone == "PZ")
    g = generator(5)
    values = [draw_values(g, focus) for _ in range(400)]

    for attribute in ("t2.signal", "t2.texture", "adc.signal", "hbv.signal"):
        assert {v[attribute] for v in values} == set(ATTRIBUTES[attribute])
    assert Counter(v["adc.signal"] for v in values)["marked"] > 200


def test_scores_and_category_follow_from_the_rules(drawn: list[Region]) -> None:
    assert len(drawn) > 60
    for region in drawn:
        t2w = rules.t2w_score(region.zone, region.values, region.diameter_mm)
        dwi = rules.dwi_score(region.values, region.diameter_mm)

        assert (region.t2w_score, region.dwi_score) == (t2w, dwi)
        assert region.category == rules.overall(region.zone, t2w, dwi, "X")
        assert 2.0 <= region.diameter_mm <= 90.0  # measured where it was drawn


def test_every_category_occurs_in_both_zones(drawn: list[Region]) -> None:
    for zone in ("PZ", "TZ"):
        assert {r.category for r in drawn if r.zone == zone} == {1, 2, 3, 4, 5}
    assert {r.archetype for r in drawn} == {a.name for a in ARCHETYPES}


def test_levels_follow_from_the_signal(drawn: list[Region]) -> None:
    """What is darker in words is darker in the picture, with a gap between the words."""
    order = {
        ("t2.signal", 0): ("moderate_hypo", "mild_hypo", "iso", "hyper"),
        ("adc.signal", 1): ("marked", "altered", "normal"),
        ("hbv.signal", 2): ("normal", "altered", "marked"),
    }
    for (attribute, channel), names in order.items():
        levels = [[r.levels[channel] for r in drawn if r.values[attribute] == name] for name in names]
        assert all(levels), attribute
        for lower, higher in pairwise(levels):
            assert max(lower) < min(higher), attribute


def test_choices_follow_their_weights() -> None:
    g = generator(1)
    count = Counter(choose(g, {"a": 0.7, "b": 0.3, "c": 0.0}) for _ in range(600))

    assert set(count) == {"a", "b"}
    assert count["a"] / 600 == pytest.approx(0.7, abs=0.08)


# -- places ------------------------------------------------------------------------------------------------------------


def test_pictures_have_the_models_grids(studies: list[SimulatedStudy]) -> None:
    for study in studies:
        for picture, spec in ((study.t2w, FINE), (study.adc, DIFFUSION), (study.hbv, DIFFUSION)):
            assert picture.image.shape == picture.regions.shape == spec.shape
            assert picture.image.dtype == torch.float32
            assert picture.regions.dtype == torch.uint8
            assert torch.isfinite(picture.image).all()
            assert float(picture.image.min()) >= 0
            assert float(picture.image.std()) > 0
            assert int(picture.regions.max()) <= len(study.drawn) <= MAX_REGIONS
        assert study.zones.shape == FINE.shape
        assert set(study.zones.unique().tolist()) == {0, 1, 2}
        assert study.coarse is not None
        sequence, image, mask = study.coarse
        assert sequence in (0, 1, 2)
        assert image.shape == mask.shape == COARSE.shape
        assert mask.any()
        assert 0.2 < float(study.adc.image.median()) < 3.5  # 1e-3 mm2/s


def test_regions_lie_in_the_gland_and_those_of_the_pz_in_the_pz(studies: list[SimulatedStudy]) -> None:
    count = 0
    for study in studies:
        for number, region in enumerate(study.drawn, 1):
            where = study.t2w.regions == number
            count += int(where.any())
            assert (study.zones[where] > 0).all()
            if region.values["t2.pattern"] in ("wedge", "linear", "diffuse"):
                assert (study.zones[where] == 1).all()
    assert count >= 3


def test_a_region_is_near_the_point_it_was_drawn_at(studies: list[SimulatedStudy]) -> None:
    for study in studies:
        for number, region in enumerate(study.drawn, 1):
            index = (study.t2w.regions == number).nonzero().float()
            if region.values["t2.pattern"] == "diffuse" or not len(index):
                continue
            half = (torch.tensor(FINE.shape) - 1) / 2
            mm = (index - half) * torch.tensor(FINE.spacing) + torch.tensor(study.offsets["t2w"])
            far = (mm - torch.tensor(region.center)).norm(dim=1)
            assert float(far.min()) < 6.0
            assert float(far.max()) < 1.8 * max(region.radii) + 12.0


def test_both_diffusion_images_share_a_grid_and_its_regions(studies: list[SimulatedStudy]) -> None:
    for study in studies:
        assert study.offsets["adc"] == study.offsets["hbv"]
        assert torch.equal(study.adc.regions, study.hbv.regions)


def test_grid_points_are_centred_on_their_offset() -> None:
    spec = GridSpec((4, 5, 6), (3.0, 2.0, 1.0))
    at = points(spec, (1.0, -2.0, 0.5))

    assert at.shape == (3, 4, 5, 6)
    assert at.reshape(3, -1).mean(1).tolist() == pytest.approx([1.0, -2.0, 0.5])
    assert (at[:, 1, 2, 3] - at[:, 0, 1, 2]).tolist() == pytest.approx([3.0, 2.0, 1.0])


def test_noise_has_unit_variance_and_its_scale() -> None:
    fine, rough = (smooth_noise(generator(2), FINE, mm) for mm in (4.0, 30.0))

    for noise in (fine, rough):
        assert float(noise.mean()) == pytest.approx(0.0, abs=1e-4)
        assert float(noise.std()) == pytest.approx(1.0, abs=1e-2)
    step = [float(noise.diff(dim=2).abs().mean()) for noise in (fine, rough)]
    assert step[0] > 3 * step[1]


def test_a_drawn_region_repeats_with_its_generator() -> None:
    one, two = (draw_region(generator(9), ARCHETYPES[0], (0.0, 10.0, 12.0)) for _ in range(2))

    assert one.values == two.values
    assert (one.radii, one.levels, one.diameter_mm) == (two.radii, two.levels, two.diameter_mm)
    assert torch.equal(one.waves, two.waves)


# -- label maps --------------------------------------------------------------------------------------------------------


def test_a_bank_survives_its_file(bank: LabelBank, tmp_path: Path) -> None:
    bank.save(tmp_path / "bank.npz")
    again = LabelBank.load(tmp_path / "bank.npz")

    assert again.patients == bank.patients
    assert np.array_equal(again.gland, bank.gland)
    assert np.array_equal(again.transition, bank.transition)
    assert again.sha256 == bank.sha256


def test_a_bank_without_patients_has_none_of_their_maps(bank: LabelBank) -> None:
    rest = bank.without(("20000", "not in the bank"))

    assert rest.patients == ("10021", "20001")
    assert len(rest) == 2
    assert np.array_equal(rest.gland, bank.gland[[0, 2]])
    assert np.array_equal(rest.transition, bank.transition[[0, 2]])
    assert rest.sha256 != bank.sha256
    assert len(bank) == 3
    assert simulate(bank.without(("10021", "20001")), SEED, 0, coarse=False).patient == "20000"


def zone_map(radius: float = 21.0, tz_radius: float = 12.0, shape: tuple[int, int, int] = (24, 60, 64)) -> Volume:
    """A ball of gland with a ball of TZ, off the grid's middle, on a 3 x 1 x 1 mm grid."""
    geometry = Geometry(shape, (3.0, 1.0, 1.0), (5.0, -40.0, 12.0))
    at = geometry.to_patient(np.moveaxis(np.indices(shape), 0, -1))
    far = np.linalg.norm(at - geometry.center - (3.0, -2.0, 0.0), axis=-1)
    return Volume(np.where(far <= tz_radius, 2, np.where(far <= radius, 1, 0)).astype(np.uint8), geometry)


def written(path: Path, array: NDArray[np.uint8], like: Volume) -> Path:
    sitk.WriteImage(like.with_array(array).to_sitk(), str(path))
    return path


def test_zone_maps_become_centred_distances(tmp_path: Path) -> None:
    zones = zone_map()
    swapped = np.array([0, 2, 1], np.uint8)[zones.array]
    files = [
        written(tmp_path / "30_1.nii.gz", zones.array, zones),
        written(tmp_path / "31_1.nii.gz", swapped, zones),
        written(tmp_path / "32_1.nii.gz", np.zeros_like(zones.array), zones),
    ]
    bank = read_bank(files, swapped=[files[1]])
    at = points(GridSpec(labels.SHAPE, labels.SPACING), (0.0, 0.0, 0.0)).numpy()
    far = np.linalg.norm(at, axis=0)

    assert bank.patients == ("30", "31")
    assert np.array_equal(bank.gland[0], bank.gland[1])
    assert np.array_equal(bank.transition[0], bank.transition[1])
    near = far < 28
    for maps, radius in ((bank.gland[0], 21.0), (bank.transition[0], 12.0)):
        error = maps * labels.STEP_MM - (far - radius)
        assert np.abs(error[near]).mean() < 1.2
        assert ((maps < 0) == (far < radius))[np.abs(far - radius) > 3.0].all()


def test_a_zone_map_means_the_same_however_its_axes_are_stored(tmp_path: Path) -> None:
    zones = zone_map()
    lopsided = zones.array.copy()
    lopsided[:, lopsided.shape[1] // 2 :, : lopsided.shape[2] // 3] = 0
    files = [written(tmp_path / "30_1.nii.gz", lopsided, zones)]
    for number, axes in ((31, "RAS"), (32, "LPI"), (33, "SAR")):
        files.append(tmp_path / f"{number}_1.nii.gz")
        sitk.WriteImage(sitk.DICOMOrient(zones.with_array(lopsided).to_sitk(), axes), str(files[-1]))
    bank = read_bank(files)
    assert len(bank) == 4
    for k in range(1, 4):
        assert np.array_equal(bank.gland[0], bank.gland[k])
        assert np.array_equal(bank.transition[0], bank.transition[k])
    assert not np.array_equal(bank.gland[0], bank.gland[0][:, ::-1])


def test_no_gland_at_all_is_an_error(tmp_path: Path) -> None:
    zones = zone_map()
    empty = written(tmp_path / "32_1.nii.gz", np.zeros_like(zones.array), zones)

    with pytest.raises(ValueError, match="no zone map with a gland was found; expected NIfTI"):
        read_bank([empty])


def test_distances_are_millimetres_and_negative_inside() -> None:
    mask = np.zeros((5, 9, 9), dtype=bool)
    mask[:, 2:7, 2:7] = True
    d = signed_distance(mask, (3.0, 0.5, 2.0))

    assert d[2, 4, 4] == pytest.approx(-1.5)
    assert d[2, 0, 4] == pytest.approx(1.0)
    assert d[2, 4, 8] == pytest.approx(4.0)
    assert ((d < 0) == mask).all()
    assert (signed_distance(np.zeros((2, 3, 3), dtype=bool), (1.0, 1.0, 1.0)) == 100.0).all()
    assert math.isfinite(float(d.sum()))
