"""What another process asks of the driver reaches it once, in order, and is answered."""

import threading
from pathlib import Path

import pytest

from trainables.config.errors import BrokenOff
from tuner.runs import requests as module
from tuner.runs.requests import Requests


def test_requests_arrive_in_their_order_with_what_they_ask(tmp_path: Path) -> None:
    asked = Requests(tmp_path / "requests")
    assert asked.poll() == []
    sent = [
        asked.send("pause"),
        asked.send("stop", "0003"),
        asked.send("set", values={"resources.max_slots": 4}),
    ]
    assert Requests(tmp_path / "requests").poll() == sent
    assert [(request.action, request.key) for request in sent] == [("pause", None), ("stop", "0003"), ("set", None)]
    assert sent[2].values == {"resources.max_slots": 4}


@pytest.mark.parametrize("refused", ["", "trial 0003: has ended"])
def test_the_sender_hears_the_answer_and_nothing_is_left(tmp_path: Path, refused: str) -> None:
    asked = Requests(tmp_path / "requests")
    request = asked.send("pause", "0003")
    driver = threading.Timer(0.3, lambda: asked.answer(asked.poll()[0], refused))
    driver.start()
    assert asked.wait(request, lambda: True, 10) == refused
    driver.join()
    assert not list(asked.folder.iterdir())
    assert asked.poll() == []


@pytest.mark.parametrize(("held", "words"), [(True, "has not answered for 0.5 s"), (False, "ended before")])
def test_a_request_that_nobody_answers_is_taken_back(tmp_path: Path, held: bool, words: str) -> None:
    asked = Requests(tmp_path / "requests")
    request = asked.send("stop")
    with pytest.raises(BrokenOff, match=words):
        asked.wait(request, lambda: held, 0.5)
    assert asked.poll() == []


def test_an_answer_of_a_driver_that_ended_right_after_it_counts(tmp_path: Path) -> None:
    asked = Requests(tmp_path / "requests")
    request = asked.send("pause")
    asked.answer(request)
    assert asked.wait(request, lambda: False) == ""


def test_a_driver_without_room_for_an_answer_takes_the_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Requests(tmp_path / "requests")
    request = asked.send("pause")

    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(module, "write_atomically", full)
    asked.answer(request)
    assert asked.wait(request, lambda: True) == ""


@pytest.mark.parametrize("content", ["", "[]", "{", '{"action": "dance", "key": null, "values": {}}', "\x00"])
def test_what_is_no_request_is_removed(tmp_path: Path, content: str) -> None:
    asked = Requests(tmp_path / "requests")
    sent = asked.send("pause")
    (asked.folder / "000000-00000000.request").write_text(content)
    assert asked.poll() == [sent]
    assert len(list(asked.folder.iterdir())) == 1


def test_a_new_driver_hears_no_old_requests(tmp_path: Path) -> None:
    asked = Requests(tmp_path / "requests")
    asked.answer(asked.send("stop"))
    late = asked.send("pause")
    asked.clear()
    assert asked.poll() == []
    assert "has ended; try again" in asked.wait(late, lambda: True)
    assert not list(asked.folder.iterdir())


def test_a_request_that_its_sender_has_withdrawn_cannot_be_taken(tmp_path: Path) -> None:
    asked = Requests(tmp_path / "requests")
    request = asked.send("stop")
    (polled,) = asked.poll()
    with pytest.raises(BrokenOff, match="nothing was changed"):
        asked.wait(request, lambda: True, 0.0)
    assert not asked.take(polled)


def test_a_request_is_taken_once_and_its_sender_waits_on_for_the_answer(tmp_path: Path) -> None:
    asked = Requests(tmp_path / "requests")
    request = asked.send("stop")
    assert asked.take(request) and not asked.take(request)
    assert asked.poll() == []
    driver = threading.Timer(0.7, asked.answer, [request, "has ended"])
    driver.start()
    assert asked.wait(request, lambda: True, 0.5) == "has ended"
    driver.join()
    assert not list(asked.folder.iterdir())


@pytest.mark.parametrize(("held", "words"), [(True, "has taken the request"), (False, "ended while it carried")])
def test_of_a_request_that_was_taken_nobody_says_that_nothing_was_changed(
    tmp_path: Path, held: bool, words: str
) -> None:
    asked = Requests(tmp_path / "requests")
    request = asked.send("stop")
    asked.take(request)
    with pytest.raises(BrokenOff, match=words) as error:
        asked.wait(request, lambda: held, 0.1)
    assert "nothing was changed" not in str(error.value)
    asked.clear()
    assert "the driver that took it has ended" in asked.wait(request, lambda: True)
    assert not list(asked.folder.iterdir())
