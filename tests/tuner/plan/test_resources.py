"""How many workers a trial may have: a number or a range, and the widths that come of it."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from trainables.config.errors import UserError
from tuner.plan.reading import continued, described
from tuner.plan.resources import Resources
from tuner.plan.spec import SearchSpec, parse, width_note


def search(workers: object, **resources: object) -> SearchSpec:
    """A search whose trials have 8 shards."""
    train = {"batch_size": 16, "shard_size": 2}
    return parse({"trial": {"train": train}, "resources": {"workers": workers, **resources}})


@pytest.mark.parametrize(
    ("given", "workers", "smallest", "largest"),
    [(1, 1, 1, 1), (3, 3, 3, 3), ("2-8", "2-8", 2, 8), ("2 - 8", "2-8", 2, 8), ("4-4", 4, 4, 4), ("3", 3, 3, 3)],
)
def test_a_number_or_a_range(given: object, workers: object, smallest: int, largest: int) -> None:
    spec = search(given)
    resources = spec.resources
    assert (resources.workers, resources.smallest, resources.largest) == (workers, smallest, largest)
    assert resources.is_elastic == (largest >= 2 * smallest)
    assert parse(spec.plain()) == spec and isinstance(resources.workers, type(workers))


def test_a_range_in_yaml(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("resources: {workers: 1-2}\n")
    assert described(tmp_path / "s.yaml", []).resources.largest == 2
    assert described(tmp_path / "s.yaml", ["resources.workers=1"]).resources.workers == 1


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("8-2", "lower end, which is at least 1, and ends at 100000; did you mean '2-8'?"),
        ("0-2", "lower end, which is at least 1"),
        ("2-", "must be a whole number from 1 to 100000, or a range such as 2-8"),
        ("-2", "must be a whole number from 1 to 100000, or a range such as 2-8"),
        ("a-b", "or a range such as 2-8"),
        ("2:8", "or a range such as 2-8; did you mean '2-8'?"),
        ("2..8", "did you mean '2-8'?"),
        ("1-999999", "ends at 100000"),
        (0, "must be a whole number from 1 to 100000"),
        (1.5, "must be a whole number from 1 to 100000"),
        ([2, 8], "or a range such as 2-8"),
        (True, "must not be true or false"),
        (None, "or a range such as 2-8"),
        ("9-12", "more than the 8 shards of a batch"),
        (9, "more than the 8 shards of a batch"),
        ("²-³", "or a range such as 2-8"),
        (10**300, "must be a whole number from 1 to 100000"),
    ],
)
def test_what_is_no_number_of_workers(given: object, words: str) -> None:
    with pytest.raises(UserError) as raised:
        search(given)
    assert len(str(raised.value).splitlines()) == 1
    assert str(raised.value).startswith("resources.workers") and words in str(raised.value)


def test_a_range_with_a_colon_is_a_number_in_base_60() -> None:
    """YAML reads 2:8 as 128, which may well be meant: so it is said only where the number cannot be."""
    assert yaml.safe_load("2:08") == 128
    with pytest.raises(UserError, match=r"YAML reads 2:8 as 128: a range is written 2-8"):
        search(128)
    with pytest.raises(UserError, match=r"YAML reads 1666:47 as 100007|must be a whole number") as raised:
        search(100_007)
    assert "YAML" not in str(raised.value), "1666:47 is no range"
    with pytest.raises(UserError, match="more than the 8 shards") as raised:
        search(61)
    assert "YAML" not in str(raised.value), "neither is 1:1"


@pytest.mark.parametrize(
    ("workers", "shards", "widths"),
    [
        ("1-8", 8, (1, 2, 3, 4, 8)),
        ("1-100", 4, (1, 2, 4)),
        ("2-8", 8, (2, 4, 8)),
        ("2-8", 6, (2, 4, 6)),
        ("2-7", 16, (2, 4, 6)),
        ("3-5", 16, (3,)),
        ("1-1", 16, (1,)),
        (4, 16, (4,)),
        ("2-4", 2, (2,)),
    ],
)
def test_widths(workers: object, shards: int, widths: tuple[int, ...]) -> None:
    assert Resources(workers=workers).widths(shards) == widths


@given(st.integers(1, 9), st.integers(0, 40), st.integers(1, 64))
def test_every_width_makes_a_step_shorter(smallest: int, more: int, shards: int) -> None:
    resources = Resources(workers=f"{smallest}-{smallest + more}")
    widths = resources.widths(shards)
    most = [-(-shards // width) for width in widths]
    assert widths[0] == smallest and all(width % smallest == 0 for width in widths)
    assert all(width <= min(resources.largest, shards) for width in widths[1:])
    assert most == sorted(set(most), reverse=True)
    for width in range(smallest, min(resources.largest, shards) + 1, smallest):
        assert -(-shards // width) in most, "no shorter step is passed over"


def test_why_trials_do_not_get_the_upper_end() -> None:
    assert width_note(search("1-8")) == width_note(search(3)) == width_note(search("2-8")) == ""
    said = "resources.workers = 1-100: trials get at most 8 workers, for a batch has 8 shards"
    assert width_note(search("1-100")) == said
    assert (
        width_note(search("1-7")) == "resources.workers = 1-7: trials get at most 4 workers, for a batch has 8 shards"
    )
    said = "resources.workers = 2-3: trials get at most 2 workers, for widths are multiples of 2"
    assert width_note(search("2-3")) == said


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"custom": {"tpu": 0}}, "resources.custom.tpu = 0"),
        ({"custom": {"tpu": 1.5}}, "resources.custom.tpu = 1.5: above 1 an amount is a whole number"),
        ({"custom": {"GPU": 1}}, "resources.custom.GPU: is a resource of Ray's own; set resources.gpus_per_worker"),
        ({"custom": {"node:10.0.0.1": 1}}, "a name of a custom resource"),
        ({"custom": {"a b": 1}}, "a name of a custom resource"),
        ({"custom": 3}, "resources.custom = 3: must hold keys and values"),
        ({"max_slots": 0}, "resources.max_slots = 0"),
        ({"workers": "1-2", "gpus_per_worker": 0.5}, "only a single worker may share one"),
    ],
)
def test_other_resources_that_cannot_be(given: dict[str, object], words: str) -> None:
    with pytest.raises(UserError) as raised:
        search(**{"workers": 1, **given})
    assert words in str(raised.value) and len(str(raised.value).splitlines()) == 1


def test_a_resume_may_change_them() -> None:
    before = search("1-2", custom={"tpu": 1}, max_slots=3)
    assert parse(before.plain()) == before
    after = continued(before.plain(), ["resources.workers=2-8", "resources.max_slots=20", "resources.custom={tpu: 2}"])
    assert (after.resources.workers, after.resources.max_slots, after.resources.custom) == ("2-8", 20, {"tpu": 2})
    assert continued(before.plain(), ["resources.max_slots=null"]).resources.max_slots is None
