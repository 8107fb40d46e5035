"""What a worker of a slot is doing at a moment, from its Python stacks, and how far its trial has come."""

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from tests.chaos.plans import STEPS
from tests.chaos.processes import Frame, stacks

Phase = Literal["start-up", "step", "evaluation", "checkpoint", "regroup", "idle", "unknown"]
"""start-up: until the first step of a trial, imports included. regroup: the same of a trial that has a checkpoint:
leaving a process group, joining another, reading the checkpoint. idle: there is no trial for it."""
PHASES: tuple[Phase, ...] = get_args(Phase)
STRETCH = re.compile(r"(\S+ \S+),(\d{3}) INFO steps from (\d+) on: worker \d+ of (\d+)")
STARTED = re.compile(r"^(\S+ \S+) INFO attempt .* process (\d+)", re.MULTILINE)

# A stack is of a phase if it has a frame of one of these files and functions; the first phase that fits counts.
MARKS: tuple[tuple[Phase, str], ...] = (
    ("checkpoint", r"running/checkpoint\.py:write|running/saver\.py:Saver\.(save|wait|between_steps|_written|_write)$"),
    (
        "evaluation",
        r"running/scoring\.py:.*|trainables/evaluation/.*|learner\.py:.*(watch|close_epoch)|running/fit\.py:_tell",
    ),
    ("step", r"learner\.py:(Learner\.)?step|data/feed\.py:.*|learning/gradient_sum\.py:.*"),
)
BEFORE = re.compile(r"running/resuming\.py:resume|running/fit\.py:_replay")  # a segment's first step
WAITING = re.compile(r"ray_train\.py:(_next|_leave)")
LOOP = re.compile(r"trainables/(ray_train|running/fit)\.py")


@dataclass(frozen=True)
class Doing:
    """What a worker is doing.

    Attributes:
        phase: of its work.
        key: of its trial; None where it has none.
        rank: of the worker in its trial.
        step: how many steps of the trial are made; None where the stack does not tell.
    """

    phase: Phase
    key: str | None = None
    rank: int | None = None
    step: int | None = None

    @property
    def at_work(self) -> bool:
        """Whether it has a trial or is starting up."""
        return self.phase not in ("idle", "unknown")


def doing(pid: int, run: Path, blocking: bool = True) -> Doing:
    """What a worker of a slot is doing.

    Args:
        pid: of its process.
        run: directory of the search.
        blocking: whether the process is paused meanwhile; one that is stopped cannot be.
    """
    threads = stacks(pid, blocking)
    if not threads:
        return Doing("unknown")
    phase = phase_of(threads)
    key, rank = trial_of(pid, run)
    if phase == "start-up" and key is not None and checkpoints(run, key):
        phase = "regroup"
    return Doing(phase, key if phase != "idle" else None, rank, step_of(threads))


def phase_of(threads: list[list[Frame]]) -> Phase:
    """The phase that stacks show; a thread that writes a checkpoint beside the steps counts as a checkpoint."""
    places = [[f"{frame.file}:{frame.function}" for frame in thread] for thread in threads]
    if any(place.endswith(":<module>") and "/trainables/" in place for thread in places for place in thread):
        return "start-up"  # imports what its work needs
    if any(BEFORE.search(place) for thread in places for place in thread):
        return "start-up"
    for phase, mark in MARKS:
        if any(re.search(mark, place) for thread in places for place in thread):
            return phase
    loop = [thread for thread in places if any(LOOP.search(place) for place in thread)]
    if any(WAITING.search(place) for thread in loop for place in thread):
        return "idle"
    if loop and all(_at_the_store(thread) for thread in loop):
        return "idle"
    return "start-up"


def _at_the_store(places: list[str]) -> bool:
    """Whether a rank waits in the loop of its slot itself, for what rank 0 will tell."""
    return bool(re.search(r"ray_train\.py:.*slot_loop$", places[0]))


def step_of(threads: list[list[Frame]]) -> int | None:
    """How many steps of its trial a worker has made, from the variables of `fit`; None where it is not in `fit`."""
    frames = [frame for thread in threads for frame in thread if frame.file.endswith("running/fit.py")]
    for frame in frames:
        epoch, at = frame.variables.get("epoch", ""), frame.variables.get("at", "")
        if epoch.isdigit() and at.isdigit():
            return int(epoch) * STEPS + int(at)
    for frame in frames:  # between two epochs; `epoch` counts those that are over
        if (epoch := frame.variables.get("epoch", "")).isdigit():
            return int(epoch) * STEPS
    return None


def trial_of(pid: int, run: Path) -> tuple[str | None, int | None]:
    """The trial that a worker has taken last, and its rank there, by the trials' logs."""
    found: list[tuple[str, str, int]] = []
    for log in (run / "trials").glob("*/rank-*.log"):
        for when, process in STARTED.findall(_text(log)):
            if int(process) == pid:
                found.append((when, log.parent.name, int(log.stem.removeprefix("rank-"))))
    return max(found)[1:] if found else (None, None)


def checkpoints(run: Path, key: str) -> dict[int, float]:
    """Steps of the checkpoints that a trial has now, and when they were written."""
    found = {}
    for path in (run / "trials" / key).glob("step-*.safetensors"):
        try:
            found[int(path.name.partition(".")[0].removeprefix("step-"))] = path.stat().st_mtime
        except FileNotFoundError:  # pruned meanwhile
            continue
    return found


@dataclass(frozen=True)
class Stretch:
    """A line of a trial's log: from this step on, since this time, it was trained."""

    at: float
    step: int
    width: int


def stretches(run: Path, key: str) -> list[Stretch]:
    """When a trial was begun and when it went on, by the log of its first worker, in their order."""
    found = []
    for line in _text(run / "trials" / key / "rank-0.log").splitlines():
        if match := STRETCH.match(line):
            second = time.mktime(time.strptime(match[1], "%Y-%m-%d %H:%M:%S"))
            found.append(Stretch(second + int(match[2]) / 1000, int(match[3]), int(match[4])))
    return found


def _text(log: Path) -> str:
    try:
        return log.read_text(errors="replace")
    except FileNotFoundError:
        return ""
