"""Snow, fog, frost and spatter: layers of random texture over the image."""

import torch
from torch import Tensor

from trainables.data.randaugment import GREY
from trainables.evaluation.corruptions import filters, frost_texture, liquid
from trainables.evaluation.corruptions.draws import Draws


def snow(
    x: Tensor,
    draws: Draws,
    mean: float,
    spread: float,
    zoom: float,
    threshold: float,
    radius: int,
    sigma: float,
    kept: float,
) -> Tensor:
    """Flakes, and a paler image under them.

    The flakes are normal numbers (`mean`, `spread`), enlarged by `zoom`; those below `threshold` are removed. They are
    blurred along a line that is 45 to 135 degrees from the horizontal (`radius`, `sigma`), and added twice: as they
    are, and turned by 180 degrees. A share of the image, 1 - `kept`, is replaced by the larger of itself and 1.5 grey +
    0.5.
    """
    flakes = mean + spread * draws.normal("flakes", 1, *x.shape[2:])
    flakes = filters.zoomed(flakes, zoom)
    flakes = filters.cut(torch.where(flakes < threshold, 0, flakes).clamp(0, 1))
    flakes = filters.motion(flakes, 90 * draws.uniform("angle", 1)[:, 0] - 135, radius, sigma)
    pale = torch.maximum(x, 1.5 * _grey(x) + 0.5)
    return kept * x + (1 - kept) * pale + flakes + flakes.flip(-2, -1)


def fog(x: Tensor, draws: Draws, strength: float, decay: float) -> Tensor:
    """The image plus `strength` times a plasma fractal in [0, 1].

    The sum is scaled so that it can just reach the brightest value of the image.
    """
    height, width = x.shape[-2:]
    brightest = x.amax((1, 2, 3), keepdim=True)
    side = 1 << (max(height, width) - 1).bit_length()  # 32 for images of 32 pixels, 256 for images of 224, as published
    haze = plasma(draws, side, decay)[:, None, :height, :width]
    return (x + strength * haze) * brightest / (brightest + strength)


def frost(x: Tensor, draws: Draws, kept: float, strength: float, scale: float) -> Tensor:
    """kept x + strength frost, with the published weights, but not the published frost.

    The published frost is cut from five photographs, which this project cannot ship. Here crystals are computed
    (`trainables.evaluation.corruptions.frost_texture`) in pixels of such photographs, which `scale` shrinks. So scores
    of this type can be compared only between runs of this project.
    """
    ice = frost_texture.crystals(draws, x.shape[2], x.shape[3], scale)
    return kept * x + strength * (ice if x.shape[1] == 3 else _grey(ice))


def spatter(
    x: Tensor, draws: Draws, mean: float, spread: float, sigma: float, threshold: float, strength: float, mud: int
) -> Tensor:
    """Drops of water that catch the light at their rims, or splashes of mud.

    The liquid is normal numbers (`mean`, `spread`), blurred by `sigma` and set to 0 below `threshold`. `strength` is
    the brightness of water, or the sigma that softens the rims of mud.
    """
    layer = mean + spread * draws.normal("liquid", 1, *x.shape[2:])
    layer = filters.gaussian(layer, sigma)
    layer = torch.where(layer < threshold, 0, layer)
    if mud:
        cover = filters.gaussian((layer > threshold).to(x), strength)
        cover = torch.where(cover < 0.8, 0, cover)
        return x * (1 - cover) + cover * _colour(x, 63, 42, 20)
    light = liquid.light(filters.cut(layer))
    brightest = light.amax((1, 2, 3), keepdim=True)
    return x + strength * light / torch.where(brightest > 0, brightest, 1) * _colour(x, 175, 238, 238)


def plasma(draws: Draws, side: int, decay: float) -> Tensor:
    """Returns a height map [N, side, side] in [0, 1], made by the diamond-square algorithm on a torus.

    The side is a power of two. A point is the mean of four neighbours plus uniform noise, whose amplitude is 100^2 at
    first and falls by decay^2 each time that the grid is halved.
    """
    noise = 2 * draws.uniform("plasma", side * side - 1) - 1
    field = noise.new_zeros(len(noise), side, side)
    step, amplitude, used = side, 100.0, 0
    while step > 1:
        half, points = step // 2, (side // step) ** 2
        added = noise[:, used : used + 3 * points].view(-1, 3, side // step, side // step) * amplitude**2
        corners = field[:, ::step, ::step]
        right = corners + corners.roll(-1, 2)
        middles = (right + right.roll(-1, 1)) / 4 + added[:, 0]
        field[:, half::step, half::step] = middles
        field[:, ::step, half::step] = (right + middles + middles.roll(1, 1)) / 4 + added[:, 1]
        field[:, half::step, ::step] = (corners + corners.roll(-1, 1) + middles + middles.roll(1, 2)) / 4 + added[:, 2]
        step, amplitude, used = half, amplitude / decay, used + 3 * points
    field -= field.amin((1, 2), keepdim=True)
    return field / field.amax((1, 2), keepdim=True)


def _grey(x: Tensor) -> Tensor:
    if x.shape[1] == 1:
        return x
    return (x * torch.tensor(GREY, dtype=x.dtype, device=x.device)[:, None, None]).sum(1, keepdim=True)


def _colour(x: Tensor, *channels: int) -> Tensor:
    """Returns a colour in 255ths, or its grey value for grey images: [1, C, 1, 1]."""
    colour = torch.tensor(channels, dtype=x.dtype, device=x.device)[None, :, None, None] / 255
    return colour if x.shape[1] == 3 else _grey(colour)
