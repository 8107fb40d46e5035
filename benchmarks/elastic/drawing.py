"""The timeline of the rounds as a picture: a block of lanes for each contender, a lane for each node's CPU."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from benchmarks.elastic import measure
from benchmarks.elastic.contenders import CONTENDERS
from benchmarks.elastic.rounds import Round
from benchmarks.elastic.table import events, seconds, utilisation

COLOURS = (  # Tableau's, of which neighbours differ for the colour-blind too
    (78, 121, 167), (242, 142, 43), (89, 161, 79), (225, 87, 89), (118, 183, 178), (237, 201, 72), (176, 122, 161),
    (156, 117, 95), (255, 157, 167), (186, 176, 172), (31, 119, 180), (148, 103, 189),
)  # fmt: skip
INK, PALE, IDLE, ABSENT, PAPER = (40, 40, 40), (205, 205, 205), (235, 235, 235), (200, 200, 200), (255, 255, 255)
LOST = (190, 30, 30)
WIDTH, MARGIN, LABEL = 1500, 24, 110  # of the picture, around it, and of the names of nodes
LANE, GAP, HEAD, AXIS, BETWEEN = 40, 18, 42, 28, 26  # heights
MARK_STEPS = (5, 10, 15, 20, 30, 60, 120, 300, 600, 1200)  # seconds between the marks of the axis
Box = tuple[float, float, float, float]


def draw(rounds: Sequence[Round], path: Path) -> None:
    """Draws one round of each contender, on one axis of time.

    Args:
        rounds: one for each contender.
        path: of the PNG.
    """
    Timeline(rounds).draw().save(path, optimize=True)


class Timeline:
    """Where everything is in the picture.

    Args:
        rounds: one for each contender.
    """

    def __init__(self, rounds: Sequence[Round]):
        self.rounds = rounds
        self.longest = max(seconds(one) for one in rounds)
        self.trials = sorted({stretch.trial for one in rounds for stretch in one.stretches})
        self.nodes = sorted({event.node for one in rounds for event in one.happened})
        self.block = HEAD + len(self.nodes) * (LANE + GAP) + AXIS
        self.size = (WIDTH, MARGIN * 2 + len(rounds) * (self.block + BETWEEN) + self._legend_height())
        self.small, self.text, self.large = (ImageFont.load_default(size=size) for size in (14, 16, 20))

    def x(self, at: float) -> float:
        """Of a time in seconds since a launch."""
        return MARGIN + LABEL + at * (WIDTH - 2 * MARGIN - LABEL) / self.longest

    def colour(self, trial: str) -> tuple[int, int, int]:
        """Of a trial."""
        return COLOURS[self.trials.index(trial) % len(COLOURS)]

    def lane(self, node: str, block: int) -> float:
        """The upper end of a node's lane.

        Args:
            node: its name.
            block: index of the contender.
        """
        return MARGIN + block * (self.block + BETWEEN) + HEAD + self.nodes.index(node) * (LANE + GAP)

    def draw(self) -> Image.Image:
        """The picture."""
        image = Image.new("RGB", self.size, PAPER)
        pen = ImageDraw.Draw(image)
        for block, one in enumerate(self.rounds):
            self._contender(pen, one, block)
        self._legend(pen, MARGIN + len(self.rounds) * (self.block + BETWEEN))
        return image

    def _contender(self, pen: ImageDraw.ImageDraw, one: Round, block: int) -> None:
        top = MARGIN + block * (self.block + BETWEEN)
        share = utilisation(one)
        ended = f"{seconds(one):.0f} s" if one.status == 0 else f"not at its end after {seconds(one):.0f} s"
        title = CONTENDERS[one.contender].title.replace("`", "")
        pen.text((MARGIN, top), title, INK, self.large)
        said = f"{ended}, utilisation {share:.0%}"
        pen.text((WIDTH - MARGIN - pen.textlength(said, self.text), top + 3), said, INK, self.text)
        alive = measure.lives(one.happened, one.begun, one.over)
        for node in self.nodes:
            above = self.lane(node, block)
            pen.text((MARGIN, above + LANE / 2 - 9), f"{node}, CPU", INK, self.text)
            self._lane(pen, one, [life for life in alive if life.node == node], above)
        self._axis(pen, one, self.lane(self.nodes[-1], block) + LANE + 6)
        for event in events(one):
            self._mark(pen, event.what == "join", self.x(event.at - one.begun), self.lane(event.node, block))

    def _lane(self, pen: ImageDraw.ImageDraw, one: Round, alive: Iterable[measure.Life], top: float) -> None:
        """A node: hatched where it is not there, grey where it does nothing, and in the colours of its trials."""
        hatch(pen, (self.x(0), top, self.x(seconds(one)), top + LANE))
        for life in alive:
            pen.rectangle((self.x(life.begins - one.begun), top, self.x(life.ends - one.begun), top + LANE), IDLE, PALE)
            for stretch in one.stretches:
                begins, ends = max(stretch.begins, life.begins), min(stretch.ends, life.ends)
                if stretch.node == life.node and ends > begins:
                    self._stretch(pen, stretch, self.x(begins - one.begun), self.x(ends - one.begun), top)

    def _stretch(
        self, pen: ImageDraw.ImageDraw, stretch: measure.Stretch, left: float, right: float, top: float
    ) -> None:
        """Steps of a trial: the whole height of a lane if the trial has one worker, two bars if it has two."""
        colour = self.colour(stretch.trial)
        bars = max(1, stretch.width)
        height = LANE / bars
        for bar in range(bars):
            below = top + (bar + 1) * height - (2 if bar + 1 < bars else 0)
            pen.rectangle((left, top + bar * height, max(left, right - 1), below), colour)
        name = stretch.trial.removeprefix("0")
        if right - left > pen.textlength(name, self.small) + 6:
            pen.text(
                ((left + right - pen.textlength(name, self.small)) / 2, top + LANE / 2 - 9), name, PAPER, self.small
            )

    def _axis(self, pen: ImageDraw.ImageDraw, one: Round, top: float) -> None:
        step = next((step for step in MARK_STEPS if self.longest / step <= 16), MARK_STEPS[-1])
        pen.line((self.x(0), top, self.x(self.longest), top), INK)
        for mark in range(math.floor(self.longest / step) + 1):
            x = self.x(mark * step)
            pen.line((x, top, x, top + 5), INK)
            name = f"{mark * step} s"
            pen.text((x - pen.textlength(name, self.small) / 2, top + 7), name, INK, self.small)
        end = self.x(seconds(one))
        pen.line((end, top - len(self.nodes) * (LANE + GAP) + GAP - 6, end, top), INK, 2)

    def _mark(self, pen: ImageDraw.ImageDraw, joins: bool, x: float, top: float) -> None:
        """A triangle where a node joins, a cross where it is lost."""
        if joins:
            pen.polygon([(x, top + 2), (x - 8, top - 12), (x + 8, top - 12)], INK)
        else:
            for slope in (-1, 1):
                pen.line((x - 7, top - 6 - 7 * slope, x + 7, top - 6 + 7 * slope), LOST, 4)
        pen.line((x, top, x, top + LANE), INK if joins else LOST, 2)

    def _legend_height(self) -> int:
        return 60 + 24 * math.ceil(len(self.trials) / 8)

    def _legend(self, pen: ImageDraw.ImageDraw, top: float) -> None:
        """What colours and marks mean."""
        x = float(MARGIN)
        for kind, name in (("idle", "no step"), ("absent", "node not there"), ("two", "trial on two workers")):
            box = (x, top, x + 26, top + 18)
            if kind == "absent":
                hatch(pen, box)
            else:
                pen.rectangle(box, IDLE if kind == "idle" else PAPER, PALE)
            if kind == "two":
                pen.rectangle((x, top, x + 26, top + 7), COLOURS[0])
                pen.rectangle((x, top + 10, x + 26, top + 18), COLOURS[0])
            pen.text((x + 34, top), name, INK, self.text)
            x += 34 + pen.textlength(name, self.text) + 36
        for joins, name in ((True, "node joins"), (False, "node is lost (kill -9)")):
            self._sign(pen, joins, x + 10, top)
            pen.text((x + 28, top), name, INK, self.text)
            x += 28 + pen.textlength(name, self.text) + 36
        pen.text((MARGIN, top + 34), "trials, by the momentum of their teacher:", INK, self.text)
        for index, trial in enumerate(self.trials):
            left, above = MARGIN + 340 + index % 8 * 130, top + 34 + index // 8 * 24
            pen.rectangle((left, above, left + 26, above + 18), self.colour(trial))
            pen.text((left + 34, above), trial, INK, self.text)

    def _sign(self, pen: ImageDraw.ImageDraw, joins: bool, x: float, top: float) -> None:
        if joins:
            pen.polygon([(x, top + 17), (x - 8, top + 3), (x + 8, top + 3)], INK)
        else:
            for slope in (-1, 1):
                pen.line((x - 7, top + 10 - 7 * slope, x + 7, top + 10 + 7 * slope), LOST, 4)


def hatch(pen: ImageDraw.ImageDraw, box: Box, step: int = 9) -> None:
    """Slanted lines within a box."""
    left, top, right, bottom = box
    height = bottom - top
    pen.rectangle(box, PAPER, ABSENT)
    start = left - height
    while start < right:
        # the line from (start, bottom) to (start + height, top), cut at the sides of the box
        begins, ends = max(left, start), min(right, start + height)
        if ends > begins:
            pen.line((begins, bottom - (begins - start), ends, bottom - (ends - start)), ABSENT)
        start += step
