"""A session of Ray for a driver: joined or started, with its logs in the run, and left in order."""

import contextlib
import io
import logging
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray

from trainables.config.errors import BrokenOff, TrialFailure, UserError
from trainables.running.surroundings import fault
from tuner.fleet import slots
from tuner.fleet.wishes import why_interrupted
from tuner.plan import jobs
from tuner.runs.hints import resume_hint
from tuner.runs.run import Run
from tuner.search.allocation import local_cpus

log = logging.getLogger(__name__)


@contextlib.contextmanager
def cluster(address: str, run: Run) -> Iterator[None]:
    """A Ray session at an address, for the life of the block.

    Raises:
        UserError: no cluster is there.
    """
    handed_on = {name: os.environ[name] for name in ("TEACHER_TUNER_CACHE",) if name in os.environ}
    variables = {name: value for name, value in (slots.VARIABLES | handed_on).items() if name not in jobs.variables()}
    os.environ.update(slots.VARIABLES)
    os.environ.update(
        {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0"}
    )
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"  # a trial may fail before it has any metric
    os.environ.update(
        {"RAY_AIR_NEW_OUTPUT": "0", "TUNE_DISABLE_SIGINT_HANDLER": "1", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    )
    if address == "local":  # its workers inherit the environment of this process
        options: dict[str, Any] = {"num_cpus": local_cpus(), "include_dashboard": False}
    else:
        options = {"runtime_env": {"env_vars": variables}}
    _end_like_interrupted()
    with quiet(run.driver_log):
        try:
            try:
                ray.init(
                    address=address,
                    log_to_driver=False,
                    configure_logging=False,
                    **options,
                )
            except (ConnectionError, RuntimeError, TimeoutError, ValueError) as error:
                raise UserError(
                    f"address = '{address}': no Ray cluster could be joined ({str(error).splitlines()[0]})"
                ) from None
            _end_like_interrupted()  # Ray has put a handler of its own there, which aborts
            run.note_hardware([_hardware(node["Resources"]) for node in ray.nodes() if node["Alive"]])
            yield
        except KeyboardInterrupt:  # without a shutdown, which would wait for the workers
            raise KeyboardInterrupt(f"{why_interrupted()}; {resume_hint(run)}") from None
        except (UserError, TrialFailure):
            ray.shutdown()
            raise
        except BrokenOff as end:  # without a shutdown, as above: Ray may be what is gone
            raise BrokenOff(f"{end}; {resume_hint(run)}") from end
        except Exception as error:
            log.exception("the driver broke off")
            ray.shutdown()
            raise BrokenOff(f"{_reason(error, run)}; {resume_hint(run)}") from error
        else:
            ray.shutdown()
        finally:
            run.clear()


def _reason(error: Exception, run: Run) -> str:
    """Why a driver broke off. Tune wraps the errors that searchers and schedulers raise."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, BrokenOff):
            return str(seen)
        seen = seen.__cause__ or seen.__context__
    if surroundings := fault(error, run.path):
        return surroundings
    return (
        f"broken off by {type(error).__name__}: {(str(error).strip().splitlines() or [''])[-1]} (log: {run.driver_log})"
    )


def _end_like_interrupted() -> None:
    """A job that is asked to end says how to go on, as after ^C."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def _hardware(resources: dict[str, float]) -> dict[str, float]:
    return {
        name: amount
        for name, amount in resources.items()
        if name in ("CPU", "GPU", "memory") or name.startswith("accelerator_type")
    }


class Sink(io.TextIOBase):
    """A log that drops lines for which its disc has no room: a full disc must not break what is logged.

    Args:
        path: of the file, which is appended to.
    """

    def __init__(self, path: Path):
        self.file = path.open("ab", buffering=0)

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self.file.write(text.encode(errors="replace"))
        return len(text)

    def fileno(self) -> int:
        return self.file.fileno()


@contextlib.contextmanager
def quiet(path: Path) -> Iterator[None]:
    """Sends all that is logged or printed to a file; only holders of the console write to the terminal."""
    sink = Sink(path)  # stays open, for Ray logs until the process ends
    handler = logging.StreamHandler(sink)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    for name in ("ray", "ray.tune", "ray.train", "tuner", "trainables"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
    # it warns that Tune has no results, which are in the journal
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        yield
