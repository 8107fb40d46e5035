"""When a trial counts as collapsed: its student maps all images to about one embedding.

The mark changes no score and stops no trial.
"""

from collections.abc import Mapping
from typing import Any

COLLAPSED_BELOW = 0.05
"""Level of `embedding_std`, which is about 1 where unit embeddings fill the sphere and 0 where they are one point.

Measured on 64 digits with every method, batch 16, 120 steps. Without their safeguards BYOL, SimSiam and SimCLR fall to
between 0.03 and 0.09, MoCo and ReSSL to between 0.02 and 0.04. Healthy trials keep 0.2 and more from step 60 on. Trials
that hardly learn, with the loss of a uniform guess, lie between (MoCo and ReSSL at a rate of 0.3, without a norm in the
head: 0.04 to 0.12).
"""

COLLAPSED_BELOW_OF_PROTOTYPES = 0.005
"""The same where the embeddings are scores of prototypes, which have a large part in common.

DINO on digits has 0.02 to 0.07 for five epochs and then learns (0.36). On CIFAR-10 at 16 x 16, after 780 steps, it has
0.83 to 0.96 with an averaged projector, and 0.0008 to 0.0012 without one.
"""


def collapsed(metrics: Mapping[str, Any], prototypes: int = 0) -> bool:
    """Whether the embeddings of an epoch were collapsed.

    Args:
        metrics: of the epoch; without `embedding_std`, as those of the untrained encoder are, nothing is collapsed.
        prototypes: `encoder.projector.prototypes` of the trial.
    """
    level = COLLAPSED_BELOW_OF_PROTOTYPES if prototypes else COLLAPSED_BELOW
    return metrics.get("embedding_std", 1.0) < level
