"""Types of what protocols look at and return. Needs no torch, because configurations are validated with protocols."""

from typing import Literal

Scores = dict[str, float]
"""Metrics by name."""
Output = Literal["features", "projections"]
"""What of a network is looked at: the output of the backbone, or that of the projector behind it."""
