"""The command line of one trial, without Ray: `python -m trainables.running.train config.yaml`, also by torchrun."""

import argparse
import logging
import sys
from pathlib import Path

import torch.distributed as dist

from trainables.config import settings
from trainables.config import trial as c
from trainables.config.errors import TrialFailure, UserError
from trainables.data.check import check_data
from trainables.networks import group
from trainables.running.fit import fit
from trainables.running.initial_network import require_fitting
from trainables.running.messages import Going, Metrics
from trainables.running.stored import looked_at

NOT_SHOWN = ("loss_curve", "time/first_step_at", "time/measured_at", "time/workers")


def main(arguments: list[str] | None = None) -> int:
    """Trains one configuration and prints each epoch.

    Exit status: 1 if the trial failed, 2 for what the user can mend.
    """
    parser = argparse.ArgumentParser(
        prog="python -m trainables.running.train", description="Train one student and its teacher, without Ray."
    )
    parser.add_argument("config", type=Path, help="a TrialConfig in YAML")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a key, such as train.epochs=20"
    )
    parser.add_argument("--folder", type=Path, required=True, help="where checkpoints are written, and continued from")
    given = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    workers = None
    try:
        config = c.changed(settings.read_yaml(given.config), settings.read_settings(given.set))
        check_data(config)
        if config.init.path is not None:
            require_fitting(config, looked_at(config))
        workers = group.from_torchrun()
        config.train.require_shards(workers.size, f"{workers.size} workers")
        fit(config, given.folder, _print_metrics, workers)
    except (UserError, TrialFailure, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, TrialFailure) else 2
    finally:
        if workers is not None and workers.size > 1:
            dist.destroy_process_group()
    return 0


def _print_metrics(metrics: Metrics) -> Going:
    shown = {key: value for key, value in metrics.items() if key not in NOT_SHOWN}
    print("  ".join(f"{key.removeprefix('time/')} {value:.4g}" for key, value in shown.items()), flush=True)
    return "on"


if __name__ == "__main__":
    sys.exit(main())
