"""A trial's conversation with its workers."""

import ray

from trainables.config.errors import TrialFailure
from trainables.running.messages import EpochReport, Work
from tuner.fleet.board import Board


class SlotLost(RuntimeError):
    """No worker group is left for a trial; that is not the fault of the trial."""


class Conversation:
    """A trial's conversation with its workers. `take` returns its epochs in order, from the first one on.

    Args:
        board: handle of the switchboard.
        trial_id: of the trial.
        work: for the workers; None where the driver has made the claim already.
    """

    def __init__(self, board: Board, trial_id: str, work: Work | None = None):
        self.board, self.trial_id, self.position = board, trial_id, 0
        sequence = ray.get(board.claimed.remote(trial_id) if work is None else board.acquire.remote(trial_id, work))
        if sequence is None:
            raise SlotLost("the trial is over")
        self.sequence: int = sequence

    def take(self) -> EpochReport | None:
        """The next epoch; None at the trial's end.

        Raises:
            TrialFailure: the trial ended with an error.
            SlotLost: no slot is left to run it.
        """
        message = ray.get(self.board.take.remote(self.sequence, self.position))
        if message[0] == "report":
            self.position += 1
            return message[1]
        if message[0] == "error":
            raise TrialFailure(message[1])
        if message[0] == "lost":
            raise SlotLost(message[1])
        return None

    def release(self) -> None:
        """Ends the claim."""
        ray.get(self.board.release.remote(self.trial_id))
