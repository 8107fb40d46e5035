"""The arguments of the program `tuner`: a function for each command."""

import argparse
from collections.abc import Callable
from pathlib import Path

from trainables.config.sections import WIDEST
from trainables.config.settings import whole_number
from tuner.plan.resources import DURATION, seconds_of

CHANGEABLE = ("resources.max_slots", "storage.limit")  # keys that may change while a search runs
WAIT = "how long to wait for a cluster that has no room yet, such as 90s or 10m (default); 0s: do not wait"
ADDRESS = "'local' (default), 'auto' (default inside of a Ray job) or host:port of a Ray head"


def parser() -> argparse.ArgumentParser:
    """The parser of the program; what it returns has the name of a command as `command`."""
    program = argparse.ArgumentParser(prog="tuner", description="Find the best teacher for a student-teacher learner.")
    commands = program.add_subparsers(required=True, metavar="command")
    for name, (text, add) in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(command=name)
        add(command)
    return program


def _duration(text: str) -> float:
    """The seconds of a duration such as 90s, 10m or 2h."""
    if not DURATION.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r}: must be a duration, such as 0s, 90s, 10m or 2h")
    return seconds_of(text)


def _slot_size(text: str) -> int:
    """The number of workers of a slot that scores protocols; a range such as 1-2 is refused."""
    if "-" in text.lstrip("-"):
        rule = "must be one number: each protocol takes a slot of so many workers; more slots score more at once"
        raise argparse.ArgumentTypeError(f"'{text}': {rule}")
    return whole_number(text)


def _classes(text: str) -> int:
    """A number of classes: a classifier has a unit for each."""
    return whole_number(text, WIDEST)


def _settable(command: argparse.ArgumentParser, example: str) -> None:
    text = f"change a key, such as {example}; may be repeated"
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=text)


def _launch(command: argparse.ArgumentParser) -> None:
    command.add_argument("search", type=Path, help="a search in YAML")
    _settable(command, "trial.train.epochs=20")
    command.add_argument("--run", type=Path, help="run directory to make (default: runs/<name>)")
    command.add_argument("--address", help=ADDRESS)
    command.add_argument("--wait", type=_duration, metavar="DURATION", help=WAIT)


def _resume(command: argparse.ArgumentParser) -> None:
    command.add_argument("run", type=Path, help="its run directory")
    command.add_argument("--address", help="another Ray head than at the launch")
    command.add_argument("--wait", type=_duration, metavar="DURATION", help=WAIT)
    _settable(command, "trials=40, resources.workers=4 or trial.data.root=/new/place")


def _status(command: argparse.ArgumentParser) -> None:
    command.add_argument("run", type=Path, help="its run directory")
    command.add_argument("--json", action="store_true", help="everything, for programs")


def _export(command: argparse.ArgumentParser) -> None:
    command.add_argument("run", type=Path, help="its run directory")
    command.add_argument("--top", type=whole_number, default=1, help="how many")
    text = "file of the best; the next get -2, -3, ..."
    command.add_argument("-o", "--output", type=Path, default=Path("best.yaml"), help=text)


TRIAL = "only this trial, such as 3 or 0003"


def _pause(command: argparse.ArgumentParser) -> None:
    command.add_argument("run", type=Path, help="run directory of a search, or of a full run, that runs now")
    command.add_argument("--trial", metavar="KEY", help=f"{TRIAL}; its slots serve others until it goes on")
    command.add_argument("--off", action="store_true", help="has the trial go on")


def _stop(command: argparse.ArgumentParser) -> None:
    command.add_argument("run", type=Path, help="run directory of a search that runs now")
    command.add_argument("--trial", metavar="KEY", help=TRIAL)


def _set(command: argparse.ArgumentParser) -> None:
    command.add_argument("run", type=Path, help="run directory of a search that runs now")
    text = f"what is to change: {', '.join(CHANGEABLE)}; such as {CHANGEABLE[0]}=4; =none or =null removes the limit"
    command.add_argument("settings", nargs="+", metavar="KEY=VALUE", help=text)


def _train(command: argparse.ArgumentParser) -> None:
    command.add_argument("config", type=Path, help="a TrialConfig in YAML, such as 'tuner export' writes")
    command.add_argument("--epochs", type=whole_number, help="instead of the configured number")
    text = "another batch; learning rate and momentum follow by the equivalence rule"
    command.add_argument("--batch-size", type=whole_number, help=text)
    command.add_argument("--workers", default="1", help="a number, or the smallest and the largest, such as 2-8")
    command.add_argument("--cpus-per-worker", type=whole_number, default=1)
    command.add_argument("--gpus-per-worker", type=float, default=0)
    _settable(command, "data.root=/data/cifar10")
    command.add_argument("--run", type=Path, help="run directory to make (default: runs/train-<name of the file>)")
    command.add_argument("--address", help=ADDRESS)
    command.add_argument("--wait", type=_duration, metavar="DURATION", help=WAIT)


