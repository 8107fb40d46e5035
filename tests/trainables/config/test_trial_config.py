"""TrialConfig: what it refuses and how, views that suit a data set, placements, settings, and the equivalence rule."""

import json
from itertools import permutations
from pathlib import Path

import pytest
import torch
import yaml
from pydantic import ValidationError

from tests.trainables.feeds import feed_of
from trainables.config import equivalence, settings
from trainables.config import trial as c
from trainables.config.durations import steps_in
from trainables.config.errors import UserError
from trainables.config.teacher import BACKBONE, PROJECTOR, Momentum
from trainables.data.check import check_data


def refusal(nested: object) -> str:
    with pytest.raises(UserError) as caught:
        c.parse(nested)  # type: ignore[arg-type]
    return str(caught.value)


@pytest.mark.parametrize(
    ("nested", "key", "offer"),
    [
        ({"tran": {}}, "tran", "train"),
        ({"train": {"epocs": 3}}, "train.epocs", "epochs"),
        ({"teacher": {"momentun": {"base": 0.9}}}, "teacher.momentun", "momentum"),
        ({"teacher": {"norm": {"alpha": {"bas": 1}}}}, "teacher.norm.alpha.bas", "base"),
        ({"evaluation": {"linear": {"epoch": 1}}}, "evaluation.linear.epoch", "epochs"),
    ],
)
def test_unknown_keys_are_refused_with_the_nearest_name(nested, key, offer):
    assert refusal(nested) == f"{key}: unknown key; did you mean '{offer}'?"


def test_a_key_that_is_near_to_nothing_gets_the_five_nearest():
    assert refusal({"zzz": 1}).endswith("zzz: unknown key; nearest of 13: views, train, teacher, seed, preset")
    assert refusal({"optim": {"lr": {"zzz": 1}}}).count(",") == 4


@pytest.mark.parametrize(
    ("nested", "key", "rule"),
    [
        ({"train": {"epochs": "many"}}, "train.epochs = 'many'", "valid integer"),
        ({"train": {"epochs": 1.5}}, "train.epochs = 1.5", "valid integer"),
        ({"train": {"epochs": -1}}, "train.epochs = -1", "greater than or equal to 0"),
        ({"optim": {"lr": {"base": [1]}}}, "optim.lr.base = [1]", "valid number"),
        ({"optim": {"lr": 0}}, "optim.lr.base = 0", "greater than 0"),
        (
            {"train": 3},
            "train = 3",
            "must hold keys and values: epochs, batch_size, base_batch, shard_size, precision, ...",
        ),
        ({"data": {"labels": 4}}, "data.labels = 4", "must hold keys and values: per_class, share, file, seed"),
        ({"views": {"crop_scale": "all"}}, "views.crop_scale = 'all'", "must be a list"),
        ({"views": {"crop_scale": [0.9, 0.2]}}, "views.crop_scale = [0.9, 0.2]", "rising"),
        ({"teacher": {"placement": 3}}, "teacher.placement = 3", "part"),
        ({"teacher": {"placement": [3]}}, "teacher.placement = [3]", "part"),
        (
            {"teacher": {"norm": {"kind": "emann"}}},
            "teacher.norm.kind = 'emann'",
            "'batch', 'sync', 'shuffle', 'momentum' or 'eman'",
        ),
        ({"teacher": {"norm": "group"}}, "teacher.norm.kind = 'group'", "with encoder.norm = group the teacher has it"),
        ({"encoder": {"norm": "eman"}}, "encoder.norm.kind = 'eman'", "is a norm of teachers; set teacher.norm = eman"),
        ({"encoder": {"norm": "momentun"}}, "encoder.norm.kind = 'momentun'", "did you mean 'momentum'?"),
        ({"encoder": {"norm": {"groups": 0}}}, "encoder.norm.groups = 0", "greater than or equal to 1"),
        ({"encoder": {"norm": {"alpha": 1.5}}}, "encoder.norm.alpha.base = 1.5", "less than or equal to 1"),
        (
            {"encoder": {"norm": {"alpha": {"warmup": 11}}}},
            "encoder.norm.alpha.warmup = 11 epochs",
            "train.epochs = 10",
        ),
        (
            {"encoder": {"norm": {"lazy": False, "history": "shared"}}},
            "encoder.norm.lazy = false",
            "set norm.history = shard",
        ),
        (
            {"encoder": {"norm": "layer"}, "teacher": {"norm": "momentum"}},
            "teacher.norm.kind = momentum",
            "with encoder.norm.kind = layer there are no batch statistics; leave it at batch",
        ),
        ({"data": {"name": "cifar"}}, "data.name = 'cifar'", "did you mean 'cifar10'?"),
        ({"method": {"name": "byoll"}}, "method.name = 'byoll'", "did you mean 'byol'?"),
        ({"seed": 2**31}, "seed = 2147483648", "less than"),
        ({"optim": {"lr": {"warmup": 11}}}, "optim.lr.warmup = 11 epochs", "train.epochs = 10"),
        ([], "", "must hold keys and values"),
    ],
)
def test_wrong_values_are_refused_with_key_value_and_rule(nested, key, rule):
    said = refusal(nested)
    assert said.startswith(key) and rule in said and "\n" not in said


