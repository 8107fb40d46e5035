"""The data of a trial: which images it has, which of them have labels, and how they are read. Needs no torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from trainables.config import discovery
from trainables.config.errors import UserError, nearest
from trainables.config.sections import Count, Section, Seed

LARGEST_IMAGE = 10_000  # pixels of a side
LONGEST_NAME = 255  # bytes of the name of a file, as file systems have it
DATA_SETS = discovery.names("data.sets")


def _data_set(name: str) -> str:
    if name not in DATA_SETS:
        raise ValueError(f"no such name{nearest(name, DATA_SETS)}")
    return name


def _usable(path: Path) -> Path:
    """Returns a path that a file system can hold, with its `~` expanded."""
    if any(len(part.encode()) > LONGEST_NAME for part in path.parts):
        raise ValueError(f"the name of a file or folder has at most {LONGEST_NAME} bytes")
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError(f"there is no such user as {path.parts[0]}") from None


Location = Annotated[Path, AfterValidator(_usable)]


class DataSetFacts:
    """What validation must know of a data set. `trainables.data.sets.base` adds how it is read.

    Attributes:
        NEEDS_ROOT: whether it is read from a folder.
        FILES: whether it reads image files, which can be resized, streamed, and chosen by class.
        UNLABELLED: how many unlabelled images it has besides train.
        VIEWS: keys of the section `views` that suit its images.
    """

    NEEDS_ROOT: ClassVar[bool] = False
    FILES: ClassVar[bool] = False
    UNLABELLED: ClassVar[int] = 0
    VIEWS: ClassVar[Mapping[str, Any]] = {}


def facts(name: str) -> type[DataSetFacts]:
    """Returns the facts of a data set that exists."""
    return discovery.class_in("data.sets", name, DataSetFacts)


class Labels(Section):
    """Which labels of the training images a method or protocol may learn from: all, or some, chosen in one of three
    ways.

    Labels of validation images are never among them.
    """

    per_class: Count | None = None
    """How many images of each class keep their label."""
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of each class that keeps its labels."""
    file: Annotated[Location, AfterValidator(Path.absolute)] | None = None  # workers have another folder
    """A file with an index into the stored train split, or the name of an image of a folder, on each line."""
    seed: Seed = 0
    """Seed of the choice by per_class and share, and of nothing else."""
    apart: bool = False
    """Whether the labelled images are left out of the images without labels that a student learns from beside them."""

    @property
    def everything(self) -> bool:
        """Whether all labels of the training images are used."""
        return self.per_class is None and self.share is None and self.file is None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        ways = [key for key in ("per_class", "share", "file") if getattr(self, key) is not None]
        if len(ways) > 1:
            raise ValueError(f"labels.{ways[0]}: goes without {ways[1]}; labels are chosen in one way")
        if self.apart and self.everything:
            raise ValueError("labels.apart = true: all images have labels; choose some by per_class, share or file")
        return self


def _classes(classes: Any) -> Any:
    """Returns the path of a file, or sorted names without duplicates."""
    if isinstance(classes, str | Path):
        return _usable(Path(classes)).absolute()
    if classes is None or (isinstance(classes, list | tuple) and classes):
        return classes and tuple(sorted({str(name) for name in classes}))
    raise ValueError("must be a list of classes, or a file with one on each line")


