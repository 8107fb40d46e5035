"""The program `tuner`: parses its arguments and imports the command, a module of this folder, that runs them."""

import argparse
import importlib
import os
import sys
import warnings
from pathlib import Path
from typing import NoReturn

from trainables.config.errors import BrokenOff, TrialFailure, UserError, nearest
from trainables.config.settings import whole_number
from trainables.running import surroundings

COMMANDS = ("launch", "resume", "status", "export", "train", "evaluate", "simulate", "keys")
ADDRESS = "'local' (default), 'auto' (default inside of a Ray job) or host:port of a Ray head"


def main(arguments: list[str] | None = None) -> int:
    """Runs a command.

    Returns:
        The exit status: 2 for an error of the user, with a printed line for each fault; 1 for a trial that failed, or
        where no trial is complete; 3 where the machine or the cluster broke the command off, with a line that says
        what to do; 130 for an interruption.
    """
    parser = _parser()
    first, *_ = [*(sys.argv[1:] if arguments is None else arguments), ""]
    if first and not first.startswith("-") and first not in COMMANDS:
        parser.error(f"no command is named {first!r}{nearest(first, COMMANDS)}")
    given = parser.parse_args(arguments)
    try:
        return importlib.import_module(f"tuner.commands.{given.command}").run(given)
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
    """Ends the process at once: workers are in the middle of an epoch, and Ray may be gone.

    A local Ray ends with its driver.
    """
    print(last, file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(status)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tuner", description="Find the best teacher for a student-teacher learner.")
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        assert name in COMMANDS
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(command=name)
        return added

    def settable(added: argparse.ArgumentParser, example: str) -> None:
        added.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help=f"change a key, such as {example}; may be repeated",
        )

    added = command("launch", "start a search")
    added.add_argument("search", type=Path, help="a search in YAML")
    settable(added, "trial.train.epochs=20")
    added.add_argument("--run", type=Path, help="run directory to make (default: runs/<name>)")
    added.add_argument("--address", help=ADDRESS)

    added = command("resume", "continue an interrupted search or full run")
    added.add_argument("run", type=Path, help="its run directory")
    added.add_argument("--address", help="another Ray head than at the launch")
    settable(added, "trials=40, resources.workers=4 or trial.data.root=/new/place")

    added = command("status", "show what a search has come to")
    added.add_argument("run", type=Path, help="its run directory")
    added.add_argument("--json", action="store_true", help="everything, for programs")

    added = command("export", "write the best configurations of a search")
    added.add_argument("run", type=Path, help="its run directory")
    added.add_argument("--top", type=whole_number, default=1, help="how many")
    added.add_argument(
        "-o", "--output", type=Path, default=Path("best.yaml"), help="file of the best; the next get -2, -3, ..."
    )

    added = command("train", "train one configuration, as a full run")
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

    added = command("evaluate", "score a checkpoint: kNN, linear, fine-tuning, corruptions, ...")
    added.add_argument(
        "checkpoint", type=Path, help="a checkpoint file, a trial's folder (its newest), or a run (its best trial)"
    )
    added.add_argument(
        "--protocol",
        nargs="+",
        metavar="NAME",
        help="what it is scored by: knn and linear (default), finetune, label_free, classifier, online, corruptions; "
        "'tuner keys trial.evaluation' lists their settings. "
        "Scores called 'best' are chosen on the split that they are measured on",
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

    added = command("simulate", "show what a search would do, against recorded curves")
    added.add_argument("search", type=Path, help="a search in YAML")
    added.add_argument(
        "--curves", type=Path, required=True, metavar="FILE|RUN", help="curves in Parquet, or the run of another search"
    )
    added.add_argument("--slots", type=whole_number, default=1, help="how many trials run at once (default: 1)")
    added.add_argument("--pool", action="store_true", help="choose among the recorded trials only")
    added.add_argument("--replay", action="store_true", help="follow the order of events in the run")
    settable(added, "stopping.reduction=4")
    added.add_argument("--json", action="store_true", help="everything, for programs")

    added = command("keys", "list what can be set in a search")
    added.add_argument("section", nargs="?", default="", help="such as trial.teacher")
    return parser


warnings.filterwarnings("ignore", category=FutureWarning, module="ray")

if __name__ == "__main__":
    sys.exit(main())
