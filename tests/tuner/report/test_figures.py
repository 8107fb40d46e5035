"""Figures of traces: what their panels hold, and that the PNG shows it."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.tuner.report.traced import rows
from trainables.config import trial as c
from trainables.config.errors import UserError
from tuner.report import figures
from tuner.report.figures import Traced


def trials(*names: str) -> list[Traced]:
    return [Traced(name, rows(seed=number)) for number, name in enumerate(names)]


def pixels(drawn: Any) -> np.ndarray:
    """Of the PNG file: [height, width, 3]."""
    with Image.open(io.BytesIO(figures.png(drawn))) as opened:
        assert opened.format == "PNG"
        return np.asarray(opened.convert("RGB"))


def test_gradients_have_a_line_for_each_block_and_the_projector_on_a_log_scale() -> None:
    (one, two) = trials("one", "two")
    drawn = figures.figure("gradients", [one, two])
    assert [panel.get_title() for panel in drawn.axes] == ["one", "two"]
    for panel, shown in zip(drawn.axes, (one, two), strict=True):
        assert panel.get_yscale() == "log" and panel.get_xlabel() == "step"
        lines = {line.get_label(): line for line in panel.lines}
        assert list(lines) == ["block 1", "block 2", "block 3", "block 4", "projector, hidden layer", "projector"]
        assert lines["block 3"].get_xdata().tolist() == shown.rows["steps"].tolist()
        assert lines["block 3"].get_ydata().tolist() == shown.rows["gradient/block3"].tolist()
        assert lines["projector"].get_ydata().tolist() == shown.rows["gradient/fc2"].tolist()
        low, high = panel.get_ylim()
        assert low < 1e-6 and high > 1, "one scale, on which both trials are seen"
    assert drawn.axes[0].get_ylim() == drawn.axes[1].get_ylim()
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == list(figures.PARTS.values())


def test_an_encoder_without_block4_has_a_line_less() -> None:
    own = {name: values for name, values in rows().items() if name != "gradient/block4"}
    (panel,) = figures.figure("gradients", [Traced("wrn", own)]).axes
    assert [line.get_label() for line in panel.lines] == [
        "block 1",
        "block 2",
        "block 3",
        "projector, hidden layer",
        "projector",
    ]


@pytest.mark.parametrize("network", ["student", "teacher"])
def test_filters_are_paths_in_the_plane_coloured_by_step(network: Any) -> None:
    shown = trials("one", "two", "three")
    drawn = figures.figure("filters", shown, network)
    *panels, bar = drawn.axes
    assert [panel.get_title() for panel in panels] == [f"{name}, {network}" for name in ("one", "two", "three")]
    assert bar.get_ylabel() == "step" and bar.get_ylim() == (0, 120)
    for panel, one in zip(panels, shown, strict=True):
        path = one.rows[f"filter/{network}"]
        points, last = panel.collections
        assert len(panel.lines) == 16
        assert np.array_equal(panel.lines[5].get_xydata(), path[:, 5].astype(float))
        found = {(x, y): step for (x, y), step in zip(points.get_offsets().tolist(), points.get_array(), strict=True)}
        wanted = {tuple(path[row, n].tolist()): 10 * (row + 1) for row in range(12) for n in range(16)}
        assert found == wanted
        assert np.array_equal(last.get_offsets(), path[-1].astype(float))


def test_coordinates_stand_over_the_steps_one_below_the_other() -> None:
    shown = trials("one", "two")
    drawn = figures.figure("coordinates", shown, "teacher")
    assert len(drawn.axes) == 4
    for number, panel in enumerate(drawn.axes):
        one, axis = shown[number % 2], number // 2
        assert len(panel.lines) == 16
        for filter_, line in enumerate(panel.lines):
            assert line.get_ydata().tolist() == one.rows["filter/teacher"][:, filter_, axis].tolist()
            assert line.get_xdata().tolist() == one.rows["steps"].tolist()
    assert [panel.get_ylabel() for panel in drawn.axes] == ["first coordinate", "", "second coordinate", ""]


@pytest.mark.parametrize("kind", figures.KINDS)
@pytest.mark.parametrize("title", [r"$\frac{a$", "a$b$c", "two\nlines", "\udcff", ""], ids=ascii)
def test_a_title_is_plain_text(kind: str, title: str) -> None:
    """Neither a dollar sign nor a byte that is no letter, as names of folders may have them, is an error."""
    drawn = figures.figure(kind, [Traced(title, rows())])
    assert figures.png(drawn)
    shown = drawn.axes[0].get_title()
    assert shown.removesuffix(", student") == title.replace("\udcff", r"\udcff")


def test_a_dollar_sign_is_drawn() -> None:
    """A formula would be as wide as what is between the signs."""

    def width(title: str) -> float:
        drawn = figures.figure("gradients", [Traced(title, rows())])
        figures.png(drawn)
        return drawn.axes[0].title.get_window_extent().width

    assert width("$ab$") > 1.5 * width("ab")


@pytest.mark.parametrize(("kind", "tall"), [("gradients", 1), ("filters", 1), ("coordinates", 2)])
def test_a_png_has_a_panel_for_each_trial(kind: str, tall: int) -> None:
    """Each part of the picture has ink in it, colours too, and another trial makes it wider."""
    one, two = (pixels(figures.figure(kind, trials(*names))) for names in (("one",), ("one", "two")))
    assert one.shape[0] == two.shape[0] == pytest.approx(tall * figures.PANEL[1] * figures.DPI, abs=2)
    assert two.shape[1] - one.shape[1] == pytest.approx(figures.PANEL[0] * figures.DPI, abs=2)
    for half in np.array_split(two, 2, axis=1):
        assert (half < 128).any(), "ink"
        assert (half.max(2).astype(int) - half.min(2) > 60).sum() > 200, "colours"


def test_long_paths_are_thinned_from_the_first_row_to_the_last() -> None:
    drawn = figures.figure("filters", [Traced("long", rows(steps=7001, every=1))])
    steps = np.unique(drawn.axes[0].collections[0].get_array())
    assert len(steps) == figures.MOST_POINTS and (steps[0], steps[-1]) == (1, 7001)
    assert set(np.diff(steps)) <= {3, 4}


def test_traces_that_lack_what_is_drawn() -> None:
    own = {name: values for name, values in rows().items() if name == "steps" or name.startswith("gradient/")}
    assert figures.kinds_in(own) == ["gradients"] and figures.kinds_in(rows()) == list(figures.KINDS)
    with pytest.raises(
        UserError, match="0003: was not traced for the figure filters, only for gradients; see monitors"
    ):
        figures.figure("filters", [Traced("0003", own)])


@pytest.mark.parametrize(
    ("teacher", "title"),
    [
        ({"placement": "none"}, "0001, β = 0"),
        ({"momentum": 0.9}, "0001, β = 0.9"),
        ({"momentum": 0.9, "placement": "backbone"}, "0001, β = 0"),
        ({"momentum": 0.9, "momenta": {"fc2": 0.99}}, "0001, β = 0.99"),
        ({"smoothing": "se"}, "0001"),
    ],
)
def test_the_title_says_the_momentum_of_the_last_layer(teacher: dict[str, Any], title: str) -> None:
    assert figures.title("0001", c.parse({"teacher": teacher})) == title