@pytest.mark.parametrize(
    "section", [{"smoothing": {"p": 1.01}}, {"smoothing": {"p": -0.01}}, {"momentum": {"base": 2}}]
)
def test_shares_stay_between_0_and_1(section):
    assert "than or equal to" in refusal({"teacher": section})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), "nan", "inf"])
@pytest.mark.parametrize(
    "key",
    ["optim.lr.base", "optim.weight_decay.base", "teacher.momentum.base", "views.noise", "evaluation.knn.temperature"],
)
def test_every_number_is_finite(key, value):
    assert "finite number" in refusal(settings.with_values({}, {key: value}, c.TrialConfig))


def test_each_fault_has_its_line():
    lines = refusal({"train": {"epocs": 1}, "optim": {"lr": -1}, "seed": "x"}).splitlines()
    assert sorted(line.split(":")[0].split(" =")[0] for line in lines) == ["optim.lr.base", "seed", "train.epocs"]


def test_a_batch_is_whole_shards():
    assert "train.batch_size = 60: must be a multiple of train.shard_size = 32" in refusal(
        {"train": {"batch_size": 60}}
    )
    assert c.parse({"train": {"batch_size": 96, "shard_size": 32}}).train.num_shards == 3


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "stl10", "imagefolder", "parquet"])
def test_a_data_folder_is_needed_there_and_filled(name, tmp_path: Path):
    assert "data.root" in refusal({"data": {"name": name}})
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    rules = {"missing": "no such folder", "file": "must be a folder", "empty": "empty", "other": "holds no"}
    for folder, rule in rules.items():
        with pytest.raises(UserError, match=rule) as caught:
            check_data(c.parse({"data": {"name": name, "root": str(tmp_path / folder)}}))
        assert str(tmp_path / folder) in str(caught.value)


def test_digits_need_no_folder():
    check_data(c.parse({}))


def test_views_suit_the_data_set_and_the_user_has_the_last_word():
    assert c.parse({}).views.flip == 0 and c.parse({}).views.turn == 10
    assert c.parse({"views": {"flip": 0.25}}).views.flip == 0.25
    assert c.parse({"views": {"flip": 0.25}}).views.turn == 10
    assert c.parse({"data": {"name": "cifar10", "root": "x"}}).views == c.Views()
    assert c.parse({"data": {"name": "stl10", "root": "x"}}).views.blur == (1.0, 0.1)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"data.name": "parquet", "data.root": "some/folder", "data.image_size": 32, "views.blur": [1.0, 0.1]},
        {
            "teacher.placement": ["projector", "block4"],
            "teacher.smoothing.kind": "sts",
            "optim.lr": 1e-07,
            "train.checkpoint_steps": 5,
        },
    ],
)
def test_plain_values_give_the_configuration_back(values):
    config = c.changed({}, values)
    assert c.parse(config.plain()) == config
    assert c.parse(json.loads(json.dumps(config.plain()))) == config
    assert c.parse(yaml.safe_load(yaml.safe_dump(config.plain()))) == config


def test_a_configuration_is_frozen():
    config = c.parse({})
    for section, key in ((config, "seed"), (config.train, "epochs"), (config.teacher.momentum, "base")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, key, 1)


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ("whole", ("conv1", "block1", "block2", "block3", "block4", "fc1", "fc2")),
        ("backbone", ("conv1", "block1", "block2", "block3", "block4")),
        ("projector", ("fc1", "fc2")),
        (["block4", "projector"], ("block4", "fc1", "fc2")),
        ("none", ()),
        ("block2", ("block2",)),
        ([], ()),
    ],
)
def test_placements_by_name(given, parts):
    assert c.parse({"teacher": {"placement": given}}).teacher.placement == parts


