"""Which label maps train, validate and test, and the frozen test cohort.

Shares are patient-disjoint and depend on the patient's id alone. A frozen cohort is a specification (generator
version, seed, maps) with hashes of every study it gives, so that anybody can tell whether theirs is the same::

    python -m MedRationaleLogic.simulation.cohort freeze --bank labels.npz --output simulated-test-1.json
    python -m MedRationaleLogic.simulation.cohort verify --bank labels.npz [--count 20]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np
from torch import Tensor

from MedRationaleLogic.resources import resource_path
from MedRationaleLogic.simulation.labels import LabelBank
from MedRationaleLogic.simulation.study import VERSION, SimulatedStudy, simulate

#: Shares of patients: training, validation, test.
SHARES: Final = (0.75, 0.10, 0.15)
#: The cohort of the results.
TEST_COHORT: Final = "simulated-test-1"
FORMAT: Final = "medrationale-cohort"
#: Seed of the test cohort; training and validation use others.
TEST_SEED: Final = 20_260_001
TEST_COUNT: Final = 1000
#: int16 steps per unit: T2W relative, ADC in 1e-3 mm2/s, high-b in arbitrary units.
STEPS: Final = {"t2w": 4000.0, "adc": 1000.0, "hbv": 10_000.0}
_SHORT = 16  # hex digits kept of each study's hashes


class CohortError(ValueError):
    """A cohort or label maps that cannot be used; the text names the file and says what was expected."""


# ---------------------------------------------------------------------------------------------------------------------
# Shares


def place(patient: str) -> float:
    """A patient's place in [0, 1): uniform over ids, the same on every machine and in every bank (SHA-256)."""
    digest = hashlib.sha256(f"medrationale-split-1/{patient}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def split_bank(bank: LabelBank) -> tuple[LabelBank, LabelBank, LabelBank]:
    """Training, validation and test maps: no patient in two of them.

    A patient's share depends on the id alone, so leaving patients out (``LabelBank.without``) moves nobody else.

    Args:
        bank: any maps; those without a patient id all fall to the same share.

    Returns:
        (train, validation, test) of about .75, .10 and .15 of the patients; a small bank can leave one of them empty.
    """
    first, second = SHARES[0], SHARES[0] + SHARES[1]
    share = {p: 0 if place(p) < first else 1 if place(p) < second else 2 for p in set(bank.patients)}
    train, validation, test = ([p for p, s in share.items() if s != part] for part in range(3))
    return bank.without(train), bank.without(validation), bank.without(test)


# what numpy and zipfile say of an archive that is none, was cut short, or has other bytes in it
_DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error)


