"""What TensorBoard shows of a search, read back through its own backend."""

import resource
import shutil
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from PIL import Image
from tensorboard.util.tensor_util import make_ndarray

from tests.tuner.boards import HParams, curves, descriptions, events_of, picture, run_of, text
from tests.tuner.report import traced
from tests.tuner.report.test_searched import ORDER, TEACHER
from trainables.config import trial as c
from trainables.running import fit as train
from tuner.plan import points
from tuner.plan import spec as specs
from tuner.plan.objective import Objective
from tuner.report.tags import tags_of
from tuner.report.tensorboard import TensorBoard, TrialWriter
from tuner.runs.run import BASELINE, Run
from tuner.search.study import Proposal, Study

METRICS = ["knn_top1", "best knn_top1", "epochs", "collapsed"]
SCORES = [0.5, 0.75, 0.625]


def metrics(epoch: int, score: float, **more: Any) -> dict[str, Any]:
    """Of an epoch of 40 steps, as a worker reports them."""
    return {
        **{
            "epoch": float(epoch),
            "step": 40.0 * epoch,
            "loss": 3.0 - epoch,
            "knn_top1": score,
            "knn1_top1": score / 2,
            "embedding_std": 0.5,
        },
        **{"teacher_distance": 0.1, "momentum": 0.99, "alpha": 0.25, "p": 0.7, "lr": 0.1, "weight_decay": 1e-4},
        "loss_curve": [[40.0 * (epoch - 1) + 2 * n, 3.0 - epoch + 0.01 * n] for n in range(1, 21)],
        **{"monitor/distance/fc1": 0.2, "monitor/statistics/mean": 0.3, "monitor/embedding/effective_rank": 5.0},
        **{"monitor/filter/student/0/x": 1.0, "monitor/filter/teacher/0/x": 2.0},
        **{"time/images_per_second": 100.0, "time/first_step_at": 1e9, "time/measured_at": 1e9 + 60 * epoch},
        **more,
    }


class Search:
    """A search whose trials are not trained: the board hears what the fleet would tell it."""

    def __init__(self, folder: Path, **changes: Any):
        self.spec = specs.parse({"trial": {"data": {"name": "digits"}, "train": {"epochs": 3}}, **changes})
        self.space = points.load(self.spec) if self.spec.table else TEACHER
        self.run = Run.create(folder / "run", "search", self.spec.plain(), 0)
        self.run.write_baseline(
            {"epoch": 0.0, "step": 0.0, "knn_top1": 0.25, "knn1_top1": 0.2, "trial": BASELINE, "slot": 0}
        )
        self.views(BASELINE, 10)
        self.open()

    def open(self) -> None:
        """A session of the driver begins."""
        self.study = Study(self.run.journal, self.spec, self.space)
        self.board = TensorBoard(self.run, self.study)

    def views(self, key: str, side: int) -> None:
        self.run.trial_folder(key).mkdir()
        Image.new("RGB", (side, side)).save(self.run.trial_views(key))

    def start(self, proposal: Proposal | None = None) -> Proposal:
        proposal = proposal or self.study.ask()
        assert proposal is not None
        self.board.trial_began(proposal)
        return proposal

    def hear(self, trial: Proposal, scores: list[float], **more: Any) -> None:
        for epoch, score in enumerate(scores, start=1):
            self.board.epoch_heard(trial, metrics(epoch, score, **more))

    def end(self, trial: Proposal, error: str | None = None) -> None:
        self.board.trial_ended(trial, error)

    @property
    def folder(self) -> Path:
        return self.run.tensorboard_folder

    def curves(self, key: str) -> dict[str, list[tuple[int, float]]]:
        return curves(run_of(self.folder, key))


@pytest.fixture
def search(tmp_path: Path) -> Search:
    return Search(tmp_path)


