"""The feed of a Learner in tests, made as `fit` makes it."""

from trainables.data.feed import Feed
from trainables.data.images import Images
from trainables.learning.learner import Learner


def feed_of(learner: Learner, images: Images, labelled: Images | None = None) -> Feed:
    """What makes the batches of a Learner's steps."""
    return Feed(learner.config, images, labelled, learner.passes(), learner.group.device, learner.dtype)
