"""What travels between the driver, the switchboard and the workers. Free of torch and Ray, for the switchboard imports it.

Data of the trial (its metrics) and data of the transport (its slot, its number) are never in one dict.
"""

from dataclasses import dataclass
from typing import Any

Metrics = dict[str, Any]
"""Numbers of an epoch by name, and "loss_curve": points [step, loss] since the last report."""


@dataclass(frozen=True)
class Work:
    """What workers are asked to train.

    Attributes:
        key: of the trial; also the name of its folder.
        config: nested plain values of its TrialConfig.
        folder: where its checkpoints and logs are, as an absolute path.
    """

    key: str
    config: dict[str, Any]
    folder: str


@dataclass(frozen=True)
class Assignment:
    """Work that a slot has taken.

    Attributes:
        work: what to train.
        sequence: number of the claim that it belongs to.
        attempt: how many starts without a new epoch the trial has had, this one not included.
    """

    work: Work
    sequence: int
    attempt: int


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
