"""The papers' tables: every row is a trial that makes a step, and headers and index say what is so."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

import search_spaces
from tests.trainables.feeds import feed_of
from trainables.config import trial as c
from trainables.data import images as data
from trainables.data.feed import labelled_images
from trainables.learning.learner import Learner
from trainables.networks.group import Group
from trainables.running.resolve import resolved
from tuner.commands import arguments
from tuner.plan import points, reading, spec

ROOM = Path(search_spaces.__file__).parent / "papers"
PAPERS = sorted(ROOM.glob("*.yaml"))
TABLES = [path for path in PAPERS if not path.stem.startswith("small_")]
INDEX = (ROOM / "README.md").read_text()
EXPERIMENTS = {
    "M2T": ["T1", "T2", "T3", "T4", "F3", "T5", "T6", "T7", "T8", "T12"],
    "EMAN": ["abs"],
    "STS": ["T1", "T2", "F3", "F4", "T3", "T4", "F5", "T6"],
    "PCM": ["T1", "T2", "F2", "F3", "F4", "F5", "T3", "T4", "C.7", "T5", "T6", "F6", "T7", "C.8", "D.9"],
}
REPORTED = {  # by the papers, row by row
    "momentum2_table1": "88.06 1.1 87.80 0.39 87.12 0.49 84.16 0.24 88.18 0.25 88.25 0.50",
    "momentum2_table2": "72.5 / 87.6, 61.5 / 84.6, 72.0 / 90.6, 72.9 / 90.6",
    "momentum2_table3": "66.8 / 87.6, 0.65, 67.8 / 88.0, 0.35",
    "momentum2_table4": "68.3 72.0 72.5 72.6 72.9 59.7 69.6 71.8 72.2",
    "momentum2_table5": "70.4 72.3 72.9 70.7 72.7 73.8 68.1 70.0",
    "momentum2_table6": "72.0 61.6 71.2 69.1 69.8 68.9",
    "momentum2_table7": "72.0 71.6 71.2 69.7 69.5 69.6",
    "momentum2_table8": "72.9 / 91.2, 74.5 / 91.7, 57.7 70.2 62.3 72.2 80.8 89.3 84.1 90.1 53.2 68.8",
    "eman_self_supervised": "48.9 60.5 67.7 55.4 64.0 70.1 56.8 65.7 72.3 55.1 66.7 72.2",
    "eman_fixmatch": "63.0 74.0",
    "spatial_ensemble_table1": "66.7 / 87.0, 67.8 / 88.3",
    "spatial_ensemble_table2": "67.5 / 88.0, 67.8 / 88.1, 71.8 / 90.6, 72.7 / 90.9 +1.5",
    "spatial_ensemble_table3": "73.0 / 91.3, 74.5 / 91.8, 72.5 / 90.8 74.3 / 91.6",
    "spatial_ensemble_table4": "71.8 1.00 67.8 0.97 70.8 1.02 71.6 1.80 72.7 0.99 72.8 1.04 1.82",
    "spatial_ensemble_table6_cifar10": "86.68 92.06 94.89 95.77 93.31 93.89 95.10 95.94 97.01",
    "spatial_ensemble_table6_cifar100": "42.78 52.54 70.75 76.53 45.85 55.25 72.22 77.92",
    "placement_table1": "62.01 43.48 51.41 53.66 58.12 1.08 54.66 1.56 62.34 2.22 60.45 61.97",
    "placement_table2": "15.21 / 6.85 20.01 / 10.01 25.76 / 14.17 22.63 / 12.56",
    "placement_table3": "62.01 62.17 59.61 58.12 8.11 58.14 54.66 29.79 53.51 62.34 45.84 60.39",
    "placement_table4": "67.9 67.8 88.3 88.2 53 3 47.0 23.5 56.5 38.5",
    "placement_table5": "63.71 59.88 65.12 61.76 57.07 56.10 53.04 56.54",
    "placement_table6": "76.60 71.18 75.02 75.52 74.16 63.78 74.22 72.02 74.02 61.48 69.12 65.81 76.48 "
    "69.86 74.31 72.06",
    "placement_table7": "62.01 58.01 60.27 62.32",
    "placement_table8": "62.01 / 54.84 43.48 / 31.58 49.59 / 42.92 59.61 / 54.02 60.75 / 53.32 61.97 / "
    "55.42 62.48 / 55.66",
    "placement_table9": "88.37 80.34 87.73 87.91 88.03 88.45",
    "placement_fig4": "43.48 43.07 59.61 62.17 62.01",
    "placement_fig6": "42.46 38.49 54.81 53.04 51.33 53.76 59.94 57.56",
}
SOON = (
    "small_methods",
    "small_labels",
    "placement_table1",
    "spatial_ensemble_table6_cifar10",
)  # each method, and rows that change data
every_file_now_or_later = pytest.mark.parametrize(
    "path",
    [path if path.stem in SOON else pytest.param(path, marks=pytest.mark.long) for path in PAPERS],
    ids=lambda path: path.stem,
)
every_table = pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def commands(text: str) -> list[list[str]]:
    """The words of each `tuner` command in a text, less its name."""
    lines = re.sub(r"\\\n#? *", "", text).splitlines()
    stripped = [line.removeprefix("#").strip() for line in lines]
    return [shlex.split(line)[1:] for line in stripped if line.startswith("tuner ")]


def header(path: Path) -> str:
    return path.read_text().partition("\nname:")[0]


TOY = arguments.parser().parse_args(commands(INDEX)[0]).set


def test_every_experiment_has_a_file() -> None:
    """The index names every file, and every experiment of the papers."""
    rows = dict(re.findall(r"^\| \[(\w+)\]\(\1\.yaml\) \| (.*?) \|", INDEX, re.M))
    assert sorted(rows) == [path.stem for path in PAPERS]
    named = [
        name for row in rows.values() for name in re.findall(r"(?:M2T|EMAN|STS|PCM)-[\w.]+", row.partition(":")[0])
    ]
    twice = ["EMAN-abs", "STS-T6"]  # tables of two data sets or methods
    assert sorted(named) == sorted(
        [f"{paper}-{name}" for paper, names in EXPERIMENTS.items() for name in names] + twice
    )


@every_table
def test_a_header_says_what_the_paper_reports(path: Path) -> None:
    text = path.read_text()
    if path.stem in REPORTED:
        missing = [
            number
            for number in re.findall(r"[\d.]+\d", REPORTED[path.stem])
            if not re.search(rf"(?<![\d.]){re.escape(number)}(?!\d)", text)
        ]
        assert not missing
    else:
        assert path.stem in ("spatial_ensemble_fig3", "spatial_ensemble_fig4")  # which print no numbers
    for word in ("Data: ", "Scored: the ", "Cost: "):
        assert word in header(path)


@every_table
def test_a_header_says_what_it_costs_and_scores(path: Path) -> None:
    table = spec.parse(yaml.safe_load(path.read_text()))
    trials, low, high = re.search(r"Cost: (\d+) trials x ([\d,]+)(?:(?: to| and) (\d+))? epochs", header(path)).groups()
    assert int(trials) == table.trials
    lengths = {config.train.epochs for config in points.configs(table).values()}
    assert {min(lengths)} | ({max(lengths)} if high else set()) == {int(n.replace(",", "")) for n in (low, high) if n}
    assert f"Scored: the {table.trial.evaluation.network}" in header(path)


@every_table
def test_the_commands_of_a_header(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They name the file, its run and keys that there are; without the data they end where the data are looked for."""
    launch, *others = commands(header(path))
    given = arguments.parser().parse_args(launch)
    assert given.search == Path("search_spaces/papers") / path.name
    with pytest.raises(c.UserError, match="no such folder|data.classes"):
        reading.read(path, given.set)
    assert yaml.safe_load(path.read_text())["name"] == path.stem
    assert others or "tensorboard --logdir" in header(path)
    for words in others:
        arguments.parser().parse_args(words)
        assert words[0] in ("evaluate", "figure") and {
            part.split("/trials/")[0] for part in words if "/trials/" in part
        } == {f"runs/{path.stem}"}


