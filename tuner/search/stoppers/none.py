"""No early stopping: every trial runs to its end."""

from tuner.search.stoppers.base import Stopper, Verdict


class Never(Stopper):
    """Stops nothing."""

    def hear(self, key: str, epoch: int, score: float) -> Verdict:
        return "continue"
