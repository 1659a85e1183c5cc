"""A bundle is what it says, or it is refused by name."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from MedRationaleLogic.model import bundle
from MedRationaleLogic.model.bundle import MANIFEST, THRESHOLDS, WEIGHTS, Bundle, BundleError, Manifest
from Testing.bundle_factory import tiny_bundle


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """One bundle on disk; tests copy it before they break it."""
    return tiny_bundle(tmp_path_factory.mktemp("made"))


@pytest.fixture(autouse=True)
def _own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the user's own bundles nor the shipped ones take part."""
    monkeypatch.setenv("MEDRATIONALE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MEDRATIONALE_BUNDLES", raising=False)
    (tmp_path / "shipped").mkdir()
    monkeypatch.setattr(bundle, "resource_path", lambda *parts: tmp_path / "shipped")


@pytest.fixture
def folder(made: Bundle, tmp_path: Path) -> Path:
    """A copy that may be broken."""
    return Path(shutil.copytree(made.path, tmp_path / "broken-0.0.1"))


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edit a manifest in place."""
    data = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    edit(data)
    (folder / MANIFEST).write_text(json.dumps(data), encoding="utf-8")


def copied(made: Bundle, place: Path, name: str, version: str) -> Path:
    """The bundle under another name and version."""
    target = Path(shutil.copytree(made.path, place / f"{name}-{version}"))
    change(target, lambda m: m.update(name=name, version=version))
    return target


def packed(archive: Path, *members: tuple[str, Path | bytes]) -> Path:
    """A zip archive with these members."""
    with zipfile.ZipFile(archive, "w") as file:
        for name, content in members:
            file.writestr(name, content if isinstance(content, bytes) else content.read_bytes())
    return archive


def packed_bundle(made: Bundle, archive: Path, prefix: str = "tiny-0.0.1/") -> Path:
    return packed(archive, *[(prefix + name, made.path / name) for name in (MANIFEST, WEIGHTS)])


# -- what is written can be read ---------------------------------------------------------------------------------------


def test_a_saved_bundle_is_read_back_unchanged(made: Bundle) -> None:
    again = bundle.read(made.path)

    assert again.manifest == made.manifest
    assert again.manifest.sha256 == bundle.file_sha256(made.path / WEIGHTS)
    assert again.label == "tiny 0.0.1"
    assert json.loads((made.path / MANIFEST).read_text(encoding="utf-8"))["notice"].startswith("Research use only")


def test_weights_survive_as_float16(made: Bundle, tmp_path: Path) -> None:
    net = made.network()
    again = bundle.save(net, tmp_path / "again-1.0", made.manifest).network()

    assert not again.training
    assert not any(p.requires_grad for p in again.parameters())
    for (name, one), (_, two) in zip(net.state_dict().items(), again.state_dict().items(), strict=True):
        assert two.dtype == torch.float32, name
        assert torch.equal(one, two), name  # they came from float16 already


def test_a_network_is_built_once(made: Bundle) -> None:
    assert made.network() is made.network()


def test_saving_over_a_bundle_replaces_it_and_leaves_nothing_else(made: Bundle, tmp_path: Path) -> None:
    target = tmp_path / "out" / "tiny-0.0.1"
    for licence in ("first", "second"):
        bundle.save(made.network(), target, Manifest(**{**made.manifest.__dict__, "licence": licence}))

    assert bundle.read(target).manifest.licence == "second"
    assert [p.name for p in target.parent.iterdir()] == ["tiny-0.0.1"]
    assert sorted(p.name for p in target.iterdir()) == [MANIFEST, WEIGHTS]


# -- what is refused ---------------------------------------------------------------------------------------------------


def needed() -> list[str]:
    fields = Manifest.__dataclass_fields__
    return [name for name in fields if name not in ("format", "notice")]


@pytest.mark.parametrize("key", needed())
def test_a_missing_key_is_named(folder: Path, key: str) -> None:
    change(folder, lambda m: m.pop(key))

    with pytest.raises(BundleError, match=rf"broken-0\.0\.1.*lacks {key}"):
        bundle.read(folder)


@pytest.mark.parametrize("key", THRESHOLDS)
def test_a_missing_threshold_is_named(folder: Path, key: str) -> None:
    change(folder, lambda m: m["thresholds"].pop(key))

    with pytest.raises(BundleError, match=rf"broken-0\.0\.1.*lacks thresholds\.{key}"):
        bundle.read(folder)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda m: m.update(sha256=17), "sha256 must be a text"),
        (lambda m: m.update(name=None), "name must be a text"),
        (lambda m: m.update(network=[]), "network must be an object"),
        (lambda m: m.update(thresholds=0.5), "thresholds must be an object"),
        (lambda m: m["thresholds"].update(evidence="half"), r"thresholds\.evidence must be a number"),
        (lambda m: m["calibration"].update({"t2.margin": None}), r"calibration\.t2\.margin must be a number"),
        (lambda m: m["network"].pop("attributes"), r"network\.attributes"),
        (lambda m: m["network"]["attributes"][0].pop("values"), r"network\.attributes"),
        (lambda m: m["network"]["attributes"][0].update(values=5), r"network\.attributes"),
        (lambda m: m["thresholds"].update(suspicion=float("nan")), r"thresholds\.suspicion must be a number"),
        (lambda m: m["calibration"].update({"t2.margin": 0}), r"calibration\.t2\.margin must be a temperature above 0"),
    ],
)
def test_a_key_of_the_wrong_kind_is_named(folder: Path, edit: Callable[[dict[str, Any]], object], said: str) -> None:
    change(folder, edit)

    with pytest.raises(BundleError, match=rf"broken-0\.0\.1.*{said}"):
        bundle.read(folder)


@pytest.mark.parametrize(
    "edit",
    [
        lambda m: m.update(lexicon_version="0.0.1-of-somebody"),
        lambda m: m["network"]["attributes"].reverse(),
        lambda m: m["network"]["attributes"][0]["values"].append("unheard_of"),
        lambda m: m["network"]["attributes"].pop(),
    ],
    ids=["version", "order", "value", "attribute"],
)
def test_another_lexicon_is_refused(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    change(folder, edit)

    with pytest.raises(BundleError, match=r"broken-0\.0\.1: made for lexicon"):
        bundle.read(folder)


def test_a_newer_format_is_said_even_where_it_lacks_our_keys(folder: Path) -> None:
    change(folder, lambda m: (m.update(format=2), m.pop("thresholds")))

    with pytest.raises(BundleError, match=r"broken-0\.0\.1: format 2.*reads 1; update"):
        bundle.read(folder)


def test_exchanged_weights_are_refused(folder: Path) -> None:
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS).write_bytes(content)

    with pytest.raises(BundleError, match=r"broken-0\.0\.1: weights\.safetensors has SHA-256"):
        bundle.read(folder)


def test_truncated_weights_are_refused(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])

    with pytest.raises(BundleError, match=r"broken-0\.0\.1.*damaged"):
        bundle.read(folder)


def test_truncated_weights_with_a_fitting_hash_do_not_build(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])
    change(folder, lambda m: m.update(sha256=bundle.file_sha256(folder / WEIGHTS)))

    with pytest.raises(BundleError, match=r"tiny 0\.0\.1: weights do not fit"):
        bundle.read(folder).network()


@pytest.mark.parametrize("edit", [{"features": 16}, {"t2w_filters": [8, 8]}, {"unheard_of": 1}, {"embedding": "much"}])
def test_weights_of_another_network_do_not_build(folder: Path, edit: dict[str, Any]) -> None:
    change(folder, lambda m: m["network"].update(edit))

    with pytest.raises(BundleError, match=r"tiny 0\.0\.1: weights do not fit"):
        bundle.read(folder).network()


def test_missing_weights_are_named(folder: Path) -> None:
    (folder / WEIGHTS).unlink()

    with pytest.raises(BundleError, match=r"broken-0\.0\.1: weights\.safetensors is missing"):
        bundle.read(folder)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"{", "cannot be read as JSON"), (b"\xff\xfe\x00", "cannot be read as JSON"), (b"[1]", "one JSON object")],
)
def test_a_manifest_that_is_none_is_refused(folder: Path, content: bytes, said: str) -> None:
    (folder / MANIFEST).write_bytes(content)

    with pytest.raises(BundleError, match=rf"broken-0\.0\.1: manifest\.json .*{said}"):
        bundle.read(folder)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"shipped is not a bundle: it has no manifest\.json"):
        bundle.read(tmp_path / "shipped")


# -- where bundles are found -------------------------------------------------------------------------------------------


def test_the_first_of_a_name_wins(made: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = [tmp_path / "one", tmp_path / "two", bundle.user_folder(), tmp_path / "shipped"]
    monkeypatch.setenv("MEDRATIONALE_BUNDLES", f"{places[0]}{bundle.os.pathsep}{places[1]}{bundle.os.pathsep}")
    everywhere = [copied(made, place, "mine", "1.0") for place in places]

    for expected in everywhere:
        assert bundle.find("mine").path == expected
        shutil.rmtree(expected)
    with pytest.raises(BundleError, match="no bundle named mine; found: none"):
        bundle.find("mine")


def test_a_listed_folder_may_itself_be_a_bundle(made: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDRATIONALE_BUNDLES", str(made.path))

    assert bundle.find("tiny").path == made.path


def test_within_a_folder_the_newest_version_wins(made: Bundle, tmp_path: Path) -> None:
    for version in ("0.9.0", "0.10.0", "0.2.0"):
        copied(made, tmp_path / "shipped", "mine", version)

    assert bundle.find("mine").manifest.version == "0.10.0"
    assert bundle.find("mine-0.9.0").manifest.version == "0.9.0"


def test_the_default_bundle_needs_no_name(made: Bundle, tmp_path: Path) -> None:
    copied(made, tmp_path / "shipped", "another", "9.9")
    with pytest.raises(BundleError, match=r"no bundle named medrationale-bpmri; found: another-9\.9"):
        bundle.find()

    expected = copied(made, tmp_path / "shipped", bundle.DEFAULT, "0.1.0")
    assert bundle.find().path == expected


def test_a_path_is_taken_as_it_is(made: Bundle) -> None:
    assert bundle.find(str(made.path)).path == made.path


def test_a_found_bundle_that_is_broken_is_refused_not_passed_over(
    made: Bundle, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied(made, tmp_path / "shipped", "broken", "0.0.1")
    (folder / WEIGHTS).write_bytes(b"")
    monkeypatch.setenv("MEDRATIONALE_BUNDLES", str(folder))

    with pytest.raises(BundleError, match=r"broken-0\.0\.1.*SHA-256"):
        bundle.find("broken")


def test_a_tree_without_shipped_models_has_no_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(*parts: str) -> Path:
        raise FileNotFoundError("no such resource")

    monkeypatch.setattr(bundle, "resource_path", nowhere)
    with pytest.raises(BundleError, match="no bundle named medrationale-bpmri"):
        bundle.find()


# -- installing and removing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["tiny-0.0.1/", "", "a/b/"])
def test_an_archive_is_installed_found_and_removed(made: Bundle, tmp_path: Path, prefix: str) -> None:
    archive = packed_bundle(made, tmp_path / "some name.zip", prefix)
    installed = bundle.install(archive, sha256=bundle.file_sha256(archive).upper())

    assert installed.path == bundle.user_folder() / "tiny-0.0.1"
    assert [p.name for p in bundle.user_folder().iterdir()] == ["tiny-0.0.1"]
    assert bundle.find("tiny").manifest == made.manifest
    assert torch.equal(bundle.find("tiny").network().scale, made.network().scale)

    assert bundle.remove("tiny") == installed.path
    assert not installed.path.exists()


def test_a_folder_is_installed_over_an_older_install(made: Bundle) -> None:
    stale = bundle.user_folder() / "tiny-0.0.1"
    stale.mkdir(parents=True)
    (stale / "left over").write_text("x")

    bundle.install(made.path)

    assert sorted(p.name for p in stale.iterdir()) == [MANIFEST, WEIGHTS]


def test_several_versions_are_not_removed_by_one_name(made: Bundle) -> None:
    for version in ("1.0", "2.0"):
        copied(made, bundle.user_folder(), "mine", version)

    with pytest.raises(BundleError, match=r"mine: several versions.*mine-1\.0, mine-2\.0"):
        bundle.remove("mine")
    assert bundle.remove("mine-1.0").name == "mine-1.0"
    assert bundle.remove("mine").name == "mine-2.0"


def test_a_shipped_bundle_is_not_removed(made: Bundle, tmp_path: Path) -> None:
    shipped = copied(made, tmp_path / "shipped", "mine", "1.0")

    with pytest.raises(BundleError, match="no installed bundle named mine"):
        bundle.remove("mine")
    with pytest.raises(BundleError):
        bundle.remove("")
    assert shipped.is_dir()


def refused(archive: Path, said: str, sha256: str | None = None) -> None:
    """The install is refused by the archive's name and leaves nothing behind."""
    with pytest.raises(BundleError, match=said) as caught:
        bundle.install(archive, sha256=sha256)
    assert archive.name in str(caught.value)
    assert not bundle.user_folder().exists() or list(bundle.user_folder().iterdir()) == []


