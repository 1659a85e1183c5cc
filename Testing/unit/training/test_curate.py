"""Every public layout becomes triples with the right meaning; what cannot be used is named, counted and left out."""

from __future__ import annotations

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

from MedRationaleLogic import cli
from MedRationaleLogic.imaging.study import Study
from MedRationaleLogic.simulation import files
from MedRationaleLogic.simulation.sample import sample_bank
from MedRationaleLogic.training import curate as curating
from MedRationaleLogic.training import layouts
from MedRationaleLogic.training.curate import curate
from MedRationaleLogic.training.data import IGNORE
from MedRationaleLogic.training.items import wide_case
from MedRationaleLogic.training.triples import (
    HEADER,
    RATIONALE,
    Document,
    OutputError,
    Region,
    Triple,
    TripleError,
    TripleSet,
    TripleWriter,
    split_of,
)
from Testing.dicom_factory import DicomStudy
from Testing.unit.case.fake_explainer import opened
from Testing.unit.training import layout_factory as made

REPORT = """PSA 7.1 ng/mL.
Lesion 1: left mid PZpl, 10 x 9 mm. T2W: circumscribed, homogeneous moderate hypointense focus. T2W score 4.
Markedly hypointense on ADC and markedly hyperintense on high b-value DWI. DWI score 4. PI-RADS 4.
Lesion 2: right mid TZ, 9 mm. T2W score 2. DWI score 2. PI-RADS 2.
"""


def triples_of(root: Path, layout: str, output: Path, **options: object) -> TripleSet:
    assert layouts.detect(root) == layout
    return curate(layouts.LAYOUTS[layout](root, None), output, facts={"layout": layout}, **options)  # type: ignore[arg-type]


def by_id(triples: TripleSet) -> dict[str, Triple]:
    return {t.id: t for t in triples}


def test_picai(tmp_path: Path) -> None:
    found = by_id(triples_of(made.picai(tmp_path / "picai"), "picai", tmp_path / "out"))
    assert set(found) == {"10001_1000001", "10002_1000002", "10003_1000003"}
    positive, negative, unlabelled = (found[k] for k in sorted(found))
    assert (positive.patient, positive.study, positive.roles) == ("10001", "1000001", ("t2w", "adc", "hbv"))
    assert (positive.positives, negative.positives, unlabelled.positives) == (1, 0, 0)
    assert [t.document().complete for t in (positive, negative, unlabelled)] == [True, True, False]
    assert np.array_equal(positive.read("zones").array, made.gland())
    region = positive.document().regions[0]
    assert (region.zone, region.category, region.positive) == ("PZ", None, True)
    assert region.values
    assert set(region.status.values()) == {"silver"}
    assert np.array_equal(positive.read("regions").array > 0, made.lesion() > 0)


def test_an_ai_label_of_picai_is_a_yes_a_human_one_a_grade(tmp_path: Path) -> None:
    root = made.picai(tmp_path / "picai")
    drawn = root / "picai_labels/csPCa_lesion_delineations"
    made.write(drawn / "AI/Bosma22a/10003_1000003.nii.gz", made.lesion())  # 1: csPCa
    made.write(drawn / "human_expert/resampled/10001_1000001.nii.gz", made.lesion())  # 1: ISUP 1, no csPCa
    found = by_id(triples_of(root, "picai", tmp_path / "out"))
    assert (found["10003_1000003"].positives, found["10001_1000001"].positives) == (1, 0)
    assert not found["10003_1000003"].document().complete
    assert np.array_equal(found["10003_1000003"].read("regions").array > 0, made.lesion() > 0)


def test_prostate158(tmp_path: Path) -> None:
    found = by_id(triples_of(made.prostate158(tmp_path / "p158"), "prostate158", tmp_path / "out"))
    assert {k: t.split for k, t in found.items()} == {"p158_020": "train", "p158_021": "val", "p158_001": "test"}
    # the published labels are 1 central gland, 2 PZ; ours 1 PZ, 2 TZ
    assert np.array_equal(found["p158_020"].read("zones").array, made.gland())
    assert (found["p158_020"].positives, found["p158_021"].positives) == (1, 0)
    assert found["p158_021"].document().complete


