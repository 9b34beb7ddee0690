"""From the files of another codebase to our terms: what all importers share."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from learned_opt.artefact.format import fit_theta, make_optimizer
from learned_opt.artefact.reading import FileError, one_line, read_bytes
from learned_opt.importers.settings import ImportProblem, SettingProblem, Table, resolve, to_options


class Foreign(NamedTuple):
    """A learned optimizer that another codebase published, in our terms: the arguments of `learned_opt.save`.

    Attributes:
      name: the architecture, a key of LEARNED_OPTIMIZERS.
      options: the keyword arguments of its factory.
      theta: its meta-parameters, numpy arrays.
      horizon: shortest and longest inner training of its meta-training; None if the source does not say.
      provenance: format, files with their sha256, and what else the source says of itself.
      config: the configuration of its meta-training, if the source has it.
    """

    name: str
    options: dict[str, Any]
    theta: Any
    horizon: tuple[int, int] | None
    provenance: dict[str, Any]
    config: Any = None


class Class(NamedTuple):
    """An optimizer as its own codebase constructs it.

    Attributes:
      architecture: ours.
      table: what can be set, with the defaults of that codebase.
      options: resolved settings -> options of ours, of those settings that are not options as they are.
      theta: settings that are part of our theta, and their paths.
    """

    architecture: str
    table: Table
    options: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda settings: {}
    theta: Mapping[str, str] = {}


class File(NamedTuple):
    """A file of a source, read."""

    path: Path
    content: bytes

    @property
    def name(self) -> str:
        """The path as the user wrote it, for the error messages."""
        return str(self.path)

    def text(self) -> str:
        """The content as UTF-8 text; ImportProblem if it is none."""
        try:
            return self.content.decode()
        except UnicodeDecodeError as error:
            raise ImportProblem(f"{self.name} is damaged, or not a text: {error}") from error


def read_file(path: Path) -> File:
    """Raises ImportProblem if it cannot be read."""
    try:
        return File(path, read_bytes(path))
    except FileError as error:
        raise ImportProblem(str(error)) from error


# Option -> the path of an array and the axis that is as long as the option says; or the path of numbered
# arrays, of which there is one more than the option says.
Sizes = dict[str, tuple[str, int | None]]
_LSTM: Sizes = {"lstm_hidden": ("lstm_init_state.hidden", 1)}
_CELO: Sizes = {**_LSTM, "hidden": ("ff_mod_stack.~.b0", 1)}
_MLP: Sizes = {"hidden": ("nn.~.b0", 0)}
_ADAFAC: Sizes = {**_MLP, "num_hidden": ("nn.~.b{}", None)}
_SIZES: dict[str, Sizes] = {
    "celo": _CELO,
    "celo_adam": _LSTM,
    "velo": {**_CELO, "bank": ("ff_mod_stack.~.b0", 0)},
    "celo2": {"hidden": ("ff_mod_stack.~.b0", 0)},
    "nn_adam": _LSTM,
    "per_param_mlp": {"hidden": ("mlp/~/linear_0.b", 0), "num_hidden": ("mlp/~/linear_{}.b", None)},
    "adafac_mlp": _ADAFAC,
    "mlp_nominal": _ADAFAC,
    "mulo": _MLP,
    "elo": _MLP,
    "rnn_mlp": {
        **_LSTM,
        "hidden": ("ffmod_params.mlp/~/linear_0.b", 0),
        "num_hidden": ("ffmod_params.mlp/~/linear_{}.b", None),
        "from_mlp": ("initial_from_mlp", 0),
        "from_lstm": ("initial_from_lstm", 0),
        "lstm_to_ff": ("rnn_to_ff_params.rnn_to_ff.b", 0),
    },
}


def imported(
    name: str,
    kind: Class,
    given: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    files: Sequence[File],
    where: str,
    provenance: Mapping[str, Any],
    horizon: tuple[int, int] | None = None,
    config: Any = None,
) -> Foreign:
    """A learned optimizer from the settings and the arrays of a source.

    Args:
      name: the class or optimizer there.
      kind: what it is.
      given: the settings that the source or the user gives.
      arrays: meta-parameters by our path, without those that are settings.
      files: that were read; the first is that of the arrays.
      where: the name of what gives the settings, for the error messages.
      provenance: what is recorded of the source in addition to its files and settings.
      horizon, config: see `Foreign`.

    Raises:
      SettingProblem: a setting is missing, unknown or not supported.
      ArtefactError: a size that is not that of the weights; a number that is not finite; the first path that
        differs from the architecture's.
    """
    used, weights = resolve(name, kind.table, given, where), files[0].name
    arrays = dict(arrays) | {path: np.asarray(used[key], np.float32) for key, path in kind.theta.items()}
    options = to_options(kind.table, used) | kind.options(used)
    try:
        make_optimizer(kind.architecture, options)
    except ValueError as error:
        raise SettingProblem(f"{where}: {error}") from error
    for option, (path, found) in sizes(kind.architecture, arrays, weights).items():
        if options.setdefault(option, found) != found:
            key = next(
                (k for k, entry in kind.table.items() if getattr(entry, "option", "") == option), option
            )
            raise ImportProblem(
                f"{where}: {name} has {key} = {options[option]!r}, but {weights} has {found} at {path}"
            )
    for path, array in arrays.items():
        if not np.isfinite(array).all():
            raise ImportProblem(f"{weights}: at {path} is a number that is not finite in float32")
    theta = fit_theta(make_optimizer(kind.architecture, options), arrays, weights)
    digests = {
        f"{file.path.absolute().parent.name}/{file.path.name}": hashlib.sha256(file.content).hexdigest()
        for file in files
    }
    said = _printable({**provenance, "files_sha256": digests, "settings": used})
    return Foreign(kind.architecture, options, theta, horizon, said, config)


def sizes(architecture: str, arrays: Mapping[str, np.ndarray], where: str) -> dict[str, tuple[str, int]]:
    """Options of an architecture that the shapes of its theta tell: option -> (path, value).

    Raises:
      ImportProblem: an array is not there.
    """
    found = {}
    for option, (path, axis) in _SIZES.get(architecture, {}).items():
        if axis is None:
            found[option] = path, count(arrays, path) - 1
            continue
        array = arrays.get(path)
        if array is None or array.ndim <= axis:
            what = "nothing" if array is None else f"an array of the shape {list(array.shape)}"
            raise ImportProblem(f"{where} is no {architecture}: at {path} is {what}")
        found[option] = path, array.shape[axis]
    return found


def count(arrays: Mapping[str, Any], path: str) -> int:
    """How many of the paths with 0, 1, 2, ... in place of {} there are."""
    n = 0
    while path.format(n) in arrays:
        n += 1
    return n


def as_float32(array: np.ndarray) -> np.ndarray:
    """What is beyond float32 becomes infinite, and is refused later."""
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def _printable(value: Any) -> Any:
    """Texts in one line without control characters, all the way down."""
    if isinstance(value, Mapping):
        return {one_line(str(key)): _printable(inner) for key, inner in value.items()}
    return one_line(value) if isinstance(value, str) else value
