"""YAML of a user: its limits, keys that are there twice, aliases, and values that are not what they seem."""

import time

import pytest

from trainables.config import reading

LAUGHS = "\n".join(["a0: &a0 [1, 2]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 20))])
MERGED_LAUGHS = "\n".join(
    ["a0: &a0 {x: 1}", *(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 20))]
)
LADDER = "\n".join(["a0: &a0 [1]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 3000))])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "line 1: is nested deeper than 50 levels"),
        ("a: 1\nb: " + "{a: " * 60, "line 2: is nested deeper than 50 levels"),
        (LADDER, "is nested deeper than 50 levels"),
        (LAUGHS, "line 6: stands for more than 200,000 values"),
        (MERGED_LAUGHS, "stands for more than 200,000 values"),
        ("a: [" + "1, " * 1_000_000 + "]", "holds more than 200,000 values"),
        ("a: " + "x" * 5000, "line 1: a key or value has at most 4,096 characters, this one has 5,000"),
        ("a: 1\nb: " + "1" * 350, "line 2: a number has at most 300 digits"),
        ("a: 0x" + "f" * 4000, "line 1: a number has at most 300 digits"),
        ("#" * 4_000_001, "is larger than 4,000,000 bytes"),
        ("a: 1\nb: 2\na: 3", "'a' is there twice, in line 1 and in line 3"),
        ("a: 1\nb: {x: 1, x: 2}", "'x' is there twice in line 2"),
        ("b:\n  x: 1\n  y: 2\n  'x': 3", "'x' is there twice, in line 2 and in line 4"),
        ("yes: 1\ntrue: 2", "'True' is there twice, in line 1 and in line 2"),
        ("a: 2001-13-01", "line 1: '2001-13-01' cannot be read as a value of type timestamp"),
        ("a: !!int ''", "line 1: '' cannot be read as a value of type int"),
        ("a: !!bool x", "cannot be read as a value of type bool"),
        ('a: "\\0"', "line 1: a key or value must not hold a null character"),
        ("a: &a [*a]", "line 1: an alias stands for something that it is a part of"),
        ("a: \ud800", "not valid YAML"),
        ("a: !!python/name:os.system ''", "not valid YAML, line 1"),
        ("a: [1", "not valid YAML, line 2"),
        ("a: 1\n---\nb: 2", "not valid YAML"),
        ("? [1]\n: 2", "not valid YAML"),
    ],
)
def test_what_is_beyond_a_limit_or_no_yaml_is_refused_soon(text: str, said: str) -> None:
    begun = time.process_time()
    with pytest.raises(reading.Fault) as caught:
        reading.values(text)
    assert said in str(caught.value) and len(str(caught.value)) < 300
    assert time.process_time() - begun < 5


def test_anchors_and_merge_keys_of_ordinary_size_work() -> None:
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {<<: [*a, {z: 4}]}\nd: [*a, *a]\n"
    assert reading.values(text) == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 1, "y": 3},
        "c": {"x": 1, "y": 2, "z": 4},
        "d": [{"x": 1, "y": 2}] * 2,
    }


def test_an_empty_text_says_nothing() -> None:
    assert reading.values("") is None
    assert reading.values("# nothing") is None
