"""Who is told of a search while it runs: the terminal's live table, and TensorBoard."""

from collections.abc import Mapping
from typing import Any, Protocol

from tuner.search.study import Proposal


class Listener(Protocol):
    """Hears what happens, in order, after the journal has it. What it does changes no decision."""

    def trial_began(self, proposal: Proposal) -> None:
        """A trial was handed to the fleet; again at each of its segments."""

    def epoch_heard(self, proposal: Proposal, metrics: Mapping[str, Any]) -> None:
        """Metrics of an epoch; an epoch may be told again after a restart."""

    def trial_ended(self, proposal: Proposal, error: str | None) -> None:
        """A trial has ended for good: `error` says why it failed."""

    def search_ended(self) -> None:
        """No more is coming in this session."""
