"""One case: a search on a cluster of several nodes, the faults of its plan, and what it comes to."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.reliability import COUNTING
from tests.chaos import results
from tests.chaos.cluster import Cluster, Node
from tests.chaos.ends import BROKEN_OFF, Ends
from tests.chaos.hits import Hit, Moment, measure, width
from tests.chaos.phases import Doing, checkpoints, doing
from tests.chaos.plans import Fault, Plan
from tests.chaos.processes import TITLES, Process, descendants, talks_to
from tests.chaos.references import ROOT, reference

TUNER = (sys.executable, "-m", "tuner.commands.main")
LOOK = 0.05  # seconds between two looks at the checkpoints and at the driver
VICTIM_WAIT = 60.0  # seconds for a process of the kind that a fault needs to be there, and at work
DEATHS_WAIT = 3.0  # seconds within which the workers that go with a fault have died
AIM_WAIT, AIM_LOOK = 15.0, 0.05  # seconds for a phase that is aimed at, and between two looks for it
QUIET = 60.0  # seconds for the workers of a driver that has ended to go
CASE_WAIT = 600.0  # seconds for a case
DISC = "24m"  # size of the disc of a case in which it fills up


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
        self.ends = Ends()
        self.wrong: list[str] = []
        self.drivers: list[subprocess.Popen[bytes]] = []
        self.over = threading.Event()
        self.threads: list[threading.Thread] = []

    def go(self) -> Outcome:
        """Runs it to its end."""
        files, shared = [entry.name for entry in self.cluster.files.iterdir()], results.shared_memory()
        try:
            self._start("launch", str(self.spec), "--address", self.cluster.address, "--run", str(self.run))
            self.threads.append(threading.Thread(target=self._faults, daemon=True))
            self.threads[0].start()
            self._drive()
        finally:
            self.over.set()
            for driver in self.drivers:
                if driver.poll() is None:
                    driver.kill()
                driver.wait()
            for thread in self.threads:  # the first one is that of the faults, which adds the others
                thread.join()
        if not self.wrong:
            self.wrong += results.faults_of(self.run, reference(self.plan))
            self.wrong += self._left(files, shared)
        measure(self.run, self.hits, self.moments)
        return Outcome(time.time() - self.begun, self.hits, self.wrong, len(self.drivers) - 1)

    # the driver

    def _start(self, *arguments: str) -> None:
        log = (self.folder / f"driver-{len(self.drivers)}.log").open("wb")
        self.drivers.append(
            subprocess.Popen(
                [*TUNER, *arguments],
                cwd=ROOT,
                env=self.cluster.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
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
            if not self.ends.explain(len(self.drivers) - 1, driver.returncode):
                said = Path(self.folder / f"driver-{len(self.drivers) - 1}.log").read_text()[-1000:]
                self.wrong.append(f"the driver ended with {driver.returncode}: {said}")
                return
            self.say(f"{time.time() - self.begun:6.1f} s  the driver ended with {driver.returncode}; resumed")
            self._start("resume", str(self.run))
        self.wrong.append(f"not at its end after {CASE_WAIT:g} s")

    # the faults

    def _faults(self) -> None:
        begins = self._made if self.plan.from_launch else self._trains
        while not begins() and not self.over.is_set():
            self.over.wait(LOOK)
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
            doing = {key: found.phase for key, found in moment.trials.items()}
            missed = "" if hit.counts else " (missed: nothing of the kind was at work)"
            self.say(f"{hit.at:6.1f} s  {hit.fault}: {hit.phase}, rank {hit.rank}; trials {doing}{missed}")
            if hit.counts and fault.kind not in ("full disc", "stopped worker"):
                thread = threading.Thread(target=self._see_deaths, args=(moment,))
                self.threads.append(thread)
                thread.start()

    def _made(self) -> bool:
        """Whether there is a run; before that nothing can be lost, and nothing resumed."""
        return (self.run / "journal.log").exists()

    def _trains(self) -> bool:
        return any(self.run.glob("trials/[0-9]*/step-*"))

    def _see_deaths(self, moment: Moment) -> None:
        """Notes whose workers have died of a fault: also those that Ray ends with their controller, node or driver."""
        time.sleep(DEATHS_WAIT)
        moment.hit |= {key for process, key in moment.workers.items() if not process.lives}

    def _meet(self, fault: Fault, hit: Hit, moment: Moment) -> None:
        moment.everything = fault.kind in ("driver", "switchboard", "full disc")
        if fault.kind == "worker" or fault.kind == "stopped worker":
            self._hit_worker(fault, hit, moment)
        elif fault.kind == "driver":
            self._note(moment)
            number = len(self.drivers) - 1
            hit.counts = self.drivers[number].poll() is None
            if hit.counts:
                self.ends.expect(number, -signal.SIGKILL)
            self.drivers[number].kill()
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
        begun = time.monotonic()
        hit.counts, hit.aimed = False, bool(fault.aim)
        while time.monotonic() < begun + VICTIM_WAIT and not self.over.is_set():
            workers = self._workers()
            turn = int(fault.draw * len(workers))
            for worker in [*workers[turn:], *workers[:turn]]:
                worker.send(signal.SIGSTOP)
                now = time.time()
                found = doing(worker.pid, self.run, blocking=False)
                aside = fault.aim not in ("", found.phase) and time.monotonic() < begun + AIM_WAIT
                if not found.at_work or aside:
                    worker.send(signal.SIGCONT)
                    continue
                moment.at = now
                self._note(moment, {worker: found})
                moment.hit |= {found.key} if found.key is not None else set()
                hit.counts = fault.kind == "stopped worker" or worker.send(signal.SIGKILL)
                hit.phase, hit.rank, hit.width = found.phase, found.rank, width(self.run, found.key)
                return
            time.sleep(AIM_LOOK if fault.aim else 0.2)

    def _hit_actor(self, fault: Fault, hit: Hit, moment: Moment) -> None:
        """Hits an actor. A controller is at work if one of its workers is, the switchboard if any worker is."""
        trains = r"\.train" if fault.kind == "trial actor" else ""  # it has a trial then
        title, end = re.compile(TITLES[fault.kind] + trains), time.monotonic() + VICTIM_WAIT
        while time.monotonic() < end and not self.over.is_set():
            found = [process for process in self.cluster.processes() if title.match(process.command)]
            if found:
                victim = found[int(fault.draw * len(found))]
                moment.at = time.time()
                busy = self._at_work(moment)
                if fault.kind == "controller":
                    busy = {worker for worker in busy if talks_to(victim.pid, worker.pid)}
                if fault.kind == "switchboard":
                    self.ends.expect(len(self.drivers) - 1, BROKEN_OFF)
                hit.counts = victim.send(signal.SIGKILL) and (bool(busy) or fault.kind == "trial actor")
                return
            time.sleep(0.2)
        hit.counts = False

    def _hit_node(self, fault: Fault, hit: Hit, moment: Moment) -> None:
        """Loses a node of which a worker is at work, and has another one join some seconds later."""
        end, working = time.monotonic() + VICTIM_WAIT, list[Node]()
        while not working:
            if time.monotonic() > end or self.over.is_set():
                hit.counts = False
                return
            time.sleep(0.2)
            busy = self._at_work(moment)
            working = [node for node in self.cluster.nodes if not busy.isdisjoint(node.processes())]
        node = working[int(fault.draw * len(working))]
        moment.at = time.time()
        hit.counts = not busy.isdisjoint(self.cluster.lose(node))
        thread = threading.Thread(target=self._return, args=(node, fault.seconds))
        self.threads.append(thread)
        thread.start()

    def _return(self, node: Node, seconds: float) -> None:
        self.over.wait(seconds)
        self.cluster.bring(self.plan.cpus[0])

    def _fill(self, fault: Fault, hit: Hit, moment: Moment) -> None:
        self._note(moment)
        room = os.statvfs(self.folder)
        ballast = self.folder / "ballast"
        with self.ends.full_disc():
            with contextlib.suppress(OSError), ballast.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_bsize)
            self.over.wait(fault.seconds)
            ballast.unlink()

    # what is seen

    def _note(self, moment: Moment, known: dict[Process, Doing] | None = None) -> dict[Process, Doing]:
        """Notes what each trial is doing, and its checkpoints; returns what each worker is doing."""
        known = dict(known or {})

        def look(worker: Process) -> None:
            known[worker] = doing(worker.pid, self.run, blocking=False)

        threads = [threading.Thread(target=look, args=(worker,)) for worker in self._workers() if worker not in known]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for worker, found in known.items():
            if found.key is None:
                continue
            moment.workers[worker] = found.key
            before = moment.trials.get(found.key)
            if before is None or (before.step or 0) < (found.step or 0):
                moment.trials[found.key] = found
            moment.checkpoints[found.key] = checkpoints(self.run, found.key)
        return known

    def _at_work(self, moment: Moment) -> set[Process]:
        """Notes what each trial is doing; returns the workers that have a trial or are starting up."""
        return {worker for worker, found in self._note(moment).items() if found.at_work}

    def _left(self, files: list[str], shared: set[str]) -> list[str]:
        """What is left, once workers have had some seconds to go."""
        left = results.left_in_the_end(self.cluster, self.run, files, shared, QUIET)
        left += [f"process {p.command}" for driver in self.drivers for p in descendants([driver.pid])]
        return [f"left: {what}" for what in left]


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


def record(plan: Plan, outcome: Outcome, commit: str) -> dict[str, Any]:
    """A line of benchmarks/reliability.jsonl."""
    hits = [{name: value for name, value in asdict(hit).items() if value is not None} for hit in outcome.hits]
    return {
        "commit": commit,
        "seed": plan.seed,
        "case": plan.name,
        "workers": plan.workers,
        "trials": plan.trials,
        "counting": COUNTING,
        "seconds": round(outcome.seconds, 1),
        "resumes": outcome.resumes,
        "outcome": "equal" if not outcome.wrong else outcome.wrong[0].splitlines()[0][:200],
        "faults": hits,
    }
