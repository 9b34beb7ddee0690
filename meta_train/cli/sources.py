"""What can be evaluated, and on what: runs, artefacts, packaged optimizers, those of optax; rings."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import learned_opt
from learned_opt import LearnedOptimizer
from learned_opt.artefact.format import WEIGHTS
from learned_opt.artefact.load import packaged_like
from meta_train.cli.own_tasks import own_tasks
from meta_train.config.own import split
from meta_train.config.places import last
from meta_train.config.registry import Factory
from meta_train.config.schema import RunConfig
from meta_train.errors import ConfigError, Problem, RunError, nearest
from meta_train.evaluation.optimizers import Contestant, hand_designed, learned
from meta_train.evaluation.protocol import ADAMS, Settings
from meta_train.evaluation.results import HeldOut
from meta_train.population.best import load_best
from meta_train.population.run import holds_population
from meta_train.population.run import load_config as load_population
from meta_train.run.directory import CONFIG, load_config, load_trained
from meta_train.run.experiment import held_out_families, learned_optimizer
from meta_train.run.provenance import digests_of
from meta_train.run.train import Result, set_up_jax
from tasks import NAMED, make, name_of
from tasks.named import canonical
from tasks.rings import HORIZONS, RINGS, VERSION

OPTAX, PRETRAINED, HUB = "optax:", "pretrained:", "hub:"
DEFAULT_RINGS = "A+B"
EVALUATIONS = Path("runs") / "evaluations"


class Source(NamedTuple):
    """What is evaluated.

    Attributes:
      name: short, for tables and file names.
      out: directory of the results, where none is asked for; None for a run in memory.
      what: where it comes from, as JSON values for the results.
      contestant: `(settings) -> Contestant`; only now is theta read.
      settings: keyword arguments of `Settings` that it suggests.
      tasks: its own tasks; None for rings.
    """

    name: str
    out: Path | None
    what: dict[str, Any]
    contestant: Callable[[Settings], Contestant]
    settings: dict[str, Any]
    tasks: Callable[[], dict[str, HeldOut]] | None = None


def open_source(
    source: str | Path | Result,
    warn: Callable[[str], None] = print,
    *,
    last: bool = False,
    architecture: Factory | None = None,
) -> Source:
    """Finds what is to be evaluated.

    Args:
      source: the directory of a run, of a population or of an artefact, "pretrained:NAME", "hub:USER/NAME",
        or "optax:NAME", "optax:NAME_SCHEDULE", either with "@RATE" for a learning rate of its own; or what
        `train` returned.
      warn: called with a line for whatever was skipped.
      last: of a run, the moving average at the newest checkpoint, not its best theta.
      architecture: of an artefact, the factory of an architecture that is not of this package.

    Raises:
      ConfigError: a name of optax that is none.
      RunError, ArtefactError: nothing that could be evaluated; `last` of what is not a run; an `architecture`
        of what is not an artefact.
    """
    if isinstance(source, Result):
        return _of_result(source, last)
    text, directory = str(source), Path(source)
    is_run = not text.startswith((OPTAX, PRETRAINED, HUB)) and (directory / CONFIG).is_file()
    if last and (not is_run or holds_population(directory)):
        raise RunError(f"--last is for a run, which {text} is not")
    if text.startswith((PRETRAINED, HUB)):
        return _of_artefact(text, text.partition(":")[2].replace("/", "_"), architecture)
    if (directory / WEIGHTS).is_file():
        # "runs/a/optimizer" and "runs/b/optimizer" are distinguished.
        name = "_".join(part for part in directory.parts[-2:] if part.strip("/."))
        return _of_artefact(text, name, architecture)
    if architecture is not None:
        raise RunError(f"--architecture is for an artefact, which {text} is not")
    if text.startswith(OPTAX):
        return _of_optax(text)
    if holds_population(directory):
        return _of_population(directory, warn)
    if is_run:
        return _of_run(directory, warn, last)
    raise RunError(
        f"{text} is not the directory of a run ({CONFIG}), nor of an artefact ({WEIGHTS}), nor "
        f"{OPTAX}NAME or {PRETRAINED}NAME{packaged_like(text)}"
    )


def held_out(text: str) -> dict[str, HeldOut]:
    """The tasks of rings, of one ring's members, named tasks, and one's own: "A+B", "lm_1e4", "my.py:tasks".

    Raises:
      ConfigError: a ring or task that does not exist, or that is no task.
    """
    own = {name: own_tasks(name) for name in text.split("+") if split(name) is not None}
    members = {label: (ring, spec) for ring, specs in RINGS.items() for label, spec in specs.items()}
    chosen, unknown = {}, []
    for name in dict.fromkeys(text.split("+")):
        if name in own:
            continue
        if name in RINGS:
            chosen |= {label: (name, spec) for label, spec in RINGS[name].items()}
        elif name in members:
            chosen[name] = members[name]
        elif name in NAMED:
            chosen[name] = "", {"name": name}
        else:
            unknown.append(name)
    if unknown:
        every = *RINGS, *members
        problems = [Problem("tasks", "no such ring or task", n, nearest(n, every, NAMED)) for n in unknown]
        raise ConfigError(problems)
    found = {label: HeldOut(make(spec), ring) for label, (ring, spec) in chosen.items()}
    for families in own.values():
        twice = found.keys() & families.keys()
        if twice:
            message = "is the label of two tasks: call one of them something else"
            raise ConfigError([Problem("tasks", message, min(twice))])
        found |= {label: HeldOut(family) for label, family in families.items()}
    return found


def make_settings(**options: Any) -> Settings:
    """`Settings` of the options that are not None, the horizons sorted.

    Raises:
      ConfigError: settings that contradict each other, a rival that does not exist.
    """
    options = {key: value for key, value in options.items() if value is not None}
    if "horizons" in options:
        options["horizons"] = tuple(sorted(set(options["horizons"])))
    if "num_seeds" in options:
        options.setdefault("num_tuning_seeds", options["num_seeds"])
    try:
        return Settings(**options)
    except ValueError as error:
        raise ConfigError([Problem("", str(error))]) from error


def _of_optax(text: str) -> Source:
    try:
        hand_designed(text.removeprefix(OPTAX))
    except ValueError as error:
        raise ConfigError([Problem("source", str(error), text)]) from error

    def contestant(settings: Settings) -> Contestant:
        return hand_designed(text.removeprefix(OPTAX), settings=settings)

    return Source(text, EVALUATIONS / text.replace(":", "_"), {"source": text}, contestant, {})


def _of_artefact(text: str, name: str, architecture: Factory | None) -> Source:
    found = learned_opt.read(text, architecture=architecture)
    horizon = found.horizon
    if isinstance(horizon, (list, tuple)):
        horizon = f"{horizon[0]} to {horizon[-1]}"
    what = {
        "source": text,
        "architecture": found.name,
        "options": found.options,
        "provenance": found.provenance,
        "trained_for": None if horizon is None else f"{horizon} steps",
    }

    def contestant(settings: Settings) -> Contestant:
        return learned(name, found.lopt, found.theta, settings.trials)

    return Source(name, EVALUATIONS / name, what, contestant, {})


def _of_run(directory: Path, warn: Callable[[str], None], last: bool) -> Source:
    config = load_config(directory)
    set_up_jax(config)
    trained = load_trained(directory, warn, last=last)
    what = {"which": trained.which, "outer_step": trained.outer_step}
    return _of_training(directory, trained.experiment.config, trained.experiment.lopt, trained.theta, what)


def _of_population(directory: Path, warn: Callable[[str], None]) -> Source:
    set_up_jax(load_population(directory))  # type: ignore[arg-type]  # its `runtime` section is the same
    best = load_best(directory, warn)
    what = {"which": f"member {best.provenance['member']}", "outer_step": best.outer_step}
    return _of_training(directory, best.settings, best.lopt, best.theta, what)


def _of_result(result: Result, last: bool) -> Source:
    best = result.best_theta is not None and not last
    theta, step = (result.best_theta, result.best_step) if best else (result.theta, result.outer_steps)
    lopt = learned_optimizer(result.config.model_copy(update={"init_from": None}))
    what = {"which": "best" if best else "last", "outer_step": step}
    return _of_training(result.directory, result.config, lopt, theta, what)


def _of_training(
    directory: Path | None, config: RunConfig, lopt: LearnedOptimizer, theta: Any, what: dict[str, Any]
) -> Source:
    ring = config.evaluation.tasks if isinstance(config.evaluation.tasks, str) else ""
    length = config.inner.unroll_length
    trained_for = f"{length if isinstance(length, int) else f'{length.min} to {length.max}'} steps"
    name = "in memory" if directory is None else directory.resolve().name
    return Source(
        name,
        directory,
        {"run": str(directory or name), **what, "trained_for": trained_for, "warnings": _trained_on(config)},
        lambda settings: learned(name, lopt, theta, settings.trials),
        {
            "horizons": config.evaluation.horizons,
            "num_seeds": config.evaluation.num_seeds,
            "num_tuning_seeds": min(3, config.evaluation.num_seeds),
        },
        lambda: {label: HeldOut(family, ring) for label, family in held_out_families(config).items()},
    )


def _trained_on(config: RunConfig) -> list[str]:
    """A warning for each task of the config's evaluation that it also trains or selects on."""
    if isinstance(config.evaluation.tasks, str):
        return []
    used = {"trained": [task.spec for task in config.tasks], "selected": config.selection.tasks}
    return [
        f"{name_of(spec, last(spec['name']))} is not held out: the optimizer was {how} on it"
        for spec in config.evaluation.tasks
        for how, specs in used.items()
        if _plain(spec) in map(_plain, specs)
    ]


