"""The picture of views: the trial's own views of its first images, below the names of those who look at them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.timeless import timeless_history
from tests.trainables.feeds import feed_of
from tests.trainables.pictures import write_folders
from tests.trainables.running.test_fit_resume import go_on
from trainables.data import augment
from trainables.data import images as data
from trainables.data.feed import labelled_images
from trainables.data.pieces import Piece
from trainables.learning.learner import Learner
from trainables.networks.group import Group
from trainables.running import fit as train
from trainables.running import views_picture
from trainables.running.checkpoint_files import VIEWS
from trainables.running.resolve import resolved
from trainables.running.segment import Segment
from trainables.running.views_picture import COLUMN, GAP, LINE, ROWS, SIDE


def tile(picture: Image.Image, column: int, row: int, side: int) -> np.ndarray:
    """The image in a column and a row, back in its own size, [side, side, 3] in [0, 1]."""
    left, top = column * COLUMN + (COLUMN - SIDE) // 2, 2 * LINE + GAP + row * (SIDE + GAP)
    cell = picture.crop((left, top, left + SIDE, top + SIDE)).resize((side, side), Image.Resampling.BOX)
    return np.asarray(cell) / 255


def shown(view: Tensor, row: int) -> np.ndarray:
    """What a picture should show of a view [N, C, H, W] as networks get it."""
    return augment.unstandardise(view)[row].clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("method", ["byol", "fixmatch", "ressl"])
def test_the_picture_has_the_views_of_the_first_step(tiny, tmp_path: Path, method: str):
    """Fails when the picture's views are keyed otherwise than those that networks are trained with."""
    more = {"method.images_per_label": 4} if method == "fixmatch" else {"method.queue": 32} if method == "ressl" else {}
    config = resolved(tiny({"method.name": method, **more}), 10)
    images, bank = data.splits(config.data, "train", "bank")
    labelled = labelled_images(config, bank)
    learner = Learner(config, 1, len(images), classes=10, group=Group())
    batch = next(feed_of(learner, images, labelled).batches(images.order(config.seed, 0, "order"), 0, 0))
    picture = views_picture.draw(config, images, labelled)
    kinds, others = config.method.views, config.method.LABELLED_VIEWS
    assert picture.width == COLUMN * (1 + len(kinds) + (1 + len(others) if others else 0))
    columns = {number + 1: Piece("images", number) for number in range(len(kinds))}
    columns |= {len(kinds) + 2 + number: Piece("labelled", number) for number in range(len(others))}
    for column, piece in columns.items():
        pictures = batch.pictures[piece]
        for row in range(min(ROWS, len(pictures))):
            assert tile(picture, column, row, 8) == pytest.approx(shown(pictures, row), abs=0.003)
    untouched = images.batch(images.order(config.seed, 0, "order")[:ROWS], torch.device("cpu"), torch.float32)
    assert tile(picture, 0, ROWS - 1, 8)[..., 0] == pytest.approx(untouched[-1, 0].numpy(), abs=0.003)


def captions(config, number: int) -> list[str]:
    images, bank = data.splits(config.data, "train", "bank")
    order = images.order(config.seed, 0, "order")[:2]
    stream = "labelled" if number else "images"
    source = labelled_images(config, bank) if number else images
    return [
        " | ".join(caption) for caption, _ in views_picture._columns(config, source, order[: len(source)], stream, 0)
    ]


def test_captions_say_who_looks_at_a_view(tiny):
    both = "student + teacher"
    assert captions(tiny(), 0) == ["image | ", f"view 1, full | {both}", f"view 2, full | {both}"]
    assert captions(tiny({"method.name": "simsiam"}), 0)[1:] == ["view 1, full | student", "view 2, full | student"]
    dino = captions(tiny({"method.name": "dino", "method.local_views": 1}), 0)
    assert dino[1:] == [f"view 1, full | {both}", f"view 2, full | {both}", "view 3, local | student"]
    eman = tiny({"method.name": "fixmatch", "method.pseudo_labels": "teacher", "method.images_per_label": 4})
    assert captions(eman, 0)[1:] == ["view 1, weak | teacher", "view 2, strong | student"]
    assert captions(eman, 1) == ["labelled image | ", "view 1, weak | student"]


@pytest.mark.parametrize("side", [8, 48, 160])
def test_pictures_stay_small_also_of_large_streamed_images(tiny, tmp_path: Path, side: int):
    write_folders(tmp_path / "images", 24)
    where = {
        "name": "imagefolder",
        "root": str(tmp_path / "images"),
        "image_size": side,
        "streamed": side > 8,
        "validation_images": 4,
    }
    config = tiny({"data": where})
    images = data.load(config.data, "train")
    picture = views_picture.draw(config, images, None)
    assert picture.size == (3 * COLUMN, 2 * LINE + GAP + ROWS * (SIDE + GAP))
    images.close()


def test_a_trial_writes_its_picture_once_and_is_not_disturbed_by_it(tiny, tmp_path: Path):
    config = tiny()
    history = train.fit(config, tmp_path / "one", go_on)
    path = tmp_path / "one" / VIEWS
    drawn = path.read_bytes()
    assert Image.open(path).size[0] == 3 * COLUMN and len(drawn) < 50_000
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / VIEWS).write_bytes(b"is there")
    assert timeless_history(train.fit(config, tmp_path / "other", go_on)) == timeless_history(history)
    assert (tmp_path / "other" / VIEWS).read_bytes() == b"is there"
    left = tmp_path / "untrained" / f".{VIEWS}.4711"
    left.parent.mkdir()
    left.write_bytes(drawn[:100])
    train.fit(tiny({"train.epochs": 0}), left.parent, go_on, segment=Segment("next"))
    assert not left.exists(), "a worker that was killed while it drew leaves nothing"
    assert (tmp_path / "untrained" / VIEWS).read_bytes() == drawn
