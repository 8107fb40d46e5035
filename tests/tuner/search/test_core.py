"""The core: segments, what a resume takes up from the journal, and a kill after every line of a journal."""

import heapq
import itertools
import math
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from trainables.config.errors import UserError
from tuner.plan import space as spaces
from tuner.plan import spec as specs
from tuner.search.core import Core
from tuner.search.events import (
    Allot,
    Continue,
    Decision,
    EndWanted,
    EpochEnded,
    Finish,
    Pause,
    PauseWanted,
    PromotionWanted,
    SegmentBegan,
    SegmentLost,
    SlotsSeen,
    Start,
    Stop,
    StopNow,
    StopWanted,
    TrialEnded,
    Wait,
    WorkWanted,
)
from tuner.search.state import fixed_because
from tuner.search.stoppers.base import Stopper, Verdict
from tuner.search.study import Study

TEACHER = spaces.load("teacher")
EPOCHS = 6
SPEEDS = {1: 1.0, 2: 1.7, 3: 2.4}  # of the elastic driver, by width
LENT: dict[str, Any] = {  # an elastic search whose trials have widths of 1, 2 and 3
    "trials": 4,
    "stopping": {"grace_epochs": 2, "reduction": 2},
    "resources": {"workers": "1-3"},
    "trial": {"train": {"epochs": EPOCHS, "batch_size": 6, "shard_size": 2}},
}
WORK = WorkWanted(3, 3)


def search(**changes: object) -> specs.SearchSpec:
    return specs.parse(
        {
            "trials": 9,
            "seed": 5,
            "sampler": {"startup_trials": 3},
            "stopping": {"grace_epochs": 1, "reduction": 2},
            "trial": {"train": {"epochs": EPOCHS}},
            **changes,
        }
    )


def metrics(values: dict[str, Any], epoch: int) -> dict[str, Any]:
    """Stands for a training: what an epoch shows is a function of the proposal."""
    rng = random.Random(f"{sorted(values.items())!r} {epoch}")
    return {"epoch": epoch, "knn_top1": round(0.1 * epoch + rng.random(), 2)}


def seconds(values: dict[str, Any]) -> float:
    """What an epoch takes: it differs from trial to trial, so that three slots interleave."""
    return 1 + random.Random(repr(sorted(values.items()))).random()


def core_of(journal: Path | None, stopper: Stopper | None = None, **changes: object) -> Core:
    return Core(Study(journal, search(**changes), TEACHER), stopper)


def started(core: Core, key: str, segment: int = 1, width: int | None = None) -> Start:
    """The next segment, which is one of that trial."""
    decision = core.hear(WORK)
    assert isinstance(decision, Start)
    assert (decision.proposal.key, decision.segment) == (key, segment)
    assert width is None or decision.width == width
    core.hear(SegmentBegan(key, 0.0))
    return decision


def epoch(core: Core, key: str, number: int, score: float) -> Decision | None:
    return core.hear(EpochEnded(key, {"epoch": number, "knn_top1": score}))


@dataclass
class Driver:
    """Drives a core in virtual time: on three slots, or, in an elastic search, on two or three in turn.

    Attributes:
        core: the core.
        elastic: whether slots come and go, and are lent.
        decisions: what was decided after each epoch, by trial and epoch.
        starts: first segments, in order, with the proposed values.
        told: metrics of each epoch, by trial and epoch.
        queue: epochs that are being trained, by the time of their end.
    """

    core: Core
    elastic: bool = False
    decisions: dict[tuple[str, int], str] = field(default_factory=dict)
    starts: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    told: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)
    queue: list[tuple[float, int, str, int]] = field(default_factory=list)

    def run(self) -> None:
        order, running, began = itertools.count(), {}, {}
        now = 0.0

        def slots() -> int:
            return 2 if self.elastic and (now % 24 < 12) else 3

        def train(key: str, number: int) -> None:
            took = (10 if self.elastic else 1) * seconds(running[key].values) / SPEEDS[self.core.widths[key]]
            heapq.heappush(self.queue, (now + took, next(order), key, number))

        def fill() -> None:
            while isinstance(decision := self.core.hear(WorkWanted(slots(), 3)), Start):
                key = decision.proposal.key
                running[key] = decision.proposal
                if decision.segment == 1:
                    self.starts.append((key, decision.proposal.values))
                began[key] = now
                self.core.hear(SegmentBegan(key, now))
                train(key, 1)  # a segment tells what its trial's checkpoint knows again
            self.core.hear(SlotsSeen(now, {"a": slots()}))

        fill()
        while self.queue:
            now, _, key, number = heapq.heappop(self.queue)
            width, last = self.core.widths[key], metrics(running[key].values, number)
            if self.elastic:
                last |= timed(number, width, 10 * SPEEDS[width], last["knn_top1"])
                last |= {"time/measured_at": now, "time/first_step_at": began[key]}
            self.told[key, number] = last
            decision = self.core.hear(EpochEnded(key, last))
            self.decisions[key, number] = type(decision).__name__
            if isinstance(decision, Stop) or number == EPOCHS:
                self.core.hear(TrialEnded(key, last, None, {}))
            else:
                train(key, number + 1)
            fill()


