"""Damaged checkpoints: each is found, none is gone on from, and the trial ends with the bits that it would have had.

Each case is drawn from its seed. A failure names the seed; `CASES=17 pytest ...` runs that one again.
"""

import json
import logging
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tests.timeless import timeless_history
from trainables.config import trial as c
from trainables.config.errors import UserError
from trainables.data import images as data
from trainables.learning.learner import Learner
from trainables.networks.group import Group
from trainables.running import checkpoint
from trainables.running import fit as train
from trainables.running.checkpoint_files import Name
from trainables.running.resolve import resolved
from trainables.running.resuming import resume, taken
from trainables.running.segment import Segment

STEPS = 8
TINY = {
    "encoder": {"name": "resnet10", "width": 4, "projector": {"hidden": 32, "out": 16}},
    "method.predictor_hidden": 32,
    "data.train_images": 64,
    "data.validation_images": 32,
    "teacher.momentum": 0.9,
    "teacher.norm.kind": "momentum",
    "train": {"epochs": 2, "batch_size": 16, "shard_size": 8, "checkpoint_steps": 1, "keep_checkpoints": 99},
}


@dataclass(frozen=True)
class Whole:
    """A trial with the checkpoints of all its steps, and a Learner of it.

    Attributes:
        config: of the trial.
        folder: of its checkpoints.
        other: folder of another trial, which differs in its seed.
        learner: to be restored.
    """

    config: c.TrialConfig
    folder: Path
    other: Path
    learner: Learner

    def at(self, step: int) -> checkpoint.Checkpoint:
        """The checkpoint after so many steps."""
        return checkpoint.read(self.folder / str(Name(step)))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEACHER_TUNER_CACHE", str(folder / "cache"))
        config = c.changed({}, TINY)
        for name, seed in (("trial", 0), ("other", 1)):
            train.fit(c.changed(config.plain(), {"seed": seed}), folder / name, lambda metrics: "on")
        learner = Learner(resolved(config, 10), 1, len(data.load(config.data, "train")), Group(), 10)
        yield Whole(config, folder / "trial", folder / "other", learner)
    torch.set_num_threads(threads)


def cut(draws: random.Random, path: Path, whole: Whole) -> None:
    os.truncate(path, draws.randrange(path.stat().st_size))


def prolong(draws: random.Random, path: Path, whole: Whole) -> None:
    with path.open("ab") as file:
        file.write(draws.randbytes(draws.randint(1, 5000)))


def flip(draws: random.Random, path: Path, whole: Whole) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(draws.choice((1, 1, 1, 8))):
        content[draws.randrange(len(content))] ^= 1 << draws.randrange(8)
    if bytes(content) != path.read_bytes():
        path.write_bytes(content)
    else:
        flip(draws, path, whole)


def flip_in_header(draws: random.Random, path: Path, whole: Whole) -> None:
    content = bytearray(path.read_bytes())
    content[draws.randrange(8 + int.from_bytes(content[:8], "little"))] ^= 1 << draws.randrange(8)
    path.write_bytes(content)


def lose_a_block(draws: random.Random, path: Path, whole: Whole) -> None:
    """A block of zeros, as after a power cut."""
    content = bytearray(path.read_bytes())
    first = draws.randrange(len(content))
    lost = content[first : first + 4096]
    content[first : first + 4096] = bytes(len(lost)) if any(lost) else b"\1" * len(lost)
    path.write_bytes(content)


def change_the_hash(draws: random.Random, path: Path, whole: Whole) -> None:
    _written_again(path, sha256=draws.randbytes(32).hex())


def change_the_values(draws: random.Random, path: Path, whole: Whole) -> None:
    """Another history than the one that was hashed."""
    _written_again(path, values=json.dumps({**checkpoint.read(path).values, "history": []}) + " ")


def rename_an_older_one(draws: random.Random, path: Path, whole: Whole) -> None:
    name = Name.of(path)
    assert name is not None
    shutil.copy(whole.folder / str(Name(draws.randrange(1, name.step))), path)


def empty(draws: random.Random, path: Path, whole: Whole) -> None:
    path.write_bytes(b"")


def put_a_folder(draws: random.Random, path: Path, whole: Whole) -> None:
    path.unlink()
    path.mkdir()
    (path / "file").touch()


def put_a_dangling_link(draws: random.Random, path: Path, whole: Whole) -> None:
    path.unlink()
    path.symlink_to(path.with_name("nowhere"))


def put_a_pipe(draws: random.Random, path: Path, whole: Whole) -> None:
    path.unlink()
    os.mkfifo(path)


def put_an_unreadable_file(draws: random.Random, path: Path, whole: Whole) -> None:
    path.unlink()
    path.symlink_to("/proc/self/mem")


def _written_again(path: Path, **metadata: str) -> None:
    with safe_open(path, framework="pt") as file:
        before = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, metadata={**before, **metadata})


Damage = Callable[[random.Random, Path, Whole], None]
DAMAGES: tuple[Damage, ...] = (
    cut,
    cut,
    prolong,
    flip,
    flip,
    flip_in_header,
    lose_a_block,
    change_the_hash,
    change_the_values,
    rename_an_older_one,
    empty,
    put_a_folder,
    put_a_dangling_link,
    put_a_pipe,
    put_an_unreadable_file,
)


