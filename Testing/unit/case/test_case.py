"""What a reader does with a case, with an explainer that reads by construction: no network, no torch."""

from __future__ import annotations

import itertools
import logging
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from MedRationaleLogic.case import KEPT_FLAG, Case, CaseError, CaseSignedOffError, Selection, verify_log
from MedRationaleLogic.imaging.study import StudyError
from MedRationaleLogic.imaging.volume import Geometry, Volume
from MedRationaleLogic.inference.explainer import ExplainCancelledError
from MedRationaleLogic.inference.explanation import LITTLE_SUSPICION, NO_RATIONALE
from MedRationaleLogic.pirads import lexicon
from MedRationaleLogic.pirads.rationale import build
from Testing.explanation_factory import CENTER, IDENTITY, PZ_LEFT, TZ_RIGHT, Region, grid, make_explanation, sphere
from Testing.unit.case.fake_explainer import FakeExplainer, opened

READER = "Dr A"
FREE = (-16.0, 6.0, 0.0)
"""Offset of a place in the right peripheral zone where no region is."""


def ball(geometry: Geometry, offset, radius: float) -> Volume:
    return Volume(sphere(geometry, offset, radius), geometry, "drawn")


def frame(case: Case) -> Geometry:
    return case.study.frame.geometry


def numbers(case: Case) -> list[int]:
    return [x.number for x in case.explanation.lesions]


# -------------------------------------------------------------------------------------------------- open and explain


def test_a_case_is_empty_until_it_is_explained():
    fake = FakeExplainer()
    case = Case.open(fake.study, fake)
    assert case.explanation is None
    assert case.original is None
    assert fake.runs == 0
    for action in (
        lambda: case.select(1),
        lambda: case.add_region(ball(frame(case), FREE, 4), READER),
        lambda: case.explain_here(CENTER, READER),
        lambda: case.sign_off(READER),
        lambda: case.reset(),
    ):
        with pytest.raises(CaseError, match="not explained yet"):
            action()
    result = case.explain()
    assert case.explanation is result
    assert case.original is result
    assert fake.runs == 1
    with pytest.raises(CaseError, match="explained already"):
        case.explain()
    assert [e.action for e in case.log] == ["open", "explain"]
    assert case.log[1].after["regions"]["1"]["category"] == 4


def test_progress_reaches_the_network_and_a_stop_leaves_the_case_as_it_was():
    fake = FakeExplainer()
    said: list[str] = []
    case = Case.open(fake.study, fake, progress=lambda share, stage: said.append(stage))
    with pytest.raises(ExplainCancelledError):
        case.explain(cancelled=lambda: True)
    assert case.explanation is None
    assert [e.action for e in case.log] == ["open"]
    case.explain()
    assert "reading" in said
    with pytest.raises(ExplainCancelledError):
        case.shift("adc", (1, 0, 0), READER, cancelled=lambda: True)
    assert case.explanation is case.original
    assert not case.can_undo


