"""A trial begins with an earlier network: its features bit for bit, its content by hash, and what does not fit."""

import pickle
from collections.abc import Callable
from math import inf, nan
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from trainables.config import trial as c
from trainables.config.errors import UserError
from trainables.learning.learner import Learner
from trainables.networks.encoders import backbone_of, plain_resnet_state, run_parts
from trainables.networks.group import Group
from trainables.networks.modes import in_evaluation_mode
from trainables.networks.norms.momentum import MomentumNorm
from trainables.running import checkpoint, initial_network, scoring
from trainables.running import fit as train
from trainables.running.resolve import resolved
from trainables.running.stored import Stored
from trainables.running.train import main

Tiny = Callable[..., c.TrialConfig]


def outputs(parts: nn.ModuleDict, x: Tensor) -> Tensor:
    """In evaluation mode."""
    with in_evaluation_mode(parts), torch.no_grad():
        return run_parts(parts, x)


def learner_of(config: c.TrialConfig) -> Learner:
    """As `fit` makes it where no checkpoint is there."""
    config = resolved(config, 10)
    return Learner(config, 1, 64, Group(), 10, initial_network.read(config.init))


@pytest.fixture
def trained(tiny: Tiny, tmp_path: Path) -> Callable[..., tuple[Path, Learner]]:
    """Trains an epoch; returns the checkpoint, and the Learner that it holds."""

    def make(values: dict[str, object] | None = None) -> tuple[Path, Learner]:
        config = tiny({"train.epochs": 1, "optim.lr": 0.1, "seed": 5, **(values or {})})
        train.fit(config, tmp_path / "source", lambda metrics: "on")
        found = checkpoint.newest(tmp_path / "source")
        assert found is not None
        learner = learner_of(config)
        learner.load_state_dict(found.tensors, found.values["learner"])
        return found.path, learner

    return make


@pytest.fixture
def x() -> Tensor:
    return torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("network", ["student", "teacher"])
@pytest.mark.parametrize("norm", ["batch", "eman", "momentum"])
def test_features_are_those_of_the_network_that_a_checkpoint_holds(
    trained: Callable[..., tuple[Path, Learner]], tiny: Tiny, x: Tensor, network: str, norm: str
) -> None:
    path, source = trained({"teacher.norm.kind": norm})
    learner = learner_of(tiny({"init": {"path": str(path), "network": network}}))
    random, wanted = learner_of(tiny()), source.network(network)
    found = outputs(backbone_of(learner.student.parts), x)
    assert torch.equal(found, outputs(backbone_of(wanted), x))
    assert not torch.allclose(found, outputs(backbone_of(random.student.parts), x), atol=1e-3)
    for part in ("fc1", "fc2"):  # the projector is that of a random start
        own, other = (list(one.student.parts[part].parameters()) for one in (learner, random))
        assert len(own) == len(other) and all(map(torch.equal, own, other))
    whole = learner_of(tiny({"init": {"path": str(path), "network": network, "part": "whole"}}))
    assert torch.equal(outputs(whole.student.parts, x), outputs(wanted, x))


@pytest.mark.parametrize("norm", ["momentum", "layer", "none"])
def test_students_with_other_norms(
    trained: Callable[..., tuple[Path, Learner]], tiny: Tiny, x: Tensor, norm: str
) -> None:
    """Momentum BN's histories become alike, so that an evaluation is the same; layer norm has none."""
    path, source = trained({"encoder.norm": norm, "optim.lr": 0.01})
    begun = {"init": {"path": str(path), "part": "whole"}, "encoder.norm": norm}
    assert torch.equal(outputs(learner_of(tiny(begun)).student.parts, x), outputs(source.student.parts, x))
    if norm == "momentum":
        batch = learner_of(tiny({**begun, "encoder.norm": "batch"}))
        assert torch.equal(outputs(batch.student.parts, x), outputs(source.student.parts, x))
    else:
        with pytest.raises(UserError, match=r"^init.path = .*has no \S+\.\S+, which is \[\d+\] in this trial"):
            learner_of(tiny({**begun, "encoder.norm": "batch"}))


