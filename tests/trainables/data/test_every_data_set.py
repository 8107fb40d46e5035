"""What holds for every data set: one class in a file of its name, facts that agree, one way of reading."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.trainables.pictures import write_folders, write_parquets
from trainables.config import discovery
from trainables.config import trial as c
from trainables.config.data import DATA_SETS, Data, DataSetFacts, facts
from trainables.data.sets.base import DataSet, DecodedSet, EncodedSet, data_set
from trainables.data.sets.base_torchvision import CIFAR, Part, TorchvisionSet

every_data_set = pytest.mark.parametrize("name", DATA_SETS)


@pytest.fixture
def stored(tmp_path: Path):
    """The section `data` for data sets of which a small one can be written."""
    write_folders(tmp_path / "imagefolder", 12)
    shutil.copytree(tmp_path / "imagefolder" / "train", tmp_path / "imagefolder" / "test")
    write_parquets(tmp_path / "parquet", [7, 5], 4)

    def section(name: str) -> Data:
        return Data(name=name) if name == "digits" else Data(name=name, root=tmp_path / name, image_size=6)

    return section


@every_data_set
def test_its_file_defines_one_class(name):
    module = discovery.load("data.sets", name)
    own = [kind for kind in vars(module).values() if isinstance(kind, type) and kind.__module__ == module.__name__]
    assert [kind for kind in own if issubclass(kind, DataSet)] == [facts(name)]


def test_files_of_base_classes_are_no_data_sets():
    assert {"base", "base_torchvision"}.isdisjoint(DATA_SETS) and {"digits", "stl10"} <= set(DATA_SETS)


@every_data_set
def test_its_facts_agree_with_how_it_is_read(name):
    kind = facts(name)
    assert issubclass(kind, EncodedSet) == kind.FILES
    if issubclass(kind, DecodedSet):
        assert kind.CLASSES > 1 and len(kind.SHAPE) == 3 and kind.SHAPE[2] in (1, 3)
    if issubclass(kind, TorchvisionSet):
        assert kind.NEEDS_ROOT and kind.LEAST and kind.TRAIN_IMAGES > 0
    assert (100_000 if name == "stl10" else 0) == kind.UNLABELLED


@every_data_set
def test_its_views_are_those_of_a_trial(name):
    views = c.parse({"data": {"name": name, "root": "somewhere"}}).plain()["views"]
    assert {key: views[key] for key in facts(name).VIEWS} == dict(facts(name).VIEWS)


def test_plain_facts_ask_for_nothing():
    assert not (DataSetFacts.NEEDS_ROOT or DataSetFacts.FILES or DataSetFacts.UNLABELLED or DataSetFacts.VIEWS)


@pytest.mark.parametrize("name", ["digits", "imagefolder", "parquet"])
def test_reading_yields_chunks_that_agree_with_everything_else(stored, name):
    reader = data_set(stored(name))
    chunks = list(reader.read("train"))
    labels = np.concatenate([answers for _, answers in chunks])
    for images, answers in chunks:
        assert images.dtype == np.uint8 and images.ndim == 4 and answers.dtype == np.int64
        assert len(images) == len(answers) > 0
    if isinstance(reader, DecodedSet):
        assert reader.check() == len(labels) and len(np.unique(labels)) == reader.CLASSES
        assert chunks[0][0].shape[1:] == reader.SHAPE
    if isinstance(reader, EncodedSet):
        assert np.array_equal(reader.encoded("train").labels, labels)
        assert reader.source("train") == reader.source("train")
    if reader.NAMED:
        assert len(reader.names()) == len(labels)
    assert len(reader.class_names()) in (0, len(np.unique(labels)))


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_cifar_twins_differ_in_what_they_say_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name, classes):
    """Both read what torchvision opens: train or test, from the root, without a download."""
    from torchvision import datasets

    kind, asked = facts(name), []
    assert issubclass(kind, CIFAR) and classes == kind.CLASSES and kind.parts is CIFAR.parts

    class Opened:
        def __init__(self, root: Path, train: bool, download: bool):
            asked.append((root, train, download))
            self.data, self.targets = np.full((3, 32, 32, 3), 7, np.uint8), [2, 0, 1]

    monkeypatch.setattr(datasets, kind.TORCHVISION, Opened)
    reader = data_set(Data(name=name, root=tmp_path))
    for split in ("train", "test"):
        ((images, labels),) = reader.read(split)
        assert images.shape == (3, 32, 32, 3) and labels.tolist() == [2, 0, 1] and labels.dtype == np.int64
    assert asked == [(tmp_path, True, False), (tmp_path, False, False)]


def test_parts_come_one_after_another_and_channels_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    kind = facts("stl10")
    parts: dict[str, Part] = {
        "train": (np.zeros((2, 3, 4, 4), np.uint8), [5, 6]),
        "unlabeled": (np.ones((1, 3, 4, 4), np.uint8), [-1]),
    }
    monkeypatch.setattr(kind, "parts", lambda self, split: iter(parts.values()))
    chunks = list(data_set(Data(name="stl10", root=tmp_path)).read("both"))
    assert [images.shape for images, _ in chunks] == [(2, 4, 4, 3), (1, 4, 4, 3)]
    assert [labels.tolist() for _, labels in chunks] == [[5, 6], [-1]]
