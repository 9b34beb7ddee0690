"""Checkpoints of google/learned_optimization: `params` (flax msgpack) with its `config.gin`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from learned_opt.importers import gin_text
from learned_opt.importers.flax_msgpack import flatten
from learned_opt.importers.foreign import File, Foreign, digests, read_file, theta_of
from learned_opt.importers.settings import (
    Arg,
    ImportProblem,
    Only,
    SettingProblem,
    Table,
    Unused,
    choose,
    resolve,
    to_options,
)

TOP = {"params", "gen_id", "step"}
DECAYS, RMS_DECAYS = (0.9, 0.99, 0.999), (0.999,)


class Class(NamedTuple):
    """A class there: our architecture, and what its arguments mean; the defaults are the class's own."""

    architecture: str
    table: Table


_ADAFAC = {
    "step_mult": Arg("step_mult", 0.001),
    "hidden_size": Arg("hidden", 4),
    "hidden_layers": Arg("num_hidden", 2),
    "initial_momentum_decays": Arg("momentum_decays", DECAYS),
    "initial_rms_decays": Arg("rms_decays", RMS_DECAYS),
    "initial_adafactor_decays": Arg("factored_decays", DECAYS),
    # Ways to compute the same.
    "concat_weights": Unused(),
    "make_separate_weights": Unused(),
    "split_weights": Unused(),
}
_HYPER_FEATURES = (
    "with_g with_m with_m_feat with_rms with_rms_feat with_rms_norm_g with_rsqrt_rms with_p with_fac_norm_g "
    "with_fac_rms with_fac_rsqrt with_grad_clip_feat with_fac_mom_mult with_rms_only_norm_g "
    "adafactor_accumulator param_scale_mult mix_layers"
).split()

CLASSES = {
    "LearnableSGD": Class("learnable_sgd", {"initial_lr": Unused()}),
    "LearnableSGDM": Class("learnable_sgdm", {"initial_lr": Unused(), "initial_momentum": Unused()}),
    "LearnableAdam": Class(
        "learnable_adam",
        {f"initial_{name}": Unused() for name in ("lr", "beta1", "beta2", "epsilon")}
        | {"use_summary": Unused()},
    ),
    "MLPLOpt": Class(
        "per_param_mlp",
        {
            "exp_mult": Arg("exp_mult", 0.001),
            "step_mult": Arg("step_mult", 0.001),
            "hidden_size": Arg("hidden", 32),
            "hidden_layers": Arg("num_hidden", 2),
            "compute_summary": Unused(),
        },
    ),
    "AdafacMLPLOpt": Class("adafac_mlp", {"exp_mult": Arg("exp_mult", 0.001), **_ADAFAC}),
    "MLPNomLOpt": Class(
        "mlp_nominal",
        {
            "exp_mult": Arg("exp_mult", (0.001, 0.001, 0.001)),
            **_ADAFAC,
            "nominal_stepsize": Arg("nominal_step", 0.0),
            "weight_decay": Arg("weight_decay", 0.0),
            "nominal_grad_estimator": Arg("nominal_estimator", "AdamAggMo"),
            "nominal_controller": Arg("nominal_controller", False),
            "regularization_controller": Arg("regularization_controller", False),
            "normalize_blackbox": Arg("normalize_blackbox", False),
            "selfnormalize_blackbox": Arg("selfnormalize_blackbox", False),
            "aggregate_magnitude": Arg("aggregate_magnitude", False),
            "aggregate_nom_magnitude": Arg("aggregate_nominal_magnitude", False),
            "aggregate_reg_magnitude": Arg("aggregate_reg_magnitude", False),
        },
    ),
    "NNAdam": Class(
        "nn_adam",
        {
            "output_scale": Arg("output_scale", 0.01),
            "decay_strength": Arg("decay_strength", 0.0),
            "lstm_hidden_size": Arg("lstm_hidden", 32),
            **{f"initial_{name}": Unused() for name in ("learning_rate", "beta1", "beta2", "epsilon")},
        },
    ),
    "RNNMLPLOpt": Class(
        "rnn_mlp",
        {
            "step_multiplier": Arg("step_mult", 0.001),
            "magnitude_rate": Arg("exp_mult", 0.001),
            "hidden_size": Arg("hidden", 32),
            "hidden_layer": Arg("num_hidden", 2),
            "from_mlp_size": Arg("from_mlp", 16),
            "from_lstm_size": Arg("from_lstm", 18),
            "lstm_to_ff": Arg("lstm_to_ff", 17),
            "lstm_hidden_size": Arg("lstm_hidden", 64),
            "decays": Arg("decays", (0.5, 0.9, 0.99, 0.999, 0.9999)),
        },
    ),
    "HyperV2": Class(
        "velo",
        {
            "lstm_hidden_size": Arg("lstm_hidden", 128),
            "param_inits": Arg("bank", 64),
            "ff_hidden_size": Arg("hidden", 4),
            "exp_mult": Arg("exp_mult", 0.001),
            "step_mult": Arg("step_mult", 0.001),
            "use_bugged_loss_features": Arg("bugged_loss_features", True),
            "ff_hidden_layers": Only(2),
            "initial_momentum_decays": Only(DECAYS),
            "initial_rms_decays": Only(RMS_DECAYS),
            "initial_adafactor_decays": Only(DECAYS),
            "use_bugged_next_lstm_state": Only(False),
            "precondition_output": Only(False),
            "validation_mode": Only(False),
            "with_validation_feature_dim": Only(False),
            "constant_loss": Only(False),
            "clip_param_scale_amount": Only(None),
            "rnn_state_decay": Only(0.0),
            **{name: Only(True) for name in _HYPER_FEATURES},
            "reparam_decay": Unused(),
            "summarize_each_layer": Unused(),
            "summarize_all_control": Unused(),
        },
    ),
}
# HyperV2 itself multiplies the mixture of its bank by this number.
FIXED_OPTIONS = {"HyperV2": {"bank_mult": 100.0}}


