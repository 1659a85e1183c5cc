"""The command line: ``medrationale explain``, ``batch``, ``sample``, ``demo``, ``bundle``, ``info`` (docs/cli.md).

Results go to standard output, progress and errors to standard error. Whatever goes wrong ends in one clear line and an
exit code of :class:`ExitCode`. Heavy packages are imported by the command that needs them: ``--help`` answers at once.
"""

from __future__ import annotations

import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from MedRationaleLogic import __version__
from MedRationaleLogic.commands.batch import batch
from MedRationaleLogic.commands.curate import agreement, curate, sheet
from MedRationaleLogic.commands.evaluate import evaluate
from MedRationaleLogic.commands.simulate import simulate
from MedRationaleLogic.commands.train import SETTINGS as TRAIN_SETTINGS
from MedRationaleLogic.commands.train import train
from MedRationaleLogic.commands.view import view

if TYPE_CHECKING:
    from rich.console import Console

    from MedRationaleLogic.imaging.acquisition import Role
    from MedRationaleLogic.inference.explanation import Explanation
    from MedRationaleLogic.simulation.sample import Sample

Step = Callable[[float, str], None]
"""Told (share done 0..1, what comes now)."""

DEBUG: Final = "MEDRATIONALE_DEBUG"
DEMO_FOLDER: Final = "medrationale-demo"
#: What the demo asks of the shipped bundle on its own sample; other bundles are only reported.
DEMO_GLAND_DSC: Final = 0.80
DEMO_T2_MAPS: Final = 10
_PACKAGES: Final = ("torch", "numpy", "scipy", "SimpleITK", "pydicom", "safetensors", "matplotlib", "jinja2", "typer",
                    "rich")  # fmt: skip


class ExitCode(IntEnum):
    """What a command ends with; part of the interface."""

    OK = 0
    UNEXPECTED = 1
    USAGE = 2
    MISSING = 3
    BAD_STUDY = 4
    DEVICE = 5
    OUTPUT = 6
    CANCELLED = 130


class DeviceName(StrEnum):
    """Where the network runs."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class PrecisionName(StrEnum):
    """How precisely it runs."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


