"""The command line, `meta-train`. Every error that a user can make is one line and exit code 2."""

import argparse
import os
import sys
import traceback
from pathlib import Path

from meta_train.cli import diagnose, evaluate, export, imports, leaderboard, listing, population, run

EXIT_REFUSED, EXIT_FAILED, EXIT_INTERRUPTED = 2, 1, 130
MOST_CPU_DEVICES = 16
# Modules with an `add(commands)` each; light to import: what a command needs is imported when it runs.
COMMANDS = (run, evaluate, export, imports, leaderboard, population, diagnose, listing)


def main(argv: list[str] | None = None) -> None:
    """Runs the command line and exits."""
    sys.exit(command(sys.argv[1:] if argv is None else argv))


def command(argv: list[str]) -> int:
    """Runs one command and returns its exit code: 0, 1 failed, 2 refused, 130 interrupted."""
    args = parser().parse_args(argv)
    _refuse_foreign_tasks()
    _offer_cpu_devices()
    if not getattr(args, "coordinator", None):
        return _outcome(args, argv)
    try:
        code = _outcome(args, argv)
    except BaseException:
        traceback.print_exc()
        code = EXIT_FAILED
    if code:  # JAX's own farewell would wait for the other processes, and they for this one
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _outcome(args: argparse.Namespace, argv: list[str]) -> int:
    """Runs one command; every error that a user can make becomes a line and an exit code."""
    from learned_opt import ArtefactError
    from meta_train.errors import (
        CheckpointError,
        ConfigError,
        Interrupted,
        LostProcess,
        MetricsError,
        RunError,
    )

    try:
        return args.command(args) or 0
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_REFUSED
    except LostProcess as error:
        print(f"meta-train: {error}; go on with: {_resume_command(argv)}", file=sys.stderr)
        return EXIT_FAILED
    except (RunError, CheckpointError, MetricsError, ArtefactError) as error:
        print(f"meta-train: {error}", file=sys.stderr)
        return EXIT_FAILED
    except Interrupted as error:
        print(f"meta-train: {error}; go on with: {_resume_command(argv)}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except KeyboardInterrupt:
        print("meta-train: stopped", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `meta-train list tasks | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = argparse.ArgumentParser(
        prog="meta-train", description="Meta-train learned optimizers, and use them."
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    for module in COMMANDS:
        module.add(commands)
    return top


def _resume_command(argv: list[str]) -> str:
    import shlex

    return shlex.join(["meta-train", *(argv if "--resume" in argv else [*argv, "--resume"])])


def _offer_cpu_devices() -> None:
    """One CPU device for each core, so that `mesh.particles` can split the particles over them.

    XLA runs the small operations of an inner training on one core; two devices use two.
    """
    import jax

    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", min(max(2, os.cpu_count() or 1), MOST_CPU_DEVICES))


def _refuse_foreign_tasks() -> None:
    """Another program's `tasks.py` in the current directory must not be taken for ours."""
    import meta_train
    import tasks

    ours = Path(meta_train.__file__).parent.parent / "tasks" / "__init__.py"
    if tasks.__file__ is None or Path(tasks.__file__).resolve() != ours.resolve():
        sys.exit(f"meta-train: the module `tasks` is {tasks.__file__}, not this project's: rename that file")
