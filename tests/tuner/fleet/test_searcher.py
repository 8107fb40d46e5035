"""The bridge between Tune and the study, with a switchboard that is played without Ray."""

import asyncio
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from tests.tuner.conftest import SMALL
from tests.tuner.fleet.boards import board_of
from trainables.config.errors import BrokenOff
from trainables.running import checkpoint_files
from trainables.running.messages import EpochReport, Work
from tuner.fleet import bridge, tuning
from tuner.fleet.baseline import Baseline
from tuner.fleet.claims import SlotState, State
from tuner.fleet.trial import SlotOrder
from tuner.plan import space, spec
from tuner.runs.run import Run
from tuner.search import events
from tuner.search.core import Core
from tuner.search.study import Proposal, Study


class PlayedSlots:
    """`Slots` as a searcher knows them: a switchboard, here within the test's own process."""

    def __init__(self, count: int, up: int):
        self.name, self.board, self.number, self.useful = "board", asyncio.run(board_of(count, 1)), count, count
        self.looks, self.resized = 0, list[Mapping[str, tuple[int, ...]]]()
        for slot in range(up):
            asyncio.run(self.board.attach(slot))

    def state(self) -> Any:
        return asyncio.run(self.board.state())

    def acquire(self, trial_id: str, work: Work) -> None:
        asyncio.run(self.board.acquire(trial_id, work))

    def work(self, trial_id: str) -> Work:
        """What the claim of a trial has workers do."""
        sequence = asyncio.run(self.board.claimed(trial_id))
        assert sequence is not None
        return self.board.roster.claims[sequence].work

    def release(self, trial_id: str) -> None:
        asyncio.run(self.board.release(trial_id))

    def resize(self, counts: Mapping[str, tuple[int, ...]]) -> None:
        self.resized.append(dict(counts))

    def look_soon(self) -> None:
        self.looks += 1


@pytest.fixture
def study(tmp_path: Path) -> tuple[Study, Run]:
    wanted = spec.parse({**SMALL, "resources": {"workers": 2}})
    run = Run.create(tmp_path / "run", "search", wanted.plain(), 0)
    return Study(run.journal, wanted, space.load(wanted.space)), run


def made(study: tuple[Study, Run], slots: PlayedSlots, **more: Any) -> bridge.Bridge:
    asked, run = study
    return bridge.Bridge(Core(asked), run, slots, **more)


def ordered(between: bridge.Bridge, trial_id: str) -> SlotOrder:
    """What a slot is to train next, of which a test knows that there is something."""
    order = between.next(trial_id)
    assert isinstance(order, SlotOrder)
    return order


def test_a_trial_is_claimed_as_it_is_asked_and_its_order_names_the_claim(study: tuple[Study, Run]) -> None:
    """Workers have the trial before Tune has an actor for it, and Tune has nothing large to keep."""
    asked, run = study
    slots = PlayedSlots(1, up=1)
    between = made(study, slots)
    order = tuning.CoreSearcher(between).suggest("t0")["order"]
    config = asked.proposal(asked.trial("0000")).config
    assert slots.work("t0") == Work("0000", config.plain(), str(run.trial_folder("0000")))
    assert order == SlotOrder("board", "t0", "0000", SMALL["trial"]["train"]["epochs"], "knn_top1")
    assert str(order) == "0000"
    assert tuning.CoreSearcher(between).suggest("t1") is None


def test_no_more_trials_than_there_are_workers_for(study: tuple[Study, Run]) -> None:
    slots = PlayedSlots(3, up=2)
    between = made(study, slots)
    assert [between.next(f"t{number}") is None for number in range(4)] == [False, False, True, True]
    asyncio.run(slots.board.attach(2))
    assert ordered(between, "t4").key == "0002"


def test_one_trial_waits_where_no_workers_are_up(study: tuple[Study, Run]) -> None:
    between = made(study, PlayedSlots(2, up=0))
    assert ordered(between, "t0").key == "0000"
    assert between.next("t1") is None


