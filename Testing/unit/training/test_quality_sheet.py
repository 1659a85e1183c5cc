"""The quality sheet: one page, escaped, reproducible; agreement with textbook numbers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from MedRationaleLogic import cli
from MedRationaleLogic.imaging.volume import Geometry, Volume
from MedRationaleLogic.training import quality_sheet
from MedRationaleLogic.training.quality_sheet import SCHEMA, SheetItem, agreement, cohen_kappa, wilson, write_sheet
from MedRationaleLogic.training.rationales import complete
from MedRationaleLogic.training.reports import parse_report

TEXT = "Lesion 1: right PZ, 12 mm. T2W: round <script>alert(1)</script>, T2W score 3."


def triple(name: str) -> SheetItem:
    grid = Geometry((8, 40, 40), (3.0, 1.0, 1.0))
    z, y, x = np.indices(grid.shape)
    mask = ((z - 4) * 3) ** 2 + (y - 20) ** 2 + (x - 20) ** 2 <= 36
    image = Volume((100 - 50 * mask).astype(np.float32), grid, "t2w")
    (finding,) = parse_report(TEXT).findings
    rationale = complete(finding.values, finding.zone, finding.greatest_mm, scores=finding.scores, spans=finding.spans)
    return SheetItem(name, {"T2W": image, "ADC": image}, Volume(mask, grid), rationale, finding.spans, "a report", TEXT)


def test_the_page_is_whole_escaped_and_the_same_for_the_same_seed(tmp_path: Path) -> None:
    triples = [triple("case-0")]
    triples.append(triple("<b>odd</b>"))
    html = write_sheet(triples, tmp_path / "sheet.html", n=5, seed=2).read_text(encoding="utf-8")
    assert html.count('<section class="item"') == 2
    assert html.count("data:image/png;base64,") == 4
    assert "Research use only" in html
    assert "<script>alert" not in html
    assert "<b>odd</b>" not in html
    assert '<mark title="t2.shape">round</mark>' in html
    assert 'data-kind="t2w.score"' in html
    assert 'data-kind="dce"' not in html  # unknown: nothing to judge
    assert not re.search(r"""(?:src|href)=["'](?:https?:)?//""", html)
    again = write_sheet(triples, tmp_path / "again.html", n=5, seed=2).read_text(encoding="utf-8")
    assert again == html
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.html", "sheet.html"]


def test_a_sample_depends_on_the_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality_sheet, "_pictures", lambda item: [])
    triples = [triple(f"case-{i}") for i in range(12)]

    def drawn(seed: int) -> list[str]:
        html = write_sheet(triples, tmp_path / "s.html", n=3, seed=seed).read_text(encoding="utf-8")
        return re.findall(r'data-id="([^"]+)"', html)

    assert len(set(drawn(1))) == 3
    assert drawn(1) != drawn(2)


def test_bad_sheets_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one triple"):
        write_sheet([], tmp_path / "s.html", n=3, seed=1)
    with pytest.raises(ValueError, match="twice"):
        write_sheet([triple("a"), triple("a")], tmp_path / "s.html", n=3, seed=1)
    with pytest.raises(OSError, match="cannot be written"):
        write_sheet([triple("a")], tmp_path / "absent" / "s.html", n=3, seed=1)
    assert not list(tmp_path.iterdir())


def save(folder: Path, reader: str, given: dict[tuple[str, str], str | None], **other: Any) -> Path:
    entries = [{"id": i, "kind": k, "answer": a, "comment": ""} for (i, k), a in given.items()]
    data = {"schema": SCHEMA, "sheet": "s", "reader": reader, "answers": entries, **other}
    path = folder / f"{reader}.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def test_agreement_of_two_readers(tmp_path: Path) -> None:
    # Cohen's table 20, 5, 10, 15 of 50: observed .70, by chance .50, kappa .40
    table = [("agree", "agree")] * 20 + [("agree", "disagree")] * 5 + [("disagree", "agree")] * 10
    table += [("disagree", "disagree")] * 15
    first = save(
        tmp_path, "A", {(f"c{i}", "t2.shape"): a for i, (a, _) in enumerate(table)} | {("c0", "size"): "agree"}
    )
    second = save(tmp_path, "B", {(f"c{i}", "t2.shape"): b for i, (_, b) in enumerate(table)} | {("c0", "size"): None})
    found = agreement([first, second])
    shape = found.kinds["t2.shape"]
    assert (shape.judged, shape.agreed, shape.pairs) == (100, 55, 50)
    assert shape.percent == pytest.approx(55)
    assert shape.kappa == pytest.approx(0.40)
    assert (found.kinds["size"].judged, found.kinds["size"].kappa) == (1, None)
    assert found.overall.judged == 101
    assert found.readers == ("A", "B")


def test_the_command_prints_the_agreement_with_its_notice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [save(tmp_path, reader, {("c0", "size"): "agree"}) for reader in ("A", "B")]
    assert cli.run(["agreement", *map(str, files)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert "Research use only" in told["notice"]
    assert told["overall"]["judged"] == 2
    assert told["readers"] == ["A", "B"]


def test_wilson_and_kappa() -> None:
    low, high = wilson(81, 263)  # Newcombe, Stat Med 1998;17:857, table I
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert wilson(0, 20)[0] == 0
    assert cohen_kappa([("agree", "agree")] * 5) is None  # not defined
    assert cohen_kappa([("agree", "disagree"), ("disagree", "agree")]) == pytest.approx(-1)


def test_bad_answer_files_are_named(tmp_path: Path) -> None:
    good = save(tmp_path, "A", {("c", "size"): "agree"})
    other = save(tmp_path, "B", {("c", "size"): "agree"}, sheet="another")
    with pytest.raises(ValueError, match="different sheets"):
        agreement([good, other])
    with pytest.raises(ValueError, match="another answer file"):
        agreement([good, good])
    broken = tmp_path / "broken.json"
    broken.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"broken\.json: cannot be read"):
        agreement([broken])
    with pytest.raises(ValueError, match=r"C\.json: an answer must have"):
        agreement([save(tmp_path, "C", {("c", "size"): "perhaps"})])
