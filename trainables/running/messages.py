"""What travels between the driver, the switchboard and the workers. Imports neither torch nor Ray.

The metrics of a trial and the data of the transport (slot, incarnation, sequence) are never in one dict.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Metrics = dict[str, Any]
"""Numbers of an epoch by name, and "loss_curve": points [step, loss] since the last report."""

Going = Literal["on", "stop", "leave"]
"""What a trial does after an epoch. "on": it trains the next one. "stop": it is over. "leave": its workers return, and
the trial goes on later from its checkpoint, perhaps on others."""

Report = Callable[[Metrics], Going]
"""Receives the metrics of an epoch on rank 0 and says how the trial goes on.

On a resume it receives the whole history again first.
"""

Blame = Literal["trial", "link", "surroundings"]
"""The cause of an error of a rank. "trial": the trial itself. "link": the connection to another rank broke, which says
nothing about the trial. "surroundings": the machine, its disc or its network; the trial cannot go on now, but may
later."""

Outcome = tuple[Literal["end", "left", "error", "postponed"], str | None]
"""How the workers ended their work on a trial. ("end", None): it trained to its end, or was stopped. ("left", why): it
goes on in another generation. ("error", text): it failed by its own fault. ("postponed", text): it cannot go on now; it
returns to the queue, and this start does not count as an attempt."""

Position = tuple[str, int, int | None]
"""Where a trial is: what is being done, how many steps of it are done, and of how many; None if that is unknown."""

NoWork = Literal["ask again", "leave"]
"""Answers to a slot for which there is no work: it asks again, or its workers return and give back their resources."""

Wanted = Literal["ask again", "leave", "stacks", "gone"]
"""What a worker is asked while it trains. "leave": to make a checkpoint at the next step, and to leave the trial.
"stacks": to write its stacks to the trial's log, for it seems stuck. "gone": its generation has lost a member, or was
ended; it has to notice that by itself soon, or to end its process."""


@dataclass(frozen=True)
class Work:
    """What workers are asked to do: to train a trial, or to score a checkpoint.

    Attributes:
        key: of the trial, or of the evaluation; also the name of its folder.
        config: nested plain values of a TrialConfig; of an evaluation, those of an `Evaluation`.
        folder: of its checkpoints and logs, an absolute path.
        task: what is done.
    """

    key: str
    config: dict[str, Any]
    folder: str
    task: Literal["train", "evaluate"] = "train"


@dataclass(frozen=True)
class Evaluation:
    """What a checkpoint is scored by, as `tuner evaluate` asks for it.

    Attributes:
        checkpoint: its file.
        split: "validation" or "test"; protocols learn from images of the bank.
        protocols: their names.
        changes: dotted keys that differ from the trial's.
        save: where backbone and classifier are written, if anywhere.
    """

    checkpoint: str
    split: str
    protocols: Sequence[str]
    changes: Mapping[str, Any] = field(default_factory=dict)
    save: str | None = None

    def plain(self) -> dict[str, Any]:
        """As nested plain values, from which `Evaluation(**values)` makes it again."""
        return {**vars(self), "changes": dict(self.changes)}


@dataclass(frozen=True)
class Cost:
    """What a step costs one worker, as a dry step has measured it.

    Attributes:
        seconds: of a step, the median of those that were timed.
        memory: the most bytes of main memory that the process had. The images of the data set are not among them.
        gpu_memory: the most bytes of the GPU's memory that were reserved; None on a CPU.
        checkpoint: bytes of a checkpoint, without the metric history.
        images: bytes of the decoded training images; 0 where they are streamed.
        shards: of the batch that this worker has.
    """

    seconds: float
    memory: int
    gpu_memory: int | None
    checkpoint: int
    images: int
    shards: int


@dataclass(frozen=True)
class Assignment:
    """Work that a slot has got, alone or together with other slots.

    Attributes:
        work: what to train.
        generation: number of this grouping of slots. The switchboard ignores messages of earlier ones.
        owner: token of the generation; who took the trial's folder last may write it.
        attempt: how many starts the trial has had since its last new epoch, this one included.
        slot: index of the slot.
        incarnation: number of the life of the slot's worker group. The switchboard ignores messages of earlier lives.
        place: of the slot among those of the generation, from 0; the first one leads.
        members: number of these slots.
        store: host and port of the lead's store, through which the workers of the generation meet.
    """

    work: Work
    generation: int
    owner: str
    attempt: int
    slot: int
    incarnation: int
    place: int
    members: int
    store: tuple[str, int]

    def to_json(self) -> str:
        """For the store through which rank 0 tells the other ranks."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> "Assignment":
        """The assignment in what `to_json` returned."""
        values = json.loads(text)
        host, port = values["store"]
        return cls(**{**values, "work": Work(**values["work"]), "store": (host, port)})


@dataclass(frozen=True)
class EpochReport:
    """An epoch of a trial, as its workers measured it.

    Attributes:
        key: of the trial.
        slot: index of the slot that trained it.
        metrics: of the epoch.
    """

    key: str
    slot: int
    metrics: Metrics

    @property
    def epoch(self) -> int:
        """Number of the epoch, from 1; 0 is the untrained encoder."""
        return int(self.metrics["epoch"])