def test_a_trial_whose_tune_actor_died_is_begun_again_and_the_search_goes_on(study: tuple[Study, Run]) -> None:
    """Two such deaths used to count as slots that were given up, and ended a search with one slot."""
    between = made(study, PlayedSlots(1, up=1))
    for number in range(bridge.ACTOR_RETRIES):
        assert ordered(between, f"t{number}").key == "0000"
        between.end(f"t{number}", {}, actor_died=True)
    assert ordered(between, "again").key == "0000"
    between.end("again", {}, actor_died=True)
    assert tuning.CoreSearcher(between).suggest("never") == Searcher.FINISHED
    assert between.broken_off.startswith("the Tune actors of trial 0000 died again and again")


class Clumsy:
    """A listener that fails at whatever it hears."""

    def trial_began(self, *heard: object) -> None:
        raise OSError("No space left on device")

    epoch_heard = trial_ended = search_ended = trial_began


def test_a_search_does_not_end_for_what_shows_it(study: tuple[Study, Run], caplog: pytest.LogCaptureFixture) -> None:
    between = made(study, PlayedSlots(1, up=1), listeners=lambda: [Clumsy()])
    assert ordered(between, "t0").key == "0000"
    between.end("t0", {"error": "it failed"}, actor_died=False)
    between.end("t0", {"lost": "the trial is over"}, actor_died=False)  # as Tune does for a trial that is over
    assert not between.broken_off and ordered(between, "t1").key == "0001"
    assert "Clumsy: " in caplog.text and "No space left on device" in caplog.text