def outcome(study: Study) -> list[tuple[Any, ...]]:
    return [
        (t.number, t.params, t.user_attrs["values"], t.state, t.values, dict(t.intermediate_values))
        for t in study.trials()
    ]


def records(study: Study) -> list[tuple[int, str, dict[str, Any]]]:
    return study.records()


@pytest.fixture(autouse=True, scope="module")
def _no_flush() -> Iterator[None]:
    """Processes are killed here, not machines: what was written is there, also without a flush to the disc."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda descriptor: None)
        yield


@dataclass
class Reference:
    """A search that nobody interrupts, with its journal."""

    journal: bytes
    driver: Driver
    changes: dict[str, Any]

    @property
    def study(self) -> Study:
        return self.driver.core.study


@pytest.fixture(scope="module", params=["fixed", "lent"])
def reference(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """A search on three slots, and an elastic one on two or three."""
    journal, changes = tmp_path_factory.mktemp("reference") / "journal", LENT if request.param == "lent" else {}
    driver = Driver(core_of(journal, **changes), elastic=bool(changes))
    driver.run()
    return Reference(journal.read_bytes(), driver, changes)


def test_the_reference_has_three_trials_at_once_and_stops(reference: Reference) -> None:
    events = [(key, content["event"]) for _, key, content in records(reference.study)]
    decisions = list(reference.driver.decisions.values())
    assert [sequence for sequence, _, _ in records(reference.study)] == list(range(len(events)))
    if reference.driver.elastic:
        widths = [content["width"] for _, _, content in records(reference.study) if content["event"] == "resize"]
        assert set(widths) == {1, 2, 3} and len(widths) >= 5 and "Stop" in decisions
        return
    assert [key for key, _ in events[:3]] == ["0000", "0001", "0002"]
    assert {name for _, name in events} == {"start", "epoch", "end"}
    assert decisions.count("Stop") >= 2


def test_a_kill_after_every_line_changes_no_decision(reference: Reference, tmp_path: Path) -> None:
    """What was decided before the kill is decided again when it is heard again, and stays in the journal as it was.

    What follows is decided by what the journal holds: every trial is asked and told once, and a stop stays a stop.
    """
    lines, whole, changes = reference.journal.splitlines(keepends=True), reference.driver, reference.changes
    before = records(whole.core.study)
    for count in range(len(lines) + 1):
        journal = tmp_path / f"after-{count}"
        journal.write_bytes(b"".join(lines[:count]))
        taken = records(Study(journal, search(**changes), TEACHER, reading=True)) if count > 1 else []
        assert taken == before[: len(taken)], count
        again = Driver(core_of(journal, **changes), whole.elastic)
        again.run()
        for key, number in decided(taken):
            if (key, number) in again.decisions:
                assert again.decisions[key, number] == whole.decisions[key, number], (count, key, number)
        kept = records(again.core.study)
        assert kept[: len(taken)] == taken and [sequence for sequence, *_ in kept] == list(range(len(kept)))
        assert_asked_and_told_once(again.core.study, search(**changes).trials)
        assert [t.params for t in again.core.study.trials()][: asked(taken)] == [
            t.params for t in whole.core.study.trials()
        ][: asked(taken)]


def decided(taken: list[tuple[int, str, dict[str, Any]]]) -> list[tuple[str, int]]:
    return [(key, content["epoch"]) for _, key, content in taken if content["event"] == "epoch"]


def asked(taken: list[tuple[int, str, dict[str, Any]]]) -> int:
    return sum(content["event"] == "start" and content["segment"] == 1 for _, _, content in taken)


def assert_asked_and_told_once(study: Study, count: int) -> None:
    trials = study.trials()
    assert [trial.number for trial in trials] == list(range(count))
    assert all(trial.state.is_finished() for trial in trials)
    told = [key for _, key, content in study.records() if content["event"] == "end"]
    epochs = decided(study.records())
    assert len(told) >= count and set(told) == {f"{number:04d}" for number in range(count)}
    assert len(epochs) == len(set(epochs)), "an epoch is judged once"


def follow(core: Core, events: list[tuple[str, dict[str, Any]]], whole: Driver) -> list[tuple[str, Any]]:
    """Tells a core the events of a recorded search in the recorded order; returns what it decides.

    Trials whose epochs the core knows are told them again from the first one, as a resumed trial tells them.
    """
    decisions: list[tuple[str, Any]] = []
    for key, content in events:
        if content["event"] == "start":
            decision = core.hear(WORK)
            assert isinstance(decision, Start)
            decisions.append((decision.proposal.key, decision.proposal.values))
        elif content["event"] == "epoch":
            decision = core.hear(EpochEnded(key, whole.told[key, content["epoch"]]))
            decisions.append((key, type(decision).__name__))
        elif content["event"] == "resize":
            core.hear(SlotsSeen(0.0, {"a": content["slots"]}))
            decisions.append((key, core.widths[key]))
        else:
            last = max(whole.core.study.trial(key).intermediate_values)
            core.hear(TrialEnded(key, whole.told[key, last], None, {}))
    return decisions


def expected_of(key: str, entry: dict[str, Any], study: Study) -> tuple[str, Any]:
    """What a record says was decided, as `follow` returns it."""
    if entry["event"] == "start":
        return key, study.trial(key).user_attrs["values"]
    return key, entry["width"] if entry["event"] == "resize" else {"stop": "Stop", "continue": "Continue"}[
        entry["decision"]
    ]


def test_after_a_kill_the_same_events_lead_to_the_same_decisions(reference: Reference, tmp_path: Path) -> None:
    """After every line: the rest of the recorded events is told to a new core, in the recorded order."""
    lines, whole, study = reference.journal.splitlines(keepends=True), reference.driver, reference.study
    events = [(key, entry) for _, key, entry in records(study)]
    torn = 0
    for count, tail in itertools.product(range(2, len(lines) + 1), (b"", b'{"op_code": 9, "wor')):
        if tail and count % 7:  # a torn last line at some places
            continue
        journal = tmp_path / "journal"
        journal.write_bytes(b"".join(lines[:count]) + tail)
        torn += bool(tail)
        core = core_of(journal, **reference.changes)
        taken = len(core.study.records())
        unfinished = list(core.unfinished)
        for key in unfinished:  # a new segment of each trial that was interrupted
            decision = core.hear(WORK)
            assert isinstance(decision, Start) and decision.proposal.key == key and decision.width == 1
        for key in unfinished:  # each tells again what it has told before
            for _, other, entry in records(core.study)[:taken]:
                if other == key and entry["event"] == "epoch":
                    told = core.hear(EpochEnded(key, whole.told[key, entry["epoch"]]))
                    assert type(told).__name__.lower() == entry["decision"]
        ended = {key for _, key, entry in records(study)[:taken] if entry["event"] == "end"}
        if half := sorted(ended & set(unfinished)):  # the end was noted, and not told yet
            assert len(half) == 1
            follow(core, [(half[0], {"event": "end"})], whole)
        if resized := [entry for _, entry in events[:taken] if entry["event"] == "resize"]:
            core.hear(SlotsSeen(0.0, {"a": resized[-1]["slots"]}))  # a trial begins on one slot, and gets the others
        expected = [expected_of(key, entry, study) for key, entry in events[taken:] if entry["event"] != "end"]
        assert follow(core, events[taken:], whole) == expected, count
        assert outcome(core.study) == outcome(study), count
    assert torn > 5


def test_segments_of_a_pause_and_a_promotion() -> None:
    core = core_of(None, stopping="none")
    started(core, "0000")
    assert epoch(core, "0000", 1, 0.5) == Continue("0000")
    core.hear(PauseWanted("0000"))
    assert epoch(core, "0000", 2, 0.6) == Pause("0000")
    assert core.running == [] and core.unfinished == ["0000"]
    core.hear(TrialEnded("0000", {"epoch": 2, "knn_top1": 0.6}, None, {}))
    assert core.study.trial("0000").state == TrialState.RUNNING, "the end of a paused segment ends no trial"
    started(core, "0001")
    core.hear(PromotionWanted("0001"))  # it is not paused: nothing changes
    core.hear(PromotionWanted("0000"))
    started(core, "0000", segment=2)
    assert epoch(core, "0000", 1, 0.5) == Continue("0000") and epoch(core, "0000", 2, 0.6) == Continue("0000")
    assert epoch(core, "0000", 3, 0.7) == Continue("0000")
    assert core.running == ["0000", "0001"]


ELASTIC: dict[str, Any] = {
    "stopping": "none",
    "resources": {"workers": "1-4"},
    "trial": {"train": {"epochs": EPOCHS, "batch_size": 8, "shard_size": 2}},
}


def timed(number: int, workers: int, speed: float, score: float = 0.5) -> dict[str, Any]:
    """Metrics of an epoch on a number of workers."""
    times = {"time/workers": workers, "time/images_per_second": speed, "time/measured_at": 100.0 * number}
    return {"epoch": number, "knn_top1": score, "time/first_step_at": 1.0, **times}


def test_idle_slots_are_lent_and_given_back(tmp_path: Path) -> None:
    """Once a trial has shown its speed on one slot, it gets what nobody waits for, and gives it back."""
    core = core_of(tmp_path / "journal", trials=2, **ELASTIC)
    started(core, "0000", width=1)
    assert core.hear(SlotsSeen(0.0, {"a": 4}, {"0000": {"a": 1}})) is None, "its speed is not known"
    core.hear(EpochEnded("0000", timed(1, 1, 10.0)))
    assert core.hear(SlotsSeen(1.0, {"a": 1}, {"0000": {"a": 1}})) is None
    assert core.hear(SlotsSeen(2.0, {"a": 3}, {"0000": {"a": 1}})) == Allot({"0000": 2}), "one is for the next trial"
    assert core.hear(SlotsSeen(3.0, {"a": 3}, {"0000": {"a": 2}})) is None
    started(core, "0001", width=1)
    assert core.hear(SlotsSeen(4.0, {"a": 2}, {"0000": {"a": 2}})) == Allot({"0000": 1})
    assert core.widths == {"0000": 1, "0001": 1}
    noted = [content for _, key, content in records(core.study) if content["event"] == "resize"]
    assert noted == [
        {"event": "resize", "segment": 2, "width": 2, "slots": 3},
        {"event": "resize", "segment": 3, "width": 1, "slots": 2},
    ]
    again = core_of(tmp_path / "journal", trials=2, **ELASTIC)
    start = started(again, "0000", segment=4, width=1)
    assert start.width == 1, "a trial begins on one slot after a restart, too"


def hear_all_but_the_last(core: Core) -> int:
    """Trial 0000 has all epochs but its last, one each 10 s; returns how many it has in all."""
    epochs = ELASTIC["trial"]["train"]["epochs"]
    for epoch in range(1, epochs):
        times = {"time/first_step_at": 0.0, "time/measured_at": 10.0 * epoch}
        core.hear(EpochEnded("0000", {**timed(epoch, 1, 10.0), **times}))
    return epochs


@pytest.mark.parametrize(("at", "widened"), [(14.0, True), (16.0, False), (99.0, False), (-50.0, True)])
def test_what_is_trained_of_the_last_epoch_counts(at: float, widened: bool) -> None:
    """An epoch takes 10 s, and less than 5 s are too little for a resize; workers' clocks may be wrong."""
    core = core_of(None, trials=1, **ELASTIC)
    started(core, "0000")
    epochs = hear_all_but_the_last(core)
    now = 10.0 * (epochs - 1) + at - 10.0
    assert (core.hear(SlotsSeen(now, {"a": 2}, {"0000": {"a": 1}})) is not None) == widened


