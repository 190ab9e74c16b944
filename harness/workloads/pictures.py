"""Pictures and their classes: scikit-learn's digits, files of MNIST's format, or a folder of one sub-folder a class.

`load` reads and checks without writing anything; `Pictures.store` then writes the arrays that the ranks map.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import math
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from harness.errors import InputError, StoreError
from harness.workloads import waiting_for, whole
from harness.workloads.appended import Appended
from harness.workloads.cnn import SIDE, load_digits
from harness.workloads.data import counter_hash
from harness.workloads.rows import existing, visible

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
"""Of the files that are taken for pictures."""
_GREY = {"1", "L", "LA", "I", "I;16", "I;16B"}
"""Pillow's modes without colours."""
_SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing", "dev"}
_IMAGES_MAGIC, _LABELS_MAGIC = 0x803, 0x801
PIXELS = "pixels.npy"
_AT_ONCE = 2**20
"""Bytes of pixels that are read at a time, at least one picture."""

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Source:
    """What `Pictures.store` writes, in the process that read it."""

    labels: npt.NDArray[np.int64]
    """`[n]`."""
    pictures: Callable[[int], Iterator[Pixels]]
    """Pixels from that picture on, in order, some whole pictures at a time, each `[some, height, width, channels]`."""


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Pictures of one size with their classes. Pickles as a reference to its folder, which exists once `store` ran."""

    path: Path
    """The folder of pixels.npy `[n, height, width, channels]` uint8 and labels.npy `[n]` int64."""
    data_id: str
    """16 hexadecimal digits, a hash of what the pictures were read from and of their size."""
    n_pictures: int
    """How many they are."""
    classes: int
    """0 <= label < classes."""
    size: tuple[int, int]
    """Height and width in pixels."""
    channels: int
    """1 for grey, 3 for red, green and blue."""
    description: str
    """For people, such as "flowers, 3,670 pictures of 5 classes"."""
    source: Source | None = field(default=None, repr=False, compare=False)
    """What to store, in the process that read it; None in every other."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "source": None}

    def __len__(self) -> int:
        return self.n_pictures

    def chosen(self, step: int, indices: npt.ArrayLike, seed: int) -> npt.NDArray[np.int64]:
        """The pictures of the samples with these indices in a step, `[len(indices)]`, drawn with replacement."""
        return (counter_hash(seed, step, indices) % np.uint64(len(self))).astype(np.int64)

    def samples(self, chosen: npt.ArrayLike, size: int, channels: int) -> npt.NDArray[np.float32]:
        """These pictures, `[len(chosen), channels, size, size]`, from 0 to 1.

        Another size is interpolated linearly between pixels, averaged over them where it is smaller; grey is repeated
        for 3 channels, and 3 channels are averaged for 1.

        Raises:
            InputError: neither 1 nor 3 channels are asked for.
        """
        import torch
        from torch.nn import functional as F

        if channels not in (1, 3):
            raise InputError(f"pictures have 1 or 3 channels, but the model takes {channels}; choose another model")
        pixels = torch.from_numpy(_mapped(self.path / PIXELS)[np.asarray(chosen, np.int64)])
        images = pixels.permute(0, 3, 1, 2).float() / 255
        if channels < self.channels:
            images = images.mean(1, keepdim=True)
        if self.size != (size, size):
            images = F.interpolate(images, (size, size), mode="bilinear", align_corners=False, antialias=True)
        return np.ascontiguousarray(images.expand(-1, channels, -1, -1).numpy())

    def labels_of(self, chosen: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Their classes, `[len(chosen)]`."""
        return np.asarray(_mapped(self.path / "labels.npy")[np.asarray(chosen, np.int64)])

    def store(self) -> None:
        """Write the arrays, whole or not at all; those that are already there are kept, and what a process did until it
        was killed is not done again.

        Raises:
            InputError: a picture is broken.
            StoreError: the folder cannot be written.
        """
        if self.source is not None:
            source = self.source
            whole.fill(self.path, self._is_whole, lambda partial: self._write(partial, source))

    @property
    def _shape(self) -> tuple[int, int, int, int]:
        return (len(self), *self.size, self.channels)

    def _write(self, partial: Path, source: Source) -> None:
        whole.write(partial / "labels.npy", lambda file: np.save(file, source.labels, allow_pickle=False))
        files = Appended(partial, [PIXELS])
        if not files.size(PIXELS):
            header = io.BytesIO()
            shape = {"descr": "|u1", "fortran_order": False, "shape": self._shape}
            np.lib.format.write_array_header_1_0(header, shape)
            files.append(PIXELS, header.getvalue())
        # Appended rather than written to a map: where a disk is full, that would kill the process.
        for some in source.pictures(files.rows):
            files.append(PIXELS, some.tobytes())
            files.done(len(some))
            waiting_for.tell(self.description.partition(",")[0], files.rows, len(self), "pictures")

    def _is_whole(self) -> bool:
        try:
            pixels, labels = _open(self.path / PIXELS), _open(self.path / "labels.npy")
        except (OSError, ValueError):
            return False
        return pixels.shape == self._shape and labels.shape == (len(self),)


def load(source: Path | None, *, cache: Path, size: int) -> Pictures:
    """Read and check pictures. Nothing is written: call `store` on the result before ranks start.

    Args:
        source: a folder with the two files of MNIST's format (https://yann.lecun.org/exdb/mnist), called
            train-images-idx3-ubyte and train-labels-idx1-ubyte, or the same with .gz; or with a sub-folder for each
            class, classes sorted by name; None for scikit-learn's digits.
        cache: folder in which `store` will keep the arrays.
        size: height and width in pixels to which pictures of a folder are brought, whatever their proportions; others
            keep their own size.

    Raises:
        InputError: pictures or a package are missing, files are damaged or disagree, or there is but one class.
    """
    if source is None:
        return _digits(cache)
    folder = existing(source, "data")
    if not folder.is_dir():
        raise InputError(f"pictures must be a folder with a sub-folder for each class, but {folder} is a file")
    images, labels = _idx_file(folder, "train-images", 3), _idx_file(folder, "train-labels", 1)
    if images is not None and labels is not None:
        return _idx(folder, images, labels, cache)
    if images is not None or labels is not None:
        missing = "train-labels-idx1-ubyte" if labels is None else "train-images-idx3-ubyte"
        raise InputError(f"{images or labels} needs {missing} beside it, which is not in {folder}")
    return _folder(folder, cache, size)


def _digits(cache: Path) -> Pictures:
    digits = load_digits()
    pixels = np.frombuffer(digits.pixels, np.uint8).reshape(-1, SIDE, SIDE, 1)
    scaled = np.round(pixels * (255 / 16)).astype(np.uint8)  # they go from 0 to 16
    found = Source(
        labels=np.frombuffer(digits.labels, np.uint8).astype(np.int64),
        pictures=lambda first: iter([scaled[first:]]),
    )
    return _pictures(cache, f"digits {digits.data_id}", found, (SIDE, SIDE), 1, "scikit-learn's digits")


def _pictures(cache: Path, identity: str, source: Source, size: tuple[int, int], channels: int, label: str) -> Pictures:
    classes = int(source.labels.max()) + 1
    if len(np.unique(source.labels)) < 2:
        raise InputError(f"{label} has pictures of one class only; a classifier needs two or more")
    data_id = hashlib.sha256(f"{identity} {size} {channels}".encode()).hexdigest()[:16]
    n = len(source.labels)
    return Pictures(
        path=cache.absolute() / f"pictures-{data_id}",
        data_id=data_id,
        n_pictures=n,
        classes=classes,
        size=size,
        channels=channels,
        description=f"{label}, {n:,} pictures of {classes} classes",
        source=source,
    )


# -- MNIST's format


def _idx_file(folder: Path, name: str, dimensions: int) -> Path | None:
    names = [f"{name}{dot}idx{dimensions}-ubyte{gz}" for dot in "-." for gz in ("", ".gz")]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _idx(folder: Path, images: Path, labels: Path, cache: Path) -> Pictures:
    (n, height, width), pixels_hash, _ = _checked_idx(images, _IMAGES_MAGIC, 3)
    (n_labels,), labels_hash, found = _checked_idx(labels, _LABELS_MAGIC, 1)
    if n != n_labels:
        raise InputError(f"{images} has {n} pictures, but {labels} has {n_labels} labels; take both from one data set")
    source = Source(
        labels=np.frombuffer(found, np.uint8).astype(np.int64),
        pictures=lambda first: (
            np.frombuffer(piece, np.uint8).reshape(-1, height, width, 1) for piece in _idx_pieces(images, 3, first)
        ),
    )
    return _pictures(cache, f"idx {pixels_hash} {labels_hash}", source, (height, width), 1, folder.resolve().name)


def _checked_idx(path: Path, magic: int, dimensions: int) -> tuple[tuple[int, ...], str, bytes]:
    """(shape, hash of shape and content, content if it is one-dimensional) of a file in MNIST's format."""
    with _opened(path) as file:
        found, *shape = _numbers(path, file, 1 + dimensions)
    if found != magic:
        raise InputError(f"{path} must begin with the number {magic:#x} of MNIST's format, but begins with {found:#x}")
    if not math.prod(shape):
        raise InputError(f"{path} is empty: its shape is {tuple(shape)}")
    digest, kept = hashlib.sha256(str(shape).encode()), b""
    for piece in _idx_pieces(path, dimensions):
        digest.update(piece)
        kept += piece if dimensions == 1 else b""
    return tuple(shape), digest.hexdigest(), kept


def _idx_pieces(path: Path, dimensions: int, first: int = 0) -> Iterator[bytes]:
    """The content from that item on, some whole items at a time."""
    with _opened(path) as file:
        _, n, *item = _numbers(path, file, 1 + dimensions)
        item_bytes = math.prod(item)
        at_once = max(1, _AT_ONCE // item_bytes)
        file.seek(first * item_bytes, io.SEEK_CUR)
        for at in range(first, n, at_once):
            yield _exactly(path, file, min(at_once, n - at) * item_bytes)
        if _read(path, file, 1):
            raise InputError(f"{path} has more than the {n} items that it begins with; download it again")


def _opened(path: Path) -> BinaryIO:
    try:
        return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]  # as readable
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None


def _numbers(path: Path, file: BinaryIO, n: int) -> tuple[int, ...]:
    return struct.unpack(f">{n}I", _exactly(path, file, 4 * n))


def _exactly(path: Path, file: BinaryIO, size: int) -> bytes:
    found = _read(path, file, size)
    if len(found) < size:
        raise InputError(f"{path} is truncated: it ends {size - len(found)} bytes or more too early; download it again")
    return found


def _read(path: Path, file: BinaryIO, size: int) -> bytes:
    try:
        return file.read(size)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} is truncated or damaged ({error}); download it again") from None


