"""What happens to a search: a function of the seed."""

import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["worker", "trial actor", "controller", "switchboard", "driver", "node", "stopped worker", "full disc"]
PROCESSES: tuple[Kind, ...] = ("worker", "trial actor", "controller", "switchboard")
WEIGHTS = (9, 2, 2, 1)  # how often each of these is killed: a kill of the switchboard costs a resume
TRIAL: dict[str, Any] = {
    "data": {"name": "digits", "train_images": 512, "validation_images": 100},
    "encoder": {"name": "resnet10", "width": 4, "projector": {"hidden": 32, "out": 16}},
    "method": {"predictor_hidden": 32},
    "train": {"epochs": 20, "batch_size": 64, "shard_size": 16, "checkpoint_steps": 4},
}
RARE = ("regroup", "regroup", "checkpoint", "evaluation", "start-up")  # phases that are short, and are aimed at
STEPS = 8  # of an epoch
AIMED = 1000  # the first seed of cases that are aimed at steps: elsewhere each kill makes a start-up that others meet
TRIALS = 7  # of a search


@dataclass(frozen=True)
class Fault:
    """A fault, and when it comes.

    Attributes:
        gap: seconds since the fault before it, or since the case's faults began.
        kind: what happens.
        draw: from 0 to 1; which of the processes or nodes it happens to.
        seconds: how long it lasts: until a lost node joins again, or a full disc has room again.
        aim: the phase of a worker that it waits for; empty where it comes at its moment.
    """

    gap: float
    kind: Kind
    draw: float
    seconds: float
    aim: str = ""


@dataclass(frozen=True)
class Plan:
    """A case: a search, the nodes that it runs on, and its faults in their order.

    Attributes:
        seed: that it was drawn from.
        name: of the kind of case.
        cpus: of each node.
        workers: `resources.workers` of the search, the smallest and the largest width of a trial.
        trials: of the search.
        faults: that it meets, if it lasts so long.
        from_launch: whether they begin with the launch, or with the first step.
    """

    seed: int
    name: str
    cpus: tuple[int, ...]
    workers: str
    trials: int
    faults: tuple[Fault, ...]
    from_launch: bool = True

    @property
    def smallest(self) -> int:
        """The smallest width of a trial."""
        return int(self.workers.partition("-")[0])

    @property
    def fixed(self) -> "Plan":
        """The same without lent slots."""
        return dataclasses.replace(self, workers=str(self.smallest))

    @property
    def search(self) -> dict[str, Any]:
        """The search, as its file has it. The set of results is equal whatever happens: nothing is stopped early."""
        return {
            "name": "chaos",
            "space": "teacher",
            "trials": self.trials,
            "trial": TRIAL,
            "stopping": "none",
            "sampler": "random",
            "resources": {"workers": self.workers, "restarts": 1000, "patience": "10s"},
        }


def plan(seed: int) -> Plan:
    """The case of a seed. Moments follow a Poisson process: they are uniform over the time that the search takes.

    From the seed `AIMED` on, each kill waits for a worker that is in a step.
    """
    draw, place = random.Random(f"chaos {seed}"), seed % 10
    if seed >= AIMED:
        return _made(draw, seed, "steps", ["worker"] * 10, from_launch=False, aims=("step",))
    if place == 4:
        return _made(draw, seed, "processes, slots of two workers", [*_processes(10)], slots_of=2, from_launch=False)
    if place == 3:
        return _made(draw, seed, "short phases", ["worker"] * 10, from_launch=False, aims=RARE)
    if place < 3:
        return _made(draw, seed, "processes", [*_processes(10)], from_launch=place == 0)
    if place < 7:
        return _made(draw, seed, "drivers", ["driver"] * 8, mean=12.0)
    if place == 7:
        return _made(draw, seed, "nodes", ["node"] * 5, mean=12.0)
    if place == 8:
        return _made(draw, seed, "all at once", ["stopped worker", "driver", "driver", "node", "node", *_processes(5)])
    return _made(draw, seed, "full disc", ["full disc", "full disc", *_processes(3)])


def short() -> Plan:
    """A short case that has a bit of everything."""
    kinds: tuple[Kind, ...] = ("worker", "node", "controller", "driver", "worker", "trial actor")
    gaps = (1.0, 3.0, 6.0, 6.0, 14.0, 2.0)
    faults = tuple(Fault(gap, kind, 0.3, 3.0) for gap, kind in zip(gaps, kinds, strict=True))
    return Plan(-1, "short", (1, 1), "1-2", trials=5, faults=faults, from_launch=False)


def _processes(count: int) -> list[None]:
    """So many kills of processes, whose kinds are drawn later."""
    return [None] * count


def _made(
    draw: random.Random,
    seed: int,
    name: str,
    kinds: Sequence[Kind | None],
    mean: float = 8.0,
    slots_of: int = 1,
    from_launch: bool = True,
    aims: Sequence[str] = ("",),
) -> Plan:
    faults = []
    for kind in draw.sample(kinds, len(kinds)):
        drawn = kind or draw.choices(PROCESSES, WEIGHTS)[0]
        gap = draw.expovariate(1 / mean)
        faults.append(
            Fault(round(gap, 2), drawn, round(draw.random(), 4), round(draw.uniform(2, 10), 2), draw.choice(aims))
        )
    return Plan(seed, name, (slots_of, slots_of), f"{slots_of}-{2 * slots_of}", TRIALS, tuple(faults), from_launch)
