"""What a machine has, and what it sees of the files of a search. Needs no Ray: a task on each node calls it.

`python -m tuner.fleet.facts` answers `Questions` in JSON from standard input for the machine that it runs on.
"""

import dataclasses
import fcntl
import hashlib
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from importlib import metadata, util
from pathlib import Path
from typing import Any

from trainables.data.files import cache_folder

PACKAGES = ("teacher-tuner", "torch", "torchvision", "ray", "optuna", "numpy")
COUNTING = 20.0  # seconds for counting the files of the data
GPU_QUESTIONS = 60.0  # seconds for torch to start and to say which GPUs there are
ASK_TORCH = """
import json, torch
there = torch.cuda.is_available()
print(json.dumps({"cuda": torch.version.cuda, "nccl": ".".join(map(str, torch.cuda.nccl.version())) if there else None,
                  "gpus": [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]}))
"""


@dataclass(frozen=True)
class Questions:
    """What a machine is asked about the files of a search.

    Attributes:
        token: a file that the asking process has written into the storage of runs, and whose lock it holds.
        secret: the content of that file.
        data: folders and files that the trials read.
        cache: the folder of decoded images; None for a machine's default.
    """

    token: str = ""
    secret: str = ""
    data: tuple[str, ...] = ()
    cache: str | None = None


@dataclass(frozen=True)
class Gpus:
    """GPUs as torch and the driver see them.

    Attributes:
        driver: version of NVIDIA's driver; None where there is none.
        seen: names of the GPUs by the driver.
        usable: names of the GPUs by torch.
        cuda: version that torch was built for; None for a build without CUDA.
        nccl: version that torch uses; None where it can use no GPU.
    """

    driver: str | None = None
    seen: tuple[str, ...] = ()
    usable: tuple[str, ...] = ()
    cuda: str | None = None
    nccl: str | None = None


@dataclass(frozen=True)
class Facts:
    """What a machine has and sees.

    Attributes:
        host: its name.
        versions: of Python and of packages; None for a package that is missing.
        code: a digest of this program's source files.
        cpus: that processes may use.
        quota: CPUs that the container may use at once; None where that is not limited.
        memory: bytes that processes may use.
        available: bytes of it that are free now.
        gpus: its GPUs.
        shared: whether it reads the token of the questions; None where there is no token.
        locked: whether it sees that the token is locked; None where it does not see the token.
        files: how many files lie below each of the data's paths; None: it is missing or may not be read; -1: more than
            could be counted in time.
        cache: its folder of decoded images.
        cache_room: free bytes there; None where nothing can be written there.
    """

    host: str
    versions: dict[str, str | None]
    code: str
    cpus: int
    quota: float | None
    memory: int
    available: int
    gpus: Gpus = Gpus()
    shared: bool | None = None
    locked: bool | None = None
    files: dict[str, int | None] = field(default_factory=dict)
    cache: str = ""
    cache_room: int | None = None

    @classmethod
    def from_plain(cls, content: dict[str, Any]) -> "Facts":
        """The facts that `dataclasses.asdict` and JSON made plain values of."""
        gpus = content["gpus"]
        lists = {"seen": tuple(gpus["seen"]), "usable": tuple(gpus["usable"])}
        return cls(**{**content, "gpus": Gpus(**{**gpus, **lists})})


@dataclass(frozen=True)
class Node:
    """A node of a cluster that was surveyed.

    Attributes:
        name: its host name or address, and its id.
        resources: by Ray's names.
        facts: what it has and sees; None where it did not answer.
        error: why it did not answer.
        offset: seconds by which its clock is ahead of the driver's.
        uncertainty: seconds by which the offset may be wrong: half of the time that the question took.
    """

    name: str
    resources: dict[str, float]
    facts: Facts | None = None
    error: str = ""
    offset: float = 0.0
    uncertainty: float = 0.0

    @classmethod
    def from_plain(cls, content: dict[str, Any]) -> "Node":
        """The node that `dataclasses.asdict` and JSON made plain values of."""
        return cls(**{**content, "facts": content["facts"] and Facts.from_plain(content["facts"])})


