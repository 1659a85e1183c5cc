"""Screenshots of the Slicer module for README, docs and the extension's catalogue entry, drawn on the bench.

    python docs/dev/draw_screenshots.py                                  # the sample study (simulated, no patient)
    python docs/dev/draw_screenshots.py --study FOLDER --prefix real-    # another one; mind its licence

It clicks through the module as Testing/slicer/click_through.py does, so a picture exists only of steps that held.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

PICTURES = ("slicer-findings", "slicer-evidence", "slicer-report")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, help="a study folder; the sample study by default")
    parser.add_argument("--prefix", default="", help="put before the pictures' names")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "images")
    args = parser.parse_args()

    args.output.mkdir(parents=True, exist_ok=True)
    from Testing.bench.bench import Bench, click_through

    with tempfile.TemporaryDirectory() as folder, Bench((1500, 940)) as bench:
        scratch = Path(folder)
        study = args.study
        if study is None:
            from MedRationaleLogic.simulation.sample import write_sample

            study = write_sample(scratch / "study").nifti

        def shot(name: str) -> None:
            if name in PICTURES:
                bench.screenshot(args.output / f"{args.prefix}{name}.png")

        click_through().ClickThrough(bench.widget, bench.process, shot, scratch).run(study)
    for name in PICTURES:
        print(args.output / f"{args.prefix}{name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
