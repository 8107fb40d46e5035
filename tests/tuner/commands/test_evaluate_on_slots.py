"""`tuner evaluate` on slots: the same scores as in its own process."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tuner.conftest import SMALL
from trainables.config import trial as c
from trainables.running.fit import fit
from trainables.running.messages import Evaluation
from tuner.commands.main import main
from tuner.fleet.evaluations import joined, pieces_of


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
