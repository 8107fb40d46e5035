"""One case: a search on a cluster of several nodes, the faults of its plan, and what it comes to."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.chaos import results
from tests.chaos.cluster import Cluster, Node
from tests.chaos.phases import Doing, Phase, checkpoints, doing
from tests.chaos.plans import STEPS, Fault, Plan
from tests.chaos.processes import Process, descendants

ROOT = Path(__file__).parents[2]
TUNER = (sys.executable, "-m", "tuner.commands.main")
TITLES = {
    "worker": r"ray::RayTrainWorker",
    "stopped worker": r"ray::RayTrainWorker",
    "trial actor": r"ray::(ResourceTrainable|SlotTrial)\.train",
    "controller": r"ray::TrainController",
    "switchboard": r"ray::(switchboard-.*:)?Switchboard",
}
LOOK = 0.05  # seconds between two looks at the checkpoints and at the driver
VICTIM_WAIT = 20.0  # seconds for a process of the kind that a fault needs to be there, and at work
QUIET = 20.0  # seconds for the workers of a driver that has ended to go
CASE_WAIT = 900.0  # seconds for a case
DISC = "24m"  # size of the disc of a case in which it fills up
ENDS_OF = {"switchboard": 3, "full disc": 3}  # exit statuses of a driver by which it may end after these faults


@dataclass
class Hit:
    """A fault that has happened.

    Attributes:
        fault: its kind.
        at: seconds since the launch.
        phase: of the worker that was hit, or of the first trial that had to go back.
        rank: of the worker that was hit.
        width: how many workers its trial had.
        counts: whether it hit something that lived and was at work.
        lost_steps: of the trial that lost most; None where no trial went back.
        lost_s: seconds of training, to the last checkpoint before.
        next_s: seconds until all trials that went back had their next checkpoint; so it is at most as many steps too
            long as there are between two checkpoints.
    """

    fault: str
    at: float
    phase: Phase = "unknown"
    rank: int | None = None
    width: int | None = None
    counts: bool = True
    lost_steps: int | None = None
    lost_s: float | None = None
    next_s: float | None = None


@dataclass
class Moment:
    """What was so when a fault came: of each trial that was trained, the step, and its checkpoints with their times."""

    at: float
    trials: dict[str, tuple[Doing, dict[int, float]]] = field(default_factory=dict)


@dataclass
class Outcome:
    """What a case came to; `wrong` is empty where all is as it must be."""

    seconds: float
    hits: list[Hit]
    wrong: list[str]
    resumes: int


class Case:
    """A search that meets faults.

    Args:
        plan: of the case.
        cluster: that it runs on.
        folder: for its run.
        say: is told what happens.
    """

    def __init__(self, plan: Plan, cluster: Cluster, folder: Path, say: Any = print):
        self.plan, self.cluster, self.folder, self.say = plan, cluster, folder, say
        self.run = folder / "run"
        self.spec = folder / "search.yaml"
        self.spec.write_text(yaml.safe_dump(plan.search))
        self.begun = time.time()
        self.hits: list[Hit] = []
        self.moments: list[Moment] = []
        self.written: list[tuple[float, str, int]] = []  # times, keys and steps of checkpoints, in their order
        self.may_end: set[int] = set()  # exit statuses that the last fault explains
        self.wrong: list[str] = []
        self.drivers: list[subprocess.Popen[bytes]] = []
        self.over = threading.Event()
        self.returning: list[threading.Thread] = []

    def go(self) -> Outcome:
        """Runs it to its end."""
        files, shared = [entry.name for entry in self.cluster.files.iterdir()], results.shared_memory()
        watch = threading.Thread(target=self._watch, daemon=True)
        watch.start()
        try:
            self._start("launch", str(self.spec), "--address", self.cluster.address, "--run", str(self.run))
            faults = threading.Thread(target=self._faults, daemon=True)
            faults.start()
            self._drive()
        finally:
            self.over.set()
            watch.join()
            for driver in self.drivers:
                if driver.poll() is None:
                    driver.kill()
                driver.wait()
        for thread in self.returning:
            thread.join()
        if not self.wrong:
            self.wrong += results.faults_of(self.run, reference(self.plan))
            self.wrong += self._left(files, shared)
        self._measure()
        return Outcome(time.time() - self.begun, self.hits, self.wrong, len(self.drivers) - 1)

    # the driver

    def _start(self, *arguments: str) -> None:
        log = (self.folder / f"driver-{len(self.drivers)}.log").open("wb")
        self.drivers.append(
            subprocess.Popen(
                [*TUNER, *arguments], cwd=ROOT, env=self.cluster.environment, stdout=log, stderr=log, start_new_session=True
            )
        )

    def _drive(self) -> None:
        """Resumes the search until a driver ends well, or ends as no fault explains."""
        end = time.monotonic() + CASE_WAIT
        while time.monotonic() < end:
            driver = self.drivers[-1]
            if driver.poll() is None:
                time.sleep(LOOK)
                continue
            if driver.returncode == 0:
                return
            if driver.returncode not in self.may_end:
                said = Path(self.folder / f"driver-{len(self.drivers) - 1}.log").read_text()[-1000:]
                self.wrong.append(f"the driver ended with {driver.returncode}: {said}")
                return
            self.say(f"{time.time() - self.begun:6.1f} s  the driver ended with {driver.returncode}; resumed")
            self._start("resume", str(self.run))
        self.wrong.append(f"not at its end after {CASE_WAIT:g} s")

    # the faults

    def _faults(self) -> None:
        for fault in self.plan.faults:
            if self.over.wait(fault.gap):
                return
            hit, moment = Hit(fault.kind, 0.0), Moment(time.time())
            try:
                self._meet(fault, hit, moment)
            except Exception as error:  # of the harness; the case is no good then
                self.wrong.append(f"the harness failed: {type(error).__name__}: {error}")
                raise
            if self.over.is_set():
                return
            hit.at = round(moment.at - self.begun, 2)
            self.hits.append(hit)
            self.moments.append(moment)
            missed = "" if hit.counts else " (missed: nothing of the kind was at work)"
            self.say(f"{hit.at:6.1f} s  {hit.fault}: {hit.phase}, rank {hit.rank}{missed}")

    def _meet(self, fault: Fault, hit: Hit, moment: Moment) -> None:
        if fault.kind == "worker" or fault.kind == "stopped worker":
            self._hit_worker(fault, hit, moment)
        elif fault.kind == "driver":
            self._note(moment)
            self.may_end.add(-signal.SIGKILL)
            hit.counts = self.drivers[-1].poll() is None
            self.drivers[-1].kill()
        elif fault.kind == "node":
            self._hit_node(fault, hit, moment)
        elif fault.kind == "full disc":
            self._fill(fault, hit, moment)
        else:
            self._hit_actor(fault, hit, moment)

    def _workers(self) -> list[Process]:
        title = re.compile(TITLES["worker"])
        return sorted(
            (process for process in self.cluster.processes() if title.match(process.command)), key=lambda p: p.started
        )

    def _hit_worker(self, fault: Fault, hit: Hit, moment: Moment) -> None:
        """Hits a worker at work. It is stopped first: what it is doing then is what it is doing when it dies."""
        end = time.monotonic() + VICTIM_WAIT
        while time.monotonic() < end and not self.over.is_set():
            workers = self._workers()
            turn = int(fault.draw * len(workers))
            for worker in [*workers[turn:], *workers[:turn]]:
                worker.send(signal.SIGSTOP)
                now = time.time()
                found = doing(worker.pid, self.run, STEPS, blocking=False)
                if found.phase in ("idle", "unknown"):
                    worker.send(signal.SIGCONT)
                    continue
                moment.at = now
                self._note(moment, {worker.pid: found})
                if fault.kind == "worker":
                    hit.counts = worker.send(signal.SIGKILL)
                hit.phase, hit.rank = found.phase, found.rank
                hit.width = self._width(found.key)
                return
            time.sleep(0.2)
        hit.counts = False

    def _hit_actor(self, fault: Fault, hit: Hit, moment: Moment) -> None:
        title, end = re.compile(TITLES[fault.kind]), time.monotonic() + VICTIM_WAIT
        while time.monotonic() < end and not self.over.is_set():
            found = [process for process in self.cluster.processes() if title.match(process.command)]
            if found:
                moment.at = time.time()
                self._note(moment)
                self.may_end |= {ENDS_OF[fault.kind]} if fault.kind in ENDS_OF else set()
                hit.counts = found[int(fault.draw * len(found))].send(signal.SIGKILL)
                return
            time.sleep(0.2)
        hit.counts = False

    def _hit_node(self, fault: Fault, hit: Hit, moment: Moment) -> None:
        """Loses a node, and has another one join some seconds later."""
        nodes = list(self.cluster.nodes)
        if not nodes:
            hit.counts = False
            return
        turn = int(fault.draw * len(nodes))
        node = nodes[turn]
        self._note(moment)
        hit.counts = any(re.match(TITLES["worker"], process.command) for process in node.processes())
        moment.at = time.time()
        self.cluster.lose(node)
        thread = threading.Thread(target=self._return, args=(node, fault.seconds))
        self.returning.append(thread)
        thread.start()

    def _return(self, node: Node, seconds: float) -> None:
        time.sleep(seconds)
        self.cluster.bring(self.plan.cpus[0])

    def _fill(self, fault: Fault, hit: Hit, moment: Moment) -> None:
        self._note(moment)
        self.may_end.add(ENDS_OF["full disc"])
        room = os.statvfs(self.folder)
        ballast = self.folder / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_bsize)
        time.sleep(fault.seconds)
        ballast.unlink()

    # what is seen

    def _note(self, moment: Moment, known: dict[int, Doing] | None = None) -> None:
        """Notes of each trial at which step it is, and its checkpoints."""
        known = dict(known or {})
        workers = [worker for worker in self._workers() if worker.pid not in known]
        with contextlib.ExitStack() as stack:
            del stack
            threads = []
            for worker in workers:

                def note(pid: int = worker.pid) -> None:
                    known[pid] = doing(pid, self.run, STEPS, blocking=False)

                threads.append(threading.Thread(target=note))
                threads[-1].start()
            for thread in threads:
                thread.join()
        moment.at = moment.at if moment.at and not workers else time.time()
        for found in known.values():
            if found.key is not None and (found.key not in moment.trials or found.step is not None):
                moment.trials[found.key] = found, checkpoints(self.run, found.key)

    def _width(self, key: str | None) -> int | None:
        """How many workers a trial has had since its last start, by its logs."""
        if key is None:
            return None
        starts = re.findall(r"worker \d+ of (\d+)", (self.run / "trials" / key / "rank-0.log").read_text(errors="replace"))
        return int(starts[-1]) if starts else None

    def _watch(self) -> None:
        """Notes each checkpoint when it is written."""
        seen: set[tuple[str, int, float]] = set()
        while not self.over.wait(LOOK):
            for path in (self.run / "trials").glob("[0-9]*/step-*.safetensors"):
                with contextlib.suppress(FileNotFoundError):
                    found = path.parent.name, int(path.stem.removeprefix("step-")), path.stat().st_mtime
                    if found not in seen:
                        seen.add(found)
                        self.written.append((found[2], found[0], found[1]))

    def _left(self, files: Sequence[str], shared: set[str]) -> list[str]:
        """What is left, once workers have had some seconds to go."""
        end, left = time.monotonic() + QUIET, ["?"]
        while left and time.monotonic() < end:
            left = results.left_of(self.cluster, self.run, files)
        left += [f"process {p.command}" for driver in self.drivers for p in descendants([driver.pid])]
        return [f"left: {what}" for what in left] + [
            f"left: /dev/shm/{name}" for name in sorted(results.shared_memory() - shared) if not _held(name)
        ]

    def _measure(self) -> None:
        """Works out what each fault cost, from what was so when it came and from what the trials' logs say after it."""
        written = sorted(self.written)
        for number, (hit, moment) in enumerate(zip(self.hits, self.moments, strict=True)):
            until = self.moments[number + 1].at if number + 1 < len(self.moments) else float("inf")
            waits = []
            for key, (found, there) in sorted(moment.trials.items()):
                back = self._went_back(key, moment.at, until)
                if back is None:
                    continue
                if hit.phase == "unknown":
                    hit.phase, hit.width = found.phase, self._width(key)
                if found.step is not None and found.phase in ("step", "evaluation", "checkpoint"):
                    hit.lost_steps = max(hit.lost_steps or 0, found.step - back)
                    seconds = moment.at - there.get(back, max(there.values(), default=moment.at))
                    hit.lost_s = round(max(hit.lost_s or 0.0, seconds), 2)
                following = [at for at, name, step in written if name == key and at > moment.at and step > back]
                if following and following[0] < until:
                    waits.append(following[0] - moment.at)
            if waits:
                hit.next_s = round(max(waits), 2)

    def _went_back(self, key: str, at: float, until: float) -> int | None:
        """The step that a trial went on from after a moment; None where it did not go back."""
        text = (self.run / "trials" / key / "rank-0.log").read_text(errors="replace")
        step = None
        for line in text.splitlines():
            when = _time_of(line)
            if when is None or not at < when < until:
                continue
            if step is None and re.search(r"attempt \d+ on slot", line):
                step = 0
            if found := re.search(r"continued from .*step-(\d+)\.safetensors", line):
                return int(found[1])
        return step


