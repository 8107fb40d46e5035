"""The feed: batches of a step as functions of order, epoch and place, the same for any number of workers."""

import torch

from trainables.data import keyed
from trainables.data.feed import Batch, Feed
from trainables.data.pieces import Piece

CPU = torch.device("cpu")


def feed(config, images, passes, labelled=None) -> Feed:
    return Feed(config, images, labelled, passes, CPU, torch.float32)


def joined(batches: list[Batch], stream: str, view: int) -> torch.Tensor:
    return torch.cat([batch.pictures[Piece(stream, view)] for batch in batches])


def test_batches_do_not_depend_on_how_shards_are_dealt(tiny, digits):
    config = tiny({"train.batch_size": 16, "train.shard_size": 4})
    order = keyed.permutation(len(digits), 0, "order")
    ways = (
        [[range(0, 4)]],
        [[range(0, 1), range(1, 2)], [range(2, 4)]],
        [[range(shard, shard + 1)] for shard in range(4)],
    )
    made = [[batch for passes in way for batch in feed(config, digits, passes).batches(order, 1, 3)] for way in ways]
    for view in range(2):
        first, *others = (joined(batches, "images", view) for batches in made)
        assert len(first) == 16 and all(torch.equal(first, other) for other in others)
    assert all(torch.equal(torch.cat([b.labels["images"] for b in way]), digits.labels[order[16:32]]) for way in made)


def test_another_epoch_makes_other_views_of_the_same_images(tiny, digits):
    config, order = tiny({}), torch.arange(len(digits))
    passes = [range(config.train.num_shards)]
    ((first,), (second,)) = (list(feed(config, digits, passes).batches(order, 0, epoch)) for epoch in (0, 1))
    assert torch.equal(first.labels["images"], second.labels["images"])
    assert not torch.equal(first.pictures[Piece("images", 0)], second.pictures[Piece("images", 0)])


def test_labelled_images_are_a_stream_that_goes_on_from_epoch_to_epoch(tiny, digits):
    """Step times labelled images of a step is the place; each round through the labelled images has its own order."""
    config = tiny({"method.name": "mean_teacher", "method.images_per_label": 2})
    labelled = digits.part(torch.arange(10))
    source = feed(config, digits, [range(config.train.num_shards)], labelled)
    count = config.train.num_shards * config.method.labelled_in(config.train.shard_size)
    order, steps = torch.arange(len(digits)), 2 * source.per_epoch
    seen = [
        batch.labels["labelled"]
        for step in range(steps)
        for batch in source.batches(order, step % source.per_epoch, step // source.per_epoch)
    ]
    places = range(steps * count)
    expected = [
        int(labelled.labels[keyed.permutation(10, config.seed, "labelled", place // 10)[place % 10]])
        for place in places
    ]
    assert torch.cat(seen).tolist() == expected


def test_what_is_coming_are_this_workers_images_of_the_rest_of_the_epoch(tiny, digits):
    config = tiny({"train.batch_size": 16, "train.shard_size": 4})
    order = keyed.permutation(len(digits), 0, "order")
    source = feed(config, digits, [range(1, 2), range(2, 3)])
    coming, ahead = source.coming(order, 2)
    assert ahead == 16
    assert coming.tolist() == [
        int(order[16 * at + place]) for at in range(2, source.per_epoch) for place in range(4, 12)
    ]
