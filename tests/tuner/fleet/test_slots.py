"""The switchboard without Ray: it is a plain class, so its conversations are played here step by step."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.tuner.fleet.boards import board_of
from trainables.running.messages import Assignment, EpochReport, NoWork, Work
from tuner.fleet.claims import Ended, State
from tuner.fleet.switchboard import Switchboard

WORK = Work("0000", {}, "-")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuner.fleet.switchboard.FAULT_WAIT", 0.1)
    monkeypatch.setattr("tuner.fleet.switchboard.LINK_WAIT", 0.1)
    monkeypatch.setattr("tuner.fleet.roster.STACKS_WAIT", 0.0)
    monkeypatch.setattr("tuner.fleet.switchboard.POSTPONE_WAIT", 0.1)
    monkeypatch.setattr("tuner.fleet.roster.NEWS_WAIT", 0.1)
    monkeypatch.setattr("tuner.fleet.roster.POSTPONE_WAIT", 0.1)
    monkeypatch.setattr("tuner.fleet.switchboard.NEXT_WAIT", 0.5)


def play(
    scene: Callable[[Switchboard], Awaitable[None]], slots: int = 1, attempts: int = 2, patience: float = math.inf
) -> None:
    async def run() -> None:
        await asyncio.wait_for(scene(await board_of(slots, attempts, patience)), 20)

    asyncio.run(run())


def epoch(number: int, slot: int = 0) -> EpochReport:
    return EpochReport("0000", slot, {"epoch": number})


async def taken(board: Switchboard, slot: int, life: int) -> Assignment:
    """What a slot gets, of which a test knows that it is work."""
    answer = await board.next(slot, life)
    assert isinstance(answer, Assignment)
    return answer


def sequence_in(board: Switchboard, answer: Assignment | NoWork) -> int:
    """The number of the claim that work is of."""
    assert isinstance(answer, Assignment)
    return next(
        claim.sequence
        for claim in board.roster.claims.values()
        if claim.generation is not None and claim.generation.number == answer.generation
    )


def gen(board: Switchboard, claim: int | None) -> int:
    """The number of the generation that trains a claim; 0 where none does."""
    runs = [group.life.generation for group in board.roster.groups.values() if group.life and group.life.generation]
    return next((run.number for run in runs if run.claim.sequence == claim), 0)


async def begun(board: Switchboard, trial: str = "a", slot: int = 0, node: str = "n") -> tuple[int, int, Assignment]:
    """A trial that a new life of a slot has taken: the claim's number, the incarnation and the work."""
    claim = await board.acquire(trial, WORK)
    assert claim is not None
    life = await board.attach(slot, f"group {slot}", [node])
    return claim, life, await taken(board, slot, life)


def test_a_trial_from_first_to_last_metric() -> None:
    async def scene(board: Switchboard) -> None:
        claim, life, work = await begun(board)
        assert (work.work.key, sequence_in(board, work), work.attempt) == ("0000", claim, 1)
        posting = asyncio.create_task(board.post(0, life, gen(board, claim), epoch(1)))
        assert await board.take(claim, 0) == ("report", epoch(1))
        await asyncio.sleep(0.05)
        assert not posting.done(), "the workers wait until the next epoch is wanted"
        taking = asyncio.create_task(board.take(claim, 1))
        assert await posting == "on"
        last = asyncio.create_task(board.post(0, life, gen(board, claim), epoch(2)))
        assert await taking == ("report", epoch(2))
        await board.release("a")
        assert await last == "stop"
        await board.acknowledge(0, life, gen(board, claim), ("end", None))
        second = await board.acquire("b", WORK)
        assert sequence_in(board, await taken(board, 0, life)) == second

    play(scene)


def test_acquire_is_idempotent() -> None:
    async def scene(board: Switchboard) -> None:
        assert await board.acquire("a", WORK) == await board.acquire("a", WORK) == 1
        assert await board.acquire("b", WORK) == 2

    play(scene)


