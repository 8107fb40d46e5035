"""Scores of a trial's network: after an epoch, and of a checkpoint."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from trainables.config import trial as c
from trainables.config.evaluation import PROTOCOLS, require_fit, with_recipe
from trainables.data import images as data
from trainables.evaluation.measure import measure
from trainables.evaluation.subject import Subject
from trainables.learning.learner import Learner
from trainables.networks.group import Group
from trainables.running import checkpoint as checkpoints
from trainables.running import classifier_file, preparation
from trainables.running.checkpoint import Checkpoint
from trainables.running.messages import Evaluation, Metrics, Report
from trainables.running.resolve import resolved
from trainables.running.segment import Segment


def score(learner: Learner, bank: data.Images, validation: data.Images) -> Metrics:
    """The scores of the trial's `evaluation.protocols` on the validation split, and the number of its images.

    Collective.
    """
    chosen = learner.config.evaluation
    network, probe = learner.network(chosen.network), learner.student.probe
    scores = measure(Subject(network, learner.config, bank, validation, learner.group, probe), chosen.protocols)
    return {**scores, "validation_images": float(len(validation))}


def scored(asked: Evaluation, workers: Group = Group(), read: Checkpoint | None = None) -> dict[str, Any]:
    """Scores a checkpoint, and writes the file that is asked for. Collective.

    Args:
        asked: what is asked.
        workers: this worker's place.
        read: the checkpoint, where it has been read.

    Returns:
        The scores, under "scores", and what they depend on: step, network, split, number of images and of classes,
        the protocols with their settings, the labels and the seed.

    Raises:
        UserError: a protocol does not fit the trial.
        Damaged: the checkpoint is.
    """
    found = checkpoints.read(Path(asked.checkpoint)) if read is None else read
    measured, subject, learner = evaluate(found, asked.split, asked.protocols, asked.changes, workers)
    if asked.save:
        classifier_file.write(Path(asked.save), subject)
    config = subject.config
    used = dict.fromkeys(name for protocol in asked.protocols for name in (protocol, *PROTOCOLS[protocol].USES))
    return {
        "checkpoint": asked.checkpoint,
        "step": learner.step_index,
        "network": config.evaluation.network,
        "split": asked.split,
        "images": len(subject.scored),
        "classes": subject.classes,
        "protocols": [*asked.protocols],
        "settings": {name: config.evaluation.protocol(name).model_dump(mode="json") for name in used},
        "before_feature_norm": config.evaluation.before_feature_norm,
        "labels": {**config.data.labels.model_dump(mode="json", exclude={"apart"}), "images": len(subject.labelled)},
        "seed": config.seed,
        "scores": measured,
        "saved": asked.save,
    }


def perform(
    values: Mapping[str, Any], folder: Path, report: Report, workers: Group, segment: Segment | None = None
) -> None:
    """An evaluation as the work of slots: reports what `scored` returns as the metrics of epoch 0. Collective.

    It makes no checkpoint: whoever is asked to leave it finishes it first.

    Args:
        values: of an `Evaluation`.
        folder: of its logs.
        report: called on rank 0.
        workers: this worker's place.
        segment: whose requests come too late here.
    """
    result = scored(Evaluation(**values), workers)
    if workers.rank == 0:
        report({"epoch": 0.0, "scored": result})


def evaluate(
    checkpoint: Checkpoint,
    split: str,
    protocols: Sequence[str] = ("knn", "linear"),
    changes: Mapping[str, Any] = MappingProxyType({}),
    workers: Group = Group(),
) -> tuple[Metrics, Subject, Learner]:
    """Scores a checkpoint on a split. Collective.

    Args:
        checkpoint: of the trial.
        split: "validation" or "test"; protocols learn from images of the bank.
        protocols: their names.
        changes: dotted keys that differ from the trial's, such as where its data are now. Another `recipe` for a
            protocol replaces all of the trial's options of that protocol.
        workers: this worker's place.

    Returns:
        The scores, their subject with the configuration that was used, and the restored Learner.

    Raises:
        UserError: a protocol does not fit the trial.
    """
    preparation.make_deterministic(workers.device, checkpoint.config["train"]["precision"])
    config = c.changed(with_recipe(checkpoint.config, changes), changes)
    require_fit(protocols, config)
    train, bank, other = preparation.load_sets(config.data, split, workers.device)
    config = resolved(config, bank.classes)
    learner = Learner(config, train.channels, len(train), workers, bank.classes)
    learner.load_state_dict(checkpoint.tensors, checkpoint.values["learner"])
    subject = Subject(learner.network(config.evaluation.network), config, bank, other, workers, learner.student.probe)
    return measure(subject, protocols), subject, learner
