"""A search that the user ended before any trial was complete still gives a configuration, and says what it is."""

from pathlib import Path

import pytest
import yaml

from tuner.commands import searching
from tuner.plan import space, spec
from tuner.runs.run import Run
from tuner.search import events
from tuner.search.core import Core
from tuner.search.study import Study

SPEC = spec.parse({"space": "momentum", "trials": 3, "trial": {"train": {"epochs": 12}}})
METRIC = SPEC.objective.metric


def searched(tmp_path: Path, curves: list[list[float]], ended: bool) -> tuple[Run, Study]:
    """A search whose trials have reported curves, and which the user has ended or not."""
    run = Run.create(tmp_path / "run", "search", SPEC.plain(), 0)
    study = Study(run.journal, SPEC, space.load(SPEC.space))
    core = Core(study)
    for number, curve in enumerate(curves):
        assert isinstance(core.hear(events.WorkWanted(3, 3)), events.Start)
        core.hear(events.SegmentBegan(f"{number:04d}", float(number)))
        for epoch, score in enumerate(curve, start=1):
            core.hear(events.EpochEnded(f"{number:04d}", {"epoch": float(epoch), METRIC: score}))
    if ended:
        core.hear(events.EndWanted())
    for number, curve in enumerate(curves):
        last = {"epoch": float(len(curve)), METRIC: curve[-1]} if curve else {}
        error = None if curve or ended else "it broke"
        core.hear(events.TrialEnded(f"{number:04d}", last, error, {}))
    run.write_baseline({"epoch": 0.0, METRIC: 0.5, "validation_images": 100.0})
    return run, study


def test_the_best_stopped_trial_is_exported_and_called_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, study = searched(tmp_path, [[0.3, 0.7], [0.9, 0.4, 0.85], []], ended=True)
    assert searching.finish(run, study) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert "the search was ended as asked before any trial was complete" in said.out
    assert "best stopped trial: 0001, stopped at epoch 3 of 12 as asked" in said.out
    assert f"{METRIC} on 100 validation images 0.8500" in said.out
    (exported,) = run.best_folder.iterdir()
    text = exported.read_text()
    assert yaml.safe_load(text) == study.config_of(study.trial("0001")).plain()
    header = " ".join(text.replace("#", "").split())
    assert "trial 0001, no trial is complete" in header
    assert "when it was stopped at epoch 3 of 12 as asked" in header


def test_a_search_that_ended_by_itself_without_a_complete_trial_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, study = searched(tmp_path, [[0.3, 0.7], [0.6], [0.5]], ended=False)
    assert searching.finish(run, study) == 1
    assert "error: no trial was completed" in capsys.readouterr().err
    assert not list(run.best_folder.iterdir())


def test_a_complete_trial_counts_before_a_stopped_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, study = searched(tmp_path, [[0.6] * 12, [0.9], [0.8]], ended=True)
    assert study.best_stopped() is None
    assert searching.finish(run, study) == 0
    assert "best teacher" in capsys.readouterr().out
    assert yaml.safe_load((run.best_folder / "best.yaml").read_text()) == study.config_of(study.trial("0000")).plain()
