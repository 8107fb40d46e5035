"""The configuration that a trial is trained with: resolved once, before a Learner sees it."""

from trainables.config import equivalence
from trainables.config import trial as c
from trainables.data import initial


def resolved(config: c.TrialConfig, classes: int) -> c.TrialConfig:
    """The configuration with what follows from other keys and from the data filled in. Resolving twice changes nothing.

    A preset was already applied when the configuration was parsed.

    Args:
        config: of the trial, as the user or the search gave it.
        classes: of the data; a method that classifies gets a projector of that width.

    Returns:
        The trial with the rates that the equivalence rule gives for its batch, with `encoder.projector.out` of the
        classes, and with the hash of the file that it begins with.

    Raises:
        UserError: that file is missing.
    """
    values = equivalence.scaled_values(config)
    if config.method.CLASSIFIES and config.encoder.projector.out != classes:
        values["encoder.projector.out"] = classes
    if config.init.sha256 is None and (found := initial.content(config.init)):
        values["init.sha256"] = found
    return c.changed(config.plain(), values) if values else config
