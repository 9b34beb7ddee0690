"""The optimizers of PyLO: which of ours each is, and what its constructor's arguments mean."""

from collections.abc import Mapping
from typing import Any

from learned_opt.importers.foreign import Class
from learned_opt.importers.settings import Arg, Only, Unused

DECAYS = (0.9, 0.99, 0.999)
# muLO's offsets are the defaults of PyLO's AdafacLO, whatever the weights: they are asked for.
_OFFSETS = {
    "momentum_decays": Arg("", (0.15216392, 0.14245212, 0.06812963), ask=True),
    "rms_decays": Arg("", (0.01079706,), ask=True),
    "adafactor_decays": Arg("", (0.18621896, -0.10864615, -0.06185547), ask=True),
}
_OFFSETS_IN_THETA = {name: name for name in _OFFSETS}
_CLIP = "put optax.clip_by_global_norm before it in optax.chain"
_GEOMETRY = {
    name: Unused()  # the weights' shapes tell
    for name in (
        "input_size hidden_size hidden_layers lstm_input_size lstm_hidden_size param_inits "
        "ff_hidden_size ff_hidden_layers concat_weights make_separate_weights split_weights"
    ).split()
}


def _initial_decays(rms: tuple[float, ...]) -> dict[str, Only]:
    return {
        "initial_momentum_decays": Only(DECAYS),
        "initial_rms_decays": Only(rms),
        "initial_adafactor_decays": Only(DECAYS),
    }


def _sequential(lr: str) -> str:
    return (
        f"chain optax.scale(1 - {lr} * weight_decay) and optax.add_decayed_weights(-{lr} * weight_decay) "
        "after it"
    )


def _network_lo(**more: Any) -> dict[str, Any]:
    """The constructor that AdafacLO and MuLO share."""
    return {
        **_OFFSETS,
        "lr": Arg("", 1.0, ask=True),
        "exp_mult": Arg("exp_mult", 0.001),
        "step_mult": Arg("", 0.01),
        **_initial_decays((0.999,)),
        "weight_decay": Only(0.0, _sequential("lr")),
        "clip_grad": Only(False, _CLIP),
        "max_grad_norm": Only(None, _CLIP),
        "mup_lrs": Only(None),
        **_GEOMETRY,
        **more,
    }


def _lr_step(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"step_mult": settings["lr"] * settings["step_mult"]}


def _celo2(*, weight_decay: float, clip_grad: bool, **more: Any) -> dict[str, Any]:
    return {
        "lr": Arg("learning_rate", 0.001, ask=True),
        "weight_decay": Arg("weight_decay", weight_decay, ask=True),
        "adam_lr_mult": Arg("vector_lr_mult", 1.0),
        "use_adamw_for_1d": Arg("", True),
        "orthogonalize": Arg("orthogonalise", True),
        "clip_grad": Arg("", clip_grad),
        "clip_norm": Arg("", 1.0),
        "adam_weight_decay": Only(None, "it is weight_decay here"),
        "exp_mult": Only(0.0),
        "rmsmult": Only(1.0),
        "param_scale_mult": Only(False),
        "ns_coeffs": Only((3.4445, -4.775, 2.0315)),
        "ns_iters": Only(5),
        "ns_eps": Only(1e-8),
        "grad_clip_val": Only(1000.0),
        **_initial_decays((0.95,)),
        **_GEOMETRY,
        **more,
    }


def _celo2_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "vectors": "adamw" if settings["use_adamw_for_1d"] else "network",
        "clip_norm": settings["clip_norm"] if settings["clip_grad"] else None,
    }


OPTIMIZERS = {
    "AdafacLO": Class("mulo", _network_lo(), _lr_step, _OFFSETS_IN_THETA),
    # PyLO finds hidden weights by marks on the tensors and divides their rate by width / base width.
    "MuLO": Class(
        "mulo",
        _network_lo(
            hidden_weights=Arg("hidden_weights", r"^mlp/~/linear_1\.w$", ask=True),
            base_width=Arg("hidden_lr_mult", 128.0, ask=True),
        ),
        _lr_step,
        _OFFSETS_IN_THETA,
    ),
    "ELO": Class(
        "elo",
        {
            "lr": Arg("learning_rate", 0.001, ask=True),
            "exp_mult": Arg("exp_mult", 0.001),
            "weight_decay": Arg("weight_decay", 0.0, ask=True),
            "clip_grad": Only(False, _CLIP),
            "clip_norm": Unused(),
            **_initial_decays((0.999,)),
            **_GEOMETRY,
        },
    ),
    "VeLO": Class(
        "velo",
        {
            "lr": Arg("", 0.001, ask=True),
            "exp_mult": Arg("exp_mult", 0.001),
            "step_mult": Arg("", 0.001),
            "momentum_decays": Only((0.0, 0.0, 0.0)),
            "rms_decays": Only((0.0,)),
            "adafactor_decays": Only((0.0, 0.0, 0.0)),
            "weight_decay": Only(0.0, _sequential("lr")),
            "clip_grad": Only(False, _CLIP),
            "mup_lrs": Only(None),
            "num_steps": Only(None, "give it to learned_opt.load"),
            "legacy": Only(False),
            **_initial_decays((0.999,)),
            **_GEOMETRY,
        },
        lambda settings: _lr_step(settings) | {"bank_mult": 100.0},
    ),
    "CELO2": Class(
        "celo2",
        _celo2(
            weight_decay=0.0,
            clip_grad=False,
            adam_betas=Arg("adam_betas", (0.9, 0.95)),
            adam_eps=Arg("adam_eps", 1e-8),
        ),
        _celo2_options,
    ),
    "ELO_CELO2": Class("celo2", _celo2(weight_decay=0.1, clip_grad=True), _celo2_options),
}
