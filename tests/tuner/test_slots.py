"""The switchboard without Ray: it is a plain class, so its conversations are played here step by step."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tuner.slots import Switchboard

WORK = {"key": "0000", "config": {}, "folder": "-"}


def play(scene: Callable[[Switchboard], Awaitable[None]], slots: int = 1, attempts: int = 2) -> None:
    async def run() -> None:
        await asyncio.wait_for(scene(Switchboard(slots, attempts)), 20)

    asyncio.run(run())


def epoch(number: int, trial: str = "a") -> dict:
    return {"epoch": number, "trial": trial}


def test_a_trial_from_first_to_last_metric() -> None:
    async def scene(board: Switchboard) -> None:
        ticket = await board.acquire("a", WORK)
        life = await board.attach(0)
        work = await board.next(0, life)
        assert (work["key"], work["attempt"]) == ("0000", 1)
        posting = asyncio.create_task(board.post(0, life, work["sequence"], epoch(1)))
        assert await board.take(ticket, 0) == ("metrics", epoch(1))
        await asyncio.sleep(0.05)
        assert not posting.done(), "the workers wait until the next epoch is wanted"
        taking = asyncio.create_task(board.take(ticket, 1))
        assert await posting
        last = asyncio.create_task(board.post(0, life, work["sequence"], epoch(2)))
        assert await taking == ("metrics", epoch(2))
        await board.release("a")
        assert not await last
        await board.acknowledge(0, life, work["sequence"], ("end", None))
        assert await board.acquire("b", WORK) == (0, 2)

    play(scene)


def test_acquire_is_idempotent() -> None:
    async def scene(board: Switchboard) -> None:
        assert await board.acquire("a", WORK) == await board.acquire("a", WORK)
        assert await board.acquire("b", WORK) == (1, 1)

    play(scene, slots=2)


def test_an_actor_that_comes_too_late_gets_no_slot() -> None:
    """Tune may start a second one for a trial, and may do so after its end."""

    async def scene(board: Switchboard) -> None:
        ticket = await board.acquire("a", WORK)
        assert await board.acquire("b", WORK) == (1, 1)
        waiting = asyncio.create_task(board.acquire("c", WORK))
        await board.release("a")
        await board.release("c")
        assert await waiting is None
        assert await board.acquire("a", WORK) is None
        assert await board.acquire("d", WORK) == (ticket[0], 2)

    play(scene, slots=2)


def test_a_stopped_trial_keeps_its_slot_until_the_workers_are_done() -> None:
    async def scene(board: Switchboard) -> None:
        await board.acquire("a", WORK)
        life = await board.attach(0)
        work = await board.next(0, life)
        await board.release("a")
        waiting = asyncio.create_task(board.acquire("b", WORK))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        assert not await board.post(0, life, work["sequence"], epoch(1)), "a stopped trial's metrics go nowhere"
        await board.acknowledge(0, life, work["sequence"], ("end", None))
        assert await waiting == (0, 2)

    play(scene)


def test_the_dead_take_and_post_nothing() -> None:
    async def scene(board: Switchboard) -> None:
        await board.acquire("a", WORK)
        old = await board.attach(0)
        work = await board.next(0, old)
        new = await board.attach(0)
        assert await board.next(0, old) == {}, "it goes home"
        assert not await board.post(0, old, work["sequence"], epoch(1))
        await board.acknowledge(0, old, work["sequence"], ("end", None))
        again = await board.next(0, new)
        assert (again["sequence"], again["attempt"]) == (work["sequence"], 2)

    play(scene)


def test_epochs_told_again_after_a_death_pass_at_once_and_once() -> None:
    async def scene(board: Switchboard) -> None:
        ticket = await board.acquire("a", WORK)
        life = await board.attach(0)
        work = await board.next(0, life)
        first = asyncio.create_task(board.post(0, life, work["sequence"], epoch(1)))
        await board.take(ticket, 0)
        life = await board.attach(0)
        assert not await first
        await board.next(0, life)
        assert await board.post(0, life, work["sequence"], epoch(1))
        second = asyncio.create_task(board.post(0, life, work["sequence"], epoch(2)))
        assert await board.take(ticket, 1) == ("metrics", epoch(2))
        assert await board.take(ticket, 0) == ("metrics", epoch(1)), "a talker that came back hears it from the start"
        second.cancel()

    play(scene)


def test_a_trial_whose_workers_die_again_and_again_fails() -> None:
    async def scene(board: Switchboard) -> None:
        ticket = await board.acquire("a", WORK)
        for _ in range(2):
            assert await board.next(0, await board.attach(0))
        assert await board.next(0, await board.attach(0)) is None
        kind, text = await board.take(ticket, 0)
        assert kind == "error"
        assert text.startswith("its workers died 2 times")
        await board.release("a")
        assert await board.acquire("b", WORK) == (0, 2)

    play(scene)


@pytest.mark.parametrize(
    ("faults", "verdict"),
    [
        ([(0, False, "link"), (1, True, "ValueError: x")], "ValueError: x"),
        ([(1, True, "ValueError: x"), (0, True, "KeyError: y")], "KeyError: y"),
        ([(0, False, "link"), (1, False, "link")], None),
    ],
)
def test_verdict_on_a_fault(faults: list, verdict: str | None) -> None:
    async def scene(board: Switchboard) -> None:
        await board.acquire("a", WORK)
        life = await board.attach(0)
        assert await asyncio.gather(*(board.fault(0, life, rank, 2, blames, text) for rank, blames, text in faults)) == [verdict] * 2

    play(scene)


def test_a_rank_that_is_gone_breaks_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuner.slots.FAULT_WAIT", 0.1)

    async def scene(board: Switchboard) -> None:
        await board.acquire("a", WORK)
        life = await board.attach(0)
        await board.next(0, life)
        assert await board.fault(0, life, 0, 2, False, "link") is None
        assert (await board.next(0, await board.attach(0)))["attempt"] == 2, "the trial is no wiser"
        assert await board.fault(0, life, 1, 2, True, "of the dead") is None
        assert not board.mailboxes[0].faults, "what the dead say is not heard"

    play(scene)


def test_a_trial_that_breaks_its_group_fails_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank that raises leaves the others in a sum that it never joins; where they cannot notice, the group has to be restarted."""
    monkeypatch.setattr("tuner.slots.FAULT_WAIT", 0.1)

    async def scene(board: Switchboard) -> None:
        ticket = await board.acquire("a", WORK)
        life = await board.attach(0)
        await board.next(0, life)
        assert await board.fault(0, life, 1, 2, True, "ValueError: x") is None
        assert await board.take(ticket, 0) == ("error", "ValueError: x")
        await board.release("a")
        await board.attach(0)
        assert await board.acquire("b", WORK) == (0, 2)

    play(scene)


