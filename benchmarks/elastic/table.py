"""The table of the rounds, in Markdown."""

import math
import statistics
from collections.abc import Callable, Sequence

from benchmarks.elastic import measure
from benchmarks.elastic.contenders import CONTENDERS
from benchmarks.elastic.nodes import Event
from benchmarks.elastic.rounds import Round
from benchmarks.elastic.trials import Trials

PAGE = """\
# A search on nodes that come and go

`{command}` on {machine}. Load at each launch: {loads}.

A head without CPUs and two nodes of one CPU each, on one machine. The search begins on node 1, gets node 2, loses
node 1 and gets it back. Each contender trains the same {count} trials (digits, ResNet-18 of width 16, BYOL, {epochs}
epochs, 4 exact shards in fp32, a checkpoint after each epoch) under the same script of events.

![timeline](elastic.png)

{script}

## Figures

{table}

Medians of the rounds, in brackets each of them; the picture shows the round with the median time of each contender.

- From change to use: from a node's join, as the cluster knows it, to the first step on it; from the kill to the next
  step of the trial that the node trained ("-": it trained none). With lent slots node 2 has a trial of its own then;
  the trial that lost its node is the next one there.
- Utilisation: seconds in steps and evaluations / seconds that the nodes were there, start-up included. Both come from
  the logs of the workers and from `/proc`.
- Images a second: training images of all trials / seconds to all results.
- Equal bit for bit: all metrics of all epochs are those of the trial trained alone, in one process, without Ray.
- "never": a change was not used before the search ended, or the search had no end within {limit:.0f} s.

Ray Tune + Ray Train is `benchmarks/elastic/stock.py`: a TorchTrainer a trial with `max_failures=-1`, a look at the
cluster every 5 s (`elastic_resize_monitor_interval_s`), a start-up of a worker group limited to 10 s, workers polled
every 0.5 s, trial actors on the head, and checkpoints on a disc that all nodes share. It runs one trial at a time,
because an elastic trainer takes all that is free.
"""
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
    """The median of some values, and in brackets all of them.

    None, a change that was never used, is the largest value, in words "never". NaN, where there was nothing to measure,
    is "-" and does not count.
    """

    def word(value: float) -> str:
        return "never" if value == math.inf else "-" if math.isnan(value) else form.format(value)

    each = [math.inf if value is None else value for value in values]
    counting = [value for value in each if not math.isnan(value)]
    middle = word(statistics.median(counting) if counting else math.nan)
    return middle if len(each) == 1 else f"{middle} ({', '.join(map(word, each))})"


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
