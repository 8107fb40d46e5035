"""Before Ray starts: every command goes through one list of checks, and the first words come before slow imports."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.tuner.conftest import SMALL
from trainables.config.errors import UserError
from trainables.running.messages import Evaluation
from tuner.commands import checks, evaluate, searching, train
from tuner.commands import main as cli
from tuner.plan import space, spec
from tuner.report.bars import Bars
from tuner.runs.run import Run

SLOW = ("ray", "torch", "torchvision", "scipy", "sklearn", "tensorboard", "pandas")


def files(folder: Path) -> dict[str, Path]:
    """A search, a trial, and a run that was begun."""
    search, trial = folder / "search.yaml", folder / "trial.yaml"
    search.write_text(yaml.safe_dump(SMALL))
    trial.write_text(yaml.safe_dump(SMALL["trial"]))
    begun = Run.create(folder / "begun", "search", spec.parse(SMALL).plain(), 0)
    begun._lock._file.close()  # as when its process has ended
    return {"launch": search, "train": trial, "resume": begun.path}


@pytest.mark.parametrize(
    ("address", "words"),
    [("local", "starting Ray on this machine"), ("10.0.0.1:6379", "joining the Ray cluster at 10.0.0.1:6379")],
)
def test_a_full_run_and_an_evaluation_say_which_ray_they_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], address: str, words: str
) -> None:
    alone = spec.parse({**SMALL, "address": address})
    monkeypatch.setitem(sys.modules, "tuner.fleet", None)
    run = Run.create(tmp_path / "run", "train", alone.plain(), 0)
    with pytest.raises(ImportError):
        train._train(run, alone, 0.0)
    assert capsys.readouterr().out.splitlines()[0] == words
    (tmp_path / "step").touch()
    with pytest.raises(ImportError), Bars(sys.stdout) as bars:
        evaluate._on_slots(
            [Evaluation(str(tmp_path / "step"), "test", ("knn",))], evaluate._SlotsWanted(alone, 0.0), bars
        )
    assert capsys.readouterr().out.splitlines()[0] == words


@pytest.mark.parametrize("command", ["launch", "train", "resume"])
def test_commands_share_one_list_of_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    given = files(tmp_path)[command]
    went: list[str] = []

    def refuse(search: spec.SearchSpec, proposing: space.Space | None, run: Path) -> None:
        raise UserError(f"not with {went}")

    listed = [checks.Check(c.name, lambda *_, name=c.name: went.append(name)) for c in checks.CHECKS]
    monkeypatch.setattr(checks, "CHECKS", (*listed, checks.Check("the last", refuse)))
    assert cli.main([command, str(given)]) == 2
    assert capsys.readouterr().err == f"error: not with {[c.name for c in listed]}\n"
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("command", ["launch", "resume"])
def test_the_first_words_come_before_slow_imports(tmp_path: Path, command: str) -> None:
    """Where none of them can be imported, the words are printed all the same."""
    given = files(tmp_path)[command]
    blocked = "\n".join(f"sys.modules[{name!r}] = None" for name in SLOW)
    program = f"import sys\n{blocked}\nfrom tuner.commands.main import main\nmain({[command, str(given)]!r})"
    ended = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert ended.stdout == "starting Ray on this machine\n"
    assert "ModuleNotFoundError" in ended.stderr and "ray" in ended.stderr.splitlines()[-1]


def test_a_status_needs_no_slow_imports(tmp_path: Path) -> None:
    given = files(tmp_path)["resume"]
    blocked = "\n".join(f"sys.modules[{name!r}] = None" for name in SLOW)
    program = f"import sys\n{blocked}\nfrom tuner.commands.main import main\nsys.exit(main(['status', {str(given)!r}]))"
    ended = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0 and "0 of 4 trials" in ended.stdout, ended.stderr


def test_a_search_that_has_ended_says_nothing_of_ray(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search = spec.parse({**SMALL, "trials": 1})
    run = Run.create(tmp_path / "run", "search", search.plain(), 0)
    study = searching.opened(run, search)
    study.tell(study.ask().key, {"epoch": 3, "knn_top1": 0.5}, None, {})
    run.write_baseline({"knn_top1": 0.4, "validation_images": 100.0})
    assert searching.finish(run, study) == 0
    said = capsys.readouterr().out
    assert "Ray" not in said and "best configuration: " in said


@pytest.mark.parametrize(("line", "status"), [("status missing", 2), ("keys", 3), ("status run", 3)])
def test_words_that_go_to_a_full_disc_change_no_status(tmp_path: Path, line: str, status: int) -> None:
    """Such as of a log beside the run: the end of a search on a full disc is 3, whether or not it can be said."""
    Run.create(tmp_path / "run", "train", {}, 0)
    with open("/dev/full", "w") as full:
        program = [sys.executable, "-m", "tuner.commands.main", *line.split()]
        assert subprocess.run(program, cwd=tmp_path, stdout=full, stderr=full, timeout=60).returncode == status
