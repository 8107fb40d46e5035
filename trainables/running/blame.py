"""Whose fault the error of a rank is, where the surroundings did not cause it."""

import torch
import torch.distributed as dist

from trainables.running.checkpoint_files import Disowned
from trainables.running.messages import Blame

BROKEN_LINK = (ConnectionError, dist.DistError, Disowned)  # a peer is gone, or this worker is taken for gone
UNTYPED = (RuntimeError, torch.AcceleratorError)  # errors whose type does not tell
BROKEN_MARKS = ("gloo/", "connection closed by peer", "connection reset by peer", "nccl error", "cuda error")
"""Marks, in lower case, of a broken link in a RuntimeError of gloo (which names its source file), NCCL or CUDA."""


def blame_of(error: Exception) -> Blame:
    """Whether the link between the ranks or the trial caused an error that the surroundings did not cause.

    After the death of a rank the others see a broken link, which is not the fault of the trial. The type of the error
    decides. gloo, NCCL and CUDA also raise plain RuntimeErrors, which are recognised by their text; an error of any
    other type is the trial's, whatever it says.
    """
    if isinstance(error, BROKEN_LINK):
        return "link"
    text = str(error).lower()
    return "link" if type(error) in UNTYPED and any(mark in text for mark in BROKEN_MARKS) else "trial"
