"""The light Tune trainable: a conversation with a slot, with no training in it."""

from typing import Any

import ray
from ray import tune

from trainables.config.errors import TrialFailure
from trainables.running.messages import Work
from tuner.fleet.slots import Conversation, SlotLost


class SlotTrial(tune.Trainable):
    """A trial of Tune that is trained by a slot.

    Its config: {"board": name of the switchboard, "claim": id for the claim, "key", "trial": configuration, "folder",
    "epochs", "metric"}.

    A step is an epoch. Its result has "epoch" and the objective, for schedulers, and "report": the `EpochReport`,
    which Tune does not look into. If the trial fails by its own fault, the last result has an "error"; if it has no
    workers, it has "lost". Neither raises an exception, because Tune's restarts are for actors that died. The actor
    does not release the claim, because Tune may have started another actor for the trial: the bridge does.
    """

    def setup(self, config: dict[str, Any]) -> None:
        work = Work(config["key"], config["trial"], config["folder"])
        self.key, self.epochs, self.metric = config["key"], config["epochs"], config["metric"]
        self.last: dict[str, Any] = {"epoch": 0, "report": None}
        try:
            self.talk: Conversation | None = Conversation(ray.get_actor(config["board"]), config["claim"], work)
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
        if report.key != self.key:
            raise RuntimeError(f"an epoch of trial {report.key} reached trial {self.key}")
        self.last = {"epoch": report.epoch, self.metric: report.metrics[self.metric], "report": report, "error": None}
        return {**self.last, "done": report.epoch >= self.epochs}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True
