"""Event files as TensorBoard reads them: scalars, texts and images with descriptions, and the tables of HPARAMS."""

import contextlib
import io
import logging
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_FLOAT
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import metadata as hparams
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboard.plugins.image import metadata as images
from tensorboard.plugins.scalar import metadata as scalars
from tensorboard.plugins.text import metadata as texts
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util.tensor_util import make_tensor_proto

from tuner.report.tags import Tag

log = logging.getLogger(__name__)
TYPES = {"number": api_pb2.DATA_TYPE_FLOAT64, "truth": api_pb2.DATA_TYPE_BOOL, "text": api_pb2.DATA_TYPE_STRING}


Fact = float | bool | str
Facts = Mapping[str, Fact]
"""What sets a trial apart, by dotted key."""
Kind = Literal["number", "truth", "text"]


class Column(NamedTuple):
    """A column of HPARAMS: its place among the columns, its key, and what is shown of it."""

    place: int
    key: str
    title: str
    kind: Kind

    @property
    def name(self) -> str:
        """The name by which TensorBoard sorts its columns, whatever order they come in; it shows the title instead."""
        return f"{self.place:03d} {self.key}"


class Events:
    """The event file of a run of TensorBoard. What lay in its folder before is removed.

    A board is a view of what the journal and the checkpoints hold, so no search fails for a disc that is full or gone:
    the file then ends where it is, the log says so, and a resume writes it anew.

    Args:
        folder: of its own.
    """

    def __init__(self, folder: Path):
        shutil.rmtree(folder, ignore_errors=True)
        self._folder = folder
        self._file: BinaryIO | None = None
        self._described: set[str] = set()
        with self._tried():
            folder.mkdir(parents=True, exist_ok=True)
            self._file = (
                folder / f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}"
            ).open("wb")
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def scalar(self, tag: Tag, value: float, step: float, at: float | None = None) -> None:
        """Adds a point of a curve; `at` is its time in seconds since 1970, by default now."""
        tensor = TensorProto(dtype=DT_FLOAT, float_val=[value])
        self._add(tag.name, scalars.create_summary_metadata("", tag.text), tensor, round(step), at)

    def text(self, tag: str, text: str, description: str) -> None:
        """Adds a text in Markdown."""
        self._add(tag, texts.create_summary_metadata("", description), make_tensor_proto([text.encode()]))

    def image(self, tag: str, file: Path, description: str) -> None:
        """Adds a picture from a file, as it is encoded there; one that cannot be read is left out."""
        try:
            self.picture(tag, file.read_bytes(), description)
        except OSError as error:
            log.warning("%s: is not shown in TensorBoard (%s)", file, error)

    def picture(self, tag: str, encoded: bytes, description: str) -> None:
        """Adds a picture, encoded as PNG.

        Raises:
            OSError: it is no picture.
        """
        with Image.open(io.BytesIO(encoded)) as opened:
            size = [str(side).encode() for side in opened.size]
        self._add(tag, images.create_summary_metadata("", description), make_tensor_proto([*size, encoded]))

    def experiment(self, columns: Sequence[Column], metrics: Mapping[str, str]) -> None:
        """Says what HPARAMS shows of all runs: its columns, and the titles of metrics by tag."""
        experiment = api_pb2.Experiment(
            hparam_infos=[
                api_pb2.HParamInfo(name=c.name, display_name=c.title, type=TYPES[c.kind], differs=True) for c in columns
            ],
            metric_infos=[
                api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag), display_name=title)
                for tag, title in metrics.items()
            ],
        )
        self._add_hparams(hparams.EXPERIMENT_TAG, HParamsPluginData(experiment=experiment))

    def begin(self, columns: Sequence[Column], values: Facts) -> None:
        """Says with which values HPARAMS lists this run; `values` are by key."""
        start = SessionStartInfo(start_time_secs=time.time())
        for column in columns:
            if column.key not in values:
                continue
            if column.kind == "number":
                start.hparams[column.name].number_value = float(values[column.key])
            elif column.kind == "truth":
                start.hparams[column.name].bool_value = bool(values[column.key])
            else:
                start.hparams[column.name].string_value = str(values[column.key])
        self._add_hparams(hparams.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=start))

    def end(self, failed: bool) -> None:
        """Says how the run ended, for HPARAMS."""
        status = api_pb2.STATUS_FAILURE if failed else api_pb2.STATUS_SUCCESS
        info = SessionEndInfo(status=status, end_time_secs=time.time())
        self._add_hparams(hparams.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=info))

    def flush(self) -> None:
        """Hands everything to the system, for readers to see."""
        with self._tried():
            if self._file is not None:
                self._file.flush()

    def close(self) -> None:
        with self._tried():
            if self._file is not None:
                self._file.close()

    def _add_hparams(self, tag: str, content: HParamsPluginData) -> None:
        self._add(tag, hparams.create_summary_metadata(content), hparams.NULL_TENSOR)

    def _add(
        self, tag: str, metadata: SummaryMetadata, tensor: TensorProto, step: int = 0, at: float | None = None
    ) -> None:
        # TensorBoard keeps the first metadata of a tag, so later points go without
        value = Summary.Value(tag=tag, tensor=tensor, metadata=None if tag in self._described else metadata)
        self._described.add(tag)
        self._write(Event(wall_time=at or time.time(), step=step, summary=Summary(value=[value])))

    def _write(self, event: Event) -> None:
        with self._tried():
            if self._file is not None:
                RecordWriter(self._file).write(event.SerializeToString())

    @contextlib.contextmanager
    def _tried(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            log.warning(
                "%s: cannot be written (%s); TensorBoard lacks what follows, a resume writes it anew",
                self._folder,
                error,
            )
            file, self._file = self._file, None
            with contextlib.suppress(OSError):  # what is still in its buffer
                if file is not None:
                    file.close()
