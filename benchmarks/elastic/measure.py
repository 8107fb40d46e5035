"""What a search did with its nodes: stretches of training from the logs of its workers, and figures of them.

Everything but `stretches_in` is a pure function of times.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from benchmarks.elastic.nodes import Event, Sight

LINE = re.compile(r"^(?P<at>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) \w+ (?P<text>.*)$")
BEGINS = re.compile(r"steps from (?P<step>\d+) on: worker (?P<rank>\d+) of (?P<width>\d+), process (?P<process>\d+)")
ENDS = re.compile(r"steps until (?P<step>\d+)")


@dataclass(frozen=True)
class Stretch:
    """Steps and evaluations of a trial in one process, without a break. Times are of the machine's clock.

    Attributes:
        trial: label of the trial.
        node: name of the node.
        begins: of its first step.
        ends: of its last step or evaluation, or when its process was last seen.
        width: workers of the trial.
        step: of the trial, at its beginning.
    """

    trial: str
    node: str
    begins: float
    ends: float
    width: int
    step: int


@dataclass(frozen=True)
class Life:
    """From when to when a node was there."""

    node: str
    begins: float
    ends: float


def stretches_in(folder: Path, trial: str, processes: Mapping[int, Sight]) -> list[Stretch]:
    """The stretches of a trial, from the logs of its workers.

    Args:
        folder: of the trial.
        trial: its label.
        processes: what was seen of the workers; a stretch of any other process is left out.
    """
    found = []
    for log in sorted(folder.glob("rank-*.log")):
        found += stretches(log.read_text(errors="replace").splitlines(), trial, processes)
    return sorted(found, key=lambda stretch: stretch.begins)


def stretches(lines: Iterable[str], trial: str, processes: Mapping[int, Sight]) -> list[Stretch]:
    """The stretches of a trial in the log of one rank. A process that was killed does not say when it ended."""
    begun: list[tuple[float, re.Match[str], float | None]] = []
    for line in lines:
        if not (parts := LINE.match(line)):
            continue
        at = datetime.strptime(parts["at"], "%Y-%m-%d %H:%M:%S,%f").timestamp()
        if match := BEGINS.search(parts["text"]):
            begun.append((at, match, None))
        elif ENDS.search(parts["text"]) and begun and begun[-1][2] is None:
            begun[-1] = (*begun[-1][:2], at)
    found = []
    for at, match, end in begun:
        if seen := processes.get(int(match["process"])):
            ends = max(at, seen.last_seen) if end is None else end
            found.append(Stretch(trial, seen.node, at, ends, int(match["width"]), int(match["step"])))
    return found


def lives(happened: Sequence[Event], begun: float, over: float) -> list[Life]:
    """From when to when each node was there, within the search. A node that was there before counts from its beginning.

    Args:
        happened: what happened to the nodes, by the machine's clock, in order.
        begun: when the search was launched.
        over: when it ended.
    """
    joined: dict[str, float] = {}
    found = []
    for event in happened:
        if event.what == "join":
            joined[event.node] = max(begun, event.at)
        else:
            found.append(Life(event.node, joined.pop(event.node), event.at))
    found += [Life(node, since, over) for node, since in joined.items()]
    found = [Life(life.node, life.begins, min(over, life.ends)) for life in found]
    return sorted((life for life in found if life.ends > life.begins), key=lambda life: life.begins)


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of some spans."""
    total, reached = 0.0, float("-inf")
    for begins, ends in sorted(spans):
        total += max(0.0, ends - max(begins, reached))
        reached = max(reached, ends)
    return total


def busy(life: Life, done: Iterable[Stretch]) -> float:
    """Seconds of a node's life that were spent in steps and evaluations."""
    spans = [(max(life.begins, stretch.begins), min(life.ends, stretch.ends)) for stretch in _on(life.node, done)]
    return covered(span for span in spans if span[1] > span[0])


def utilisation(alive: Sequence[Life], done: Sequence[Stretch]) -> float:
    """Seconds in steps and evaluations / seconds that the nodes were there, start-up included."""
    return sum(busy(life, done) for life in alive) / sum(life.ends - life.begins for life in alive)


def until_used(event: Event, done: Iterable[Stretch]) -> float | None:
    """Seconds from the join of a node to the first step on it; None if there was none."""
    return min(
        (stretch.begins - event.at for stretch in _on(event.node, done) if stretch.begins >= event.at), default=None
    )


def until_resumed(event: Event, done: Sequence[Stretch]) -> float | None:
    """Seconds from the loss of a node to the next step of the trial that it trained, on any node.

    NaN if it trained none; None if the trial made no step any more.
    """
    hit = {stretch.trial for stretch in _on(event.node, done) if stretch.begins <= event.at <= stretch.ends}
    if not hit:
        return math.nan
    later = [stretch.begins - event.at for stretch in done if stretch.trial in hit and stretch.begins > event.at]
    return min(later, default=None)


def _on(node: str, done: Iterable[Stretch]) -> list[Stretch]:
    return [stretch for stretch in done if stretch.node == node]
