"""Presets hold the papers' values: typed here from the papers and their released code, not read from the files."""

import re
from pathlib import Path
from typing import Any

import pytest

from trainables.config import recipes
from trainables.config import trial as c
from trainables.config.errors import UserError
from trainables.config.settings import flat
from trainables.data.check import check_data

SGD = {"optim.name": "sgd", "optim.momentum": 0.9}
LARS = {
    "optim.name": "lars",
    "optim.momentum": 0.9,
    "optim.lr_in_buffer": True,
}  # released code of Momentum² Teacher and of EMAN
OUTSIDE = LARS | {"optim.lr_in_buffer": False}  # solo-learn
LIBRARY = {
    "encoder.name": "resnet18",
    "encoder.stem": "small",
    "train.epochs": 200,
    "train.batch_size": 256,
    "train.shard_size": 256,
    "optim.lr.kind": "cosine",
    "optim.lr.warmup": "10 epochs",
    "teacher.update": "after",
    "teacher.norm.kind": "batch",
    "views.crop_scale": [0.08, 1.0],
    "views.hue": 0.1,
    "views.blur": [0.0, 0.0],
    "online_probe.lr": 0.1,
    "evaluation.network": "student",
}
IMAGENET = {"encoder.name": "resnet50", "encoder.stem": "standard", "views.gray": 0.2}
M2T = {
    **IMAGENET,
    "encoder.projector.hidden": 4096,
    "encoder.projector.out": 256,
    "method.predictor_hidden": 4096,
    "method.convention": "sum",
    "views.blur": [1.0, 0.1],
    "views.solarise": [0.0, 0.2],
    "views.saturation": 0.2,
    "teacher.momentum.kind": "cosine",
    "teacher.momentum.final": 1.0,
    "teacher.norm.kind": "momentum",
    "teacher.norm.alpha.kind": "cosine",
    "teacher.norm.alpha.base": 1.0,
    "teacher.norm.alpha.final": 0.0,
    "teacher.norm.variance": "biased",
    "teacher.update": "before",
    "optim.lr.warmup": "10 epochs",
    "evaluation.network": "teacher",
}
EMAN = {**IMAGENET, "teacher.norm.kind": "eman", "evaluation.network": "student", "views.crop_scale": [0.2, 1.0]}
STS = {
    **IMAGENET,
    **SGD,
    "train.epochs": 200,
    "train.batch_size": 256,
    "train.shard_size": 32,
    "teacher.smoothing.kind": "sts",
}
MOCO_VIEWS = {
    "views.crop_scale": [0.2, 1.0],
    "views.saturation": 0.4,
    "views.blur": [0.5, 0.5],
    "views.solarise": [0.0, 0.0],
}
RECIPES: dict[tuple[str, str], dict[str, Any]] = {
    ("placement", "byol"): LIBRARY
    | OUTSIDE
    | {
        "optim.lr.base": 1.0,
        "optim.weight_decay.base": 1e-5,
        "optim.trust": 0.02,
        "optim.clip": True,
        "views.saturation": 0.2,
    }
    | {
        "encoder.projector.hidden": 4096,
        "encoder.projector.out": 256,
        "method.predictor_hidden": 4096,
        "views.solarise": [0.0, 0.2],
    }
    | {"teacher.momentum.base": 0.99, "teacher.momentum.final": 1.0},
    ("placement", "simsiam"): LIBRARY
    | SGD
    | {
        "optim.lr.base": 0.5,
        "optim.weight_decay.base": 1e-5,
        "optim.constant_predictor": True,
        "views.solarise": [0.0, 0.0],
    }
    | {
        "encoder.projector.layers": 3,
        "encoder.projector.hidden": 2048,
        "encoder.projector.out": 2048,
        "encoder.projector.norm": "all",
    }
    | {"method.predictor_hidden": 512, "teacher.placement": [], "teacher.momentum.base": 0.99},
    ("placement", "dino"): LIBRARY
    | OUTSIDE
    | {"optim.lr.base": 0.3, "optim.weight_decay.base": 1e-6, "optim.trust": 0.02, "teacher.momentum.base": 0.99}
    | {
        "encoder.projector.layers": 3,
        "encoder.projector.hidden": 2048,
        "encoder.projector.out": 256,
        "encoder.projector.prototypes": 4096,
    }
    | {
        "method.temperature.base": 0.1,
        "method.teacher_temperature.base": 0.07,
        "method.teacher_temperature.warmup": "25 %",
    }
    | {"method.center_momentum": 0.9, "method.frozen_prototypes": "1 epochs", "encoder.projector.norm": "none"},
    ("placement", "ressl"): LIBRARY
    | SGD
    | {
        "optim.lr.base": 0.05,
        "optim.weight_decay.base": 1e-4,
        "method.temperature.base": 0.1,
        "method.teacher_temperature.base": 0.04,
    }
    | {
        "method.queue": 65536,
        "encoder.projector.hidden": 4096,
        "encoder.projector.out": 256,
        "teacher.momentum.base": 0.99,
    },
    ("placement", "moco"): LIBRARY
    | SGD
    | {
        "optim.lr.base": 0.3,
        "optim.weight_decay.base": 1e-4,
        "method.queue": 32768,
        "method.symmetric": True,
        "online_probe.lr": 0.3,
    }
    | {
        "encoder.projector.hidden": 2048,
        "encoder.projector.out": 128,
        "method.temperature.base": 0.2,
        "encoder.projector.norm": "none",
    }
    | {"teacher.momentum.base": 0.99, "teacher.momentum.final": 0.999},
    ("placement", "simclr"): LIBRARY
    | OUTSIDE
    | {
        "optim.lr.base": 0.4,
        "optim.weight_decay.base": 1e-5,
        "method.temperature.base": 0.2,
        "views.hue": 0.2,
        "views.brightness": 0.8,
    }
    | {"encoder.projector.hidden": 2048, "encoder.projector.out": 256, "teacher.placement": []},
    ("placement_imagenet100", "byol"): LIBRARY
    | OUTSIDE
    | {
        "encoder.stem": "standard",
        "optim.lr.base": 0.5,
        "optim.weight_decay.base": 1e-5,
        "method.predictor_hidden": 8192,
    }
    | {"views.blur": [1.0, 0.1], "views.solarise": [0.0, 0.2]},
    ("placement_imagenet100", "dino"): LIBRARY
    | OUTSIDE
    | {"encoder.stem": "standard", "optim.lr.base": 0.3, "optim.weight_decay.base": 1e-6, "views.blur": [1.0, 0.1]}
    | {"views.solarise": [0.0, 0.2]},
    ("placement_imagenet100", "ressl"): LIBRARY
    | SGD
    | {"encoder.stem": "standard", "optim.lr.base": 0.3, "optim.weight_decay.base": 1e-4, "views.blur": [0.5, 0.0]}
    | {"train.shard_size": 128},  # its script of 2022 does not synchronise statistics of the two GPUs
    ("placement_imagenet100", "moco"): LIBRARY
    | SGD
    | {
        "encoder.stem": "standard",
        "optim.lr.base": 0.3,
        "optim.weight_decay.base": 1e-4,
        "method.queue": 65536,
        "online_probe.lr": 0.3,
    }
    | {"views.blur": [0.5, 0.5]},
    ("momentum2", "byol"): M2T
    | SGD
    | {"optim.lr.base": 0.05, "optim.weight_decay.base": 1e-4, "train.batch_size": 256, "train.shard_size": 32}
    | {"teacher.momentum.base": 0.99, "views.crop_scale": [0.08, 1.0]},
    ("momentum2", "moco"): IMAGENET
    | SGD
    | MOCO_VIEWS
    | {
        "optim.lr.base": 0.03,
        "optim.weight_decay.base": 1e-4,
        "method.queue": 65536,
        "method.temperature.base": 0.2,
        "train.epochs": 200,
    }
    | {"teacher.momentum.kind": "constant", "teacher.momentum.base": 0.999, "teacher.norm.alpha.kind": "constant"}
    | {"teacher.norm.alpha.base": 0.064, "encoder.projector.norm": "none", "method.symmetric": False},
    ("momentum2_cluster", "byol"): M2T
    | LARS
    | {
        "optim.lr.base": 0.3 * 4096 / 256,
        "optim.weight_decay.base": 1.5e-6,
        "optim.trust": 1e-3,
        "train.batch_size": 4096,
    }
    | {"train.shard_size": 32, "teacher.momentum.base": 0.99, "train.epochs": 300},
    ("momentum2_stl10", "byol"): M2T
    | SGD
    | {
        "encoder.name": "resnet18",
        "encoder.projector.hidden": 512,
        "encoder.projector.out": 128,
        "method.predictor_hidden": 512,
    }
    | {
        "optim.lr.base": 0.1 * 2048 / 256,
        "optim.weight_decay.base": 1e-4,
        "optim.lr.warmup_factor": 0.001,
        "train.batch_size": 2048,
    }
    | {"train.shard_size": 32, "teacher.momentum.base": 1 - 0.032, "train.epochs": 400},
    ("eman", "byol"): EMAN
    | LARS
    | {
        "optim.lr.base": 1.8,
        "optim.weight_decay.base": 1e-6,
        "optim.trust": 1e-3,
        "train.batch_size": 512,
        "train.shard_size": 64,
    }
    | {
        "encoder.projector.hidden": 4096,
        "encoder.projector.out": 256,
        "method.predictor_hidden": 4096,
        "teacher.momentum.base": 0.98,
    }
    | {
        "teacher.update": "after",
        "views.blur": [1.0, 0.1],
        "views.solarise": [0.0, 0.2],
        "views.saturation": 0.2,
        "train.epochs": 200,
    },
    ("eman", "moco"): EMAN
    | SGD
    | MOCO_VIEWS
    | {"optim.lr.base": 0.03, "optim.weight_decay.base": 1e-4, "optim.lr.warmup": "10 epochs", "method.queue": 65536}
    | {
        "encoder.projector.hidden": 2048,
        "encoder.projector.out": 128,
        "encoder.projector.norm": "none",
        "teacher.momentum.base": 0.999,
    }
    | {"teacher.momentum.kind": "constant", "train.batch_size": 256, "train.epochs": 200},
    ("eman", "fixmatch"): SGD
    | {"method.images_per_label": 5, "method.threshold": 0.7, "method.weight": 10.0, "method.pseudo_labels": "teacher"}
    | {
        "optim.lr.base": 0.03,
        "optim.lr.kind": "step",
        "optim.lr.factor": 0.1,
        "optim.lr.milestones": ["60 epochs", "80 epochs"],
    }
    | {
        "optim.lr.warmup": "5 epochs",
        "optim.weight_decay.base": 1e-4,
        "optim.nesterov": False,
        "train.batch_size": 5 * 64,
    }
    | {
        "train.epochs": 100,
        "views.randaugment.ops": 2,
        "views.randaugment.magnitude": 10,
        "views.randaugment.cutout": 0.0,
    }
    | {
        "views.crop_scale": [0.08, 1.0],
        "views.crop_ratio": [0.75, 4 / 3],
        "teacher.momentum.base": 0.999,
        "teacher.update": "after",
        "evaluation.network": "student",
    },
    ("spatial_ensemble", "byol"): STS
    | {
        "optim.lr.base": 0.1,
        "optim.weight_decay.base": 1e-4,
        "optim.lr.warmup": "10 epochs",
        "optim.lr.warmup_factor": 0.001,
    }
    | {
        "teacher.smoothing.p.base": 0.7,
        "teacher.momentum.base": 0.99,
        "teacher.norm.kind": "sync",
        "encoder.norm.kind": "sync",
    }
    | {"evaluation.network": "teacher", "views.solarise": [0.0, 0.2]},
    ("spatial_ensemble", "moco"): STS
    | MOCO_VIEWS
    | {
        "optim.lr.base": 0.03,
        "optim.weight_decay.base": 1e-4,
        "teacher.smoothing.p.base": 0.5,
        "teacher.momentum.base": 0.999,
    }
    | {
        "teacher.momentum.kind": "constant",
        "teacher.norm.kind": "shuffle",
        "method.queue": 65536,
        "evaluation.network": "teacher",
    },
    ("spatial_ensemble", "fixmatch"): SGD
    | {"encoder.name": "wrn28-2", "optim.lr.base": 0.03, "optim.lr.kind": "cosine_7_16", "optim.nesterov": True}
    | {"optim.weight_decay.base": 5e-4, "method.images_per_label": 7, "method.threshold": 0.95, "method.weight": 1.0}
    | {
        "train.batch_size": 448,
        "teacher.momentum.base": 0.999,
        "teacher.smoothing.p.base": 0.5,
        "method.pseudo_labels": "student",
    }
    | {"evaluation.network": "teacher"},
    ("mean_teacher", "mean_teacher"): SGD
    | {"encoder.name": "wrn28-2", "optim.lr.base": 0.05, "optim.nesterov": True, "optim.weight_decay.base": 2e-4}
    | {
        "method.consistency": 100.0,
        "teacher.momentum.kind": "running_mean",
        "teacher.momentum.base": 0.97,
        "train.epochs": 180,
    },
}