@pytest.mark.parametrize("written", ["p021", "021", "21.0"])
def test_validation_cases_of_prostate158_however_they_are_written(tmp_path: Path, written: str) -> None:
    root = made.prostate158(tmp_path / "p158")
    (root / "valid.csv").write_text(f"\ufeffID,t2\n{written},x\np999,x\n", encoding="utf-8")
    found = by_id(triples_of(root, "prostate158", tmp_path / "out", measure_silver=False))
    assert {k: t.split for k, t in found.items()} == {"p158_020": "train", "p158_021": "val", "p158_001": "test"}
    assert "no folder of train has this name" in skipped(tmp_path / "out")["p158_p999"]


def test_msd(tmp_path: Path) -> None:
    found = triples_of(made.msd(tmp_path / "Task05"), "msd", tmp_path / "out")
    assert [t.roles for t in found] == [("t2w", "adc")] * 2
    assert np.array_equal(found[0].read("zones").array, made.gland())
    assert 200 < float(found[0].read("t2w").array.mean()) < 500 < float(found[0].read("adc").array.mean())
    assert not found[0].document().complete  # no lesion was ever labelled there


def test_msd_takes_labels_by_name(tmp_path: Path) -> None:
    root = made.msd(tmp_path / "Task05")
    facts = json.loads((root / "dataset.json").read_text(encoding="utf-8"))
    facts["labels"] = {"0": "background", "1": "TZ", "2": "PZ"}
    (root / "dataset.json").write_text(json.dumps(facts), encoding="utf-8")
    found = triples_of(root, "msd", tmp_path / "out")
    assert np.array_equal(found[0].read("zones").array, np.array([0, 2, 1])[made.gland()])


def test_nnunet_keeps_a_patients_studies_together(tmp_path: Path) -> None:
    found = triples_of(made.nnunet(tmp_path / "Dataset001"), "nnunet", tmp_path / "out")
    assert {t.patient for t in found} == {"10001"}
    assert {t.split for t in found} == {split_of("10001")}
    assert all(t.positives == 1 and t.document().complete and t.zones == "" for t in found)


def test_nnunet_with_unknown_channels_says_so(tmp_path: Path) -> None:
    root = made.nnunet(tmp_path / "Dataset001")
    (root / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}, "labels": {}}), encoding="utf-8")
    with pytest.raises(TripleError, match="no channel is named T2W, ADC or high-b"):
        list(layouts.nnunet(root))


def nnunet_of(root: Path, label: np.ndarray, labels: dict[str, object]) -> Path:
    """One case of three channels with one label map."""
    for channel, level in enumerate((300.0, 1400.0, 60.0)):
        made.write(root / "imagesTr" / f"A_{channel:04d}.nii.gz", made.picture(0, made.lesion(), level))
    made.write(root / "labelsTr" / "A.nii.gz", label)
    facts = {"channel_names": {"0": "T2W", "1": "ADC", "2": "HBV"}, "labels": {"background": 0, **labels}}
    (root / "dataset.json").write_text(json.dumps(facts), encoding="utf-8")
    return root


def test_nnunet_a_lesion_beside_zones_lies_in_gland_of_unknown_zone(tmp_path: Path) -> None:
    label = made.gland()
    label[made.lesion() > 0] = 3
    label[made.lesion((0.0, -17.0, 0.0)) > 0] = 3  # off the gland: no gland
    triple = triples_of(nnunet_of(tmp_path / "in", label, {"PZ": 1, "TZ": 2, "lesion": 3}), "nnunet",
                        tmp_path / "out")[0]  # fmt: skip
    zones, regions = triple.read("zones").array, triple.read("regions").array
    inside = made.lesion() > 0
    assert np.array_equal(zones, np.where(inside, 3, made.gland()))
    on, off = sorted(triple.document().regions, key=lambda r: (regions == r.number)[inside].sum(), reverse=True)
    assert (triple.zones, on.zone, on.positive) == ("zones", "PZ", True)  # of the tissue around it
    assert on.values
    assert (off.positive, off.values) == (None, {})
    case = wide_case(triple)
    assert set(case.zones.unique().tolist()) == {0, 1, 2, IGNORE}
    assert not bool((case.zones == 3).any())


