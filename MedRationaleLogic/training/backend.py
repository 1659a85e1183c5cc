"""The door of training, for ``train_backend.py`` and ``medrationale train`` alike: options, packages, exit codes.

Nothing here imports torch, so that what is missing can be said before it is missed.

Exit codes: 0 done, 1 unexpected, 2 wrong usage, 3 missing package or bundle, 4 data that cannot be trained on,
5 memory, 6 output cannot be written, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Final

#: Module -> what pip calls it; in the order in which they are installed.
NEEDED: Final = {
    "torch": "torch>=2.8", "numpy": "numpy>=1.26", "scipy": "scipy>=1.13", "SimpleITK": "SimpleITK>=2.4",
    "safetensors": "safetensors>=0.4.5", "matplotlib": "matplotlib>=3.9", "lightning": "lightning>=2.5",
    "pyarrow": "pyarrow>=18", "tensorboard": "tensorboard>=2.18",
}  # fmt: skip
OK, UNEXPECTED, USAGE, MISSING, DATA, MEMORY, OUTPUT, STOPPED = 0, 1, 2, 3, 4, 5, 6, 130


def parser(program: str = "medrationale train") -> argparse.ArgumentParser:
    """The options of a training run."""
    p = argparse.ArgumentParser(
        prog=program, description="Train or fine-tune a bundle on triples (research use only).",
        epilog="Started again with the same --output, a run goes on from its last checkpoint.",
    )  # fmt: skip
    data = p.add_argument_group("data")
    data.add_argument("--data", type=Path, required=True, metavar="DIR",
                      help="triples made by 'medrationale curate', or a folder that it can read")  # fmt: skip
    data.add_argument("--fold", type=int, help="validate on this fold of an official cross-validation")
    data.add_argument("--silver", action="store_true", help="train readings on measured (silver) answers, too")
    data.add_argument("--labels", type=Path, help="zone maps (.npz) for simulated studies; without: a gland by formula")
    data.add_argument("--simulated-share", type=float, default=0.5, metavar="SHARE",
                      help="share of simulated studies, so that concepts are not forgotten (default 0.5)")  # fmt: skip
    out = p.add_argument_group("result")
    out.add_argument("--output", type=Path, required=True, metavar="DIR", help="run folder: checkpoints, logs, bundle")
    out.add_argument("--name", default="medrationale-finetuned", help="name of the new bundle")
    out.add_argument("--version", default="1.0.0", help="version of the new bundle")
    out.add_argument("--no-register", action="store_true", help="leave the bundle in the run folder only")
    fit = p.add_argument_group("optimisation")
    fit.add_argument("--init", metavar="BUNDLE", help="bundle (name or folder) to start from; without: from nothing")
    fit.add_argument("--epochs", type=int, default=20, help="at most (default 20)")
    fit.add_argument("--items", type=int, metavar="N", help="items an epoch (default: each triple once, at least 20)")
    fit.add_argument("--batch", type=int, default=2, help="studies a process looks at at once (default 2)")
    fit.add_argument("--accumulate", type=int, default=1, help="batches a step (default 1)")
    fit.add_argument("--lr", type=float, help="peak learning rate (default 3e-4 with --init, else 1.5e-3)")
    fit.add_argument("--patience", type=int, default=5,
                     help="stop after so many epochs without a better score; 0: never (default 5)")  # fmt: skip
    fit.add_argument("--seed", type=int, default=1)
    fit.add_argument("--unconstrained", action="store_true", help="train the twin without evidence losses")
    machine = p.add_argument_group("machine")
    machine.add_argument("--accelerator", choices=("auto", "cpu", "gpu"), default="auto")
    machine.add_argument("--devices", type=int, default=1, help="processes or GPUs (default 1)")
    machine.add_argument("--precision", choices=("auto", "32-true", "bf16-mixed", "16-mixed"), default="auto")
    machine.add_argument("--workers", type=int, default=1, help="loading processes (default 1)")
    machine.add_argument("--threads", type=int, help="of PyTorch, per process")
    machine.add_argument("--install", action="store_true", help="install missing packages with pip")
    return p


def missing() -> list[str]:
    """What pip would have to install."""
    return [requirement for module, requirement in NEEDED.items() if importlib.util.find_spec(module) is None]


def pip_command(requirements: Sequence[str]) -> list[str]:
    """The command that installs: by Slicer's own Python where there is one."""
    return [shutil.which("PythonSlicer") or sys.executable, "-m", "pip", "install", *requirements]


def main(arguments: Sequence[str], program: str = "medrationale train") -> int:
    """Train as the arguments say; whatever happens ends in an exit code.

    Args:
        arguments: without the program's name.
        program: that usage speaks of.
    """
    try:
        options = parser(program).parse_args(list(arguments))
    except SystemExit as stop:  # argparse has said why, or has shown its help
        return int(stop.code or 0)
    absent = missing()
    if absent:
        command = pip_command(absent)
        if not options.install:
            shown = " ".join(f'"{part}"' if ">" in part or " " in part else part for part in command)
            return _fail(MISSING, f"training needs packages that are not there; run\n  {shown}\nor add --install")
        try:
            subprocess.run(command, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            return _fail(MISSING, f"installing failed ({error}); see pip's message above")
        importlib.invalidate_caches()
        if still := missing():
            return _fail(MISSING, f"installed, but not found: {', '.join(still)}; start again")
    return _train(options)


def _train(options: argparse.Namespace) -> int:
    from MedRationaleLogic.model.bundle import BundleError
    from MedRationaleLogic.simulation.cohort import CohortError
    from MedRationaleLogic.training.fit import Stopped, TrainingError, fit, settings_of
    from MedRationaleLogic.training.triples import OutputError, TripleError

    try:
        result = fit(settings_of(options))
    except Stopped as stop:
        return _fail(STOPPED, str(stop))
    except KeyboardInterrupt:
        return _fail(STOPPED, "stopped before the first epoch was over; nothing was trained")
    except BundleError as error:
        return _fail(MISSING, str(error))
    except TrainingError as error:
        return _fail(OUTPUT if error.output else DATA, str(error))
    except (TripleError, CohortError, FileNotFoundError) as error:
        return _fail(DATA, str(error))
    except OutputError as error:
        return _fail(OUTPUT, str(error))
    except MemoryError:
        return _fail(MEMORY, "not enough memory; try --batch 1 or --workers 0")
    except RuntimeError as error:
        if "out of memory" in str(error).lower():
            return _fail(MEMORY, "not enough memory; try --batch 1 or --workers 0")
        raise
    except OSError as error:
        return _fail(OUTPUT, f"{error.strerror or error}: {error.filename or options.output}")
    print(f"Bundle {result.bundle.label}: {result.bundle.path}")
    print(f"  best score {result.score:.3f} (epoch {result.best_epoch + 1} of {result.epochs}), "
          f"{result.skipped} triples skipped, {result.left_out} cases left out")  # fmt: skip
    print("Research use only.")
    return OK


def _fail(code: int, text: str) -> int:
    if os.environ.get("MEDRATIONALE_DEBUG", "0") not in ("", "0") and sys.exc_info()[0] is not None:
        traceback.print_exc()
    print(f"medrationale: {text}", file=sys.stderr, flush=True)
    return code
