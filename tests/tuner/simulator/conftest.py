"""A run of a search that nothing trained."""

from pathlib import Path

import pytest

from tests.tuner.search.test_core import EPOCHS, metrics, search
from tuner.plan import space as spaces
from tuner.runs.run import Run
from tuner.search.core import Core
from tuner.search.events import EpochEnded, SegmentBegan, Start, Stop, TrialEnded, WorkWanted
from tuner.search.study import Study


def run_on_one_slot(study: Study, every: int = 1) -> None:
    """A search without a simulator: what the fleet does, one trial at a time.

    Args:
        study: of the search.
        every: each epoch that is a multiple of it is evaluated, and the last one.
    """
    core, now = Core(study), 1000.0
    while isinstance(start := core.hear(WorkWanted(1, 1)), Start):
        key, values, last = start.proposal.key, start.proposal.values, {}
        core.hear(SegmentBegan(key, now))
        for epoch in range(1, EPOCHS + 1):
            now += 2.0 + epoch
            if epoch % every and epoch < EPOCHS:
                continue
            last = metrics(values, epoch)
            if isinstance(core.hear(EpochEnded(key, last)), Stop):
                break
        core.hear(TrialEnded(key, last, None, {"last_metric_at": now}))


@pytest.fixture
def recorded(tmp_path: Path) -> tuple[Run, Study]:
    """A finished run of a search on one slot."""
    run = Run.create(tmp_path / "run", "search", search().plain(), 5)
    study = Study(run.journal, search(), spaces.load("teacher"))
    run_on_one_slot(study)
    return run, study