def test_nnunet_labels_that_are_unions(tmp_path: Path) -> None:
    label = made.gland()
    label[made.lesion() > 0] = 3
    labels: dict[str, object] = {"whole gland": [1, 2, 3], "PZ": [1, 3], "TZ": 2, "lesion": [3], "bladder": 4}
    triple = triples_of(nnunet_of(tmp_path / "in", label, labels), "nnunet", tmp_path / "out")[0]
    assert np.array_equal(triple.read("zones").array, np.where(made.lesion() > 0, 1, made.gland()))
    assert triple.positives == 1
    gland = triples_of(nnunet_of(tmp_path / "in", label, {"prostate": [1, 2, 3], "lesion": 3}), "nnunet",
                       tmp_path / "gland")[0]  # fmt: skip
    assert np.array_equal(gland.read("zones").array, np.where(made.gland() > 0, 3, 0))
    assert gland.zones == "gland"


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ({"PZ": 1, "TZ": 2, "AFS": 3}, "label 3 is named 'AFS'"),
        ({"odd": [1, 2], "lesion": 3}, r"label \[1, 2\] is named 'odd'"),
        ({"PZ": [1, 2], "TZ": [2]}, "number 2 is both PZ and TZ"),
        ({"PZ": {"a": 1}}, "label 'PZ' is {'a': 1}"),
    ],
)
def test_nnunet_labels_that_are_not_understood_are_named(tmp_path: Path, labels: dict[str, object], told: str) -> None:
    root = nnunet_of(tmp_path / "in", made.gland(), labels)
    with pytest.raises(TripleError, match=told):
        list(layouts.nnunet(root))


def test_official_folds(tmp_path: Path) -> None:
    splits = tmp_path / "splits.json"
    one, two = "10001_1000001", "10002_1000002"
    splits.write_text(json.dumps([{"train": [two], "val": [one]}, {"train": [one], "val": [two]}]), encoding="utf-8")
    folds = layouts.read_folds(splits)
    found = triples_of(made.picai(tmp_path / "picai"), "picai", tmp_path / "out", folds=folds)
    assert [t.id for t in found.split("val", 1)] == ["10002_1000002"]
    assert [t.id for t in found.split("train", 1)] == ["10001_1000001"]
    with pytest.raises(TripleError, match="no triple has fold 4; folds there: 0, 1"):
        found.split("val", 4)
    # who is trained on in a fold is no test case by the hash of the id; the third is in no fold
    assert {t.split for t in found if t.fold >= 0} == {"train"}


def test_folds_that_part_a_patient_are_refused(tmp_path: Path) -> None:
    root = made.nnunet(tmp_path / "Dataset001")
    folds = {"10001_1000001": 0, "10001_1000009": 1}
    with pytest.raises(TripleError, match="patient 10001 is both in fold 0 and in 1"):
        triples_of(root, "nnunet", tmp_path / "out", folds=folds)
    assert not (tmp_path / "out").exists()


