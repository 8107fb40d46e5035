"""The base class of stoppers. Each stopper is one file, found by its name, with one class that has the rule."""

from abc import ABC, abstractmethod
from typing import Literal, get_args

from trainables.config.errors import shown
from tuner.plan.spec import SearchSpec
from tuner.search.extensions import Extension

Verdict = Literal["continue", "stop", "pause"]
VERDICTS: tuple[str, ...] = get_args(Verdict)
KEY = "stopping.kind"  # the setting that names a stopper
PACKAGE = "tuner.search.stoppers"


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
        """Keys of paused trials that shall go on, in the order in which they shall start.

        The core asks whenever a trial could start. Once all trials were proposed and none runs, it lets all paused ones
        go on, so that no trial is left behind.
        """
        return []


def make(spec: SearchSpec) -> Stopper:
    """Returns the stopper that a search names.

    Raises:
        UserError: its file cannot be imported, has no class or several, or the class cannot be made.
    """
    extension = Extension(KEY, spec.stopping.kind, PACKAGE)
    module = extension.load()
    defined = dict.fromkeys(
        thing
        for thing in vars(module).values()
        if isinstance(thing, type) and issubclass(thing, Stopper) and thing.__module__ == module.__name__
    )
    kinds = [kind for kind in defined if not any(other is not kind and issubclass(other, kind) for other in defined)]
    if not kinds:
        raise extension.fault("has no subclass of Stopper")
    if len(kinds) > 1:
        names = ", ".join(kind.__name__ for kind in kinds)
        raise extension.fault(f"has more than one stopper: {names}; a file has one")
    with extension.guarded(f"has a stopper, {kinds[0].__name__}, that cannot be made"):
        return kinds[0](spec)


def judge(stopper: Stopper, key: str, epoch: int, score: float) -> Verdict:
    """Returns a stopper's verdict on a trial after an epoch that is not its last.

    Raises:
        UserError: the stopper raised, or answered something that is no verdict.
    """
    extension = _extension_of(stopper)
    with extension.guarded(f"raised at epoch {epoch} of trial {key}"):
        verdict = stopper.hear(key, epoch, score)
    if not isinstance(verdict, str) or verdict not in VERDICTS:
        code = getattr(type(stopper).hear, "__code__", None)
        place = "" if code is None else f" (hear, line {code.co_firstlineno})"
        rule = f"a verdict is one of {', '.join(VERDICTS)}"
        raise extension.fault(f"answered {shown(verdict)} to epoch {epoch} of trial {key}{place}; {rule}")
    return verdict


def conclude(stopper: Stopper, key: str, epoch: int, score: float) -> None:
    """Tells a stopper the last epoch of a trial.

    Raises:
        UserError: the stopper raised.
    """
    with _extension_of(stopper).guarded(f"raised at epoch {epoch} of trial {key}, its last"):
        stopper.end(key, epoch, score)


def promoted(stopper: Stopper) -> list[str]:
    """Returns the keys of paused trials that a stopper has go on.

    Raises:
        UserError: the stopper raised, or answered something that is no list of keys.
    """
    extension = _extension_of(stopper)
    with extension.guarded("raised when it was asked for promotions"):
        keys = stopper.promoted()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise extension.fault(f"promoted {shown(keys)}; it must be a list of keys of trials")
    return keys


def _extension_of(stopper: Stopper) -> Extension:
    """Returns the file that a stopper is from."""
    package, _, name = type(stopper).__module__.rpartition(".")
    return Extension(KEY, name, package)
