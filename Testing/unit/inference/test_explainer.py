"""The pipeline from a study to an explanation: subsets, orientation, progress, stopping, and what it says of itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from numpy.typing import NDArray

from MedRationaleLogic.imaging.acquisition import Role
from MedRationaleLogic.imaging.preprocess import axial_geometry
from MedRationaleLogic.imaging.study import Study, StudyError
from MedRationaleLogic.imaging.volume import Geometry, Volume
from MedRationaleLogic.inference import device
from MedRationaleLogic.inference.device import DeviceError, choose
from MedRationaleLogic.inference.evidence import EvidenceField, EvidenceMaps
from MedRationaleLogic.inference.explainer import (
    REACH_MM,
    ExplainCancelledError,
    Explainer,
    StudyReader,
    _theta,
    region_on,
)
from MedRationaleLogic.inference.explanation import Explanation
from MedRationaleLogic.model.bundle import Bundle, BundleError, save
from MedRationaleLogic.model.grids import SEQUENCES, STEM_GRIDS
from MedRationaleLogic.pirads import lexicon
from Testing.bundle_factory import tiny_bundle
from Testing.study_factory import (
    CENTER,
    DIFFUSION_GRID,
    ROLES,
    T2W_GRID,
    direction,
    grid,
    make_study,
    mask_points,
    stored_otherwise,
    study_of,
)

Opened = tuple[Explanation, StudyReader]
SUBSETS: list[tuple[Role, ...]] = [s for n in (1, 2, 3) for s in combinations(ROLES, n)]


def everything(explanation: Explanation) -> dict[str, Any]:
    """What an explanation holds, without the clock."""
    data = explanation.to_dict()
    data["provenance"].pop("seconds")
    return data


def ball(geometry: Geometry, offset: Sequence[float], radius: float) -> Volume:
    """Voxels within ``radius`` mm of the gland's centre moved by ``offset`` (LPS)."""
    at = geometry.to_patient(np.moveaxis(np.indices(geometry.shape), 0, -1))
    far = np.linalg.norm(at - np.asarray(CENTER) - np.asarray(offset), axis=-1)
    return Volume(far <= radius, geometry, "ball")


def from_center(x: float, y: float, z: float) -> NDArray[np.float64]:
    """The patient point this far from the gland's centre (LPS, mm)."""
    return np.asarray(CENTER) + np.asarray((x, y, z))


def seen_as(monkeypatch: pytest.MonkeyPatch, reader: StudyReader, **changes: NDArray[Any]) -> None:
    """Let the network have seen something else; it does not run again."""
    monkeypatch.setattr(Explainer, "_see", lambda self, study, clock: replace(reader, study=study, **changes))


# -- what comes out ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("roles", SUBSETS, ids="+".join)
def test_any_subset_of_sequences_runs_with_its_x_rules(
    explainer: Explainer, opened: Opened, roles: tuple[Role, ...]
) -> None:
    explanation = opened[0] if roles == ROLES else explainer.explain(make_study(roles))
    frame = T2W_GRID if "t2w" in roles else DIFFUSION_GRID
    complete = roles == ROLES

    assert explanation.zones.geometry == frame
    assert explanation.lesions, "the eager bundle outlines something in every study"
    assert {lexicon.load().concept(c).sequences[0] for c in explanation.evidence} == set(roles)
    absent = [f for f in explanation.flags if f.startswith("absent: ")]
    assert absent == ([] if complete else [f"absent: {', '.join(_name(r) for r in ROLES if r not in roles)}"])
    for lesion in explanation.lesions:
        assert (lesion.rationale.t2w == "X") == ("t2w" not in roles)
        assert (lesion.rationale.dwi == "X") == (not {"adc", "hbv"} <= set(roles))
        assert lesion.rationale.dce == "X"
        assert (lesion.category == "X") == (not complete)
        assert {lexicon.load().attribute(a).sequence for a in lesion.attributes} == set(roles)
        assert lesion.suspicion is not None
        assert {r.sequence for r in lesion.readings} - {"dwi"} <= set(roles)
        assert any(r.sequence == "dwi" for r in lesion.readings) == ({"adc", "hbv"} <= set(roles))
    assert (explanation.category.category == "X") == (not complete)


