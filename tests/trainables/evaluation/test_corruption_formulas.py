"""Corruptions one by one: measured on known pixels, against their formulas, and against other implementations."""

import colorsys
import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor

from trainables.evaluation.corruptions import blur, digital, filters, liquid, noise, weather
from trainables.evaluation.corruptions.catalogue import LEVELS, SEVERITIES, corrupt
from trainables.evaluation.corruptions.draws import Draws

TABLES = ("cifar", "imagenet")
STEP = 1 / 255


def plain(value: float, count: int = 8, side: int = 64) -> Tensor:
    return torch.full((count, 3, side, side), round(255 * value) / 255, dtype=torch.float64)


def draws(count: int, *key: int | str) -> Draws:
    return Draws(torch.arange(count), (0, *key))


# -------------------------------------------------------------------------------- what is measured, against the formula


def clipped_normal(mean: float, sigma: float) -> tuple[float, float]:
    """Mean and standard deviation of a normal number that is cut off at 0 and 1, by a sum."""
    z = np.linspace(-8, 8, 200_001)
    weights = np.exp(-z * z / 2)
    x = np.clip(mean + sigma * z, 0, 1)
    first = (weights * x).sum() / weights.sum()
    return first, math.sqrt((weights * (x - first) ** 2).sum() / weights.sum())


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("kind", ["gaussian_noise", "speckle_noise"])
def test_normal_noise_has_the_published_sigma(kind, table):
    """Of what is cut off at 0 and 1, and half a step darker for being cut to 8 bits."""
    images = plain(0.4)
    for severity, sigma in enumerate(LEVELS[table][kind], start=1):
        found = corrupt(images, torch.arange(len(images)), kind, severity, table)
        mean, spread = clipped_normal(0.4, sigma * (0.4 if kind == "speckle_noise" else 1))
        assert found.mean().item() == pytest.approx(mean - STEP / 2, abs=5 * spread / found.numel() ** 0.5 + STEP / 10)
        assert found.std().item() == pytest.approx(spread, rel=0.01)


@pytest.mark.parametrize("table", TABLES)
def test_impulse_noise_has_the_published_share_of_salt_and_pepper(table):
    images = plain(0.4)
    for severity, share in enumerate(LEVELS[table]["impulse_noise"], start=1):
        found = corrupt(images, torch.arange(len(images)), "impulse_noise", severity, table)
        for value in (0, 1):
            bound = 5 * (share / 2 / found.numel()) ** 0.5
            assert (found == value).double().mean().item() == pytest.approx(share / 2, abs=bound)
        assert ((found == images) | (found == 0) | (found == 1)).all()


@pytest.mark.parametrize("rate", [*LEVELS["cifar"]["shot_noise"], *LEVELS["imagenet"]["shot_noise"]])
@pytest.mark.parametrize("value", [1 / 255, 0.2, 1.0])
def test_shot_noise_has_mean_x_and_variance_x_over_lambda(rate, value):
    images = plain(value, count=4)
    x = images[0, 0, 0, 0].item()
    found = noise.shot_noise(images, draws(4, rate), rate)
    count, variance = found.numel(), x / rate
    assert found.mean().item() == pytest.approx(x, abs=5 * (variance / count) ** 0.5)
    fourth = variance / rate**2 + 3 * variance**2  # central moment of Poisson / rate
    assert found.var().item() == pytest.approx(variance, abs=5 * ((fourth - variance**2) / count) ** 0.5)


def test_shot_noise_has_poissons_distribution():
    """Shares of each count against the probabilities, and black stays black."""
    rate, x = 5.0, 204 / 255
    counts = (noise.shot_noise(plain(x), draws(8), rate) * rate).round()
    total = counts.numel()
    for k in range(14):
        chance = math.exp(-rate * x) * (rate * x) ** k / math.factorial(k)
        assert (counts == k).double().mean().item() == pytest.approx(chance, abs=5 * (chance / total) ** 0.5)
    assert not noise.shot_noise(plain(0.0), draws(8), rate).any()


