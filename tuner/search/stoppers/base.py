"""What a stopper is. One file a stopper, found by its name; the file's class has the rule."""

import importlib
from abc import ABC, abstractmethod
from typing import Literal

from tuner.plan.spec import SearchSpec

Verdict = Literal["continue", "stop", "pause"]


class Stopper(ABC):
    """Decides after each epoch whether a trial goes on.

    A stopper is a function of the epochs that it has heard, in their order, and of nothing else: no clock, no random
    numbers. So a resume, which tells it the same epochs in the same order, gets the same verdicts.

    Args:
        spec: of the search; `spec.stopping` has the options.
    """

    def __init__(self, spec: SearchSpec):
        self.spec = spec

    @abstractmethod
    def hear(self, key: str, epoch: int, score: float) -> Verdict:
        """Judges a trial after an epoch that is not its last.

        Args:
            key: of the trial.
            epoch: number of the epoch, from 1; some may be missing.
            score: of the objective, larger is better (a loss comes with its sign changed); may be NaN.
        """

    def end(self, key: str, epoch: int, score: float) -> None:
        """Hears the last epoch of a trial that was not stopped: others may be compared with it."""
        self.hear(key, epoch, score)

    def promoted(self) -> list[str]:
        """Keys of paused trials that shall go on, in the order in which they shall start."""
        return []


def make(spec: SearchSpec) -> Stopper:
    """The stopper that a search names."""
    module = importlib.import_module(f"tuner.search.stoppers.{spec.stopping.kind}")
    classes = (
        thing for thing in vars(module).values() if isinstance(thing, type) and thing.__module__ == module.__name__
    )
    return next(kind for kind in classes if issubclass(kind, Stopper))(spec)
