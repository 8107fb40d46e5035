"""Which images are learnt from, which of them have labels, and which classes there are."""

import hashlib
import io
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import STL10

from tests.trainables.pictures import encoded, numbered, picture, write_folders, write_parquet, write_parquets
from trainables.config import trial as c
from trainables.config.errors import UserError
from trainables.data import files
from trainables.data import images as data
from trainables.data.check import check_data
from trainables.data.sets.stl10 import STL10 as StoredSTL10
from trainables.evaluation import subject
from trainables.learning.learner import Learner
from trainables.networks.group import Group
from trainables.running import checkpoint, preparation, scoring
from trainables.running import fit as train

CPU = torch.device("cpu")


@pytest.fixture
def stl10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files as torchvision unpacks them, of 30 train, 10 test and 50 unlabelled images, with their checksums."""
    folder, draws = tmp_path / "stl" / "stl10_binary", np.random.default_rng(0)
    folder.mkdir(parents=True)
    counts = {"train": 30, "test": 10, "unlabeled": 50}
    written = {
        f"{name}_X.bin": draws.integers(0, 256, (count, 3, 96, 96), dtype=np.uint8) for name, count in counts.items()
    }
    written |= {f"{name}_y.bin": (np.arange(counts[name]) % 3 + 1).astype(np.uint8) for name in ("train", "test")}
    sums = {}
    for name, content in written.items():
        content.tofile(folder / name)
        sums[name] = hashlib.md5(content.tobytes()).hexdigest()
    for attribute in ("train_list", "test_list"):
        monkeypatch.setattr(STL10, attribute, [[name, sums[name]] for name, _ in getattr(STL10, attribute)])
    return tmp_path / "stl"


def stl(root: Path, **values: Any) -> c.Data:
    return c.Data(**{"name": "stl10", "root": root, "validation_images": 6, **values})


def pixels(images: data.Images) -> np.ndarray:
    return images.pixels[images.rows].numpy()


def stored(root: Path, name: str) -> np.ndarray:
    """The images of one of STL-10's files [n, H, W, 3]; they are stored column by column."""
    return np.fromfile(root / "stl10_binary" / f"{name}_X.bin", np.uint8).reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1)


def test_stl10_has_an_unlabelled_split(stl10: Path):
    train_, bank, validation, test = data.splits(stl(stl10), "train", "bank", "validation", "test")
    assert train_ is bank and (len(train_), len(validation), len(test)) == (24, 6, 10)
    learnt, other_bank, other_validation = data.splits(
        stl(stl10, train_split="unlabelled"), "train", "bank", "validation"
    )
    assert (
        len(learnt) == 50 and (learnt.labels == -1).all() and np.array_equal(pixels(learnt), stored(stl10, "unlabeled"))
    )
    assert (
        torch.equal(other_bank.rows, bank.rows)
        and torch.equal(other_bank.labels, bank.labels)
        and (bank.labels >= 0).all()
    )
    assert np.array_equal(pixels(other_bank), stored(stl10, "train")[bank.rows]) and torch.equal(
        bank.labels, bank.rows % 3
    )
    assert torch.equal(other_validation.rows, validation.rows) and not set(validation.rows.tolist()) & set(
        bank.rows.tolist()
    )


def test_both_are_the_train_images_less_validation_and_the_unlabelled_ones(stl10: Path):
    both, bank, validation = data.splits(stl(stl10, train_split="both"), "train", "bank", "validation")
    every = np.concatenate([stored(stl10, "train"), stored(stl10, "unlabeled")])
    assert set(both.rows.tolist()) == set(range(80)) - set(validation.rows.tolist())
    assert np.array_equal(pixels(both), every[both.rows])
    assert torch.equal(both.labels, torch.where(both.rows < 30, both.rows % 3, -1))
    assert torch.equal(both.rows[data.labelled(both, c.Labels())], bank.rows)
    few = data.load(stl(stl10, train_split="both", train_images=20), "train")
    assert len(few) == 20 and set(few.rows.tolist()) < set(both.rows.tolist()) and 0 < (few.labels < 0).sum() < 20
    assert len(data.load(stl(stl10, train_split="unlabelled", train_images=7), "bank")) == 24