def _time_of(line: str) -> float | None:
    found = re.match(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),(\d{3}) ", line)
    return time.mktime(time.strptime(found[1], "%Y-%m-%d %H:%M:%S")) + int(found[2]) / 1000 if found else None


def _held(name: str) -> bool:
    """Whether a process has a file of the shared memory open: then it is another's, for those of the case are gone."""
    return any(name in line for maps in Path("/proc").glob("[0-9]*/maps") for line in _lines(maps))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


@contextlib.contextmanager
def place(plan: Plan) -> Iterator[Path]:
    """A folder for a case; a small disc of its own where the disc is to fill up. Needs root for that."""
    folder = Path(tempfile.mkdtemp(prefix=f"chaos-{plan.seed}-"))
    disc = any(fault.kind == "full disc" for fault in plan.faults)
    if disc:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISC}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        if disc:
            subprocess.run(["umount", "--lazy", folder], check=True)
        shutil.rmtree(folder, ignore_errors=True)


def source() -> str:
    """A hash of the code that a search runs."""
    digest = hashlib.sha256()
    for package in ("search_spaces", "trainables", "tuner"):
        for path in sorted((ROOT / package).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def reference(plan: Plan) -> results.Results:
    """What the search of a plan comes to on one quiet machine, one trial at a time; kept for the next case."""
    search = plan.search
    search["resources"] = {"workers": plan.smallest, "concurrent_trials": 1}
    text = yaml.safe_dump(search)
    name = hashlib.sha256((text + source()).encode()).hexdigest()[:12]
    kept = ROOT / "runs" / "chaos" / f"{name}.json"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            spec = Path(folder) / "search.yaml"
            spec.write_text(text)
            run = Path(folder) / "run"
            command = [*TUNER, "launch", str(spec), "--run", str(run)]
            subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            kept.write_text(json.dumps(results.results_of(run)))
    return json.loads(kept.read_text())


def record(plan: Plan, outcome: Outcome, commit: str) -> dict[str, Any]:
    """A line of benchmarks/reliability.jsonl."""
    hits = [{name: value for name, value in asdict(hit).items() if value is not None} for hit in outcome.hits]
    return {
        "commit": commit,
        "seed": plan.seed,
        "case": plan.name,
        "workers": plan.workers,
        "trials": plan.trials,
        "seconds": round(outcome.seconds, 1),
        "resumes": outcome.resumes,
        "outcome": "equal" if not outcome.wrong else outcome.wrong[0].splitlines()[0][:200],
        "faults": hits,
    }
