"""Made-up traces of trials, for what is drawn of them."""

from pathlib import Path

import numpy as np

from trainables.running import traces

PARTS = ("conv1", "block1", "block2", "block3", "block4", "fc1", "fc2")


def rows(steps: int = 12, every: int = 10, seed: int = 0) -> traces.Rows:
    """Rows after each `every` steps; the gradients of the part number n are 10^-n, more each row and with the seed."""
    made = np.random.default_rng(seed)
    at = every * np.arange(1, steps + 1)
    gradients = {
        f"gradient/{part}": (10.0 ** (seed - n) * (1 + at / 1000)).astype("f4") for n, part in enumerate(PARTS)
    }
    filters = {f"filter/{who}": made.normal(size=(steps, 16, 2)).astype("f4") for who in ("student", "teacher")}
    return {"steps": at, **gradients, **filters}


def write(folder: Path, **more: int) -> traces.Rows:
    """Writes the traces of a trial into its folder."""
    traces.write(folder, made := rows(**more))
    return made