def test_what_the_core_fails_with_in_a_call_by_tune_ends_the_search_and_is_its_reason(
    study: tuple[Study, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tune takes an exception of a callback for one of the trial, and goes on."""
    between = made(study, PlayedSlots(1, up=1))
    ordered(between, "t0")

    def fails(event: events.Event) -> None:
        raise BrokenOff("the journal cannot be written")

    monkeypatch.setattr(between.core, "hear", fails)
    with pytest.raises(BrokenOff):
        between.end("t0", {"error": "it failed"}, actor_died=False)
    between.end("t0", {"lost": "the trial is over"}, actor_died=False)
    with pytest.raises(BrokenOff, match="the journal cannot be written"):
        between.next("t1")


def test_others_come_to_the_core_while_a_run_is_measured(study: tuple[Study, Run]) -> None:
    between, came = made(study, PlayedSlots(1, up=1)), threading.Event()

    def other() -> None:
        with between.turn():
            came.set()

    def admits() -> bool:
        threading.Thread(target=other).start()
        return came.wait(10)

    between.admits = admits
    assert ordered(between, "t0").key == "0000"


def test_a_search_without_any_slot_left_ends_with_the_reason(study: tuple[Study, Run]) -> None:
    between = made(study, PlayedSlots(2, up=2))
    between.next("t0")
    between.end("t0", {"lost": "slot 0: no GPU"}, actor_died=False)
    assert tuning.CoreSearcher(between).suggest("t1") == Searcher.FINISHED
    assert between.broken_off == "slot 0: no GPU"


def test_no_trial_is_asked_before_the_untrained_encoder_is_scored(study: tuple[Study, Run]) -> None:
    """And who is told of trials is made after it, for TensorBoard shows the score from the start."""
    asked, run = study
    scores: list[object] = []

    def listeners() -> list[Any]:
        scores.append(run.read_baseline())
        return []

    slots = PlayedSlots(2, up=2)
    between = made(study, slots, baseline=Baseline(run, asked.spec), listeners=listeners)
    order = ordered(between, "t0")
    assert (order.key, order.epochs) == ("untrained", 0)
    assert (order.board, order.claim, order.metric) == ("board", "t0", "knn_top1")
    work = slots.work("t0")
    assert (work.folder, work.config["train"]["epochs"]) == (str(run.trial_folder("untrained")), 0)
    assert between.next("t1") is None
    between.end("t0", {}, actor_died=True)
    assert ordered(between, "t2").key == "untrained", "its actor died, so it is begun again"
    report = EpochReport("untrained", 0, {"epoch": 0.0, "knn_top1": 0.25})
    assert between.hear("t2", report) == TrialScheduler.CONTINUE
    assert not asked.trials() and not scores
    between.end("t2", {"report": report, "done": True}, actor_died=False)
    assert scores == [{"epoch": 0.0, "knn_top1": 0.25}]
    assert ordered(between, "t3").key == "0000"


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (
            {"error": "UserError: data.root: is empty"},
            "the untrained encoder cannot be scored: trial.data.root: is empty",
        ),
        ({"lost": "slot 0: no GPU"}, "slot 0: no GPU"),
    ],
)
def test_nothing_is_asked_where_the_untrained_encoder_cannot_be_scored(
    study: tuple[Study, Run], result: dict[str, str], words: str
) -> None:
    asked, run = study
    baseline = Baseline(run, asked.spec)
    between = made(study, PlayedSlots(1, up=1), baseline=baseline)
    between.next("t0")
    between.end("t0", {"report": None, **result}, actor_died=False)
    assert tuning.CoreSearcher(between).suggest("t1") == Searcher.FINISHED
    assert not asked.trials() and run.read_baseline() is None
    assert str(baseline.failure or between.broken_off).startswith(words)


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_score_of_the_untrained_encoder_that_does_not_come_is_asked_for_again(
    study: tuple[Study, Run], comes_back: bool
) -> None:
    """Neither a report nor an error: the search used to go on without the score."""
    asked, run = study
    between = made(study, PlayedSlots(1, up=1), baseline=Baseline(run, asked.spec))
    for number in range(bridge.ACTOR_RETRIES):
        assert ordered(between, f"t{number}").key == "untrained"
        between.end(f"t{number}", {}, actor_died=False)
    assert ordered(between, "last").key == "untrained"
    if comes_back:
        report = EpochReport("untrained", 0, {"epoch": 0.0, "knn_top1": 0.25})
        between.end("last", {"report": report}, actor_died=False)
        assert run.read_baseline() == report.metrics
        assert ordered(between, "next").key == "0000"
        return
    between.end("last", {}, actor_died=False)
    assert tuning.CoreSearcher(between).suggest("never") == Searcher.FINISHED
    assert between.broken_off == "trial untrained: it ended without a score, again and again"
    assert between.baseline is not None and not asked.trials()


def seen(*slots: tuple[int, str | None]) -> State:
    """Slots that are up, each with the trial that it trains."""
    up = tuple(SlotState(slot, "node", ("node",), trial, False) for slot, trial in slots)
    return State(slots=up, busy=len({trial for _, trial in slots if trial}), waiting=0, why="")


@pytest.fixture
def elastic(tmp_path: Path) -> tuple[Study, Run]:
    """A search of one trial, which may have two workers, and of which each is a slot."""
    wanted = spec.parse({**SMALL, "trials": 1, "resources": {"workers": "1-2"}})
    run = Run.create(tmp_path / "run", "search", wanted.plain(), 0)
    return Study(run.journal, wanted, space.load(wanted.space)), run


def test_idle_slots_are_lent_to_a_trial_that_runs(elastic: tuple[Study, Run]) -> None:
    slots = PlayedSlots(2, up=2)
    between = made(elastic, slots)
    key = ordered(between, "t0").key
    assert slots.looks == 1, "after a start slots may have to be given back at once"
    assert between.look(seen((0, key), (1, None))) == {key: 1}, "how long it takes is not known yet"
    times = {"time/first_step_at": 1.0, "time/measured_at": 99.0, "time/workers": 1, "time/images_per_second": 9.0}
    between.hear("t0", EpochReport(key, 0, {"epoch": 1, "knn_top1": 0.5, **times}))
    assert between.look(seen((0, key), (1, None))) == {key: 2}
    assert slots.resized == [{key: (1, 2)}]
    assert slots.useful == 2
    assert between.look(seen((0, key), (1, key))) == {key: 2}
    assert between.look(seen((0, key))) == {key: 1}, "a node has gone"
    assert slots.resized == [{key: (1, 2)}, {key: (1,)}]


def test_slots_of_a_trial_that_has_just_ended_count_as_there(tmp_path: Path) -> None:
    """A trial that ran on was narrowed for a second where another one had begun in the place of one that had ended."""
    wanted = spec.parse({**SMALL, "resources": {"workers": "1-2", "concurrent_trials": 2}, "stopping": "none"})
    run = Run.create(tmp_path / "run", "search", wanted.plain(), 0)
    slots = PlayedSlots(4, up=4)
    between = made((Study(run.journal, wanted, space.load(wanted.space)), run), slots)
    first, second = [ordered(between, trial_id).key for trial_id in ("a", "b")]
    times = {"time/first_step_at": 1.0, "time/measured_at": 99.0, "time/workers": 1, "time/images_per_second": 9.0}
    for trial_id, key in (("a", first), ("b", second)):
        between.hear(trial_id, EpochReport(key, 0, {"epoch": 1, "knn_top1": 0.5, **times}))
    free = [(2, None), (3, None)]
    assert between.look(seen((0, first), (1, second), *free)) == {first: 2, second: 2}
    before = seen((0, first), (1, first), (2, second), (3, second))
    assert between.look(before) == {first: 2, second: 2}
    resized, useful = len(slots.resized), slots.useful
    between.end("b", {"report": EpochReport(second, 0, {"epoch": 3, "knn_top1": 0.5, **times})}, actor_died=False)
    third = ordered(between, "c").key
    for state in (before, seen((0, first), (1, first), *free), seen((0, first), (1, first), (2, third), free[1])):
        assert between.look(state)[first] == 2
        assert slots.useful == useful == 4
    assert not [counts for counts in slots.resized[resized:] if first in counts]


class Ear:
    """A listener that remembers the ends that it was told of."""

    def __init__(self) -> None:
        self.ended: list[tuple[str, str | None]] = []

    def trial_began(self, proposal: Proposal) -> None: ...

    def epoch_heard(self, proposal: Proposal, metrics: Mapping[str, Any]) -> None: ...

    def trial_ended(self, proposal: Proposal, error: str | None) -> None:
        self.ended.append((proposal.key, error))

    def search_ended(self) -> None: ...


@pytest.mark.parametrize("whole", [False, True], ids=["each trial", "the search"])
def test_the_end_of_a_trial_that_is_stopped_is_told_once_whether_it_runs_or_not(
    study: tuple[Study, Run], whole: bool
) -> None:
    """One that is paused, one that waits to begin again, and one that runs."""
    slots, run, ear = PlayedSlots(3, up=3), study[1], Ear()
    between = made(study, slots, listeners=lambda: [ear])
    paused, waits, runs = [ordered(between, trial_id).key for trial_id in ("p", "w", "r")]
    folder = run.trial_folder(paused)
    folder.mkdir(parents=True)
    (checkpoint := folder / "step-0000000008.safetensors").touch()
    between.wish(events.PauseWanted(paused))
    times = {"time/first_step_at": 1.0, "time/measured_at": 2.0}
    report = EpochReport(paused, 0, {"epoch": 1, "step": 8.0, "knn_top1": 0.5, **times})
    between.hear("p", report)
    between.end("p", {"report": report}, actor_died=False)
    between.end("w", {}, actor_died=True)
    assert not ear.ended and checkpoint_files.pinned(checkpoint)
    for event in [events.EndWanted()] if whole else [events.StopWanted(key) for key in (paused, waits, runs)]:
        between.wish(event)
    early = "stopped by the user before its first epoch"
    assert ear.ended == [(paused, None), (waits, early)], "the other one still has workers"
    assert not checkpoint_files.pinned(checkpoint)
    between.end("r", {"lost": "the trial is over"}, actor_died=False)
    between.wish(events.EndWanted())
    assert ear.ended == [(paused, None), (waits, early), (runs, early)] and not between.unfinished


def test_the_end_of_a_trial_whose_driver_was_killed_as_it_was_stopped_is_told(study: tuple[Study, Run]) -> None:
    (asked, run), ear = study, Ear()
    killed = made(study, PlayedSlots(1, up=1))
    key = ordered(killed, "t0").key
    killed.wish(events.StopWanted(key))
    resumed = made((Study(run.journal, asked.spec, asked.space), run), PlayedSlots(1, up=1), listeners=lambda: [ear])
    assert ordered(resumed, "t0").key != key
    assert ear.ended == [(key, "stopped by the user before its first epoch")]


def test_a_trial_that_is_stopped_as_its_paused_segment_ends_is_told_once(study: tuple[Study, Run]) -> None:
    ear = Ear()
    between = made(study, PlayedSlots(1, up=1), listeners=lambda: [ear])
    key = ordered(between, "t0").key
    study[1].trial_folder(key).mkdir(parents=True)
    between.wish(events.PauseWanted(key))
    times = {"time/first_step_at": 1.0, "time/measured_at": 2.0}
    report = EpochReport(key, 0, {"epoch": 1, "step": 8.0, "knn_top1": 0.5, **times})
    between.hear("t0", report)
    between.wish(events.StopWanted(key))
    between.end("t0", {"report": report}, actor_died=False)
    assert ear.ended == [(key, None)]


def test_a_trial_that_is_stopped_from_outside_ends_without_another_epoch(study: tuple[Study, Run]) -> None:
    slots = PlayedSlots(1, up=1)
    between = made(study, slots)
    order = ordered(between, "t0")
    assert asyncio.run(slots.board.claimed("t0")) == 1
    between.wish(events.StopWanted(order.key))
    assert asyncio.run(slots.board.claimed("t0")) is None, "its workers are told"
    between.end("t0", {"lost": "the trial is over"}, actor_died=False)
    assert not between.broken_off, "no slot is lost"
    assert study[0].trial(order.key).state.is_finished()
    assert ordered(between, "t1").key == "0001"


def test_the_checkpoint_of_a_paused_trial_is_kept_until_it_goes_on(study: tuple[Study, Run]) -> None:
    slots, run = PlayedSlots(1, up=1), study[1]
    between = made(study, slots)
    key = ordered(between, "t0").key
    folder = run.trial_folder(key)
    folder.mkdir(parents=True)
    (checkpoint := folder / "step-0000000008.safetensors").touch()
    between.wish(events.PauseWanted(key))
    times = {"time/first_step_at": 1.0, "time/measured_at": 2.0}
    between.hear("t0", EpochReport(key, 0, {"epoch": 1, "step": 8.0, "knn_top1": 0.5, **times}))
    assert checkpoint_files.pinned(checkpoint)
    between.end("t0", {}, actor_died=False)
    between.wish(events.PromotionWanted(key))
    assert ordered(between, "t1").key == key
    assert not checkpoint_files.pinned(checkpoint)


def test_the_core_is_asked_by_one_thread_at_a_time(elastic: tuple[Study, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    """Tune calls from one thread, and the slots from another one."""
    between = made(elastic, PlayedSlots(1, up=1))
    inside, entered, leave = list[str](), threading.Event(), threading.Event()

    def hear(event: events.Event) -> events.Decision | None:
        inside.append(type(event).__name__)
        entered.set()
        leave.wait(5)
        inside.append("out")
        return events.Wait() if isinstance(event, events.WorkWanted) else None

    monkeypatch.setattr(between.core, "hear", hear)
    asking = threading.Thread(target=between.next, args=("t0",))
    asking.start()
    assert entered.wait(5)
    looking = threading.Thread(target=between.look, args=(seen(),))
    looking.start()
    looking.join(0.1)
    assert inside == ["WorkWanted"]
    leave.set()
    looking.join(5)
    asking.join(5)
    assert inside == ["WorkWanted", "out", "SlotsSeen", "out"]


def test_tune_keeps_little_of_a_trial_that_has_ended() -> None:
    trial = Trial("any", stub=True, _setup_default_resource=False)
    metrics = {f"metric {number}": float(number) for number in range(100)}
    trial.update_last_result({"training_iteration": 3, "report": EpochReport("0000", 0, metrics), **metrics})
    assert len(trial.run_metadata.get_json_state()) > 20_000 and trial.metric_analysis
    tuning.Forgetting().on_trial_complete(1, [trial], trial)
    assert len(trial.run_metadata.get_json_state()) < 2_000 and not trial.metric_analysis
    assert trial.last_result["training_iteration"] == 3, "Tune must not ask an actor for it that is gone"
