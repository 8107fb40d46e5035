"""Ray Train's trainer for a slot, without what a slot has no use for.

With this trainer neither the driver nor the controller of a worker group imports torch. With `TorchTrainer` both
would, one after the other, and the workers would start only then.
"""

import os
import socket
from pathlib import Path
from typing import Any

import ray.util
from ray.train import BackendConfig, FailureConfig, Result, RunConfig, ScalingConfig
from ray.train.backend import Backend
from ray.train.v2._internal.execution.callback import RayTrainCallback
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from tuner.fleet.board import Board, Fit
from tuner.plan.resources import Resources

UNUSED = (
    "PlacementGroupCleanerCallback",  # needs the dashboard; here the driver removes what a dead controller leaves
    "DatasetsCallback",  # an actor for data sets of Ray Data
)


class Rendezvous(Backend):
    """Tells all workers of a group where the store of rank 0 is, through which they talk to each other."""

    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        worker_group.execute(meet_at, *worker_group.execute_single(0, free_address))


class RendezvousConfig(BackendConfig):
    """Names the backend of a worker group."""

    @property
    def backend_cls(self) -> type[Backend]:
        return Rendezvous


class UnscaledPolicy(FixedScalingPolicy):
    """Does not ask an autoscaler for the resources of a worker group: `tuner.fleet.accounts` asks for all of them.

    Ray keeps one request for a whole cluster, so that two who ask would undo each other's requests.
    """

    def after_controller_start(self, train_run_context: object) -> None:
        """Nothing: Ray Train would start an actor here that talks to the autoscaler, and outlives the search."""

    def _maybe_send_resource_request(self) -> None:
        """Nothing."""


class SlotTrainer(DataParallelTrainer):
    """A trainer whose controller starts only the actors that a slot needs.

    Both methods are not public in Ray Train; in a version that lacks them nothing is left out.
    """

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        default = super()._create_default_callbacks()
        return [callback for callback in default if type(callback).__name__ not in UNUSED]

    def _initialize_and_run_controller(self, **arguments: Any) -> Result:
        arguments["scaling_policy"] = UnscaledPolicy(arguments["scaling_policy"].scaling_config)
        return super()._initialize_and_run_controller(**arguments)


def trainer(board: Board, slot: int, resources: Resources, folder: Path, fit: Fit | None) -> SlotTrainer:
    """Ray Train's trainer for a slot.

    Args:
        board: handle of the switchboard.
        slot: index of the slot.
        resources: of the slot.
        folder: where Ray Train may write.
        fit: runs a trial in place of `trainables.running.fit.fit`.
    """
    threads, patience = resources.cpus_per_worker, resources.patience_seconds

    def work() -> None:
        from trainables.ray_train import slot_loop  # the workers import it; the driver has no use for it

        slot_loop(board, slot, threads, patience, fit)

    per_worker: dict[str, float] = {"CPU": resources.cpus_per_worker}
    if resources.gpus_per_worker:
        per_worker["GPU"] = resources.gpus_per_worker
    per_worker |= resources.custom
    return SlotTrainer(
        train_loop_per_worker=work,
        backend_config=RendezvousConfig(),
        scaling_config=ScalingConfig(
            num_workers=resources.smallest, use_gpu=resources.gpus_per_worker > 0, resources_per_worker=per_worker
        ),
        # Ray Train counts the deaths of workers over the life of a controller. The switchboard counts attempts trial by
        # trial, so a controller that has had its share is launched again. Without a limit it would wait for room for
        # ever, unseen.
        run_config=RunConfig(
            name=f"slot-{slot}",
            storage_path=str(folder),
            failure_config=FailureConfig(max_failures=5, controller_failure_limit=0),  # type: ignore[call-arg]
        ),
    )


def free_address() -> tuple[str, int]:
    """This node's address and a port of it that is free now."""
    address = ray.util.get_node_ip_address()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("", 0))
        return address, probe.getsockname()[1]


def meet_at(address: str, port: int) -> None:
    """Sets the variables by which `trainables.ray_train` finds the store of rank 0."""
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = address, str(port)
    # collectives that time out fail, as under TorchTrainer
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")
