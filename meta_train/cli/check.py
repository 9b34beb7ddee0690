"""`meta-train check`: the contract tests of an estimator, a task family or a learned optimizer."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple


class Subject(NamedTuple):
    """What a factory makes, in words, and its checks: `(name, Check)` one after the other."""

    what: str
    checks: Iterator[tuple[str, Any]]


def add(commands: Any) -> None:
    """Declares the command and its options."""
    parser = commands.add_parser(
        "check",
        help="run the contract tests of your own estimator, task or learned optimizer",
        description="Finds out what a factory makes, runs the contract tests of that, and prints a line for "
        "each. The exit code is 1 if one fails. The file is executed.",
    )
    parser.add_argument(
        "factory", metavar="FACTORY", help="FILE.py:FACTORY, package.module:FACTORY, or a known name"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="options of the factory")
    parser.add_argument(
        "--smoothing",
        choices=("window", "episode", "none"),
        help="of an estimator, what its mean is claimed to be: the gradient smoothed by noise new in every "
        "window, by one noise for the whole episode, or the true one (default: nothing is claimed)",
    )
    parser.set_defaults(command=check_command)


def check_command(args: argparse.Namespace) -> int:
    """`meta-train check`."""
    subject = subject_of(args.factory, args.overrides, args.smoothing)
    print(f"{args.factory} makes {subject.what}")
    failed = 0
    with _quick_compilation():
        for name, check in subject.checks:
            print(f"  {'ok    ' if check.passed else 'FAILED'}  {name:28}  {check.detail}", flush=True)
            failed += not check.passed
    print(f"{failed} checks failed" if failed else "every check passed")
    return int(failed > 0)


@contextmanager
def _quick_compilation() -> Iterator[None]:
    """Compiles twice as fast; nothing here runs for long."""
    import jax

    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


def subject_of(name: str, overrides: list[str], smoothing: str | None = None) -> Subject:
    """What a factory makes, and its checks, which run as they are asked for.

    Args:
      name: `FILE.py:FACTORY`, `package.module:FACTORY`, or a name of a registry.
      overrides: options of the factory, `key=value`.
      smoothing: of an estimator, see `check_estimator`.

    Raises:
      ConfigError: nothing is there, an option is wrong, or it makes something else. One line each.
    """
    from learned_opt import contract
    from meta_train.config import file as config_file
    from meta_train.estimators import GradientEstimator
    from meta_train.testing.conformance import checks
    from meta_train.testing.subject import Subject as Estimator
    from tasks import TaskFamily
    from tasks import contract as tasks_contract

    options, problems = config_file.override({}, overrides, lambda *_: None)
    if problems:
        raise _refused(problems)
    factory, takes = _factory(name)
    made = _made(factory, name, options, takes)
    if isinstance(made, GradientEstimator):
        given = partial(factory, **_checked(factory, options))
        return Subject("an estimator", checks(Estimator(given, smoothing)))  # type: ignore[arg-type]
    if smoothing is not None:
        raise _refused("--smoothing is for an estimator, which it does not make")
    if isinstance(made, TaskFamily):
        what = "a task family" if takes == 0 else "an augmentation, checked on a quadratic"
        return Subject(what, tasks_contract.checks(made))
    return Subject("a learned optimizer", contract.checks(made))


def _factory(name: str) -> tuple[Callable[..., Any], int]:
    """The factory of a name, and how many positional parameters it has: none, or the system or the family."""
    import inspect

    from meta_train.config.checks import default_registries
    from meta_train.config.own import Kind, load, refuse_signature, split
    from meta_train.errors import PieceError, nearest

    parts = split(name)
    try:
        if parts is None and name.endswith(".py"):
            raise PieceError(f"which function of {name}? write {name}:FACTORY")
        if parts is None:
            known = default_registries()
            registries = (known.estimators, known.tasks, known.learned_optimizers, known.augmentations)
            found = [registry[name] for registry in registries if name in registry]
            if not found:
                names = [other for registry in registries for other in registry]
                raise PieceError(f"{name} is unknown; {nearest(name, names)}")
            factory = found[0]
        else:
            factory = load(*parts, name)
        if not callable(factory):
            raise PieceError(f"{name} is no factory: it is of the type {type(factory).__name__}")
        kinds = [p.kind for p in inspect.signature(factory).parameters.values()]
        takes = sum(
            kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
            for kind in kinds
        )
        refuse_signature(factory, Kind("", object, ("system",) * (takes > 0)), name)
    except (PieceError, ValueError) as error:
        raise _refused(str(error)) from error
    return factory, takes


def _made(factory: Callable[..., Any], name: str, options: dict[str, Any], takes: int) -> Any:
    """What the factory makes: alone, of a system, or else of a task family."""
    from learned_opt import LearnedOptimizer
    from meta_train.config.own import explained
    from meta_train.config.registry import build
    from meta_train.errors import ConfigError
    from meta_train.estimators import GradientEstimator
    from meta_train.testing.loop import probe
    from meta_train.testing.subject import truncates
    from tasks import TASKS, TaskFamily

    _checked(factory, options)
    spec, refusals, makes = {"name": name, **options}, [], ""
    system = probe(constant_length=not truncates(factory))
    if takes and truncates(factory):
        spec.setdefault("truncation_length", 2)  # what the system's lengths are multiples of
    for args in [(system,), (TASKS["quadratic"](),)] if takes else [()]:
        try:
            made = build({name: factory}, spec, *args)
        except ConfigError as error:
            refusals.append(error)
        except Exception as error:  # whatever a person's own factory raises
            refusals.append(_refused(f"{name} fails: {explained(error)}"))
        else:
            if isinstance(made, (GradientEstimator, TaskFamily, LearnedOptimizer)):
                return made
            makes = makes or f"{name} makes something of the type {type(made).__name__}"
    kinds = "an estimator, a task family, an augmentation and a learned optimizer"
    raise _refused(f"{makes}: {kinds} can be checked") if makes else refusals[0]


def _checked(factory: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    """The options as the factory takes them (ConfigError)."""
    from meta_train.config.registry import OneOf

    found, problems = OneOf(lambda _: {"factory": factory}).examine({"name": "factory", **options})
    if problems:
        raise _refused(problems)
    return {key: found[key] for key in options}


def _refused(what: Any) -> Exception:
    from meta_train.errors import ConfigError, Problem

    return ConfigError([Problem("", what)] if isinstance(what, str) else what)
