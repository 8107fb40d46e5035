"""Whether a long search keeps its size: `python -m benchmarks.soak [--trials 300] [--simulated 10000]`.

Real trials: tiny ones of an epoch each, one after the other on two slots of a Ray cluster on this machine. Every second
the resident memory and the open files of each process of the search are noted, with the number of trials that have
ended. The simulated ones run in this process, by the same core, against a function in place of workers.

The slope of a process is that of a least-squares line through its memory over the trials, from the 50th on: what comes
before is warming up. What is not to be is said at the end, and makes the exit status 1: a slope above the limit, files
that become more, or anything that is left on the cluster or the machine once the search has ended. The table of the
last run is in benchmarks/soak.md.
"""

import argparse
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.chaos import results
from tests.chaos.cluster import Cluster, cluster_of
from tests.chaos.processes import TITLES, Process
from tuner.plan import space as spaces
from tuner.plan import spec as specs
from tuner.search.core import Core
from tuner.search.study import Study
from tuner.simulator.curves import Surface
from tuner.simulator.simulate import simulate

FIRST = 5  # trials after which each slot has run one: its first trial imports much
WARM = 50  # trials after which a search is warm
QUIET = 30.0  # seconds for the processes of a search that has ended to go
LOOK = 1.0  # seconds between two looks at the processes
MOST = 1.0  # MB a trial that a process may grow by, from the 5th on
# MB a trial that a process may grow by once it is warm. Study, Tune and Ray keep a record of each trial, about 0.06 MB
# of the driver. A search of 10,000 trials then needs 1 GB at most, which the machine of a driver has.
MOST_WARM = 0.1
MOST_FILES = 8  # open files that a process may have more at its end than when it was warm
SEARCH: dict[str, Any] = {
    "name": "soak",
    "space": "teacher",
    "trial": {
        "data": {"name": "digits", "train_images": 64, "validation_images": 50},
        "encoder": {"name": "resnet10", "width": 2, "projector": {"hidden": 8, "out": 8}},
        "method": {"predictor_hidden": 8},
        "train": {"epochs": 1, "batch_size": 32, "shard_size": 16},
    },
    "stopping": "none",
    "sampler": "random",
    "resources": {"workers": 1},
}
TOLD = re.compile(rb'^\{"op_code": ?6,', re.MULTILINE)  # the beginning of a journal's line that ends a trial
HEAD = """# Whether a long search keeps its size

`make soak`, on {machine}. Resident memory and open files of each process of a search, looked at every second, over the
trials that had ended. The slope is that of a least-squares line from the 50th trial on. Limits: {most:g} MB a trial
after the 5th, {warm:g} MB after the 50th (10,000 trials: {large:g} GB), {files} more open files.
"""
ACTORS = """
Trial actors train nothing. Tune starts one for each trial that waits, and ends it again where that of another trial
becomes free first. So trials that are shorter than such a start have many of them; their workers go on meanwhile.
"""
DATA = "What grows is the study itself, and the simulation's log: the values of a trial, 8 epochs, and their records.\n"


@dataclass
class Course:
    """What a process needed over the trials.

    Attributes:
        name: of the process.
        trials: that had ended, at each look.
        memory: resident, in MB.
        files: that were open.
    """

    name: str
    trials: list[int] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)

    def add(self, trials: int, pid: int) -> None:
        """Adds a look at the process, if it is there."""
        try:
            status = Path(f"/proc/{pid}/status").read_text()
            files = len(os.listdir(f"/proc/{pid}/fd"))
        except OSError:
            return
        if found := re.search(r"VmRSS:\s+(\d+) kB", status):
            self.trials.append(trials)
            self.memory.append(int(found[1]) / 1024)
            self.files.append(files)

    def between(self, first: int, end: float = float("inf")) -> "Course":
        """The looks at which at least `first` trials had ended, and fewer than `end`."""
        kept = [at for at, count in enumerate(self.trials) if first <= count < end]
        return Course(
            self.name,
            [self.trials[at] for at in kept],
            [self.memory[at] for at in kept],
            [self.files[at] for at in kept],
        )

    @property
    def slope(self) -> float:
        """MB a trial, of a least-squares line."""
        if len(set(self.trials)) < 2:
            return 0.0
        return statistics.linear_regression(self.trials, self.memory).slope


