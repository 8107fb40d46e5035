"""What a trial needs: a dry step at its smallest and at its largest width, without Ray and on made-up images."""

from collections.abc import Sequence
from dataclasses import dataclass

from trainables.config.errors import UserError
from trainables.running.messages import Cost
from tuner.commands.checkup.base import SMALLER, Finding, Killed, ask, fault, ok, warning
from tuner.plan.spec import SearchSpec
from tuner.plan.storage import as_size
from tuner.search.allocation import places_on
from tuner.search.state import widths_of

STEP = 180.0  # seconds: torch starts, and some steps


@dataclass(frozen=True)
class Machine:
    """A machine that trials are to run on: its resources by Ray's names, and the bytes of its memory."""

    name: str
    resources: dict[str, float]
    memory: int


def widths(spec: SearchSpec) -> list[int]:
    """The smallest and the largest number of workers of a trial; one number where it always has as many."""
    widths = widths_of(spec.resources, spec.trial)
    return sorted({widths[0], widths[-1]})


def measured(spec: SearchSpec, workers: int) -> Cost:
    """Makes a dry step.

    Raises:
        Late, UserError: it did not end in time, or failed.
    """
    threads = spec.resources.cpus_per_worker
    request = {"trial": spec.trial.plain(), "workers": workers, "threads": threads}
    try:
        return Cost(**ask("trainables.running.dry_step", request, STEP))
    except Killed as error:
        raise UserError(f"a step fails: it {error}; {SMALLER}") from None
    except UserError as error:
        raise UserError(f"a step fails: {error}; see what the trial asks for") from None


def finding(workers: int, cost: Cost) -> Finding:
    """What a dry step says."""
    memory = f"{as_size(cost.memory)} of memory"
    if cost.gpu_memory is not None:
        memory += f", {as_size(cost.gpu_memory)} of the GPU's"
    shards = f"{cost.shards} shard{'' if cost.shards == 1 else 's'}"
    of = "worker alone" if workers == 1 else f"of {workers} workers"
    text = f"one {of}: {cost.seconds:.3f} s a step of {shards}, {memory}, a checkpoint of {as_size(cost.checkpoint)}"
    return ok("trial", text)


def memory(spec: SearchSpec, cost: Cost, machines: Sequence[Machine]) -> Finding:
    """Whether all workers that a machine has room for fit into its memory at once.

    Args:
        spec: of the search.
        cost: of a step at the smallest width, which needs the most memory.
        machines: that trials are to run on.
    """
    name, tight = "trial: memory", []
    limit = widths(spec)[-1] * min(spec.trials, spec.resources.concurrent_trials or spec.trials)
    fewer = "set a smaller resources.concurrent_trials, or more resources.cpus_per_worker"
    for machine in machines:
        workers = min(limit, places_on([machine.resources], spec.resources))
        needs = workers * cost.memory
        text = f"{machine.name}: {workers} workers at once need {as_size(needs)} of {as_size(machine.memory)}"
        if needs > machine.memory:
            return fault(name, text, fewer)
        tight += [text] if needs > 0.8 * machine.memory else []
    if tight:
        return warning(name, "; ".join(tight), fewer)
    return ok(name, f"enough for all workers at once, {as_size(cost.memory)} each, without evaluation and images")
