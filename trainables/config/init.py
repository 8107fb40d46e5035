"""The section `init` of a TrialConfig: which file a trial begins with in place of random weights. Needs no torch.

The file's hash is made in `trainables.data.initial`. It is read in `trainables.running.initial_network`, and its
tensors come into the networks in `trainables.networks.initial`.
"""

import re
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator

from trainables.config.data import Location
from trainables.config.sections import Section

TORCH = (".pth", ".pt")
ENDINGS = (".safetensors", *TORCH)


def _state_file(path: Path) -> Path:
    """Returns the absolute path of a file of weights, for workers have another working folder."""
    if path.suffix not in ENDINGS:
        raise ValueError(f"a file of weights ends in {', '.join(ENDINGS)}")
    return path.absolute()


def _sha256(digits: str) -> str:
    """Returns a hash in lower case, as `hashlib` writes it."""
    if not re.fullmatch("[0-9a-fA-F]{64}", digits):
        raise ValueError("must be 64 hexadecimal digits")
    return digits.lower()


class Init(Section):
    """The network that a trial begins with: an earlier trial's, or torchvision's. Heads that it lacks stay random.

    The teacher's first copy is an exact copy of the student, statistics included. With a `teacher.smoothing.first_copy`
    that is masked, its averaged parts are other random weights in the units that the mask keeps.
    """

    SHORT: ClassVar[str] = "path"

    path: Annotated[Location, AfterValidator(_state_file)] | None = None
    """A checkpoint of a trial, a file that tuner evaluate --save wrote, or the state of a torchvision ResNet, where all
    nodes see it; nothing: random weights.
    """
    part: Literal["backbone", "whole"] = "backbone"
    """What is taken from it: the backbone alone, or the projector too."""
    network: Literal["student", "teacher"] = "student"
    """Which network of a checkpoint is taken; other files hold one."""
    sha256: Annotated[str, AfterValidator(_sha256)] | None = None
    """The hash of the file's content, noted when a trial begins; another content is refused from then on."""
