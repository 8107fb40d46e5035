"""Evaluations of checkpoints as the work of slots."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from typing import Any

from trainables.running.messages import Evaluation, Work
from tuner.fleet.board import Board
from tuner.fleet.claims import State
from tuner.fleet.conversation import Conversation
from tuner.fleet.joining import joined_slots
from tuner.plan.spec import SearchSpec
from tuner.runs.run import Run

Scored = dict[str, Any]  # as `trainables.running.scoring.scored` returns it


def pieces_of(asked: Sequence[Evaluation]) -> dict[str, Evaluation]:
    """The pieces of work of evaluations: a protocol of a checkpoint each, by a name for its logs."""
    return {
        f"{number}-{protocol}": replace(
            evaluation, protocols=(protocol,), save=evaluation.save if protocol == "linear" else None
        )
        for number, evaluation in enumerate(asked)
        for protocol in evaluation.protocols
    }


def joined(asked: Sequence[Evaluation], results: Mapping[str, Scored]) -> list[Scored]:
    """What each evaluation comes to, from its pieces in the order of its protocols."""
    whole = []
    for number, evaluation in enumerate(asked):
        pieces = [results[f"{number}-{protocol}"] for protocol in evaluation.protocols]
        together: Scored = {**pieces[0], "protocols": [*evaluation.protocols], "saved": evaluation.save}
        for name in ("settings", "scores"):
            together[name] = {key: value for piece in pieces for key, value in piece[name].items()}
        whole.append(together)
    return whole


def score(
    run: Run,
    wanted: SearchSpec,
    asked: Sequence[Evaluation],
    say: Callable[[str], None],
    follow: Callable[[str, int, int | None], None],
    wait: float = 0.0,
) -> list[Scored]:
    """Scores checkpoints on as many slots as there are pieces of work, or as fit, with a Ray session of its own.

    A piece whose worker dies is begun again on another slot.

    Args:
        run: for logs.
        wanted: address of the cluster, and resources of a slot.
        asked: what is asked of each checkpoint.
        say: called with a line for the terminal.
        follow: called with how many pieces are done.
        wait: seconds to wait for a cluster that has no room; 0 to refuse it at once.

    Returns:
        What `trainables.running.scoring.scored` returns, for each evaluation.

    Raises:
        TrialFailure: a piece failed by its own fault.
    """
    pieces = pieces_of(asked)
    with joined_slots(wanted.address, wanted.resources, len(pieces), run, wait, say) as (groups, _):
        results: dict[str, Scored] = {}

        def look(state: State) -> None:
            groups.useful = len(pieces) - len(results)
            follow("protocols scored", len(results), len(pieces))

        def perform(name: str) -> None:
            work = Work(name, pieces[name].plain(), str(run.trial_folder(name)), "evaluate")
            results[name] = _performed(groups.board, work)

        groups.on_look = look
        pool = ThreadPoolExecutor(len(pieces))
        try:
            for done in as_completed([pool.submit(perform, name) for name in pieces]):
                done.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # the others end with the slots
        return joined(asked, results)


def _performed(board: Board, work: Work) -> Scored:
    """What a piece of work comes to, on the slot that takes it.

    Raises:
        TrialFailure: it failed by its own fault.
        SlotLost: no slot is left to run it.
    """
    talk = Conversation(board, work.key, work)
    try:
        report = talk.take()
        assert report is not None, "an evaluation reports before it ends"
        return report.metrics["scored"]
    finally:
        talk.release()
