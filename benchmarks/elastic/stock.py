"""The same trials by stock Ray Tune and Ray Train: `python -m benchmarks.elastic.stock TRIALS ADDRESS FOLDER`.

As a user of Ray would write it who knows the traps: a trial actor takes a custom resource of the head, so that it takes
no CPU from the workers and does not die with a node; failures are not counted; a trial that starts again goes on from
its newest checkpoint on a disc that all nodes share. One trial runs at a time, because an elastic TorchTrainer takes
all that is free: a second would wait for a worker group that cannot be placed.
"""

import argparse
import logging
import os
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import yaml
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from benchmarks.elastic.contenders import StockRay
from benchmarks.elastic.nodes import DRIVERS

NUM_WORKERS = (1, 2)
RESIZE_INTERVAL = 5.0  # seconds between two looks at the cluster; 60 by default


def train(config: dict[str, Any]) -> None:
    """What each worker of a trial runs."""
    import torch

    from trainables.config import trial as c
    from trainables.networks.group import Group
    from trainables.running.fit import fit

    context = ray.train.get_context()
    rank, folder = context.get_world_rank(), Path(config["folder"])
    logging.basicConfig(
        filename=folder / f"rank-{rank}.log",
        format="%(asctime)s %(levelname)s %(message)s",
        level=logging.INFO,
        force=True,
    )
    torch.set_num_threads(1)
    workers = Group(rank, context.get_world_size(), ray.train.torch.get_device())
    history = fit(c.parse(config["trial"]), folder, lambda metrics: "on", workers)
    ray.train.report({"knn_top1": history[-1]["knn_top1"]})


def trial(config: dict[str, Any]) -> None:
    """What a trial of Ray Tune runs, on the head: a TorchTrainer of its own."""
    folder = Path(config["folder"]) / "trials" / config["label"]
    values = yaml.safe_load(Path(config["trials"]).read_text())[config["label"]]
    folder.mkdir(parents=True, exist_ok=True)
    trainer = ray.train.torch.TorchTrainer(
        train,
        train_loop_config={"trial": values, "folder": str(folder)},
        scaling_config=ray.train.ScalingConfig(
            num_workers=NUM_WORKERS, resources_per_worker={"CPU": 1}, elastic_resize_monitor_interval_s=RESIZE_INTERVAL
        ),
        run_config=ray.train.RunConfig(
            name=config["label"],
            storage_path=str(Path(config["folder"]) / "train"),
            failure_config=ray.train.FailureConfig(max_failures=-1),
            callbacks=[TuneReportCallback()],
        ),
    )
    trainer.fit()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trials", type=Path, help="configurations by label, in YAML")
    parser.add_argument("address")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    labels, folder = [*yaml.safe_load(options.trials.read_text())], options.folder.absolute()
    variables = {name: value for name, value in StockRay.variables.items() if name in os.environ}
    ray.init(address=options.address, runtime_env={"env_vars": variables})
    results = tune.Tuner(
        tune.with_resources(trial, {DRIVERS: 1}),
        param_space={
            "label": tune.grid_search(labels),
            "trials": str(options.trials.absolute()),
            "folder": str(folder),
        },
        tune_config=tune.TuneConfig(max_concurrent_trials=1, metric="knn_top1", mode="max"),
        run_config=tune.RunConfig(
            name="tune", storage_path=str(folder), failure_config=tune.FailureConfig(max_failures=-1)
        ),
    ).fit()
    if results.errors:
        raise SystemExit(f"{len(results.errors)} trials failed: {results.errors[0]}")


if __name__ == "__main__":
    main()
