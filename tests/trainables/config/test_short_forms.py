"""A plain value in place of a section that has a kind or a name: in YAML, in settings, and in points."""

from typing import Any

import pytest

from trainables.config import trial as c
from trainables.config.errors import UserError
from trainables.config.settings import short_keys, with_values


@pytest.mark.parametrize(
    ("nested", "key", "value"),
    [
        ({"teacher": {"norm": "eman"}}, "teacher.norm.kind", "eman"),
        ({"teacher": {"smoothing": "sts"}}, "teacher.smoothing.kind", "sts"),
        ({"method": "moco"}, "method.name", "moco"),
        ({"data": "digits"}, "data.name", "digits"),
        ({"encoder": "resnet34"}, "encoder.name", "resnet34"),
        ({"optim": "lars"}, "optim.name", "lars"),
        ({"optim": {"lr": "1e-3"}}, "optim.lr.base", 0.001),
        ({"online_probe": 0.1}, "online_probe.lr", 0.1),
        ({"teacher": {"momentum": 0.9}}, "teacher.momentum.kind", "constant"),
    ],
)
def test_a_plain_value_stands_for_a_section(nested: dict[str, Any], key: str, value: Any) -> None:
    found: Any = c.parse(nested)
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value


def test_a_preset_and_the_method_s_own_head_come_with_a_short_form() -> None:
    assert c.parse({"method": "moco"}) == c.parse({"method": {"name": "moco"}})
    assert c.parse({"preset": "eman", "method": "moco"}) == c.parse({"preset": "eman", "method": {"name": "moco"}})


def test_a_plain_value_leaves_the_other_keys_but_those_of_another_method() -> None:
    nested = {
        "teacher": {"norm": {"variance": "released"}},
        "method": {"name": "byol", "predictor_hidden": 64},
        "data": {"split_seed": 3},
    }
    trial = c.parse(
        with_values(nested, {"teacher.norm": "momentum", "method": "moco", "data": "digits"}, c.TrialConfig)
    )
    assert (trial.teacher.norm.kind, trial.teacher.norm.variance) == ("momentum", "released")
    assert (trial.method.name, trial.data.split_seed) == ("moco", 3)
    kept = c.parse(with_values(nested, {"method": "byol"}, c.TrialConfig))
    assert kept.method.model_dump()["predictor_hidden"] == 64


@pytest.mark.parametrize(
    ("nested", "said"),
    [
        (
            {"teacher": {"norm": "emann"}},
            "teacher.norm.kind = 'emann': must be 'batch', 'sync', 'shuffle', 'momentum' or 'eman'; did you",
        ),
        ({"teacher": {"norm": True}}, "teacher.norm = True: must not be true or false"),
        ({"method": "mocco"}, "method.name = 'mocco': no such name; did you mean 'moco'?"),
        ({"method": {"name": [1]}}, "method.name = '[1]': no such name"),
        (
            {"teacher": "eman"},
            "teacher = 'eman': must hold keys and values: momentum, momenta, update, smoothing, placement, ...",
        ),
        ({"teacher": None}, "teacher: must hold keys and values: momentum, "),
        ({"train": {"epochs": None}}, "train.epochs: has no value; leave the key out for its default"),
    ],
)
def test_what_no_section_is_is_refused_in_our_words(nested: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        c.parse(nested)
    assert str(caught.value).startswith(said) and "Input" not in str(caught.value)


def test_every_section_with_a_kind_or_a_name_has_a_short_form() -> None:
    from trainables.config.settings import section_keys

    chosen = {
        section for section, keys in section_keys(c.TrialConfig).items() if section and {"kind", "name"} & set(keys)
    }
    assert chosen <= short_keys(c.TrialConfig).keys()


def test_values_and_keys_are_shortened_in_messages() -> None:
    for nested in (
        {"seed": "x" * 10**6},
        {"x" * 10**6: 1},
        {"seed": 10**4000},
        {f"key{n}": n for n in range(10_000)},
        {"a\nb": 1},
    ):
        with pytest.raises(UserError) as caught:
            c.parse(nested)
        lines = str(caught.value).splitlines()
        assert len(lines) <= 21 and max(map(len, lines)) < 300


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"train.epochs": 1e12}, "train.epochs = 1000000000000.0: must be less than or equal to 1000000"),
        ({"views.noise": 1e26}, "views.noise = 1e+26: must be less than or equal to 10"),
        (
            {"optim.lr.warmup": "1e300 steps"},
            "optim.lr.warmup = '1e300 steps': must be at most 1,000,000,000 steps or epochs",
        ),
        ({"optim.lr.warmup": 10**400}, "must be at most 1,000,000,000 steps or epochs"),
        ({"optim.lr": 1e39}, "optim.lr.base = 1e+39: must be less than or equal to 1e+38"),
        ({"encoder.width": 10**7}, "encoder.width = 10000000: must be less than or equal to 1000000"),
        ({"data.root": "n" * 300}, "data.root = 'nnn"),
        ({"data.root": "~nobody-at-all/x"}, "there is no such user as ~nobody-at-all"),
        ({"method": "fixmatch", "train.shard_size": 10**9, "train.batch_size": 10**9}, "method.images_per_label = 7"),
    ],
)
def test_sizes_have_bounds(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        c.parse(with_values({}, values, c.TrialConfig))
    assert said in str(caught.value)
