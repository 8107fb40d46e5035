"""The corruption set: published parameters, what each type does to pixels, laws of keyed randomness, sheet and scores."""

import colorsys
import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from sklearn.datasets import load_sample_images
from torch import Tensor

from trainables import corruptions
from trainables.corruptions import ALL, HELD_OUT, LEVELS, SEVERITIES, __main__, blur, corrupt, digital, filters, liquid, noise, weather
from trainables.corruptions.draws import Draws
from trainables.data import Images
from trainables.errors import UserError
from trainables.evaluation import corruptions as robustness
from trainables.group import Group

KINDS = ALL + HELD_OUT
TABLES = ("cifar", "imagenet")
SIDES = {"cifar": 32, "imagenet": 64}
STEP = 1 / 255


def photographs(side: int) -> Tensor:
    """Twelve squares of two photographs, float32 [12, 3, side, side] in whole 255ths."""
    squares = []
    for photograph in load_sample_images().images:
        picture = Image.fromarray(photograph)
        for left, top, size in ((0, 0, 427), (213, 0, 427), (100, 0, 300), (300, 100, 300), (50, 200, 227), (400, 200, 227)):
            squares.append(np.array(picture.resize((side, side), Image.Resampling.BOX, (left, top, left + size, top + size))))
    return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).contiguous() / 255


@pytest.fixture(scope="module")
def natural() -> dict[str, Tensor]:
    return {table: photographs(side) for table, side in SIDES.items()}


def plain(value: float, count: int = 8, side: int = 64) -> Tensor:
    return torch.full((count, 3, side, side), round(255 * value) / 255, dtype=torch.float64)


def draws(count: int, *key: int | str) -> Draws:
    return Draws(torch.arange(count), (0, *key))


def changes(images: Tensor, kind: str, levels: str) -> list[Tensor]:
    """What each severity changes, in float64."""
    samples = torch.arange(len(images))
    return [(corrupt(images, samples, kind, s, levels) - images).double() for s in SEVERITIES]


# ---------------------------------------------------------------------------------------------------------------- the published levels


def test_the_types_are_those_of_the_paper_in_its_order():
    assert " ".join(ALL) == (
        "gaussian_noise shot_noise impulse_noise defocus_blur glass_blur motion_blur zoom_blur "
        "snow frost fog brightness contrast elastic_transform pixelate jpeg_compression"
    )
    assert HELD_OUT == ("speckle_noise", "gaussian_blur", "spatter", "saturate")
    assert all(tuple(LEVELS[table]) and set(LEVELS[table]) == set(KINDS) for table in TABLES)
    assert all(len(levels) == 5 for table in TABLES for levels in LEVELS[table].values())


