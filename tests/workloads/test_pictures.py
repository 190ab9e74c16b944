from __future__ import annotations

import gzip
import pickle
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import InputError, StoreError
from harness.workloads import waiting_for
from harness.workloads.pictures import Pictures, load

IMAGES = np.arange(5 * 4 * 6, dtype=np.uint8).reshape(5, 4, 6)
LABELS = np.array([0, 2, 1, 2, 0], np.uint8)


def idx(folder: Path, images: bytes | None = None, labels: bytes | None = None, end: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    images = struct.pack(">4I", 0x803, *IMAGES.shape) + IMAGES.tobytes() if images is None else images
    labels = struct.pack(">2I", 0x801, len(LABELS)) + LABELS.tobytes() if labels is None else labels
    for name, content in (("train-images-idx3-ubyte", images), ("train-labels-idx1-ubyte", labels)):
        (folder / f"{name}{end}").write_bytes(gzip.compress(content) if end else content)
    return folder


def picture(path: Path, pixels: Any, mode: str | None = None) -> Path:
    image = pytest.importorskip("PIL.Image").fromarray(np.asarray(pixels))
    path.parent.mkdir(parents=True, exist_ok=True)
    (image.convert(mode) if mode else image).save(path)
    return path


def read(source: Path | None, tmp_path: Path, size: int = 4) -> Pictures:
    found = load(source, cache=tmp_path / "cache", size=size)
    assert not found.path.exists()
    found.store()
    return pickle.loads(pickle.dumps(found))


def refusal(source: Path | None, tmp_path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load(source, cache=tmp_path / "cache", size=4)
    assert not (tmp_path / "cache").exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


GREY, RED = np.full((9, 7), 100, np.uint8), np.full((3, 5, 3), (200, 0, 100), np.uint8)


# -- what is read


def test_the_digits_of_scikit_learn_need_no_source(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    found = read(None, tmp_path)
    assert (len(found), found.classes, found.size, found.channels) == (1797, 10, (8, 8), 1)
    assert found.description == "scikit-learn's digits, 1,797 pictures of 10 classes"
    samples = found.samples(range(1797), 8, 1)
    assert (samples.shape, samples.dtype, samples.min(), samples.max()) == ((1797, 1, 8, 8), np.float32, 0, 1)
    assert found.labels_of([0, 1, 2]).tolist() == [0, 1, 2]


@pytest.mark.parametrize("end", ["", ".gz"])
def test_files_of_mnists_format_are_read(tmp_path: Path, end: str) -> None:
    found = read(idx(tmp_path / "mnist", end=end), tmp_path)
    assert (len(found), found.classes, found.size, found.channels) == (5, 3, (4, 6), 1)
    assert found.labels_of(range(5)).tolist() == LABELS.tolist()
    assert np.array_equal(np.load(found.path / "pixels.npy")[..., 0], IMAGES)


def test_the_hash_is_of_the_content_however_it_is_packed(tmp_path: Path) -> None:
    one, other = idx(tmp_path / "a"), idx(tmp_path / "b", end=".gz")
    (one / "train-images-idx3-ubyte").rename(one / "train-images.idx3-ubyte")
    found = read(one, tmp_path)
    assert found.data_id == load(other, cache=tmp_path, size=9).data_id
    labels = struct.pack(">2I", 0x801, 5) + bytes([0, 1, 2, 0, 1])
    assert load(idx(tmp_path / "c", labels=labels), cache=tmp_path, size=4).data_id != found.data_id


def test_a_folder_has_a_sub_folder_for_each_class(tmp_path: Path) -> None:
    picture(tmp_path / "data" / "roses" / "deep" / "a.png", RED)
    picture(tmp_path / "data" / "lilies" / "b.BMP", GREY)
    picture(tmp_path / "data" / "lilies" / "a.png", (GREY.astype(np.uint16) << 8) + 5)
    picture(tmp_path / "data" / ".hidden" / "a.png", GREY)
    (tmp_path / "data" / "roses" / "notes.txt").write_text("no picture")
    (tmp_path / "data" / "empty").mkdir()
    found = read(tmp_path / "data", tmp_path)
    assert (len(found), found.classes, found.size, found.channels) == (3, 2, (4, 4), 3)
    assert found.labels_of(range(3)).tolist() == [0, 0, 1]
    pixels = np.load(found.path / "pixels.npy")
    assert (pixels[:2] == 100).all()
    assert (pixels[2] == (200, 0, 100)).all()
    assert load(tmp_path / "data", cache=tmp_path, size=5).data_id != found.data_id


def test_samples_are_brought_to_size_and_channels(tmp_path: Path) -> None:
    picture(tmp_path / "data" / "a" / "a.png", RED)
    picture(tmp_path / "data" / "b" / "b.jpg", np.full((3, 3, 3), 255, np.uint8))
    colour, grey = read(tmp_path / "data", tmp_path), read(idx(tmp_path / "mnist"), tmp_path)
    assert np.allclose(colour.samples([0], 7, 1), 100 / 255)
    assert np.allclose(colour.samples([0], 2, 3)[0, :, 1, 1], np.array([200, 0, 100]) / 255)
    three = grey.samples([1, 1, 0], 5, 3)
    assert three.shape == (3, 3, 5, 5)
    assert (three[:, 0] == three[:, 2]).all()
    assert (three[:1] == grey.samples([1], 5, 3)).all()
    with pytest.raises(InputError, match="pictures have 1 or 3 channels, but the model takes 4"):
        grey.samples([0], 5, 4)


def test_a_draw_does_not_depend_on_which_others_are_asked_for(tmp_path: Path) -> None:
    found = load(idx(tmp_path / "mnist"), cache=tmp_path, size=4)
    every = found.chosen(3, range(50), 1)
    assert found.chosen(3, [7, 2], 1).tolist() == every[[7, 2]].tolist()
    assert set(every.tolist()) == set(range(5))


def test_arrays_that_are_there_are_kept_and_damaged_ones_are_replaced(tmp_path: Path) -> None:
    found, told = load(idx(tmp_path / "mnist"), cache=tmp_path / "cache", size=4), []
    with waiting_for.told(lambda what, done, total, unit: told.append(done)):
        found.store()
        found.store()
        assert told == [5]
        before = found.samples([0], 4, 1)
        (found.path / "pixels.npy").write_bytes(b"x")
        found.store()
    assert told == [5, 5]
    assert (found.samples([0], 4, 1) == before).all()
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.name[0] != "."] == [found.path.name]


FULL = """
import resource, sys
from pathlib import Path
from harness.errors import StoreError
from harness.workloads import waiting_for
from harness.workloads.pictures import load
found = load(Path(sys.argv[1]), cache=Path(sys.argv[2]), size=64)
resource.setrlimit(resource.RLIMIT_FSIZE, (2_500_000, 2_500_000))
try:
    found.store()
except StoreError as error:
    print(error)
"""


def test_a_full_disk_is_said_and_with_more_room_the_work_goes_on(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (1000, 64, 64)).astype(np.uint8)
    images = struct.pack(">4I", 0x803, *pixels.shape) + pixels.tobytes()
    folder = idx(tmp_path / "mnist", images, struct.pack(">2I", 0x801, 1000) + bytes(n % 3 for n in range(1000)))
    found = load(folder, cache=tmp_path / "cache", size=64)
    command = [sys.executable, "-c", FULL, str(folder), str(tmp_path / "cache")]
    run = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    assert run.stdout == f"{found.path}.partial cannot be written: File too large\n"
    told: list[int] = []
    with waiting_for.told(lambda what, done, total, unit: told.append(done)):
        found.store()
    assert told == [768, 1000]  # 256 pictures are 1 MiB, and two of these were on the disk
    assert (np.load(found.path / "pixels.npy")[..., 0] == pixels).all()


# -- what is refused


@pytest.mark.parametrize(
    ("images", "labels", "problem"),
    [
        (struct.pack(">4I", 0x803, 5, 4, 6) + b"x" * 119, None, "idx3-ubyte is truncated: it ends 1 bytes or more too"),
        (struct.pack(">4I", 0x803, 5, 4, 6) + b"x" * 121, None, "has more than the 5 items that it begins with"),
        (b"\0\0", None, "idx3-ubyte is truncated"),
        (
            struct.pack(">4I", 0x801, 5, 4, 6),
            None,
            "must begin with the number 0x803 of MNIST's format, but begins with",
        ),
        (struct.pack(">4I", 0x803, 0, 4, 6), None, "idx3-ubyte is empty: its shape is (0, 4, 6)"),
        (None, struct.pack(">2I", 0x801, 3) + b"\0\1\2", "has 5 pictures, but"),
        (None, struct.pack(">2I", 0x801, 5) + b"\1" * 5, "mnist has pictures of one class only"),
    ],
)
def test_damaged_files_of_mnists_format_are_refused(
    tmp_path: Path, images: bytes | None, labels: bytes | None, problem: str
) -> None:
    assert problem in refusal(idx(tmp_path / "mnist", images, labels), tmp_path)


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    folder = idx(tmp_path / "mnist", end=".gz")
    path = folder / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    for content in (whole[:-9], b"no archive"):
        path.write_bytes(content)
        assert f"{path} is truncated or damaged" in refusal(folder, tmp_path)


def test_one_file_of_mnists_format_is_not_enough(tmp_path: Path) -> None:
    folder = idx(tmp_path / "mnist")
    (folder / "train-labels-idx1-ubyte").unlink()
    assert "needs train-labels-idx1-ubyte beside it" in refusal(folder, tmp_path)


def test_folders_that_hold_no_classes_are_refused(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    assert f"{data} has no pictures: it must have a sub-folder for each class" in refusal(data, tmp_path)
    picture(data / "train" / "a.png", GREY)
    picture(data / "test" / "a.png", GREY)
    assert f"holds test, train rather than classes; give {data / 'test'}" in refusal(data, tmp_path)
    picture(tmp_path / "one" / "lilies" / "a.png", GREY)
    assert "one has pictures of one class only; a classifier needs two or more" in refusal(tmp_path / "one", tmp_path)
    assert "a.png is a file" in refusal(tmp_path / "one" / "lilies" / "a.png", tmp_path)
    assert "cannot be read" in refusal(tmp_path / "none", tmp_path)


def test_a_broken_picture_is_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8)
    data, broken = tmp_path / "data", picture(tmp_path / "data" / "lilies" / "a.png", noise)
    picture(data / "roses" / "a.png", GREY)
    whole = broken.read_bytes()
    broken.write_bytes(b"no picture")
    assert f"{broken} is a broken picture (" in refusal(data, tmp_path)
    broken.write_bytes(whole[:200])  # the header is fine
    with pytest.raises(InputError, match=rf"{broken} is a broken picture \(.* take it out of the folder"):
        load(data, cache=tmp_path / "cache", size=4).store()
    assert [path for path in (tmp_path / "cache").iterdir() if path.name[0] != "."] == []


def test_without_pillow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "data" / "a" / "a.png", GREY)
    picture(tmp_path / "data" / "b" / "a.png", GREY)
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert "pip install 'distributed-harness[images]'" in refusal(tmp_path / "data", tmp_path)


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "in-the-way").write_text("")
    with pytest.raises(StoreError, match="in-the-way cannot be written"):
        load(idx(tmp_path / "mnist"), cache=tmp_path / "in-the-way", size=4).store()
