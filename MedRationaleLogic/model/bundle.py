"""A bundle: weights (safetensors) and a manifest that says what they are and what they were measured to do.

Layout: ``<name>-<version>/manifest.json`` and ``weights.safetensors``. Nothing is unpickled. Bundles are looked for in
the folders of ``MEDRATIONALE_BUNDLES`` (separated as ``PATH`` is), then in the user's folder, then in
``Resources/Models``; the first of a name wins, so that a user's own training can replace what is shipped.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import math
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from MedRationaleLogic.resources import put_folder, resource_path

if TYPE_CHECKING:
    from torch import Tensor

    from MedRationaleLogic.model.network import RationaleNet

FORMAT: Final = 1
WEIGHTS: Final = "weights.safetensors"
MANIFEST: Final = "manifest.json"
DEFAULT: Final = "medrationale-bpmri"
#: Largest archive member that ``install`` unpacks; a bundle is far smaller.
MAX_BYTES: Final = 512 * 2**20


class BundleError(ValueError):
    """A bundle that is not what it says; the text names the bundle, what is wrong and what to do."""


@dataclass(frozen=True)
class Manifest:
    """What a bundle says of itself.

    Attributes:
        name, version: of the bundle.
        sha256: of its weights file.
        network: arguments of :class:`MedRationaleLogic.model.network.NetworkSpec`.
        lexicon_version: the lexicon it was trained with.
        thresholds: ``lesion_peak`` (smallest peak lesion probability of a candidate), ``suspicion`` (from which a
            candidate is reported), ``evidence`` (below which a map is shown transparent), ``min_volume_ml``; and, where
            the bundle has it, ``equivocal`` (suspicion from which one of category 3 is reported; 0 without it).
        calibration: attribute id -> temperature that its logits are divided by.
        training: data, seeds, commands, label provenance.
        results: what was measured, with n.
        licence: of the weights.
    """

    name: str
    version: str
    sha256: str
    network: Mapping[str, Any]
    lexicon_version: str
    thresholds: Mapping[str, float]
    calibration: Mapping[str, float]
    training: Mapping[str, Any]
    results: Mapping[str, Any]
    licence: str
    format: int = FORMAT
    notice: str = "Research use only. Not a medical device."

    def to_json(self) -> str:
        """As the manifest file holds it."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"


_NEEDED = [f for f in Manifest.__dataclass_fields__ if f not in ("format", "notice")]
_OBJECTS = ("network", "thresholds", "calibration", "training", "results")
THRESHOLDS = ("lesion_peak", "suspicion", "evidence", "min_volume_ml")


@dataclass(frozen=True)
class Bundle:
    """A verified bundle on disk."""

    path: Path
    manifest: Manifest
    _cache: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def label(self) -> str:
        """Name and version, for a person."""
        return f"{self.manifest.name} {self.manifest.version}"

    def network(self) -> RationaleNet:
        """The network with its weights, float32, in evaluation mode; built once.

        Raises:
            BundleError: weights and network arguments do not fit.
        """
        if "net" not in self._cache:
            from safetensors import SafetensorError
            from safetensors.torch import load_file

            from MedRationaleLogic.model.network import NetworkSpec, RationaleNet

            try:
                net = RationaleNet(NetworkSpec.from_dict(self.manifest.network))
                weights = {k: v.float() for k, v in load_file(str(self.path / WEIGHTS)).items()}
                if weights.keys() != _tensors(net).keys():
                    odd = sorted(weights.keys() ^ _tensors(net).keys())
                    raise KeyError(f"{len(odd)} tensors too many or too few, {odd[0]} first")
                net.load_state_dict(weights, strict=False)  # stored are also buffers that a state does not name
            except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, OSError, SafetensorError) as error:
                raise BundleError(
                    f"bundle {self.label}: weights do not fit the network it describes: {error}"
                ) from error
            net.requires_grad_(False)
            self._cache["net"] = net.eval()
        net_: RationaleNet = self._cache["net"]
        return net_


def read(path: Path, *, verify: bool = True, called: str = "") -> Bundle:
    """Read and check a bundle folder.

    Args:
        path: the folder.
        verify: compare the weights' SHA-256 with the manifest's.
        called: what errors name it by; the folder's name by default.

    Raises:
        BundleError: a file is missing or unreadable, a key is missing, the format is newer, the hash or the lexicon
            is another one.
    """
    from MedRationaleLogic.pirads import lexicon

    label = called or path.name
    manifest = _manifest(path / MANIFEST, label)
    known = lexicon.load()
    layout = [(a["id"], tuple(a["values"])) for a in manifest.network["attributes"]]
    if manifest.lexicon_version != known.version or layout != [(a.id, a.value_ids) for a in known.attributes]:
        raise BundleError(
            f"{label}: made for lexicon {manifest.lexicon_version}, this MedRationale has {known.version}; "
            "take the bundle of this version"
        )
    weights = path / WEIGHTS
    if not weights.is_file():
        raise BundleError(f"{label}: {WEIGHTS} is missing; install the bundle again")
    try:
        found = file_sha256(weights) if verify else manifest.sha256
    except OSError as error:
        raise BundleError(f"{label}: {WEIGHTS} cannot be read ({error.strerror or error}); check its rights") from error
    if found != manifest.sha256:
        raise BundleError(
            f"{label}: {WEIGHTS} has SHA-256 {found[:12]}..., the manifest says {manifest.sha256[:12]}...; "
            "the file is damaged or was exchanged: install the bundle again"
        )
    return Bundle(path, manifest)


