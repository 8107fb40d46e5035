"""Requests of rank 0 travel with the gradient sum: everyone hears them a step later, and no gradient changes."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from tests.trainables.running.test_workers import steps
from trainables.data.images import Images
from trainables.learning.gradient_sum import GradientSum
from trainables.learning.learner import Learner
from trainables.learning.requests import Request
from trainables.networks.group import Group

SHAPES = ((7, 5), (3,), (2, 3, 3, 3), (1,))
WISHES: list[frozenset[Request]] = [
    frozenset(),
    frozenset({"checkpoint"}),
    frozenset(),
    frozenset({"checkpoint", "leave"}),
    frozenset({"leave"}),
    frozenset(),
]


def gradients(group: Group, exact: bool, wishes: list[frozenset[Request]]) -> tuple[list[Tensor], list[set[Request]]]:
    """The gradients of some steps, and what was heard after each."""
    rng = torch.Generator().manual_seed(3)
    parameters = [nn.Parameter(torch.randn(shape, generator=rng)) for shape in SHAPES]
    gradient_sum = GradientSum(parameters, exact)
    found, heard = [], []
    for step, wish in enumerate(wishes):
        if group.rank == 0:
            gradient_sum.requests.asked = wish
        for shard in group.share(4):
            rng.manual_seed(10 * step + shard)
            factors = [torch.randn(shape, generator=rng) for shape in SHAPES]
            gradient_sum.add(sum(((p * f).sum() for p, f in zip(parameters, factors, strict=True)), torch.zeros(())))
        gradient_sum.close(group, 4)
        found += [p.grad.clone() for p in parameters if p.grad is not None]
        heard.append(set(gradient_sum.requests.heard))
    return found, heard


def both(group: Group) -> None:
    """Fails where a gradient differs by a bit, or a request is not heard a step later by everyone."""
    for exact in (True, False):
        plain, silence = gradients(group, exact, [frozenset()] * len(WISHES))
        asked, heard = gradients(group, exact, WISHES)
        assert all(torch.equal(one, other) for one, other in zip(plain, asked, strict=True))
        assert silence == [set()] * len(WISHES)
        assert heard == [set(), *map(set, WISHES[:-1])]


def _worker(rank: int, store: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    both(Group(rank, 2))
    dist.destroy_process_group()


def test_gradients_have_the_same_bits_with_and_without_requests_on_one_worker():
    both(Group())


def test_gradients_have_the_same_bits_with_and_without_requests_on_two_workers(tmp_path: Path):
    mp.spawn(_worker, (f"file://{tmp_path}/store",), nprocs=2)


def test_a_request_that_was_done_is_dropped_and_others_stay():
    """Also where it was asked once more before it was done."""
    gradient_sum = GradientSum([nn.Parameter(torch.ones(2))], exact=True)
    requests = gradient_sum.requests
    requests.asked = frozenset({"checkpoint", "leave"})
    gradient_sum.close(Group(), 1)
    gradient_sum.close(Group(), 1)
    assert requests.heard == {"checkpoint", "leave"}
    requests.forget("checkpoint")
    assert requests.heard == {"leave"}
    gradient_sum.close(Group(), 1)
    assert requests.heard == {"leave"}
    gradient_sum.close(Group(), 1)
    assert requests.heard == {"checkpoint", "leave"}, "asked after it was done, so it counts"


@pytest.mark.parametrize("exact", [True, False])
def test_a_learner_makes_the_same_steps_whatever_is_asked(tiny, digits: Images, exact: bool):
    config = tiny({"train.exact": exact, "teacher.norm.kind": "momentum"})
    plain, asked = Learner(config, 1, 64, Group()), Learner(config, 1, 64, Group())
    asked.requests.asked = frozenset({"checkpoint", "leave"})
    for learner in (plain, asked):
        steps(learner, digits, 0, 3)
    assert asked.requests.heard and not plain.requests.heard
    one, other = plain.state_dict()[0], asked.state_dict()[0]
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