class Data(Section):
    """Images and their splits. Scores come from `validation`, carved out of train; test images are for `evaluate` only.

    Evaluations learn from the train images, whatever `train_split` is. `streamed` images in Parquet come row group
    after row group, shuffled within a `window` that is held in memory.
    """

    SHORT: ClassVar[str] = "name"

    name: Annotated[str, AfterValidator(_data_set), Field(json_schema_extra={"enum": DATA_SETS})] = "digits"
    """The data set."""
    root: Location | None = None
    """The data set's folder; digits need none."""
    download: bool = False
    """Whether torchvision may fetch it into root."""
    train_split: Literal["train", "unlabelled", "both"] = "train"
    """What the student learns from: the train images, the data set's unlabelled ones, or both."""
    classes: Annotated[Path | tuple[str, ...] | None, BeforeValidator(_classes)] = None
    """Classes to keep: a list, or a file with one on each line; of folders their names, of Parquet the labels."""
    train_images: Count | None = None
    """How many images to learn from; by default all except those for validation."""
    validation_images: Count | None = None
    """How many train images are kept for scoring; by default a tenth."""
    image_size: Annotated[int, Field(ge=4, le=LARGEST_IMAGE)] | None = None
    """Side in pixels of images of folders and Parquet, as squares; needed where they differ in size."""
    resize: Annotated[int, Field(ge=4, le=LARGEST_IMAGE)] | None = None
    """Pixels that an image's shorter side is resized to before its centre is cut out; image_size if it is not set."""
    crops: Literal["centre", "whole"] = "centre"
    """What random crops are taken of: the centre of an image, as it is scored, or the whole image, if streamed."""
    streamed: bool = False
    """Whether images stay encoded where they are, and are decoded as they are asked for."""
    loaders: Annotated[int, Field(ge=1, le=1000)] = 4
    """Threads of each worker that decode streamed images."""
    window: Annotated[int, Field(ge=1, le=10**7)] = 4096
    """How many streamed images of Parquet are shuffled together."""
    split_seed: Seed = 0
    """Seed of the choice of validation images."""
    labels: Labels = Labels()

    @model_validator(mode="after")
    def _suits_the_reader(self) -> Self:
        reader = facts(self.name)
        if self.root is None and reader.NEEDS_ROOT:
            raise ValueError(f"data.root: '{self.name}' is read from a folder; give its path")
        if self.image_size is not None and not reader.FILES:
            raise ValueError(
                f"data.image_size = {self.image_size}: the images of '{self.name}' have a size of their own"
            )
        if self.classes is not None and not reader.FILES:
            raise ValueError(
                f"data.classes: '{self.name}' is read as a whole; classes are chosen of imagefolder and parquet"
            )
        if self.streamed and not reader.FILES:
            raise ValueError(f"data.streamed = true: '{self.name}' holds no encoded images; imagefolder and parquet do")
        if self.streamed and self.image_size is None:
            raise ValueError(
                "data.streamed = true: needs data.image_size, for the sizes of the images are not known before"
            )
        if self.resize is not None and self.resize < (self.image_size or LARGEST_IMAGE + 1):
            rule = (
                f"must be at least data.image_size = {self.image_size}" if self.image_size else "needs data.image_size"
            )
            raise ValueError(f"data.resize = {self.resize}: {rule}")
        if self.crops == "whole" and not self.streamed:
            raise ValueError("data.crops = whole: needs data.streamed = true, for only centres are kept decoded")
        if self.train_split != "train" and not reader.UNLABELLED:
            raise ValueError(
                f"data.train_split = {self.train_split}: '{self.name}' has no unlabelled split; stl10 has one"
            )
        return self


def split_sizes(data: Data, count: int, unlabelled: int = 0) -> tuple[int, int]:
    """Returns how many images are for training, and how many of the stored train images are for validation.

    Args:
        data: of the trial. Without `validation_images`, a tenth of the train images is for validation.
        count: how many train images are stored.
        unlabelled: how many unlabelled images are stored.

    Raises:
        UserError: there are fewer images than asked for.
    """
    held_out = data.validation_images or max(1, count // 10)
    pool = {"train": count - held_out, "unlabelled": unlabelled, "both": count - held_out + unlabelled}[
        data.train_split
    ]
    if held_out >= count or (data.train_split == "train" and (data.train_images or 1) > pool):
        asked = f"data.train_images = {data.train_images}, data.validation_images = {held_out}"
        raise UserError(f"{asked}: the train split has {count} images for both")
    if (data.train_images or 1) > pool:
        raise UserError(
            f"data.train_images = {data.train_images}: data.train_split = {data.train_split} has {pool} images"
        )
    return data.train_images or pool, held_out
