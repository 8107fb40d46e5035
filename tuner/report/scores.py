"""The scores of a checkpoint, or of two side by side, as text and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from trainables.evaluation.protocols.corruptions import difference
from tuner.report import certainty
from tuner.runs.hints import counted

TOP = 5  # answers that a second accuracy counts
CELLS = "corruptions/"  # prefix of the scores in a table of corruptions


@dataclass(frozen=True)
class Scored:
    """The scores of a checkpoint with all that they depend on.

    The fields, in their order, are what `tuner evaluate --json` prints, but for the scores, each of which follows under
    its own name.

    Attributes:
        checkpoint: its file.
        step: after which it was written.
        network: whose scores they are: "student" or "teacher".
        split: that was scored: "test" or "validation".
        images: of the split.
        classes: of the data.
        protocols: names of the protocols, as they were asked for.
        settings: of each protocol, and of those that it uses.
        before_feature_norm: whether features are taken before the norm of the encoder's last layer.
        labels: the settings of the labels, and how many images have one.
        seed: of the trial.
        scores: by name.
        saved: the file that backbone and classifier were written to.
    """

    checkpoint: str
    step: int
    network: str
    split: str
    images: int
    classes: int
    protocols: list[str]
    settings: dict[str, dict[str, object]]
    before_feature_norm: bool
    labels: dict[str, object]
    seed: int
    scores: Mapping[str, float]
    saved: str | None = None


def as_json(scored: Scored, other: Scored | None = None) -> dict[str, Any]:
    """What `tuner evaluate --json` prints: each score under its own name, beside what it depends on.

    Args:
        scored: a checkpoint.
        other: another one to compare it with.
    """
    content = {field.name: getattr(scored, field.name) for field in fields(scored)}
    del content["scores"]
    if content["saved"] is None:
        del content["saved"]
    content |= scored.scores
    if other is not None:
        content |= {"against": as_json(other), "difference": difference(scored.scores, other.scores)}
    return content


def lines(scored: Scored, other: Scored | None = None) -> list[str]:
    """What `tuner evaluate` prints: a column for each checkpoint, A and B where there are two, and B - A.

    Args:
        scored: a checkpoint.
        other: another one to compare it with.
    """
    facts = _facts(scored, other)
    names = [name for name in scored.scores if not name.startswith(CELLS) or name == f"{CELLS}mean"]
    if scored.classes <= TOP:  # where every answer is among the five
        names = [name for name in names if not name.endswith(f"_top{TOP}")]
    shares = any(map(certainty.is_share, names))
    interval = f"  95 % of {counted(scored.images, 'image')}" if shares else ""
    if other is None:
        told = [_line(name, [scored.scores[name]], scored.images) for name in names]
        return [*facts, f"{'':<24} {'score':>9}{interval}", *told, *cells(scored.scores, "top-1")]
    apart = difference(scored.scores, other.scores)
    told = [_line(name, [scored.scores[name], other.scores[name], apart[name]], scored.images) for name in names]
    return [*facts, f"{'':<24} {'A':>9} {'B':>9} {'B - A':>9}{interval}", *told, *cells(apart, "B - A", "+")]


def _facts(scored: Scored, other: Scored | None) -> list[str]:
    """What the scores depend on; what differs between two checkpoints has a line for each."""
    columns = [scored] if other is None else [scored, other]
    facts = {
        "network": [column.network for column in columns],
        "split": [f"{column.split}, {counted(column.images, 'image')}" for column in columns],
        "checkpoint": [column.checkpoint for column in columns],
        "step": [str(column.step) for column in columns],
        "saved": [column.saved for column in columns if column.saved is not None],
    }
    lines = []
    for name, told in facts.items():
        if len(set(told)) < 2:
            lines += [f"{name:<16} {text}" for text in told[:1]]
        else:
            lines += [f"{name + ' ' + letter:<16} {text}" for letter, text in zip("AB", told, strict=True)]
    return [*lines, f"{'protocols':<16} {', '.join(scored.protocols)}  (--json gives their settings)"]


def _line(name: str, values: Sequence[float], images: int) -> str:
    """A score with its interval; or that of A, of B, and their difference with the interval of the difference."""
    numbers = " ".join(f"{value:{sign}9.4f}" for value, sign in zip(values, ("", "", "+"), strict=False))
    if len(values) == 1:
        interval = certainty.shown(certainty.of_score(values[0], name, images))
    else:
        interval = certainty.shown(certainty.of_scores_apart(values[1], values[0], name, images), "+")
    return f"{name:<24} {numbers}  {interval}".rstrip()


def cells(scores: Mapping[str, float], title: str, sign: str = "") -> list[str]:
    """The table of corruptions: a line for each type, a column for each severity, and their means.

    Args:
        scores: by name; without any of a corruption there are no lines.
        title: what the numbers are.
        sign: "+" where a positive number has a sign.
    """
    by_cell = {
        tuple(name.split("/")[1:]): score
        for name, score in scores.items()
        if name.startswith(CELLS) and name.count("/") == 2
    }
    if not by_cell:
        return []
    kinds, severities = (list(dict.fromkeys(cell[axis] for cell in by_cell)) for axis in (0, 1))
    rows = {kind: [by_cell[kind, severity] for severity in severities] + [scores[f"{CELLS}{kind}"]] for kind in kinds}
    rows["mean"] = [scores[f"{CELLS}severity_{severity}"] for severity in severities] + [scores[f"{CELLS}mean"]]
    header = f"{f'{title} by severity':<24} " + " ".join(f"{column:>9}" for column in [*severities, "mean"])
    return [header, *(f"{name:<24} " + " ".join(f"{value:{sign}9.4f}" for value in row) for name, row in rows.items())]
