"""The figures and the picture of `benchmarks.elastic`, from logs and times that are written here."""

import math
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.elastic import measure
from benchmarks.elastic.contenders import CONTENDERS, FixedSlots, LentSlots
from benchmarks.elastic.drawing import ABSENT, IDLE, Timeline, draw
from benchmarks.elastic.measure import Life, Stretch
from benchmarks.elastic.nodes import FIRST, SECOND, Event, Sight, script
from benchmarks.elastic.rounds import Round, same
from benchmarks.elastic.table import cell, script_table, table
from benchmarks.elastic.trials import Trials
from trainables.config import trial as c
from tuner.plan.resources import Resources

TRIALS = Trials(count=2, epochs=3)
A, B = TRIALS.points

LOG = """\
2026-11-26 02:37:38,000 INFO attempt 1 on slot 0, worker 0 of 1, process 11
2026-11-26 02:37:40,500 INFO steps from 0 on: worker 0 of 1, process 11
2026-11-26 02:38:10,000 INFO steps from 40 on: worker 0 of 2, process 12
2026-11-26 02:38:11,000 ERROR Traceback (most recent call last):
RuntimeError: Connection closed by peer
2026-11-26 02:38:12,000 INFO steps until 50
2026-11-26 02:38:20,000 INFO steps from 50 on: worker 0 of 1, process 13
2026-11-26 02:38:25,000 INFO steps until 100
"""


def test_stretches_are_read_from_the_log_of_a_rank() -> None:
    killed = 1000.0 + 1.8e9  # long after it began: the process was last seen then
    processes = {11: Sight(FIRST, killed), 12: Sight(SECOND, 0)}
    first, second = measure.stretches(LOG.splitlines(), A, processes)
    assert (first.node, first.width, first.step, first.ends) == (FIRST, 1, 0, killed)
    assert (second.node, second.width, second.step) == (SECOND, 2, 40)
    assert second.ends - second.begins == 2 and second.begins - first.begins == 29.5


HAPPENED = (
    Event(90, "join", FIRST),
    Event(160, "join", SECOND),
    Event(220, "kill", FIRST),
    Event(280, "join", FIRST),
)
STRETCHES = (
    Stretch(A, FIRST, 120, 220.5, 1, 0),  # was last seen half a second after the kill
    Stretch(B, SECOND, 170, 240, 1, 0),
    Stretch(A, SECOND, 250, 290, 1, 20),
    Stretch(A, SECOND, 291, 300, 2, 25),
    Stretch(A, FIRST, 291, 300, 2, 25),
)
ROUND = Round("lent", 100, 310, 0, 0.5, HAPPENED, STRETCHES, 2, 2)


def test_lives_of_nodes_begin_with_the_search_at_the_earliest() -> None:
    found = measure.lives(HAPPENED, 100, 310)
    assert found == [Life(FIRST, 100, 220), Life(SECOND, 160, 310), Life(FIRST, 280, 310)]
    assert measure.lives(HAPPENED, 100, 200) == [Life(FIRST, 100, 200), Life(SECOND, 160, 200)]


def test_utilisation_is_the_share_of_the_nodes_seconds_that_went_into_steps() -> None:
    alive = measure.lives(HAPPENED, 100, 310)
    assert [measure.busy(life, STRETCHES) for life in alive] == [100, 119, 9]
    assert measure.utilisation(alive, STRETCHES) == pytest.approx(228 / (120 + 150 + 30))
    assert measure.utilisation(alive, (*STRETCHES, *STRETCHES)) == measure.utilisation(alive, STRETCHES)
    assert measure.utilisation(alive, ()) == 0


def test_seconds_from_a_change_to_its_use() -> None:
    assert measure.until_used(HAPPENED[1], STRETCHES) == 10
    assert measure.until_used(HAPPENED[3], STRETCHES) == 11
    assert measure.until_used(HAPPENED[3], STRETCHES[:4]) is None
    assert measure.until_resumed(HAPPENED[2], STRETCHES) == 30
    assert measure.until_resumed(HAPPENED[2], STRETCHES[:2]) is None
    assert math.isnan(measure.until_resumed(HAPPENED[2], STRETCHES[1:]) or 0)