def gather(questions: Questions) -> Facts:
    """Answers the questions for this machine."""
    total, available = _memory()
    cache = Path(questions.cache) if questions.cache else cache_folder()
    shared = _reads(questions)
    return Facts(
        host=socket.gethostname(),
        versions=versions(),
        code=code(),
        cpus=len(os.sched_getaffinity(0)),
        quota=_quota(),
        memory=total,
        available=available,
        gpus=_gpus(),
        shared=shared,
        locked=_is_locked(questions.token) if shared else None,
        files={path: _count(Path(path)) for path in questions.data},
        cache=str(cache),
        cache_room=_room(cache),
    )


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that a search depends on."""
    return {name: version_of(name) for name in ("python", *PACKAGES)}


def version_of(package: str) -> str | None:
    """The version of Python, under "python", or of a package; None for one that is missing."""
    if package == "python":
        return platform.python_version()
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def code() -> str:
    """A digest of the source files of this program: nodes may have the same version and other code."""
    digest = hashlib.sha256()
    for package in ("search_spaces", "trainables", "tuner"):
        found = util.find_spec(package)
        for folder in (found.submodule_search_locations or ()) if found else ():
            for file in sorted(Path(folder).rglob("*.py")):
                digest.update(str(file.relative_to(folder)).encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def _memory() -> tuple[int, int]:
    """Bytes of main memory that this process may use, and how many are free; a container's limit counts."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    total, available = (1024 * int(lines[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    limit, used = (_control(*names) for names in (
        ("memory.max", "memory/memory.limit_in_bytes"), ("memory.current", "memory/memory.usage_in_bytes")
    ))  # fmt: skip
    if limit and limit[0].isdecimal() and int(limit[0]) < total:
        total = int(limit[0])
        available = min(available, total - (int(used[0]) if used else 0))
    return total, max(0, available)


def _quota() -> float | None:
    """CPUs that the control group may use at once; None where it is not limited."""
    if limit := _control("cpu.max"):
        return None if limit[0] == "max" else int(limit[0]) / int(limit[1])
    quota, period = _control("cpu/cpu.cfs_quota_us"), _control("cpu/cpu.cfs_period_us")
    return int(quota[0]) / int(period[0]) if quota and period and int(quota[0]) > 0 else None


def _control(*names: str) -> list[str]:
    """The words of the first file of the control group that is there, of version 2 or 1; none where none is."""
    for name in names:
        try:
            return Path("/sys/fs/cgroup", name).read_text().split()
        except OSError:
            continue
    return []


def _gpus() -> Gpus:
    """The GPUs. Torch is asked in a process of its own, for Ray hides GPUs from tasks that ask for none."""
    program = shutil.which("nvidia-smi")
    if program is None and not Path("/dev/nvidiactl").exists():
        return Gpus()
    driver, seen = None, []
    if program is not None:
        query = [program, "--query-gpu=driver_version,name", "--format=csv,noheader"]
        rows = [line.split(", ", 1) for line in _answer(query, dict(os.environ)).splitlines() if ", " in line]
        driver, seen = (rows[0][0] if rows else None), [name for _, name in rows]
    visible = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES" or value}
    told = json.loads(_answer([sys.executable, "-c", ASK_TORCH], visible) or "{}")
    return Gpus(driver, tuple(seen), tuple(told.get("gpus", ())), told.get("cuda"), told.get("nccl"))


def _answer(command: list[str], environment: dict[str, str]) -> str:
    """The last line or lines that a program prints; empty where it fails or hangs."""
    try:
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=GPU_QUESTIONS)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ended.stdout if ended.returncode == 0 else ""


def _reads(questions: Questions) -> bool | None:
    if not questions.token:
        return None
    try:
        return Path(questions.token).read_text() == questions.secret
    except (OSError, UnicodeDecodeError):
        return False


def _is_locked(token: str) -> bool:
    """Whether another process is seen to hold the lock of a file."""
    try:
        with Path(token).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False


def _count(path: Path) -> int | None:
    """How many files lie below a path; see `Facts.files`."""
    end, count = time.monotonic() + COUNTING, 0
    if path.is_file():
        return 1 if os.access(path, os.R_OK) else None
    try:
        next(path.iterdir(), None)
    except OSError:
        return None
    for _, _, names in os.walk(path):
        count += sum(not name.startswith(".") for name in names)
        if time.monotonic() > end:
            return -1
    return count


def _room(folder: Path) -> int | None:
    """Free bytes in a folder that this process can write, or could make; None for another one."""
    there = folder.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return None
    room = os.statvfs(there)
    return room.f_bavail * room.f_frsize


def main() -> int:
    """Answers for this machine."""
    asked = json.load(sys.stdin)
    print(json.dumps(dataclasses.asdict(gather(Questions(**{**asked, "data": tuple(asked["data"])})))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
