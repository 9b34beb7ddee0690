"""All processes of a run meet at the coordinator's address before JAX's runtime takes the port over.

Where the port is in use, or where a process never comes, JAX itself aborts with a C++ stack trace. Here,
process I of P connects to process 0 and sends one line, `meta-train P I`; when all are present, process 0
answers each with `start`; otherwise with `refused REASON`, so that every process has one line to print.
"""

import contextlib
import socket
import time

from meta_train.errors import RunError

HELLO = "meta-train"


def meet(coordinator: str, num_processes: int, process_id: int, timeout: float) -> None:
    """Returns when all processes are present.

    Args:
      coordinator: HOST:PORT of process 0.
      num_processes: P.
      process_id: this one, 0 to P - 1.
      timeout: seconds that a process has to appear.

    Raises:
      RunError: the port is in use; a process did not come; two have the same number; something else answers.
    """
    host, _, port = coordinator.rpartition(":")
    if process_id == 0:
        _wait_for_others(coordinator, int(port), num_processes, timeout)
    else:
        with _connected(coordinator, host.strip("[]"), int(port), timeout) as connection:
            _join(connection, coordinator, num_processes, process_id, timeout)


def _wait_for_others(coordinator: str, port: int, num_processes: int, timeout: float) -> None:
    dual = socket.has_dualstack_ipv6()
    try:
        server = socket.create_server(
            ("", port), family=socket.AF_INET6 if dual else socket.AF_INET, dualstack_ipv6=dual
        )
    except OSError as error:
        raise RunError(
            f"cannot start at {coordinator}: the port cannot be opened ({error.strerror})"
        ) from error
    with server, contextlib.ExitStack() as connections:
        present: dict[int, socket.socket] = {}
        deadline = time.monotonic() + timeout
        while len(present) < num_processes - 1:
            server.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                connection = connections.enter_context(server.accept()[0])
            except TimeoutError:
                missing = ", ".join(str(i) for i in range(1, num_processes) if i not in present)
                reason = f"process {missing} did not come within {timeout:g} s"
                _answer(present, f"refused {reason}")
                raise RunError(f"cannot start at {coordinator}: {reason}") from None
            words = _line(connection, 5).split()
            if len(words) != 3 or words[0] != HELLO:
                continue  # another program
            process_id = int(words[2])
            if int(words[1]) != num_processes:
                reason = f"process 0 has --num-processes {num_processes}, this one {words[1]}"
                _answer({0: connection}, f"refused {reason}")
            elif process_id in present:
                _answer({0: connection}, f"refused another process has --process-id {process_id} too")
            else:
                present[process_id] = connection
        _answer(present, "start")
        for connection in present.values():
            _line(connection, 5)  # the other end closes first: no port is kept waiting for late packets


def _answer(connections: dict[int, socket.socket], text: str) -> None:
    for connection in connections.values():
        with contextlib.suppress(OSError):
            connection.sendall(f"{text}\n".encode())


def _connected(coordinator: str, host: str, port: int, timeout: float) -> socket.socket:
    deadline = time.monotonic() + timeout
    while True:
        try:
            return socket.create_connection((host, port), timeout=5)
        except socket.gaierror as error:
            raise RunError(f"cannot join {coordinator}: no such host ({error.strerror})") from error
        except OSError as error:
            if time.monotonic() > deadline:
                reason = error.strerror or "no answer"
                message = f"cannot join {coordinator}: no process 0 there in {timeout:g} s ({reason})"
                raise RunError(message) from error
        time.sleep(0.2)


def _join(connection: socket.socket, coordinator: str, num_processes: int, me: int, timeout: float) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(f"{HELLO} {num_processes} {me}\n".encode())
    answer = _line(connection, timeout + 10)
    if answer.startswith("refused "):
        raise RunError(f"cannot join {coordinator}: {answer.removeprefix('refused ')}")
    if answer != "start":
        raise RunError(
            f"cannot join {coordinator}: the run there has already started, or another program has the port"
        )


def _line(connection: socket.socket, timeout: float) -> str:
    """The next line, of at most 200 bytes; "" if none comes."""
    connection.settimeout(timeout)
    received = b""
    with contextlib.suppress(OSError):
        while not received.endswith(b"\n") and len(received) < 200:
            more = connection.recv(200)
            if not more:
                break
            received += more
    return received.decode(errors="replace").strip()
