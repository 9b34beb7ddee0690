"""Finds everything that is wrong with a config's values at once: types, options, and what must fit together.

Everything that passes on its own is then also *constructed*, on a system that refuses to run: a
factory's own refusals come out here, and still nothing compiles.
"""

import copy
import functools
import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from meta_train.config import registry
from meta_train.config.registry import Registry, as_json, option_parameters
from meta_train.config.schema import RunConfig
from meta_train.config.validation import from_validation
from meta_train.errors import ConfigError, Problem, join, nearest

Right = Callable[..., Any]  # (*path) -> the value there; None where it is absent or wrong


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
    """The project's own; importing them imports jax."""
    from learned_opt import LEARNED_OPTIMIZERS
    from meta_train.estimators import ESTIMATORS
    from tasks import AUGMENTATIONS, NAMED, TASKS

    return Registries(TASKS, LEARNED_OPTIMIZERS, ESTIMATORS, AUGMENTATIONS, NAMED)


class Slot(NamedTuple):
    """A place of the config that names a component.

    Attributes:
      path: of its mapping.
      registry: what its name is looked up in; None for the outer optimizer's.
      ours: keys of the mapping that are no options of the factory.
      args: what the factory takes beside its options, from the rest of the config; None where that is wrong.
    """

    path: tuple[Any, ...]
    registry: Registry | None
    ours: tuple[str, ...] = ()
    args: Callable[[Right], tuple | None] = lambda right: ()


def slots(raw: dict[str, Any], registries: Registries) -> Iterator[Slot]:
    """The places of a config that name components, in the order of the schema."""
    yield from _task_slots(raw, ("tasks",), registries, ("weight", "label", "augment", "stream"))
    if "learned_optimizer" in raw:
        yield Slot(("learned_optimizer",), registries.learned_optimizers)
    if "estimator" in raw:
        yield Slot(("estimator",), registries.estimators, (), _paper_system)
    if "outer_optimizer" in raw:
        yield Slot(("outer_optimizer",), None, ("ema",), _outer_steps)
    for section in ("selection", "evaluation"):
        held_out = raw.get(section)
        if isinstance(held_out, dict):
            yield from _task_slots(held_out, (section, "tasks"), registries, ("augment",))


def _task_slots(section, path: tuple[Any, ...], registries: Registries, ours: tuple[str, ...]):
    """The slots of a list of task families, and of each one's augmentations."""
    tasks = section.get("tasks")
    for i in _indices(tasks):
        yield Slot((*path, i), registries.tasks, ours)
        augment = tasks[i].get("augment") if isinstance(tasks[i], dict) else None
        for j in _indices(augment):
            yield Slot((*path, i, "augment", j), registries.augmentations, args=lambda right: None)


def expand_named(raw: dict[str, Any], registries: Registries) -> dict[str, Any]:
    """The config with every named task replaced by its family and options; its own options prevail."""

    def expand(tasks: Any, labelled: bool) -> Any:
        def one(spec):
            named = registries.named.get(str(spec.get("name"))) if isinstance(spec, dict) else None
            if named is None:
                return spec
            label = {"label": spec["name"]} if labelled else {}
            return label | json.loads(as_json(named)) | {k: v for k, v in spec.items() if k != "name"}

        return [one(spec) for spec in tasks] if isinstance(tasks, list) else tasks

    expanded = raw | ({"tasks": expand(raw["tasks"], True)} if "tasks" in raw else {})
    for name in ("selection", "evaluation"):
        section = raw.get(name)
        if isinstance(section, dict) and "tasks" in section:
            expanded[name] = section | {"tasks": expand(section["tasks"], False)}
    return expanded


def _indices(value: Any) -> range:
    return range(len(value)) if isinstance(value, list) else range(0)


