"""The optimizers and schedules of optax that a config can name, and their options: literal tables.

Options are those of optax with its defaults; `...` stands for one that must be given. Every optimizer also
takes `learning_rate` and `clip_norm`. What a config cannot express (masks, callables) is no option.
"""

from typing import Annotated, Any, Literal, NamedTuple

from annotated_types import Ge, Gt, Interval, MinLen

# optax has more functions with a learning rate than optimizers that need nothing but a gradient.
NOT_OFFERED = {
    "scale_by_learning_rate": "is a part of an optimizer",
    "scale_by_rprop": "is a part of an optimizer",
    "scale_by_madgrad": "is a part of an optimizer",
    "lbfgs": "needs the objective",
    "polyak_sgd": "needs the loss",
    "momo": "needs the loss",
    "momo_adam": "needs the loss",
    "sophia": "needs the objective",
    "dpsgd": "needs a gradient for each example",
    "schedule_free": "wraps another optimizer",
    "optimistic_adam": "is deprecated, optimistic_adam_v2 has replaced it",
}


class Cycle(NamedTuple):
    """One cycle of `sgdr_schedule`: the options of `warmup_cosine_decay_schedule`."""

    init_value: float
    peak_value: float
    warmup_steps: int
    decay_steps: int
    end_value: float = 0.0


Size = Annotated[float, Ge(0)]
Decay = Annotated[float, Interval(ge=0, lt=1)]
Dtype = Literal["float32", "bfloat16", "float16"]
# Types of options that mean the same wherever optax has them; any other has the type of its default, a number
# where that is None.
TYPES: dict[str, Any] = {
    **dict.fromkeys(("b1", "b2", "b3", "adam_b1", "adam_b2"), Decay),
    **dict.fromkeys(("eps", "eps_root", "weight_decay", "adam_eps_root", "adam_weight_decay"), Size),
    **dict.fromkeys(("value", "init_value", "peak_value", "end_value"), Size),
    **dict.fromkeys(("decay_steps", "transition_steps"), Annotated[int, Gt(0)]),
    **dict.fromkeys(("transition_begin", "warmup_steps"), Annotated[int, Ge(0)]),
    **dict.fromkeys(("mu_dtype", "accumulator_dtype", "state_dtype"), Dtype),
    "decay_rate": Annotated[float, Gt(0)],
    "power": float,
    "clipping_threshold": float | None,
    "betas": tuple[float, float],
    "ns_coeffs": tuple[float, float, float],
    "init_step": tuple[Literal["distance", "learning_rate", "heuristic"], float],
    "preconditioning": Literal["frobenius", "spectral", "aol", "schatten"],
    "boundaries_and_scales": dict[int, float],
    "interpolate_type": Literal["linear", "cosine"],
    "cosine_kwargs": Annotated[tuple[Cycle, ...], MinLen(1)],
}

