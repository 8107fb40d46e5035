"""Slots that are lent to a trial and taken back, without Ray: the conversations of workers with the switchboard."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable

import pytest

from tests.tuner.fleet.boards import board_of
from trainables.running.messages import Assignment, EpochReport, Outcome, Work
from tuner.fleet.claims import Claim
from tuner.fleet.switchboard import Switchboard

STORES = [(f"10.0.0.{slot}", 1000 + slot) for slot in range(6)]
LEFT: Outcome = ("left", None)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("switchboard.FAULT_WAIT", "switchboard.LINK_WAIT", "roster.HANG_WAIT", "roster.STACKS_WAIT"):
        monkeypatch.setattr(f"tuner.fleet.{name}", 0.1)
    monkeypatch.setattr("tuner.fleet.switchboard.NEXT_WAIT", 0.5)
    monkeypatch.setattr("tuner.fleet.roster.KEEP_WAIT", 0.2)


def play(scene: Callable[[Switchboard], Awaitable[None]], slots: int = 2, patience: float = 60) -> None:
    async def run() -> None:
        await asyncio.wait_for(scene(await board_of(slots, 3, patience)), 30)

    asyncio.run(run())


def work(key: str) -> Work:
    return Work(key, {}, "-")


class Slot:
    """The first worker of a slot, as a test moves it."""

    def __init__(self, board: Switchboard, slot: int, node: str = "n"):
        self.board, self.slot, self.node, self.life = board, slot, node, 0
        self.asking: asyncio.Task[object] | None = None
        self.got: Assignment | None = None

    async def attach(self) -> "Slot":
        self.life = await self.board.attach(self.slot, f"group {self.slot}", [self.node], STORES[self.slot])
        return self.ask()

    def ask(self) -> "Slot":
        self.asking = asyncio.create_task(self.board.next(self.slot, self.life))
        return self

    async def take(self) -> Assignment:
        assert self.asking is not None
        answer = await self.asking
        assert isinstance(answer, Assignment), answer
        self.got = answer
        return answer

    @property
    def number(self) -> int:
        assert self.got is not None
        return self.got.generation

    async def wanted(self) -> str:
        return await self.board.wanted(self.slot, self.life, self.number)

    async def leave(self, outcome: Outcome = LEFT) -> "Slot":
        await self.board.acknowledge(self.slot, self.life, self.number, outcome)
        return self.ask()

    async def lose_link(self, rank: int, workers: int) -> Outcome | None:
        return await self.board.fault(self.slot, self.life, self.number, rank, workers, "link", "closed by peer")


async def wide(board: Switchboard) -> tuple[Slot, Slot]:
    """A trial that two slots train together."""
    await board.resize({"a": (1, 2)})
    one, two = await Slot(board, 0, "x").attach(), await Slot(board, 1, "y").attach()
    await asyncio.sleep(0.02)
    await board.acquire("a", work("a"))
    first, second = await one.take(), await two.take()
    assert first.generation == second.generation
    return one, two


def test_two_slots_train_one_trial_under_the_store_of_the_first() -> None:
    async def scene(board: Switchboard) -> None:
        one, two = await wide(board)
        assert one.got is not None
        assert two.got is not None
        assert (one.got.place, one.got.members, one.got.store) == (0, 2, STORES[0])
        assert (two.got.place, two.got.members, two.got.store) == (1, 2, STORES[0])
        assert one.got.owner == two.got.owner
        assert [slot.trial for slot in (await board.state()).slots] == ["a", "a"]
        assert (await board.state()).busy == 1

    play(scene)


def test_a_slot_of_a_trial_that_is_over_says_so_until_its_workers_have_left_it() -> None:
    async def scene(board: Switchboard) -> None:
        one, two = await wide(board)

        async def shown() -> list[tuple[str | None, bool]]:
            return [(slot.trial, slot.over) for slot in (await board.state()).slots]

        assert await shown() == [("a", False), ("a", False)]
        await board.release("a")
        assert await shown() == [("a", True), ("a", True)], "its workers still have it"
        await one.leave()
        assert await shown() == [(None, False), ("a", True)]
        await two.leave()
        assert await shown() == [(None, False), (None, False)]

    play(scene)


def test_a_free_slot_is_lent_to_a_trial_in_the_middle_of_an_epoch() -> None:
    async def scene(board: Switchboard) -> None:
        claim = await board.acquire("a", work("a"))
        one, two = await Slot(board, 0).attach(), await Slot(board, 1).attach()
        assert (await one.take()).members == 1
        taking = asyncio.create_task(board.take(claim, 0))
        listening = asyncio.create_task(one.wanted())
        await asyncio.sleep(0.05)
        assert not listening.done()
        await board.resize({"a": (1, 2)})
        assert await listening == "leave"
        await one.leave()
        first, second = await one.take(), await two.take()
        assert (first.place, second.place, first.generation) == (0, 1, second.generation), "it keeps its own lead"
        assert first.attempt == 1, "a resize is no attempt"
        posting = asyncio.create_task(board.post(0, one.life, one.number, EpochReport("a", 0, {"epoch": 1})))
        assert (await taking)[0] == "report"
        posting.cancel()

    play(scene)


def test_a_lent_slot_is_given_back_for_a_trial_that_waits() -> None:
    async def scene(board: Switchboard) -> None:
        one, two = await wide(board)
        second = await board.acquire("b", work("b"))
        assert second is not None
        await board.resize({"a": (1,)})
        taking = asyncio.create_task(board.take(1, 0))
        assert await one.wanted() == "leave"
        await one.leave()
        await two.leave()
        got = [await one.take(), await two.take()]
        assert sorted(answer.work.key for answer in got) == ["a", "b"]
        assert [answer.members for answer in got] == [1, 1]
        taking.cancel()

    play(scene)


def test_every_trial_gets_a_slot_before_any_gets_two() -> None:
    async def scene(board: Switchboard) -> None:
        await board.resize({"a": (1, 2, 3), "b": (1, 2)})
        await board.acquire("a", work("a"))
        await board.acquire("b", work("b"))
        slots = [Slot(board, slot) for slot in range(3)]
        board.roster.closed = True  # until all three are there
        for slot in slots:
            await slot.attach()
        await asyncio.sleep(0.02)
        board.roster.closed = False
        await board.resize({})
        got = [await slot.take() for slot in slots]
        assert sorted(answer.work.key for answer in got) == ["a", "a", "b"]

    play(scene, slots=3)


@pytest.mark.parametrize("dead", [0, 1], ids=["lead", "member"])
def test_the_survivor_of_a_lost_slot_goes_on_at_once(dead: int) -> None:
    async def scene(board: Switchboard) -> None:
        both = await wide(board)
        survivor = both[1 - dead]
        before = survivor.number
        outcome = await survivor.lose_link(rank=1 - dead, workers=2)
        assert outcome is not None
        assert outcome[0] == "left"
        assert await board.next(dead, both[dead].life) == "leave", "who does not answer is fenced"
        assert await board.post(dead, both[dead].life, before, EpochReport("a", 0, {"epoch": 1})) == "stop"
        await survivor.leave(outcome)
        again = await survivor.take()
        assert (again.members, again.place, again.attempt) == (1, 0, 2)
        assert again.generation > before
        await both[dead].attach()
        assert await survivor.wanted() == "leave", "it is widened again when the slot is back"

    play(scene)


def test_a_survivor_that_notices_nothing_is_ended() -> None:
    """Such as one whose peer's machine lost its power: no connection is closed."""

    async def scene(board: Switchboard) -> None:
        one, two = await wide(board)
        listening = asyncio.create_task(one.wanted())
        assert [ended.slot for ended in await board.watch(["y"])] == [1]
        assert await listening == "gone"
        await asyncio.sleep(0.15)
        assert [(ended.slot, ended.why) for ended in await board.watch(["y"])] == [(0, "node y is lost")]
        assert (await board.state()).waiting == 1
        again = await (await one.attach()).take()
        assert (again.attempt, again.members) == (1, 1), "a lost node is no attempt of the trial"
        del two

    play(scene)


