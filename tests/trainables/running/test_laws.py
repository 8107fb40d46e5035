"""Laws 1 and 2 for every kind of teacher: neither the number of workers nor an interruption changes a trial."""

import itertools
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainables.feeds import feed_of
from trainables.config import trial as c
from trainables.config.norms import TEACHER_NORMS
from trainables.data import images as data
from trainables.data import keyed
from trainables.data.images import Images
from trainables.learning.learner import Learner
from trainables.networks.group import Group
from trainables.running import check, checkpoint

STUDENTS = ("batch", "sync")
TEACHERS = TEACHER_NORMS
SMOOTHINGS = ({"kind": "tma"}, {"kind": "sts", "granularity": "layer"}, {"kind": "sts", "granularity": "neuron"})
PLACEMENTS = ("whole", "projector", ["block4", "projector"])
GRID: list[dict[str, Any]] = [
    {
        "encoder.norm": student,
        "teacher.norm.kind": teacher,
        "teacher.smoothing": smoothing,
        "teacher.placement": placement,
    }
    for student, teacher, smoothing, placement in itertools.product(STUDENTS, TEACHERS, SMOOTHINGS, PLACEMENTS)
]
FOUR_SHARDS = {
    "train.batch_size": 32,
    "train.shard_size": 8,
    "optim.lr": 0.01,
}  # few samples or high rates amplify rounding tenfold a step
CORNERS = [GRID[0], GRID[20], GRID[39], GRID[-1]]
EAGER = {"kind": "momentum", "alpha": 0.3, "lazy": False}
OTHER_STUDENTS: list[dict[str, Any]] = [
    *({"encoder.norm": "momentum", "teacher.norm.kind": teacher} for teacher in TEACHERS),
    {"encoder.norm": EAGER, "teacher.norm": EAGER},
    *({"encoder.norm": student} for student in ("layer", "group", "none")),
]
OTHERS = [
    {**norms, "teacher.smoothing": SMOOTHINGS[1], "teacher.placement": placement}
    for norms, placement in itertools.product(OTHER_STUDENTS, PLACEMENTS[:2])
]
GRID += OTHERS
CORNERS += [OTHERS[9], OTHERS[10]]  # EMAN of a projector after Momentum BN, and the control of both


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("points", [GRID[part::4] for part in range(4)], ids=["first", "second", "third", "fourth"])
def test_every_teacher_is_the_same_on_1_2_and_4_workers(tiny, points):
    """Ten steps in float64, each relative to one worker."""
    found = check.differences(
        [tiny({"train.precision": "fp64", **FOUR_SHARDS, **point}) for point in points], [1, 2, 4], steps=10
    )
    for workers in (2, 4):
        worst = max(zip(found[workers], map(str, points), strict=True))
        assert worst[0] < 1e-9, (workers, worst)


def test_teachers_that_look_at_the_whole_batch_are_the_same_on_2_workers(tiny):
    """The corners of the grid, so that the default run knows what the long one would say."""
    found = check.differences(
        [tiny({"train.precision": "fp64", **FOUR_SHARDS, **point}) for point in CORNERS], [1, 2], steps=4
    )
    assert max(found[2]) < 1e-9


def take_steps(learner: Learner, images: Images, first: int, last: int) -> None:
    """Steps as `fit` takes them."""
    for step in range(first, last):
        epoch, at = divmod(step, learner.run.per_epoch)
        order = keyed.permutation(len(images), learner.config.seed, epoch, "order")
        learner.step(feed_of(learner, images).batches(order, at, epoch))


def go_on(folder: Path) -> None:
    """In its own process: continues every trial of the folder to its sixth step, and writes its checkpoint there."""
    torch.set_num_threads(1)
    for begun in sorted(folder.iterdir()):
        found = checkpoint.newest(begun)
        assert found is not None
        config = c.parse(found.values["config"])
        images = data.load(config.data, "train")
        learner = Learner(config, images.channels, len(images), Group())
        learner.load_state_dict(found.tensors, found.values["learner"])
        take_steps(learner, images, learner.step_index, 6)
        save(learner, begun)


def save(learner: Learner, folder: Path) -> None:
    tensors, values = learner.state_dict()
    checkpoint.write(folder, learner.step_index, tensors, {"learner": values, "config": learner.config.plain()}, 2)


@pytest.mark.parametrize(
    "points", [pytest.param(GRID, marks=pytest.mark.long, id="grid"), pytest.param(CORNERS, id="corners")]
)
def test_every_teacher_goes_on_in_a_new_process_as_if_nothing_had_been(tiny, digits, tmp_path: Path, points):
    """Saved at a random step in the middle of an epoch of four, continued into the next one; bits are equal."""
    ends = []
    for index, point in enumerate(points):
        learner = Learner(tiny(point), digits.channels, len(digits), Group())
        cut = random.Random(index).choice([1, 2, 3, 5])
        take_steps(learner, digits, 0, cut)
        save(learner, tmp_path / f"{index:03d}")
        take_steps(learner, digits, cut, 6)
        ends.append(learner.state_dict())
    module = "tests.trainables.running.test_laws"
    command = f"from pathlib import Path; from {module} import go_on; go_on(Path({str(tmp_path)!r}))"
    subprocess.run([sys.executable, "-c", command], check=True, timeout=500)
    for index, (point, (tensors, values)) in enumerate(zip(points, ends, strict=True)):
        resumed = checkpoint.newest(tmp_path / f"{index:03d}")
        assert resumed is not None and resumed.values["learner"] == json.loads(json.dumps(values)), point
        assert [name for name in tensors if not torch.equal(tensors[name], resumed.tensors[name])] == [], point