app = typer.Typer(
    help="Explains suspicious regions on prostate MRI by PI-RADS v2.1. Research use only.",
    epilog="Exit codes: 0 done, 1 unexpected, 2 wrong usage, 3 missing package or bundle, 4 bad study, 5 device or "
    "memory, 6 output, 130 stopped.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
bundle_app = typer.Typer(help="The model's weights: list, verify, install, remove.", no_args_is_help=True)
app.add_typer(bundle_app, name="bundle")

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary; only errors.")]
BundleName = Annotated[
    str | None, typer.Option("--bundle", help="Name or folder of a bundle.", show_default="medrationale-bpmri")
]
DeviceOption = Annotated[DeviceName, typer.Option("--device", help="Where the network runs.")]
PrecisionOption = Annotated[PrecisionName, typer.Option("--precision", help="auto: bfloat16 where it is faster.")]


# ---------------------------------------------------------------------------------------------------------------------
# The frame: one place that turns whatever happened into an exit code


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit code; nothing is raised.

    Args:
        arguments: without the program's name. ``--debug`` may stand anywhere: errors then come with a traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name that the terminal cannot show must not end the run
            stream.reconfigure(errors="backslashreplace")
    rest = [a for a in arguments if a != "--debug"]
    debug = len(rest) < len(arguments) or os.environ.get(DEBUG, "0") not in ("", "0")
    as_json = "--json" in rest
    try:
        with _debugging(debug):
            code = app(rest, standalone_mode=False, prog_name="medrationale")
    except (KeyboardInterrupt, typer.Abort):
        code = ExitCode.CANCELLED
    except _USAGE_ERROR as error:  # before any other: it knows how to show itself, with the command's usage
        if as_json:
            _print_json({"error": _one_line(error.format_message()), "exit_code": ExitCode.USAGE})
        else:
            error.show()
        return ExitCode.USAGE
    except Exception as error:
        if debug:
            traceback.print_exception(error)
        code, text = failure(error)
        return _fail(code, text, as_json)
    if code == ExitCode.CANCELLED:  # Typer turns Ctrl-C into this number itself
        return _fail(ExitCode.CANCELLED, "stopped", as_json)
    return code if isinstance(code, int) else ExitCode.OK


@contextmanager
def _debugging(debug: bool) -> Iterator[None]:
    """Tells it to whatever shows its errors itself: training, processes of their own."""
    before = os.environ.get(DEBUG)
    if debug:
        os.environ[DEBUG] = "1"
    try:
        yield
    finally:
        if before is not None:
            os.environ[DEBUG] = before
        elif debug:
            os.environ.pop(DEBUG, None)


# UsageError: Typer brings its own copy of Click in some versions, Click's in others, and exports only what follows it.
_USAGE_ERROR: Final[Any] = typer.BadParameter.__bases__[0]

# By name: importing the modules that define them, only to fail, would cost seconds.
_CODES: Final[Mapping[str, ExitCode]] = {
    "StudyError": ExitCode.BAD_STUDY,
    "TripleError": ExitCode.BAD_STUDY,
    "CohortError": ExitCode.BAD_STUDY,
    "SheetError": ExitCode.BAD_STUDY,
    "BundleError": ExitCode.MISSING,
    "ImportError": ExitCode.MISSING,
    "DeviceError": ExitCode.DEVICE,
    "MemoryError": ExitCode.DEVICE,
    "OutOfMemoryError": ExitCode.DEVICE,
    "ExplainCancelledError": ExitCode.CANCELLED,
    "OSError": ExitCode.OUTPUT,
}


def failure(error: Exception) -> tuple[ExitCode, str]:
    """Exit code and one line for an error."""
    names = [kind.__name__ for kind in type(error).__mro__]
    text = _one_line(str(error))
    code = next((_CODES[name] for name in names if name in _CODES), ExitCode.UNEXPECTED)
    # PyTorch reports an allocation that failed on the CPU as a RuntimeError.
    if "RuntimeError" in names and ("allocate memory" in text or "not enough memory" in text):
        code = ExitCode.DEVICE
    if code == ExitCode.DEVICE and "DeviceError" not in names:
        return code, "not enough memory for this study; close other programs, or try --device cpu"
    if code == ExitCode.MISSING and "ImportError" in names and "pip install" not in text:  # unless it says so itself
        return code, f"a package is missing or damaged ({text}); install MedRationale again with its dependencies"
    # resources.resource_path names what is missing itself; a FileNotFoundError of the system carries a file name
    if "FileNotFoundError" in names and getattr(error, "filename", None) is None:
        return ExitCode.MISSING, text
    if code == ExitCode.UNEXPECTED:
        return code, f"unexpected {names[0]}: {text}. Run it again with --debug and report what it says"
    return code, text


def _fail(code: ExitCode, text: str, as_json: bool) -> int:
    if as_json:
        _print_json({"error": text, "exit_code": code})
    else:
        print(f"medrationale: {text}", file=sys.stderr)
    return code


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _print_json(data: Mapping[str, Any]) -> None:
    print(json.dumps(data, indent=2, allow_nan=False))


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    console = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = 120
    return console


@contextmanager
def _progress(quiet: bool) -> Iterator[Step]:
    """A bar on a terminal, one line per stage elsewhere; always on standard error."""
    if quiet:
        yield lambda share, what: None
        return
    console = _console(stderr=True)
    if not console.is_terminal:
        said: set[str] = set()

        def line(share: float, what: str) -> None:
            if what not in said:
                print(f"{what} ...", file=sys.stderr, flush=True)
            said.add(what)

        yield line
        return
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda share, what: bar.update(task, completed=share, description=what)


def _part(step: Step, low: float, high: float) -> Step:
    """Progress of a part of the work, as progress of the whole."""

    def inner(share: float, what: str) -> None:
        if share < 1.0:
            step(low + (high - low) * share, what)

    return inner


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"medrationale {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help=f"Show the traceback of an error; may stand anywhere. Or set {DEBUG}=1.")
    ] = False,
) -> None:
    pass  # `run` has looked for --debug already; it stands here to be listed


# ---------------------------------------------------------------------------------------------------------------------
# explain


