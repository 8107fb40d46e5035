"""A full run of one configuration on Ray Train, and the evaluation of its checkpoints."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from trainables import config as c
from trainables import equivalence
from trainables.errors import TrialFailure, UserError
from trainables.settings import flat, read_settings, read_yaml
from tuner import runs, spec
from tuner.allocation import check_cluster
from tuner.report import command, shown
from tuner.study import Study, key_of

KEY = "full"
SETTABLE = ("data.root", "data.download", "data.loaders", "evaluation.")


def start(given: argparse.Namespace) -> int:
    """`tuner train`."""
    values = read_settings(given.set) | ({} if given.epochs is None else {"train.epochs": given.epochs})
    config = c.changed(read_yaml(given.config), values)
    if given.batch_size and given.batch_size != config.train.batch_size:
        before, config = config, equivalence.scaled_batch(config, given.batch_size)
        print(equivalence.line(before, config))
    elif rule := equivalence.own_line(config):
        print(rule)
    resources = {"workers": given.workers, "cpus_per_worker": given.cpus_per_worker, "gpus_per_worker": given.gpus_per_worker}
    wanted = spec.parse({"name": "train", "address": given.address, "trial": config.plain(), "resources": resources})
    wanted = spec.settled(wanted)
    check_cluster(wanted)
    run = runs.Run.create(given.run or runs.unused(Path("runs"), f"train-{given.config.stem}"), "train", wanted.plain(), config.seed)
    run.hold()
    try:
        return continue_run(run, wanted)
    except UserError:
        run.discard()
        raise


def continue_run(run: runs.Run, wanted: spec.SearchSpec) -> int:
    """Trains from the newest checkpoint to the end."""
    from trainables import checkpoint

    print(f"full run -> {run.path}", flush=True)
    newest = checkpoint.newest(run.trial_folder(KEY))
    history = newest.values["history"] if newest else []
    if not history or history[-1]["epoch"] < wanted.trial.train.epochs:
        _train(run, wanted)
        newest = checkpoint.newest(run.trial_folder(KEY))
    if newest is None:
        raise TrialFailure(f"no valid checkpoint was left in {run.trial_folder(KEY)}")
    print(f"checkpoint: {shown(newest.path)}\nnext:\n  {command('tuner', 'evaluate', newest.path)}")
    print(f"  {command('tensorboard', '--logdir', run.tensorboard_folder)}")
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


def _checkpoints_of(path: Path) -> Path:
    """A checkpoint, or the folder that holds some; of a run directory the trial that counts: the full one, or the best of a search."""
    if not (path / "manifest.json").is_file():
        return path
    run = runs.Run(path)
    if run.kind == "train":
        return run.trial_folder(KEY)
    best = Study(run.journal, spec.parse(run.spec), None, reading=True).best(1)
    if not best:
        raise UserError(f"{path}: no trial is complete yet, so there is nothing to evaluate")
    return run.trial_folder(key_of(best[0]))


def evaluate(given: argparse.Namespace) -> int:
    """`tuner evaluate`."""
    path = _checkpoints_of(given.checkpoint)
    if not path.exists():
        raise UserError(f"{path}: no such checkpoint")
    changes = read_settings(given.set)
    if odd := [key for key in changes if not key.startswith(SETTABLE)]:
        raise UserError(f"--set {odd[0]}: only {', '.join(f'{key}*' for key in SETTABLE)} can be changed for an evaluation")
    if given.save:
        given.save.parent.mkdir(parents=True, exist_ok=True)
        given.save.touch()  # what cannot be written is to be known before the work
    from safetensors.torch import save_file

    from trainables import checkpoint, train
    from trainables.encoders import plain_resnet_state, unlike_torchvision
    from trainables.group import Group, default_device

    if path.is_dir():
        newest = checkpoint.newest(path)
        if newest is None:
            raise UserError(f"{path}: holds no valid checkpoint (step-*.safetensors)")
        path = newest.path
    try:
        found = checkpoint.read(path)
    except checkpoint.Damaged as fault:
        raise UserError(str(fault)) from None
    if given.save and (reason := unlike_torchvision(c.parse(found.values["config"]).encoder)):
        raise UserError(f"--save {given.save}: {reason}")
    scores, learner, classifier = train.evaluate(found, given.split, given.network, changes, Group(device=default_device()))
    network = given.network or learner.config.evaluation.network
    facts = {"checkpoint": str(path), "step": learner.step_index, "network": network, "split": given.split, **scores}
    if given.save:
        head = {"fc.weight": classifier.weight, "fc.bias": classifier.bias}
        state = plain_resnet_state(learner.network(network)) | head
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, given.save)
        facts["saved"] = str(given.save)
    if given.json:
        print(json.dumps(facts, indent=2))
    else:
        print("\n".join(f"{name:<12} {value:.4f}" if isinstance(value, float) else f"{name:<12} {value}" for name, value in facts.items()))
    return 0
