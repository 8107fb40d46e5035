"""Spaces: found by name or as my_space.py:suggest, and tried out before anything is started."""

import contextlib
import importlib
import importlib.util
import json
import signal
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, ModuleType

import optuna

from search_spaces import Known
from trainables.config import trial as c
from trainables.config.errors import UserError, nearest, one_line, shown, shown_name
from trainables.config.settings import section_keys, settable_keys
from tuner.plan.resources import Resources
from tuner.plan.spec import SPACES, check_workers

REHEARSALS = 40
PATIENCE = 10.0  # seconds for a space to be imported, and for each of its proposals
OWNED = ("seed", "train.epochs", "train.checkpoint_minutes", "data.", "evaluation.")  # keys and, with a dot, sections


@dataclass(frozen=True)
class Space:
    """A `suggest` function and the points to try first."""

    name: str
    suggest: Callable[[optuna.Trial], dict[str, object]]
    known_good: Known
    file: Path | None = None

    def firsts(self, method: str) -> str:
        """What the first known good point is called; in our own spaces it is the default teacher of BYOL's papers."""
        if self.file:
            return "first known good point"
        return "papers' default teacher" if method == "byol" else "space's first known point (BYOL's teacher)"

    def propose(
        self, trial: optuna.Trial, base: c.TrialConfig, which: str = ""
    ) -> tuple[dict[str, object], c.TrialConfig]:
        """Asks the space for a trial; returns the dotted values that it proposes, and the trial that they make.

        Args:
            trial: to draw from.
            base: what the trials of the search have in common.
            which: of its points it is, for errors.

        Raises:
            UserError: the space raises, hangs, returns something else than a dict of plain values, or proposes a trial
                that is not valid.
        """
        with _in_time(f"space '{self.name}': {which}has proposed no trial"):
            try:
                values = self.suggest(trial)
            except (Exception, SystemExit) as error:
                raised = f"{which}raised {type(error).__name__}: {one_line(error)}{_place(error, self.suggest)}"
                raise UserError(f"space '{self.name}': {raised}") from None
            if not isinstance(values, dict):
                raise UserError(f"space '{self.name}': must return a dict of dotted keys, not {type(values).__name__}")
            for key, value in values.items():
                try:
                    json.dumps(value, default=_refuse)
                except (TypeError, ValueError, RecursionError) as error:
                    raise UserError(f"space '{self.name}': {which}{shown_name(key)}: {one_line(error)}") from None
        return values, self.configure(base, values)

    def configure(self, base: c.TrialConfig, values: dict[str, object]) -> c.TrialConfig:
        """The trial that proposed values make.

        Raises:
            UserError: the space returned a key that TrialConfig lacks, or values that do not make a valid trial.
        """
        return configured(base, values, f"space '{self.name}'")


def configured(
    base: c.TrialConfig,
    values: Mapping[str, object],
    source: str,
    owned: tuple[str, ...] = OWNED,
    free: tuple[str, ...] = (),
) -> c.TrialConfig:
    """The trial of `base` in which each dotted key of `values` is set.

    Args:
        base: what the trials of a search have in common.
        values: of one trial.
        source: who proposed them, for errors.
        owned: keys that make trials comparable; such that end with a dot are sections.
        free: what of them may be set all the same.

    Raises:
        UserError: TrialConfig lacks a key, a key makes trials comparable, or the values do not make a valid trial.
    """
    try:
        known = settable_keys(c.TrialConfig)
        if odd := [key for key in values if key not in known]:
            raise UserError(f"{shown_name(odd[0])}: {_rule_of(odd[0], values[odd[0]], known)}")
        if taken := [key for key in values if _one_of(key, owned) and not _one_of(key, free)]:
            raise UserError(
                f"{taken[0]}: belongs to the search, so that its trials can be compared; set trial.{taken[0]} instead"
            )
        return c.changed(base.plain(), values)
    except UserError as error:
        raise UserError("\n".join(f"{source}: {line}" for line in str(error).splitlines())) from None


def _rule_of(odd: str, value: object, known: list[str]) -> str:
    """What is wrong with a key that takes no value."""
    held = section_keys(c.TrialConfig).get(odd) if odd else None
    if held is None:
        return f"unknown key{nearest(odd, known)}"
    example = next((key for key in value if key in held), held[0]) if isinstance(value, Mapping) else held[0]
    return f"is a section; give dotted keys, such as {odd}.{example}"


