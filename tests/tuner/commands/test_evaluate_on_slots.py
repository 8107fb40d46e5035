"""`tuner evaluate` on slots: the same scores as in its own process."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.tuner.conftest import SMALL
from trainables.config import trial as c
from trainables.config.errors import BrokenOff, TrialFailure, UserError
from trainables.running import scoring
from trainables.running.fit import fit
from trainables.running.messages import Evaluation, Work
from tuner.commands import evaluate
from tuner.commands.main import main
from tuner.fleet import evaluations
from tuner.fleet.evaluations import joined, pieces_of
from tuner.plan import spec
from tuner.runs import evaluated
from tuner.runs.run import Run
from tuner.runs.storage_watch import StorageWatch, measured


def test_each_protocol_of_each_checkpoint_is_a_piece_of_work() -> None:
    asked = [
        Evaluation("a", "test", ("knn", "linear"), {"data.root": "/x"}, save="/out"),
        Evaluation("b", "test", ("knn", "linear")),
    ]
    pieces = pieces_of(asked)
    assert [(piece.checkpoint, *piece.protocols, piece.save) for piece in pieces.values()] == [
        ("a", "knn", None),
        ("a", "linear", "/out"),
        ("b", "knn", None),
        ("b", "linear", None),
    ]
    results = {
        name: {"settings": {piece.protocols[0]: {}}, "scores": {f"{piece.protocols[0]}_top1": 0.5}, "seed": 1}
        for name, piece in reversed(pieces.items())
    }
    first, second = joined(asked, results)
    assert first == {
        "settings": {"knn": {}, "linear": {}},
        "scores": {"knn_top1": 0.5, "linear_top1": 0.5},
        "seed": 1,
        "protocols": ["knn", "linear"],
        "saved": "/out",
    }
    assert second["saved"] is None


WANTED = evaluate._SlotsWanted(spec.parse({"name": "evaluate", "address": "local"}), 0.0)


def begun(wanted: evaluate._SlotsWanted, folder: Path, error: BaseException | None, pieces: tuple[str, ...]) -> Path:
    """The directory of an evaluation that ends in some way; `pieces` have left logs."""
    with evaluate._logs(wanted, folder) as run:
        for piece in pieces:
            run.trial_folder(piece).mkdir()
            run.trial_log(piece).touch()
        if error is not None:
            raise error
    return run.path


def test_nothing_is_left_of_an_evaluation_that_ends_well_or_is_interrupted(tmp_path: Path) -> None:
    for end in (None, KeyboardInterrupt("interrupted"), UserError("no room")):
        with contextlib.suppress(KeyboardInterrupt, UserError):
            begun(WANTED, tmp_path, end, ("0-knn",))
        assert list(tmp_path.iterdir()) == []


def test_the_error_of_an_evaluation_names_its_log(tmp_path: Path) -> None:
    with pytest.raises(TrialFailure, match=r"^diverged \(worker 1\)\n  log: (.*)$") as one:
        begun(WANTED, tmp_path, TrialFailure("diverged (worker 1)"), ("0-knn",))
    (folder,) = tmp_path.iterdir()
    assert str(one.value).endswith(f"log: {folder}/trials/0-knn/rank-1.log") and folder.name.startswith(".evaluation-")
    with pytest.raises(TrialFailure, match=r"\n  log: .*/trials$"):
        begun(WANTED, tmp_path, TrialFailure("diverged"), ("0-knn", "0-linear"))
    with pytest.raises(BrokenOff, match=r"^Ray is gone\n  log: .*/logs/driver.log$"):
        begun(WANTED, tmp_path, BrokenOff("Ray is gone"), ())
    assert len([*tmp_path.iterdir()]) == 3, "each has a directory of its own, whatever its process is"


def test_where_the_logs_of_an_evaluation_lie(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A checkpoint of another user lies where nothing can be written; a directory that holds something is kept."""
    with pytest.raises(UserError, match=r"^/proc/self: logs cannot be written .*; name a directory .* with --run$"):
        begun(WANTED, Path("/proc/self"), None, ())
    elsewhere = replace(WANTED, run=tmp_path / "logs")
    with pytest.raises(TrialFailure, match=f"log: {tmp_path}/logs/trials/0-knn/rank-0.log"):
        begun(elsewhere, Path("/proc/self"), TrialFailure("diverged"), ("0-knn",))
    again = replace(WANTED, run=tmp_path / "again")
    assert begun(again, Path("/proc/self"), None, ("0-knn",)) == again.run and not (tmp_path / "again").exists()
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "notes.txt").touch()
    with pytest.raises(UserError, match="already exists"):
        begun(again, tmp_path, None, ())
    assert (tmp_path / "again" / "notes.txt").exists()
    fit(c.changed(SMALL["trial"], {"train.epochs": 0}), tmp_path / "trial", lambda metrics: "on")
    assert main(["evaluate", str(tmp_path / "trial"), "--run", "logs"]) == 2
    assert capsys.readouterr().err.startswith("error: --run logs: goes with --workers or --address")