def test_the_module_imports_without_torch_and_without_any_face():
    code = (
        "import sys, MedRationaleLogic.case; "
        "assert not {'torch', 'slicer', 'qt', 'trame', 'SimpleITK'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ------------------------------------------------------------------------------------------------- select, rationale


def test_selection_is_checked_and_follows_what_is_there():
    case = opened()
    case.select(2)
    assert case.selection.lesion == 2
    with pytest.raises(CaseError, match="no lesion 9"):
        case.select(9)
    with pytest.raises(CaseError, match="no concept"):
        case.select(1, "no.such")
    concept = next(iter(case.explanation.evidence))
    case.select(2, concept)
    case.delete(2, READER)
    assert case.selection == Selection(None, concept)
    case.select()
    assert case.selection == Selection()
    assert "select" not in [e.action for e in case.log]


def test_an_override_changes_the_category_and_the_original_stays():
    case = opened()
    before = case.explanation.lesion(1).category
    changed = case.override(1, "size", 17.0, READER)
    assert (before, changed.category) == (4, 5)
    assert case.explanation.category.category == 5
    assert case.original.lesion(1).category == 4
    entry = case.log[-1]
    assert (entry.action, entry.reader, entry.lesion, entry.detail) == ("override", READER, 1, "size = 17.0")
    assert entry.before["regions"]["1"]["category"] == 4
    assert entry.after["regions"]["1"]["answers"] == {"size": {"answer": 17.0, "reader": READER}}
    assert "2" not in entry.after["regions"]
    assert case.reset_step(1, "size").category == 4
    assert case.log[-1].reader is None
    length = len(case.log)
    case.reset_step(1, "size")  # nothing to take back
    assert len(case.log) == length


@pytest.mark.parametrize(
    ("step", "answer", "reader", "said"),
    [
        ("category", 5, READER, "computed"),
        ("dce", "yes", READER, "one of"),
        ("no.step", "x", READER, "no step"),
        ("size", 17.0, "  ", "reader's name"),
    ],
)
def test_an_answer_that_cannot_be_is_refused_and_leaves_no_trace(step, answer, reader, said):
    case = opened()
    log = case.log
    with pytest.raises(ValueError, match=said):
        case.override(1, step, answer, reader)
    assert case.log == log
    assert case.explanation is case.original


# ------------------------------------------------------------------------------------------------------------ regions


def test_an_edited_outline_is_measured_and_read_anew():
    case = opened()
    old = case.explanation.lesion(1)
    new = case.edit_region(1, ball(frame(case), PZ_LEFT.offset, 9.0), READER)
    assert new.number == 1
    assert new.origin == "reader"
    assert new.measures.volume_ml > 4 * old.measures.volume_ml
    assert new.rationale.size_mm > 15
    assert new.category == 5
    assert old.category == 4
    assert new.measures.sectors != old.measures.sectors
    assert case.original.lesion(1) is old
    assert case.explanation.lesion(1) is new
    assert numbers(case) == [1, 2]


def test_an_outline_may_come_on_any_grid_and_type():
    case = opened()
    other = grid((30, 60, 60), (2.0, 0.5, 0.9), IDENTITY)
    drawn = ball(other, FREE, 6.0)
    added = case.add_region(drawn.with_array(drawn.array.astype(np.uint8) * 7), READER)
    assert added.mask.geometry == frame(case)
    assert added.mask.array.dtype == bool
    direct = sphere(frame(case), FREE, 6.0)
    overlap = 2 * (added.mask.array & direct).sum() / (added.mask.array.sum() + direct.sum())
    assert overlap > 0.9


def test_a_rounded_grid_loses_no_voxel_at_the_border():
    case = opened()
    whole = np.zeros(frame(case).shape, bool)
    whole[:, 0, 0] = whole[-1] = True
    rounded = replace(frame(case), origin=tuple(float(np.float32(v + 1e-4)) for v in frame(case).origin))
    assert rounded != frame(case)
    added = case.add_region(Volume(whole, rounded), READER)
    assert np.array_equal(added.mask.array, whole)


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (lambda g: Volume(np.zeros(g.shape, bool), g), "empty"),
        (lambda g: Volume(np.ones(g.shape, np.float32), g), "bool or integer"),
        (lambda g: Volume(np.ones((3, 3, 3), bool), Geometry((3, 3, 3), (1, 1, 1), (900, 900, 900))), "outside"),
    ],
)
def test_an_outline_that_is_none_is_refused(mask, said):
    case = opened()
    log = case.log
    for action in (lambda m: case.edit_region(1, m, READER), lambda m: case.add_region(m, READER)):
        with pytest.raises(CaseError, match=said):
            action(mask(frame(case)))
    assert case.log == log
    assert case.explanation is case.original


