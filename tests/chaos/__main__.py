"""The chaos campaign: `python -m tests.chaos [--minutes 60] [--seeds 20] [--seed 17] [--kind drivers]`.

Each case is a search that meets the faults of its seed (`tests.chaos.plans`). A line for each case is appended to
benchmarks/reliability.jsonl; a sitting goes on with the first seed that has none. One seed can be run again with
--seed; its line is printed, and appended only with --append.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.chaos.case import Case, place, record
from tests.chaos.cluster import Cluster
from tests.chaos.plans import Plan, plan
from tests.chaos.references import ROOT, reference

RECORDS = ROOT / "benchmarks" / "reliability.jsonl"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, help="no case begins after so many")
    parser.add_argument("--seeds", type=int, help="so many cases")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--kind", help="only cases of this name, such as drivers")
    parser.add_argument("--fixed", action="store_true", help="without lent slots: every trial has the smallest width")
    parser.add_argument("--append", action="store_true", help="append the line of --seed, too")
    parser.add_argument("--keep", type=Path, help="folder to which a case that goes wrong is copied")
    options = parser.parse_args()
    if options.seed is not None:
        return 0 if _run([options.seed], options, keeps=options.append) else 1
    if options.minutes is None and options.seeds is None:
        parser.error("give --minutes, --seeds or --seed")
    done = {json.loads(line)["seed"] for line in RECORDS.read_text().splitlines()} if RECORDS.exists() else set()
    fresh = (seed for seed in range(100_000) if seed not in done)
    chosen = (seed for seed in fresh if options.kind in (None, plan(seed).name))
    return 0 if _run(_bounded(chosen, options), options, keeps=True) else 1


def _bounded(seeds: Iterator[int], options: argparse.Namespace) -> Iterator[int]:
    begun = time.monotonic()
    for number, seed in enumerate(seeds):
        late = options.minutes is not None and time.monotonic() - begun > 60 * options.minutes
        if late or (options.seeds is not None and number >= options.seeds):
            return
        yield seed


def _run(seeds: Iterator[int] | list[int], options: argparse.Namespace, keeps: bool) -> bool:
    """Runs cases one after the other, on one cluster as long as nothing goes wrong; returns whether nothing did."""
    commit = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, text=True).strip()
    well = True
    cluster: Cluster | None = None
    cpus: tuple[int, ...] = ()
    with contextlib.ExitStack() as at_the_end:
        for seed in seeds:
            case = plan(seed).fixed if options.fixed else plan(seed)
            reference(case)
            if cluster is None or cpus != case.cpus or len(cluster.nodes) != len(cpus):
                at_the_end.close()
                cluster, cpus = Cluster(*case.cpus), case.cpus
                at_the_end.callback(cluster.close)
            print(f"seed {seed}: {case.name}, {len(case.faults)} faults", flush=True)
            line = _one(case, cluster, commit, options.keep)
            print(json.dumps(line), flush=True)
            if keeps:
                with RECORDS.open("a") as file:
                    file.write(json.dumps(line) + "\n")
            if line["outcome"] != "equal":
                well = False
                at_the_end.close()  # what it has left must not meet the next case
                cluster = None
    return well


def _one(case: Plan, cluster: Cluster, commit: str, keep: Path | None) -> dict[str, object]:
    with place(case) as folder:
        outcome = Case(case, cluster, folder, lambda text: print(text, flush=True)).go()
        for wrong in outcome.wrong:
            print(f"  WRONG: {wrong}", file=sys.stderr, flush=True)
        if outcome.wrong and keep is not None:
            subprocess.run(["cp", "-r", str(folder), str(keep / f"seed-{case.seed}")], check=True)
            subprocess.run(["cp", "-r", str(cluster.folder / "ray"), str(keep / f"seed-{case.seed}-ray")], check=False)
        return record(case, outcome, commit)


if __name__ == "__main__":
    sys.exit(main())
