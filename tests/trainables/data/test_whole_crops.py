"""Images that are scored at 256/224 of their size, and crops of whole images: against PIL and the plain formulas."""

import io
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.trainables.pictures import encoded, numbered, picture, write_folders, write_parquets
from trainables.config import trial as c
from trainables.config.base import ViewKind
from trainables.data import augment, files
from trainables.data import images as data
from trainables.data.pictures import Pictures
from trainables.running import fit as train

CPU = torch.device("cpu")


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content)).convert("RGB")


@pytest.mark.parametrize(("height", "width"), [(20, 31), (31, 20), (14, 14), (16, 16), (40, 16)])
def test_the_shorter_side_is_resized_and_then_the_centre_is_cut_out(height: int, width: int) -> None:
    content = encoded(picture(1, height, width))
    scale = 16 / min(height, width)
    size = (max(16, round(width * scale)), max(16, round(height * scale)))
    whole = opened(content).resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - 14) // 2, (size[1] - 14) // 2
    expected = np.asarray(whole.crop((left, top, left + 14, top + 14)))
    assert np.array_equal(files.decode(content, 14, "here", 16), expected)
    plain = files.decode(content, 14, "here")
    assert np.array_equal(plain, files.decode(content, 14, "here", 14)) and not np.array_equal(plain, expected)


@pytest.mark.parametrize("name", ["imagefolder", "parquet"])
@pytest.mark.parametrize("streamed", [False, True])
def test_all_scored_images_are_resized_so(tmp_path: Path, name: str, streamed: bool) -> None:
    root = tmp_path / name
    write_folders(root, 24) if name == "imagefolder" else write_parquets(root, [24], 5)
    plain = c.Data(name=name, root=root, image_size=6, validation_images=6, streamed=streamed)
    resized = plain.model_copy(update={"resize": 7})
    for split in ("test", "validation", "bank"):
        before, after = data.load(plain, split), data.load(resized, split)
        every = torch.arange(len(after))
        first, second = (images.batch(every, CPU, torch.float64) for images in (before, after))
        assert torch.equal(before.rows, after.rows) and first.shape == second.shape == (len(every), 3, 6, 6)
        assert not torch.equal(first, second)
    if name == "parquet":
        images = data.load(resized, "validation")
        expected = np.stack([files.decode(numbered(int(row)), 6, "", 7) for row in images.rows])
        found = images.batch(torch.arange(6), CPU, torch.float64).permute(0, 2, 3, 1) * 255
        assert np.array_equal(found.round().numpy().astype(np.uint8), expected)


def plain_box(tries: list[tuple[float, float]], width: int, height: int, views: c.Views) -> tuple[float, float]:
    """torchvision's RandomResizedCrop.get_params, without rounding to pixels: width and height as shares."""
    for area_draw, ratio_draw in tries:
        area = width * height * (views.crop_scale[0] + area_draw * (views.crop_scale[1] - views.crop_scale[0]))
        low, high = map(math.log, views.crop_ratio)
        ratio = math.exp(low + ratio_draw * (high - low))
        w, h = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if w <= width and h <= height:
            return w / width, h / height
    if width / height < views.crop_ratio[0]:
        return 1.0, width / views.crop_ratio[0] / height
    if width / height > views.crop_ratio[1]:
        return height * views.crop_ratio[1] / width, 1.0
    return 1.0, 1.0


