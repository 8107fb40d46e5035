"""The score of the untrained encoder, which every trial has to beat: measured once a run, before a trial is asked."""

from typing import Any

from trainables.config import trial as c
from trainables.config.errors import TrialFailure
from trainables.running.messages import EpochReport
from tuner.plan.reading import spec_key
from tuner.plan.spec import SearchSpec
from tuner.runs.run import BASELINE, Run


class Baseline:
    """A trial of no epochs, which Tune runs as its first one: so Tune and its first actor start while the workers do.

    Args:
        run: for the trial's folder, and for the score.
        spec: of the search.

    Attributes:
        trial_id: Tune's id of the trial while it runs.
        failure: why the encoder cannot be scored.
    """

    def __init__(self, run: Run, spec: SearchSpec):
        self.run, self.spec = run, spec
        self.trial_id: str | None = None
        self.failure: TrialFailure | None = None

    @property
    def known(self) -> bool:
        """Whether the run has the score."""
        return self.run.read_baseline() is not None

    def start(self, trial_id: str, board: str) -> dict[str, Any]:
        """The configuration of its `SlotTrial`."""
        self.trial_id = trial_id
        return {
            "board": board,
            "claim": trial_id,
            "key": BASELINE,
            "trial": c.changed(self.spec.trial.plain(), {"train.epochs": 0}).plain(),
            "folder": str(self.run.trial_folder(BASELINE)),
            "epochs": 0,
            "metric": self.spec.objective.metric,
        }

    def end(self, report: EpochReport | None, error: str | None) -> None:
        """Takes what its `SlotTrial` ended with; without a report and an error it can be started again."""
        self.trial_id = None
        if error:
            where, reason = self.run.trial_log(BASELINE, error), spec_key(error.removeprefix("UserError: "))
            self.failure = TrialFailure(f"the untrained encoder cannot be scored: {reason}\n  log: {where}")
        elif report is not None:
            self.run.write_baseline(report.metrics)