def _name(role: Role) -> str:
    return {"t2w": "T2W", "adc": "ADC", "hbv": "high-b"}[role]


def test_the_parts_of_an_explanation_agree(opened: Opened, study: Study) -> None:
    explanation, _ = opened
    assert study.t2w is not None

    assert [x.number for x in explanation.lesions] == list(range(1, len(explanation.lesions) + 1))
    values = [x.suspicion.value for x in explanation.lesions if x.suspicion]
    assert values == sorted(values, reverse=True)
    for lesion in explanation.lesions:
        s = lesion.suspicion
        assert s is not None
        logit = s.bias + sum(x for _, x in s.terms) + s.residual
        assert s.value == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-6)
        assert 0 <= s.residual_share <= 1
        assert lesion.mask.array.dtype == bool
        assert lesion.mask.array.any()
        for probabilities in lesion.attributes.values():
            assert sum(probabilities.values()) == pytest.approx(1.0, abs=1e-5)
        for reading in lesion.readings:
            expected = lexicon.load().concept(reading.concept).probability(lesion.attributes)
            assert reading.probability == expected
    assert set(np.unique(explanation.lesion_labels.array)) <= {0, *(x.number for x in explanation.lesions)}
    assert set(np.unique(explanation.zones.array)) <= {0, 1, 2}
    assert [i["sha256"] for i in explanation.provenance.inputs] == [i.sha256 for i in study.inputs]
    assert explanation.provenance.precision == "float32"
    assert any("out of distribution" in f for f in explanation.flags)  # its gland fills the whole crop


def test_a_readings_peak_is_where_its_map_is_strongest(opened: Opened) -> None:
    explanation, _ = opened
    for reading in explanation.lesions[0].readings:
        if reading.sequence == "dwi":
            assert reading.peak is None
            continue
        native = explanation.evidence.native(reading.concept)
        assert reading.peak is not None
        at = np.round(native.geometry.to_index(reading.peak)).astype(int)
        assert native.array[tuple(at)] == reading.peak_value
        some = np.flatnonzero(native.array > 0)[::97]
        assert np.array_equal(explanation.evidence.native_at(reading.concept, some), native.array.reshape(-1)[some])
        slice_of_peak = round(float(explanation.frame.geometry.to_index(reading.peak)[0]))
        assert reading.peak_slice == min(max(slice_of_peak, 0), explanation.frame.geometry.shape[0] - 1)


def test_the_same_input_gives_the_same_bits(explainer: Explainer, opened: Opened, study: Study) -> None:
    before = opened[0]
    after = explainer.explain(study)

    assert everything(after) == everything(before)
    assert np.array_equal(after.zones.array, before.zones.array)
    assert after.lesion_probability.array.tobytes() == before.lesion_probability.array.tobytes()
    assert after.lesion_labels.array.tobytes() == before.lesion_labels.array.tobytes()
    for concept in before.evidence:
        assert after.evidence.native(concept).array.tobytes() == before.evidence.native(concept).array.tobytes()


def test_a_study_seen_again_reads_the_same(explainer: Explainer, opened: Opened) -> None:
    """``see`` is what a saved case uses: the same road without candidates."""
    explanation, reader = opened
    t2w_only = make_study(("t2w",))
    one, two = explainer.see(t2w_only), explainer.open(t2w_only)[1]
    mask = ball(T2W_GRID, (9.0, 5.0, 0.0), 6.0)

    assert one.readings(mask) == two.readings(mask)
    assert reader.readings(explanation.lesions[0].mask) == explanation.lesions[0].attributes


# -- orientation -------------------------------------------------------------------------------------------------------


