"""One run on several processes or hosts: JAX's own runtime, and what they must agree on.

Every process runs the same program on the same config; the particles are split over the devices of all of
them; process 0 alone logs and talks. All need the run's directory on a file system that they share.
"""

import hashlib
import socket
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from meta_train.errors import ConfigError, Problem, RunError
from meta_train.parallel.exchange import anybody

HEARTBEAT = 30  # seconds after which a process that is not heard of counts as dead
START = 120  # seconds that the coordinator has to appear


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
      RunError: no cluster, or its processes cannot be reached.
    """
    if coordinator is not None or not detect:
        _check(coordinator, num_processes, process_id)
    options: dict[str, Any] = {"heartbeat_timeout_seconds": heartbeat}
    if coordinator is not None:
        options["cluster_detection_method"] = "deactivate"
        if process_id:
            _wait_for(coordinator)
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


def _wait_for(coordinator: str) -> None:
    """Waits until somebody answers at HOST:PORT; JAX itself would abort the process with a stack trace."""
    host, _, port = coordinator.rpartition(":")
    deadline = time.monotonic() + START
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except socket.gaierror as error:
            raise RunError(f"cannot join {coordinator}: no such host ({error.strerror})") from error
        except OSError as error:
            if time.monotonic() > deadline:
                reason = error.strerror or "no answer"
                raise RunError(
                    f"cannot join {coordinator}: no process 0 there in {START} s ({reason})"
                ) from error
        time.sleep(0.2)


def several() -> bool:
    """Whether the run has more than one process."""
    return jax.process_count() > 1


def is_first() -> bool:
    """Whether this process is the one that writes and talks."""
    return jax.process_index() == 0


def agree(what: str, text: str) -> None:
    """Refuses (RunError) to go on where the processes do not have the same text."""
    if not several():
        return
    from jax.experimental import multihost_utils

    mine = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
    everybodys = np.asarray(multihost_utils.process_allgather(mine))
    others = [i for i, one in enumerate(everybodys) if not np.array_equal(one, everybodys[0])]
    if others:
        raise RunError(
            f"the processes must have the same {what}: process 0 has {everybodys[0].tobytes().hex()[:12]}, "
            f"process {others[0]} has {everybodys[others[0]].tobytes().hex()[:12]} (sha256)"
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
        raise RunError("process 0 refused to go on; it says why")
    multihost_utils.sync_global_devices("process 0 is done")
    return result if is_first() else function()


def global_array(tree: Any) -> Any:
    """Arrays that a device put may spread over processes: through the host where there are several."""
    return jax.tree.map(np.asarray, tree) if several() else tree