# fmt: off
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adabelief": dict(b1=0.9, b2=0.999, eps=1e-16, eps_root=1e-16, nesterov=False),
    "adadelta": dict(learning_rate=None, rho=0.9, eps=1e-6, weight_decay=0.0),
    "adafactor": dict(
        learning_rate=None, min_dim_size_to_factor=128, decay_rate=0.8, decay_offset=0,
        multiply_by_parameter_scale=True, clipping_threshold=1.0, momentum=None, weight_decay_rate=None,
        eps=1e-30, factored=True),
    "adagrad": dict(initial_accumulator_value=0.1, eps=1e-7),
    "adam": dict(b1=0.9, b2=0.999, eps=1e-8, eps_root=0.0, mu_dtype=None, nesterov=False),
    "adamax": dict(b1=0.9, b2=0.999, eps=1e-8),
    "adamaxw": dict(b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.0001),
    "adamw": dict(
        b1=0.9, b2=0.999, eps=1e-8, eps_root=0.0, mu_dtype=None, weight_decay=0.0001, nesterov=False),
    "adan": dict(b1=0.98, b2=0.92, b3=0.99, eps=1e-8, eps_root=1e-8, weight_decay=0.0),
    "amsgrad": dict(
        b1=0.9, b2=0.999, eps=1e-8, eps_root=0.0, mu_dtype=None, bias_correction_mu=True,
        bias_correction_nu=True),
    "fromage": dict(min_norm=1e-6),
    "lamb": dict(b1=0.9, b2=0.999, eps=1e-6, eps_root=0.0, weight_decay=0.0),
    "lars": dict(weight_decay=0.0, trust_coefficient=0.001, eps=0.0, momentum=0.9, nesterov=False),
    "lion": dict(b1=0.9, b2=0.99, mu_dtype=None, weight_decay=0.001),
    "noisy_sgd": dict(eta=0.01, gamma=0.55, key=0),
    "novograd": dict(b1=0.9, b2=0.25, eps=1e-6, eps_root=0.0, weight_decay=0.0),
    "optimistic_adam_v2": dict(
        alpha=1.0, beta=1.0, b1=0.9, b2=0.999, eps=1e-8, eps_root=0.0, mu_dtype=None, nesterov=True),
    "optimistic_gradient_descent": dict(alpha=1.0, beta=1.0),
    "radam": dict(b1=0.9, b2=0.999, eps=1e-8, eps_root=0.0, threshold=5.0, nesterov=False),
    "rmsprop": dict(
        decay=0.9, eps=1e-8, initial_scale=0.0, eps_in_sqrt=True, centered=False, momentum=None,
        nesterov=False, bias_correction=False),
    "rprop": dict(eta_minus=0.5, eta_plus=1.2, min_step_size=1e-6, max_step_size=50.0),
    "sgd": dict(momentum=None, nesterov=False, accumulator_dtype=None),
    "sign_sgd": {},
    "signum": dict(beta=0.9, accumulator_dtype=None),
    "sm3": dict(momentum=0.9),
    "yogi": dict(b1=0.9, b2=0.999, eps=0.001),
    "acprop": dict(b1=0.9, b2=0.999, eps=1e-16, eps_root=1e-16, weight_decay=0.0),
    "ademamix": dict(
        b1=0.9, b2=0.999, b3=0.9999, alpha=5.0, eps=1e-8, eps_root=0.0, mu_dtype=None, weight_decay=0.0),
    "adopt": dict(b1=0.9, b2=0.9999, eps=1e-6, mu_dtype=None, nesterov=False, use_clipping=True),
    "cocob": dict(learning_rate=1.0, alpha=100.0, eps=1e-8, weight_decay=0.0),
    "dadapt_adamw": dict(learning_rate=1.0, betas=(0.9, 0.999), eps=1e-8, estim_lr0=1e-6, weight_decay=0.0),
    "dog": dict(learning_rate=1.0, init_step=("heuristic", 1e-6), eps=1e-8, weight_decay=None),
    "dowg": dict(learning_rate=1.0, init_estim_sq_dist=None, eps=0.0001, weight_decay=None),
    "galore": dict(rank=128, update_proj_gap=200, scale=1.0, weight_decay=0.0),
    "madgrad": dict(momentum=0.9, weight_decay=0.0, eps=1e-6),
    "muon": dict(
        ns_coeffs=(3.4445, -4.775, 2.0315), ns_steps=5, beta=0.95, eps=1e-8, weight_decay=0.0,
        mu_dtype=None, nesterov=True, adaptive=False, preconditioning="frobenius", adam_b1=0.9,
        adam_b2=0.999, adam_eps_root=0.0, adam_weight_decay=0.0, adam_learning_rate=None,
        consistent_rms=None),
    "prodigy": dict(
        learning_rate=1.0, betas=(0.9, 0.999), beta3=None, eps=1e-8, estim_lr0=1e-6, estim_lr_coef=1.0,
        weight_decay=0.0, safeguard_warmup=False),
    "schedule_free_adamw": dict(
        learning_rate=0.0025, warmup_steps=None, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.0,
        weight_lr_power=2.0, state_dtype=None),
    "schedule_free_sgd": dict(
        learning_rate=1.0, warmup_steps=None, b1=0.9, weight_decay=None, weight_lr_power=2.0,
        state_dtype=None),
    "simplified_ademamix": dict(b1=0.99, b2=0.95, alpha=0.0, eps=1e-8, eps_root=0.0, weight_decay=0.0),
}
SCHEDULES: dict[str, dict[str, Any]] = {
    "constant_schedule": dict(value=...),
    "cosine_decay_schedule": dict(init_value=..., decay_steps=None, alpha=0.0, exponent=1.0),
    "cosine_onecycle_schedule": dict(
        transition_steps=None, peak_value=..., pct_start=0.3, div_factor=25.0, final_div_factor=1e4),
    "exponential_decay": dict(
        init_value=..., transition_steps=None, decay_rate=..., transition_begin=0, staircase=False,
        end_value=None),
    "linear_onecycle_schedule": dict(
        transition_steps=None, peak_value=..., pct_start=0.3, pct_final=0.85, div_factor=25.0,
        final_div_factor=1e4),
    "linear_schedule": dict(init_value=..., end_value=..., transition_steps=None, transition_begin=0),
    "piecewise_constant_schedule": dict(init_value=..., boundaries_and_scales=None),
    "piecewise_interpolate_schedule": dict(
        interpolate_type=..., init_value=..., boundaries_and_scales=None),
    "polynomial_schedule": dict(
        init_value=..., end_value=..., power=..., transition_steps=None, transition_begin=0),
    "sgdr_schedule": dict(cosine_kwargs=...),
    "warmup_constant_schedule": dict(init_value=..., peak_value=..., warmup_steps=...),
    "warmup_cosine_decay_schedule": dict(
        init_value=..., peak_value=..., warmup_steps=..., decay_steps=None, end_value=0.0, exponent=1.0),
    "warmup_exponential_decay_schedule": dict(
        init_value=..., peak_value=..., warmup_steps=..., transition_steps=None, decay_rate=...,
        transition_begin=0, staircase=False, end_value=None),
}
# fmt: on
