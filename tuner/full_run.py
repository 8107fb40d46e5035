"""A full run of one configuration on Ray Train, and the evaluation of its checkpoints."""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

from trainables import config as c
from trainables.errors import TrialFailure, UserError
from trainables.settings import flat, read_settings, read_yaml
from tuner import runs, spec
from tuner.report import program, shown

KEY = "full"


def start(given: argparse.Namespace) -> int:
    """`tuner train`."""
    values = read_settings(given.set) | ({} if given.epochs is None else {"train.epochs": given.epochs})
    config = spec.settled(c.changed(read_yaml(given.config), values))
    if given.batch_size and given.batch_size != config.train.batch_size:
        before, config = config, c.scaled_batch(config, given.batch_size)
        print(equivalence(before, config))
    resources = {"workers": given.workers, "cpus_per_worker": given.cpus_per_worker, "gpus_per_worker": given.gpus_per_worker}
    wanted = spec.parse({"name": "train", "address": given.address, "trial": config.plain(), "resources": resources})
    spec.check_address(wanted.address)
    run = runs.Run.create(given.run or runs.unused(Path("runs"), f"train-{given.config.stem}"), "train", wanted.plain(), config.seed)
    try:
        return continue_run(run)
    except UserError:
        run.discard()
        raise


def continue_run(run: runs.Run, address: str | None = None) -> int:
    """Trains from the newest checkpoint to the end, at another address than before where one is given."""
    from trainables import checkpoint

    wanted = spec.parse(run.spec | ({"address": address} if address else {}))
    spec.check_address(wanted.address)
    run.hold()
    print(f"full run -> {run.path}", flush=True)
    newest = checkpoint.newest(run.trial_folder(KEY))
    history = newest.values["history"] if newest else []
    if not history or history[-1]["epoch"] < wanted.trial.train.epochs:
        _train(run, wanted)
        newest = checkpoint.newest(run.trial_folder(KEY))
    if newest is None:
        raise TrialFailure(f"no valid checkpoint was left in {run.trial_folder(KEY)}")
    print(f"checkpoint: {shown(newest.path)}\nnext:\n  {program('tuner')} evaluate {shown(newest.path)}")
    print(f"  {program('tensorboard')} --logdir {shown(run.tensorboard_folder)}")
    return 0


def _train(run: runs.Run, wanted: spec.SearchSpec) -> None:
    from tuner import search
    from tuner.tensorboard import TrialWriter

    writer = TrialWriter(run.tensorboard_folder / KEY, flat(wanted.trial.plain()), wanted.objective.metric)
    terminal, epochs = sys.stdout, wanted.trial.train.epochs

    def hear(metrics: dict[str, Any]) -> None:
        writer.add(metrics)
        loss, score = metrics["loss"], metrics["knn_top1"]
        print(f"epoch {metrics['epoch']:.0f}/{epochs}  loss {loss:.4f}  knn_top1 {score:.4f}", file=terminal, flush=True)

    try:
        search.one_slot(run, wanted.address, wanted.resources, KEY, wanted.trial, hear)
    except TrialFailure as failure:
        raise TrialFailure(f"{failure}\n  log: {run.trial_log(KEY, str(failure))}") from None
    finally:
        writer.close()


def equivalence(before: c.TrialConfig, after: c.TrialConfig) -> str:
    """What the equivalence rule changed, as a line."""
    k = after.train.batch_size / before.train.batch_size
    changed = {
        "learning rate": (before.optim.lr, after.optim.lr),
        "teacher momentum": (before.teacher.momentum.base, after.teacher.momentum.base),
        "preserving probability": (before.teacher.smoothing.p, after.teacher.smoothing.p),
    }
    moves = [f"{name} {old:g} -> {new:g}" for name, (old, new) in changed.items() if not math.isclose(old, new)]
    batch = f"batch {before.train.batch_size} -> {after.train.batch_size}"
    return f"equivalence rule: {batch} (x{k:g}), {', '.join(moves)}, {after.train.num_shards} shards of {after.train.shard_size}"


def evaluate(given: argparse.Namespace) -> int:
    """`tuner evaluate`."""
    path = given.checkpoint
    if not path.exists():
        raise UserError(f"{path}: no such checkpoint")
    from safetensors.torch import save_file

    from trainables import checkpoint, train
    from trainables.encoders import plain_resnet_state
    from trainables.group import Group, default_device

    if path.is_dir():
        newest = checkpoint.newest(path)
        if newest is None:
            raise UserError(f"{path}: holds no valid checkpoint (step-*.safetensors)")
        path = newest.path
    try:
        scores, learner, classifier = train.evaluate(path, given.split, given.network, Group(device=default_device()))
    except checkpoint.Damaged as fault:
        raise UserError(str(fault)) from None
    network = given.network or learner.config.evaluation.network
    facts = {"checkpoint": str(path), "step": learner.step_index, "network": network, "split": given.split, **scores}
    if given.save:
        head = {"fc.weight": classifier.weight, "fc.bias": classifier.bias}
        state = plain_resnet_state(learner.network(network)) | head
        given.save.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, given.save)
        facts["saved"] = str(given.save)
    if given.json:
        print(json.dumps(facts, indent=2))
    else:
        print("\n".join(f"{name:<12} {value:.4f}" if isinstance(value, float) else f"{name:<12} {value}" for name, value in facts.items()))
    return 0
