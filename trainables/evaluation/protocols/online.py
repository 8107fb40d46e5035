"""Top-1 of the online probe: the linear classifier that a trial trained beside its student. Nothing is trained here."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from trainables.config.base import Direction, Trial
from trainables.evaluation.protocols.base import Protocol
from trainables.evaluation.scores import Scores

if TYPE_CHECKING:
    from trainables.evaluation.subject import Subject


class Online(Protocol):
    """Share of un-augmented images that the trial's online probe classifies correctly, by the scored network's
    features.
    """

    METRICS: ClassVar[dict[str, Direction]] = {"online_top1": "max", "online_top5": "max"}

    def unfit(self, trial: Trial) -> str | None:
        if not trial.online_probe.lr:
            rule = "this trial is without one (online_probe.lr = 0); a new run with online_probe.lr above 0 has it"
            return f"needs an online probe, and {rule}"
        return (
            "needs features as the online probe saw them, behind the feature norm"
            if trial.evaluation.before_feature_norm
            else None
        )

    def measure(self, subject: Subject) -> Scores:
        import torch

        from trainables.evaluation.subject import hits

        assert subject.probe is not None
        queries = subject.queries()
        with torch.no_grad():
            return hits("online", subject.probe(queries.x.to(subject.probe.weight.dtype)), queries.labels)
