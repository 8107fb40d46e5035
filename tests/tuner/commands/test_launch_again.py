"""A run in which nothing was asked gives way to another launch; one that is held, or that was asked, never does."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.trainables.pictures import encoded, picture
from tests.tuner.conftest import SMALL, Tuner
from trainables.config.errors import TrialFailure, UserError
from tuner.commands import main as cli
from tuner.runs import run as runs
from tuner.runs.beginning import beginning, unused

STUDY = '{"op_code": 0, "worker_id": "w", "study_name": "search", "directions": [2]}\n'
TRIAL = '{"op_code": 4, "worker_id": "w", "study_id": 0, "datetime_start": "2026-01-01T00:00:00"}\n'


def made(path: Path, kind: runs.Kind = "search", **content: Any) -> runs.Run:
    """A run that was begun and is held no more, and whose untrained encoder left a log and a checkpoint."""
    runs.Run.create(path, kind, content, 0)
    run = runs.Run(path)
    run.journal.write_text(STUDY)
    folder = run.trial_folder(runs.BASELINE)
    folder.mkdir()
    (folder / "rank-0.log").write_text("what was wrong")
    (folder / "step-0000000000.safetensors").touch()
    run.driver_log.touch()
    return run


@pytest.mark.parametrize("kind", ["search", "train"])
def test_a_run_in_which_nothing_was_asked_is_replaced(tmp_path: Path, kind: runs.Kind) -> None:
    before = made(tmp_path / "run", kind)
    if kind == "train":
        before.trial_folder("full").mkdir()
        (before.trial_folder("full") / "rank-0.log").touch()
    assert before.untouched and unused(tmp_path, "run") == tmp_path / "run"
    after = runs.Run.create(tmp_path / "run", "search", {"name": "new"}, 0)
    assert after.replaces and after.spec == {"name": "new"} and not any((after.path / "trials").iterdir())
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]
    assert after.held()
    del after
    runs.Run(tmp_path / "run").hold()  # there is one lock, and it is that of the new one


def test_of_two_launches_at_once_one_holds_the_run(tmp_path: Path) -> None:
    """A run that was just made, in which nothing is asked yet, gives way to no other launch."""
    first = runs.Run.create(tmp_path / "run", "search", {"name": "first"}, 0)
    with pytest.raises(UserError, match="is being run by process"):
        runs.Run.create(tmp_path / "run", "search", {"name": "second"}, 0)
    assert unused(tmp_path, "run") == tmp_path / "run-2"
    assert first.held() and first.spec == {"name": "first"} and [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_launches_of_many_processes_at_once(tmp_path: Path) -> None:
    """One of them has the run, and it is the one that the folder holds; to the others it is said."""
    code = """
import sys, time
from pathlib import Path
from tuner.runs import run as runs
path, name, begin = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
time.sleep(max(0.0, begin - time.time()))
try:
    run = runs.Run.create(path, "search", {"name": name}, 0)
except runs.UserError as error:
    print(error, flush=True)
