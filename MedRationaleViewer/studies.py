"""Studies to choose from: those below ``--root``, and those that a browser uploads as files or as a zip.

A name that comes from a browser never leaves its folder: not by ``..``, not as an absolute path, not through a link.
What is unpacked is counted byte by byte as it is written; what a zip says of its own sizes is not believed. Errors say
what is wrong and what to do; nothing here is logged, for names of files may name a patient.
"""

from __future__ import annotations

import asyncio
import io
import os
import re
import shutil
import stat
import struct
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Self

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["Entry", "Listing", "Shelf", "StudiesError", "Upload", "receive"]

MIB: Final = 2**20

MAX_SHOWN: Final = 500
"""So many studies and folders of one folder are listed."""
LOOK_NAMES: Final = 200
"""So many names of a folder are read to tell whether it holds images."""
LOOK_FOLDERS: Final = 12
"""So many of its folders are looked into, one level deep: a DICOM study is often a folder of series."""
LOOK_S: Final = 2.0
"""After so long the rest is listed without being looked into."""

MAX_FILES: Final = 20_000
MAX_DEPTH: Final = 16
MAX_NAME: Final = 120
"""Bytes of one part of a stored path."""
UNPACKED: Final = 4
"""A zip may hold so many times the limit of an upload."""
MAX_RATIO: Final = 200
"""Unpacked to packed; MRI packs 2 to 4 times, label maps up to 150 times."""
RATIO_FROM: Final = 32 * MIB
"""Small files may pack as well as they like."""
MAX_DIRECTORY: Final = 8 * MIB
"""Of a zip's own table of contents, which is read into memory as a whole."""
KEPT: Final = 2
"""So many earlier uploads stay: the open study's, and one that was not opened for the sake of unsaved work."""

_IMAGES = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr")
_DICOM = (".dcm", ".dicom", ".ima")
# DICOM files without a suffix: IM0001, 00000012, MR.1.2.840.113619, 1.2.840.10008.1.2
_BARE_DICOM = re.compile(r"(?i)(im|img|image|mr|i)?[-_.]?\d[\d.]*|dicomdir|mr\.\d[\d.]*")
_ARCHIVES = (".zip", ".7z", ".rar", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
_JUNK = frozenset({"__macosx", "thumbs.db", "desktop.ini"})
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")
# of the others zipfile unpacks a block as a whole, however large it becomes
_STORED_OR_DEFLATED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, struct.error)


class StudiesError(ValueError):
    """A study cannot be chosen or taken in; the text says why and what to do.

    Attributes:
        status: as an HTTP status.
    """

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


# ------------------------------------------------------------------------------------------------------------ the shelf


@dataclass(frozen=True)
class Entry:
    """A study, or a folder to look into.

    Attributes:
        id: its path below the shelf's root, as POSIX writes it; ``.`` is the root itself.
        name: the folder's name.
        detail: what its names say it holds; empty for a folder.
    """

    id: str
    name: str
    detail: str = ""


@dataclass(frozen=True)
class Listing:
    """What lies in a folder of the shelf.

    Attributes:
        studies: folders that hold images; first the folder itself where it does.
        folders: those to look into. A folder of DICOM series may be a study and several: it stands in both.
        message: what the reader should know; empty if nothing.
    """

    studies: tuple[Entry, ...]
    folders: tuple[Entry, ...]
    message: str = ""


