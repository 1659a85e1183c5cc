"""One piece of work a study, on as many processes as there are cores. One process with as many threads leaves cores
idle: between its large convolutions a study is many small steps."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from torch.utils.data import DataLoader, Dataset

T = TypeVar("T")


class _Packed(Dataset[bytes]):
    """What a set gives, as bytes: tensors handed over as they are would each hold a file open until they are gone."""

    def __init__(self, items: Dataset[Any]) -> None:
        self.items = items

    def __getitem__(self, index: int) -> bytes:
        return pickle.dumps(self.items[index])


def _as_it_is(packed: Any) -> Any:
    return packed


def spread(items: Dataset[T], indices: Sequence[int], jobs: int = 1) -> Iterator[T]:
    """What a set gives for these indices, in their order.

    Args:
        items: an item must depend on its index alone.
        indices: of the items.
        jobs: processes, each with one thread of PyTorch; 1 stays in this process, with its threads.

    Raises:
        ValueError: ``jobs`` is less than 1.
        Exception: whatever making an item raises, from whichever process.
    """
    if jobs < 1:
        raise ValueError(f"{jobs} processes cannot work; give 1 or more")
    if jobs == 1:
        for index in indices:
            yield items[index]
        return
    loader = DataLoader(_Packed(items), batch_size=None, sampler=list(indices), num_workers=jobs, collate_fn=_as_it_is)
    for packed in loader:
        yield pickle.loads(packed)
