"""Plain lines of progress are few, and say how long it still takes."""

import io

from tuner.report.bars import Bars, about, clock_time


def test_plain_lines_are_few_and_estimate_the_rest() -> None:
    now, out = [0.0], io.StringIO()
    with Bars(out, clock=lambda: now[0]) as bars:
        for done in range(41):
            bars.tell("epochs of the linear classifier", done, 40)
            now[0] += 1.0
        for done in range(3):
            bars.tell("batches of features", done, 3)
            now[0] += 1.0
        now[0] += 10
        bars.tell("images decoded", 5120)
    lines = out.getvalue().splitlines()
    assert lines[:2] == [
        "epochs of the linear classifier: 5 of 40, about 35 s left",
        "epochs of the linear classifier: 10 of 40, about 30 s left",
    ]
    assert lines[7:] == ["epochs of the linear classifier: 40 of 40", "images decoded: 5120"]


def test_what_is_over_in_a_moment_prints_nothing() -> None:
    out = io.StringIO()
    with Bars(out) as bars:
        bars.tell("batches of features", 0, 1)
        bars.tell("batches of features", 1, 1)
    assert out.getvalue() == ""


def test_lengths_of_time() -> None:
    assert [about(s) for s in (0.2, 42, 130, 5400, 12600)] == [
        "about 1 s",
        "about 42 s",
        "about 2 min",
        "about 90 min",
        "about 3.5 h",
    ]
    assert [clock_time(s) for s in (42, 725, 11279)] == ["0:42", "12:05", "3:07:59"]