def _evaluate(command: argparse.ArgumentParser) -> None:
    text = "a checkpoint file, a trial's folder (its newest), or a run (its best trial)"
    command.add_argument("checkpoint", type=Path, help=text)
    text = (
        "what it is scored by: knn and linear (default), finetune, label_free, classifier, online, corruptions; "
        "'tuner keys trial.evaluation' lists their settings. "
        "Scores called 'best' are chosen on the split that they are measured on"
    )
    command.add_argument("--protocol", nargs="+", metavar="NAME", help=text)
    text = "another one (B) beside the first (A), and B - A"
    command.add_argument("--against", type=Path, metavar="CHECKPOINT", help=text)
    command.add_argument("--split", choices=["test", "validation"], default="test")
    command.add_argument("--network", choices=["student", "teacher"], help="instead of the trial's own choice")
    text = "write backbone and linear classifier for a torchvision ResNet (safetensors)"
    command.add_argument("--save", type=Path, metavar="FILE", help=text)
    _settable(command, "data.root=/new/place, evaluation.linear.recipe=eman or data.labels.per_class=10")
    text = "score on slots of a Ray cluster, each of so many workers (one number), instead of in this process"
    command.add_argument("--workers", type=_slot_size, help=text)
    command.add_argument("--cpus-per-worker", type=whole_number, default=1)
    command.add_argument("--gpus-per-worker", type=float, default=0)
    command.add_argument("--address", help=f"score on slots of this cluster: {ADDRESS}")
    text = "directory that all nodes see, for logs and a link to the checkpoint (default: a hidden one beside it)"
    command.add_argument("--run", type=Path, help=text)
    command.add_argument("--wait", type=_duration, metavar="DURATION", help=WAIT)
    command.add_argument("--json", action="store_true")


def _figure(command: argparse.ArgumentParser) -> None:
    text = "a trial's folder, such as runs/search/trials/0000, or a run (its traced trials); several stand side by side"
    command.add_argument("trial", type=Path, nargs="+", help=text)
    text = (
        "gradients (largest at the output of each block and of the projector, by step), filters (paths of the rows of "
        "a projector's last layer in their plane) or coordinates (of these rows, by step)"
    )
    command.add_argument("--kind", required=True, help=text)
    command.add_argument("--network", choices=["student", "teacher"], help="whose filters (default: student)")
    text = "what is written above each trial, instead of its key and momentum"
    command.add_argument("--title", nargs="+", metavar="TEXT", help=text)
    command.add_argument("-o", "--output", type=Path, metavar="FILE", help="a .png (default: <kind>.png)")


def _simulate(command: argparse.ArgumentParser) -> None:
    command.add_argument("search", type=Path, help="a search in YAML")
    text = "curves in Parquet, or the run of another search"
    command.add_argument("--curves", type=Path, required=True, metavar="FILE|RUN", help=text)
    command.add_argument("--slots", type=whole_number, help="how many trials run at once (default: 1)")
    command.add_argument("--pool", action="store_true", help="choose among the recorded trials only")
    command.add_argument("--replay", action="store_true", help="follow the order of events in the run")
    _settable(command, "stopping.reduction=4")
    command.add_argument("--json", action="store_true", help="everything, for programs")


def _doctor(command: argparse.ArgumentParser) -> None:
    command.add_argument("search", nargs="?", type=Path, metavar="spec", help="a search in YAML that is to run")
    _settable(command, "resources.workers=4")
    command.add_argument("--run", type=Path, help="run directory that is to be made (default: runs/<name>)")
    command.add_argument("--address", help=ADDRESS)
    command.add_argument("--json", action="store_true", help="everything, for programs")


def _cost(command: argparse.ArgumentParser) -> None:
    text = "a trial or a search in YAML, such as a table of a paper; or a run, or a trial's folder in it"
    command.add_argument("trial", type=Path, help=text)
    command.add_argument("--row", metavar="NAME", help="only this row of a table, or this trial of a run")
    text = "of data that are not there; else they are counted there"
    command.add_argument("--classes", type=_classes, help=text)
    text = "also make a few steps on the CPU or the first GPU: seconds and memory of a step"
    command.add_argument("--measure", action="store_true", help=text)
    _settable(command, "teacher.placement=projector (of a search: trial.teacher.placement=projector)")
    command.add_argument("--json", action="store_true", help="everything, for programs")


def _papers(command: argparse.ArgumentParser) -> None:
    text = "a table, such as placement_table1: the paper's numbers beside those of each run of it"
    command.add_argument("name", nargs="?", metavar="NAME", help=text)
    command.add_argument("--runs", type=Path, metavar="DIR", help="where runs are looked for (default: runs)")
    command.add_argument("--json", action="store_true", help="everything, for programs")
    text = "run the table in minutes, without its data: digits, tiny networks, two epochs, one seed"
    command.add_argument("--toy", action="store_true", help=text)
    _settable(command, "seeds=2; with --toy")
    command.add_argument("--run", type=Path, help="run directory to make (default: runs/NAME-toy); with --toy")
    command.add_argument("--address", help=f"{ADDRESS}; with --toy")
    command.add_argument("--wait", type=_duration, metavar="DURATION", help=f"{WAIT}; with --toy")


def _keys(command: argparse.ArgumentParser) -> None:
    command.add_argument("section", nargs="?", default="", help="such as trial.teacher")


COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "launch": ("start a search", _launch),
    "resume": ("continue an interrupted search or full run", _resume),
    "pause": ("have a search make checkpoints and stop for now, or one of its trials", _pause),
    "stop": ("end a search with what it has come to, or one of its trials", _stop),
    "set": ("change a search while it runs", _set),
    "status": ("show what a search has come to, or how far a full run is", _status),
    "export": ("write the best configurations of a search", _export),
    "train": ("train one configuration, as a full run", _train),
    "evaluate": ("score a checkpoint: kNN, linear, fine-tuning, corruptions, ...", _evaluate),
    "figure": ("draw what trials have traced within their epochs (trial.monitors.every)", _figure),
    "simulate": ("show what a search would do, against recorded curves", _simulate),
    "doctor": ("look at machine, cluster, storage and what a trial needs", _doctor),
    "cost": ("count what a step of a trial computes and holds, without data", _cost),
    "papers": ("list the papers' tables and what was run of them, show one, or try one out", _papers),
    "keys": ("list what can be set in a search", _keys),
}
"""Each command by its name, which is also that of its module: what it does, and its arguments."""
