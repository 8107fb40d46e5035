"""The nodes of a cluster: whether they answer, agree with each other, and see the files of a search."""

import contextlib
import dataclasses
import fcntl
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from trainables.config.errors import UserError
from trainables.config.trial import TrialConfig
from tuner.commands.checkup import machine, storage
from tuner.commands.checkup.base import Finding, ask, divided, fault, ok, warning
from tuner.fleet.facts import Facts, Node, Questions
from tuner.plan.resources import Resources
from tuner.plan.storage import as_size
from tuner.plan.strategy import MOST_TRIALS
from tuner.runs.hints import counted
from tuner.search.allocation import concurrent_trials

CLOCKS = 1.0  # seconds by which clocks may differ
SURVEY = 150.0  # seconds: a Ray of our own starts, and the nodes answer
LEAST_CACHE = 10**9  # free bytes for decoded images


def paths_of(trial: TrialConfig) -> tuple[str, ...]:
    """Folders and files that the trials of a search read."""
    data = trial.data
    paths = (data.root, data.labels.file, data.classes if isinstance(data.classes, Path) else None, trial.init.path)
    return tuple(str(path.absolute()) for path in paths if path is not None)


def surveyed(address: str, run: Path, data: tuple[str, ...]) -> list[Node]:
    """Asks each node of the cluster at an address; Ray runs in a process of its own.

    Args:
        address: of the cluster, or "local".
        run: where the run would be.
        data: what the trials read.

    Raises:
        Late, UserError: there is no answer, or the cluster cannot be joined.
    """
    with tempfile.TemporaryDirectory(prefix="teacher-tuner-doctor-") as folder, _token(storage.probed(run)) as token:
        questions = Questions(*token, data, os.environ.get("TEACHER_TUNER_CACHE"))
        request = {"address": address, "questions": dataclasses.asdict(questions)}
        answer = ask("tuner.fleet.survey", request, SURVEY, f"{folder}/answer.json")
    return [Node.from_plain(node) for node in answer["nodes"]]


@contextlib.contextmanager
def _token(folder: Path) -> Iterator[tuple[str, str]]:
    """A locked file in the storage of runs, and its content; no file where nothing can be written there."""
    secret = secrets.token_hex(16)
    try:
        made = tempfile.NamedTemporaryFile("w", prefix=".teacher-tuner-token-", dir=folder)  # noqa: SIM115
    except OSError:
        yield "", ""
        return
    with made as file:
        file.write(secret)
        file.flush()
        os.fsync(file.fileno())
        os.chmod(file.name, 0o644)
        with contextlib.suppress(OSError):  # that it cannot be locked is said of the storage
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield file.name, secret


def findings(nodes: Sequence[Node], here: Facts, run: Path, resources: Resources | None) -> list[Finding]:
    """What a survey says.

    Args:
        nodes: that were surveyed.
        here: facts of this machine, whose paths were asked for.
        run: where the run would be.
        resources: of a trial of the search, if there is one.
    """
    silent = [f"{node.name} {node.error}" for node in nodes if node.facts is None]
    made = [fault("nodes", "; ".join(silent), "install teacher-tuner there, or look into that node")] if silent else []
    answered = [node for node in nodes if node.facts is not None]
    if not silent:
        made.append(ok("nodes", f"{counted(len(nodes), 'node')} answered"))
    made += [_versions(answered, here), _clocks(answered)]
    if any(facts.shared is not None for _, facts in _with_facts(answered)):  # else nothing can be written there
        made.append(_shared(answered, run))
    made += [*_data(answered, here), _cache(answered)]
    return made if resources is None else [*made, *_room(nodes, resources)]


def _room(nodes: Sequence[Node], resources: Resources) -> list[Finding]:
    """Whether a trial finds room, and whether the GPUs that it asks for can be used."""
    made = []
    try:
        trials = concurrent_trials([node.resources for node in nodes], resources, MOST_TRIALS)
        made.append(ok("nodes: room", f"for {counted(trials, 'trial')} at once"))
    except UserError as error:
        made.append(fault("nodes: room", *divided(str(error), "nodes: room")))
    for node, facts in _with_facts(nodes):
        if node.resources.get("GPU") and resources.gpus_per_worker:
            made.append(machine.gpus(facts.gpus, resources, f"nodes: GPUs of {node.name}"))
    return made


