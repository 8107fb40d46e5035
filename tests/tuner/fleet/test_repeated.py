"""A thread that calls a function again and again goes on, whatever the function raises."""

import threading

import pytest

from tuner.fleet.repeated import Repeated


@pytest.mark.parametrize("kind", [RuntimeError, SystemExit])
def test_a_call_that_fails_is_not_the_last(kind: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
    calls, again = [0], threading.Event()

    def call() -> None:
        calls[0] += 1
        if calls[0] == 1:
            raise kind("once")
        again.set()

    with Repeated(call, 0.01, "looks"):
        assert again.wait(10)
    assert "looks: " in caplog.text and "once" in caplog.text
