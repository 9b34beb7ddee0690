"""What the settings of a foreign optimizer mean here: a table for each class, and a reader of such tables."""

import difflib
from collections.abc import Mapping
from typing import Any, NamedTuple

from learned_opt.architectures.options import violated
from learned_opt.artefact.format import ArtefactError


class ImportProblem(ArtefactError):
    """A foreign file cannot be read, or holds what is not supported here."""


class SettingProblem(ImportProblem):
    """A setting is missing, unknown or not supported; the message names it."""


class Arg(NamedTuple):
    """A setting that is an option of ours.

    Attributes:
      option: the option's name; "" if the table's reader handles the setting itself.
      default: the class default, which holds where the source does not set it.
      ask: the default is not to be trusted (it belongs to other weights, or it is the user's choice):
        the setting must be given.
    """

    option: str
    default: Any
    ask: bool = False


class Only(NamedTuple):
    """A setting of which one value is supported, its class default; `instead` says what to do otherwise."""

    value: Any
    instead: str = ""


class Unused(NamedTuple):
    """A setting that has no effect on updates."""


Table = Mapping[str, Arg | Only | Unused]


def resolve(name: str, table: Table, given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """All settings of a class that have an effect: those given, and the class defaults.

    Args:
      name: the foreign class, for the error messages.
      table: its settings.
      given: what the source or the user sets.
      where: the source's name, for the error messages.

    Returns:
      The settings that are `Arg`, under their foreign names; lists became tuples.

    Raises:
      SettingProblem: a setting is unknown, has an unsupported value, or is missing.
    """
    given = {key: _tuples(value) for key, value in given.items()}
    for key, value in given.items():
        if key not in table:
            close = difflib.get_close_matches(key, table, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise SettingProblem(
                f"{where}: {name} with {key} = {value!r} is not supported; {hint}"
                f"known settings: {', '.join(table)}"
            )
        entry = table[key]
        if isinstance(entry, Only) and value != entry.value:
            instead = f"; {entry.instead}" if entry.instead else ""
            raise SettingProblem(
                f"{where}: {name} with {key} = {value!r} is not supported, only {entry.value!r}{instead}"
            )
    args = {key: entry for key, entry in table.items() if isinstance(entry, Arg)}
    missing = [key for key, entry in args.items() if entry.ask and key not in given]
    if missing:
        likely = ", ".join(f"{key}={_show(args[key].default)}" for key in missing)
        raise SettingProblem(
            f"{where} does not say {' or '.join(missing)}: pass {', '.join(f'{key}=...' for key in missing)} "
            f"as the optimizer was used ({name}'s defaults, which may not be right: {likely})"
        )
    for key in args.keys() & given.keys():
        default = args[key].default
        words = violated(tuple[float, ...] if isinstance(default, tuple) else type(default), given[key])
        if words:
            raise SettingProblem(f"{where}: {name} with {key} = {given[key]!r}: must be {words}")
    return {key: given.get(key, entry.default) for key, entry in args.items()}


def to_options(table: Table, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The options of ours that resolved settings amount to."""
    options = {}
    for key, value in settings.items():
        entry = table[key]
        if isinstance(entry, Arg) and entry.option:
            options[entry.option] = value
    return options


def choose(what: str, given: Mapping[str, Any], allowed: Mapping[str, Any] | list[str], where: str) -> str:
    """The setting `what`, which must be given and be one of `allowed`.

    Raises:
      SettingProblem: it is missing or another.
    """
    if what not in given:
        raise SettingProblem(f"{where} does not say {what}: pass {what}=..., one of {', '.join(allowed)}")
    if given[what] not in allowed:
        raise SettingProblem(f"{where}: {what} is {given[what]!r}, must be one of {', '.join(allowed)}")
    return given[what]


def _tuples(value: Any) -> Any:
    return tuple(_tuples(x) for x in value) if isinstance(value, (list, tuple)) else value


def _show(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{','.join(_show(x) for x in value)}]"
    return str(value).lower() if isinstance(value, bool) else str(value)
