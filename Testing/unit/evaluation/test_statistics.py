"""Statistics over studies against values known by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from MedRationaleLogic.evaluation.statistics import (
    bootstrap,
    confusion,
    mean_of,
    paired,
    quadratic_kappa,
    risk_coverage,
)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30))
def test_interval_lies_within_the_values(values: list[float]) -> None:
    found = bootstrap(len(values), mean_of(values), draws=100)
    assert found.value == pytest.approx(float(np.mean(values)))
    assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9


def test_a_model_against_itself_differs_by_nothing() -> None:
    x = [0.1, 0.7, 0.4, 0.9]
    found = paired(4, mean_of(x), mean_of(x), draws=50)
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_pairing_is_tighter_than_two_intervals_apart() -> None:
    g = np.random.default_rng(0)
    base = g.normal(0, 1, 200)
    found = paired(200, mean_of(list(base + 0.1)), mean_of(list(base)), draws=200)
    assert found.low == pytest.approx(0.1)
    assert found.high == pytest.approx(0.1)


def test_studies_without_a_value_are_left_out() -> None:
    assert mean_of([1.0, None, 3.0])(np.array([0, 1, 2])) == 2.0
    assert math.isnan(mean_of([None, 3.0])(np.array([0, 0])))
    with pytest.raises(ValueError, match="at least one study"):
        bootstrap(0, mean_of([]))


def test_kappa_of_known_tables() -> None:
    assert quadratic_kappa([1, 2, 3, 4, 5], [1, 2, 3, 4, 5]) == 1.0
    assert quadratic_kappa([1, 5], [5, 1]) == pytest.approx(-1.0)
    assert math.isnan(quadratic_kappa([3, 3], [3, 3]))
    # by hand: truth 1,1,2,2 against 1,2,2,2: observed disagreement 1/4, by chance 1/2 of a step
    assert quadratic_kappa([1, 1, 2, 2], [1, 2, 2, 2]) == pytest.approx(0.5)


def test_kappa_agrees_with_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    g = np.random.default_rng(1)
    a, b = g.integers(1, 6, 200), g.integers(1, 6, 200)
    expected = metrics.cohen_kappa_score(a, b, weights="quadratic", labels=range(1, 6))
    assert quadratic_kappa(a.tolist(), b.tolist()) == pytest.approx(expected)


def test_scores_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="from 1 to 5"):
        confusion([0], [1])
    with pytest.raises(ValueError, match="2 true scores but 1"):
        quadratic_kappa([1, 2], [1])


def test_risk_falls_with_coverage_when_confidence_means_something() -> None:
    curve = risk_coverage([0.9, 0.8, 0.7, 0.6], [True, True, False, False])
    assert curve[0] == (0.1, 0.0)
    assert curve[-1] == (1.0, 0.5)
