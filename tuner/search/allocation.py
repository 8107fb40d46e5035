"""What a cluster has room for: how many trials run at once, and whether it is there at all."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import IO

from trainables.config.errors import UserError
from tuner.plan import jobs
from tuner.plan.spec import Resources, SearchSpec

Node = Mapping[str, float]
ADDRESS_TIMEOUT = 5.0  # seconds for a Ray head to accept a connection
JOIN_TIMEOUT = 20.0  # seconds for a process to join its cluster


def demand_of(wanted: Resources) -> dict[str, float]:
    """Resources of one worker, by Ray's names."""
    demand = {"CPU": wanted.cpus_per_worker, "GPU": wanted.gpus_per_worker}
    return {kind: amount for kind, amount in demand.items() if amount > 0}


def places_on(nodes: Iterable[Node], wanted: Resources) -> int:
    """How many workers fit: each has to fit on one node."""
    demand = demand_of(wanted)
    return sum(min(int(node.get(kind, 0) / amount + 1e-9) for kind, amount in demand.items()) for node in nodes)


def concurrent_trials(nodes: Sequence[Node], wanted: Resources, trials: int) -> int:
    """The number of slots: as many as fit and as there are trials, and no more than asked for.

    Args:
        nodes: resources of each, by Ray's names; a worker has to fit on one node, a trial may span several.
        wanted: of one trial.
        trials: how many are still to run.

    Raises:
        UserError: not even one trial fits.
    """
    demand, places = demand_of(wanted), places_on(nodes, wanted)
    room = places // wanted.workers
    if room < 1:
        needs = ", ".join(f"{amount * wanted.workers:g} {kind}" for kind, amount in demand.items())
        has = ", ".join(f"{sum(node.get(kind, 0) for node in nodes):g} {kind}" for kind in demand)
        where = f" on {len(nodes)} nodes with room for {places} workers" if len(nodes) > 1 else ""
        raise UserError(f"resources.workers = {wanted.workers}: a trial needs {needs}, the cluster has {has}{where}")
    return min(room, trials, wanted.concurrent_trials or trials)


def trials_at_once(room: int, up: int) -> int:
    """How many trials run at once: as many as have workers; one in any case, which waits where no workers are up.

    Args:
        room: the most that fit and that were asked for.
        up: slots whose workers are up.
    """
    return max(1, min(room, up))


def local_cpus() -> int:
    """CPUs that this process may use, and so a local Ray."""
    return len(os.sched_getaffinity(0))


def check_cluster(spec: SearchSpec) -> None:
    """Tries the address, long before Ray itself would give up, and what can be known of its room.

    Raises:
        UserError: nothing answers at host:port, or refuses this shell's token; or this machine has too few CPUs for a trial, or belongs
            to a Ray job's cluster.
    """
    if spec.address == "local" and jobs.inside():
        raise UserError(
            "address = 'local': inside of a Ray job there is a cluster already; leave the address away, or give 'auto'"
        )
    if spec.address == "local":
        concurrent_trials([{"CPU": local_cpus()}], spec.resources.model_copy(update={"gpus_per_worker": 0}), 1)
    address = spec.address
    if address not in ("local", "auto"):
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=ADDRESS_TIMEOUT).close()
        except (OSError, OverflowError) as error:
            raise UserError(f"address = '{address}': no Ray head answers there ({error})") from None
    if address != "local" and not _joined(address) and address != "auto":
        raise UserError(f"address = '{address}': something answers there, but a Ray cluster could not be joined")


def _joined(address: str) -> bool:
    """Whether a child process can join the cluster at an address: what Ray would hang on is ended with it.

    Raises:
        UserError: the cluster refuses this shell's token.
    """
    trial = [sys.executable, "-c", f"import ray; ray.init({address!r}, log_to_driver=False, configure_logging=False)"]
    end = time.monotonic() + JOIN_TIMEOUT
    with tempfile.TemporaryFile() as said, subprocess.Popen(trial, stdout=said, stderr=said) as child:
        while (status := child.poll()) is None and time.monotonic() < end and not _refused(said):
            time.sleep(0.1)
        child.kill()
        refused = _refused(said)
    if refused and status != 0:
        mode, path = os.environ.get("RAY_AUTH_MODE"), os.environ.get("RAY_AUTH_TOKEN_PATH")
        raise UserError(
            f"address = '{address}': the cluster refuses this shell's token; copy the head's (there: ray get-auth-token) to "
            f"{path or '~/.ray/auth_token'}{'' if path else ', or name its file by RAY_AUTH_TOKEN_PATH'}"
            f"{'' if mode == 'token' else ', and export RAY_AUTH_MODE=token'}"
        )
    return status == 0


def _refused(said: IO[bytes]) -> bool:
    """Whether a process that joins a cluster has said that its token is missing or wrong; Ray itself tries on for 20 s and more."""
    text = os.pread(said.fileno(), 1_000_000, 0)  # the child writes where its own position is, which a seek would move
    return any(mark in text for mark in (b"InvalidAuthToken", b"AuthenticationError"))