class Shelf:
    """Studies below a folder; nothing outside it can be named or reached.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    def resolve(self, id: str) -> Path:
        """The folder that an id stands for.

        Raises:
            StudiesError: it leads out of the shelf, or there is no such folder.
        """
        parts = _id_parts(id)
        try:
            found = self._root.joinpath(*parts).resolve(strict=True)
        except (OSError, RuntimeError) as error:
            raise StudiesError("there is no such folder any more; choose another, or reload the list", 404) from error
        if not found.is_relative_to(self._root):
            raise StudiesError("this folder is a link that leads out of the studies' folder; it is not opened", 403)
        if not found.is_dir():
            raise StudiesError("this is a file; choose the folder that it lies in")
        return found

    def list(self, id: str = "") -> Listing:
        """What lies in a folder, by names alone: no file is opened.

        Raises:
            StudiesError: as :meth:`resolve`; or the folder cannot be read.
        """
        folder = self.resolve(id)
        base = "/".join(_id_parts(id))
        try:
            names = sorted(_inside(folder, self._root), key=lambda found: _natural(found.name))
        except OSError as error:
            raise StudiesError(f"this folder cannot be read ({error.strerror}); check its rights", 403) from error
        below = [found for found in names if found.is_dir]
        own = _images([found.name for found in names if not found.is_dir])
        studies = [Entry(base or ".", folder.name, own.text)] if own else []
        folders: list[Entry] = []
        until = time.monotonic() + LOOK_S
        for found in below[:MAX_SHOWN]:
            entry = Entry(f"{base}/{found.name}".lstrip("/"), found.name)
            detail, nested = _look(folder / found.name, self._root) if time.monotonic() < until else ("", True)
            if detail:
                studies.append(Entry(entry.id, entry.name, detail))
            if nested:
                folders.append(entry)
        return Listing(tuple(studies), tuple(folders), _remark(len(below), studies, folders))


def _remark(count: int, studies: list[Entry], folders: list[Entry]) -> str:
    if count > MAX_SHOWN:
        return f"{count} folders lie here; the first {MAX_SHOWN} are listed"
    return "" if studies or folders else "No images and no folders lie here."


def _id_parts(id: str) -> list[str]:
    if "\0" in id or id.startswith("/") or (os.name == "nt" and re.search(r"[\\:]", id)):
        raise StudiesError("this is no folder of the list; choose one from it")
    parts = [part for part in id.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise StudiesError("'..' leads out of the studies' folder; choose a folder of the list", 403)
    return parts


@dataclass(frozen=True)
class _Found:
    name: str
    is_dir: bool


def _inside(folder: Path, root: Path, limit: int | None = None) -> Iterator[_Found]:
    """Names in a folder that are neither hidden nor lead out of the root."""
    with os.scandir(folder) as entries:
        for number, entry in enumerate(entries):
            if limit is not None and number >= limit:
                return
            if entry.name.startswith(".") or entry.name.lower() in _JUNK:
                continue
            try:
                if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(root):
                    continue
                yield _Found(entry.name, entry.is_dir())
            except (OSError, RuntimeError):  # a link to itself, a drive that is gone
                continue


def _look(folder: Path, root: Path) -> tuple[str, bool]:
    """What a folder's names say it holds, and whether it has folders to look into."""
    try:
        names = list(_inside(folder, root, LOOK_NAMES))
    except OSError:
        return "", False
    own = _images([found.name for found in names if not found.is_dir])
    below = [found.name for found in names if found.is_dir]
    if own or not below:
        return own.text, bool(below)
    series = 0
    for name in below[:LOOK_FOLDERS]:
        with suppress(OSError):
            inner = _images([f.name for f in _inside(folder / name, root, LOOK_NAMES) if not f.is_dir])
            series += inner.dicom > 0 and inner.images == 0
    return (f"DICOM, {len(below)} {'folder' if len(below) == 1 else 'folders'}" if series else ""), True


@dataclass(frozen=True)
class _Images:
    images: int
    dicom: int

    def __bool__(self) -> bool:
        return bool(self.images or self.dicom)

    @property
    def text(self) -> str:
        """In words."""
        if self.dicom:
            more = "+" if self.dicom + self.images >= LOOK_NAMES else ""
            return f"DICOM, {self.dicom}{more} {'file' if self.dicom == 1 else 'files'}"
        if self.images:
            return f"{self.images} image {'file' if self.images == 1 else 'files'}"
        return ""


def _images(names: list[str]) -> _Images:
    lower = [name.lower() for name in names]
    images = sum(name.endswith(_IMAGES) for name in lower)
    dicom = sum(name.endswith(_DICOM) or _BARE_DICOM.fullmatch(name) is not None for name in lower)
    return _Images(images, dicom)


