"""Each row of each table runs what its paper has, value by value, and each value is held by a test."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.search_spaces import pinned
from tuner.plan import reading

every_table = pytest.mark.parametrize("path", pinned.TABLES, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def ours() -> Mapping[str, dict[str, pinned.Values]]:
    """What each table runs, by its name."""
    return {path.stem: pinned.ours(path) for path in pinned.TABLES}


Ours = Mapping[str, dict[str, pinned.Values]]


@every_table
def test_a_table_runs_what_its_paper_has(path: Path, ours: Ours) -> None:
    assert not pinned.differences(pinned.pinned(path.stem), ours[path.stem])


@every_table
def test_a_pinned_value_that_is_another_is_found(path: Path, ours: Ours) -> None:
    """Each one, changed alone, is the one difference that is told."""
    values = pinned.pinned(path.stem)
    for at, value in enumerate(values):
        for other in others(value.value):
            changed = [*values[:at], value._replace(value=other), *values[at + 1 :]]
            (line,) = pinned.differences(changed, ours[path.stem])
            assert line.startswith(f"{path.stem}: '{value.row}': {value.key}: ours ")


def others(value: object) -> Iterator[object]:
    """Values that are not the same, among them close ones."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield from (value + 1, value * 1.0001 if value else 1e-6, -value - 1)
    elif isinstance(value, str):
        yield from (f"{value}s", "")
    else:
        assert isinstance(value, list) and value
        yield from (value[:-1], [*value, value[0]])
        for at, inner in enumerate(value):
            yield from ([*value[:at], other, *value[at + 1 :]] for other in others(inner))


@every_table
def test_all_rows_and_all_numbers_are_pinned(path: Path, ours: Ours) -> None:
    values = pinned.pinned(path.stem)
    assert list(dict.fromkeys(value.row for value in values)) == list(ours[path.stem])
    table = reading.described(path, [])
    for row in ours[path.stem]:
        numbers = {f"reported.{metric}" for metric, _ in pinned.reported(table, row)}
        assert numbers == {value.key for value in values if value.row == row and value.key.startswith("reported.")}


ALWAYS = {
    *("method", "encoder", "stem", "batch", "shard", "epochs", "optimiser", "lr", "lr_schedule", "warmup"),
    *("data", "train_split", "crop_size", "crop_scale", "crop_ratio", "flip", "student_norm", "network"),
    *("weight_decay", "optim.momentum", "scored.every_epochs", "scored.protocols", "scored.objective"),
}
COLOURS = {"jitter", "colour", "gray", "blur", "solarise"}
OF_A_METHOD = {
    "byol": {"byol.predictor", "byol.convention"},
    "simsiam": {"simsiam.predictor", "simsiam.constant"},
    "moco": {"moco.symmetric", "queue", "temperature"},
    "simclr": {"simclr.negatives", "temperature"},
    "ressl": {"student_views", "queue", "temperature", "teacher_temperature"},
    "dino": {"dino.prototypes", "dino.center", "dino.frozen", "dino.warmup", "dino.warmup_from"},
    "fixmatch": {"threshold", "unlabelled_weight", "images_per_label", "pseudo_labels", "randaugment", "shift"},
    "mean_teacher": {"consistency", "rampup", "images_per_label", "shift"},
}
LARS = {"lars.trust", "lars.clip", "lars.lr_in_buffer"}
MOMENTUM_BN = {"momentum_bn.variance", "momentum_bn.history", "momentum_bn.lazy"}
AVERAGED = {"update", "teacher_norm", "smoothing.kind", "momentum.kind", "momentum.base"}


def needed(row: pinned.Values) -> Iterator[str]:
    """The keys that a row has to pin, given what it pins: how it is trained, scored, and how its teacher follows."""
    yield from ALWAYS
    method = str(row["method"])
    yield from OF_A_METHOD[method]
    if method not in ("fixmatch", "mean_teacher"):
        yield from {*COLOURS, "projector", "head.layers", "head.norm", "head.activation"}
    if row["optimiser"] == "lars":
        yield from LARS
    if row["warmup"] != "0 steps":
        yield "optim.warmup_factor"
    if isinstance(scored := row["scored.protocols"], list) and "online" in scored:
        yield "probe"
    if "monitors.drift" not in row:  # a figure of how far the teacher moves scores nothing
        yield "protocols"
    if row.get("pseudo_labels") != "student":  # without an averaged copy: FixMatch as it was
        yield "placement"
    if row.get("placement", "none") == "none":
        return
    yield from AVERAGED
    if row.get("momentum.kind") not in ("constant", "running_mean"):
        yield "momentum.final"
    if row.get("smoothing.kind") != "tma":
        yield from ("smoothing.p", "smoothing.granularity")
    if row.get("teacher_norm") == "eman":
        yield "warm_start"
    if row.get("teacher_norm") == "momentum":
        yield from {*MOMENTUM_BN, "alpha.kind", "alpha.base"}
        if row.get("alpha.kind") != "constant":
            yield "alpha.final"