def load_bank(path: Path) -> LabelBank:
    """Packed label maps, as a person names them.

    Raises:
        FileNotFoundError: there is no such file.
        CohortError: it is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file; give label maps packed by `training.run bank`")
    try:
        bank = LabelBank.load(path)
        n = len(bank.patients)
        if bank.gland.ndim != 4 or bank.gland.shape != bank.transition.shape or len(bank.gland) != n:
            raise ValueError(f"{n} patients, maps of shapes {bank.gland.shape} and {bank.transition.shape}")
    except _DAMAGED as error:
        # numpy takes whatever is no archive for a pickle, and then explains pickles
        why = "it is no .npz" if not zipfile.is_zipfile(path) else str(error)
        raise CohortError(f"{path}: expected label maps packed by `training.run bank` (.npz); {why}") from error
    return bank


# ---------------------------------------------------------------------------------------------------------------------
# Hashes


@dataclass(frozen=True)
class StudyHash:
    """What identifies one study, each the first 16 hex digits of a SHA-256.

    Attributes:
        drawn: of what was drawn (map, regions, values, places): the same on every machine.
        images: of the int16-rounded images and the masks; another processor or version of PyTorch may round a few
            voxels to the other side.
    """

    drawn: str
    images: str


def hash_study(study: SimulatedStudy) -> StudyHash:
    """The hashes of a study made on the CPU."""
    drawn = {
        "patient": study.patient,
        "offsets": {k: [round(v, 2) for v in o] for k, o in study.offsets.items()},
        "regions": [
            {
                "archetype": r.archetype, "zone": r.zone, "values": r.values, "category": r.category,
                "center": [round(v, 2) for v in r.center], "levels": [round(v, 3) for v in r.levels],
            }
            for r in study.drawn
        ],
    }  # fmt: skip
    images = hashlib.sha256()
    for sequence, steps in STEPS.items():
        picture = getattr(study, sequence)
        images.update(_rounded(picture.image, steps))
        images.update(picture.regions.numpy().tobytes())
    images.update(study.zones.numpy().tobytes())
    text = json.dumps(drawn, sort_keys=True)
    return StudyHash(hashlib.sha256(text.encode()).hexdigest()[:_SHORT], images.hexdigest()[:_SHORT])


def _rounded(image: Tensor, steps: float) -> bytes:
    values = np.clip(np.rint(image.numpy().astype(np.float64) * steps), -32768, 32767)
    return values.astype("<i2").tobytes()


# ---------------------------------------------------------------------------------------------------------------------
# The cohort


@dataclass(frozen=True)
class Cohort:
    """A frozen set of simulated studies: ``simulate(maps, seed, i)`` for i in range(count).

    Attributes:
        name: of the cohort.
        version: of the generator.
        seed: of the set.
        count: of studies.
        bank_sha256: of the label maps, after the split.
        sha256: over all studies' hashes.
        counts: what is in it.
        studies: hashes by index.
    """

    name: str
    version: str
    seed: int
    count: int
    bank_sha256: str
    sha256: str
    counts: dict[str, Any]
    studies: tuple[StudyHash, ...]

    def maps(self, bank: LabelBank) -> LabelBank:
        """The maps to simulate from: the test share of a whole bank, or ``bank`` itself if it is that share.

        Raises:
            CohortError: the bank holds other maps.
        """
        for candidate in (split_bank(bank)[2], bank):
            if candidate.sha256 == self.bank_sha256:
                return candidate
        raise CohortError(
            f"these label maps are not those of the cohort {self.name}: expected SHA-256 {self.bank_sha256[:12]}... "
            "for the test share; pack the same maps, all patients included, again"
        )

    def check_generator(self) -> None:
        """Studies of another generator are other studies, whatever the cohort's hashes say.

        Raises:
            CohortError: the cohort was frozen with another version of it.
        """
        if self.version != VERSION:
            raise CohortError(f"the cohort {self.name} was frozen with simulation {self.version}, this is {VERSION}; "
                              "take the program or the cohort of the same version")  # fmt: skip

    def verify(self, bank: LabelBank, indices: Sequence[int] | None = None) -> dict[int, str]:
        """Make studies again and compare them.

        Args:
            bank: the whole bank or its test share.
            indices: which studies; default all.

        Returns:
            index -> what differs, "drawn" or "images"; empty when all is the same.

        Raises:
            CohortError: other maps, or another version of the generator.
        """
        self.check_generator()
        maps = self.maps(bank)
        wrong: dict[int, str] = {}
        for index in range(self.count) if indices is None else indices:
            found = hash_study(simulate(maps, self.seed, index, coarse=False))
            if found != self.studies[index]:
                wrong[index] = "images" if found.drawn == self.studies[index].drawn else "drawn"
        return wrong

    def check_studies(self, maps: LabelBank, count: int = 3) -> None:
        """Make the first studies again: their numbers are told under this cohort's hash, and the seed is not in it.

        Raises:
            CohortError: they are others than those that were frozen.
        """
        wrong = [i for i, what in self.verify(maps, range(min(count, self.count))).items() if what == "drawn"]
        if wrong:
            raise CohortError(f"{self.name}: study {wrong[0]} is another one than was frozen; its file was changed")

    def save(self, path: Path) -> None:
        """Write the JSON that :func:`load_cohort` reads, beside the path first."""
        data = {"format": FORMAT, **asdict(self)}
        data["studies"] = [f"{s.drawn} {s.images}" for s in self.studies]
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8", newline="\n")
        os.replace(part, path)


def load_cohort(source: str | Path = TEST_COHORT) -> Cohort:
    """A frozen cohort by its name (in ``Resources/Cohorts``) or file.

    Raises:
        FileNotFoundError: there is none of this name, or no such file.
        CohortError: the file is no cohort, or its hashes do not belong together.
    """
    path = source if isinstance(source, Path) else resource_path("Cohorts") / f"{source}.json"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in resource_path("Cohorts").glob("*.json")))
        raise FileNotFoundError(f"there is no cohort {source}; give a JSON file, or one of: {known}")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data.pop("format") != FORMAT:
            raise ValueError("another format")
        studies = tuple(StudyHash(*line.split()) for line in data.pop("studies"))
        cohort = Cohort(studies=studies, **data)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CohortError(f"{path.name}: expected a cohort as `cohort freeze` writes it ({error})") from error
    if len(studies) != cohort.count or _total(studies) != cohort.sha256:
        raise CohortError(f"{path.name}: its hashes do not belong together; take the file from the repository again")
    return cohort


def _total(studies: Sequence[StudyHash]) -> str:
    return hashlib.sha256("\n".join(f"{s.drawn} {s.images}" for s in studies).encode()).hexdigest()


_Row = tuple[StudyHash, list[int]]
_bank: LabelBank | None = None


def _start(bank: LabelBank) -> None:
    import torch

    global _bank  # one copy a process, not one a study
    _bank = bank
    torch.set_num_threads(1)


def _row(seed: int, index: int) -> _Row:
    assert _bank is not None
    study = simulate(_bank, seed, index, coarse=False)
    return hash_study(study), [r.category for r in study.drawn]


def _rows(bank: LabelBank, seed: int, count: int, workers: int) -> Iterator[_Row]:
    if workers <= 1:
        _start(bank)
        yield from map(_row, repeat(seed, count), range(count))
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _start, (bank,)) as pool:
        yield from pool.map(_row, repeat(seed, count), range(count), chunksize=10)


def freeze(
    bank: LabelBank, name: str = TEST_COHORT, seed: int = TEST_SEED, count: int = TEST_COUNT, workers: int = 1
) -> Cohort:
    """Make every study once and keep its hashes.

    Args:
        bank: the maps as :meth:`Cohort.maps` will give them.
        name: of the cohort.
        seed: of the set.
        count: of studies.
        workers: processes; the result is the same for any number.
    """
    rows = list(_rows(bank, seed, count, workers))
    categories = [c for _, found in rows for c in found]
    counts = {
        "studies": count,
        "studies_with_category_4_or_5": sum(any(c >= 4 for c in found) for _, found in rows),
        "regions": len(categories),
        "regions_by_category": {str(c): categories.count(c) for c in range(1, 6)},
        "label_maps": len(bank),
    }
    studies = tuple(row for row, _ in rows)
    return Cohort(name, VERSION, seed, count, bank.sha256, _total(studies), counts, studies)


def main(arguments: Sequence[str] | None = None) -> int:
    """The two commands of the module's head."""
    parser = argparse.ArgumentParser(prog="python -m MedRationaleLogic.simulation.cohort")
    parser.add_argument("what", choices=("freeze", "verify"))
    parser.add_argument("--bank", type=Path, required=True, help="packed label maps of all patients (.npz)")
    parser.add_argument("--output", type=Path, help="freeze: the file to write")
    parser.add_argument("--workers", type=int, default=2, help="freeze: processes")
    parser.add_argument("--count", type=int, default=20, help="verify: how many of the first studies")
    options = parser.parse_args(arguments)
    bank = load_bank(options.bank)
    if options.what == "freeze":
        if options.output is None:
            parser.error("freeze needs --output")
        cohort = freeze(split_bank(bank)[2], options.output.stem, workers=options.workers)
        cohort.save(options.output)
        print(json.dumps({"sha256": cohort.sha256, **cohort.counts}, indent=1))
        return 0
    cohort = load_cohort()
    wrong = cohort.verify(bank, range(min(options.count, cohort.count)))
    print(f"{min(options.count, cohort.count)} studies made again, {len(wrong)} differ", wrong or "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
