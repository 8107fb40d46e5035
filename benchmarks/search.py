"""What a search costs beside its training: `python -m benchmarks.search`.

proposal   one proposal by TPE with the `teacher` space, by how many trials were told before.
own        CPU time of a search per trial beside that of its sampler alone, by how many trials were told before.
simulator  10,000 trials of 8 epochs with ASHA and the random sampler, and whose code takes the time.

Trials are told random scores. Of what is timed alone, the seconds are CPU time of this process, so that other work on
the machine counts less; proposals are given in wall time, too, which is what somebody waits for. An older version is
measured beside this one with `--beside FOLDER`, a checkout with an environment in `.venv`; of it only proposals are
timed. The tables of the last run are in benchmarks/search.md.
"""

import argparse
import cProfile
import functools
import json
import os
import platform
import pstats
import random
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import optuna
from optuna.trial import FrozenTrial, TrialState

from tuner.plan import space as spaces
from tuner.plan import spec as specs
from tuner.search.core import Core
from tuner.search.events import EpochEnded, SegmentBegan, Start, Stop, TrialEnded, WorkWanted
from tuner.search.samplers import base as samplers
from tuner.search.study import Metrics, Study
from tuner.simulator.curves import Surface
from tuner.simulator.simulate import simulate

TOLD = (100, 1000, 5000)  # trials
TIMED = 100  # proposals, or trials, that are timed at each
FEW = 20  # proposals of an older version, which is slow
EPOCHS = 8
TEACHER = spaces.load("teacher")
OURS = ("tuner", "trainables", "search_spaces")
BESIDE = """
import json, sys, time
from pathlib import Path
from tuner import space, spec, study
search = spec.parse({"trials": 10_000, "trial": {"train": {"epochs": 8}}})
known = study.Study(Path(sys.argv[1]), search, space.load("teacher"))
times = []
for _ in range(int(sys.argv[2])):
    wall, cpu = time.perf_counter(), time.process_time()
    proposal = known.ask()
    times.append((time.perf_counter() - wall, time.process_time() - cpu))
    known.tell(proposal.key, {"epoch": 8, "knn_top1": 0.5}, None, {})
print(json.dumps(times))
"""


def search(**changes: object) -> specs.SearchSpec:
    return specs.parse({"trials": 10_000, "trial": {"train": {"epochs": EPOCHS}}, **changes})


@functools.cache
def told(count: int) -> list[FrozenTrial]:
    """Trials that have ended with random scores, as a study holds them."""
    study, rng = Study(None, search(sampler="random"), TEACHER), random.Random(0)
    for _ in range(count):
        proposal = study.ask()
        assert proposal is not None
        last = EPOCHS if rng.random() < 0.5 else 1
        for epoch in range(1, last + 1):
            study.observe(proposal.key, {"epoch": epoch, "knn_top1": rng.random()})
        study.tell(proposal.key, {"epoch": last, "knn_top1": rng.random()}, None, {})
    return study.trials()


def journal_of(folder: Path, count: int) -> Path:
    """A new journal with so many trials."""
    trials = told(count)  # first: it silences Optuna
    path = Path(tempfile.mkdtemp(dir=folder)) / "journal"
    backend = optuna.storages.journal.JournalFileBackend(str(path))
    storage = optuna.storages.JournalStorage(backend)
    with mock.patch("os.fsync"):
        study = optuna.create_study(storage=storage, study_name="search", direction="maximize")
        study.add_trials(trials)
    return path


def proposals(journal: Path, count: int) -> list[tuple[float, float]]:
    """Wall and CPU seconds of each of `count` proposals by TPE."""
    study, times = Study(journal, search(), TEACHER), []
    for _ in range(count):
        wall, cpu = time.perf_counter(), time.process_time()
        proposal = study.ask()
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
        assert proposal is not None
        study.tell(proposal.key, {"epoch": EPOCHS, "knn_top1": 0.5}, None, {})
    return times


def proposals_beside(folder: Path, journal: Path, count: int) -> list[tuple[float, float]]:
    """Wall and CPU seconds of each of `count` proposals by an older version."""
    command = [folder / ".venv/bin/python", "-c", BESIDE, str(journal), str(count)]
    said = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return [(wall, cpu) for wall, cpu in json.loads(said.stdout.splitlines()[-1])]


def table_of_proposals(folder: Path, beside: Path | None) -> None:
    print("\n| told before | version | wall ms, p50 | p99 | CPU ms, p50 | p99 |\n|---|---|---|---|---|---|")
    for count in TOLD:
        versions = {"this": proposals(journal_of(folder, count), TIMED)}
        if beside is not None:
            versions["older"] = proposals_beside(beside, journal_of(folder, count), FEW)
        for name, times in versions.items():
            columns = [list(column) for column in zip(*times, strict=True)]
            cells = [
                f"{1000 * value:.0f}" for column in columns for value in (statistics.median(column), percentile(column))
            ]
            print(f"| {count:,} | {name} | {' | '.join(cells)} |", flush=True)