def test_an_epoch_begun_again_from_a_checkpoint_is_whole() -> None:
    core = core_of(None, trials=1, **ELASTIC)
    started(core, "0000")
    epochs = hear_all_but_the_last(core)
    core.hear(SegmentLost("0000", "its actor died"))
    started(core, "0000", segment=2)
    assert core.hear(SlotsSeen(10.0 * epochs - 1, {"a": 2}, {"0000": {"a": 1}})) == Allot({"0000": 2})


def test_a_width_that_does_not_pay_is_tried_once_in_a_search(tmp_path: Path) -> None:
    core = core_of(tmp_path / "journal", trials=1, **ELASTIC)
    started(core, "0000")
    core.hear(EpochEnded("0000", timed(1, 1, 10.0)))
    seen = SlotsSeen(0.0, {"a": 4}, {"0000": {"a": 4}})
    assert core.useful_slots == 4
    assert core.hear(seen) == Allot({"0000": 4})
    core.hear(EpochEnded("0000", timed(2, 4, 12.0)))
    assert core.hear(seen) is None and core.useful_slots == 4, "its workers have just begun"
    core.hear(EpochEnded("0000", timed(3, 4, 12.0)))
    assert core.hear(seen) == Allot({"0000": 2}), "1.2 times as fast on four: the next smaller width is tried"
    core.hear(EpochEnded("0000", timed(4, 2, 15.0)))
    assert core.hear(seen) is None, "1.5 times as fast on two"
    assert core.useful_slots == 2
    again = core_of(tmp_path / "journal", trials=1, **ELASTIC)
    started(again, "0000", segment=4, width=1)
    assert again.hear(seen) == Allot({"0000": 2}), "what was measured is in the journal"


