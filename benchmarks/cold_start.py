"""How long a search takes to begin, side by side: `python -m benchmarks.cold_start before=PYTHON after=PYTHON`.

Each checkout is named by the Python of its environment, whose folder also holds its `tuner`. The checkouts take turns
in launching the quick start in an empty folder, so that other work on the machine meets all of them. What is measured,
from the start of `tuner launch`:

- first word: until the first line on the terminal;
- first step: until the first training step of the first trial, by the clock of its workers;
- CPU to the first step: seconds of all processes of the search until then; other work on the machine changes it little;
- gap: median time from the last metric of a trial to the first step of the next on its slot.

The table of the last run is in benchmarks/cold_start.md.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, fields
from pathlib import Path

LOOK = 0.2  # seconds between two looks at the processes
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Start:
    """What one launch took, in seconds."""

    first_word: float
    first_step: float
    cpu: float
    gap: float
    load: float


class Accounts(threading.Thread):
    """Adds up the CPU time of a process and all that it has started, as it was at each look."""

    def __init__(self, process: int):
        super().__init__(daemon=True)
        self.process = process
        self.known: dict[int, float] = {process: 0.0}  # CPU seconds by process; those that have ended stay
        self.looks: list[tuple[float, float]] = []
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(LOOK):
            parents, seconds = _processes()
            for process in seconds:
                if process in self.known or self._descends(process, parents):
                    self.known[process] = max(self.known.get(process, 0.0), seconds[process])
            self.looks.append((time.time(), sum(self.known.values())))

    def until(self, at: float) -> float:
        """CPU seconds at a time."""
        return max((cpu for when, cpu in self.looks if when <= at), default=0.0)

    def _descends(self, process: int, parents: dict[int, int]) -> bool:
        while process > 1 and process != self.process:
            process = parents.get(process, 0)
        return process == self.process


def _processes() -> tuple[dict[int, int], dict[int, float]]:
    """Parents and CPU seconds of all processes."""
    parents, seconds = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            facts = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        parents[int(folder.name)] = int(facts[1])
        seconds[int(folder.name)] = (int(facts[11]) + int(facts[12])) / TICKS
    return parents, seconds


def launch(python: Path, spec: Path) -> Start:
    """Launches a search and waits for its end."""
    tuner = python.parent / "tuner"
    with tempfile.TemporaryDirectory() as folder:
        load, begun = os.getloadavg()[0], time.time()
        search = subprocess.Popen(
            [tuner, "launch", spec, "--run", "run"],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        accounts = Accounts(search.pid)
        accounts.start()
        assert search.stdout is not None
        said = [search.stdout.readline()]
        first_word = time.time() - begun
        said += search.stdout.readlines()
        accounts.over.set()
        if search.wait():
            raise SystemExit(f"{tuner} launch {spec}: exit status {search.returncode}\n{''.join(said)}")
        state = json.loads(subprocess.check_output([tuner, "status", "run", "--json"], cwd=folder))
    at = min(row["metrics"]["time/first_step_at"] for row in state["trials"] if row["metrics"])
    return Start(first_word, at - begun, accounts.until(at), state["gap_median_s"], load)


def table(starts: dict[str, list[Start]]) -> str:
    """Medians of the launches of each checkout; in brackets the launches, in their order."""
    lines = [
        "| checkout | first word s | first step s | CPU to the first step s | gap s | load |",
        "|---|---|---|---|---|---|",
    ]
    for name, launches in starts.items():
        cells = []
        for field in fields(Start):
            values = [getattr(start, field.name) for start in launches]
            each = f" ({', '.join(f'{value:.1f}' for value in values)})" if len(values) > 1 else ""
            cells.append(f"{statistics.median(values):.2f}{each}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", nargs="+", metavar="NAME=PYTHON")
    parser.add_argument("--spec", type=Path, default=Path(__file__).parents[1] / "examples" / "digits.yaml")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    checkouts = dict(checkout.split("=", 1) for checkout in options.checkouts)
    starts: dict[str, list[Start]] = {name: [] for name in checkouts}
    for _ in range(options.repeats):
        for name, python in checkouts.items():
            starts[name].append(launch(Path(python).absolute(), options.spec.absolute()))
            print(name, starts[name][-1], flush=True)
    print(f"\n{platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} cores\n")
    print(table(starts))


if __name__ == "__main__":
    main()
