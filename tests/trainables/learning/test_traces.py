"""Traces: rows within an epoch, each against its formula, and the same whoever trained the trial."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.trainables.feeds import feed_of
from trainables.config import trial as c
from trainables.config.errors import UserError
from trainables.data import images as data
from trainables.learning import monitoring
from trainables.learning.learner import Learner
from trainables.learning.traces import traces_in
from trainables.networks.group import Group

PARTS = ("conv1", "block1", "block2", "block3", "block4", "fc1", "fc2")


@pytest.fixture
def traced(tiny):
    """A trial of two epochs of 4 steps, traced every 3 steps unless it is said otherwise."""

    def make(every: str | None = "3 steps", **values: Any) -> c.TrialConfig:
        monitors = {"names": ["gradients", "filters"], "every": every}
        changes = {key.replace("__", "."): value for key, value in values.items()}
        return tiny({"encoder.projector": {"hidden": 2, "out": 20}, "monitors": monitors, **changes})

    return make


def steps_of(learner: Learner, images: data.Images, first: int, last: int) -> None:
    """Makes the steps from `first` on, and none from `last` on; counted from 0."""
    for step in range(first, last):
        epoch, at = divmod(step, learner.run.per_epoch)
        learner.step(feed_of(learner, images).batches(torch.arange(64), at, epoch))


def rows_of(learner: Learner) -> dict[str, Tensor]:
    return traces_in(learner.state_dict()[0])


@pytest.mark.parametrize("exact", [True, False])
def test_gradients_of_each_traced_step_against_autograd(traced, digits, learner_of, exact):
    """In float64: of the mean over the batch, by each part's output. Fails for gradients of another step."""
    learner = learner_of(traced(train__precision="fp64", train__exact=exact))
    outputs: dict[str, Tensor] = {}
    for name, part in learner.student.parts.items():
        part.register_forward_hook(lambda module, inputs, output, name=name: outputs.__setitem__(name, output))
    add = learner._gradients.add
    expected: dict[int, dict[str, float]] = {}

    def noted(loss: Tensor) -> None:
        grads = torch.autograd.grad(loss / 2, [outputs[name] for name in PARTS], retain_graph=True)
        before = expected.setdefault(learner.step_index + 1, dict.fromkeys(PARTS, 0.0))
        for name, grad in zip(PARTS, grads, strict=True):
            before[name] = max(before[name], grad.abs().max().item())
        add(loss)

    learner._gradients.add = noted  # type: ignore[method-assign]
    steps_of(learner, digits, 0, 8)
    rows = rows_of(learner)
    assert rows["steps"].tolist() == [3, 6, 8] and len(expected) == 8
    for name in PARTS:
        wanted = [expected[step][name] for step in (3, 6, 8)]
        assert rows[f"gradient/{name}"].tolist() == pytest.approx(wanted, rel=1e-6) and min(wanted) > 0
    assert len({expected[step]["fc2"] for step in expected}) == 8


def test_filters_are_those_after_each_traced_step(traced, digits, learner_of):
    learner = learner_of(traced("2 steps", teacher__placement=["fc2"]))
    expected: dict[str, list[Tensor]] = {"student": [], "teacher": []}
    for step in range(8):
        steps_of(learner, digits, step, step + 1)
        if step % 2:
            for network, parts in (("student", learner.student.parts), ("teacher", learner.teacher.parts)):
                expected[network].append(parts["fc2"][0].weight[:16].detach().clone())
    rows = rows_of(learner)
    assert rows["steps"].tolist() == [2, 4, 6, 8]
    for network, wanted in expected.items():
        assert torch.equal(rows[f"filter/{network}"], torch.stack(wanted))
    assert not torch.equal(rows["filter/student"], rows["filter/teacher"])


def test_the_row_of_an_epochs_last_step_is_what_the_epoch_says(traced, tiny, digits, learner_of):
    learner = learner_of(traced("1 epochs"))
    validation = data.load(tiny().data, "validation")
    for epoch in range(2):
        steps_of(learner, digits, 4 * epoch, 4 * epoch + 4)
        numbers, rows = learner.watch(validation), rows_of(learner)
        assert rows["steps"].tolist() == [4, 8][: epoch + 1]
        for name in PARTS:
            assert numbers[f"monitor/gradient/{name}"] == rows[f"gradient/{name}"][-1].item()
        assert numbers["monitor/filter/teacher/15/y"] == rows["filter/teacher"][-1, 15, 1].item()