@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.9, 1.0)])
def test_boxes_of_whole_images_are_those_of_random_resized_crop(scale: tuple[float, float]) -> None:
    views = c.Views(crop_scale=scale)
    sizes = [(500, 375), (375, 500), (100, 100), (900, 100), (100, 900), (640, 480)] * 40
    tries = torch.rand(len(sizes), 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shapes = torch.tensor([width / height for width, height in sizes], dtype=torch.float64)
    wide, tall = augment.whole_box(tries, shapes, views)
    fallbacks = 0
    for at, (width, height) in enumerate(sizes):
        own = list(zip(tries[at, :10].tolist(), tries[at, 10:].tolist(), strict=True))
        expected = plain_box(own, width, height, views)
        fallbacks += expected == plain_box([], width, height, views)
        assert (wide[at].item(), tall[at].item()) == pytest.approx(expected, abs=1e-12)
    assert 40 < fallbacks < len(sizes)


def ramp(width: int, height: int, side: int) -> torch.Tensor:
    """An image whose red is the place across and whose green is the place down, squeezed into a square."""
    across = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    red, green = across.expand(side, side), across[:, None].expand(side, side)
    return torch.stack([red, green, torch.zeros_like(red)])


def test_a_view_shows_the_box_of_the_stored_image() -> None:
    """Of images whose colours say the place: each view spans its box, in the pixels of a view, local ones too."""
    views = c.Views(crop_scale=(0.2, 0.6), flip=0.0, jitter=0.0, gray=0.0, local_scale=(0.05, 0.2))
    sizes = [(500, 375), (300, 400), (256, 256)]
    shapes = torch.tensor([width / height for width, height in sizes], dtype=torch.float64)
    pictures = Pictures(torch.stack([ramp(*size, 64) for size in sizes]), 32, shapes)
    kinds: tuple[ViewKind, ...] = ("weak", "local")
    for number, (kind, view) in enumerate(
        zip(kinds, augment.views(pictures, torch.arange(3), kinds, views, 7, 1), strict=True)
    ):
        side = 32 if kind == "weak" else views.local_side(32)
        assert view.shape == (3, 3, side, side)
        place = augment.unstandardise(view)
        drawn = c.Views(crop_scale=views.crop_scale if kind == "weak" else views.local_scale)
        for at, (width, height) in enumerate(sizes):
            step_across = (place[at, 0, 0, -1] - place[at, 0, 0, 0]).item() / (side - 1) * side
            step_down = (place[at, 1, -1, 0] - place[at, 1, 0, 0]).item() / (side - 1) * side
            area, ratio = step_across * step_down, step_across * width / (step_down * height)
            assert drawn.crop_scale[0] - 1e-9 < area < drawn.crop_scale[1] + 1e-9
            assert 3 / 4 - 1e-9 < ratio < 4 / 3 + 1e-9, (number, "in pixels of the stored image")
            assert place[at, 0].min() > 0 and place[at, 0].max() < 1, "no border"


def test_squares_that_are_whole_are_cropped_from_all_of_the_image(tmp_path: Path) -> None:
    """A wide image has its ends in some view, where a centre never shows them."""
    wide = np.zeros((20, 60, 3), dtype=np.uint8)
    wide[:, :15] = 255
    for split in ("train", "val"):
        for label in ("a", "b"):
            (tmp_path / split / label).mkdir(parents=True)
            for number in range(4):
                (tmp_path / split / label / f"{number}.png").write_bytes(encoded(wide))
    values = {"name": "imagefolder", "root": tmp_path, "image_size": 8, "streamed": True, "validation_images": 2}
    views = c.Views(crop_scale=(0.08, 1.0), jitter=0, gray=0, flip=0)
    seen = {}
    for crops in ("centre", "whole"):
        images = data.load(c.Data(**values, crops=crops), "train")
        pictures = images.pictures(torch.arange(6), CPU, torch.float64)
        assert pictures.pixels.shape[-1] == (8 if crops == "centre" else 16)
        assert images.batch(torch.arange(6), CPU, torch.float64).sum() == 0, "the centre is dark"
        both = augment.views(pictures, torch.arange(6), ("weak", "weak"), views, 0, 0)
        assert all(view.shape == (6, 3, 8, 8) for view in both)
        seen[crops] = max(augment.unstandardise(view).max().item() for view in both)
        if pictures.shapes is not None:
            assert pictures.shapes.tolist() == [3.0] * 6
    assert seen["centre"] < 1e-6 and seen["whole"] > 0.99


def test_neither_loaders_nor_look_ahead_change_a_trial(tmp_path: Path, tiny: Callable[..., c.TrialConfig]) -> None:
    write_parquets(tmp_path / "parquet", [40], 8)
    own = {"name": "parquet", "root": str(tmp_path / "parquet"), "image_size": 8, "streamed": True, "window": 16}
    curves = []
    for loaders, crops in ((1, "whole"), (5, "whole"), (5, "centre")):
        values = {**own, "validation_images": 8, "resize": 9, "loaders": loaders, "crops": crops}
        history = train.fit(
            tiny({"data": values, "train.epochs": 2, "evaluation.protocols": ["knn", "label_free"]}),
            tmp_path / f"{loaders} {crops}",
            lambda metrics: "on",
        )
        curves.append([(row["loss"], row["knn_top1"], row["alignment"]) for row in history])
    assert curves[0] == curves[1] != curves[2]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"resize": 5}, "data.resize = 5: must be at least data.image_size = 6"),
        ({"resize": 5, "image_size": None}, "data.resize = 5: needs data.image_size"),
        ({"crops": "whole"}, "data.crops = whole: needs data.streamed = true"),
    ],
)
def test_keys_that_need_others(values: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        c.Data(**{"name": "imagefolder", "root": "x", "image_size": 6, **values})
