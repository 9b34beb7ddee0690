"""Files `theta.state` of amoudgl/celo: bare meta-parameters in flax's msgpack."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from learned_opt.importers.flax_msgpack import flatten
from learned_opt.importers.foreign import Class, File, Foreign, imported
from learned_opt.importers.learned_optimization import ADAFAC_DECAYS, MULTS, RNN_MLP
from learned_opt.importers.settings import Arg, choose

# The rate and the decay are applied outside of `scale_by_celo2`: they are the user's.
_CELO2 = {"learning_rate": Arg("learning_rate", 0.001, ask=True), "weight_decay": Arg("weight_decay", 0.0)}
# What matches regex_1d goes to Adam. The names of leaves are the user's, so it is asked for.
_CELO2_ADAM = {
    "regex_1d": Arg("", "/b$", ask=True),
    "mult_1d": Arg("vector_lr_mult", 20.0),
    "adam_b1": Arg("", 0.9),
    "adam_b2": Arg("", 0.95),
    "adam_epsilon": Arg("adam_eps", 1e-8),
}


def _celo2_adam(settings: Mapping[str, Any]) -> dict[str, Any]:
    paths = settings["regex_1d"] or "^$"  # an empty expression is none there
    return {
        "adam_paths": paths,
        "adam_betas": (settings["adam_b1"], settings["adam_b2"]),
        "orthogonalise": True,
    }


# The optimizers that celo's own factory builds by name; what can be set has the defaults of the classes.
_CELO2_BASE = Class("celo2", _CELO2, lambda _: {"orthogonalise": False})
VARIANTS = {
    "celo": Class("celo", MULTS, lambda _: {"phase": 2}),
    "celo_phase1": Class("celo", MULTS, lambda _: {"phase": 1}),
    "celo_adam": Class("celo_adam", {"step_mult": MULTS["step_mult"]}),
    "velo_4000": Class("velo", MULTS, lambda _: {"bank_mult": 100.0}),
    "velo_s": Class("velo", MULTS, lambda _: {"bank_mult": 1.0}),
    "velo": Class("velo", MULTS, lambda _: {"bank_mult": 1.0}),
    "rnn_mlp": Class("rnn_mlp", RNN_MLP),
    "adafac_mlp": Class("adafac_mlp", MULTS | ADAFAC_DECAYS),
    "nnadam": Class("nn_adam", {"output_scale": Arg("output_scale", 0.01)}),
    "celo2": Class("celo2", _CELO2 | _CELO2_ADAM, _celo2_adam),
    "celo2base": _CELO2_BASE,
    "celo2_base": _CELO2_BASE,  # what this importer called it once
}


def read_theta(file: File, tree: Any, settings: Mapping[str, Any]) -> Foreign:
    """Meta-parameters and what the user says of them as a learned optimizer.

    Args:
      file: `theta.state`.
      tree: what it holds.
      settings: `optimizer`, a key of VARIANTS (the file does not say: Celo's two phases, for one, have the
        same tree); further settings have the class defaults, except those of Celo2 that are asked for.

    Raises:
      SettingProblem: something is missing, unknown or not supported.
      ArtefactError: theta does not fit.
    """
    arrays = flatten(tree, file.name)
    name = choose("optimizer", settings, _candidates(arrays), file.name)
    given = {key: value for key, value in settings.items() if key != "optimizer"}
    provenance = {"format": "celo theta.state", "optimizer": name}
    return imported(name, VARIANTS[name], given, arrays, [file], file.name, provenance)


def _candidates(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """The variants whose trees begin like this one: for the question which it is; all, if none does."""
    first = next(iter(sorted(arrays)), "")
    bank = arrays.get("ff_mod_stack.~.b0", np.zeros(0)).ndim == 2
    inputs = arrays.get("rnn_params.linear.w", np.zeros([0, 0])).shape[:1]
    likely = {
        "celo2": first.startswith("ff_mod_stack") and not bank,
        "celo": bank and inputs == (18,),
        "celo_adam": first.startswith("lstm_init_state") and inputs == (18,),
        "velo": bank and inputs == (30,),
        "rnn_mlp": first.startswith("ffmod_params"),
        "nn_adam": "per_layer_lr" in arrays,
        "adafac_mlp": "momentum_decays" in arrays,
    }
    return [name for name, variant in VARIANTS.items() if likely[variant.architecture]] or list(VARIANTS)
