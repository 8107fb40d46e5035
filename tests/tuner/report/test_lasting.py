"""A console whose output cannot be written any more: the work goes on."""

import io
import os

import pytest

from tuner.report.lasting import LastingConsole


def test_the_reader_has_gone(caplog: pytest.LogCaptureFixture) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as file:
        console = LastingConsole(file=file)
        console.print("a line")
        console.print("another line")
        file.write("what others write there")
        file.flush()
    assert caplog.text.count("nobody reads the output any more") == 1


def test_the_disc_is_full_for_a_while(caplog: pytest.LogCaptureFixture) -> None:
    class Full(io.StringIO):
        room = False

        def write(self, text: str) -> int:
            if not self.room:
                raise OSError(28, "No space left on device")
            return super().write(text)

    file = Full()
    console = LastingConsole(file=file)
    console.print("a line")
    assert "the output cannot be written: [Errno 28] No space left on device" in caplog.text
    file.room = True
    console.print("another line")
    assert file.getvalue().endswith("another line\n")


def test_characters_that_the_encoding_lacks(caplog: pytest.LogCaptureFixture) -> None:
    console = LastingConsole(file=io.TextIOWrapper(io.BytesIO(), "ascii"))
    console.print("0.5 \u00b1 0.1")
    assert "the output cannot be written: 'ascii' codec can't encode" in caplog.text
