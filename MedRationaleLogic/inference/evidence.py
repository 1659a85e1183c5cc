"""Evidence as a dense field of the study: one map per concept, whether or not a lesion was found.

The network gives evidence of attribute *values*, each sequence on its own grid. A concept's map follows from them by
the same algebra as its probability: accepted values of an attribute add up (to at most 1), attributes multiply.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from MedRationaleLogic.imaging.volume import Geometry, Volume
from MedRationaleLogic.pirads import lexicon


@dataclass(frozen=True, eq=False)
class EvidenceField:
    """Evidence of one sequence's attribute values on the sequence's own model grid.

    Attributes:
        sequence: "t2w", "adc" or "hbv"; nothing else was read to make it.
        geometry: its grid in the patient.
        values: attribute id -> float32 (values, z, y, x) in 0..1, values in the lexicon's order.
    """

    sequence: str
    geometry: Geometry
    values: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class EvidenceMaps(Mapping[str, Volume]):
    """Concept id -> evidence on the frame's grid, float32 in 0..1; computed when asked for, 0 outside the model's grid.

    Attributes:
        fields: what the network saw, by sequence.
        frame: the grid that maps are brought to.
        threshold: below this a map is shown transparent.
    """

    fields: Mapping[str, EvidenceField]
    frame: Geometry
    threshold: float = 0.5
    _cache: dict[str, Volume] = field(default_factory=dict, repr=False)

    def __iter__(self) -> Iterator[str]:
        return iter(self._concepts)

    def __len__(self) -> int:
        return len(self._concepts)

    def __contains__(self, concept_id: object) -> bool:
        return concept_id in self._concepts

    def __getitem__(self, concept_id: str) -> Volume:
        if concept_id not in self._cache:
            native = self.native(concept_id)
            array = np.clip(native.resample(self.frame, outside=0.0).array, 0.0, 1.0)
            self._cache[concept_id] = Volume(array.astype(np.float32), self.frame, concept_id)
            if len(self._cache) > 8:  # a 400 x 400 x 30 map takes 20 MB; a reader looks at a few at a time
                del self._cache[next(iter(self._cache))]
        return self._cache[concept_id]

    @cached_property
    def _concepts(self) -> dict[str, lexicon.Concept]:
        return {c.id: c for s in self.fields for c in lexicon.load().seen_concepts() if c.sequences == (s,)}

    def native(self, concept_id: str) -> Volume:
        """The map on the model grid of its own sequence, before any resampling.

        Raises:
            KeyError: not a seen concept, or its sequence is absent.
        """
        source = self._source(concept_id)
        return Volume(self._combined(concept_id, source.values), source.geometry, concept_id)

    def native_at(self, concept_id: str, index: NDArray[np.intp]) -> NDArray[np.float32]:
        """:meth:`native` at flat voxel indices alone; raises as it does."""
        values = self._source(concept_id).values
        needed = self._concepts[concept_id].requires
        return self._combined(concept_id, {a: values[a].reshape(len(values[a]), -1)[:, index] for a in needed})

    def _source(self, concept_id: str) -> EvidenceField:
        if concept_id not in self:
            raise KeyError(f"no evidence map {concept_id!r}; the study has {', '.join(self) or 'none'}")
        return self.fields[self._concepts[concept_id].sequences[0]]

    def _combined(self, concept_id: str, values: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        concept = self._concepts[concept_id]
        parts = []
        for attribute, accepted in concept.requires.items():
            ids = lexicon.load().attribute(attribute).value_ids
            parts.append(np.minimum(values[attribute][[ids.index(v) for v in accepted]].sum(0), 1.0))
        combined = (
            np.prod(parts, axis=0) if concept.combine == "all_of" else 1 - np.prod([1 - p for p in parts], axis=0)
        )
        return np.asarray(combined, dtype=np.float32)