def turned(study: Study, order: tuple[int, int, int], flips: tuple[bool, bool, bool]) -> Study:
    return study_of({r: stored_otherwise(v, order, flips) for r in study.roles if (v := study.volume(r)) is not None})


@pytest.mark.parametrize(
    ("order", "flips"),
    [((0, 1, 2), (True, True, False)), ((2, 0, 1), (False, True, True))],
    ids=["mirrored", "permuted and mirrored"],
)
def test_the_same_anatomy_stored_with_other_axes_is_explained_the_same(
    explainer: Explainer, order: tuple[int, int, int], flips: tuple[bool, bool, bool]
) -> None:
    """Only for T2W with a grid that is exact in binary can the claim be to the bit; see also the next test."""
    study = make_study(("t2w",))
    before, after = explainer.explain(study), explainer.explain(turned(study, order, flips))

    assert after.frame.geometry != before.frame.geometry
    for zone in (1, 2):
        masks = [x.zones.with_array(x.zones.array == zone) for x in (before, after)]
        assert np.array_equal(mask_points(masks[0]), mask_points(masks[1]))
    assert len(after.lesions) == len(before.lesions) > 0
    for one, two in zip(before.lesions, after.lesions, strict=True):
        assert np.array_equal(mask_points(one.mask), mask_points(two.mask))
        assert one.attributes == two.attributes
        assert one.suspicion == two.suspicion
        assert [r.peak for r in one.readings] == [r.peak for r in two.readings]


def test_an_oblique_study_is_explained_and_stays_itself_when_mirrored(explainer: Explainer) -> None:
    """Its grid is not exact in binary, and half of ADC's field falls on the edge of the localiser's voxels."""
    tilted = grid((12, 90, 96), (3.25, 0.9, 0.9), (14.0, -9.0, 25.0))
    study = make_study(("t2w", "adc"), t2w=tilted)
    before = explainer.explain(study)
    after = explainer.explain(turned(study, (0, 1, 2), (True, False, True)))

    assert before.lesions
    assert before.zones.geometry == tilted
    back = after.lesion_probability.array[::-1, :, ::-1]
    assert np.allclose(back, before.lesion_probability.array, atol=1e-4)
    zones = after.zones.array[::-1, :, ::-1]
    assert (zones == before.zones.array).mean() > 0.9999


angles = st.tuples(*[st.floats(-40, 40)] * 3)


@st.composite
def geometries(draw: st.DrawFn, coarsest: float = 5.0) -> Geometry:
    """Oblique, flipped, permuted, anisotropic; slices at most ``coarsest`` mm apart."""
    spacings = st.tuples(st.floats(0.8, coarsest), st.floats(0.3, 3.0), st.floats(0.3, 3.0))
    shape = draw(st.tuples(st.integers(6, 14), st.integers(20, 44), st.integers(20, 44)))
    axes = np.asarray(direction(draw(angles))).reshape(3, 3)[:, list(draw(st.permutations(range(3))))]
    axes = axes * np.asarray(draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3)))
    base = Geometry(shape, draw(spacings), (0.0, 0.0, 0.0), tuple(axes.ravel()))
    return base.centered_on(draw(st.tuples(*[st.floats(-80, 80)] * 3)), shape, base.spacing)


