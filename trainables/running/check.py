"""Does a trial depend on the number of its workers? Measured on CPUs, with gloo.

`python -m trainables.running.check config.yaml`
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from trainables.config import settings
from trainables.config import trial as c
from trainables.config.errors import UserError
from trainables.data import images as data
from trainables.data.check import check_data
from trainables.data.feed import Feed, labelled_images
from trainables.learning.learner import Learner
from trainables.networks.group import Group
from trainables.running import initial_network
from trainables.running.resolve import resolved

TOLERANCE = {"fp32": 1e-4, "fp64": 1e-9}


def loss_curves(configs: Sequence[c.TrialConfig], workers: int, steps: int) -> torch.Tensor:
    """Losses of the whole batch in the first steps of each trial, on `workers` processes: float64 [configs, steps]."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_worker, (configs, workers, steps, folder), nprocs=workers)
        return torch.load(f"{folder}/losses", weights_only=True)


def differences(configs: Sequence[c.TrialConfig], workers: Sequence[int], steps: int) -> dict[int, list[float]]:
    """Each trial's largest relative difference of the loss from that on `workers[0]` processes, by workers."""
    curves = {count: loss_curves(configs, count, steps) for count in workers}
    first = curves[workers[0]]
    return {count: ((curve - first).abs() / first.abs()).amax(1).tolist() for count, curve in curves.items()}


def _worker(rank: int, configs: Sequence[c.TrialConfig], workers: int, steps: int, folder: str) -> None:
    torch.set_num_threads(1)
    if workers > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=workers)
    group = Group(rank, workers)
    losses = torch.stack([_losses(config, group, steps) for config in configs])
    # divided after the sum, because the division rounds
    group.sum(losses).div_(torch.tensor([[config.train.num_shards] for config in configs]))
    if rank == 0:
        torch.save(losses, f"{folder}/losses")
    if workers > 1:
        dist.destroy_process_group()


def _losses(config: c.TrialConfig, group: Group, steps: int) -> torch.Tensor:
    """Sum of the losses of this worker's shards in each step."""
    train, bank = data.splits(config.data, "train", "bank")
    config = resolved(config, bank.classes)
    initial = initial_network.read(config.init)
    learner = Learner(config, train.channels, len(train), group, bank.classes, initial)
    labelled = labelled_images(config, bank)
    feed = Feed(config, train, labelled, learner.passes(), group.device, learner.dtype)
    losses = torch.zeros(steps, dtype=torch.float64)
    for step in range(steps):
        epoch, at = divmod(step, learner.run.per_epoch)
        order = train.order(config.seed, epoch, "order")
        losses[step] = learner.step(feed.batches(order, at, epoch))
    return losses


def main(arguments: list[str] | None = None) -> int:
    """Prints a row for each precision, teacher norm and number of workers.

    Exit status 1 if a difference exceeds its tolerance.
    """
    parser = argparse.ArgumentParser(prog="python -m trainables.running.check", description=__doc__)
    parser.add_argument("config", type=Path, help="a TrialConfig in YAML")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key")
    parser.add_argument("--workers", type=settings.whole_number, nargs="+", default=[1, 2, 4])
    parser.add_argument("--steps", type=settings.whole_number, default=20)
    given = parser.parse_args(arguments)
    try:
        nested = settings.with_values(
            settings.read_yaml(given.config), settings.read_settings(given.set), c.TrialConfig
        )
        base = c.parse(nested)
        check_data(base)
        base.train.require_shards(max(given.workers), f"--workers {max(given.workers)}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    norms = ("momentum", "batch", "eman") if base.encoder.norm.batch_statistics else ("batch",)
    cases = [(precision, norm) for precision in ("fp32", "fp64") for norm in norms]
    configs = [
        c.changed(nested, {"train.precision": precision, "teacher.norm.kind": norm}) for precision, norm in cases
    ]
    found = differences(configs, given.workers, given.steps)
    failed = False
    print("precision  teacher norm  workers  largest relative difference  tolerance")
    for workers in given.workers[1:]:
        for (precision, norm), difference in zip(cases, found[workers], strict=True):
            failed |= not difference < TOLERANCE[precision]
            print(f"{precision:<10} {norm:<13} {workers:<8} {difference:<28.2e} {TOLERANCE[precision]:.0e}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
