"""What cases of chaos are made from and judged by: plans, phases, the table of records."""

import json
import re
from pathlib import Path

import pytest

from benchmarks.reliability import COUNTING, rendered, totals
from tests.chaos.phases import phase_of, step_of
from tests.chaos.plans import AIMED, PROCESSES, STEPS, plan
from tests.chaos.processes import Frame


def test_a_plan_is_a_function_of_its_seed() -> None:
    assert [plan(seed) for seed in range(20)] == [plan(seed) for seed in range(20)]
    assert plan(1) != plan(11)
    kinds = [fault.kind for seed in range(10) for fault in plan(seed).faults]
    assert {*PROCESSES, "driver", "node", "stopped worker", "full disc"} == set(kinds)
    assert {(fault.kind, fault.aim) for fault in plan(AIMED).faults} == {("worker", "step")}


def _stack(*places: str, **variables: int) -> list[Frame]:
    texts = {name: str(value) for name, value in variables.items()}
    return [Frame(place.partition(":")[2], f"/x/trainables/{place.partition(':')[0]}", texts) for place in places]


LOOP = ("running/fit.py:_train_epoch", "running/fit.py:fit", "ray_train.py:_run", "ray_train.py:slot_loop")


@pytest.mark.parametrize(
    ("places", "phase"),
    [
        (("learning/learner.py:Learner.step", *LOOP), "step"),
        (("running/saver.py:Saver.save", *LOOP), "checkpoint"),
        (("running/scoring.py:score", *LOOP), "evaluation"),
        (("running/checkpoint.py:read", "running/resuming.py:resume", *LOOP), "start-up"),
        (("ray_train.py:_meet", "ray_train.py:_run", "ray_train.py:slot_loop"), "start-up"),
        (("ray_train.py:_next", "ray_train.py:slot_loop"), "idle"),
        (("ray_train.py:slot_loop",), "idle"),
        (("../torch/__init__.py:<module>",), "start-up"),
        (("data/feed.py:<module>", "running/fit.py:<module>", "ray_train.py:<module>"), "start-up"),
    ],
)
def test_the_phase_that_a_stack_shows(places: tuple[str, ...], phase: str) -> None:
    assert phase_of([_stack("../threading.py:wait"), _stack(*places)]) == phase


def test_the_names_that_phases_are_read_from_are_in_the_code() -> None:
    """Otherwise a renamed function would count as another phase, unseen."""
    root = Path(__file__).parents[2] / "trainables"
    for name in (
        "ray_train.py:slot_loop",
        "ray_train.py:_next",
        "ray_train.py:_leave",
        "learning/learner.py:step",
        "learning/learner.py:watch",
        "learning/learner.py:close_epoch",
        "running/fit.py:_tell",
        "running/fit.py:_replay",
        "running/resuming.py:resume",
        "running/checkpoint.py:write",
        "running/saver.py:save",
        "running/saver.py:wait",
        "running/saver.py:between_steps",
        "running/saver.py:_write",
        "running/scoring.py:score",
    ):
        file, _, function = name.partition(":")
        assert re.search(rf"def {function}\(", (root / file).read_text()), name
    assert "steps from %d on: worker %d of %d" in (root / "running/fit.py").read_text()


def test_the_step_that_a_stack_is_at() -> None:
    inner = _stack("running/fit.py:_train_epoch", epoch=3, at=2)
    assert step_of([[*inner, *_stack("running/fit.py:_fit", epoch=2)]]) == 3 * STEPS + 2
    assert step_of([_stack("running/fit.py:_fit", epoch=4)]) == 4 * STEPS
    assert step_of([_stack("ray_train.py:slot_loop", epoch=4)]) is None


def test_the_table_of_records() -> None:
    hit = {"fault": "worker", "at": 3.0, "phase": "step", "rank": 0, "counts": True, "lost_steps": 3, "next_s": 2.0}
    line = {"commit": "abc", "seed": 1, "case": "processes", "seconds": 60.0, "resumes": 0, "outcome": "equal"}
    lines = [
        {**line, "faults": [hit, {**hit, "lost_steps": 9, "next_s": 4.0}, {**hit, "counts": False}]},
        {**line, "seed": 2, "outcome": "lost: 0003", "faults": [{**hit, "fault": "driver"}]},
    ]
    counted = totals(json.loads(json.dumps(lines)))
    assert counted == {"process kills": 2, "driver kills": 1, "node losses": 0}
    text = rendered(lines)
    assert (
        "| worker | 2 | 6 | 9 |" in text
        and "| at any moment | 2 | 0 | 0 | 0 | 0 |" in text
        and "seed 2: lost: 0003" in text
        and "In 2 of the cases, which an earlier version ran" in text
    )
    assert "an earlier version" not in rendered([{**line, "counting": COUNTING} for line in lines])
