"""Scores a network by the protocols of its trial."""

from collections.abc import Iterable

from trainables.evaluation.protocols.base import Protocol
from trainables.evaluation.scores import Scores
from trainables.evaluation.subject import Subject


def measure(subject: Subject, protocols: Iterable[str]) -> Scores:
    """Returns the scores of several protocols, with the options that the subject's trial has. Collective."""
    scores: Scores = {}
    for name in protocols:
        protocol = subject.config.evaluation.protocol(name)
        assert isinstance(protocol, Protocol)
        scores |= protocol.measure(subject)
    return scores