def _one_of(key: str, keys: tuple[str, ...]) -> bool:
    return key in keys or key.startswith(tuple(name for name in keys if name.endswith(".")))


def load(name: str) -> Space:
    """The space of that name in `search_spaces`, or the function in a file: "my_space.py:suggest".

    Raises:
        UserError: there is no such space, file or function.
    """
    file = None
    if name.endswith(".py") or ".py:" in name:
        path, _, function = name.rpartition(":") if not name.endswith(".py") else (name, "", "suggest")
        file = Path(path)
        module = _from_file(file)
    else:
        if name not in SPACES:
            hint = f"{nearest(name, SPACES)}; or give a file, such as my_space.py:suggest"
            raise UserError(f"space = {shown(name)}: no such space{hint}")
        module, function = importlib.import_module(f"search_spaces.{name}"), "suggest"
    suggest = getattr(module, function, None)
    if not callable(suggest):
        raise UserError(f"space = '{name}': the file has no function '{function}'")
    known_good = getattr(module, "KNOWN_GOOD", ())
    if not isinstance(known_good, list | tuple) or not all(isinstance(point, dict) for point in known_good):
        raise UserError(f"space = '{name}': KNOWN_GOOD must be a list of dicts, a value for each suggested name")
    return Space(name, suggest, tuple(known_good), file)


def rehearse(space: Space, base: c.TrialConfig, resources: Resources, seed: int = 0) -> None:
    """Draws from a space at random, and its known good points, and validates each trial that would come of it.

    Raises:
        UserError: the space raises, hangs, returns something else than a dict, or proposes a trial that is not valid.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
    fixed = [optuna.trial.FixedTrial(dict(known)) for known in space.known_good]
    for trial in [*fixed, *(study.ask() for _ in range(REHEARSALS))]:
        which = f"KNOWN_GOOD[{fixed.index(trial)}] " if trial in fixed else ""
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # Optuna only warns of a known good value that is out of range
            _, config = space.propose(trial, base, which)  # type: ignore[arg-type]
        check_workers(resources, config)
    for index, (point, trial) in enumerate(zip(space.known_good, fixed, strict=True)):
        if unused := sorted(point.keys() - trial.params.keys()):
            hint = nearest(unused[0], trial.params)
            raise UserError(
                f"space '{space.name}': KNOWN_GOOD[{index}] names {unused[0]}, which is not asked for{hint}"
            )


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UserError(f"space = '{path}': no such file")
    found = importlib.util.spec_from_file_location(path.stem, path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    try:
        with _in_time(f"space = '{path}': has not been imported"):
            found.loader.exec_module(module)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"space = '{path}': cannot be imported ({type(error).__name__}: {one_line(error)})") from None
    return module


def _refuse(value: object) -> None:
    """For what JSON has no form of, such as numbers of numpy."""
    kind = type(value)
    raise TypeError(
        "must be a plain number, text or list, not "
        + f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    )


def _place(error: BaseException, suggest: Callable[..., object]) -> str:
    """Where in the file of a space an error came from, as text to be appended; empty where it came from elsewhere."""
    file = suggest.__code__.co_filename if hasattr(suggest, "__code__") else None
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f" ({file}, line {lines[-1]})" if lines else ""


class _TooLong(BaseException):
    """A space hangs. No Exception, which the space might catch."""


@contextlib.contextmanager
def _in_time(what: str) -> Iterator[None]:
    """Ends code of the user that takes too long; it runs in the main thread, for only that can be interrupted.

    Args:
        what: has not happened, for the error.

    Raises:
        UserError: it took more than PATIENCE seconds.
    """
    main = threading.main_thread().ident
    if main is None or threading.get_ident() != main:
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise _TooLong(f"{frame.f_code.co_filename}, line {frame.f_lineno}" if frame else "")

    timer = threading.Timer(PATIENCE, signal.pthread_kill, (main, signal.SIGALRM))
    before = signal.signal(signal.SIGALRM, interrupt)
    timer.start()
    try:
        yield
    except _TooLong as error:
        raise UserError(f"{what} within {PATIENCE:g} seconds; it was at {error}") from None
    finally:
        timer.cancel()
        timer.join()
        signal.signal(signal.SIGALRM, before)
