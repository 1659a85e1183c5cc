"""Studies below --root and uploads: what is found, what is taken in, and that no name leads out of its folder."""

from __future__ import annotations

import io
import os
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import SimpleITK as sitk
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from MedRationaleLogic.imaging import files as image_files
from MedRationaleLogic.imaging.study import read_study
from MedRationaleViewer import studies
from MedRationaleViewer.studies import MIB, Shelf, StudiesError, Upload, receive, safe_parts, unpack
from Testing.study_factory import make_study

Members = dict[str | zipfile.ZipInfo, bytes]


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


# ------------------------------------------------------------------------------------------------------------ the shelf


@pytest.fixture
def root(tmp_path: Path) -> Path:
    place = tmp_path / "root"
    touch(
        place,
        "PICAI-2/t2w.mha", "PICAI-2/adc.mha", "PICAI-2/hbv.MHA", "PICAI-10/t2w.nii.gz",
        "cohort/a/t2w.nrrd", "cohort/b/notes.txt",
        "dicom/4.0-t2/1-01.dcm", "dicom/4.0-t2/1-02.dcm", "dicom/7.0-adc/IM0001",
        "flat/1.2.840.113619.2.5", "flat/00000002", "flat/DICOMDIR",
        "papers/article.pdf", ".hidden/t2w.mha", "__MACOSX/t2w.mha",
    )  # fmt: skip
    (place / "empty").mkdir()
    touch(tmp_path, "outside/t2w.mha")
    return place


def test_a_shelf_tells_studies_from_folders(root: Path) -> None:
    found = Shelf(root).list()
    assert [(s.id, s.detail) for s in found.studies] == [
        ("dicom", "DICOM, 2 folders"), ("flat", "DICOM, 3 files"),
        ("PICAI-2", "3 image files"), ("PICAI-10", "1 image file"),
    ]  # fmt: skip
    # a folder of DICOM series can be looked into as well: it may be a cohort
    assert [f.id for f in found.folders] == ["cohort", "dicom"]
    assert found.message == ""
    inner = Shelf(root).list("cohort")
    assert [(s.id, s.name) for s in inner.studies] == [("cohort/a", "a")]
    assert inner.folders == ()
    assert Shelf(root).resolve("cohort/a") == root / "cohort" / "a"
    assert "No images" in Shelf(root).list("empty").message


def test_a_folder_that_holds_images_itself(root: Path) -> None:
    touch(root, "t2w.nii.gz")
    found = Shelf(root).list()
    assert (found.studies[0].id, found.studies[0].name) == (".", "root")
    assert Shelf(root).resolve(".") == root
    assert Shelf(root).list("PICAI-2").studies[0].id == "PICAI-2"


def test_the_formats_are_those_that_are_read() -> None:
    assert set(studies._IMAGES) == set(image_files.SUFFIXES)


@pytest.mark.parametrize(
    "id", ["..", "../outside", "PICAI-2/../../outside", "/etc", "//etc", "\0", "PICAI-2\0", "a/../..", "./.."]
)
def test_no_id_leads_out_of_the_shelf(root: Path, id: str) -> None:
    for ask in (Shelf(root).resolve, Shelf(root).list):
        with pytest.raises(StudiesError, match=r"list|leads out"):
            ask(id)


def test_links_stay_within(root: Path) -> None:
    (root / "away").symlink_to(root.parent / "outside")
    (root / "near").symlink_to(root / "PICAI-2")
    (root / "loop").symlink_to(root / "loop")
    (root / "dangling").symlink_to(root / "none")
    shelf = Shelf(root)
    listed = shelf.list()
    names = {entry.id for entry in (*listed.studies, *listed.folders)}
    assert "near" in names
    assert not {"away", "loop", "dangling"} & names
    with pytest.raises(StudiesError, match="leads out") as refused:
        shelf.resolve("away")
    assert refused.value.status == 403
    for gone in ("loop", "dangling", "none"):
        with pytest.raises(StudiesError, match="no such folder"):
            shelf.resolve(gone)
    with pytest.raises(StudiesError, match="is a file"):
        shelf.resolve("papers/article.pdf")
    # a root that is a link itself is where it leads to
    (root.parent / "link").symlink_to(root)
    assert Shelf(root.parent / "link").list("PICAI-2").studies


