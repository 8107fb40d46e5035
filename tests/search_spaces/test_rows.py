"""Each row of each table runs what its paper has, value by value, and each value is held by a test."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.search_spaces import pinned
from tuner.plan import reading

every_table = pytest.mark.parametrize("path", pinned.TABLES, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def ours() -> Mapping[str, dict[str, pinned.Values]]:
    """What each table runs, by its name."""
    return {path.stem: pinned.ours(path) for path in pinned.TABLES}


Ours = Mapping[str, dict[str, pinned.Values]]


@every_table
def test_a_table_runs_what_its_paper_has(path: Path, ours: Ours) -> None:
    assert not pinned.differences(pinned.pinned(path.stem), ours[path.stem])


@every_table
def test_a_pinned_value_that_is_another_is_found(path: Path, ours: Ours) -> None:
    """Each one, changed alone, is the one difference that is told."""
    values = pinned.pinned(path.stem)
    for at, value in enumerate(values):
        for other in others(value.value):
            changed = [*values[:at], value._replace(value=other), *values[at + 1 :]]
            (line,) = pinned.differences(changed, ours[path.stem])
            assert line.startswith(f"{path.stem}: '{value.row}': {value.key}: ours ")


def others(value: object) -> Iterator[object]:
    """Values that are not the same, among them close ones."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield from (value + 1, value * 1.0001 if value else 1e-6, -value - 1)
    elif isinstance(value, str):
        yield from (f"{value}s", "")
    else:
        assert isinstance(value, list) and value
        yield from (value[:-1], [*value, value[0]])
        for at, inner in enumerate(value):
            yield from ([*value[:at], other, *value[at + 1 :]] for other in others(inner))


@every_table
def test_all_rows_and_all_numbers_are_pinned(path: Path, ours: Ours) -> None:
    values = pinned.pinned(path.stem)
    assert list(dict.fromkeys(value.row for value in values)) == list(ours[path.stem])
    table = reading.described(path, [])
    for row in ours[path.stem]:
        numbers = {f"reported.{metric}" for metric, _ in pinned.reported(table, row)}
        assert numbers == {value.key for value in values if value.row == row and value.key.startswith("reported.")}


@every_table
def test_a_row_pins_how_it_is_trained(path: Path) -> None:
    """Its batch, its length and its networks at least."""
    values = pinned.pinned(path.stem)
    for row in dict.fromkeys(value.row for value in values):
        keys = {value.key for value in values if value.row == row}
        assert {"method", "encoder", "batch", "shard", "epochs", "optimiser", "student_norm", "crop_size"} <= keys
        assert {"network", "placement"} <= keys | ({"placement"} if "pseudo_labels" in keys else set())


@every_table
def test_a_value_has_a_source(path: Path) -> None:
    for value in pinned.pinned(path.stem):
        place, _, how = value.source.rpartition(", ")
        assert place and how in pinned.HOW, f"{value.table}: '{value.row}': {value.key}: {value.source}"


def test_there_are_rows_for_every_table() -> None:
    assert sorted(path.stem for path in pinned.ROWS.glob("*.yaml")) == [path.stem for path in pinned.TABLES]


def test_a_wrong_batch_in_a_file_is_found(tmp_path: Path) -> None:
    """Momentum² Teacher's Table 4 as it was before: 4096 in all rows."""
    (path,) = (path for path in pinned.TABLES if path.stem == "momentum2_table4")
    wrong = tmp_path / path.name
    wrong.write_text(re.sub(r"train.batch_size: 2048, ", "", path.read_text()))
    lines = pinned.differences(pinned.pinned(path.stem), pinned.ours(wrong))
    assert [line.partition(" (")[0] for line in lines] == [
        "momentum2_table4: 'Momentum² Teacher, n = 16': batch: ours 4096, the paper's 2048",
        "momentum2_table4: 'Momentum² Teacher, n = 16': lr: ours 4.8, the paper's 2.4",
        "momentum2_table4: 'Momentum² Teacher, n = 16': momentum.base: ours 0.99, the paper's 0.995",
    ]