def test_placements_as_lists_come_in_the_order_of_the_encoder():
    for given in permutations(["projector", "conv1", "block3"]):
        assert c.parse({"teacher": {"placement": list(given)}}).teacher.placement == ("conv1", "block3", "fc1", "fc2")


@pytest.mark.parametrize(
    ("given", "offer"),
    [("blok4", "block4"), ("projecter", "projector"), ("backbon", "backbone"), (["blok4"], "block4")],
)
def test_a_part_that_does_not_exist(given, offer):
    said = refusal({"teacher": {"placement": given}})
    assert said.startswith("teacher.placement = ") and said.endswith(f"did you mean '{offer}'?")


def test_with_values_copies_and_nests():
    nested = {"train": {"epochs": 3}}
    changed = settings.with_values(
        nested, {"train.batch_size": 32, "teacher.momentum.base": 0.5, "seed": 4}, c.TrialConfig
    )
    assert nested == {"train": {"epochs": 3}}
    assert changed == {"train": {"epochs": 3, "batch_size": 32}, "teacher": {"momentum": {"base": 0.5}}, "seed": 4}


@pytest.mark.parametrize(
    ("key", "offer"),
    [
        ("train.epoch", "train.epochs"),
        ("epochs", "train.epochs"),
        ("lr", "optim.lr"),
        ("norm", "teacher.norm"),
        ("teacher.momentum.bass", "teacher.momentum.base"),
    ],
)
def test_with_values_refuses_unknown_keys(key, offer):
    with pytest.raises(UserError, match=f"^{key}: unknown key; did you mean '{offer}'"):
        settings.with_values({}, {key: 1}, c.TrialConfig)


def test_with_values_refuses_a_section_that_is_none():
    with pytest.raises(UserError, match="^train"):
        settings.with_values({"train": 3}, {"train.epochs": 1}, c.TrialConfig)


def test_dotted_keys_name_every_value():
    def leaves(plain: dict, prefix: str = "") -> set[str]:
        return {
            leaf
            for key, v in plain.items()
            for leaf in (leaves(v, f"{prefix}{key}.") if isinstance(v, dict) else {prefix + key})
        }

    shards = {"batch_size": 84, "shard_size": 84}
    every = set.union(*(leaves(c.parse({"method": {"name": name}, "train": shards}).plain()) for name in c.METHODS))
    assert set(settings.dotted_keys(c.TrialConfig)) == every | {"teacher.momenta"}


def test_settings_are_read_as_yaml():
    read = settings.read_settings(["a.b=3", "c=[1, 2.5]", "d=x=y", "e=", "f=1.0e-3", "g=true"])
    assert read == {"a.b": 3, "c": [1, 2.5], "d": "x=y", "e": None, "f": 0.001, "g": True}


@pytest.mark.parametrize("setting", ["train.epochs", "=3", "a=[1"])
def test_bad_settings(setting):
    with pytest.raises(UserError, match="--set"):
        settings.read_settings([setting])


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (None, "cannot be read"),
        (b"a: [1", "not valid YAML, line"),
        (b"- 1", "must hold keys"),
        (b"\xff\xfe\xfa", "not text"),
    ],
)
def test_bad_files(tmp_path: Path, content, rule):
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=rule) as caught:
        settings.read_yaml(path)
    assert str(path) in str(caught.value)


def test_invariant_09_equivalence_rule():
    """Fails when momentum is raised to the power k."""
    config = c.parse(
        {"optim": {"lr": {"base": 0.1, "final": 0.01}}, "teacher": {"momentum": {"base": 0.99, "final": 0.999}}}
    )
    scaled = equivalence.scaled_batch(config, 4 * config.train.batch_size)
    assert scaled.train.batch_size == 4 * config.train.batch_size
    assert scaled.train.shard_size == config.train.shard_size
    assert scaled.optim.lr.base == pytest.approx(0.4) and scaled.optim.lr.final == pytest.approx(0.04)
    assert scaled.teacher.momentum.base == pytest.approx(0.96) and scaled.teacher.momentum.final == pytest.approx(0.996)
    untouched = {"teacher": {"momentum"}, "optim": {"lr"}, "train": {"batch_size"}}
    assert scaled.model_dump(exclude=untouched) == config.model_dump(exclude=untouched)
    small = 1e-4  # k small shares of the student make one of k times the size, up to its square
    assert 1 - (1 - small) ** 8 == pytest.approx(8 * small, abs=(8 * small) ** 2)