def hsv(images: Tensor, change: object) -> Tensor:
    """Each pixel's HSV changed by a plain loop."""
    rows = [
        colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*pixel)))
        for pixel in images.permute(0, 2, 3, 1).reshape(-1, 3).tolist()
    ]
    return torch.tensor(rows, dtype=torch.float64).view(len(images), *images.shape[2:], 3).permute(0, 3, 1, 2)


@pytest.mark.parametrize("table", TABLES)
def test_brightness_and_saturate_change_one_number_of_hsv(natural, table):
    images = natural["cifar"][::5, :, ::3, ::3].double()
    images[0, :, 0, :2] = torch.tensor([[0.0, 0.6]]).expand(3, -1)  # black and grey have no hue
    for shift in LEVELS[table]["brightness"]:
        expected = hsv(images, lambda h, s, v, shift=shift: (h, s, min(v + shift, 1)))
        torch.testing.assert_close(digital.brightness(images, draws(3), shift), expected)
    for factor, shift in LEVELS[table]["saturate"]:
        expected = hsv(images, lambda h, s, v, factor=factor, shift=shift: (h, min(s * factor + shift, 1), v))
        torch.testing.assert_close(digital.saturate(images, draws(3), factor, shift), expected)


@pytest.mark.parametrize("table", TABLES)
def test_contrast_shrinks_the_spread_and_keeps_the_mean(natural, table):
    images = natural["cifar"].double()
    for severity, factor in enumerate(LEVELS[table]["contrast"], start=1):
        found = corrupt(images, torch.arange(len(images)), "contrast", severity, table)
        assert (found.mean((2, 3)) - images.mean((2, 3))).abs().max() < STEP
        torch.testing.assert_close(found.std((2, 3)), factor * images.std((2, 3)), rtol=0.03, atol=STEP / 3)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("channels", [1, 3])
def test_pixelate_and_jpeg_equal_pillow(natural, table, channels):
    images = natural[table][:2, :channels]
    pixels = (255 * images).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    for severity in SEVERITIES:
        share, quality = (LEVELS[table][kind][severity - 1] for kind in ("pixelate", "jpeg_compression"))
        for kind in ("pixelate", "jpeg_compression"):
            found = (
                (255 * corrupt(images, torch.arange(2), kind, severity, table))
                .round()
                .to(torch.uint8)
                .permute(0, 2, 3, 1)
                .numpy()
            )
            for index, array in enumerate(pixels):
                picture = Image.fromarray(array if channels == 3 else array[..., 0])
                if kind == "pixelate":
                    small = picture.resize([int(side * share) for side in picture.size], Image.Resampling.BOX)
                    expected = np.array(small.resize(picture.size, Image.Resampling.BOX))
                else:
                    file = io.BytesIO()
                    picture.save(file, "JPEG", quality=quality)
                    expected = np.array(Image.open(file))
                assert np.array_equal(found[index].reshape(expected.shape), expected)


# ---------------------------------------------------------------------------------------- against other implementations


@pytest.mark.parametrize("size", [(32, 32), (9, 14)])
@pytest.mark.parametrize(
    ("sigma", "truncate", "edge"), [(0.4, 4, "nearest"), (2.3, 4, "nearest"), (6.0, 3, "reflect"), (25.0, 3, "reflect")]
)
def test_gaussian_blur_equals_scipy(rng, size, sigma, truncate, edge):
    x = torch.rand(2, 1, *size, generator=rng, dtype=torch.float64)
    expected = np.stack([ndimage.gaussian_filter(one[0], sigma, mode=edge, truncate=truncate) for one in x.numpy()])[
        :, None
    ]
    torch.testing.assert_close(filters.gaussian(x, sigma, truncate, edge), torch.from_numpy(expected))


