"""What a search comes to where nothing disturbs it: each of its trials trained alone, without Ray, by one group.

`python -m tests.chaos.references SPEC FOLDER` trains them, also by torchrun.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import yaml
from optuna.trial import TrialState

from tests.chaos.plans import Plan
from tests.chaos.results import Results, last_state
from tests.timeless import timeless, timeless_history
from trainables.networks import group
from trainables.running.fit import fit
from tuner.plan import space as spaces
from tuner.plan import spec as specs
from tuner.search.study import Study

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "runs" / "chaos"  # the folder `runs` is not in the repository


def source() -> str:
    """A hash of the code that a search runs."""
    digest = hashlib.sha256()
    for package in ("search_spaces", "trainables", "tuner"):
        for path in sorted((ROOT / package).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def reference(plan: Plan) -> Results:
    """What the search of a plan comes to, each trial alone at the smallest width; kept for the next case."""
    text = yaml.safe_dump(plan.search)
    name = hashlib.sha256((text + source()).encode()).hexdigest()[:12]
    kept = KEPT / f"{name}.json"
    if not kept.exists():
        with tempfile.TemporaryDirectory() as folder:
            spec = Path(folder) / "search.yaml"
            spec.write_text(text)
            torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={plan.smallest}"]
            command = [sys.executable, *(torchrun if plan.smallest > 1 else []), "-m", "tests.chaos.references"]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            subprocess.run([*command, str(spec), folder], cwd=ROOT, env=environment, check=True)
            found = {path.name: _result(path) for path in sorted(Path(folder).glob("[0-9]*"))}
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(found))
    results: Results = json.loads(kept.read_text())
    return results


def _result(folder: Path) -> dict[str, Any]:
    """What a search would note of a trial."""
    history, digest = last_state(folder)
    return {
        "state": TrialState.COMPLETE.name,
        "values": [history[-1]["knn_top1"]],
        "curve": {str(int(metrics["epoch"])): metrics["knn_top1"] for metrics in history},
        "metrics": {name: value for name, value in timeless(history[-1]).items() if name != "loss_curve"},
        "history": timeless_history(history),
        "weights": digest,
    }


def main(spec: Path, folder: Path) -> None:
    """Trains all trials of a search, one after the other."""
    search = specs.parse(yaml.safe_load(spec.read_text()))
    study, workers = Study(None, search, spaces.load(search.space)), group.from_torchrun()
    torch.set_num_threads(1)  # as many as a worker of a slot has
    while (proposal := study.ask()) is not None:
        fit(proposal.config, folder / proposal.key, lambda metrics: "on", workers)
    if workers.size > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
