"""A console whose output cannot be written any more: the work goes on."""

import io
import os

import pytest
from rich.live import Live

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
    assert file.getvalue() == "another line\n"


def test_characters_that_the_encoding_lacks(caplog: pytest.LogCaptureFixture) -> None:
    written = io.BytesIO()
    console = LastingConsole(file=io.TextIOWrapper(written, "ascii"))
    console.print("0.5 \u00b1 0.1")
    console.print("another line")
    assert "the output cannot be written: 'ascii' codec can't encode" in caplog.text
    assert written.getvalue() == b"another line\n"


def test_a_terminal_that_is_gone_while_a_table_is_drawn(caplog: pytest.LogCaptureFixture) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    with Live("a table", console=LastingConsole(file=Gone(), force_terminal=True), auto_refresh=False) as live:
        live.refresh()
    assert "the output cannot be written: [Errno 5] Input/output error" in caplog.text
