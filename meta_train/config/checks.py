"""What must fit together in the config of a run, beyond the types and ranges of single values.

Every component that is right on its own is also *constructed*, on a system that refuses to run: a
factory's own refusals come out here, and still nothing compiles.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple

from meta_train.config.own import Kind, Open
from meta_train.config.pipeline import Found, Schema
from meta_train.config.places import last
from meta_train.config.registry import Checked, Component, OneOf, Registry, build, plain
from meta_train.config.schema import OuterOptimizer, RunConfig, Task, TrainingTask, optax_optimizers
from meta_train.errors import ConfigError, Problem, join, nearest


class Registries(NamedTuple):
    """Where the names in a config are looked up.

    Attributes:
      tasks: families of tasks.
      learned_optimizers: what can be meta-trained.
      estimators: of the outer gradient.
      augmentations: of task families.
      named: name -> spec that stands for it, wherever a task family may stand.
    """

    tasks: Registry
    learned_optimizers: Registry
    estimators: Registry
    augmentations: Registry = {}
    named: dict[str, dict[str, Any]] = {}


def default_registries() -> Registries:
    """The project's own, open to pieces from outside of it; importing them imports jax."""
    from learned_opt import LEARNED_OPTIMIZERS, LearnedOptimizer
    from meta_train.estimators import ESTIMATORS, GradientEstimator
    from tasks import AUGMENTATIONS, NAMED, TASKS, TaskFamily

    return Registries(
        Open(Kind("tasks", TaskFamily), TASKS),
        Open(Kind("learned_optimizers", LearnedOptimizer), LEARNED_OPTIMIZERS),
        Open(Kind("estimators", GradientEstimator, ("system",)), ESTIMATORS),
        Open(Kind("augmentations", TaskFamily, ("family",)), AUGMENTATIONS),
        NAMED,
    )


def run_schema(registries: Registries) -> Schema[RunConfig]:
    """The configs of runs whose names are looked up in these registries."""

    def family_of(name: Any) -> Any:
        return registries.named.get(name, {}).get("name", name) if isinstance(name, str) else name

    def checks(found: Found) -> list[Problem]:
        found.problems[:] = [_or_named(problem, registries) for problem in found.problems]
        between = [problem for find in (_lengths, _mesh, _labels, _rotation) for problem in find(found)]
        found = Found(found.config, found.problems + between)
        return between + list(_constructed(found, registries))

    return Schema(RunConfig, registries, lambda raw: _expanded(raw, registries), checks, family_of)


def _expanded(raw: Any, registries: Registries) -> Any:
    """The config with every named task replaced by its family and options, and a label for every task."""
    if not isinstance(raw, dict):
        return raw
    raw = dict(raw)
    if isinstance(raw.get("tasks"), list):
        raw["tasks"] = _labelled([_family(spec, registries, label=True) for spec in raw["tasks"]])
    for name in ("selection", "evaluation"):
        section = raw.get(name)
        if isinstance(section, dict) and isinstance(section.get("tasks"), list):
            raw[name] = section | {"tasks": [_family(spec, registries) for spec in section["tasks"]]}
    return raw


def _family(spec: Any, registries: Registries, label: bool = False) -> Any:
    """A spec with a named task replaced by its family and options; its own options prevail."""
    named = registries.named.get(str(spec.get("name"))) if isinstance(spec, dict) else None
    if named is None:
        return spec
    labelled = {"label": spec["name"]} if label else {}
    return labelled | plain(named) | {key: value for key, value in spec.items() if key != "name"}


def _labelled(tasks: list[Any]) -> list[Any]:
    """A family without a label gets its name, or name_1, name_2, ... where several have that name.

    One of a person's own gets that of its factory: `line_fit`.
    """
    bare = [isinstance(task, dict) and "name" in task and not task.get("label") for task in tasks]
    names = [last(str(task["name"])) for task, is_bare in zip(tasks, bare, strict=True) if is_bare]
    labels = iter(f"{n}_{names[: i + 1].count(n)}" if names.count(n) > 1 else n for i, n in enumerate(names))
    pairs = zip(tasks, bare, strict=True)
    return [task | {"label": next(labels)} if is_bare else task for task, is_bare in pairs]