def test_metrics_are_compared_in_every_bit_but_for_times() -> None:
    history = [{"epoch": 1.0, "loss": 0.1, "time/measured_at": 5.0}]
    assert same(history, [{**history[0], "time/measured_at": 6.0, "time/workers": 2.0}])
    assert not same(history, [{**history[0], "loss": 0.1 + 2**-55}])
    assert not same([], []) and not same(history, history * 2)


def test_the_table_has_medians_and_all_values() -> None:
    assert cell([1.0, 4.0, 2.0], "{:.1f}") == "2.0 (1.0, 4.0, 2.0)"
    assert cell([None, 4.0, None], "{:.1f}") == "never (never, 4.0, never)"
    assert cell([math.nan, 4.0, 5.0], "{:.1f}") == "4.5 (-, 4.0, 5.0)" and cell([math.nan], "{:.1f}") == "-"
    assert cell([None], "{:.1f}") == "never" and cell([3.0], "{:.1f}") == "3.0"
    text = table([ROUND], TRIALS)
    images = round(TRIALS.images / 210)
    assert text.splitlines()[-1] == (
        f"| {CONTENDERS['lent'].title} | 10.0 | 30.0 | 11.0 | 76% | {images} | 210 | 2 of 2 |"
    )
    planned = script_table([ROUND], script(60)).splitlines()
    assert planned[2:] == [
        "| node 2 joins, one CPU | 60 | 60.0 |",
        "| node 1 is lost: kill -9 of its raylet and its workers | 120 | 120.0 |",
        "| node 1 joins, one CPU | 180 | 180.0 |",
    ]


def test_a_search_that_did_not_end_has_no_time(tmp_path: Path) -> None:
    ended = Round(**{**vars(ROUND), "status": None})
    assert table([ended], TRIALS).splitlines()[-1].endswith("| 76% | never | never | 2 of 2 |")


def test_a_round_is_read_as_it_was_written(tmp_path: Path) -> None:
    ROUND.write(tmp_path / "lent-0.json")
    assert Round.read(tmp_path / "lent-0.json") == ROUND


def test_the_picture_shows_who_trained_what_where(tmp_path: Path) -> None:
    timeline = Timeline([ROUND, Round(**{**vars(ROUND), "contender": "fixed", "status": None})])
    draw(timeline.rounds, tmp_path / "elastic.png")
    image = Image.open(tmp_path / "elastic.png").convert("RGB")
    assert image.size == timeline.size

    def colours(node: str, begins: float, ends: float) -> set[tuple[int, int, int]]:
        """Of a lane of the first contender, between two times after the launch."""
        top = round(timeline.lane(node, 0))
        left, right = round(timeline.x(begins)) + 1, round(timeline.x(ends)) - 1
        return {image.getpixel((x, y)) for x in range(left, right) for y in (top + 5, top + 35)}  # type: ignore[misc]

    assert colours(FIRST, 0, 20) == {IDLE} and colours(FIRST, 21, 119) == {timeline.colour(A)}
    assert colours(SECOND, 71, 139) == {timeline.colour(B)} and colours(FIRST, 125, 175) >= {ABSENT, (255, 255, 255)}
    assert colours(SECOND, 151, 189) == {timeline.colour(A)} != {timeline.colour(B)}


def test_contenders_train_the_same_trials() -> None:
    spec = TRIALS.search(LentSlots.resources)
    for (label, config), point in zip(TRIALS.configs.items(), spec["points"].values(), strict=True):
        assert c.changed(spec["trial"], point).plain() == config, label
    assert Resources(**LentSlots.resources).widths(4) == (1, 2)
    assert Resources(**FixedSlots.resources).max_slots == 1
    assert {config["train"]["exact"] for config in TRIALS.configs.values()} == {True}