def test_joint_trials_keep_to_the_smallest_width_and_the_journal_says_why() -> None:
    trial = {"train": {**ELASTIC["trial"]["train"], "exact": False}}
    core = core_of(None, trials=1, **{**ELASTIC, "trial": trial})
    started(core, "0000")
    core.hear(EpochEnded("0000", timed(1, 1, 10.0)))
    assert core.hear(SlotsSeen(0.0, {"a": 4}, {"0000": {"a": 1}})) is None and core.useful_slots == 1
    (start, *_) = [content for _, _, content in records(core.study)]
    assert start == {"event": "start", "segment": 1, "width": 1, "fixed": "joint: a worker runs its shards in one pass"}


def test_how_many_slots_a_search_can_use() -> None:
    core = core_of(None, trials=3, **{**ELASTIC, "resources": {"workers": "1-4", "max_slots": 5}})
    assert core.useful_slots == 3, "a slot for each trial"
    started(core, "0000")
    assert core.useful_slots == 5, "two trials, and four slots for the first one; but at most five"
    core.hear(EndWanted())
    assert core.useful_slots == 4, "what runs"
    fixed = core_of(None, trials=3, resources={"concurrent_trials": 2})
    assert fixed.useful_slots == 2


def test_nodes_are_not_asked_for_in_the_hope_that_a_width_pays() -> None:
    """Twelve trials of up to eight workers, on a cluster that has whatever is asked for: each width is tried first."""
    wide = {"train": {"epochs": 60, "batch_size": 16, "shard_size": 2}}
    core = core_of(None, trials=12, stopping="none", sampler="random", resources={"workers": "1-8"}, trial=wide)
    while isinstance(core.hear(WorkWanted(12, 12)), Start):
        pass
    asked = [core.useful_slots]
    for number in range(1, 30):
        for key in core.running:
            width = core.widths[key]
            core.hear(EpochEnded(key, timed(number, width, 10.0 * width)))
        core.hear(SlotsSeen(0.0, {"a": core.useful_slots}))
        asked.append(core.useful_slots)
    assert asked[0] == asked[1] == 12 + 7, "one trial may try its largest width"
    assert asked == sorted(asked) and max(after - before for before, after in itertools.pairwise(asked)) <= 12 * 4
    joint = [trial for trial in core.study.trials() if fixed_because(core.study.config_of(trial))]
    assert asked[-1] == sum(core.widths.values()) == 12 * 8 - 7 * len(joint), "all of them, once they are known to pay"


