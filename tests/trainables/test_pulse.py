"""What is watched for a sign that a worker gets on: steps, evaluations, and images that are read."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.trainables.pictures import encoded, picture
from trainables import config as c
from trainables import data, files, pulse, train
from trainables.evaluation.knn import KNN
from trainables.evaluation.linear import Linear
from trainables.learner import Learner
from trainables.subject import Features


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
    train.fit(tiny(), tmp_path, lambda metrics: True)
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


def test_whoever_waits_for_a_lock_gives_signs_and_whoever_holds_it_has_to_get_on(tmp_path: Path) -> None:
    with data._locked(tmp_path / "lock"):
        assert signs_of(lambda: None) == 0
        waiting = threading.Thread(target=lambda: data._locked(tmp_path / "lock").__enter__(), daemon=True)
        waiting.start()
        end = time.monotonic() + 10
        while not signs_of(lambda: None) and time.monotonic() < end:
            time.sleep(0.01)
        assert signs_of(lambda: None) > 0
    waiting.join()
    assert signs_of(lambda: None) == 0