def test_a_published_test_case_is_in_no_fold(tmp_path: Path) -> None:
    folds = {"p158_020": 0, "p158_021": 1, "p158_001": 1}
    found = triples_of(made.prostate158(tmp_path / "p158"), "prostate158", tmp_path / "out", folds=folds,
                       measure_silver=False)  # fmt: skip
    assert {t.id: t.fold for t in found} == {"p158_020": 0, "p158_021": 1, "p158_001": -1}
    assert [t.id for t in found.split("train", 0)] == ["p158_021"]
    assert [t.id for t in found.split("test", 0)] == ["p158_001"]
    # a set of before says so in its index
    old = TripleSet(found.folder, [replace(t, fold=1) if t.split == "test" else t for t in found])
    assert [t.id for t in old.split("train", 0)] == ["p158_021"]
    assert [t.id for t in old.split("val", 1)] == ["p158_021"]


def test_a_report_is_matched_to_its_masks_with_its_spans(tmp_path: Path) -> None:
    document = triples_of(made.studies(tmp_path / "in", REPORT), "studies", tmp_path / "out")[0].document()
    assert document.report == REPORT
    left, right = sorted(document.regions, key=lambda r: r.zone or "")
    assert (left.zone, left.category, left.positive) == ("PZ", 4, True)
    assert (right.zone, right.category, right.positive) == ("TZ", 2, False)
    assert left.values["t2.signal"] == "moderate_hypo"
    assert left.status["t2.signal"] == "gold"
    spans = [s for answer in left.rationale["answers"] for s in answer.get("spans", ())]
    assert spans
    assert all(REPORT[s["start"] : s["end"]] == s["text"] for s in spans)


def test_a_report_that_contradicts_its_mask_is_told(tmp_path: Path) -> None:
    wrong = REPORT.replace("10 x 9 mm", "45 mm").replace(
        "Lesion 2: right", "Lesion 3: right apex PZ, 8 mm.\nLesion 2: right"
    )
    document = triples_of(made.studies(tmp_path / "in", wrong), "studies", tmp_path / "out")[0].document()
    assert any("45.0 mm" in text for region in document.regions for text in region.contradictions)
    assert any("which no mask outlines" in text for text in document.contradictions)
    assert not document.complete


@pytest.mark.parametrize("turn", [("left", "right"), ("mid PZpl", "mid TZ")])
def test_what_a_report_says_of_another_place_is_not_trained_on(tmp_path: Path, turn: tuple[str, str]) -> None:
    left = REPORT[: REPORT.index("Lesion 2")].replace(*turn)
    root = made.studies(tmp_path / "in", left)
    made.write(root / "caseA" / "regions.nii.gz", made.lesion((0.0, 7.0, 6.0)))  # in the left PZ
    region = triples_of(root, "studies", tmp_path / "out")[0].document().regions[0]
    assert any(turn[1][-2:] in text or "says R" in text for text in region.contradictions)
    assert (region.zone, region.category, region.positive) == ("PZ", None, None)
    assert region.values
    assert set(region.status.values()) == {"silver"}
    said = {a["step"]: a["answer"] for a in region.rationale["answers"]}
    assert said["category"] == 4  # for the reader of a quality sheet it stands


def test_a_region_off_the_gland_is_not_trained_on(tmp_path: Path) -> None:
    root = made.prostate158(tmp_path / "p158")
    made.write(root / "train/020/adc_tumor_reader1.nii.gz", made.lesion((0.0, -16.0, -14.0)))
    found = by_id(triples_of(root, "prostate158", tmp_path / "out"))
    region = found["p158_020"].document().regions[0]
    assert region.contradictions == ("outline: 0% of it lies in the gland; it is not trained on",)
    assert (region.positive, region.category, region.values) == (None, None, {})
    assert found["p158_020"].positives == 0
    assert set(wide_case(found["p158_020"]).lesion.unique().tolist()) == {0, IGNORE}
    assert found["p158_001"].document().regions[0].positive is True


