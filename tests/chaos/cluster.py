"""A Ray cluster of several nodes on this machine, made by `ray start`, whose nodes can be lost and come back."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.chaos.processes import Process, descendants

RAY = Path(sys.executable).with_name("ray")
STARTED = "Ray runtime started"
START_WAIT = 90.0  # seconds for a node to come up
END_WAIT = 20.0  # seconds for a node to end in order


class Node:
    """A node: a process of `ray start --block`, and all that it starts.

    Args:
        log: file for what it prints.
        environment: of its processes.
        options: of `ray start`.
    """

    def __init__(self, log: Path, environment: Mapping[str, str], *options: str):
        self.log = log
        command = [str(RAY), "start", "--block", "--disable-usage-stats", "--include-log-monitor=false", *options]
        command += ["--min-worker-port=0", "--max-worker-port=0"]  # else two clusters would take the same ports
        with log.open("w") as file:
            self.root = subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True)

    @property
    def up(self) -> bool:
        """Whether it has come up."""
        return STARTED in self.log.read_text() and self.root.poll() is None

    def processes(self) -> list[Process]:
        """All its processes that live."""
        return descendants([self.root.pid])

    def lose(self) -> list[Process]:
        """kill -9 of all its processes at once, as if the machine had lost its power; returns them."""
        processes = self.processes()
        for sign in (signal.SIGSTOP, signal.SIGKILL):  # stopped first, so that none sees the others die
            for process in processes:
                process.send(sign)
        self.root.wait()
        return processes

    def end(self) -> None:
        """Ends it in order, and by force what is left after that."""
        processes = self.processes()
        self.root.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.root.wait(END_WAIT)
        for process in [*self.processes(), *processes]:
            process.send(signal.SIGKILL)
        self.root.wait()


class Cluster:
    """A head without CPUs, and nodes with some.

    Attributes:
        folder: of its temporary files.
        address: host:port of the head.
        environment: of every process that joins it.
        nodes: that live.

    Args:
        cpus: of each node.
    """

    def __init__(self, *cpus: int):
        self.folder = Path(tempfile.mkdtemp(prefix="chaos-", dir="/tmp"))  # Ray's sockets need a short path
        self.files = self.folder / "files"
        self.files.mkdir()
        token = self.folder / "token"
        token.write_text(secrets.token_hex(32))
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "OMP_NUM_THREADS": "1",
            "TMPDIR": str(self.files),
        }
        port, client = free_ports(2)
        self.address = f"127.0.0.1:{port}"
        self.nodes: list[Node] = []
        self.made = 0
        head = ["--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false"]
        self.head = self._node(*head, f"--ray-client-server-port={client}", f"--temp-dir={self.folder / 'ray'}")
        try:
            self.wait_for(self.head)
            for count in cpus:
                self.wait_for(self.add(count))  # one after the other: two that start at once may get one port
        except BaseException:
            self.close()
            raise

    def add(self, cpus: int) -> Node:
        """Starts another node, and does not wait for it."""
        node = self._node(f"--address={self.address}", f"--num-cpus={cpus}")
        self.nodes.append(node)
        return node

    def bring(self, cpus: int) -> None:
        """Starts a node and waits until it is up; tries again where Ray fails to start it."""
        for _ in range(3):
            with contextlib.suppress(RuntimeError):
                node = self.add(cpus)
                self.wait_for(node)
                return
            self.nodes.remove(node)
            node.end()
        raise RuntimeError("a node cannot be brought back")

    def lose(self, node: Node) -> list[Process]:
        """Loses a node for good; returns its processes."""
        self.nodes.remove(node)
        return node.lose()

    def processes(self) -> list[Process]:
        """All processes of the cluster that live."""
        return [process for node in [self.head, *self.nodes] for process in node.processes()]

    def wait_for(self, node: Node) -> None:
        """Waits until a node is up."""
        end = time.monotonic() + START_WAIT
        while not node.up:
            if node.root.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"a node did not come up:\n{node.log.read_text()}")
            time.sleep(0.1)

    def close(self) -> None:
        """Ends all nodes and removes the files of the cluster."""
        for node in [*self.nodes, self.head]:
            node.end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _node(self, *options: str) -> Node:
        self.made += 1
        return Node(self.folder / f"node-{self.made}.log", self.environment, *options)


@contextlib.contextmanager
def cluster_of(*cpus: int) -> Iterator[Cluster]:
    """A cluster with a head without CPUs and nodes with some, for the life of the block."""
    cluster = Cluster(*cpus)
    try:
        yield cluster
    finally:
        cluster.close()


def free_ports(count: int) -> list[int]:
    """Ports that are free now."""
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [probe.getsockname()[1] for probe in probes]
