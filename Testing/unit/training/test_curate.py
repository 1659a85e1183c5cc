"""Every public layout becomes triples with the right meaning; what cannot be used is named, counted and left out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

from MedRationaleLogic import cli
from MedRationaleLogic.simulation import files
from MedRationaleLogic.simulation.sample import sample_bank
from MedRationaleLogic.training import layouts
from MedRationaleLogic.training.curate import curate
from MedRationaleLogic.training.triples import (
    HEADER,
    RATIONALE,
    Document,
    Region,
    Triple,
    TripleError,
    TripleSet,
    TripleWriter,
    split_of,
)
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


def test_prostate158(tmp_path: Path) -> None:
    found = by_id(triples_of(made.prostate158(tmp_path / "p158"), "prostate158", tmp_path / "out"))
    assert {k: t.split for k, t in found.items()} == {"p158_020": "train", "p158_021": "val", "p158_001": "test"}
    # the published labels are 1 central gland, 2 PZ; ours 1 PZ, 2 TZ
    assert np.array_equal(found["p158_020"].read("zones").array, made.gland())
    assert (found["p158_020"].positives, found["p158_021"].positives) == (1, 0)
    assert found["p158_021"].document().complete


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
