"""The run directory: the only file that knows its layout.

spec.yaml  manifest.json  journal.log       what was asked for, with what, and all that was asked and told
trials/<key>/                                checkpoints and a log for each worker
tensorboard/<key>/                           curves and hparams
best/                                        the best configurations, best first
logs/  ray/                                  the driver's log; what Ray itself writes
"""

import fcntl
import json
import os
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import yaml

from trainables.errors import UserError

PACKAGES = ("teacher-tuner", "torch", "torchvision", "ray", "optuna", "pydantic", "numpy", "pyarrow")
Kind = Literal["search", "train"]


class Run:
    """A run directory; `create` makes one, `Run(path)` opens one.

    Raises:
        UserError: the folder is no run.
    """

    def __init__(self, path: Path):
        self.path = path.absolute()
        if not (self.path / "manifest.json").is_file():
            raise UserError(f"{path}: {'no run directory (it has no manifest.json)' if path.exists() else 'no such run directory'}")
        self.manifest: dict[str, Any] = json.loads((self.path / "manifest.json").read_text())
        self._lock: Any = None

    @classmethod
    def create(cls, path: Path, kind: Kind, content: dict[str, Any], seed: int) -> "Run":
        """Makes the directory with its spec and manifest.

        Raises:
            UserError: something is there already.
        """
        if path.exists() and any(path.iterdir()):
            raise UserError(f"{path}: already exists; continue it with 'tuner resume {path}', or choose another with --run")
        for folder in ("trials", "tensorboard", "best", "logs", "ray"):
            (path / folder).mkdir(parents=True, exist_ok=True)
        (path / "journal.log").touch()
        write_atomically(path / "spec.yaml", yaml.safe_dump(content, sort_keys=False))
        write_atomically(path / "manifest.json", json.dumps(_manifest(kind, seed), indent=2))
        return cls(path)

    @property
    def kind(self) -> Kind:
        return self.manifest["kind"]

    @property
    def spec(self) -> dict[str, Any]:
        return yaml.safe_load((self.path / "spec.yaml").read_text())

    @property
    def journal(self) -> Path:
        return self.path / "journal.log"

    @property
    def driver_log(self) -> Path:
        return self.path / "logs" / "driver.log"

    @property
    def ray_folder(self) -> Path:
        return self.path / "ray"

    @property
    def tensorboard_folder(self) -> Path:
        return self.path / "tensorboard"

    @property
    def best_folder(self) -> Path:
        return self.path / "best"

    def trial_folder(self, key: str) -> Path:
        return self.path / "trials" / key

    def trial_log(self, key: str) -> Path:
        """The log of a trial's first worker; the others' are beside it."""
        return self.trial_folder(key) / "rank-0.log"

    def hold(self) -> None:
        """Takes the run for this process, until it ends: two drivers on one journal would ask and tell twice.

        Raises:
            UserError: another process holds it.
        """
        self._lock = (self.path / "lock").open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.seek(0)
            raise UserError(f"{self.path}: is being run by process {self._lock.read().strip() or '?'} already") from None
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()

    def held(self) -> bool:
        """Whether a process runs it now."""
        try:
            with (self.path / "lock").open("a+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return False
        except OSError:
            return True

    def read_baseline(self) -> dict[str, float] | None:
        """Scores of the untrained encoder, once they were measured."""
        path = self.path / "untrained.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def write_baseline(self, metrics: dict[str, float]) -> None:
        write_atomically(self.path / "untrained.json", json.dumps(metrics))

    def note_hardware(self, resources: dict[str, float]) -> None:
        """Adds what the cluster had, and when, to the manifest."""
        self.manifest.setdefault("sessions", []).append({"started": time.time(), "cluster": resources})
        write_atomically(self.path / "manifest.json", json.dumps(self.manifest, indent=2))


def unused(folder: Path, name: str) -> Path:
    """The first of name, name-2, name-3, ... that is not in `folder`."""
    candidates = [folder / name, *(folder / f"{name}-{n}" for n in range(2, 10_000))]
    return next(path for path in candidates if not path.exists())


def write_atomically(path: Path, text: str) -> None:
    """Readers see the old text or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)


def _manifest(kind: Kind, seed: int) -> dict[str, Any]:
    return {
        "kind": kind,
        "created": time.time(),
        "seed": seed,
        "commit": _commit(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "hardware": {"machine": platform.platform(), "processor": platform.processor() or platform.machine(), "cpus": os.cpu_count()},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of this program's checkout; None where it was installed without one."""
    try:
        answer = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None