# -- folders


def _folder(folder: Path, cache: Path, size: int) -> Pictures:
    if size < 1:
        raise InputError(f"the size of pictures must be at least 1 pixel, but got {size}")
    classes = {sub.name: _files(sub) for sub in sorted(folder.iterdir()) if sub.is_dir() and sub.name[0] != "."}
    classes = {name: files for name, files in classes.items() if files}
    if not classes:
        raise InputError(
            f"{folder} has no pictures: it must have a sub-folder for each class, "
            f"with files ending in {', '.join(SUFFIXES)}"
        )
    if classes.keys() <= _SPLITS:
        raise InputError(
            f"{folder} holds {', '.join(classes)} rather than classes; give {folder / next(iter(classes))}"
        )
    files = [file for found in classes.values() for file in found]
    digest, channels = hashlib.sha256(), 1
    for file in files:
        digest.update(f"{file.relative_to(folder).as_posix()}\0".encode(errors="surrogateescape"))
        digest.update(_content_hash(file))
        channels = max(channels, 1 if _opened_picture(file).mode in _GREY else 3)
    source = Source(
        labels=np.repeat(np.arange(len(classes)), [len(found) for found in classes.values()]).astype(np.int64),
        pictures=lambda first: _resized_together(files[first:], size, channels),
    )
    return _pictures(cache, f"folder {digest.hexdigest()}", source, (size, size), channels, folder.resolve().name)


