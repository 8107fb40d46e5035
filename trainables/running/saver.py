"""When the checkpoints of a trial that trains are written, and how: from a copy, by a thread."""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import torch
from torch import Tensor

from trainables.learning.learner import Learner
from trainables.learning.requests import Request
from trainables.learning.traces import traces_in
from trainables.running import checkpoint, traces
from trainables.running.messages import Metrics
from trainables.running.resuming import content
from trainables.running.segment import Segment


class Saver:
    """Writes the checkpoints of a trial while it trains on.

    The state is collected and copied on the training thread, which goes on at once. Rank 0's other thread hashes,
    writes and prunes. An error of that thread, such as a full disc, is raised on the training thread.

    Only rank 0 writes, and only its clock counts: it asks for checkpoints by time through the gradient sum. A write
    that is not finished delays the next one.

    Args:
        learner: of the trial.
        folder: of the trial.
        segment: who owns the folder, and whether the trial is to be left.
    """

    def __init__(self, learner: Learner, folder: Path, segment: Segment):
        self._learner, self._folder, self._segment = learner, folder, segment
        self._train = learner.config.train
        minutes = self._train.checkpoint_minutes
        self._interval = float("inf") if minutes is None else 60 * minutes
        self._last = time.monotonic()
        self._pool = ThreadPoolExecutor(1, "checkpoint") if learner.group.rank == 0 else None
        self._writing: Future[Path] | None = None
        self._copies: dict[str, Tensor] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Waits for an unfinished write. Its error is raised, unless another one is on its way."""
        try:
            self.wait()
        except Exception:
            if error is None:
                raise
        finally:
            if self._pool is not None:
                self._pool.shutdown()

    def ask(self) -> None:
        """Has the next step carry what rank 0 asks.

        Raises:
            OSError, SafetensorError, Disowned: the last write failed.
        """
        if self._pool is None:
            return
        asked: set[Request] = set()
        if self._segment.asked_to_leave:
            asked.add("leave")
        if self._written() and time.monotonic() - self._last >= self._interval:
            asked.add("checkpoint")
        self._learner.requests.asked = frozenset(asked)

    @property
    def wanted(self) -> bool:
        """Whether `between_steps` would write a checkpoint now. Equal on every worker."""
        return bool(self._learner.requests.heard) or self._counted

    @property
    def _counted(self) -> bool:
        """Whether so many steps were made that a checkpoint is due."""
        every = self._train.checkpoint_steps
        return every is not None and self._learner.step_index % every == 0

    def between_steps(self, history: list[Metrics]) -> Literal["on", "leave"]:
        """Writes the checkpoint that is wanted after a step, and says whether the trial goes on. Collective.

        Where it is left, the checkpoint is on the disc when this returns.

        Raises:
            OSError, SafetensorError, Disowned: a write failed.
        """
        if not self.wanted:
            return "on"
        leave = "leave" in self._learner.requests.heard
        self.save(history, timed=not self._counted)
        if leave:
            self.wait()
        return "leave" if leave else "on"

    def save(self, history: list[Metrics], timed: bool = False) -> None:
        """Begins to write a checkpoint; waits for an unfinished one before. Collective.

        Raises:
            OSError, SafetensorError, Disowned: the last write failed.
        """
        self.wait()
        self._last = time.monotonic()
        tensors, values = content(self._learner, history)
        self._learner.requests.forget("checkpoint")
        if self._pool is not None:
            self._copy(tensors)
            self._writing = self._pool.submit(self._write, self._learner.step_index, values, timed)

    def wait(self) -> None:
        """Returns once what was saved is on the disc.

        Raises:
            OSError, SafetensorError, Disowned: it could not be written.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _written(self) -> bool:
        if self._writing is not None and self._writing.done():
            self.wait()
        return self._writing is None

    def _copy(self, tensors: dict[str, Tensor]) -> None:
        """Copies the state to the CPU, into memory that is used again for the next checkpoint."""
        on_gpu = self._learner.group.device.type == "cuda"
        copies = {}
        for name, tensor in tensors.items():
            copy = self._copies.get(name)
            if copy is None or (copy.shape, copy.dtype, copy.stride()) != (tensor.shape, tensor.dtype, tensor.stride()):
                copy = torch.empty_like(tensor, device="cpu", pin_memory=on_gpu, requires_grad=False)
            copies[name] = copy.copy_(tensor.detach(), non_blocking=on_gpu)
        if on_gpu:
            torch.cuda.current_stream(self._learner.group.device).synchronize()
        self._copies = copies

    def _write(self, step: int, values: dict[str, Any], timed: bool) -> Path:
        keep, owner = self._train.keep_checkpoints, self._segment.owner
        if rows := traces_in(self._copies):  # before the checkpoint, so that they have all of its rows
            traces.write(self._folder, {name: tensor.numpy() for name, tensor in rows.items()}, owner)
        return checkpoint.write(self._folder, step, self._copies, values, keep, timed, owner)