def _manifest(path: Path, label: str) -> Manifest:
    """Read a manifest and check its form; ``label`` names the bundle in errors."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(f"{label} is not a bundle: it has no {MANIFEST}") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BundleError(f"{label}: {MANIFEST} cannot be read as JSON ({error}); install the bundle again") from error
    if not isinstance(data, dict):
        raise BundleError(f"{label}: {MANIFEST} must hold one JSON object")
    # a newer format may well lack what this one needs: it is the format that has to be said
    if data.get("format", FORMAT) != FORMAT:
        raise BundleError(
            f"{label}: format {data['format']}, this MedRationale reads {FORMAT}; update MedRationale or take an "
            "older bundle"
        )
    if missing := [key for key in _NEEDED if key not in data]:
        raise BundleError(f"{label}: {MANIFEST} lacks {', '.join(missing)}")
    for key in _NEEDED:
        kind, words = (dict, "an object") if key in _OBJECTS else (str, "a text")
        if not isinstance(data[key], kind):
            raise BundleError(f"{label}: {MANIFEST}: {key} must be {words}, it is {type(data[key]).__name__}")
    if missing := [f"thresholds.{key}" for key in THRESHOLDS if key not in data["thresholds"]]:
        raise BundleError(f"{label}: {MANIFEST} lacks {', '.join(missing)}")
    for group in ("thresholds", "calibration"):
        for k, v in data[group].items():
            if isinstance(v, bool) or not isinstance(v, int | float) or not math.isfinite(v):
                raise BundleError(f"{label}: {MANIFEST}: {group}.{k} must be a number")
            if group == "calibration" and v <= 0:
                raise BundleError(f"{label}: {MANIFEST}: calibration.{k} must be a temperature above 0, it is {v}")
    attributes = data["network"].get("attributes")
    if not isinstance(attributes, list) or not all(
        isinstance(a, dict)
        and {"id", "sequence", "extent", "values"} <= a.keys()
        and isinstance(a["values"], list)
        and all(isinstance(v, str) for v in a["values"])
        for a in attributes
    ):
        raise BundleError(
            f"{label}: {MANIFEST}: network.attributes must list the id, sequence, extent and values of each attribute"
        )
    return Manifest(**{k: v for k, v in data.items() if k in Manifest.__dataclass_fields__})


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def user_folder() -> Path:
    """Where ``install`` puts bundles: ``~/.medrationale/bundles``, or ``MEDRATIONALE_HOME``/bundles."""
    home = os.environ.get("MEDRATIONALE_HOME")
    return (Path(home) if home else Path.home() / ".medrationale") / "bundles"


def shipped_folder() -> Path | None:
    """Where the shipped bundles lie; None in a source tree without one."""
    try:
        return resource_path("Models")
    except FileNotFoundError:
        return None


def folders() -> list[Path]:
    """Where bundles are looked for, first match wins."""
    listed = [Path(p) for p in os.environ.get("MEDRATIONALE_BUNDLES", "").split(os.pathsep) if p]
    shipped = shipped_folder()
    return [*listed, user_folder(), *([] if shipped is None else [shipped])]


def available() -> Iterator[Path]:
    """Folders that hold a manifest, in the order of :func:`folders`; a folder may itself be a bundle.

    Within one folder by name, the newest version of a name first.
    """
    for folder in folders():
        if (folder / MANIFEST).is_file():
            yield folder
        elif folder.is_dir():
            # a name with a dot in front is being put in place, or was left by a kill on the way
            there = (p for p in folder.iterdir() if not p.name.startswith(".") and (p / MANIFEST).is_file())
            inside = sorted(there, key=_version, reverse=True)
            yield from sorted(inside, key=_stem)


def _stem(path: Path) -> str:
    """The name in a folder's ``<name>-<version>``."""
    return path.name.rpartition("-")[0] or path.name


def _version(path: Path) -> list[tuple[int, str]]:
    """A folder's version as a sort key: 0.10.0 is newer than 0.9.0."""
    parts = path.name.rpartition("-")[2].split(".")
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def find(name: str | None = None) -> Bundle:
    """The bundle of this name (``name`` or ``name-version``), or the default one.

    Raises:
        BundleError: there is none, or the one found is refused.
    """
    wanted = name or DEFAULT
    if name and (Path(name) / MANIFEST).is_file():
        return read(Path(name))
    seen = []
    for path in available():
        seen.append(path.name)
        if wanted in (path.name, _stem(path)):
            return read(path)
    raise BundleError(f"no bundle named {wanted}; found: {', '.join(seen) or 'none'}. See 'medrationale bundle list'")


