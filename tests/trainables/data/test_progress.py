"""Long pieces of work say where they are, and only the outermost loop of them does."""

from pathlib import Path
from typing import Any

import pytest

from trainables.data import progress
from trainables.running import checkpoint, scoring
from trainables.running import fit as train


def test_only_the_outermost_loop_is_told():
    told: list[Any] = []
    with progress.told_to(lambda *fact: told.append(fact)):
        for _ in progress.steps("outer", "ab"):
            for _ in progress.steps("inner", range(5)):
                progress.tell("deep", 1, 2)
        progress.tell("images", 7)
        for _ in progress.steps("unknown", iter("xy")):
            break
    list(progress.steps("nobody listens", range(3)))
    assert told == [("outer", 0, 2), ("outer", 1, 2), ("outer", 2, 2), ("images", 7, None), ("unknown", 0, None)]


def test_a_loop_that_broke_off_silences_nothing():
    told: list[Any] = []
    with progress.told_to(lambda *fact: told.append(fact)):
        with pytest.raises(KeyError):
            for _ in progress.steps("broken", range(3)):
                raise KeyError
        progress.tell("later", 1)
    assert told == [("broken", 0, 3), ("later", 1, None)]


def test_loops_that_nobody_hears_leave_nothing_behind():
    """Workers may be threads of one process, whose loops end in any order."""
    first, second = progress.steps("one worker", range(2)), progress.steps("another", range(2))
    for loop in (first, second, first, second):
        next(loop)
    assert next(first, None) is None and next(second, None) is None
    told: list[Any] = []
    with progress.told_to(lambda *fact: told.append(fact)):
        list(progress.steps("heard", range(1)))
    assert told == [("heard", 0, 1), ("heard", 1, 1)]


def test_every_long_protocol_says_where_it_is(tiny, tmp_path: Path):
    values = {
        "train.epochs": 0,
        "evaluation.linear.epochs": 2,
        "evaluation.finetune.epochs": 2,
        "evaluation.label_free.views": 3,
    }
    train.fit(tiny(values), tmp_path, lambda metrics: "on")
    found, told = checkpoint.newest(tmp_path), []
    assert found is not None
    with progress.told_to(lambda what, done, total: told.append((what, done, total))):
        scoring.evaluate(found, "validation", ["knn", "linear", "finetune", "label_free", "corruptions"])
    assert {("epochs of the linear classifier", 2, 2), ("epochs of fine-tuning", 2, 2), ("views", 3, 3)} <= set(told)
    assert ("corrupted batches", 74, 75) in told and ("batches of features", 1, 1) in told