def test_invariant_09_a_base_batch_makes_the_rates_follow_the_batch():
    """Learning rate and momentum are written for 256, and run at 64: k = 1/4. Parts with a momentum follow too."""
    # Fails when k is inverted.
    momenta = {"block4": {"base": 0.9, "final": 0.98}, "conv1": {"kind": "constant", "base": 0.8, "final": 0.3}}
    given = {
        "optim": {"lr": {"base": 0.8, "final": 0.04}},
        "teacher": {"momentum": {"base": 0.96, "final": 0.996}, "momenta": momenta},
        "train": {"batch_size": 64, "base_batch": 256},
    }
    config = c.parse(given)
    run = equivalence.scaled(config)
    assert (run.optim.lr.base, run.optim.lr.final) == pytest.approx((0.2, 0.01))
    assert (run.teacher.momentum.base, run.teacher.momentum.final) == pytest.approx((0.99, 0.999))
    assert (run.teacher.momenta["block4"].base, run.teacher.momenta["block4"].final) == pytest.approx((0.975, 0.995))
    assert (run.teacher.momenta["conv1"].base, run.teacher.momenta["conv1"].final) == pytest.approx(
        (0.95, 0.3)
    )  # nothing reads the 0.3
    assert equivalence.scaled(run) == run and run.train.base_batch is None and run.train.batch_size == 64
    untouched = {"teacher": {"momentum", "momenta"}, "optim": {"lr"}, "train": {"base_batch"}}
    assert run.model_dump(exclude=untouched) == config.model_dump(exclude=untouched)


def test_invariant_09_a_base_batch_of_the_same_size_or_none_changes_nothing():
    """Fails when a base batch of the same size is scaled as well."""
    for base in (None, 64):
        config = c.parse({"train": {"batch_size": 64, "base_batch": base}})
        assert equivalence.scaled(config) == config


@pytest.mark.parametrize("batch", [32, 128])
def test_invariant_09_a_trial_with_a_base_batch_follows_when_its_batch_is_changed(batch):
    """As one without does, whose rates are then rewritten."""
    # Fails when its rates are rewritten all the same.
    rates = {"optim": {"lr": 0.1}, "teacher": {"momentum": 0.9}}
    following, rewritten = c.parse({**rates, "train": {"base_batch": 64}}), c.parse(rates)
    changed = equivalence.scaled_batch(following, batch)
    assert changed.optim == following.optim and changed.train.batch_size == batch and changed.train.base_batch == 64
    assert equivalence.scaled(changed) == equivalence.scaled_batch(rewritten, batch)


def test_a_base_batch_takes_a_teacher_no_further_than_a_copy():
    """A proposal of a search may be beyond the rule; a copy stays one."""
    for momentum in (0.4, 0):
        config = c.parse({"teacher": {"momentum": momentum}, "train": {"batch_size": 64, "base_batch": 32}})
        assert equivalence.scaled(config).teacher.momentum.base == 0


@pytest.mark.parametrize(
    "momentum", [{"kind": "step", "milestones": [1]}, {"kind": "exponential", "base": 0.5}, {"warmup": 1}]
)
def test_a_base_batch_needs_a_schedule_that_can_be_scaled(momentum):
    assert "constant, cosine or linear" in refusal(
        {"teacher": {"momentum": momentum}, "train": {"batch_size": 64, "base_batch": 32}}
    )


