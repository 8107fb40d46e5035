"""What is watched for a sign that a worker gets on: steps, evaluations, and images that are read."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.trainables.pictures import encoded, picture
from trainables.config import trial as c
from trainables.data import files, lock, progress, pulse
from trainables.data import images as data
from trainables.data.sets.base import Chunks
from trainables.evaluation.protocols.knn import KNN
from trainables.evaluation.protocols.linear import Linear
from trainables.evaluation.subject import Features
from trainables.learning.learner import Learner
from trainables.running import fit as train


def signs_of(act: Callable[[], object]) -> int:
    before = pulse.signs()
    act()
    return pulse.signs() - before


def test_every_step_and_every_evaluation_gives_signs(
    tiny: Callable[..., c.TrialConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, int]] = []
    step, score = Learner.step, train.score

    def stepping(self, batches):  # type: ignore[no-untyped-def]
        before = pulse.signs()
        result = step(self, batches)
        seen.append(("step", pulse.signs() - before))
        return result

    def scoring(*given):  # type: ignore[no-untyped-def]
        before = pulse.signs()
        result = score(*given)
        seen.append(("score", pulse.signs() - before))
        return result

    monkeypatch.setattr(Learner, "step", stepping)
    monkeypatch.setattr(train, "score", scoring)
    train.fit(tiny(), tmp_path, lambda metrics: "on")
    assert [kind for kind, _ in seen] == [*["step"] * 4, "score"] * 2
    assert all(signs > 0 for _, signs in seen)


@pytest.mark.parametrize("protocol", [KNN(), Linear(epochs=3)])
def test_protocols_on_features_give_signs(protocol: KNN | Linear) -> None:
    features = Features(torch.randn(64, 4, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 4)
    if isinstance(protocol, KNN):
        assert signs_of(lambda: protocol.score(features, features)) > 0
    else:
        assert signs_of(lambda: protocol.train(features, features, 4, 0)) >= 3


def test_a_decoded_image_is_a_sign() -> None:
    assert signs_of(lambda: files.decode(encoded(picture(0)), None, "here")) == 1


def test_whoever_waits_for_a_lock_gets_on_as_its_holder_does(tmp_path: Path) -> None:
    """A sign of one worker counts for all of its group, so a wait for a holder that hangs must not give any."""
    with lock.locked(tmp_path / "lock") as moved:
        waiting = threading.Thread(target=lambda: lock.locked(tmp_path / "lock").__enter__(), daemon=True)
        waiting.start()
        assert signs_of(lambda: time.sleep(5 * lock.LOOK)) == 0
        end, before = time.monotonic() + 60, pulse.signs()
        while pulse.signs() == before and time.monotonic() < end:
            moved()
            time.sleep(lock.LOOK)
        assert pulse.signs() > before
        time.sleep(5 * lock.LOOK)
        assert signs_of(lambda: time.sleep(5 * lock.LOOK)) == 0 and waiting.is_alive()
    waiting.join(60)
    assert not waiting.is_alive()


def test_whoever_fills_the_cache_moves_for_each_chunk(tmp_path: Path) -> None:
    times = []

    def chunks() -> Chunks:
        for _ in range(3):
            times.append((tmp_path / "lock").stat().st_mtime_ns)
            time.sleep(0.05)
            yield np.zeros((2, 4, 4, 3), np.uint8), np.zeros(2, np.int64)

    with lock.locked(tmp_path / "lock") as moved:
        data._decode_to(tmp_path / "cache", chunks(), moved)
    assert len(set(times)) == 3


def test_every_step_of_a_loop_is_a_sign_whether_anybody_listens_or_not() -> None:
    def loops() -> None:
        for _ in progress.steps("outer", range(2)):
            list(progress.steps("inner", range(5)))
            progress.tell("deep", 1)

    assert signs_of(loops) >= 14
    with progress.told_to(lambda *fact: None):
        assert signs_of(loops) >= 14
