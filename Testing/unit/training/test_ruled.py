"""The loss that goes through the rules: it is the rules, and it pulls where a score hangs on a value."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from MedRationaleLogic.model.network import spec_from_lexicon
from MedRationaleLogic.pirads import rules
from MedRationaleLogic.training.ruled import SMALL_MM, ZONES, RuleLoss, distribution

SPEC = spec_from_lexicon()
LOSS = RuleLoss(SPEC)
VALUES = {a.id: a.values for a in SPEC.attributes}

answers = st.fixed_dictionaries({a: st.sampled_from(v) for a, v in VALUES.items()})
zones = st.sampled_from((0, 1))


def labels(values: dict[str, str]) -> torch.Tensor:
    return torch.tensor([a.values.index(values[a.id]) for a in SPEC.attributes])


def sure(values: dict[str, str], strength: float = 30.0) -> dict[str, torch.Tensor]:
    """Logits that say these values."""
    return {a: strength * torch.eye(len(v))[v.index(values[a])] for a, v in VALUES.items()}


@given(answers, zones)
@settings(max_examples=80, deadline=None)
def test_certain_readings_have_the_score_that_the_rules_give(values: dict[str, str], zone: int) -> None:
    for table, needed, score in (
        (LOSS.t2w[zone], LOSS.of_t2w, rules.t2w_score(ZONES[zone], values, SMALL_MM)),
        (LOSS.dwi, LOSS.of_dwi, rules.dwi_score(values, SMALL_MM)),
    ):
        p = distribution(table, [torch.eye(len(VALUES[a]))[VALUES[a].index(values[a])] for a in needed])
        assert p.tolist() == [float(k + 1 == score) for k in range(4)]


@given(answers, answers, zones)
@settings(max_examples=60, deadline=None)
def test_it_is_zero_exactly_where_both_scores_are_right(true: dict[str, str], read: dict[str, str], zone: int) -> None:
    loss = LOSS(sure(read), labels(true), zone)
    same = all(
        score(true) == score(read)
        for score in (
            lambda v: rules.t2w_score(ZONES[zone], v, SMALL_MM), lambda v: rules.dwi_score(v, SMALL_MM)
        )
    )  # fmt: skip
    assert loss is not None
    assert (float(loss) < 1e-2) == same


@given(st.integers(0, 2**31), zones)
@settings(max_examples=30, deadline=None)
def test_probabilities_of_scores_add_up_to_one(seed: int, zone: int) -> None:
    g = torch.Generator().manual_seed(seed)
    readings = [torch.softmax(3 * torch.randn(len(VALUES[a]), generator=g), 0) for a in LOSS.of_t2w]
    p = distribution(LOSS.t2w[zone], readings)
    assert p.min() >= 0
    assert float(p.sum()) == pytest.approx(1.0, abs=1e-5)


def test_a_score_that_is_further_off_costs_more() -> None:
    base = {
        "t2.pattern": "focal", "t2.signal": "moderate_hypo", "t2.texture": "homogeneous", "t2.margin": "circumscribed",
        "t2.shape": "round", "t2.capsule": "none", "hbv.pattern": "none", "hbv.signal": "normal",
    }  # fmt: skip
    high = {**base, "adc.signal": "marked", "adc.pattern": "focal", "hbv.signal": "marked", "hbv.pattern": "focal"}
    middle = {**base, "adc.signal": "altered", "adc.pattern": "focal"}
    low = {**base, "adc.signal": "normal", "adc.pattern": "none"}
    assert [rules.dwi_score(v, SMALL_MM) for v in (low, middle, high)] == [1, 3, 4]
    costs = [float(LOSS(sure(v, 4.0), labels(high), 0)) for v in (high, middle, low)]  # type: ignore[arg-type]
    assert costs == sorted(costs)
    assert costs[2] > costs[1] > costs[0]


def test_it_pulls_on_what_the_score_hangs_on_and_on_nothing_else() -> None:
    """A PZ lesion's capsule changes no T2W score; whether it is a focus or a wedge does."""
    true = {
        "t2.pattern": "focal", "t2.signal": "moderate_hypo", "t2.texture": "homogeneous", "t2.margin": "circumscribed",
        "t2.shape": "round", "t2.capsule": "none", "adc.signal": "marked", "adc.pattern": "focal",
        "hbv.signal": "marked", "hbv.pattern": "focal",
    }  # fmt: skip
    logits = {a: x.requires_grad_(True) for a, x in sure(true, 1.0).items()}
    loss = LOSS(logits, labels(true), 0)
    assert loss is not None
    loss.backward()
    by_score = {
        c: rules.t2w_score("PZ", {**true, "t2.capsule": c}, SMALL_MM) for c in VALUES["t2.capsule"]
    }  # fmt: skip
    assert len(set(by_score.values())) == 1, "the premise"
    pull = {a: float(x.grad.abs().max()) for a, x in logits.items() if x.grad is not None}
    assert pull["t2.pattern"] > 1e-3
    assert pull["t2.capsule"] < 0.2 * pull["t2.pattern"]
    at = SPEC.attributes.index(next(a for a in SPEC.attributes if a.id == "t2.pattern"))
    assert float(logits["t2.pattern"].grad[labels(true)[at]]) < 0  # type: ignore[index]


def test_what_is_not_read_or_not_known_is_not_judged() -> None:
    true = {a: v[0] for a, v in VALUES.items()}
    known, logits = labels(true), sure(true)
    only_t2w = {a: x for a, x in logits.items() if a.startswith("t2.")}
    assert LOSS(only_t2w, known, 0) is not None
    assert LOSS({a: x for a, x in only_t2w.items() if a != "t2.margin"}, known, 0) is None
    unknown = known.clone()
    unknown[[a.id.startswith("t2.") for a in SPEC.attributes]] = -1
    assert LOSS(only_t2w, unknown, 0) is None
    assert LOSS(logits, unknown, 0) is not None