def test_slots_that_are_there_stay_while_a_width_may_be_tried_on_them() -> None:
    core = core_of(None, trials=3, **ELASTIC)
    for number in range(3):
        started(core, f"{number:04d}")
        core.hear(EpochEnded(f"{number:04d}", timed(1, 1, 10.0)))
    assert core.useful_slots == 3 + 3
    core.hear(SlotsSeen(0.0, {"a": 9}))
    assert core.useful_slots == 9
    core.hear(SlotsSeen(0.0, {"a": 20}))
    assert core.useful_slots == 12, "four for each"


def test_a_trial_that_is_given_slots_may_hold_fewer_candidates() -> None:
    """Its six shards make 1, 2, 3 and 6 workers candidates; a refused one is none."""
    six = {"train": {"epochs": 60, "batch_size": 12, "shard_size": 2}}
    core = core_of(None, **{**ELASTIC, "trials": 1, "resources": {"workers": "1-6"}, "trial": six})
    started(core, "0000")
    assert core.counts("0000") == (1,)
    core.hear(EpochEnded("0000", timed(1, 1, 10.0)))
    assert core.hear(SlotsSeen(0.0, {"a": 9})) == Allot({"0000": 6})
    assert core.counts("0000") == (1, 2, 3, 6)
    core.hear(SlotsSeen(0.0, {"a": 4}))
    assert core.widths == {"0000": 3} and core.counts("0000") == (1, 2, 3)
    for number in (2, 3):
        core.hear(EpochEnded("0000", timed(number, 2, 10.0)))
    assert core.counts("0000") == (1, 3), "two workers were no faster"


