"""How a reader walks through a case, the same in every face: from concept to concept, from region to region, and which
step of a rationale goes with what is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from MedRationaleLogic.export import words
from MedRationaleLogic.imaging.acquisition import Role
from MedRationaleLogic.inference.explanation import Explanation
from MedRationaleLogic.pirads import lexicon
from MedRationaleLogic.pirads.rationale import Rationale

__all__ = ["Offer", "concepts", "following", "sequence_of", "step_shown"]

T = TypeVar("T")


@dataclass(frozen=True)
class Offer:
    """A concept whose evidence can be looked at.

    Attributes:
        concept: its id.
        sequence: "t2w", "adc" or "hbv": where its evidence was read.
        text: what it stands for, without the sequence: "texture: homogeneous", or its phrase where no region is
            selected.
    """

    concept: str
    sequence: Role
    text: str

    @property
    def named(self) -> str:
        """The text with its sequence, for a list of all of them."""
        return f"{words.CONCEPT_GROUPS[self.sequence]} {self.text}"


def concepts(explanation: Explanation, lesion: int | None = None) -> list[Offer]:
    """What there is to look at: a region's answers that have a map, in the order of its rationale; without a region
    every map of the study.

    Raises:
        KeyError: no such region.
    """
    maps = list(explanation.evidence)
    if lesion is None:
        return [Offer(concept, sequence_of(concept), words.concept_phrase(concept)) for concept in maps]
    found: dict[str, Offer] = {}
    for step in explanation.lesion(lesion).rationale.steps:
        if step.evidence is not None and step.evidence in maps:
            said = f"{words.step_label(step)}: {words.answer_words(step.id, step.answer)}"
            # two answers may share a map: the term of the standard stands for both
            found.setdefault(step.evidence, Offer(step.evidence, sequence_of(step.evidence), said))
    return list(found.values())


def sequence_of(concept: str) -> Role:
    """The sequence that the evidence of a concept with a map was read from.

    Raises:
        KeyError: no such concept.
    """
    return lexicon.load().concept(concept).sequences[0]


def following(entries: Sequence[T], now: T | None, by: int) -> T | None:
    """The entry so many places on from the one looked at, round and round; from nowhere the first, or with ``by``
    below 0 the last. None where there is nothing."""
    if not entries:
        return None
    at = entries.index(now) + by if now in entries else (0 if by > 0 else -1)
    return entries[at % len(entries)]


def step_shown(rationale: Rationale, chosen: str | None, concept: str | None) -> str | None:
    """The step to mark: the one that was chosen, while its map is the one in the views; else that map's step."""
    by_id = {step.id: step for step in rationale.steps}
    if chosen in by_id and by_id[chosen].evidence in (None, concept):
        return chosen
    return next((step.id for step in rationale.steps if concept is not None and step.evidence == concept), None)