def test_an_archive_that_is_not_there_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "absent.zip", "no such file")


def test_an_archive_of_another_hash_is_refused(made: Bundle, tmp_path: Path) -> None:
    refused(packed_bundle(made, tmp_path / "b.zip"), "expected 00ff", sha256="00ff")


def test_something_that_is_no_zip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "b.zip").write_text("this is no archive")
    refused(tmp_path / "b.zip", "not a zip archive")


def test_a_truncated_zip_is_refused(made: Bundle, tmp_path: Path) -> None:
    archive = packed_bundle(made, tmp_path / "b.zip")
    archive.write_bytes(archive.read_bytes()[:-100])
    refused(archive, "truncated")


def test_a_zip_with_a_damaged_member_is_refused(made: Bundle, tmp_path: Path) -> None:
    archive = packed_bundle(made, tmp_path / "b.zip")
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 255
    archive.write_bytes(content)
    refused(archive, "CRC")


@pytest.mark.parametrize("missing", [MANIFEST, WEIGHTS])
def test_a_zip_that_lacks_a_file_is_refused(made: Bundle, tmp_path: Path, missing: str) -> None:
    there = WEIGHTS if missing == MANIFEST else MANIFEST
    refused(packed(tmp_path / "b.zip", (there, made.path / there)), f"it has no {missing}")


