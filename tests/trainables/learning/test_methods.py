"""What every method promises by being a file in the folder."""

import itertools
from typing import Any

import pytest
import torch
from torch.nn.functional import cosine_similarity

from tests.trainables.feeds import feed_of
from trainables.config import trial as c
from trainables.config.errors import UserError
from trainables.data import keyed
from trainables.data.feed import labelled_images
from trainables.data.images import Images
from trainables.learning.learner import Learner
from trainables.learning.methods.simclr import SimCLR
from trainables.networks.group import Group
from trainables.running.resolve import resolved

SMALL: dict[str, dict[str, Any]] = {  # what makes a method fit tiny networks and batches
    "byol": {"method.predictor_hidden": 32},
    "simsiam": {"method.predictor_hidden": 8},
    "moco": {"method.queue": 32},
    "simclr": {},
    "dino": {"encoder.projector.prototypes": 24, "method.frozen_prototypes": "1 steps"},
    "ressl": {"method.queue": 32},
    "fixmatch": {"method.images_per_label": 4, "method.threshold": 0.3},
    "mean_teacher": {"method.images_per_label": 4, "method.consistency": 1},
}
VARIANTS = {
    **{name: {"method.name": name, **values} for name, values in SMALL.items()},
    "simsiam + EMA": {"method.name": "simsiam", "teacher.placement": "whole", **SMALL["simsiam"]},
    "simclr + EMA": {"method.name": "simclr", "teacher.placement": "whole"},
    "simclr, shards": {"method.name": "simclr", "method.negatives": "shard"},
    "dino, multi-crop": {"method.name": "dino", "method.local_views": 2, "views.local_size": 4, **SMALL["dino"]},
    "fixmatch, teacher": {"method.name": "fixmatch", "method.pseudo_labels": "teacher", **SMALL["fixmatch"]},
    "moco v2+": {"method.name": "moco", "method.symmetric": True, **SMALL["moco"]},
}
every_method = pytest.mark.parametrize("variant", list(VARIANTS))
every_method_now_or_later = pytest.mark.parametrize(
    "variant", [name if name in SMALL else pytest.param(name, marks=pytest.mark.long) for name in VARIANTS]
)


@pytest.fixture
def trial_of(tiny):
    """Makes a tiny configuration of a variant, with other values where they are given."""
    return lambda variant, values=None: tiny({**VARIANTS[variant], **(values or {})})


def take_steps(learner: Learner, images: Images, first: int, last: int) -> list[float]:
    losses = []
    for step in range(first, last):
        epoch, at = divmod(step, learner.run.per_epoch)
        order = keyed.permutation(len(images), learner.config.seed, epoch, "order")
        batches = feed_of(learner, images, labelled_images(learner.config, images)).batches(order, at, epoch)
        losses.append(learner.step(batches).item() / learner.shards.total)
    return losses


def test_every_method_is_here():
    assert {values["method.name"] for values in VARIANTS.values()} == set(c.METHODS)


@every_method
def test_its_loss_is_finite_and_the_teacher_gets_no_gradient(trial_of, learner_of, digits, variant):
    learner = learner_of(trial_of(variant))
    losses = take_steps(learner, digits, 0, 3)
    assert all(map(torch.tensor(losses).isfinite().tolist().__getitem__, range(3)))
    averaged = [tensor for tensors in learner.teacher.averaged.values() for tensor in tensors]
    held = {id(p) for group in learner.optimizer.param_groups for p in group["params"]}
    assert all(p.grad is None and not p.requires_grad and id(p) not in held for p in averaged)
    trained = [p for p in learner.student.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained) and any(
        p.grad.abs().sum() > 0 for p in trained
    )


@every_method
def test_a_trial_goes_on_from_its_state_bit_for_bit(trial_of, learner_of, digits, variant):
    config = trial_of(variant)
    whole, resumed = learner_of(config), learner_of(config)
    take_steps(whole, digits, 0, 3)
    tensors, values = whole.state_dict()
    resumed.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()}, values)
    for learner in (whole, resumed):
        take_steps(learner, digits, 3, 6)
    (one, _), (other, _) = whole.state_dict(), resumed.state_dict()
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@every_method
@pytest.mark.parametrize(("workers", "precision"), [(2, "fp32"), (4, "fp64")])
def test_it_is_the_same_on_any_number_of_workers(trial_of, digits, together, variant, workers, precision):
    """In fp32 to the last bit, where a method's samples do not look at each other across shards."""
    size = {"train.batch_size": 32, "train.shard_size": 8}
    config = resolved(trial_of(variant, {"train.precision": precision, **size, "optim.lr": 0.01}), 10)
    alone = Learner(config, 1, 64, Group(), 10)
    expected = take_steps(alone, digits, 0, 4)
    learners = [Learner(config, 1, 64, Group(rank, workers), 10) for rank in range(workers)]
    found = [
        sum(parts)
        for parts in zip(*together([lambda one=one: take_steps(one, digits, 0, 4) for one in learners]), strict=True)
    ]
    tolerance = 1e-9 if precision == "fp64" else 1e-4 if config.joint else 0.0
    assert found == pytest.approx(
        expected, rel=tolerance, abs=1e-12 if precision == "fp64" else 1e-7
    )  # sums of printed losses round too
    for name, tensor in learners[-1].method_state.items():
        torch.testing.assert_close(tensor, alone.method_state[name], rtol=10 * tolerance, atol=tolerance)
    weights = zip(learners[-1].student.parameters(), alone.student.parameters(), strict=True)
    assert all(torch.allclose(one, other, rtol=100 * tolerance, atol=100 * tolerance) for one, other in weights)


