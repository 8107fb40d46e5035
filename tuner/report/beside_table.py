"""Prints a run's table beside the numbers of its paper, as `tuner.report.beside` compares them."""

from rich.table import Table
from rich.text import Text

from tuner.report import certainty
from tuner.report.beside import Beside
from tuner.report.points import plus_minus
from tuner.report.terminal import titled

INFERRED = "~: inferred from what the paper says, not printed"


def number_of(number: float | None, form: str, inferred: bool) -> str:
    """A number of a paper, in a format; "" for None."""
    return "" if number is None else f"{'~' if inferred else ''}{number:{form}}"


def tables_of(beside: Beside | None) -> list[Table]:
    """The table that shows ours beside the paper's; none where there is nothing to show."""
    if beside is None or not beside.compared:
        return []
    table = titled(f"beside {beside.title}", _notes(beside), "row")
    cells = [
        (
            row.ours.point,
            plus_minus(row.ours.mean, row.ours.sd),
            certainty.shown(row.ours.interval),
            str(len(row.ours.scores)),
            number_of(row.paper, ".4f", row.inferred),
        )
        for row in beside.rows
    ]
    names = (f"{beside.metric}, {beside.split}", "95 %", "seeds", f"the paper's {beside.reported}")
    for name, column in zip(names, list(zip(*cells, strict=True))[1:], strict=True):
        table.add_column(Text(name), justify="right", min_width=max(map(len, column)))
    for row in cells:
        table.add_row(*map(Text, row))
    return [table]


def _notes(beside: Beside) -> list[str]:
    """The rank correlation, and what is not as in the paper."""
    notes = [rank_line(beside)]
    if beside.metric != beside.reported:
        notes.append(f"no trial has {beside.reported} yet; tuner evaluate scores a trial by its protocol")
    elif beside.split == "validation":
        notes.append("ours is of validation images, the paper's of test images; tuner evaluate scores test images")
    notes += [INFERRED] if any(row.inferred for row in beside.rows) else []
    if beside.otherwise:
        notes.append(f"test images were not scored as the table says: {', '.join(beside.otherwise)}")
    return notes


def rank_line(beside: Beside) -> str:
    """How alike the orders of the rows are."""
    if beside.rank is None:
        few = "fewer than three rows" if beside.compared < 3 else "equal numbers"
        return f"no rank correlation with the paper's rows: {few} to compare ({beside.compared})"
    rank = beside.rank
    text = f"Spearman's rank correlation with the paper: {rank.rho:+.3f} over {rank.rows} rows"
    if rank.interval is not None:
        low, high = rank.interval
        text += f"; 95 % interval {low:+.2f} to {high:+.2f} (Fisher)"
    else:
        text += "; no interval: " + ("fewer than four rows" if abs(rank.rho) < 1 else "there is none at -1 and 1")
    if len(rank.of_seeds) > 1:
        text += f"; of each of {len(rank.of_seeds)} seeds alone {min(rank.of_seeds):+.2f} to {max(rank.of_seeds):+.2f}"
    return text