def _plain(spec: Mapping[str, Any]) -> Any:
    return canonical({key: value for key, value in spec.items() if key not in ("augment", "label")})


def tasks_and_settings(
    source: Source, rings: str | None, options: Mapping[str, Any]
) -> tuple[dict[str, HeldOut], Settings, dict[str, Any]]:
    """The tasks to evaluate on, the settings, and what the results say about the tasks.

    A run without rings is evaluated on what its own config names, against Adam, without the search at equal
    budget: what a quick look at a run needs. Anything else has rings A and B and the standard rivals. The
    ladder, rings L and XL, has horizons of its own, and Adam's archive is no longer than they are.

    Args:
      source: from `open_source`.
      rings: as for `held_out`; None for the default.
      options: keyword arguments of `Settings`, None where the default is wanted.

    Raises:
      ConfigError: a ring, or settings, that cannot be.
    """
    given = {key: value for key, value in options.items() if value is not None}
    if rings is None and source.tasks is not None:
        settings = make_settings(**{"rivals": ADAMS, "trials": 1} | source.settings | given)
        return source.tasks(), settings, {"tasks": "its own"}
    rings = rings or DEFAULT_RINGS
    tasks = held_out(rings)
    of_rings = {task.ring for task in tasks.values()}
    if of_rings <= HORIZONS.keys():
        horizons = given.get("horizons") or sorted({h for ring in of_rings for h in HORIZONS[ring]})
        given = {"horizons": horizons, "archive_steps": max(horizons), "num_tuning_seeds": 1} | given
    about = {"tasks": rings, "rings_version": VERSION}
    own = {name: digests_of(name, ("tasks",)) for name in rings.split("+") if split(name) is not None}
    return tasks, make_settings(**given), about | ({"sources": own} if own else {})
