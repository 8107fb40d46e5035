"""The light Tune trainable: a conversation with a slot, with no training in it."""

from typing import Any

import ray
from ray import tune

from trainables.config.errors import TrialFailure
from tuner.fleet.slots import Conversation, SlotLost


class SlotTrial(tune.Trainable):
    """Its config: {"board": name of the switchboard, "claim": for it, "key", "trial": configuration, "folder", "epochs", "metric"}.

    A step is an epoch; its result has the epoch and the objective, for schedulers, and all metrics of the trial below "metrics". A trial
    that fails by its own fault is done with an "error" in its result, one that has no workers with "lost", and neither with an exception:
    Tune's restarts are for actors that died. It does not give its slot back, for it may not be the trial's only actor: the searcher does.
    """

    def setup(self, config: dict[str, Any]) -> None:
        work = {"key": config["key"], "config": config["trial"], "folder": config["folder"]}
        self.key, self.epochs, self.metric = config["key"], config["epochs"], config["metric"]
        self.last: dict[str, Any] = {"epoch": 0, "metrics": {}}
        try:
            self.talk: Conversation | None = Conversation(ray.get_actor(config["board"]), config["claim"], work)
        except SlotLost as lost:
            self.talk, self.lost = None, str(lost)

    def step(self) -> dict[str, Any]:
        if self.talk is None:
            return {**self.last, "lost": self.lost, "done": True}
        try:
            metrics = self.talk.take()
        except TrialFailure as failure:
            return {**self.last, "error": str(failure), "done": True}
        except SlotLost as lost:
            return {**self.last, "lost": str(lost), "done": True}
        if metrics is None:
            return {**self.last, "error": "it ended before its last epoch", "done": True}
        if metrics["trial"] != self.key:
            raise RuntimeError(f"metrics of trial {metrics['trial']} reached trial {self.key}")
        self.last = {"epoch": metrics["epoch"], self.metric: metrics[self.metric], "metrics": metrics, "error": None}
        return {**self.last, "done": metrics["epoch"] >= self.epochs}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True
