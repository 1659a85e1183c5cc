"""A study, an explanation and its regions as plain JSON values, and their images in a store.

    store = NiftiFolder(folder)
    data = explanation_to_json(explanation, store)      # images are in the folder, described in store.records
    again = explanation_from_json(data, NiftiFolder(folder, store.records), study)

One codec, several stores: :class:`NiftiFolder` (a saved case), :class:`NpyFolder` (raw and memory-mapped: what goes
between processes), :class:`Inline` (compressed in the JSON itself: a text node of a scene). Every store gives back a
volume to the bit: values, type, geometry, name.

What is left out: the patient's ID, evidence maps (they are computed again), and whatever a volume's ``metadata`` holds.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from MedRationaleLogic.imaging import measure
from MedRationaleLogic.imaging.acquisition import ROLE_NAMES, AcquisitionHeader, Role, SeriesChoice
from MedRationaleLogic.imaging.quality import QualityFlag
from MedRationaleLogic.imaging.study import InputRecord, Study
from MedRationaleLogic.imaging.volume import Geometry, Volume
from MedRationaleLogic.inference.evidence import EvidenceMaps
from MedRationaleLogic.inference.explanation import DISAGREEMENT, Dropped, Explanation, Lesion, Provenance

Json = dict[str, Any]

#: The only names that images have, without a store's suffix: a path out of a file must not lead anywhere else.
_IMAGE: Final = re.compile(r"(original/)?(images/(t2w|adc|hbv)|zones|lesion_probability|(regions|removed)/[0-9]+)")
#: Fields of a header that JSON turns from tuples into lists.
_TUPLES: Final = ("pixel_spacing_mm", "fov_mm", "b_values", "acquisition_matrix")


class StorageError(ValueError):
    """An image is missing, unreadable or not the one that was stored; the text names it and says what to do."""


class ImageStore(Protocol):
    """Where images go and come from."""

    records: dict[str, Json]

    def put(self, volume: Volume, path: str) -> str:
        """Keep a volume; returns the name to ask for: made of ``path``, or where the same one was put before."""

    def get(self, path: str) -> Volume:
        """The volume of this name, exactly as it was put.

        Raises:
            StorageError: not a name that a store uses, missing, unreadable, or changed.
        """


class _Store:
    """What all stores do alike: equal volumes are kept once and read once, every volume has a record.

    Attributes:
        records: by name: geometry, dtype, the volume's own name, SHA-256, and what a store needs besides.
        described_in: what errors call the place that the names come from.
    """

    suffix: ClassVar[str] = ""

    def __init__(self, records: dict[str, Json] | None = None, described_in: str = "the case") -> None:
        self.records: dict[str, Json] = {} if records is None else records
        self.described_in = described_in
        self._put: dict[Hashable, str] = {}
        self._got: dict[str, Volume] = {}

    def put(self, volume: Volume, path: str) -> str:
        """See :meth:`ImageStore.put`."""
        key = self._key(volume)
        if key not in self._put:
            name = path + self.suffix
            self.records[name] = self._record(volume) | self._write(volume, name)
            self._put[key] = name
        return self._put[key]

    def get(self, path: str) -> Volume:
        """See :meth:`ImageStore.get`."""
        if path not in self._got:
            if not path.endswith(self.suffix) or not _IMAGE.fullmatch(path.removesuffix(self.suffix)):
                raise StorageError(f"{self.described_in} names {path!r}, which is no image of a case")
            self._got[path] = self._load(path, self.records[path])
        return self._got[path]

    def _key(self, volume: Volume) -> Hashable:
        return volume.sha256, volume.name

    def _record(self, volume: Volume) -> Json:
        return {
            "geometry": volume.geometry.to_dict(),
            "dtype": volume.array.dtype.str,
            "name": volume.name,
            "sha256": volume.sha256,
        }

    def _write(self, volume: Volume, name: str) -> Json:
        raise NotImplementedError

    def _load(self, path: str, record: Json) -> Volume:
        raise NotImplementedError


class NiftiFolder(_Store):
    """Compressed NIfTI below a folder, checked by SHA-256 when read: the images of a saved case."""

    suffix = ".nii.gz"

    def __init__(self, folder: Path, records: dict[str, Json] | None = None, described_in: str | None = None) -> None:
        super().__init__(records, described_in or folder.name)
        self.folder = folder

    def _write(self, volume: Volume, name: str) -> Json:
        import SimpleITK as sitk

        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        native = volume.array.astype(volume.array.dtype.newbyteorder("="), copy=False)
        try:
            sitk.WriteImage(volume.with_array(native).to_sitk(), str(file), True)
        except RuntimeError as error:
            raise OSError(f"{name} cannot be written; is the disk full?") from error
        return {}

    def _load(self, path: str, record: Json) -> Volume:
        import SimpleITK as sitk

        file, said = self.folder / path, f"{self.folder.name}/{path}"
        if not file.is_file():
            raise StorageError(f"{said} is missing; restore the folder from a backup")
        try:
            array = sitk.GetArrayFromImage(sitk.ReadImage(str(file)))
        except RuntimeError as error:
            raise StorageError(f"{said} cannot be read as NIfTI; restore the folder from a backup") from error
        volume = _checked(array, record)
        if volume is None:
            raise StorageError(f"{said} is damaged or was changed since it was saved; restore the folder from a backup")
        return volume


class NpyFolder(_Store):
    """Raw arrays below a folder, memory-mapped when read: fast, for one machine and one sitting; no checksum."""

    suffix = ".npy"

    def __init__(self, folder: Path, records: dict[str, Json] | None = None) -> None:
        super().__init__(records, folder.name)
        self.folder = folder

    def _key(self, volume: Volume) -> Hashable:
        return id(volume), volume  # the volume itself, so that its id stays its own

    def _record(self, volume: Volume) -> Json:
        return {"geometry": volume.geometry.to_dict(), "name": volume.name}

    def _write(self, volume: Volume, name: str) -> Json:
        save_array(self.folder / name, volume.array)
        return {}

    def _load(self, path: str, record: Json) -> Volume:
        return Volume(load_array(self.folder / path), Geometry.from_dict(record["geometry"]), record["name"])


class Inline(_Store):
    """Images in the records themselves: the box of voxels that are not zero, compressed, as base64 text.

    Args:
        records: of an earlier store, to read from.
        described_in: what errors call the text.
        outside: asked by path; True leaves the voxels out, only the record is kept.
        given: gives an image that was left out, from its path and record.
    """

    def __init__(
        self, records: dict[str, Json] | None = None, described_in: str = "the text", *,
        outside: Callable[[str], bool] | None = None, given: Callable[[str, Json], Volume] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(records, described_in)
        self._outside, self._given = outside, given

    def _write(self, volume: Volume, name: str) -> Json:
        if self._outside is not None and self._outside(name):
            return {}
        box = _box(volume.array)
        data = _packed(volume.array[tuple(slice(a, b) for a, b in box)])
        return {"box": box, "data": base64.b64encode(zlib.compress(data, 1)).decode("ascii")}

    def _load(self, path: str, record: Json) -> Volume:
        if "data" not in record and self._given is not None:
            return self._given(path, record)
        damaged = StorageError(f"{self.described_in}: image {path} is damaged; take an earlier copy of the text")
        dtype, box = np.dtype(record["dtype"]), record["box"]
        array = np.zeros(Geometry.from_dict(record["geometry"]).shape, dtype)
        inside = array[tuple(slice(a, b) for a, b in box)]
        try:
            inside[...] = _unpacked(zlib.decompress(base64.b64decode(record["data"])), dtype, inside.shape)
        except (zlib.error, binascii.Error, ValueError) as error:
            raise damaged from error
        volume = _checked(array, record)
        if volume is None:
            raise damaged
        return volume


def _checked(array: NDArray[Any], record: Json) -> Volume | None:
    """The volume of a record, or None when its voxels are not those that were recorded."""
    geometry = Geometry.from_dict(record["geometry"])
    if array.shape != geometry.shape:
        return None
    volume = Volume(array.astype(np.dtype(record["dtype"]), copy=False), geometry, record["name"])
    return volume if volume.sha256 == record["sha256"] else None


def is_input(path: str) -> bool:
    """Whether a name is that of an input image (T2W, ADC, high-b), whichever state of a case it belongs to."""
    return path.rpartition("/")[0].endswith("images")


class GivenImages:
    """The input images of a case that was stored without them, taken from where they are now; for :class:`Inline`.

    Args:
        volumes: what is there, by role.
        opened: by role the grid that the image was opened on, as :meth:`Geometry.to_dict` gives it.
        records: of the store: where readers have shifted the image to.
    """

    def __init__(self, volumes: Mapping[Role, Volume], opened: Mapping[str, Json], records: Mapping[str, Json]) -> None:
        self.volumes: dict[str, Volume] = dict(volumes.items())
        self.places = {role: [Geometry.from_dict(place)] for role, place in opened.items()}
        for path, record in records.items():
            if is_input(path):
                self.places.setdefault(_role(path), []).append(Geometry.from_dict(record["geometry"]))

    def __call__(self, path: str, record: Json) -> Volume:
        """The image of a record, in the place, type and name that were recorded.

        Raises:
            StorageError: it is not there, lies elsewhere, or has other voxels.
        """
        role, label = _role(path), record["name"]
        name, volume = ROLE_NAMES[role], self.volumes.get(role)
        if volume is None:
            raise StorageError(f"{name}: the case was made with {label or 'an image'} and it is not here; choose it")
        said = f"{name}: {volume.name or 'the image chosen'}"
        if not any(volume.geometry.almost_equal(place) for place in self.places[role]):
            raise StorageError(
                f"{said} lies elsewhere than the image of the case ({label}); choose that one, or take back what moved "
                "or resampled it"
            )
        found = _checked(volume.array, record)
        if found is None:
            raise StorageError(f"{said} has other voxels than the image of the case ({label}); choose that one")
        return found


def _role(path: str) -> str:
    return path.rpartition("/")[2]


def _box(array: NDArray[Any]) -> list[list[int]]:
    """[start, stop] along each axis around all voxels whose bytes are not all zero."""
    # bytes and not values: -0.0 equals zero, and has to come back as it was
    there = array if array.dtype == bool else np.asarray((_as_bytes(array) != 0).any(-1))
    box = []
    for axis in range(array.ndim):
        found = np.flatnonzero(np.moveaxis(there, axis, 0).reshape(array.shape[axis], -1).any(1))
        box.append([int(found[0]), int(found[-1]) + 1] if found.size else [0, 0])
    return box


def _as_bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    """An array's bytes, one more axis at the end."""
    return np.ascontiguousarray(array).view(np.uint8).reshape(*array.shape, array.dtype.itemsize)


