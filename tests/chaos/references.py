"""What a search comes to where nothing disturbs it."""

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from tests.chaos.plans import MOST_TRIALS, Plan
from tests.chaos.results import Results, results_of

ROOT = Path(__file__).parents[2]
TUNER = (sys.executable, "-m", "tuner.commands.main")
KEPT = ROOT / "runs" / "chaos"  # the folder `runs` is not in the repository


def source() -> str:
    """A hash of the code that a search runs."""
    digest = hashlib.sha256()
    for package in ("search_spaces", "trainables", "tuner"):
        for path in sorted((ROOT / package).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def reference(plan: Plan) -> Results:
    """What the search of a plan comes to on one quiet machine, one trial at a time; kept for the next case.

    A random proposal depends on the number of its trial alone, so a shorter search is the beginning of a longer one.
    """
    search = {**plan.search, "trials": MOST_TRIALS}
    search["resources"] = {"workers": plan.smallest, "concurrent_trials": 1}
    text = yaml.safe_dump(search)
    name = hashlib.sha256((text + source()).encode()).hexdigest()[:12]
    kept = KEPT / f"{name}.json"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            spec = Path(folder) / "search.yaml"
            spec.write_text(text)
            run = Path(folder) / "run"
            command = [*TUNER, "launch", str(spec), "--run", str(run)]
            subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            kept.write_text(json.dumps(results_of(run)))
    found: Results = json.loads(kept.read_text())
    return {key: found[key] for key in sorted(found)[: plan.trials]}