def _series(wishes: Sequence[str]) -> dict[Role, str]:
    from MedRationaleLogic.imaging.acquisition import ROLES

    wanted: dict[Role, str] = {}
    for wish in wishes:
        name, _, series = wish.partition("=")
        role = next((r for r in ROLES if r == name.strip().lower()), None)
        if role is None or not series.strip():
            raise typer.BadParameter(
                f"{wish!r} is not ROLE=SERIES; write hbv=9 or hbv=7:b800, for example. Roles: {', '.join(ROLES)}",
                param_hint="--series",
            )
        wanted[role] = series.strip()
    return wanted


def _positive(value: float | None) -> float | None:
    if value is not None and not (math.isfinite(value) and value > 0):
        raise typer.BadParameter("PSA must be a positive number in ng/mL")
    return value


@app.command()
def explain(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Result folder: new, empty, or with an earlier result (replaced).")
    ],
    study: Annotated[
        Path | None,
        typer.Argument(help="A DICOM folder, or a folder of NIfTI, MHA or NRRD files.", show_default=False),
    ] = None,
    t2w: Annotated[Path | None, typer.Option(help="T2W: an image file or a DICOM folder.")] = None,
    adc: Annotated[Path | None, typer.Option(help="ADC: the same.")] = None,
    hbv: Annotated[Path | None, typer.Option(help="High-b image: the same.")] = None,
    series: Annotated[
        list[str] | None,
        typer.Option(metavar="ROLE=SERIES", help="Take this DICOM series: hbv=9, hbv=7:b800. Repeatable."),
    ] = None,
    psa: Annotated[float | None, typer.Option(callback=_positive, help="PSA in ng/mL, for its density.")] = None,
    bundle: BundleName = None,
    device: DeviceOption = DeviceName.AUTO,
    precision: PrecisionOption = PrecisionName.AUTO,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Explain a study: zones, suspicious regions, evidence maps, PI-RADS rationale and report."""
    from MedRationaleLogic.imaging.study import read_study

    if study is None and t2w is None and adc is None and hbv is None:
        raise _USAGE_ERROR("give a STUDY folder, or files by --t2w, --adc and --hbv")
    wanted = _series(series or [])
    with _progress(quiet) as step:
        step(0.0, "reading the study")
        with _reading():
            opened = read_study(study, t2w=t2w, adc=adc, hbv=hbv, psa=psa, series=wanted)
        explanation, report = _explain(opened, output, bundle, device, precision, _part(step, 0.1, 1.0))
    if as_json:
        _print_json({"exit_code": ExitCode.OK, **summary(explanation, report)})
    elif not quiet:
        _print_summary(_console(), explanation, report)


@contextmanager
def _reading() -> Iterator[None]:
    """An input that the system does not let be read is a bad study, not a bad output."""
    from MedRationaleLogic.imaging.acquisition import StudyError

    try:
        yield
    except OSError as error:
        name = Path(error.filename).name if error.filename else "the study"
        raise StudyError(
            f"{name}: cannot be read ({error.strerror or error}); check the path and its rights"
        ) from error


def _explain(
    study: Any, output: Path, bundle: str | None, device: DeviceName, precision: PrecisionName, step: Step
) -> tuple[Explanation, Path]:
    import MedRationaleLogic
    from MedRationaleLogic.export import write_results

    step(0.0, "loading the model")
    explanation = MedRationaleLogic.explain(
        study, bundle=bundle, device=device.value, precision=precision.value, progress=_part(step, 0.1, 0.7)
    )
    step(0.7, "writing the results")
    return explanation, write_results(explanation, output)


def summary(explanation: Explanation, report: Path) -> dict[str, Any]:
    """What a machine wants to know at once, as plain values; ``explanation.json`` holds everything."""
    full = explanation.to_dict()
    return {
        "notice": full["notice"],
        "results": str(report.parent),
        "report": str(report),
        "explanation": str(report.parent / "explanation.json"),
        "study": full["study"],
        "category": full["category"],
        "gland": full["gland"],
        "psa_density": full["psa_density"],
        "lesions": [
            {
                "number": lesion.number,
                "zone": lesion.rationale.zone,
                "sectors": [key for key, _ in lesion.measures.sectors],
                "size_mm": round(lesion.rationale.size_mm, 2),
                "volume_ml": round(lesion.measures.volume_ml, 3),
                "t2w": lesion.rationale.t2w,
                "dwi": lesion.rationale.dwi,
                "dce": lesion.rationale.dce,
                "category": lesion.category,
                "category_reachable": sorted(lesion.rationale.category_reachable, key=str),
                "suspicion": lesion.suspicion.value if lesion.suspicion else None,
                "flags": list(lesion.all_flags),
            }
            for lesion in explanation.lesions
        ],
        "flags": full["flags"],
        "bundle": full["provenance"]["bundle"],
        "device": full["provenance"]["device"],
        "precision": full["provenance"]["precision"],
        "seconds": full["provenance"]["seconds"],
    }


def _print_summary(console: Console, explanation: Explanation, report: Path) -> None:
    from MedRationaleLogic.export import words
    from MedRationaleLogic.inference.explanation import NOTICE

    study, category = explanation.study, explanation.category
    console.print(f"Study {study.name}", style="bold")
    for choice in study.choices:
        console.print(f"  {choice}")
    for note in dict.fromkeys((*study.notes, *explanation.all_flags, *explanation.provenance.notes)):
        console.print(f"  note: {note}", style="yellow")
    if explanation.gland is None:
        console.print("Gland: not found")
    else:
        density = explanation.psa_density
        console.print(
            f"Gland: {explanation.gland.planimetry_ml:.1f} mL by planimetry" + (f"; {density.text}" if density else "")
        )
    if explanation.lesions:
        console.print(_lesion_table(explanation))
        for lesion in explanation.lesions:
            for flag in lesion.all_flags:
                console.print(f"  region {lesion.number}: {flag}", style="yellow")
    else:
        console.print(words.NO_REGION)
    if explanation.dropped:
        console.print(f"Looked at and not reported: {len(explanation.dropped)} (the report says why)")
    console.print(
        f"PI-RADS category: {category.category} ({words.CATEGORY_WORDS[category.category]}); {category.text}",
        style="bold",
    )
    console.print(f"Report: {report}", soft_wrap=True)
    console.print(NOTICE, style="bold red")


def _lesion_table(explanation: Explanation) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from MedRationaleLogic.export import words

    table = Table("region", "largest sector", "size", "T2W", "DWI", "PI-RADS", "suspicion", box=SIMPLE_HEAD)
    for lesion in explanation.lesions:
        others = words.reachable_words(lesion.rationale.category_reachable, lesion.category)
        table.add_row(
            str(lesion.number),
            words.sector_words(lesion.measures.sectors[0][0]) if lesion.measures.sectors else lesion.rationale.zone,
            words.lesion_size(lesion)[0],
            str(lesion.rationale.t2w),
            str(lesion.rationale.dwi),
            f"{lesion.category}" + (f" (or {others})" if others else ""),
            f"{lesion.suspicion.value:.2f}" if lesion.suspicion else "not read",
        )
    return table


# ---------------------------------------------------------------------------------------------------------------------
# sample, demo


@app.command()
def sample(
    folder: Annotated[Path, typer.Argument(help="New or empty folder, or an earlier sample (replaced).")],
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write the sample study (simulated, no patient) as DICOM and as NIfTI, with its truth."""
    with _progress(quiet) as step:
        step(0.2, "drawing the sample study")
        from MedRationaleLogic.simulation.sample import write_sample

        files = write_sample(folder.expanduser().resolve())
    if as_json:
        paths = {"folder": files.folder, "dicom": files.dicom, "nifti": files.nifti, "truth": files.truth}
        _print_json({"exit_code": ExitCode.OK, **{key: str(path) for key, path in paths.items()}})
    elif not quiet:
        print(f"Sample study (simulated, no patient): {files.folder}\n  dicom/  nifti/  truth/  sample.json")
        print(f"Explain it: medrationale explain {files.dicom} --output out")