def case(seed: int, whole: Whole, folder: Path) -> tuple[int, list[Path]]:
    """Makes a folder as a fault may leave it behind.

    Returns:
        The step of the newest checkpoint that is intact (0: none is), and the damaged files.
    """
    draws = random.Random(seed)
    last = draws.randint(3, STEPS)
    first = draws.randint(1, last - 1)
    folder.mkdir()
    paths = {step: folder / str(Name(step, timed=draws.random() < 0.3)) for step in range(first, last + 1)}
    for step, path in paths.items():
        shutil.copy(whole.folder / str(Name(step)), path)
    count = draws.randint(1, min(3, len(paths)))
    damaged = [last, *draws.sample(range(first, last), count - 1)]
    for step in damaged:
        damage = draws.choice(DAMAGES)
        if step == 1 and damage is rename_an_older_one:
            damage = cut
        damage(draws, paths[step], whole)
    for unfinished in range(draws.randint(0, 2)):
        name = f".{Name(last + 1 + unfinished)}.{draws.randrange(10**5)}"
        content = (whole.folder / str(Name(STEPS))).read_bytes()
        (folder / name).write_bytes(content[: draws.randrange(len(content))])
    intact = [step for step in paths if step not in damaged]
    return max(intact, default=0), [paths[step] for step in damaged]


def endure(seed: int, whole: Whole, folder: Path, caplog: pytest.LogCaptureFixture, *, to_the_end: bool) -> int:
    """One case; returns how many damaged checkpoints were read: those behind the newest intact one never are."""
    step, damaged = case(seed, whole, folder)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        found = taken(folder, Group(), f"owner {seed}")
        history = resume(whole.learner, found) if found else []
    warned = [record.getMessage() for record in caplog.records]
    read = [path for path in damaged if any(line.startswith(f"{path}: ") for line in warned)]
    assert read == [path for path in damaged if step < int(path.name[5:15])], (seed, warned)
    assert not list(folder.glob(".step-*")), (seed, "unfinished files stay")
    if step:
        expected = whole.at(step)
        tensors, values = whole.learner.state_dict()
        assert values == expected.values["learner"], seed
        assert [name for name in tensors if not torch.equal(tensors[name], expected.tensors[name])] == [], seed
        assert history == expected.values["history"], seed
    else:
        assert history == [], seed
    if to_the_end:
        train.fit(whole.config, folder, lambda metrics: "on", segment=Segment(f"next owner {seed}"))
        end, expected = checkpoint.newest(folder), whole.at(STEPS)
        assert end is not None and end.name.step == STEPS, seed
        assert end.tensors.keys() == expected.tensors.keys(), seed
        odd = [name for name in end.tensors if not torch.equal(end.tensors[name], expected.tensors[name])]
        assert odd == [], (seed, odd)
        assert timeless_history(end.values["history"]) == timeless_history(expected.values["history"]), seed
    shutil.rmtree(folder)
    return len(read)


def seeds(default: range) -> list[int]:
    return [int(os.environ["CASES"])] if "CASES" in os.environ else [*default]


def test_some_damaged_checkpoints(whole: Whole, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    for seed in seeds(range(30)):
        endure(seed, whole, tmp_path / str(seed), caplog, to_the_end=seed % 10 == 0)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_more_than_five_hundred_damaged_checkpoints(whole: Whole, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    chosen = seeds(range(1000, 1400))
    total = sum(endure(seed, whole, tmp_path / str(seed), caplog, to_the_end=seed % 10 == 0) for seed in chosen)
    assert total >= 500 or len(chosen) == 1


@pytest.mark.parametrize("seed", range(3))
def test_a_checkpoint_of_another_trial_is_refused(whole: Whole, tmp_path: Path, seed: int):
    """It is intact, so what tells it apart is the configuration inside."""
    case(seed, whole, tmp_path / "trial")
    shutil.copy(whole.other / str(Name(STEPS)), tmp_path / "trial" / str(Name(STEPS)))
    with pytest.raises(UserError, match=r"seed = 0: the checkpoints in .* are of a trial with 1"):
        train.fit(whole.config, tmp_path / "trial", lambda metrics: "on")


def test_checkpoints_that_changed_places_are_passed_over(
    whole: Whole, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """The two newest of a trial, by their names."""
    folder = tmp_path / "trial"
    shutil.copytree(whole.folder, folder)
    last, before = folder / str(Name(STEPS)), folder / str(Name(STEPS - 1))
    last.rename(folder / "aside")
    before.rename(last)
    (folder / "aside").rename(before)
    with caplog.at_level(logging.WARNING):
        found = checkpoint.newest(folder)
    assert found is not None and found.name.step == STEPS - 2
    assert [f"holds step {step}, so it was renamed" in caplog.text for step in (STEPS, STEPS - 1)] == [True] * 2


def test_every_kind_of_damage_is_found(whole: Whole, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Each one by itself: without this a kind that damages nothing would not be noticed."""
    for number, damage in enumerate(DAMAGES):
        path = tmp_path / str(number) / str(Name(4))
        path.parent.mkdir()
        shutil.copy(whole.folder / path.name, path)
        caplog.clear()
        damage(random.Random(number), path, whole)
        with caplog.at_level(logging.WARNING):
            assert checkpoint.newest(path.parent) is None, damage.__name__
        assert [record.getMessage().startswith(f"{path}: ") for record in caplog.records] == [True], damage.__name__