@given(st.text(st.sampled_from("./\\a\0:~ %ü"), max_size=12))
def test_whatever_an_id_is_it_stays_within(id: str) -> None:
    shelf = Shelf(Path(__file__).parent)
    try:
        found = shelf.resolve(id)
    except StudiesError:
        return
    assert found.is_relative_to(Path(__file__).parent.resolve())


def test_many_folders_are_cut(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studies, "MAX_SHOWN", 3)
    found = Shelf(root).list()
    assert len({e.id for e in (*found.studies, *found.folders)}) <= 3
    assert "the first 3 are listed" in found.message
    # where there is no time left nothing is looked into, and everything can be
    monkeypatch.setattr(studies, "MAX_SHOWN", 100)
    monkeypatch.setattr(studies, "LOOK_S", -1.0)
    found = Shelf(root).list()
    assert found.studies == ()
    assert {"PICAI-2", "cohort", "empty"} <= {f.id for f in found.folders}


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="rights do not bind root")
def test_a_folder_without_rights(root: Path) -> None:
    (root / "cohort").chmod(0)
    try:
        assert "cohort" not in {f.id for f in Shelf(root).list().folders}
        with pytest.raises(StudiesError, match="rights"):
            Shelf(root).list("cohort")
    finally:
        (root / "cohort").chmod(0o700)


# -------------------------------------------------------------------------------------------------------------- uploads


def take(folder: Path, files: dict[str, bytes], limit_mb: int = 4) -> Path:
    with Upload(folder, limit_mb) as upload:
        for name, data in files.items():
            with upload.file(name) as file:
                file.write(data)
        return upload.finish()


def stored(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def packed(members: Members, kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", kind) as file:
        for member, content in members.items():
            file.writestr(member, content)
    return data.getvalue()


def test_files_and_folders_are_taken_as_they_are(tmp_path: Path) -> None:
    loose = take(tmp_path, {"t2w.nii.gz": b"t", "adc.nii.gz": b"a"})
    assert stored(loose) == {"t2w.nii.gz": b"t", "adc.nii.gz": b"a"}
    assert loose.is_relative_to(tmp_path)
    folder = take(tmp_path, {"PICAI-2/t2w.mha": b"t", "PICAI-2/more/adc.mha": b"a"})
    assert folder.name == "PICAI-2"
    assert stored(folder) == {"t2w.mha": b"t", "more/adc.mha": b"a"}
    # DICOM files of several series, dropped without their folders
    assert len(stored(take(tmp_path, {"IM1": b"1"}))) == 1
    with Upload(tmp_path, 1) as upload:
        for number in range(3):
            with upload.file("IM0001.dcm") as file:
                file.write(bytes([number]))
        same = upload.finish()
    assert stored(same) == {"IM0001.dcm": b"\0", "IM0001-2.dcm": b"\1", "IM0001-3.dcm": b"\2"}


def test_an_uploaded_zip_can_be_read_as_a_study(tmp_path: Path) -> None:
    study, made = make_study(("t2w", "adc")), tmp_path / "made"
    made.mkdir()
    for role in study.roles:
        sitk.WriteImage(study.volume(role).to_sitk(), str(made / f"{role}.nii.gz"))  # type: ignore[union-attr]
    members: Members = {f"case/{p.name}": p.read_bytes() for p in made.iterdir()}
    members["__MACOSX/case/._t2w.nii.gz"] = b"junk"
    folder = take(tmp_path / "uploads", {"My study.zip": packed(members)}, limit_mb=64)
    assert folder.name == "My study"
    assert read_study(folder).roles == study.roles
    assert not any("MACOSX" in name or name.endswith(".zip") for name in stored(folder.parent))


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("t2w.nii.gz", ["t2w.nii.gz"]), ("/a/b", ["a", "b"]), ("C:\\scans\\t2.dcm", ["C_", "scans", "t2.dcm"]),
        ("a//./b", ["a", "b"]), ("con", ["_con"]), ("NUL.dcm", ["_NUL.dcm"]), ("a:b?*.dcm", ["a_b__.dcm"]),
        ("trailing. ", ["trailing"]), ("ünï/cödé.mha", ["ünï", "cödé.mha"]),
        ("x" * 300 + ".nii.gz", ["x" * 113 + ".nii.gz"]),
        ("a\nb\x7f", ["a_b_"]), ("\udcff.dcm", ["_.dcm"]),
    ],
)  # fmt: skip
def test_names_become_safe(name: str, parts: list[str]) -> None:
    assert safe_parts(name) == parts


