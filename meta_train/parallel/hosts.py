"""One run on several processes or hosts: JAX's own runtime, and what they must agree on.

Every process runs the same program on the same config; the particles are split over the devices of all of
them; process 0 alone writes logs and prints. All need the run's directory on a file system that they share.
"""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from meta_train.errors import ConfigError, Problem, RunError, first_difference, show
from meta_train.parallel.exchange import anybody, gather

HEARTBEAT = 30  # seconds after which a silent process counts as dead
START = 120  # seconds that each process has to appear


def join(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    heartbeat: int = HEARTBEAT,
    detect: bool = False,
) -> None:
    """Joins the processes of a run; before anything else of JAX.

    Args:
      coordinator: HOST:PORT of process 0; None to let JAX find its cluster (Slurm, Open MPI, TPU, ...).
      num_processes: P; process_id: 0 to P - 1. Both are needed with a coordinator.
      process_id: this one.
      heartbeat: seconds after which a silent process counts as dead.
      detect: without a coordinator, let JAX find its cluster.

    Raises:
      ConfigError: options that do not belong together.
      RunError: no cluster; the port is in use; a process cannot be reached or does not come.
    """
    if coordinator is not None or not detect:
        _check(coordinator, num_processes, process_id)
    options: dict[str, Any] = {"heartbeat_timeout_seconds": heartbeat, "initialization_timeout": START}
    if coordinator is not None:
        from meta_train.parallel.rendezvous import meet

        assert num_processes is not None and process_id is not None
        options["cluster_detection_method"] = "deactivate"
        meet(coordinator, num_processes, process_id, START)
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id, **options)
    except (RuntimeError, ValueError) as error:
        where = "the cluster that JAX looks for" if coordinator is None else coordinator
        raise RunError(f"cannot join {where}: {str(error).splitlines()[0]}") from error


def _check(coordinator, num_processes, process_id):
    if coordinator is None:
        raise ConfigError([Problem("--coordinator", "is required with several processes (or --distributed)")])
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError([Problem("--coordinator", "must be HOST:PORT", coordinator)])
    if not 0 < int(port) < 65536:
        raise ConfigError([Problem("--coordinator", "must have a port between 1 and 65535", coordinator)])
    if num_processes is None or num_processes < 1:
        raise ConfigError([Problem("--num-processes", "must be >= 1 with a coordinator", num_processes)])
    if process_id is None or not 0 <= process_id < num_processes:
        raise ConfigError([Problem("--process-id", f"must be between 0 and {num_processes - 1}", process_id)])


def several() -> bool:
    """Whether the run has more than one process."""
    return jax.process_count() > 1


def is_first() -> bool:
    """Whether this process is the one that writes logs and prints."""
    return jax.process_index() == 0


def agree(what: str, value: Any) -> None:
    """Refuses (RunError) to go on where the processes do not have the same JSON value; the key is named."""
    for process, text in enumerate(gather(json.dumps(value, sort_keys=True))):
        other = json.loads(text)
        if process == 0:
            first = other
        elif other != first:
            key, here, there = first_difference(first, other)
            raise RunError(
                f"the processes must have the same {what}: {key} is {show(here)} in process 0, "
                f"{show(there)} in process {process}"
            )


def first_then_all(function: Callable[[], Any]) -> Any:
    """Calls a function in process 0, and then in the others."""
    if not several():
        return function()
    from jax.experimental import multihost_utils

    error = None
    result = None
    if is_first():
        try:
            result = function()
        except Exception as refused:
            error = refused
    failed = anybody(error is not None)
    if error is not None:
        raise error
    if failed:
        raise RunError("process 0 refused to go on; its message says why")
    multihost_utils.sync_global_devices("process 0 is done")
    return result if is_first() else function()


def global_array(tree: Any) -> Any:
    """Arrays that a device put may spread over processes: through the host where there are several."""
    return jax.tree.map(np.asarray, tree) if several() else tree