def test_an_actor_that_comes_too_late_gets_no_slot() -> None:
    """Tune may start a second one for a trial, and may do so after its end."""

    async def scene(board: Switchboard) -> None:
        claim = await board.acquire("a", WORK)
        await board.release("a")
        await board.release("c")
        assert await board.acquire("a", WORK) is None
        assert await board.acquire("c", WORK) is None
        assert await board.take(claim, 0) == ("lost", "the trial is over")
        assert await board.next(0, await board.attach(0)) == "ask again", "nothing is left in the queue"

    play(scene)


def test_a_stopped_trial_keeps_its_slot_until_the_workers_are_done() -> None:
    async def scene(board: Switchboard) -> None:
        claim, life, _ = await begun(board)
        await board.release("a")
        assert await board.post(0, life, gen(board, claim), epoch(1)) == "stop", "a stopped trial's metrics go nowhere"
        await board.acknowledge(0, life, gen(board, claim), ("end", None))
        assert await board.acquire("b", WORK) == sequence_in(board, await taken(board, 0, life))

    play(scene)


def test_work_is_only_for_a_slot_whose_workers_are_up() -> None:
    """Slot 0 has no workers: the trial goes to slot 1, whichever of the two was first."""

    async def scene(board: Switchboard) -> None:
        claim = await board.acquire("a", WORK)
        second = await board.acquire("b", WORK)
        life = await board.attach(1)
        assert sequence_in(board, await taken(board, 1, life)) == claim
        await board.acknowledge(1, life, gen(board, claim), ("end", None))
        assert sequence_in(board, await taken(board, 1, life)) == second
        assert (await board.state()).up == (1,)

    play(scene, slots=2)


def test_the_oldest_claim_is_first() -> None:
    async def scene(board: Switchboard) -> None:
        claims = [await board.acquire(trial, WORK) for trial in "abc"]
        life = await board.attach(0)
        for claim in claims:
            assert sequence_in(board, await taken(board, 0, life)) == claim
            await board.acknowledge(0, life, gen(board, claim), ("end", None))

    play(scene)


def test_a_trial_that_lost_its_slot_is_first_in_the_queue() -> None:
    async def scene(board: Switchboard) -> None:
        claim, life, _ = await begun(board, "a", slot=0, node="x")
        older, other, _ = await begun(board, "b", slot=1, node="y")
        await board.acquire("c", WORK)
        posting = asyncio.create_task(board.post(1, other, gen(board, older), epoch(1, slot=1)))
        await board.take(older, 0)
        assert await board.watch(["y"]) == [Ended(1, "group 1", "node y is lost")]
        assert await posting == "stop"
        state = await board.state()
        assert (state.up, state.busy, state.waiting, state.why) == ((0,), 1, 2, "node y is lost")
        await board.acknowledge(0, life, gen(board, claim), ("end", None))
        work = await taken(board, 0, life)
        assert (sequence_in(board, work), work.attempt) == (older, 1), "before the one that has not begun"

    play(scene, slots=2)


def test_a_trial_moves_to_a_free_slot_at_once() -> None:
    async def scene(board: Switchboard) -> None:
        claim, life, _ = await begun(board, node="x")
        other = await board.attach(1, None, ["y"])
        free = asyncio.create_task(board.next(1, other))
        await asyncio.sleep(0.05)
        assert not free.done()
        await board.watch(["x"])
        assert sequence_in(board, await free) == claim
        posting = asyncio.create_task(board.post(1, other, gen(board, claim), epoch(1, slot=1)))
        assert await board.take(claim, 0) == ("report", epoch(1, slot=1))
        assert await board.post(0, life, gen(board, claim), epoch(2)) == "stop", (
            "a survivor of the lost node may not post"
        )
        assert await board.next(0, life) == "leave", "nor take"
        await board.acknowledge(0, life, gen(board, claim), ("end", None))
        await board.take(claim, 0)
        assert board.roster.claims[claim].outcome is None, "nor end the trial"
        posting.cancel()

    play(scene, slots=2)