@every_table
def test_a_row_pins_how_it_is_trained(path: Path) -> None:
    values = pinned.pinned(path.stem)
    for row in dict.fromkeys(value.row for value in values):
        of_row = {value.key: value.value for value in values if value.row == row}
        assert {*needed(of_row)} - of_row.keys() == set(), f"{path.stem}: '{row}'"


@every_table
def test_a_value_has_a_source(path: Path) -> None:
    for value in pinned.pinned(path.stem):
        place, _, how = value.source.rpartition(", ")
        assert place and how in pinned.HOW, f"{value.table}: '{value.row}': {value.key}: {value.source}"


def test_there_are_rows_for_every_table() -> None:
    assert sorted(path.stem for path in pinned.ROWS.glob("*.yaml")) == [path.stem for path in pinned.TABLES]


SINGLE = {
    "head.layers": "encoder.projector.layers=4",
    "warmup": "optim.lr.warmup=13 epochs",
    "optim.momentum": "optim.momentum=0.8",
    "optim.warmup_factor": "optim.lr.warmup_factor=0.3",
    "lars.trust": "optim.trust=0.5",
    "momentum_bn.variance": "teacher.norm.variance=released",
    "momentum_bn.history": "teacher.norm.history=shared",
    "warm_start": "teacher.norm.warm_start=100 steps",
    "probe": "online_probe.lr=0.7",
    "scored.every_epochs": "evaluation.every_epochs=3",
    "traces.every": "monitors.every=30 steps",
}
"""Changes of one value, for tables that pin the key."""


def changes(stem: str) -> Iterator[tuple[str, list[str]]]:
    """Changes of a table's file for all of its rows: the pinned key that is then another, and the settings."""
    values = pinned.pinned(stem)

    def of(key: str) -> list[object]:
        return [value.value for value in values if value.key == key]

    cifar = {"cifar10": "cifar100", "cifar100": "cifar10"}
    yield "data", [f"data.name={cifar.get(str(of('data')[0]), 'parquet')}", "data.train_split=train"]
    if of("train_split")[0] == "both":
        yield "train_split", ["data.train_split=train"]
    yield "batch", [f"train.batch_size={3 * max(map(int, map(str, of('batch'))))}"]
    yield "shard", [f"train.shard_size={min(map(int, map(str, of('shard')))) // 2}"]
    yield "epochs", ["train.epochs=777"]
    yield "lr", ["optim.lr.base=7"]
    yield "lr_schedule", ["optim.lr.kind=linear"]
    yield "weight_decay", ["optim.weight_decay.base=0.5"]
    yield "encoder", ["encoder.name=resnet34"]
    yield "network", [f"evaluation.network={'student' if of('network')[0] == 'teacher' else 'teacher'}"]
    yield "momentum.base", ["teacher.momentum.base=0.88"]
    yield "update", [f"teacher.update={'after' if of('update')[0] == 'before' else 'before'}"]
    yield "placement", ["teacher.placement=[block2, block3]"]
    for key in ("crop_scale", "crop_ratio", "flip", "shift", "jitter", "gray", "blur", "solarise"):
        if of(key):
            yield key, [f"views.{key}={'[0.3, 0.7]' if isinstance(of(key)[0], list) else '0.3'}"]
    for key, setting in SINGLE.items():
        if of(key):
            yield key, [setting]
    for key in ("lars.clip", "lars.lr_in_buffer"):
        if of(key):
            yield key, [f"optim.{key.removeprefix('lars.')}={str(not of(key)[0]).lower()}"]
    (scored,) = {tuple(map(str, names)) for names in of("scored.protocols") if isinstance(names, list)}
    yield "scored.protocols", [f"evaluation.protocols=[{', '.join(scored)}, finetune]"]
    if set(of("method")) == {"byol"}:
        yield "byol.predictor", ["method.predictor_hidden=100"]
        yield "byol.convention", ["method.convention=mean"]
    if "none" not in of("placement") and "student" not in of("pseudo_labels"):  # these refuse all norms but their own
        yield (
            "teacher_norm",
            [f"teacher.norm.kind={'momentum' if set(of('teacher_norm')) != {'momentum'} else 'batch'}"],
        )
    for key, setting in (("queue", "queue=4096"), ("threshold", "threshold=0.2"), ("unlabelled_weight", "weight=1")):
        if set(of(key)) - {1} and len(set(of("method"))) == 1:
            yield key, [f"method.{setting}"]