def install(archive: Path, *, sha256: str | None = None) -> Bundle:
    """Unpack a bundle (.zip, or a bundle folder) into the user's folder, checked before it is seen.

    Raises:
        BundleError: not a bundle, a path leaves the archive, a member is too large, a hash differs.
    """
    if not archive.exists():
        raise BundleError(f"{archive}: no such file; expected a bundle .zip or a bundle folder")
    if sha256 and archive.is_dir():
        raise BundleError(f"{archive}: a folder has no SHA-256; give the .zip that it belongs to")
    if sha256 and (found := file_sha256(archive)) != sha256.lower():
        raise BundleError(f"{archive.name}: SHA-256 is {found}, expected {sha256}; download it again")
    target = user_folder()
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target, prefix=".install-") as scratch:
        place = Path(scratch) / "bundle"
        if archive.is_dir():
            place.mkdir()
            for name in (MANIFEST, WEIGHTS):
                if (archive / name).is_file():
                    shutil.copyfile(archive / name, place / name)
        else:
            _unzip(archive, place)
        bundle = read(place, called=archive.name)
        # the manifest is not ours: its name must not lead out of the user's folder either
        name = f"{bundle.manifest.name}-{bundle.manifest.version}"
        if any(c in '/\\:*?"<>|' or not c.isprintable() for c in name) or name.startswith(".") or len(name) > 120:
            raise BundleError(f"{archive.name}: {name[:200]!r} cannot be a folder's name")
        if "-" in bundle.manifest.version:  # a folder's name is told apart at its last hyphen
            raise BundleError(f"{archive.name}: version {bundle.manifest.version!r} must not hold a hyphen")
        final = target / name
        try:
            put_folder(place, final)
        except OSError as error:
            raise BundleError(f"{archive.name}: {final} cannot be written ({error.strerror or error})") from error
    return read(final, verify=False)


def _unzip(archive: Path, place: Path) -> None:
    try:
        with zipfile.ZipFile(archive) as file:
            place.mkdir()
            for name in (MANIFEST, WEIGHTS):
                member = _member(archive, file, name)
                # only these two names are ever written, so no path inside the archive can lead anywhere else
                with file.open(member) as source, (place / name).open("wb") as sink:
                    shutil.copyfileobj(source, sink, 2**20)
    except BundleError:
        raise
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, RuntimeError) as error:
        raise BundleError(
            f"{archive.name} is not a zip archive, is truncated, or is packed in a way that cannot be read ({error}); "
            "download it again"
        ) from error


def _member(archive: Path, file: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    found = []
    for info in file.infolist():
        path = PurePosixPath(info.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or (path.parts and path.parts[0].endswith(":")):
            raise BundleError(f"{archive.name}: {info.filename!r} leads out of the archive; this is no bundle of ours")
        if path.name == name and not info.is_dir():
            found.append(info)
    if not found:
        raise BundleError(f"{archive.name} is not a bundle: it has no {name}")
    if len(found) > 1:
        raise BundleError(f"{archive.name} holds {name} {len(found)} times; pack one bundle into one archive")
    if found[0].file_size > MAX_BYTES:
        raise BundleError(f"{archive.name}: {name} would unpack to more than {MAX_BYTES // 2**20} MB")
    return found[0]


def remove(name: str) -> Path:
    """Delete an installed bundle from the user's folder (never a shipped one); returns the folder that was removed.

    Raises:
        BundleError: none of that name is installed there, or several versions are.
    """
    installed = [p for p in sorted(user_folder().glob("*")) if (p / MANIFEST).is_file()]
    mine = [p for p in installed if name == p.name] or [p for p in installed if name == _stem(p)]
    if not mine:
        raise BundleError(f"no installed bundle named {name} in the user's folder; shipped bundles are not removed")
    if len(mine) > 1:
        raise BundleError(f"{name}: several versions are installed, say which: {', '.join(p.name for p in mine)}")
    shutil.rmtree(mine[0])
    return mine[0]


def _tensors(net: RationaleNet) -> dict[str, Tensor]:
    """Parameters and buffers, each once, those among them that a state dict leaves out."""
    return {**dict(net.named_parameters()), **dict(net.named_buffers())}


def save(net: RationaleNet, folder: Path, manifest: Manifest) -> Bundle:
    """Write a bundle folder (fp16 weights), beside first, then renamed; the manifest's hash is filled in."""
    import torch
    from safetensors.torch import save_file

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".bundle-") as scratch:
        place = Path(scratch) / "bundle"
        place.mkdir()
        # one entry of metadata only: their order in the file is not fixed, and the same weights shall be the same file
        weights = {k: v.detach().to(torch.float16).contiguous() for k, v in _tensors(net).items()}
        save_file(weights, str(place / WEIGHTS), metadata={"bundle": f"{manifest.name} {manifest.version}"})
        os.chmod(place / WEIGHTS, 0o644)
        filled = Manifest(**{**asdict(manifest), "sha256": file_sha256(place / WEIGHTS)})
        (place / MANIFEST).write_text(filled.to_json(), encoding="utf-8")
        put_folder(place, folder)
    return read(folder)
