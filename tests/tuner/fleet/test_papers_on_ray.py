"""A table of six methods, launched as its folder's README says that any file can be tried out."""

import shlex
from pathlib import Path

import pytest

import search_spaces
from tests.tuner.conftest import Tuner

pytestmark = [pytest.mark.long, pytest.mark.ray, pytest.mark.timeout(600)]
PAPERS = Path(search_spaces.__file__).parent / "papers"
ROWS = {"BYOL": "byol", "SimSiam": "simsiam", "DINO": "dino", "ReSSL": "ressl", "MoCo v2+": "moco", "SimCLR": "simclr"}


def test_a_table_at_toy_size(tuner: Tuner) -> None:
    command = (PAPERS / "README.md").read_text().partition("```sh\n")[2].partition("```")[0]
    _, launch, file, *others = shlex.split(command.replace("\\\n", " "))
    printed = tuner.run(launch, str(PAPERS / Path(file).name), *others)
    state = tuner.state("runs/toy")
    assert [row["state"] for row in state["trials"]] == ["complete"] * 12
    assert {
        (row["point"].partition(",")[0], row["values"].get("method", {"name": "byol"})["name"])
        for row in state["trials"]
    } == set(ROWS.items())
    for row in state["points"]:
        assert row["point"] in printed and f"{row['mean']:.4f}" in printed