@pytest.mark.parametrize(
    ("teacher", "line"),
    [
        ({"momenta": {"fc2": {"kind": "exponential", "base": 0.5}}}, "teacher.momenta.fc2 = exponential"),
        (
            {"momenta": {"projector": {"kind": "running_mean"}}, "smoothing": {"kind": "sts"}},
            "teacher.momenta.fc1 = running_mean",
        ),
        ({"momenta": {"conv1": {"warmup": 1}}}, "teacher.momenta.conv1 = cosine with a warm-up of 1 epochs"),
        ({"momentum": {"kind": "step", "milestones": [1]}}, "teacher.momentum = step"),
        (
            {"smoothing": {"kind": "se", "p": {"kind": "exponential", "final": 0.1}}},
            "teacher.smoothing.p = exponential",
        ),
    ],
)
def test_whatever_a_base_batch_would_scale_is_looked_at_when_the_trial_is_read(teacher, line):
    """Not by the first worker."""
    # Fails when momenta of parts are not looked at.
    said = refusal({"teacher": teacher, "train": {"batch_size": 64, "base_batch": 32}})
    assert said == f"{line}: with train.base_batch it must be constant, cosine or linear, without a warm-up"


def test_a_base_batch_scales_p_alone_where_units_are_copied():
    """A part with its own momentum has the share (1 - p) (1 - momentum): scaling p is enough, for any schedule."""
    momenta = {"fc2": {"kind": "exponential", "base": 0.5}, "fc1": 0.9}
    teacher = {"smoothing": {"kind": "se", "p": {"base": 0.9}}, "momenta": momenta}
    config = c.parse({"teacher": teacher, "train": {"batch_size": 64, "base_batch": 32}})
    run = equivalence.scaled(config)
    assert run.teacher.smoothing.p.base == pytest.approx(0.8) and run.teacher.momenta == config.teacher.momenta


def test_what_the_rule_did_is_said():
    config = c.parse(
        {"teacher": {"momentum": 0.9}, "train": {"batch_size": 64, "base_batch": 32}, "optim": {"lr": 0.05}}
    )
    said = equivalence.own_line(config)
    assert (
        said == "equivalence rule: batch 32 -> 64 (x2), learning rate 0.05 -> 0.1, teacher momentum 0.9 -> 0.8, "
        "2 shards of 32"
    )
    assert "batch 64 -> 128 (x2), learning rate 0.1 -> 0.2" in equivalence.line(
        config, equivalence.scaled_batch(config, 128)
    )
    assert equivalence.own_line(c.parse({})) is None


@pytest.mark.parametrize(
    ("nested", "rule"),
    [
        ({"teacher": {"momentum": {"kind": "step", "milestones": [1], "factor": 3}}}, "teacher.momentum.factor = 3"),
        (
            {"teacher": {"momentum": {"warmup": "200 %"}}},
            "teacher.momentum.warmup = 200 %: must not exceed train.epochs",
        ),
        ({"teacher": {"norm": {"warm_start": 11}}}, "teacher.norm.warm_start = 11 epochs: must not exceed"),
        (
            {"teacher": {"smoothing": {"masks": "per_worker"}}, "evaluation": {"network": "teacher"}},
            "evaluation.network = teacher",
        ),
        ({"teacher": {"placement": "block4"}, "encoder": {"name": "wrn28-2"}}, "'wrn28-2' has no block4"),
    ],
)
def test_what_cannot_be_is_refused(nested, rule):
    assert rule in refusal(nested)


def test_a_parts_own_momentum_comes_before_its_groups():
    momenta = c.parse({"teacher": {"momenta": {"fc2": 0.9, "projector": 0.5}}}).teacher.momenta
    assert (momenta["fc1"].base, momenta["fc2"].base) == (0.5, 0.9)


def test_invariant_09_a_learner_runs_at_the_scaled_rates(tiny, digits, learner_of):
    """Fails when the teacher is built from the configuration before it was scaled."""
    learner = learner_of(tiny({"train.base_batch": 32, "optim.lr.base": 0.4, "teacher.momentum.base": 0.8}))
    assert learner.teacher.momentum(0, learner.run) == pytest.approx(0.9)
    learner.step(feed_of(learner, digits).batches(torch.arange(64), 0, 0))
    assert learner.close_epoch()["lr"] == pytest.approx(0.2) and learner.optimizer.param_groups[0][
        "lr"
    ] == pytest.approx(0.2)
    assert learner.close_epoch()["momentum"] == pytest.approx(0.9)


