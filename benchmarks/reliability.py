"""Renders benchmarks/reliability.md from the records of `make chaos`: `python -m benchmarks.reliability`.

A line of benchmarks/reliability.jsonl is a case: a search of real trials on a Ray cluster of several nodes on one
machine, with the faults that it met. `python -m tests.chaos --seed N` runs a case again.
"""

import json
import statistics
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RECORDS = HERE / "reliability.jsonl"
PAGE = HERE / "reliability.md"
PROCESSES = ("worker", "trial actor", "controller", "switchboard")
TARGETS = {"process kills": 200, "driver kills": 100, "node losses": 30}
PHASES = ("step", "evaluation", "checkpoint", "regroup", "start-up")
COUNTING = "at work"  # what a record says if controllers, nodes and the switchboard count only if they are at work
Line = Mapping[str, Any]

HEAD = """# What a search survives

`make chaos MINUTES=60` appends a line for each case to `reliability.jsonl`, over several sittings;
`python -m benchmarks.reliability` writes this page from them, and `python -m tests.chaos --seed N` runs a case again.
A case is a search of {trials} tiny but real trials (digits, fp32, `exact`, four shards) on a Ray cluster on one
machine: a head without CPUs, and two nodes. Faults come at moments, and meet processes, that are drawn from the seed.
A kill counts if it met something that lived and was at work: a worker that has a trial or is starting up, a controller
or a node with such a worker, the switchboard while there is one. What a worker was doing is read from its Python stack;
one that is to be killed itself is stopped before that.{earlier}

After each case the last driver has ended with status 0. No trial is lost, told twice or left RUNNING. The curve, the
metrics of all epochs (but for `time/`) and the weights of each trial are, bit for bit, those of its reference: the same
trial trained alone by `fit`, at the smallest width and without Ray (`tests/chaos/references.py`). No process, actor,
placement group, port, shared memory or temporary file is left. A case that does not end so is run again once its fault
is mended; LOG.md says what these cases have found.
"""
EARLIER = """
In {cases} of the cases, which an earlier version ran, every controller, every switchboard and every node with a worker
counts if it lived, those of idle slots, too."""
COSTS = """Steps that are made again; seconds since the checkpoint that the trial went on from (there is one every four
steps); seconds from the fault to the next step of all trials that it hit. A fault that met a trial before it was back
from another one counts, but is not timed.
"""


def of_kind(lines: Sequence[Line]) -> list[Line]:
    """All faults that count."""
    return [fault for line in lines for fault in line["faults"] if fault["counts"]]


def totals(lines: Sequence[Line]) -> dict[str, int]:
    """How often what a campaign promises has happened."""
    count = Counter(fault["fault"] for fault in of_kind(lines))
    return {
        "process kills": sum(count[kind] for kind in PROCESSES),
        "driver kills": count["driver"],
        "node losses": count["node"],
    }


def rendered(lines: Sequence[Line]) -> str:
    """The page."""
    faults, counted = of_kind(lines), totals(lines)
    wrong = [line for line in lines if line["outcome"] != "equal"]
    commits = ", ".join(dict.fromkeys(line["commit"] for line in lines))
    trials = "/".join(sorted({str(line.get("trials", "")) for line in lines}))
    earlier = sum(line.get("counting") != COUNTING for line in lines)
    parts = [
        HEAD.format(trials=trials, earlier=EARLIER.format(cases=earlier) if earlier else ""),
        f"{len(lines)} cases in {sum(line['seconds'] for line in lines) / 3600:.1f} hours of this machine, "
        f"{sum(line['resumes'] for line in lines)} resumes, commits {commits}: "
        f"{len(lines) - len(wrong)} ended as their references, {len(wrong)} did not.\n",
        _row("", *TARGETS)
        + _rule(1 + len(TARGETS))
        + _row("so far", *counted.values())
        + _row("target", *TARGETS.values()),
        "## What a fault costs\n",
        COSTS,
        _costs(faults),
        "## Where the kills of processes fell\n",
        _phases([fault for fault in faults if fault["fault"] in PROCESSES]),
    ]
    if wrong:
        parts += ["## What went wrong\n", "".join(f"- seed {line['seed']}: {line['outcome']}\n" for line in wrong)]
    return "\n".join(parts)


def _costs(faults: Sequence[Line]) -> str:
    rows = [
        _row(
            "fault",
            "times",
            "steps lost, median",
            "most",
            "seconds lost, median",
            "most",
            "next step s, median",
            "most",
        ),
        _rule(8),
    ]
    for kind in dict.fromkeys(fault["fault"] for fault in faults):
        of = [fault for fault in faults if fault["fault"] == kind]
        cells = []
        for name, digits in (("lost_steps", 0), ("lost_s", 1), ("next_s", 1)):
            values = [fault[name] for fault in of if fault.get(name) is not None]
            cells += [f"{statistics.median(values):.{digits}f}", f"{max(values):.{digits}f}"] if values else ["", ""]
        rows.append(_row(kind, len(of), *cells))
    return "".join(rows)


def _phases(faults: Sequence[Line]) -> str:
    names = [*PHASES, *sorted({fault["phase"] for fault in faults} - {*PHASES})]
    text = _row("kills", *names) + _rule(1 + len(names))
    for label, aimed in (("at any moment", False), ("aimed at a phase", True)):
        count = Counter(fault["phase"] for fault in faults if bool(fault.get("aimed")) == aimed)
        text += _row(label, *(count[name] for name in names))
    leads = sum(fault.get("rank") == 0 for fault in faults)
    members = sum(bool(fault.get("rank")) for fault in faults)
    widths = Counter(fault["width"] for fault in faults if fault.get("width"))
    wide = ", ".join(f"{number} of {width}" for width, number in sorted(widths.items()))
    return (
        f"{text}\nOf the workers that were killed {leads} led their trial and {members} did not; the others had none "
        f"yet. The trials that were hit had so many workers: {wide}.\n"
    )


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |\n"


def _rule(columns: int) -> str:
    return f"|{'---|' * columns}\n"


def main() -> int:
    if not RECORDS.exists():
        print(f"{RECORDS}: no such file; make it with: make chaos", file=sys.stderr)
        return 2
    lines = [json.loads(line) for line in RECORDS.read_text().splitlines()]
    PAGE.write_text(rendered(lines))
    for name, number in totals(lines).items():
        print(f"{name}: {number} of {TARGETS[name]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
