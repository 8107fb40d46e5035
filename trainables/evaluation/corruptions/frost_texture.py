"""Frost on a window, computed: crystals that grow from random points, each a feather with its own direction.

It replaces the photographs of the published sets. Lengths are in pixels of these photographs.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.evaluation.corruptions.draws import Draws

CELL = 72.0  # pixels of a side of the squares that have a crystal each
BARBS = ((26.0, 0.5), (11.0, 0.3), (5.0, 0.2))  # distances between a feather's barbs, and their weights
PATCHES = ((150.0, 0.6), (50.0, 0.4))  # sizes of denser and thinner patches, and their weights
BENDS = ((60.0, 0.7), (17.0, 0.3))  # sizes of the waves that bend the crystals, and their weights
BENT = 22.0  # pixels that crystals are bent by, at most
GAMMAS = (1.3, 1.05, 0.9)  # of red, green and blue: thin frost is blue, thick frost is white


def crystals(draws: Draws, height: int, width: int, scale: float) -> Tensor:
    """Returns frost [N, 3, H, W] in [0, 1] for images in which a pixel is 1 / scale pixels of a photograph."""
    down, across = (
        (torch.arange(size, device=draws.samples.device) + 0.5).to(torch.float64) / scale for size in (height, width)
    )
    bends = BENT * (2 * _waves(draws, "bends", 2, down, across, BENDS) - 1)
    along, beside, gap, shade = _nearest(draws, down, across, bends)
    slanted = along - beside / math.sqrt(3)  # at 60 degrees, as ice grows
    barbs = sum(weight * _ridge(slanted / period) for period, weight in BARBS)
    thickness = (2 * _waves(draws, "patches", 1, down, across, PATCHES)[:, 0] - 0.5).clamp(0, 1)
    value = (
        0.12
        + thickness * (0.3 + 0.4 * shade + 0.8 * barbs**2)
        + 0.3 * torch.exp(-beside / 3)
        + 0.15 * torch.exp(-gap / 3)
    )
    return torch.stack([value.clamp(0, 1) ** gamma for gamma in GAMMAS], dim=1)


def _nearest(draws: Draws, down: Tensor, across: Tensor, bends: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns each pixel's place in its crystal, and the crystal's shade.

    The place is three lengths: along the crystal's rib, beside it, and how much farther away the next crystal is. A
    crystal starts at a random place of each square of a grid, so only a pixel's own square and its neighbours are
    searched.
    """
    rows, columns = ((line / CELL).to(torch.int64) for line in (down, across))
    seeds = draws.uniform("crystals", 4, int(rows[-1]) + 3, int(columns[-1]) + 3)
    best = second = None
    for shift_down in range(3):
        for shift_across in range(3):
            square = seeds.index_select(2, rows + shift_down).index_select(3, columns + shift_across)
            y = bends[:, 0] + down[:, None] - (rows[:, None] + shift_down - 1 + square[:, 0]) * CELL
            x = bends[:, 1] + across - (columns + shift_across - 1 + square[:, 1]) * CELL
            candidate = torch.stack([y**2 + x**2, y, x, square[:, 2], square[:, 3]])
            if best is None or second is None:
                best, second = candidate, torch.full_like(y, torch.inf)
                continue
            second = torch.minimum(second, torch.maximum(best[0], candidate[0]))
            best = torch.where(candidate[0] < best[0], candidate, best)
    assert best is not None and second is not None
    distance, y, x, angle, shade = best
    cosine, sine = torch.cos(2 * math.pi * angle), torch.sin(2 * math.pi * angle)
    return x * cosine + y * sine, (y * cosine - x * sine).abs(), second.sqrt() - distance.sqrt(), shade


def _ridge(phase: Tensor) -> Tensor:
    """Returns 1 at whole numbers and 0 half-way between them, with straight lines in between."""
    return (2 * (phase - phase.floor()) - 1).abs()


def _waves(
    draws: Draws, purpose: str, count: int, down: Tensor, across: Tensor, sizes: tuple[tuple[float, float], ...]
) -> Tensor:
    """Returns smooth noise [N, count, H, W] in [0, 1]: weighted random lattices, bilinear between their points."""
    total = torch.zeros((), dtype=torch.float64, device=draws.samples.device)
    for size, weight in sizes:
        lattice = draws.uniform(f"{purpose} {size:g}", count, int(down[-1] / size) + 2, int(across[-1] / size) + 2)
        rows, columns = (
            2 * line / (size * (points - 1)) - 1 for line, points in zip((down, across), lattice.shape[2:], strict=True)
        )
        grid = torch.stack([columns.expand(len(rows), -1), rows[:, None].expand(-1, len(columns))], dim=-1)
        total = total + weight * F.grid_sample(
            lattice, grid.expand(len(lattice), -1, -1, -1), mode="bilinear", align_corners=True
        )
    return total
