"""Monitors: each number against its formula."""

import math
from itertools import combinations

import pytest
import torch
from torch import Tensor

from tests.trainables.feeds import feed_of
from trainables.config import trial as c
from trainables.data import augment
from trainables.data import images as data
from trainables.learning import monitoring
from trainables.learning.learner import Learner
from trainables.learning.monitors.base import Numbers
from trainables.learning.monitors.distance import Distance
from trainables.learning.monitors.embedding import Embedding
from trainables.learning.monitors.filters import Filters
from trainables.learning.monitors.gradients import Gradients
from trainables.learning.monitors.statistics import Statistics
from trainables.networks.encoders import run_parts
from trainables.networks.group import Group

ALL = list(monitoring.KINDS)


@pytest.fixture(scope="module")
def validation(tiny) -> data.Images:
    return data.load(tiny().data, "validation")


@pytest.fixture
def watched(tiny):
    def make(**values: object) -> c.TrialConfig:
        projector = {"encoder.projector": {"hidden": 2, "out": 5}}
        return tiny(
            {
                "train.precision": "fp64",
                "monitors": ALL,
                **projector,
                **{k.replace("__", "."): v for k, v in values.items()},
            }
        )

    return make


def epoch(learner: Learner, digits: data.Images, index: int = 0) -> None:
    for at in range(learner.run.per_epoch):
        learner.step(feed_of(learner, digits).batches(torch.arange(64), at, index))


def test_the_monitors_of_a_trial_are_those_that_it_names(tiny, digits, validation, learner_of):
    learner = learner_of(tiny({"monitors": ["embedding", "distance"]}))
    epoch(learner, digits)
    found = learner.watch(validation)
    assert {key.split("/")[1] for key in found} == {"embedding", "distance"} and all(
        key.startswith("monitor/") for key in found
    )
    assert learner.output_gradients == {} and learner.monitors.state_dict() == {}
    quiet = learner_of(tiny({"monitors": []}))
    epoch(quiet, digits)
    assert quiet.watch(validation) == {}


def test_distance_of_each_averaged_part(watched, digits, validation, learner_of):
    learner = learner_of(watched(teacher__placement=["block2", "fc2"]))
    epoch(learner, digits)
    found = Distance().measure(learner.watched(), validation)
    assert list(found) == ["distance/block2", "distance/fc2"]
    for part in ("block2", "fc2"):
        own, student = (
            torch.cat([p.detach().flatten() for p in parts[part].parameters()])
            for parts in (learner.teacher.parts, learner.student.parts)
        )
        assert found[f"distance/{part}"] == pytest.approx(((own - student).norm() / student.norm()).item(), rel=1e-12)
        assert found[f"distance/{part}"] > 0


@pytest.mark.parametrize("kind", ["batch", "momentum", "eman"])
def test_mismatch_of_statistics(watched, digits, validation, learner_of, kind):
    """Over all channels alike: of the parts that the teacher runs, averaged or not."""
    learner = learner_of(watched(teacher__norm__kind=kind, teacher__placement=["block4"]))
    epoch(learner, digits)
    found = Statistics().measure(learner.watched(), validation)
    means, variances = [], []
    for name in ("block4", "fc1"):
        student = dict(learner.student.parts[name].named_buffers())
        own = dict(learner.teacher.parts[name].named_buffers())
        for key in [key.removesuffix("running_mean") for key in student if key.endswith("running_mean")]:
            mean, var = (
                own[f"{key}history"].mean(0)
                if kind == "momentum"
                else (own[f"{key}running_mean"], own[f"{key}running_var"])
            )
            of_mean, of_var = student[f"{key}running_mean"], student[f"{key}running_var"]
            means += ((mean - of_mean).abs() / (of_var + 1e-5).sqrt()).tolist()
            variances += [
                abs(math.log((a + 1e-5) / (b + 1e-5))) for a, b in zip(var.tolist(), of_var.tolist(), strict=True)
            ]
    assert len(means) == 3 * 32 + 2  # block4 has three norms of 8 * 4 channels, fc1 one of 2
    assert found["statistics/mean"] == pytest.approx(sum(means) / len(means), rel=1e-10)
    assert found["statistics/variance"] == pytest.approx(sum(variances) / len(variances), rel=1e-10)


