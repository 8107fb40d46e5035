"""The bridge between Tune and the study, with a switchboard that is played without Ray."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from ray.tune.search import Searcher

from tests.tuner.conftest import SMALL
from tuner.fleet import bridge
from tuner.fleet.switchboard import Switchboard
from tuner.plan import space, spec
from tuner.runs.run import Run
from tuner.search.study import Study


class PlayedSlots:
    """`Slots` as a searcher knows them: a switchboard, here within the test's own process."""

    def __init__(self, count: int, up: int):
        self.name, self.board = "board", Switchboard(count, 1)
        for slot in range(up):
            asyncio.run(self.board.attach(slot))

    def state(self) -> Any:
        return asyncio.run(self.board.state())

    def release(self, trial_id: str) -> None:
        asyncio.run(self.board.release(trial_id))


@pytest.fixture
def study(tmp_path: Path) -> tuple[Study, Run]:
    wanted = spec.parse(SMALL)
    run = Run.create(tmp_path / "run", "search", wanted.plain(), 0)
    return Study(run.journal, wanted, space.load(wanted.space)), run


def test_no_more_trials_than_there_are_workers_for(study: tuple[Study, Run]) -> None:
    slots = PlayedSlots(3, up=2)
    searcher = bridge.StudySearcher(*study, slots, 3)  # type: ignore[arg-type]
    assert [searcher.suggest(f"t{number}") is None for number in range(4)] == [False, False, True, True]
    asyncio.run(slots.board.attach(2))
    assert searcher.suggest("t4")["key"] == "0002"


def test_one_trial_waits_where_no_workers_are_up(study: tuple[Study, Run]) -> None:
    searcher = bridge.StudySearcher(*study, PlayedSlots(2, up=0), 2)  # type: ignore[arg-type]
    assert searcher.suggest("t0")["key"] == "0000"
    assert searcher.suggest("t1") is None


def test_a_trial_whose_tune_actor_died_is_begun_again_and_the_search_goes_on(study: tuple[Study, Run]) -> None:
    """Two such deaths used to count as slots that were given up, and ended a search with one slot."""
    searcher = bridge.StudySearcher(*study, PlayedSlots(1, up=1), 1)  # type: ignore[arg-type]
    for number in range(bridge.ACTOR_RETRIES):
        assert searcher.suggest(f"t{number}")["key"] == "0000"
        searcher.on_trial_complete(f"t{number}", None, error=True)
    assert searcher.suggest("again")["key"] == "0000"
    searcher.on_trial_complete("again", None, error=True)
    assert searcher.suggest("never") == Searcher.FINISHED
    assert searcher.broken_off.startswith("the Tune actors of trial 0000 died again and again")


def test_a_search_without_any_slot_left_ends_with_the_reason(study: tuple[Study, Run]) -> None:
    searcher = bridge.StudySearcher(*study, PlayedSlots(2, up=2), 2)  # type: ignore[arg-type]
    searcher.suggest("t0")
    searcher.on_trial_complete("t0", {"lost": "slot 0: no GPU"})
    assert searcher.suggest("t1") == Searcher.FINISHED
    assert searcher.broken_off == "slot 0: no GPU"
