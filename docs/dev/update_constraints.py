"""Write requirements/constraints.txt from what pip resolves for the project and all its extras.

Run from the repository root in any environment that has pip (nothing is installed):

    python docs/dev/update_constraints.py            # newest versions that pyproject.toml allows
    python docs/dev/update_constraints.py --keep     # keep the present pins, add only what is missing
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CONSTRAINTS = ROOT / "requirements" / "constraints.txt"
EXTRAS = ("viewer", "cluster", "train", "dev")
HEADER = """\
# The versions that the project is tested with: python docs/dev/update_constraints.py writes this file.
# No local labels ("+cpu"): torch==2.13.0 accepts whichever build of 2.13.0 the machine is set up for.
# CUDA's own packages are left out: the torch build that asks for them pins them itself.
"""


def resolve(root: Path, constraints: Path | None) -> list[dict[str, Any]]:
    """What pip would install for the project at `root` with every extra, as its installation report lists it.

    Raises:
        subprocess.CalledProcessError: pip found no answer; its own words are on stderr.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--report", str(report), *(["--constraint", str(constraints)] if constraints else [])]
        subprocess.run([*command, f".[{','.join(EXTRAS)}]"], cwd=root, check=True)
        installs: list[dict[str, Any]] = json.loads(report.read_text(encoding="utf-8"))["install"]
    return installs


def pins(installs: list[dict[str, Any]]) -> list[str]:
    """Sorted `name==version` lines in normalised names (PEP 503), without local labels, CUDA's own and the project."""
    found = {}
    for item in installs:
        name = re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower()
        if name != "medrationale" and not name.startswith(("cuda-", "nvidia-", "triton")):
            found[name] = item["metadata"]["version"].split("+")[0]
    return [f"{name}=={version}" for name, version in sorted(found.items())]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="store_true", help="keep the versions already pinned")
    keep = parser.parse_args().keep and CONSTRAINTS.is_file()
    lines = pins(resolve(ROOT, CONSTRAINTS if keep else None))
    CONSTRAINTS.write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    print(f"{CONSTRAINTS.relative_to(ROOT)}: {len(lines)} pins")
    return 0


if __name__ == "__main__":
    sys.exit(main())
