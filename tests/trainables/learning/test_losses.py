"""Losses and states of the methods against the plainly written formulas, in float64."""

import math

import pytest
import torch
from torch import Tensor

from tests.trainables.passes import given, pairs
from trainables.config import schedules
from trainables.config import trial as c
from trainables.config.durations import Length
from trainables.learning.methods.base import Temperature
from trainables.learning.methods.dino import DINO
from trainables.learning.methods.moco import MoCo
from trainables.learning.methods.ressl import ReSSL
from trainables.learning.methods.simclr import SimCLR
from trainables.learning.methods.simsiam import SimSiam


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


def unit(x: Tensor) -> Tensor:
    return x / x.square().sum(-1, keepdim=True).sqrt()


def double(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def test_simsiam_is_the_mean_of_negative_cosines(rng):
    p, t = pairs(rng)
    expected = -((unit(p[0]) * unit(t[1])).sum(-1) + (unit(p[1]) * unit(t[0])).sum(-1)) / 2
    close(SimSiam().loss(given(p, t)), expected)


@pytest.mark.parametrize("symmetric", [True, False])
def test_moco_against_plain_loops(rng, symmetric):
    p, t = pairs(rng)
    moco = MoCo(queue=11, temperature=Temperature(base=0.3), symmetric=symmetric)
    state = double(moco.initial_state(5, 0))
    assert state["queue"].shape == (2 if symmetric else 1, 11, 5)
    q, k = unit(p), unit(t)
    directions = [(q[0], k[1], state["queue"][-1]), (q[1], k[0], state["queue"][0])][: 2 if symmetric else 1]
    expected = []
    for sample in range(7):
        terms = []
        for query, key, queue in directions:
            logits = [query[sample] @ key[sample] / 0.3] + [query[sample] @ past / 0.3 for past in queue]
            terms.append(-math.log(math.exp(logits[0]) / sum(map(math.exp, logits))))
        expected.append(sum(terms) / len(terms))
    student, teacher = (p, t) if symmetric else (p[:1], t[1:])
    close(moco.loss(given(student, teacher, state=state)), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("method", [MoCo(queue=10), MoCo(queue=10, symmetric=True), ReSSL(queue=10)])
def test_invariant_49_a_queue_is_first_in_first_out(rng, method):
    """Fails when the pointer does not wrap, or keys are enqueued before the loss."""
    state = double(method.initial_state(5, 0))
    before = state["queue"].clone()
    torch.testing.assert_close(
        before.norm(dim=-1), torch.ones(before.shape[:2], dtype=torch.float64), rtol=1e-6, atol=0
    )
    views = len(method.teacher_sights)
    steps = [torch.randn(views, 4, 5, generator=rng, dtype=torch.float64) for _ in range(6)]
    for step, keys in enumerate(steps):
        held = state["queue"].clone()
        method.loss(given(torch.randn(views, 4, 5, generator=rng, dtype=torch.float64), keys, state=state))
        assert torch.equal(state["queue"], held)
        method.close(state, keys, step, Length(6, 6))
        assert state["pointer"].item() == (step + 1) * 4 % 10
    for view in range(views):
        past = list(torch.cat([unit(keys[view]) for keys in steps]))
        plain = list(before[view])
        for index, key in enumerate(past):
            plain[index % 10] = key
        close(state["queue"][view], torch.stack(plain))


def test_invariant_50_a_hot_moco_knows_nothing(rng):
    """Fails when the positive is not among the logits."""
    p, t = pairs(rng)
    moco = MoCo(queue=63, temperature=Temperature(base=1e12), symmetric=True)
    close(
        moco.loss(given(p, t, state=double(moco.initial_state(5, 0)))),
        torch.full((7,), math.log(64), dtype=torch.float64),
    )


def test_invariant_48_swapped_views_and_queues(rng):
    """Fails when a view meets the queue of its own keys."""
    p, t = pairs(rng)
    moco = MoCo(queue=8, symmetric=True)
    state = double(moco.initial_state(5, 0))
    swapped = {**state, "queue": state["queue"].flip(0)}
    close(moco.loss(given(p.flip(0), t.flip(0), state=swapped)), moco.loss(given(p, t, state=state)))
    assert not torch.allclose(moco.loss(given(p.flip(0), t.flip(0), state=state)), moco.loss(given(p, t, state=state)))
    for method in (SimSiam(), SimCLR(), SimCLR(negatives="shard")):
        close(method.loss(given(p.flip(0), t.flip(0))), method.loss(given(p, t)))
    dino = DINO()
    center = {"center": torch.randn(5, generator=rng, dtype=torch.float64)}
    close(dino.loss(given(p.flip(0), t.flip(0), state=center)), dino.loss(given(p, t, state=center)))


def test_invariant_51_ressl_of_equals_is_the_entropy_and_has_no_gradient(rng):
    """Fails when a sample's own key is among those that it is compared with."""
    p, _ = pairs(rng)
    query = p[:1].requires_grad_()
    ressl = ReSSL(queue=9, temperature=Temperature(base=0.1), teacher_temperature=Temperature(base=0.1))
    state = double(ressl.initial_state(5, 0))
    found = ressl.loss(given(query, query.detach(), state=state))
    share = torch.softmax(unit(query.detach()[0]) @ state["queue"][0].T / 0.1, -1)
    close(found.detach(), -(share * share.log()).sum(-1))
    (gradient,) = torch.autograd.grad(found.sum(), query)
    assert gradient.abs().max() < 1e-12


def test_ressl_against_its_formula(rng):
    p, t = pairs(rng)
    ressl = ReSSL(queue=9)
    state = double(ressl.initial_state(5, 0))
    target = torch.softmax(unit(t[1]) @ state["queue"][0].T / 0.04, -1)
    logs = torch.log_softmax(unit(p[0]) @ state["queue"][0].T / 0.1, -1)
    close(ressl.loss(given(p[:1], t[1:], state=state)), -(target * logs).sum(-1))


def test_dino_against_its_formula(rng):
    p, t = pairs(rng)
    center = torch.randn(5, generator=rng, dtype=torch.float64)
    dino = c.parse({"method": {"name": "dino", "teacher_temperature": {"warmup": "5 epochs"}}}).method
    for step in (0, 20, 49, 70):
        sharp = 0.04 + (0.07 - 0.04) * min((step + 1) / 50, 1)
        assert schedules.at(dino.teacher_temperature, step, Length(100, 10)) == pytest.approx(sharp, rel=1e-12)
        target, logs = torch.softmax((t - center) / sharp, -1), torch.log_softmax(p / 0.1, -1)
        expected = -((target[0] * logs[1]).sum(-1) + (target[1] * logs[0]).sum(-1)) / 2
        close(dino.loss(given(p, t, state={"center": center}, step=step)), expected)


def test_invariant_52_the_center_follows_the_logits_and_takes_constants_away(rng):
    """Fails when its share of the batch is 0.9, or differs between views."""
    dino = DINO()
    state = double(dino.initial_state(5, 0))
    v = torch.randn(5, generator=rng, dtype=torch.float64)
    dino.close(state, v.expand(2, 7, 5), 0, Length(10, 10))
    close(state["center"], 0.1 * v)
    p, t = pairs(rng)
    found = dino.loss(given(p, t, state=state))
    close(dino.loss(given(p, t + 3.7, state=state)), found)
    target = torch.softmax((t - state["center"]) / 0.07, -1)
    assert (found >= -(target * target.log()).sum(-1).mean(0) - 1e-12).all()


def test_invariant_53_a_collapsed_dino(rng):
    """8.3178 with 4096 prototypes. Fails when logits are not normalised."""
    zeros = torch.zeros(2, 3, 4096, dtype=torch.float64)
    found = DINO().loss(given(zeros, zeros, state={"center": torch.zeros(4096, dtype=torch.float64)}))
    close(found, torch.full((3,), math.log(4096), dtype=torch.float64))
    assert round(found[0].item(), 4) == 8.3178


def test_dinos_prototypes_wait(rng):
    dino = DINO()
    run = Length(100, 10)
    assert [dino.frozen(step, run) for step in (0, 9, 10, 99)] == [("fc2",), ("fc2",), (), ()]


def plain_simclr(anchors: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """Of [2, B, D]: anchors against all keys of both views but the one in their own place."""
    batch = anchors.shape[1]
    losses = torch.zeros(2, batch, dtype=torch.float64)
    for view in range(2):
        for sample in range(batch):
            terms = {
                (v, s): math.exp(anchors[view, sample] @ keys[v, s] / temperature)
                for v in range(2)
                for s in range(batch)
                if (v, s) != (view, sample)
            }
            losses[view, sample] = -math.log(terms[1 - view, sample] / sum(terms.values()))
    return losses.mean(0)


@pytest.mark.parametrize("averaged", [True, False])
def test_simclr_against_plain_loops(rng, averaged):
    p, t = pairs(rng)
    keys = unit(t) if averaged else unit(p)
    close(
        SimCLR(temperature=Temperature(base=0.3)).loss(given(p, t, averaged=averaged)), plain_simclr(unit(p), keys, 0.3)
    )
    pieces = [plain_simclr(unit(p[:, s]), keys[:, s], 0.3) for s in (slice(0, 3), slice(3, 6))]
    found = SimCLR(temperature=Temperature(base=0.3), negatives="shard").loss(
        given(p[:, :6], t[:, :6], averaged=averaged, shards=2)
    )
    close(found, torch.cat(pieces))


@pytest.mark.parametrize("averaged", [True, False])
def test_simclr_of_a_part_of_the_batch(rng, averaged):
    p, t = pairs(rng)
    whole = SimCLR().loss(given(p, t, averaged=averaged))
    keys = unit(t) if averaged else unit(p)
    part = given(p[:, 2:5], t[:, 2:5], averaged=averaged, first=2, gather=lambda rows: keys)
    close(SimCLR().loss(part), whole[2:5])


def test_invariant_54_simclr_of_equal_embeddings():
    """log(2B - 1). Fails when the anchor is among its negatives."""
    same = torch.ones(2, 7, 5, dtype=torch.float64)
    close(SimCLR().loss(given(same, same)), torch.full((7,), math.log(13), dtype=torch.float64))


def test_simclr_has_a_gradient_through_its_keys_but_not_through_an_averaged_copys(rng):
    p, _ = pairs(rng)
    p.requires_grad_()
    both = torch.autograd.grad(SimCLR().loss(given(p, p.detach(), averaged=False)).sum(), p)[0]
    one = torch.autograd.grad(SimCLR().loss(given(p, p.detach(), averaged=True)).sum(), p)[0]
    assert (both - one).norm() > 0.1 * both.norm()
