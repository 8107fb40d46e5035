"""Top-1 of a network whose head classifies, such as the averaged model of FixMatch. Nothing is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from trainables.config.base import Direction, Trial
from trainables.evaluation.protocols.base import Protocol
from trainables.evaluation.scores import Scores

if TYPE_CHECKING:
    from trainables.evaluation.subject import Subject


class Classifier(Protocol):
    """Share of images that the projector, which has an output for each class, classifies correctly."""

    METRICS: ClassVar[dict[str, Direction]] = {"classifier_top1": "max", "classifier_top5": "max"}

    def unfit(self, trial: Trial) -> str | None:
        return (
            None
            if trial.method.CLASSIFIES
            else f"needs a method whose head classifies; that of '{trial.method.name}' does not"
        )

    def measure(self, subject: Subject) -> Scores:
        from trainables.evaluation.subject import hits

        logits = subject.queries("projections")
        return hits("classifier", logits.x, logits.labels)