def test_levels_are_the_published_ones():
    """Typed out a second time, a list for each number of a level; elastic_transform as published: factors of the side, 32 and 244."""
    published = {
        "cifar": {
            "gaussian_noise": [".04 .06 .08 .09 .1"],
            "shot_noise": ["500 250 100 75 50"],
            "impulse_noise": [".01 .02 .03 .05 .07"],
            "defocus_blur": [".3 .4 .5 1 1.5", ".4 .5 .6 .2 .1"],
            "glass_blur": [".05 .25 .4 .25 .4", "1 1 1 1 1", "1 1 1 2 2"],
            "motion_blur": ["6 6 6 8 9", "1 1.5 2 2 2.5"],
            "zoom_blur": ["1.06 1.11 1.16 1.21 1.26", ".01 .01 .01 .01 .01"],
            "snow": [
                ".1 .1 .15 .25 .3",
                ".2 .2 .3 .3 .3",
                "1 1 1.75 2.25 1.25",
                ".6 .5 .55 .6 .65",
                "8 10 10 12 14",
                "3 4 4 6 12",
                ".95 .9 .9 .85 .8",
            ],
            "frost": ["1 1 .9 .85 .75", ".2 .3 .4 .4 .45", ".2 .2 .2 .2 .2"],
            "fog": [".2 .5 .75 1 1.5", "3 3 2.5 2 1.75"],
            "brightness": [".05 .1 .15 .2 .3"],
            "contrast": [".75 .5 .4 .3 .15"],
            "pixelate": [".95 .9 .85 .75 .65"],
            "jpeg_compression": ["80 65 58 50 40"],
            "speckle_noise": [".06 .1 .12 .16 .2"],
            "gaussian_blur": [".4 .6 .7 .8 1"],
            "spatter": [".62 .65 .65 .65 .65", ".1 .1 .3 .1 .1", ".7 .8 1 .7 .5", ".7 .7 .69 .69 .68", ".5 .5 .5 .6 .6", "0 0 0 1 1"],
            "saturate": [".3 .1 1.5 2 2.5", "0 0 0 .1 .2"],
        },
        "imagenet": {
            "gaussian_noise": [".08 .12 .18 .26 .38"],
            "shot_noise": ["60 25 12 5 3"],
            "impulse_noise": [".03 .06 .09 .17 .27"],
            "defocus_blur": ["3 4 6 8 10", ".1 .5 .5 .5 .5"],
            "glass_blur": [".7 .9 1 1.1 1.5", "1 2 2 3 4", "2 1 3 2 2"],
            "motion_blur": ["10 15 15 15 20", "3 5 8 12 15"],
            "zoom_blur": ["1.11 1.16 1.21 1.26 1.31", ".01 .01 .02 .02 .03"],
            "snow": [
                ".1 .2 .55 .55 .55",
                ".3 .3 .3 .3 .3",
                "3 2 4 4.5 2.5",
                ".5 .5 .9 .85 .85",
                "10 12 12 12 12",
                "4 4 8 8 12",
                ".8 .7 .7 .65 .55",
            ],
            "frost": ["1 .8 .7 .65 .6", ".4 .6 .7 .7 .75", "1 1 1 1 1"],
            "fog": ["1.5 2 2.5 2.5 3", "2 2 1.7 1.5 1.4"],
            "brightness": [".1 .2 .3 .4 .5"],
            "contrast": [".4 .3 .2 .1 .05"],
            "pixelate": [".6 .5 .4 .3 .25"],
            "jpeg_compression": ["25 18 15 10 7"],
            "speckle_noise": [".15 .2 .35 .45 .6"],
            "gaussian_blur": ["1 2 3 4 6"],
            "spatter": [".65 .65 .65 .65 .67", ".3 .3 .3 .3 .4", "4 3 2 1 1", ".69 .68 .68 .65 .65", ".6 .6 .5 1.5 1.5", "0 0 0 1 1"],
            "saturate": [".3 .1 2 5 20", "0 0 0 .1 .2"],
        },
    }
    for table, rows in published.items():
        for kind, columns in rows.items():
            expected = list(zip(*([float(v) for v in column.split()] for column in columns), strict=True))
            found = [level if isinstance(level, tuple) else (level,) for level in LEVELS[table][kind]]
            assert found == expected, (table, kind)
        assert set(LEVELS[table]) - set(rows) == {"elastic_transform"}
    factors = {
        ("cifar", 32.0, 32): ["0 .05 .08 .1 .1", "0 .2 .06 .04 .03", ".08 .07 .06 .05 .03"],
        ("imagenet", 244.0, 224): ["2 2 .05 .07 .12", ".7 .08 .01 .01 .01", ".1 .2 .02 .02 .02"],
    }
    for (table, times, side), columns in factors.items():
        rows = zip(*([float(v) for v in column.split()] for column in columns), strict=True)
        assert LEVELS[table]["elastic_transform"] == tuple((*(pytest.approx(times * v) for v in row), side) for row in rows)


# Severities at which the published levels themselves make the change smaller, of its mean size and of its spread, and why.
FALLS: dict[tuple[str, str], tuple[set[int], set[int]]] = {
    ("cifar", "glass_blur"): ({2, 3, 5}, {2, 3, 5}),  # the same shuffling, of an image that is blurred more
    ("imagenet", "glass_blur"): ({2, 4}, {2, 4}),  # 2 rounds become 1, and 3 become 2
    ("cifar", "elastic_transform"): ({2, 3, 4, 5}, {2, 3, 4, 5}),  # a weaker and weaker affine map; what grows is how rough the waves are
    ("imagenet", "elastic_transform"): ({3}, {3}),  # the affine map is a tenth as strong
    ("cifar", "frost"): ({5}, set()),  # a tenth less of the image, and only a twentieth more of the frost
    ("imagenet", "frost"): ({5}, set()),
    ("imagenet", "snow"): ({3}, {5}),  # more flakes, but a higher threshold: as much snow; then flakes of about half the size
    ("cifar", "spatter"): ({4}, set()),  # water gives way to mud
    ("imagenet", "spatter"): ({4}, set()),
    ("cifar", "saturate"): ({3}, {3}),  # colours are taken away, then too many are given
    ("imagenet", "saturate"): ({3}, {3}),
}


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_change_of_pixels_grows_with_severity(natural, kind, table):
    """Mean of the absolute change and standard deviation of the change, over photographs; many for fog, of which no two are alike."""
    images = natural[table].repeat(8 if kind == "fog" else 2, 1, 1, 1)
    found = changes(images, kind, table)
    sizes, spreads = [c.abs().mean().item() for c in found], [c.std().item() for c in found]
    for values, falls in zip((sizes, spreads), FALLS.get((table, kind), (set(), set())), strict=True):
        assert {s for s in (2, 3, 4, 5) if values[s - 1] <= values[s - 2]} <= falls, values
        assert min(values) > STEP / 2


