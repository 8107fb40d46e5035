"""What a search came to, to the last bit, and what is wrong with it or left of it."""

import hashlib
import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.storages.journal._storage import JournalOperation
from optuna.trial import TrialState
from safetensors import safe_open

from tests.chaos.cluster import Cluster
from tests.chaos.processes import Process, ports, stacks
from tests.timeless import timeless, timeless_history

Results = dict[str, dict[str, Any]]
"""By key of the trial: its state, its curve, the metrics of all its epochs, and a hash of its last state."""
RAYS_OWN = ("_AutoscalingCoordinatorActor",)  # one for all that use Ray Train on a cluster
OF_NODES = re.compile(r"ray::(IDLE|DashboardAgent|RuntimeEnvAgent|_AutoscalingCoordinatorActor)|.*default_worker\.py")
OF_TORCH = ("torchinductor_",)  # an empty folder of torch, one for a user
ON_CLUSTER = """
import json, sys, ray
ray.init(sys.argv[1], log_to_driver=False, configure_logging=False)
actors = sorted(actor["ActorClassName"] for actor in ray._private.state.actors().values() if actor["State"] != "DEAD")
groups = sorted(g["state"] for g in ray.util.placement_group_table().values() if g["state"] != "REMOVED")
print(json.dumps([actors, groups, ray.cluster_resources().get("CPU", 0), ray.available_resources().get("CPU", 0)]))
"""


def results_of(run: Path) -> Results:
    """What a search that has ended came to, from its journal and its last checkpoints."""
    study = _study(run)
    found: Results = {}
    for trial in study.get_trials(deepcopy=False):
        key = f"{trial.number:04d}"
        history, digest = last_state(run / "trials" / key)
        found[key] = {
            "state": trial.state.name,
            "values": trial.values,
            "curve": {str(epoch): value for epoch, value in sorted(trial.intermediate_values.items())},
            "metrics": timeless(trial.user_attrs.get("metrics") or {}),
            "history": timeless_history(history),
            "weights": digest,
        }
    return found


def faults_of(run: Path, expected: Results) -> list[str]:
    """What is wrong with a search that has ended; empty where nothing is."""
    found, wrong = results_of(run), []
    if lost := sorted(expected.keys() - found.keys()):
        wrong.append(f"lost: {', '.join(lost)}")
    if extra := sorted(found.keys() - expected.keys()):
        wrong.append(f"asked beyond the search: {', '.join(extra)}")
    if running := [key for key, trial in found.items() if trial["state"] == TrialState.RUNNING.name]:
        wrong.append(f"left RUNNING: {', '.join(running)}")
    wrong += [f"trial {key}: told {count} times" for key, count in told(run).items() if count > 1]
    for key in sorted(expected.keys() & found.keys()):
        one, other = expected[key], found[key]
        wrong += [
            f"trial {key}: another {name}{_where(one[name], other[name])}" for name in one if one[name] != other[name]
        ]
    return wrong


def told(run: Path) -> dict[str, int]:
    """How often the end of each trial is written in the journal."""
    count: Counter[str] = Counter()
    for line in (run / "journal.log").read_text().splitlines():
        operation = json.loads(line)
        ends = operation["op_code"] == JournalOperation.SET_TRIAL_STATE_VALUES
        if ends and operation["state"] != TrialState.RUNNING:
            count[f"{operation['trial_id']:04d}"] += 1
    return dict(count)