def test_student_and_teacher_of_a_checkpoint_differ(
    trained: Callable[..., tuple[Path, Learner]], tiny: Tiny, x: Tensor
) -> None:
    path, _ = trained()
    both = [learner_of(tiny({"init": {"path": str(path), "network": which}})) for which in ("student", "teacher")]
    first, second = (outputs(backbone_of(learner.student.parts), x) for learner in both)
    assert not torch.equal(first, second)


def test_a_teacher_of_some_parts_is_completed_by_the_student(
    trained: Callable[..., tuple[Path, Learner]], tiny: Tiny, x: Tensor
) -> None:
    """Block 2 is averaged; block 3 runs the student's weights with statistics of the teacher."""
    path, source = trained({"teacher.placement": ["block2"]})
    learner = learner_of(tiny({"init": {"path": str(path), "network": "teacher", "part": "whole"}}))
    assert torch.equal(outputs(learner.student.parts, x), outputs(source.network("teacher"), x))


@pytest.mark.parametrize("norm", ["batch", "eman", "momentum"])
def test_the_teachers_first_copy_is_exact_with_statistics(
    trained: Callable[..., tuple[Path, Learner]], tiny: Tiny, x: Tensor, norm: str
) -> None:
    path, _ = trained()
    learner = learner_of(tiny({"init": str(path), "teacher.norm.kind": norm}))
    assert torch.equal(outputs(learner.network("teacher"), x), outputs(learner.student.parts, x))
    histories = [layer.history for layer in learner.teacher.modules() if isinstance(layer, MomentumNorm)]
    assert bool(histories) == (norm == "momentum")
    assert all(torch.equal(row, history[0]) for history in histories for row in history)
    assert not histories or histories[0][0, 0].abs().min() > 0, "means of images, not the 0 of a fresh norm"


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_a_torchvision_state_goes_round(tiny: Tiny, tmp_path: Path, ending: str) -> None:
    torch.manual_seed(3)
    source = torchvision.models.resnet18(num_classes=10).eval()
    for buffer in source.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 2.0)
    path = tmp_path / f"resnet18{ending}"
    torch.save(source.state_dict(), path) if ending == ".pth" else save_file(source.state_dict(), path)
    encoder = {"name": "resnet18", "stem": "standard", "width": 64}
    config = tiny({"encoder": encoder, "method.name": "fixmatch", "init": {"path": str(path), "part": "whole"},
                   "method.images_per_label": 3, "train.batch_size": 12, "train.shard_size": 12})  # fmt: skip
    initial_network.require_fitting(config, Stored(64, (64, 64, 3), 10))
    config = resolved(config, 10)
    parts = Learner(config, 3, 64, Group(), 10, initial_network.read(config.init)).student.parts
    pictures = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(outputs(parts, pictures), source(pictures))
    back = plain_resnet_state(parts)
    assert all(torch.equal(back[name], tensor) for name, tensor in source.state_dict().items() if name in back
               and not name.endswith("num_batches_tracked"))  # fmt: skip
    assert len(back) == len(source.state_dict()) - 2, "all but the classifier"


def test_a_trial_is_a_function_of_the_content(
    trained: Callable[..., tuple[Path, Learner]], tiny: Tiny, tmp_path: Path
) -> None:
    path, _ = trained()
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(path.read_bytes())
    assert resolved(tiny(), 10).init.sha256 is None
    ready = resolved(tiny({"init": str(path)}), 10)
    assert ready.init.sha256 == resolved(tiny({"init": str(copy)}), 10).init.sha256 is not None
    assert c.parse(ready.plain()) == ready and resolved(ready, 10) == ready
    random, begun, moved = (
        train.fit(tiny(values), tmp_path / name, lambda metrics: "on")
        for name, values in {"a": {}, "b": {"init": str(path)}, "c": {"init": str(copy)}}.items()
    )
    assert begun[-1]["loss"] == moved[-1]["loss"] != random[-1]["loss"]


