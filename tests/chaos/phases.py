"""What a worker of a slot is doing at a moment, from its Python stacks, and how far its trial has come."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from tests.chaos.processes import Frame, stacks

Phase = Literal["start-up", "step", "evaluation", "checkpoint", "regroup", "idle", "unknown"]
"""start-up: until the first step of a trial, imports included. regroup: the same of a trial that has a checkpoint:
leaving a process group, joining another, reading the checkpoint. idle: there is no trial for it."""
PHASES: tuple[Phase, ...] = get_args(Phase)
STARTED = re.compile(r"^(\S+ \S+) INFO attempt .* process (\d+)", re.MULTILINE)

# A stack is of a phase if it has a frame of one of these files and functions; the first phase that fits counts.
MARKS: tuple[tuple[Phase, str], ...] = (
    ("checkpoint", r"running/(checkpoint|writing|writer)\.py:.*|running/resuming\.py:save.*|learner\.py:.*state_dict"),
    ("evaluation", r"running/scoring\.py:.*|trainables/evaluation/.*|learner\.py:.*(watch|close_epoch)"),
    ("step", r"learner\.py:(Learner\.)?step|data/feed\.py:.*|learning/gradient_sum\.py:.*"),
)
READING = re.compile(r"running/resuming\.py:resume|running/checkpoint\.py:(newest|read)\b")
WAITING = re.compile(r"ray_train\.py:(_next|next_.*|_wait.*|_leave|wait_.*)")
LOOP = re.compile(r"trainables/(ray_train|running/fit)\.py")


@dataclass(frozen=True)
class Doing:
    """What a worker is doing.

    Attributes:
        phase: of its work.
        key: of its trial; None where it has none.
        rank: of the worker in its trial.
        step: of the trial that is being made, from 0; None where the stack does not tell.
    """

    phase: Phase
    key: str | None = None
    rank: int | None = None
    step: int | None = None


def doing(pid: int, run: Path, steps: int, blocking: bool = True) -> Doing:
    """What a worker of a slot is doing.

    Args:
        pid: of its process.
        run: directory of the search.
        steps: of an epoch.
        blocking: whether the process is paused meanwhile; one that is stopped cannot be.
    """
    threads = stacks(pid, blocking)
    if not threads:
        return Doing("unknown")
    phase = phase_of(threads)
    key, rank = trial_of(pid, run)
    if phase == "start-up" and key is not None and checkpoints(run, key):
        phase = "regroup"
    return Doing(phase, key if phase != "idle" else None, rank, step_of(threads, steps))


def phase_of(threads: list[list[Frame]]) -> Phase:
    """The phase that stacks show; a thread that writes a checkpoint beside the steps counts as a checkpoint."""
    places = [[f"{frame.file}:{frame.function}" for frame in thread] for thread in threads]
    if any(READING.search(place) for thread in places for place in thread):
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


def step_of(threads: list[list[Frame]], steps: int) -> int | None:
    """The step that a stack is at, from the variables `epoch` (from 0) and `at` of a frame of `fit`."""
    for frame in (frame for thread in threads for frame in thread if frame.file.endswith("running/fit.py")):
        epoch, at = frame.variables.get("epoch", ""), frame.variables.get("at", "")
        if epoch.isdigit() and at.isdigit():
            return int(epoch) * steps + int(at)
    return None


def trial_of(pid: int, run: Path) -> tuple[str | None, int | None]:
    """The trial that a worker has taken last, and its rank there, by the trials' logs."""
    found: list[tuple[str, str, int]] = []
    for log in (run / "trials").glob("*/rank-*.log"):
        for time, process in STARTED.findall(_text(log)):
            if int(process) == pid:
                found.append((time, log.parent.name, int(log.stem.removeprefix("rank-"))))
    return max(found)[1:] if found else (None, None)


def checkpoints(run: Path, key: str) -> dict[int, float]:
    """Steps of the checkpoints that a trial has now, and when they were written."""
    found = {}
    for path in (run / "trials" / key).glob("step-*.safetensors"):
        try:
            found[int(path.stem.removeprefix("step-"))] = path.stat().st_mtime
        except FileNotFoundError:  # pruned meanwhile
            continue
    return found


def _text(log: Path) -> str:
    try:
        return log.read_text(errors="replace")
    except FileNotFoundError:
        return ""