@app.command()
def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for 'sample' and 'results'; nothing else in it is touched.")
    ] = Path(DEMO_FOLDER),
    headless: Annotated[bool, typer.Option("--headless", help="Do not open the report in a browser.")] = False,
    bundle: BundleName = None,
    device: DeviceOption = DeviceName.AUTO,
    precision: PrecisionOption = PrecisionName.AUTO,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Make the sample study, explain it, check the results, and open the report. Exit code 0 only if all is well."""
    from MedRationaleLogic.imaging.study import read_study
    from MedRationaleLogic.model import bundle as bundles

    bundles.find(bundle)  # without one there is nothing to show: say so before any work
    place = output.expanduser().resolve()
    with _progress(quiet) as step:
        step(0.0, "drawing the sample study")
        from MedRationaleLogic.simulation.sample import make_sample, write_sample

        drawn = make_sample()
        files = write_sample(place / "sample", drawn)
        step(0.2, "reading the study")
        with _reading():
            opened, same = read_study(files.dicom, name="sample"), read_study(files.nifti)
        explanation, report = _explain(opened, place / "results", bundle, device, precision, _part(step, 0.3, 0.95))
        step(0.95, "checking the results")
        checks = check_demo(drawn, explanation, report.parent)
        checks["DICOM and NIfTI say the same"] = _same_images(opened, same)
    good = all(checks.values())
    code = ExitCode.OK if good else ExitCode.UNEXPECTED
    agreement = demo_agreement(drawn, explanation)
    if as_json:
        data = {"exit_code": code, **summary(explanation, report), "checks": checks, "agreement": agreement}
        if not good:
            data["error"] = f"the demo's checks failed: {', '.join(c for c, ok in checks.items() if not ok)}"
        _print_json(data)
    elif not quiet:
        console = _console()
        _print_summary(console, explanation, report)
        for check, ok in checks.items():
            console.print(f"  {'ok    ' if ok else 'FAILED'} {check}", style=None if ok else "bold red")
        for name, value in agreement.items():
            console.print(f"  {value:.2f}   {name}")
    if good and not headless:
        _open(report)
    if not good:
        if not as_json:
            print("medrationale: the demo's checks failed", file=sys.stderr)
        raise typer.Exit(code)


def _open(report: Path) -> None:
    """Show the report in the browser; a machine without one is no error."""
    import webbrowser

    try:
        shown = webbrowser.open(report.as_uri())
    except (webbrowser.Error, OSError):
        shown = False
    if not shown:
        print("no browser found; open the report yourself", file=sys.stderr)


def check_demo(drawn: Sample, explanation: Explanation, folder: Path) -> dict[str, bool]:
    """What a result folder must hold, whatever the bundle; and the gland's agreement for the shipped one.

    Args:
        drawn: the sample that was explained.
        explanation: what came out.
        folder: where it was written.

    Returns:
        check in words -> whether it holds.
    """
    import SimpleITK as sitk

    from MedRationaleLogic.imaging.volume import Volume
    from MedRationaleLogic.model.bundle import DEFAULT

    def image(name: str) -> Volume:
        return Volume.from_sitk(sitk.ReadImage(str(folder / name)))

    grid = explanation.frame.geometry
    zones, regions = image("zones.nii.gz"), image("lesions.nii.gz")
    written = json.loads((folder / "explanation.json").read_text(encoding="utf-8"))
    t2_maps = sorted((folder / "evidence").glob("t2.*.nii.gz"))
    first = image(f"evidence/{t2_maps[0].name}") if t2_maps else None
    numbers = {int(n) for n in regions.array.ravel().tolist() if n}
    checks = {
        "report.html and report.txt are there": all(
            (folder / name).is_file() and (folder / name).stat().st_size for name in ("report.html", "report.txt")
        ),
        "explanation.json fits its schema": _fits_schema(written),
        "zones.nii.gz lies on the T2W's grid": zones.geometry.almost_equal(grid) and int(zones.array.max()) <= 2,
        "lesions.nii.gz holds the numbers of explanation.json": regions.geometry.almost_equal(grid)
        and numbers == {lesion["number"] for lesion in written["lesions"]},
        f"at least {DEMO_T2_MAPS} T2W evidence maps on the T2W's grid": len(t2_maps) >= DEMO_T2_MAPS
        and first is not None
        and first.geometry.almost_equal(grid),
    }
    if explanation.provenance.bundle["name"] == DEFAULT:
        found = demo_agreement(drawn, explanation)["DSC of the gland with what was drawn"]
        checks[f"gland found, DSC at least {DEMO_GLAND_DSC:.2f}"] = found >= DEMO_GLAND_DSC
    return checks


def demo_agreement(drawn: Sample, explanation: Explanation) -> dict[str, float]:
    """How the result agrees with what was drawn, on the T2W's grid."""
    gland, truth = explanation.zones.array > 0, drawn.zones.array > 0
    focus = drawn.regions.array == 1
    found = explanation.lesion_labels.array > 0
    return {
        "DSC of the gland with what was drawn": _dice(gland, truth),
        "DSC of all regions with the suspicious one that was drawn": _dice(found, focus),
    }


