"""The handle of the switchboard, with the types of its remote methods."""

from collections.abc import Callable
from typing import Protocol, TypeVar

from ray import ObjectRef

from trainables.running.messages import Assignment, NoWork, Outcome
from tuner.fleet.claims import Ended, Message, State

Answer = TypeVar("Answer")
Fit = Callable[..., object]
"""What a worker runs for a trial: `trainables.running.fit.fit`, or a function with its signature."""


class Method(Protocol[Answer]):
    """A method of an actor."""

    def remote(self, *arguments: object) -> "ObjectRef[Answer]":
        """Sends a call, and returns a reference to its answer."""


class Board(Protocol):
    """Handle of the actor in which a `Switchboard` runs. Its methods are the switchboard's."""

    @property
    def acquire(self) -> Method[int | None]: ...
    @property
    def take(self) -> Method[Message]: ...
    @property
    def release(self) -> Method[None]: ...
    @property
    def watch(self) -> Method[list[Ended]]: ...
    @property
    def down(self) -> Method[tuple[str | None, bool]]: ...
    @property
    def give_up(self) -> Method[None]: ...
    @property
    def state(self) -> Method[State]: ...
    @property
    def close(self) -> Method[None]: ...
    @property
    def __ray_ready__(self) -> Method[bool]: ...

    # called by workers, which see them as `trainables.ray_train.Board`
    @property
    def attach(self) -> Method[int]: ...
    @property
    def next(self) -> Method[Assignment | NoWork]: ...
    @property
    def beat(self) -> Method[None]: ...
    @property
    def post(self) -> Method[bool]: ...
    @property
    def acknowledge(self) -> Method[None]: ...
    @property
    def fault(self) -> Method[Outcome | None]: ...