@pytest.mark.parametrize("way", ["../", "tiny/../../../", "/", "..\\..\\", "C:\\", "C:/"])
def test_a_zip_whose_paths_lead_out_is_refused(made: Bundle, tmp_path: Path, way: str) -> None:
    before = sorted(p for p in tmp_path.rglob("*"))
    archive = packed_bundle(made, tmp_path / "b.zip", way)

    refused(archive, "leads out of the archive")
    bundle.user_folder().rmdir()
    bundle.user_folder().parent.rmdir()
    assert sorted(p for p in tmp_path.rglob("*")) == sorted([*before, archive])


def test_a_zip_with_another_file_that_leads_out_is_refused(made: Bundle, tmp_path: Path) -> None:
    members = [(name, made.path / name) for name in (MANIFEST, WEIGHTS)]
    refused(packed(tmp_path / "b.zip", *members, ("../../evil.py", b"import os")), r"evil\.py.*leads out")


def test_a_zip_of_two_bundles_is_refused(made: Bundle, tmp_path: Path) -> None:
    members = [(f"{place}/{name}", made.path / name) for place in "ab" for name in (MANIFEST, WEIGHTS)]
    refused(packed(tmp_path / "b.zip", *members), r"manifest\.json 2 times")


def test_a_member_that_is_too_large_is_refused(made: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "MAX_BYTES", 1000)
    refused(packed_bundle(made, tmp_path / "b.zip"), "would unpack to more than")