def _natural(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sorts 2 before 10."""
    parts = re.findall(r"(\d+)|(\D+)", name.lower())
    return [(0, int(digits), "") if digits else (1, 0, other) for digits, other in parts], name


# -------------------------------------------------------------------------------------------------------------- uploads


class Upload:
    """One upload on its way into a folder of its own; what is not finished is removed.

        with Upload(folder, limit_mb=512) as upload:
            with upload.file("t2w.nii.gz") as file:
                file.write(chunk)
            study = upload.finish()

    Args:
        folder: where uploads lie; made when missing, with the uploads before the last two removed.
        limit_mb: MiB of all files together; unpacked they may be four times as large.

    Raises:
        StudiesError: from every method: something is too large, or not what can be taken.
    """

    def __init__(self, folder: Path, limit_mb: int) -> None:
        self._limit, self._limit_mb = limit_mb * MIB, limit_mb
        with _writing():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            earlier = sorted((p for p in folder.iterdir() if p.is_dir()), key=lambda p: p.stat().st_mtime_ns)
            for old in earlier[:-KEPT]:
                shutil.rmtree(old, ignore_errors=True)
            # the study's name in the viewer is its folder's
            self._place = Path(tempfile.mkdtemp(prefix="upload-", dir=folder))
            self._base = self._place / "upload"
            self._base.mkdir()
        self._written = self._files = 0
        self._finished = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._finished:
            shutil.rmtree(self._place, ignore_errors=True)

    def file(self, name: str) -> _Counted:
        """A file to write to.

        Args:
            name: as the browser calls it, perhaps with folders.
        """
        self._files += 1
        if self._files > MAX_FILES:
            raise StudiesError(f"more than {MAX_FILES} files; upload one study at a time", 413)
        return _Counted(_create(self._base, safe_parts(name)), self._count)

    def _count(self, size: int) -> None:
        self._written += size
        if self._written > self._limit:
            raise too_large(self._limit_mb)

    def finish(self) -> Path:
        """Unpack what is packed; returns the folder to open as a study."""
        spent = 0
        for archive in sorted(p for p in self._base.rglob("*") if p.suffix.lower() == ".zip" and p.is_file()):
            target = archive.with_name(_free_name(archive.parent, archive.stem))
            spent += unpack(archive, target, self._limit_mb * UNPACKED, spent)
            with _writing():
                archive.unlink()
        names = [p.name.lower() for p in self._base.rglob("*") if p.is_file()]
        if all(name.endswith(_ARCHIVES) for name in names):
            what = "an archive that is no zip" if names else "nothing"
            raise StudiesError(f"{what} was uploaded; upload the study's image files, or a zip of them")
        self._finished = True
        return _named(self._base)


class _Counted:
    """A file that counts what is written to it before it is."""

    def __init__(self, file: BinaryIO, count: Callable[[int], None]) -> None:
        self._file, self._count = file, count

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with _writing():
            self._file.close()

    def write(self, chunk: bytes) -> None:
        """Append; raises StudiesError above the limit."""
        self._count(len(chunk))
        with _writing():
            self._file.write(chunk)


def too_large(limit_mb: int) -> StudiesError:
    """The error for an upload above the limit."""
    return StudiesError(
        f"the upload is larger than {limit_mb} MiB; upload one study, or start the viewer with another --upload-mb", 413
    )


@contextmanager
def _writing() -> Iterator[None]:
    """Turns errors of the disk into words."""
    try:
        yield
    except OSError as error:
        # without the path that the system names: it may hold a patient's name
        why = error.strerror or type(error).__name__
        raise StudiesError(f"the upload could not be stored ({why}); free some space and try again", 507) from error


def safe_parts(name: str) -> list[str]:
    """A name out of a browser or a zip as the parts of a relative path that every system can store.

    Raises:
        StudiesError: it names no file, or one outside its folder.
    """
    if "\0" in name:
        raise StudiesError("a file's name holds a NUL character; rename it")
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    if ".." in parts:
        raise StudiesError("a file's name leads out of its folder ('..'); pack the study again from within its folder")
    if not parts:
        raise StudiesError("a file has no name; rename it")
    if len(parts) > MAX_DEPTH:
        raise StudiesError(f"folders lie more than {MAX_DEPTH} deep; upload the study's own folder")
    return [_safe_part(part) for part in parts]


def _safe_part(part: str) -> str:
    text = part.encode("utf-8", "replace").decode("utf-8")
    clean = re.sub(r'[\x00-\x1f\x7f<>:"|?*]', "_", text).rstrip(". ") or "_"
    if _RESERVED.fullmatch(clean):
        clean = f"_{clean}"
    stem, suffix = _split(clean)
    while len((stem + suffix).encode()) > MAX_NAME and stem:
        stem = stem[:-1]
    return (stem + suffix) if stem else clean.encode()[:MAX_NAME].decode("utf-8", "ignore")


def _split(name: str) -> tuple[str, str]:
    """Stem and suffix; ``.nii.gz`` is one suffix."""
    if name.lower().endswith(".nii.gz"):
        return name[:-7], name[-7:]
    stem, suffix = os.path.splitext(name)
    return (stem, suffix) if len(suffix) <= 8 else (name, "")


def _free_name(folder: Path, name: str) -> str:
    """A name that is not taken: DICOM files of several folders are often called the same."""
    stem, suffix = _split(name)
    free, number = name, 2
    while (folder / free).exists():
        free, number = f"{stem}-{number}{suffix}", number + 1
    return free


def _create(base: Path, parts: list[str]) -> BinaryIO:
    """A new file below ``base``; one of that name stays, and this one gets a number."""
    with _writing():
        try:
            folder = base.joinpath(*parts[:-1])
            folder.mkdir(parents=True, exist_ok=True)
            if not folder.resolve().is_relative_to(base.resolve()):
                raise StudiesError("a file's name leads out of its folder; pack the study again")
            return open(folder / _free_name(folder, parts[-1]), "xb")
        except (FileExistsError, NotADirectoryError) as error:
            raise StudiesError("a file and a folder have the same name; pack the study again") from error


def _named(folder: Path) -> Path:
    """The one folder in it, where there is nothing else: its name is the study's."""
    found = list(folder.iterdir())
    return found[0] if len(found) == 1 and found[0].is_dir() else folder


# ----------------------------------------------------------------------------------------------------------------- zips


class _Directory(io.FileIO):
    """A zip file whose table of contents is not read when it is absurdly large."""

    def read(self, size: int | None = -1, /) -> bytes:
        wanted = size if size is not None and size >= 0 else os.fstat(self.fileno()).st_size - self.tell()
        if wanted > MAX_DIRECTORY:
            raise StudiesError(f"the zip lists too many files; pack one study, of up to {MAX_FILES} files")
        return super().read(size) or b""


def unpack(archive: Path, target: Path, limit_mb: int, spent: int = 0) -> int:
    """Unpack a zip into a new folder; what cannot be unpacked whole leaves nothing behind. Returns the bytes written.

    Nested archives stay packed. Links, devices and names that lead out of the folder are refused, as are passwords and
    whatever unpacks to far more than it was.

    Args:
        archive: the zip.
        target: a folder that does not exist yet.
        limit_mb: MiB of all its files together.
        spent: bytes of them that other zips of the same upload have taken.

    Raises:
        StudiesError: it is refused or damaged.
    """
    whole = False
    try:
        with _Directory(archive) as file, zipfile.ZipFile(file) as opened:
            members = _checked(opened, limit_mb)
            with _writing():
                target.mkdir()
            written = _unpack_all(opened, members, target, archive.stat().st_size, limit_mb, spent)
        whole = True
        return written
    except StudiesError:
        raise
    except (*_DAMAGED, OSError, ValueError, RuntimeError) as error:
        raise StudiesError("the zip is damaged or not a zip; pack the study again") from error
    finally:
        if not whole:
            shutil.rmtree(target, ignore_errors=True)


def _checked(opened: zipfile.ZipFile, limit_mb: int) -> list[tuple[zipfile.ZipInfo, list[str]]]:
    """Members to unpack and where to; what the table of contents gives away is refused before anything is written."""
    listed = opened.infolist()
    if len(listed) > MAX_FILES:
        raise StudiesError(f"the zip holds more than {MAX_FILES} files; pack one study at a time", 413)
    members, nested = [], 0
    for member in listed:
        # ZipInfo.filename ends at a NUL and is rewritten for this system; this is what stands in the zip
        name = member.orig_filename
        if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name):
            raise StudiesError("a file's name in the zip starts at the root of a drive; pack the study by its folder")
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise StudiesError("the zip holds links or devices; pack the study's files themselves")
        if name.rstrip("/\\") == "":
            continue
        parts = safe_parts(name)
        if member.is_dir() or name.endswith("\\") or kind == stat.S_IFDIR:
            continue
        if member.flag_bits & 0x1:
            raise StudiesError("the zip is protected by a password; pack the study without one")
        if member.compress_type not in _STORED_OR_DEFLATED:
            raise StudiesError("the zip uses an unusual compression; pack the study as an ordinary zip")
        if any(part.lower() in _JUNK or part.startswith(".") for part in parts):
            continue
        if parts[-1].lower().endswith(_ARCHIVES):
            nested += 1
            continue
        members.append((member, parts))
    if not members:
        inner = "only other archives; unpack those first" if nested else "no files; pack the study's image files"
        raise StudiesError(f"the zip holds {inner}")
    if sum(member.file_size for member, _ in members) > limit_mb * MIB:
        raise _too_much(limit_mb)
    return members