def test_a_resume_goes_on_without_the_file_but_not_with_another_content(
    trained: Callable[..., tuple[Path, Learner]], tiny: Tiny, tmp_path: Path
) -> None:
    path, _ = trained()
    content, folder = path.read_bytes(), tmp_path / "trial"
    config = tiny({"init": str(path)})
    whole = train.fit(config, tmp_path / "whole", lambda metrics: "on")
    train.fit(config, folder, lambda metrics: "leave")
    stored = checkpoint.newest(folder)
    assert stored is not None and stored.config["init"]["sha256"] == resolved(config, 10).init.sha256
    path.rename(tmp_path / "kept.safetensors")
    pinned = c.changed(config.plain(), {"init.sha256": stored.config["init"]["sha256"]})
    train.fit(pinned, folder, lambda metrics: "leave")  # such as on another node: the checkpoint has all
    measured, _, _ = scoring.evaluate(stored, "validation", ("knn",))
    assert 0 <= measured["knn_top1"] <= 1, "an evaluation does not need the file either"
    save_file({"conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"init.path = .*are of a trial that began with a file whose sha256 is"):
        train.fit(config, folder, lambda metrics: "on")
    with pytest.raises(UserError, match=r"init.path = .*: has another content now \(sha256 .*put the file back"):
        train.fit(pinned, tmp_path / "new", lambda metrics: "on")
    with pytest.raises(UserError, match=r"init.path = None: .* began with a file whose sha256"):
        train.fit(tiny(), folder, lambda metrics: "on")
    path.write_bytes(content)
    resumed = train.fit(config, folder, lambda metrics: "on")
    assert [row["loss"] for row in resumed] == [row["loss"] for row in whole]
    with pytest.raises(UserError, match="that began with random weights"):
        train.fit(tiny({"train.epochs": 1}), tmp_path / "random", lambda metrics: "on")
        train.fit(tiny({"train.epochs": 1, "init": str(path)}), tmp_path / "random", lambda metrics: "on")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"encoder.width": 8}, r"is \[.*\], and \[.*\] in this trial .*; it is resnet10 with encoder.width=4"),
        ({"encoder.name": "resnet18"}, r"has no block1.1.bn1.bias, which is \[4\] .*it is resnet10"),
        ({"encoder.stem": "standard"}, r"conv1.0.weight is \[4, 1, 3, 3\], and \[4, 1, 7, 7\].*encoder.stem=small"),
        ({"encoder.name": "wrn28-2"}, "it is resnet10 with encoder.width=4 and encoder.stem=small, for images of 1 c"),
        ({"encoder.feature_norm": "pooled"}, r"has no block4.\d.bias"),
        ({"init.part": "whole", "encoder.projector.out": 7}, r"fc2.0.bias is \[16\], and \[7\].*init.part=backbone fi"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_before_anything_is_trained(
    trained: Callable[..., tuple[Path, Learner]], tiny: Tiny, values: dict[str, object], said: str
) -> None:
    path, _ = trained()
    config = tiny({"init": str(path), "monitors": ["distance"], **values})
    for act in (lambda: initial_network.require_fitting(config, Stored(64, (8, 8, 1), 10)), lambda: learner_of(config)):
        with pytest.raises(UserError, match=rf"^init.path = '{path}': .*{said}"):
            act()


def test_files_that_hold_no_network(tiny: Tiny, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    def refused(name: str, **values: object) -> str:
        with pytest.raises(UserError) as caught:
            initial_network.read(tiny({"init": {"path": str(tmp_path / name), **values}}).init)
        return str(caught.value)

    torch.save({"state_dict": {"conv1.weight": torch.zeros(1)}, "epoch": 3}, tmp_path / "nested.pth")
    torch.save({"module.encoder_q.conv1.weight": torch.zeros(1)}, tmp_path / "moco.pth")
    torch.save(nn.Linear(2, 2), tmp_path / "code.pth")
    (tmp_path / "noise.pth").write_bytes(b"noise" * 100)
    (tmp_path / "noise.safetensors").write_bytes(b"noise" * 100)
    (tmp_path / "text.pth").write_text("epoch: 3\n")
    torch.save({0: torch.zeros(1), "a": torch.zeros(1)}, tmp_path / "numbered.pth")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    (tmp_path / "python.pth").write_bytes(pickle.dumps({"a": 1}, protocol=4))
    rule = "': must hold tensors by name, as torchvision saves them; it "
    assert refused("nested.pth").endswith(f"{rule}holds state_dict, epoch")
    assert refused("numbered.pth").endswith(f"{rule}holds 0, a")
    assert refused("list.pth").endswith(f"{rule}holds a list")
    assert refused("code.pth").endswith(f"{rule}holds code (torch.nn.modules.linear.Linear)")
    for name in ("noise.pth", "text.pth", "python.pth"):
        assert refused(name).endswith(f"{rule}is damaged, or torch.save did not write it")
    assert [str(warning.message) for warning in recwarn] == [], "torch's warnings are not shown beside the line"
    assert "under torchvision's names; it holds module.encoder_q.conv1.weight" in refused("moco.pth")
    assert "is damaged" in refused("noise.pth") and "is damaged" in refused("noise.safetensors")
    assert "has no teacher beside its student" in refused("moco.pth", network="teacher")
    assert "no such file; did you mean 'noise.pth'?" in refused("nois.pth")
    assert "there is no folder" in refused("missing/x.pth")
    (tmp_path / "run.pth").mkdir()
    assert "is a folder; name a file in it; it holds none" in refused("run.pth")
    with pytest.raises(UserError, match=r"^init.path.*a file of weights ends in .safetensors, .pth, .pt"):
        tiny({"init": "weights.bin"})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"conv1.weight": nan}, "conv1.0.weight holds NaN;"),
        ({"bn1.running_var": inf}, "conv1.1.running_var holds an infinite number;"),
        (
            {"conv1.weight": -inf, "bn1.bias": nan},
            r"conv1.0.weight holds an .* \(1 other does too\);",
        ),
        (
            {"bn1.weight": nan, "bn1.bias": nan, "bn1.running_mean": nan},
            r"\(2 others do too",
        ),
    ],
)
def test_weights_that_are_not_finite_are_refused_before_anything_is_trained(
    tiny: Tiny, tmp_path: Path, values: dict[str, float], said: str
) -> None:
    """But for the classifier, where the backbone alone is taken."""
    torch.manual_seed(0)
    state = torchvision.models.resnet18(num_classes=10).state_dict()
    path = tmp_path / "diverged.safetensors"
    encoder = {"name": "resnet18", "stem": "standard", "width": 64}
    config = tiny({"encoder": encoder, "init": str(path)})
    state["fc.weight"][0, 0] = nan
    save_file(state, path)
    initial_network.require_fitting(config, Stored(64, (64, 64, 3), 10))
    for name, value in values.items():
        state[name].view(-1)[-1] = value
    save_file(state, path)
    with pytest.raises(UserError, match=rf"^init.path = '{path}': .*{said}.*must be finite numbers$"):
        initial_network.require_fitting(config, Stored(64, (64, 64, 3), 10))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"encoder.projector.out": 7}, r"\(1 other does not fit either\)"),
        ({"encoder.width": 8}, r"\(\d\d others do not"),
    ],
)
def test_how_many_others_do_not_fit(
    trained: Callable[..., tuple[Path, Learner]], tiny: Tiny, values: dict[str, object], said: str
) -> None:
    path, _ = trained()
    config = tiny({"init": {"path": str(path), "part": "whole"}, **values})
    with pytest.raises(UserError, match=said):
        initial_network.require_fitting(config, Stored(64, (8, 8, 1), 10))


