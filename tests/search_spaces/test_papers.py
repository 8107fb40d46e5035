"""The papers' tables: every row is a trial that makes a step, and headers and index say what is so."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from tests.search_spaces.pinned import ROOM, TABLES, commands
from tests.trainables.feeds import feed_of
from trainables.config import trial as c
from trainables.data import images as data
from trainables.data.feed import labelled_images
from trainables.learning.learner import Learner
from trainables.networks.group import Group
from trainables.running.resolve import resolved
from tuner.commands import arguments
from tuner.plan import papers, points, reading, spec
from tuner.report import figures

PAPERS = sorted(ROOM.glob("*.yaml"))
INDEX = (ROOM / "README.md").read_text()
EXPERIMENTS = {
    "M2T": ["T1", "T2", "T3", "T4", "F3", "T5", "T6", "T7", "T8", "T12"],
    "EMAN": ["abs"],
    "STS": ["T1", "T2", "F3", "F4", "T3", "T4", "F5", "T6"],
    "PCM": ["T1", "T2", "F2", "F3", "F4", "F5", "T3", "T4", "C.7", "T5", "T6", "F6", "T7", "C.8", "D.9"],
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


def header(path: Path) -> str:
    return path.read_text().partition("\nname:")[0]


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
def test_a_table_says_what_its_paper_reports(path: Path) -> None:
    """In its section `paper`, which `test_rows` compares with the paper, and nowhere else."""
    table = spec.parse(yaml.safe_load(path.read_text()))
    assert table.paper is not None and table.paper.gpu_hours and table.paper.data in INDEX
    assert table.paper.reported or path.stem == "spatial_ensemble_fig3"  # which prints no numbers
    assert not re.search(r"^ .*#", path.read_text(), re.M), "a comment beside a row"
    numbers = {f"{number}" for rows in table.paper.reported.values() for number in rows.values() if number > 1}
    said = set(re.findall(r"(?<![\w.])\d\d\.\d+(?![\d.])", header(path)))
    assert not said & numbers, "a number is stated twice"


@every_table
def test_a_launch_carries_the_paper_s_numbers(path: Path) -> None:
    """In the spec that is written into the run; a table is the same search without them."""
    table = reading.described(path, [])
    assert spec.parse(yaml.safe_load(yaml.safe_dump(table.plain()))).paper == table.paper
    bare = spec.parse({key: value for key, value in yaml.safe_load(path.read_text()).items() if key != "paper"})
    assert points.configs(bare) == points.configs(table)
    reading.require_same(bare.plain(), table)


@every_table
def test_a_header_says_what_it_costs_and_scores(path: Path) -> None:
    table = spec.parse(yaml.safe_load(path.read_text()))
    trials, low, high = re.search(
        r"Cost: (\d+) trials x ([\d,]+)(?:(?: to| and) ([\d,]+))? epochs", header(path)
    ).groups()
    assert int(trials) == table.trials
    lengths = {config.train.epochs for config in points.configs(table).values()}
    assert {min(lengths)} | ({max(lengths)} if high else set()) == {int(n.replace(",", "")) for n in (low, high) if n}
    assert f"Scored: the {table.trial.evaluation.network}" in header(path)
    assert "Data: " in header(path)


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


ADMITTED = (
    *("held out", "masks", "first copy", "pads by", "zero-init", "never grey", "20th step", "biases", "LARS spares"),
    *("in each epoch", "lists", "learning rate stays", "not learnt from", "learning rate of 1e-12"),
)


@every_table
def test_the_index_has_what_a_header_admits(path: Path) -> None:
    """What is not as in the papers stands in one place."""
    text, section = (
        " ".join(header(path).replace("#", "").split()),
        INDEX.partition("## What these tables do not do")[2],
    )
    assert all(phrase in section for phrase in ADMITTED)
    admitted = re.findall(r"Not as in the paper: (.*?)\.(?: |$)", text)
    assert admitted or path.stem == "momentum2_table1"
    for clause in ";".join(admitted).split(";"):
        assert not clause or re.search("|".join([*ADMITTED, "spares", "each epoch"]), clause), clause


def test_a_figure_of_the_placement_paper_has_a_command() -> None:
    """For each kind of figure, in the header of the table that traces it, and in the index."""
    drawn = {
        words[words.index("--kind") + 1]
        for words in commands(header(ROOM / "placement_table2.yaml"))
        if "--kind" in words
    }
    assert drawn == set(figures.KINDS)
    for kind, number in {"filters": "2", "gradients": "5", "coordinates": "E"}.items():
        assert re.search(rf"Figures? {number}[^.]*\({kind}\)", header(ROOM / "placement_table2.yaml"))
        assert re.search(rf"--kind {kind}`[^,]*Figure {number}", INDEX.replace("\n", " "))


@pytest.fixture(scope="module")
def stepped() -> dict[str, float]:
    """Losses of the trials that have made their step: rows that are the same at toy size make it once."""
    return {}


@every_file_now_or_later
def test_every_row_makes_a_step(path: Path, stepped: dict[str, float]) -> None:
    """As the index says that it can be tried out: digits, tiny networks, one seed."""
    table = reading.read(path, papers.TOY)
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
    config = points.configs(reading.read(ROOM / "placement_table2.yaml", papers.TOY))["random encoder"]
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


def test_the_small_placement_table_has_the_numbers_and_the_momentum_of_the_papers() -> None:
    """Those of both tables that it stands for; the momentum is that of a step, in its own batches."""

    def numbers(name: str) -> dict[tuple[str, tuple[str, ...]], float]:
        table = papers.described(name)
        assert table.paper is not None
        reported = table.paper.reported["online_top1"]
        rows = points.configs(table).items()
        return {(row.method.name, row.teacher.placement): reported[label] for label, row in rows if label in reported}

    assert numbers("small_placement") == numbers("placement_table1") | numbers("placement_table3")
    for config in points.configs(papers.described("small_placement")).values():
        if config.teacher.placement:
            wanted = 0.9 if config.method.name == "simclr" else 0.99
            assert resolved(config, 10).teacher.momentum.base == pytest.approx(wanted)