def test_more_unlabelled_images_than_there_are(stl10: Path, tmp_path: Path):
    whole = tmp_path / "whole" / "stl10_binary"
    whole.mkdir(parents=True)
    for name, size in StoredSTL10.LEAST.items():  # files without content
        (whole / name).touch()
        os.truncate(whole / name, size)
    for split, there in (("unlabelled", 50), ("both", 74)):
        with pytest.raises(UserError, match=f"data.train_images = 75: data.train_split = {split} has {there} images"):
            data.load(stl(stl10, train_split=split, train_images=75), "train")
        wanted = {"name": "stl10", "root": str(whole.parent), "train_split": split, "train_images": 104_501}
        with pytest.raises(UserError, match=f"data.train_images = 104501: data.train_split = {split} has 10"):
            check_data(c.parse({"data": wanted}))
    check_data(
        c.parse(
            {"data": {"name": "stl10", "root": str(whole.parent), "train_split": "unlabelled", "train_images": 100_000}}
        )
    )
    with pytest.raises(UserError, match=r"validation_images = 30: the train split has 30 images for both"):
        data.load(stl(stl10, train_split="both", validation_images=30), "train")


def test_a_trial_learns_from_unlabelled_images_and_is_scored_with_labelled_ones(
    stl10: Path, tiny, tmp_path: Path, monkeypatch
):
    own = {"name": "stl10", "root": str(stl10), "train_split": "unlabelled", "train_images": 16, "validation_images": 6}
    short = {"train.epochs": 1, "train.batch_size": 8, "train.channels_last": False, "evaluation.linear.epochs": 1}
    config = tiny({"data": own, **short})
    sizes, encode = [], subject.encode

    def noting(parts: Any, images: data.Images, *others: Any) -> torch.Tensor:
        sizes.append((len(images), int(images.labels.min())))
        return encode(parts, images, *others)

    monkeypatch.setattr(subject, "encode", noting)
    (metrics,) = train.fit(config, tmp_path / "trial", lambda metrics: "on")
    assert metrics["step"] == 2 and sizes == [(24, 0), (6, 0)]
    found = checkpoint.newest(tmp_path / "trial")
    assert found is not None
    scores, judged, _ = scoring.evaluate(found, "test", ["linear"])
    assert judged.classes == 3 and 0 <= scores["linear_top1"] <= 1 and sizes[2:] == [(24, 0), (10, 0)]


def test_what_is_learnt_from_and_scored_with_is_one_object_where_it_is_the_same(tmp_path: Path, tiny):
    for device in (CPU, torch.device("meta")):
        learnt, bank, validation = preparation.load_sets(tiny().data, "validation", device)
        assert learnt is bank and validation is not bank
        assert learnt.pixels.device == device


@pytest.mark.parametrize("name", ["digits", "cifar10", "cifar100", "imagefolder", "parquet"])
def test_a_set_without_unlabelled_images_says_so(name):
    for split in ("unlabelled", "both"):
        with pytest.raises(
            UserError, match=f"^data.train_split = {split}: '{name}' has no unlabelled split; stl10 has one$"
        ):
            c.parse({"data": {"name": name, "root": "x", "train_split": split}})


def test_parquet_images_without_a_label_are_learnt_from_alone(tmp_path: Path):
    labels = [None if i % 4 == 3 else -1 if i == 0 else i % 4 for i in range(40)]
    write_parquet(tmp_path / "train-0.parquet", [encoded(picture(i)) for i in range(40)], labels, group=6)
    write_parquet(tmp_path / "test-0.parquet", [encoded(picture(i)) for i in range(5)], [-1] * 5)
    write_parquet(tmp_path / "validation-0.parquet", [encoded(picture(i)) for i in range(50, 54)], [0, 1, 2, 1])
    for streamed in (False, True):
        given = c.Data(name="parquet", root=tmp_path, image_size=6, validation_images=8, streamed=streamed)
        learnt, bank, validation, test = data.splits(given, "train", "bank", "validation", "test")
        assert len(learnt) == 32 and (learnt.labels < 0).sum() == 11 and (validation.labels >= 0).all()
        assert (
            set(bank.rows.tolist()) == {row for row in learnt.rows.tolist() if row % 4 != 3 and row != 0}
            and len(bank) == 21
        )
        assert test.labels.tolist() == [
            0,
            1,
            2,
            1,
        ]  # ImageNet's test images have no labels: those of validation are scored
        assert set(learnt.labels[data.labelled(learnt, c.Labels(per_class=3))].tolist()) == {0, 1, 2}
    write_parquet(tmp_path / "validation-0.parquet", [encoded(picture(1))] * 2, [1, None])
    with pytest.raises(UserError, match="some test images have no label"):
        data.load(c.Data(name="parquet", root=tmp_path), "test")
    (tmp_path / "validation-0.parquet").unlink()
    with pytest.raises(UserError, match=r"holds no test-\*.parquet with labels"):
        data.load(c.Data(name="parquet", root=tmp_path), "test")
    with pytest.raises(UserError, match="data.validation_images = 30: only 29 labelled train images"):
        data.load(c.Data(name="parquet", root=tmp_path, validation_images=30), "validation")


