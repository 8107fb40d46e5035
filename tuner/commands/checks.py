"""The checks before a run is made: launch, resume and train go through one list, in this order."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from trainables.config.errors import UserError
from tuner.commands.checkup import storage
from tuner.plan import jobs, points, reading, space
from tuner.plan.space import Space
from tuner.plan.spec import SearchSpec
from tuner.search.allocation import concurrent_trials, local_cpus
from tuner.search.samplers import base as samplers
from tuner.search.stoppers import base as stoppers

ADDRESS_TIMEOUT = 5.0  # seconds for a Ray head to accept a connection
JOIN_TIMEOUT = 20.0  # seconds for a process to join its cluster


@dataclass(frozen=True)
class Check:
    """A check of what is about to run.

    Attributes:
        name: of what is checked.
        require: raises UserError if the check fails. Its second argument is the space of a new search; it is None for
            a resume and a full run, whose trials have been proposed before. Its third is where the run is, or will be.
    """

    name: str
    require: Callable[[SearchSpec, Space | None, Path], None]


def require_strategy(spec: SearchSpec) -> None:
    """Loads the stopper and the sampler, and makes one of each.

    Raises:
        UserError: the file of one of them is faulty.
    """
    stoppers.make(spec)
    samplers.make(spec, 0)


def _strategy_loads(spec: SearchSpec, proposing: Space | None, run: Path) -> None:
    require_strategy(spec)


def _space_proposes(spec: SearchSpec, proposing: Space | None, run: Path) -> None:
    if proposing is not None and not spec.table:  # `points.load` has validated each point of a table
        space.rehearse(proposing, spec.trial, spec.resources)


def _points_fit_data(spec: SearchSpec, proposing: Space | None, run: Path) -> None:
    points.check_data(spec)


def _initial_networks_fit(spec: SearchSpec, proposing: Space | None, run: Path) -> None:
    """Compares each file that trials begin with to the trials' networks; only then torch is imported."""
    trials = points.configs(spec) if spec.table else {"": spec.trial}
    begun = {label: config for label, config in trials.items() if config.init.path is not None}
    if not begun:
        return

    from trainables.running.initial_network import require_fitting
    from trainables.running.stored import looked_at

    seen = set()
    for label, config in begun.items():
        alike = (config.init, config.encoder, config.method.name, config.data)
        if alike not in seen:
            seen.add(alike)
            try:
                require_fitting(config, looked_at(config))
            except UserError as error:
                raise UserError(f"point '{label}': {error}" if label else reading.spec_key(str(error))) from None


def _address_answers(spec: SearchSpec, proposing: Space | None, run: Path) -> None:
    require_cluster(spec)


def _storage_holds(spec: SearchSpec, proposing: Space | None, run: Path) -> None:
    storage.require_usable(run)


SPACE = Check("the space proposes valid trials", _space_proposes)
STORAGE = Check("the storage can hold a run", _storage_holds)
CLUSTER = Check("the cluster answers and has room for a trial", _address_answers)
CHECKS = (
    Check("the stopper and the sampler can be made", _strategy_loads),
    SPACE,
    Check("the data are enough for each point of the table", _points_fit_data),
    Check("the networks that trials begin with fit", _initial_networks_fit),
    STORAGE,
    CLUSTER,
)
"""The quick checks, which `tuner doctor` makes too."""


def require_all(spec: SearchSpec, run: Path, proposing: Space | None = None) -> None:
    """Makes all checks. Reading the spec has already checked the spec itself and the data of its trials.

    Args:
        spec: of the search, or of a full run.
        run: where the run is, or will be.
        proposing: the space of a new search.

    Raises:
        UserError: by the first check that fails.
    """
    for check in CHECKS:
        check.require(spec, proposing, run)


def require_cluster(spec: SearchSpec) -> None:
    """Checks that the cluster at the address can be joined, and on this machine that there are CPUs for a trial.

    It takes a few seconds, where Ray itself would try for much longer.

    Raises:
        UserError: nothing answers at host:port, or refuses this shell's token; or this machine has too few CPUs for a
            trial, or belongs to a Ray job's cluster.
    """
    address = spec.address
    if address == "local":
        if jobs.inside():
            rule = "inside of a Ray job there is a cluster already; leave the address away, or give 'auto'"
            raise UserError(f"address = 'local': {rule}")
        without_gpus = spec.resources.model_copy(update={"gpus_per_worker": 0})  # their number is not known before Ray
        concurrent_trials([{"CPU": local_cpus()}], without_gpus, 1)
        return
    if address != "auto":
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=ADDRESS_TIMEOUT).close()
        except (OSError, OverflowError) as error:
            advice = "start one there with 'ray start --head', or give the address of another"
            raise UserError(f"address = '{address}': no Ray head answers there ({error}); {advice}") from None
    if not _joined(address) and address != "auto":
        advice = "see that it is a Ray head, and that its version of Ray is the one here"
        rule = f"something answers there, but a Ray cluster could not be joined; {advice}"
        raise UserError(f"address = '{address}': {rule}")


def _joined(address: str) -> bool:
    """Returns whether a child process can join the cluster at an address. The process is killed if its join hangs.

    Raises:
        UserError: the cluster refuses this shell's token.
    """
    code = f"import ray; ray.init({address!r}, log_to_driver=False, configure_logging=False)"
    end = time.monotonic() + JOIN_TIMEOUT
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen([sys.executable, "-c", code], stdout=said, stderr=said) as child,
    ):
        while (status := child.poll()) is None and time.monotonic() < end and not _refused(said):
            time.sleep(0.1)
        child.kill()
        refused = _refused(said)
    if refused and status != 0:
        mode, path = os.environ.get("RAY_AUTH_MODE"), os.environ.get("RAY_AUTH_TOKEN_PATH")
        where = path or "~/.ray/auth_token, or name its file by RAY_AUTH_TOKEN_PATH"
        advice = f"copy the head's (there: ray get-auth-token) to {where}"
        export = "" if mode == "token" else ", and export RAY_AUTH_MODE=token"
        raise UserError(f"address = '{address}': the cluster refuses this shell's token; {advice}{export}")
    return status == 0


def _refused(said: IO[bytes]) -> bool:
    """Returns whether the output of a process that joins a cluster says that its token is missing or wrong.

    It is looked for while the process runs, because Ray itself goes on trying for 20 s and more.
    """
    text = os.pread(said.fileno(), 1_000_000, 0)  # the child writes at the file's position, which a seek would move
    return any(mark in text for mark in (b"InvalidAuthToken", b"AuthenticationError"))
