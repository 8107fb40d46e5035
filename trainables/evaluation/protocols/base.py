"""One file for each protocol: a class with its options, the metrics that it gives, and how it measures them.

Configurations are validated with these files, so torch is imported where it is used.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from trainables.config.base import ProtocolOptions
from trainables.evaluation.scores import Scores

if TYPE_CHECKING:
    from trainables.evaluation.subject import Subject


class Protocol(ProtocolOptions):
    """Options of a protocol, and how it measures. Protocols learn only from labels that `data.labels` chooses."""

    @abstractmethod
    def measure(self, subject: Subject) -> Scores:
        """Returns the scores of a network. Collective; the same on every worker, and for any number of workers."""