def test_a_trial_at_fault_fails_on_all_of_its_slots() -> None:
    async def scene(board: Switchboard) -> None:
        one, two = await wide(board)
        failing = board.fault(0, one.life, one.number, 0, 2, "trial", "ValueError: x")
        assert await asyncio.gather(failing, two.lose_link(1, 2)) == [("error", "ValueError: x")] * 2
        await one.leave(("error", "ValueError: x"))
        await two.leave(("error", "ValueError: x"))
        assert await board.take(1, 0) == ("error", "ValueError: x")
        await board.release("a")
        await board.acquire("b", work("b"))
        assert (await one.take()).work.key == "b", "the slots live"

    play(scene)


@pytest.mark.parametrize("way", ["retire", "drain"])
def test_a_slot_that_is_to_go_is_left_first(way: str) -> None:
    async def scene(board: Switchboard) -> None:
        one, two = await wide(board)
        taking = asyncio.create_task(board.take(1, 0))
        if way == "retire":
            await board.retire([1], "another search waits")
        else:
            assert await board.watch([], ["y"]) == []
        assert await one.wanted() == "leave"
        await two.leave()
        await one.leave()
        assert two.asking is not None
        assert await two.asking == "leave"
        again = await one.take()
        assert (again.members, again.attempt) == (1, 1)
        taking.cancel()

    play(scene)


