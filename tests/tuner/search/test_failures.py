"""Three trials that fail alike before their first epoch end a search: a function of the journal."""

from pathlib import Path

import pytest

from tuner.plan import space as spaces
from tuner.plan import spec as specs
from tuner.search.failures import alike
from tuner.search.study import Study, key_of

NAN, INF = (
    "TrialFailure: the loss is nan in epoch 1: the trial diverged",
    "TrialFailure: the loss is inf in epoch 2: the trial diverged",
)
SHAPE = "RuntimeError: size mismatch in trials/0001/x.txt: 3 against 4.5e-3 (worker 0)"
SHAPE_AGAIN = "RuntimeError: size mismatch in trials/0017/x.txt: 12 against -7 (worker 1)"
OTHER = "RuntimeError: out of memory"


def study_of(tmp_path: Path) -> Study:
    return Study(
        tmp_path / "journal", specs.parse({"trials": 30, "trial": {"train": {"epochs": 3}}}), spaces.load("teacher")
    )


def end(study: Study, *ends: str | int | None) -> None:
    """Ends trials one after another: by an error before the first epoch, or after some epochs."""
    for how in ends:
        key, metrics = study.ask().key, {}
        for epoch in range(1, how + 1 if isinstance(how, int) else 1):
            metrics = {"epoch": epoch, "knn_top1": 0.5}
            study.observe(key, metrics)
        study.tell(key, metrics, how if isinstance(how, str) else None, {})


@pytest.mark.parametrize(
    ("ends", "found"),
    [
        ([SHAPE, SHAPE_AGAIN, SHAPE], ["0000", "0001", "0002"]),  # numbers and the worker may differ
        ([SHAPE, SHAPE], []),
        ([SHAPE, OTHER, SHAPE], []),
        ([OTHER, SHAPE, SHAPE, SHAPE], ["0001", "0002", "0003"]),
        ([SHAPE, SHAPE, 3, SHAPE], []),
        ([3, 3, SHAPE, SHAPE, SHAPE], ["0002", "0003", "0004"]),  # such as data that are gone
        ([NAN, INF, NAN], ["0000", "0001", "0002"]),
        ([NAN, NAN, 3, NAN, NAN, NAN], []),  # where a trial has trained, others may have drawn bad values
        ([3, NAN, NAN, NAN], []),
        ([3, 3, 3], []),
    ],
)
def test_which_failures_end_a_search(tmp_path: Path, ends: list[str | int], found: list[str]) -> None:
    study = study_of(tmp_path)
    end(study, *ends)
    assert [key_of(trial) for trial in study.failed_alike()] == found
    assert [key_of(trial) for trial in alike(Study(tmp_path / "journal", study.spec, study.space).trials())] == found


def test_a_failure_after_an_epoch_is_the_trials_own(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    for _ in range(3):
        key = study.ask().key
        study.observe(key, {"epoch": 1, "knn_top1": 0.5})
        study.tell(key, {"epoch": 1, "knn_top1": 0.5}, SHAPE, {})
    assert study.failed_alike() == []


def test_a_resume_goes_on_until_three_more_fail(tmp_path: Path) -> None:
    end(study_of(tmp_path), SHAPE, SHAPE, SHAPE)
    resumed = study_of(tmp_path)
    assert len(resumed.failed_alike()) == 3
    resumed.pass_over_failures()
    assert resumed.failed_alike() == []
    end(resumed, SHAPE, SHAPE)
    again = study_of(tmp_path)
    again.pass_over_failures()
    assert again.failed_alike() == []
    end(again, SHAPE)
    assert [key_of(trial) for trial in again.failed_alike()] == ["0003", "0004", "0005"]


def test_to_pass_over_nothing_leaves_the_journal(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    end(study, SHAPE, SHAPE, 3)
    before = (tmp_path / "journal").read_bytes()
    study.pass_over_failures()
    assert (tmp_path / "journal").read_bytes() == before
