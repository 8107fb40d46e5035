"""`tuner cost` counts the rows of every paper's file, without its data."""

import json
from pathlib import Path

import pytest

from tests.search_spaces.pinned import ROOM
from tuner.commands import cost
from tuner.commands import main as cli

SOON = ("eman_fixmatch", "placement_table2")  # a method that classifies, and one that traces


@pytest.mark.parametrize(
    "path",
    [path if path.stem in SOON else pytest.param(path, marks=pytest.mark.long) for path in sorted(ROOM.glob("*.yaml"))],
    ids=lambda path: path.stem,
)
def test_rows_of_different_shapes_are_counted(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One row for each method, network and placement of the file."""
    different: dict[object, str] = {}
    for label, config in cost.described(path, []).trials.items():
        shapes = (config.method.name, config.encoder, config.data.name, str(config.teacher.placement))
        different.setdefault(shapes, label)
    for label in different.values():
        assert cli.main(["cost", str(path), "--row", label, "--classes", "1000", "--json"]) == 0, label
        (row,) = json.loads(capsys.readouterr().out)
        assert row["trial"] == label and row["student_parameters"] > 0 < row["flop"]["total"]


def test_a_method_that_classifies_needs_the_number_of_classes(capsys: pytest.CaptureFixture[str]) -> None:
    """As README says."""
    assert cli.main(["cost", str(ROOM / "eman_fixmatch.yaml")]) == 2
    assert "method.name = fixmatch: classifies, and the number of classes is not known" in capsys.readouterr().err
    readme = (ROOM.parent.parent / "README.md").read_text()
    (paragraph,) = (part for part in readme.split("\n\n") if part.startswith("`tuner cost` takes"))
    assert "`--classes 1000`" in paragraph and "refused without it" in paragraph