def test_a_trial_is_stopped_at_once(tmp_path: Path) -> None:
    """With its last score; without any it has failed. A stopped trial that does not run is ended by the core."""
    core = core_of(tmp_path / "journal", stopping="none")
    for key in ("0000", "0001", "0002"):
        started(core, key)
    epoch(core, "0000", 1, 0.5)
    core.hear(PauseWanted("0002"))
    assert epoch(core, "0002", 1, 0.75) == Pause("0002")
    assert core.hear(StopWanted("0000")) == StopNow(("0000",)) == core.hear(StopWanted("0000"))
    assert core.hear(StopWanted("0001")) == StopNow(("0001",))
    assert core.hear(StopWanted("0002")) is None and core.hear(StopWanted("0007")) is None
    assert epoch(core, "0000", 2, 0.9) == Stop("0000"), "an epoch that was on its way"
    core.hear(TrialEnded("0000", {"epoch": 2, "knn_top1": 0.9}, None, {}))
    for copy in ("killed", "ended"):
        shutil.copy(tmp_path / "journal", tmp_path / copy)
    core.hear(TrialEnded("0001", {}, None, {}))
    states = [(trial.state, trial.values, trial.user_attrs.get("error")) for trial in core.study.trials()]
    stopped = "stopped by the user before its first epoch"
    assert states == [
        (TrialState.PRUNED, [0.9], None),
        (TrialState.FAIL, None, stopped),
        (TrialState.PRUNED, [0.75], None),
    ]
    killed = core_of(tmp_path / "killed", stopping="none")
    started(killed, "0003")
    assert killed.study.trial("0001").user_attrs["error"] == stopped, "a crash came between the stop and the end"
    ended = core_of(tmp_path / "ended", stopping="none")
    assert ended.hear(EndWanted()) is None and not ended.unfinished
    assert ended.hear(WORK) == Finish(), "a trial that the user has stopped since is not ended twice"


def test_a_search_is_ended_at_once(tmp_path: Path) -> None:
    core = core_of(tmp_path / "journal", stopping="none")
    for key in ("0000", "0001", "0002"):
        started(core, key)
    core.hear(SegmentLost("0002", "its actor died"))
    assert core.hear(EndWanted()) == StopNow(("0000", "0001"))
    for key in ("0000", "0001"):
        core.hear(TrialEnded(key, {}, None, {}))
    assert core.hear(WORK) == Finish() and core.unfinished == [] and not core.halted, "three stops are no fault"
    started(core_of(tmp_path / "journal", stopping="none"), "0003")


def test_a_trial_that_waits_is_paused_at_once(tmp_path: Path) -> None:
    core = core_of(tmp_path / "journal", stopping="none", trials=2)
    started(core, "0000")
    core.hear(SegmentLost("0000", "its actor died"))
    core.hear(PauseWanted("0000"))
    for again in (core, core_of(tmp_path / "journal", stopping="none", trials=2)):
        assert again.running == [] and again.unfinished == ["0000"]
    started(again, "0001")
    assert again.hear(WORK) == Wait()
    again.hear(TrialEnded("0001", {"epoch": EPOCHS, "knn_top1": 0.5}, None, {}))
    started(again, "0000", segment=2)


def test_a_lost_segment_goes_first() -> None:
    core = core_of(None, stopping="none")
    started(core, "0000")
    started(core, "0001")
    core.hear(SegmentLost("0000", "its actor died"))
    core.hear(SegmentLost("0001", "its actor died"))
    core.hear(SegmentLost("0001", "told twice"))
    started(core, "0001", segment=2)
    started(core, "0000", segment=2)
    started(core, "0002")
    assert core.hear(WORK) == Wait()