def test_a_broken_slot_keeps_nobody_from_the_switchboard() -> None:
    """Who waits for a slot waits for one that can come, and leaves the switchboard to the others meanwhile."""

    async def scene(board: Switchboard) -> None:
        await board.acquire("a", WORK)
        await board.acquire("b", WORK)
        await board.give_up(0, "no GPU")
        await board.release("a")
        waiting = asyncio.create_task(board.acquire("c", WORK))
        for _ in range(20):
            await asyncio.sleep(0)
        woken = 0
        announce = board._until

        async def counted(*arguments: object) -> None:
            nonlocal woken
            woken += 1
            await announce(*arguments)

        board._until = counted  # type: ignore[method-assign]
        await asyncio.sleep(0.1)
        assert not waiting.done()
        assert woken <= 1
        await board.release("b")
        assert await waiting == (1, 2)

    play(scene, slots=2)


def test_a_trial_that_no_worker_has_taken_frees_its_slot_at_once() -> None:
    async def scene(board: Switchboard) -> None:
        await board.acquire("a", WORK)
        await board.release("a")
        assert await board.acquire("b", WORK) == (0, 2)

    play(scene)


def test_only_deaths_in_one_epoch_count() -> None:
    async def scene(board: Switchboard) -> None:
        ticket = await board.acquire("a", WORK)
        for number in range(1, 5):
            life = await board.attach(0)
            work = await board.next(0, life)
            assert work["attempt"] == min(number, 2)
            posting = asyncio.create_task(board.post(0, life, work["sequence"], epoch(number)))
            assert await board.take(ticket, number - 1) == ("metrics", epoch(number))
            posting.cancel()

    play(scene)


def test_a_slot_that_cannot_be_launched() -> None:
    async def scene(board: Switchboard) -> None:
        ticket = await board.acquire("a", WORK)
        await board.give_up(0, "no GPU")
        assert await board.take(ticket, 0) == ("lost", "no GPU")
        await board.release("a")
        assert await board.acquire("b", WORK) is None

    play(scene)


def test_a_late_talker_of_another_trial_hears_nothing() -> None:
    async def scene(board: Switchboard) -> None:
        ticket = await board.acquire("a", WORK)
        life = await board.attach(0)
        work = await board.next(0, life)
        await board.release("a")
        await board.acknowledge(0, life, work["sequence"], ("end", None))
        await board.acquire("b", WORK)
        assert (await board.take(ticket, 0))[0] == "lost"

    play(scene)


def test_closing_sends_workers_home() -> None:
    async def scene(board: Switchboard) -> None:
        life = await board.attach(0)
        waiting = asyncio.create_task(board.next(0, life))
        await asyncio.sleep(0.02)
        await board.close()
        assert await waiting == {}

    play(scene)
