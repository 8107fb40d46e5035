"""The light Tune trainable: a conversation with a slot, with no training in it."""

from dataclasses import dataclass
from typing import Any

import ray
from ray import tune

from trainables.config.errors import TrialFailure
from tuner.fleet.conversation import Conversation, SlotLost


@dataclass(frozen=True)
class SlotOrder:
    """What a `SlotTrial` listens to. It is small, for Tune keeps several copies of it for as long as it runs.

    Attributes:
        board: name of the switchboard's actor.
        claim: id of the claim on a slot; Tune's id of the trial.
        key: of the trial.
        epochs: number of the last epoch, after which the trial is done.
        metric: name of the objective among an epoch's metrics.
    """

    board: str
    claim: str
    key: str
    epochs: int
    metric: str

    def __str__(self) -> str:
        """The trial's key: Tune names its folders by the text of a configuration."""
        return self.key


class SlotTrial(tune.Trainable):
    """A trial of Tune that is trained by a slot.

    Its config: {"order": a `SlotOrder`}.

    A step is an epoch. Its result has "epoch" and the objective, for schedulers, and "report": the `EpochReport`,
    which Tune does not look into. If the trial fails by its own fault, the last result has an "error"; if it has no
    workers, it has "lost". Neither raises an exception, because Tune's restarts are for actors that died.

    The bridge makes the claim and releases it. So the trial trains while its actor starts, and Tune may hand it to an
    actor that another trial left and nevertheless start the one that it had begun to make.
    """

    def setup(self, config: dict[str, Any]) -> None:
        order: SlotOrder = config["order"]
        self.order = order
        self.last: dict[str, Any] = {"epoch": 0, "report": None}
        try:
            self.talk: Conversation | None = Conversation(ray.get_actor(order.board), order.claim)
        except SlotLost as lost:
            self.talk, self.lost = None, str(lost)

    def step(self) -> dict[str, Any]:
        if self.talk is None:
            return {**self.last, "lost": self.lost, "done": True}
        try:
            report = self.talk.take()
        except TrialFailure as failure:
            return {**self.last, "error": str(failure), "done": True}
        except SlotLost as lost:
            return {**self.last, "lost": str(lost), "done": True}
        if report is None:
            return {**self.last, "error": "it ended before its last epoch", "done": True}
        key, metric = self.order.key, self.order.metric
        if report.key != key:
            raise RuntimeError(f"an epoch of trial {report.key} reached trial {key}")
        self.last = {"epoch": report.epoch, metric: report.metrics[metric], "report": report, "error": None}
        return {**self.last, "done": report.epoch >= self.order.epochs}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True