@pytest.fixture(scope="module")
def stepped() -> dict[str, float]:
    """Losses of the trials that have made their step: rows that are the same at toy size make it once."""
    return {}


@every_file_now_or_later
def test_every_row_makes_a_step(path: Path, stepped: dict[str, float]) -> None:
    """As the index says that it can be tried out: digits, tiny networks, one seed."""
    table = reading.read(path, TOY)
    configs = points.configs(table)
    assert len(configs) == table.trials
    points.check_data(table)
    for label, config in configs.items():
        key = config.model_dump_json()
        if key not in stepped:
            images, bank = data.splits(config.data, "train", "bank")
            config = resolved(config, bank.classes)
            learner = Learner(config, images.channels, len(images), Group(), bank.classes)
            order = images.order(config.seed, 0, "order")
            loss = learner.step(feed_of(learner, images, labelled_images(config, bank)).batches(order, 0, 0))
            stepped[key] = loss.item()
        assert torch.tensor(stepped[key]).isfinite(), label


def test_the_random_encoder_does_not_move() -> None:
    """But its probe learns."""
    config = points.configs(reading.read(ROOM / "placement_table2.yaml", TOY))["random encoder"]
    images, bank = data.splits(config.data, "train", "bank")
    learner = Learner(resolved(config, bank.classes), images.channels, len(images), Group(), bank.classes)
    before = {name: parameter.clone() for name, parameter in learner.student.named_parameters()}
    for at in range(2):
        learner.step(feed_of(learner, images).batches(images.order(config.seed, 0, "order"), at, 0))
    moved = {
        name: (parameter - before[name]).abs().max().item() for name, parameter in learner.student.named_parameters()
    }
    assert max(change for name, change in moved.items() if not name.startswith("probe")) < 1e-9
    assert moved["probe.weight"] > 1e-4