@every_table
def test_a_file_that_is_another_is_found(path: Path, ours: Ours) -> None:
    """Keys of its trials, set to other values: of each key, all rows that pin it and run another value are told."""
    values, seen = pinned.pinned(path.stem), ours[path.stem]
    settings = dict(changes(path.stem))
    changed = pinned.ours(path, [f"trial.{setting}" for several in settings.values() for setting in several])
    lines = pinned.differences(values, changed)
    for key in settings:
        another = {row for row in seen if changed.get(row, {}).get(key) != seen[row][key]}  # a grid has other rows
        told = {line.split("'")[1] for line in lines if f"': {key}: ours" in line}
        assert told and told == another & {value.row for value in values if value.key == key}, f"{path.stem}: {key}"


@pytest.mark.parametrize(
    ("stem", "before", "after", "key"),
    [
        *(
            (
                f"spatial_ensemble_table6_{data}",
                "    preset: mean_teacher\n",
                f"    preset: mean_teacher\n    {line}\n",
                key,
            )
            for data in ("cifar10", "cifar100")
            for key, line in (
                ("momentum.base", "teacher.momentum.base: 0.5"),
                ("momentum.kind", "teacher.momentum: 0.97"),
                ("teacher_norm", "teacher.norm.kind: eman"),
            )
        ),
        (
            "spatial_ensemble_table6_cifar10",
            "images_per_label: 7}",
            "images_per_label: 7, consistency: 1}",
            "consistency",
        ),
        ("spatial_ensemble_table6_cifar100", "    optim.weight_decay: 2.0e-4\n", "", "weight_decay"),
        (
            "placement_table1",
            "{method.name: ressl}",
            "{method.name: ressl, method.student_views: first}",
            "student_views",
        ),
        ("placement_table1", "{method.name: moco}", "{method.name: moco, method.queue: 4096}", "queue"),
        ("placement_table4", "{protocols: [online]}", "{protocols: [online], every_epochs: 50}", "scored.every_epochs"),
        ("placement_table4", "{protocols: [online]}", "{protocols: [knn, online]}", "scored.protocols"),
        ("placement_table1", "{metric: online_top1}", "{metric: loss}", "scored.objective"),
        ("placement_table2", "  monitors: {names: [gradients, filters], every: 20 steps}\n", "", "traces.*"),
    ],
)
def test_a_row_that_is_another_is_found(stem: str, before: str, after: str, key: str, tmp_path: Path) -> None:
    (path,) = (path for path in pinned.TABLES if path.stem == stem)
    text = path.read_text()
    assert before in text
    wrong = tmp_path / path.name
    wrong.write_text(text.replace(before, after))
    lines = pinned.differences(pinned.pinned(stem), pinned.ours(wrong))
    assert lines and all(re.search(rf"': (?:{key}): ours", line) for line in lines)


def test_a_wrong_batch_in_a_file_is_found(tmp_path: Path) -> None:
    """Momentum² Teacher's Table 4 as it was before: 4096 in all rows."""
    (path,) = (path for path in pinned.TABLES if path.stem == "momentum2_table4")
    wrong = tmp_path / path.name
    wrong.write_text(re.sub(r"train.batch_size: 2048, ", "", path.read_text()))
    lines = pinned.differences(pinned.pinned(path.stem), pinned.ours(wrong))
    assert [line.partition(" (")[0] for line in lines] == [
        "momentum2_table4: 'Momentum² Teacher, n = 16': batch: ours 4096, the paper's 2048",
        "momentum2_table4: 'Momentum² Teacher, n = 16': lr: ours 4.8, the paper's 2.4",
        "momentum2_table4: 'Momentum² Teacher, n = 16': momentum.base: ours 0.99, the paper's 0.995",
    ]