@dataclass
class Soak:
    """What a search needed: the course of each of its processes, and what was left in the end."""

    trials: int
    seconds: float
    courses: list[Course]
    run_bytes: float
    left: list[str]


def real(trials: int, cluster: Cluster) -> Soak:
    """Runs a search of so many tiny trials on a cluster, and looks at its processes."""
    files, shared = [entry.name for entry in cluster.files.iterdir()], results.shared_memory()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        run = Path(folder) / "run"
        spec = Path(folder) / "search.yaml"
        spec.write_text(yaml.safe_dump({**SEARCH, "trials": trials}))
        begun = time.monotonic()
        with (Path(folder) / "driver.log").open("w") as log:
            command = [sys.executable, "-m", "tuner.commands.main", "launch", str(spec), "--run", str(run)]
            driver = subprocess.Popen(
                [*command, "--address", cluster.address], env=cluster.environment, stdout=log, stderr=log
            )
            courses = _watched(driver, cluster, run)
        seconds = time.monotonic() - begun
        if driver.returncode:
            raise SystemExit(f"the search ended with {driver.returncode}:\n{(Path(folder) / 'driver.log').read_text()}")
        used = sum(path.stat().st_blocks * 512 for path in run.rglob("*")) / trials
        left = results.left_in_the_end(cluster, run, files, shared, QUIET)
    return Soak(trials, seconds, courses, used, left)


def _watched(driver: "subprocess.Popen[bytes]", cluster: Cluster, run: Path) -> list[Course]:
    """Looks at the processes of a search until its driver ends. Several of a kind are numbered.

    A process that had gone before the first look at it is left out.
    """
    courses: dict[int, Course] = {}
    numbers: dict[str, int] = {}
    while driver.poll() is None:
        journal = run / "journal.log"
        ended = len(TOLD.findall(journal.read_bytes())) if journal.exists() else 0
        for pid, kind in [(driver.pid, "driver"), *_kinds(cluster.processes())]:
            if pid not in courses:
                numbers[kind] = numbers.get(kind, 0) + 1
                courses[pid] = Course(kind if numbers[kind] == 1 else f"{kind} {numbers[kind]}")
            courses[pid].add(ended, pid)
        time.sleep(LOOK)
    return [course for course in courses.values() if course.trials]


def _kinds(processes: list[Process]) -> Iterator[tuple[int, str]]:
    for process in processes:
        for kind, title in TITLES.items():
            if re.match(title, process.command):
                yield process.pid, kind


def simulated(trials: int) -> Soak:
    """Runs a simulated search of so many trials in this process, and looks at it from a thread."""
    spec = specs.parse({"trials": trials, "sampler": "random", "trial": {"train": {"epochs": 8}}})
    study = Study(None, spec, spaces.load("teacher"))
    course, over = Course("simulation"), threading.Event()

    def look() -> None:
        while not over.wait(LOOK / 5):
            course.add(len(study.trials()), os.getpid())

    thread, begun = threading.Thread(target=look), time.monotonic()
    thread.start()
    try:
        simulate(Core(study), Surface(_score), 8)
    finally:
        over.set()
        thread.join()
    return Soak(trials, time.monotonic() - begun, [course], 0.0, [])


def _score(values: Mapping[str, object], epoch: int) -> dict[str, float]:
    """A score that depends on the values and rises with the epochs."""
    return {"knn_top1": 0.5 + (hash(str(sorted(values.items()))) % 1000) / 4000 + epoch / 100}