def test_the_mask_given_is_copied_and_the_same_outline_changes_nothing():
    case = opened()
    array = sphere(frame(case), FREE, 4.0)
    added = case.add_region(Volume(array, frame(case)), READER)
    array[:] = True
    assert not added.mask.array.all()
    length = len(case.log)
    assert case.edit_region(added.number, added.mask, READER) is added
    assert len(case.log) == length


def test_answers_follow_an_edited_outline_where_they_still_hold():
    case = opened()
    case.override(1, "t2.shape", "lenticular", READER)
    case.override(1, "size", 17.0, READER)
    case.override(1, "zone", "PZ", READER)
    new = case.edit_region(1, ball(frame(case), TZ_RIGHT.offset, 4.0), "Dr B")
    kept = {o.step: (o.answer, o.reader) for o in new.rationale.overrides}
    assert kept == {"t2.shape": ("lenticular", READER)}
    assert new.rationale.zone == "TZ"
    assert "size = 17.0 (Dr A): measured anew" in case.log[-1].detail
    assert "zone = PZ (Dr A): the region no longer lies in PZ" in case.log[-1].detail
    assert case.log[-1].reader == "Dr B"


def test_an_answer_that_the_new_rationale_refuses_is_dropped_and_logged():
    fake = FakeExplainer()
    case = Case.open(fake.study, fake)
    case.explain()
    case.override(1, "adc.signal", "marked", READER)
    fake.unread.add("adc")
    new = case.edit_region(1, ball(frame(case), PZ_LEFT.offset, 6.0), READER)
    assert new.rationale.overrides == ()
    assert "adc.signal = marked" in case.log[-1].detail
    assert "not available" in case.log[-1].detail


def test_explain_here_adds_the_region_around_a_point():
    case = opened()
    point = np.asarray(CENTER) + FREE
    added = case.explain_here(point, READER)
    z, y, x = np.round(frame(case).to_index(point)).astype(int)
    assert added.mask.array[z, y, x]
    assert added.number == 3
    assert case.selection.lesion == 3
    with pytest.raises(ValueError, match="outside"):
        case.explain_here((999, 999, 999), READER)
    assert numbers(case) == [1, 2, 3]


def test_a_deleted_region_is_told_and_its_number_never_comes_back():
    case = opened()
    case.delete(2, READER)
    assert numbers(case) == [1]
    assert any("region 2 was deleted" in d.reason for d in case.explanation.dropped)
    case.undo()
    assert numbers(case) == [1, 2]
    assert not any("deleted" in d.reason for d in case.explanation.dropped)
    case.redo()
    added = case.add_region(ball(frame(case), FREE, 4.0), READER)
    case.undo()
    again = case.add_region(ball(frame(case), FREE, 5.0), READER)
    assert (added.number, again.number) == (3, 4)


def test_region_numbers_end_with_a_clear_error():
    case = opened()
    case._next_number = 256
    with pytest.raises(CaseError, match="used up"):
        case.add_region(ball(frame(case), FREE, 4.0), READER)
    assert numbers(case) == [1, 2]


def test_merged_regions_are_one_and_keep_the_answers_that_agree():
    case = opened()
    masks = [x.mask.array for x in case.explanation.lesions]
    for step, one, two in (("epe", "definite", "definite"), ("t2.shape", "round", "lenticular")):
        case.override(1, step, one, READER)
        case.override(2, step, two, "Dr B")
    merged = case.merge([2, 1, 2], READER)
    assert numbers(case) == [1]
    assert merged.number == 1
    assert case.selection.lesion == 1
    assert np.array_equal(merged.mask.array, masks[0] | masks[1])
    assert {o.step: o.answer for o in merged.rationale.overrides} == {"epe": "definite"}
    assert case.log[-1].detail.count("the regions had different answers") == 2
    for few in ([1], [1, 1], []):
        with pytest.raises(CaseError, match="at least two"):
            case.merge(few, READER)