def test_a_zip_with_exchanged_weights_is_refused_by_the_archives_name(made: Bundle, tmp_path: Path) -> None:
    archive = packed(tmp_path / "b.zip", (MANIFEST, made.path / MANIFEST), (WEIGHTS, b"other weights"))
    refused(archive, "has SHA-256")


def test_a_version_with_a_hyphen_is_refused(folder: Path) -> None:
    change(folder, lambda m: m.update(version="1.0-rc1"))
    refused(folder, "must not hold a hyphen")


def test_a_folder_has_no_hash_that_could_be_checked(made: Bundle) -> None:
    refused(made.path, "a folder has no SHA-256", sha256="0" * 64)


def test_a_member_of_an_odd_compression_or_name_is_refused(made: Bundle, tmp_path: Path) -> None:
    archive = tmp_path / "b.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_LZMA) as file:
        for name in (MANIFEST, WEIGHTS):
            file.write(made.path / name, name)
    content = bytearray(archive.read_bytes())
    content[60:90] = bytes(30)
    archive.write_bytes(content)
    refused(archive, "cannot be read")
    renamed = packed_bundle(made, tmp_path / "c.zip").read_bytes().replace(MANIFEST.encode(), b"\xff" * len(MANIFEST))
    flagged = bytearray(renamed)
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # names said to be UTF-8
        place = -1
        while (place := flagged.find(mark, place + 1)) >= 0:
            flagged[place + at + 1] |= 0x08
    (tmp_path / "c.zip").write_bytes(flagged)
    refused(tmp_path / "c.zip", "cannot be read|has no manifest")


@pytest.mark.parametrize("way", ["install", "save"])
def test_an_old_bundle_stays_where_a_new_one_cannot_take_its_place(
    made: Bundle, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    old = bundle.install(made.path)
    before = {p.name: p.read_bytes() for p in old.path.iterdir()}
    rename = Path.rename

    def locked(path: Path, target: Path) -> Path:
        if Path(target) == old.path and "-old-" not in path.name:
            raise PermissionError(13, "in use")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", locked)
    with pytest.raises((BundleError, PermissionError), match="in use"):
        bundle.install(made.path) if way == "install" else bundle.save(made.network(), old.path, made.manifest)
    assert {p.name: p.read_bytes() for p in old.path.iterdir()} == before
    assert [p.name for p in bundle.user_folder().iterdir()] == [old.path.name]


@pytest.mark.parametrize("name", ["../outside", ".hidden", "a/b", "a\\b", "a:b", "a\n", "a" * 300])
def test_a_name_that_is_no_folders_name_is_refused(folder: Path, name: str) -> None:
    change(folder, lambda m: m.update(name=name))
    refused(folder, "cannot be a folder's name")