def _dice(a: Any, b: Any) -> float:
    total = int(a.sum()) + int(b.sum())
    return 2.0 * int((a & b).sum()) / total if total else 1.0


def _same_images(first: Any, second: Any) -> bool:
    pairs = [(first.volume(role), second.volume(role)) for role in ("t2w", "adc", "hbv")]
    return all(
        a is not None and b is not None and a.geometry.almost_equal(b.geometry) and bool((a.array == b.array).all())
        for a, b in pairs
    )


def _fits_schema(written: Mapping[str, Any]) -> bool:
    """By jsonschema where it is installed (the extra ``dev``), else by the schema's own list of what must be there."""
    from MedRationaleLogic.export.json_document import schema

    rules = schema()
    try:
        import jsonschema
    except ImportError:
        return all(key in written for key in rules["required"])
    return bool(jsonschema.Draft202012Validator(rules).is_valid(written))


# ---------------------------------------------------------------------------------------------------------------------
# bundle, info


def _bundle_rows(*, verify: bool = False) -> list[dict[str, Any]]:
    """Every bundle that can be found, the first of a name being the one in use; a refused one says why."""
    from MedRationaleLogic.model import bundle as bundles

    rows: list[dict[str, Any]] = []
    taken: set[str] = set()
    user = bundles.user_folder()
    shipped = bundles.shipped_folder()
    for path in bundles.available():
        place = "user" if path.parent == user else "shipped" if path.parent == shipped else "MEDRATIONALE_BUNDLES"
        row: dict[str, Any] = {"name": path.name, "version": None, "place": place, "path": str(path)}
        try:
            found = bundles.read(path, verify=verify)
            if verify:
                found.network()
            m = found.manifest
            row |= {"name": m.name, "version": m.version, "licence": m.licence, "sha256": m.sha256}
            row |= {"in_use": m.name not in taken, "problem": None}
            taken.add(m.name)
        except bundles.BundleError as error:
            row |= {"in_use": False, "problem": str(error)}
        rows.append(row)
    return rows