def test_hparams_has_what_was_searched_in_the_order_of_the_space_for_trials_of_all_states(search: Search) -> None:
    """Complete, failed before its first epoch, stopped, running, and one whose driver was killed before its end."""
    complete, failed, stopped, running, _ = (search.start() for _ in range(5))
    search.hear(complete, SCORES)
    search.end(complete)
    search.end(failed, "the loss is nan in epoch 1")
    search.hear(stopped, SCORES[:1], embedding_std=0.01)
    search.end(stopped)
    search.hear(running, SCORES[:2])
    board = HParams(search.folder)
    assert board.columns == ORDER and board.metrics == METRICS
    assert list(board.rows) == [
        "0000 default",
        "0001 momentum alpha 1",
        "0002 sts p 0.7",
        "0003 eman",
        "0004 projector",
    ]
    first, second, third, fourth, fifth = board.rows.values()
    assert first == {
        **{"smoothing": "tma", "momentum": "cosine", "momentum.base": 0.99, "norm": "batch", "placement": "whole"},
        **{"knn_top1": 0.625, "best knn_top1": 0.75, "epochs": 3.0, "collapsed": 0.0, "status": "success"},
    }
    assert (
        second["norm.alpha.base"] == 1.0
        and second["epochs"] == 0
        and "knn_top1" not in second
        and second["status"] == "failure"
    )
    assert third["smoothing.p"] == 0.7 and third["status"] == "success"
    assert [third[name] for name in METRICS] == [0.5, 0.5, 1, 1], "it had collapsed"
    assert [fourth[name] for name in METRICS] == [0.75, 0.75, 2, 0] and fourth["status"] == "unknown"
    assert fifth["placement"] == "projector" and fifth["epochs"] == 0 and fifth["status"] == "unknown"


def test_hparams_of_a_table_has_point_and_seed_first(tmp_path: Path) -> None:
    table = {"EMA": {}, "beta = 0": {"teacher.momentum": 0}}
    search = Search(tmp_path, points=table, seeds=2, objective={"metric": "loss"})
    for _ in range(4):
        trial = search.start()
        search.hear(trial, SCORES)
        search.end(trial)
    board = HParams(search.folder)
    assert board.columns == ["point", "seed", "momentum", "momentum.base"] and board.metrics[:2] == [
        "loss",
        "best loss",
    ]
    assert list(board.rows) == ["0000 EMA seed 0", "0001 beta = 0 seed 0", "0002 EMA seed 1", "0003 beta = 0 seed 1"]
    assert [(row["point"], row["seed"], row["momentum.base"]) for row in board.rows.values()] == [
        *[("EMA", 0.0, 0.99), ("beta = 0", 0.0, 0.0), ("EMA", 1.0, 0.99), ("beta = 0", 1.0, 0.0)]
    ]
    assert board.rows["0000 EMA seed 0"]["loss"] == board.rows["0000 EMA seed 0"]["best loss"] == 0.0


def test_curves_of_a_trial(search: Search) -> None:
    """The score is the first group, the loss has points within epochs, monitors stand with the network they watch."""
    trial = search.start()
    search.hear(trial, SCORES)
    search.hear(trial, SCORES)  # told again, as after a death of the trial's actor
    found = search.curves("0000")
    assert sorted({tag.partition("/")[0] for tag in found}) == ["score", "student", "teacher", "train"]
    assert found["score/knn_top1"] == [(40, 0.5), (80, 0.75), (120, 0.625)] and found["score/knn1_top1"][0] == (
        40,
        0.25,
    )
    assert found["score/best"] == [(40, 0.5), (80, 0.75), (120, 0.75)] and found["train/epoch"] == [
        (0, 0),
        (40, 1),
        (80, 2),
        (120, 3),
    ]
    assert [step for step, _ in found["train/loss"]] == [*range(2, 121, 2)]
    assert found["train/loss"][21][1] == pytest.approx(1.02)
    assert found.keys() >= {
        "teacher/distance/fc1",
        "teacher/statistics/mean",
        "student/embedding/effective_rank",
        "student/embedding_std",
    }
    assert found["student/filter/0/x"][0] == (40, 1) and found["teacher/filter/0/x"][0] == (40, 2)
    said = descriptions(run_of(search.folder, "0000"))
    assert all(said[tag] for tag in found) and "share" in said["score/knn_top1"].lower()


