"""Views: what each setting does to an image, and that nothing but the image's own keys decides."""

import math

import pytest
import torch
from torch import Tensor

from trainables.config import trial as c
from trainables.data import augment, keyed

STILL = {
    "crop_scale": (1.0, 1.0),
    "crop_ratio": (1.0, 1.0),
    "turn": 0.0,
    "flip": 0.0,
    "jitter": 0.0,
    "gray": 0.0,
    "blur": (0.0, 0.0),
    "solarise": (0.0, 0.0),
    "noise": 0.0,
}
EVERYTHING = c.Views(turn=15, blur=(1.0, 0.5), solarise=(0.2, 0.2), noise=0.1)
GREY = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64).view(3, 1, 1)


def settings(**values: object) -> c.Views:
    return c.Views(**{**STILL, **values})  # type: ignore[arg-type]


def pictures(count: int = 6, channels: int = 3, height: int = 12, width: int = 12, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, height, width, generator=generator, dtype=torch.float64)


def plain(view: Tensor) -> Tensor:
    """Undoes the standardisation."""
    mean, std = (
        torch.tensor(v, dtype=view.dtype).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    if view.shape[-3] == 1:
        mean, std = mean.mean(), std.mean()
    return view * std + mean


def seen(images: Tensor, config: c.Views, count: int = 2, key: tuple[int, ...] = (0, 0)) -> Tensor:
    """Views in [0, 1], [count, N, C, H, W], of images 0, 1, 2, ..."""
    return plain(torch.stack(augment.views(images, torch.arange(len(images)), ["full"] * count, config, *key)))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_view_depends_on_its_own_sample_alone(channels, dtype):
    images, samples = pictures(8, channels).to(dtype), torch.tensor([5, 900, 3, 4, 1, 70, 8, 2])
    whole = torch.stack(augment.views(images, samples, ("full", "full"), EVERYTHING, 1, 7))
    chosen = torch.tensor([6, 0, 3])
    some = torch.stack(augment.views(images[chosen], samples[chosen], ("full", "full"), EVERYTHING, 1, 7))
    assert torch.equal(some, whole[:, chosen])
    one = torch.stack(augment.views(images[6:7], samples[6:7], ("full", "full"), EVERYTHING, 1, 7))
    assert torch.equal(one, whole[:, 6:7])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 12)])
def test_without_any_setting_an_image_is_only_standardised(channels, height, width):
    images = pictures(4, channels, height, width)
    for view in augment.views(images, torch.arange(4), ("full", "full"), settings(), 0, 0):
        torch.testing.assert_close(view, augment.standardise(images), rtol=0, atol=1e-12)