@pytest.mark.parametrize("level", [*LEVELS["cifar"]["defocus_blur"], *LEVELS["imagenet"]["defocus_blur"]])
def test_defocus_blur_is_the_mean_over_a_soft_disk(rng, level):
    """Kernel and sum by scipy, both mirrored at their edges, so a disk as large as its window sums to over 1."""
    radius, alias = level
    window = 8 if radius <= 8 else radius
    at = np.arange(-window, window + 1)
    kernel = (at[:, None] ** 2 + at**2 <= radius**2).astype(float)
    kernel /= kernel.sum()
    half = 1 if radius <= 8 else 2
    soft = np.exp(-(np.arange(-half, half + 1) ** 2) / (2 * alias**2))
    for axis in (0, 1):
        kernel = ndimage.correlate1d(kernel, soft / soft.sum(), axis, mode="mirror")
    x = torch.rand(1, 2, 24, 31, generator=rng, dtype=torch.float64)
    expected = np.stack([ndimage.correlate(one, kernel, mode="mirror") for one in x[0].numpy()])
    torch.testing.assert_close(blur.defocus_blur(x, draws(1), radius, alias)[0], torch.from_numpy(expected.clip(0, 1)))


@pytest.mark.parametrize("factor", [1.0, 1.01, 1.17, 1.75, 2.25, 4.5])
def test_the_zoom_equals_scipys(rng, factor):
    for size in (32, 33, 96):
        x = torch.rand(1, 1, size, size, generator=rng, dtype=torch.float64)
        crop = math.ceil(size / factor)
        top = (size - crop) // 2
        large = ndimage.zoom(x[0, 0, top : top + crop, top : top + crop].numpy(), factor, order=1)
        trim = (len(large) - size) // 2
        torch.testing.assert_close(
            filters.zoomed(x, factor)[0, 0], torch.from_numpy(large[trim : trim + size, trim : trim + size])
        )


def test_zoom_blur_counts_its_enlargements_as_numpy_does(natural):
    """Whether the end of a range belongs to it hangs on the rounding of its ends."""
    for stop, step in (*LEVELS["cifar"]["zoom_blur"], *LEVELS["imagenet"]["zoom_blur"]):
        expected = np.arange(1, stop, step)
        x = natural["cifar"][:1].double()
        mean = (x + sum(filters.zoomed(x, float(factor)) for factor in expected)) / (len(expected) + 1)
        torch.testing.assert_close(blur.zoom_blur(x, draws(1), stop, step), mean)


def test_motion_blur_equals_a_plain_loop(rng):
    x = torch.rand(3, 2, 9, 12, generator=rng, dtype=torch.float64)
    angles, radius, sigma = [-45.0, 10.0, -110.0], 3, 2.0
    found = filters.motion(x, torch.tensor(angles, dtype=torch.float64), radius, sigma)
    weights = [math.exp(-(step**2) / (2 * sigma**2)) for step in range(2 * radius + 1)]
    for index, angle in enumerate(angles):
        for row in range(9):
            for column in range(12):
                total = 0.0
                for step, weight in enumerate(weights):
                    down, across = (math.ceil(step * way(math.radians(angle)) - 0.5) for way in (math.sin, math.cos))
                    total += weight * x[index, 1, min(max(row + down, 0), 8), min(max(column + across, 0), 11)].item()
                assert found[index, 1, row, column].item() == pytest.approx(round(255 * total / sum(weights)) / 255)


