"""The store: the mirror holds what the journal holds, a draft leaves no trace, and only whole lines count."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from trainables.config.errors import UserError
from tuner.search.storage import Store


@pytest.fixture(autouse=True)
def _no_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Counting(optuna.samplers.RandomSampler):
    """Notes at the study how many trials it has drawn."""

    def before_trial(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        study._storage.set_study_system_attr(study._study_id, "drawn", trial.number + 1)


def asked(store: Store, commit: bool = True) -> int:
    with store.draft(Counting(len(store))) as draft:
        draft.trial.suggest_float("x", 0, 1)
        draft.trial.suggest_categorical("kind", ["a", "b"])
        if commit:
            draft.commit({"values": {}}, {"core:0": {"event": "start"}})
    return len(store) - 1


def fill(store: Store) -> None:
    """Five trials: one running, the others told."""
    for number in range(5):
        assert asked(store) == number
        if number == 4:
            break
        store.set_user_attribute(number, "slot", number)
        store.set_intermediate_value(number, 1, 0.1 * number)
        store.set_system_attribute(number, f"core:{number}", {"event": "epoch"})
        state = TrialState.FAIL if number == 2 else TrialState.COMPLETE
        store.end(number, state, None if number == 2 else [0.5 + number], Counting(number))


def content(trials: list[optuna.trial.FrozenTrial]) -> list[tuple[Any, ...]]:
    return [
        (t.number, t.params, t.distributions, t.state, t.values, t.intermediate_values, t.user_attrs, t.system_attrs)
        for t in trials
    ]


def test_the_mirror_holds_what_the_journal_holds(tmp_path: Path) -> None:
    """Also what it holds after each change, against Optuna's own reading of the file."""
    path = tmp_path / "journal"
    store = Store(path, "maximize")
    fill(store)
    plain = optuna.load_study(
        storage=optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path))),
        study_name="search",
    )
    assert content(store.trials()) == content(plain.trials)
    assert content(Store(path, "maximize").trials()) == content(store.trials())
    assert content(Store(path, "maximize", reading=True).trials()) == content(store.trials())
    assert [t.datetime_complete for t in store.trials()] == [t.datetime_complete for t in plain.trials]


def test_a_store_without_a_journal_holds_the_same(tmp_path: Path) -> None:
    stores = [Store(tmp_path / "journal", "minimize"), Store(None, "minimize")]
    for store in stores:
        fill(store)
    assert content(stores[0].trials()) == content(stores[1].trials())


def test_a_sampler_reads_the_trials_of_the_mirror_without_a_copy(tmp_path: Path) -> None:
    store = Store(tmp_path / "journal", "maximize")
    fill(store)
    read: list[optuna.trial.FrozenTrial] = []

    class Reading(optuna.samplers.RandomSampler):
        def sample_relative(self, study: optuna.Study, trial: Any, search_space: Any) -> dict[str, Any]:
            read.extend(study.get_trials(deepcopy=False))
            return {}

    with store.draft(Reading(0)) as draft:
        draft.trial.suggest_float("x", 0, 1)
    assert len(read) == 6 and all(ours is seen for ours, seen in zip(store.trials(), read, strict=False))


@pytest.mark.parametrize("how", ["raises", "is not committed"])
@pytest.mark.parametrize("known", [None, {"x": 0.25, "kind": "b"}])
def test_a_draft_leaves_no_trace(tmp_path: Path, how: str, known: dict[str, Any] | None) -> None:
    path = tmp_path / "journal"
    store = Store(path, "maximize")
    fill(store)
    before, lines = content(store.trials()), path.read_bytes()
    attributes = dict(store._mirror.get_study_system_attrs(store._id))
    for _ in range(3):
        try:
            with store.draft(Counting(0), known) as draft:
                assert draft.trial.number == 5
                draft.trial.suggest_float("x", 0, 1)
                assert how == "is not committed"
        except AssertionError:
            assert how == "raises"
    assert content(store.trials()) == before and path.read_bytes() == lines
    assert store._mirror.get_study_system_attrs(store._id) == attributes == {"drawn": 5}
    with store.draft(Counting(0), known) as draft:  # the next one is drawn as if there had been none
        assert draft.trial.number == 5
        draft.trial.suggest_float("x", 0, 1)
        draft.commit({}, {})
    assert (store.trial(5).params == {"x": 0.25}) == (known is not None)


def test_a_draft_may_change_the_choices_of_a_name(tmp_path: Path) -> None:
    """A space that is being written: Optuna would refuse another distribution of the same name."""
    store = Store(tmp_path / "journal", "maximize")
    asked(store, commit=False)
    with store.draft(Counting(0)) as draft:
        draft.trial.suggest_categorical("kind", ["c", "d"])
        draft.commit({}, {})
    assert store.trial(0).params["kind"] in ("c", "d")


def journals(tmp_path: Path) -> Iterator[tuple[Path, list[bytes]]]:
    path = tmp_path / "journal"
    fill(Store(path, "maximize"))
    lines = path.read_bytes().splitlines(keepends=True)
    for count in range(len(lines) + 1):
        path.write_bytes(b"".join(lines[:count]))
        yield path, lines[:count]


def test_every_prefix_of_a_journal_can_be_continued(tmp_path: Path) -> None:
    for path, lines in journals(tmp_path):
        store = Store(path, "maximize")
        created = sum(json.loads(line)["op_code"] == 4 for line in lines)
        assert len(store) == created
        assert asked(store) == created
        assert content(Store(path, "maximize").trials()) == content(store.trials())


def test_a_torn_last_line_is_cut_off_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    for path, lines in journals(tmp_path):
        if not lines:
            continue
        torn = b"".join(lines[:-1]) + lines[-1][: len(lines[-1]) // 2]
        path.write_bytes(torn)
        reader = Store(path, "maximize", reading=True)
        assert path.read_bytes() == torn, "a reader leaves no trace"
        store = Store(path, "maximize")
        assert content(reader.trials()) == content(store.trials())
        path.write_bytes(b"".join(lines[:-1]) + b'{"op_code": 4}\n')
        with pytest.raises(UserError, match=f"line {len(lines)} is none of Optuna's"):
            Store(path, "maximize")


def test_a_reader_of_nothing_leaves_nothing(tmp_path: Path) -> None:
    assert Store(tmp_path / "journal", "maximize", reading=True).trials() == []
    assert list(tmp_path.iterdir()) == []


def test_a_study_that_was_stopped_stays_exhausted(tmp_path: Path) -> None:
    class Stopping(Counting):
        def after_trial(self, study: optuna.Study, trial: Any, state: Any, values: Any) -> None:
            study.stop()

    store = Store(tmp_path / "journal", "maximize")
    asked(store)
    assert not store.exhausted
    store.end(0, TrialState.COMPLETE, [1.0], Stopping(0))
    assert store.exhausted and Store(tmp_path / "journal", "maximize").exhausted