class Halves(Stopper):
    """Pauses each trial after its first epoch, and promotes the best once three have paused. Also stops what is bad."""

    def __init__(self, spec: specs.SearchSpec):
        super().__init__(spec)
        self.first: dict[str, float] = {}
        self.heard: list[tuple[str, int]] = []

    def hear(self, key: str, epoch: int, score: float) -> Verdict:
        self.heard.append((key, epoch))
        if epoch == 1:
            self.first[key] = score
            return "pause"
        return "stop" if score < 0.2 else "continue"

    def promoted(self) -> list[str]:
        return [max(self.first, key=self.first.__getitem__)] if len(self.first) == 3 else []


@pytest.mark.parametrize("killed", [False, True])
def test_a_stopper_that_pauses_and_promotes(tmp_path: Path, killed: bool) -> None:
    spec = search()
    core = core_of(tmp_path / "journal", Halves(spec))
    for number, score in enumerate((0.3, 0.9, 0.5)):
        key = f"{number:04d}"
        started(core, key)
        assert epoch(core, key, 1, score) == Pause(key)
        core.hear(TrialEnded(key, {"epoch": 1, "knn_top1": score}, None, {}))
    if killed:
        core = core_of(tmp_path / "journal", Halves(spec))
        assert core.running == [] and core.unfinished == ["0000", "0001", "0002"]
    started(core, "0001", segment=2)
    assert epoch(core, "0001", 1, 0.9) == Continue("0001"), "a pause that is over is not repeated"
    assert epoch(core, "0001", 2, 0.1) == Stop("0001")
    core.hear(TrialEnded("0001", {"epoch": 2, "knn_top1": 0.1}, None, {}))
    assert core.study.trial("0001").state == TrialState.PRUNED


def test_paused_trials_that_nobody_promotes_go_on_at_the_end(tmp_path: Path) -> None:
    """A search ended with them, and a resume did so again."""
    core = core_of(tmp_path / "journal", Halves(search()), trials=2)
    for key in ("0000", "0001"):
        started(core, key)
        assert epoch(core, key, 1, 0.5) == Pause(key)
    started(core, "0000", segment=2)
    started(core, "0001", segment=2)
    assert core.hear(WORK) == Wait()
    for key in ("0000", "0001"):
        core.hear(TrialEnded(key, {"epoch": 1, "knn_top1": 0.5}, None, {}))
    assert core.hear(WORK) == Finish() and core.unfinished == []


def test_known_epochs_are_not_judged_again(tmp_path: Path) -> None:
    spec = search()
    core = core_of(tmp_path / "journal", Halves(spec))
    started(core, "0000")
    epoch(core, "0000", 1, 0.5)
    core.hear(PromotionWanted("0000"))
    started(core, "0000", segment=2)
    epoch(core, "0000", 1, 0.5)
    epoch(core, "0000", 2, 0.5)
    stopper = Halves(spec)
    again = core_of(tmp_path / "journal", stopper)
    assert stopper.heard == [("0000", 1), ("0000", 2)], "the journal tells each epoch once"
    started(again, "0000", segment=3)
    size = (tmp_path / "journal").stat().st_size
    assert [epoch(again, "0000", number, 0.5) for number in (1, 2)] == [Continue("0000")] * 2
    assert stopper.heard == [("0000", 1), ("0000", 2)]
    assert (tmp_path / "journal").stat().st_size == size


def test_a_recorded_stop_stays_a_stop_after_a_crash(tmp_path: Path) -> None:
    """Even where a stopper would now think otherwise: the decision was carried out."""
    core = core_of(tmp_path / "journal")
    for number, score in enumerate((0.9, 0.1)):
        started(core, f"{number:04d}")
        decision = epoch(core, f"{number:04d}", 1, score)
    assert decision == Stop("0001")

    class Never(Stopper):
        def hear(self, key: str, epoch: int, score: float) -> Verdict:
            return "continue"

    again = core_of(tmp_path / "journal", Never(search()))
    started(again, "0000", segment=2)
    started(again, "0001", segment=2)
    assert epoch(again, "0001", 1, 0.1) == Stop("0001")
    assert epoch(again, "0000", 1, 0.9) == Continue("0000")


def test_an_asked_trial_that_never_ran_is_started_after_a_crash(tmp_path: Path) -> None:
    first = core_of(tmp_path / "journal").hear(WORK)
    assert isinstance(first, Start)
    again = core_of(tmp_path / "journal").hear(WORK)
    assert isinstance(again, Start) and again.proposal == first.proposal and again.segment == 2


