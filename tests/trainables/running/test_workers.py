"""A trial does not depend on how many workers it got."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from tests.timeless import timeless_history
from tests.trainables.feeds import feed_of
from trainables.config import trial as c
from trainables.config.errors import UserError
from trainables.data.images import Images
from trainables.learning.learner import Learner
from trainables.networks.group import Group
from trainables.running import check, checkpoint
from trainables.running import fit as train

NORMS = ("batch", "momentum", "eman")


def test_units_are_dealt_as_evenly_as_whole_ones_go():
    for total in range(1, 14):
        for size in range(1, 6):
            shares = [Group(rank, size).share(total) for rank in range(size)]
            assert [unit for share in shares for unit in share] == list(range(total))
            assert [len(share) for share in shares] == Group(0, size).split(total)
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.long
def test_loss_curves_on_one_and_two_workers(tiny):
    """Even shards and uneven ones, one pass a shard and one a worker; bits are equal where the arithmetic is exact."""
    uneven = {"train.batch_size": 12, "train.shard_size": 4}
    cases = {
        "fp64": {"train.precision": "fp64"},
        "fp64, 3 shards, one pass a worker": {"train.precision": "fp64", "train.exact": False, **uneven},
        "fp32, 3 shards, exact": uneven,
    }
    names = [(case, norm) for case in cases for norm in NORMS]
    configs = [
        tiny({**cases[case], "teacher.norm.kind": norm, "teacher.smoothing.kind": "sts"}) for case, norm in names
    ]
    found = check.differences(configs, [1, 2], steps=4)
    assert found[1] == [0.0] * len(names)
    for (case, norm), difference in zip(names, found[2], strict=True):
        assert difference < 1e-9 if "fp64" in case else difference == 0, (case, norm, difference)


@pytest.mark.long
def test_invariant_23_whole_batch_norms_on_one_and_two_processes(tiny):
    """Statistics, gradients and orders that cross processes: 3 shards, of which one worker has 2."""
    # Fails when a shared history is each worker's own.
    uneven = {"train.precision": "fp64", "train.batch_size": 12, "train.shard_size": 4}
    norms = [{"kind": "sync"}, {"kind": "shuffle"}, {"kind": "momentum", "history": "shared"}]
    configs = [
        tiny({**uneven, "encoder.norm": student, "teacher.norm": norm})
        for student in ("batch", "sync")
        for norm in norms
    ]
    found = check.differences(configs, [1, 2], steps=4)
    assert found[1] == [0.0] * len(configs) and max(found[2]) < 1e-9


def per_worker(tiny, granularity: str = "layer") -> c.TrialConfig:
    smoothing = {"kind": "sts", "p": 0.5, "masks": "per_worker", "granularity": granularity}
    return tiny({"teacher.smoothing": smoothing, "teacher.norm.kind": "momentum", "teacher.momentum.base": 0.5})


def steps(learner: Learner, digits: Images, first: int, last: int) -> None:
    for step in range(first, last):
        learner.step(feed_of(learner, digits).batches(torch.arange(64).roll(step), step % learner.run.per_epoch, 0))


@pytest.mark.parametrize("granularity", ["layer", "channel", "neuron"])
def test_invariant_37_and_22_teachers_with_masks_per_worker_diverge_and_are_all_kept(
    tiny, digits, together, granularity
):
    """One student, a teacher for each worker; a checkpoint holds them all, and each worker goes on with its own."""
    # Fails when a state holds rank 0's teacher alone.
    config = per_worker(tiny, granularity)
    learners = [Learner(config, 1, 64, Group(rank, 2)) for rank in range(2)]
    resumed = [Learner(config, 1, 64, Group(rank, 2)) for rank in range(2)]

    def act(rank: int) -> tuple[dict[str, torch.Tensor], ...]:
        steps(learners[rank], digits, 0, 3)
        tensors, values = learners[rank].state_dict()
        middle = {name: tensor.clone() for name, tensor in tensors.items()}
        resumed[rank].load_state_dict(middle, values)
        for learner in (learners[rank], resumed[rank]):
            steps(learner, digits, 3, 6)
        return middle, learners[rank].state_dict()[0], resumed[rank].state_dict()[0]

    middles, wholes, goings = zip(*together([lambda rank=rank: act(rank) for rank in range(2)]), strict=True)
    for one, other in (middles, wholes, goings, (wholes[0], goings[0])):
        odd = [name for name in one if not torch.equal(one[name], other[name])]
        assert one.keys() == other.keys() and all(name.startswith("teacher.") for name in odd)
    names = [name for name in middles[0] if name.startswith("teachers.0.") and "history" not in name]
    apart = [
        name
        for name in names
        if not torch.equal(middles[0][name], middles[0][name.replace("teachers.0.", "teachers.1.")])
    ]
    assert len(apart) > 0.3 * len(names) > 0
    for rank in range(2):
        for name, tensor in learners[rank].teacher.own_state().items():
            assert torch.equal(tensor, wholes[0][f"teachers.{rank}.{name}"]) and torch.equal(
                tensor, resumed[rank].teacher.own_state()[name]
            )


def test_a_trial_with_masks_per_worker_keeps_its_number_of_workers(tiny, digits, together, tmp_path: Path):
    config = per_worker(tiny)
    learners = [Learner(config, 1, 64, Group(rank, 2)) for rank in range(2)]
    tensors, values = together([learner.state_dict for learner in learners])[0]
    assert tensors.keys() > Learner(config, 1, 64, Group()).state_dict()[0].keys()
    checkpoint.write(tmp_path, 0, tensors, {"learner": values, "history": [], "config": config.plain()}, 2)
    with pytest.raises(UserError, match="2 teachers, and goes on with 2 workers only"):
        train.fit(config, tmp_path, lambda metrics: "on")


@pytest.mark.parametrize("kind", ["batch", "momentum", "eman"])
def test_invariant_37_shared_masks_keep_the_teachers_of_all_workers_alike(tiny, digits, together, kind):
    """And with them the whole trial is one worker's, to the last bit."""
    # Fails when the rank is always in the key.
    config = tiny(
        {
            "teacher.smoothing": {"kind": "sts", "p": 0.5, "granularity": "channel"},
            "teacher.norm.kind": kind,
            "train.batch_size": 24,
        }
    )
    states = []
    for workers in (1, 2):
        learners = [Learner(config, 1, 64, Group(rank, workers)) for rank in range(workers)]

        def act(learner: Learner) -> dict[str, torch.Tensor]:
            steps(learner, digits, 0, 2)
            return learner.state_dict()[0]

        states += together([lambda learner=learner: act(learner) for learner in learners])
    assert all(state.keys() == states[0].keys() for state in states)
    assert [name for state in states for name in state if not torch.equal(state[name], states[0][name])] == []


