"""`tuner evaluate` on a checkpoint: what it prints, records, compares and saves."""

import dataclasses
import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from trainables.config import trial as c
from trainables.config.errors import UserError
from trainables.data import augment
from trainables.data import images as data
from trainables.running import checkpoint, scoring
from trainables.running import fit as train
from tuner.commands import main as cli
from tuner.commands import train as full_run
from tuner.plan import spec
from tuner.plan.objective import Objective
from tuner.report import certainty, scores
from tuner.report.view import best_of
from tuner.runs import run as runs

TRIAL: dict[str, Any] = {
    "data": {"name": "digits", "train_images": 64, "validation_images": 32},
    "encoder": {"width": 4, "projector": {"hidden": 32, "out": 16}},
    "method": {"predictor_hidden": 32},
    "train": {"epochs": 1, "batch_size": 16, "shard_size": 8},
    "evaluation": {"linear": {"epochs": 2}, "finetune": {"epochs": 1}, "label_free": {"images": 20, "views": 2}},
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of two seeds, and one of other data."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for name, values in (("a", {}), ("b", {"seed": 1}), ("other", {"data.split_seed": 1, "train.epochs": 0})):
        train.fit(c.changed(TRIAL, values), folder / name, lambda metrics: "on")
    return [folder / name for name in ("a", "b", "other")]


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert cli.main(["evaluate", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_by_default_knn_and_the_linear_protocol(checkpoints, capsys):
    facts = json.loads(printed(capsys, checkpoints[0], "--json"))
    found = checkpoint.newest(checkpoints[0])
    assert found is not None
    scores, _, _ = scoring.evaluate(found, "test")
    assert scores.keys() == {"knn_top1", "knn1_top1", "linear_top1", "linear_top5", "linear_best_top1"}
    assert facts == {
        "checkpoint": str(found.path),
        "step": 4,
        "network": "student",
        "split": "test",
        "images": 359,
        "classes": 10,
        "protocols": ["knn", "linear"],
        "settings": {name: found.values["config"]["evaluation"][name] for name in ("knn", "linear")},
        "before_feature_norm": False,
        "labels": {"per_class": None, "share": None, "file": None, "seed": 0, "images": 64},
        "seed": 0,
        **scores,
    }
    lines = printed(capsys, checkpoints[0]).splitlines()
    assert "network          student" in lines and "split            test, 359 images" in lines
    low, high = certainty.of_share(scores["knn_top1"], 359)
    assert f"{'knn_top1':<24} {scores['knn_top1']:9.4f}  {low:.4f} to {high:.4f}" in lines
    assert any(line.startswith("protocols        knn, linear ") for line in lines)


def test_every_setting_that_counted_is_recorded(checkpoints, capsys):
    settings = [
        "evaluation.knn.k=3",
        "evaluation.linear.recipe=momentum2",
        "evaluation.linear.epochs=1",
        "data.labels.per_class=2",
    ]
    options = [part for setting in settings for part in ("--set", setting)]
    protocols = ["knn", "linear", "finetune", "label_free"]
    arguments = ["--protocol", *protocols, "--network", "teacher", "--split", "validation", *options, "--json"]
    facts = json.loads(printed(capsys, checkpoints[0], *arguments))
    assert facts["protocols"] == list(facts["settings"]) == protocols
    assert facts["settings"]["knn"]["k"] == 3 and facts["settings"]["finetune"]["epochs"] == 1
    linear = facts["settings"]["linear"]
    assert (linear["recipe"], linear["norm"], linear["lr"]["base"], linear["epochs"]) == ("momentum2", "logits", 0.2, 1)
    assert (facts["network"], facts["split"]) == ("teacher", "validation")
    assert facts["labels"]["per_class"] == 2 and facts["labels"]["images"] == 20
    assert facts.keys() >= {
        "knn1_top1",
        "linear_best_top1",
        "finetune_top1",
        "rankme",
        "lidar",
        "alignment",
        "uniformity",
    }


def test_two_checkpoints_side_by_side(checkpoints, capsys):
    first, second, _ = checkpoints
    alone = [json.loads(printed(capsys, path, "--json")) for path in (first, second)]
    facts = json.loads(printed(capsys, first, "--against", second, "--json"))
    assert facts["against"] == alone[1] and {key: facts[key] for key in alone[0]} == alone[0]
    assert facts["difference"] == {name: alone[1][name] - alone[0][name] for name in facts["difference"]}
    assert facts["difference"].keys() >= {"knn_top1", "linear_top1"} and any(facts["difference"].values())
    lines = printed(capsys, first, "--against", second).splitlines()
    a, b, more = (facts["knn_top1"], facts["against"]["knn_top1"], facts["difference"]["knn_top1"])
    low, high = certainty.of_difference(b, a, 359)
    assert (
        f"checkpoint A     {facts['checkpoint']}" in lines
        and f"checkpoint B     {facts['against']['checkpoint']}" in lines
    )
    assert next(line for line in lines if "B - A" in line).split()[:5] == ["A", "B", "B", "-", "A"]
    assert f"{'knn_top1':<24} {a:9.4f} {b:9.4f} {more:+9.4f}  {low:+.4f} to {high:+.4f}" in lines


def test_checkpoints_of_other_data_are_not_compared(checkpoints, capsys):
    assert cli.main(["evaluate", str(checkpoints[0]), "--against", str(checkpoints[2])]) == 2
    assert "data.split_seed = 1, which is 0 for" in capsys.readouterr().err


def test_a_protocol_that_does_not_fit(checkpoints, capsys):
    assert cli.main(["evaluate", str(checkpoints[0]), "--protocol", "classifier"]) == 2
    assert (
        capsys.readouterr().err
        == "error: protocol classifier: needs a method whose head classifies; that of 'byol' does not\n"
    )


def test_what_does_not_fit_is_said_before_any_work(checkpoints, tmp_path):
    """Without torch; of a file, of a trial's folder, and of a run."""
    config = c.changed(TRIAL, {})
    run = runs.Run.create(tmp_path / "run", "train", {"name": "train", "trial": config.plain()}, 0)
    shutil.copytree(checkpoints[0], run.trial_folder(runs.FULL))
    for path in (run.path, checkpoints[0], next(checkpoints[0].glob("*.safetensors"))):
        program = (
            "import sys\n"
            "for name in ('torch', 'ray'):\n"
            "    sys.modules[name] = None\n"
            "from tuner.commands import main as cli\n"
            f"sys.exit(cli.main(['evaluate', {str(path)!r}, '--protocol', 'online']))\n"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert done.returncode == 2, done.stderr
        rule = "this trial is without one (online_probe.lr = 0); a new run with online_probe.lr above 0 has it"
        assert done.stderr == f"error: protocol online: needs an online probe, and {rule}\n"


def test_five_answers_of_five_classes_are_not_printed():
    scored = scores.Scored(
        network="student",
        split="test",
        checkpoint="a",
        step=1,
        protocols=["linear"],
        images=20,
        classes=5,
        settings={},
        before_feature_norm=False,
        labels={},
        seed=0,
        scores={"linear_top1": 0.5, "linear_top5": 1.0},
    )
    for classes, told in ((5, False), (6, True)):
        lines = scores.lines(dataclasses.replace(scored, classes=classes))
        assert any(line.startswith("linear_top5") for line in lines) is told
        assert any(line.startswith("linear_top1 ") for line in lines)


@pytest.mark.parametrize("chosen", [None, ["cat", "owl"]])
def test_class_names_come_from_the_data(tmp_path, chosen):
    for split, name in itertools.product(("train", "test"), ("cat", "dog", "owl")):
        folder = tmp_path / split / name
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / "1.png")
    found = c.changed({}, {"data": {"name": "imagefolder", "root": str(tmp_path), "classes": chosen}}).data
    assert data.class_names(found, 2 if chosen else 3) == (chosen or ["cat", "dog", "owl"])
    assert data.class_names(found, 4) == ["0", "1", "2", "3"], "names that do not fit are none"


def test_class_names_of_parquet(tmp_path):
    features = {"label": {"names": ["cat", "dog", "owl"], "_type": "ClassLabel"}}
    columns = {"image": [{"bytes": b"", "path": None}] * 3, "label": [0, 1, 2]}
    table = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, tmp_path / "train-0.parquet")
    for chosen, expected in ((None, ["cat", "dog", "owl"]), (["0", "2"], ["cat", "owl"])):
        found = c.changed({}, {"data": {"name": "parquet", "root": str(tmp_path), "classes": chosen}}).data
        assert data.class_names(found, len(expected)) == expected


def test_what_is_saved_is_what_was_scored(checkpoints, capsys, tmp_path):
    """Also where the classifier had a norm on its logits: it is folded in."""
    options = [
        "--set",
        "evaluation.linear.recipe=momentum2",
        "--set",
        "evaluation.linear.epochs=2",
        "--split",
        "validation",
    ]
    facts = json.loads(printed(capsys, checkpoints[0], "--save", tmp_path / "saved", *options, "--json"))
    assert facts["saved"] == str(tmp_path / "saved")
    (tmp_path / "any").touch()
    assert (tmp_path / "saved").stat().st_mode == (tmp_path / "any").stat().st_mode, (
        "whoever reads other files reads it"
    )
    saved, found = load_file(tmp_path / "saved"), checkpoint.newest(checkpoints[0])
    assert found is not None and saved["fc.weight"].shape == (10, 32) and saved["conv1.weight"].shape == (4, 1, 3, 3)
    changes = {"evaluation.linear.recipe": "momentum2", "evaluation.linear.epochs": 2}
    _, subject, _ = scoring.evaluate(found, "validation", ["linear"], changes)
    queries = subject.queries()
    logits = torch.nn.functional.linear(queries.x, saved["fc.weight"], saved["fc.bias"])
    assert facts["linear_top1"] == (logits.argmax(1) == queries.labels).float().mean().item()
    with safe_open(tmp_path / "saved", framework="pt") as file:
        told = {name: json.loads(text) for name, text in file.metadata().items() if name != "format"}
    assert told["classes"] == [str(digit) for digit in range(10)] and told["size"] == [8, 8]
    images = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    mean, std = (torch.tensor(told[name], dtype=torch.float64).view(-1, 1, 1) for name in ("mean", "std"))
    torch.testing.assert_close((images - mean) / std, augment.standardise(images))


def test_corruptions_record_the_classifier_that_they_are_scored_by(checkpoints, capsys):
    options = ["--split", "validation", "--set", "evaluation.linear.recipe=eman", "--set", "evaluation.linear.epochs=1"]
    arguments = ["--protocol", "corruptions", *options, "--against", checkpoints[1]]
    facts = json.loads(printed(capsys, checkpoints[0], *arguments, "--json"))
    assert facts["protocols"] == ["corruptions"] and list(facts["settings"]) == ["corruptions", "linear"]
    assert facts["settings"]["linear"]["lr"]["base"] == 30
    name = "corruptions/fog/5"
    assert facts["difference"][name] == facts["against"][name] - facts[name]
    table = printed(capsys, checkpoints[0], *arguments).splitlines()[-17:]
    assert table[0].split() == ["B", "-", "A", "by", "severity", "1", "2", "3", "4", "5", "mean"]
    assert next(line for line in table if line.startswith("fog")).split()[5] == f"{facts['difference'][name]:+.4f}"


def test_the_best_epoch_is_told_beside_the_last():
    curve = {1: 0.2, 2: 0.5, 3: 0.5, 4: 0.1}
    assert best_of(curve, "max") == (2, 0.5)
    assert best_of(curve, "min") == (4, 0.1)
    assert best_of({}, "max") is None
    history = [{"epoch": float(epoch), "loss": value} for epoch, value in curve.items()]
    line = "loss 0.1000 after the last epoch; 0.1000 after epoch 4, the best on validation"
    assert full_run._best_line(history, Objective(metric="loss")) == line
    scored = [{"epoch": float(epoch), "knn_top1": value, "validation_images": 100.0} for epoch, value in curve.items()]
    line = (
        "knn_top1 0.1000 after the last epoch (95 % 0.0552 to 0.1744, of 100 validation images); 0.5000 after epoch 2"
    )
    assert full_run._best_line(scored, Objective()) == f"{line}, the best on validation"


def test_what_an_objective_may_be():
    """Any metric of a listed protocol, or the loss; and what shows how a full run is doing."""
    nested = {"trial": {"evaluation": {"protocols": ["linear", "label_free"]}}}
    for metric, mode in {"linear_best_top1": "max", "lidar": "max", "alignment": "min", "loss": "min"}.items():
        assert spec.parse({**nested, "objective": {"metric": metric}}).objective.mode == mode
    with pytest.raises(UserError, match="objective.metric = finetune_top1: needs 'finetune' in trial.evaluation"):
        spec.parse({**nested, "objective": {"metric": "finetune_top1"}})


@pytest.mark.parametrize(
    ("trial", "metric"),
    [
        ({}, "knn_top1"),
        ({"evaluation": {"protocols": ["linear", "label_free"]}}, "linear_top1"),
        ({"evaluation": {"protocols": ["label_free", "knn"]}}, "knn_top1"),
        ({"method": {"name": "fixmatch", "images_per_label": 4}}, "classifier_top1"),
    ],
)
def test_an_objective_that_is_not_given_is_what_the_method_is_judged_by(trial, metric):
    for content in ({"trial": trial}, {"trial": trial, "points": {"a": {}}}):
        found = spec.parse(content)
        assert found.objective.metric == metric
        assert spec.parse(found.plain()) == found, "what is written down says so"


def test_a_table_of_corruptions():
    """Types by severities, with their means."""
    kinds = ("fog", "snow")
    told = {f"corruptions/{kind}/{s}": 0.1 * s + 0.01 * i for i, kind in enumerate(kinds) for s in (1, 2, 3)}
    told |= {f"corruptions/{kind}": 0.2 + 0.01 * i for i, kind in enumerate(kinds)}
    told |= {f"corruptions/severity_{s}": 0.1 * s + 0.005 for s in (1, 2, 3)}
    lines = scores.cells({"clean_top1": 0.9, "corruptions/mean": 0.205, **told}, "top-1")
    assert [line.split() for line in lines[1:]] == [
        ["fog", "0.1000", "0.2000", "0.3000", "0.2000"],
        ["snow", "0.1100", "0.2100", "0.3100", "0.2100"],
        ["mean", "0.1050", "0.2050", "0.3050", "0.2050"],
    ]
    assert scores.cells({"knn_top1": 0.9}, "top-1") == []


@pytest.mark.parametrize("workers", ["1-2", "2-1"])
def test_a_range_of_workers_is_refused_with_the_reason(workers: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["evaluate", "checkpoint", "--workers", workers])
    said = " ".join(capsys.readouterr().err.split())
    rule = "must be one number: each protocol takes a slot of so many workers; more slots score more at once"
    assert f"--workers: '{workers}': {rule}" in said