# ------------------------------------------------------------------------------------------------- what is measured, against the formula


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
    rows = [colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*pixel))) for pixel in images.permute(0, 2, 3, 1).reshape(-1, 3).tolist()]
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
            found = (255 * corrupt(images, torch.arange(2), kind, severity, table)).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
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


# --------------------------------------------------------------------------------------------------------- against other implementations


@pytest.mark.parametrize("size", [(32, 32), (9, 14)])
@pytest.mark.parametrize(
    ("sigma", "truncate", "edge"), [(0.4, 4, "nearest"), (2.3, 4, "nearest"), (6.0, 3, "reflect"), (25.0, 3, "reflect")]
)
def test_gaussian_blur_equals_scipy(rng, size, sigma, truncate, edge):
    x = torch.rand(2, 1, *size, generator=rng, dtype=torch.float64)
    expected = np.stack([ndimage.gaussian_filter(one[0], sigma, mode=edge, truncate=truncate) for one in x.numpy()])[:, None]
    torch.testing.assert_close(filters.gaussian(x, sigma, truncate, edge), torch.from_numpy(expected))


@pytest.mark.parametrize("level", [*LEVELS["cifar"]["defocus_blur"], *LEVELS["imagenet"]["defocus_blur"]])
def test_defocus_blur_is_the_mean_over_a_soft_disk(rng, level):
    """Kernel and sum by scipy, both mirrored at their edges: so the kernel of a disk that fills its window adds up to more than 1."""
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
        torch.testing.assert_close(filters.zoomed(x, factor)[0, 0], torch.from_numpy(large[trim : trim + size, trim : trim + size]))


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


@pytest.mark.parametrize(("sigma", "reach", "rounds"), [LEVELS["cifar"]["glass_blur"][4], *LEVELS["imagenet"]["glass_blur"]])
def test_glass_blur_equals_the_published_loop(natural, sigma, reach, rounds):
    """One pixel after the other, in memory: so the swap of two views of an array copies."""
    x = natural["cifar"][:2].double()
    found = blur.glass_blur(x, draws(2), sigma, reach, rounds)
    for index in range(2):
        image = np.ascontiguousarray(filters.cut(filters.gaussian(x[index : index + 1], sigma))[0].permute(1, 2, 0).numpy())
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
    expected = np.stack([ndimage.distance_transform_edt(~one[0]) if one.any() else np.full((30, 41), 20.0) for one in edges.numpy()])
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
    """Black shows the frost, and what an image adds to that is its own weight; the frost differs, and is cold and not flat."""
    x = natural[table].double()
    for kept, strength, scale in LEVELS[table]["frost"][1:4:2]:
        ice = weather.frost(torch.zeros_like(x), draws(12), kept, strength, scale) / strength
        torch.testing.assert_close(weather.frost(x, draws(12), kept, strength, scale), kept * x + strength * ice)
        assert ice.min() >= 0 and ice.max() <= 1 and 0.35 < ice.mean() < 0.6 and (ice.std((2, 3)) > 0.05).all()
        assert (ice[:, 2] >= ice[:, 0]).all() and not torch.equal(ice[0], ice[1])


# ------------------------------------------------------------------------------------------------------------------------------ the laws


WITHOUT_CHANCE = ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression", "gaussian_blur", "saturate")


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_has_its_own_numbers_in_any_batch_type_and_order(natural, kind, monkeypatch):
    """Bit for bit, also where the batch is worked off in other pieces, and without a number from a global stream."""
    state = torch.get_rng_state()
    images, samples, chosen = natural["cifar"][:5], torch.arange(5) + 7, torch.tensor([4, 1, 1])
    for table in TABLES:
        whole = corrupt(images, samples, kind, 3, table, seed=2)
        assert whole.dtype == torch.float32 and whole.shape == images.shape and whole.min() >= 0 and whole.max() <= 1
        assert torch.equal((255 * whole).round() / 255, whole)
        assert torch.equal(corrupt(images[chosen], samples[chosen], kind, 3, table, seed=2), whole[chosen])
        with monkeypatch.context() as patched:
            patched.setitem(corruptions._AT_ONCE, "cpu", 1)
            turned = images.contiguous(memory_format=torch.channels_last)
            assert torch.equal(corrupt(turned, samples, kind, 3, table, seed=2), whole)
        double = corrupt(images.double(), samples, kind, 3, table, seed=2)
        assert double.dtype == torch.float64 and torch.equal(double.float(), whole)
        others = corrupt(images, samples, kind, 3, table, seed=3), corrupt(images, samples + 1, kind, 3, table, seed=2)
        assert all(torch.equal(other, whole) == (kind in WITHOUT_CHANCE) for other in others)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(8, 8), (9, 13)])
