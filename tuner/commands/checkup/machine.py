"""This machine: versions, cores, memory, GPUs."""

from collections.abc import Mapping, Sequence
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tuner.commands.checkup.base import Finding, fault, ok, warning
from tuner.fleet.facts import Facts, Gpus, version_of
from tuner.plan.resources import Resources
from tuner.plan.storage import as_size

SHOWN = ("python", "torch", "torchvision", "ray", "optuna")
LEAST_MEMORY = 2 * 10**9  # bytes: Ray, a driver and one worker on tiny data


def bounds() -> dict[str, SpecifierSet]:
    """What this program needs, by package; that of Python under "python"."""
    about = metadata.metadata("teacher-tuner")
    lines = map(Requirement, metadata.requires("teacher-tuner") or ())
    needed = {line.name: line.specifier for line in lines if line.marker is None or line.marker.evaluate({"extra": ""})}
    return {"python": SpecifierSet(about["Requires-Python"] or ""), **needed}


def versions(needed: Mapping[str, SpecifierSet], have: Mapping[str, str | None]) -> list[Finding]:
    """Compares versions with the bounds of pyproject.toml.

    Args:
        needed: by package.
        have: by package; None for one that is missing.
    """
    lacking = [
        f"{name} {have[name] or 'is missing'} (needs {specifier or 'any'})"
        for name, specifier in needed.items()
        if have[name] is None or not specifier.contains(have[name] or "", prereleases=True)
    ]
    if lacking:
        return [fault("versions", ", ".join(lacking), "pip install -e . in the checkout, or pip install teacher-tuner")]
    return [ok("versions", ", ".join(f"{name} {have[name]}" for name in SHOWN))]


def installed(names: Sequence[str]) -> dict[str, str | None]:
    """Versions of packages here; None for one that is missing."""
    return {name: version_of(name) for name in names}


def cores_and_memory(facts: Facts) -> list[Finding]:
    """Whether the cores that Ray counts are there, and whether memory is enough for anything."""
    cores = f"{facts.cpus} cores"
    if facts.quota is not None and facts.quota < facts.cpus:
        advice = f"a local Ray counts {facts.cpus}; give the container more, or start fewer trials at once"
        found = [warning("cores", f"{cores}, of which this container may use {facts.quota:g} at once", advice)]
    else:
        found = [ok("cores", cores)]
    text = f"{as_size(facts.memory)}, of which {as_size(facts.available)} are free"
    if facts.available < LEAST_MEMORY:
        return [*found, warning("memory", text, f"end other programs; a search needs {as_size(LEAST_MEMORY)} or more")]
    return [*found, ok("memory", text)]


def gpus(there: Gpus, resources: Resources | None, name: str = "GPUs") -> Finding:
    """Whether torch can use the GPUs that are there, and those that a search asks for.

    Args:
        there: the GPUs of a machine.
        resources: that a search asks of it; None without a search.
        name: of the finding.
    """
    wanted = resources is not None and resources.gpus_per_worker > 0
    libraries = f"driver {there.driver}, CUDA {there.cuda}, NCCL {there.nccl}"
    if there.usable and len(there.usable) >= len(there.seen):
        text = f"{len(there.usable)} x {', '.join(sorted(set(there.usable)))} ({libraries})"
        if resources is None or wanted:
            return ok(name, text)
        return warning(name, f"{text}, but the search asks for none", "set resources.gpus_per_worker=1 to use them")
    if there.seen:
        build = "torch is built without CUDA" if there.cuda is None else f"torch can use {len(there.usable)} of them"
        text = f"{len(there.seen)} x {', '.join(sorted(set(there.seen)))}, but {build} ({libraries})"
        advice = "install a build of torch for this driver: https://pytorch.org/get-started/locally"
        return fault(name, text, advice) if wanted else warning(name, text, advice)
    if wanted:
        return fault(name, "none, but resources.gpus_per_worker asks for them", "set resources.gpus_per_worker=0")
    return ok(name, "none; trials run on CPUs")
