"""How what earlier versions wrote is read."""

import pytest

from trainables.config import formats
from trainables.config import trial as c
from trainables.config.errors import UserError
from trainables.config.settings import flat
from trainables.running import resuming
from trainables.running.checkpoint import Checkpoint


def earlier(norm: str = "batch") -> dict:
    """A trial as it was written when `encoder.norm` was a plain value, and Momentum BN always lazy."""
    stored = c.changed({}, {"encoder.norm": norm, "teacher.norm.kind": "momentum"}).plain()
    del stored["teacher"]["norm"]["lazy"]
    return stored | {"encoder": stored["encoder"] | {"norm": norm}}


@pytest.mark.parametrize("written", [1, formats.FORMAT])
@pytest.mark.parametrize("norm", ["batch", "sync"])
def test_a_students_norm_was_a_plain_value(norm, written):
    stored = earlier(norm)
    read = formats.as_written(stored, written)
    assert flat(read)["encoder.norm.kind"] == norm and stored["encoder"]["norm"] == norm
    assert c.parse(read).encoder == c.changed({}, {"encoder.norm": norm}).encoder
    assert c.parse(read).teacher.norm.lazy


def test_a_trial_goes_on_from_an_earlier_checkpoint_with_the_same_norm_alone(tmp_path):
    values = {"config": earlier("sync"), "format": formats.FORMAT}
    found = Checkpoint(tmp_path / "step-0000000001.safetensors", {}, values)
    config = c.changed({}, {"encoder.norm": "sync", "teacher.norm.kind": "momentum"})
    resuming._require_same_trial(config, found)
    with pytest.raises(UserError, match="encoder.norm.kind = momentum: the checkpoints in .* are of a trial with sync"):
        resuming._require_same_trial(c.changed(config.plain(), {"encoder.norm": "momentum"}), found)