def test_an_idle_slot_that_is_to_go_goes_at_once() -> None:
    async def scene(board: Switchboard) -> None:
        idle = await Slot(board, 0).attach()
        await asyncio.sleep(0.02)
        await board.retire([0, 1], "too many")
        assert idle.asking is not None
        assert await idle.asking == "leave"
        late = await Slot(board, 1).attach()
        assert late.asking is not None
        assert await late.asking == "leave", "also one that was not up yet"
        await board.forget(0)
        await board.forget(1)
        assert (await board.state()).slots == ()

    play(scene)


def test_a_search_that_is_interrupted_leaves_all_trials_with_a_checkpoint() -> None:
    async def scene(board: Switchboard) -> None:
        one, two = await wide(board)
        halting = asyncio.create_task(board.halt())
        assert await one.wanted() == "leave"
        await one.leave()
        await asyncio.sleep(0.02)
        assert not halting.done()
        await two.leave()
        await halting
        assert await one.asking == "ask again" if one.asking else False, "nothing is started any more"

    play(scene)


def test_workers_without_progress_are_asked_for_their_stacks_first() -> None:
    async def scene(board: Switchboard) -> None:
        await board.acquire("a", work("a"))
        one = await Slot(board, 0).attach()
        await one.take()
        listening = asyncio.create_task(one.wanted())
        await asyncio.sleep(0.15)
        assert await board.watch([]) == []
        assert await listening == "stacks"
        assert await board.wanted(0, one.life, one.number, True) == "ask again"
        await asyncio.sleep(0.15)
        assert [ended.why for ended in await board.watch([])] == ["no progress for 0.1 seconds"]

    play(scene, slots=1, patience=0.1)


def test_a_trial_that_was_left_after_its_last_epoch_is_not_started_again() -> None:
    async def scene(board: Switchboard) -> None:
        claim = await board.acquire("a", work("a"))
        one = await Slot(board, 0).attach()
        await one.take()
        taking = asyncio.create_task(board.take(claim, 0))
        posting = asyncio.create_task(board.post(0, one.life, one.number, EpochReport("a", 0, {"epoch": 1})))
        await taking
        await Slot(board, 1).attach()
        await asyncio.sleep(0.02)
        await board.resize({"a": (1, 2)})
        assert await posting == "leave"
        await one.leave()
        await asyncio.sleep(0.05)
        assert one.asking is not None
        assert not one.asking.done()
        await board.release("a")
        await board.acquire("b", work("b"))
        assert (await one.take()).work.key == "b"

    play(scene)


