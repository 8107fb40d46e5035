"""What a search optimises."""

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from trainables.config.errors import nearest
from trainables.config.evaluation import PROTOCOLS
from trainables.config.sections import Section
from trainables.config.trial import TrialConfig

METRICS: dict[str, Literal["max", "min"]] = {  # and whether more or less of one is better
    **{metric: mode for kind in PROTOCOLS.values() for metric, mode in kind.METRICS.items()},
    "loss": "min",
}


def _metric(name: str) -> str:
    if name not in METRICS:
        raise ValueError(f"no such metric{nearest(name, METRICS)}")
    return name


class Objective(Section):
    """What a search optimises."""

    SHORT: ClassVar[str] = "metric"

    metric: Annotated[str, AfterValidator(_metric), Field(json_schema_extra={"enum": list(METRICS)})] = "knn_top1"
    """A metric of a trial's last epoch: its loss, or what one of trial.evaluation.protocols gives.

    Where it is not given it is classifier_top1 of a method that classifies, and kNN's score of all others.
    """

    @property
    def mode(self) -> Literal["max", "min"]:
        return METRICS[self.metric]


def first_metric(trial: TrialConfig) -> str:
    """What shows how a trial is doing: its classifier's score, else kNN's, else the first that its protocols give."""
    given = [metric for name in trial.evaluation.protocols for metric in PROTOCOLS[name].METRICS]
    return next((metric for metric in ("classifier_top1", "knn_top1") if metric in given), given[0])
