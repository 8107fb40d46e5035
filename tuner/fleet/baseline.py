"""The score of the untrained encoder, which every trial has to beat: measured once a run, before a trial is asked."""

from trainables.config import trial as c
from trainables.config.errors import TrialFailure
from trainables.running.messages import EpochReport, Work
from tuner.fleet.trial import SlotOrder
from tuner.plan.reading import spec_key
from tuner.plan.spec import SearchSpec
from tuner.runs.run import BASELINE, Run


class Baseline:
    """A trial of no epochs. Tune runs it as its first trial, so that Tune and its first actor start while workers do.

    Args:
        run: for the trial's folder, and for the score.
        spec: of the search.

    Attributes:
        trial_id: Tune's id of the trial; None while it does not run.
        failure: why the encoder cannot be scored; None if nothing is known against it.
    """

    def __init__(self, run: Run, spec: SearchSpec):
        self.run, self.spec = run, spec
        self.trial_id: str | None = None
        self.failure: TrialFailure | None = None

    @property
    def known(self) -> bool:
        """Whether the run has the score."""
        return self.run.read_baseline() is not None

    @property
    def work(self) -> Work:
        """What its workers do."""
        config = c.changed(self.spec.trial.plain(), {"train.epochs": 0})
        return Work(BASELINE, config.plain(), str(self.run.trial_folder(BASELINE)))

    def start(self, trial_id: str, board: str) -> SlotOrder:
        """Returns the order for its `SlotTrial`.

        Args:
            trial_id: Tune's id of the trial.
            board: name of the switchboard's actor.
        """
        self.trial_id = trial_id
        return SlotOrder(board, trial_id, BASELINE, 0, self.spec.objective.metric)

    def end(self, report: EpochReport | None, error: str | None) -> None:
        """Takes what its `SlotTrial` ended with. Without a report or an error, it is to be started again."""
        self.trial_id = None
        if error:
            where, reason = self.run.trial_log(BASELINE, error), spec_key(error.removeprefix("UserError: "))
            self.failure = TrialFailure(f"the untrained encoder cannot be scored: {reason}\n  log: {where}")
        elif report is not None:
            self.run.write_baseline(report.metrics)