@pytest.mark.parametrize(
    ("every", "steps"),
    [
        ("1 steps", [1, 2, 3, 4, 5, 6, 7, 8]),
        ("0.3 epochs", [2, 4, 6, 8]),
        ("50 %", [4, 8]),
        ("5 steps", [5, 8]),
        ("8 steps", [8]),
        (None, []),
    ],
)
def test_when_a_row_is_made(traced, digits, learner_of, every, steps):
    """Also after the last step, and never before the first: a run that is shorter than `every` is refused."""
    learner = learner_of(traced(every))
    steps_of(learner, digits, 0, 8)
    assert rows_of(learner).get("steps", torch.tensor([])).tolist() == steps


def test_an_interval_longer_than_the_run_is_refused(traced, learner_of):
    with pytest.raises(UserError, match=r"^monitors.every = 100 steps: must not exceed the run, which has 8 steps$"):
        learner_of(traced("100 steps"))


class Operations(TorchDispatchMode):
    """Counts what torch is asked to do, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def test_a_traced_step_waits_for_nothing_and_the_others_are_as_before(traced, digits, learner_of):
    """Nothing is read from the device: `_local_scalar_dense` is what item() and tolist() do."""
    counted: dict[str | None, list[Counter[str]]] = {}
    for every in (None, "2 steps"):
        learner = learner_of(traced(every))
        counted[every] = []
        for step in range(3):
            with Operations() as operations:
                steps_of(learner, digits, step, step + 1)
            counted[every].append(operations.counts)
    before, now = counted[None], counted["2 steps"]
    assert (now[0], now[2]) == (before[0], before[2]) and now[1] != before[1]
    assert now[1]["_local_scalar_dense"] == before[1]["_local_scalar_dense"]
    assert now[1]["clone"] - before[1]["clone"] == 2, "the filters of student and teacher"


def test_any_number_of_workers_traces_the_same_bits(traced, digits, together):
    """3 shards on one worker, on two with 2 and 1 of them, and on three."""
    config = traced(
        "2 steps",
        **{"train__batch_size": 12, "train__shard_size": 4, "teacher__placement": "projector", "optim__lr": 0.5},
    )
    found = []
    for workers in (1, 2, 3):
        learners = [Learner(config, 1, 64, Group(rank, workers)) for rank in range(workers)]

        def act(learner: Learner) -> dict[str, Tensor]:
            steps_of(learner, digits, 0, 7)
            return rows_of(learner)

        found += together([lambda learner=learner: act(learner) for learner in learners])
    first, *others = found
    assert first["steps"].tolist() == [2, 4, 6] and len(others) == 5
    for other in others:
        assert first.keys() == other.keys() and all(torch.equal(first[name], other[name]) for name in first)


def test_rows_go_on_in_another_learner_without_gap_or_double(traced, digits, learner_of):
    """From the state after any step; asking for the state often changes nothing."""
    whole = learner_of(traced("3 steps"))
    states = []
    for step in range(8):
        tensors, values = whole.state_dict()
        states.append(({name: tensor.clone() for name, tensor in tensors.items()}, values))
        steps_of(whole, digits, step, step + 1)
    wanted = rows_of(whole)
    for step, (tensors, values) in enumerate(states):
        resumed = learner_of(traced("3 steps"))
        steps_of(resumed, digits, 0, 3)  # of which nothing may be left
        resumed.load_state_dict(tensors, values)
        steps_of(resumed, digits, step, 8)
        rows = rows_of(resumed)
        assert rows.keys() == wanted.keys() and all(torch.equal(rows[name], wanted[name]) for name in wanted)


def test_tracing_changes_nothing_else(traced, digits, learner_of):
    tracing, blind = learner_of(traced("1 steps")), learner_of(traced(None))
    for learner in (tracing, blind):
        steps_of(learner, digits, 0, 8)
    ours, theirs = tracing.state_dict()[0], blind.state_dict()[0]
    assert all(torch.equal(tensor, ours[name]) for name, tensor in theirs.items())
    assert {name for name in ours if name not in theirs} == {
        "trace.steps",
        "trace.filter/student",
        "trace.filter/teacher",
        *(f"trace.gradient/{part}" for part in PARTS),
    }


def test_each_monitor_that_traces_names_its_rows_by_its_curves(traced, digits, learner_of):
    learner = learner_of(traced("1 steps", monitors__names=list(monitoring.KINDS)))
    steps_of(learner, digits, 0, 1)
    able = [kind for kind in monitoring.KINDS.values() if kind.TRACES]
    for kind in able:
        names = kind().trace(learner.watched())
        assert names and all(
            name.partition("/")[0] in {curve.partition("/")[0] for curve in kind.CURVES} for name in names
        )
    assert {kind.__name__ for kind in able} == {"Gradients", "Filters"}
