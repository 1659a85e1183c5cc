"""The sample study that the viewer keeps: drawn once, whole, by one tab of several."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from MedRationaleViewer import sample


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEDRATIONALE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def drawing(monkeypatch: pytest.MonkeyPatch, seconds: float = 0.1, code: int = 0) -> list[Path]:
    """Stands in for the process that draws; returns the places where it was asked to."""
    drawn: list[Path] = []

    async def draw(place: Path) -> tuple[int, str]:
        drawn.append(place)
        await asyncio.sleep(seconds)
        if code == 0:
            (place / "dicom").mkdir(parents=True)
            (place / "dicom" / "image.dcm").write_text("pixels")
            (place / "sample.json").write_text("{}")
        return code, "the disk is full"

    monkeypatch.setattr(sample, "_draw", draw)
    return drawn


async def test_several_tabs_draw_it_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = drawing(monkeypatch, 0.3)
    found = await asyncio.gather(*(sample.folder() for _ in range(4)))
    assert len(drawn) == 1
    assert len(set(found)) == 1
    assert (found[0] / "image.dcm").read_text() == "pixels"
    await sample.folder()
    assert len(drawn) == 1, "it is kept"
    assert sorted(p.name for p in home.iterdir()) == [found[0].parent.name], "nothing is left beside it"


async def test_another_versions_sample_goes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = home / f"{sample.PREFIX}0123"
    old.mkdir(parents=True)
    drawing(monkeypatch)
    place = await sample.folder()
    assert not old.exists()
    assert place.parent.is_dir()


async def test_what_keeps_it_from_being_drawn_is_said(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawing(monkeypatch, code=2)
    with pytest.raises(sample.SampleError, match="the disk is full"):
        await sample.folder()
    assert list(home.iterdir()) == [], "nothing half-made is left"
    drawn = drawing(monkeypatch)
    await sample.folder()
    assert len(drawn) == 1


async def test_a_drawing_that_was_broken_off_is_begun_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawing(monkeypatch)
    home.mkdir()
    lock = home / f".{sample.PREFIX}{sample._key()}.lock"
    lock.write_text("")
    long_ago = time.time() - 2 * sample.LOCKED_S
    os.utime(lock, (long_ago, long_ago))
    assert (await sample.folder()).is_dir()
    assert not lock.exists()


async def test_a_home_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MEDRATIONALE_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(sample.SampleError, match="cannot be kept"):
        await sample.folder()