def test_one_lost_node_of_two_takes_the_slot_down() -> None:
    async def scene(board: Switchboard) -> None:
        await board.acquire("a", WORK)
        life = await board.attach(0, "group 0", ["x", "y"])
        await board.next(0, life)
        assert await board.watch(["z"]) == []
        assert [ended.slot for ended in await board.watch(["y", "z"])] == [0]
        assert await board.watch(["y", "z"]) == [], "told once"
        assert (await board.state()).up == ()

    play(scene)


def test_a_slot_comes_back_with_its_node() -> None:
    async def scene(board: Switchboard) -> None:
        claim, _, _ = await begun(board, node="x")
        await board.watch(["x"])
        life = await board.attach(0, None, ["y"])
        work = await taken(board, 0, life)
        assert (life, sequence_in(board, work), work.attempt) == (2, claim, 1)
        assert await board.watch(["x"]) == []

    play(scene)


def test_a_lost_node_is_no_attempt_of_the_trial_even_if_the_news_comes_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker's death is seen before Ray reports the node; the trial has one attempt, and there is no other slot."""
    monkeypatch.setattr("tuner.fleet.roster.NEWS_WAIT", 60)
    monkeypatch.setattr("tuner.fleet.switchboard.NEXT_WAIT", 60)

    async def scene(board: Switchboard) -> None:
        claim, _, _ = await begun(board, node="x")
        life = await board.attach(0, None, ["y"])
        waiting = asyncio.create_task(board.next(0, life))
        await asyncio.sleep(0.02)
        await board.watch(["x"])
        assert sequence_in(board, await waiting) == claim

    play(scene, attempts=1)


def test_a_dead_controller_is_no_attempt_of_the_trial() -> None:
    async def scene(board: Switchboard) -> None:
        claim, _, _ = await begun(board)
        assert await board.down(0, "its controller ended", excused=True) == ("group 0", True)
        assert await board.down(0, "its controller ended", excused=True) == ("group 0", False), "not up since then"
        assert sequence_in(board, await taken(board, 0, await board.attach(0))) == claim
        await board.down(0, "its workers died too often", excused=False)
        life = await board.attach(0)
        assert await board.next(0, life) == "ask again"
        assert (await board.take(claim, 0))[0] == "error"

    play(scene, attempts=1)


def test_workers_without_progress_are_taken_out_of_use() -> None:
    async def scene(board: Switchboard) -> None:
        claim, life, _ = await begun(board)
        for _ in range(4):
            await asyncio.sleep(0.1)
            await board.beat(0, life)
            assert await board.watch([]) == []
        await asyncio.sleep(0.3)
        assert await board.watch([]) == [Ended(0, "group 0", "no progress for 0.2 seconds")]
        assert await board.post(0, life, gen(board, claim), epoch(1)) == "stop"
        work = await taken(board, 0, await board.attach(0))
        assert (sequence_in(board, work), work.attempt) == (claim, 2), "it counts as an attempt"

    play(scene, patience=0.2)


def test_workers_that_hang_after_the_last_epoch_are_taken_out_of_use() -> None:
    """Between the end of a trial, or its stop, and their word of it."""

    async def scene(board: Switchboard) -> None:
        claim, life, _ = await begun(board)
        posting = asyncio.create_task(board.post(0, life, gen(board, claim), epoch(1)))
        await board.take(claim, 0)
        await board.release("a")
        assert await posting == "stop"
        assert await board.watch([]) == []
        await asyncio.sleep(0.3)
        assert await board.watch([]) == [Ended(0, "group 0", "no progress for 0.2 seconds")]

    play(scene, patience=0.2)


def test_a_trial_that_gets_on_no_longer_waits_for_a_disc() -> None:
    async def scene(board: Switchboard) -> None:
        claim, life, _ = await begun(board)
        await board.acknowledge(0, life, gen(board, claim), ("postponed", "/run: no space left"))
        assert (await board.state()).postponed == "/run: no space left"
        assert await taken(board, 0, life)
        await board.beat(0, life)
        assert (await board.state()).postponed == "/run: no space left", "the start of a try proves nothing"
        await asyncio.sleep(0.15)
        await board.beat(0, life)
        assert (await board.state()).postponed == ""

    play(scene)