def slots_that(perform: Callable[[Work], dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Has pieces of work done in this process, in place of slots."""

    @contextlib.contextmanager
    def joined_slots(*_: object) -> Iterator[tuple[SimpleNamespace, list[object]]]:
        yield SimpleNamespace(board=None), []

    monkeypatch.setattr(evaluations, "joined_slots", joined_slots)
    monkeypatch.setattr(evaluations, "_performed", lambda board, work: perform(work))


@pytest.fixture
def trial(tmp_path: Path) -> Path:
    """The folder of a trial with a checkpoint."""
    fit(c.changed(SMALL["trial"], {"train.epochs": 0}), tmp_path / "trial", lambda metrics: "on")
    return tmp_path / "trial"


def refuse_link(*_: object) -> None:
    raise OSError("no hard links")


@pytest.mark.parametrize("links", [True, False])
def test_a_checkpoint_that_is_deleted_meanwhile_is_scored(
    trial: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], links: bool
) -> None:
    """As by a run that goes on; also where the file system has no hard links."""
    (original,) = trial.glob("step-*")

    def perform(work: Work) -> dict[str, Any]:
        original.unlink(missing_ok=True)
        return scoring.scored(Evaluation(**work.config))

    slots_that(perform, monkeypatch)
    if not links:
        monkeypatch.setattr(os, "link", refuse_link)
    words = ["evaluate", str(trial), "--protocol", "knn", "--json", "--workers", "1", "--address", "local"]
    assert main(words) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["checkpoint"] == str(original) and "knn_top1" in said
    assert not original.exists() and not [*trial.glob(".evaluation-*")]


def test_an_error_of_a_worker_names_the_checkpoint_itself(
    trial: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def perform(work: Work) -> dict[str, Any]:
        Path(work.folder).mkdir()
        raise TrialFailure(f"{work.config['checkpoint']}: damaged (worker 0)")

    slots_that(perform, monkeypatch)
    (original,) = trial.glob("step-*")
    assert main(["evaluate", str(trial), "--protocol", "knn", "--workers", "1", "--address", "local"]) == 1
    assert f"{original}: damaged (worker 0)\n" in capsys.readouterr().err
    (logs,) = trial.glob(".evaluation-*")
    assert not (logs / "checkpoints").exists(), "only logs are left of an evaluation that failed"


def test_a_checkpoint_that_is_gone_already_is_named(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "logs", "evaluate", {}, 0)
    gone = tmp_path / "step-0000000020.safetensors"
    with pytest.raises(UserError, match=f"^{gone}: was deleted before"), evaluated.kept(run, [str(gone)]):
        pass
    assert not run.checkpoints_folder.exists()


def test_what_a_killed_evaluation_leaves_is_removed(tmp_path: Path) -> None:
    """By the next evaluation there, and when its run is trained; not what one that goes on needs, and no logs."""
    search = Run.create(tmp_path / "run", "search", {}, 0)
    folder = search.trial_folder("0000")
    folder.mkdir()
    checkpoint = folder / "step-0000000020.safetensors"
    checkpoint.write_bytes(b"x" * 10**6)
    alone = measured(search, {}).total

    def killed() -> Run:
        run = evaluate._log_run(WANTED, folder)
        run.checkpoints_folder.mkdir()
        os.link(checkpoint, run.checkpoints_folder / "0-step")
        run._lock._file.close()
        return run

    with evaluate._logs(WANTED, folder) as going, evaluated.kept(going, [str(checkpoint)]) as (name,):
        assert measured(search, {}).total < alone + 500_000, "a second name takes no room"
        for again in (lambda: begun(WANTED, folder, None, ()), lambda: StorageWatch(search)):
            left = killed()
            again()
            assert not left.path.exists() and Path(name).is_file()
    with pytest.raises(TrialFailure):
        begun(WANTED, folder, TrialFailure("diverged"), ("0-knn",))
    (failed,) = folder.glob(".evaluation-*")
    begun(WANTED, folder, None, ())
    StorageWatch(search)
    assert failed.exists() and checkpoint.exists()


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_scores_are_those_of_this_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(c.changed(SMALL["trial"], {"train.epochs": 1}), tmp_path / "trial", lambda metrics: "on")

    def scores(*words: str) -> dict[str, Any]:
        assert main(["evaluate", str(tmp_path / "trial"), "--protocol", "knn", "label_free", "--json", *words]) == 0
        return json.loads(capsys.readouterr().out)

    assert scores("--workers", "1", "--address", "local") == scores()
    assert not [*(tmp_path / "trial").glob(".evaluation-*")], "nothing is left beside the checkpoint"
