"""tuner launch | resume | status | export | train | evaluate | keys."""

import argparse
import json
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from trainables.config import equivalence, formats
from trainables.config.errors import BrokenOff, TrialFailure, UserError, nearest
from trainables.config.settings import section_keys, whole_number
from trainables.running import surroundings

RUNS = Path("runs")
COMMANDS = ("launch", "resume", "status", "export", "train", "evaluate", "keys")
ADDRESS = "'local' (default), 'auto' (default inside of a Ray job) or host:port of a Ray head"


def main(arguments: list[str] | None = None) -> int:
    """Runs a command.

    Returns:
        The exit status: 2 for an error of the user, which is printed a line a fault; 1 for a trial that failed, or where none is complete;
        3 for what the machine or the cluster broke off, with a line that says what to do; 130 for an interruption.
    """
    parser = _parser()
    first, *_ = [*(sys.argv[1:] if arguments is None else arguments), ""]
    if first and not first.startswith("-") and first not in COMMANDS:
        parser.error(f"no command is named {first!r}{nearest(first, COMMANDS)}")
    given = parser.parse_args(arguments)
    try:
        return given.command(given)
    except UserError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return 2
    except TrialFailure as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # such as by `tuner status --json RUN | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        said = surroundings.fault(error, getattr(given, "run", None) or Path.cwd())
        if said is None and error.filename is None:
            raise
        print(f"error: {said or f'{error.filename}: {error.strerror}'}", file=sys.stderr)
        return 2 if said is None else 3
    except BrokenOff as end:
        _leave(f"error: {end}", 3)
    except KeyboardInterrupt as interrupt:
        _leave(interrupt.args[0] if interrupt.args else "interrupted", 130)