@pytest.mark.parametrize("shape", [(), (3,), (4, 1, 3)], ids=str)
@pytest.mark.parametrize("odd", [("conv1.weight", "layer1.0.conv1.weight"), ("layer1.0.conv1.weight",)], ids=len)
def test_tensors_of_odd_shapes_are_refused(
    tiny: Tiny, tmp_path: Path, shape: tuple[int, ...], odd: tuple[str, ...]
) -> None:
    path = tmp_path / "odd.pth"
    state = {"conv1.weight": torch.zeros(4, 1, 3, 3), "layer1.0.conv1.weight": torch.zeros(4, 4, 3, 3)}
    torch.save({**state, **{name: torch.zeros(shape) for name in odd}}, path)
    with pytest.raises(UserError, match=rf"^init.path = '{path}': .*; it is (no encoder|a ResNet with )"):
        initial_network.require_fitting(tiny({"init": str(path)}), Stored(64, (8, 8, 1), 10))


@pytest.mark.parametrize(
    ("norm", "named"),
    [("batch", "batch or momentum or sync"), ("momentum", "batch or momentum or sync"), ("layer", "group or layer"),
     ("none", "none")],
)  # fmt: skip
def test_the_norm_of_a_network_that_does_not_fit_is_named(
    trained: Callable[..., tuple[Path, Learner]], tiny: Tiny, norm: str, named: str
) -> None:
    path, _ = trained({"encoder.norm": norm, "optim.lr": 0.01})
    config = tiny({"init": str(path), "encoder.norm": "layer" if norm != "layer" else "none"})
    with pytest.raises(UserError, match=rf"^init.path = .*; it is resnet10 with .*, with encoder.norm={named}$"):
        initial_network.require_fitting(config, Stored(64, (8, 8, 1), 10))


