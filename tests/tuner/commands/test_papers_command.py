"""`tuner papers`: the list of tables with what was run here, one table beside its paper, and the toy size."""

import json
from pathlib import Path

import pytest
import yaml

from tests.search_spaces.pinned import ROWS
from trainables.config import trial as c
from tuner.commands import launch
from tuner.commands import main as cli
from tuner.plan import papers, points
from tuner.plan.spec import SearchSpec
from tuner.report import papers as report
from tuner.runs import run as runs
from tuner.search.study import Study

NAME = "placement_table1"


@pytest.fixture
def a_run(tmp_path: Path) -> runs.Run:
    """Table 1 at toy size, of which five trials are complete."""
    spec = papers.described(NAME, [*papers.TOY, "name=mine"])
    run = runs.Run.create(tmp_path / "runs" / "mine", "search", spec.plain(), 0)
    study = Study(run.journal, spec, points.load(spec))
    for score in (0.6, 0.4, 0.5, 0.5, 0.3):
        asked = study.ask()
        assert asked is not None
        study.tell(asked.key, {"epoch": 2, "online_top1": score}, None, {})
    return run


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(["papers", *arguments]) == 0
    return capsys.readouterr().out


def test_every_table_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = json.loads(told(capsys, "--json"))
    assert [row["name"] for row in rows] == papers.names() and len(rows) > 30
    assert all(row["title"] and row["data"] and row["trials"] and row["runs"] == [] for row in rows)
    table = next(row for row in rows if row["name"] == NAME)
    assert table["trials"] == 36
    text = told(capsys)
    assert all(name in text for name in papers.names()) and "no run of them in runs" in text


def test_what_was_run_here_at_which_size(a_run: runs.Run, capsys: pytest.CaptureFixture[str]) -> None:
    """A run is known by its table, whatever it is called."""
    folder = str(a_run.path.parent)
    (a_run.path.parent / "no-run").mkdir()
    for argument in (folder, str(a_run.path)):
        rows = {row["name"]: row for row in json.loads(told(capsys, "--runs", argument, "--json"))}
        (run,) = rows[NAME]["runs"]
        assert (run["done"], run["trials"], run["epochs"], run["of_epochs"]) == (5, 12, [2, 2], [200, 200])
        assert run["size"] == "digits, 140 images, resnet18 of width 4"
        assert sum(bool(row["runs"]) for row in rows.values()) == 1
    line = f"{NAME}: {a_run.path}: 5/12 trials, 2 of 200 epochs, digits, 140 images, resnet18 of width 4"
    assert line in told(capsys, "--runs", folder).splitlines()


def test_a_table_has_the_epochs_of_its_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows may be of other lengths, and none as long as the trial that they differ from."""
    for name, settings in (("toy", papers.TOY), ("whole", ["trial.data={name: digits}", "trial.encoder.stem=small"])):
        spec = papers.described("spatial_ensemble_table3", settings)
        runs.Run.create(tmp_path / name, "search", spec.plain(), 0)
    text = told(capsys, "spatial_ensemble_table3", "--runs", str(tmp_path))
    assert "/toy: 0/4 trials, 2 of 300-1000 epochs" in text and "/whole: 0/4 trials, 300-1000 epochs" in text


def test_one_table_and_its_runs(a_run: runs.Run, capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, NAME, "--runs", str(a_run.path.parent))
    assert f"tuner launch search_spaces/papers/{NAME}.yaml" in text, "what the file's header says"
    assert "5/12 trials, 2 of 200 epochs" in text
    assert "BYOL, beta 0.99" in text and "62.01" in text, "the paper's"
    assert "0.6000" in text and "0.6201" in text, "ours beside the paper's"
    assert "Spearman's rank correlation with the paper: " in text and "over 5 rows; 95 % interval" in text
    content = json.loads(told(capsys, NAME, "--runs", str(a_run.path.parent), "--json"))
    assert len(content["rows"]) == 12 and content["views"][0]["trials_wanted"] == 12


def test_numbers_that_a_paper_does_not_print_are_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, "placement_fig6", "--runs", str(tmp_path))
    lines = {line.split("│")[1].strip(): line for line in text.splitlines() if line.count("│") > 1}
    assert "~59.94" in lines["byol, momentum.base 0.9995, placement projector"] and text.count("~5") == 4
    assert " 54.81" in lines["byol, momentum.base 0.9995, placement whole"] and report.INFERRED in text
    content = json.loads(told(capsys, "placement_fig6", "--runs", str(tmp_path), "--json"))
    (inferred,) = content["inferred"].values()
    assert inferred == [label for label in content["rows"] if label.endswith("0.9995, placement projector")]
    assert report.INFERRED not in told(capsys, NAME, "--runs", str(tmp_path))


def test_the_tables_infer_what_the_pinned_rows_say() -> None:
    """In the rows' sources, which are written down apart from the tables."""
    for name, spec in papers.tables().items():
        pins = ROWS / f"{name}.yaml"
        if spec.paper is None or not pins.exists():
            continue
        content = yaml.safe_load(pins.read_text())
        shared = content["sources"].get("reported", "")
        pinned = {
            (metric, label)
            for label, row in content["rows"].items()
            for metric in row.get("reported", {})
            if row.get("sources", {}).get("reported", shared).endswith(", inferred")
        }
        assert pinned == {(metric, label) for metric, labels in spec.paper.inferred.items() for label in labels}, name


