"""The command line, `meta-train`. Every error that a user can make is one line and exit code 1 or 2."""

import argparse
import gc
import os
import shlex
import sys
import traceback

import meta_train
from meta_train.cli import (
    check,
    completion,
    diagnose,
    evaluate,
    export,
    imports,
    leaderboard,
    listing,
    new,
    plot,
    population,
    run,
    schema,
    verify,
)

EXIT_REFUSED, EXIT_FAILED, EXIT_INTERRUPTED = 2, 1, 130
MOST_CPU_DEVICES = 16
# Before a garbage collection. Tracing makes so many that live on that Python's 700 cost a fifth of its time.
YOUNG_OBJECTS = 100_000
# Modules with an `add(commands)` each; light to import: what a command needs is imported when it runs.
COMMANDS = (run, evaluate, export, imports, plot, leaderboard, population, diagnose, verify, listing)
COMMANDS += (check, new, schema, completion)


def main(argv: list[str] | None = None) -> None:
    """Runs the command line and exits."""
    sys.exit(command(sys.argv[1:] if argv is None else argv))


def command(argv: list[str]) -> int:
    """Runs one command and returns its exit code: 0, 1 failed, 2 refused, 130 interrupted."""
    gc.set_threshold(YOUNG_OBJECTS, 50, 100)
    args = parse(argv)
    if not getattr(args, "coordinator", None):
        return _outcome(args, argv)
    try:
        code = _outcome(args, argv)
    except BaseException:
        traceback.print_exc()
        code = EXIT_FAILED
    if code:  # JAX's own shutdown would wait for the other processes, and they for this one
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def parse(argv: list[str]) -> argparse.Namespace:
    """The parsed arguments; the `key=value` ones may stand before, between and after the options."""
    top = parser()
    args, rest = top.parse_known_args(argv)
    pairs = getattr(args, "overrides", None)
    if rest and (pairs is None or any(word.startswith("-") for word in rest)):
        top.error(f"unrecognized arguments: {shlex.join(rest)}")
    args.overrides = [*(pairs or ()), *rest]
    return args


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = argparse.ArgumentParser(
        prog="meta-train", description="Meta-train learned optimizers, and use them."
    )
    top.set_defaults(parser=top)
    top.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.add(commands)
    return top


class _Version(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        print(f"meta-train {meta_train.__version__}")
        parser.exit()


def _outcome(args: argparse.Namespace, argv: list[str]) -> int:
    """Runs one command; every error that a user can make becomes a line and an exit code."""
    from meta_train.errors import (
        CheckpointError,
        ConfigError,
        Interrupted,
        LostProcess,
        MetricsError,
        RunError,
    )

    def failed(message: object, code: int = EXIT_FAILED) -> int:
        print(f"meta-train: {message}", file=sys.stderr)
        return code

    try:
        from learned_opt.artefact.reading import FileError

        _offer_cpu_devices()
    except ImportError as error:
        return failed(_missing(error))
    try:
        return args.command(args) or 0
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_REFUSED
    except LostProcess as error:
        return failed(f"{error}; continue with: {_resume_command(argv)}")
    except (RunError, CheckpointError, MetricsError, FileError) as error:
        return failed(error)
    except Interrupted as error:
        return failed(f"{error}; continue with: {_resume_command(argv)}", EXIT_INTERRUPTED)
    except KeyboardInterrupt:
        return failed("stopped", EXIT_INTERRUPTED)
    except ImportError as error:
        return failed(_missing(error))
    except BrokenPipeError:  # `meta-train list tasks | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except OSError as error:  # a path that cannot be: too long, under a file, on a read-only disk
        where = f"{str(error.filename)[:200]}: " if error.filename is not None else ""
        return failed(f"{where}{error.strerror or error}")


def _missing(error: ImportError) -> str:
    """One line about a package that is not installed; a missing module of ours is a bug, and is raised."""
    package = str(error.name).partition(".")[0]
    if package in ("learned_opt", "tasks", "meta_train"):
        raise error
    if not isinstance(error, ModuleNotFoundError):  # its message says which package, and how to install it
        return str(error)
    return f"the package {package} is not installed; this command needs it: pip install 'learned-opt[train]'"


def _resume_command(argv: list[str]) -> str:
    return shlex.join(["meta-train", *(argv if "--resume" in argv else [*argv, "--resume"])])


def _offer_cpu_devices() -> None:
    """One CPU device for each core, so that `mesh.particles` can split the particles over them.

    XLA runs the small operations of an inner training on one core; two devices use two.
    """
    import jax

    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", min(max(2, os.cpu_count() or 1), MOST_CPU_DEVICES))
