"""Checkpoints of google/learned_optimization: `params` (flax msgpack) with its `config.gin`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from learned_opt.importers import gin_text
from learned_opt.importers.flax_msgpack import flatten
from learned_opt.importers.foreign import Class, File, Foreign, imported, read_file
from learned_opt.importers.settings import Arg, ImportProblem, Only, SettingProblem, Unused, choose

TOP = {"params", "gen_id", "step"}
DECAYS, RMS_DECAYS = (0.9, 0.99, 0.999), (0.999,)

MULTS = {name: Arg(name, 0.001) for name in ("step_mult", "exp_mult")}
ADAFAC_DECAYS = {
    "initial_momentum_decays": Arg("momentum_decays", DECAYS),
    "initial_rms_decays": Arg("rms_decays", RMS_DECAYS),
    "initial_adafactor_decays": Arg("factored_decays", DECAYS),
}
RNN_MLP = {
    "step_multiplier": Arg("step_mult", 0.001),
    "magnitude_rate": Arg("exp_mult", 0.001),
    "decays": Arg("decays", (0.5, 0.9, 0.99, 0.999, 0.9999)),
}


def _same(**defaults: Any) -> dict[str, Arg]:
    """Settings that have the same name here."""
    return {name: Arg(name, default) for name, default in defaults.items()}


def _unused(names: str) -> dict[str, Unused]:
    return {name: Unused() for name in names.split()}


def _hidden(size: int) -> dict[str, Arg]:
    return {"hidden_size": Arg("hidden", size), "hidden_layers": Arg("num_hidden", 2)}


_ADAFAC = {
    **MULTS,
    **_hidden(4),
    **ADAFAC_DECAYS,
    **_unused("concat_weights make_separate_weights split_weights"),  # ways to compute the same
}
_HYPER_FEATURES = (
    "with_g with_m with_m_feat with_rms with_rms_feat with_rms_norm_g with_rsqrt_rms with_p with_fac_norm_g "
    "with_fac_rms with_fac_rsqrt with_grad_clip_feat with_fac_mom_mult with_rms_only_norm_g "
    "adafactor_accumulator param_scale_mult mix_layers"
).split()

# The classes there; the defaults are the classes' own.
CLASSES = {
    "LearnableSGD": Class("learnable_sgd", _unused("initial_lr")),
    "LearnableSGDM": Class("learnable_sgdm", _unused("initial_lr initial_momentum")),
    "LearnableAdam": Class(
        "learnable_adam", _unused("initial_lr initial_beta1 initial_beta2 initial_epsilon use_summary")
    ),
    "MLPLOpt": Class("per_param_mlp", {**MULTS, **_hidden(32), **_unused("compute_summary")}),
    "AdafacMLPLOpt": Class("adafac_mlp", _ADAFAC),
    "MLPNomLOpt": Class(
        "mlp_nominal",
        {
            **_ADAFAC,
            "exp_mult": Arg("exp_mult", (0.001, 0.001, 0.001)),
            "nominal_stepsize": Arg("nominal_step", 0.0),
            "nominal_grad_estimator": Arg("nominal_estimator", "AdamAggMo"),
            "aggregate_nom_magnitude": Arg("aggregate_nominal_magnitude", False),
            **_same(
                weight_decay=0.0,
                nominal_controller=False,
                regularization_controller=False,
                normalize_blackbox=False,
                selfnormalize_blackbox=False,
                aggregate_magnitude=False,
                aggregate_reg_magnitude=False,
            ),
        },
    ),
    "NNAdam": Class(
        "nn_adam",
        {
            **_same(output_scale=0.01, decay_strength=0.0),
            "lstm_hidden_size": Arg("lstm_hidden", 32),
            **_unused("initial_learning_rate initial_beta1 initial_beta2 initial_epsilon"),
        },
    ),
    "RNNMLPLOpt": Class(
        "rnn_mlp",
        {
            **RNN_MLP,
            "hidden_size": Arg("hidden", 32),
            "hidden_layer": Arg("num_hidden", 2),
            "from_mlp_size": Arg("from_mlp", 16),
            "from_lstm_size": Arg("from_lstm", 18),
            "lstm_to_ff": Arg("lstm_to_ff", 17),
            "lstm_hidden_size": Arg("lstm_hidden", 64),
        },
    ),
    "HyperV2": Class(
        "velo",
        {
            **MULTS,
            "lstm_hidden_size": Arg("lstm_hidden", 128),
            "param_inits": Arg("bank", 64),
            "ff_hidden_size": Arg("hidden", 4),
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
            **_unused("reparam_decay summarize_each_layer summarize_all_control"),
        },
        lambda _: {"bank_mult": 100.0},  # by which HyperV2 itself multiplies the mixture of its bank
    ),
}


def is_checkpoint(tree: Any) -> bool:
    """Whether a decoded msgpack file is one of these checkpoints."""
    return isinstance(tree, dict) and tree.keys() >= TOP


def read_checkpoint(file: File, tree: Mapping[str, Any], settings: Mapping[str, Any]) -> Foreign:
    """A checkpoint and its gin config as a learned optimizer.

    Args:
      file: `params` or `params_<outer step>`.
      tree: what it holds.
      settings: `config`, the gin file, if not the `config.gin` next to it; `optimizer`, a key of CLASSES, if
        there is no gin file. The other settings are arguments of the class that the gin file does not bind.

    Raises:
      SettingProblem: something is missing, unknown or not supported.
      ArtefactError: a file is damaged; theta does not fit.
    """
    settings = dict(settings)
    adjacent = file.path.parent / "config.gin"
    config = settings.pop("config", adjacent if adjacent.exists() else None)
    if config is None:
        name = choose("optimizer", settings, list(CLASSES), f"{file.name} (no config.gin next to it)")
        files, where, given, bindings = [file], file.name, {}, None
    else:
        files = [file, read_file(Path(str(config)))]
        where = files[1].name
        bindings = gin_text.parse(files[1].text(), where)
        name, given = _class_of(bindings, where)
        if settings.get("optimizer", name) != name:
            raise SettingProblem(f"{where}: the optimizer is {name}, not {settings['optimizer']!r}")
    settings.pop("optimizer", None)
    for key in settings.keys() & given.keys():
        raise SettingProblem(f"{where}: {name}.{key} is {given[key]!r} already")
    provenance = {
        "format": "google/learned_optimization checkpoint",
        "class": name,
        "gen_id": _plain(tree["gen_id"], file.name),
        "outer_step": _plain(tree["step"], file.name),
    }
    arrays = flatten(tree["params"], file.name)
    horizon, config = (None, None) if bindings is None else (_horizon(bindings), {"gin": files[1].text()})
    return imported(name, CLASSES[name], given | settings, arrays, files, where, provenance, horizon, config)


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


def _plain(value: Any, where: str) -> Any:
    """A text or a number of the checkpoint."""
    value = value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
    if value is not None and not isinstance(value, (str, int, float)):
        raise ImportProblem(f"{where} is damaged: its gen_id or step is neither text nor number")
    return value
