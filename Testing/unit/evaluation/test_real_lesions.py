"""Lesions that humans outlined in a real case, counted once each, and which of them a reported region finds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from MedRationaleLogic.evaluation import real
from MedRationaleLogic.imaging.volume import Geometry, Volume

GRID = Geometry((10, 40, 40), (3.0, 0.5, 0.5), (10.0, -20.0, 5.0))
ISUP, FINDING = "lesion_human_isup.nii.gz", "lesion_human_prostatex_finding1.nii.gz"
Box = tuple[slice, slice, slice]

LARGE = np.s_[2:6, 10:20, 10:20]  # 400 voxels
SHIFTED = np.s_[2:6, 10:20, 12:22]  # 400, of which 320 in LARGE: DSC .8
INSIDE = np.s_[3, 14:18, 14:19]  # 20 in LARGE: DSC .095, but all of it
TOUCHING = np.s_[5:9, 19:29, 19:29]  # 400, one of them in LARGE
ELSEWHERE = np.s_[2:6, 28:36, 28:36]


def mask(*boxes: Box, grid: Geometry = GRID) -> Volume:
    array = np.zeros(grid.shape, np.uint8)
    for box in boxes:
        array[box] = 4
    return Volume(array, grid)


@pytest.mark.parametrize(
    ("masks", "sizes"),
    [
        ([mask()], []),
        ([mask(), mask()], []),
        ([mask(LARGE)], [400]),
        ([mask(LARGE), mask()], [400]),
        ([mask(LARGE, ELSEWHERE)], [256, 400]),
        ([mask(LARGE), mask(SHIFTED)], [480]),
        ([mask(LARGE), mask(INSIDE)], [400]),
        ([mask(INSIDE), mask(LARGE)], [400]),
        ([mask(LARGE), mask(TOUCHING)], [400, 400]),
        ([mask(LARGE), mask(ELSEWHERE)], [256, 400]),
        ([mask(LARGE, ELSEWHERE), mask(SHIFTED)], [256, 480]),
        (
            [mask(np.s_[2:6, 10:20, 10:14], np.s_[2:6, 10:20, 16:20]), mask(LARGE)],
            [400],
        ),  # two that one hand drew as one
        ([mask(LARGE, np.s_[8, 35, 35])], [400]),  # a stray voxel is no lesion
        ([mask(np.s_[8, 35, 35])], [1]),  # but a mask with nothing else is not empty
    ],
)
def test_a_lesion_counts_once(masks: list[Volume], sizes: list[int]) -> None:
    assert sorted(int(x.array.sum()) for x in real.lesions_of(masks)) == sizes


def test_masks_of_one_lesion_may_lie_on_different_grids() -> None:
    coarse = replace(GRID, shape=(10, 20, 20), spacing=(3.0, 1.0, 1.0), origin=(10.25, -19.75, 5.0))
    same = mask(np.s_[2:6, 5:10, 5:10], grid=coarse)  # the block of LARGE
    assert [int(x.array.sum()) for x in real.lesions_of([mask(LARGE), same])] == [400]
    assert [int(x.array.sum()) for x in real.lesions_of([same, mask(LARGE)])] == [100]
    away = mask(np.s_[2:6, 14:18, 14:18], grid=coarse)
    assert len(real.lesions_of([mask(LARGE), away])) == 2


def explained(*boxes: Box) -> Any:
    return SimpleNamespace(lesions=[SimpleNamespace(mask=Volume(mask(box).array > 0, GRID)) for box in boxes])


@pytest.mark.parametrize(
    ("files", "reported", "said"),
    [
        ({}, [LARGE], ""),
        ({ISUP: []}, [LARGE], "negative"),
        ({ISUP: [LARGE]}, [], "found 0/1"),
        ({ISUP: [LARGE]}, [SHIFTED], "found 1/1"),
        ({ISUP: [LARGE], FINDING: [SHIFTED]}, [], "found 0/1"),
        ({ISUP: [LARGE], FINDING: [SHIFTED]}, [LARGE, ELSEWHERE], "found 1/1"),
        ({ISUP: [LARGE], FINDING: [ELSEWHERE]}, [LARGE, TOUCHING], "found 1/2"),
        ({ISUP: [], FINDING: [LARGE]}, [INSIDE], "found 0/1"),
    ],
)
def test_what_is_found_of_a_case(files: dict[str, list[Box]], reported: list[Box], said: str, tmp_path: Path) -> None:
    for name, boxes in files.items():
        sitk.WriteImage(mask(*boxes).to_sitk(), str(tmp_path / name))
    assert real.found_lesions(explained(*reported), tmp_path) == said
