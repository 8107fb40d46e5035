"""Reads what TensorBoard would show, through its own backend."""

from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, get_experiment, list_session_groups
from tensorboard.plugins.hparams.backend_context import Context
from tensorboard.util.tensor_util import make_ndarray


def run_of(tensorboard: Path, key: str) -> Path:
    """The folder of a trial: its key, and more words behind it."""
    (found,) = (path for path in tensorboard.iterdir() if path.name.split()[0] == key)
    return found


def events_of(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), {"tensors": 0})
    events.Reload()
    return events


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """All scalars of a run: by tag its steps and values."""
    events = events_of(folder)
    tags = events.PluginTagToContent("scalars") if "scalars" in events._plugin_to_tag_to_content else {}
    return {tag: [(e.step, float(make_ndarray(e.tensor_proto))) for e in events.Tensors(tag)] for tag in tags}


def descriptions(folder: Path) -> dict[str, str]:
    """What is said of each tag of a run."""
    return {tag: metadata.summary_description for tag, metadata in events_of(folder).summary_metadata.items()}


def text(folder: Path, tag: str) -> str:
    (found,) = events_of(folder).Tensors(tag)
    return make_ndarray(found.tensor_proto).item().decode()


def picture(folder: Path) -> bytes | None:
    """The encoded picture of views of a run."""
    events = events_of(folder)
    return make_ndarray(events.Tensors("views")[0].tensor_proto)[2] if "views" in events.Tags()["tensors"] else None


class HParams:
    """The tab HPARAMS, from the plugin's own backend: titles of its columns, and a row for each run.

    A row has the values by the title of the hyperparameter or the metric, and "status".
    """

    def __init__(self, tensorboard: Path):
        multiplexer = EventMultiplexer()
        multiplexer.AddRunsFromDirectory(str(tensorboard))
        multiplexer.Reload()
        context = Context(
            TBContext(data_provider=MultiplexerDataProvider(multiplexer, str(tensorboard)), logdir=str(tensorboard))
        )
        experiment = get_experiment.Handler(RequestContext(), context, "", api_pb2.GetExperimentRequest()).run()
        self.columns = [info.display_name for info in experiment.hparam_infos]
        self.metrics = [info.display_name for info in experiment.metric_infos]
        titles = {info.name: info.display_name for info in experiment.hparam_infos}
        tags = {info.name.tag: info.display_name for info in experiment.metric_infos}
        statuses = [getattr(api_pb2, f"STATUS_{name}") for name in ("UNKNOWN", "SUCCESS", "FAILURE", "RUNNING")]
        asked = api_pb2.ListSessionGroupsRequest(allowed_statuses=statuses, slice_size=1000)
        groups = list_session_groups.Handler(RequestContext(), context, "", asked).run().session_groups
        self.rows: dict[str, dict[str, Any]] = {}
        for group in groups:
            row = {
                titles[name]: getattr(value, value.WhichOneof("kind"))
                for name, value in group.hparams.items()
                if value.WhichOneof("kind")
            }
            row |= {tags[value.name.tag]: value.value for value in group.metric_values}
            self.rows[group.name] = row | {
                "status": api_pb2.Status.Name(group.sessions[0].status).removeprefix("STATUS_").lower()
            }
