"""What a user wrote in brackets is printed as it is: Rich takes it for no markup, and no search ends by it."""

from pathlib import Path
from typing import Any

import pytest

from tests.tuner.report.test_beside import trained
from tests.tuner.report.views import BLANK, replace
from tuner.commands import main as cli
from tuner.commands import searching
from tuner.report import papers, terminal

POINTS: dict[str, Any] = {"[/b]": {}, "[fc1] only": {"teacher.placement": "projector"}}
PAPER = {"title": "[/i] A paper", "data": "digits", "reported": {"knn_top1": {"[/b]": 62.0, "[fc1] only": 60.0}}}


def printed(capsys: pytest.CaptureFixture[str], *tables: object) -> str:
    terminal.console().print(*tables)
    return capsys.readouterr().out


def test_a_finished_table_with_labels_in_brackets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, study = trained(tmp_path, [0.6, 0.5], seeds=1, points=POINTS, paper=PAPER)
    assert searching.finish(run, study) == 0
    ended = capsys.readouterr().out
    assert cli.main(["status", str(run.path)]) == 0
    for text in (ended, capsys.readouterr().out):
        assert "no star: '[/b]' has the best mean" in text and "[fc1] only" in text and "beside [/i] A paper" in text
    assert (run.best_folder / "best.yaml").is_file()


def test_a_table_that_cannot_be_drawn_leaves_its_best_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("cannot be drawn")

    run, study = trained(tmp_path, [0.6, 0.5, 0.4], seeds=1)
    monkeypatch.setattr(terminal, "points_table", fail)
    with pytest.raises(RuntimeError, match="cannot be drawn"):
        searching.finish(run, study)
    assert (run.best_folder / "best.yaml").is_file()


def test_warnings_and_what_is_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    view = replace(BLANK, name="[/n]", warnings=("/data/[/x] has 5 MB left", "/data/[red]"))
    text = printed(capsys, terminal.table_of(view, "waiting: /data/[/y] cannot be written"))
    for words in ("[/n]  waiting: /data/[/y] cannot", "warning: /data/[/x] has 5 MB left", "warning: /data/[red]"):
        assert words in text


def test_titles_and_notes_of_every_table(capsys: pytest.CaptureFixture[str]) -> None:
    table = papers.TableView("name", "[/t] title", "[/d] data", 1, None, None, ())
    text = printed(capsys, papers.listing([table]), terminal.titled("[/a]", ["[/c]", "[bold]"], "row"))
    for words in ("[/t] title", "[/d] data", "[/a]", "[/c]", "[bold]"):
        assert words in text