@pytest.mark.parametrize(
    "values", [{"train.exact": False}, {"encoder.norm": "sync"}, {"teacher.norm.kind": "shuffle"}], ids=str
)
def test_what_an_epoch_says_does_not_depend_on_the_workers(tiny, digits, together, values):
    """Also where a worker runs all its shards in one pass, and with all the state that is behind it."""
    config = tiny({"train.precision": "fp64", "train.batch_size": 32, **values})
    told, states = [], []
    for workers in (1, 2):
        learners = [Learner(config, 1, 64, Group(rank, workers)) for rank in range(workers)]

        def act(learner: Learner) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
            steps(learner, digits, 0, 2)
            return learner.close_epoch(), learner.state_dict()[0]

        found = together([lambda learner=learner: act(learner) for learner in learners])
        assert all(one[0] == found[0][0] for one in found)
        told.append(found[0][0])
        states.append(found[0][1])
    assert told[1] == pytest.approx(told[0], rel=1e-6)  # the spread of embeddings is taken in float32
    torch.testing.assert_close(states[1], states[0], rtol=1e-9, atol=1e-12)


@pytest.mark.long
def test_torchrun_and_a_resume_on_fewer_workers(tiny, tmp_path: Path):
    """Two workers with 3 shards give one worker's trial to the last bit; so does one that goes on in mid-epoch."""
    values = {
        "teacher.norm.kind": "momentum",
        "evaluation.network": "teacher",
        "train.checkpoint_steps": 3,
        "train.keep_checkpoints": 9,
    }
    config = tiny({**values, "train.batch_size": 12, "train.shard_size": 4})
    (tmp_path / "trial.yaml").write_text(yaml.safe_dump(config.plain()))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [
        *launcher,
        "-m",
        "trainables.running.train",
        str(tmp_path / "trial.yaml"),
        "--folder",
        str(tmp_path / "two"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [line.split("  ")[0] for line in done.stdout.splitlines()] == ["epoch 1", "epoch 2"]

    whole = train.fit(config, tmp_path / "one", lambda metrics: "on")
    middle = "step-0000000006.safetensors"
    (tmp_path / "fewer").mkdir()
    shutil.copy(tmp_path / "two" / middle, tmp_path / "fewer" / middle)
    assert len(checkpoint.read(tmp_path / "two" / middle).values["learner"]["loss_sums"]) == 2
    resumed = train.fit(config, tmp_path / "fewer", lambda metrics: "on")
    one, two, fewer = (checkpoint.newest(tmp_path / name) for name in ("one", "two", "fewer"))
    assert one is not None and two is not None and fewer is not None
    assert timeless_history(whole) == timeless_history(resumed) == timeless_history(two.values["history"])
    for other in (two, fewer):
        assert [name for name in one.tensors if not torch.equal(one.tensors[name], other.tensors[name])] == []
