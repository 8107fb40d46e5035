"""Bad input dies before Ray starts, with a line that names the key, the value and the rule, and exit status 2."""

import re
import socket
import sys
from pathlib import Path

import pytest
import yaml

import tuner
from tuner.commands import main as cli
from tuner.runs import run as runs

SEARCH = {"trial": {"train": {"batch_size": 64, "shard_size": 32, "epochs": 2}}, "trials": 2}


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ray cannot even be imported here, nor torch: whatever is said was said before they would have been needed."""
    monkeypatch.chdir(tmp_path)
    for name in [n for n in sys.modules if n.split(".")[0] in ("ray", "torch")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("ray", "torch"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in [
        n for n in sys.modules if n.startswith("tuner.fleet")
    ]:  # another test may have imported them, Ray included
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(tuner, "fleet", raising=False)


def search_file(tmp_path: Path, **changes: object) -> str:
    path = tmp_path / "search.yaml"
    path.write_text(yaml.safe_dump({**SEARCH, **changes}))
    return str(path)


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(list(arguments)) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert not Path("runs").exists()
    return lines[0]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            ["trial.teacher.momentun.base=0.9"],
            ["trial.teacher.momentun.base", "did you mean 'trial.teacher.momentum.base'?"],
        ),
        (["trials=many"], ["trials = 'many'", "valid integer"]),
        (["trial.train.epochs=2.5"], ["trial.train.epochs = 2.5", "integer"]),
        (["trial.optim.lr=fast"], ["trial.optim.lr.base = 'fast'", "valid number"]),
        (["trial.optim.lr=.nan"], ["trial.optim.lr.base = nan", "finite"]),
        (["trial.teacher.smoothing.p=1.5"], ["trial.teacher.smoothing.p.base = 1.5", "less than or equal to 1"]),
        (["trial.teacher.smoothing.p=-0.1"], ["trial.teacher.smoothing.p.base = -0.1", "greater than or equal to 0"]),
        (["trial.teacher.placement=[block5]"], ["trial.teacher.placement", "'block5'", "did you mean 'block"]),
        (["trial.teacher.placement=projektor"], ["'projektor'", "did you mean 'projector'?"]),
        (["trial.data.name=digit"], ["trial.data.name = 'digit'", "did you mean 'digits'?"]),
        (["trial.method.name=bioll"], ["trial.method.name = 'bioll'", "byol"]),
        (["trial.data.name=cifar10"], ["error: trial.data.root: ", "give its path"]),
        (
            ["trial.data.name=cifar10", "trial.data.root=missing"],
            ["error: trial.data.root = '", "missing'", "no such folder"],
        ),
        (["trial.data.root=5"], ["error: trial.data.root = 5: must be a path"]),
        (["trial.data.name=parquet", "trial.data.root=."], ["data.root = '", "holds no train-*.parquet"]),
        (["trial.train.batch_size=50"], ["error: trial.train.batch_size = 50", "multiple of train.shard_size = 32"]),
        (["resources.workers=3"], ["resources.workers = 3", "more than the 2 shards"]),
        (["space=teachers"], ["space = 'teachers'", "did you mean 'teacher'?"]),
        (["space=nowhere.py:suggest"], ["nowhere.py", "no such file"]),
        (["address=here"], ["address = 'here'", "host:port"]),
        (["trials"], ["--set trials", "key=value"]),
        (["resources.patience=10"], ["resources.patience = 10", "a duration of at least 10s, such as 90s, 10m or 2h"]),
        (["resources.patience=10 minutes"], ["resources.patience = '10 minutes'", "a duration"]),
        (["resources.patience=9s"], ["resources.patience = '9s'", "at least 10s"]),
        (["resources.gpus_per_worker=0.5", "resources.workers=2"], ["resources.gpus_per_worker = 0.5", "one GPU"]),
        (["trials=true"], ["trials = True", "must not be true or false"]),
        (["trial.data.image_size=32"], ["data.image_size = 32", "'digits'"]),
        (["trial.optim.lr.warmup=5"], ["error: trial.optim.lr.warmup = 5 epochs", "train.epochs = 2"]),
        (["trial.data.train_images=5000"], ["trial.data.train_images = 5000", "the train split has 1438 images"]),
        (["trial.data.train_images=60"], ["trial.train.batch_size = 64", "only 60 training images"]),
        (
            ["trial.evaluation.protocols=[knn, lineer]"],
            ["trial.evaluation.protocols", "'lineer'", "did you mean 'linear'?"],
        ),
        (
            ["trial.evaluation.protocols=classifier"],
            ["trial.evaluation.protocols: classifier needs a method", "that of 'byol' does not"],
        ),
        (["trial.evaluation.linear.recipe=moko"], ["trial.evaluation.linear.recipe = 'moko'", "did you mean 'moco'?"]),
        (
            ["trial.evaluation.knn.metrik=cosine"],
            ["trial.evaluation.knn.metrik", "did you mean 'trial.evaluation.knn.metric'?"],
        ),
        (["objective.metric=linear_best"], ["objective.metric = 'linear_best'", "did you mean 'linear_best_top1'?"]),
        (
            ["objective.metric=rankme"],
            ["error: objective.metric = rankme: needs 'label_free' in trial.evaluation.protocols, which has only knn"],
        ),
        (
            ["objective.metric=knn_top1", "trial.evaluation.protocols=linear"],
            ["error: objective.metric = knn_top1: needs 'knn' in trial.evaluation.protocols, which has only linear"],
        ),
        (["resources.cpus_per_worker=1000"], ["a trial needs 1000 CPU"]),
        (["trial={}"], ["--set trial: would replace all that the file says of its trials"]),
        (["address=localhost:²"], ["address = 'localhost:²'", "host:port"]),
        ([f"address={'h' * 300}:1"], ["host:port"]),
        (["address=localhost:99999"], ["host:port"]),
        (["name=.."], ["name = '..'", "begin with none of"]),
        ([f"name={'n' * 101}"], ["at most 100"]),
        (["trials=1000000000"], ["trials = 1000000000: must be less than or equal to 10000"]),
        (["trials=" + "1" * 5000], ["--set trials: a key or value has at most 4,096 characters"]),
        (["trials=" + "1" * 4000], ["--set trials: a number has at most 300 digits"]),
        (["name=" + "[" * 5000], ["--set name: is nested deeper than 50 levels"]),
        (["trial.train={epochs: 1, epochs: 2}"], ["--set trial.train: 'epochs' is there twice"]),
        (["stopping=nune"], ["stopping.kind = 'nune'", "did you mean 'none'?"]),
        (["zzz=1"], ["zzz: unknown key; nearest of "]),
    ],
)
def test_a_setting_at_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: list[str], words: list[str]
) -> None:
    arguments = [part for setting in settings for part in ("--set", setting)]
    line = complaint(capsys, "launch", search_file(tmp_path), *arguments)
    for word in words:
        assert word in line


def test_an_unknown_key_in_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = complaint(capsys, "launch", search_file(tmp_path, trails=3))
    assert "trails: unknown key; did you mean 'trials'?" in line


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"points": {"a": {"teacher.momentum.bass": 0.9}}},
            ["point 'a': teacher.momentum.bass: unknown key", "'teacher.momentum.base'"],
        ),
        (
            {"points": {"a": {"teacher.norm": {"alhpa": 1}}}},
            ["point 'a': teacher.norm.alhpa: unknown key", "'teacher.norm.alpha'"],
        ),
        (
            {"points": {"a": {}, "b": {"teacher.smoothing.p": 2}}},
            ["point 'b': teacher.smoothing.p.base = 2", "less than or equal to 1"],
        ),
        ({"points": {"a": {"seed": 1}}}, ["point 'a': seed: belongs to the search", "set trial.seed instead"]),
        ({"points": {"a": {"train": {"epochs": 0}}}}, ["point 'a': train.epochs = 0: a search needs at least 1 epoch"]),
        ({"points": {"a": {"data.root": "elsewhere"}}}, ["point 'a': data.root: belongs to the search"]),
        (
            {"points": {"a": {"method": {"name": "dino", "queue": 9}}}},
            ["point 'a': method.queue: 'dino' has no such key"],
        ),
        (
            {"points": {"a": {"preset": "placement_imagenet100", "method.name": "simclr"}}},
            ["point 'a': preset.", "has no recipe for"],
        ),
        (
            {"grid": {"method.name": ["byol", "dimo"]}},
            ["point 'dimo': method.name = 'dimo': no such name; did you mean 'dino'?"],
        ),
        (
            {"points": {"a": {"train": {"batch_size": 2048}}}},
            ["point 'a': train.batch_size = 2048: there are only 1295 training images"],
        ),
        ({"points": {"a": {"data.labels.file": "none.txt"}}}, ["point 'a': data.labels.file", "none.txt"]),
        (
            {"points": {"a": {"teacher.norm.warm_start": "9999 steps"}}},
            ["point 'a': teacher.norm.warm_start = 9999 steps: must not exceed"],
        ),
        ({"points": {"a": {"data": {"split_seed": 9}}}}, ["point 'a': data.split_seed: belongs to the search"]),
        (
            {"points": {"a": {"evaluation.network": "teacher"}}},
            ["point 'a': evaluation.network: belongs to the search"],
        ),
        (
            {"points": {"a": {"train.batch_size": 32}}, "resources": {"workers": 2}},
            ["resources.workers = 2", "1 shards"],
        ),
        ({"points": {"a": 3}}, ["points.a = 3", "must hold keys and values"]),
        ({"points": ["a"]}, ["points = ['a']", "must hold keys and values"]),
        ({"points": {}}, ["points", "at least 1"]),
        ({"grid": {"teacher.momentum.base": 0.9}}, ["grid.teacher.momentum.base = 0.9", "list"]),
        ({"grid": {"teacher.momentum.bass": [0.9]}}, ["point 'momentum.bass 0.9': teacher.momentum.bass: unknown key"]),
        ({"points": {"a": {}}, "grid": {"optim.lr": [0.1]}}, ["points: give either points or grid"]),
        ({"points": {"a": {}}, "space": "teacher"}, ["space: give either space or points"]),
        ({"points": {"a": {}, "b": {}}, "seeds": 3, "trials": 5}, ["trials = 5: 2 points with 3 seeds make 6 trials"]),
        ({"points": {"a": {}}, "stopping": {"kind": "asha"}}, ["stopping.kind = asha: must be none"]),
        (
            {"points": {"a": {}}, "trial": {"seed": 2**31 - 1}, "seeds": 2},
            ["seed = 2147483648", "less than 2147483648"],
        ),
        ({"seeds": 2}, ["seeds = 2: only a table"]),
        ({"points": {"a": {}, "b": {}}, "seeds": 6000}, ["seeds = 6000: with 2 points more than 10,000 trials"]),
        ({"points": {"a": {}}, "seeds": 10**9}, ["seeds = 1000000000: must be less than or equal to 10000"]),
        ({"points": {f"p{n}": {} for n in range(501)}}, ["points: must have at most 500 entries"]),
        (
            {"grid": {f"k{n}": list(range(10)) for n in range(8)}},
            ["grid: combines to 100,000,000 points, of which at most 500"],
        ),
        ({"grid": {"optim.lr": [0.1, "0.1"]}}, ["grid: two combinations have the same values"]),
        ({"points": {1: {}, "1": {"optim.lr": 0.3}}}, ["points: two points have the same label"]),
        ({"points": {"a\nb": {}}}, ["on one line"]),
    ],
)
def test_a_table_at_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict, words: list[str]) -> None:
    path = tmp_path / "table.yaml"
    path.write_text(yaml.safe_dump(changes))
    line = complaint(capsys, "launch", str(path))
    for word in words:
        assert word in line


def test_no_value_of_a_user_steers_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = complaint(capsys, "launch", search_file(tmp_path), "--set", 'trial.teacher.placement="a\\x9b31m\\u0085b"')
    assert "no part is named 'a\\x9b31m\\x85b'" in line and line.isprintable()


def test_each_fault_gets_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["launch", search_file(tmp_path, trails=3, seed=-1)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("error: ") for line in lines)


def test_an_empty_data_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    settings = ["--set", "trial.data.name=imagefolder", "--set", "trial.data.root=empty"]
    assert "the folder is empty" in complaint(capsys, "launch", search_file(tmp_path), *settings)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("missing.yaml", None),
        ("list.yaml", "- 1"),
        ("broken.yaml", "a: [1"),
        ("empty.yaml", ""),
        ("twice.yaml", "a: 1\na: 2"),
    ],
)
def test_a_file_at_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str | None) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    assert name in complaint(capsys, "launch", name)


def test_a_space_that_returns_an_unknown_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text("def suggest(trial):\n    return {'teacher.momentum.bass': 0.9}\n")
    line = complaint(capsys, "launch", search_file(tmp_path), "--set", "space=mine.py:suggest")
    assert "space 'mine.py:suggest': teacher.momentum.bass: unknown key; did you mean 'teacher.momentum.base'?" in line


@pytest.mark.parametrize("points", ["3", "[{'a': 1}, 'b']"])
def test_a_space_with_odd_known_points(tmp_path: Path, capsys: pytest.CaptureFixture[str], points: str) -> None:
    (tmp_path / "mine.py").write_text(f"KNOWN_GOOD = {points}\ndef suggest(trial):\n    return {{}}\n")
    assert "KNOWN_GOOD must be a list of dicts" in complaint(
        capsys, "launch", search_file(tmp_path), "--set", "space=mine.py"
    )


def test_the_folder_one_is_in_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "choose another with --run" in complaint(capsys, "launch", search_file(tmp_path), "--run", ".")


@pytest.mark.parametrize(
    ("name", "text"), [("manifest.json", "{"), ("spec.yaml", "trials: ["), ("journal.log", "what\nis this\n")]
)
def test_a_damaged_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str) -> None:
    run = runs.Run.create(tmp_path / "run", "search", SEARCH, 0)
    (run.path / name).write_text(text)
    assert name in complaint(capsys, "status", "run")


def test_an_output_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "checkpoint").touch()
    assert "file" in complaint(capsys, "evaluate", "checkpoint", "--save", "file/below")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("trial.optim.lr=0.1", "--set trial.optim.lr: a run that goes on keeps it"),
        ("trials=1", "trials = 1: the search was launched with 2"),
        ("resources.workers=3", "more than the 2 shards"),
    ],
)
def test_what_a_resume_may_not_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str, words: str
) -> None:
    runs.Run.create(tmp_path / "run", "search", SEARCH, 0)
    assert words in complaint(capsys, "resume", "run", "--set", setting)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("trials=9", "trials = 9: 2 points with 2 seeds make 4 trials; set seeds instead"),
        ("seeds=1", "seeds = 1: the search was launched with 2"),
        ("points={a: {}}", "--set points: a run that goes on keeps it"),
    ],
)
def test_what_the_resume_of_a_table_may_not_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str, words: str
) -> None:
    runs.Run.create(tmp_path / "run", "search", {"points": {"a": {}, "b": {"optim.lr": 0.1}}, "seeds": 2}, 0)
    assert words in complaint(capsys, "resume", "run", "--set", setting)


@pytest.mark.parametrize("setting", ["trials=9", "seeds=2", "storage.limit=1 GB", "trial.optim.lr=0.1"])
def test_what_the_resume_of_a_full_run_may_not_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str
) -> None:
    runs.Run.create(tmp_path / "run", "train", SEARCH, 0)
    said = complaint(capsys, "resume", "run", "--set", setting)
    assert f"--set {setting.partition('=')[0]}: a run that goes on keeps it; can be changed: address, resources" in said


def test_an_evaluation_may_not_change_the_trial(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "checkpoint").touch()
    assert "--set optim.lr" in complaint(capsys, "evaluate", "checkpoint", "--set", "optim.lr=1")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--protocol", "knn", "linaer"],
            "--protocol knn linaer: no protocol is named 'linaer'; did you mean 'linear'?",
        ),
        (["--protocol", "nothing-like-it"], "nearest of 7: "),
        (["--set", "evaluation.protocols=[knn]"], "--set evaluation.protocols: is of a trial"),
        (["--protocol", "knn", "--save", "file"], "--save file: goes with --protocol linear"),
        (["--against", "missing"], "missing: no such checkpoint"),
        (
            ["--set", "data.train_images=5"],
            "--set data.train_images: an evaluation can change only data.root, data.download, and keys of",
        ),
    ],
)
def test_an_evaluation_at_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    (tmp_path / "checkpoint").touch()
    assert words in complaint(capsys, "evaluate", "checkpoint", *arguments)


def test_keys_are_listed_with_defaults_and_rules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["keys", "trial.teacher"]) == 0
    rows = dict(line.split("\t", 1) for line in capsys.readouterr().out.splitlines())
    assert rows["trial.teacher.momentum.base"].startswith("0.99\tnumber from 0 to 1\tKeep-rate after the warm-up")
    assert rows["trial.teacher.norm.kind"].startswith("batch\tbatch | sync | shuffle | momentum | eman")
    assert "did you mean 'trial.teacher'" in complaint(capsys, "keys", "trial.teachr")


def test_every_key_has_a_description_and_what_names_may_be_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["keys"]) == 0
    rows = {line.split("\t")[0]: line.split("\t") for line in capsys.readouterr().out.splitlines()}
    assert not [key for key, row in rows.items() if len(row) != 4 or not row[3]]
    assert rows["trial.method.name"][2] == "byol | dino | fixmatch | mean_teacher | moco | ressl | simclr | simsiam"
    assert rows["trial.data.name"][2] == "cifar10 | cifar100 | digits | imagefolder | parquet | stl10"
    assert rows["trial.preset"][2].startswith("eman | mean_teacher | momentum2")
    assert rows["space"][2].startswith("ema_placement | ") and rows["space"][2].endswith("my_space.py:suggest")
    assert rows["trial.encoder.name"][2].startswith("resnet10 | ")
    assert rows["trial.method.predictor_hidden"][1] == "byol: 4096; simsiam: 512"
    assert rows["trial.teacher.norm"][2] == "short for kind" and rows["points"][2].startswith(
        "keys and values, at most 500 entries"
    )
    assert {"seeds", "trial.teacher.norm", "trial.method", "stopping"} <= rows.keys()


def test_keys_fit_a_terminal_of_80_columns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert cli.main(["keys"]) == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= 80 and "trial.teacher.norm.kind = batch" in lines


@pytest.mark.parametrize("command", ["resume", "status", "export"])
@pytest.mark.parametrize("there", [True, False])
def test_a_folder_that_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, there: bool) -> None:
    if there:
        (tmp_path / "folder").mkdir()
    assert (
        "no such run directory" in (line := complaint(capsys, command, "folder")) or "it has no manifest.json" in line
    )


def test_an_address_that_does_not_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert "no Ray head answers" in complaint(capsys, "launch", search_file(tmp_path), "--address", address)


def test_an_address_of_something_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It accepts connections and is silent: Ray itself would wait for minutes."""
    monkeypatch.setattr("tuner.commands.checks.JOIN_TIMEOUT", 3.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        assert "could not be joined" in complaint(capsys, "launch", search_file(tmp_path), "--address", address)


def test_a_run_directory_that_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = runs.Run.create(tmp_path / "taken", "search", {}, 0)
    run.journal.write_text('{"op_code": 4, "study_id": 0}\n')  # a trial was asked
    assert "already exists; continue it with" in complaint(capsys, "launch", search_file(tmp_path), "--run", "taken")
    (tmp_path / "taken" / "manifest.json").unlink()
    assert "already exists, and is no run that can be read" in complaint(
        capsys, "launch", search_file(tmp_path), "--run", "taken"
    )


def test_a_run_that_another_process_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = runs.Run.create(tmp_path / "held", "search", {}, 0), runs.Run(tmp_path / "held")
    with pytest.raises(ValueError, match="is being run by process"):
        second.hold()
    assert first.held() and second.held()


def test_train_refuses_what_the_equivalence_rule_cannot_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "best.yaml"
    path.write_text(yaml.safe_dump({"teacher": {"momentum": {"base": 0.7}}}))
    assert "teacher.momentum.base = 0.7" in complaint(capsys, "train", str(path), "--batch-size", "256")
    assert "multiple of train.shard_size" in complaint(capsys, "train", str(path), "--batch-size", "80")
    assert "more than the 2 shards" in complaint(capsys, "train", str(path), "--workers", "4")


def test_train_of_a_search_names_launch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = complaint(capsys, "train", search_file(tmp_path), "--set", "lr=1")
    assert "search.yaml: is a search; start it with: " in line and "tuner launch " in line


def test_an_unknown_command_gets_the_nearest_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["lanch", "search.yaml"])
    assert "no command is named 'lanch'; did you mean 'launch'?" in capsys.readouterr().err


def test_evaluate_needs_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such checkpoint" in complaint(capsys, "evaluate", "nothing")