def test_a_hash_has_64_hexadecimal_digits(tiny: Tiny) -> None:
    assert tiny({"init.sha256": "AB" * 32}).init.sha256 == "ab" * 32
    for digits in ("zz", "g" * 64, "a" * 63, "a" * 64 + "\n"):
        with pytest.raises(UserError, match=r"^init.sha256 = '.*': must be 64 hexadecimal digits$"):
            tiny({"init.sha256": digits})


def test_a_checkpoint_with_a_teacher_on_each_worker(trained: Callable[..., tuple[Path, Learner]], tiny: Tiny) -> None:
    path, _ = trained()
    found = checkpoint.read(path)
    tensors = found.tensors | {"teachers.0.fc2.0.bias": torch.zeros(16), "teachers.1.fc2.0.bias": torch.zeros(16)}
    other = checkpoint.write(path.parent / "two", 1, tensors, {**found.values, "learner": {"step": 1}}, 1)
    with pytest.raises(UserError, match="each of its workers has a teacher of its own; init.network=student fits"):
        initial_network.read(tiny({"init": {"path": str(other), "network": "teacher"}}).init)


def test_the_command_refuses_a_network_that_does_not_fit(
    trained: Callable[..., tuple[Path, Learner]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = trained()
    config = tmp_path / "trial.yaml"
    config.write_text(f"init: {path}\nencoder: {{name: resnet10, width: 8}}\ntrain: {{epochs: 1}}\n")
    assert main([str(config), "--folder", str(tmp_path / "out")]) == 2
    assert "init.path" in capsys.readouterr().err and not (tmp_path / "out").exists()
    config.write_text(f"init: {path}x.pth\n")
    assert main([str(config), "--folder", str(tmp_path / "out")]) == 2
    assert "no such file" in capsys.readouterr().err


def test_an_untrained_encoder_with_a_beginning_is_that_beginning(
    trained: Callable[..., tuple[Path, Learner]], tiny: Tiny, tmp_path: Path
) -> None:
    """The score of no epochs, which trials have to beat."""
    path, _ = trained()
    values = {"train.epochs": 0, "evaluation.network": "student"}
    (row,) = train.fit(tiny({"init": str(path), **values}), tmp_path / "zero", lambda metrics: "on")
    network = {"evaluation.network": "student"}
    expected, _, _ = scoring.evaluate(checkpoint.read(path), "validation", ("knn",), network)
    assert row["knn_top1"] == expected["knn_top1"] and row["knn1_top1"] == expected["knn1_top1"]
