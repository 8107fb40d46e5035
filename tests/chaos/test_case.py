"""What a case makes of its faults: which ends of a driver they explain, and which hits count. Without Ray."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.chaos import ends
from tests.chaos.case import Case, place
from tests.chaos.ends import BROKEN_OFF, Ends
from tests.chaos.hits import Hit, Moment
from tests.chaos.plans import Fault, Kind, Plan
from tests.chaos.processes import Process, look, talks_to

LISTENS = "import socket, time; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); "
CONNECTS = "import socket, time; s = socket.create_connection(('127.0.0.1', {port})); print(flush=True); "
ALONE = "import time; print(flush=True); "
WAITS = "time.sleep(60)"


def test_a_fault_explains_one_end_of_the_driver_that_it_met() -> None:
    explained = Ends()
    explained.expect(1, BROKEN_OFF)
    assert not explained.explain(0, BROKEN_OFF) and not explained.explain(1, -9)
    assert explained.explain(1, BROKEN_OFF)
    assert not explained.explain(2, BROKEN_OFF)


def test_a_full_disc_explains_every_end_while_it_lasts_and_shortly_after(monkeypatch: pytest.MonkeyPatch) -> None:
    explained = Ends()
    with explained.full_disc():
        assert explained.explain(0, BROKEN_OFF) and explained.explain(1, BROKEN_OFF)
        assert not explained.explain(2, 1)
    assert explained.explain(2, BROKEN_OFF)
    monkeypatch.setattr(ends, "DISC_AFTER", -1.0)
    with explained.full_disc():
        pass
    assert not explained.explain(3, BROKEN_OFF)


@contextlib.contextmanager
def process(title: str, code: str) -> Iterator[tuple[Process, str]]:
    """A process of Python with a title, and the first line that it prints."""
    with subprocess.Popen([title, "-c", code], executable=sys.executable, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        line = child.stdout.readline().strip()
        found = look(child.pid)
        assert found is not None
        try:
            yield found, line
        finally:
            child.kill()


def dies(killed: Process) -> bool:
    """Whether a process has died within some seconds."""
    end = time.monotonic() + 10
    while killed.lives and time.monotonic() < end:
        time.sleep(0.01)
    return not killed.lives


def plan_of(*faults: Fault) -> Plan:
    return Plan(0, "", (1,), "1", 1, faults, from_launch=False)


def of_processes(folder: Path, *processes: Process) -> Any:
    """Stands for a cluster of these processes: a case asks it for no more than is here."""

    def living() -> list[Process]:
        return [process for process in processes if process.lives]

    return SimpleNamespace(processes=living, files=folder, address="")


def hit_of(folder: Path, kind: Kind, *processes: Process) -> Hit:
    """What a fault has hit, of these processes."""
    folder.mkdir()
    case, hit = Case(plan_of(), of_processes(folder, *processes), folder), Hit(kind, 0.0)
    case._meet(Fault(0.0, kind, 0.0, 0.0), hit, Moment(0.0))
    return hit


@pytest.mark.parametrize("kind", ["controller", "switchboard"])
def test_a_kill_counts_if_it_meets_one_at_work(tmp_path: Path, kind: Kind) -> None:
    """A worker of Python outside the slot's loop is starting up; without one that is at work neither is."""
    title = {"controller": "ray::TrainController.run", "switchboard": "ray::Switchboard"}[kind]
    with process("ray::RayTrainWorker", LISTENS + WAITS) as (worker, port):
        with process(title, CONNECTS.format(port=port) + WAITS) as (victim, _):
            assert talks_to(victim.pid, worker.pid) and not talks_to(worker.pid, victim.pid)
            assert hit_of(tmp_path / "busy", kind, worker, victim).counts and dies(victim)
        others = [worker] if kind == "controller" else []
        with process(title, ALONE + WAITS) as (victim, _):
            assert not hit_of(tmp_path / "idle", kind, *others, victim).counts and dies(victim)


class Broken(Case):
    """A case whose driver ends with a status that no fault explains once the disc is full."""

    def _start(self, *arguments: str) -> None:
        (self.folder / f"driver-{len(self.drivers)}.log").touch()
        ends = ["bash", "-c", "until [ -e ballast ]; do sleep 0.1; done; exit 5"]
        self.drivers.append(subprocess.Popen(ends, cwd=self.folder))


def test_the_faults_are_over_when_a_case_is() -> None:
    plan = plan_of(Fault(0.0, "full disc", 0.0, 60.0))
    begun = time.monotonic()
    with place(plan) as folder:
        (folder / "files").mkdir()
        (folder / "run" / "trials" / "0000" / "step-0000000001").mkdir(parents=True)
        case = Broken(plan, of_processes(folder / "files"), folder, lambda text: None)
        outcome = case.go()
        assert [line.partition(":")[0] for line in outcome.wrong] == ["the driver ended with 5"]
        assert not any(thread.is_alive() for thread in case.threads)
        assert not (folder / "ballast").exists()
    assert time.monotonic() - begun < 30
