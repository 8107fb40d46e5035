"""What the norms of student and teacher have in common: `encoder.norm` and `teacher.norm`. Needs no torch.

A kind of norm is a file of `trainables.networks.norms`. What a configuration must know of it are constants of its
class, which are read without importing the file.
"""

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import field_validator, model_validator

from trainables.config import discovery
from trainables.config.sections import CosineShare, Section, Share


class Alpha(CosineShare):
    """Share of the current batch in Momentum BN's statistics (Momentum² Teacher, eq. 3 and 8)."""

    base: Share = 1.0
    final: Share = 0.0


NORMS = discovery.ordered("networks.norms", ("batch", "sync", "shuffle", "momentum", "eman", "layer", "group", "none"))


def says(kind: str, key: str, default: bool) -> bool:
    """Returns a constant of a norm's class, such as WHOLE_BATCH; `default` where its file does not state it."""
    return bool(discovery.constant("networks.norms", kind, key, default))


STUDENT_NORMS = tuple(kind for kind in NORMS if says(kind, "OF_STUDENT", True))
TEACHER_NORMS = tuple(kind for kind in NORMS if says(kind, "BATCH_STATISTICS", True))
if TYPE_CHECKING:
    StudentKind = str
    TeacherKind = str
else:
    StudentKind = Literal[STUDENT_NORMS]
    TeacherKind = Literal[TEACHER_NORMS]


class NormOptions(Section):
    """A kind of norm, and the options of Momentum BN."""

    SHORT: ClassVar[str] = "kind"
    KINDS: ClassVar[tuple[str, ...]]  # those of NORMS that this network may have
    ELSEWHERE: ClassVar[str]  # what is said of another kind of NORMS

    kind: str
    alpha: Alpha = Alpha()
    lazy: bool = True
    """Whether all views of a step see the same history in Momentum BN, which then moves to their mean (Momentum²
    Teacher, sec. 3.3); else each view moves it, and the next one sees that.
    """
    variance: Literal["biased", "unbiased", "released"] = "biased"
    """Variance of Momentum BN: biased as in the paper, unbiased, or corrected twice as in the released code."""
    history: Literal["shard", "shared"] = "shard"
    """History of Momentum BN: one for each shard, or one that all share."""

    @property
    def looks_at_the_batch(self) -> bool:
        """Whether a worker must run all its shards in one pass: what the norm's file says as WHOLE_BATCH."""
        return says(self.kind, "WHOLE_BATCH", False)

    @property
    def batch_statistics(self) -> bool:
        """Whether it normalises with statistics of a batch: what the norm's file says as BATCH_STATISTICS."""
        return says(self.kind, "BATCH_STATISTICS", True)

    @field_validator("kind", mode="before")
    @classmethod
    def _belongs_here(cls, kind: Any) -> Any:
        if kind in NORMS and kind not in cls.KINDS:
            raise ValueError(cls.ELSEWHERE.format(kind=kind))
        return kind

    @model_validator(mode="after")
    def _each_view_moves_a_history_of_its_shard(self) -> Self:
        if not self.lazy and self.history == "shared":
            raise ValueError(
                "norm.lazy = false: a shared history moves once a step, when all shards are known; "
                "set norm.history = shard"
            )
        return self