def _or_named(problem: Problem, registries: Registries) -> Problem:
    """An unknown name of a task may have been meant for a named task."""
    path = problem.key.split(".")
    if path[-1] != "name" or path[-3:-2] != ["tasks"] or problem.message != "unknown name":
        return problem
    more = ", or a named task (meta-train list named)" if registries.named else ""
    return problem._replace(suggestion=nearest(problem.value, registries.tasks, registries.named, more))


def _constructed(found: Found, registries: Registries) -> Iterator[Problem]:
    """What the factories of the config's components refuse."""
    from tasks.data.datasets import on_host

    def attempt(path: tuple[Any, ...], one_of: OneOf, *args: Any) -> list[Problem]:
        part = found.right(*path)
        if isinstance(part, dict) and not isinstance(part, Checked):  # of a config that is wrong elsewhere
            part, _ = one_of.examine(part, registries)
        if part is None:
            return []
        spec = part.spec if isinstance(part, Component) else part
        spec = Checked({key: value for key, value in spec.items() if key not in ("augment", "label")})
        try:
            with on_host() if path[0] == "tasks" and found.at(*path, "stream") else nullcontext():
                build(one_of.registry(registries), spec, *args, where=join(*path))
        except ConfigError as error:
            return list(error.problems)
        return []

    for section in (("tasks",), ("selection", "tasks"), ("evaluation", "tasks")):
        tasks, base = found.at(*section), TrainingTask if len(section) == 1 else Task
        for i in range(len(tasks) if isinstance(tasks, list | tuple) else 0):
            yield from attempt((*section, i), OneOf(lambda known: known.tasks, base))
    yield from attempt(("learned_optimizer",), OneOf(lambda known: known.learned_optimizers))
    system = _paper_system(found)
    if system is not None:
        yield from attempt(("estimator",), OneOf(lambda known: known.estimators), system)
    if found.right("outer_steps") is not None:
        one_of = OneOf(optax_optimizers, OuterOptimizer, default="adam")
        yield from attempt(("outer_optimizer",), one_of, found.right("outer_steps"))


def _paper_system(found: Found) -> Any:
    """A system of the config's lengths that refuses to run: an estimator is constructed, not used."""
    from meta_train.core.system import UnrolledSystem

    def refuse(*_):
        raise RuntimeError("an estimator's factory must not run the system")

    length, multiple = plain(found.right("inner", "unroll_length")), _truncation(found) or 1
    if length is None:
        return None
    if isinstance(length, int):
        return UnrolledSystem(refuse, refuse, length_multiple=length, max_length=length)
    longest = length["max"] // multiple * multiple
    return UnrolledSystem(refuse, refuse, length_multiple=multiple, max_length=longest)


def _truncation(found: Found) -> int | None:
    return found.right("estimator", "truncation_length")


def _lengths(found: Found) -> Iterator[Problem]:
    length, multiple = plain(found.right("inner", "unroll_length")), _truncation(found)
    if length is None or multiple is None:
        return
    if isinstance(length, int):
        if length % multiple:
            message = f"must be a multiple of estimator.truncation_length ({multiple})"
            yield Problem("inner.unroll_length", message, length)
    elif length["max"] // multiple * multiple < length["min"]:
        message = f"must leave a multiple of estimator.truncation_length ({multiple}) in min to max"
        yield Problem("inner.unroll_length", message, length)


def _mesh(found: Found) -> Iterator[Problem]:
    devices, particles = found.right("mesh", "particles"), found.right("estimator", "num_particles")
    if isinstance(devices, int) and particles is not None and particles % devices:
        yield Problem("mesh.particles", f"must divide estimator.num_particles ({particles})", devices)


def _labels(found: Found) -> Iterator[Problem]:
    tasks = found.right("tasks") or ()
    labels = [found.at("tasks", i, "label") for i in range(len(tasks))]
    for i, label in enumerate(labels):
        if label in labels[:i]:
            message = f"is also that of tasks.{labels.index(label)}; give one of them a label of its own"
            yield Problem(f"tasks.{i}.label", message, label)


def _rotation(found: Found) -> Iterator[Problem]:
    tasks, active = found.right("tasks"), found.right("rotation", "active")
    if tasks is not None and active is not None and active > len(tasks):
        yield Problem("rotation.active", f"must be at most the number of tasks ({len(tasks)})", active)
