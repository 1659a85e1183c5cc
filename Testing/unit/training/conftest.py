"""The networks of these tests are tiny: a second thread would only wait for the first, longest on a busy machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from Testing.unit.training import coarse_grids


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def coarse_module() -> Iterator[None]:
    """The coarse grids for a whole module of tests."""
    with pytest.MonkeyPatch.context() as patch:
        coarse_grids.exchange(patch)
        yield
