"""Meta-training of learned optimizers: unrolled systems, outer-gradient estimators, the trainer.

These names are the public Python API; each is imported when it is first used.

  load_config(source, overrides)    a YAML file or a dict as a validated `RunConfig`
  train(config, directory)          a meta-training run, in a directory or in memory: theta, metrics as arrays
  load_metrics(directory)           the metrics of a run as arrays, also while it runs
  plot(*runs)                       runs in one figure: losses, signal-to-noise ratios, held-out scores
  load_run(directory, warn)         the trained theta of a run, with the objects that it was trained with
  evaluate(source)                  an optimizer against tuned rivals on tasks that it was not trained on
  export(run, directory)            a run's optimizer as an artefact for `learned_opt.load`
  diagnose_config(config)           which estimator, K, sigma and N suit a config, measured
  load_population_config(source)    a YAML file or a dict as a validated `PopulationConfig`
  train_population(config, directory)    random search, PBT, FIRE PBT or MF-PBT, in a directory or in memory
  plot_population(run)              every member of a population over time
  check_estimator(factory, ...)     the conformance tests of an outer-gradient estimator
"""

import os
import sys
from importlib import import_module, util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meta_train.cli.artefact import export_run as export
    from meta_train.cli.evaluate_source import evaluate_source as evaluate
    from meta_train.config.load import load as load_config
    from meta_train.diagnose.report import diagnose_run as diagnose_config
    from meta_train.population.interactive import load_population_config, plot_population, train_population
    from meta_train.run.directory import load_trained as load_run
    from meta_train.run.session import load_metrics, plot, train
    from meta_train.testing import check_estimator

# Importing everything here would make each import of a small part of the package load all of it.
_PLACES = {
    "load_config": "meta_train.config.load:load",
    "train": "meta_train.run.session:train",
    "load_metrics": "meta_train.run.session:load_metrics",
    "plot": "meta_train.run.session:plot",
    "load_run": "meta_train.run.directory:load_trained",
    "evaluate": "meta_train.cli.evaluate_source:evaluate_source",
    "export": "meta_train.cli.artefact:export_run",
    "diagnose_config": "meta_train.diagnose.report:diagnose_run",
    "load_population_config": "meta_train.population.interactive:load_population_config",
    "train_population": "meta_train.population.interactive:train_population",
    "plot_population": "meta_train.population.interactive:plot_population",
    "check_estimator": "meta_train.testing:check_estimator",
}

__all__ = [
    "check_estimator",
    "diagnose_config",
    "evaluate",
    "export",
    "load_config",
    "load_metrics",
    "load_population_config",
    "load_run",
    "plot",
    "plot_population",
    "train",
    "train_population",
]


def _refuse_foreign_tasks() -> None:
    """A file `tasks.py` next to the user's script would be imported in the place of the package `tasks`."""
    ours = os.path.join(os.path.dirname(os.path.dirname(__file__)), "tasks", "__init__.py")
    found = util.find_spec("tasks")
    if found is None or os.path.realpath(found.origin or "") != os.path.realpath(ours):
        name = found and (found.origin or list(found.submodule_search_locations or ()))
        message = f"the module `tasks` is {name}, not the package of meta_train: rename that file"
        if sys.argv[:1] == ["-m"]:  # `python -m meta_train`, where no caller could catch it
            sys.exit(f"meta-train: {message}")
        raise ImportError(message)


_refuse_foreign_tasks()


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("learned_opt").__version__  # the packages are versioned together
    if name not in _PLACES:
        raise AttributeError(f"module 'meta_train' has no attribute {name!r}")
    module, _, attribute = _PLACES[name].partition(":")
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