def _with_facts(nodes: Sequence[Node]) -> list[tuple[Node, Facts]]:
    return [(node, node.facts) for node in nodes if node.facts is not None]


def _unlike(nodes: Sequence[Node], of: Callable[[Facts], object]) -> list[str]:
    """Names of the nodes for which something does not hold."""
    return [node.name for node, facts in _with_facts(nodes) if not of(facts)]


def _versions(nodes: Sequence[Node], here: Facts) -> Finding:
    name = "nodes: versions"
    odd = [
        f"{node.name} has {package} {facts.versions.get(package)}, this machine {version}"
        for node, facts in _with_facts(nodes)
        for package, version in here.versions.items()
        if facts.versions.get(package) != version
    ]
    if odd:
        return fault(name, "; ".join(odd), "install the same versions everywhere; scores of other versions may differ")
    if odd := _unlike(nodes, lambda facts: facts.code == here.code):
        advice = "bring all checkouts to one commit, and run pip install -e . there"
        return fault(name, f"{', '.join(odd)}: has other code of teacher-tuner than this machine", advice)
    return ok(name, "the same everywhere, and the same code")


def _clocks(nodes: Sequence[Node]) -> Finding:
    name = "nodes: clocks"
    if odd := [node for node in nodes if abs(node.offset) - node.uncertainty > CLOCKS]:
        text = "; ".join(f"{n.name} is {n.offset:+.1f} s off (± {n.uncertainty:.3f} s)" for n in odd)
        return warning(name, text, "start a time service there (chrony, ntpd); times of trials would be wrong")
    farthest = max(nodes, key=lambda node: abs(node.offset), default=None)
    if farthest is None:
        return ok(name, "not asked")
    return ok(name, f"at most {abs(farthest.offset):.3f} s apart (± {farthest.uncertainty:.3f} s)")


def _shared(nodes: Sequence[Node], run: Path) -> Finding:
    name, folder = "nodes: storage", storage.probed(run)
    if odd := _unlike(nodes, lambda facts: facts.shared):
        advice = "choose a folder that all nodes share with --run, such as one on NFS: trials move between nodes"
        return fault(name, f"{', '.join(odd)}: does not see what this machine writes to {folder}", advice)
    if odd := _unlike(nodes, lambda facts: facts.locked):
        advice = "nothing breaks: a run's lock has a beat that other machines see, but takes 30 s to be noticed"
        return warning(name, f"{', '.join(odd)}: does not see the locks of this machine in {folder}", advice)
    return ok(name, f"{folder} is seen from every node, and so are its locks")


def _data(nodes: Sequence[Node], here: Facts) -> list[Finding]:
    made = []
    for path, count in here.files.items():
        odd = [
            f"{node.name} {'cannot read it' if there is None else f'sees {there} files in it'}"
            for node, facts in _with_facts(nodes)
            if (there := facts.files.get(path)) != count
        ]
        seen = "more files than could be counted" if count == -1 else f"{count} files"
        if odd:
            advice = "put the data at the same path on every node, or on storage that all share"
            made.append(fault("nodes: data", f"{path} ({seen} here): {'; '.join(odd)}", advice))
        else:
            made.append(ok("nodes: data", f"{path}: {seen}, from every node"))
    return made


def _cache(nodes: Sequence[Node]) -> Finding:
    name, folders = "nodes: cache", sorted({facts.cache for _, facts in _with_facts(nodes)})
    if odd := _unlike(nodes, lambda facts: facts.cache_room is not None):
        advice = "let TEACHER_TUNER_CACHE name a folder that can be written on every node"
        return fault(name, f"{', '.join(odd)}: cannot write {', '.join(folders)}", advice)
    least = min((facts.cache_room or 0 for _, facts in _with_facts(nodes)), default=LEAST_CACHE)
    text = f"{', '.join(folders)}: {as_size(least)} are free"
    if least < LEAST_CACHE:
        return warning(name, text, "make room, or let TEACHER_TUNER_CACHE name another folder")
    return ok(name, text)