def test_small_and_grey_images(natural, kind, size):
    """Grey images are those of three equal channels where a type neither has colours nor a number for each channel."""
    grey = natural["cifar"][:3, :1, : size[0], : size[1]]
    samples = torch.arange(3)
    for table in TABLES:
        for severity in SEVERITIES:
            found = corrupt(grey, samples, kind, severity, table)
            assert found.shape == grey.shape and found.isfinite().all() and found.min() >= 0 and found.max() <= 1
            colour = corrupt(grey.expand(-1, 3, -1, -1), samples, kind, severity, table)
            assert colour.shape[1] == 3 and colour.isfinite().all()
            if not kind.endswith("_noise") and kind not in ("frost", "spatter", "saturate", "jpeg_compression"):
                assert (colour - found).abs().max() < 1.5 * STEP
            if kind == "saturate":
                assert torch.equal(found, grey)


def test_black_and_white_images_come_out_finite():
    for value in (0.0, 1.0):
        for kind in KINDS:
            for severity in (1, 5):
                assert corrupt(plain(value, 1, 16), torch.zeros(1, dtype=torch.int64), kind, severity).isfinite().all()


@pytest.mark.parametrize(
    ("shape", "values", "words"),
    [
        ((1, 3, 32, 32), {"kind": "frosty"}, "kind = 'frosty': no such corruption; did you mean 'frost'?"),
        ((1, 3, 32, 32), {"severity": 6}, "severity = 6: must be a whole number from 1 to 5"),
        ((1, 3, 32, 32), {"levels": "imagnet"}, "levels = 'imagnet': no such table of levels; did you mean 'imagenet'?"),
        ((1, 3, 7, 32), {}, "images of 7 x 32 pixels and 3 channels"),
        ((1, 2, 32, 32), {}, "2 channels"),
    ],
)
def test_errors_of_the_user(shape, values, words):
    with pytest.raises(UserError) as raised:
        corrupt(torch.zeros(shape), torch.zeros(1, dtype=torch.int64), **{"kind": "fog", "severity": 1, **values})
    assert words in str(raised.value)


# ----------------------------------------------------------------------------------------------------------------------------- the sheet


@pytest.mark.parametrize(("table", "side"), [("cifar", 32), ("imagenet", 48)])
def test_the_sheet_of_all_75_is_rendered(tmp_path, table, side, capsys):
    file = tmp_path / "sheet.png"
    arguments = [str(file), "--levels", table, *([] if side == 32 else ["--side", str(side)])]
    assert __main__.main(arguments) == 0 and "15 types" in capsys.readouterr().out
    picture = Image.open(file)
    times = 96 // side
    pitch = times * side + __main__.GAP
    assert picture.size == (__main__.MARGIN + 6 * pitch, 15 * pitch)
    pixels = torch.from_numpy(np.array(picture))[:, __main__.MARGIN :].view(15, pitch, 6, pitch, 3)
    tiles = pixels.permute(0, 2, 4, 1, 3)[..., : -__main__.GAP : times, : -__main__.GAP : times]
    original = __main__.read(None, side)
    assert tiles.shape == (15, 6, 3, side, side)
    assert torch.equal(tiles[:, 0], (255 * original).round().to(torch.uint8).expand(15, -1, -1, -1))
    for row, kind in enumerate(ALL):
        for severity in SEVERITIES:
            expected = corrupt(original[None], torch.zeros(1, dtype=torch.int64), kind, severity, table)[0]
            assert torch.equal(tiles[row, severity], (255 * expected).round().to(torch.uint8)), (kind, severity)
            assert not torch.equal(tiles[row, severity], tiles[row, 0]), (kind, severity)