def test_a_region_splits_into_its_pieces_and_the_largest_keeps_number_and_answers():
    case = opened()
    big, small = sphere(frame(case), PZ_LEFT.offset, 5.0), sphere(frame(case), FREE, 3.0)
    whole = case.add_region(Volume(big | small, frame(case)), READER)
    case.override(whole.number, "epe", "definite", READER)
    first, second = case.split(whole.number, READER)
    assert (first.number, second.number) == (3, 4)
    assert numbers(case) == [1, 2, 3, 4]
    assert np.array_equal(first.mask.array, big)
    assert np.array_equal(second.mask.array, small)
    assert first.rationale.epe_definite
    assert second.rationale.overrides == ()
    with pytest.raises(CaseError, match="one connected piece"):
        case.split(1, READER)


def test_pieces_that_touch_at_a_corner_are_one():
    case = opened()
    corner = np.zeros(frame(case).shape, bool)
    corner[6, 30, 30] = corner[7, 31, 31] = True
    number = case.add_region(Volume(corner, frame(case)), READER).number
    with pytest.raises(CaseError, match="one connected piece"):
        case.split(number, READER)


def test_a_plane_splits_a_region_in_the_patient():
    case = opened()
    whole = case.explanation.lesion(1).mask
    center = np.asarray(CENTER) + PZ_LEFT.offset
    normal = np.array([1.0, 1.0, 0.2])
    parts = case.split(1, READER, plane=(center, normal))
    assert len(parts) == 2
    assert np.array_equal(parts[0].mask.array | parts[1].mask.array, whole.array)
    signs = set()
    for part in parts:
        side = (whole.geometry.to_patient(np.argwhere(part.mask.array)) - center) @ normal
        assert (side >= 0).all() or (side < 0).all()
        signs.add(bool((side >= 0).all()))
    assert signs == {True, False}
    with pytest.raises(CaseError, match="does not cut"):
        case.split(1, READER, plane=(np.add(center, (200, 0, 0)), normal))
    for bad in ((center, (0, 0, 0)), (center[:2], normal), (center, (np.nan, 0, 1))):
        with pytest.raises(CaseError, match="a plane is"):
            case.split(1, READER, plane=bad)


# -------------------------------------------------------------------------------------------------------------- study


def test_a_shift_runs_the_network_again_and_what_readers_said_stays():
    fake = FakeExplainer()
    case = Case.open(fake.study, fake)
    case.explain()
    case.override(1, "size", 17.0, READER)
    mine = case.add_region(ball(frame(case), FREE, 4.0), READER)
    case.override(mine.number, "t2.shape", "round", READER)
    # after the shift: region 1 moved a little, region 2 is gone, one new, and one on the reader's own
    moved = replace(PZ_LEFT, offset=(15.5, 8.0, 0.0))
    new = Region((0.0, 12.0, 9.0), 4.0, PZ_LEFT.readings)
    own = Region((-15.0, 6.0, 0.0), 4.0, PZ_LEFT.readings)
    fake.after_shift = (new, own, moved)
    old = case.explanation
    case.shift("adc", (2.0, 0.0, -1.0), READER)
    now = case.explanation
    assert numbers(case) == [1, 2, 3, 4]
    assert now.study.adc.geometry.origin == tuple(np.add(old.study.adc.geometry.origin, (2.0, 0.0, -1.0)))
    assert np.array_equal(now.lesion(1).mask.array, sphere(frame(case), moved.offset, moved.radius))
    assert now.lesion(1).rationale.size_mm == 17.0
    assert now.lesion(1).origin == "model"
    assert now.lesion(2).mask is old.lesion(2).mask
    assert KEPT_FLAG in now.lesion(2).flags
    assert np.array_equal(now.lesion(3).mask.array, mine.mask.array)
    assert now.lesion(3) is not mine
    assert {o.step: o.answer for o in now.lesion(3).rationale.overrides} == {"t2.shape": "round"}
    assert np.array_equal(now.lesion(4).mask.array, sphere(frame(case), new.offset, new.radius))
    assert case.original.study.adc is fake.study.adc
    assert "adc by (+2.0, +0.0, -1.0) mm" in case.log[-1].detail
    assert "left out" not in case.log[-1].detail
    assert case.log[-1].before["images"] != case.log[-1].after["images"]
    runs = fake.runs + fake.sights
    case.undo()
    assert case.explanation is old
    case.edit_region(1, ball(frame(case), PZ_LEFT.offset, 6.0), READER)
    assert fake.runs + fake.sights == runs  # the unshifted study is still known