@every_method_now_or_later
def test_it_runs_with_every_norm_and_placement(trial_of, learner_of, digits, variant):
    norms = ("eman",) if variant == "fixmatch" else ("batch", "sync", "shuffle", "momentum", "eman")
    for norm, placement in itertools.product(norms, ("whole", "projector", ["block4", "fc1"])):
        learner = learner_of(trial_of(variant, {"teacher.norm.kind": norm, "teacher.placement": placement}))
        assert torch.tensor(take_steps(learner, digits, 0, 2)).isfinite().all(), (norm, placement)
    alone = {"teacher.placement": "none", "teacher.norm.kind": "batch"}
    assert torch.tensor(take_steps(learner_of(trial_of(variant, alone)), digits, 0, 2)).isfinite().all()


@every_method_now_or_later
def test_its_loss_falls_on_digits(trial_of, learner_of, digits, variant):
    """The teacher, if there is one, stays as it is, and past keys are its own: the target never moves."""
    values: dict[str, Any] = {"train.epochs": 15, "train.exact": False, "optim.lr": 0.05}
    if "mean_teacher" not in variant and "fixmatch" not in variant:
        values["encoder.projector.norm"] = "hidden"
    learner = learner_of(trial_of(variant, {**values, "teacher.momentum": {"kind": "constant", "base": 1.0}}))
    losses = take_steps(learner, digits, 0, 60)
    assert sum(losses[-8:]) / 8 < sum(losses[4:12]) / 8 - 0.02, losses


@pytest.mark.parametrize("name", ["moco", "ressl"])
def test_without_norm_in_the_head_and_without_an_average_it_collapses_visibly(trial_of, learner_of, digits, name):
    """All samples land on one spot."""
    spread = {}
    for norm, momentum in (("hidden", 0.9), ("none", 0.0)):
        values = {"train.epochs": 15, "train.exact": False, "optim.lr": 0.1}
        learner = learner_of(trial_of(name, {**values, "encoder.projector.norm": norm, "teacher.momentum": momentum}))
        take_steps(learner, digits, 0, 60)
        spread[norm] = learner.close_epoch()["embedding_std"]
    assert spread["none"] < 0.1 < spread["hidden"] and 2 * spread["none"] < spread["hidden"], spread


@pytest.mark.parametrize("name", ["byol", "simsiam", "simclr"])
def test_without_its_predictor_or_its_negatives_it_collapses_visibly(trial_of, learner_of, digits, monkeypatch, name):
    """No option removes these safeguards, so the test does: an identity as predictor; only positives are compared."""
    spread = {}
    for safe in (True, False):
        values = {"train.epochs": 15, "train.exact": False, "optim.lr": 0.3, "encoder.projector.norm": "hidden"}
        learner = learner_of(trial_of(name, values))
        if not safe and name == "simclr":
            monkeypatch.setattr(
                SimCLR,
                "_contrast",
                lambda _, anchors, keys, *others: -cosine_similarity(anchors, keys.flip(0), dim=-1).mean(0),
            )
        elif not safe:
            learner.student.predictor.register_forward_hook(lambda _, given, found: given[0] + 0 * found)
        take_steps(learner, digits, 0, 60)
        spread[safe] = learner.close_epoch()["embedding_std"]
    assert spread[False] < 0.15 and spread[True] > 0.5, spread


@pytest.mark.parametrize(("momentum", "collapses"), [(0.9, False), (1.0, True)])
def test_without_its_center_dino_collapses_visibly(trial_of, learner_of, digits, momentum, collapses):
    """To one prototype or two: less is left to learn than ln 24 of a fresh network.

    A center that keeps all of itself stays at 0.
    """
    values = {"train.epochs": 15, "train.exact": False, "optim.lr": 0.05, "method.center_momentum": momentum}
    losses = take_steps(learner_of(trial_of("dino", values)), digits, 0, 60)
    assert (sum(losses[-12:]) / 12 < 1) == collapses


def test_prototypes_do_not_move_at_first(trial_of, learner_of, digits):
    learner = learner_of(trial_of("dino", {"method.frozen_prototypes": "2 steps"}))
    begun = {name: p.detach().clone() for name, p in learner.student.named_parameters()}
    take_steps(learner, digits, 0, 2)
    same = {name for name, p in learner.student.named_parameters() if torch.equal(p, begun[name])}
    assert same == {"parts.fc2.0.weight"}
    take_steps(learner, digits, 2, 3)
    assert not torch.equal(learner.student.parts["fc2"][0].weight, begun["parts.fc2.0.weight"])


@pytest.mark.parametrize("name", list(SMALL))
def test_its_keys_are_its_own(name):
    with pytest.raises(UserError, match="^method.symmetrik: unknown key; did you mean 'symmetric'\\?$"):
        c.parse({"method": {"name": name, "symmetrik": True}})
    foreign = "predictor_hidden" if name not in ("byol", "simsiam") else "queue"
    with pytest.raises(UserError, match=f"^method.{foreign}: '{name}' has no such key$"):
        c.parse({"method": {"name": name, foreign: 32}})


def test_what_cannot_be_combined_is_refused():
    for given, said in (
        ({"method": {"name": "moco", "queue": 8}}, "method.queue = 8: must hold a batch of train.batch_size = 64"),
        ({"method": {"name": "ressl", "queue": 8}}, "method.queue = 8: must hold a batch of train.batch_size = 64"),
        (
            {"method": {"name": "dino"}, "encoder": {"projector": {"prototypes": 0}}},
            "encoder.projector.prototypes = 0: DINO",
        ),
    ):
        with pytest.raises(UserError, match=f"^{said}"):
            c.parse(given)
