"""A search on nodes that come and go, side by side: `python -m benchmarks.elastic`.

A head without CPUs and nodes of one CPU each, on this machine. A second node joins, the first is lost (kill -9) and
comes back. Each contender trains the same trials under the same script of events; each trial's metrics are compared
with those of the trial trained alone, in one process, without Ray.

- time from change to use: from a node's join to the first step on it; from a node's loss to the next step of the trial
  that it trained;
- utilisation: seconds in steps and evaluations / seconds that the nodes were there, start-up included;
- images a second: training images of all trials / seconds to all results.

The page and the timeline are written to --folder; those of the last run on a calm machine are benchmarks/elastic.md and
benchmarks/elastic.png.
"""

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks.elastic.contenders import CONTENDERS
from benchmarks.elastic.drawing import draw
from benchmarks.elastic.nodes import script
from benchmarks.elastic.rounds import Round, play, reference
from benchmarks.elastic.table import PAGE, script_table, seconds, table
from benchmarks.elastic.trials import Trials


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.elastic", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--contenders", nargs="+", choices=[*CONTENDERS], default=[*CONTENDERS])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60, help="between two events of the script")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=30, help="of a trial; 1.7 s each on one worker")
    parser.add_argument("--limit", type=float, default=1200, help="seconds after which a contender is ended")
    parser.add_argument("--folder", type=Path, default=Path("elastic"), help="where rounds are written")
    parser.add_argument("--reference", type=Path, help="folder of the trials trained alone, kept between runs")
    parser.add_argument("--again", action="store_true", help="only print and draw the rounds that are in the folder")
    options = parser.parse_args()
    trials, folder = Trials(options.trials, options.epochs), options.folder.absolute()
    events = script(options.seconds)
    if not options.again:
        alone = reference(trials, (options.reference or folder / "reference").absolute())
        for repeat in range(options.repeats):
            for name in options.contenders:
                place = folder / f"{name}-{repeat}"
                place.mkdir(parents=True)
                print(f"{name}, repeat {repeat}", flush=True)
                one = play(CONTENDERS[name], trials, events, place, alone, options.limit)
                one.write(folder / f"{name}-{repeat}.json")
                print(f"  {seconds(one):6.1f} s: exit status {one.status}, {one.equal} trials equal", flush=True)
    rounds = [Round.read(path) for path in sorted(folder.glob("*-[0-9]*.json"))]
    page = PAGE.format(
        command=" ".join(["python -m benchmarks.elastic", *sys.argv[1:]]),
        machine=machine(),
        loads=", ".join(f"{one.load:.1f}" for one in rounds),
        count=trials.count,
        epochs=trials.epochs,
        script=script_table(rounds, events),
        table=table(rounds, trials),
        limit=options.limit,
    )
    (folder / "elastic.md").write_text(page)
    print(page)
    draw([middle([one for one in rounds if one.contender == name]) for name in _names(rounds)], folder / "elastic.png")
    print(f"page and timeline: {folder / 'elastic.md'}, {folder / 'elastic.png'}")


def machine() -> str:
    """Processor, cores and versions, in words."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    name = models[0].partition(":")[2].strip() if models else platform.machine()
    libraries = ", ".join(f"{library} {version(library)}" for library in ("ray", "torch"))
    return f"{len(os.sched_getaffinity(0))} cores ({name}), {libraries}, {time.strftime('%Y-%m-%d')}"


def middle(rounds: Sequence[Round]) -> Round:
    """The round with the median time."""
    middle = statistics.median_low(seconds(one) for one in rounds)
    return next(one for one in rounds if seconds(one) == middle)


def _names(rounds: Sequence[Round]) -> list[str]:
    return [name for name in CONTENDERS if any(one.contender == name for one in rounds)]


if __name__ == "__main__":
    main()