@pytest.mark.parametrize(("name", "method"), list(RECIPES))
def test_a_recipe_is_the_paper_s(name: str, method: str) -> None:
    trial = c.parse({"preset": name, "method": {"name": method}, "data": {"name": "cifar10", "root": "."}})
    found = flat(trial.plain())
    wrong = {key: found[key] for key, value in RECIPES[name, method].items() if found[key] != pytest.approx(value)}
    assert not wrong


def test_every_recipe_is_here() -> None:
    assert {(name, method) for name in recipes.names() for method in recipes.methods(name)} == set(RECIPES)


def test_a_preset_that_is_like_another_offers_its_own_methods() -> None:
    with pytest.raises(
        UserError,
        match="^preset.placement_imagenet100: has no recipe for method.name = simclr; it has byol, dino, moco, ressl$",
    ):
        c.parse({"preset": "placement_imagenet100", "method": {"name": "simclr"}})


@pytest.mark.parametrize(("name", "method"), list(RECIPES))
def test_a_preset_fits_a_run_of_two_epochs(name: str, method: str) -> None:
    """Its durations in epochs keep their share of the paper's length."""
    paper = c.parse({"preset": name, "method": method, "data": {"name": "cifar10", "root": "."}})
    short = c.parse(
        {"preset": name, "method": method, "data": {"name": "cifar10", "root": "."}, "train": {"epochs": 2}}
    )
    for key, duration in paper.warmups().items():
        if duration.endswith("epochs") and key != "method.frozen_prototypes":
            amount, share = float(duration.split()[0]), short.warmups()[key]
            assert share.endswith(" %") and float(share[:-2]) == pytest.approx(
                100 * amount / paper.train.epochs, rel=1e-5
            )
        else:
            assert short.warmups()[key] == duration
    longer = c.parse(
        {"preset": name, "method": method, "data": {"name": "cifar10", "root": "."}, "train": {"epochs": 20_000}}
    )
    assert longer.warmups() == paper.warmups()


