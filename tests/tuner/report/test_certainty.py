"""How sure scores are: intervals against plain formulas and scipy, and what is said of them in words."""

import math
import statistics
from pathlib import Path
from typing import Any

import pytest
import yaml
from scipy import stats

from tests.tuner.plan.test_points import TABLE
from tuner.plan import space
from tuner.plan import spec as specs
from tuner.report import certainty, closing, export, points, terminal, wording
from tuner.report.view import as_json
from tuner.report.viewer import view_of
from tuner.runs import hints
from tuner.runs import run as runs
from tuner.search.study import Study

SEARCH: dict[str, Any] = {"space": "momentum", "trials": 3, "trial": {"train": {"epochs": 2}}}


@pytest.mark.parametrize("right", [0, 1, 24, 27, 47, 48])
def test_wilson_against_scipy(right: int) -> None:
    expected = stats.binomtest(right, 48).proportion_ci(confidence_level=0.95, method="wilson")
    assert certainty.of_share(right / 48, 48) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_newcombe_against_his_table() -> None:
    """Newcombe 1998, table II, method 10: 9/10 - 3/10, of equal numbers as on one split."""
    assert certainty.of_difference(0.9, 0.3, 10) == pytest.approx((0.1705, 0.8090), abs=1e-4)
    low, high = certainty.of_difference(0.5, 0.5, 1000)
    assert high == -low == pytest.approx(1.96 * math.sqrt(2 * 0.25 / 1000), rel=0.01)


def test_the_interval_over_seeds_against_scipy() -> None:
    values = [0.61, 0.64, 0.58, 0.66]
    expected = stats.t.interval(0.95, 3, loc=statistics.fmean(values), scale=stats.sem(values))
    assert certainty.of_mean(values) == pytest.approx(expected, rel=1e-12)
    assert certainty.of_mean([0.5]) is None


def test_equal_differences_of_few_images_are_no_certainty() -> None:
    """+0.02 in each of three seeds is two of a hundred images: the spread is taken for one image."""
    low, high = certainty.of_mean([0.02] * 3, 0.01) or (0, 0)
    assert low < 0 < high and high == pytest.approx(0.02 + stats.t.ppf(0.975, 2) * 0.01 / math.sqrt(3))
    assert certainty.of_mean([0.02] * 3) is None, "of runs that do not know their images"


def test_a_score_that_is_no_share_has_no_binomial_interval() -> None:
    for metric in ("loss", "lidar", "corruptions/mean"):
        assert certainty.of_score(0.5, metric, 100) is None and certainty.of_scores_apart(0.5, 0.4, metric, 100) is None
    assert certainty.of_score(0.5, "knn_top1", None) is None, "old runs do not know their images"
    assert certainty.of_score(0.5, "linear_top5", 100) == certainty.of_share(0.5, 100)


def finished(folder: Path, scores: list[float], baseline: dict[str, float], **changes: Any) -> tuple[runs.Run, Study]:
    """A search whose trials have ended with some scores."""
    spec = specs.parse({**SEARCH, "trials": len(scores), **changes})
    run = runs.Run.create(folder / "run", "search", spec.plain(), 0)
    study = Study(run.journal, spec, space.load(spec.space))
    for score in scores:
        study.tell(study.ask().key, {"epoch": 2, spec.objective.metric: score}, None, {})  # type: ignore[union-attr]
    run.write_baseline({"epoch": 0.0, **baseline})
    return run, study


def words(run: runs.Run, study: Study) -> list[str]:
    return closing.lines(run, study, run.path / "best.yaml")


def test_one_image_more_is_within_the_noise(tmp_path: Path) -> None:
    """What a new user saw: 27 of 48 images after 26 of 48 untrained, called the best. It gets no star anywhere."""
    run, study = finished(tmp_path, [25 / 48, 27 / 48], {"knn_top1": 26 / 48, "validation_images": 48.0})
    table = terminal.table_of(view_of(run, study))
    assert "no star: trial 0001 is the best, but within the noise of 48 images of the untrained encoder" in str(
        table.caption
    )
    assert list(table.columns[3].cells) == ["0.5208", "0.5625"]
    (path,) = export.export(run, study, 1, tmp_path / "best.yaml")
    header = path.read_text().replace("\n#  ", "")
    assert "after 2 epochs, within the noise of 48 images of the untrained encoder" in header
    lines = words(run, study)
    assert lines[0] == "knn_top1 on 48 validation images, with 95 % intervals"
    assert lines[1] == "  best teacher (trial 0001)             0.5625  0.4228 to 0.6930"
    assert lines[2] == "  papers' default teacher (trial 0000)  0.5208  0.3833 to 0.6553"
    assert lines[3] == "  untrained encoder                     0.5417  0.4029 to 0.6742"
    assert lines[4].startswith("the best is within the noise of 48 images of the untrained encoder: +0.0208 (95 % -0.1")
    assert lines[5].startswith(
        "the best is within the noise of 48 images of the papers' default teacher: +0.0417 (95 % -0.1"
    )
    assert lines[6].startswith("it is the best of 2 complete trials, chosen on these images: expect")
    assert lines[7] == "a teacher's score is that of the student that it taught"


def test_a_best_below_the_untrained_encoder_says_so_everywhere(tmp_path: Path) -> None:
    run, study = finished(tmp_path, [0.3, 0.4], {"knn_top1": 0.5, "validation_images": 100.0})
    lines = words(run, study)
    assert lines[1].startswith("  best teacher (trial 0001)             0.4000")
    assert "the best is not above the untrained encoder: -0.1000" in lines
    caption = str(terminal.table_of(view_of(run, study)).caption)
    assert "no star: trial 0001 is the best, but not above the untrained encoder" in caption
    (path,) = export.export(run, study, 1, tmp_path / "best.yaml")
    assert "after 2 epochs, not above the untrained encoder" in path.read_text().replace("\n#  ", "")
    assert yaml.safe_load(path.read_text()) == study.config_of(study.trials()[1]).plain()