@pytest.mark.parametrize("name", ["..", "../x", "a/../../x", "a\\..\\x", "\0", "a\0.dcm", "", "/", "./.", "a/" * 20])
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(StudiesError):
        take(tmp_path / "uploads", {name: b"x"})
    assert stored(tmp_path) == {}


@given(st.text(max_size=40))
def test_whatever_a_name_is_it_stays_within(name: str) -> None:
    try:
        parts = safe_parts(name)
    except StudiesError:
        return
    assert parts
    for part in parts:
        assert part not in ("", ".", "..")
        assert not set(part) & set('/\\\0:<>"|?*')
        assert 0 < len(part.encode()) <= studies.MAX_NAME


def test_an_upload_has_its_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StudiesError, match="larger than 1 MiB") as refused:
        take(tmp_path, {"a.mha": bytes(MIB // 2), "b.mha": bytes(MIB // 2 + 1)}, limit_mb=1)
    assert refused.value.status == 413
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(studies, "MAX_FILES", 2)
    with pytest.raises(StudiesError, match="more than 2 files"):
        take(tmp_path, {"a": b"", "b": b"", "c": b""})
    for nothing in ({}, {"a.rar": b"x"}, {"a.tar.gz": b"x", "b.7z": b"x"}):
        with pytest.raises(StudiesError, match=r"image files, or a zip"):
            take(tmp_path, nothing)
    with pytest.raises(StudiesError, match="same name"):
        take(tmp_path, {"a": b"", "a/b": b""})
    assert list(tmp_path.iterdir()) == []


def test_only_the_last_uploads_stay(tmp_path: Path) -> None:
    took = [take(tmp_path, {f"{number}.mha": b"x"}) for number in range(4)]
    assert [folder.exists() for folder in took] == [False, True, True, True]


def test_a_full_disk_is_told_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, _data: Any) -> int:
            raise OSError(28, "No space left on device", "/patients/Doe")

    monkeypatch.setattr(studies, "_create", lambda *_: Full())
    with pytest.raises(StudiesError, match=r"No space left.*free some space") as refused:
        take(tmp_path, {"a.mha": b"x"})
    assert "Doe" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


# ----------------------------------------------------------------------------------------------------------------- zips


def member(name: str, mode: int = stat.S_IFREG | 0o644) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr, info.create_system = mode << 16, 3
    return info


def nul(data: bytes) -> bytes:
    return data.replace(b"aNb.dcm", b"a\0b.dcm")


def encrypted(data: bytes) -> bytes:
    """With the flag set in both headers of its only member."""
    changed = bytearray(data)
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        changed[data.index(signature) + offset] |= 1
    return bytes(changed)


GOOD: Members = {"t2w.mha": b"image" * 1000}
BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "dots": (lambda: packed({**GOOD, "../evil.mha": b"x"}), "leads out"),
    "inner dots": (lambda: packed({**GOOD, "a/../../evil.mha": b"x"}), "leads out"),
    "backslash dots": (lambda: packed({**GOOD, "..\\evil.mha": b"x"}), "leads out"),
    "absolute": (lambda: packed({**GOOD, "/tmp/evil.mha": b"x"}), "root of a drive"),
    "drive": (lambda: packed({**GOOD, "C:\\evil.mha": b"x"}), "root of a drive"),
    "share": (lambda: packed({**GOOD, "\\\\server\\evil.mha": b"x"}), "root of a drive"),
    "link": (lambda: packed({**GOOD, member("l.mha", stat.S_IFLNK | 0o777): b"/etc/passwd"}), "links or devices"),
    "device": (lambda: packed({**GOOD, member("d.mha", stat.S_IFCHR | 0o666): b""}), "links or devices"),
    "pipe": (lambda: packed({**GOOD, member("p.mha", stat.S_IFIFO | 0o666): b""}), "links or devices"),
    "NUL": (lambda: nul(packed({**GOOD, "aNb.dcm": b"x"})), "NUL"),
    "password": (lambda: encrypted(packed({"t2w.mha": b"x" * 100})), "password"),
    "bzip2": (lambda: packed(GOOD, zipfile.ZIP_BZIP2), "unusual compression"),
    "lzma": (lambda: packed(GOOD, zipfile.ZIP_LZMA), "unusual compression"),
    "nothing": (lambda: packed({}), "no files"),
    "folders only": (lambda: packed({"a/": b"", "a/b/": b""}), "no files"),
    "a zip in a zip": (lambda: packed({"inner.zip": packed(GOOD)}), "only other archives"),
    "no zip": (lambda: b"PK\3\4" + bytes(500), "damaged"),
    "empty": (lambda: b"", "damaged"),
    "cut": (lambda: packed(GOOD)[:-30], "damaged"),
    "changed": (lambda: packed(GOOD, zipfile.ZIP_STORED).replace(b"imageimage", b"IMAGEimage", 1), "damaged"),
    "file and folder": (lambda: packed({"a": b"x", "a/b": b"x"}), "same name"),
    "too deep": (lambda: packed({"a/" * 30 + "t2w.mha": b"x"}), "deep"),
}


@pytest.mark.parametrize("name", BAD)
def test_zips_that_are_refused(tmp_path: Path, name: str) -> None:
    make, says = BAD[name]
    data = make()
    place = tmp_path / "in" / "uploads"
    with pytest.raises(StudiesError, match=says):
        take(place, {"study.zip": data})
    assert [p for p in tmp_path.rglob("*") if p not in (place, place.parent)] == []
    # and with nothing around it: no half of it is left
    archive = tmp_path / "a.zip"
    archive.write_bytes(data)
    with pytest.raises(StudiesError):
        unpack(archive, tmp_path / "target", 4)
    assert not (tmp_path / "target").exists()


def test_a_nested_zip_stays_out(tmp_path: Path) -> None:
    folder = take(tmp_path, {"s.zip": packed({**GOOD, "inner.ZIP": packed(GOOD), ".hidden": b"x", "Thumbs.db": b"x"})})
    assert list(stored(folder)) == ["t2w.mha"]


def test_rights_in_a_zip_are_not_taken_over(tmp_path: Path) -> None:
    folder = take(tmp_path, {"s.zip": packed({member("t2w.mha", stat.S_IFREG | stat.S_ISUID | 0o777): b"x"})})
    assert not (folder / "t2w.mha").stat().st_mode & 0o7111


def test_a_bomb_is_refused_by_its_own_word(tmp_path: Path) -> None:
    with pytest.raises(StudiesError, match="more than 4 MiB") as refused:
        take(tmp_path, {"s.zip": packed({"a.mha": bytes(5 * MIB)})}, limit_mb=1)
    assert refused.value.status == 413


def lying(data: bytes, size: int) -> bytes:
    """A zip whose headers say that its members are so large."""
    changed = bytearray(data)
    for signature, offset in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        at = data.find(signature)
        while at >= 0:
            changed[at + offset : at + offset + 4] = struct.pack("<I", size)
            at = data.find(signature, at + 4)
    return bytes(changed)


def test_a_bomb_that_lies_about_its_size_writes_no_more_than_it_says(tmp_path: Path) -> None:
    archive = tmp_path / "s.zip"
    archive.write_bytes(lying(packed({"a.mha": bytes(40 * MIB)}), 1000))
    with pytest.raises(StudiesError, match="damaged"):
        unpack(archive, tmp_path / "target", 1)
    assert list(tmp_path.iterdir()) == [archive]


def test_bytes_are_counted_as_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if zipfile believed whatever a zip says."""
    archive = tmp_path / "s.zip"
    archive.write_bytes(packed({"a.mha": bytes(40 * MIB), "b.mha": b"x"}))
    true = studies._checked

    def blind(opened: zipfile.ZipFile, _limit: int) -> Any:
        return true(opened, 10**6)

    monkeypatch.setattr(studies, "_checked", blind)
    with pytest.raises(StudiesError, match="more than 8 MiB"):
        unpack(archive, tmp_path / "target", 8)
    with pytest.raises(StudiesError, match="times its size"):
        unpack(archive, tmp_path / "target", 10**5)
    assert list(tmp_path.iterdir()) == [archive]


def test_label_maps_may_pack_well(tmp_path: Path) -> None:
    folder = take(tmp_path, {"s.zip": packed({"mask.nii": bytes(20 * MIB)})}, limit_mb=8)
    assert (folder / "mask.nii").stat().st_size == 20 * MIB


def test_zips_of_one_upload_share_the_limit(tmp_path: Path) -> None:
    one = packed({"a.mha": bytes(3 * MIB)})
    with pytest.raises(StudiesError, match="more than 4 MiB"):
        take(tmp_path, {"a.zip": one, "b.zip": one}, limit_mb=1)
    assert list(tmp_path.iterdir()) == []


def test_a_long_table_of_contents_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = packed({f"{number}.dcm": b"" for number in range(300)})
    monkeypatch.setattr(studies, "MAX_FILES", 299)
    with pytest.raises(StudiesError, match="more than 299 files"):
        take(tmp_path, {"s.zip": many})
    monkeypatch.setattr(studies, "MAX_DIRECTORY", 10_000)
    with pytest.raises(StudiesError, match="lists too many files"):
        take(tmp_path, {"s.zip": many})


# -------------------------------------------------------------------------------------------------------------- receive


async def post(tmp_path: Path, data: Any, headers: dict[str, str] | None = None) -> tuple[int, dict[str, Any]]:
    """Upload to a server that takes in 1 MiB; what it says."""

    async def handle(request: web.Request) -> web.Response:
        try:
            folder = await receive(request, tmp_path / "uploads", limit_mb=1)
        except StudiesError as error:
            return web.json_response({"error": str(error)}, status=error.status)
        return web.json_response({"name": folder.name, "files": sorted(stored(folder))})

    app = web.Application()
    app.router.add_post("/upload", handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/upload"
    try:
        async with aiohttp.ClientSession() as client, client.post(url, data=data, headers=headers) as answer:
            return answer.status, await answer.json()
    finally:
        await runner.cleanup()


def form(*files: tuple[str, bytes], field: str = "file") -> aiohttp.FormData:
    data = aiohttp.FormData(quote_fields=False)
    for name, content in files:
        data.add_field(field, content, filename=name)
    return data


async def test_a_form_is_taken_in(tmp_path: Path) -> None:
    status, told = await post(tmp_path, form(("case/t2w.mha", b"1"), ("case/s/adc.mha", b"2"), ("case/ü.txt", b"3")))
    assert (status, told) == (200, {"name": "case", "files": ["s/adc.mha", "t2w.mha", "ü.txt"]})
    status, told = await post(tmp_path, form(("case.zip", packed(GOOD))))
    assert (status, told["files"]) == (200, ["t2w.mha"])


@pytest.mark.parametrize(
    ("data", "status", "says"),
    [
        (form(("a.mha", bytes(MIB + 1))), 413, "larger than 1 MiB"),
        (form(("../a.mha", b"x")), 400, "leads out"),
        (form(("a.mha", b"x"), field="other"), 400, "rename it"),
        (form(("", b"x")), 400, "rename it"),
        (form(("case.zip", b"no zip")), 400, "damaged"),
        (b"raw bytes", 415, "multipart"),
    ],
)
async def test_forms_that_are_refused(
    tmp_path: Path, data: Any, status: int, says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    found, told = await post(tmp_path, data)
    assert found == status
    assert says in told["error"]
    assert stored(tmp_path) == {}
    assert "a.mha" not in capfd.readouterr().err


async def test_a_form_that_breaks_off(tmp_path: Path) -> None:
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="Doe;Jane\r\n\r\nxyz\r\n'
    for cut in (part[:40], part, b"--b\r\n\r\n", b"nothing"):
        status, told = await post(tmp_path, cut, kind)
        assert status == 400, (cut, told)
        assert told["error"]
    assert stored(tmp_path) == {}
