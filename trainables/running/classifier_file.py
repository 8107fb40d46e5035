"""The file that `tuner evaluate --save` writes: a backbone under torchvision's names, with a linear classifier."""

import json
import stat
from pathlib import Path

import torch
from safetensors.torch import save_file

from trainables.data import augment
from trainables.data import images as data
from trainables.evaluation.protocols.linear import frozen_probe
from trainables.evaluation.subject import Subject
from trainables.networks.encoders import plain_resnet_state


def write(path: Path, subject: Subject) -> None:
    """Writes the backbone with the linear protocol's classifier. Collective; the first worker writes.

    The file's metadata has in JSON what a program needs that feeds it: the names of the `classes` in the order of the
    classifier's outputs, `mean` and `std` by which images in [0, 1] are standardised, and their `size` [height, width].
    """
    classifier = frozen_probe(subject)
    state = plain_resnet_state(subject.parts) | {"fc.weight": classifier.weight, "fc.bias": classifier.bias}
    mean, std = (
        v.flatten().tolist()
        for v in augment.constants(torch.empty(0, subject.scored.channels, 1, 1, dtype=torch.float64))
    )
    height, width = subject.scored.pixels.shape[1:3]
    facts = {
        "classes": data.class_names(subject.config.data, subject.classes),
        "mean": mean,
        "std": std,
        "size": [height, width],
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    if subject.group.rank > 0:
        return
    mode = path.stat().st_mode  # as files are made here; safetensors replaces it by one that only its owner can read
    save_file(tensors, path, metadata={"format": "pt", **{name: json.dumps(fact) for name, fact in facts.items()}})
    path.chmod(stat.S_IMODE(mode))