else:
    print("has it", flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    begin = str(time.time() + 3)
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    launches = [subprocess.Popen([*command, name, begin], **pipes) for name in "abcd"]
    said = [launch.stdout.readline() for launch in launches if launch.stdout]
    name = runs.Run(tmp_path / "run").spec["name"]
    for launch in launches:
        launch.communicate(timeout=60)
    assert said.count("has it\n") == 1 and said["abcd".index(name)] == "has it\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def with_a_trial(run: runs.Run) -> None:
    run.journal.write_text(STUDY + TRIAL)


def with_a_folder_of_a_trial(run: runs.Run) -> None:
    run.trial_folder("0000").mkdir()


def with_a_damaged_journal(run: runs.Run) -> None:
    run.journal.write_text(STUDY + '{"op_co')


def without_a_journal(run: runs.Run) -> None:
    run.journal.unlink()


def with_a_file_of_somebody(run: runs.Run) -> None:
    (run.path / "notes.txt").write_text("mine")


def with_a_damaged_manifest(run: runs.Run) -> None:
    (run.path / "manifest.json").write_text("{")


CHANGES = [with_a_trial, with_a_folder_of_a_trial, with_a_damaged_journal, without_a_journal, with_a_file_of_somebody]


@pytest.mark.parametrize("change", [*CHANGES, with_a_damaged_manifest])
def test_any_other_run_stays(tmp_path: Path, change: Any) -> None:
    run = made(tmp_path / "run")
    change(run)
    before = sorted(path for path in run.path.rglob("*"))
    with pytest.raises(UserError, match="already exists"):
        runs.Run.create(tmp_path / "run", "search", {}, 0)
    run.discard()
    assert unused(tmp_path, "run") == tmp_path / "run-2"
    assert sorted(path for path in run.path.rglob("*")) == before and list(tmp_path.iterdir()) == [run.path]


def test_a_full_run_with_a_checkpoint_stays(tmp_path: Path) -> None:
    run = made(tmp_path / "run", "train")
    run.trial_folder("full").mkdir()
    (run.trial_folder("full") / "step-0000000004.safetensors").touch()
    with pytest.raises(UserError, match="already exists; continue it"):
        runs.Run.create(tmp_path / "run", "train", {}, 0)


def test_a_run_that_is_held_stays(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    run.hold()
    with pytest.raises(UserError, match="is being run by process"):
        runs.Run.create(tmp_path / "run", "search", {}, 0)
    assert unused(tmp_path, "run") == tmp_path / "run-2" and run.untouched


def test_what_an_end_before_the_first_trial_leaves(tmp_path: Path) -> None:
    """An error of the user discards a launch that left no log, never a resumed run; a failure keeps the log."""
    run = runs.Run.create(tmp_path / "run", "search", {}, 0)
    with pytest.raises(UserError, match="^no room$"), beginning(run, launched=False):
        raise UserError("no room")
    assert run.path.exists()
    with pytest.raises(UserError, match="^no room$"), beginning(run, launched=True):
        raise UserError("no room")
    assert not run.path.exists()

    run = made(tmp_path / "run")
    said = f"(?s)^bad data\n  log: x\n  {run.path} holds no result yet: .* launch it again, which replaces that run$"
    with pytest.raises(TrialFailure, match=said), beginning(run, launched=True):
        raise TrialFailure("bad data\n  log: x")
    assert (
        runs.Run(run.path).manifest["failure"] == "bad data"
        and (run.trial_folder(runs.BASELINE) / "rank-0.log").exists()
    )
    with_a_trial(run)
    with pytest.raises(TrialFailure, match="^later$"), beginning(run, launched=True):
        raise TrialFailure("later")


def test_status_and_resume_of_a_run_that_failed_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made(tmp_path / "run", **SMALL)
    run.note_failure("the untrained encoder cannot be scored: trial.data.image_size: must be given")
    assert cli.main(["status", str(run.path)]) == 0
    said = capsys.readouterr().out
    why = "the untrained encoder cannot be scored: trial.data.image_size: must be given"
    assert f"it failed before a trial was asked: {why}\n" in said
    assert "launch it again, which replaces this run" in said and "resume" not in said
    assert cli.main(["resume", str(run.path), "--set", "trial.data.image_size=32"]) == 2
    said = capsys.readouterr().err
    assert (
        "--set trial.data.image_size: a run that goes on keeps it" in said
        and "it can be launched again with other settings" in said
    )
    with_a_trial(run)
    assert cli.main(["resume", str(run.path), "--set", "trial.data.image_size=32"]) == 2
    assert "launched again" not in capsys.readouterr().err


def image_folder(root: Path) -> None:
    """Pictures of 8 x 8 in two classes; more than a launch looks at."""
    for i in range(800):
        path = root / "train" / f"class{i % 2}" / f"{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(i, 8, 8)))


@pytest.fixture
def unseen(tmp_path: Path) -> Path:
    """An image of a folder that the sample of a launch does not hold."""
    from trainables.config import trial as c
    from trainables.data.sets import imagefolder

    image_folder(tmp_path / "set")
    found = imagefolder.ImageFolder(c.Data(name="imagefolder", root=tmp_path / "set")).encoded("train")
    seen = {where for bunch in found.sample() for _, where in bunch}
    return next(path for path in sorted((tmp_path / "set").rglob("*.png")) if str(path) not in seen)


@pytest.mark.long
@pytest.mark.ray
def test_data_that_only_a_worker_finds_at_fault(tmp_path: Path, unseen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The launch says what is wrong; the same command does it once that is mended."""
    monkeypatch.setenv("TEACHER_TUNER_CACHE", str(tmp_path / "cache"))
    tuner, sound = Tuner(tmp_path), unseen.read_bytes()
    trial = {**SMALL["trial"], "data": {"name": "imagefolder", "root": str(tmp_path / "set"), "train_images": 256}}
    command = ["launch", tuner.write_search(trial=trial, trials=1)]
    for damage, words in (
        (b"no image", f"trial.data.root = '{tmp_path / 'set'}': {unseen}: not an image that can be decoded"),
        (encoded(picture(0, 9, 8)), "trial.data.image_size: must be given"),
    ):
        unseen.write_bytes(damage)
        process = tuner.start(*command)
        out, err = process.communicate(timeout=200)
        assert process.returncode == 1, out + err
        assert err.startswith(f"error: the untrained encoder cannot be scored: {words}")
        assert "launch it again" in err and Path(err.split("log: ")[1].splitlines()[0]).is_file()
        assert [entry.name for entry in (tmp_path / "runs").iterdir()] == ["small"]
        assert words in tuner.run("status", "runs/small")
    unseen.write_bytes(sound)
    assert "replaced; nothing had been asked in it" in tuner.run(*command)
    assert tuner.state("runs/small")["ended"] == 1 and "failure" not in json.loads(
        (tmp_path / "runs/small/manifest.json").read_text()
    )


def test_what_is_wrong_with_the_data_is_said_before_there_is_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By launch, train and resume, each with the key as it is set there."""
    image_folder(tmp_path / "set")
    (odd := tmp_path / "set" / "train" / "class0" / "0000.png").write_bytes(encoded(picture(0, 9, 8)))
    data = {"name": "imagefolder", "root": str(tmp_path / "set")}
    search, config = tmp_path / "search.yaml", tmp_path / "config.yaml"
    search.write_text(yaml.safe_dump({"trial": {"data": data}}))
    config.write_text(yaml.safe_dump({"data": data}))
    for command in (["launch", str(search)], ["train", str(config)]):
        assert cli.main([*command, "--run", str(tmp_path / "run")]) == 2
        prefix = "trial." if command[0] == "launch" else ""
        said = capsys.readouterr().err
        assert said.startswith(f"error: {prefix}data.image_size: must be given, such as 8, ") and str(odd) in said
        assert len(said.splitlines()) == 1 and not (tmp_path / "run").exists()
    for again, words in ((False, "must be given, such as 8"), (True, "no such folder")):
        made(tmp_path / "run", trial={"data": data})
        if again:
            shutil.rmtree(tmp_path / "set")
        assert cli.main(["resume", str(tmp_path / "run")]) == 2
        said = capsys.readouterr().err
        assert words in said and said.startswith("error: trial.data.") and "it can be launched again" in said
