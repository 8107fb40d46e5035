"""A segment of a trial, as the training loop sees it: who may write the trial's folder, and what is asked of it."""

import threading


class Segment:
    """A stretch of a trial on one group of workers.

    Args:
        owner: token of this segment, different from that of every other one. The newest token that took a trial's
            folder may write there. Empty: no ownership is taken, and none is checked.

    Attributes:
        owner: the token.
        left: whether the trial was left before its end. Equal on every rank once `fit` has returned.
    """

    def __init__(self, owner: str = ""):
        self.owner, self.left = owner, False
        self._asked = threading.Event()

    def leave(self) -> None:
        """Asks `fit` to write a checkpoint soon and to return, see there. Called on rank 0, from any thread."""
        self._asked.set()

    @property
    def asked_to_leave(self) -> bool:
        """Whether `leave` was called on this rank."""
        return self._asked.is_set()