def keys_of(registries: Registries, path: tuple[Any, ...], name: Any) -> list[str] | None:
    """The keys that the component `name` at `path` may have; None where it is none, or unknown."""
    from meta_train.config import outer_optimizer

    path = tuple(int(part) if str(part).isdecimal() else part for part in path)
    entries = [{}] * (1 + max((part for part in path if isinstance(part, int)), default=0))
    everywhere = dict.fromkeys(("learned_optimizer", "estimator", "outer_optimizer"), {})
    for slot in slots(
        everywhere | {"tasks": entries, "selection": {"tasks": entries}, "evaluation": {"tasks": entries}},
        registries,
    ):
        known = outer_optimizer.optimizers() if slot.registry is None else slot.registry
        name = registries.named.get(name, {}).get("name", name) if isinstance(name, str) else name
        if slot.path == path and isinstance(name, str) and name in known:
            return ["name", *slot.ours, *(option.name for option in option_parameters(known[name]))]
    return None


def check(raw: dict[str, Any], registries: Registries) -> tuple[dict[str, Any], list[Problem]]:
    """The config with every default filled in, and everything that is wrong with it, in file order.

    Args:
      raw: a config as plain JSON values.
      registries: where names are looked up.
    """
    raw = expand_named(raw, registries)
    filled = _with_defaults(raw)
    filling = [(slot, _fill(filled, slot)) for slot in slots(raw, registries)]
    problems = [_or_named(problem, registries) for _, found in filling for problem in found]
    try:
        RunConfig.model_validate_json(as_json(filled))
    except ValidationError as error:
        named = {problem.key for problem in problems}
        problems += [p for p in from_validation(error, filled, RunConfig) if p.key not in named]
    problems += _together(functools.partial(_right, filled, problems))
    right = functools.partial(_right, filled, problems)
    for slot, _ in filling:
        if right(*slot.path) is not None:
            problems += _construct(filled, slot, right)
    order = {key: i for i, key in enumerate(raw)}
    return filled, sorted(problems, key=lambda p: order.get(p.key.split(".")[0], len(order)))


def _with_defaults(raw: dict[str, Any]) -> dict[str, Any]:
    """The defaults of the sections, also of one that is only partly given."""
    filled = {key: copy.deepcopy(raw[key]) for key in raw}
    for key, field in RunConfig.model_fields.items():
        default = None if field.is_required() else field.get_default()
        if isinstance(default, BaseModel) and isinstance(raw.get(key, {}), dict):
            filled[key] = default.model_dump(mode="json") | filled.get(key, {})
    _fill_labels(filled.get("tasks"))
    return filled


def _fill_labels(tasks: Any) -> None:
    """A family without a label gets its name, or name_1, name_2, ... where several have that name."""
    named = [t for t in tasks if isinstance(t, dict) and "name" in t] if isinstance(tasks, list) else []
    bare = [task for task in named if not task.get("label")]
    names = [str(task["name"]) for task in bare]
    for i, (task, name) in enumerate(zip(bare, names, strict=True)):
        task["label"] = f"{name}_{names[: i + 1].count(name)}" if names.count(name) > 1 else name


def _right(filled: dict[str, Any], problems: list[Problem], *path: Any) -> Any:
    """The value at a path of the config; None where it is absent or a problem speaks of it."""
    here = join(*path) + "."
    if any(here.startswith(p.key + ".") or (p.key + ".").startswith(here) for p in problems):
        return None
    node: Any = filled
    for part in path:
        if not isinstance(node, dict | list) or isinstance(node, dict) and part not in node:
            return None
        node = node[part]
    return node


def _split(raw, slot: Slot) -> tuple[Any, Any, dict[str, Any]]:
    """The mapping that holds the component, the component's spec, and the keys that are no options."""
    node = functools.reduce(lambda node, part: node[part], slot.path[:-1], raw)
    entry = node[slot.path[-1]]
    if not isinstance(entry, dict):
        return node, entry, {}
    ours = {key: entry[key] for key in slot.ours if key in entry}
    spec = {key: value for key, value in entry.items() if key not in ours}
    return node, {"name": "adam"} | spec if slot.registry is None else spec, ours