def _leave(last: str, status: int) -> NoReturn:
    """Ends the process at once: workers are in the middle of an epoch, and Ray may be gone. A local Ray goes with its driver."""
    print(last, file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(status)


def launch(given: argparse.Namespace) -> int:
    """Starts a search."""
    from tuner.plan import jobs, points, space, spec
    from tuner.runs import run as runs
    from tuner.search import allocation

    jobs.require_kept(given.run, "--run")
    wanted = spec.read(given.search, _settings(given))
    found = points.load(wanted) if wanted.table else space.load(wanted.space)
    if not wanted.table:  # each point has been validated
        space.rehearse(found, wanted.trial, wanted.resources.workers)
    points.check_data(wanted)
    allocation.check_cluster(wanted)
    if rule := equivalence.own_line(wanted.trial):
        print(rule)
    for alike in points.alike(wanted):
        print(f"one trial under several labels: {', '.join(map(repr, alike))}")
    run = runs.Run.create(given.run or runs.unused(RUNS, wanted.name), "search", wanted.plain(), wanted.seed)
    if run.replaces:
        print(f"{run.path}: replaced; nothing had been asked in it")
    if found.file is not None:
        run.keep_space(found.file)
    with runs.beginning(run, launched=True):
        return _search(run, _opened(run, wanted))


def resume(given: argparse.Namespace) -> int:
    """Continues a search, or a full run, that was interrupted."""
    from tuner.commands import train as full_run
    from tuner.plan import jobs, spec
    from tuner.runs import run as runs
    from tuner.search import allocation

    jobs.require_kept(given.run, "run directory")
    run = runs.Run(given.run)
    try:
        wanted = spec.continued(run.spec, _settings(given))
    except UserError as error:
        again = (
            "; nothing was asked in this run yet, so it can be launched again with other settings, which replaces it"
        )
        raise UserError(f"{error}{again if run.untouched and not run.held() else ''}") from None
    allocation.check_cluster(wanted)
    run.hold()
    with runs.beginning(run, launched=False):
        study = _opened(run, wanted) if run.kind == "search" else None
        run.write_spec(wanted.plain())
        if changed := formats.news(run.format):
            print(f"{run.path.name}: {changed}", flush=True)
        return full_run.continue_run(run, wanted) if study is None else _search(run, study)


def _settings(given: argparse.Namespace) -> list[str]:
    """What the command line changes in a search."""
    return [*given.set, f"address={given.address}"] if given.address else given.set


def _opened(run: Any, wanted: Any) -> Any:
    """A run's study, to be gone on with.

    Raises:
        UserError: something in the run is damaged, or what defines the trials was changed.
    """
    from tuner.plan import points, space
    from tuner.search.study import Study

    run.check_journal()
    run.read_baseline()
    return Study(run.journal, wanted, points.load(wanted) if wanted.table else space.load(run.space(wanted.space)))


def _search(run: Any, study: Any) -> int:
    from tuner.fleet import bridge
    from tuner.plan import points
    from tuner.report import closing, export
    from tuner.report import view as report

    bridge.run_search(run, study)
    if study.spec.table:
        report.console().print(points.table_of(report.overview(run, study)))
    if not study.best(1):
        lacking = "point was completed with all of its seeds" if study.spec.table else "trial was completed"
        print(f"error: no {lacking}; see: tuner status {run.path}", file=sys.stderr)
        return 1
    exported = export.export(run, study, 3, run.best_folder / "best.yaml")
    print("\n".join(closing.lines(run, study, exported[0])))
    return 0


def status(given: argparse.Namespace) -> int:
    """Prints a run's table, or all of it as JSON."""
    from tuner.plan import points
    from tuner.report import view as report
    from tuner.runs import run as runs

    run = runs.Run(given.run)
    if run.kind == "train":
        raise UserError(f"{given.run}: is a full run, not a search; see: tensorboard --logdir {run.tensorboard_folder}")
    study = _study_of(run)
    state = report.overview(run, study)
    if given.json:
        print(json.dumps(state, indent=2), flush=True)
        return 0
    report.console().print(report.table_of(state, "running" if state["held"] else ""))
    if state["points"]:
        report.console().print(points.table_of(state))
    for row in state["trials"]:
        if row["error"]:
            print(f"trial {row['key']}: {row['error']}\n  log: {row['log']}")
    if state["waits"]:
        print(state["waits"])
    if not state["held"] and state["ended"] < state["trials_wanted"]:
        if alike := study.failed_alike():
            print(f"ended: {report.failed_alike(run, alike)}")
        elif run.untouched and (failure := run.manifest.get("failure")):
            print(report.failure_lines(failure))
        else:
            print(f"nobody runs it now; {report.resume_hint(run)}")
    return 0


def export_best(given: argparse.Namespace) -> int:
    """Writes the best configurations."""
    from tuner.plan import jobs
    from tuner.report import export
    from tuner.runs import run as runs

    jobs.require_kept(given.output, "--output")
    run = runs.Run(given.run)
    if run.kind == "train":
        raise UserError(f"{given.run}: is a full run, not a search: its configuration is {run.path / 'spec.yaml'}")
    study = _study_of(run)
    paths = export.export(run, study, given.top, given.output)
    for path in paths:
        print(path)
    if len(paths) < given.top:
        print(f"no more than {len(paths)} {'points' if study.spec.table else 'trials'} are complete", file=sys.stderr)
    return 0


def _study_of(run: Any) -> Any:
    """A run's study, to be looked at."""
    from tuner.plan import spec
    from tuner.search.study import Study

    run.check_journal()
    return Study(run.journal, spec.parse(run.spec), None, reading=True)


def train(given: argparse.Namespace) -> int:
    """Trains one configuration to its end."""
    from tuner.commands import train as full_run

    return full_run.start(given)


def evaluate(given: argparse.Namespace) -> int:
    """Scores a checkpoint."""
    from tuner.commands import evaluate as evaluation
    from tuner.plan import jobs

    if given.save:
        jobs.require_kept(given.save, "--save")
    return evaluation.evaluate(given)


def keys(given: argparse.Namespace) -> int:
    """Prints what can be set in a search, or in one of its sections."""
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    from trainables.config.listing import described_keys
    from tuner.plan import spec

    rows = [row for row in described_keys(spec.SearchSpec) if f"{row.name}.".startswith(given.section)]
    if not rows:
        raise UserError(
            f"{given.section}: no key begins so{nearest(given.section, filter(None, section_keys(spec.SearchSpec)))}"
        )
    if not sys.stdout.isatty():
        print("\n".join("\t".join(row) for row in rows), flush=True)
        return 0
    console = Console()
    for row in rows:
        console.print(Text.assemble((row.name, "bold"), f" = {row.default}" if row.default else ""))
        console.print(Padding(Text(row.rule, "cyan"), (0, 0, 0, 4)), Padding(Text(row.description), (0, 0, 0, 4)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tuner", description="Find the best teacher for a student-teacher learner.")
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        assert name in COMMANDS
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(command=run)
        return added

    def settable(added: argparse.ArgumentParser, example: str) -> None:
        added.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help=f"change a key, such as {example}; may be repeated",
        )

    added = command("launch", launch, "start a search")
    added.add_argument("search", type=Path, help="a search in YAML")
    settable(added, "trial.train.epochs=20")
    added.add_argument("--run", type=Path, help="run directory to make (default: runs/<name>)")
    added.add_argument("--address", help=ADDRESS)

    added = command("resume", resume, "continue an interrupted search or full run")
    added.add_argument("run", type=Path, help="its run directory")
    added.add_argument("--address", help="another Ray head than at the launch")
    settable(added, "trials=40, resources.workers=4 or trial.data.root=/new/place")

    added = command("status", status, "show what a search has come to")
    added.add_argument("run", type=Path, help="its run directory")
    added.add_argument("--json", action="store_true", help="everything, for programs")

    added = command("export", export_best, "write the best configurations of a search")
    added.add_argument("run", type=Path, help="its run directory")
    added.add_argument("--top", type=whole_number, default=1, help="how many")
    added.add_argument(
        "-o", "--output", type=Path, default=Path("best.yaml"), help="file of the best; the next get -2, -3, ..."
    )

    added = command("train", train, "train one configuration, as a full run")
    added.add_argument("config", type=Path, help="a TrialConfig in YAML, such as 'tuner export' writes")
    added.add_argument("--epochs", type=whole_number, help="instead of the configured number")
    added.add_argument(
        "--batch-size",
        type=whole_number,
        help="another batch; learning rate and momentum follow by the equivalence rule",
    )
    added.add_argument("--workers", type=whole_number, default=1)
    added.add_argument("--cpus-per-worker", type=whole_number, default=1)
    added.add_argument("--gpus-per-worker", type=float, default=0)
    settable(added, "data.root=/data/cifar10")
    added.add_argument("--run", type=Path, help="run directory to make (default: runs/train-<name of the file>)")
    added.add_argument("--address", help=ADDRESS)

    added = command("evaluate", evaluate, "score a checkpoint: kNN, linear, fine-tuning, corruptions, ...")
    added.add_argument(
        "checkpoint", type=Path, help="a checkpoint file, a trial's folder (its newest), or a run (its best trial)"
    )
    added.add_argument(
        "--protocol",
        nargs="+",
        metavar="NAME",
        help="what it is scored by: knn and linear (default), finetune, label_free, classifier, online, corruptions; "
        "'tuner keys trial.evaluation' lists their settings. Scores called 'best' are chosen on the split that they are measured on",
    )
    added.add_argument(
        "--against", type=Path, metavar="CHECKPOINT", help="another one (B) beside the first (A), and B - A"
    )
    added.add_argument("--split", choices=["test", "validation"], default="test")
    added.add_argument("--network", choices=["student", "teacher"], help="instead of the trial's own choice")
    added.add_argument(
        "--save",
        type=Path,
        metavar="FILE",
        help="write backbone and linear classifier for a torchvision ResNet (safetensors)",
    )
    settable(added, "data.root=/new/place, evaluation.linear.recipe=eman or data.labels.per_class=10")
    added.add_argument("--json", action="store_true")

    added = command("keys", keys, "list what can be set in a search")
    added.add_argument("section", nargs="?", default="", help="such as trial.teacher")
    return parser


warnings.filterwarnings("ignore", category=FutureWarning, module="ray")

if __name__ == "__main__":
    sys.exit(main())
