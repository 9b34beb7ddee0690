"""Learned optimizers as rivals of what is evaluated: artefacts, and files of other codebases."""

from pathlib import Path

import learned_opt
from learned_opt import importers
from learned_opt.artefact.format import WEIGHTS
from meta_train.cli.sources import HUB, PRETRAINED
from meta_train.config.file import override
from meta_train.errors import ConfigError, Problem
from meta_train.evaluation.optimizers import Contestant, learned


def learned_rival(text: str) -> Contestant | None:
    """A learned optimizer as a rival, as it is; None for the name of a hand-designed one.

    Args:
      text: "pretrained:NAME", "hub:USER/NAME", the directory of an artefact, or a file of another codebase's
        weights, for instance Celo's `theta.state`, as "PATH?optimizer=celo&key=value": what
        `meta-train import` takes.

    Raises:
      ConfigError: a setting that the file needs, or does not know.
      ArtefactError: nothing that can be read.
    """
    path, _, query = text.partition("?")
    if not (text.startswith((PRETRAINED, HUB)) or "/" in path or Path(path).exists()):
        return None
    if text.startswith((PRETRAINED, HUB)) or (Path(path) / WEIGHTS).is_file():
        found = learned_opt.read(path)
        return learned(text, found.lopt, found.theta, told=())
    settings, problems = override({}, query.split("&") if query else [], lambda *_: None)
    try:
        if problems:
            raise ConfigError(problems)
        foreign = importers.read(path, **settings)
    except importers.SettingProblem as error:
        raise ConfigError([Problem("rivals", f"{path}: {error}", hint(text))]) from error
    lopt = learned_opt.LEARNED_OPTIMIZERS[foreign.name](**foreign.options)
    return learned(text, lopt, foreign.theta, told=())


def hint(text: str) -> str:
    """A rival's text with a setting, for messages."""
    return text if "?" in text else f"{text}?optimizer=celo"