def test_standardise_uses_imagenets_constants():
    images = pictures(2)
    expected = (images - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(
        3, 1, 1
    )
    torch.testing.assert_close(augment.standardise(images), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        augment.standardise(images[:, :1]), (images[:, :1] - 0.449) / 0.226, rtol=1e-6, atol=1e-6
    )


def test_flip_mirrors_left_and_right():
    images = pictures(40)
    for view in seen(images, settings(flip=1.0)):
        torch.testing.assert_close(view, images.flip(3), rtol=0, atol=1e-12)
    for view in seen(images, settings(flip=0.5)):
        mirrored = [torch.allclose(a, b.flip(2)) for a, b in zip(view, images, strict=True)]
        assert 8 < sum(mirrored) < 32
        assert all(torch.allclose(a, b.flip(2) if m else b) for a, b, m in zip(view, images, mirrored, strict=True))


def test_views_epochs_and_seeds_differ_and_repeat():
    images = pictures(2)
    made = [seen(images, EVERYTHING, key=key) for key in ((0, 0), (0, 1), (1, 0))]
    assert torch.equal(made[0], seen(images, EVERYTHING, key=(0, 0)))
    every = [view for views in made for view in views]
    assert not any(torch.allclose(a, b) for i, a in enumerate(every) for b in every[:i])


def read(image: list[list[float]], x: float, y: float) -> float:
    """Bilinear, with coordinates of pixel centres, mirrored at the border of the image."""
    height, width = len(image), len(image[0])
    x, y = (
        2 * size - 1 - at if at > size - 0.5 else -1 - at if at < -0.5 else at for at, size in ((x, width), (y, height))
    )
    x, y = min(max(x, 0.0), width - 1.0), min(max(y, 0.0), height - 1.0)
    left, top = min(int(x), width - 2), min(int(y), height - 2)
    a, b = x - left, y - top
    upper = (1 - a) * image[top][left] + a * image[top][left + 1]
    lower = (1 - a) * image[top + 1][left] + a * image[top + 1][left + 1]
    return (1 - b) * upper + b * lower


@pytest.mark.parametrize(("turn", "scale"), [(0.0, (0.2, 1.0)), (40.0, (0.2, 0.9)), (15.0, (1.0, 1.0))])
def test_crop_turn_and_flip_against_plain_geometry(turn, scale):
    """In pixels, on an image that is not square: a box somewhere inside, turned about its centre."""
    height, width, images = 6, 9, pictures(5, 1, 6, 9)
    found = seen(images, settings(crop_scale=scale, crop_ratio=(0.75, 4 / 3), turn=turn, flip=0.5), count=2)
    for view in range(2):
        draws = keyed.uniform(torch.arange(5), 16, 0, 0, f"view {view}", dtype=torch.float64).tolist()
        for sample, (area, ratio, across, down, angle, flip, *_) in enumerate(draws):
            area = scale[0] + (scale[1] - scale[0]) * area
            ratio = math.exp(math.log(0.75) + (math.log(4 / 3) - math.log(0.75)) * ratio)
            box_w, box_h = min(math.sqrt(area * ratio), 1) * width, min(math.sqrt(area / ratio), 1) * height
            centre_x, centre_y = box_w / 2 + (width - box_w) * across, box_h / 2 + (height - box_h) * down
            angle, image = math.radians(turn) * (2 * angle - 1), images[sample, 0].tolist()
            for i in range(height):
                for j in range(width):
                    x, y = (
                        ((j + 0.5) / width - 0.5) * box_w * (-1 if flip < 0.5 else 1),
                        ((i + 0.5) / height - 0.5) * box_h,
                    )
                    x, y = (
                        centre_x + math.cos(angle) * x - math.sin(angle) * y,
                        centre_y + math.sin(angle) * x + math.cos(angle) * y,
                    )
                    assert found[view, sample, 0, i, j].item() == pytest.approx(read(image, x - 0.5, y - 0.5), abs=1e-9)


def test_brightness_contrast_and_saturation_against_their_formulas():
    images = pictures(8)
    draws = keyed.uniform(torch.arange(8), 16, 0, 0, "view 0", dtype=torch.float64)
    still = {"jitter": 1.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    found = {
        name: seen(images, settings(**{**still, name: 0.4}), 1)[0] for name in ("brightness", "contrast", "saturation")
    }
    for i, image in enumerate(images):
        factors = [1 + 0.4 * (2 * draws[i, 7 + j].item() - 1) for j in range(3)]
        grey = (image * GREY).sum(0, keepdim=True)
        expected = {
            "brightness": image * factors[0],
            "contrast": grey.mean() + (image - grey.mean()) * factors[1],
            "saturation": grey + (image - grey) * factors[2],
        }
        for name, value in expected.items():
            torch.testing.assert_close(found[name][i], value.clamp(0, 1), rtol=0, atol=1e-9)
    assert (draws[:, 7:10] - 0.5).abs().min() > 1e-3  # so that every factor does something


def test_a_turn_of_hue_keeps_luma_and_the_strength_of_colour():
    images = 0.45 + 0.1 * pictures(8)  # far from the borders, so that nothing is clamped
    view = seen(images, settings(jitter=1.0, brightness=0, contrast=0, saturation=0, hue=0.5), 1)[0]
    torch.testing.assert_close((view * GREY).sum(1), (images * GREY).sum(1), rtol=0, atol=1e-9)
    matrix = torch.tensor(augment.YIQ[1:], dtype=torch.float64)
    before, after = (torch.einsum("ij,njhw->nihw", matrix, x) for x in (images, view))
    torch.testing.assert_close(after.norm(dim=1), before.norm(dim=1), rtol=0, atol=1e-9)
    turned = torch.atan2(after[:, 1], after[:, 0]) - torch.atan2(before[:, 1], before[:, 0])
    turned = torch.remainder(turned + math.pi, 2 * math.pi) - math.pi
    expected = (
        2 * math.pi * 0.5 * (2 * keyed.uniform(torch.arange(8), 16, 0, 0, "view 0", dtype=torch.float64)[:, 10] - 1)
    )
    torch.testing.assert_close(turned, expected.view(8, 1, 1).expand_as(turned), rtol=0, atol=1e-6)


def test_grey_views_have_equal_channels_of_the_same_luma():
    images = pictures()
    view = seen(images, settings(gray=1.0), 1)[0]
    torch.testing.assert_close(view, (images * GREY).sum(1, keepdim=True).expand_as(images), rtol=0, atol=1e-9)


def test_solarise_turns_the_bright_half_around():
    images = pictures()
    first, second = seen(images, settings(solarise=(0.0, 1.0)))
    torch.testing.assert_close(first, images, rtol=0, atol=1e-9)
    torch.testing.assert_close(second, torch.where(images >= 0.5, 1 - images, images), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("setting", "p"), [("jitter", 0.3), ("gray", 0.2), ("flip", 0.5)])
def test_probabilities(setting, p):
    images = pictures(1).expand(600, -1, -1, -1)
    view = seen(images, settings(**{setting: p}), 1)[0]
    changed = (view - images).abs().amax((1, 2, 3)) > 1e-6
    assert abs(changed.double().mean().item() - p) < 5 * (p * (1 - p) / 600) ** 0.5


def test_blur_keeps_constants_and_smooths_the_rest():
    flat = torch.full((3, 3, 20, 20), 0.3, dtype=torch.float64)
    torch.testing.assert_close(seen(flat, settings(blur=(1.0, 1.0)))[0], flat, rtol=0, atol=1e-12)
    images = pictures(4, 3, 48, 48)
    sharp, soft = seen(images, settings(blur=(0.0, 1.0)))
    torch.testing.assert_close(sharp, images, rtol=0, atol=1e-9)
    assert (soft.var((2, 3)) <= images.var((2, 3)) + 1e-12).all() and not torch.allclose(soft, images)
    torch.testing.assert_close(soft.mean((2, 3)), images.mean((2, 3)), rtol=0, atol=0.01)


def test_blur_against_a_plain_kernel():
    image = pictures(1, 1, 64, 64)
    sigma = (
        (0.1 + 1.9 * keyed.uniform(torch.arange(1), 16, 0, 0, "view 0", dtype=torch.float64)[0, 13].item()) * 64 / 224
    )
    sigma, radius = max(sigma, 0.1), 3
    kernel = [math.exp(-(d**2) / (2 * sigma**2)) for d in range(-radius, radius + 1)]
    kernel = [value / sum(kernel) for value in kernel]
    found = seen(image, settings(blur=(1.0, 0.0)), 1)[0, 0, 0]
    for i, j in ((0, 0), (1, 62), (30, 31), (63, 5)):
        expected = 0.0
        for a, across in enumerate(kernel):
            for b, down in enumerate(kernel):
                y, x = (63 - abs(63 - abs(at)) for at in (i + b - radius, j + a - radius))
                expected += across * down * image[0, 0, y, x].item()
        assert found[i, j].item() == pytest.approx(expected, abs=1e-9)


def test_noise_is_normal_and_its_own_in_each_view_and_pixel():
    images = torch.full((40, 3, 16, 16), 0.5, dtype=torch.float64)
    noise = (seen(images, settings(noise=0.2)) - 0.5) / 0.2
    count = noise.numel()
    assert abs(noise.mean().item()) < 5 / count**0.5
    assert noise.var().item() == pytest.approx(1, abs=5 * (2 / count) ** 0.5)
    assert noise.pow(4).mean().item() == pytest.approx(3, abs=5 * (96 / count) ** 0.5)
    flat = noise.flatten(2)
    pairs = {
        "views": (flat[0], flat[1]),
        "samples": (flat[:, 1:], flat[:, :-1]),
        "pixels": (flat[..., 1:], flat[..., :-1]),
    }
    for a, b in pairs.values():
        assert abs((a * b).mean().item()) < 5 / a.numel() ** 0.5


def test_views_of_everything_but_noise_stay_in_range():
    for channels in (1, 3):
        view = seen(pictures(50, channels), EVERYTHING.model_copy(update={"noise": 0.0}))
        assert view.min() >= -1e-9 and view.max() <= 1 + 1e-9 and view.isfinite().all()
