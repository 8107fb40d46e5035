"""Under `precision: fp64` nothing that a trial carries from step to step is rounded to fp32."""

from typing import Any

import pytest
import torch

from tests.trainables.feeds import feed_of
from trainables.data.images import Images
from trainables.learning.learner import DTYPES, Learner
from trainables.networks.group import Group

HEAD = {"hidden": 32, "out": 16, "norm": "none"}
STATEFUL: dict[str, dict[str, Any]] = {
    "dino": {
        "method.name": "dino",
        "encoder.projector": {**HEAD, "layers": 3, "prototypes": 32},
        "method.frozen_prototypes": 0,
    },
    "moco": {"method.name": "moco", "encoder.projector": HEAD, "method.queue": 64},
    "ressl": {"method.name": "ressl", "encoder.projector": HEAD, "method.queue": 64},
}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp64"])
@pytest.mark.parametrize("values", STATEFUL.values(), ids=STATEFUL)
def test_the_state_of_a_method_has_the_precision_of_its_trial(tiny, learner_of, values, precision):
    learner = learner_of(tiny({**values, "train.precision": precision}))
    kinds = {tensor.dtype for tensor in learner.method_state.values() if tensor.is_floating_point()}
    assert kinds == {DTYPES[precision]}


@pytest.mark.parametrize("values", STATEFUL.values(), ids=STATEFUL)
def test_queues_and_centers_are_the_same_on_two_workers_to_1e_12(tiny, digits, together, values):
    """Eight steps of four shards; the third begins to overwrite the queue.

    In fp32 a few numbers of a long run were rounded another way where workers had summed in another order, which is
    6e-8 then.
    """
    sizes = {"train.batch_size": 32, "train.shard_size": 8, "train.epochs": 4, "optim.lr": 0.01}
    config = tiny({**values, **sizes, "train.precision": "fp64"})
    alone, *pair = (Learner(config, 1, 64, group, 10) for group in (Group(), Group(0, 2), Group(1, 2)))
    expected = losses(alone, digits)
    found = torch.stack(together([lambda one=one: losses(one, digits) for one in pair])).sum(0)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    for one in pair:
        for name, tensor in one.method_state.items():
            torch.testing.assert_close(tensor, alone.method_state[name], rtol=1e-11, atol=1e-12)


def losses(learner: Learner, images: Images) -> torch.Tensor:
    """Of this worker's shards, in each of the first eight steps."""
    found = []
    for step in range(8):
        epoch, at = divmod(step, learner.run.per_epoch)
        order = images.order(learner.config.seed, epoch, "order")
        found.append(learner.step(feed_of(learner, images).batches(order, at, epoch)))
    return torch.stack(found)


def test_an_fp64_trial_of_an_earlier_version_goes_on_from_its_fp32_state(tiny, learner_of):
    learner = learner_of(tiny({**STATEFUL["moco"], "train.precision": "fp64"}))
    tensors, values = learner.state_dict()
    before = {name: x.float() if name == "method.queue" else x for name, x in tensors.items()}
    learner.load_state_dict(before, values)
    assert learner.method_state["queue"].dtype == torch.float64
    assert torch.equal(learner.method_state["queue"], before["method.queue"].double())