def test_a_shift_brings_back_neither_deleted_nor_merged_regions():
    fake = FakeExplainer()
    case = Case.open(fake.study, fake)
    case.explain()
    tiny = ball(frame(case), FREE, 2.0)
    case.add_region(tiny, READER)
    case.merge([1, 3], READER)
    case.delete(2, READER)
    fake.after_shift = (PZ_LEFT, TZ_RIGHT, Region(FREE, 2.0, PZ_LEFT.readings))
    case.shift("hbv", (0, 1, 0), READER)
    assert numbers(case) == [1]
    assert any("region 2 was deleted" in d.reason for d in case.explanation.dropped)
    assert case.log[-1].detail.count("left out") == 1  # the small part of the merged region; the others match


def test_a_shift_is_checked_and_needs_no_explanation():
    fake = FakeExplainer()
    case = Case.open(fake.study, fake)
    with pytest.raises(StudyError, match="frame of reference"):
        case.shift("t2w", (1, 0, 0), READER)
    with pytest.raises(StudyError, match="three finite numbers"):
        case.shift("adc", (1, 0), READER)
    with pytest.raises(StudyError, match="do not show the same place"):
        case.shift("adc", (0, 0, 900), READER)
    case.shift("adc", (0, 0, 0), READER)
    assert not case.can_undo
    case.shift("adc", (1, 0, 0), READER)
    assert fake.runs == 0
    assert case.history == ("shift",)
    assert case.explain().study is case.study
    assert not case.can_undo


class Contradicting(FakeExplainer):
    """Its region of the transition zone has a suspicion over the threshold and readings of category 1 or 2."""

    def _explanation(self, study):
        found = super()._explanation(study)
        lesions = []
        for one in found.lesions:
            sure = one.rationale.zone == "PZ"
            one = replace(one, suspicion=replace(one.suspicion, value=0.9, threshold=0.4))
            if not sure:
                quiet = {a.id: {v: float(v == a.value_ids[0]) for v in a.value_ids} for a in lexicon.load().attributes}
                readings = {**quiet, "t2.signal": {"hyper": 0.0, "iso": 1.0, "mild_hypo": 0.0, "moderate_hypo": 0.0}}
                one = replace(one, rationale=build(replace(one.rationale.findings, attributes=readings)))
            lesions.append(one)
        return replace(found, lesions=tuple(lesions))


def test_where_outline_and_readings_disagree_is_said_of_the_region_as_it_is_now():
    fake = Contradicting(regions=(PZ_LEFT, TZ_RIGHT), after_shift=(TZ_RIGHT, PZ_LEFT))
    case = Case.open(fake.study, fake)
    case.explain()
    assert [NO_RATIONALE in x.all_flags for x in case.explanation.lesions] == [False, True]
    assert [f for f in case.explanation.all_flags if "region 2 disagree" in f]
    # the network numbers them the other way round now; in the case they keep their numbers
    case.shift("adc", (1, 0, 0), READER)
    assert [x.rationale.zone for x in case.explanation.lesions] == ["PZ", "TZ"]
    assert [f for f in case.explanation.all_flags if "region 2 disagree" in f]
    assert not [f for f in case.explanation.all_flags if "region 1" in f]
    document = case.explanation.to_dict()
    assert NO_RATIONALE in document["lesions"][1]["flags"]
    assert [f for f in document["flags"] if "region 2 disagree" in f]
    # a reader's answer settles it, and taking it back brings it back; a deleted region is spoken of no more
    case.override(2, "t2w.score", 5, READER)
    assert NO_RATIONALE not in case.explanation.lesion(2).all_flags
    assert not [f for f in case.explanation.all_flags if "disagree" in f]
    case.undo()
    assert [f for f in case.explanation.all_flags if "region 2 disagree" in f]
    case.delete(2, READER)
    assert not [f for f in case.explanation.all_flags if "disagree" in f]