def test_regions_that_are_left_out_are_no_healthy_tissue(tmp_path: Path) -> None:
    root = made.nnunet(tmp_path / "Dataset001")
    eight = [(0.0, y, x) for y in (-7.0, 0.0, 7.0) for x in (-9.0, -2.0, 5.0)][:8]
    speck = made.lesion()
    speck[0, 0, 0] = 1
    made.write(root / "labelsTr" / "10001_1000001.nii.gz", made.lesion(*eight))
    made.write(root / "labelsTr" / "10001_1000009.nii.gz", speck)
    many, small = triples_of(root, "nnunet", tmp_path / "out")
    assert (many.regions, small.regions) == (6, 1)
    for triple, told in ((many, "8 regions are outlined; the 2 smallest"), (small, "1 outlined parts are under")):
        document = triple.document()
        assert not document.complete
        assert any(told in text for text in document.contradictions)
        assert set(wide_case(triple).lesion.unique().tolist()) == {1, IGNORE}


def test_what_is_known_of_a_region_stays_with_it_when_another_is_lost(tmp_path: Path) -> None:
    files.write_set(tmp_path / "sim", sample_bank(), 3, 1, first=5)
    folder = tmp_path / "sim" / "study0005"
    truth = json.loads((folder / RATIONALE).read_text(encoding="utf-8"))
    assert len(truth["regions"]) > 1
    mask = sitk.ReadImage(str(folder / "regions.nii.gz"))
    array = sitk.GetArrayFromImage(mask)
    array[array == 1] = 0
    without = sitk.GetImageFromArray(array)
    without.CopyInformation(mask)
    sitk.WriteImage(without, str(folder / "regions.nii.gz"))
    triple = triples_of(tmp_path / "sim", "simulated", tmp_path / "out")[0]
    document = triple.document()
    assert [r.number for r in document.regions] == list(range(1, len(truth["regions"])))
    assert dict(document.regions[0].values) == truth["regions"][1]["values"]
    assert np.array_equal(triple.read("regions").array == 1, array == 2)
    assert not document.complete
    array[array == 0] = 9  # nothing is said of a ninth
    more = sitk.GetImageFromArray(array)
    more.CopyInformation(mask)
    sitk.WriteImage(more, str(folder / "regions.nii.gz"))
    with pytest.raises(TripleError, match=r"regions\.nii\.gz holds regions \[9\], of which nothing is said"):
        triples_of(tmp_path / "sim", "simulated", tmp_path / "none")


def test_silver_can_be_left_out(tmp_path: Path) -> None:
    found = triples_of(made.studies(tmp_path / "in", REPORT), "studies", tmp_path / "out", measure_silver=False)
    assert all(s == "gold" for r in found[0].document().regions for s in r.status.values())


def test_signed_off_cases_only_with_their_corrections(tmp_path: Path) -> None:
    for name, sign in (("read", True), ("unread", False)):
        case = opened()
        lesion = case.explanation.lesions[0].number
        case.override(lesion, "t2.shape", "lenticular", "Dr A")
        if sign:
            case.sign_off("Dr A")
        case.save(tmp_path / "cases" / name)
    found = triples_of(tmp_path / "cases", "cases", tmp_path / "out")
    assert [t.id for t in found] == ["read"]
    header = json.loads((tmp_path / "out" / HEADER).read_text(encoding="utf-8"))
    assert header["skipped"] == [{"id": "unread", "reason": "not signed off by a reader"}]
    region = found[0].document().regions[0]
    assert (region.values["t2.shape"], region.status["t2.shape"]) == ("lenticular", "gold")
    assert "accepted" in region.status.values()


def test_simulated_sets_keep_what_was_drawn(tmp_path: Path) -> None:
    files.write_set(tmp_path / "sim", sample_bank(), 3, 2, first=5)
    found = triples_of(tmp_path / "sim", "simulated", tmp_path / "out")
    truth = json.loads((tmp_path / "sim" / "study0005" / RATIONALE).read_text(encoding="utf-8"))
    document = found[0].document()
    assert [(r.number, r.category, dict(r.values)) for r in document.regions] == [
        (r["number"], r["category"], r["values"]) for r in truth["regions"]
    ]
    assert set(document.regions[0].status.values()) == {"gold"}


# ---------------------------------------------------------------------------------------------------------------------
# Patients


