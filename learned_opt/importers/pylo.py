"""State dicts of PyLO: `config.json` and `model.safetensors` of a hub repository, or a `.pt` file."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from learned_opt.artefact.reading import FileError, parse_json
from learned_opt.importers.foreign import File, Foreign, count, imported, read_file
from learned_opt.importers.pylo_settings import OPTIMIZERS
from learned_opt.importers.settings import ImportProblem, SettingProblem, choose
from learned_opt.importers.tensors import state_dict

Arrays = dict[str, np.ndarray]
# Inputs of VeLO's and Celo2's networks, feature by feature.
GROUPS = (1, 1, 1, 3, 1, 3, 1, 3, 1, 3, 3, 3, 3, 3)


class Network(NamedTuple):
    """A network class of PyLO.

    Attributes:
      mark: a name that its state dict, and no other's, has.
      optimizers: those of OPTIMIZERS that use it.
      theta: state dict -> arrays by our path, which may lack what the optimizer adds.
      geometry: state dict -> what `config.json` must agree with.
    """

    mark: str
    optimizers: list[str]
    theta: Callable[[Arrays, str], Arrays]
    geometry: Callable[[Arrays], dict[str, Any]]


def _meta_mlp(state: Arrays, where: str) -> Arrays:
    """`network.input`, `network.linear_0`, ..., `network.output`: the layers of AdafacMLP, in this order."""
    inner = count(state, "network.linear_{}.weight")
    layers = ["input", *(f"linear_{i}" for i in range(inner)), "output"]
    theta = {}
    for i, layer in enumerate(layers):
        theta[f"nn.~.w{i}"] = _get(state, f"network.{layer}.weight", 2, where).T
        theta[f"nn.~.b{i}"] = _get(state, f"network.{layer}.bias", 1, where)
    return theta


def _velo_mlp(state: Arrays, where: str) -> Arrays:
    """The bank of MLPs. Names without the trailing underscore are scratch space."""
    prefix = "ff_mod_stack.~"
    w0 = _get(state, "input_weights_", 3, where)
    if w0.shape[2] != sum(GROUPS):
        raise ImportProblem(f"{where}: input_weights_ has the shape {list(w0.shape)}, not [bank, hidden, 30]")
    theta = {f"{prefix}.w0__{i}": w for i, w in enumerate(_cut(np.swapaxes(w0, 1, 2), axis=1))}
    theta[f"{prefix}.b0"] = _get(state, "input_bias_", 2, where)
    inner = count(state, "hidden_weights_.{}")
    for i in range(inner):
        theta[f"{prefix}.w{i + 1}"] = np.swapaxes(_get(state, f"hidden_weights_.{i}", 3, where), -1, -2)
        theta[f"{prefix}.b{i + 1}"] = _get(state, f"hidden_bias_.{i}", 2, where)
    theta[f"{prefix}.w{inner + 1}"] = np.swapaxes(_get(state, "output_weights_", 3, where), -1, -2)
    theta[f"{prefix}.b{inner + 1}"] = _get(state, "output_bias_", 2, where)
    return theta


_RNN_LAYERS = {
    "mix_layer1": "linear",
    "mix_layer2": "linear_1",
    "final_mix_layer": "linear_2",
    "lstm.linear": "rnn/linear",
    "rnn_to_controls": "rnn_to_controls",
    "step_size": "step_size",
}


def _velo_rnn(state: Arrays, where: str) -> Arrays:
    theta = {}
    for theirs, ours in _RNN_LAYERS.items():
        theta[f"rnn_params.{ours}.w"] = _get(state, f"{theirs}.weight", 2, where).T
        theta[f"rnn_params.{ours}.b"] = _get(state, f"{theirs}.bias", 1, where)
    for i, part in enumerate(("hidden", "cell")):
        theta[f"lstm_init_state.{part}"] = _get(state, f"lstm_init_state.{i}", 2, where)
    return theta


def _celo2_mlp(state: Arrays, where: str) -> Arrays:
    """Weights are [inputs, outputs] here, as ours."""
    prefix = "ff_mod_stack.~"
    theta = {f"{prefix}.w0__{i}": _get(state, f"w0.{i}", 2, where) for i in range(len(GROUPS))}
    theta[f"{prefix}.b0"] = _get(state, "b0", 1, where)
    for i in range(count(state, "dense_w.{}")):
        theta[f"{prefix}.w{i + 1}"] = _get(state, f"dense_w.{i}", 2, where)
        theta[f"{prefix}.b{i + 1}"] = _get(state, f"dense_b.{i}", 1, where)
    return theta


NETWORKS = {
    "MetaMLP": Network(
        "network.input.weight",
        ["AdafacLO", "MuLO", "ELO"],
        _meta_mlp,
        lambda x: {
            "hidden_size": x["network.input.weight"].shape[0],
            "hidden_layers": count(x, "network.linear_{}.weight"),
            "input_size": x["network.input.weight"].shape[-1],
        },
    ),
    "VeLOMLP": Network(
        "input_weights_",
        ["VeLO"],
        _velo_mlp,
        lambda x: {
            "param_inits": x["input_weights_"].shape[0],
            "hidden_size": x["input_weights_"].shape[1],
            "hidden_layers": count(x, "hidden_weights_.{}"),
            "input_size": x["input_weights_"].shape[-1],
        },
    ),
    "VeLORNN": Network(
        "lstm.linear.weight",
        ["VeLO"],
        _velo_rnn,
        lambda x: {
            "lstm_hidden_size": x["lstm.linear.weight"].shape[0] // 4,
            "mix_layers": "mix_layer2.weight" in x,
        },
    ),
    "CELO2MLP": Network(
        "dense_w.0",
        ["CELO2", "ELO_CELO2"],
        _celo2_mlp,
        lambda x: {
            "hidden_size": x["dense_w.0"].shape[0],
            "hidden_layers": count(x, "dense_w.{}"),
            "feature_dims": list(GROUPS),
            "activation": "relu",
        },
    ),
}


def read_network(file: File, settings: Mapping[str, Any]) -> Foreign:
    """A network of PyLO, and what the user says of the optimizer that used it, as a learned optimizer.

    Args:
      file: `model.safetensors` or a `.pt` file; the `config.json` next to it is checked.
      settings: `optimizer`, a key of OPTIMIZERS, as the files hold the network alone; and arguments of that
        class's constructor. VeLO is two networks: `rnn` or `mlp` is where the other one lies.

    Raises:
      SettingProblem: something is missing, unknown or not supported.
      ArtefactError: a file is damaged; the weights do not fit.
    """
    settings, files = dict(settings), [file]
    kind, theta = _network(file)
    if kind in ("VeLOMLP", "VeLORNN"):
        other, key = ("VeLORNN", "rnn") if kind == "VeLOMLP" else ("VeLOMLP", "mlp")
        if key not in settings:
            raise SettingProblem(f"{file.name} is {kind}, a half of VeLO: pass {key}=..., where {other} lies")
        files.append(read_file(_inside(Path(str(settings.pop(key))))))
        found, half = _network(files[-1])
        if found != other:
            raise SettingProblem(f"{files[-1].name} is {found}, not {other}")
        theta |= half
        settings.setdefault("optimizer", "VeLO")
    name = choose("optimizer", settings, NETWORKS[kind].optimizers, file.name)
    del settings["optimizer"]
    provenance = {"format": f"PyLO {name}"}
    return imported(name, OPTIMIZERS[name], settings, theta, files, file.name, provenance)


def _network(file: File) -> tuple[str, Arrays]:
    """Which network a file holds, and its arrays by our path."""
    state = state_dict(file)
    kind = next((kind for kind, network in NETWORKS.items() if network.mark in state), None)
    if kind is None:
        raise ImportProblem(f"{file.name} holds none of PyLO's networks ({', '.join(NETWORKS)})")
    theta = NETWORKS[kind].theta(state, file.name)
    _check_config(file, kind, NETWORKS[kind].geometry(state))
    return kind, theta


def _check_config(file: File, kind: str, geometry: Mapping[str, Any]) -> None:
    config = file.path.parent / "config.json"
    if file.path.suffix != ".safetensors" or not config.exists():
        return
    try:
        said = parse_json(read_file(config).content, config)
    except FileError as error:
        raise ImportProblem(str(error)) from error
    if not isinstance(said, dict):
        raise ImportProblem(f"{config} is not of a network: it holds no mapping")
    for key, value in geometry.items():
        if said.get(key, value) != value:
            raise ImportProblem(
                f"{config} says {key} = {said[key]!r}, but {file.name} ({kind}) has {value!r}"
            )


def _inside(path: Path) -> Path:
    return path / "model.safetensors" if path.is_dir() else path


def _get(state: Arrays, name: str, axes: int, where: str) -> np.ndarray:
    if name not in state:
        known = ", ".join(sorted(key for key in state if not re.search(r"\d", key))[:6])
        raise ImportProblem(f"{where} lacks {name}; it has {known}, ...")
    if state[name].ndim != axes:
        raise ImportProblem(f"{where}: {name} has the shape {list(state[name].shape)}, not {axes} axes")
    return state[name]


def _cut(x: np.ndarray, axis: int) -> list[np.ndarray]:
    return np.split(x, np.cumsum(GROUPS)[:-1], axis)