def _print_bundles(rows: Sequence[Mapping[str, Any]], good: str) -> None:
    from rich.table import Table

    table = Table("bundle", "version", "place", "licence", "state")
    for row in rows:
        state = row["problem"] or (good if row["in_use"] else "hidden by one of the same name above")
        table.add_row(row["name"], row["version"] or "", row["place"], row.get("licence", ""), state)
    _console().print(table)


@bundle_app.command("list")
def bundle_list(as_json: AsJson = False) -> None:
    """List the bundles that can be found, in the order in which they are looked for."""
    from MedRationaleLogic.model import bundle as bundles

    rows = _bundle_rows()
    if as_json:
        folders = [str(p) for p in bundles.folders()]
        _print_json({"exit_code": ExitCode.OK, "bundles": rows, "default": bundles.DEFAULT, "folders": folders})
    elif rows:
        _print_bundles(rows, "in use")
    else:
        print("No bundle found. Looked in:", *bundles.folders(), sep="\n  ")


@bundle_app.command("verify")
def bundle_verify(
    name: Annotated[str | None, typer.Argument(help="A bundle's name; all of them without it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check bundles in full: manifest, SHA-256, lexicon, and that the weights fit the network."""
    from MedRationaleLogic.model import bundle as bundles

    if name is not None:
        found = bundles.find(name)
        found.network()
        if as_json:
            _print_json({"exit_code": ExitCode.OK, "bundles": [_bundle_facts(found)]})
        else:
            print(f"{found.label}: verified ({found.path})")
        return
    rows = _bundle_rows(verify=True)
    if not rows:
        raise bundles.BundleError("no bundle found; install one with 'medrationale bundle install FILE'")
    refused = [row["name"] for row in rows if row["problem"]]
    code = ExitCode.MISSING if refused else ExitCode.OK
    if as_json:
        error = {"error": f"refused: {', '.join(refused)}"} if refused else {}
        _print_json({"exit_code": code, **error, "bundles": rows})
    else:
        _print_bundles(rows, "verified")
    if refused:
        raise typer.Exit(code)


def _bundle_facts(found: Any) -> dict[str, Any]:
    m = found.manifest
    facts = {"name": m.name, "version": m.version, "licence": m.licence, "sha256": m.sha256}
    return {**facts, "path": str(found.path), "problem": None}


@bundle_app.command("install")
def bundle_install(
    file: Annotated[Path, typer.Argument(help="A bundle .zip, or a bundle folder.")],
    sha256: Annotated[str | None, typer.Option("--sha256", help="What the .zip must hash to.")] = None,
    as_json: AsJson = False,
) -> None:
    """Install a bundle into the user's folder; checked in full before it is seen."""
    from MedRationaleLogic.model import bundle as bundles

    found = bundles.install(file.expanduser(), sha256=sha256)
    if as_json:
        _print_json({"exit_code": ExitCode.OK, **_bundle_facts(found)})
    else:
        print(f"Installed {found.label} ({found.manifest.licence}): {found.path}")


@bundle_app.command("remove")
def bundle_remove(
    name: Annotated[str, typer.Argument(help="An installed bundle's name.")], as_json: AsJson = False
) -> None:
    """Remove a bundle from the user's folder; shipped ones stay."""
    from MedRationaleLogic.model import bundle as bundles

    path = bundles.remove(name)
    if as_json:
        _print_json({"exit_code": ExitCode.OK, "removed": str(path)})
    else:
        print(f"Removed {path}")


@app.command()
def info(as_json: AsJson = False) -> None:
    """Show versions, device, bundles, lexicon and resources; put this into a bug report."""
    facts = _facts()
    if as_json:
        _print_json({"exit_code": ExitCode.OK, **facts})
        return
    console = _console()
    for key, value in facts.items():
        if isinstance(value, Mapping):
            console.print(f"{key}:", style="bold")
            for name, entry in value.items():
                console.print(f"  {name}: {entry}", soft_wrap=True)
        elif key == "bundles":
            console.print(f"bundles: {'' if value else 'none'}", style="bold")
            for row in value:
                state = row["problem"] or ("in use" if row["in_use"] else "hidden by one of the same name")
                console.print(f"  {row['name']} {row['version'] or ''} ({row['place']}): {state}", soft_wrap=True)
        else:
            console.print(f"{key}: {value}", soft_wrap=True)


def _facts() -> dict[str, Any]:
    import platform
    from importlib import metadata

    from MedRationaleLogic.model.bundle import user_folder
    from MedRationaleLogic.pirads import lexicon
    from MedRationaleLogic.resources import resource_path

    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "missing"
    known = lexicon.load()
    return {
        "medrationale": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": versions,
        "device": _device_facts(),
        "lexicon": {"version": known.version, "attributes": len(known.attributes), "concepts": len(known.concepts)},
        "bundles": _bundle_rows(),
        "folders": {"resources": str(resource_path()), "installed bundles": str(user_folder())},
    }


def _device_facts() -> dict[str, Any]:
    from MedRationaleLogic.inference.device import available_memory, bfloat16_is_faster

    memory = available_memory()
    facts: dict[str, Any] = {
        "cpu cores": os.cpu_count(),
        "memory available (GB)": None if memory is None else round(memory / 2**30, 1),
    }
    try:
        import torch
    except ImportError as error:
        return {**facts, "torch": f"cannot be imported: {_one_line(str(error))}"}
    cuda = torch.cuda.is_available()
    return {
        **facts,
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if cuda else None,
        "bfloat16 is faster": {
            "cpu": bfloat16_is_faster("cpu"),
            **({"cuda": bfloat16_is_faster("cuda")} if cuda else {}),
        },
    }


# ---------------------------------------------------------------------------------------------------------------------
# Commands with a file of their own: the browser face, a cohort, and what a researcher needs


for _command in (view, batch, simulate, evaluate, curate, sheet, agreement):
    app.command()(_command)
app.command(context_settings=TRAIN_SETTINGS)(train)


if __name__ == "__main__":
    main()