def lasting(soak: Soak) -> list[Course]:
    """The processes that have lived for half of the trials, without each slot's first trial and the last one.

    A first trial imports much, and so does the end of a search.
    """
    courses = [course.between(FIRST, soak.trials) for course in soak.courses]
    return [course for course in courses if course.trials and course.trials[-1] - course.trials[0] >= soak.trials / 2]


def faults_of(soak: Soak, warm: int = WARM, most_warm: float = MOST_WARM) -> list[str]:
    """What is not as it must be.

    Args:
        soak: of more than twice as many trials as `warm`.
        warm: trials after which the search counts as warm.
        most_warm: MB a trial that a process may grow by after that.
    """
    assert soak.trials > 2 * warm, "too few trials to judge"
    wrong = [f"left: {what}" for what in soak.left]
    for course in lasting(soak):
        later = course.between(warm)
        if course.slope > MOST:
            wrong.append(f"{course.name}: grows by {course.slope:.2f} MB a trial")
        if later.slope > most_warm:
            wrong.append(f"{course.name}: grows by {1000 * later.slope:.0f} kB a trial after the {warm}th")
        if len(later.files) > 1 and later.files[-1] > later.files[0] + MOST_FILES:
            wrong.append(f"{course.name}: {later.files[0]} open files have become {later.files[-1]}")
    return wrong


def table(soak: Soak) -> str:
    """A row for each process that lasts."""
    lines = [
        f"| process | trials | MB after {FIRST} | MB after {WARM} | MB last | kB a trial after {WARM} | open files |",
        "|---|---|---|---|---|---|---|",
    ]
    kept = lasting(soak)
    for course in kept:
        warm = course.between(WARM)
        cells = [f"{warm.memory[0]:.0f}", f"{1000 * warm.slope:.1f}"] if len(set(warm.trials)) > 1 else ["", ""]
        files = f"{course.files[0]} to {course.files[-1]}"
        seen = f"{course.trials[0]} to {course.trials[-1]}"
        memory = f"{course.memory[0]:.0f} | {cells[0]} | {course.memory[-1]:.0f}"
        lines.append(f"| {course.name} | {seen} | {memory} | {cells[1]} | {files} |")
    brief = [course for course in soak.courses if course.name not in {course.name for course in kept}]
    if brief:
        most = max(max(course.memory, default=0.0) for course in brief)
        lines.append(
            f"\n{len(brief)} more processes lived for less than half of the trials, of {most:.0f} MB at most.\n{ACTORS}"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--simulated", type=int, default=10_000)
    parser.add_argument("--page", type=Path, help="file for the table, such as benchmarks/soak.md")
    options = parser.parse_args()
    if any(0 < trials <= 2 * WARM for trials in (options.trials, options.simulated)):
        parser.error(f"a search is judged by the trials after its {WARM}th: give 0 or more than {2 * WARM} trials")
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    limits = {"most": MOST, "warm": MOST_WARM, "large": 10_000 * MOST_WARM / 1000, "files": MOST_FILES}
    text, wrong = [HEAD.format(machine=machine, **limits)], []
    if options.trials:
        with cluster_of(1, 1) as cluster:
            soak = real(options.trials, cluster)
        wrong += faults_of(soak)
        text += [
            f"## {soak.trials} real trials, {soak.seconds:.0f} s\n",
            f"The run directory has {soak.run_bytes / 1024:.0f} kB a trial. "
            f"Left on the cluster and the machine: {', '.join(soak.left) or 'nothing'}.\n",
            table(soak),
        ]
    if options.simulated:
        soak = simulated(options.simulated)
        wrong += faults_of(soak)
        text += [f"## {soak.trials:,} simulated trials, {soak.seconds:.0f} s\n", DATA, table(soak)]
    text += [f"- wrong: {fault}" for fault in wrong] or ["Nothing is above its limit.\n"]
    print("\n".join(text))
    if options.page is not None:
        options.page.write_text("\n".join(text))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
