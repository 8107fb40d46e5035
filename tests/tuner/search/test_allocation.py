"""How many trials run at once, from what the nodes have."""

import pytest

from trainables.config.errors import UserError
from tuner.plan.reading import continued
from tuner.plan.resources import Resources
from tuner.plan.spec import parse
from tuner.search.allocation import concurrent_trials


@pytest.mark.parametrize(
    ("nodes", "wanted", "trials", "room"),
    [
        ([{"CPU": 2}], {"workers": 2}, 9, 1),
        ([{"CPU": 8}], {"workers": 2}, 9, 4),
        ([{"CPU": 8}], {"workers": 2}, 3, 3),
        ([{"CPU": 8}], {"workers": 2, "concurrent_trials": 2}, 9, 2),
        ([{"CPU": 1}, {"CPU": 1}], {"workers": 2}, 9, 1),  # a trial may span nodes
        (
            [{"CPU": 6}] * 3,
            {"workers": 1, "cpus_per_worker": 4},
            9,
            3,
        ),  # a worker may not: 18 CPUs have room for 3, not 4
        ([{"CPU": 64, "GPU": 8}, {"CPU": 4}], {"workers": 2, "cpus_per_worker": 4, "gpus_per_worker": 1}, 9, 4),
        ([{"CPU": 4, "GPU": 8}], {"workers": 1, "cpus_per_worker": 2, "gpus_per_worker": 1}, 9, 2),
        ([{"CPU": 8, "GPU": 1}], {"workers": 1, "gpus_per_worker": 0.25}, 9, 4),
    ],
)
def test_room(nodes: list, wanted: dict, trials: int, room: int) -> None:
    assert concurrent_trials(nodes, Resources(**wanted), trials) == room


@pytest.mark.parametrize("nodes", [[{"CPU": 2}], [{"CPU": 3}, {"CPU": 3}], []])
def test_no_room(nodes: list) -> None:
    with pytest.raises(UserError, match=r"resources.workers = 2: a trial needs 8 CPU, the cluster has"):
        concurrent_trials(nodes, Resources(workers=2, cpus_per_worker=4), 1)


@pytest.mark.parametrize(("patience", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5400)])
def test_patience(patience: str, seconds: float) -> None:
    before = parse({})
    assert before.resources.patience_seconds == 600
    after = continued(before.plain(), [f"resources.patience={patience}"])
    assert after.resources.patience_seconds == seconds
