"""The data of a trial: which images it has, which of them have labels, and how they are read. Needs no torch."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from trainables import discovery
from trainables.errors import UserError, nearest
from trainables.sections import Count, Section


def one_of(package: str) -> AfterValidator:
    """A validator for the name of a module in `trainables.<package>`."""

    def check(name: str) -> str:
        if name not in discovery.names(package):
            raise ValueError(f"no such name{nearest(name, discovery.names(package))}")
        return name

    return AfterValidator(check)


class Labels(Section):
    """Which training images have labels, for methods that learn from some: so many of each class, or a share of each, by `seed` alone.

    Or those that a `file` names: on each line an index into the stored train split, or the name of an image of a folder, below train
    ("cat/1.jpg") or by itself ("1.jpg"). Validation takes none of them. All that have a label, where nothing is given.
    """

    per_class: Count | None = None
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    file: Annotated[Path, AfterValidator(Path.expanduser), AfterValidator(Path.absolute)] | None = None  # workers have another folder
    seed: Annotated[int, Field(ge=0)] = 0

    @property
    def everything(self) -> bool:
        """Whether all labels that there are count."""
        return self.per_class is None and self.share is None and self.file is None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        given = [key for key in ("per_class", "share", "file") if getattr(self, key) is not None]
        if len(given) > 1:
            raise ValueError(f"labels.{given[0]}: goes without {given[1]}; labels are chosen in one way")
        return self


def _classes(given: Any) -> Any:
    """A file, or sorted names without doubles."""
    if isinstance(given, str | Path):
        return Path(given).expanduser().absolute()
    if given is None or (isinstance(given, list | tuple) and given):
        return given and tuple(sorted({str(name) for name in given}))
    raise ValueError("must be a list of classes, or a file with one on each line")


class Data(Section):
    """Images and their splits. Scores come from `validation`, carved out of train; test images are for `evaluate` only.

    `train_split` is what the student learns from: the train images, the data set's unlabelled ones, or both. Evaluations learn from the
    train images in any case. `classes` keeps only some: a list or a file, of folder names or, in Parquet, of labels; they are renumbered.

    `streamed` images stay encoded where they are; `loaders` threads decode them as they are asked for, to `image_size`. Those in Parquet
    come row group after row group, shuffled within a `window` of so many images, which are held in memory.
    """

    name: Annotated[str, one_of("datasets")] = "digits"
    root: Annotated[Path, AfterValidator(Path.expanduser)] | None = None
    download: bool = False
    train_split: Literal["train", "unlabelled", "both"] = "train"
    classes: Annotated[Path | tuple[str, ...] | None, BeforeValidator(_classes)] = None
    train_images: Count | None = None
    validation_images: Count | None = None
    image_size: Annotated[int, Field(ge=4)] | None = None
    streamed: bool = False
    loaders: Count = 4
    window: Count = 4096
    split_seed: Annotated[int, Field(ge=0)] = 0
    labels: Labels = Labels()

    @model_validator(mode="after")
    def _suits_the_reader(self) -> Self:
        reader = discovery.load("datasets", self.name)
        if self.root is None and reader.NEEDS_ROOT:
            raise ValueError(f"data.root: '{self.name}' is read from a folder; give its path")
        if self.image_size is not None and not reader.FILES:
            raise ValueError(f"data.image_size = {self.image_size}: the images of '{self.name}' have a size of their own")
        if self.classes is not None and not reader.FILES:
            raise ValueError(f"data.classes: '{self.name}' is read as a whole; classes are chosen of imagefolder and parquet")
        if self.streamed and not reader.FILES:
            raise ValueError(f"data.streamed = true: '{self.name}' holds no encoded images; imagefolder and parquet do")
        if self.streamed and self.image_size is None:
            raise ValueError("data.streamed = true: needs data.image_size, for the sizes of the images are not known before")
        if self.train_split != "train" and not reader.UNLABELLED:
            raise ValueError(f"data.train_split = {self.train_split}: '{self.name}' has no unlabelled split; stl10 has one")
        return self


def split_sizes(data: Data, count: int, unlabelled: int = 0) -> tuple[int, int]:
    """How many images are for training and how many of `count` stored train images for validation (a tenth, where it is not given).

    Raises:
        UserError: there are fewer images than asked for.
    """
    held_out = data.validation_images or max(1, count // 10)
    pool = {"train": count - held_out, "unlabelled": unlabelled, "both": count - held_out + unlabelled}[data.train_split]
    if held_out >= count or (data.train_split == "train" and (data.train_images or 1) > pool):
        asked = f"data.train_images = {data.train_images}, data.validation_images = {held_out}"
        raise UserError(f"{asked}: the train split has {count} images for both")
    if (data.train_images or 1) > pool:
        raise UserError(f"data.train_images = {data.train_images}: data.train_split = {data.train_split} has {pool} images")
    return data.train_images or pool, held_out
