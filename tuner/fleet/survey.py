"""A survey of a cluster: a task on each node says what its machine has and sees.

`python -m tuner.fleet.survey FILE` reads address and questions as JSON from standard input and writes a `Survey` to
the file, as JSON. It is a process of its own, which can be ended whatever Ray waits for.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from trainables.config.errors import one_line
from tuner.fleet.facts import Facts, Node, Questions, gather
from tuner.search.allocation import local_cpus

ANSWER = 90.0  # seconds for all nodes to answer
Answer = TypeVar("Answer")
PINGS = 5  # of a node's clock, of which the quickest counts


@dataclass(frozen=True)
class Survey:
    """The living nodes of a cluster."""

    nodes: list[Node] = field(default_factory=list)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))


def survey(questions: Questions, answer: float = ANSWER) -> Survey:
    """Asks each node of the cluster that this process has joined.

    Args:
        questions: for each node.
        answer: seconds for all nodes to answer.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    asked = {node["NodeID"]: _on(node["NodeID"], gather, questions) for node in nodes}
    ray.wait(list(asked.values()), num_returns=len(asked), timeout=answer)
    made = []
    for node in nodes:
        key = node["NodeID"]
        name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}, {key[:6]})"
        resources = {kind: amount for kind, amount in node["Resources"].items() if not kind.startswith("node:")}
        try:
            facts: Facts = ray.get(asked[key], timeout=0)
            made.append(Node(name, resources, facts, "", *_clock(key)))
        except ray.exceptions.GetTimeoutError:
            ray.cancel(asked[key], force=True)
            made.append(Node(name, resources, error=f"did not answer within {answer:g} s"))
        except (ray.exceptions.RayError, ModuleNotFoundError) as error:
            made.append(Node(name, resources, error=_reason(error)))
    return Survey(made)


def _on(node: str, function: Callable[..., Answer], *arguments: object) -> "ray.ObjectRef[Answer]":
    """Calls a function on a node, whatever else runs there, or not at all."""
    task: Any = ray.remote(function)
    there = NodeAffinitySchedulingStrategy(node, False)
    return task.options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote(*arguments)


def _time() -> float:
    return time.time()


def _clock(node: str) -> tuple[float, float]:
    """By how many seconds a node's clock is ahead of ours, and by how many that may be wrong."""
    pings: list[tuple[float, float]] = []
    for _ in range(PINGS):
        before = time.time()
        there = ray.get(_on(node, _time), timeout=10)
        after = time.time()
        pings.append(((after - before) / 2, there - (before + after) / 2))
    uncertainty, offset = min(pings)
    return offset, uncertainty


def _reason(error: Exception) -> str:
    """Why a node's task failed, on one line: the last one of what Ray says, which is that of the task's own error."""
    text = str(error)
    if "ModuleNotFoundError" in text:
        missing = text.partition("ModuleNotFoundError")[2].partition("'")[2].partition("'")[0]
        return f"{missing or 'teacher-tuner'} is not installed there"
    lines = [line for line in text.splitlines() if line.strip()]
    return one_line(Exception(lines[-1] if lines else type(error).__name__))


def main() -> int:
    """Joins the cluster, surveys it and writes the result."""
    asked = json.load(sys.stdin)
    questions = Questions(**{**asked["questions"], "data": tuple(asked["questions"]["data"])})
    local = asked["address"] == "local"
    options: dict[str, Any] = {"num_cpus": local_cpus(), "include_dashboard": False} if local else {}
    try:
        ray.init(address=asked["address"], log_to_driver=False, configure_logging=False, **options)
    except (ConnectionError, RuntimeError, TimeoutError, ValueError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    Path(sys.argv[1]).write_text(survey(questions).to_json())
    ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