def _packed(array: NDArray[Any]) -> bytes:
    """Bits of a mask; otherwise all first bytes, then all second ones, ...: like bytes together compress better."""
    if array.dtype == bool:
        return np.packbits(array).tobytes()
    return np.moveaxis(_as_bytes(array), -1, 0).tobytes()


def _unpacked(data: bytes, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """The inverse of :func:`_packed`."""
    flat = np.frombuffer(data, np.uint8)
    if dtype.kind == "b":
        return np.unpackbits(flat, count=int(np.prod(shape))).reshape(shape).astype(bool)
    planes = np.moveaxis(flat.reshape(dtype.itemsize, *shape), 0, -1)
    return np.ascontiguousarray(planes).view(dtype).reshape(shape)


def save_array(file: Path, array: NDArray[Any]) -> None:
    """Write an array as ``.npy``; the file is there only once it is complete."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(f".{file.name}.new")
    with fresh.open("wb") as stream:
        np.save(stream, array, allow_pickle=False)
    fresh.replace(file)


def load_array(file: Path) -> NDArray[Any]:
    """A ``.npy`` file, memory-mapped and read-only.

    Raises:
        StorageError: missing or unreadable.
    """
    try:
        return np.asarray(np.load(file, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise StorageError(f"{file.name} cannot be read as an array ({type(error).__name__})") from error


# ---------------------------------------------------------------------------------------------------------- the codec


def study_to_json(study: Study, store: ImageStore, prefix: str = "") -> Json:
    """A study as plain values, without the patient's ID; its images go to ``store`` as ``<prefix>images/<role>``."""
    volumes = {role: study.volume(role) for role in study.roles}
    return {
        "name": study.name,
        "volumes": {r: store.put(v, f"{prefix}images/{r}") for r, v in volumes.items() if v is not None},
        "headers": {key: asdict(header) for key, header in study.headers.items()},
        "choices": [asdict(choice) for choice in study.choices],
        "notes": list(study.notes),
        "study_uid": study.study_uid,
        "study_date": study.study_date,
        "psa": study.psa,
        "orthogonal_t2w": list(study.orthogonal_t2w),
        "dce_frames": study.dce_frames,
        "inputs": [asdict(record) for record in study.inputs],
    }


def study_from_json(data: Json, store: ImageStore) -> Study:
    """The inverse of :func:`study_to_json`; raises as ``store.get``."""
    volumes = {role: store.get(path) for role, path in data["volumes"].items()}
    headers = {key: _header(header) for key, header in data["headers"].items()}
    return Study(
        name=data["name"], t2w=volumes.get("t2w"), adc=volumes.get("adc"), hbv=volumes.get("hbv"), headers=headers,
        choices=tuple(SeriesChoice(**{**c, "alternatives": tuple(c["alternatives"])}) for c in data["choices"]),
        notes=tuple(data["notes"]), study_uid=data["study_uid"], study_date=data["study_date"], psa=data["psa"],
        orthogonal_t2w=tuple(data["orthogonal_t2w"]), dce_frames=data["dce_frames"],
        inputs=tuple(InputRecord(**record) for record in data["inputs"]),
    )  # fmt: skip


def _header(data: Json) -> AcquisitionHeader:
    tuples: Json = {name: tuple(data[name]) for name in _TUPLES if data[name] is not None}
    return AcquisitionHeader(**{**data, **tuples})


def explanation_to_json(explanation: Explanation, store: ImageStore, prefix: str = "") -> Json:
    """An explanation as plain values, without its study; images go to ``store`` under ``prefix``."""
    data = explanation.to_dict()
    data["lesions"] = lesions_to_json(explanation.lesions, store, f"{prefix}regions")
    data["images"] = {
        "zones": store.put(explanation.zones, f"{prefix}zones"),
        "lesion_probability": store.put(explanation.lesion_probability, f"{prefix}lesion_probability"),
    }
    return data


def explanation_from_json(data: Json, store: ImageStore, study: Study) -> Explanation:
    """The inverse of :func:`explanation_to_json`, of this study; its evidence has no fields yet."""
    gland = data["gland"]
    provenance = Provenance.from_dict(data["provenance"])
    threshold = provenance.thresholds.get("suspicion")
    lesions = (
        replace(x, suspicion=replace(x.suspicion, threshold=threshold))
        if x.suspicion is not None and x.suspicion.threshold is None else x  # of before a region knew it
        for x in lesions_from_json(data["lesions"], store)
    )  # fmt: skip
    return Explanation(
        study=study,
        zones=store.get(data["images"]["zones"]),
        lesion_probability=store.get(data["images"]["lesion_probability"]),
        lesions=tuple(lesions),
        dropped=tuple(Dropped(**{**d, "center": tuple(d["center"])}) for d in data["dropped"]),
        evidence=EvidenceMaps({}, study.frame.geometry, data["evidence"]["threshold"]),
        gland=None if gland is None else measure.GlandSize.from_dict(gland),
        quality=tuple(QualityFlag.from_dict(flag) for flag in data["quality"]),
        flags=tuple(f for f in data["flags"] if not f.startswith(DISAGREEMENT)),
        provenance=provenance,
    )


def lesions_to_json(lesions: Iterable[Lesion], store: ImageStore, folder: str) -> list[Json]:
    """Regions as plain values; their masks go to ``store`` as ``<folder>/<number>``."""
    return [x.to_dict() | {"mask": store.put(x.mask, f"{folder}/{x.number}")} for x in lesions]


def lesions_from_json(data: Iterable[Mapping[str, Any]], store: ImageStore) -> tuple[Lesion, ...]:
    """The inverse of :func:`lesions_to_json`."""
    return tuple(Lesion.from_dict(one, store.get(one["mask"])) for one in data)
