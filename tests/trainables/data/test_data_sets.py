"""Splits, and images that are decoded once."""

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from tests.trainables.pictures import encoded, picture, write_parquet
from trainables.config import trial as c
from trainables.config.errors import UserError
from trainables.data import images as data


def parquet(root: Path, **values: object) -> c.Data:
    return c.Data(name="parquet", root=root, **{"validation_images": 2, **values})  # type: ignore[arg-type]


def all_pixels(images: data.Images) -> np.ndarray:
    return images.pixels[images.rows].numpy()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twelve training images in two files, four for tests."""
    folder = tmp_path / "set" / "data"
    write_parquet(
        folder / "train-00000-of-00002.parquet", [encoded(picture(i)) for i in range(7)], [i % 3 for i in range(7)]
    )
    write_parquet(
        folder / "train-00001-of-00002.parquet",
        [encoded(picture(i)) for i in range(7, 12)],
        [i % 3 for i in range(7, 12)],
    )
    write_parquet(folder / "test-00000-of-00001.parquet", [encoded(picture(i)) for i in range(100, 104)], [0, 1, 2, 0])
    return tmp_path / "set"


def rows(images: data.Images) -> set[int]:
    return set(images.rows.tolist())


def test_digits_are_those_of_scikit_learn():
    """Their file is read without scikit-learn, whose import takes a second of each worker's start."""
    before = "import sys; from trainables.data import images; from trainables.config import trial as c; "
    code = before + "images.load(c.Data(), 'train').pixels.sum(); print('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
    known, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    expected = np.round(known * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    test = data.load(c.Data(), "test")
    assert np.array_equal(all_pixels(test).reshape(-1, 8, 8), expected[order[1438:]])
    assert np.array_equal(test.labels.numpy(), labels[order[1438:]])


def test_splits_of_digits_are_disjoint_whole_and_fixed():
    train, validation, test = (data.load(c.Data(), split) for split in ("train", "validation", "test"))
    assert rows(train) & rows(validation) == set() and rows(train) | rows(validation) == set(range(1438))
    assert (len(train), len(validation), len(test)) == (1295, 143, 359)
    assert torch.equal(data.load(c.Data(), "validation").rows, validation.rows)
    assert rows(data.load(c.Data(split_seed=1), "validation")) != rows(validation)
    assert train.pixels.dtype == torch.uint8 and train.channels == 1
    every = [image.tobytes() for split in (train, validation, test) for image in all_pixels(split)]
    assert (
        len(every) == 1797 and len(set(every)) > 1790
    )  # scikit-learn's set has a few twins, none of them made by the splits


def test_labels_go_with_their_images():
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    answers = {
        np.round(image * (255 / 16)).astype(np.uint8).tobytes(): label
        for image, label in zip(images, labels, strict=True)
    }
    for split in ("train", "validation", "test"):
        loaded = data.load(c.Data(), split)
        assert [answers[image.tobytes()] for image in all_pixels(loaded)] == loaded.labels.tolist()


def test_limits_leave_the_validation_images_where_they_are():
    free = data.load(c.Data(validation_images=50), "validation")
    limited = c.Data(validation_images=50, train_images=30)
    assert torch.equal(data.load(limited, "validation").rows, free.rows) and len(free) == 50
    assert len(data.load(limited, "train")) == 30
    assert rows(data.load(limited, "train")) & rows(free) == set()
    with pytest.raises(
        UserError, match="train_images = 1450, .*validation_images = 50: the train split has 1438 images"
    ):
        data.load(c.Data(validation_images=50, train_images=1450), "train")


def test_a_batch_is_scaled_to_1_and_channels_last(root: Path):
    train = data.load(parquet(root), "train")
    index = torch.tensor([3, 0, 3])
    batch = train.batch(index, torch.device("cpu"), torch.float64)
    expected = all_pixels(train)[[3, 0, 3]].transpose(0, 3, 1, 2) / 255
    np.testing.assert_allclose(batch.numpy(), expected, rtol=1e-15)
    assert batch.is_contiguous(memory_format=torch.channels_last)


def test_parquet_files_are_read_in_order(root: Path):
    train, validation = (data.load(parquet(root), split) for split in ("train", "validation"))
    assert len(train) == 10 and len(validation) == 2
    for split in (train, validation):
        for row, pixels, label in zip(split.rows.tolist(), all_pixels(split), split.labels.tolist(), strict=True):
            assert np.array_equal(pixels, picture(row)) and label == row % 3
    test = data.load(parquet(root), "test")
    assert np.array_equal(all_pixels(test), [picture(i) for i in range(100, 104)]) and test.labels.tolist() == [
        0,
        1,
        2,
        0,
    ]


def test_the_cache_is_read_and_the_images_are_not(root: Path, cache: Path):
    """The second load meets a file of the same size and time, but without images in it."""
    first = all_pixels(data.load(parquet(root), "train"))
    made = {path: path.stat().st_mtime_ns for path in cache.rglob("*.u8")}
    for path in (root / "data").glob("train-*"):
        stat = path.stat()
        path.write_bytes(bytes(stat.st_size))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert np.array_equal(all_pixels(data.load(parquet(root, validation_images=2), "train")), first)
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.u8")} == made and len(made) == 1


def test_the_cache_is_renewed_when_a_file_changes(root: Path):
    before = data.load(parquet(root), "train")
    write_parquet(root / "data" / "train-00001-of-00002.parquet", [encoded(picture(i)) for i in range(57, 62)], [2] * 5)
    after = data.load(parquet(root), "train")
    changed = {
        row: not np.array_equal(a, b)
        for row, a, b in zip(after.rows.tolist(), all_pixels(before), all_pixels(after), strict=True)
    }
    assert changed == {row: row >= 7 for row in changed}
    write_parquet(root / "data" / "train-00002-of-00002.parquet", [encoded(picture(5))], [0])
    assert len(data.load(parquet(root), "train")) == 11


def test_what_is_changed_in_memory_does_not_reach_the_cache(root: Path):
    train = data.load(parquet(root), "train")
    train.pixels.zero_()
    assert data.load(parquet(root), "train").pixels.any()


def test_processes_that_load_at_once_make_one_cache(root: Path, cache: Path):
    write_parquet(
        root / "data" / "train-00001-of-00002.parquet", [encoded(picture(i, 48, 48)) for i in range(120)], [0] * 120
    )
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(3), context.SimpleQueue()

    def work() -> None:
        barrier.wait()
        results.put(hash(all_pixels(data.load(parquet(root, image_size=48), "train")).tobytes()))

    workers = [context.Process(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert len({results.get() for _ in workers}) == 1
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 1


@pytest.mark.parametrize("damage", [b"", b"no image at all", encoded(picture(0, 40, 40))[:-900]])
def test_damaged_images_are_refused_by_name_and_leave_no_cache(root: Path, cache: Path, damage):
    path = root / "data" / "train-00001-of-00002.parquet"
    write_parquet(path, [encoded(picture(1)), damage], [0, 1])
    with pytest.raises(UserError, match="not an image that can be decoded") as caught:
        data.load(parquet(root), "train")
    assert str(path) in str(caught.value)
    assert not [entry for entry in cache.iterdir() if entry.is_dir()]
    write_parquet(path, [encoded(picture(1))], [0])
    assert len(data.load(parquet(root), "train")) == 6


def test_a_damaged_parquet_file(root: Path):
    path = root / "data" / "train-00001-of-00002.parquet"
    path.write_bytes(b"PAR1 nothing")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        data.load(parquet(root), "train")


def test_a_parquet_file_that_was_damaged_inside(root: Path):
    path = root / "data" / "train-00001-of-00002.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:4] + bytes(len(content) // 2) + content[4 + len(content) // 2 :])
    with pytest.raises(UserError) as caught:
        data.load(parquet(root), "train")
    assert str(path) in str(caught.value)


def test_parquet_files_without_rows(tmp_path: Path):
    write_parquet(tmp_path / "train-0.parquet", [], [])
    with pytest.raises(UserError, match="no images"):
        data.load(parquet(tmp_path), "train")


def test_parquet_columns_that_do_not_fit(tmp_path: Path):
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"], "label": [1]}), tmp_path / "train-0.parquet")
    with pytest.raises(UserError, match=r"needs a column struct<bytes, path>.*it has text \(string\), label \(int64\)"):
        data.load(parquet(tmp_path), "train")


@pytest.mark.parametrize("files", [1, 2])
def test_images_of_different_sizes_need_a_size(tmp_path: Path, files):
    pictures = [encoded(picture(0, 6, 6)), encoded(picture(1, 6, 8)), encoded(picture(2, 6, 6))]
    if files == 1:
        write_parquet(tmp_path / "train-0.parquet", pictures, [0, 1, 2])
    else:
        write_parquet(tmp_path / "train-0.parquet", pictures[:1], [0])
        write_parquet(tmp_path / "train-1.parquet", pictures[1:2], [1])
    with pytest.raises(UserError, match="^data.image_size: must be given"):
        data.load(parquet(tmp_path, validation_images=1), "train")
    sized = data.load(parquet(tmp_path, validation_images=1, image_size=4), "train")
    assert sized.pixels.shape[1:] == (4, 4, 3)


def test_image_size_cuts_the_centre_and_has_its_own_cache(tmp_path: Path):
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 200
    tall = wide.transpose(1, 0, 2)
    write_parquet(
        tmp_path / "train-0.parquet",
        [encoded(wide), encoded(tall), encoded(np.full((8, 8, 3), 77, np.uint8))],
        [0, 1, 2],
    )
    same, small = (data.load(parquet(tmp_path, image_size=size), "train").pixels for size in (8, 4))
    assert same.shape == (3, 8, 8, 3) and small.shape == (3, 4, 4, 3)
    assert (same[:2] == 200).all() and (same[2] == 77).all()
    assert (small[:2, 1:3, 1:3].int() - 200).abs().max() <= 8 and (small[2] == 77).all()


def test_grey_images_become_rgb(tmp_path: Path):
    grey = np.arange(36, dtype=np.uint8).reshape(6, 6)
    write_parquet(tmp_path / "train-0.parquet", [encoded(grey)] * 3, [0, 1, 2])
    train = data.load(parquet(tmp_path), "train")
    assert np.array_equal(all_pixels(train)[0], np.repeat(grey[:, :, None], 3, axis=2))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split, names in {"train": ["cat", "dog", "bee"], "val": ["cat", "dog"]}.items():
        for name in names:
            (tmp_path / "tree" / split / name).mkdir(parents=True)
            for i in range(3):
                (tmp_path / "tree" / split / name / f"{i}.png").write_bytes(
                    encoded(picture(len(split) + 10 * len(name) + i))
                )
    (tmp_path / "tree" / "train" / "cat" / "notes.txt").write_text("no image")
    return tmp_path / "tree"


def tree(root: Path, **values: object) -> c.Data:
    return c.Data(name="imagefolder", root=root, **{"validation_images": 1, **values})  # type: ignore[arg-type]


def test_image_folders_number_their_classes_by_name(folder: Path):
    stored = [data.load(tree(folder), split) for split in ("train", "validation")]
    labels = {
        row: label for split in stored for row, label in zip(split.rows.tolist(), split.labels.tolist(), strict=True)
    }
    assert [labels[row] for row in range(9)] == [0] * 3 + [1] * 3 + [2] * 3
    assert data.load(tree(folder), "test").labels.tolist() == [1] * 3 + [2] * 3


def test_a_new_class_renumbers_the_test_images_too(folder: Path):
    assert data.load(tree(folder), "test").labels.tolist() == [1] * 3 + [2] * 3
    (folder / "train" / "ant").mkdir()
    (folder / "train" / "ant" / "0.png").write_bytes(encoded(picture(3)))
    assert data.load(tree(folder), "test").labels.tolist() == [2] * 3 + [3] * 3


def test_a_change_that_leaves_the_size_is_seen_too(folder: Path):
    path = folder / "val" / "cat" / "0.bmp"
    seen = []
    for age, grey in enumerate((10, 200)):
        Image.fromarray(np.full((6, 6, 3), grey, np.uint8)).save(path)
        os.utime(path, ns=(age, age))
        seen.append((path.stat().st_size, all_pixels(data.load(tree(folder), "test"))[0].max()))
    assert seen == [(seen[0][0], 10), (seen[0][0], 200)]


def test_image_folders_refuse_what_they_cannot_use(folder: Path):
    (folder / "val" / "emu").mkdir()
    (folder / "val" / "emu" / "0.png").write_bytes(encoded(picture(3)))
    with pytest.raises(UserError, match="test has classes that train lacks: emu"):
        data.load(tree(folder), "test")
    bad = folder / "train" / "cat" / "1.png"
    bad.write_bytes(b"GIF89a")
    with pytest.raises(UserError, match="not an image") as caught:
        data.load(tree(folder), "train")
    assert str(bad) in str(caught.value)
    bad.write_bytes(encoded(picture(3, 6, 9)))
    with pytest.raises(UserError, match="^data.image_size"):
        data.load(tree(folder), "train")
    assert data.load(tree(folder, image_size=5), "train").pixels.shape[1:] == (5, 5, 3)


def test_incomplete_downloads_are_a_users_error(tmp_path: Path):
    for name, unpacked in (
        ("cifar10", "cifar-10-batches-py"),
        ("cifar100", "cifar-100-python"),
        ("stl10", "stl10_binary"),
    ):
        with pytest.raises(UserError, match=r"holds no folder .* set data.download=true"):
            (tmp_path / "x").touch()
            data.load(c.Data(name=name, root=tmp_path), "train")
        (tmp_path / unpacked).mkdir()
        (tmp_path / unpacked / "data_batch_1").write_bytes(b"half a file")
        with pytest.raises(UserError, match="data.root"):
            data.load(c.Data(name=name, root=tmp_path), "train")


def test_the_cache_says_its_shape(root: Path, cache: Path):
    data.load(parquet(root), "train")
    (stored,) = (path for path in cache.iterdir() if path.is_dir())
    assert json.loads((stored / "shape.json").read_text()) == [12, 6, 6, 3]
    assert (stored / "images.u8").stat().st_size == 12 * 6 * 6 * 3