def _files(folder: Path) -> list[Path]:
    return [file for file in visible(folder) if file.suffix.lower() in SUFFIXES]


def _content_hash(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None


def _opened_picture(path: Path) -> Any:
    """A picture of which only the header was read."""
    try:
        from PIL import Image
    except ImportError:
        raise InputError(
            "a folder of pictures needs the package Pillow: pip install 'distributed-harness[images]'"
        ) from None
    try:
        with Image.open(path) as image:
            return image
    except Exception as error:  # every decoder has exceptions of its own
        raise _broken(path, error) from None


def _resized(path: Path, size: int, channels: int) -> Pixels:
    """`[size, size, channels]`."""
    from PIL import Image

    try:
        with Image.open(path) as opened:
            image: Image.Image = opened
            if image.mode.startswith("I"):  # 16 bits, which a conversion would cut rather than scale
                image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
            converted = image.convert("L" if channels == 1 else "RGB")
            pixels = np.asarray(converted.resize((size, size), Image.Resampling.BILINEAR))
    except Exception as error:  # every decoder has exceptions of its own
        raise _broken(path, error) from None
    return pixels.reshape(size, size, channels)


def _resized_together(files: Sequence[Path], size: int, channels: int) -> Iterator[Pixels]:
    at_once = max(1, _AT_ONCE // (size * size * channels))
    for at in range(0, len(files), at_once):
        yield np.stack([_resized(file, size, channels) for file in files[at : at + at_once]])


def _broken(path: Path, error: Exception) -> InputError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return InputError(f"{path} is a broken picture ({reason}); replace it or take it out of the folder")


def _open(path: Path) -> npt.NDArray[Any]:
    # Maps plain numbers and refuses pickled objects, so reading a file can run nothing that is in it.
    return np.lib.format.open_memmap(path, mode="r").view(np.ndarray)


def _mapped(path: Path) -> npt.NDArray[Any]:
    return _mapped_as(path, whole.version(path))


@functools.lru_cache(maxsize=16)
def _mapped_as(path: Path, version: tuple[int, ...]) -> npt.NDArray[Any]:
    try:
        return _open(path)
    except (OSError, ValueError) as error:
        raise StoreError(
            f"the prepared data {path} cannot be read ({error}); remove {path.parent} and run again"
        ) from None