@given(geometry=geometries(), data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_voxel_goes_to_the_model_grid_and_back(geometry: Geometry, data: st.DataObject) -> None:
    """Input voxel -> patient point -> model voxel -> patient point -> the same input voxel, on any grid."""
    index = tuple(data.draw(st.integers(0, n - 1)) for n in geometry.shape)
    native = axial_geometry(geometry).centered_on(geometry.center, STEM_GRIDS["t2w"].shape, STEM_GRIDS["t2w"].spacing)
    there = native.to_index(geometry.to_patient(index))
    back = geometry.to_index(native.to_patient(there))

    assert np.allclose(back, index, atol=1e-6)
    assert tuple(np.round(back).astype(int)) == index


@given(oblique=geometries(coarsest=3.0), data=st.data())
@settings(max_examples=25, deadline=None)
def test_evidence_on_the_frame_lies_where_it_lies_on_its_own_grid(oblique: Geometry, data: st.DataObject) -> None:
    """A blob on the model's grid: its peak on the frame is the same patient point, within half a voxel of both."""
    spec = STEM_GRIDS["adc"]
    width = max(*oblique.spacing, *spec.spacing)
    shape = [int(np.ceil(13 * width / s)) for s in oblique.spacing]
    geometry = oblique.centered_on(oblique.center, (shape[0], shape[1], shape[2]), oblique.spacing)
    native = axial_geometry(geometry).centered_on(geometry.center, spec.shape, spec.spacing)
    # in the middle of the frame, so that none of the blob is cut off
    share = np.asarray(data.draw(st.tuples(*[st.floats(0.4, 0.6)] * 3)))
    center = geometry.to_patient(share * (np.asarray(geometry.shape) - 1))
    at = native.to_patient(np.moveaxis(np.indices(native.shape), 0, -1))
    blob = np.exp(-0.5 * ((np.linalg.norm(at - center, axis=-1)) / width) ** 2).astype(np.float32)
    attribute = lexicon.load().attribute("adc.signal")
    # a concept adds up what its values say: shared out, so that the sum has one peak
    values = {a.id: np.stack([blob / len(a.values)] * len(a.values)) for a in lexicon.load().attributes_of("adc")}
    maps = EvidenceMaps({"adc": EvidenceField("adc", native, values)}, geometry)
    concept = next(c.id for c in lexicon.load().seen_concepts("adc") if set(c.requires) == {attribute.id})
    shown = maps[concept]
    peak = np.unravel_index(int(shown.array.argmax()), shown.array.shape)

    assert shown.geometry == geometry
    far = np.linalg.norm(geometry.to_patient(peak) - center)
    assert far <= 0.5 * float(np.linalg.norm(geometry.spacing)) + 0.5 * float(np.linalg.norm(native.spacing))
    assert float(shown.array.max()) <= 1.0


@given(fine=geometries(), other=geometries(), share=st.tuples(*[st.floats(-1, 1)] * 3))
@settings(max_examples=60, deadline=None)
def test_the_trunk_samples_a_stem_at_the_same_patient_point(
    fine: Geometry, other: Geometry, share: tuple[float, float, float]
) -> None:
    """The affine between normalised coordinates (x, y, z in -1..1, corners aligned) goes through the patient."""
    theta = _theta(fine, other)[0].double().numpy()
    half = (np.asarray(fine.shape[::-1]) - 1) / 2
    point = fine.to_patient((np.asarray(share) * half + half)[::-1])
    index = other.to_index(point)[::-1]
    expected = index / ((np.asarray(other.shape[::-1]) - 1) / 2) - 1

    assert theta @ np.append(share, 1.0) == pytest.approx(expected, abs=1e-3)


# -- precision and place -----------------------------------------------------------------------------------------------


def test_bfloat16_differs_little_from_float32(eager: Bundle, study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the same crop (the localiser is noise here, and a voxel more or less of noise moves it).

    Measured on this bundle, whose lesion logits are six times as steep as they were drawn: mean difference of zones
    .005, lesion .007, maps .003; 99.9th percentile .05, .15, .20. The bounds are about twice that.
    """

    def fixed(self: Explainer, net: Any, autocast: Any, study: Study, role: Role) -> tuple[Geometry, list[str]]:
        spec = STEM_GRIDS[role]
        volume = study.volume(role)
        assert volume is not None
        return axial_geometry(volume.geometry).centered_on(CENTER, spec.shape, spec.spacing), []

    monkeypatch.setattr(Explainer, "_locate", fixed)
    monkeypatch.setattr(Explainer, "_zoom", lambda self, net, autocast, t2w, grid: (grid, None))
    exact, half = (Explainer(eager, "cpu", precision).see(study) for precision in ("float32", "bfloat16"))
    assert (exact.place.precision, half.place.precision) == ("float32", "bfloat16")
    differences = [
        (exact.zone_probability, half.zone_probability, 0.01, 0.1),
        (exact.lesion_probability, half.lesion_probability, 0.015, 0.3),
        *((exact.evidence().native(c).array, half.evidence().native(c).array, 0.01, 0.4) for c in exact.evidence()),
    ]

    assert np.abs(exact.zone_probability - half.zone_probability).max() > 0, "both ran in the same precision"
    for one, two, mean, high in differences:
        difference = np.abs(one - two)
        assert difference.mean() < mean
        assert np.quantile(difference, 0.999) < high


def test_cuda_that_is_asked_for_and_absent_is_an_error(eager: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    with pytest.raises(DeviceError, match=r"CUDA was asked for, but this PyTorch sees no CUDA device; choose auto"):
        Explainer(eager, "cuda", "float32")
    assert choose("auto", "float32") == device.Placement("cpu", False)


def test_a_device_with_too_little_memory_is_left_and_said(
    eager: Bundle, opened: Opened, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2**29, 8 * 2**30))
    monkeypatch.setattr(device, "available_memory", lambda: None)
    said = "ran on the CPU: the CUDA device has 0.5 of 8.0 GB free, 2 GB are needed"

    with pytest.raises(DeviceError, match=r"0\.5 of 8\.0 GB free"):
        choose("cuda", "float32")
    there = Explainer(eager, "auto", "float32")
    assert there.place == device.Placement("cpu", False, (said,))
    seen_as(monkeypatch, opened[1])
    assert there.explain(study).provenance.notes == (said,)


def test_a_device_with_enough_memory_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (4 * 2**30, 8 * 2**30))

    assert choose("auto", "float32") == choose("cuda", "float32") == device.Placement("cuda", False)
    assert choose("cpu", "float32").device == "cpu"


def test_little_main_memory_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "available_memory", lambda: 2**29)

    assert choose("cpu", "bfloat16") == device.Placement(
        "cpu", True, ("little memory: 0.5 GB available, 1.5 GB are advised",)
    )


@pytest.mark.parametrize(("place", "precision"), [("tpu", "auto"), ("cpu", "float16")])
def test_unknown_words_are_refused(place: Any, precision: Any) -> None:
    with pytest.raises(DeviceError, match="unknown"):
        choose(place, precision)


@pytest.mark.parametrize("faster", [True, False])
def test_auto_precision_follows_the_probe(monkeypatch: pytest.MonkeyPatch, faster: bool) -> None:
    monkeypatch.setattr(device, "bfloat16_is_faster", lambda place: faster)

    assert choose("cpu", "auto").bfloat16 is faster
    assert choose("cpu", "float32").bfloat16 is False


def test_an_unknown_bundle_is_refused() -> None:
    with pytest.raises(BundleError, match="no bundle named there is none"):
        Explainer("there is none", "cpu")


# -- progress and stopping ---------------------------------------------------------------------------------------------


def test_progress_rises_to_one_and_names_each_stage(
    explainer: Explainer, opened: Opened, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[tuple[float, str]] = []
    explanation = explainer.explain(make_study(("t2w",)), progress=lambda share, stage: heard.append((share, stage)))

    assert heard[0] == (0.0, "checking geometry")
    assert heard[-1] == (1.0, "done")
    assert all(a <= b for (a, _), (b, _) in pairwise(heard))
    assert set(explanation.provenance.seconds) == {stage for _, stage in heard} - {"done"}
    assert "reading T2W" in explanation.provenance.seconds


def test_every_stage_can_be_the_last(explainer: Explainer) -> None:
    """Asked before each stage; a stop leaves an explainer that works."""
    study = make_study(("adc",))
    stages: list[str] = []
    explainer.explain(study, progress=lambda share, stage: stages.append(stage))
    for last in range(len(stages) - 1):
        asked: list[int] = []
        begun: list[str] = []

        def stop(asked: list[int] = asked, last: int = last) -> bool:
            asked.append(1)
            return len(asked) > last

        with pytest.raises(ExplainCancelledError):
            explainer.explain(study, progress=lambda share, stage, begun=begun: begun.append(stage), cancelled=stop)
        assert begun == stages[:last]
        if "fusing the sequences" in begun:  # the network ran once in full: what follows is the same for all
            break
    assert {p.device.type for p in explainer.bundle.network().parameters()} == {"cpu"}


def test_the_later_stages_stop_as_well(
    explainer: Explainer, opened: Opened, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen_as(monkeypatch, opened[1])
    stages: list[str] = []
    explainer.explain(study, progress=lambda share, stage: stages.append(stage))
    assert stages.count("reading the regions") > 1
    for last in range(len(stages) - 1):
        left = iter([False] * last + [True])
        with pytest.raises(ExplainCancelledError):
            explainer.explain(study, cancelled=lambda left=left: next(left))


# -- what is not a lesion is told --------------------------------------------------------------------------------------


def test_candidates_outside_the_gland_are_told(
    explainer: Explainer, opened: Opened, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = opened[1]
    nothing = np.zeros_like(reader.zone_probability)
    nothing[0] = 1.0
    seen_as(monkeypatch, reader, zone_probability=nothing)
    explanation = explainer.explain(study)

    assert explanation.lesions == ()
    assert explanation.gland is None
    assert "no gland was found: masks and sectors are missing; look at the input" in explanation.flags
    assert explanation.category.category == "X", "where nothing was searched, nothing found is no category 1"
    assert "the gland was not found" in explanation.category.text
    assert explanation.dropped
    assert {d.reason for d in explanation.dropped} == {"dropped: only 0% of it lies in the gland"}
    for dropped in explanation.dropped:
        assert reader.fine.to_index(dropped.center) == pytest.approx(
            np.clip(reader.fine.to_index(dropped.center), 0, np.asarray(reader.fine.shape) - 1)
        )


def test_candidates_of_low_suspicion_are_told(
    eager: Bundle, opened: Opened, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen_as(monkeypatch, opened[1])
    strict = replace(
        eager, manifest=replace(eager.manifest, thresholds={**eager.manifest.thresholds, "suspicion": 2.0})
    )
    explanation = Explainer(strict, "cpu", "float32").explain(study)
    before = opened[0]

    assert all(x.category in (3, 4, 5) for x in explanation.lesions)
    said = [d for d in explanation.dropped if d.reason.startswith("not reported: suspicion")]
    assert len(said) == len(before.lesions) - len(explanation.lesions)
    assert len(said) > 0
    assert all("under 2.00 and category" in d.reason for d in said)

    thresholds = {**strict.manifest.thresholds, "equivocal": 1.5}
    stricter = replace(eager, manifest=replace(eager.manifest, thresholds=thresholds))
    explanation = Explainer(stricter, "cpu", "float32").explain(study)
    assert all(x.category in (4, 5) for x in explanation.lesions)
    said = [d for d in explanation.dropped if d.reason.startswith("not reported: suspicion")]
    assert len(said) == len(before.lesions) - len(explanation.lesions)
    assert all(("under 1.50 and category 3" in d.reason) == ("category 3" in d.reason) for d in said)


def test_no_candidate_gives_a_negative_result_with_maps(
    explainer: Explainer, opened: Opened, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen_as(monkeypatch, opened[1], lesion_probability=np.zeros_like(opened[1].lesion_probability))
    explanation = explainer.explain(study)

    assert explanation.lesions == explanation.dropped == ()
    assert explanation.category.category == 1
    assert not explanation.lesion_labels.array.any()
    assert list(explanation.evidence) == list(opened[0].evidence)


def test_fields_of_view_that_do_not_overlap_are_refused(explainer: Explainer) -> None:
    apart = grid((12, 44, 44), (3.5, 2.25, 2.25), shift=(0.0, 0.0, 150.0))

    with pytest.raises(StudyError, match="do not show the same place"):
        explainer.explain(make_study(diffusion=apart))


# -- regions of a reader -----------------------------------------------------------------------------------------------


@pytest.fixture
def plain(opened: Opened) -> Callable[..., StudyReader]:
    """The reader of the study, with a lesion map made up around a point."""

    def made(peak: float, offset: Sequence[float] = (0.0, 0.0, 0.0), radius: float = 8.0) -> StudyReader:
        reader = opened[1]
        at = reader.fine.to_patient(np.moveaxis(np.indices(reader.fine.shape), 0, -1))
        far = np.linalg.norm(at - np.asarray(CENTER) - np.asarray(offset), axis=-1)
        return replace(reader, lesion_probability=(peak * np.exp(-((far / radius) ** 2))).astype(np.float32))

    return made


def test_a_region_grows_on_what_the_model_saw(plain: Callable[..., StudyReader]) -> None:
    zones = ball(T2W_GRID, (0, 0, 0), 25.0)
    reader = plain(0.9, (6.0, 4.0, 0.0))
    region = reader.region_at(from_center(6.0, 4.0, 0.0), zones)
    expected = (reader.probability_on_frame().array >= 0.9 / 2.5 * 0.99) & ball(T2W_GRID, (6, 4, 0), REACH_MM).array

    assert region.geometry == T2W_GRID
    assert region.array.dtype == bool
    overlap = 2 * (region.array & expected).sum() / (region.array.sum() + expected.sum())
    assert overlap > 0.95


def test_a_region_stays_near_the_point_and_in_the_gland(plain: Callable[..., StudyReader]) -> None:
    zones = ball(T2W_GRID, (0, 0, 0), 20.0)
    point = from_center(14.0, 0.0, 0.0)
    region = plain(0.9, radius=200.0).region_at(point, zones)
    far = np.linalg.norm(region.geometry.to_patient(np.argwhere(region.array)) - point, axis=-1)

    assert far.max() <= REACH_MM
    assert zones.array[region.array].all()


def test_where_the_model_sees_nothing_a_region_is_a_ball(plain: Callable[..., StudyReader]) -> None:
    zones = ball(T2W_GRID, (0, 0, 0), 25.0)
    region = plain(0.01).region_at(from_center(3.0, 0.0, 0.0), zones)

    assert np.array_equal(region.array, ball(T2W_GRID, (3.0, 0.0, 0.0), 5.0).array)


def test_a_point_elsewhere_is_refused(plain: Callable[..., StudyReader]) -> None:
    zones = ball(T2W_GRID, (0, 0, 0), 15.0)
    reader = plain(0.9)

    with pytest.raises(ValueError, match="outside the images; click inside the prostate"):
        reader.region_at(from_center(0.0, 0.0, 40.0), zones)
    with pytest.raises(ValueError, match="more than 5 mm outside the segmented gland"):
        reader.region_at(from_center(30.0, 0.0, 0.0), zones)
    near = reader.region_at(from_center(17.0, 0.0, 0.0), zones)
    assert near.array.any()


def test_a_readers_region_is_measured_and_read(opened: Opened) -> None:
    explanation, reader = opened
    mask = ball(T2W_GRID, (9.0, 5.0, 0.0), 6.0)
    lesion = reader.lesion(7, mask, explanation.zones, origin="reader")

    assert (lesion.number, lesion.origin) == (7, "reader")
    assert lesion.attributes == reader.readings(mask)
    assert lesion.measures.in_plane.mm == pytest.approx(12.0, abs=3.5)  # PZ is measured on ADC's 2.25 mm grid
    with pytest.raises(ValueError, match="empty"):
        reader.lesion(8, mask.with_array(np.zeros_like(mask.array)), explanation.zones)


def test_a_region_that_a_sequence_misses_has_none_of_its_readings(explainer: Explainer) -> None:
    """Its suspicion starts from the bias of the sequences that do reach it, as if the others were absent."""
    short = grid((8, 44, 44), (3.5, 2.25, 2.25), shift=(0.0, 0.0, -6.0))  # 8 mm over the gland's middle at the top
    reader = explainer.see(make_study(diffusion=short))
    top = ball(T2W_GRID, (0.0, 0.0, 15.0), 3.0)
    assert region_on(top, reader.grids["adc"]).any(), "the model's own grid goes on beyond the images"
    readings = reader.readings(top)
    assert {lexicon.load().attribute(a).sequence for a in readings} == {"t2w"}

    s = reader.suspicion(top, "PZ", readings)
    state = 2 ** SEQUENCES.index("t2w")
    assert s.bias == pytest.approx(float(reader.net.suspicion_bias[0, state]), abs=1e-4)
    gland = ball(T2W_GRID, (0, 0, 0), 25.0)
    lesion = reader.lesion(1, top, gland.with_array(gland.array.astype(np.uint8)))
    for name in ("ADC", "high-b"):
        assert f"not read on {name}: its images show less than half of the region" in lesion.flags
    assert (lesion.rationale.dwi, lesion.category) == ("X", "X")


def test_a_region_of_which_a_sequence_shows_half_is_read_by_that_half(explainer: Explainer) -> None:
    short = grid((8, 44, 44), (3.5, 2.25, 2.25), shift=(0.0, 0.0, -6.0))
    reader = explainer.see(make_study(diffusion=short))
    for height, read in ((5.0, True), (11.0, False)):  # of a ball of 6 mm, with the images' end at 8 mm
        readings = reader.readings(ball(T2W_GRID, (0.0, 0.0, height), 6.0))
        assert ("adc.signal" in readings) == read
    there = reader.readings(ball(T2W_GRID, (0.0, 0.0, 5.0), 6.0))
    shown = reader._region(ball(T2W_GRID, (0.0, 0.0, 5.0), 6.0), "adc")
    assert not (shown & ~reader.valid["adc"]).any()
    assert there["adc.signal"].keys() == set(lexicon.load().attribute("adc.signal").value_ids)


@given(geometry=geometries(), data=st.data())
@settings(max_examples=25, deadline=None)
def test_a_region_keeps_its_place_on_another_grid(geometry: Geometry, data: st.DataObject) -> None:
    other = grid((16, 48, 48), (3.0, 1.5, 1.5), data.draw(angles)).centered_on(
        geometry.center, (16, 48, 48), (3.0, 1.5, 1.5)
    )
    at = other.to_patient(np.moveaxis(np.indices(other.shape), 0, -1))
    radius = data.draw(st.floats(0.5, 12.0))
    near = np.linalg.norm(
        geometry.to_patient(np.moveaxis(np.indices(geometry.shape), 0, -1)) - geometry.center, axis=-1
    )
    mask = Volume(near <= max(radius, float(near.min())), geometry)
    region = region_on(mask, other)

    assert region.any()  # however thin it is
    reach = radius + float(np.linalg.norm(geometry.spacing)) + float(np.linalg.norm(other.spacing))
    assert np.linalg.norm(at[region] - geometry.center, axis=-1).max() <= reach
    assert region_on(mask, geometry) is not mask.array
    assert np.array_equal(region_on(mask, geometry), mask.array)


def test_the_bundle_and_its_thresholds_are_in_the_provenance(
    tmp_path_factory: pytest.TempPathFactory, eager: Bundle, opened: Opened
) -> None:
    assert opened[0].provenance.thresholds == eager.manifest.thresholds
    assert opened[0].evidence.threshold == eager.manifest.thresholds["evidence"]
    assert opened[0].provenance.bundle["sha256"] == eager.manifest.sha256
    folder = tmp_path_factory.mktemp("other")
    again = save(eager.network(), folder / "eager-0.0.1", tiny_bundle(folder).manifest)
    assert again.manifest.sha256 == eager.manifest.sha256  # the same weights are the same file