# labels of some


def test_labels_of_each_class_are_so_many_and_follow_their_seed_alone(digits):
    chosen = data.labelled(digits, c.Labels(per_class=3))
    assert digits.labels[chosen].bincount().tolist() == [3] * 10 and torch.equal(chosen, chosen.unique())
    assert torch.equal(data.labelled(digits, c.Labels(per_class=3)), chosen)
    assert not torch.equal(data.labelled(digits, c.Labels(per_class=3, seed=1)), chosen)
    with pytest.raises(UserError, match=r"^data.labels.per_class = 12: class \d has only \d+ training images$"):
        data.labelled(digits, c.Labels(per_class=12))


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 1.0])
def test_a_share_is_taken_of_each_class(share):
    images = data.load(c.Data(), "train")
    counts = images.labels[data.labelled(images, c.Labels(share=share))].bincount()
    assert counts.tolist() == [max(1, round(share * int(count))) for count in images.labels.bincount()]
    assert torch.equal(data.labelled(images, c.Labels()), torch.arange(len(images)))


def test_images_without_any_label(digits):
    with pytest.raises(UserError, match="^data.labels: no training image has a label$"):
        data.labelled(data.Images(digits.pixels, digits.rows, torch.full((64,), -1)), c.Labels(per_class=1))


def listed(tmp_path: Path, *lines: object) -> c.Labels:
    (tmp_path / "list.txt").write_text("\n".join(map(str, lines)) + "\n\n")
    return c.Labels(file=tmp_path / "list.txt")


def test_a_file_of_indices_counts_in_the_stored_split_also_after_a_move(tmp_path: Path, digits):
    wanted = digits.rows[[3, 40, 7]].tolist()
    for lines in (wanted, ["Index", *wanted], [*wanted, wanted[0]]):
        labels = listed(tmp_path, *lines)
        assert data.labelled(digits, labels).tolist() == [3, 7, 40]
    moved = digits.to(torch.device("meta"))
    assert moved.pixels.device.type == "meta" and len(moved.pixels) == 64
    assert data.labelled(moved, labels).tolist() == [3, 7, 40]
    part = moved.part(torch.tensor([7, 40, 3]))
    assert torch.equal(part.rows, digits.rows[[7, 40, 3]]) and data.labelled(part, labels).tolist() == [0, 1, 2]


def test_validation_takes_no_image_that_a_file_names(tmp_path: Path):
    before = data.splits(c.Data(validation_images=50), "train", "validation")
    names = [*before[1].rows[:20].tolist(), *before[0].rows[:10].tolist()]
    labels = listed(tmp_path, *names)
    given = c.Data(validation_images=50, labels=labels)
    after = data.splits(given, "train", "validation")
    assert sorted(after[0].rows[data.labelled(after[0], labels)].tolist()) == sorted(names)
    assert len(after[1]) == 50 and len(after[0]) == 1388 and not set(after[1].rows.tolist()) & set(names)
    assert set(before[1].rows[20:].tolist()) < set(after[1].rows.tolist())
    few = data.load(given.model_copy(update={"train_images": 35}), "train")
    assert len(data.labelled(few, labels)) == 30  # they are kept before others
    with pytest.raises(UserError, match="5 of 30 are no labelled training images"):
        data.labelled(data.load(given.model_copy(update={"train_images": 25}), "train"), labels)
    with pytest.raises(
        UserError, match="data.validation_images = 1409: only 1408 labelled train images are not in data.labels.file"
    ):
        data.load(given.model_copy(update={"validation_images": 1409}), "train")


