"""The corruption set: published parameters, laws of keyed randomness, sheet and scores."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.trainables.pictures import photographs
from trainables.config.errors import UserError
from trainables.data.images import Images
from trainables.evaluation.corruptions import __main__, catalogue
from trainables.evaluation.corruptions.catalogue import ALL, HELD_OUT, LEVELS, SEVERITIES, corrupt
from trainables.evaluation.protocols import corruptions as robustness
from trainables.networks.group import Group

KINDS = ALL + HELD_OUT
TABLES = ("cifar", "imagenet")
STEP = 1 / 255


def changes(images: Tensor, kind: str, levels: str) -> list[Tensor]:
    """What each severity changes, in float64."""
    samples = torch.arange(len(images))
    return [(corrupt(images, samples, kind, s, levels) - images).double() for s in SEVERITIES]


# ------------------------------------------------------------------------------------------------- the published levels


def test_the_types_are_those_of_the_paper_in_its_order():
    assert " ".join(ALL) == (
        "gaussian_noise shot_noise impulse_noise defocus_blur glass_blur motion_blur zoom_blur "
        "snow frost fog brightness contrast elastic_transform pixelate jpeg_compression"
    )
    assert HELD_OUT == ("speckle_noise", "gaussian_blur", "spatter", "saturate")
    assert all(tuple(LEVELS[table]) and set(LEVELS[table]) == set(KINDS) for table in TABLES)
    assert all(len(levels) == 5 for table in TABLES for levels in LEVELS[table].values())


def test_levels_are_the_published_ones():
    """Typed a second time, a list for each number of a level; elastic_transform by factors of 32 and 244."""
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
            "spatter": [
                ".62 .65 .65 .65 .65",
                ".1 .1 .3 .1 .1",
                ".7 .8 1 .7 .5",
                ".7 .7 .69 .69 .68",
                ".5 .5 .5 .6 .6",
                "0 0 0 1 1",
            ],
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
            "spatter": [
                ".65 .65 .65 .65 .67",
                ".3 .3 .3 .3 .4",
                "4 3 2 1 1",
                ".69 .68 .68 .65 .65",
                ".6 .6 .5 1.5 1.5",
                "0 0 0 1 1",
            ],
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
        assert LEVELS[table]["elastic_transform"] == tuple(
            (*(pytest.approx(times * v) for v in row), side) for row in rows
        )


# Severities at which the published levels make the change smaller, in mean size and in spread, and why.
FALLS: dict[tuple[str, str], tuple[set[int], set[int]]] = {
    ("cifar", "glass_blur"): ({2, 3, 5}, {2, 3, 5}),  # the same shuffling, of an image that is blurred more
    ("imagenet", "glass_blur"): ({2, 4}, {2, 4}),  # 2 rounds become 1, and 3 become 2
    ("cifar", "elastic_transform"): (
        {2, 3, 4, 5},
        {2, 3, 4, 5},
    ),  # a weaker and weaker affine map; what grows is how rough the waves are
    ("imagenet", "elastic_transform"): ({3}, {3}),  # the affine map is a tenth as strong
    ("cifar", "frost"): ({5}, set()),  # a tenth less of the image, and only a twentieth more of the frost
    ("imagenet", "frost"): ({5}, set()),
    ("imagenet", "snow"): (
        {3},
        {5},
    ),  # more flakes, but a higher threshold: as much snow; then flakes of about half the size
    ("cifar", "spatter"): ({4}, set()),  # water gives way to mud
    ("imagenet", "spatter"): ({4}, set()),
    ("cifar", "saturate"): ({3}, {3}),  # colours are taken away, then too many are given
    ("imagenet", "saturate"): ({3}, {3}),
}


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_change_of_pixels_grows_with_severity(natural, kind, table):
    """Mean absolute change, and its standard deviation, over photographs; over many for fog, which varies a lot."""
    images = natural[table].repeat(8 if kind == "fog" else 2, 1, 1, 1)
    found = changes(images, kind, table)
    sizes, spreads = [c.abs().mean().item() for c in found], [c.std().item() for c in found]
    for values, falls in zip((sizes, spreads), FALLS.get((table, kind), (set(), set())), strict=True):
        assert {s for s in (2, 3, 4, 5) if values[s - 1] <= values[s - 2]} <= falls, values
        assert min(values) > STEP / 2


# ------------------------------------------------------------------------------------------------------------- the laws


WITHOUT_CHANCE = (
    "defocus_blur",
    "zoom_blur",
    "brightness",
    "contrast",
    "pixelate",
    "jpeg_compression",
    "gaussian_blur",
    "saturate",
)


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
            patched.setitem(catalogue._AT_ONCE, "cpu", 1)
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
        image = torch.full((1, 3, 16, 16), value, dtype=torch.float64)
        for kind in KINDS:
            for severity in (1, 5):
                assert corrupt(image, torch.zeros(1, dtype=torch.int64), kind, severity).isfinite().all()


@pytest.mark.parametrize(
    ("shape", "values", "words"),
    [
        ((1, 3, 32, 32), {"kind": "frosty"}, "kind = 'frosty': no such corruption; did you mean 'frost'?"),
        ((1, 3, 32, 32), {"severity": 6}, "severity = 6: must be a whole number from 1 to 5"),
        (
            (1, 3, 32, 32),
            {"levels": "imagnet"},
            "levels = 'imagnet': no such table of levels; did you mean 'imagenet'?",
        ),
        ((1, 3, 7, 32), {}, "images of 7 x 32 pixels and 3 channels"),
        ((1, 2, 32, 32), {}, "2 channels"),
    ],
)
def test_errors_of_the_user(shape, values, words):
    with pytest.raises(UserError) as raised:
        corrupt(torch.zeros(shape), torch.zeros(1, dtype=torch.int64), **{"kind": "fog", "severity": 1, **values})
    assert words in str(raised.value)


# ------------------------------------------------------------------------------------------------------------ the sheet


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


# ----------------------------------------------------------------------------------------------------------- the scores


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

    tables = together(
        [
            lambda rank=rank: robustness.evaluate(counted, images, 3, Group(rank, workers), seed=4)
            for rank in range(workers)
        ]
    )
    assert all(table == tables[0] for table in tables)
    assert sorted(seen) == sorted([3, 3, 3, 2] * 76)
    found, everyone = tables[0], torch.arange(11)
    x = images.batch(everyone, torch.device("cpu"), torch.float32)
    top1 = {"clean": (predict(x).argmax(1) == images.labels).double().mean().item()}
    for kind in ALL:
        for s in SEVERITIES:
            top1[kind, s] = (
                (predict(corrupt(x, everyone, kind, s, seed=4)).argmax(1) == images.labels).double().mean().item()
            )
            assert found[f"corruptions/{kind}/{s}"] == pytest.approx(top1[kind, s])
        assert found[f"corruptions/{kind}"] == pytest.approx(sum(top1[kind, s] for s in SEVERITIES) / 5)
    for s in SEVERITIES:
        assert found[f"corruptions/severity_{s}"] == pytest.approx(sum(top1[kind, s] for kind in ALL) / 15)
    assert found["clean_top1"] == pytest.approx(top1.pop("clean"))
    assert found["corruptions/mean"] == pytest.approx(sum(top1.values()) / 75)
    assert len(found) == 75 + 15 + 5 + 2 and len(set(found.values())) > 4


def test_held_out_types_are_scored_when_asked_and_stay_out_of_the_means():
    images = split()
    few, all_of_them = (
        robustness.evaluate(predict, images, 11, Group(), "imagenet", held_out=held_out) for held_out in (False, True)
    )
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