def test_equivalence_rule_for_spatial_ensembles():
    se = c.parse({"teacher": {"smoothing": {"kind": "se", "p": 0.7}, "momentum": {"base": 0.9}}})
    assert equivalence.scaled_batch(se, 2 * se.train.batch_size).teacher.smoothing.p.base == pytest.approx(0.4)
    assert equivalence.scaled_batch(se, 2 * se.train.batch_size).teacher.momentum == se.teacher.momentum
    sts = c.parse({"teacher": {"smoothing": {"kind": "sts", "p": 0.7}, "momentum": {"base": 0.9}}})
    assert equivalence.scaled_batch(sts, 2 * sts.train.batch_size).teacher.smoothing.p.base == 0.7
    assert equivalence.scaled_batch(sts, 2 * sts.train.batch_size).teacher.momentum.base == pytest.approx(0.8)


@pytest.mark.parametrize("teacher", [{"momentum": {"base": 0.4}}, {"smoothing": {"kind": "se", "p": 0.4}}])
def test_equivalence_rule_refuses_a_share_above_1(teacher):
    config = c.parse({"teacher": teacher})
    with pytest.raises(UserError, match="its share of the student would exceed 1"):
        equivalence.scaled_batch(config, 2 * config.train.batch_size)
    assert equivalence.scaled_batch(config, config.train.batch_size) == config


def test_equivalence_rule_leaves_a_final_momentum_that_nothing_reads():
    config = c.parse({"teacher": {"momentum": {"kind": "constant", "base": 0.99, "final": 0.0}}})
    assert equivalence.scaled_batch(config, 2 * config.train.batch_size).teacher.momentum.base == pytest.approx(0.98)


def test_equivalence_rule_keeps_whole_shards():
    with pytest.raises(UserError, match="multiple of train.shard_size"):
        equivalence.scaled_batch(c.parse({}), 80)


def test_steps_drop_the_last_partial_batch_and_round_the_warm_up_up():
    config = c.parse({"train": {"epochs": 3, "batch_size": 64}, "optim": {"lr": {"warmup": 0.3}}})
    assert c.length(config, 200) == (9, 3) and steps_in(config.optim.lr.warmup, c.length(config, 200)) == 1
    assert c.length(config, 63) == (0, 0)


@pytest.mark.parametrize("key", ["teacher.momentum.warmup", "teacher.momenta.fc2.warmup", "teacher.norm.warm_start"])
def test_a_warm_up_in_steps_is_not_longer_than_the_run(key):
    """Which is known once the images are counted: 10 epochs of 20 steps."""
    for steps, fits in ((200, True), (201, False)):
        value = (
            {"teacher.momenta": {"fc2": {"base": 0.9, "warmup": f"{steps} steps"}}}
            if "fc2" in key
            else {key: f"{steps} steps"}
        )
        config = c.changed({"data": {"train_images": 1280}}, value)
        if fits:
            check_data(config)
        else:
            with pytest.raises(UserError, match=f"{key} = 201 steps: must not exceed the run, which has 200 steps"):
                check_data(config)


def test_features_before_a_feature_norm_need_one():
    assert "evaluation.before_feature_norm: the encoder has none" in refusal(
        {"evaluation": {"before_feature_norm": True}}
    )


def test_a_wide_resnet_has_no_block4():
    wide = {"encoder": {"name": "wrn28-2"}}
    assert "'wrn28-2' has no block4" in refusal({**wide, "teacher": {"placement": ["block4"]}})
    assert "is for small images" in refusal({"encoder": {"name": "wrn28-8", "stem": "standard"}})
    assert c.parse({**wide, "teacher": {"placement": "backbone"}}).teacher.placement == BACKBONE


def test_a_momentum_of_a_part_needs_an_averaged_copy():
    assert "block1 has no averaged copy" in refusal({"teacher": {"placement": "projector", "momenta": {"block1": 0.9}}})
    assert "no part is named 'block5'" in refusal({"teacher": {"momenta": {"block5": 0.9}}})
    spelt = c.parse({"teacher": {"momenta": {"projector": 0.9}}}).teacher.momenta
    assert spelt == dict.fromkeys(PROJECTOR, Momentum(kind="constant", base=0.9))


def test_projector_means_both_of_its_parts():
    for placement in ("projector", ["projector"], ["fc2", "fc1"]):
        assert c.parse({"teacher": {"placement": placement}}).teacher.placement == ("fc1", "fc2")
    assert c.parse({"teacher": {"placement": ["projector", "conv1"]}}).teacher.placement == ("conv1", "fc1", "fc2")
