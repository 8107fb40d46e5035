"""ReSSL's student may see both views: the loss is that of the first, norms and probe learn from both."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.trainables.feeds import feed_of
from trainables.config import formats
from trainables.config import trial as c
from trainables.data.images import Images
from trainables.data.pieces import Piece
from trainables.learning.learner import Learner
from trainables.networks.encoders import feature_width

VALUES: dict[str, Any] = {
    "method": {"name": "ressl", "queue": 32},
    "train.precision": "fp64",
    "train.batch_size": 16,
    "train.shard_size": 16,
    "optim": {"lr": {"kind": "constant", "base": 0.1}, "momentum": 0.0, "weight_decay": 0.0},
    "online_probe": 0.5,
}


@pytest.fixture
def pair(tiny: Callable[..., c.TrialConfig], learner_of: Callable[[c.TrialConfig], Learner]) -> list[Learner]:
    """Of a student that sees the first view, and of one that sees both."""
    return [learner_of(tiny({**VALUES, "method.student_views": seen})) for seen in ("first", "both")]


def test_the_loss_is_the_same_and_norms_and_probe_see_both(pair: list[Learner], digits: Images) -> None:
    batch = next(feed_of(pair[0], digits).batches(digits.order(0, 0, "order"), 0, 0))
    views = [batch.pictures[Piece("images", number)] for number in (0, 1)]
    parts, layout = pair[1].student.parts, pair[1].shards.layout()
    conv, first_norm = parts["conv1"][0], parts["conv1"][1]
    with torch.no_grad():
        means = [conv(view).mean((0, 2, 3)) for view in views]
        features = torch.cat([pair[1].student(view, layout).features for view in views])
    labels = batch.labels["images"].repeat(2)
    probe = torch.nn.Linear(feature_width(parts), 10).double()
    assert pair[1].student.probe is not None
    probe.load_state_dict(pair[1].student.probe.state_dict())
    F.cross_entropy(probe(features), labels).backward()
    losses = [learner.step([batch]).item() for learner in pair]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    for name, own in pair[0].student.named_parameters():  # the gradient of the encoder is that of the first view alone
        other = dict(pair[1].student.named_parameters())[name]
        assert torch.allclose(own, other, rtol=1e-10, atol=1e-12) != name.startswith("probe."), name
    expected = 0.9 * 0.1 * means[0] + 0.1 * means[1]
    assert torch.allclose(first_norm.running_mean, expected, rtol=1e-10, atol=1e-12)
    assert torch.allclose(pair[0].student.parts["conv1"][1].running_mean, 0.1 * means[0], rtol=1e-10, atol=1e-12)
    rate = pair[1].config.online_probe.lr
    with torch.no_grad():
        for old, new in zip(probe.parameters(), pair[1].student.probe.parameters(), strict=True):
            assert old.grad is not None
            assert torch.allclose(new, old - rate * old.grad, rtol=1e-9, atol=1e-11)


def test_the_teacher_still_sees_the_second_view_alone(pair: list[Learner], digits: Images) -> None:
    batch = next(feed_of(pair[0], digits).batches(digits.order(0, 0, "order"), 0, 0))
    for learner in pair:
        learner.step([batch])
    queues = [learner.method_state["queue"] for learner in pair]
    assert queues[0].shape == queues[1].shape and torch.allclose(queues[0], queues[1], rtol=1e-10, atol=1e-12)


def test_the_placement_presets_have_it_and_earlier_trials_do_not(tiny: Callable[..., c.TrialConfig]) -> None:
    plain = c.changed({}, {"method.name": "ressl"}).plain()
    assert plain["method"]["student_views"] == "first"
    old = {"preset": "placement", "method": {"name": "ressl", "queue": 512}}
    for preset in ("placement", "placement_imagenet100"):
        assert c.parse({**old, "preset": preset}).method.model_dump()["student_views"] == "both"
    for written, seen in ((1, "first"), (2, "first"), (formats.FORMAT, "both")):
        search = {"trial": old, "points": {"a": {"method": {"name": "ressl"}}, "b": {"method.name": "byol"}}}
        stored = formats.search_as_written(search, written)
        assert c.parse(stored["trial"]).method.model_dump()["student_views"] == seen
        base = c.parse({"preset": "placement"}).plain()
        assert c.changed(base, stored["points"]["a"]).method.model_dump()["student_views"] == seen
        assert stored["points"]["b"] == {"method.name": "byol"}
