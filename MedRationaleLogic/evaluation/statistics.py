"""Small pure statistics over studies: bootstrap intervals, paired differences, agreement of scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Interval:
    """A figure with its percentile bootstrap interval over studies.

    Attributes:
        value: on all studies.
        low, high: 2.5th and 97.5th percentile of the draws.
        n: how many studies were drawn from; a figure of positives rests on those of them that have any.
    """

    value: float
    low: float
    high: float
    n: int


def _draws(n: int, draws: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, n, (draws, n))


def bootstrap(n: int, statistic: Callable[[NDArray[np.int64]], float], *, draws: int = 1000, seed: int = 0) -> Interval:
    """Interval of any figure of a set of studies.

    Args:
        n: number of studies.
        statistic: from the indices of studies (with repeats) to the figure; NaN where it has none.
        draws: bootstrap samples; a draw without a figure is left out.
        seed: the same seed draws the same studies, which is what pairs two models.

    Raises:
        ValueError: there is no study.
    """
    if n < 1:
        raise ValueError("a bootstrap needs at least one study")
    values = np.array([statistic(index) for index in _draws(n, draws, seed)])
    values = values[np.isfinite(values)]
    here = statistic(np.arange(n))
    if not len(values):
        return Interval(here, float("nan"), float("nan"), n)
    low, high = np.percentile(values, (2.5, 97.5))
    return Interval(here, float(low), float(high), n)


def paired(
    n: int, first: Callable[[NDArray[np.int64]], float], second: Callable[[NDArray[np.int64]], float], *,
    draws: int = 1000, seed: int = 0,
) -> Interval:  # fmt: skip
    """Interval of the difference ``first - second`` of two models on the same draws of studies."""
    return bootstrap(n, lambda index: first(index) - second(index), draws=draws, seed=seed)


def mean_of(values: Sequence[float | None]) -> Callable[[NDArray[np.int64]], float]:
    """The mean over the studies that have a value, as a statistic of indices; NaN where none has."""
    x = np.array([np.nan if v is None else v for v in values], dtype=float)

    def statistic(index: NDArray[np.int64]) -> float:
        chosen = x[index]
        chosen = chosen[np.isfinite(chosen)]
        return float(chosen.mean()) if len(chosen) else float("nan")

    return statistic


def quadratic_kappa(truth: Sequence[int], answer: Sequence[int], levels: int = 5) -> float:
    """Quadratically weighted kappa (Cohen 1968) of scores 1 to ``levels``; NaN where chance agrees fully.

    Raises:
        ValueError: the lengths differ, or a score is out of range.
    """
    if len(truth) != len(answer):
        raise ValueError(f"{len(truth)} true scores but {len(answer)} answers")
    observed = confusion(truth, answer, levels)
    n = observed.sum()
    if n == 0:
        return float("nan")
    k = np.arange(levels)
    weight = (k[:, None] - k[None]) ** 2 / (levels - 1) ** 2
    expected = np.outer(observed.sum(1), observed.sum(0)) / n
    chance = float((weight * expected).sum())
    return 1.0 - float((weight * observed).sum()) / chance if chance > 0 else float("nan")


def confusion(truth: Sequence[int], answer: Sequence[int], levels: int = 5) -> NDArray[np.int64]:
    """Counts, rows the truth 1 to ``levels``, columns the answer."""
    out = np.zeros((levels, levels), dtype=np.int64)
    for t, a in zip(truth, answer, strict=True):
        if not (1 <= t <= levels and 1 <= a <= levels):
            raise ValueError(f"scores run from 1 to {levels}; got {t} and {a}")
        out[t - 1, a - 1] += 1
    return out


def risk_coverage(confidence: Sequence[float], right: Sequence[bool]) -> list[tuple[float, float]]:
    """(coverage, share wrong) when only the most confident answers are given, at every tenth of coverage."""
    order = np.argsort(-np.asarray(confidence, dtype=float), kind="stable")
    wrong = 1.0 - np.asarray(right, dtype=float)[order]
    out = []
    for share in np.linspace(0.1, 1.0, 10):
        k = max(1, round(share * len(wrong)))
        out.append((round(float(share), 1), float(wrong[:k].mean())))
    return out
