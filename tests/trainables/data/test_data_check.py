"""Mistakes in the data are found by a look at a sample, with key and rule, before anything starts; sound data pass."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from tests.trainables.pictures import encoded, numbered, picture, write_folders, write_parquet, write_parquets
from trainables.config import trial as c
from trainables.config.data import facts
from trainables.config.errors import UserError
from trainables.data import check as data_check
from trainables.data import files
from trainables.data import images as data
from trainables.data.check import check_data
from trainables.data.sets.base import Encoded, EncodedSet, data_set
from trainables.data.sets.base_torchvision import TorchvisionSet
from trainables.data.sets.imagefolder import ImageFiles

SMALL: dict[str, Any] = {"train": {"batch_size": 4, "shard_size": 2}}


def trial(name: str, root: Path, **values: Any) -> c.TrialConfig:
    return c.parse({**SMALL, "data": {"name": name, "root": str(root), "validation_images": 4, **values}})


def refusal(name: str, root: Path, **values: Any) -> str:
    with pytest.raises(UserError) as caught:
        check_data(trial(name, root, **values))
    return str(caught.value)


def encoded_of(data: c.Data) -> Encoded:
    """The train images of a data set of files."""
    reader = data_set(data)
    assert isinstance(reader, EncodedSet)
    return reader.encoded("train")


def folders(root: Path, count: int = 40) -> Path:
    """Forty pictures of 6 x 6 in four classes, and eight to test with."""
    for i in range(count + 8):
        path = root / ("train" if i < count else "test") / f"n{i % 4:02d}" / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(i)))
    return root


def test_sound_data_pass(tmp_path: Path):
    check_data(trial("imagefolder", folders(tmp_path / "folders")))
    write_folders(tmp_path / "sized", 40)
    check_data(trial("imagefolder", tmp_path / "sized", image_size=6))
    write_parquets(tmp_path / "parquet", [23, 17], 5)
    for streamed in (False, True):
        check_data(trial("parquet", tmp_path / "parquet", image_size=6, streamed=streamed, labels={"per_class": 3}))


@pytest.mark.parametrize("place", [0, 17, 39])
def test_one_image_of_another_size(tmp_path: Path, place: int):
    path = sorted(folders(tmp_path).glob("train/*/*"))[place]
    path.write_bytes(encoded(picture(0, 9, 12)))
    said = refusal("imagefolder", tmp_path)
    assert said.startswith(
        f"data.image_size: must be given, such as 6, for the images of '{tmp_path}' differ in size: "
    )
    assert f"12x9 ({path})" in said and "6x6 (" in said
    check_data(trial("imagefolder", tmp_path, image_size=6))


@pytest.mark.parametrize("place", [0, 17, 39])
@pytest.mark.parametrize("damage", [b"", b"no image at all", "half"])
def test_one_image_that_cannot_be_decoded(tmp_path: Path, place: int, damage: bytes | str):
    path = sorted(folders(tmp_path).glob("train/*/*"))[place]
    path.write_bytes(path.read_bytes()[:90] if damage == "half" else damage)  # type: ignore[arg-type]
    for size in (None, 6):
        assert (
            refusal("imagefolder", tmp_path, image_size=size)
            == f"data.root = '{tmp_path}': {path}: not an image that can be decoded"
        )


@pytest.mark.parametrize("row", [0, 39])
def test_parquet_images_at_fault(tmp_path: Path, row: int):
    images: list[bytes] = [encoded(picture(i)) for i in range(40)]
    for image, said in (
        (b"no image", "not an image that can be decoded"),
        (encoded(picture(0, 9, 9)), "data.image_size: must be given"),
    ):
        write_parquet(
            tmp_path / "train-0.parquet",
            [*images[:row], image, *images[row + 1 :]],
            [i % 4 for i in range(40)],
            group=8,
        )
        text = refusal("parquet", tmp_path)
        assert said in text and f"{tmp_path / 'train-0.parquet'}, row {row}" in text and text.startswith("data.")


def test_folders_in_another_layout(tmp_path: Path):
    folders(tmp_path / "a")
    assert f"holds no images train/<class>/<image>; {tmp_path / 'a/train'} holds n00/, n01/, n02/, n03/" in refusal(
        "imagefolder", tmp_path / "a/train"
    ).replace(f"{tmp_path / 'a/train'} holds no", "holds no")
    (tmp_path / "b" / "train").mkdir(parents=True)
    (tmp_path / "b" / "train" / "1.png").write_bytes(encoded(picture(1)))
    assert f"{tmp_path / 'b/train'} holds 1.png" in refusal("imagefolder", tmp_path / "b")
    (tmp_path / "a" / "train" / "n09").mkdir()
    said = refusal("imagefolder", tmp_path / "a")
    assert (
        said.startswith(f"data.root = '{tmp_path / 'a'}': train/n09 holds no images (.bmp, .jpeg")
        and "data.classes" in said
    )
    check_data(trial("imagefolder", tmp_path / "a", classes=["n01", "n02"]))
    (tmp_path / "a" / "train" / "n09").rename(tmp_path / "a" / "train" / ".cache")
    check_data(trial("imagefolder", tmp_path / "a"))
    assert "holds no train-*.parquet; it holds test/, train/" in refusal("parquet", tmp_path / "a")
    assert "holds no folder 'cifar-10-batches-py', but test/, train/; set data.download=true" in refusal(
        "cifar10", tmp_path / "a"
    )


def column(kind: str) -> pyarrow.Array:
    bytes_and_path = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    return {
        "image": pyarrow.array([{"bytes": encoded(picture(i)), "path": None} for i in range(40)], bytes_and_path),
        "binary": pyarrow.array([encoded(picture(i)) for i in range(40)]),
        "integer": pyarrow.array([i % 4 for i in range(40)]),
        "text": pyarrow.array([f"class {i % 4}" for i in range(40)]),
    }[kind]


@pytest.mark.parametrize(
    ("columns", "has"),
    [
        ({"label": "integer"}, "it has label (int64)"),
        ({"image": "image"}, "it has image (struct<bytes: binary, path: string>)"),
        ({"image": "image", "label": "text"}, "label (string)"),
        ({"image": "binary", "label": "integer"}, "image (binary), label (int64)"),
    ],
)
def test_parquet_columns(tmp_path: Path, columns: dict[str, str], has: str):
    """Also where the first file is sound."""
    write_parquet(tmp_path / "train-0.parquet", [encoded(picture(i)) for i in range(40)], [i % 4 for i in range(40)])
    path = tmp_path / "train-1.parquet"
    pyarrow.parquet.write_table(pyarrow.table({name: column(kind) for name, kind in columns.items()}), path)
    said = refusal("parquet", tmp_path)
    assert said.startswith(
        f"data.root = '{tmp_path}': {path}: needs a column struct<bytes, path> of images "
        "and an integer column of labels"
    )
    assert has in said
    path.write_bytes(b"PAR1 nothing")
    assert refusal("parquet", tmp_path) == f"data.root = '{tmp_path}': {path}: not a readable Parquet file"


def labelled_parquet(root: Path, labels: list[int | None]) -> Path:
    write_parquet(root / "train-0.parquet", [encoded(picture(i)) for i in range(len(labels))], labels)
    return root


def test_labels_that_are_no_classes(tmp_path: Path):
    root = labelled_parquet(tmp_path, [*range(39), 1_700_000_000])
    assert refusal("parquet", root) == (
        f"data.root = '{root}': a train image has label 1700000000; classes are numbered from 0, "
        "and there are only 40 images"
    )
    check_data(
        trial("parquet", labelled_parquet(tmp_path, [i % 4 + 900 for i in range(40)]))
    )  # a few classes of ImageNet
    assert "data.validation_images = 4: only 3 labelled train images are there" in refusal(
        "parquet", labelled_parquet(tmp_path, [0, 1, 2] + [None] * 37)
    )


def test_one_class_is_enough_only_where_nothing_is_scored_by_it(tmp_path: Path):
    root = labelled_parquet(tmp_path, [3] * 30 + [None] * 10)
    assert (
        refusal("parquet", root)
        == f"data.root = '{root}': all train images are of one class; scores by labels need two classes"
    )
    config = trial("parquet", root)
    alone = {"evaluation.protocols": ["label_free"]}
    check_data(c.changed(config.plain(), alone))
    with pytest.raises(UserError, match="one class"):
        check_data(c.changed(config.plain(), {**alone, "method": {"name": "mean_teacher", "images_per_label": 1}}))
    folders(tmp_path / "folders")
    assert refusal("imagefolder", tmp_path / "folders", classes=["n01"]).startswith(
        "data.classes = [n01]: all train images are of one class"
    )


@pytest.mark.parametrize("name", ["imagefolder", "parquet"])
def test_labels_of_some_are_refused_where_a_trial_would_refuse_them(tmp_path: Path, name: str):
    """And passed where it would not: what is left of each class depends on which images are held out."""
    folders(tmp_path / "imagefolder")
    write_parquet(
        tmp_path / "parquet" / "train-0.parquet", [encoded(picture(i)) for i in range(40)], [i % 4 for i in range(40)]
    )
    answers = []
    for count in range(1, 12):
        for train_images in (None, 30):
            given = trial(
                name, tmp_path / name, labels={"per_class": count}, validation_images=8, train_images=train_images
            )
            images = data.load(given.data, "bank")
            answers.append([refused(check_data, given), refused(data.labelled, images, given.data.labels)])
    assert all(early == late for early, late in answers)
    assert [True, True] in answers and [False, False] in answers


def refused(act: Callable[..., Any], *arguments: Any) -> bool:
    try:
        act(*arguments)
    except UserError as error:
        return "data.labels.per_class" in str(error)
    return False


def test_files_of_labels(tmp_path: Path):
    folders(tmp_path / "set")
    file = tmp_path / "list.txt"
    for text, said in (
        ("000.png\n999.png\n", "1 of 2 are no train images, such as '999.png'"),
        ("n00/000.png\nn00/004.png\n40\n", "1 of 3 are no train images, such as '40'"),
        ("39\n40\n", "there is no image 40, the train split has 40"),
        ("9" * 5000, "there is no image 999999999999999999..."),
        ("\n", "must hold an index on each line"),
    ):
        file.write_text(text)
        assert (
            refusal("imagefolder", tmp_path / "set", labels={"file": str(file)})
            == f"data.labels.file = '{file}': {said}"
        )
    file.write_text("n00/000.png\n001.png\n")
    check_data(trial("imagefolder", tmp_path / "set", labels={"file": str(file)}))
    file.write_text("\n".join(map(str, range(30))))
    said = refusal("imagefolder", tmp_path / "set", labels={"file": str(file)}, train_images=25)
    assert said == f"data.labels.file = '{file}': 5 of 30 are no labelled training images"
    for line, said in (("1438", "there is no image 1438, the train split has 1438"), ("cat", "'cat' must be an index")):
        file.write_text(line)
        with pytest.raises(UserError, match=f"^data.labels.file = '{file}': {said}"):
            check_data(c.parse({"data": {"labels": {"file": str(file)}}}))


def test_more_labels_than_a_set_of_known_size_can_have():
    with pytest.raises(
        UserError, match=r"^data.labels.per_class = 130: 10 classes have only 1295 training images together$"
    ):
        check_data(c.parse({"data": {"labels": {"per_class": 130}}}))
    check_data(c.parse({"data": {"labels": {"per_class": 120}}}))


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "stl10"])
def test_downloads_that_are_not_whole(tmp_path: Path, name: str):
    reader = facts(name)
    assert issubclass(reader, TorchvisionSet)
    folder = tmp_path / reader.FOLDER
    folder.mkdir()
    for file, size in reader.LEAST.items():
        (folder / file).touch()
        with (folder / file).open("ab") as opened:
            opened.truncate(size)
    check_data(trial(name, tmp_path))
    last, size = list(reader.LEAST.items())[-1]
    with (folder / last).open("ab") as opened:
        opened.truncate(size - 1)
    state = f"is not whole ({size - 1} bytes of at least {size})"
    assert (
        refusal(name, tmp_path)
        == f"data.root = '{tmp_path}': {reader.FOLDER}/{last} {state}; set data.download=true to fetch it"
    )
    (folder / last).unlink()
    assert f"{reader.FOLDER}/{last} is missing" in refusal(name, tmp_path)
    check_data(trial(name, tmp_path, download=True))


def test_a_sample_is_small_spread_and_of_every_size_of_set(tmp_path: Path):
    for count in (1, 2, 3, 31, 33, 700):
        shutil.rmtree(tmp_path / "set", ignore_errors=True)
        shutil.rmtree(tmp_path / "parquet", ignore_errors=True)
        for i in range(count):
            path = tmp_path / "set" / "train" / f"n{i % 2}" / f"{i:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(numbered(i))
        write_parquet(
            tmp_path / "parquet" / "train-0.parquet",
            [numbered(i) for i in range(count)],
            [i % 2 for i in range(count)],
            group=30,
        )
        for name, root in (("imagefolder", tmp_path / "set"), ("parquet", tmp_path / "parquet")):
            found = encoded_of(c.Data(name=name, root=root, image_size=6))
            places = [where for bunch in found.sample() for _, where in bunch]
            assert len(places) == len(set(places)) <= 576 and (count > 500 or len(places) == count)
            assert {found.read(0)[1], found.read(count - 1)[1]} <= set(places)
            for bunch in found.sample():
                for image, where in bunch:
                    assert any(found.read(row) == (image, where) for row in range(count)) if count < 40 else image


def test_a_large_row_group_is_not_read_as_a_whole(tmp_path: Path):
    """Its pages are read until there is enough."""
    noise = np.random.default_rng(0)
    images = [noise.bytes(30_000) for _ in range(1000)]
    image = pyarrow.array([{"bytes": one} for one in images], pyarrow.struct([("bytes", pyarrow.binary())]))
    table = pyarrow.table({"image": image, "label": [i % 4 for i in range(1000)]})
    pyarrow.parquet.write_table(table, tmp_path / "train-0.parquet", row_group_size=1000, write_batch_size=32)
    found = encoded_of(c.Data(name="parquet", root=tmp_path, image_size=6))
    before = read_so_far()
    (bunch,) = found.sample()
    assert [image for image, _ in bunch] == images[:48]
    assert read_so_far() - before < 6_000_000


def read_so_far() -> int:
    """Bytes that this process has read from files."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_a_slow_disc_is_looked_at_for_a_short_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folders(tmp_path, 400)
    monkeypatch.setattr(data_check, "SECONDS", 0.2)
    read, count = ImageFiles.read, 0

    def slowly(self: Any, row: int) -> tuple[bytes, str]:
        nonlocal count
        count += 1
        time.sleep(0.01)
        return read(self, row)

    monkeypatch.setattr(ImageFiles, "read", slowly)
    check_data(trial("imagefolder", tmp_path))
    assert count <= 20 + 13  # and the bunch that was begun


@pytest.mark.parametrize(("count", "parts"), [(0, 5), (1, 5), (2, 5), (5, 5), (9, 5), (10**6, 32)])
def test_a_spread_begins_with_both_ends(count: int, parts: int):
    places = files.spread(count, parts)
    assert len(set(places)) == len(places) == min(count, parts)
    assert places[:2] == sorted({0, count - 1})[:count]
    assert np.diff(sorted(places)).max(initial=0) <= -(-count // max(1, parts - 1))