def left_of(cluster: Cluster, run: Path, files: Iterable[str]) -> list[str]:
    """What a search that has ended has left on its cluster and on this machine.

    Args:
        cluster: that it ran on.
        run: its directory.
        files: names in the temporary folder before the search.
    """
    try:
        actors, groups, cpus, free = on_cluster(cluster.address, cluster.environment)
    except RuntimeError as error:
        return [str(error)]
    left = [f"actor {name}" for name in actors if name not in RAYS_OWN]
    left += [f"placement group {state}" for state in groups]
    if free < cpus:
        left.append(f"{cpus - free:g} CPUs that are not free")
    workers = [process for process in cluster.processes() if _of_search(process)]
    left += [f"process {process.command}, {_doing(process)}" for process in workers]
    left += [f"port {port}" for process in workers for port in ports(process.pid)]
    names = {entry.name for entry in cluster.files.iterdir()} - set(files)
    left += [f"file {name}" for name in sorted(names) if not name.startswith(OF_TORCH)]
    left += [f"file {path.relative_to(run)}" for path in sorted(run.rglob("trials/*/.*")) if path.name != ".owner"]
    return left


def on_cluster(address: str, environment: Mapping[str, str]) -> tuple[list[str], list[str], float, float]:
    """What lives on a cluster: classes of actors, states of placement groups, its CPUs, and those that are free.

    Args:
        address: host:port of its head.
        environment: of a process that joins it.

    Raises:
        RuntimeError: it does not answer.
    """
    command = [sys.executable, "-c", ON_CLUSTER, address]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True)
    if answer.returncode:
        raise RuntimeError(f"the cluster does not answer: {answer.stderr[-500:]}")
    actors, groups, cpus, free = json.loads(answer.stdout.splitlines()[-1])
    return actors, groups, cpus, free


def left_in_the_end(cluster: Cluster, run: Path, files: Iterable[str], shared: set[str], seconds: float) -> list[str]:
    """What a search has left, once its processes have had some seconds to go; files in shared memory, too.

    Args:
        cluster: that it ran on.
        run: its directory.
        files: names in the temporary folder before the search.
        shared: names in shared memory before the search.
        seconds: that it is waited for.
    """
    end, left = time.monotonic() + seconds, ["?"]
    while left and time.monotonic() < end:
        left = left_of(cluster, run, files)
    return left + [f"/dev/shm/{name}" for name in sorted(shared_memory() - shared) if not held(name)]


def shared_memory() -> set[str]:
    """Names of the files in shared memory."""
    return {entry.name for entry in Path("/dev/shm").iterdir()}


def held(name: str) -> bool:
    """Whether a process has a file of the shared memory open: then it is another's, for ours are gone."""
    return any(name in line for maps in Path("/proc").glob("[0-9]*/maps") for line in _lines(maps))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _doing(process: Process) -> str:
    """State of a process and what each of its threads is in, for whoever has to find out why it is still there."""
    threads = [" < ".join(frame.function for frame in frames[:4]) for frames in stacks(process.pid, blocking=False)]
    return f"state {process.state}, {'; '.join(threads) or 'no Python stack'}"


def _of_search(process: Process) -> bool:
    return process.command.startswith("ray::") and not OF_NODES.match(process.command)


def _study(run: Path) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = JournalStorage(JournalFileBackend(str(run / "journal.log")))
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage)


def last_state(folder: Path) -> tuple[list[dict[str, Any]], str | None]:
    """Metric history and a hash of the tensors of a trial's newest checkpoint."""
    paths = sorted(folder.glob("step-*.safetensors"))
    if not paths:
        return [], None
    digest = hashlib.sha256()
    with safe_open(paths[-1], framework="numpy") as file:
        history = json.loads(file.metadata()["values"])["history"]
        for name in sorted(file.keys()):
            tensor = file.get_tensor(name)
            digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode() + tensor.tobytes())
    return history, digest.hexdigest()


def _where(one: object, other: object) -> str:
    """Where two values begin to differ, in a few words."""
    if isinstance(one, list) and isinstance(other, list):
        if len(one) != len(other):
            return f" ({len(one)} and {len(other)} entries)"
        at = next(index for index, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
        return f" (entry {at}{_where(one[at], other[at])})"
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))
        return f" (at {', '.join(keys[:3])})"
    return f" ({one!r} and {other!r})"[:120]
