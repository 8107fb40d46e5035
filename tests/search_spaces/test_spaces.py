"""Spaces: every proposal is a valid trial, known good points are reachable, and no other room is needed."""

import subprocess
import sys
from pathlib import Path

import optuna
import pytest
import yaml

import search_spaces
from trainables.config import trial as c
from trainables.config.errors import UserError
from trainables.config.norms import STUDENT_NORMS
from tuner.plan import points, spec
from tuner.plan import space as spaces
from tuner.plan.resources import Resources

NAMES = ["ema_placement", "momentum", "momentum_bn", "spatial_ensemble", "teacher"]
PAPERS = sorted((Path(search_spaces.__file__).parent / "papers").glob("*.yaml"))
EXAMPLES = [p for p in sorted((Path(__file__).parents[2] / "examples").glob("*.yaml")) if p.name != "trial.yaml"]


@pytest.mark.parametrize("name", NAMES)
def test_every_proposal_is_a_valid_trial(name: str) -> None:
    spaces.rehearse(spaces.load(name), c.TrialConfig(), Resources(), seed=1)


@pytest.mark.parametrize("norm", STUDENT_NORMS)
@pytest.mark.parametrize("name", NAMES)
def test_law_10_no_norm_of_teachers_is_searched_where_it_has_no_effect(name: str, norm: str) -> None:
    """With norms of samples the teacher has the student's, so that a space that asks for one is refused, and says why.

    All other spaces search as they are.
    """
    trial = c.changed({}, {"encoder.norm": norm})
    if name in ("momentum_bn", "teacher") and not trial.encoder.norm.batch_statistics:
        with pytest.raises(UserError, match=f"teacher.norm.kind = .*encoder.norm.kind = {norm} there are no batch"):
            spaces.rehearse(spaces.load(name), trial, Resources())
    else:
        spaces.rehearse(spaces.load(name), trial, Resources())


@pytest.mark.parametrize("name", NAMES)
def test_known_good_points_fix_every_choice(name: str) -> None:
    """A name that is missing or misspelt would be drawn at random instead."""
    space = spaces.load(name)
    for known in space.known_good:
        trial = optuna.trial.FixedTrial(dict(known))
        space.suggest(trial)
        assert trial.params == dict(known)


def test_every_space_of_the_package_is_tested() -> None:
    files = {path.stem for path in Path(search_spaces.__file__).parent.glob("*.py")}
    assert files - {"__init__"} == set(NAMES)


@pytest.mark.parametrize(
    ("known", "values"),
    [
        (
            0,
            {
                "teacher.momentum.base": 0.99,
                "teacher.momentum.kind": "cosine",
                "teacher.norm.kind": "batch",
                "teacher.placement": "whole",
            },
        ),
        (1, {"teacher.norm.kind": "momentum", "teacher.norm.alpha.base": 1.0, "teacher.norm.alpha.kind": "cosine"}),
        (2, {"teacher.smoothing.kind": "sts", "teacher.smoothing.p": 0.7}),
        (3, {"teacher.norm.kind": "eman"}),
        (4, {"teacher.placement": "projector"}),
    ],
)
def test_known_good_teachers_are_the_papers(known: int, values: dict) -> None:
    space = spaces.load("teacher")
    proposed = space.suggest(optuna.trial.FixedTrial(dict(space.known_good[known])))
    assert {key: proposed[key] for key in values} == values


def test_the_teacher_space_is_conditional() -> None:
    """A Spatial Ensemble without temporal smoothing has no momentum; only Momentum BN has an alpha."""
    study, seen = optuna.create_study(sampler=optuna.samplers.RandomSampler(0)), set()
    for _ in range(60):
        values = spaces.load("teacher").suggest(study.ask())
        smoothing, norm = values["teacher.smoothing.kind"], values["teacher.norm.kind"]
        seen |= {
            smoothing,
            norm,
            str(values["teacher.placement"]),
            values.get("teacher.smoothing.granularity", "layer"),
        }
        assert ("teacher.momentum.base" in values) == (smoothing != "se")
        assert ("teacher.smoothing.p" in values) == (smoothing != "tma")
        assert ("teacher.norm.alpha.base" in values) == (norm == "momentum")
    assert seen == {
        *("tma", "sts", "se", "layer", "channel", "neuron", "batch", "sync", "shuffle", "momentum", "eman"),
        *("whole", "backbone", "projector", "['block4', 'projector']"),
    }


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_valid_searches(path: Path) -> None:
    found = spec.parse(yaml.safe_load(path.read_text()))
    spaces.rehearse(spaces.load(found.space), found.trial, found.resources)


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.name)
def test_the_tables_of_the_papers_are_valid(path: Path) -> None:
    table = spec.parse(yaml.safe_load(path.read_text()))
    assert len(points.load(table).known_good) == table.trials


def test_the_example_of_a_trial_is_valid() -> None:
    trial = c.parse(yaml.safe_load((Path(__file__).parents[2] / "examples" / "trial.yaml").read_text()))
    assert trial.train.num_shards == 4


def test_spaces_need_nothing_else() -> None:
    blocked = (
        "import sys\nfor m in ('ray', 'optuna', 'torch', 'tuner', 'trainables', 'pydantic'): sys.modules[m] = None\n"
    )
    imports = "\n".join(f"import search_spaces.{name}" for name in NAMES)
    subprocess.run([sys.executable, "-c", blocked + imports], check=True, timeout=60)