def test_a_sheet_of_an_own_image_and_its_errors(tmp_path, capsys):
    own = tmp_path / "own.png"
    Image.fromarray(np.arange(40 * 20 * 3, dtype=np.uint8).reshape(20, 40, 3)).save(own)
    assert __main__.main([str(tmp_path / "a.PNG"), "--image", str(own), "--held-out", "--side", "10"]) == 0
    assert Image.open(tmp_path / "a.PNG").size[1] == 19 * (90 + __main__.GAP)
    (tmp_path / "text.png").write_text("no image")
    capsys.readouterr()
    wrong = {
        "levels = 'cifr'": ["a.png", "--levels", "cifr"],
        "must end in .png": ["a.jpg"],
        "cannot be written": ["nowhere/a.png"],
        "cannot be read": ["a.png", "--image", str(tmp_path / "none.png")],
        "is not an image": ["a.png", "--image", str(tmp_path / "text.png")],
        "8 pixels a side": ["a.png", "--side", "7"],
        "'x': must be a whole number": ["a.png", "--side", "x"],
        "unrecognized arguments: --severity": ["a.png", "--severity"],
    }
    for words, (name, *others) in wrong.items():
        assert __main__.main([str(tmp_path / name), *others]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1 and words in error
    assert __main__.main([]) == 2 and "required: sheet" in capsys.readouterr().err
    assert not (tmp_path / "a.jpg").exists()


# ---------------------------------------------------------------------------------------------------------------------------- the scores


def split() -> Images:
    """Eleven photographs, of which seven are of class 1, stored in another order."""
    pixels = (255 * photographs(16)).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    return Images(pixels, torch.tensor([3, 0, 1, 2, 4, 5, 7, 6, 8, 9, 11]), torch.tensor([0, 1] * 3 + [1] * 4 + [0]))


def predict(x: Tensor) -> Tensor:
    """Class 1 for what has much contrast."""
    spread = x.std((1, 2, 3))
    return torch.stack([spread.new_full((len(x),), 0.24), spread], dim=1)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_scores_are_those_of_a_plain_loop_on_any_number_of_workers(together, workers):
    images = split()
    seen: list[int] = []

    def counted(x: Tensor) -> Tensor:
        seen.append(len(x))
        return predict(x)

    tables = together([lambda rank=rank: robustness.evaluate(counted, images, 3, Group(rank, workers), seed=4) for rank in range(workers)])
    assert all(table == tables[0] for table in tables)
    assert sorted(seen) == sorted([3, 3, 3, 2] * 76)
    found, everyone = tables[0], torch.arange(11)
    x = images.batch(everyone, torch.device("cpu"), torch.float32)
    top1 = {"clean": (predict(x).argmax(1) == images.labels).double().mean().item()}
    for kind in ALL:
        for s in SEVERITIES:
            top1[kind, s] = (predict(corrupt(x, everyone, kind, s, seed=4)).argmax(1) == images.labels).double().mean().item()
            assert found[f"corruptions/{kind}/{s}"] == pytest.approx(top1[kind, s])
        assert found[f"corruptions/{kind}"] == pytest.approx(sum(top1[kind, s] for s in SEVERITIES) / 5)
    for s in SEVERITIES:
        assert found[f"corruptions/severity_{s}"] == pytest.approx(sum(top1[kind, s] for kind in ALL) / 15)
    assert found["clean_top1"] == pytest.approx(top1.pop("clean"))
    assert found["corruptions/mean"] == pytest.approx(sum(top1.values()) / 75)
    assert len(found) == 75 + 15 + 5 + 2 and len(set(found.values())) > 4


def test_held_out_types_are_scored_when_asked_and_stay_out_of_the_means():
    images = split()
    few, all_of_them = (robustness.evaluate(predict, images, 11, Group(), "imagenet", held_out=held_out) for held_out in (False, True))
    extra = {f"corruptions/{kind}{cell}" for kind in HELD_OUT for cell in ("", *(f"/{s}" for s in SEVERITIES))}
    assert all_of_them.keys() - few.keys() == extra and {key: all_of_them[key] for key in few} == few
    assert few != robustness.evaluate(predict, images, 11, Group(), "cifar")
    with pytest.raises(UserError, match="no such table of levels"):
        robustness.evaluate(predict, images, 11, Group(), "cifar10")


def test_the_difference_of_two_tables():
    first, second = {"clean_top1": 0.5, "corruptions/fog/1": 0.25}, {"corruptions/fog/1": 0.75, "clean_top1": 0.5}
    assert robustness.difference(first, second) == {"clean_top1": 0.0, "corruptions/fog/1": 0.5}
    with pytest.raises(UserError, match="corruptions/frost/1: is a score of the second table alone"):
        robustness.difference(first, {**second, "corruptions/frost/1": 0.5})
