"""Shuffle BN (MoCo): plain batch norm of shards whose samples the Teacher drew from the whole batch."""

from typing import ClassVar

from trainables.networks.norms.batch import BatchNorm


class ShuffleNorm(BatchNorm):
    """Plain batch norm per shard; `Teacher.shuffled` deals the samples to the shards and puts the outputs back."""

    WHOLE_BATCH: ClassVar[bool] = True
    OF_STUDENT: ClassVar[bool] = False
    SHUFFLES: ClassVar[bool] = True