def test_every_metric_of_a_real_trial_has_a_place_and_a_description(tmp_path: Path) -> None:
    """With all monitors and protocols that need no test data."""
    small = {
        "encoder": {"name": "resnet10", "width": 4, "projector": {"hidden": 2, "out": 8}},
        "method": {"predictor_hidden": 8},
    }
    data = {
        "data": {"name": "digits", "train_images": 32, "validation_images": 16},
        "train": {"epochs": 2, "batch_size": 16, "shard_size": 8},
    }
    scored = {
        "protocols": ["knn", "label_free", "linear"],
        "linear": {"epochs": 1},
        "label_free": {"images": 8, "views": 2},
    }
    monitors = list(get_args(c.Monitor))
    teacher = {"norm": {"kind": "momentum"}, "smoothing": {"kind": "sts"}}
    config = c.parse({**small, **data, "evaluation": scored, "monitors": monitors, "teacher": teacher})
    _, metrics = train.fit(config, tmp_path, lambda metrics: "on")
    tags = tags_of(metrics, config.teacher)
    without = {"epoch", "step", "loss", "loss_curve", "validation_images", "time/first_step_at", "time/measured_at"}
    assert tags.keys() == metrics.keys() - without and len({tag.name for tag in tags.values()}) == len(tags)
    assert {tag.name.partition("/")[0] for tag in tags.values()} == {"score", "student", "teacher", "train"}
    assert all(tag.text.endswith(".") for tag in tags.values())


@pytest.mark.parametrize(
    ("teacher", "shown"),
    [
        ({}, {"momentum"}),
        ({"norm": {"kind": "momentum"}}, {"momentum", "alpha"}),
        ({"smoothing": {"kind": "sts"}}, {"momentum", "p"}),
        ({"smoothing": {"kind": "se"}}, {"p"}),
        ({"placement": "none"}, set()),
    ],
)
def test_no_curve_for_what_a_teacher_does_not_use(tmp_path: Path, teacher: dict[str, Any], shown: set[str]) -> None:
    config = c.parse({"teacher": teacher})
    writer = TrialWriter(tmp_path / "trial", config, Objective())
    writer.add(metrics(1, 0.5))
    writer.close()
    found = {tag for tag in curves(tmp_path / "trial") if tag.startswith("teacher/")}
    assert {tag.removeprefix("teacher/") for tag in found} & {"momentum", "alpha", "p"} == shown
    assert ("teacher/distance_to_student" in found) == bool(config.teacher.placement)
    assert config.teacher.placement or not found


def test_a_history_without_points_of_the_loss_has_one_for_each_epoch(search: Search) -> None:
    trial = search.start()
    search.hear(trial, SCORES[:2], loss_curve=None)
    assert search.curves("0000")["train/loss"] == [(40, 2.0), (80, 1.0)]


def test_the_untrained_encoder_is_a_line_as_long_as_the_longest_trial(tmp_path: Path) -> None:
    search = Search(tmp_path, points={"short": {}, "long": {"train.epochs": 5}})
    short, long = search.start(), search.start()
    search.hear(short, SCORES[:1])
    assert curves(search.folder / BASELINE)["score/knn_top1"] == [(step, 0.25) for step in (0, 40, 80, 120)]
    search.hear(long, SCORES)
    found = curves(search.folder / BASELINE)
    assert found["score/knn_top1"] == found["score/best"] == [(step, 0.25) for step in range(0, 201, 40)]
    assert found.keys() == {"score/knn_top1", "score/knn1_top1", "score/best"}


