"""The run directory: the only file that knows its layout.

spec.yaml  manifest.json  journal.log        what was asked for, with what, and all that was asked and told
space.py                                     a user's space, as it was at the launch
trials/<key>/                                checkpoints, a log for each worker, a picture of the views, and traces
tensorboard/<key> <in brief>/                curves and hparams; untrained/ what belongs to the search as a whole
best/                                        the best configurations, best first
logs/                                        the driver's log
fleet.json                                   the slots of the search, as its driver last saw them
requests/                                    what other processes ask of the driver
checkpoints/                                 of an evaluation, while it goes on: what it scores

What Ray Tune and Ray Train write is thrown away with the session. It lies in a temporary folder of the driver's node,
so a full disc under the run directory breaks neither of them, and they leave nothing behind.
"""

import contextlib
import json
import re
import shutil
import tempfile
import time
from pathlib import Path

import yaml

from trainables.config import formats
from trainables.config.errors import UserError
from trainables.config.settings import read_yaml
from trainables.running.checkpoint_files import VIEWS
from tuner.runs import manifest as manifests
from tuner.runs.files import write_atomically
from tuner.runs.lock import Lock
from tuner.runs.manifest import Content, Kind
from tuner.runs.requests import Requests
from tuner.runs.session_folder import SessionFolder

RUNS = Path("runs")  # where runs are made by default
SPACE_COPY = "space.py"
DELETED_NOTE = "checkpoints-deleted.txt"  # in a trial's folder: why it has no checkpoints any more
BASELINE = "untrained"  # key of the untrained encoder, which is scored before a trial is asked
EXPORTED = 3  # how many of the best configurations a search writes at its end
FULL = "full"  # key of the only trial of a full run
OWN = {"spec.yaml", "manifest.json", "journal.log", "journal.log.lock", "lock", "untrained.json", SPACE_COPY}
OWN |= {"trials", "tensorboard", "best", "logs", "ray", "requests", "fleet.json"}
ASKED = re.compile(rb'^\{"op_code": ?4,', re.MULTILINE)  # the beginning of a journal's line that holds a new trial


