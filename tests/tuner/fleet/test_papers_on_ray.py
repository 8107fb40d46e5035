"""A table of six methods, launched at toy size as its folder's README says that any can be tried out."""

import json
import shlex

import pytest

from tests.tuner.conftest import Tuner
from tuner.plan import papers

pytestmark = [pytest.mark.long, pytest.mark.ray, pytest.mark.timeout(600)]
ROWS = {"BYOL": "byol", "SimSiam": "simsiam", "DINO": "dino", "ReSSL": "ressl", "MoCo v2+": "moco", "SimCLR": "simclr"}


def test_a_table_at_toy_size(tuner: Tuner) -> None:
    command = (papers.FOLDER / "README.md").read_text().partition("```sh\n")[2].partition("\n")[0]
    _, *words = shlex.split(command)
    printed = tuner.run(*words)
    state = tuner.state("runs/placement_table1-toy")
    assert [row["state"] for row in state["trials"]] == ["complete"] * 12
    assert {
        (row["point"].partition(",")[0], row["values"].get("method", {"name": "byol"})["name"])
        for row in state["trials"]
    } == set(ROWS.items())
    for row in state["points"]:
        assert row["point"] in printed and f"{row['mean']:.4f}" in printed
    listed = next(row for row in json.loads(tuner.run("papers", "--json")) if row["name"] == "placement_table1")
    assert [(row["done"], row["trials"], row["epochs"]) for row in listed["runs"]] == [(12, 12, [2, 2])]