def test_configurations_are_texts_that_can_be_read_back(search: Search) -> None:
    trial = search.start()
    shown = text(run_of(search.folder, "0000"), "configuration")
    assert shown.startswith("```yaml\n") and shown.endswith("```")
    assert yaml.safe_load(shown.removeprefix("```yaml\n").removesuffix("```")) == trial.config.plain()
    whole = text(search.folder / BASELINE, "search")
    assert specs.parse(yaml.safe_load(whole.removeprefix("```yaml\n").removesuffix("```"))) == search.spec


def test_views_are_shown_once_and_again_where_the_augmentation_differs(tmp_path: Path) -> None:
    search = Search(
        tmp_path, points={"as it is": {}, "turned": {"views.turn": 45}, "another teacher": {"teacher.momentum": 0}}
    )
    trials = [search.start() for _ in range(3)]
    for side, trial in enumerate(trials, start=11):
        search.views(trial.key, side)
        search.hear(trial, SCORES)
    assert picture(search.folder / BASELINE) == search.run.trial_views(BASELINE).read_bytes()
    shown = [picture(run_of(search.folder, key)) for key in ("0000", "0001", "0002")]
    assert shown == [None, search.run.trial_views("0001").read_bytes(), None]


def test_a_session_that_goes_on_keeps_folders_also_of_earlier_versions(search: Search) -> None:
    """A folder that was called by the key alone, and one whose name was made by other rules; nothing is there twice."""
    trials = [search.start() for _ in range(2)]
    for trial in trials:
        search.hear(trial, SCORES[:2])
    run_of(search.folder, "0000").rename(search.folder / "0000")
    run_of(search.folder, "0001").rename(search.folder / "0001 as it was called")
    search.open()
    for proposal in search.study.interrupted():
        search.hear(search.start(proposal), SCORES)
    search.hear(search.start(), SCORES[:1])
    assert sorted(path.name for path in search.folder.iterdir()) == [
        "0000",
        "0001 as it was called",
        "0002 sts p 0.7",
        BASELINE,
    ]
    assert (
        search.curves("0000")["score/knn_top1"]
        == search.curves("0001")["score/knn_top1"]
        == [(40, 0.5), (80, 0.75), (120, 0.625)]
    )
    assert list(HParams(search.folder).rows) == ["0000", "0001 as it was called", "0002 sts p 0.7"]


def test_a_run_without_a_picture_or_with_an_old_one_goes_on(search: Search) -> None:
    """As of an earlier version, which drew none: the first trial that has one shows it."""
    shutil.rmtree(search.run.trial_folder(BASELINE))
    search.open()
    for _ in range(2):
        trial = search.start()
        search.views(trial.key, 12)
        search.hear(trial, SCORES)
    assert picture(search.folder / BASELINE) is None
    assert [picture(run_of(search.folder, key)) is None for key in ("0000", "0001")] == [False, True]