def _too_much(limit_mb: int) -> StudiesError:
    return StudiesError(f"the zip unpacks to more than {limit_mb} MiB; pack one study at a time", 413)


def _unpack_all(
    opened: zipfile.ZipFile,
    members: list[tuple[zipfile.ZipInfo, list[str]]],
    target: Path,
    packed: int,
    limit_mb: int,
    spent: int,
) -> int:
    written = 0
    for member, parts in members:
        with opened.open(member) as source, _create(target, parts) as file:
            while chunk := source.read(MIB):
                written += len(chunk)
                if written + spent > limit_mb * MIB:
                    raise _too_much(limit_mb)
                if written > RATIO_FROM and written > MAX_RATIO * packed:
                    raise StudiesError(
                        f"the zip unpacks to more than {MAX_RATIO} times its size, as no images do; check its origin",
                        413,
                    )
                with _writing():
                    file.write(chunk)
    return written


# -------------------------------------------------------------------------------------------------------------- receive


async def receive(request: web.Request, folder: Path, *, limit_mb: int) -> Path:
    """Take in what a page uploads: ``multipart/form-data`` with fields ``file``.

    Args:
        request: the POST; its body is read as it comes.
        folder: where uploads lie.
        limit_mb: MiB of all files together.

    Returns:
        The folder to open as a study; it lies in ``folder``.

    Raises:
        StudiesError: it is too large, or not what can be taken. Nothing of it is left.
    """
    import warnings

    from aiohttp import BodyPartReader
    from aiohttp.multipart import BadContentDispositionHeader, BadContentDispositionParam

    if request.content_type != "multipart/form-data":
        raise StudiesError("files are uploaded as multipart/form-data, in fields called 'file'", 415)
    # a warning would print the file's name
    for category in (BadContentDispositionHeader, BadContentDispositionParam):
        warnings.simplefilter("ignore", category)
    with Upload(folder, limit_mb) as upload:
        try:
            async for part in await request.multipart():
                if not isinstance(part, BodyPartReader) or part.name != "file" or not part.filename:
                    raise StudiesError("a file's name cannot be read; rename it to plain letters and digits")
                with upload.file(part.filename) as file:
                    while chunk := await part.read_chunk(256 * 1024):
                        file.write(chunk)
        except StudiesError:
            raise
        except (ValueError, EOFError, ConnectionError) as error:
            raise StudiesError("the upload broke off; try it again") from error
        # unpacking takes seconds, and the views go on meanwhile
        return await asyncio.get_running_loop().run_in_executor(None, upload.finish)