@pytest.mark.parametrize(
    ("sigma", "reach", "rounds"), [LEVELS["cifar"]["glass_blur"][4], *LEVELS["imagenet"]["glass_blur"]]
)
def test_glass_blur_equals_the_published_loop(natural, sigma, reach, rounds):
    """One pixel after the other, in memory: so the swap of two views of an array copies."""
    x = natural["cifar"][:2].double()
    found = blur.glass_blur(x, draws(2), sigma, reach, rounds)
    for index in range(2):
        image = np.ascontiguousarray(
            filters.cut(filters.gaussian(x[index : index + 1], sigma))[0].permute(1, 2, 0).numpy()
        )
        for turn in range(rounds):
            ways = np.floor(draws(2).uniform(f"round {turn}", 2, 32, 32)[index].numpy() * 2 * reach).astype(int) - reach
            for row in range(32 - reach, reach, -1):
                for column in range(32 - reach, reach, -1):
                    down, across = ways[:, row, column]
                    there = (row + down, column + across)
                    image[row, column], image[there] = image[there], image[row, column]
        expected = filters.gaussian(torch.from_numpy(image).permute(2, 0, 1)[None], sigma)
        torch.testing.assert_close(found[index : index + 1], expected)


def test_plasma_equals_a_plain_loop():
    side, decay = 8, 1.7
    numbers = (2 * draws(1).uniform("plasma", side * side - 1)[0] - 1).tolist()
    field, step, size = [[0.0] * side for _ in range(side)], side, 100.0
    while step > 1:
        half, cells = step // 2, side // step
        for kind, (up, left) in enumerate([(half, half), (0, half), (half, 0)]):
            around = (
                [(-half, -half), (-half, half), (half, -half), (half, half)]
                if kind == 0
                else [(-half, 0), (half, 0), (0, -half), (0, half)]
            )
            for i in range(cells):
                for j in range(cells):
                    row, column = i * step + up, j * step + left
                    mean = sum(field[(row + a) % side][(column + b) % side] for a, b in around) / 4
                    field[row][column] = mean + size * size * numbers[kind * cells**2 + i * cells + j]
        numbers, step, size = numbers[3 * cells**2 :], half, size / decay
    expected = torch.tensor(field, dtype=torch.float64)
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    torch.testing.assert_close(weather.plasma(draws(1), side, decay)[0], expected)


def test_fog_keeps_the_brightest_value_in_reach(natural):
    x = natural["cifar"].double() * 0.5
    for strength, decay in LEVELS["cifar"]["fog"]:
        found = weather.fog(x, draws(12), strength, decay)
        haze = weather.plasma(draws(12), 32, decay)[:, None]
        top = x.amax((1, 2, 3), keepdim=True)
        torch.testing.assert_close(found, (x + strength * haze) * top / (top + strength))
        assert (found <= top + 1e-12).all() and haze.amin() == 0 and haze.amax() == 1


def test_an_elastic_transform_equals_scipys_resampling(natural):
    """The affine map by its three points, mirrored at the edges, then the displacement, reflected there."""
    x = natural["cifar"][:2, :1].double()
    strength, sigma, spread, side = LEVELS["cifar"]["elastic_transform"][2]
    found = digital.elastic_transform(x, draws(2), strength, sigma, spread, side)
    corners = np.array([[26, 26], [26, 6], [6, 6]], float)  # as (x, y)
    rows, columns = np.mgrid[:32, :32].astype(float)
    for index in range(2):
        moved = corners + spread * (2 * draws(2).uniform("affine", 3, 2)[index].numpy() - 1)
        back = np.linalg.lstsq(np.c_[moved, np.ones(3)], corners, rcond=None)[0]
        assert np.allclose(np.c_[moved, np.ones(3)] @ back, corners)
        across, down = (back[0, axis] * columns + back[1, axis] * rows + back[2, axis] for axis in (0, 1))
        image = ndimage.map_coordinates(x[index, 0].numpy(), (down, across), order=1, mode="mirror")
        waves = 2 * draws(2).uniform("displacement", 2, 32, 32)[index].numpy() - 1
        across, down = (strength * ndimage.gaussian_filter(wave, sigma, mode="reflect", truncate=3) for wave in waves)
        image = ndimage.map_coordinates(image, (rows + down, columns + across), order=1, mode="reflect")
        torch.testing.assert_close(found[index, 0], torch.from_numpy(image))


