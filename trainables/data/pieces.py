"""What a method names of a step's pictures. Needs no torch, because configurations are validated with methods."""

from typing import Literal, NamedTuple


class Piece(NamedTuple):
    """One view of a stream's pictures: of all training "images", or of the "labelled" ones."""

    stream: Literal["images", "labelled"]
    view: int


Sight = tuple[Piece, ...]
"""The pieces of a shard that go through a network together, and so share norm statistics."""
