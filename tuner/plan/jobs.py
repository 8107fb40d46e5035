"""What holds inside of a Ray job: its command runs in a copy of the user's folder.

Ray deletes the copy when no job uses it any more.
"""

import json
import os
from pathlib import Path

from trainables.config.errors import UserError
from trainables.config.trial import TrialConfig

MARK = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it for the command of a job, and for nothing else: not for its workers
COPIES = ("runtime_resources", "working_dir_files")  # Ray's folder of copies, below that of its session
DELETED = "the working folder of a Ray job is a copy that Ray deletes"


def inside() -> bool:
    """Whether this process is the command of a Ray job."""
    return MARK in os.environ


def default_address() -> str:
    """Where a search runs that names no address: on the cluster of its job, else on a Ray of its own.

    A Ray of its own could not even start there: it would try to fetch the job's working folder, which only the cluster
    has.
    """
    return "auto" if inside() else "local"


def variables() -> set[str]:
    """Names of the environment variables that the job sets for its workers.

    Ray refuses to start where a driver sets one of them, too.
    """
    return set(json.loads(os.environ[MARK]).get("runtime_env", {}).get("env_vars", {})) if inside() else set()


def require_kept(path: Path | None, option: str) -> None:
    """Refuses to write to what Ray deletes after the job.

    Args:
        path: what is to be written; None: the default, a relative path.
        option: of the command line that says where.

    Raises:
        UserError: inside of a job the path is relative, or lies in the job's working folder.
    """
    if not inside() or (path is not None and path.is_absolute() and not _is_copy(path)):
        return
    rule = f"{DELETED}, so inside of a job this must be an absolute path outside of it, such as /shared/runs/name"
    raise UserError(f"{option}{'' if path is None else f' {path}'}: {rule}")


def require_inputs_kept(trial: TrialConfig) -> None:
    """Refuses files in the job's working folder that a trial reads: a resume would not find them any more.

    Raises:
        UserError: inside of a job a folder or a file of the data, or the file of `init`, lies there.
    """
    data = trial.data
    read = {
        "data.root": data.root,
        "data.labels.file": data.labels.file,
        "data.classes": data.classes,
        "init.path": trial.init.path,
    }
    for key, path in read.items():
        if inside() and isinstance(path, Path) and _is_copy(path):
            raise UserError(f"{key} = '{path}': {DELETED}; give an absolute path that all nodes see and that stays")


def _is_copy(path: Path) -> bool:
    """Whether a path lies in a copy that Ray made for a job."""
    parts = path.resolve().parts
    return any(parts[at : at + len(COPIES)] == COPIES for at in range(len(parts)))
