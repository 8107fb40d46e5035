"""The table of the rounds, in Markdown."""

import statistics
from collections.abc import Callable, Sequence

from benchmarks.elastic import measure
from benchmarks.elastic.contenders import CONTENDERS
from benchmarks.elastic.nodes import Event
from benchmarks.elastic.rounds import Round
from benchmarks.elastic.trials import Trials

Figure = Callable[[Round], float | None]


def figures(trials: Trials) -> dict[str, tuple[Figure, str]]:
    """The figures of a round and their formats, by the heads of their columns."""
    return {
        "node 2 joins: s to the first step on it": (lambda one: _after(one, 0), "{:.1f}"),
        "node 1 is lost: s to the next step of its trial": (lambda one: _after(one, 1), "{:.1f}"),
        "node 1 is back: s to the first step on it": (lambda one: _after(one, 2), "{:.1f}"),
        "utilisation": (utilisation, "{:.0%}"),
        "images a second": (lambda one: trials.images / seconds(one) if complete(one) else None, "{:.0f}"),
        "s to all results": (lambda one: seconds(one) if complete(one) else None, "{:.0f}"),
    }


def events(one: Round) -> list[Event]:
    """What happened to the nodes while the search ran."""
    return [event for event in one.happened if event.at >= one.begun]


def seconds(one: Round) -> float:
    """From the launch of a search to the end of its process."""
    return one.over - one.begun


def complete(one: Round) -> bool:
    """Whether a search came to its end."""
    return one.status == 0


def utilisation(one: Round) -> float | None:
    """Of the nodes of a round, start-up included."""
    return measure.utilisation(measure.lives(one.happened, one.begun, one.over), one.stretches)


def _after(one: Round, index: int) -> float | None:
    """Seconds from an event to the use of the change; None if there was none."""
    if index >= len(happened := events(one)):
        return None
    event = happened[index]
    return (measure.until_used if event.what == "join" else measure.until_resumed)(event, one.stretches)


def cell(values: Sequence[float | None], form: str) -> str:
    """The median of some values, and in brackets all of them; "never" stands for a change that was never used."""
    there = [value for value in values if value is not None]
    if len(values) == 1 or not there:
        return form.format(there[0]) if there else "never"
    each = ", ".join("never" if value is None else form.format(value) for value in values)
    middle = statistics.median(float("inf") if value is None else value for value in values)
    return f"{'never' if middle == float('inf') else form.format(middle)} ({each})"


def table(rounds: Sequence[Round], trials: Trials) -> str:
    """One row for each contender."""
    columns = figures(trials)
    lines = [f"| contender | {' | '.join(columns)} | trials equal bit for bit |", "|---" * (len(columns) + 2) + "|"]
    for name, contender in CONTENDERS.items():
        mine = [one for one in rounds if one.contender == name]
        if mine:
            cells = [cell([figure(one) for one in mine], form) for figure, form in columns.values()]
            equal = ", ".join(f"{one.equal} of {one.trials}" for one in mine)
            lines.append(f"| {contender.title} | {' | '.join(cells)} | {equal} |")
    return "\n".join(lines)


def script_table(rounds: Sequence[Round], script: Sequence[Event]) -> str:
    """The script of events, and when each happened in each round."""
    words = {"join": "joins, one CPU", "kill": "is lost: kill -9 of its raylet and its workers"}
    lines = ["| event | planned s | happened s |", "|---|---|---|"]
    for index, event in enumerate(script):
        times = [f"{events(one)[index].at - one.begun:.1f}" for one in rounds if index < len(events(one))]
        lines.append(f"| {event.node} {words[event.what]} | {event.at:.0f} | {', '.join(times)} |")
    return "\n".join(lines)