def percentile(values: list[float], share: float = 0.99) -> float:
    """The value that `share` of all values do not exceed."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))]


class Timed(optuna.samplers.BaseSampler):
    """A sampler whose CPU time is added up.

    Args:
        inner: the sampler.
        spent: gets the seconds of each call.
    """

    def __init__(self, inner: optuna.samplers.BaseSampler, spent: list[float]):
        self._inner, self._spent = inner, spent

    def _timed(self, method: Callable[..., Any], *arguments: Any) -> Any:
        began = time.process_time()
        try:
            return method(*arguments)
        finally:
            self._spent.append(time.process_time() - began)

    def infer_relative_search_space(self, *arguments: Any) -> Any:
        return self._timed(self._inner.infer_relative_search_space, *arguments)

    def sample_relative(self, *arguments: Any) -> Any:
        return self._timed(self._inner.sample_relative, *arguments)

    def sample_independent(self, *arguments: Any) -> Any:
        return self._timed(self._inner.sample_independent, *arguments)

    def before_trial(self, *arguments: Any) -> None:
        self._timed(self._inner.before_trial, *arguments)

    def after_trial(self, *arguments: Any) -> None:
        self._timed(self._inner.after_trial, *arguments)


def own_time(journal: Path, count: int) -> tuple[float, float]:
    """CPU seconds per trial: of the search without its sampler, and of the sampler."""
    spent: list[float] = []
    study = Study(journal, search(), TEACHER, sampler_of=lambda spec, number: Timed(samplers.make(spec, number), spent))
    core, rng = Core(study), random.Random(1)
    spent.clear()
    began = time.process_time()
    for _ in range(count):
        start = core.hear(WorkWanted(1, 1))
        assert isinstance(start, Start)
        key, metrics = start.proposal.key, {}
        core.hear(SegmentBegan(key, 0.0))
        for epoch in range(1, EPOCHS + 1):
            metrics = {"epoch": epoch, "knn_top1": rng.random()}
            if isinstance(core.hear(EpochEnded(key, metrics)), Stop):
                break
        core.hear(TrialEnded(key, metrics, None, {}))
    whole, sampling = time.process_time() - began, sum(spent)
    return (whole - sampling) / count, sampling / count


def table_of_own_time(folder: Path) -> None:
    print("\n| trials before | search without sampler, CPU ms a trial | sampler, CPU ms a trial |\n|---|---|---|")
    first: tuple[float, float] | None = None
    for count in TOLD:
        own, sampler = own_time(journal_of(folder, count), TIMED)
        first = first or (own, sampler)
        print(f"| {count:,} | {1000 * own:.1f} | {1000 * sampler:.1f} |")
    grown = 1000 * (own - first[0]), 1000 * (sampler - first[1])
    print(f"\nFrom {TOLD[0]} to {TOLD[-1]:,} trials: the search {grown[0]:+.1f} ms, its sampler {grown[1]:+.1f} ms.")


def surface() -> Surface:
    """Scores that depend on the values and grow with the epoch."""

    def metrics(values: Metrics, epoch: int) -> Metrics:
        base = values.get("teacher.momentum.base", 0.3)
        return {"knn_top1": (base * 7919) % 1 + 0.05 * epoch}

    return Surface(metrics)


def table_of_simulation(trials: int) -> None:
    spec = search(trials=trials, sampler="random", stopping={"kind": "asha", "grace_epochs": 1})
    curves, study = surface(), Study(None, spec, TEACHER)
    wall, cpu = time.perf_counter(), time.process_time()
    result = simulate(Core(study), curves, 8)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    states = Counter(trial.state for trial in study.trials())
    complete, stopped = states[TrialState.COMPLETE], states[TrialState.PRUNED]
    print(f"\n{trials:,} trials of {EPOCHS} epochs on 8 slots: {complete:,} complete, {stopped:,} stopped;")
    print(f"{wall:.0f} s, of which {cpu:.0f} s CPU; {result.seconds:,.0f} virtual seconds, refused {result.refused}.")
    profile = cProfile.Profile(time.process_time)
    profile.runcall(simulate, Core(Study(None, search(trials=trials // 10, sampler="random"), TEACHER)), surface(), 8)
    shares = whose(pstats.Stats(profile))
    print(f"\n| code (cProfile of {trials // 10:,} trials, CPU time inside of each function) | share |\n|---|---|")
    for name, share in shares:
        print(f"| {name} | {share:.0%} |")


def whose(stats: pstats.Stats) -> list[tuple[str, float]]:
    """Shares of the CPU time by package, the largest first. A builtin counts for the package that calls it."""
    seconds: Counter[str] = Counter()
    for (file, _, _), (_, _, own, _, callers) in stats.stats.items():
        if file != "~":
            seconds[package(file)] += own
            continue
        for (caller, _, _), (_, _, part, _) in callers.items():
            seconds[package(caller)] += part
    whole = seconds.total()
    return [(name, spent / whole) for name, spent in seconds.most_common() if spent >= 0.01 * whole]


def package(file: str) -> str:
    """Whose a file is."""
    parts = Path(file).parts
    if "site-packages" in parts:
        return parts[parts.index("site-packages") + 1]
    here = Path(__file__).parents[1].parts
    if parts[: len(here)] == here:
        return "ours" if parts[len(here)] in OURS else "the benchmark"
    return "Python's library"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--beside", type=Path, help="checkout of an older version, whose proposals are timed, too")
    parser.add_argument("--trials", type=int, default=10_000, help="of the simulation")
    given = parser.parse_args()
    load = os.getloadavg()[0]
    print(
        f"{os.cpu_count()} cores ({platform.machine()}), load {load:.1f} at the beginning, "
        f"Python {platform.python_version()}, Optuna {optuna.__version__}"
    )
    with tempfile.TemporaryDirectory() as folder:
        table_of_proposals(Path(folder), given.beside)
    with tempfile.TemporaryDirectory() as folder:
        table_of_own_time(Path(folder))
    table_of_simulation(given.trials)
    print(f"\nLoad at the end {os.getloadavg()[0]:.1f}.")


if __name__ == "__main__":
    main()
