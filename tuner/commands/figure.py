"""`tuner figure`: what trials have traced within their epochs, drawn side by side as PNG."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from trainables.config.errors import UserError, nearest
from trainables.running.checkpoint_files import TRACES
from tuner.plan import jobs
from tuner.report import figures
from tuner.report.figures import Traced
from tuner.runs.hints import counted

MOST_TRIALS = 8  # side by side


def run(arguments: argparse.Namespace) -> int:
    """Draws a figure and prints its path; returns the exit status."""
    kind = arguments.kind
    if kind not in figures.KINDS:
        raise UserError(f"--kind {kind}: no such figure{nearest(kind, figures.KINDS)}")
    if kind == "gradients" and arguments.network:
        raise UserError(
            f"--network {arguments.network}: goes with filters and coordinates; gradients are the student's"
        )
    output = arguments.output or Path(f"{kind}.png")
    if output.suffix.lower() != ".png":
        raise UserError(f"--output {output}: must end in .png")
    jobs.require_kept(output, "--output")
    folders = [folder for path in arguments.trial for folder in _trials_of(path)]
    if len(folders) > MOST_TRIALS:
        raise UserError(
            f"{len(folders)} trials: at most {MOST_TRIALS} stand side by side; name some, such as {folders[0]}"
        )
    trials = _titled([figures.traced(folder) for folder in folders], arguments.title)
    drawn = figures.png(figures.figure(kind, trials, arguments.network or "student"))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(drawn)
    print(output)
    return 0


def _trials_of(path: Path) -> list[Path]:
    """The folder of a trial, or those of a run's traced trials, in the order of their keys."""
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; name a trial's, such as runs/search/trials/0000, or a run's")
    if not (path / "manifest.json").is_file():
        return [path]
    if found := sorted(file.parent for file in (path / "trials").glob(f"*/{TRACES}")):
        return found
    raise UserError(f"{path}: none of its trials was traced; see trial.monitors.every, such as 20 steps")


def _titled(trials: Sequence[Traced], titles: Sequence[str] | None) -> Sequence[Traced]:
    """The trials with the user's titles, where there are any."""
    if titles is None:
        return trials
    if len(titles) != len(trials):
        raise UserError(f"--title: {counted(len(titles), 'title')} for {counted(len(trials), 'trial')}")
    return [one._replace(title=title) for one, title in zip(trials, titles, strict=True)]