def test_wishes_are_kept_over_a_crash(tmp_path: Path) -> None:
    core = core_of(tmp_path / "journal", stopping="none")
    for key in ("0000", "0001"):
        started(core, key)
    core.hear(PauseWanted("0000"))
    again = core_of(tmp_path / "journal", stopping="none")
    started(again, "0000", segment=2)
    started(again, "0001", segment=2)
    assert epoch(again, "0000", 1, 0.5) == Pause("0000")


def test_wishes_for_a_trial_that_has_ended_change_nothing(tmp_path: Path) -> None:
    core = core_of(tmp_path / "journal")
    started(core, "0000")
    core.hear(TrialEnded("0000", {}, "it broke", {}))
    before = (tmp_path / "journal").read_bytes()
    for event in (PauseWanted("0000"), StopWanted("0000"), PromotionWanted("0000")):
        assert core.hear(event) is None
    assert (tmp_path / "journal").read_bytes() == before


def test_no_more_trials_than_there_is_room_for() -> None:
    core = core_of(None, trials=3)
    assert isinstance(core.hear(WorkWanted(1, 2)), Start)
    assert core.hear(WorkWanted(1, 2)) == Wait()
    assert isinstance(core.hear(WorkWanted(0, 2)), Wait)
    assert isinstance(core.hear(WorkWanted(2, 2)), Start)
    assert core.hear(WorkWanted(9, 2)) == Wait()
    assert isinstance(core.hear(WorkWanted(3, 3)), Start)
    assert core.hear(WorkWanted(9, 9)) == Wait(), "all are asked, and three still run"
    for key in list(core.running):
        core.hear(TrialEnded(key, {"epoch": EPOCHS, "knn_top1": 0.5}, None, {}))
    assert core.hear(WORK) == Finish()


def test_no_more_trials_than_the_user_asked_for() -> None:
    """Also where there are more slots, for they are for the widths; what is asked for may change meanwhile."""
    core = core_of(None, resources={"concurrent_trials": 1})
    started(core, "0000")
    assert core.hear(WORK) == Wait() and core.useful_slots == 1
    core.study.take_over(search(resources={"concurrent_trials": 2, "max_slots": 1}))
    assert core.useful_slots == 1
    started(core, "0001")
    assert core.hear(WORK) == Wait()


def test_trials_that_fail_alike_halt_the_search() -> None:
    core = core_of(None)
    for number in range(3):
        started(core, f"{number:04d}")
        core.hear(TrialEnded(f"{number:04d}", {}, f"RuntimeError: no such device {number}", {}))
    assert core.halted and core.hear(WORK) == Finish(("0000", "0001", "0002"))


def test_a_space_that_raises_finishes_the_search(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def suggest(trial):\n    return {'optim.lr': -1.0}\n")
    core = Core(Study(None, search(), spaces.load(str(tmp_path / "mine.py"))))
    assert core.hear(WORK) == Finish()
    assert isinstance(core.fault, UserError) and core.unfinished == []


def test_a_score_that_is_no_number_is_judged_and_noted(tmp_path: Path) -> None:
    core = core_of(tmp_path / "journal")
    started(core, "0000")
    assert epoch(core, "0000", 1, math.nan) == Continue("0000")
    assert core.study.trial("0000").intermediate_values == {}
    assert Core(Study(tmp_path / "journal", search(), TEACHER)).unfinished == ["0000"]


def test_the_core_loads_neither_ray_nor_torch() -> None:
    modules = "search.core search.samplers.tpe search.stoppers.asha simulator.simulate simulator.files simulator.pool"
    code = f"import sys, {', '.join(f'tuner.{name}' for name in modules.split())}\n"
    code += "print([name for name in ('ray', 'torch', 'torchvision', 'pyarrow') if name in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def test_a_stopper_at_fault_ends_the_search_when_its_trials_have_ended(tmp_path: Path) -> None:
    """It is named; what runs goes on unjudged, and nothing more is proposed."""

    class Broken(Stopper):
        def hear(self, key: str, epoch: int, score: float) -> Verdict:
            return {"known": "continue"}[key]

    core = core_of(tmp_path / "journal", Broken(search()))
    started(core, "0000")
    assert epoch(core, "0000", 1, 0.5) == Continue("0000") and core.halted
    assert "KeyError" in str(core.fault) and "stopping.kind" in str(core.fault)
    assert epoch(core, "0000", 2, 0.1) == Continue("0000")
    assert core.hear(WORK) == Finish()