@pytest.mark.parametrize("origin", ["model", "reader"])
def test_a_high_category_under_the_threshold_of_suspicion_is_told(origin):
    one = opened().explanation.lesion(1)
    assert one.category == 4
    quiet = replace(one, origin=origin, suspicion=replace(one.suspicion, value=0.1, threshold=0.4))
    assert LITTLE_SUSPICION in quiet.all_flags
    assert LITTLE_SUSPICION not in replace(quiet, suspicion=replace(quiet.suspicion, threshold=None)).all_flags
    assert LITTLE_SUSPICION not in replace(quiet, suspicion=replace(quiet.suspicion, value=0.5)).all_flags
    # what depends on the category in force is not kept with the region
    assert LITTLE_SUSPICION not in type(quiet).from_dict(quiet.to_dict(), quiet.mask).flags


@pytest.mark.parametrize(("shift", "category"), [((0.0, 0.0, 0.0), 1), ((0.0, 0.0, 14.0), "X")])
def test_nothing_found_is_category_1_only_where_diffusion_shows_the_gland(shift, category):
    fake = FakeExplainer(regions=(), after_shift=())
    case = Case.open(fake.study, fake)
    case.explain()
    case.shift("adc", shift, READER)
    assert case.explanation.category.category == category
    blind = replace(case.explanation, gland=None)
    assert blind.category.category == "X"


def test_numbers_of_numpy_are_plain_numbers_and_what_cannot_be_logged_does_not_happen():
    case = opened()
    case.select(np.int64(1))
    assert type(case.selection.lesion) is int
    case.override(np.uint8(2), "t2w.score", np.int64(4), READER)
    case.merge(np.array([1, 2]), READER)
    case.undo()
    case.delete(np.uint8(2), READER)
    assert numbers(case) == [1]
    assert [type(e.lesion) for e in case.log if e.lesion is not None] == [int] * 3
    assert type(case.selection.lesion) in (int, type(None))
    assert case.verify_log()
    log, history, state = case.log, case.history, case.explanation
    with pytest.raises(TypeError):
        case._commit(replace(case._state, explanation=None), "delete", READER, object(), "")
    assert (case.log, case.history, case.explanation) == (log, history, state)
    case.undo()
    assert numbers(case) == [1, 2]


def test_the_psa_density_follows_the_psa():
    case = opened()
    before = case.explanation.psa_density.value
    case.set_psa(2 * case.study.psa, READER)
    assert case.explanation.psa_density.value == pytest.approx(2 * before)
    assert case.log[-1].before == {"psa_ng_ml": 7.2}
    assert case.log[-1].after == {"psa_ng_ml": 14.4}
    case.set_psa(None, READER)
    assert case.explanation.psa_density is None
    with pytest.raises(StudyError, match="positive"):
        case.set_psa(-1, READER)
    case.edit_region(1, ball(frame(case), PZ_LEFT.offset, 6.0), READER)
    assert case.explanation.study.psa is None


# ---------------------------------------------------------------------------------------------- history and signature


def test_every_change_can_be_undone_and_done_again():
    case = opened()
    states = [case.explanation]
    for action in (
        lambda: case.override(1, "dce", "+", READER),
        lambda: case.add_region(ball(frame(case), FREE, 4.0), READER),
        lambda: case.merge([1, 2], READER),
        lambda: case.delete(3, READER),
        lambda: case.set_psa(3.3, READER),
        lambda: case.shift("adc", (1, 0, 0), READER),
        lambda: case.reset(),
    ):
        action()
        states.append(case.explanation)
    assert case.explanation is case.original
    for state in reversed(states[:-1]):
        case.undo()
        assert case.explanation is state
        assert case.study is state.study
    assert not case.can_undo
    with pytest.raises(CaseError, match="nothing to undo"):
        case.undo()
    for state in states[1:]:
        case.redo(READER)
        assert case.explanation is state
    with pytest.raises(CaseError, match="nothing to redo"):
        case.redo()
    assert len(case.log) == 2 + 7 + 7 + 7
    assert case.verify_log()
    case.undo()
    case.override(1, "dce", "-", READER)
    assert not case.can_redo


