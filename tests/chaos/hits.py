"""Faults that have happened: whom they met, and what they cost."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.phases import Doing, Phase, stretches
from tests.chaos.processes import Process


@dataclass
class Hit:
    """A fault that has happened.

    Attributes:
        fault: its kind.
        at: seconds since the launch.
        phase: of the worker that was hit, or of the first trial that had to go back.
        rank: of the worker that was hit.
        width: how many workers its trial had.
        aimed: whether it waited for a phase.
        counts: whether it hit something that lived and was at work.
        lost_steps: of the trial that lost most; None where no trial went back.
        lost_s: seconds since the checkpoint that it went on from.
        next_s: seconds until all trials that it hit made steps again; None where another fault met one before that.
    """

    fault: str
    at: float
    phase: Phase = "unknown"
    rank: int | None = None
    width: int | None = None
    aimed: bool = False
    counts: bool = True
    lost_steps: int | None = None
    lost_s: float | None = None
    next_s: float | None = None


@dataclass
class Moment:
    """What was so when a fault came.

    Attributes:
        at: its time.
        trials: of each trial that was trained, what the worker that was furthest did.
        checkpoints: of these trials, by step, and when they were written.
        workers: processes of these trials, by their ids.
        hit: the trials whose workers died of it.
        everything: whether the whole search was hit, also trials that had no worker then.
    """

    at: float
    trials: dict[str, Doing] = field(default_factory=dict)
    checkpoints: dict[str, dict[int, float]] = field(default_factory=dict)
    workers: dict[Process, str] = field(default_factory=dict)
    hit: set[str] = field(default_factory=set)
    everything: bool = False


def measure(run: Path, hits: Sequence[Hit], moments: Sequence[Moment]) -> None:
    """Works out what each fault cost, from what was so when it came and from the logs of the trials."""
    for number, (hit, moment) in enumerate(zip(hits, moments, strict=True)):
        met = sorted(moment.hit & moment.trials.keys()) or sorted(moment.trials)
        if hit.phase == "unknown" and met:
            hit.phase, hit.width = moment.trials[met[0]].phase, width(run, met[0], moment.at)
        elif hit.phase == "unknown" and hit.counts:
            hit.phase = "start-up"  # no worker had a trial
        costs = [_cost(run, moment, key, moments[number + 1 :]) for key in sorted(moment.hit)]
        for name in ("lost_steps", "lost_s", "next_s"):
            values = [cost[name] for cost in costs if name in cost]
            if values:
                setattr(hit, name, round(max(values), 2))


def width(run: Path, key: str | None, at: float = float("inf")) -> int | None:
    """How many workers a trial had at a time, by its log."""
    found = [line for line in stretches(run, key) if line.at <= at] if key is not None else []
    return found[-1].width if found else None


def _cost(run: Path, moment: Moment, key: str, later: Sequence[Moment]) -> dict[str, float]:
    """What a fault cost a trial; nothing where another fault met it before it was back."""
    lines = stretches(run, key)
    back = next((line for line in lines if line.at > moment.at), None)
    if back is None or any((other.everything or key in other.hit) and other.at < back.at for other in later):
        return {}
    cost: dict[str, float] = {"next_s": back.at - moment.at}
    found = moment.trials.get(key)
    if found is not None and found.step is not None and found.phase in ("step", "evaluation", "checkpoint"):
        since = [line.at for line in lines if line.at <= moment.at]
        saved = moment.checkpoints[key].get(back.step)
        begun = max([*since[-1:], *([saved] if saved else [])], default=moment.at)
        cost |= {"lost_steps": max(0, found.step - back.step), "lost_s": max(0.0, moment.at - begun)}
    return cost