def _fill(filled, slot: Slot) -> list[Problem]:
    from meta_train.config import outer_optimizer

    node, spec, ours = _split(filled, slot)
    where = join(*slot.path)
    if slot.registry is None:
        spec, problems = outer_optimizer.fill(spec, where)
    else:
        spec, problems = registry.fill(slot.registry, spec, where)
    if isinstance(spec, dict):
        node[slot.path[-1]] = spec | ours
    return problems


def _or_named(problem: Problem, registries: Registries) -> Problem:
    """An unknown name of a task may have been meant for a named task."""
    path = problem.key.split(".")
    if path[-1] != "name" or path[-3:-2] != ["tasks"] or problem.message != "unknown name":
        return problem
    more = ", or a named task (meta-train list named)" if registries.named else ""
    return problem._replace(suggestion=nearest(problem.value, registries.tasks, registries.named, more))


def _construct(filled, slot: Slot, right: Right) -> list[Problem]:
    from meta_train.config import outer_optimizer

    args = slot.args(right)
    if args is None:
        return []
    known = outer_optimizer.optimizers() if slot.registry is None else slot.registry
    try:
        registry.build(known, _split(filled, slot)[1], *args, where=join(*slot.path))
    except ConfigError as error:
        return list(error.problems)
    return []


def _outer_steps(right: Right) -> tuple | None:
    steps = right("outer_steps")
    return None if steps is None else (steps,)


def _paper_system(right: Right) -> tuple | None:
    """A system of the config's lengths that refuses to run: an estimator is constructed, not used."""
    from meta_train.core.system import UnrolledSystem

    def refuse(*_):
        raise RuntimeError("an estimator's factory must not run the system")

    length, multiple = right("inner", "unroll_length"), right("estimator", "truncation_length") or 1
    if length is None:
        return None
    if isinstance(length, int):
        return (UnrolledSystem(refuse, refuse, length_multiple=length, max_length=length),)
    longest = length["max"] // multiple * multiple
    return (UnrolledSystem(refuse, refuse, length_multiple=multiple, max_length=longest),)


def _together(right: Right) -> list[Problem]:
    """What is wrong between sections, as far as their values are right on their own."""
    finders = (_lengths, _mesh, _labels, _rotation)
    return [problem for find in finders for problem in find(right)]


def _lengths(right: Right) -> Iterator[Problem]:
    length, multiple = right("inner", "unroll_length"), right("estimator", "truncation_length")
    if length is None or multiple is None:
        return
    if isinstance(length, int):
        if length % multiple:
            message = f"must be a multiple of estimator.truncation_length ({multiple})"
            yield Problem("inner.unroll_length", message, length)
    elif length["max"] // multiple * multiple < length["min"]:
        message = f"must leave a multiple of estimator.truncation_length ({multiple}) in min to max"
        yield Problem("inner.unroll_length", message, length)


def _mesh(right: Right) -> Iterator[Problem]:
    devices, particles = right("mesh", "particles"), right("estimator", "num_particles")
    if devices is not None and particles is not None and particles % devices:
        yield Problem("mesh.particles", f"must divide estimator.num_particles ({particles})", devices)


def _labels(right: Right) -> Iterator[Problem]:
    labels = [task["label"] for task in right("tasks") or ()]
    for i, label in enumerate(labels):
        if label in labels[:i]:
            message = f"is also that of tasks.{labels.index(label)}; give one of them a label of its own"
            yield Problem(f"tasks.{i}.label", message, label)


def _rotation(right: Right) -> Iterator[Problem]:
    tasks, active = right("tasks"), right("rotation", "active")
    if tasks is not None and active is not None and active > len(tasks):
        yield Problem("rotation.active", f"must be at most the number of tasks ({len(tasks)})", active)
