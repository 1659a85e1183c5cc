"""Proven cancers that humans outlined in a real case, and which of them a reported region finds."""

from __future__ import annotations

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
    ("boxes", "sizes"),
    [
        ([], []),
        ([LARGE], [400]),
        ([LARGE, ELSEWHERE], [256, 400]),
        ([LARGE, TOUCHING], [799]),
        ([LARGE, np.s_[8, 35, 35]], [400]),  # a stray voxel is no lesion
        ([np.s_[8, 35, 35]], [1]),  # but a mask with nothing else is not empty
    ],
)
def test_lesions_are_the_connected_parts_of_a_mask(boxes: list[Box], sizes: list[int]) -> None:
    assert sorted(int(x.array.sum()) for x in real.lesions_of(mask(*boxes))) == sizes


def explained(*boxes: Box) -> Any:
    return SimpleNamespace(lesions=[SimpleNamespace(mask=Volume(mask(box).array > 0, GRID)) for box in boxes])


@pytest.mark.parametrize(
    ("files", "reported", "said"),
    [
        ({}, [LARGE], ""),
        ({ISUP: []}, [LARGE], "negative"),
        ({ISUP: [LARGE]}, [], "found 0/1"),
        ({ISUP: [LARGE]}, [SHIFTED], "found 1/1"),
        ({ISUP: [LARGE]}, [INSIDE], "found 0/1"),
        ({ISUP: [LARGE, ELSEWHERE]}, [LARGE, TOUCHING], "found 1/2"),
        # a finding that the same hand outlined once more, and one that no cancer was
        ({ISUP: [LARGE], FINDING: [SHIFTED]}, [], "found 0/1"),
        ({ISUP: [], FINDING: [LARGE]}, [LARGE], "negative"),
    ],
)
def test_what_is_found_of_a_case(files: dict[str, list[Box]], reported: list[Box], said: str, tmp_path: Path) -> None:
    for name, boxes in files.items():
        sitk.WriteImage(mask(*boxes).to_sitk(), str(tmp_path / name))
    assert real.found_lesions(explained(*reported), tmp_path) == said
