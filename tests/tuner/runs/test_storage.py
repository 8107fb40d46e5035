"""`storage.limit`: what is deleted, in which order, and what never is."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainables.config.errors import UserError
from tuner.commands.main import main
from tuner.plan.spec import parse
from tuner.plan.storage import as_size, bytes_of
from tuner.runs import storage_watch as watches
from tuner.runs.run import BASELINE, Run, why_deleted
from tuner.runs.storage import LEAST_FREE, Checkpoints, Holding, deletions, free_space_warning
from tuner.runs.storage_watch import KnownTrial, StorageWatch

MB = 10**6


@pytest.mark.parametrize(
    ("written", "count"), [("50 GB", 50 * 10**9), ("500MB", 500 * MB), ("1.5 TB", 1_500_000_000_000), ("1 MB", MB)]
)
def test_sizes(written: str, count: int) -> None:
    limit = parse({"storage": {"limit": written}}).storage
    assert (limit.limit, limit.limit_bytes) == (written, count)
    assert bytes_of(as_size(count)) == count
    assert parse({}).storage.limit_bytes is None, "there is no cap by default"


@pytest.mark.parametrize("written", [50, "50", "50 gb", "50 KB", "0.5 MB", "-1 GB", "1e3 GB", "GB", [50]])
def test_what_is_no_size_names_the_rule(written: object) -> None:
    with pytest.raises(
        UserError, match=r"storage\.limit = .*: must be a size with its unit, of at least 1 MB"
    ) as error:
        parse({"storage": {"limit": written}})
    assert "\n" not in str(error.value)


def trial(
    key: str, count: int, ended: bool = True, kept: bool = False, score: float = 0.0, size: int = 10
) -> Checkpoints:
    files = [(Path(f"{key}/step-{n}"), size) for n in range(count)]
    return Checkpoints(key, files, 4, ended, kept, (True, score))


def names(paths: list[Path]) -> list[str]:
    return [f"{path.parent.name}/{path.name[-1]}" for path in paths]


def test_older_files_go_before_newest_ones_and_the_worst_trials_first() -> None:
    trials = [
        trial("a", 2, score=0.5),
        trial("b", 3, score=0.1),
        trial("best", 2, kept=True),
        trial("run", 3, ended=False),
    ]
    assert names(deletions(1, trials)) == ["b/0"]
    assert names(deletions(25, trials)) == ["b/0", "b/1", "a/0"]
    assert names(deletions(31, trials)) == ["b/0", "b/1", "a/0", "b/2"]
    assert names(deletions(10**9, trials)) == ["b/0", "b/1", "a/0", "b/2", "a/1"], "no file of the others"
    assert deletions(0, trials) == []
    assert deletions(-5, trials) == []


def test_trials_without_a_score_go_first() -> None:
    trials = [trial("a", 1, score=-9.0), Checkpoints("failed", [(Path("failed/step-1"), 10)], 4, ended=True)]
    assert names(deletions(1, trials)) == ["failed/1"]


held = st.lists(
    st.builds(
        trial,
        st.integers(0, 99).map(str),
        st.integers(0, 4),
        st.booleans(),
        st.booleans(),
        st.floats(-1, 1),
        st.integers(1, 50),
    ),
    max_size=8,
    unique_by=lambda one: one.key,
)


@given(held, st.integers(-10, 400))
def test_enough_is_deleted_or_all_that_may_be_and_no_file_too_many(trials: list[Checkpoints], excess: int) -> None:
    sizes = {path: size for one in trials for path, size in one.files}
    free = [one for one in trials if one.ended and not one.kept]
    deleted = deletions(excess, trials)
    assert set(deleted) <= {path for one in free for path, _ in one.files}
    assert len(set(deleted)) == len(deleted)
    freed = sum(sizes[path] for path in deleted)
    assert freed >= min(excess, sum(one.size for one in free))
    if deleted:
        assert freed - sizes[deleted[-1]] < excess, "the last one was needed"
    for one in free:
        if one.files and one.files[-1][0] in deleted:
            assert {path for other in free for path, _ in other.files[:-1]} <= set(deleted), "older ones go first"


def test_what_trials_will_write_is_foreseen() -> None:
    holding = Holding(100, [trial("a", 1, ended=False), trial("b", 4, ended=False)], untrained=3)
    assert holding.growth(["a", "b"], 0) == 3 * 10, "b has all the files that it may have"
    assert holding.growth(["a", "new"], 1) == 30 + 40 + 40
    assert Holding(0, [trial("a", 0, ended=False)], untrained=3).growth(["a"], 0) == 4 * 6, "no trained one was seen"


@pytest.mark.parametrize(
    ("free", "size", "running", "warned"),
    [
        (LEAST_FREE, 10, ["a"], False),
        (LEAST_FREE - 1, 10, ["a"], True),
        (LEAST_FREE - 1, 10, [], True),
        (3 * LEAST_FREE, 2 * LEAST_FREE, ["a"], True),
        (3 * LEAST_FREE, 2 * LEAST_FREE, [], False),
    ],
)
def test_a_disc_with_little_room_is_warned_of(free: int, size: int, running: list[str], warned: bool) -> None:
    warning = free_space_warning(free, running, Holding(0, [trial("a", 1, False, size=size)]), Path("/runs/x"))
    assert bool(warning) == warned
    assert "\n" not in warning
    if warned:
        assert "/runs/x" in warning
        assert as_size(free) in warning


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", "search", {}, 0)


def write(run: Run, key: str, *steps: int, size: int = MB) -> None:
    run.trial_folder(key).mkdir(exist_ok=True)
    for step in steps:
        (run.trial_folder(key) / f"step-{step:010d}.safetensors").write_bytes(b"x" * size)
    (run.trial_folder(key) / "rank-0.log").write_text("log")


def left(run: Run, key: str) -> list[str]:
    files = run.trial_folder(key).glob("step-*.safetensors")
    return sorted(path.name.lstrip("step-0").partition(".")[0] for path in files)


def known(ended: bool = True, kept: bool = False, score: float = 0.0) -> KnownTrial:
    return KnownTrial(3, ended, kept, (True, score))


def test_the_limit_is_kept(run: Run) -> None:
    for key in ("0000", "0001", "0002"):
        write(run, key, 5, 10)
    write(run, "0003", 5)
    trials = {"0000": known(kept=True), "0001": known(score=0.2), "0002": known(score=0.1), "0003": known(ended=False)}
    watch = StorageWatch(run)
    watch.look("20 MB", trials, ["0003"], more=True)
    assert left(run, "0001") == left(run, "0002") == ["10", "5"], "there is room for all"
    assert not watch.full
    assert not watch.refuses(["0003"])
    watch.look("10.1 MB", trials, ["0003"], more=True)  # 7 now, 2 more of 0003, 3 of another trial
    assert (left(run, "0002"), left(run, "0001")) == (["10"], ["10"])
    assert not watch.refuses(["0003"])
    watch.look("8.1 MB", trials, ["0003"], more=False)
    assert (left(run, "0002"), left(run, "0001")) == (["10"], ["10"]), "nothing else is to come"
    watch.look("8.1 MB", trials, ["0003"], more=True)
    assert (left(run, "0002"), left(run, "0001")) == ([], [])
    assert left(run, "0000") == ["10", "5"]
    assert left(run, "0003") == ["5"]
    assert why_deleted(run.trial_folder("0001")) == "deleted for storage.limit = 8.1 MB"
    assert not why_deleted(run.trial_folder("0000"))
    assert (run.trial_folder("0001") / "rank-0.log").exists()
    assert not watch.full
    assert not watch.refuses(["0003"])
    why = watch.refuses(["0003", "0004"])
    assert "storage.limit = 8.1 MB: the run holds 3" in why
    assert "'storage.limit=16.2 MB'" in why
    assert "\n" not in why
    watch.look("2 MB", trials, ["0003"], more=True)
    assert "the run holds 3" in watch.full
    watch.look(None, trials, ["0003"], more=True)
    assert not watch.full
    assert not watch.refuses(["0003", "0004"])


def test_the_limit_that_a_full_run_proposes_is_enough(run: Run) -> None:
    for key in ("0000", "0001"):
        write(run, key, 5)
    trials = {key: known(ended=False) for key in ("0000", "0001")}
    watch = StorageWatch(run)
    watch.look("1 MB", trials, ["0000"], more=True)
    (proposed,) = re.findall("storage.limit=([^']*)'", watch.full)
    watch.look(proposed, trials, ["0000"], more=True)
    assert not watch.full
    assert not watch.refuses(["0000"])


def test_the_untrained_encoder_tells_the_size_of_a_first_checkpoint(run: Run) -> None:
    write(run, BASELINE, 0)
    watch = StorageWatch(run)
    watch.look("4 MB", {}, [], more=True)
    assert not watch.refuses([]), "how many files a trial has is not known yet"
    watch.look("4 MB", {"0000": known(ended=False)}, ["0000"], more=True)
    assert watch.refuses(["0000"])
    assert not watch.full


def test_a_checkpoint_that_is_pinned_is_kept(run: Run) -> None:
    write(run, "0000", 5, 10)
    (run.trial_folder("0000") / "step-0000000005.safetensors.pin-0007").touch()
    StorageWatch(run).look("1 MB", {"0000": known()}, [], more=False)
    assert left(run, "0000") == ["5"]


def test_a_watch_warns_of_a_disc_with_little_room(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = StorageWatch(run)
    watch.look(None, {}, [], more=True)
    assert not watch.warning
    monkeypatch.setattr(watches.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 5 * MB}))
    watch.look(None, {}, [], more=True)
    assert "5 MB left" in watch.warning


def test_a_trial_whose_checkpoints_were_deleted_is_not_evaluated(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    write(run, "0000", 5)
    StorageWatch(run).look("1 MB", {"0000": known()}, [], more=False)
    assert main(["evaluate", str(run.trial_folder("0000"))]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "has no checkpoint any more: deleted for storage.limit = 1 MB" in line