@pytest.mark.parametrize("size", [0, 4000, 20_000])
def test_a_file_that_cannot_grow_costs_no_search(search: Search, caplog: pytest.LogCaptureFixture, size: int) -> None:
    """As on a full disk: the system refuses to write behind `size` bytes; what was written before can be read."""
    first = search.start()
    search.hear(first, SCORES[:1])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        search.hear(first, SCORES * 20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    search.end(first)
    assert "cannot be written" in caplog.text and "File too large" in caplog.text
    assert search.curves("0000")["score/knn_top1"][0] == (40, 0.5)
    search.hear(search.start(), SCORES)
    assert len(search.curves("0001")["score/knn_top1"]) == 3, "the next trial is shown"


def test_a_picture_that_is_none_is_left_out(search: Search, caplog: pytest.LogCaptureFixture) -> None:
    search.run.trial_views(BASELINE).write_bytes(b"no picture")
    search.open()
    assert picture(search.folder / BASELINE) is None and "is not shown" in caplog.text


def test_a_full_run_has_curves_and_its_configuration(tmp_path: Path) -> None:
    config = c.parse({"train": {"epochs": 3}})
    writer = TrialWriter(tmp_path / "full", config, Objective())
    for epoch, score in enumerate(SCORES, start=1):
        writer.add(metrics(epoch, score))
    writer.close()
    assert HParams(tmp_path).columns == []
    assert curves(tmp_path / "full")["score/best"][-1] == (120, 0.75)
    assert "epochs: 3" in text(tmp_path / "full", "configuration")


def traced_writer(tmp_path: Path, every: str | None = "10 steps") -> TrialWriter:
    monitors = {"names": ["gradients", "filters"], "every": every}
    config = c.parse({"encoder": {"projector": {"hidden": 2}}, "train": {"epochs": 3}, "monitors": monitors})
    return TrialWriter(tmp_path / "board", config, Objective(), trial=tmp_path / "0003")


def test_traces_are_curves_at_their_steps_while_the_trial_trains(tmp_path: Path) -> None:
    """The file may be ahead of what the driver has heard; no step is there twice. Numbers of an epoch give way."""
    writer = traced_writer(tmp_path)
    own = {"monitor/gradient/block1": 7.0, "monitor/gradient/fc2": 8.0}
    rows = traced.write(tmp_path / "0003", steps=6)
    writer.add(metrics(1, 0.5, **own))
    assert [step for step, _ in curves(tmp_path / "board")["student/gradient/block1"]] == [10, 20, 30, 40]
    rows = traced.write(tmp_path / "0003", steps=9)  # as if the last row of an epoch were lost: step 120 is not there
    writer.add(metrics(2, 0.5, **own))
    writer.add(metrics(2, 0.5, **own))
    writer.add(metrics(3, 0.5, **own))
    found = curves(tmp_path / "board")
    for part in ("block1", "fc2"):
        wanted = list(zip(rows["steps"].tolist(), rows[f"gradient/{part}"].tolist(), strict=True))
        assert found[f"student/gradient/{part}"] == wanted and len(wanted) == 9
    assert found["student/filter/0/x"] == [(40, 1.0), (80, 1.0), (120, 1.0)], "filters have figures, and epochs' ends"
    writer.close()
    assert shown(tmp_path) == {"figures/gradients", "figures/filters", "figures/coordinates"}


def shown(tmp_path: Path) -> set[str]:
    """The figures that a board has, each of them a PNG."""
    events = events_of(tmp_path / "board")
    tags = {tag for tag in events.Tags()["tensors"] if tag.startswith("figures/")}
    for tag in tags:
        assert make_ndarray(events.Tensors(tag)[0].tensor_proto)[2].startswith(b"\x89PNG")
    return tags


def test_a_board_without_traces_has_an_epochs_numbers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where the file is missing or damaged, and where nothing is traced."""
    own = {"monitor/gradient/block1": 7.0}
    for every, warns in (("10 steps", True), (None, False)):
        writer = traced_writer(tmp_path, every)
        caplog.clear()
        writer.add(metrics(1, 0.5, **own))
        writer.close()
        assert curves(tmp_path / "board")["student/gradient/block1"] == [(40, 7.0)] and shown(tmp_path) == set()
        assert ("has no traces.safetensors" in caplog.text) == warns


def test_a_search_shows_the_traces_of_its_trials(tmp_path: Path) -> None:
    trial = {"data": {"name": "digits"}, "encoder": {"projector": {"hidden": 2}}, "train": {"epochs": 3}}
    monitors = {"names": ["gradients"], "every": "10 steps"}
    search = Search(tmp_path, trial={**trial, "monitors": monitors}, points={"one": {}})
    proposal = search.start()
    traced.write(search.run.trial_folder(proposal.key))
    search.hear(proposal, SCORES, **{"monitor/gradient/block1": 7.0})
    assert len(search.curves("0000")["student/gradient/block1"]) == 12
