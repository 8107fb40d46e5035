"""A configuration is resolved once, before a Learner sees it; a checkpoint holds it as it was resolved."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainables.config import equivalence
from trainables.config import trial as c
from trainables.learning.learner import Learner
from trainables.networks.group import Group
from trainables.running import checkpoint
from trainables.running.fit import fit
from trainables.running.resolve import resolved

CLASSIFIER = {"method.name": "fixmatch", "method.images_per_label": 4}
BASE_BATCH = {"train.base_batch": 32}
Make = Callable[..., c.TrialConfig]


def test_the_equivalence_rule_and_the_classes_are_filled_in(tiny: Make) -> None:
    config = tiny({**CLASSIFIER, **BASE_BATCH})
    found = resolved(config, 10)
    assert found.encoder.projector.out == 10 != config.encoder.projector.out
    assert found.train.base_batch is None and found.optim.lr.base == pytest.approx(config.optim.lr.base / 2)
    assert found.teacher == equivalence.scaled(config).teacher != config.teacher
    assert resolved(found, 10) == found


def test_classes_do_not_matter_to_a_method_that_does_not_classify(tiny: Make) -> None:
    assert resolved(tiny(), 10) == tiny()


@pytest.mark.parametrize("values", [CLASSIFIER, BASE_BATCH])
def test_a_learner_takes_a_resolved_configuration_as_it_is(tiny: Make, values: dict[str, object]) -> None:
    config = tiny(values)
    with pytest.raises(AssertionError):
        Learner(config, 1, 64, Group(), 10)
    ready = resolved(config, 10)
    assert Learner(ready, 1, 64, Group(), 10).config is ready


def test_a_checkpoint_holds_the_resolved_configuration(tiny: Make, tmp_path: Path) -> None:
    config = tiny({**CLASSIFIER, **BASE_BATCH, "train.epochs": 1})
    history = fit(config, tmp_path, lambda metrics: "on")
    found = checkpoint.newest(tmp_path)
    assert found is not None and c.parse(found.config) == resolved(config, 10)
    assert fit(config, tmp_path, lambda metrics: "on") == history  # and the trial goes on from it
    assert fit(c.parse(found.config), tmp_path, lambda metrics: "on") == history  # as does its resolved form


@pytest.mark.parametrize(("values", "times"), [({}, 0), (BASE_BATCH, 1), ({**CLASSIFIER, **BASE_BATCH}, 1)])
def test_a_trial_is_validated_at_most_once_on_its_way_to_the_first_step(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, object], times: int
) -> None:
    config, count = tiny({**values, "train.epochs": 0}), 0
    validated = c.validated

    def counted(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        return validated(*arguments)

    monkeypatch.setattr(c, "validated", counted)
    fit(config, tmp_path, lambda metrics: "on")
    assert count == times
