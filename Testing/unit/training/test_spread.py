"""Work spread over processes: the same items in the same order, no open file left behind, errors with their text."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from MedRationaleLogic.training.spread import spread


class Numbers(Dataset[dict[str, Any]]):
    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == 13:
            raise ValueError("study 13 cannot be read")
        return {
            "index": index,
            "tensor": torch.arange(index),
            "process": os.getpid(),
            "threads": torch.get_num_threads(),
        }


def test_items_come_in_the_order_asked_for_from_processes_of_one_thread() -> None:
    indices = [5, 0, 3, 9, 1]
    here, there = list(spread(Numbers(), indices)), list(spread(Numbers(), indices, jobs=2))
    assert [item["index"] for item in here] == [item["index"] for item in there] == indices
    assert all(torch.equal(a["tensor"], b["tensor"]) for a, b in zip(here, there, strict=True))
    assert {item["process"] for item in here} == {os.getpid()}
    assert len({item["process"] for item in there} - {os.getpid()}) == 2
    assert {item["threads"] for item in there} == {1}


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the system does not list open files")
def test_items_that_are_kept_hold_no_file_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    kept = list(spread(Numbers(), [7] * 60, jobs=2))
    assert len(kept) == 60
    assert len(os.listdir("/proc/self/fd")) < before + 30


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_comes_through_with_its_text(jobs: int) -> None:
    with pytest.raises(ValueError, match="study 13 cannot be read"):
        list(spread(Numbers(), [1, 13], jobs))


def test_no_process_is_no_way_to_work() -> None:
    with pytest.raises(ValueError, match="0 processes cannot work"):
        list(spread(Numbers(), [1], 0))