def test_without_norms_there_is_no_mismatch(watched, validation, learner_of):
    assert Statistics().measure(learner_of(watched(teacher__placement="fc2")).watched(), validation) == {}


@pytest.mark.parametrize("exact", [True, False])
def test_embedding_of_the_last_batch(watched, digits, validation, learner_of, exact):
    learner, projections = learner_of(watched(train__exact=exact)), []
    learner.student.parts["fc2"].register_forward_hook(
        lambda module, inputs, output: projections.append(output.detach())
    )
    epoch(learner, digits)
    found = Embedding().measure(learner.watched(), validation)
    passes = projections[-2:] if exact else projections[-1:]
    first, second = (torch.cat([one.chunk(2)[view] for one in passes]) for view in (0, 1))
    assert first.shape == (16, 5)
    shares = torch.linalg.eigvalsh(first.T @ first).clamp(min=0).sqrt()
    shares = shares / shares.sum()
    rank = math.exp(-sum(share * math.log(share) for share in shares.tolist() if share > 0))
    first, second = (rows / rows.norm(dim=1, keepdim=True) for rows in (first, second))
    alignment = sum((a - b).square().sum().item() for a, b in zip(first, second, strict=True)) / 16
    potentials = [math.exp(-2 * (a - b).square().sum().item()) for a, b in combinations(first, 2)]
    assert found["embedding/effective_rank"] == pytest.approx(rank, rel=1e-6) and 1 < rank < 5
    assert found["embedding/alignment"] == pytest.approx(alignment, rel=1e-10)
    assert found["embedding/uniformity"] == pytest.approx(math.log(sum(potentials) / len(potentials)), rel=1e-10)


@pytest.mark.parametrize("exact", [True, False])
def test_the_largest_gradient_at_the_output_of_each_part(watched, digits, validation, learner_of, exact):
    """Of the mean over the batch, in an epoch's last step: against a loss that is a function of each part's output."""
    learner = learner_of(watched(train__exact=exact))
    outputs: dict[str, list[Tensor]] = {name: [] for name in learner.student.parts}
    losses: list[Tensor] = []
    for name, part in learner.student.parts.items():
        part.register_forward_hook(lambda module, inputs, output, name=name: outputs[name].append(output))
    add = learner._gradients.add

    def noted(loss: Tensor) -> None:
        losses.append(loss)
        grads = torch.autograd.grad(loss / 2, [outputs[name][-1] for name in outputs], retain_graph=True)
        for name, grad in zip(outputs, grads, strict=True):
            expected[name].append(grad.abs().max().item())
        add(loss)

    expected: dict[str, list[float]] = {name: [] for name in outputs}
    learner._gradients.add = noted  # type: ignore[method-assign]
    epoch(learner, digits)
    found = Gradients().measure(learner.watched(), validation)
    count = 2 if exact else 1
    for name, values in expected.items():
        assert found[f"gradient/{name}"] == pytest.approx(max(values[-count:]), rel=1e-6)
    assert len(losses) == 4 * count and set(found) == {f"gradient/{name}" for name in c.PARTS}


def test_drift_of_the_teacher_between_evaluations(watched, digits, validation, learner_of):
    learner = learner_of(watched(teacher__placement=["block3", "fc1"], teacher__norm__kind="momentum"))

    def now() -> dict[str, Tensor]:
        own = torch.cat([p.flatten() for part in ("block3", "fc1") for p in learner.teacher.parts[part].parameters()])
        parts = learner.teacher.encoder(learner.student.parts).eval()
        images = augment.standardise(
            validation.batch(torch.arange(len(validation)), torch.device("cpu"), torch.float64)
        )
        with torch.no_grad():
            outputs = run_parts(parts, images)
        parts.train()
        return {"parameters": own.clone(), "outputs": outputs}

    epoch(learner, digits)
    assert learner.watch(validation).keys() & {"monitor/drift/outputs", "monitor/drift/parameters"} == set()
    first = now()
    epoch(learner, digits, 1)
    found, second = learner.watch(validation), now()
    for name, tensor in second.items():
        assert (
            found[f"monitor/drift/{name}"] == pytest.approx((tensor - first[name]).square().mean().item(), rel=1e-9)
            and tensor.ndim
        )
    assert all(module.training for module in learner.student.modules()) and all(
        norm.pending == [] for norm in learner.student.norms
    )