def test_studies_of_one_patient_by_dicom_and_the_id_is_not_written(tmp_path: Path) -> None:
    for name, patient in (("a2011", "MUELLER-7"), ("a2013", "MUELLER-7"), ("b2013", "MAIER-8")):
        DicomStudy(tmp_path / "in" / name, patient=patient).full()
    found = by_id(triples_of(tmp_path / "in", "studies", tmp_path / "out"))
    assert found["a2011"].patient == found["a2013"].patient != found["b2013"].patient
    assert found["a2011"].split == found["a2013"].split
    assert all(t.patient.startswith("dicom-") for t in found.values())
    written = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert not any(b"MUELLER" in p.read_bytes() for p in written)


def test_studies_of_one_patient_by_a_table(tmp_path: Path) -> None:
    root = made.studies(tmp_path / "in")
    for name in ("P007_2011", "P007_2013"):
        shutil.copytree(root / "caseA", root / name)
    command = ["curate", str(root), "--no-silver", "--output"]
    told = CliRunner().invoke(cli.app, [*command, str(tmp_path / "without")]).output
    assert "3 studies are each taken for a patient of their own" in told
    assert {t.patient for t in TripleSet(tmp_path / "without")} == {"caseA", "P007_2011", "P007_2013"}
    (root / "patients.csv").write_text("case,patient\nP007_2011,P007\nP007_2013,P007\n", encoding="utf-8")
    told = CliRunner().invoke(cli.app, [*command, str(tmp_path / "out")]).output
    assert "of their own" not in told
    assert {(t.id, t.patient) for t in TripleSet(tmp_path / "out")} == {("P007_2011", "P007"), ("P007_2013", "P007")}
    assert "patients.csv names no patient of it" in skipped(tmp_path / "out")["caseA"]
    (root / "patients.csv").write_text("id,patient\n", encoding="utf-8")
    with pytest.raises(TripleError, match=r"patients\.csv: no column case"):
        triples_of(root, "studies", tmp_path / "none")


# ---------------------------------------------------------------------------------------------------------------------
# Faults


def skipped(folder: Path) -> dict[str, str]:
    header = json.loads((folder / HEADER).read_text(encoding="utf-8"))
    return {s["id"]: s["reason"] for s in header["skipped"]}


def test_a_mask_off_its_image_is_skipped_by_name(tmp_path: Path) -> None:
    root = made.picai(tmp_path / "picai")
    mask = root / "picai_labels/csPCa_lesion_delineations/human_expert/resampled/10001_1000001.nii.gz"
    made.write(mask, made.lesion() * 3, origin=(90.0, -30.0, -16.5))
    found = triples_of(root, "picai", tmp_path / "out")
    assert "10001_1000001" not in by_id(found)
    assert "lies off its image" in skipped(tmp_path / "out")["10001_1000001"]


def test_a_mask_on_another_grid_of_the_same_frame_is_resampled(tmp_path: Path) -> None:
    root = made.picai(tmp_path / "picai")
    mask = root / "picai_labels/csPCa_lesion_delineations/human_expert/resampled/10001_1000001.nii.gz"
    half = sitk.ReadImage(str(mask))[4:36, 4:36, :]
    sitk.WriteImage(half, str(mask))
    found = by_id(triples_of(root, "picai", tmp_path / "out"))
    assert np.array_equal(found["10001_1000001"].read("regions").array > 0, made.lesion() > 0)


@pytest.mark.parametrize("damage", [b"", b"no image at all"])
def test_a_corrupt_volume_is_skipped_and_counted(tmp_path: Path, damage: bytes) -> None:
    root = made.picai(tmp_path / "picai")
    (root / "10002" / "10002_1000002_adc.mha").write_bytes(damage)
    found = triples_of(root, "picai", tmp_path / "out")
    assert len(found) == 2
    assert "10002_1000002_adc.mha" in skipped(tmp_path / "out")["10002_1000002"]


