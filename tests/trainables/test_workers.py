"""A trial does not depend on how many workers it got."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from trainables import check, checkpoint, train
from trainables.group import Group

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
    configs = [tiny({**cases[case], "teacher.norm.kind": norm, "teacher.smoothing.kind": "sts"}) for case, norm in names]
    found = check.differences(configs, [1, 2], steps=4)
    assert found[1] == [0.0] * len(names)
    for (case, norm), difference in zip(names, found[2], strict=True):
        assert difference < 1e-9 if "fp64" in case else difference == 0, (case, norm, difference)


def timeless(history: list[train.Metrics]) -> list[train.Metrics]:
    return [{key: value for key, value in metrics.items() if not key.startswith("time/")} for metrics in history]


@pytest.mark.long
def test_torchrun_and_a_resume_on_fewer_workers(tiny, tmp_path: Path):
    """Two workers with 3 shards give one worker's trial to the last bit, and so does one worker that goes on in mid-epoch."""
    values = {"teacher.norm.kind": "momentum", "evaluation.network": "teacher", "train.checkpoint_steps": 3, "train.keep_checkpoints": 9}
    config = tiny({**values, "train.batch_size": 12, "train.shard_size": 4})
    (tmp_path / "trial.yaml").write_text(yaml.safe_dump(config.plain()))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, "-m", "trainables.train", str(tmp_path / "trial.yaml"), "--folder", str(tmp_path / "two")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [line.split("  ")[0] for line in done.stdout.splitlines()] == ["epoch 1", "epoch 2"]

    whole = train.fit(config, tmp_path / "one", lambda metrics: True)
    middle = "step-0000000006.safetensors"
    (tmp_path / "fewer").mkdir()
    shutil.copy(tmp_path / "two" / middle, tmp_path / "fewer" / middle)
    assert len(checkpoint.read(tmp_path / "two" / middle).values["learner"]["loss_sums"]) == 2
    resumed = train.fit(config, tmp_path / "fewer", lambda metrics: True)
    one, two, fewer = (checkpoint.newest(tmp_path / name) for name in ("one", "two", "fewer"))
    assert one is not None and two is not None and fewer is not None
    assert timeless(whole) == timeless(resumed) == timeless(two.values["history"])
    for other in (two, fewer):
        assert [name for name in one.tensors if not torch.equal(one.tensors[name], other.tensors[name])] == []