def test_where_a_trial_is_is_known_while_workers_are_on_it() -> None:
    async def scene(board: Switchboard) -> None:
        _, life, work = await begun(board)
        assert (await board.state()).positions == {}
        await board.beat(0, life, ("steps of epoch 1", 3, 40))
        assert (await board.state()).positions == {work.work.key: ("steps of epoch 1", 3, 40)}
        await board.beat(0, life + 1, ("steps of epoch 9", 1, 40))
        assert (await board.state()).positions == {work.work.key: ("steps of epoch 1", 3, 40)}, "of a life that is none"
        life = await board.attach(0)
        assert (await board.state()).positions == {}
        await board.next(0, life)
        assert (await board.state()).positions == {}, "other workers begin at their checkpoint"

    play(scene)


def test_workers_that_wait_for_their_trial_or_for_work_are_not_stuck() -> None:
    async def scene(board: Switchboard) -> None:
        claim, life, _ = await begun(board)
        posting = asyncio.create_task(board.post(0, life, gen(board, claim), epoch(1)))
        await board.take(claim, 0)
        await asyncio.sleep(0.2)
        await board.beat(0, life)
        assert await board.watch([]) == []
        wanting = asyncio.create_task(board.take(claim, 1))
        assert await posting == "on"
        assert await board.watch([]) == [], "the time that it waited is not its own"
        await board.acknowledge(0, life, gen(board, claim), ("end", None))
        assert (await wanting)[0] == "end"
        await asyncio.sleep(0.2)
        assert await board.watch([]) == []

    play(scene, patience=0.1)


def test_a_postponed_trial_is_tried_again_later_and_not_counted() -> None:
    async def scene(board: Switchboard) -> None:
        claim, life, _ = await begun(board)
        for _ in range(3):
            verdict = await board.fault(0, life, gen(board, 1), 0, 1, "surroundings", "OSError: no space")
            assert verdict == ("postponed", "OSError: no space")
            begun_at = asyncio.get_running_loop().time()
            await board.acknowledge(0, life, gen(board, claim), verdict)
            assert (await board.state()).why == "OSError: no space"
            assert (await board.state()).postponed == "OSError: no space"
            work = await taken(board, 0, life)
            assert (sequence_in(board, work), work.attempt) == (claim, 1)
            assert asyncio.get_running_loop().time() - begun_at > 0.08
            assert (await board.state()).postponed == "OSError: no space", "until it gets on"
        assert not board.roster.claims[claim].outcome
        wanting = asyncio.create_task(board.take(claim, 0))
        posting = asyncio.create_task(board.post(0, life, gen(board, claim), epoch(1)))
        assert (await wanting)[0] == "report"
        assert (await board.state()).postponed == ""
        posting.cancel()

    play(scene, attempts=1)


def test_another_trial_goes_on_while_one_is_postponed() -> None:
    async def scene(board: Switchboard) -> None:
        claim, life, _ = await begun(board)
        second = await board.acquire("b", WORK)
        await board.acknowledge(0, life, gen(board, claim), ("postponed", "OSError: no space"))
        assert sequence_in(board, await taken(board, 0, life)) == second

    play(scene)


def test_the_dead_take_and_post_nothing() -> None:
    async def scene(board: Switchboard) -> None:
        claim, old, _ = await begun(board)
        new = await board.attach(0)
        assert await board.next(0, old) == "leave", "it goes home"
        assert await board.post(0, old, gen(board, claim), epoch(1)) == "stop"
        await board.acknowledge(0, old, gen(board, claim), ("end", None))
        await board.beat(0, old)
        again = await taken(board, 0, new)
        assert (sequence_in(board, again), again.attempt) == (claim, 2)

    play(scene)


