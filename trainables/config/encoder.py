"""The student's network and the views that it sees: sections `encoder` and `views` of a TrialConfig. Needs no torch."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from trainables.config.data import LARGEST_IMAGE
from trainables.config.norms import STUDENT_NORMS, NormOptions, StudentKind
from trainables.config.sections import Positive, Section, Share, Width
from trainables.config.teacher import PARTS

WIDE = ("wrn28-2", "wrn28-8")  # Wide ResNets have no block4


class Head(Section):
    """Linear layers with a norm and an activation between them."""

    layers: Annotated[int, Field(ge=1, le=100)] = 2
    """How many linear layers there are."""
    hidden: Width = 4096
    """Units of all layers but the last."""
    out: Width = 256
    """Units of the last layer."""
    norm: Literal["hidden", "all", "none"] = "hidden"
    """Which layers a norm follows: the hidden ones, all (SimSiam: the last without weights), or none."""
    activation: Literal["relu", "gelu"] = "relu"
    """The activation between the layers."""
    prototypes: Annotated[int, Field(ge=0, le=10**6)] = 0
    """Unit vectors that the normalised output is compared with (DINO). They are then the last layer; 0: none."""

    @property
    def width(self) -> int:
        """Width of the output."""
        return self.prototypes or self.out


class StudentNorm(NormOptions):
    """The norm of the student: of its encoder, its heads and its predictor.

    batch: statistics of a shard. sync: those of the whole batch. momentum: those of a shard, blended with their history
    (Momentum² Teacher, sec. 3.3, for the student); gradients pass through the batch's part alone. layer: those of a
    sample. group: those of a sample, by groups of channels. none: no norm at all, and then a ResNet may diverge.
    """

    KINDS: ClassVar[tuple[str, ...]] = STUDENT_NORMS
    ELSEWHERE: ClassVar[str] = "is a norm of teachers; set teacher.norm = {kind}"

    kind: StudentKind = "batch"
    """Whose statistics: those of the shard, the batch, or a shard and its history (Momentum BN); or of each sample over
    all channels or groups of them; or none.
    """
    groups: Width = 32
    """How many groups of channels `group` has at most. They divide the channels, and a group has at least two channels
    and eight numbers of a sample.
    """


class Encoder(Section):
    """A torchvision ResNet, or a Wide ResNet, in named parts, with a projector."""

    SHORT: ClassVar[str] = "name"

    name: Literal["resnet10", "resnet18", "resnet34", "resnet50", "wrn28-2", "wrn28-8"] = "resnet18"
    """The network."""
    width: Width | None = None
    """Channels of conv1: 64 where it is not given, and 16 of a Wide ResNet."""
    stem: Literal["small", "standard"] = "small"
    """First layers: for small images, or ImageNet's with stride and pooling."""
    norm: StudentNorm = StudentNorm()
    feature_norm: Literal["none", "pooled", "map"] = "none"
    """The placement paper's extra norm BN1: on the pooled features, or on the map before the pooling."""
    projector: Head = Head()
    output_norm: bool = False
    """Whether the placement paper's extra norm BN2 is on the projector's output."""

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the network's parts, in order."""
        return tuple(part for part in PARTS if part != "block4" or self.name not in WIDE)


class RandAugment(Section):
    """Operations of strong views, each at 1, 2, ... tenths of its range, fewer than `magnitude`; then a grey square."""

    ops: Annotated[int, Field(ge=1, le=100)] = 2
    """How many operations an image gets."""
    magnitude: Annotated[int, Field(ge=2, le=10)] = 10
    """Tenths of an operation's range that its levels stay below."""
    cutout: Share = 0.5
    """Side of the grey square, as a share of the image's; 0: none."""


class Views(Section):
    """Augmentation of a view. Each data set has its own defaults, and so have some methods."""

    crop_scale: tuple[Share, Share] = (0.2, 1.0)
    """Range of a crop's area, as a share of the image's."""
    crop_ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    """Range of a crop's width over its height."""
    shift: Share = 0.0
    """Share of the side that a crop is moved by at most, beyond the border too."""
    local_scale: tuple[Share, Share] = (0.05, 0.4)
    """Range of the area of a local view's crop (multi-crop)."""
    local_size: Annotated[int, Field(ge=4, le=LARGEST_IMAGE)] | None = None
    """Side of a local view in pixels; 96 of 224, and at least 8, where it is not given."""
    turn: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Degrees that an image is turned by at most."""
    flip: Share = 0.5
    """Probability of a flip from left to right."""
    jitter: Share = 0.8
    """Probability that brightness, contrast, saturation and hue are changed."""
    brightness: Share = 0.4
    """How much brightness is changed at most."""
    contrast: Share = 0.4
    """How much contrast is changed at most."""
    saturation: Share = 0.2
    """How much saturation is changed at most."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """How much hue is changed at most, in turns of the colour circle."""
    gray: Share = 0.2
    """Probability that colours are removed."""
    blur: tuple[Share, Share] = (0.0, 0.0)
    """Probability of a blur, of even views and of odd ones."""
    solarise: tuple[Share, Share] = (0.0, 0.2)
    """Probability that bright pixels are inverted, of even views and of odd ones."""
    noise: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Standard deviation of Gaussian noise, where 1 is the range of a pixel."""
    randaugment: RandAugment = RandAugment()

    def local_side(self, side: int) -> int:
        """Returns the side of local views of images with a side of `side` pixels.

        It is at least 8: below that, bf16 convolutions on a CPU cannot be trusted.
        """
        return self.local_size or max(8, round(side * 96 / 224))

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for key in ("crop_scale", "crop_ratio", "local_scale"):
            low, high = getattr(self, key)
            if not 0 < low <= high:
                raise ValueError(f"views.{key} = [{low}, {high}]: must be two rising numbers above 0")
        return self
