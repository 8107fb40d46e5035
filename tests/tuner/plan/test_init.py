"""The network that trials begin with, as a search sees it: noted at the launch, and looked at before the start."""

from pathlib import Path

import pytest
import torch
import yaml

from trainables.config import trial as c
from trainables.config.errors import UserError
from tuner.commands import checks
from tuner.commands.checkup import nodes
from tuner.plan import jobs, points, reading, spec

ENCODER = {"name": "resnet10", "width": 4}


def write_network(path: Path, value: float = 1.0, width: int = 4) -> Path:
    """The backbone of a ResNet-10 of small images, under torchvision's names."""
    from trainables.networks.encoders import build_parts, plain_resnet_state
    from trainables.networks.norms.base import Shards

    parts = build_parts(c.Encoder(name="resnet10", width=width), 1, Shards(2, 1, range(1)))
    state = {name: x for name, x in plain_resnet_state(parts).items() if x.is_floating_point()}
    torch.save({name: torch.full_like(x, value) for name, x in state.items()}, path)
    return path


def search(folder: Path, **values: object) -> Path:
    path = folder / "search.yaml"
    trial = {"encoder": ENCODER, "init": str(folder / "a.pth"), "train": {"epochs": 1}}
    path.write_text(yaml.safe_dump({"trial": trial, **values}))
    return path


def test_a_launch_notes_the_content_and_a_resume_refuses_another(tmp_path: Path) -> None:
    first = write_network(tmp_path / "a.pth")
    launched = reading.read(search(tmp_path), [])
    assert launched.trial.init.sha256 is not None and launched.trial.init.path == first
    stored = yaml.safe_load(yaml.safe_dump(launched.plain()))
    assert reading.continued(stored, []).trial.init == launched.trial.init
    moved = first.rename(tmp_path / "moved.pth")
    with pytest.raises(UserError, match=r"^trial.init.path = .*a.pth': no such file; did you mean 'moved.pth'\?"):
        reading.continued(stored, [])
    assert reading.continued(stored, [f"trial.init.path={moved}"]).trial.init.sha256 == launched.trial.init.sha256
    write_network(first, 2.0)
    with pytest.raises(UserError, match=r"^trial.init.path = .*: has another content now"):
        reading.continued(stored, [])
    other = reading.read(search(tmp_path), [])
    with pytest.raises(UserError, match=r"^trial.init.sha256 = .*at the launch"):
        reading.require_same(stored, other)
    exported = c.parse(launched.trial.plain())
    assert exported == launched.trial, "as `tuner export` writes it and `tuner train` reads it"


@pytest.mark.parametrize("short", [True, False])
def test_points_may_begin_with_files_of_their_own(tmp_path: Path, short: bool) -> None:
    for name, value in (("a", 1.0), ("b", 2.0)):
        write_network(tmp_path / f"{name}.pth", value)
    b = str(tmp_path / "b.pth")
    rows = {"a": {}, "b": {"init": b} if short else {"init.path": b}, "random": {"init.path": None}}
    table = reading.read(search(tmp_path, points=rows), [])
    configs = points.configs(table)
    hashes = [config.init.sha256 for config in configs.values()]
    assert hashes[0] != hashes[1] and None not in hashes[:2] and configs["random"].init.path is None
    points.check_data(table)
    grid = reading.read(search(tmp_path, grid={"init.path": [str(tmp_path / "a.pth"), b]}), [])
    assert [config.init.sha256 for config in points.configs(grid).values()] == hashes[:2]
    stored = yaml.safe_load(yaml.safe_dump(table.plain()))
    assert points.configs(reading.continued(stored, [])) == configs
    write_network(tmp_path / "b.pth", 3.0)
    with pytest.raises(UserError, match=r"^point 'b': init.path = .*b.pth': has another content now"):
        points.check_data(reading.continued(stored, []))
    (tmp_path / "b.pth").unlink()
    with pytest.raises(UserError, match=r"^point 'b': init.path = .*b.pth': no such file; did you mean 'a.pth'"):
        reading.read(search(tmp_path, points=rows), [])


def check(table: spec.SearchSpec, folder: Path) -> None:
    (one,) = [one for one in checks.CHECKS if one.name == "the networks that trials begin with fit"]
    one.require(table, None, folder)


def test_a_network_that_does_not_fit_is_refused_before_a_launch(tmp_path: Path) -> None:
    write_network(tmp_path / "a.pth")
    write_network(tmp_path / "wide.pth", width=8)
    check(reading.read(search(tmp_path), []), tmp_path)
    said = r"trial.init.path = .*a.pth': .* is \[4, 1, 3, 3\], and \[8, 1, 3, 3\] in this trial"
    with pytest.raises(UserError, match=said.replace(r"\[4, 1, 3, 3\], and \[8, 1, 3, 3\]", r"\[4.*\], and \[8.*\]")):
        check(reading.read(search(tmp_path), ["trial.encoder.width=8"]), tmp_path)
    rows = {"a": {}, "b": {"init": str(tmp_path / "wide.pth")}}
    with pytest.raises(UserError, match=r"^point 'b': init.path = .*wide.pth': .*encoder.width=8"):
        check(reading.read(search(tmp_path, points=rows), []), tmp_path)


def test_a_network_that_diverged_is_refused_before_a_launch(tmp_path: Path) -> None:
    write_network(tmp_path / "a.pth", float("nan"))
    said = r"^trial.init.path = .*a.pth': \S+ holds NaN \(\d+ others do too\); weights and statistics must be finite"
    with pytest.raises(UserError, match=said):
        check(reading.read(search(tmp_path), []), tmp_path)


def test_other_nodes_are_asked_for_the_file_and_a_job_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = write_network(tmp_path / "a.pth")
    trial = reading.read(search(tmp_path), []).trial
    assert nodes.paths_of(trial) == (str(first),)
    monkeypatch.setattr(jobs, "inside", lambda: True)
    jobs.require_inputs_kept(trial)
    monkeypatch.setattr(jobs, "_is_copy", lambda path: True)
    with pytest.raises(UserError, match=r"^init.path = .*a.pth': the working folder of a Ray job is a copy"):
        jobs.require_inputs_kept(trial)
