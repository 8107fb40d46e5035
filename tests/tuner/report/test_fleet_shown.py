"""What the driver says of its slots is shown by `status`, the live table and the closing lines, while it holds."""

import io
import time
from pathlib import Path

import pytest
from rich.console import Console

from tests.tuner.report.test_certainty import finished
from tests.tuner.report.views import BLANK, replace
from tuner.commands.main import main
from tuner.report import closing, terminal
from tuner.report.progress import Progress
from tuner.report.view import as_json
from tuner.report.viewer import view_of
from tuner.runs.fleet_state import STALE, FleetSlot, FleetState
from tuner.runs.run import Run
from tuner.search.study import Study

SLOTS = (FleetSlot(0, "a", "0001"), FleetSlot(1, "b", "0001"), FleetSlot(2, "b", None))


@pytest.fixture
def search(tmp_path: Path) -> tuple[Run, Study]:
    """A search with a trial that has ended and one that runs. This process holds it."""
    run, study = finished(tmp_path, [0.3], {"knn_top1": 0.5, "validation_images": 100.0}, trials=3)
    run.hold()
    run.note_hardware([])
    proposal = study.ask()
    assert proposal is not None
    study.begin(proposal.key, time.time())
    return run, study


def state(at: float) -> FleetState:
    return FleetState(
        at, SLOTS, {"0000": 1, "0001": 4}, "no room for a worker", 200.0, 150.0, ("the disc has 5 MB left",)
    )


def drawn(run: Run, study: Study) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(terminal.table_of(view_of(run, study)))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_slots_and_widths_are_shown_while_they_hold(search: tuple[Run, Study]) -> None:
    run, study = search
    state(time.time()).write(run.fleet_file)
    content = as_json(view_of(run, study))
    assert content["slots"] == [vars(slot) for slot in SLOTS]
    assert [trial["workers"] for trial in content["trials"]] == [None, 4], "a trial that has ended has none"
    assert (content["slot_seconds"], content["utilisation"]) == (200.0, 0.75)
    assert content["warnings"] == ("the disc has 5 MB left",)
    assert content["waits"] == "no room for a worker", "the key says that it waits"
    run.note("waiting: no room, as of an earlier look")
    assert as_json(view_of(run, study))["waits"] == "no room for a worker", "the newer text"
    text = drawn(run, study)
    assert "running on 4 workers" in text
    assert "3 slots up on 2 nodes" in text
    assert "warning: the disc has 5 MB left" in text
    line = terminal.heartbeat(view_of(run, study))
    assert "3 slots up on 2 nodes; running: 0001 at epoch 0/2 on 4" in line


def test_status_says_once_that_a_search_waits(search: tuple[Run, Study], capsys: pytest.CaptureFixture[str]) -> None:
    run, _ = search
    run.note("waiting: no room for a worker")
    assert main(["status", str(run.path)]) == 0
    assert "\nwaiting: no room for a worker\n" in capsys.readouterr().out


@pytest.mark.parametrize("held", [True, False])
def test_what_does_not_hold_is_not_shown(search: tuple[Run, Study], held: bool) -> None:
    run, study = search
    state(time.time() - (STALE + 1 if held else 0)).write(run.fleet_file)
    if not held:
        assert run._lock._file is not None
        run._lock._file.close()
    content = as_json(view_of(run, study))
    assert (content["slots"], content["warnings"], content["waits"]) == ([], (), None)
    assert content["trials"][1]["workers"] is None
    assert content["utilisation"] == 0.75, "what it came to is kept"
    assert "slots up" not in drawn(run, study)


def test_a_run_of_an_earlier_version_has_no_slots(search: tuple[Run, Study]) -> None:
    content = as_json(view_of(*search))
    assert (content["slots"], content["slot_seconds"], content["utilisation"]) == ([], None, None)


def test_a_paused_trial_is_called_so_until_it_goes_on(search: tuple[Run, Study]) -> None:
    run, study = search
    states = []
    for number, content in enumerate(
        [
            {"event": "start", "segment": 1, "width": 1},
            {"event": "wanted", "pause": True},
            {"event": "epoch", "epoch": 1, "score": 0.5, "decision": "pause"},
            {"event": "promotion"},
            {"event": "paused"},
            {"event": "start", "segment": 2, "width": 1},
            {"event": "epoch", "epoch": 2, "score": 0.5, "decision": "continue"},
        ]
    ):
        study.record("0001", 100_000_000 * (number // 4) + number, content)
        states.append(view_of(run, study).trials[1].state)
    assert states == ["running", "running", "paused", "running", "paused", "running", "running"]


def test_the_closing_lines_say_how_the_slots_were_used() -> None:
    told = closing.used(replace(BLANK, slot_seconds=12345.6, utilisation=0.874))
    assert told == ["slots were up for 12,346 s in all, 87% of it with a trial"]
    assert closing.used(BLANK) == []
    assert closing.used(replace(BLANK, slot_seconds=0.0)) == []


def test_a_warning_is_a_line_where_there_is_no_table(search: tuple[Run, Study]) -> None:
    console = Console(file=io.StringIO(), width=200)
    progress = Progress(*search, 1, console)
    progress.warns("the disc has 5 MB left")
    progress.warns("")
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == "warning: the disc has 5 MB left\n"
