"""Files `theta.state` of amoudgl/celo: bare meta-parameters in flax's msgpack."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from learned_opt.importers.flax_msgpack import flatten
from learned_opt.importers.foreign import File, Foreign, count, digests, size, theta_of
from learned_opt.importers.settings import Arg, Table, choose, resolve, to_options

_MULTS = {"step_mult": Arg("step_mult", 0.001), "exp_mult": Arg("exp_mult", 0.001)}
_ADAFAC = {
    **_MULTS,
    "initial_momentum_decays": Arg("momentum_decays", (0.9, 0.99, 0.999)),
    "initial_rms_decays": Arg("rms_decays", (0.999,)),
    "initial_adafactor_decays": Arg("factored_decays", (0.9, 0.99, 0.999)),
}
_RNN_MLP = {
    "step_multiplier": Arg("step_mult", 0.001),
    "magnitude_rate": Arg("exp_mult", 0.001),
    "decays": Arg("decays", (0.5, 0.9, 0.99, 0.999, 0.9999)),
}
_NN_ADAM = {"output_scale": Arg("output_scale", 0.01)}
# The rate and the decay are applied outside of `scale_by_celo2`: they are the user's.
_CELO2 = {"learning_rate": Arg("learning_rate", 0.001, ask=True), "weight_decay": Arg("weight_decay", 0.0)}


class Variant(NamedTuple):
    """An optimizer that celo's own factory builds by name.

    Attributes:
      architecture: ours.
      options: what the name stands for.
      table: what else can be set, with the class defaults.
    """

    architecture: str
    options: dict[str, Any]
    table: Table


VARIANTS = {
    "celo": Variant("celo", {"phase": 2}, _MULTS),
    "celo_phase1": Variant("celo", {"phase": 1}, _MULTS),
    "velo_4000": Variant("velo", {"bank_mult": 100.0}, _MULTS),
    "velo_s": Variant("velo", {"bank_mult": 1.0}, _MULTS),
    "velo": Variant("velo", {"bank_mult": 1.0}, _MULTS),
    "rnn_mlp": Variant("rnn_mlp", {}, _RNN_MLP),
    "adafac_mlp": Variant("adafac_mlp", {}, _ADAFAC),
    "nnadam": Variant("nn_adam", {}, _NN_ADAM),
    "celo2": Variant("celo2", {"orthogonalise": True}, _CELO2),
    "celo2_base": Variant("celo2", {"orthogonalise": False}, _CELO2),
}


def read_theta(file: File, tree: Any, settings: Mapping[str, Any]) -> Foreign:
    """Meta-parameters and what the user says of them as a learned optimizer.

    Args:
      file: `theta.state`.
      tree: what it holds.
      settings: `optimizer`, a key of VARIANTS (the file does not say: Celo's two phases, for one, have the
        same tree); further settings have the class defaults, except Celo2's `learning_rate`.

    Raises:
      SettingProblem: something is missing, unknown or not supported.
      ArtefactError: theta does not fit.
    """
    settings = dict(settings)
    arrays = flatten(tree, file.name)
    name = choose("optimizer", settings, _candidates(arrays), file.name)
    del settings["optimizer"]
    architecture, options, table = VARIANTS[name]
    used = resolve(name, table, settings, file.name)
    options = options | sizes(architecture, arrays, file.name) | to_options(table, used)
    theta = theta_of(architecture, options, arrays, file.name)
    provenance = {
        "format": "celo theta.state",
        "files_sha256": digests(file),
        "optimizer": name,
        "settings": used,
    }
    return Foreign(architecture, options, theta, None, provenance)


def _candidates(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """The variants whose trees begin like this one: for the question which it is; all, if none does."""
    first = next(iter(sorted(arrays)), "")
    bank = arrays.get("ff_mod_stack.~.b0", np.zeros(0)).ndim == 2
    inputs = arrays.get("rnn_params.linear.w", np.zeros([0, 0])).shape[:1]
    likely = {
        "celo2": first.startswith("ff_mod_stack") and not bank,
        "celo": bank and inputs == (18,),
        "velo": bank and inputs == (30,),
        "rnn_mlp": first.startswith("ffmod_params"),
        "nn_adam": "per_layer_lr" in arrays,
        "adafac_mlp": "momentum_decays" in arrays,
    }
    return [name for name, variant in VARIANTS.items() if likely[variant.architecture]] or list(VARIANTS)


def sizes(architecture: str, arrays: Mapping[str, np.ndarray], where: str) -> dict[str, int]:
    """The options of an architecture that the shapes of its theta tell."""

    def length(path: str, axis: int) -> int:
        return size(arrays, path, axis, where, architecture)

    match architecture:
        case "celo":
            return {
                "lstm_hidden": length("lstm_init_state.hidden", 1),
                "hidden": length("ff_mod_stack.~.b0", 1),
            }
        case "velo":
            bank = {"bank": length("ff_mod_stack.~.b0", 0)}
            return bank | sizes("celo", arrays, where)
        case "celo2":
            return {"hidden": length("ff_mod_stack.~.b0", 0)}
        case "nn_adam":
            return {"lstm_hidden": length("lstm_init_state.hidden", 1)}
        case "adafac_mlp":
            return {"hidden": length("nn.~.b0", 0), "num_hidden": count(arrays, "nn.~.b") - 1}
        case _:  # rnn_mlp
            return {
                "hidden": length("ffmod_params.mlp/~/linear_0.b", 0),
                "num_hidden": count(arrays, "ffmod_params.mlp/~/linear_", ".b") - 1,
                "lstm_hidden": length("lstm_init_state.hidden", 1),
                "from_mlp": length("initial_from_mlp", 0),
                "from_lstm": length("initial_from_lstm", 0),
                "lstm_to_ff": length("rnn_to_ff_params.rnn_to_ff.b", 0),
            }