def test_filters_are_the_first_rows_of_the_last_layer(watched, digits, validation, learner_of):
    learner = learner_of(watched(encoder__projector__out=20, teacher__placement="fc2", encoder__output_norm=True))
    epoch(learner, digits)
    found = Filters().measure(learner.watched(), validation)
    assert len(found) == 2 * 16 * 2
    for which, parts in (("student", learner.student.parts), ("teacher", learner.teacher.parts)):
        for row in range(16):
            point = [found[f"filter/{which}/{row}/{axis}"] for axis in "xy"]
            assert point == parts["fc2"][0].weight[row].tolist()
    assert any(found[f"filter/student/{row}/x"] != found[f"filter/teacher/{row}/x"] for row in range(16))


@pytest.mark.parametrize("kind", ["momentum", "sync"])
def test_two_workers_say_what_one_says(watched, digits, validation, together, kind):
    """Both of them, with 2 and 1 of the 3 shards."""
    config = watched(train__batch_size=12, train__shard_size=4, teacher__norm__kind=kind)
    found = {}
    for workers in (1, 2):
        learners = [Learner(config, 1, 64, Group(rank, workers)) for rank in range(workers)]

        def act(learner: Learner) -> list[Numbers]:
            told = []
            for index in range(2):
                epoch(learner, digits, index)
                told.append(learner.watch(validation))
            return told

        found[workers] = together([lambda learner=learner: act(learner) for learner in learners])
    (one,) = found[1]
    for two in found[2]:
        for first, second in zip(one, two, strict=True):
            assert first.keys() == second.keys() and second == pytest.approx(first, rel=1e-5)


def test_watching_changes_nothing(watched, digits, validation, learner_of):
    watching, blind = learner_of(watched()), learner_of(watched(monitors=[]))
    for index in range(2):
        for learner in (watching, blind):
            epoch(learner, digits, index)
            learner.watch(validation)
    ours, theirs = watching.state_dict()[0], blind.state_dict()[0]
    assert all(torch.equal(tensor, ours[name]) for name, tensor in theirs.items())


def test_the_state_of_monitors_goes_through_a_checkpoint(watched, digits, validation, learner_of):
    """Under the names of earlier versions. A Learner without the monitor has no such state, and takes none."""
    whole, resumed = learner_of(watched()), learner_of(watched())
    epoch(whole, digits)
    whole.watch(validation)
    tensors, values = whole.state_dict()
    assert {name for name in tensors if name.startswith("remembered.")} == {
        "remembered.outputs",
        "remembered.parameters",
    }
    resumed.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()}, values)
    for learner in (whole, resumed):
        epoch(learner, digits, 1)
    assert whole.watch(validation) == resumed.watch(validation)
    blind = learner_of(watched(monitors=["distance"]))
    blind.load_state_dict(tensors, values)
    assert blind.monitors.state_dict() == {}


def test_monitors_have_names_of_their_own():
    """No two store a tensor, or show a curve, under one name."""
    kinds = list(monitoring.KINDS.values())
    for names in ([name for kind in kinds for name in kind.STATE], [name for kind in kinds for name in kind.CURVES]):
        assert len(names) == len(set(names)) > 0


def test_every_number_of_a_monitor_has_a_curve(watched, digits, validation, learner_of):
    learner = learner_of(watched())
    for index in range(2):
        epoch(learner, digits, index)
        numbers = learner.watch(validation)
    curves = {kind: curve for monitor in monitoring.KINDS.values() for kind, curve in monitor.CURVES.items()}
    of = {
        key.removeprefix("monitor/"): [kind for kind in curves if key.startswith(f"monitor/{kind}/")] for key in numbers
    }
    assert all(len(kinds) == 1 for kinds in of.values())
    assert {kind for kinds in of.values() for kind in kinds} == set(curves)
    assert all(
        curve.name.split("/")[0] in ("student", "teacher") and curve.text.endswith(".") for curve in curves.values()
    )
