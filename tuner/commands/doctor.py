"""`tuner doctor`: looks at the machine, the cluster, the storage and what a trial needs, before a search does."""

import argparse
import dataclasses
import functools
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from trainables.config.errors import UserError
from tuner.commands import checks
from tuner.commands.checkup import machine, nodes, storage, trial
from tuner.commands.checkup.base import Finding, ask, found, in_time, ok
from tuner.commands.launch import settings
from tuner.fleet.facts import Facts, Questions
from tuner.plan import jobs, points, reading, space
from tuner.plan.spec import SearchSpec, parse
from tuner.runs import run as runs
from tuner.runs.hints import counted

QUICK, SLOW = 30.0, 240.0  # seconds for a check on this machine, and for one that asks a cluster or makes steps
NAMED = 24  # columns for the name of a check


def run(arguments: argparse.Namespace) -> int:
    """Prints what is found, as it is found; returns the exit status: 2 if something is at fault."""
    made: list[Finding] = []
    for finding in Checkup(arguments).findings():
        made.append(finding)
        if not arguments.json:
            print("\n".join(lines(finding)), flush=True)
    faults = sum(finding.state == "fault" for finding in made)
    warnings = sum(finding.state == "warning" for finding in made)
    if arguments.json:
        rows = [dataclasses.asdict(finding) for finding in made]
        print(json.dumps({"ok": not faults, "faults": faults, "warnings": warnings, "checks": rows}, indent=2))
    else:
        print(f"\n{len(made)} checks: {faults} at fault, {warnings} warnings")
    sys.stdout.flush()
    if any(finding.text.startswith("no answer within") for finding in made):
        os._exit(2)  # a check hangs in a thread, which would be waited for
    return 2 if faults else 0


def lines(finding: Finding) -> list[str]:
    """A row of the table, and below it what to do."""
    row = f"{finding.state:<8} {finding.name:<{NAMED}} {finding.text}"
    return [row, *([f"{'':<8} {'':<{NAMED}} -> {finding.advice}"] if finding.advice else [])]


class Checkup:
    """All checks, in order.

    Args:
        arguments: of the command line.
    """

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        self.spec: SearchSpec | None = None
        self.proposing: space.Space | None = None
        self.facts: Facts | None = None
        self.nodes: list[nodes.Node] = []
        self.costs: list[trial.Cost] = []

    def findings(self) -> Iterator[Finding]:
        """Makes the checks; what one needs of another that failed is left out."""
        if self.arguments.search is None and self.arguments.set:
            raise UserError(f"--set {self.arguments.set[0]}: goes with a spec, whose key it changes")
        if self.arguments.search is not None:
            yield from in_time("spec", QUICK, self._read)
        if self.spec is not None:
            yield from self._of_spec()
        yield from in_time("versions", QUICK, self._versions)
        yield from in_time("machine", SLOW, self._machine)
        for name, seconds, check in self._of_storage():
            yield from in_time(name, seconds, check)
        yield from in_time("cluster", SLOW, self._cluster)
        if self.spec is not None:
            for workers in trial.widths(self.spec):
                yield from in_time("trial", SLOW, functools.partial(self._dry_step, workers))
            yield from in_time("trial: memory", QUICK, self._memory)
        yield from in_time("storage: room", QUICK, self._room)

    @property
    def path(self) -> Path:
        """Where the run would be."""
        name = self.spec.name if self.spec else "search"
        return self.arguments.run or runs.RUNS / name

    @property
    def address(self) -> str:
        """Of the cluster."""
        if self.spec is not None:
            return self.spec.address
        return self.arguments.address or jobs.default_address()

    def _read(self) -> list[Finding]:
        """The spec."""
        self.spec = described = reading.described(self.arguments.search, settings(self.arguments))
        return [ok("spec", f"{described.name}: {described.trials} trials")]

    def _of_spec(self) -> Iterator[Finding]:
        """The quick checks of a launch that are about the spec, each within a time of its own.

        A user's space is called in this thread, for only here `tuner.plan.space` can end it, which it does in time.
        """
        yield from in_time("data", QUICK, self._settle)
        yield from found("spec", self._load)
        for check in checks.CHECKS if self.proposing is not None else ():
            if check in (checks.STORAGE, checks.CLUSTER):  # they come by themselves
                continue
            quick = functools.partial(self._quick, check)
            yield from found("spec", quick) if check is checks.SPACE else in_time("spec", QUICK, quick)

    def _load(self) -> list[Finding]:
        """The table or the space, of which nothing is said where it can be loaded."""
        assert self.spec is not None
        self.proposing = points.load(self.spec) if self.spec.table else space.load(self.spec.space)
        return []

    def _settle(self) -> list[Finding]:
        """The data of the trials, of which a sample is looked at."""
        assert self.spec is not None
        self.spec = reading.settled(self.spec)
        data = self.spec.trial.data
        return [ok("data", f"{data.name}{f' in {data.root}' if data.root else ''} can be read")]

    def _quick(self, check: checks.Check) -> list[Finding]:
        assert self.spec is not None
        check.require(self.spec, self.proposing, self.path)
        return [ok("spec", check.name)]

    def _versions(self) -> list[Finding]:
        needed = machine.bounds()
        return machine.versions(needed, machine.installed([*needed, *machine.SHOWN]))

    def _machine(self) -> list[Finding]:
        asked = Questions(data=nodes.paths_of(self.spec.trial) if self.spec else ())
        self.facts = Facts.from_plain(ask("tuner.fleet.facts", dataclasses.asdict(asked), SLOW / 2))
        wanted = self.spec.resources if self.spec and self.address == "local" else None
        return [*machine.cores_and_memory(self.facts), machine.gpus(self.facts.gpus, wanted)]

    def _of_storage(self) -> Sequence[tuple[str, float, Callable[[], list[Finding]]]]:
        return (
            ("storage", QUICK, lambda: storage.files(self.path)),
            ("storage: speed", QUICK, lambda: storage.speed(self.path)),
        )

    def _cluster(self) -> list[Finding]:
        spec = self.spec or parse({"address": self.address})
        checks.require_cluster(spec)
        if self.facts is None:
            raise UserError("not surveyed, for this machine did not answer; see above")
        data = nodes.paths_of(self.spec.trial) if self.spec else ()
        self.nodes = nodes.surveyed(self.address, self.path, data)
        cores = sum(node.resources.get("CPU", 0) for node in self.nodes)
        where = "a Ray of this machine starts" if self.address == "local" else f"{self.address} can be joined"
        made = [ok("cluster", f"{where}: {counted(len(self.nodes), 'node')}, {cores:g} CPUs")]
        wanted = self.spec.resources if self.spec else None
        return [*made, *nodes.findings(self.nodes, self.facts, self.path, wanted)]

    def _dry_step(self, workers: int) -> list[Finding]:
        assert self.spec is not None
        self.costs.append(trial.measured(self.spec, workers))
        return [trial.finding(workers, self.costs[-1])]

    def _memory(self) -> list[Finding]:
        assert self.spec is not None
        machines = [
            trial.Machine(node.name, node.resources, node.facts.memory) for node in self.nodes if node.facts is not None
        ]
        if not self.costs or not machines:
            return []
        return [trial.memory(self.spec, self.costs[0], machines)]

    def _room(self) -> list[Finding]:
        return [storage.space(self.path, self.spec, self.costs[0].checkpoint if self.costs else None)]
