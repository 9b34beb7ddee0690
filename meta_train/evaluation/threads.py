"""Jobs in threads, a device each, and how far they are."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import jax

from meta_train.errors import RunError

Progress = Callable[[int, int, str], None]


def in_threads(run: Callable[[Any, Any, Callable[[], None]], None], jobs: Sequence[Any]) -> None:
    """Runs the jobs, each thread with a device of its own if there are enough; the first error ends all."""
    here = jax.local_devices()
    workers = max(2, len(here))
    devices: queue.SimpleQueue = queue.SimpleQueue()
    for i in range(workers):
        devices.put(here[i % len(here)])
    stopped = threading.Event()

    def stop():
        if stopped.is_set():
            raise InterruptedError

    def work(job):
        stop()
        device = devices.get()
        try:
            run(job, device, stop)
        except jax.errors.JaxRuntimeError as error:
            reason = (str(error).splitlines() or ["no reason given"])[0]
            raise RunError(
                f"cannot train {', '.join(job.labels)} with {job.contestants[0].name}: {reason}"
            ) from error
        finally:
            devices.put(device)

    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(work, job) for job in jobs]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def counted(total: int, progress: Progress | None, before: int = 0) -> Callable[[int, str], None]:
    """A function that adds steps of one job to those that are done, `before` at first, and reports them."""
    lock, done = threading.Lock(), [before]

    def tell(steps: int, text: str) -> None:
        with lock:
            done[0] += steps
            if progress is not None:
                progress(done[0], before + total, text)

    return tell