def test_a_constant_image_is_skipped(tmp_path: Path) -> None:
    root = made.picai(tmp_path / "picai")
    made.write(root / "10002" / "10002_1000002_adc.mha", np.full(made.SHAPE, 7, np.float32))
    triples_of(root, "picai", tmp_path / "out")
    assert "one value only" in skipped(tmp_path / "out")["10002_1000002"]


def test_nothing_usable_leaves_nothing(tmp_path: Path) -> None:
    root = made.msd(tmp_path / "Task05")
    for file in (root / "imagesTr").iterdir():
        file.write_bytes(b"")
    with pytest.raises(TripleError, match="no usable triple"):
        triples_of(root, "msd", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["Task05"]


def test_a_damaged_case_of_our_own_layouts_is_skipped(tmp_path: Path) -> None:
    files.write_set(tmp_path / "sim", sample_bank(), 1, 2)
    (tmp_path / "sim" / "study0001" / RATIONALE).write_text('{"regions": [', encoding="utf-8")
    assert [t.id for t in triples_of(tmp_path / "sim", "simulated", tmp_path / "out")] == ["study0000"]
    assert "cannot be read" in skipped(tmp_path / "out")["study0001"]
    good, bad = opened(), tmp_path / "cases" / "bad"
    good.sign_off("Dr A")
    good.save(tmp_path / "cases" / "good")
    bad.mkdir()
    (bad / "case.json").write_text("[1]", encoding="utf-8")
    assert [t.id for t in triples_of(tmp_path / "cases", "cases", tmp_path / "signed")] == ["good"]
    assert "expected a JSON object, got list" in skipped(tmp_path / "signed")["bad"]


def test_a_study_that_must_not_be_read_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = made.studies(tmp_path / "in")
    for name in ("caseB", "caseC"):
        shutil.copytree(root / "caseA", root / name)
    usual, listed = curating.read_study, layouts._file

    def guarded(path: Path) -> Study:
        if path.name == "caseA":
            raise PermissionError(errno.EACCES, "Permission denied", str(path / "t2w.nii.gz"))
        return usual(path)

    def unlisted(folder: Path, stem: str) -> Path | None:
        if folder.name == "caseB":
            raise PermissionError(errno.EACCES, "Permission denied", str(folder / stem))
        return listed(folder, stem)

    monkeypatch.setattr(curating, "read_study", guarded)
    monkeypatch.setattr(layouts, "_file", unlisted)
    assert [t.id for t in triples_of(root, "studies", tmp_path / "out", measure_silver=False)] == ["caseC"]
    assert all("Permission denied" in skipped(tmp_path / "out")[name] for name in ("caseA", "caseB"))


def test_a_full_disk_publishes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, usual, written = made.prostate158(tmp_path / "p158"), sitk.WriteImage, []

    def full(image: sitk.Image, path: str) -> None:
        written.append(path)
        if len(written) > 5:  # in the second case
            raise RuntimeError("sitk::ERROR: write failed: No space left on device")
        usual(image, path)

    monkeypatch.setattr(sitk, "WriteImage", full)
    assert cli.run(["curate", str(root), "--output", str(tmp_path / "out"), "-q"]) == cli.ExitCode.OUTPUT
    assert "is the disk full?" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["p158"]


def test_a_folder_that_cannot_be_made_is_an_output(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="cannot be written"):
        TripleWriter(tmp_path / "file" / "out")


def test_a_full_folder_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(TripleError, match="not an empty folder"):
        triples_of(made.msd(tmp_path / "Task05"), "msd", tmp_path / "out")
    assert (tmp_path / "out" / "mine.txt").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": {"t2.sparkle": "much"}}, "unknown attribute 't2.sparkle'"),
        ({"values": {"t2.signal": "purple"}}, "unknown value 'purple' of t2.signal"),
        ({"zone": "XZ"}, "unknown zone 'XZ'"),
        ({"category": 7}, "category 7; expected 1 to 5"),
    ],
)
def test_an_unknown_phrase_is_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    found = triples_of(made.studies(tmp_path / "in", REPORT), "studies", tmp_path / "out")
    file = found[0].folder / RATIONALE
    data = json.loads(file.read_text(encoding="utf-8"))
    data["regions"][0] |= change
    file.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(TripleError, match=message) as told:
        found[0].document()
    assert "caseA, region 1" in str(told.value)