def test_names_and_arguments_that_do_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line, said in (
        (["placement_tabel1"], "no table is named placement_tabel1; did you mean 'placement_table1'?"),
        ([""], "no table is named ''; nearest of "),
        (["--toy"], "--toy: goes with the name of a table; 'tuner papers' lists them"),
        ([NAME, "--set", "seeds=2"], "--set: goes with --toy; in its own size a table is started by: tuner launch "),
        ([NAME, "--wait", "0s"], "--wait: goes with --toy; in its own size a table is started by: tuner launch "),
        (["--runs", str(tmp_path / "none")], "none: no such folder"),
        ([NAME, "--toy", "--json"], "--json: does not go with --toy: it launches a run, and tuner status RUN"),
        ([NAME, "--toy", "--runs", "runs"], "--runs: does not go with --toy: it looks for no runs, and --run names "),
        ([NAME, "--toy", "--set", "trial.nonsense=1"], "trial.nonsense: unknown key"),
    ):
        assert cli.main(["papers", *line]) == 2
        assert said in capsys.readouterr().err


def test_the_toy_size_is_launched_as_any_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    launched: list[tuple[SearchSpec, Path, float | None]] = []

    def started(search: SearchSpec, path: Path, wait: float | None) -> int:
        launched.append((search, path, wait))
        return 0

    monkeypatch.setattr(launch, "started", started)
    assert cli.main(["papers", NAME, "--toy"]) == 0
    line = ["papers", NAME, "--toy", "--run", "here", "--set", "seeds=2", "--set", "trial.train.epochs=3"]
    assert cli.main([*line, "--address", "head:1", "--wait", "5s"]) == 0
    (plain, path, wait), (changed, here, waits) = launched
    assert (plain.trials, plain.trial.train.epochs, path, wait) == (12, 2, Path("runs") / f"{NAME}-toy", None)
    assert (changed.trials, changed.trial.train.epochs, here, waits) == (24, 3, Path("here"), 5.0)
    assert changed.address == "head:1" and changed.trial.data.name == "digits"
    configs = points.configs(plain).values()
    assert {(config.train.batch_size, config.encoder.width, config.train.epochs) for config in configs} == {(70, 4, 2)}
    assert {config.method.name for config in configs} == {"byol", "simsiam", "dino", "ressl", "moco", "simclr"}


def test_the_size_of_a_trial_in_words() -> None:
    plain = c.parse({"data": {"name": "imagefolder", "root": "x", "image_size": 64}, "encoder": "resnet50"})
    assert report.size_of(plain) == "imagefolder, 64 x 64, resnet50"


def test_a_table_is_known_by_its_title() -> None:
    titles = [spec.paper and spec.paper.title for spec in papers.tables().values()]
    assert None not in titles and len(set(titles)) == len(titles)


def test_a_header_is_what_the_file_says_before_its_first_key() -> None:
    lines = papers.header(NAME)
    assert lines[0].startswith("Placement paper, Table 1") and len(lines) > 5
    text = papers.path_of(NAME).read_text()
    assert yaml.safe_load(text.partition(lines[-1])[2].partition("\n")[2])["name"] == NAME
