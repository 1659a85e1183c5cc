"""The browser face on a real study: read, explained, shown where it lies."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

NEEDED = ("trame_slicer", "playwright")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"the viewer's tests need {', '.join(MISSING)}")
@pytest.mark.skipif(not (shutil.which("chromium") or shutil.which("chromium-browser")), reason="needs Chromium")
def test_real_studies_in_the_browser(real_data: Path, tmp_path: Path) -> None:
    from Testing.viewer.chromium import chromium, do, explained, picture, serving, state, until

    dicom, study = real_data / "dicom" / "ProstateX-0001", real_data / "bpmri" / "PICAI-10021_1000021"
    if not dicom.is_dir() or not study.is_dir():
        pytest.skip("ProstateX-0001 and PICAI-10021 are not in the folder of real studies")
    with serving(tmp_path, str(dicom)) as server, chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(server.url)
        until(page, "s.study?.open")
        do(page, "explain")
        explained(page)
        # which of the two a bundle says of this study is no business of this test
        text = page.locator("body").inner_text().lower()
        assert "research use only" in text
        assert ("suspicion" if state(page, "findings")["lesions"] else "no suspicious region") in text
        assert state(page, "views")["letters"] == {"left": "R", "right": "L", "top": "A", "bottom": "P"}
    # a proven cancer in the transition zone: the model outlines it, whatever it makes of it
    (tmp_path / "second").mkdir()
    with serving(tmp_path / "second", str(study)) as server, chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(server.url)
        until(page, "s.study?.open")
        assert state(page, "study")["sample"] is False
        assert state(page, "findings")["summary"] is None, "a study of the reader's is explained when asked for"
        do(page, "explain")
        explained(page)
        assert state(page, "findings")["lesions"]
        assert state(page, "views")["letters"] == {"left": "R", "right": "L", "top": "A", "bottom": "P"}
        concept = next(c for g in state(page, "evidence")["groups"] if g["sequence"] == "t2w" for c in g["concepts"])
        do(page, "concept", id=concept["id"])  # goes to the concept's strongest slice, so it is chosen before looking
        until(page, f"s.evidence.concept === '{concept['id']}'")
        do(page, "evidence", on=True)
        page.wait_for_timeout(1000)
        coloured = picture(page).astype(int)
        do(page, "evidence", on=False)
        page.wait_for_timeout(1000)
        plain = picture(page).astype(int)
        changed = abs(coloured - plain).max(2) > 40
        assert changed.mean() > 0.01, "evidence lies over T2W"
        height, width = changed.shape
        ys, xs = changed.nonzero()
        # within the gland and 6 mm around it, which stands in the view's middle with 20 mm around it
        assert abs(ys.mean() / height - 0.5) < 0.2
        assert abs(xs.mean() / width - 0.5) < 0.2
        assert not changed[:, : width // 20].any()