def test_a_clear_gain_is_called_one(tmp_path: Path) -> None:
    run, study = finished(tmp_path, [0.7, 0.9], {"knn_top1": 0.5, "validation_images": 1000.0})
    table = terminal.table_of(view_of(run, study))
    assert list(table.columns[3].cells) == ["0.7000", "0.9000 *"] and "* the best complete trial" in str(table.caption)
    (path,) = export.export(run, study, 1, tmp_path / "best.yaml")
    assert "after 2 epochs\n" in path.read_text()
    lines = words(run, study)
    assert lines[4] == "the best is above the untrained encoder: +0.4000 (95 % +0.3631 to +0.4353)"
    assert lines[5].startswith("the best is above the papers' default teacher: +0.2000 (95 % +0.1")


@pytest.mark.parametrize(
    ("baseline", "changes", "why"),
    [
        ({"knn_top1": 0.5}, {}, "no intervals: the number of validation images was not recorded"),
        ({"validation_images": 9.0}, {"objective": {"metric": "loss"}}, "no intervals: loss is no share of images"),
    ],
)
def test_without_an_interval_the_reason_is_said(
    tmp_path: Path, baseline: dict[str, float], changes: dict[str, Any], why: str
) -> None:
    lines = words(*finished(tmp_path, [0.6, 0.7], baseline, **changes))
    assert why in lines and not any("95 %" in line or "noise" in line for line in lines)


def test_a_default_that_was_stopped_is_not_compared(tmp_path: Path) -> None:
    run, study = finished(tmp_path, [], {"knn_top1": 0.5, "validation_images": 1000.0}, trials=2)
    for epoch, score in ((1, 0.4), (2, 0.7)):
        key = study.ask().key
        study.observe(key, {"epoch": epoch, "knn_top1": score})
        study.tell(key, {"epoch": epoch, "knn_top1": score}, None, {})
    lines = words(run, study)
    assert lines[2].startswith("  papers' default teacher (trial 0000, stopped at epoch 1)  0.4000")
    assert not any("the papers' default" in line for line in lines)


@pytest.mark.parametrize(
    ("method", "called"), [("byol", "papers' default teacher"), ("moco", "space's first known point (BYOL's teacher)")]
)
def test_the_first_known_point_is_named_for_what_it_is(method: str, called: str) -> None:
    assert space.load("teacher").firsts(method) == called


def table(
    scores: dict[str, list[float]], images: int | None = 1000, untrained: float | None = 0.1
) -> tuple[str | None, str]:
    """Who gets the star of a table with some scores, and the words for it."""
    first = next(iter(scores.values()))
    by_seed = {label: dict(enumerate(values)) for label, values in scores.items()}
    rows = [
        points.point_of(label, values, by_seed[next(iter(scores))], "knn_top1", images)
        for label, values in by_seed.items()
    ]
    return points.star(rows, len(first), "knn_top1", "max", images, untrained)


def test_a_star_for_what_is_no_luck() -> None:
    assert table({"a": [0.50, 0.52, 0.49], "b": [0.70, 0.73, 0.68]})[0] == "b"
    starred, why = table({"a": [0.50, 0.55, 0.49], "b": [0.53, 0.50, 0.56]})
    assert starred is None and why.startswith(
        "no star: 'b' has the best mean, within the noise of 3 seeds of 'a' (+0.0167, 95 % -0.1"
    )
    starred, why = table({"a": [0.50, 0.60], "b": [0.52, 0.62]})
    assert starred is None and "too few seeds (2;" in why, "two seeds at +0.0200 ± 0.0000"
    starred, why = table({"a": [0.50, 0.60, 0.55], "b": [0.52, 0.62, 0.57]}, images=50)
    assert starred is None and "within the noise of 3 seeds" in why, "one image more, three times"
    starred, why = table({"a": [0.50, 0.52, 0.49], "b": [0.70, 0.73, 0.68]}, untrained=0.8)
    assert starred is None and why == "no star: 'b' has the best mean, and it is not above the untrained encoder"


def test_plural_forms_and_lists() -> None:
    assert hints.counted(1, "gap") == "1 gap" and hints.counted(7, "gap") == "7 gaps"
    assert wording.brief(["block4", "projector"]) == "block4 + projector" and wording.brief(0.123456) == "0.1235"


def test_the_json_keys_of_a_run(tmp_path: Path) -> None:
    """Programs read them: they may grow, and stay."""
    run, study = finished(tmp_path, [0.3, 0.4], {"knn_top1": 0.5, "validation_images": 100.0})
    state = as_json(view_of(run, study))
    assert state["version"] == 1
    before = {
        "run",
        "name",
        "space",
        "objective",
        "mode",
        "trials_wanted",
        "epochs",
        "held",
        "ended",
        "trials",
        "points",
        "seeds",
        "best",
    }
    assert state.keys() >= before | {
        "best_point",
        "untrained",
        "gap_median_s",
        "gaps",
        "validation_images",
        "best_interval",
    }
    row = {
        "key",
        "state",
        "epoch",
        "epochs",
        "score",
        "curve",
        "point",
        "values",
        "metrics",
        "best_epoch",
        "best_epoch_score",
        "error",
        "log",
    }
    assert state["trials"][0].keys() >= row | {"collapsed", "interval"}
    assert vars(points.summary(specs.parse(TABLE), [])[0]).keys() >= {
        "point",
        "scores",
        "mean",
        "sd",
        "difference",
        "difference_sd",
        "interval",
    }
