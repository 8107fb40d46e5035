"""Scores of a trial's network: after an epoch, and of a checkpoint."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from trainables.config import trial as c
from trainables.config.evaluation import require_fit, with_recipe
from trainables.data import images as data
from trainables.evaluation.measure import measure
from trainables.evaluation.subject import Subject
from trainables.learning.learner import Learner
from trainables.networks.group import Group
from trainables.running import preparation
from trainables.running.checkpoint import Checkpoint
from trainables.running.messages import Metrics
from trainables.running.resolve import resolved


def score(learner: Learner, bank: data.Images, validation: data.Images) -> Metrics:
    """The scores of the trial's `evaluation.protocols` on the validation split, and the number of its images.

    Collective.
    """
    chosen = learner.config.evaluation
    network, probe = learner.network(chosen.network), learner.student.probe
    scores = measure(Subject(network, learner.config, bank, validation, learner.group, probe), chosen.protocols)
    return {**scores, "validation_images": float(len(validation))}


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