def test_what_the_user_sets_is_not_scaled() -> None:
    nested = {"preset": "eman", "train": {"epochs": 20}, "optim": {"lr": {"warmup": "10 epochs"}}}
    assert c.parse(nested).optim.lr.warmup == "10 epochs"


@pytest.mark.parametrize(
    ("nested", "said"),
    [
        (
            {"preset": "eman", "method": "fixmatch", "train": {"batch_size": 64}},
            "train.batch_size = 64: must be a multiple of train.shard_size = 40, such as 80 "
            "(preset eman sets train.shard_size = 40; set it yourself to change it)",
        ),
        (
            {"preset": "eman", "method": "fixmatch", "train": {"batch_size": 64, "shard_size": 32}},
            "method.images_per_label = 5: must divide train.shard_size = 32, "
            "so that each shard has whole labelled images; 4 does "
            "(preset eman sets method.images_per_label = 5; set it yourself to change it)",
        ),
        (
            {"method": "fixmatch", "train": {"batch_size": 64}},
            "train.batch_size = 64: must be a multiple of train.shard_size = 448, such as 448 "
            "(method fixmatch sets train.shard_size = 448; set it yourself to change it)",
        ),
        (
            {"preset": "eman", "train": {"epochs": 5}, "optim": {"lr": {"warmup": "10 epochs"}}},
            "optim.lr.warmup = 10 epochs: must not exceed train.epochs = 5",
        ),
    ],
)
def test_a_fault_of_what_a_preset_sets_says_so(nested: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        c.parse(nested)
    assert str(caught.value) == said


def test_a_batch_of_a_preset_that_the_data_are_too_few_for_says_so() -> None:
    trial = c.parse({"preset": "momentum2", "data": {"name": "digits", "train_images": 100}})
    with pytest.raises(UserError) as caught:
        check_data(trial)
    assert str(caught.value) == (
        "train.batch_size = 256: there are only 100 training images; 96 fits "
        "(preset momentum2 sets train.batch_size = 256; set it yourself to change it)"
    )


def test_the_readme_lists_all_presets() -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    listed = readme[readme.index("`trial.preset` fills in") :].split("\n\n")[0]
    assert {name for name in re.findall(r"`(\w+)`", listed) if name in recipes.names()} == set(recipes.names())
