"""Findings, and how they are made within their time, whatever a file system or a cluster waits for."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from trainables.config.errors import UserError, one_line

State = Literal["ok", "warning", "fault"]
SMALLER = "a smaller train.batch_size, with a smaller train.shard_size, may do"
CHANGE_SPEC = "change that value in the spec, or with --set"


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        name: of what was checked.
        state: of it.
        text: what was found, on one line.
        advice: what to do about it; empty where it is ok.
    """

    name: str
    state: State
    text: str
    advice: str = ""


def ok(name: str, text: str) -> Finding:
    """A finding that needs nothing."""
    return Finding(name, "ok", text)


def warning(name: str, text: str, advice: str) -> Finding:
    """A finding with which a search runs, but not as well as it could."""
    return Finding(name, "warning", text, advice)


def fault(name: str, text: str, advice: str) -> Finding:
    """A finding with which a search does not run, or breaks off."""
    return Finding(name, "fault", text, advice)


class Late(Exception):
    """An answer did not come in time."""


class Killed(UserError):
    """A process was ended by SIGKILL, as the system does where memory runs out."""


def in_time(name: str, seconds: float, check: Callable[[], Sequence[Finding]]) -> list[Finding]:
    """Makes a check within its time.

    Args:
        name: of what is checked, for what is said where it makes no findings.
        seconds: after which it is no longer waited for.
        check: returns findings.
    """
    made: list[Finding] = []
    # it may hang in the system, which no thread can end
    thread = threading.Thread(target=lambda: made.extend(found(name, check)), daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        return [fault(name, f"no answer within {seconds:g} s", "see whether a disc, the network or the cluster hangs")]
    return made


def found(name: str, check: Callable[[], Sequence[Finding]]) -> list[Finding]:
    """Makes a check, however long it takes. What it raises becomes faults.

    Args:
        name: of what is checked, for what is said where it makes no findings.
        check: returns findings.
    """
    try:
        return [*check()]
    except Late as late:
        return [fault(name, str(late), "see whether the machine, its network or its discs hang")]
    except UserError as error:
        return [fault(name, *divided(line, name)) for line in str(error).splitlines()]
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return [fault(name, f"{where}{error.strerror or one_line(error)}", "mend that, or choose another place")]
    except Exception as error:
        text = f"the check itself broke off by {type(error).__name__}: {one_line(error)}"
        return [fault(name, text, "please report it")]


def divided(line: str, name: str) -> tuple[str, str]:
    """A line of an error as text and advice.

    Args:
        line: what stands behind its last semicolon says what to do.
        name: of the check, for the advice where the line has none.
    """
    text, _, advice = line.rpartition("; ")
    if text:
        return text, advice
    return line, CHANGE_SPEC if name in ("spec", "data") else "change what this line names; a search would meet it too"


def ask(module: str, request: object, seconds: float, answer: str = "") -> Any:
    """Has a module of ours answer a request in a process of its own.

    Args:
        module: its name; it reads JSON from standard input.
        request: plain values.
        seconds: after which it and its children are killed.
        answer: a file to which it writes the answer as JSON; it is told that as argument. By default it prints it.

    Raises:
        Late: it did not answer in time.
        Killed: it was ended by SIGKILL.
        UserError: it failed; the last line that it wrote.
    """
    with tempfile.TemporaryFile("w+") as told, tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile() as failed:
        json.dump(request, told)
        told.seek(0)
        command = [sys.executable, "-m", module, *([answer] if answer else [])]
        # files, not pipes: what a child of it holds open is not waited for
        process = subprocess.Popen(command, stdin=told, stdout=said, stderr=failed, start_new_session=True)
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Late(f"no answer within {seconds:g} s") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if status == -signal.SIGKILL:
            raise Killed("was killed (signal 9), as the system does where memory runs out")
        if status != 0:
            failed.seek(0)
            lines = failed.read().decode(errors="replace").strip().splitlines()
            reason = lines[-1].removeprefix("error: ") if lines else f"exit status {status}"
            raise UserError(one_line(Exception(reason)) if status > 0 else f"was ended by signal {-status}")
        if answer:
            with open(answer) as file:
                return json.load(file)
        said.seek(0)
        return json.loads(said.read().strip().splitlines()[-1])
