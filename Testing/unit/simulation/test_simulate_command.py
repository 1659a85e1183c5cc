"""``medrationale simulate``: what it writes, every reader opens, and the truth comes back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import typer

from MedRationaleLogic.commands.simulate import label_bank, simulate
from MedRationaleLogic.imaging.study import read_study
from MedRationaleLogic.model.grids import FINE
from MedRationaleLogic.pirads import rules
from MedRationaleLogic.simulation import files, study
from MedRationaleLogic.simulation.cohort import CohortError, load_bank
from MedRationaleLogic.simulation.sample import sample_bank

SEED = 4
COUNT = 3


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set") / "new" / "studies"
    simulate(folder, n=COUNT, seed=SEED, quiet=True)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_every_study_opens_with_its_b_value(written: Path) -> None:
    folders = sorted(p for p in written.iterdir() if p.is_dir())
    assert [p.name for p in folders] == ["study0000", "study0001", "study0002"]
    for folder in folders:
        found = read_study(folder)
        truth = json.loads((folder / files.TRUTH).read_text(encoding="utf-8"))

        assert found.roles == ("t2w", "adc", "hbv")
        assert found.headers["hbv"].b_value == truth["b_value"]
        assert found.t2w is not None
        assert found.adc is not None
        assert found.t2w.geometry.shape == FINE.shape
        assert found.t2w.geometry.spacing == pytest.approx(FINE.spacing)
        assert 300 < np.median(found.adc.array) < 3000  # 1e-6 mm2/s


def test_the_truth_comes_back(written: Path) -> None:
    for index in range(COUNT):
        folder = written / f"study{index:04d}"
        truth = json.loads((folder / files.TRUTH).read_text(encoding="utf-8"))
        drawn = study.simulate(sample_bank(), SEED, index, coarse=False)
        masks = {n: sitk.ReadImage(str(folder / f"{n}.nii.gz")) for n in ("regions", "lesions", "zones")}
        arrays = {n: sitk.GetArrayFromImage(m) for n, m in masks.items()}

        assert np.array_equal(arrays["regions"], drawn.t2w.regions.numpy())
        assert np.array_equal(arrays["zones"], drawn.zones.numpy())
        assert [r["values"] for r in truth["regions"]] == [r.values for r in drawn.drawn]
        for number, (row, region) in enumerate(zip(truth["regions"], drawn.drawn, strict=True), 1):
            mask = arrays["regions"] == number
            assert row["category"] == rules.overall(row["zone"], row["t2w_score"], row["dwi_score"], "X")
            assert row["volume_ml"] == pytest.approx(mask.sum() * np.prod(FINE.spacing) / 1000, abs=1e-3)
            assert row["extents"]["interior"] == mask.sum() < row["extents"]["context"]
            assert ((arrays["lesions"] == number) == (mask & (region.category >= 4))).all()
            # the centre is a patient point of the mask's own box, a little wider
            at = np.array([masks["regions"].TransformIndexToPhysicalPoint(tuple(map(int, v[::-1])))
                           for v in np.argwhere(mask)])  # fmt: skip
            assert (at.min(0) - 12 < row["center_lps_mm"]).all()
            assert (row["center_lps_mm"] < at.max(0) + 12).all()
        assert set(truth["extents"]["attributes"].values()) == {"interior", "rim", "context"}


def test_images_hold_what_was_drawn(written: Path) -> None:
    drawn = study.simulate(sample_bank(), SEED, 0, coarse=False)
    adc = sitk.GetArrayFromImage(sitk.ReadImage(str(written / "study0000" / "adc.nii.gz")))

    assert np.abs(adc - 1000.0 * drawn.adc.image.numpy()).max() <= 0.5 + 1e-3


def test_the_same_bytes_for_any_number_of_workers(written: Path, tmp_path: Path) -> None:
    files.write_set(tmp_path / "again", sample_bank(), SEED, COUNT, workers=2)

    assert contents(tmp_path / "again") == contents(written)


def test_a_later_study_and_another_scanner(written: Path, tmp_path: Path) -> None:
    simulate(tmp_path / "one", n=1, seed=SEED, first=2, quiet=True)
    simulate(tmp_path / "two", n=1, seed=SEED, first=2, scanner=1, quiet=True)
    whole, one, two = contents(written), contents(tmp_path / "one"), contents(tmp_path / "two")

    assert one["study0002/t2w.nii.gz"] == whole["study0002/t2w.nii.gz"] != two["study0002/t2w.nii.gz"]
    assert one["study0002/regions.nii.gz"] == two["study0002/regions.nii.gz"]


def test_nothing_of_somebody_elses_is_touched(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")

    with pytest.raises(files.SimulatedSetError, match="is not empty; give a new or empty folder"):
        simulate(tmp_path, n=1, quiet=True)
    with pytest.raises(files.SimulatedSetError, match="is a file; give a new or empty folder"):
        simulate(tmp_path / "mine.txt", n=1, quiet=True)
    assert contents(tmp_path) == {"mine.txt": b"mine"}


def test_nothing_is_left_of_a_set_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_study", full)
    with pytest.raises(files.SimulatedSetError, match="No space left on device"):
        simulate(tmp_path / "set", n=2, quiet=True)
    assert list(tmp_path.iterdir()) == []


def test_json_says_what_was_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simulate(tmp_path / "set", n=1, seed=SEED, as_json=True)
    printed = json.loads(capsys.readouterr().out)
    record = json.loads((tmp_path / "set" / files.RECORD).read_text(encoding="utf-8"))

    assert printed["studies"] == 1
    assert printed["sha256"] == record["sha256"]
    assert sum(printed["regions_by_category"].values()) == len(record["studies"][0]["categories"])


def test_label_maps_from_a_folder_a_pack_or_a_formula(written: Path, tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.mkdir()
    (maps / "77_1.nii.gz").write_bytes((written / "study0000" / "zones.nii.gz").read_bytes())
    folder = label_bank(maps)
    folder.save(tmp_path / "pack.npz")

    assert folder.patients == ("77",)
    assert label_bank(tmp_path / "pack.npz").sha256 == folder.sha256
    assert label_bank(None).sha256 == sample_bank().sha256


def test_bad_labels_are_named(tmp_path: Path) -> None:
    (tmp_path / "pack.npz").write_bytes(b"no pack")
    (tmp_path / "maps").mkdir()

    for source, text in (
        (tmp_path / "nothing", "is not there"),
        (tmp_path / "maps", "holds no zone map"),
        (tmp_path / "pack.npz", "is no packed set"),
    ):
        with pytest.raises(typer.BadParameter, match=text):
            label_bank(source)
    sample_bank().save(tmp_path / "whole.npz")
    whole = (tmp_path / "whole.npz").read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 3 : len(whole) // 3 + 8] = bytes(x ^ 255 for x in whole[len(whole) // 3 :][:8])
    for damaged in (whole[: len(whole) // 2], bytes(flipped)):
        (tmp_path / "pack.npz").write_bytes(damaged)
        with pytest.raises(typer.BadParameter, match="is no packed set"):
            label_bank(tmp_path / "pack.npz")
        with pytest.raises(CohortError, match=r"pack\.npz: expected label maps"):
            load_bank(tmp_path / "pack.npz")
    (tmp_path / "maps" / "5_1.nii.gz").write_bytes(b"broken")
    with pytest.raises(typer.BadParameter, match="maps"):
        label_bank(tmp_path / "maps")