@pytest.mark.parametrize("seed", range(20))
def test_trials_end_whole_whatever_happens_to_slots(seed: int) -> None:
    """Workers that die, stop to answer, come back and are lent about: each trial hears each epoch once, in order."""
    dice = random.Random(seed)
    epochs, names = 6, [f"{number}" for number in range(5)]

    async def slot_lives(board: Switchboard, slot: int, checkpoints: dict[str, int]) -> None:
        while not board.closed:
            life = await board.attach(slot, None, [f"node {slot}"], STORES[slot])
            while True:
                got = await board.next(slot, life)
                if got == "ask again":
                    continue
                if not isinstance(got, Assignment):
                    break
                if await trained(board, slot, life, got, checkpoints) == "dead":
                    break
            await asyncio.sleep(dice.uniform(0.01, 0.1))

    async def trained(board: Switchboard, slot: int, life: int, got: Assignment, checkpoints: dict[str, int]) -> str:
        """One generation of a slot of one worker; its members keep step through the counts of the test."""
        key = got.work.key
        while True:
            await asyncio.sleep(dice.uniform(0.001, 0.01))
            if dice.random() < 0.02:
                return "dead"
            asked = await asyncio.wait_for(board.wanted(slot, life, got.generation), 1) if dice.random() < 0.2 else ""
            if asked == "gone":
                if dice.random() < 0.2:
                    return "dead"  # it did not notice in time
                outcome = await board.fault(slot, life, got.generation, got.place, got.members, "link", "closed")
                if outcome is None:
                    return "dead"
                await board.acknowledge(slot, life, got.generation, outcome)
                return "left"
            if asked == "leave":
                await board.acknowledge(slot, life, got.generation, LEFT)
                return "left"
            if got.place:
                continue
            checkpoints[key] = max(checkpoints.get(key, 0), 1)
            for epoch in range(1, checkpoints[key] + 1):
                going = await board.post(slot, life, got.generation, EpochReport(key, slot, {"epoch": epoch}))
                if going != "on":
                    break
            if going == "on":
                checkpoints[key] = min(epochs, checkpoints[key] + 1)
                continue
            await board.acknowledge(slot, life, got.generation, ("end", None) if going == "stop" else LEFT)
            return "left"

    async def trial(board: Switchboard, key: str) -> list[int]:
        claim = await board.acquire(key, work(key))
        assert claim is not None
        heard: list[int] = []
        while len(heard) < epochs:
            kind, report = await board.take(claim, len(heard))
            assert isinstance(report, EpochReport), (kind, report)
            heard.append(report.epoch)
        await board.release(key)
        return heard

    async def lend(board: Switchboard) -> None:
        while True:
            await asyncio.sleep(0.02)
            await board.resize({key: dice.choice([(1,), (1,), (1, 2), (1, 2, 3), (1, 3)]) for key in names})
            _held_once(board.roster.claims.values())
            await board.watch([])

    async def scene() -> None:
        board = await board_of(3, attempts=1000)
        checkpoints: dict[str, int] = {}
        slots = [asyncio.create_task(slot_lives(board, slot, checkpoints)) for slot in range(3)]
        lending = asyncio.create_task(lend(board))
        heard = await asyncio.gather(*(trial(board, key) for key in names))
        assert heard == [[*range(1, epochs + 1)]] * len(names)
        lending.cancel()
        await board.close()
        for task in slots:
            task.cancel()

    asyncio.run(asyncio.wait_for(scene(), 60))


def _held_once(claims: Iterable[Claim]) -> None:
    """No life trains two claims."""
    lives = [life for claim in claims if claim.generation for life in claim.generation.present]
    assert len(lives) == len(set(lives))


def test_a_trial_holds_only_numbers_of_slots_that_it_may_hold() -> None:
    """As one of six shards that may have 1, 2, 3 or 6 slots: 4 or 5 would be no faster than 3."""

    async def scene(board: Switchboard) -> None:
        await board.resize({"a": (1, 2, 3, 6)})
        board.roster.closed = True  # until all are there
        slots = [await Slot(board, slot).attach() for slot in range(5)]
        await asyncio.sleep(0.02)
        board.roster.closed = False
        await board.acquire("a", work("a"))
        got = [slot for slot in slots if (await board.state()).slots[slot.slot].trial == "a"]
        assert [(await slot.take()).members for slot in got] == [3] * 3
        (claim,) = board.roster.claims.values()
        assert claim.generation is not None
        assert claim.generation.leaving == "", "the two that are free are too few for it"
        await Slot(board, 5).attach()
        assert await got[0].wanted() == "leave"
        assert claim.generation.leaving == "a slot is free for it"

    play(scene, slots=6)


@pytest.mark.parametrize("waits", [True, False])
def test_a_trial_that_gives_slots_back_says_why(waits: bool) -> None:
    async def scene(board: Switchboard) -> None:
        await wide(board)
        if waits:
            await board.acquire("b", work("b"))
        await board.resize({"a": (1,)})
        (why,) = [claim.generation.leaving for claim in board.roster.claims.values() if claim.generation]
        assert why == ("another trial needs its slots" if waits else "it goes on with fewer slots")

    play(scene)


def test_while_trials_are_held_they_are_left_and_none_starts() -> None:
    """As when a run holds more than `storage.limit` allows."""

    async def scene(board: Switchboard) -> None:
        one = await Slot(board, 0).attach()
        claim = await board.acquire("a", work("a"))
        assert claim is not None
        epoch = asyncio.create_task(board.take(claim, 0))
        await one.take()
        await board.hold("/run: holds 2 GB")
        assert await one.wanted() == "leave"
        await one.leave()
        await board.acquire("b", work("b"))
        two = await Slot(board, 1).attach()
        await asyncio.sleep(0.1)
        state = await board.state()
        assert (state.busy, state.waiting, state.postponed) == (0, 2, "/run: holds 2 GB")
        await board.hold("")
        assert {(await slot.take()).work.key for slot in (one, two)} == {"a", "b"}
        assert (await board.state()).postponed == ""
        epoch.cancel()

    play(scene)