def is_checkpoint(tree: Any) -> bool:
    """Whether a decoded msgpack file is one of these checkpoints."""
    return isinstance(tree, dict) and tree.keys() >= TOP


def read_checkpoint(file: File, tree: Mapping[str, Any], settings: Mapping[str, Any]) -> Foreign:
    """A checkpoint and its gin config as a learned optimizer.

    Args:
      file: `params` or `params_<outer step>`.
      tree: what it holds.
      settings: `config`, the gin file, if it is not `config.gin` beside it; `optimizer`, a key of CLASSES, if
        there is no gin file. The other settings are arguments of the class that the gin file does not bind.

    Raises:
      SettingProblem: something is missing, unknown or not supported.
      ArtefactError: a file is damaged; theta does not fit.
    """
    settings = dict(settings)
    gin = _gin_file(file, settings.pop("config", None))
    if gin is None:
        name = choose("optimizer", settings, list(CLASSES), f"{file.name} (no config.gin is beside it)")
        given, bindings = {}, None
    else:
        bindings = gin_text.parse(_text(gin), gin.name)
        name, given = _class_of(bindings, gin.name)
        if settings.get("optimizer", name) != name:
            raise SettingProblem(f"{gin.name}: the optimizer is {name}, not {settings['optimizer']!r}")
    settings.pop("optimizer", None)
    for key in settings.keys() & given.keys():
        raise SettingProblem(f"{gin.name if gin else file.name}: {name}.{key} is {given[key]!r} already")
    where = file.name if gin is None else gin.name
    architecture, table = CLASSES[name]
    used = resolve(name, table, given | settings, where)
    options = to_options(table, used) | FIXED_OPTIONS.get(name, {})
    theta = theta_of(architecture, options, flatten(tree["params"], file.name), file.name)
    provenance = {
        "format": "google/learned_optimization checkpoint",
        "files_sha256": digests(file, gin),
        "class": name,
        "settings": used,
        "gen_id": _plain(tree["gen_id"]),
        "outer_step": _plain(tree["step"]),
    }
    config = None if gin is None else {"gin": _text(gin)}
    return Foreign(
        architecture, options, theta, None if bindings is None else _horizon(bindings), provenance, config
    )


def _gin_file(file: File, config: Any) -> File | None:
    if config is not None:
        return read_file(Path(config))
    beside = file.path.parent / "config.gin"
    return read_file(beside) if beside.is_file() else None


def _text(gin: File) -> str:
    try:
        return gin.content.decode()
    except UnicodeDecodeError as error:
        raise ImportProblem(f"{gin.name} is damaged, or no gin file: {error}") from error


def _class_of(bindings: gin_text.Bindings, where: str) -> tuple[str, dict[str, Any]]:
    """The class that `run_train.lopt` names, and the arguments bound for it."""
    reference = bindings.of("run_train").get("lopt")
    if not isinstance(reference, gin_text.Reference):
        raise ImportProblem(f"{where} does not bind run_train.lopt to a class: it says no architecture")
    if reference.name not in CLASSES:
        raise SettingProblem(
            f"{where}: the architecture {reference.name} is not supported, only {', '.join(CLASSES)}"
        )
    return reference.name, bindings.of(reference.name, reference.scope)


def _horizon(bindings: gin_text.Bindings) -> tuple[int, int] | None:
    """Shortest and longest inner training, of the schedule that the truncated step names."""
    for step in ("VectorizedLOptTruncatedStep", "LOptTruncatedStep"):
        reference = bindings.of(step).get("trunc_sched")
        if isinstance(reference, gin_text.Reference):
            bound = bindings.of(reference.name, reference.scope)
            low, high = (bound.get(key, bound.get("total_length")) for key in ("min_length", "max_length"))
            if isinstance(low, int) and isinstance(high, int):
                return low, high
    return None


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