def test_epochs_told_again_after_a_death_pass_at_once_and_once() -> None:
    async def scene(board: Switchboard) -> None:
        claim, life, _ = await begun(board)
        first = asyncio.create_task(board.post(0, life, gen(board, claim), epoch(1)))
        await board.take(claim, 0)
        life = await board.attach(0)
        assert await first == "stop"
        await board.next(0, life)
        assert await board.post(0, life, gen(board, claim), epoch(1)) == "on"
        second = asyncio.create_task(board.post(0, life, gen(board, claim), epoch(2)))
        assert await board.take(claim, 1) == ("report", epoch(2))
        assert await board.take(claim, 0) == ("report", epoch(1)), "a talker that came back hears it from the start"
        second.cancel()

    play(scene)


def test_a_trial_whose_workers_die_again_and_again_fails() -> None:
    async def scene(board: Switchboard) -> None:
        claim, _, _ = await begun(board)
        assert await taken(board, 0, await board.attach(0))
        life = await board.attach(0)
        assert await board.next(0, life) == "ask again"
        kind, text = await board.take(claim, 0)
        assert (kind, text) == ("error", "its workers died 2 times without a new epoch")
        await board.release("a")
        assert await board.acquire("b", WORK) == sequence_in(board, await taken(board, 0, life))

    play(scene)


@pytest.mark.parametrize(
    ("faults", "verdict"),
    [
        ([(0, "link", "link"), (1, "trial", "ValueError: x")], ("error", "ValueError: x")),
        ([(1, "trial", "ValueError: x"), (0, "trial", "KeyError: y")], ("error", "KeyError: y")),
        ([(0, "trial", "ValueError: x"), (1, "surroundings", "OSError: z")], ("postponed", "OSError: z")),
        ([(0, "link", "link"), (1, "link", "link")], None),
    ],
)
def test_verdict_on_a_fault(faults: list, verdict: tuple[str, str] | None) -> None:
    async def scene(board: Switchboard) -> None:
        _, life, _ = await begun(board)
        assert (
            await asyncio.gather(
                *(board.fault(0, life, gen(board, 1), rank, 2, blame, text) for rank, blame, text in faults)
            )
            == [verdict] * 2
        )

    play(scene)


def test_a_rank_that_is_gone_breaks_the_group() -> None:
    async def scene(board: Switchboard) -> None:
        claim, life, _ = await begun(board)
        assert await board.fault(0, life, gen(board, 1), 0, 2, "link", "closed by peer") is None
        state = await board.state()
        assert state == State(slots=(), busy=0, waiting=1, why="closed by peer")
        assert await board.fault(0, life, gen(board, 1), 1, 2, "trial", "of the dead") is None, (
            "what the dead say is not heard"
        )
        assert (await taken(board, 0, await board.attach(0))).attempt == 2, "the trial is no wiser"
        life = await board.attach(0)
        assert await board.next(0, life) == "ask again"
        assert (await board.take(claim, 0))[1].endswith("; the last to speak said: closed by peer")

    play(scene)


def test_a_trial_that_breaks_its_group_fails_once() -> None:
    """A rank that raises leaves the others in a sum; if they cannot notice that, the group has to be restarted."""

    async def scene(board: Switchboard) -> None:
        claim, life, _ = await begun(board)
        assert await board.fault(0, life, gen(board, 1), 1, 2, "trial", "ValueError: x") is None
        assert await board.take(claim, 0) == ("error", "ValueError: x")
        await board.release("a")
        life = await board.attach(0)
        assert await board.acquire("b", WORK) == sequence_in(board, await taken(board, 0, life))

    play(scene)


def test_a_trial_that_waits_leaves_the_switchboard_to_the_others() -> None:
    async def scene(board: Switchboard) -> None:
        await board.give_up(0, "no GPU")
        claim = await board.acquire("c", WORK)
        waiting = asyncio.create_task(board.take(claim, 0))
        idle = asyncio.create_task(board.next(1, await board.attach(1)))
        assert sequence_in(board, await idle) == claim
        woken = 0
        announce = board._until

        async def counted(*arguments: Any) -> None:
            nonlocal woken
            woken += 1
            await announce(*arguments)

        board._until = counted  # type: ignore[method-assign]
        await asyncio.sleep(0.1)
        assert not waiting.done(), "slot 1 is not given up"
        assert woken <= 1
        waiting.cancel()

    play(scene, slots=2)


