"""SGD and LARS against their formulas, written as loops in float64."""

import pytest
import torch
from torch import nn

from trainables.config import trial as c
from trainables.learning import optim


def make(config: c.Optim) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2)).double()
    return module, optim.build(config, module)


def gradients(module: nn.Module, step: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in module.parameters()]


def run(module: nn.Module, optimizer: torch.optim.Optimizer, steps: int, lr: float, decay: float) -> None:
    for step in range(steps):
        optim.schedule(optimizer, lr / (step + 1), decay)
        for p, g in zip(module.parameters(), gradients(module, step), strict=True):
            p.grad = g
        optimizer.step()


def test_sgd_decays_and_moves_every_parameter():
    module, optimizer = make(c.Optim(lr=c.LearningRate(base=0.1), momentum=0.8))
    w = [p.detach().clone() for p in module.parameters()]
    buffers = [torch.zeros_like(p) for p in w]
    for step in range(4):
        for i, g in enumerate(gradients(module, step)):
            buffers[i] = 0.8 * buffers[i] + g + 0.01 * w[i]
            w[i] = w[i] - 0.1 / (step + 1) * buffers[i]
    run(module, optimizer, 4, 0.1, 0.01)
    for p, expected in zip(module.parameters(), w, strict=True):
        torch.testing.assert_close(p.detach(), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("decay", [0.0, 1e-2])
@pytest.mark.parametrize("inside", [True, False])
def test_lars_scales_matrices_and_leaves_vectors_alone(decay, inside):
    """While the learning rate falls to a quarter: inside of the buffer it is that of each gradient's own step."""
    module, optimizer = make(c.Optim(name="lars", lr=c.LearningRate(base=0.3), momentum=0.9, lr_in_buffer=inside))
    w = [p.detach().clone().flatten().tolist() for p in module.parameters()]
    matrix = [p.ndim > 1 for p in module.parameters()]
    buffers = [[0.0] * len(values) for values in w]
    for step in range(4):
        for i, gradient in enumerate(gradients(module, step)):
            g = gradient.flatten().tolist()
            size = sum(x * x for x in w[i]) ** 0.5
            below = sum(x * x for x in g) ** 0.5 + decay * size
            trust = 1e-3 * size / below if matrix[i] and size > 0 and below > 0 else 1.0
            for j in range(len(g)):
                d = (g[j] + (decay * w[i][j] if matrix[i] else 0.0)) * trust
                lr = 0.3 / (step + 1)
                buffers[i][j] = 0.9 * buffers[i][j] + (lr * d if inside else d)
                w[i][j] -= buffers[i][j] if inside else lr * buffers[i][j]
    run(module, optimizer, 4, 0.3, decay)
    for p, expected in zip(module.parameters(), w, strict=True):
        torch.testing.assert_close(
            p.detach().flatten(), torch.tensor(expected, dtype=torch.float64), rtol=1e-11, atol=1e-13
        )


def test_where_the_learning_rate_of_lars_counts_matters_only_while_it_changes():
    """Ten steps at one rate, then five at a tenth of it. By default it counts in the buffer, as You et al. have it."""
    ways: list[list[torch.Tensor]] = []
    for given in ({}, {"lr_in_buffer": True}, {"lr_in_buffer": False}):
        module, optimizer = make(c.Optim(name="lars", lr=c.LearningRate(base=0.3), **given))
        begin, path = [p.detach().clone() for p in module.parameters()], []
        for step in range(15):
            optim.schedule(optimizer, 0.3 if step < 10 else 0.03, 0.0)
            for p, g in zip(module.parameters(), gradients(module, step), strict=True):
                p.grad = g
            optimizer.step()
            path.append(
                torch.cat([(p.detach() - b).flatten() for p, b in zip(module.parameters(), begin, strict=True)])
            )
        ways.append(path)
    default, inside, outside = ways
    assert all(torch.equal(a, b) for a, b in zip(default, inside, strict=True))
    torch.testing.assert_close(inside[9], outside[9], rtol=1e-11, atol=1e-13)
    apart = (inside[14] - inside[9]).norm() / (outside[14] - outside[9]).norm()
    assert apart > 2, "the rate of the past goes on in the buffer"


@pytest.mark.parametrize("decay", [0.0, 1e-2])
def test_invariant_57_lars_with_zero_gradient_or_zero_weight_is_finite(decay):
    """Fails when the local rate is the bare quotient."""
    zero, still, both = (nn.Parameter(t) for t in (torch.zeros(2, 2), torch.ones(2, 2), torch.zeros(2, 2)))
    optimizer = optim.LARS([zero, still, both], lr=0.5, momentum=0.9, weight_decay=decay)
    zero.grad, still.grad, both.grad = torch.ones(2, 2), torch.zeros(2, 2), torch.zeros(2, 2)
    optimizer.step()
    torch.testing.assert_close(zero.detach(), torch.full((2, 2), -0.5))  # a local rate of 1
    torch.testing.assert_close(
        still.detach(), torch.full((2, 2), 1 - 0.5 * 1e-3 if decay else 1.0)
    )  # trust |w| / (decay |w|), times decay w
    assert torch.equal(both.detach(), torch.zeros(2, 2))


def test_lars_passes_over_parameters_without_a_gradient():
    used, unused = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimizer = optim.LARS([used, unused], lr=0.5)
    used.grad = torch.ones(2, 2)
    optimizer.step()
    assert torch.equal(unused.detach(), torch.ones(2, 2)) and not torch.equal(used.detach(), torch.ones(2, 2))


def test_every_parameter_is_in_one_group():
    module, optimizer = make(c.Optim(name="lars"))
    optim.schedule(optimizer, 0.3, 0.1)
    groups = optimizer.param_groups
    assert sorted(id(p) for group in groups for p in group["params"]) == sorted(id(p) for p in module.parameters())
    assert [(group["adapt"], group["weight_decay"]) for group in groups] == [(True, 0.1), (False, 0.0)]


@pytest.mark.parametrize("kind", ["sgd", "lars"])
def test_a_restored_optimiser_goes_on_in_the_memory_format_of_its_parameters(kind: str) -> None:
    config = c.Optim.model_validate({"name": kind, "momentum": 0.9})
    (module, optimizer), (other, restored) = make(config), make(config)
    for each in (module, other):
        each[0].weight.data = each[0].weight.data.contiguous(memory_format=torch.channels_last)
    run(module, optimizer, 2, 0.1, 0.01)
    state = optim.state_of(optimizer, module)
    assert "optimizer.0.weight.momentum_buffer" in state
    contiguous = {key: value.clone(memory_format=torch.contiguous_format) for key, value in state.items()}
    other.load_state_dict(module.state_dict())
    optim.restore(restored, other, {**contiguous, "student.0.weight": torch.zeros(1)})
    again = optim.state_of(restored, other)
    assert again.keys() == state.keys()
    strides = {name: parameter.stride() for name, parameter in other.named_parameters()}
    for key, value in state.items():
        name = key.removeprefix("optimizer.").removesuffix(".momentum_buffer")
        assert torch.equal(again[key], value) and again[key].stride() == strides[name], key
    assert strides["0.weight"] != (18, 9, 3, 1), "channels last"