def test_a_file_of_names_is_found_in_a_folder(tmp_path: Path):
    write_folders(tmp_path / "set", 40)
    lines = {
        "n01_005.JPEG": 11,
        "n01/n01_009.JPEG": 12,
        "n03_003.JPEG": 30,
    }  # the names of ten images each are sorted in four folders
    labels = listed(tmp_path, *lines)
    for streamed in (False, True):
        given = c.Data(
            name="imagefolder",
            root=tmp_path / "set",
            image_size=6,
            validation_images=20,
            streamed=streamed,
            labels=labels,
        )
        learnt, validation = data.splits(given, "train", "validation")
        found = data.labelled(learnt, labels)
        assert learnt.rows[found].tolist() == sorted(lines.values()) and learnt.labels[found].tolist() == [1, 1, 3]
        expected = [files.decode(numbered(i), 6, "") for i in (5, 9, 3)]
        assert np.array_equal(learnt.pixels[learnt.rows[found]].numpy(), expected)
        assert not set(validation.rows.tolist()) & set(lines.values())
        learnt.close()


def test_files_of_labels_that_do_not_fit(tmp_path: Path, digits):
    for lines, said in (
        (["12", "cat"], r"'cat' must be an index; these images have no names"),
        (["-1"], "'-1' must be an index"),
        ([], "must hold an index on each line"),
        (["Index"], "must hold an index on each line"),
        ([1438], "there is no image 1438, the train split has 1438"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            data.load(c.Data(labels=listed(tmp_path, *lines)), "train")
        assert str(tmp_path / "list.txt") in str(caught.value)
    for content in (None, b"\xff\xfe\x00"):
        (tmp_path / "list.txt").unlink()
        if content:
            (tmp_path / "list.txt").write_bytes(content)
        with pytest.raises(UserError, match="data.labels.file = .*: cannot be read"):
            data.labelled(digits, c.Labels(file=tmp_path / "list.txt"))
        with pytest.raises(UserError, match="^data.labels.file = .*: cannot be read"):
            check_data(c.parse({"data": {"labels": {"file": str(tmp_path / "list.txt")}}}))
        (tmp_path / "list.txt").touch()
    write_folders(tmp_path / "set", 8)
    shutil.copy(tmp_path / "set/train/n00/n00_000.JPEG", tmp_path / "set/train/n01/n00_000.JPEG")
    for line, said in (
        ("n00_000.JPEG", "'n00_000.JPEG' names several images; write n01/n00_000.JPEG"),
        ("x.JPEG", "1 of 1 .* 'x.JPEG'"),
    ):
        with pytest.raises(UserError, match=said):
            data.load(
                c.Data(name="imagefolder", root=tmp_path / "set", image_size=6, labels=listed(tmp_path, line)), "train"
            )


# classes


def test_classes_of_folders_are_chosen_and_renumbered(tmp_path: Path):
    write_folders(tmp_path, 40)
    (tmp_path / "list.txt").write_text("n03\nn01\n\n")
    every = c.Data(name="imagefolder", root=tmp_path, image_size=6, validation_images=4)
    before = data.load(every, "test")
    for chosen in (["n03", "n01"], str(tmp_path / "list.txt")):
        for streamed in (False, True):
            given = c.Data(**{**every.model_dump(), "classes": chosen, "streamed": streamed, "labels": c.Labels()})
            learnt, validation, test = data.splits(given, "train", "validation", "test")
            assert sorted(torch.cat([learnt.labels, validation.labels]).tolist()) == [0] * 10 + [1] * 10
            for row, label in zip(learnt.rows.tolist(), learnt.labels.tolist(), strict=True):
                number = 4 * (row % 10) + (1, 3)[label]
                assert label == row // 10 and np.array_equal(
                    learnt.pixels[torch.tensor([row])][0], files.decode(numbered(number), 6, "")
                )
            assert len(test) == 4 and sorted(test.labels.tolist()) == [0, 0, 1, 1]
            assert c.parse({"data": given.model_dump(mode="json")}).data == given
    assert len(data.load(every, "test")) == len(before) == 9  # a cache of its own
    config = c.parse(
        {
            "data": {**given.model_dump(mode="json"), "classes": ["n02", "n00"]},
            "train": {"batch_size": 16, "shard_size": 2},
        }
    )
    check_data(config)
    with pytest.raises(UserError, match="train.batch_size = 18: there are only 16 training images"):
        check_data(c.changed(config.plain(), {"train.batch_size": 18}))


def test_classes_of_parquet_are_chosen_by_label(tmp_path: Path):
    write_parquets(tmp_path, [23, 17], 5)
    chosen = {"name": "parquet", "root": tmp_path, "image_size": 6, "validation_images": 4, "classes": [3, 1]}
    ends = []
    for streamed in (False, True):
        given = c.Data(**{**chosen, "streamed": streamed})
        images = data.splits(given, "train", "validation", "test")
        assert [len(split) for split in images] == [16, 4, 4]
        for split, first in zip(images, (0, 0, 40), strict=True):
            numbers = [i for i in range(first, 40 if first == 0 else 49) if i % 4 in (1, 3)]
            found = split.pixels[split.rows].numpy()
            assert np.array_equal(found, [files.decode(numbered(numbers[row]), 6, "") for row in split.rows])
            assert split.labels.tolist() == [(1, 3).index(numbers[row] % 4) for row in split.rows]
        ends.append(images[0])
    assert torch.equal(ends[0].rows, ends[1].rows)
    assert ends[1].order(0).sort().values.equal(torch.arange(16))
    assert len(data.load(c.Data(**{**chosen, "classes": None}), "train")) == 36
    assert len(data.load(c.Data(**{**chosen, "classes": [0]}), "train")) == 6
    assert c.parse({"data": {**chosen, "root": str(tmp_path)}}).data.classes == ("1", "3")


def test_classes_that_are_not_there(tmp_path: Path):
    write_folders(tmp_path / "imagefolder", 8)
    write_parquets(tmp_path / "parquet", [8], 5)
    (tmp_path / "imagefolder" / "train" / "n05").mkdir()
    (tmp_path / "empty.txt").touch()
    for name, chosen, said in (
        ("imagefolder", ["n01", "n06"], r"data.classes: no images train/n06/<image>; did you mean"),
        ("imagefolder", ["n05"], r"data.classes: no images train/n05/<image>"),
        ("parquet", [1, 17], "data.classes: no train image has label 17"),
        ("parquet", ["n01"], "data.classes: 'n01' must be a label, such as 17"),
        ("parquet", str(tmp_path / "none.txt"), "data.classes = .*none.txt': cannot be read"),
        ("imagefolder", str(tmp_path / "empty.txt"), "data.classes = .*empty.txt': must hold a class on each line"),
    ):
        for streamed in (False, True):
            config = c.parse(
                {
                    "data": {
                        "name": name,
                        "root": str(tmp_path / name),
                        "image_size": 6,
                        "classes": chosen,
                        "streamed": streamed,
                    }
                }
            )
            with pytest.raises(UserError, match=said):
                check_data(config)
            with pytest.raises(UserError, match=said):
                data.load(config.data, "train")
    for name, chosen, said in (
        ("cifar10", ["cat"], "data.classes: 'cifar10' is read as a whole"),
        ("parquet", [], r"data.classes = \[\]: must be a list of classes, or a file"),
        ("parquet", 3, "data.classes = 3: must be a list of classes, or a file"),
        ("parquet", True, "data.classes = True: must"),
    ):
        with pytest.raises(UserError, match=f"^{said}"):
            c.parse({"data": {"name": name, "root": "x", "classes": chosen}})


@pytest.mark.parametrize("mode", ["L", "CMYK", "1", "P", "RGBA", "LA"])
def test_images_of_other_modes_become_rgb(mode):
    """As some of ImageNet's JPEGs are: grey, and CMYK."""
    color = Image.new("RGB", (16, 16), (255, 255, 255) if mode == "1" else (200, 120, 40))
    stream = io.BytesIO()
    color.convert(mode).save(
        stream, "JPEG" if mode in ("L", "CMYK") else "PNG", **({"quality": 95} if mode in ("L", "CMYK") else {})
    )
    found = files.decode(stream.getvalue(), 8, "picture")
    expected = np.asarray(color.convert("L").convert("RGB") if mode in ("L", "LA") else color)[:8, :8]
    assert found.shape == (8, 8, 3) and found.dtype == np.uint8
    assert np.abs(found.astype(int) - expected).max() <= {"L": 4, "CMYK": 4, "P": 20}.get(mode, 0)


def test_an_evaluation_of_the_bank_does_not_see_unlabelled_images(stl10: Path, tiny):
    both, bank = data.splits(stl(stl10, train_split="both"), "train", "bank")
    learner = Learner(tiny(), 3, 64, Group())
    features = subject.Subject(learner.student.parts, tiny(), bank.part(torch.arange(4)), bank, Group()).bank()
    assert (features.labels >= 0).all() and (both.labels < 0).any()
