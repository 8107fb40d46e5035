"""Processes of this machine, as /proc and py-spy show them: who descends from whom, and what each is doing."""

import contextlib
import functools
import importlib.metadata
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

DUMP_WAIT = 10.0  # seconds for a dump of the stacks of a process
TITLES = {  # beginnings of the titles that Ray gives its actors
    "worker": r"ray::RayTrainWorker",
    "trial actor": r"ray::(ResourceTrainable|SlotTrial)",
    "controller": r"ray::TrainController",
    "switchboard": r"ray::(switchboard-.*:)?Switchboard",
}
LISTENS, CONNECTED = "0A", "01"  # states of a socket in /proc/net/tcp


@dataclass(frozen=True)
class Process:
    """A process of this machine.

    Attributes:
        pid: its id.
        parent: id of its parent.
        started: in ticks since the machine's start; with the id it names one process for ever.
        state: a letter, as in /proc; "Z" is a zombie.
        command: its arguments, or the title that it gave itself, such as "ray::Switchboard.next".
    """

    pid: int
    parent: int = field(compare=False)
    started: int
    state: str = field(compare=False)
    command: str = field(compare=False)

    @property
    def lives(self) -> bool:
        """Whether it lives now; a zombie does not."""
        now = look(self.pid)
        return now is not None and now.started == self.started and now.state != "Z"

    def send(self, sign: signal.Signals) -> bool:
        """Sends a signal; returns whether the process was there to take it."""
        if not self.lives:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, sign)
            return True
        return False


def look(pid: int) -> Process | None:
    """The process with an id; None where there is none."""
    folder = Path("/proc") / str(pid)
    try:
        facts = (folder / "stat").read_text().rpartition(")")[2].split()
        command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return None
    return Process(pid, int(facts[1]), int(facts[19]), facts[0], command)


def descendants(roots: Iterable[int]) -> list[Process]:
    """The processes with these ids and all that descend from them, parents before children."""
    processes = {int(entry.name): look(int(entry.name)) for entry in Path("/proc").glob("[0-9]*")}
    children: dict[int, list[int]] = {}
    for pid, process in processes.items():
        if process is not None:
            children.setdefault(process.parent, []).append(pid)
    ids = list(roots)
    for pid in ids:  # grows while it is read
        ids += sorted(children.get(pid, []))
    return [process for pid in ids if (process := processes.get(pid)) is not None and process.state != "Z"]


def ports(pid: int) -> list[int]:
    """Ports at which a process listens."""
    return [local for state, local, _ in _sockets(pid) if state == LISTENS]


def talks_to(pid: int, other: int) -> bool:
    """Whether a process has a connection to a port of another one, as an actor has to those whose methods it calls."""
    return not {remote for state, _, remote in _sockets(pid) if state == CONNECTED}.isdisjoint(ports(other))


def _sockets(pid: int) -> list[tuple[str, int, int]]:
    """State, local and remote port of the TCP sockets that a process has open."""
    own = set()
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        try:
            own |= set(re.findall(r"socket:\[(\d+)\]", str(link.readlink())))
        except OSError:
            continue
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] in own:
                local, remote = (int(address.rpartition(":")[2], 16) for address in fields[1:3])
                found.append((fields[3], local, remote))
    return found


@dataclass(frozen=True)
class Frame:
    """A frame of a Python stack: function, file, and local variables as text."""

    function: str
    file: str
    variables: dict[str, str]


def stacks(pid: int, blocking: bool = True) -> list[list[Frame]]:
    """Stacks of the threads of a process, innermost frame first; empty where it cannot be read.

    Args:
        pid: of a process that runs Python.
        blocking: whether the process is paused meanwhile. Without, a stack may be torn.
    """
    command = [_py_spy(), "dump", "--json", "--locals", "--pid", str(pid)]
    try:
        answer = subprocess.run(
            command if blocking else [*command, "--nonblocking"], capture_output=True, timeout=DUMP_WAIT
        )
        threads = json.loads(answer.stdout)
    except (ValueError, subprocess.TimeoutExpired):
        return []
    return [
        [
            Frame(
                frame["name"],
                frame["filename"] or "",
                {local["name"]: local.get("repr") or "" for local in frame.get("locals") or []},
            )
            for frame in thread["frames"]
        ]
        for thread in threads
    ]


@functools.cache
def _py_spy() -> str:
    """The program py-spy, which comes with ray[default]."""
    files = importlib.metadata.files("py-spy") or []
    return str(next(file.locate() for file in files if file.name == "py-spy"))
