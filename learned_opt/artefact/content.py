"""What `config.json` of an artefact holds; it may be damaged, foreign or forged, and is then refused."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from learned_opt.artefact.reading import FileError, one_line, read_bytes, read_json

FORMAT = "learned-opt artefact"
VERSION = 1
WEIGHTS, CONFIG = "theta.safetensors", "config.json"


class ArtefactError(FileError):
    """A directory is not an artefact, or is damaged, or does not fit the architecture it names. One line."""


# The fields of config.json, and whether a value is one; `theta` is compared with the weights.
_FIELDS: dict[str, Callable[[Any], bool]] = {
    "architecture": lambda x: isinstance(x, str),
    "options": lambda x: isinstance(x, dict),
    "horizon": lambda x: x is None or _are_lengths(x if isinstance(x, list) else [x, x]),
    "theta": lambda x: isinstance(x, dict),
    "theta_sha256": lambda x: isinstance(x, str),
    "provenance": lambda x: isinstance(x, dict),
    "config": lambda x: True,
    "evaluation": lambda x: True,
    "parameters": lambda x: x is None or (type(x) is int and x >= 1),
}


def _are_lengths(x: list) -> bool:
    return len(x) == 2 and all(type(n) is int and n >= 1 for n in x)


def read_config(path: Path) -> dict[str, Any]:
    """The content of config.json, of which every field has its type (FileError)."""
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ArtefactError(f"{path} is not of an artefact: its 'format' should be {FORMAT!r}")
    version = content.get("format_version")
    if isinstance(version, int) and version > VERSION:
        raise ArtefactError(
            f"{path} has format version {version}, this learned_opt reads up to {VERSION}: update it"
        )
    unsigned = {key: value for key, value in content.items() if key != "sha256"}
    try:
        intact = content.get("sha256") == sha256(encode(unsigned)) and read_bytes(path) == encode(content)
    except ValueError:  # NaN and infinity, which are not JSON
        intact = False
    if not intact:
        raise ArtefactError(
            f"{path} is damaged or was edited: its content does not have the sha256 that it records"
        )
    content = dict.fromkeys(_FIELDS) | content
    for field, fits in _FIELDS.items():
        if not fits(content[field]):
            value = one_line(json.dumps(content[field]), 60)
            raise ArtefactError(f"{path}: {field} is not what it is in an artefact: {value}")
    return content


def jsonable(x: Any) -> Any:
    """A value as JSON has it: lists, text keys, and None for what is not finite."""
    if isinstance(x, Mapping):
        return {str(key): jsonable(value) for key, value in x.items()}
    if isinstance(x, (list, tuple)):
        return [jsonable(value) for value in x]
    if isinstance(x, (np.ndarray, np.generic, jax.Array)):
        return jsonable(np.asarray(x).tolist())
    if isinstance(x, float) and not math.isfinite(x):
        return None
    return x


def encode(content: Mapping[str, Any]) -> bytes:
    """The bytes of config.json, of which the digest is taken."""
    return (json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def sha256(content: bytes) -> str:
    """The digest, hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def is_artefact(config: Path) -> bool:
    """Whether config.json says that it is of an artefact, damaged as it may be."""
    try:
        content = read_json(config)
    except FileError:
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


def refuse_non_finite(arrays: Mapping[str, np.ndarray], where: str) -> None:
    """Names the first array that is not finite (ArtefactError)."""
    for path, array in arrays.items():
        if not np.isfinite(array).all():
            raise ArtefactError(f"{where} is not finite at {path}")


def refuse_sizes(options: Mapping[str, Any], arrays: Mapping[str, np.ndarray], where: str) -> None:
    """Refuses widths and depths that the weights do not have, before a network of them is traced."""
    widest = max(1000, sum(array.size for array in arrays.values()))
    deepest = max(100, len(arrays))
    for name, value in options.items():
        most = deepest if name.startswith("num_") else widest
        if name != "fused_from" and isinstance(value, int) and value > most:
            raise ArtefactError(f"{where}: option {name} is {value}, the weights allow at most {most}")