def test_lengths_of_the_elastic_transform_are_in_proportion_to_the_image(natural):
    """Twice the pixels, the same smooth picture: the same map."""
    x = natural["cifar"][:2].double()
    large = torch.nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    small, big = (digital.elastic_transform(images, draws(2), 0.0, 0.0, 2.56, 32) for images in (x, large))
    again = torch.nn.functional.avg_pool2d(big, 2)
    assert (again - small).abs().mean() < 0.5 * (x - small).abs().mean()


def test_the_light_in_water_is_made_of_edges_distances_and_an_even_histogram(rng):
    edges = torch.rand(3, 1, 30, 41, generator=rng) < 0.01
    edges[2] = False
    expected = np.stack(
        [ndimage.distance_transform_edt(~one[0]) if one.any() else np.full((30, 41), 20.0) for one in edges.numpy()]
    )
    torch.testing.assert_close(liquid._distance(edges)[:, 0], torch.from_numpy(expected.clip(max=20)))
    square = torch.zeros(1, 1, 16, 16, dtype=torch.float64)
    square[..., 5:11, 5:11] = 200
    rim = liquid._edges(square)[0, 0]
    assert rim[6:10, 6:10].sum() == 0 and rim.any(0)[5:11].all() and rim.any(1)[5:11].all()
    assert not liquid._edges(square / 200).any()  # too weak
    grey = torch.tensor([[[[10.0, 10.0, 20.0, 90.0]]], [[[7.0, 7.0, 7.0, 7.0]]]], dtype=torch.float64)
    assert liquid._equalised(grey).flatten().tolist() == [0, 0, 128, 255, 7, 7, 7, 7]


def test_mud_and_water_have_their_colours_and_cover_a_part(natural):
    white = torch.ones(12, 3, 32, 32)
    mud = corrupt(white, torch.arange(12), "spatter", 4)
    darkest = mud.flatten(2).min(2).values.min(0).values * 255
    assert (darkest - torch.tensor([63.0, 42.0, 20.0])).abs().max() < 15 and 0.01 < (mud < 1).float().mean() < 0.5
    water = corrupt(torch.zeros(12, 3, 32, 32), torch.arange(12), "spatter", 3).flatten(2).amax(2)
    assert (water * 255 - 0.5 * torch.tensor([175.0, 238.0, 238.0])).abs().max() < 2


def test_snow_is_paler_and_has_flakes(natural):
    x = natural["cifar"].double()
    mean, spread, zoom, threshold, radius, sigma, kept = LEVELS["cifar"]["snow"][3]
    found = weather.snow(x, draws(12), mean, spread, zoom, threshold, radius, sigma, kept)
    grey = (x * torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)[:, None, None]).sum(1, keepdim=True)
    flakes = found - kept * x - (1 - kept) * torch.maximum(x, 1.5 * grey + 0.5)
    torch.testing.assert_close(flakes, flakes.flip(-2, -1))
    torch.testing.assert_close(flakes[:, :1].expand_as(flakes), flakes)
    assert flakes.min() > -1e-9 and flakes.mean() > 0.01


@pytest.mark.parametrize("table", TABLES)
def test_frost_has_the_published_weights(natural, table):
    """Black shows the frost alone; an image adds its weight. Frosts differ, and are cold and not flat."""
    x = natural[table].double()
    for kept, strength, scale in LEVELS[table]["frost"][1:4:2]:
        ice = weather.frost(torch.zeros_like(x), draws(12), kept, strength, scale) / strength
        torch.testing.assert_close(weather.frost(x, draws(12), kept, strength, scale), kept * x + strength * ice)
        assert ice.min() >= 0 and ice.max() <= 1 and 0.35 < ice.mean() < 0.6 and (ice.std((2, 3)) > 0.05).all()
        assert (ice[:, 2] >= ice[:, 0]).all() and not torch.equal(ice[0], ice[1])
