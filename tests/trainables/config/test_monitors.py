"""The section `monitors`: its short form, how often it traces, and what is said of one that cannot."""

from typing import Any

import pytest

from trainables.config import trial as c
from trainables.config.errors import UserError
from trainables.config.monitors import MOST_ROWS
from trainables.config.settings import with_values

PLANE = {"encoder": {"projector": {"hidden": 2}}}


def refusal(monitors: Any, **more: Any) -> str:
    with pytest.raises(UserError) as caught:
        c.parse({**PLANE, "monitors": monitors, **more})
    return str(caught.value)


def test_a_list_stands_for_the_names_in_files_and_settings() -> None:
    assert c.parse({}).monitors.names == ("distance", "statistics", "embedding") and c.parse({}).monitors.every is None
    assert c.parse({"monitors": ["drift", "distance", "drift"]}).monitors.names == ("drift", "distance")
    assert c.parse({"monitors": []}) == c.parse({"monitors": {"names": []}})
    nested = {**PLANE, "monitors": {"names": ["filters"], "every": "20 steps"}}
    changed = c.parse(with_values(nested, {"monitors": ["gradients"]}, c.TrialConfig)).monitors
    assert (changed.names, changed.every) == (("gradients",), "20 steps")
    plain = c.parse(nested).plain()
    assert plain["monitors"] == {"names": ["filters"], "every": "20 steps"} and c.parse(plain) == c.parse(nested)


@pytest.mark.parametrize(
    ("every", "said"),
    [
        ("0 steps", "monitors.every = 0 steps: must be at least 1 step"),
        (0, "monitors.every = 0 epochs: must be at least 1 step"),
        ("20", "monitors.every = '20': must be a duration, such as '500 steps', '10 epochs' or '5 %' of the run"),
        ("-1 steps", "monitors.every = '-1 steps': must be a duration"),
        ("2e9 steps", "monitors.every = '2e9 steps': must be at most 1,000,000,000 steps or epochs"),
        (True, "monitors.every = True: must not be true or false"),
    ],
)
def test_a_wrong_interval(every: Any, said: str) -> None:
    assert refusal({"names": ["gradients"], "every": every}).startswith(said)


def test_something_has_to_be_traced() -> None:
    rule = "add one of filters, gradients"
    assert refusal({"every": "1 steps"}) == (
        "monitors.every = 1 steps: monitors.names names nothing that is traced within an epoch, "
        f"only distance, statistics, embedding; {rule}"
    )
    assert refusal({"names": [], "every": "1 steps"}).endswith(f"only nothing; {rule}")
    assert "did you mean 'gradients'?" in refusal({"names": ["gradient"]})
    assert refusal({"nams": []}) == "monitors.nams: unknown key; did you mean 'names'?"
    assert "must be 2" in refusal({"names": ["filters"], "every": "1 steps"}, encoder={"projector": {"hidden": 8}})


@pytest.mark.parametrize(
    ("every", "steps"), [("20 steps", 20), (1, 195), ("0.1 epochs", 20), ("5 %", 1950), ("0.0001 epochs", 1)]
)
def test_the_steps_between_two_rows(every: Any, steps: int) -> None:
    trial = c.parse({"monitors": {"names": ["gradients"], "every": every}})
    assert trial.monitors.steps_between(c.Length(39_000, 195)) == steps


def test_the_size_of_traces_is_bounded() -> None:
    """As soon as the run's length is known: before a trial is trained."""
    nested = {"monitors": {"names": ["gradients"], "every": "1 steps"}, "train": {"batch_size": 32, "epochs": 100}}
    assert c.length(c.parse(nested), 32 * MOST_ROWS // 100).total == MOST_ROWS
    with pytest.raises(UserError) as caught:
        c.length(c.parse(nested), 32 * 600)
    assert str(caught.value) == (
        "monitors.every = 1 steps: makes 60,000 rows in the 60,000 steps of the run, and at most 50,000 are kept; "
        "2 steps fit"
    )
    assert c.length(c.changed(nested, {"monitors.every": "2 steps"}), 32 * 600).total == 60_000


@pytest.mark.parametrize(
    ("every", "fits"), [("1000 epochs", False), ("13 steps", False), ("12 steps", True), (2, True)]
)
def test_a_run_has_a_row_of_its_own_interval(every: Any, fits: bool) -> None:
    """Two epochs of six steps; a trial of no epochs is not trained, so nothing of it is traced."""
    nested = {"monitors": {"names": ["gradients"], "every": every}, "train": {"batch_size": 32, "epochs": 2}}
    if fits:
        assert c.length(c.parse(nested), 6 * 32).total == 12
    else:
        with pytest.raises(UserError, match=f"^monitors.every = {every}: must not exceed the run, which has 12 ste"):
            c.length(c.parse(nested), 6 * 32)
    assert c.length(c.changed(nested, {"train.epochs": 0}), 6 * 32).total == 0
