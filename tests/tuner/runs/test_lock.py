"""One driver at a time: by `flock` on one host, and by the holder's beats between hosts."""

import gc
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from trainables.config.errors import UserError
from tuner.runs import lock as module
from tuner.runs.lock import Holder, Lock


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT", 0.1)
    monkeypatch.setattr(module, "SILENCE", 1.0)


def beats_elsewhere(path: Path, beat: int) -> None:
    """What a driver on another host writes, on storage where `flock` is not seen by other hosts."""
    path.write_text(f"4242\nwaiting: for room\nother-host\nanother-boot\n{beat}\n".ljust(module.NOTE))


def test_a_second_driver_on_one_host_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    first = Lock(tmp_path)
    first.take()
    first.note("waiting: for room")
    with pytest.raises(UserError, match=rf"is being run by process {os.getpid()} already"):
        Lock(tmp_path).take()
    assert Lock(tmp_path).held()
    assert Lock(tmp_path).noted() == "waiting: for room"
    del first
    gc.collect()
    time.sleep(0.3)
    assert not Lock(tmp_path).held()
    Lock(tmp_path).take()


def test_a_run_that_is_dropped_at_once_is_held_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that beats for it keeps it at no moment but that of a beat."""
    monkeypatch.setattr(module, "BEAT", 5.0)
    for _ in range(30):
        Lock(tmp_path).take()
        assert not Lock(tmp_path).held()


def test_a_driver_on_another_host_that_beats_is_not_taken_over(tmp_path: Path) -> None:
    beats_elsewhere(tmp_path / "lock", 1)
    over = threading.Event()

    def other() -> None:
        beat = 1
        while not over.wait(0.2):
            beat += 1
            beats_elsewhere(tmp_path / "lock", beat)

    thread = threading.Thread(target=other)
    thread.start()
    try:
        with pytest.raises(UserError, match="is being run by process 4242 on other-host already"):
            Lock(tmp_path).take()
        assert Lock(tmp_path).held()
        assert Lock(tmp_path).noted() == "waiting: for room"
    finally:
        over.set()
        thread.join()


def test_a_host_that_died_gives_its_run_up_after_the_silence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    beats_elsewhere(tmp_path / "lock", 7)
    begun = time.monotonic()
    mine = Lock(tmp_path)
    mine.take()
    assert 1.0 <= time.monotonic() - begun < 3.0
    assert "process 4242 on other-host ran it and has not ended in order" in capsys.readouterr().err
    assert Holder.read(mine.path).process == str(os.getpid())


def test_a_driver_that_ended_in_order_is_not_waited_for(tmp_path: Path) -> None:
    beats_elsewhere(tmp_path / "lock", 0)
    begun = time.monotonic()
    Lock(tmp_path).take()
    assert time.monotonic() - begun < 0.5
    assert not Lock(tmp_path / "..").held()


def test_a_lock_of_an_earlier_version_is_taken(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("4242\nwaiting: for room\n".ljust(module.NOTE))
    assert not Lock(tmp_path).held()
    Lock(tmp_path).take()


SLEEPER = """
import sys, time
from pathlib import Path
from tuner.runs import lock
lock.BEAT = 0.1
held = lock.Lock(Path(sys.argv[1]))
held.take()
print("held", flush=True)
time.sleep(float(sys.argv[2]))
"""


def test_a_process_whose_run_another_host_has_taken_ends(tmp_path: Path) -> None:
    sleeper = subprocess.Popen(
        [sys.executable, "-c", SLEEPER, tmp_path, "60"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert sleeper.stdout is not None
    assert sleeper.stdout.readline() == "held\n"
    beats_elsewhere(tmp_path / "lock", 3)
    _, err = sleeper.communicate(timeout=20)
    assert sleeper.returncode == 3
    assert "was taken by process 4242 on other-host; this process ends" in err


def test_a_holder_on_another_host_is_gone_after_a_day_or_an_orderly_end(tmp_path: Path) -> None:
    beats_elsewhere(tmp_path / "lock", 7)
    minutes_ago = time.time() - 600
    os.utime(tmp_path / "lock", (minutes_ago, minutes_ago))
    assert not Lock(tmp_path).held() and not Lock(tmp_path).abandoned(), "the clocks of hosts may differ"
    days_ago = time.time() - 2 * module.ABANDONED
    os.utime(tmp_path / "lock", (days_ago, days_ago))
    assert Lock(tmp_path).abandoned()
    beats_elsewhere(tmp_path / "lock", 0)
    assert Lock(tmp_path).abandoned()
    (here := Lock(tmp_path)).take()
    assert not Lock(tmp_path).abandoned()
    del here


def test_an_orderly_end_is_noted(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", SLEEPER, tmp_path, "0.5"], check=True, capture_output=True)
    assert Holder.read(tmp_path / "lock").beat == 0
    assert not Lock(tmp_path).held()