def test_a_trial_that_no_worker_has_taken_leaves_the_queue_at_once() -> None:
    async def scene(board: Switchboard) -> None:
        await board.acquire("a", WORK)
        await board.release("a")
        second = await board.acquire("b", WORK)
        assert sequence_in(board, await taken(board, 0, await board.attach(0))) == second

    play(scene)


def test_only_deaths_in_one_epoch_count() -> None:
    async def scene(board: Switchboard) -> None:
        claim = await board.acquire("a", WORK)
        for number in range(1, 5):
            life = await board.attach(0)
            work = await taken(board, 0, life)
            assert work.attempt == min(number, 2)
            posting = asyncio.create_task(board.post(0, life, gen(board, claim), epoch(number)))
            assert await board.take(claim, number - 1) == ("report", epoch(number))
            posting.cancel()

    play(scene)


def test_slots_that_cannot_be_launched() -> None:
    async def scene(board: Switchboard) -> None:
        claim = await board.acquire("a", WORK)
        await board.give_up(0, "no GPU")
        taking = asyncio.create_task(board.take(claim, 0))
        await asyncio.sleep(0.05)
        assert not taking.done(), "another slot may come up"
        await board.give_up(1, "no GPU either")
        assert await taking == ("lost", "no GPU")

    play(scene, slots=2)


def test_a_slot_that_was_given_up_and_comes_up_again_is_one_that_is_left() -> None:
    async def scene(board: Switchboard) -> None:
        claim = await board.acquire("a", WORK)
        await board.give_up(0, "no GPU")
        life = await board.attach(0)
        await board.give_up(1, "no GPU either")
        taking = asyncio.create_task(board.take(claim, 0))
        assert sequence_in(board, await taken(board, 0, life)) == claim
        await asyncio.sleep(0.05)
        assert not taking.done()
        assert await board.down(0, "its controller ended", excused=True) == (None, True)
        await asyncio.sleep(0.05)
        assert not taking.done(), "its next launch may do"
        await board.give_up(0, "no GPU again")
        assert await taking == ("lost", "no GPU again")

    play(scene, slots=2)


def test_a_slot_is_given_up_until_its_next_launch_has_ended() -> None:
    """It may have ended for want of room, or with its node: then something may still come."""

    async def scene(board: Switchboard) -> None:
        claim = await board.acquire("a", WORK)
        await board.give_up(0, "no GPU")
        assert await board.down(0, "no room", excused=False) == (None, False)
        await board.give_up(1, "no GPU either")
        taking = asyncio.create_task(board.take(claim, 0))
        await asyncio.sleep(0.05)
        assert not taking.done()
        await board.give_up(0, "still no GPU")
        assert await taking == ("lost", "still no GPU")

    play(scene, slots=2)


def test_workers_of_a_slot_that_has_ended_take_nothing_of_the_next_one_with_its_index() -> None:
    """As on a node that the driver has lost sight of."""

    async def scene(board: Switchboard) -> None:
        old = await board.attach(0)
        await board.forget(0)
        await board.expect(0)
        claim, _, work = await begun(board)
        assert sequence_in(board, work) == claim
        assert await board.next(0, old) == "leave"
        assert await board.post(0, old, work.generation, epoch(1)) == "stop"
        await board.beat(0, old, ("steps of epoch 9", 1, 40))
        assert (await board.state()).positions == {}

    play(scene)


def test_workers_whose_slot_has_ended_before_they_were_up_go_home() -> None:
    async def scene(board: Switchboard) -> None:
        await board.forget(0)
        claim = await board.acquire("a", WORK)
        assert await board.next(0, await board.attach(0)) == "leave"
        assert (await board.state()).up == ()
        await board.expect(0)
        assert sequence_in(board, await taken(board, 0, await board.attach(0))) == claim

    play(scene)


def test_closing_sends_workers_home() -> None:
    async def scene(board: Switchboard) -> None:
        life = await board.attach(0)
        waiting = asyncio.create_task(board.next(0, life))
        await asyncio.sleep(0.02)
        await board.close()
        assert await waiting == "leave"

    play(scene)
