"""The cause of a rank's error: by its type, and by its text only where gloo, NCCL and CUDA have no type for it."""

import pytest
import torch
import torch.distributed as dist

from trainables.running.blame import blame_of

GLOO = "[../third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 600000ms for recv operation"


@pytest.mark.parametrize(
    "error",
    [
        dist.DistBackendError("NCCL communicator was aborted on rank 1"),
        dist.DistNetworkError("The client socket has timed out"),
        dist.DistStoreError("wait timeout after 600000ms"),
        ConnectionResetError("Connection reset by peer"),
        BrokenPipeError(),
        RuntimeError(GLOO),
        RuntimeError("Connection closed by peer [127.0.0.1]:4711"),
        torch.AcceleratorError("CUDA error: unspecified launch failure"),
    ],
)
def test_a_broken_link_is_no_fault_of_the_trial(error: Exception) -> None:
    assert blame_of(error) == "link"


class GlooError(ValueError):
    """A user's own, with an unlucky name."""


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("my oracle timed out after 3 tries"),
        TimeoutError("timed out"),
        ValueError("connection closed by peer"),
        GlooError("x"),
        RuntimeError("the gloomy image 7"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        KeyError("nccl"),
    ],
)
def test_the_words_of_an_error_of_a_trial_prove_nothing(error: Exception) -> None:
    assert blame_of(error) == "trial"
