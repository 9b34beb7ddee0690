"""Learned optimizers that other codebases published, from their files to an ordinary artefact.

`read(source, **settings)` gives a learned optimizer, `convert(source, directory, **settings)` an artefact for
`learned_opt.load`. What a source does not say is asked for by name and passed as a keyword.
"""

import os
import re
from pathlib import Path
from typing import Any

from learned_opt.artefact.format import save
from learned_opt.importers import celo, learned_optimization, pylo
from learned_opt.importers.flax_msgpack import decode
from learned_opt.importers.foreign import Foreign, read_file
from learned_opt.importers.settings import ImportProblem, SettingProblem
from learned_opt.importers.tensors import TORCH_SUFFIXES

__all__ = ["Foreign", "ImportProblem", "SettingProblem", "convert", "read"]

FILE_NAMES = ("model.safetensors", "theta.state", "params")
NUMBERED = rf"params_\d+|theta_\d+\.state|.+({'|'.join(map(re.escape, TORCH_SUFFIXES))})"


def read(source: str | os.PathLike, **settings: Any) -> Foreign:
    """A learned optimizer from another codebase's file.

    Args:
      source: one of these, or the directory that holds it:
        `params` or `params_<outer step>` of google/learned_optimization (with `config.gin` next to it);
        `theta.state` or `theta_<outer step>.state` of amoudgl/celo;
        `model.safetensors` (with `config.json`) or a `.pt` state dict of PyLO.
      **settings: what the files do not say, under the source's own names: `optimizer`, its class or name
        there, and arguments of its constructor. `config` is the gin file if it lies elsewhere; `rnn` or
        `mlp` the other half of PyLO's VeLO. docs/importing.md lists them.

    Returns:
      The learned optimizer and where it comes from; `learned_opt.save` takes its fields.

    Raises:
      SettingProblem: a setting is missing, unknown or not supported; the message names it.
      ArtefactError: a file is missing, damaged or foreign, or its arrays do not fit the architecture (the
        first path that differs).
    """
    file = read_file(_find(Path(source)))
    if file.path.suffix == ".safetensors" or file.path.suffix in TORCH_SUFFIXES:
        return pylo.read_network(file, settings)
    tree = decode(file.content, file.name)
    if learned_optimization.is_checkpoint(tree):
        return learned_optimization.read_checkpoint(file, tree, settings)
    return celo.read_theta(file, tree, settings)


def convert(source: str | os.PathLike, directory: str | os.PathLike, **settings: Any) -> Foreign:
    """Writes the artefact of a learned optimizer from another codebase's file.

    Args:
      source: see `read`.
      directory: of the artefact; replaced if it is one.
      **settings: see `read`.

    Returns:
      What was written.

    Raises:
      SettingProblem, ArtefactError: see `read` and `learned_opt.save`.
    """
    found = read(source, **settings)
    save(directory, **found._asdict())
    return found


def _find(source: Path) -> Path:
    """The file of meta-parameters in a directory; the source itself, if it is no directory."""
    if not source.is_dir():
        return source
    names = sorted(path.name for path in source.iterdir())
    found = [name for name in FILE_NAMES if name in names]
    found = found[:1] or [name for name in names if re.fullmatch(NUMBERED, name)]
    if len(found) != 1:
        there = f"several: name one of {', '.join(found)}"
        if not found:
            there = f"none of {', '.join(FILE_NAMES)}, theta_*.state, params_*, *.pt; it holds "
            there += ", ".join(names[:8] + ["..."] * (len(names) > 8)) or "nothing"
        raise ImportProblem(f"{source} should hold one file of meta-parameters, but holds {there}")
    return source / found[0]
