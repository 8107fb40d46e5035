"""`tuner evaluate` on slots: the same scores as in its own process."""

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.tuner.conftest import SMALL
from trainables.config import trial as c
from trainables.config.errors import BrokenOff, TrialFailure, UserError
from trainables.running.fit import fit
from trainables.running.messages import Evaluation
from tuner.commands import evaluate
from tuner.commands.main import main
from tuner.fleet.evaluations import joined, pieces_of
from tuner.plan import spec


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
