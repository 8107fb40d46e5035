"""Images that are decoded when they are asked for: the same pixels and trials, whatever threads and look-ahead do."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from tests.timeless import timeless
from tests.trainables.feeds import feed_of
from tests.trainables.pictures import numbered, write_folders, write_parquet, write_parquets
from tests.trainables.running.test_fit_resume import Killed, assert_same_end, go_on, kill_at
from trainables.config import trial as c
from trainables.config.errors import UserError
from trainables.data import images as data
from trainables.data import keyed
from trainables.data.sets import parquet
from trainables.data.stream import Stream
from trainables.evaluation.subject import Features, Subject
from trainables.learning.learner import Learner
from trainables.networks.group import Group
from trainables.running import checkpoint, preparation
from trainables.running import fit as train

SIZES, GROUP = [23, 17, 20], 5  # of the Parquet files, and of their row groups: 5 + 4 + 4 of them, two are smaller
CPU = torch.device("cpu")


@pytest.fixture
def sets(tmp_path: Path) -> dict[str, Path]:
    """The same 60 + 9 pictures in both kinds of files."""
    write_parquets(tmp_path / "parquet", SIZES, GROUP)
    write_folders(tmp_path / "imagefolder", sum(SIZES))
    return {name: tmp_path / name for name in ("parquet", "imagefolder")}


@pytest.fixture
def threads() -> Callable[[], set[threading.Thread]]:
    """Those that were started since the test began, and still live."""
    before = set(threading.enumerate())
    return lambda: set(threading.enumerate()) - before


@pytest.fixture(params=["parquet", "imagefolder"])
def of(request: pytest.FixtureRequest, sets: dict[str, Path]) -> Callable[..., c.Data]:
    """Makes the data section of each kind."""
    plain = {
        "name": request.param,
        "root": sets[request.param],
        "image_size": 6,
        "validation_images": 12,
        "streamed": True,
        "window": 12,
    }
    return lambda **values: c.Data(**{**plain, **values})


@pytest.fixture
def trial_of(tiny, sets):
    """Makes a tiny trial on streamed images, of four steps an epoch."""

    def make(name: str, values: dict[str, Any] | None = None) -> c.TrialConfig:
        own = {
            "name": name,
            "root": str(sets[name]),
            "image_size": 8,
            "streamed": True,
            "window": 12,
            "validation_images": 12,
        }
        return tiny({"data": own, "train.batch_size": 12, "train.shard_size": 4, "optim.lr": 0.01, **(values or {})})

    return make


def row_groups(sets: dict[str, Path], **values: Any) -> c.Data:
    plain = {
        "name": "parquet",
        "root": sets["parquet"],
        "image_size": 6,
        "validation_images": 12,
        "streamed": True,
        "window": 12,
    }
    return c.Data(**{**plain, **values})


def everything(images: data.Images) -> torch.Tensor:
    return images.batch(torch.arange(len(images)), CPU, torch.float64)


def group_of(images: data.Images) -> torch.Tensor:
    """The row group of each image: those of the files, one after another."""
    sizes = [min(GROUP, size - first) for size in SIZES for first in range(0, size, GROUP)]
    return torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))[images.rows]


def test_streamed_images_are_the_decoded_ones_pixel_for_pixel(of):
    names = ("train", "bank", "validation", "test")
    for streamed, decoded in zip(data.splits(of(), *names), data.splits(of(streamed=False), *names), strict=True):
        assert isinstance(streamed.pixels, Stream) and isinstance(decoded.pixels, torch.Tensor)
        assert torch.equal(streamed.rows, decoded.rows) and torch.equal(streamed.labels, decoded.labels)
        assert torch.equal(everything(streamed), everything(decoded)) and streamed.channels == decoded.channels == 3
        some = torch.tensor([5, 0, 5, 8])
        assert torch.equal(streamed.batch(some, CPU, torch.float32), decoded.batch(some, CPU, torch.float32))
        assert streamed.batch(some, CPU, torch.float32).is_contiguous(memory_format=torch.channels_last)
        streamed.close()


def test_only_labels_are_read_before_an_image_is_asked_for(of, monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("trainables.data.files.decode", refuse)
    train_images, _, test = data.splits(of(), "train", "validation", "test")
    assert len(train_images) == 48 and sorted(test.labels.tolist()) == [0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert train_images.labels.bincount().tolist() == [int((train_images.labels == label).sum()) for label in range(4)]


@pytest.mark.parametrize("window", [1, 12, 1000])
def test_the_order_of_an_epoch_is_a_permutation_and_keyed(of, window):
    images = data.load(of(window=window), "train")
    orders = [images.order(seed, epoch, "order") for seed in (0, 1) for epoch in range(3)]
    assert all(order.sort().values.equal(torch.arange(48)) and order.dtype == torch.int64 for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) == len(orders)
    again = data.load(of(window=window, loaders=1), "train").order(1, 2, "order")
    assert torch.equal(again, orders[-1])


def test_files_and_decoded_images_keep_their_order(of):
    images = data.load(of(), "train")
    decoded = data.load(of(streamed=False), "train")
    plain = keyed.permutation(48, 3, 1, "order")
    assert torch.equal(decoded.order(3, 1, "order"), plain)
    assert torch.equal(images.order(3, 1, "order"), plain) == (images.pixels.source.starts is None)


def test_row_groups_come_in_random_order_and_mix_within_the_window(sets):
    images = data.load(row_groups(sets), "train")
    groups, firsts = group_of(images), []
    for epoch in range(30):
        order = groups[images.order(0, epoch, "order")].tolist()
        seen = sorted(set(order), key=order.index)
        firsts.append(seen[0])
        assert order != sorted(order, key=seen.index)
    assert len(set(firsts)) > 4
    alone = groups[data.load(row_groups(sets, window=1), "train").order(0, 0, "order")].tolist()
    assert alone == sorted(
        alone, key=sorted(set(alone), key=alone.index).index
    )  # a window of one image: group after group


def test_the_order_against_the_plain_formula(sets):
    images = data.load(row_groups(sets), "train")
    sizes = [min(GROUP, size - first) for size in SIZES for first in range(0, size, GROUP)]
    shuffled = keyed.permutation(len(sizes), 7, "order", "row groups").tolist()
    begins = {group: sum(sizes[other] for other in shuffled[:place]) for place, group in enumerate(shuffled)}
    late = keyed.uniform(images.rows, 1, 7, "order", "rows", dtype=torch.float64)[:, 0].tolist()
    at = [begins[group] + 12 * share for group, share in zip(group_of(images).tolist(), late, strict=True)]
    assert images.order(7, "order").tolist() == sorted(range(48), key=at.__getitem__)


def test_an_epoch_reads_each_row_group_once_and_holds_few(sets, monkeypatch):
    read, plain = [], parquet._read_group

    def counting(path: Path, group: int, *others: Any) -> Any:
        read.append((path.name, group))
        return plain(path, group, *others)

    monkeypatch.setattr(parquet, "_read_group", counting)
    images = data.load(row_groups(sets, loaders=3), "train")
    source = images.pixels.source
    assert source.limit == 12 + 3 + 2 * GROUP
    for epoch in range(5):
        order, held = images.order(0, epoch, "order"), []
        images.expect(order, 16)
        for batch in order.split(8):
            images.batch(batch, CPU, torch.float32)
            held.append(source.held)
        assert 12 < max(held) <= source.limit
        assert len(read) == len(set(read)) == 13
        images.close()
        assert source.held == 0
        read.clear()


class Numbers:
    """Encoded images that write down what is read; all are the same picture but for row 13, which is damaged."""

    starts = None

    def __init__(self, count: int):
        self.labels, self.seen = np.zeros(count, np.int64), []

    def read(self, row: int) -> tuple[bytes, str]:
        self.seen.append(row)
        return (b"damaged" if row == 13 else numbered(row)), f"picture {row}"

    def close(self) -> None:
        pass


@pytest.mark.parametrize("loaders", [1, 4])
def test_the_look_ahead_is_bounded_changes_nothing_and_is_replaced(threads, loaders):
    source = Numbers(40)
    stream = Stream(source, 6, loaders, 1)
    plain = Stream(Numbers(40), 6, 1, 1)
    order = torch.tensor([row for row in reversed(range(40)) if row != 13])
    stream.expect(order, 6)
    for start in range(0, 39, 3):
        rows = order[start : start + 3]
        assert torch.equal(stream[rows], plain[rows])
        assert len(source.seen) <= start + 3 + 6
    assert sorted(source.seen) == sorted(order.tolist())  # each was decoded once
    stream.expect(torch.tensor([1, 2, 13, 3]), 4)
    assert torch.equal(stream[torch.tensor([30, 3, 1, 1])], plain[torch.tensor([30, 3, 1, 1])])  # not what was said
    with pytest.raises(UserError, match="^picture 13: not an image that can be decoded"):
        stream[torch.tensor([13])]
    stream.expect(torch.tensor([13, 4]), 2)
    stream.expect(torch.tensor([5]), 2)  # nobody asks for the damaged one any more
    assert torch.equal(stream[torch.tensor([5, 4])], plain[torch.tensor([5, 4])])
    for one in (stream, plain):
        one.close()
    assert not threads() and len(stream[torch.tensor([7])]) == 1
    stream.close()


def test_the_next_images_are_decoded_while_nobody_waits():
    source = Numbers(40)
    stream = Stream(source, 6, 2, 1)
    stream.expect(torch.arange(12), 5)
    stream._pool.shutdown()  # the threads end when there is nothing left to do
    stream._pool = None
    assert sorted(source.seen) == [0, 1, 2, 3, 4]
    stream.close()


def test_many_threads_may_ask_at_once(threads, of):
    """As the workers of the tests do, and a slot whose last trial still ends."""
    images, decoded = data.load(of(loaders=3), "train"), data.load(of(streamed=False), "train")

    def ask(number: int) -> bool:
        order = images.order(number)
        images.expect(order, 9)
        return all(
            torch.equal(images.batch(part, CPU, torch.float32), decoded.batch(part, CPU, torch.float32))
            for part in order.split(7)
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(12)))
    images.close()
    assert not threads()


@pytest.mark.parametrize("name", ["parquet", "imagefolder"])
def test_a_trial_goes_on_in_mid_epoch_as_if_nothing_had_been(trial_of, threads, tmp_path: Path, monkeypatch, name):
    config = trial_of(name, {"train.checkpoint_steps": 1})
    train.fit(config, tmp_path / "whole", go_on)
    for step in (2, 5):
        with monkeypatch.context() as patched, pytest.raises(Killed):
            kill_at(step, patched)
            train.fit(config, tmp_path / "killed", go_on)
        assert not threads()
    train.fit(config, tmp_path / "killed", go_on)
    assert_same_end(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize("name", ["parquet", "imagefolder"])
def test_a_trial_does_not_depend_on_loaders_and_folders_not_on_streaming(trial_of, tmp_path: Path, name):
    ends = {}
    for loaders, streamed in ((1, True), (4, True), (4, False)):
        folder = tmp_path / f"{loaders}-{streamed}"
        (_, last) = train.fit(trial_of(name, {"data.loaders": loaders, "data.streamed": streamed}), folder, go_on)
        ends[loaders, streamed] = timeless(last)
    assert ends[1, True] == ends[4, True]
    assert (ends[4, False] == ends[4, True]) == (name == "imagefolder")  # a window is no whole permutation
    train.fit(trial_of(name, {"data.loaders": 2}), tmp_path / "1-True", go_on)  # a trial may go on with others


@pytest.mark.parametrize("name", ["parquet", "imagefolder"])
def test_a_trial_is_the_same_on_two_workers(trial_of, together, name):
    """Two epochs, each with features of the bank; every worker has images, threads and a look-ahead of its own."""
    config, ends = trial_of(name), []
    for workers in (1, 2):
        learners = [Learner(config, 3, 48, Group(rank, workers)) for rank in range(workers)]

        def act(learner: Learner) -> tuple[dict[str, torch.Tensor], Features]:
            (images,) = data.splits(config.data, "train")
            for epoch in range(2):
                order = images.order(config.seed, epoch, "order")
                images.expect(*feed_of(learner, images).coming(order, 0))
                for at in range(learner.run.per_epoch):
                    learner.step(feed_of(learner, images).batches(order, at, epoch))
                bank = Subject(learner.student.parts, config, images, images, learner.group).bank()
            images.close()
            return learner.state_dict()[0], bank

        ends += together([lambda learner=learner: act(learner) for learner in learners])
    (state, bank), *others = ends
    for other, features in others:
        assert [key for key in state if not torch.equal(state[key], other[key])] == []
        assert torch.equal(features.x, bank.x) and torch.equal(features.labels, bank.labels)


@pytest.mark.long
def test_torchrun_streams_as_one_worker_does(trial_of, tmp_path: Path):
    config = trial_of("parquet")
    (tmp_path / "trial.yaml").write_text(yaml.safe_dump(config.plain()))
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "trainables.running.train",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [*launcher, str(tmp_path / "trial.yaml"), "--folder", str(tmp_path / "two")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    train.fit(config, tmp_path / "one", go_on)
    one, two = (checkpoint.newest(tmp_path / folder) for folder in ("one", "two"))
    assert one is not None and two is not None
    assert [key for key in one.tensors if not torch.equal(one.tensors[key], two.tensors[key])] == []


def test_a_worker_expects_what_its_batches_ask_for(trial_of, sets):
    config = trial_of("parquet")
    (images,) = data.splits(config.data, "train")
    order = images.order(0)
    for size in (1, 2, 3):
        for rank in range(size):
            learner = Learner(config, 3, len(images), Group(rank, size))
            expected, ahead = feed_of(learner, images).coming(order, 1)
            asked = [
                images.rows[order[at * 12 : at * 12 + 12]].split(4)[shard]
                for at in range(1, 4)
                for shard in learner.shards.mine
            ]
            assert torch.equal(torch.cat(asked), images.rows[expected]) and ahead == 2 * 4 * len(learner.shards.mine)
    images.close()


def test_a_damaged_image_ends_the_trial_by_name(trial_of, threads, sets, tmp_path: Path):
    folder = sets["imagefolder"] / "train" / "n01"
    for file in folder.iterdir():
        file.write_bytes(b"GIF89a")
    with pytest.raises(UserError, match=r"train/n01/n01_0\d\d.JPEG: not an image that can be decoded"):
        train.fit(trial_of("imagefolder"), tmp_path / "folder", go_on)
    assert not threads()
    for file in folder.iterdir():
        file.unlink()
        file.symlink_to("nowhere")
    preparation.listed.cache_clear()
    with pytest.raises(UserError, match=r"train/n01/n01_0\d\d.JPEG: cannot be read \(No such file or directory\)"):
        train.fit(trial_of("imagefolder"), tmp_path / "folder", go_on)
    rows = [b"" if i == 9 else numbered(i) for i in range(23)]
    write_parquet(sets["parquet"] / "data" / "train-00000-of-00003.parquet", rows, [i % 4 for i in range(23)], GROUP)
    with pytest.raises(UserError, match=r"train-00000-of-00003.parquet, row 9: not an image that can be decoded"):
        everything(data.load(trial_of("parquet").data, "train"))
        everything(data.load(trial_of("parquet").data, "validation"))
    damaged = sets["parquet"] / "data" / "train-00001-of-00003.parquet"
    content = damaged.read_bytes()
    labels = content.rindex(b"PAR1") - 2000
    damaged.write_bytes(content[:4] + bytes(labels // 4) + content[4 + labels // 4 :])
    with pytest.raises(UserError, match=r"train-00001-of-00003.parquet: not a readable Parquet file"):
        everything(data.load(trial_of("parquet").data, "train"))


def test_what_cannot_be_streamed_is_refused(sets, tmp_path: Path):
    for given, said in (
        ({"name": "digits", "streamed": True}, "data.streamed = true: 'digits' holds no encoded images"),
        ({"name": "cifar10", "root": "x", "streamed": True}, "data.streamed = true: 'cifar10' holds no encoded images"),
        ({"name": "parquet", "root": "x", "streamed": True}, "data.streamed = true: needs data.image_size"),
        ({"name": "parquet", "root": "x", "loaders": 0}, "data.loaders = 0: "),
        ({"name": "parquet", "root": "x", "window": 0}, "data.window = 0: "),
    ):
        with pytest.raises(UserError, match=f"^{said}"):
            c.parse({"data": given})
    write_parquet(tmp_path / "train-0.parquet", [], [])
    with pytest.raises(UserError, match="hold no images"):
        data.load(c.Data(name="parquet", root=tmp_path, image_size=8, streamed=True), "train")