def test_regions_and_rationale_must_agree(tmp_path: Path) -> None:
    from MedRationaleLogic.imaging.files import read_image

    root = made.studies(tmp_path / "in")
    t2w = read_image(root / "caseA" / "t2w.nii.gz", "t2w")[0]
    regions = t2w.with_array(made.lesion())
    with TripleWriter(tmp_path / "out") as writer, pytest.raises(TripleError, match=r"holds regions \[1\].*of \[2\]"):
        writer.add("a", {"t2w": t2w}, None, regions, Document((Region(2, None, None, None),)), patient="p")


def test_a_patient_in_two_splits_is_refused(tmp_path: Path) -> None:
    from MedRationaleLogic.imaging.files import read_image

    root = made.studies(tmp_path / "in")
    t2w = read_image(root / "caseA" / "t2w.nii.gz", "t2w")[0]
    with TripleWriter(tmp_path / "out") as writer:
        writer.add("a", {"t2w": t2w}, None, None, Document(), patient="p", split="train")
        writer.add("b", {"t2w": t2w}, None, None, Document(), patient="p", split="test")
        with pytest.raises(TripleError, match="patient p is both in train and in test"):
            writer.close({})
    assert not (tmp_path / "out").exists()


def test_a_damaged_index_is_named(tmp_path: Path) -> None:
    triples_of(made.msd(tmp_path / "Task05"), "msd", tmp_path / "out")
    (tmp_path / "out" / "index.parquet").write_bytes(b"PAR1")
    with pytest.raises(TripleError, match=r"index\.parquet cannot be read"):
        TripleSet(tmp_path / "out")
    with pytest.raises(TripleError, match="is not a set of triples"):
        TripleSet(tmp_path)


# ---------------------------------------------------------------------------------------------------------------------
# Commands


def test_the_command_counts_what_it_did(tmp_path: Path) -> None:
    root = made.picai(tmp_path / "picai")
    (root / "10002" / "10002_1000002_adc.mha").write_bytes(b"")
    result = CliRunner().invoke(cli.app, ["curate", str(root), "--output", str(tmp_path / "out"), "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["layout"], told["triples"], told["positives"], len(told["skipped"])) == ("picai", 2, 1, 1)
    assert TripleSet(tmp_path / "out")[0].id == "10001_1000001"


def test_an_unknown_layout_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    assert cli.run(["curate", str(tmp_path / "in"), "--output", str(tmp_path / "out")]) == cli.ExitCode.BAD_STUDY
    assert "none of the layouts" in capsys.readouterr().err


def test_a_sheet_of_triples_and_its_agreement(tmp_path: Path) -> None:
    triples_of(made.studies(tmp_path / "in", REPORT), "studies", tmp_path / "out")
    page = tmp_path / "sheet.html"
    result = CliRunner().invoke(cli.app, ["sheet", str(tmp_path / "out"), "--output", str(page), "--n", "2"])
    assert result.exit_code == 0, result.output
    text = page.read_text(encoding="utf-8")
    assert "Research use only" in text
    assert "caseA-1" in text
    assert "homogeneous moderate hypointense" in text


@pytest.mark.parametrize("text", ['{"schema": 1}', "{", "[1]"])
def test_answers_that_are_none_are_named(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.json").write_text(text, encoding="utf-8")
    assert cli.run(["agreement", str(tmp_path / "bad.json")]) == cli.ExitCode.BAD_STUDY
    told = capsys.readouterr().err
    assert "bad.json" in told
    assert "--debug" not in told
