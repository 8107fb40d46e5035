"""Labelled images can be left out of those without labels: two lists without a common image, as EMAN's FixMatch has."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.trainables.pictures import write_folders
from trainables.config import trial as c
from trainables.config.errors import UserError
from trainables.data import images as data
from trainables.data.check import training_images
from trainables.data.feed import labelled_images, with_known_labels
from trainables.running import fit as train

Tiny = Callable[..., c.TrialConfig]
FIXMATCH = {"method.name": "fixmatch", "method.images_per_label": 4, "train.batch_size": 16, "train.shard_size": 8}


def write_index(path: Path, rows: list[int]) -> Path:
    path.write_text("\n".join(map(str, rows)))
    return path


@pytest.mark.parametrize("way", ["per_class", "share", "file"])
def test_the_two_streams_have_no_image_in_common(tiny: Tiny, tmp_path: Path, way: str) -> None:
    together = tiny({**FIXMATCH, "data.train_images": 300})
    if way == "file":
        rows = data.load(together.data, "train").rows[::11].tolist()
        chosen: dict[str, object] = {"file": str(write_index(tmp_path / "rows", rows))}
    else:
        chosen = {way: 2 if way == "per_class" else 0.1}
    configs = [c.changed(together.plain(), {"data.labels": {**chosen, "apart": apart}}) for apart in (False, True)]
    (all_images, bank), (apart, same_bank) = (data.splits(config.data, "train", "bank") for config in configs)
    labelled = [labelled_images(config, images) for config, images in zip(configs, (bank, same_bank), strict=True)]
    assert labelled[0] is not None and labelled[1] is not None
    assert torch.equal(labelled[0].rows, labelled[1].rows) and torch.equal(bank.rows, same_bank.rows)
    assert not torch.isin(apart.rows, labelled[1].rows).any()
    assert torch.equal(torch.cat([apart.rows, labelled[1].rows]).sort().values, all_images.rows)
    assert training_images(configs[0]) == 300
    assert training_images(configs[1]) == pytest.approx(len(apart), abs=5 if way == "share" else 0)


def test_the_check_before_a_launch_counts_them_of_folders(tmp_path: Path) -> None:
    """Whose labels it reads, so that the length of the run is exact."""
    write_folders(tmp_path, 60)
    for chosen in ({"share": 0.3}, {"per_class": 2}, {"per_class": 2, "apart": False}):
        labels = {"apart": True, **chosen}
        own = {"name": "imagefolder", "root": str(tmp_path), "image_size": 6, "validation_images": 7, "labels": labels}
        config = c.changed({}, {"method.name": "fixmatch", "method.images_per_label": 7, "data": own,
                                "train.batch_size": 7, "train.shard_size": 7})  # fmt: skip
        images = data.load(config.data, "train")
        assert training_images(config) == len(images) == 53 - (0 if not labels["apart"] else len(
            data.labelled(data.load(config.data, "bank"), config.data.labels)))  # fmt: skip


def test_no_label_is_left_beside_the_others_and_a_trial_runs(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny({**FIXMATCH, "data.train_images": 200, "data.labels": {"per_class": 3, "apart": True},
                   "online_probe": 0.1, "train.epochs": 1})  # fmt: skip
    images = data.load(config.data, "train")
    assert (images.labels >= 0).all() and (with_known_labels(config, images).labels == -1).all()
    together = c.changed(config.plain(), {"data.labels.apart": False})
    assert (with_known_labels(together, data.load(together.data, "train")).labels >= 0).sum() == 30
    (row,) = train.fit(config, tmp_path / "trial", lambda metrics: "on")
    assert row["step"] == (200 - 30) // 16


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({**FIXMATCH, "data.labels.apart": True}, "labels.apart = true: all images have labels"),
        ({"data.labels": {"apart": True, "per_class": 1}}, "data.labels.apart = true: byol learns from no labelled"),
    ],
)
def test_where_there_is_nothing_to_keep_apart(tiny: Tiny, values: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        tiny(values)
