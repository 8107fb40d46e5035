"""A run directory that was damaged between two commands: a line says what to do, and nothing is written over."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tuner.commands.test_bad_input import complaint, no_ray  # noqa: F401  (nothing here may start Ray)
from trainables.config.errors import UserError
from tuner.plan import space as spaces
from tuner.plan import spec
from tuner.report import export
from tuner.runs import run as runs
from tuner.search.study import Study

SEARCH = {"trials": 4, "trial": {"train": {"batch_size": 64, "shard_size": 32, "epochs": 2}}}
MINE = "def suggest(trial):\n    return {'optim.lr': trial.suggest_float('lr', 0.01, 0.1)}\n"


def searched(tmp_path: Path, **changes: Any) -> runs.Run:
    """A run as an interrupted search leaves it: one trial told, one running, folders of both."""
    content = {**SEARCH, **changes}
    wanted = spec.parse(content)
    run = runs.Run.create(tmp_path / "run", "search", wanted.plain(), 0)
    if ".py" in wanted.space:
        run.keep_space(tmp_path / wanted.space)
    study = Study(run.journal, wanted, spaces.load(run.space(wanted.space)))
    study.tell(study.ask().key, {"epoch": 2, "knn_top1": 0.5}, None, {})
    study.ask()
    for key in ("untrained", "0000", "0001"):
        run.trial_folder(key).mkdir()
    run.write_baseline({"epoch": 0, "knn_top1": 0.1, "trial": "untrained", "slot": 0})
    return runs.Run(run.path)  # no process holds it any more


def contents(run: runs.Run) -> dict[Path, bytes]:
    """Everything in a run but the lock, which says who looked last."""
    return {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file() and path.name != "lock"}


def refused(run: runs.Run, capsys: pytest.CaptureFixture[str], *commands: str) -> str:
    """What commands say of a run, one line each, alike; they leave it as it was."""
    before = contents(run)
    lines = {complaint(capsys, command, str(run.path)) for command in commands}
    assert contents(run) == before
    assert len(lines) == 1
    return lines.pop()


def edit(run: runs.Run, change: Callable[[dict[str, Any]], Any]) -> None:
    content = run.spec
    change(content)
    run.write_spec(content)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda s: s["trial"]["optim"]["lr"].update(base=0.5),
            ["trial.optim.lr.base = 0.5: was 0.05 at the launch", "put it back"],
        ),
        (lambda s: s["trial"]["encoder"].update(width=8), ["trial.encoder.width = 8: was None at the launch"]),
        (lambda s: s["trial"]["method"].update(predictor_hidden=8), ["trial.method.predictor_hidden = 8: was"]),
        (lambda s: s["stopping"].update(kind="none"), ["stopping.kind = 'none': was 'asha' at the launch"]),
        (lambda s: s.update(seed=9), ["seed = 9: was 0 at the launch"]),
        (lambda s: s.update(space="momentum"), ["space = 'momentum': was 'teacher' at the launch"]),
    ],
)
def test_a_spec_that_was_edited_since_the_launch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[dict[str, Any]], Any], words: list[str]
) -> None:
    run = searched(tmp_path)
    edit(run, change)
    line = refused(run, capsys, "resume", "status", "export")
    for word in words:
        assert word in line


def test_each_key_that_was_edited_gets_a_line(tmp_path: Path) -> None:
    run = searched(tmp_path)
    edit(run, lambda s: (s.update(seed=9), s["trial"]["teacher"].update(momenta={"fc2": 0.5})))
    with pytest.raises(UserError) as error:
        Study(run.journal, spec.parse(run.spec), spaces.load("teacher"))
    lines = str(error.value).splitlines()
    assert "seed = 9: was 0 at the launch; trials of both cannot be compared, so put it back" in lines
    assert (
        "trial.teacher.momenta.fc2.base = 0.5: was None at the launch; "
        "trials of both cannot be compared, so put it back" in lines
    )


def test_what_a_resume_may_change_is_no_other_search(tmp_path: Path) -> None:
    run = searched(tmp_path)
    edit(
        run,
        lambda s: (
            s.update(trials=9, name="other", address="auto"),
            s["resources"].update(workers=2, restarts=0),
            s["trial"]["train"].update(keep_checkpoints=7),
            s["trial"]["data"].update(loaders=1),
        ),
    )
    assert len(Study(run.journal, spec.parse(run.spec), spaces.load("teacher")).trials()) == 2


def test_a_point_that_was_added_to_a_table(tmp_path: Path) -> None:
    """Its trials would come between those of the other points."""
    table = {"points": {"a": {}, "b": {"optim.lr": 0.1}}}
    journal, more = tmp_path / "journal", {**table["points"], "c": {"optim.lr": 0.2}}
    space = spaces.load("teacher")
    Study(journal, spec.parse(table), space)
    with pytest.raises(UserError, match=r"points.c.optim.* = 0.2: was None at the launch"):
        Study(journal, spec.parse({"points": more}), space)
    Study(journal, spec.parse({**table, "seeds": 3}), space)


def test_a_space_that_was_edited_since_the_launch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    run = searched(tmp_path, space="mine.py")
    (run.path / "space.py").write_text(MINE.replace("0.01", "0.02"))
    assert f"{run.path / 'space.py'}: has changed since the launch" in refused(run, capsys, "resume")
    (run.path / "space.py").write_text(MINE)
    assert len(Study(run.journal, spec.parse(run.spec), spaces.load(run.space("mine.py"))).trials()) == 2


def test_a_run_of_before_the_launch_was_noted_goes_on(tmp_path: Path) -> None:
    run = searched(tmp_path)
    lines = run.journal.read_text().splitlines(keepends=True)
    old = [line for line in lines if '"launched"' not in line]
    assert len(old) == len(lines) - 1
    run.journal.write_text("".join(old))
    edit(run, lambda s: s.update(seed=9))
    assert len(Study(run.journal, spec.parse(run.spec), spaces.load("teacher")).trials()) == 2
    edit(run, lambda s: s.update(seed=10))
    with pytest.raises(UserError, match="seed = 10: was 9"):
        Study(run.journal, spec.parse(run.spec), spaces.load("teacher"))


@pytest.mark.parametrize(
    "line",
    [
        '{"op_code": 77, "worker_id": "x"}',
        "[1, 2]",
        "3",
        '"text"',
        "null",
        '{"worker_id": "x"}',
        "what is this",
        '{"op_code": 5}',
    ],
)
@pytest.mark.parametrize("last", [True, False])
def test_a_line_of_the_journal_that_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, last: bool
) -> None:
    run = searched(tmp_path)
    lines = run.journal.read_text().splitlines()
    number = len(lines) + 1 if last else 4
    run.journal.write_text("\n".join([*lines[: number - 1], line, *lines[number - 1 :]]) + "\n")
    said = refused(run, capsys, "status", "resume", "export")
    assert f"{run.journal}: is damaged (line {number} is none of Optuna's); put the whole file back from a copy" in said


def test_a_line_of_the_journal_with_the_form_of_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = searched(tmp_path)
    with run.journal.open("a") as file:
        file.write('{"op_code": 4, "worker_id": "x", "study_id": 0, "datetime_start": null}\n')
    assert "is damaged (trial 2 has no values)" in refused(run, capsys, "status", "resume")
    with run.journal.open("a") as file:
        file.write('{"op_code": 6, "worker_id": "x"}\n')
    assert "is damaged (KeyError: 'trial_id')" in refused(run, capsys, "status", "resume")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda journal: journal.unlink(), "is missing, and with it trial 0000, which has a folder"),
        (lambda journal: journal.write_text(""), "does not know trial 0000, which has a folder"),
        (
            lambda journal: journal.write_text("".join(journal.open().readlines()[:3])),
            "does not know trial 0001, which has a folder",
        ),
    ],
)
def test_a_journal_that_knows_less_than_the_trials(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], Any], words: str
) -> None:
    run = searched(tmp_path)
    damage(run.journal)
    line = refused(run, capsys, "status", "resume", "export")
    assert words in line
    assert "put the whole journal back from a copy" in line


def test_a_reader_leaves_no_journal_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = runs.Run.create(tmp_path / "run", "search", spec.parse(SEARCH).plain(), 0)
    run.journal.unlink()
    assert len(Study(run.journal, spec.parse(SEARCH), None, reading=True).trials()) == 0
    assert not run.journal.exists()


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", '{"knn_top1": "high"}', '{"knn_top1": null}'])
def test_scores_of_the_untrained_encoder_that_are_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    run = searched(tmp_path)
    (run.path / "untrained.json").write_text(text)
    line = refused(run, capsys, "status", "resume")
    assert f"{run.path / 'untrained.json'}: is damaged; put the whole file back, or remove it" in line


@pytest.mark.parametrize("manifest", [{}, {"kind": "hunt"}, {"kind": []}, {"kind": "search", "sessions": 3}])
def test_a_manifest_without_what_is_needed(tmp_path: Path, capsys: pytest.CaptureFixture[str], manifest: dict) -> None:
    run = searched(tmp_path)
    (run.path / "manifest.json").write_text(json.dumps(manifest))
    assert "manifest.json: is damaged; put the whole file back" in refused(run, capsys, "status", "resume")


def test_a_manifest_without_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = searched(tmp_path)
    (run.path / "manifest.json").write_text('{"kind": "search"}')
    run = runs.Run(run.path)
    paths = export.export(run, Study(run.journal, spec.parse(run.spec), None, reading=True), 1, tmp_path / "best.yaml")
    assert yaml.safe_load(paths[0].read_text())["train"]["epochs"] == 2


START = {"event": "start", "segment": 1, "width": 1}
EPOCH = {"event": "epoch", "epoch": 1, "score": 0.5, "decision": "continue"}
WANTED = {"event": "wanted", "pause": False, "width": None}  # earlier versions wrote a width that was always none
OTHER = "trial 0001 has a record that is none of ours: core:00000001"


def noted(run: runs.Run, *records: tuple[str, object]) -> None:
    """Adds records to the journal, as system attributes of trial 1."""
    with run.journal.open("a") as file:
        for name, content in records:
            line = {"op_code": 9, "worker_id": "x", "trial_id": 1, "system_attr": {name: content}}
            file.write(json.dumps(line) + "\n")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("core:00000001", {**EPOCH, "event": "epok"}, OTHER),
        ("core:00000001", {**EPOCH, "event": ["epoch"]}, OTHER),
        ("core:00000001", {"epoch": 1, "score": 0.5, "decision": "stop"}, OTHER),
        ("core:00000001", ["epoch", 1], OTHER),
        ("core:00000001", None, OTHER),
        ("core:00000001", {**EPOCH, "decision": "halt"}, OTHER),
        ("core:00000001", {**EPOCH, "decision": None}, OTHER),
        ("core:00000001", {**EPOCH, "decision": ["stop"]}, OTHER),
        ("core:00000001", {"event": "epoch", "epoch": 1, "score": 0.5}, OTHER),
        ("core:00000001", {**EPOCH, "epoch": "1"}, OTHER),
        ("core:00000001", {**EPOCH, "epoch": True}, OTHER),
        ("core:00000001", {**EPOCH, "score": None}, OTHER),
        ("core:00000001", {**START, "width": None}, OTHER),
        ("core:00000001", {**START, "segment": 0}, OTHER),
        ("core:00000001", {"event": "end", "failed": "no"}, OTHER),
        ("core:00000001", {"event": "lost"}, OTHER),
        ("core:00000001", {**WANTED, "pause": None}, OTHER),
        ("core:00000001", {**WANTED, "width": "2"}, OTHER),
        ("core:x", EPOCH, "trial 0001 has a record that is none of ours: core:x"),
        ("core:1", EPOCH, "trial 0001 has a record that is none of ours: core:1"),
        ("core:" + "9" * 5000, EPOCH, "trial 0001 has a record that is none of ours: core:999"),
        ("core:00000001", {**EPOCH, "decision": "resize"}, OTHER),
        ("core:00000001", {"event": "resize", "segment": 2}, OTHER),
    ],
)
def test_a_record_that_the_core_cannot_have_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: object, words: str
) -> None:
    run = searched(tmp_path)
    noted(run, ("core:00000000", START), (name, content))
    line = refused(run, capsys, "status", "resume", "export")
    assert f"{run.journal}: is damaged ({words}" in line
    assert "put the whole file back from a copy" in line


def test_a_number_of_two_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = searched(tmp_path)
    noted(run, ("core:00000000", START), ("core:00000001", EPOCH))
    asked = {"op_code": 4, "worker_id": "x", "study_id": 0, "datetime_start": "2026-01-01T00:00:00.000000", "state": 0}
    attributes = {"user_attrs": {"values": {}}, "system_attrs": {"core:00000001": START}}
    with run.journal.open("a") as file:
        file.write(json.dumps({**asked, **attributes}) + "\n")
    words = "trial 0002 has a record whose number was given before: core:00000001"
    assert f"{run.journal}: is damaged ({words})" in refused(run, capsys, "status", "resume", "export")


def test_records_that_the_core_writes(tmp_path: Path) -> None:
    """All of its events, and scores that are no numbers, are read again."""
    run = searched(tmp_path)
    events: list[object] = [
        START,
        {**EPOCH, "score": float("nan")},
        WANTED,
        {"event": "resize", "segment": 2, "width": 4, "slots": 2},
        {"event": "wanted", "pause": True, "width": None},
        {**EPOCH, "epoch": 3, "score": float("-inf"), "decision": "pause"},
        {"event": "promotion"},
        {"event": "paused"},
        {"event": "stop"},
        {**START, "segment": 3},
        {"event": "lost", "why": "its Tune actor died"},
        {"event": "end", "failed": True},
    ]
    noted(run, *((f"core:{number:08d}", content) for number, content in enumerate(events)))
    records = Study(run.journal, spec.parse(run.spec), None, reading=True).records()
    assert [(number, key) for number, key, _ in records] == [(number, "0001") for number in range(len(events))]
    assert records[2] == (2, "0001", WANTED)