class Run:
    """A run directory; `create` makes one, `Run(path)` opens one.

    Attributes:
        path: of the directory.
        manifest: what made it, with which versions, on which machines.
        kind: "search" or "train".
        format: of its files.
        replaces: whether it took the place of another run, in which nothing was asked.

    Args:
        path: of the directory.

    Raises:
        UserError: the folder is no run.
    """

    def __init__(self, path: Path):
        self.path = path.absolute()
        self.manifest = manifests.read(path)
        self.kind: Kind = self.manifest["kind"]
        self.format = manifests.format_of(self.manifest)
        self.replaces = False
        self._lock = Lock(self.path)
        self._ray: SessionFolder | None = None

    @classmethod
    def create(cls, path: Path, kind: Kind, content: Content, seed: int) -> "Run":
        """Makes the directory with its spec and manifest, held by this process.

        A run in which nothing was asked gives way to it. The new run is held before it can be seen: otherwise another
        launch would find a run in which nothing was asked, and replace it.

        Args:
            path: of the directory.
            kind: of the run.
            content: the spec, as nested plain values.
            seed: of the search, or of the full run's trial.

        Raises:
            UserError: something else is there already.
        """
        path = path.absolute()
        if Path.cwd().is_relative_to(path):
            raise UserError(f"{path}: is the folder you are in, or holds it; choose another with --run")
        before = cls._of_no_use(path) if path.exists() and not (path.is_dir() and not any(path.iterdir())) else None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        except OSError as error:
            raise UserError(f"{path}: cannot be made ({error.strerror})") from None
        draft.chmod(0o755)
        try:
            for folder in ("trials", "tensorboard", "best", "logs"):
                (draft / folder).mkdir()
            (draft / "journal.log").touch()
            write_atomically(draft / "spec.yaml", yaml.safe_dump(content, sort_keys=False))
            manifests.write(draft, manifests.made(kind, seed))
            made = cls(draft)
            made.hold()
            if before is not None:
                path.rename(aside := draft.with_name(f"{draft.name}-before"))
            draft.rename(path)  # it is there as a whole or not at all; the lock goes with it
        except OSError as error:
            shutil.rmtree(draft, ignore_errors=True)
            raise UserError(f"{path}: cannot be made ({error.strerror})") from None
        made.path = made._lock.folder = path
        if before is not None:
            shutil.rmtree(aside)
            made.replaces = True
        return made

    @classmethod
    def _of_no_use(cls, path: Path) -> "Run":
        """The run at a path, held by this process, if nothing was asked in it and it has no foreign files.

        Raises:
            UserError: something else is there.
        """
        try:
            run = cls(path)
        except UserError:
            raise UserError(
                f"{path}: already exists, and is no run that can be read; choose another with --run"
            ) from None
        if not run.untouched:
            raise UserError(
                f"{path}: already exists; continue it with 'tuner resume {path}', or choose another with --run"
            )
        run.hold()
        return run

    @property
    def untouched(self) -> bool:
        """Whether no trial was asked in it, nothing trained, and nothing put there by others: it can be launched again.

        A journal that is missing or damaged does not say so.
        """
        if self.asked():
            return False
        try:
            whole = all(isinstance(json.loads(line), dict) for line in self.journal.read_bytes().splitlines())
            folders = [folder for folder in (self.path / "trials").iterdir() if folder.name != BASELINE]
            trained = any(self.kind == "search" or any(folder.glob("step-*")) for folder in folders)
            own = OWN | ({"checkpoints"} if self.kind == "evaluate" else set())
            return whole and not trained and {entry.name for entry in self.path.iterdir()} <= own
        except (OSError, ValueError):
            return False

    def discard(self) -> None:
        """Removes a run, unless something has been asked or trained in it, or the untrained encoder has left a log."""
        if self.untouched and not any((self.path / "trials").iterdir()):
            shutil.rmtree(self.path)

    def note_failure(self, reason: str) -> None:
        """Records in the manifest why it ended before anything was asked."""
        self.manifest["failure"] = reason
        manifests.write(self.path, self.manifest)

    def asked(self) -> int:
        """How many trials the journal holds, by its lines: also of a journal that Optuna cannot read."""
        return len(ASKED.findall(self.journal.read_bytes())) if self.journal.is_file() else 0

    def check_journal(self) -> None:
        """Refuses a journal that lacks trials which have a folder: a search would ask for them again.

        Raises:
            UserError: the journal is missing, was emptied, or is older than the trials.
        """
        folders = [folder.name for folder in (self.path / "trials").glob("*") if re.fullmatch(r"\d{4,}", folder.name)]
        if unknown := [name for name in sorted(folders) if int(name) >= self.asked()]:
            what = f"{'does not know' if self.journal.is_file() else 'is missing, and with it'} trial {unknown[0]}"
            advice = "put the whole journal back from a copy, or launch the search again with another --run"
            raise UserError(f"{self.journal}: {what}, which has a folder in trials; {advice}")

    def keep_space(self, file: Path) -> None:
        """Copies a user's space, so that the run does not depend on a file that may move or change."""
        shutil.copy(file, self.path / SPACE_COPY)

    def space(self, name: str) -> str:
        """The name under which the run's space is loaded: the copy of a user's file, or a space of the package.

        Args:
            name: of the space in the run's spec.
        """
        if ".py" not in name:
            return name
        function = name.rpartition(":")[2] if not name.endswith(".py") else "suggest"
        return f"{self.path / SPACE_COPY}:{function}"

    @property
    def spec(self) -> Content:
        """What was asked for, as nested values. Keys that are newer than the run get the value that held then.

        Raises:
            UserError: the file is missing or damaged.
        """
        return formats.search_as_written(read_yaml(self.path / "spec.yaml"), self.format)

    def write_spec(self, content: Content) -> None:
        write_atomically(self.path / "spec.yaml", yaml.safe_dump(content, sort_keys=False))

    @property
    def journal(self) -> Path:
        return self.path / "journal.log"

    @property
    def driver_log(self) -> Path:
        return self.path / "logs" / "driver.log"

    @property
    def ray_folder(self) -> Path:
        """Where Ray Tune and Ray Train write in this session, on this node; `clear` removes it."""
        self._ray = self._ray or SessionFolder()
        return self._ray.path

    @property
    def fleet_file(self) -> Path:
        """Where the driver says what its slots do."""
        return self.path / "fleet.json"

    @property
    def requests(self) -> Requests:
        """What other processes ask of the driver that holds the run."""
        return Requests(self.path / "requests")

    def clear(self) -> None:
        """Removes what Ray wrote in this session."""
        if self._ray is not None:
            self._ray.clear()
            self._ray = None

    @property
    def tensorboard_folder(self) -> Path:
        return self.path / "tensorboard"

    @property
    def best_folder(self) -> Path:
        return self.path / "best"

    @property
    def checkpoints_folder(self) -> Path:
        """Where an evaluation has the checkpoints that it scores, while it goes on."""
        return self.path / "checkpoints"

    def trial_folder(self, key: str) -> Path:
        return self.path / "trials" / key

    def trial_views(self, key: str) -> Path:
        """The picture of the views that a trial is trained on."""
        return self.trial_folder(key) / VIEWS

    def trial_log(self, key: str, error: str = "") -> Path:
        """The log of the worker that an error names, or else of the first worker; the others' are beside it."""
        named = re.search(r"\(worker (\d+)\)", error)
        return self.trial_folder(key) / f"rank-{named[1] if named else 0}.log"

    def hold(self) -> None:
        """Takes the run for this process, until it ends.

        Raises:
            UserError: another process holds it.
        """
        self._lock.take()
        self.requests.clear()

    def note(self, waits: str) -> None:
        """Notes for readers what a search that this process runs waits for; nothing where it does not wait."""
        self._lock.note(waits)

    def waits(self) -> str:
        """What the process that runs it now waits for; empty where it does not wait, or where there is none."""
        return self._lock.noted()

    def held(self) -> bool:
        """Whether a process runs it now."""
        return self._lock.held()

    def abandoned(self) -> bool:
        """Whether the process that ran it is gone for sure."""
        return self._lock.abandoned()

    def read_baseline(self) -> dict[str, float] | None:
        """Scores of the untrained encoder, once they were measured.

        Raises:
            UserError: the file is damaged.
        """
        path = self.path / "untrained.json"
        if not path.is_file():
            return None
        try:
            scores = json.loads(path.read_text())
            numbers = [value for name, value in scores.items() if name not in ("trial", "slot")]
        except (ValueError, AttributeError):
            numbers = [None]
        if not all(isinstance(number, int | float) for number in numbers):
            raise UserError(
                f"{path}: is damaged; put the whole file back, or remove it and it is measured again by 'tuner resume'"
            )
        return scores

    def write_baseline(self, metrics: dict[str, float]) -> None:
        write_atomically(self.path / "untrained.json", json.dumps(metrics))

    def note_hardware(self, nodes: list[dict[str, float]]) -> None:
        """Adds what the nodes of the cluster had, and when, to the manifest."""
        self.manifest.setdefault("sessions", []).append({"started": time.time(), "nodes": nodes})
        manifests.write(self.path, self.manifest)


def note_deleted(folder: Path, why: str) -> None:
    """Notes in a trial's folder why it has no checkpoints any more; on a full disc nothing is noted."""
    with contextlib.suppress(OSError):
        (folder / DELETED_NOTE).write_text(f"{why}\n")


def why_deleted(folder: Path) -> str:
    """Why a trial's folder has no checkpoints any more; empty where none were deleted."""
    try:
        return (folder / DELETED_NOTE).read_text().strip()
    except OSError:
        return ""


def format_of_search(path: Path) -> int:
    """Returns the format of a search's file: that of the run whose spec it is, today's format for any other file.

    Raises:
        UserError: the run is damaged.
    """
    of_run = path.name == "spec.yaml" and path.with_name("manifest.json").is_file()
    return Run(path.parent).format if of_run else formats.FORMAT
