"""Readings judged by the score that they lead to, through the rules themselves.

A reading's own loss knows nothing of what hangs on it: mild for moderate hypointensity in a wedge changes no score, in
a lenticular area it does. The rules of PI-RADS are a finite table over the values of a sequence's attributes, so the
probability of each score under a region's readings (taken as independent, as the tree takes them) is a sum of products
that has a gradient. The category stays computed: what is trained is the readings, by what the rules make of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

import torch
from torch import Tensor

from MedRationaleLogic.model.network import NetworkSpec
from MedRationaleLogic.pirads import rules

ZONES: Final[tuple[rules.Zone, ...]] = ("PZ", "TZ")
#: A size that turns no 4 into a 5: size is measured, not read.
SMALL_MM: Final = 10.0
#: Scores that readings alone lead to.
SCORES: Final = 4
#: Of the squared distance of scores, beside the cross-entropy of the true one.
DISTANCE: Final = 0.5


class RuleLoss:
    """How far the T2W and DWI scores that a region's readings lead to are from those of its true values.

    Args:
        spec: the attributes, their values and order.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        self.index = {a.id: i for i, a in enumerate(spec.attributes)}
        values = {a.id: a.values for a in spec.attributes}
        self.of_t2w = [a.id for a in spec.attributes if a.sequence == "t2w"]
        self.of_dwi = [a.id for a in spec.attributes if a.sequence != "t2w"]
        self.t2w = [_table(self.of_t2w, values, partial(rules.t2w_score, zone, size_mm=SMALL_MM)) for zone in ZONES]
        self.dwi = _table(self.of_dwi, values, partial(rules.dwi_score, size_mm=SMALL_MM))

    def __call__(self, logits: Mapping[str, Tensor], labels: Tensor, zone: int) -> Tensor | None:
        """The loss of one region.

        Args:
            logits: attribute id -> (values,).
            labels: int64 (attributes,), -1 unknown.
            zone: 0 PZ, 1 TZ.

        Returns:
            () or None where neither score has all its attributes read and known.
        """
        terms = []
        for table, needed in ((self.t2w[zone], self.of_t2w), (self.dwi, self.of_dwi)):
            true = [int(labels[self.index[a]]) for a in needed]
            if min(true) < 0 or any(a not in logits for a in needed):
                continue
            found = table
            for value in true:
                found = found[:, value]
            score = int(found.argmax())
            p = distribution(table, [torch.softmax(logits[a], 0) for a in needed])
            far = (torch.arange(SCORES, device=p.device) - score) ** 2
            terms.append(-torch.log(p[score] + 1e-4) + DISTANCE * (far * p).sum())
        return torch.stack(terms).mean() if terms else None


def distribution(table: Tensor, readings: Sequence[Tensor]) -> Tensor:
    """Probability of each score, (scores,), from each attribute's probabilities, taken as independent.

    Args:
        table: (scores, values of the first attribute, ..., of the last), 1 where the values have the score.
        readings: (values,) each, in the same order.
    """
    p = table.to(readings[0].device)
    for reading in reversed(readings):
        p = p @ reading
    return p


def _table(
    needed: Sequence[str], values: Mapping[str, Sequence[str]], score: Callable[[dict[str, str]], int]
) -> Tensor:
    out = torch.zeros(SCORES, *(len(values[a]) for a in needed))
    for at in itertools.product(*(range(len(values[a])) for a in needed)):
        out[(score({a: values[a][k] for a, k in zip(needed, at, strict=True)}) - 1, *at)] = 1.0
    return out