def test_a_signed_case_is_frozen_until_it_is_reopened():
    case = opened()
    case.override(1, "dce", "+", READER)
    signed = case.sign_off(READER)
    assert case.signed_off == signed
    assert not case.can_undo
    for action in (
        lambda: case.override(1, "dce", "-", READER),
        lambda: case.reset_step(1, "dce"),
        lambda: case.edit_region(1, ball(frame(case), FREE, 4.0), READER),
        lambda: case.add_region(ball(frame(case), FREE, 4.0), READER),
        lambda: case.explain_here(CENTER, READER),
        lambda: case.delete(1, READER),
        lambda: case.merge([1, 2], READER),
        lambda: case.split(1, READER),
        lambda: case.shift("adc", (1, 0, 0), READER),
        lambda: case.set_psa(1.0, READER),
        lambda: case.undo(),
        lambda: case.redo(),
        lambda: case.reset(),
        lambda: case.sign_off(READER),
        lambda: case.explain(),
    ):
        with pytest.raises(CaseSignedOffError, match="signed off by Dr A"):
            action()
    case.select(1)
    with pytest.raises(CaseError, match="reason"):
        case.reopen("Dr B", " ")
    case.reopen("Dr B", "second look")
    assert case.signed_off is None
    assert case.log[-1].detail == "second look"
    assert case.log[-1].before["result_sha256"] == signed.result_sha256
    case.override(1, "dce", "-", READER)
    assert case.sign_off(READER).result_sha256 != signed.result_sha256
    with pytest.raises(CaseError, match="not signed off"):
        Case.open(make_explanation().study).reopen(READER, "why")


def test_the_log_shows_what_was_changed_in_it():
    case = opened()
    case.override(1, "dce", "+", READER)
    case.undo()
    log = case.log
    assert verify_log(log)
    assert case.verify_log()
    assert all(b.previous == a.sha256 for a, b in itertools.pairwise(log))
    assert not verify_log(log[1:])
    assert not verify_log((log[0], *log[2:]))
    assert not verify_log((*log[:2], replace(log[2], reader="Dr X"), *log[3:]))
    forged = replace(log[2], reader="Dr X")
    forged = replace(forged, sha256=forged.digest())
    assert not verify_log((*log[:2], forged, *log[3:]))
    log[2].after["category"] = 1
    assert not verify_log(log)


# -------------------------------------------------------------------------------------------------------------- events


def test_events_tell_every_change_after_it_happened():
    case = opened()
    heard = []
    stop = case.subscribe(lambda event: heard.append((event.kind, event.lesion, len(case.log))))
    case.select(1)
    case.override(1, "dce", "+", READER)
    case.undo()
    assert heard == [("select", 1, 2), ("override", 1, 3), ("undo", None, 4)]
    stop()
    stop()
    case.redo()
    assert len(heard) == 3


def test_a_subscriber_that_fails_breaks_nothing_and_leaks_nothing(caplog):
    case = opened()
    heard = []

    def fails(event):
        raise RuntimeError("patient John Doe")

    case.subscribe(fails)
    case.subscribe(lambda event: heard.append(event.kind))
    with caplog.at_level(logging.DEBUG):
        case.override(1, "dce", "+", READER)
    assert heard == ["override"]
    assert case.explanation.lesion(1).rationale.dce == "+"
    assert "RuntimeError" in caplog.text
    assert "Doe" not in caplog.text
