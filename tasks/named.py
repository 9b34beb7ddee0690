"""Named tasks: what to write in a config instead of options. None of them is held out (`tasks.rings`)."""

from collections.abc import Mapping
from typing import Any

DIGITS = ("digits[:1200]",)
TEACHERS = ("teacher:1[:1200]", "teacher:2[:1200]", "teacher:3[:1200]")
MIXED = (*DIGITS, *TEACHERS)  # equal shapes: one compiled program
IMAGES: dict[str, Any] = {"datasets": DIGITS}
DOCS: dict[str, Any] = {"texts": ("pydoc[:200000]",)}
MARKOV: dict[str, Any] = {"texts": ("markov:1", "markov:2", "markov:3")}

NAMED: dict[str, dict[str, Any]] = {
    # analytic
    "quadratic_10": {"name": "quadratic"},
    "quadratic_10_ill": {"name": "quadratic", "condition_number": 1000.0},
    "quadratic_10_rotated": {"name": "quadratic", "condition_number": (10.0, 1000.0), "rotated": True},
    "quadratic_10_noisy": {"name": "quadratic", "noise": 0.1},
    "quadratic_100": {"name": "quadratic", "dim": 100, "condition_number": (10.0, 1000.0), "rotated": True},
    "rosenbrock_2": {"name": "classic_function"},
    "rosenbrock_10": {"name": "classic_function", "dim": 10, "scale": 0.01},
    "rastrigin_5": {"name": "classic_function", "function": "rastrigin", "dim": 5},
    "ackley_5": {"name": "classic_function", "function": "ackley", "dim": 5, "start": 3.0},
    "griewank_5": {"name": "classic_function", "function": "griewank", "dim": 5, "start": 3.0},
    "levy_5": {"name": "classic_function", "function": "levy", "dim": 5, "start": 3.0},
    "styblinski_tang_5": {"name": "classic_function", "function": "styblinski_tang", "dim": 5},
    "zakharov_5": {"name": "classic_function", "function": "zakharov", "dim": 5, "scale": 0.01},
    # MLP classifiers
    "digits_softmax": {"name": "image_mlp", **IMAGES, "hidden": ()},
    "digits_mlp_32": {"name": "image_mlp", **IMAGES},
    "digits_mlp_32_permuted": {"name": "image_mlp", **IMAGES, "permute_labels": True},
    "digits_mlp_128": {"name": "image_mlp", **IMAGES, "hidden": (128,)},
    "digits_mlp_32x3_gelu": {"name": "image_mlp", **IMAGES, "hidden": (32, 32, 32), "activation": "gelu"},
    "digits_mlp_32x2_tanh": {"name": "image_mlp", **IMAGES, "hidden": (32, 32), "activation": "tanh"},
    "digits_mlp_layer_norm": {"name": "image_mlp", **IMAGES, "hidden": (32, 32), "norm": "layer"},
    "digits_mlp_squared": {"name": "image_mlp", **IMAGES, "loss": "squared"},
    "digits_mlp_scales": {"name": "image_mlp", **IMAGES, "initial_scale": (0.3, 3.0)},
    "digits_mlp_batch_8": {"name": "image_mlp", **IMAGES, "batch_size": 8},
    "digits_mlp_batch_512": {"name": "image_mlp", **IMAGES, "batch_size": 512},
    "mixed_mlp_32": {"name": "image_mlp", "datasets": MIXED, "permute_labels": True},
    "mixed_mlp_16x2_silu": {"name": "image_mlp", "datasets": MIXED, "hidden": (16, 16), "activation": "silu"},
    "teachers_mlp_32": {"name": "image_mlp", "datasets": TEACHERS},
    "stream_mlp_32": {"name": "teacher_mlp"},
    "stream_mlp_noisy_labels": {"name": "teacher_mlp", "label_noise": 0.2},
    "stream_mlp_input_scales": {"name": "teacher_mlp", "input_scale": (0.1, 10.0)},
    # other networks on images
    "digits_conv_8_16": {"name": "image_conv", **IMAGES},
    "digits_conv_16x3_gelu": {"name": "image_conv", **IMAGES, "channels": (16, 16, 16), "activation": "gelu"},
    "digits_resnet_8_16": {"name": "image_resnet", **IMAGES},
    "digits_resnet_8x2_blocks": {"name": "image_resnet", **IMAGES, "channels": (8,), "blocks": 2},
    "digits_vit_16": {"name": "image_vit", **IMAGES},
    "digits_vit_32_deep": {"name": "image_vit", **IMAGES, "width": 32, "depth": 2, "patch": 2},
    "digits_mixer_16": {"name": "image_mixer", **IMAGES},
    "digits_mixer_32_deep": {"name": "image_mixer", **IMAGES, "width": 32, "depth": 2},
    "digits_autoencoder_32_16": {"name": "image_autoencoder", **IMAGES},
    "digits_autoencoder_tanh": {
        "name": "image_autoencoder",
        **IMAGES,
        "hidden": (48, 24),
        "activation": "tanh",
    },
    "digits_vae_8": {"name": "image_vae", **IMAGES},
    "digits_vae_2_deep": {"name": "image_vae", **IMAGES, "hidden": (48, 24), "latent": 2},
    "digits_denoiser_64": {"name": "image_denoiser", **IMAGES},
    "digits_contrastive_16": {"name": "image_contrastive", **IMAGES},
    "digits_field_32x2": {"name": "image_field", **IMAGES},
    "digits_field_high_frequency": {"name": "image_field", **IMAGES, "frequency": 10.0},
    # text
    "docs_gru_32": {"name": "char_rnn", **DOCS},
    "docs_lstm_32": {"name": "char_rnn", **DOCS, "core": "lstm"},
    "docs_vanilla_rnn_32": {"name": "char_rnn", **DOCS, "core": "vanilla"},
    "docs_transformer_32": {"name": "transformer_lm", **DOCS},
    "docs_transformer_64_deep": {"name": "transformer_lm", **DOCS, "width": 64, "depth": 2, "heads": 4},
    "docs_mlp_lm": {"name": "mlp_lm", **DOCS},
    "docs_skip_gram": {"name": "skip_gram", **DOCS},
    "markov_gru_32": {"name": "char_rnn", **MARKOV},
    "markov_transformer_32": {"name": "transformer_lm", **MARKOV},
    "markov_mlp_lm": {"name": "mlp_lm", **MARKOV},
    "adding_gru": {"name": "memory_rnn"},
    "recall_lstm": {"name": "memory_rnn", "problem": "recall", "core": "lstm"},
    # tables
    "diabetes_mlp": {"name": "tabular_mlp"},
    "diabetes_huber_l2": {"name": "tabular_mlp", "error": "huber", "l2": 0.01},
    "cancer_mlp": {"name": "tabular_mlp", "datasets": ("breast_cancer",)},
    "wine_mlp": {"name": "tabular_mlp", "datasets": ("wine",), "activation": "tanh"},
    "iris_softmax": {"name": "tabular_mlp", "datasets": ("iris",), "hidden": ()},
    "cancer_variational": {"name": "variational_regression"},
    "diabetes_variational": {"name": "variational_regression", "datasets": ("diabetes",)},
    # synthetic models
    "logistic_20": {"name": "logistic_regression"},
    "logistic_100_sparse": {"name": "logistic_regression", "features": 100, "l1": 0.01},
    "lasso_32": {"name": "sparse_regression"},
    "matrix_24x16": {"name": "matrix_factorization"},
    "matrix_over_ranked": {"name": "matrix_factorization", "rank": 8},
    "deep_linear_4": {"name": "deep_linear"},
    "deep_linear_8_scales": {"name": "deep_linear", "depth": 8, "initial_scale": (0.5, 1.5)},
    "mixture_4": {"name": "gaussian_mixture"},
    "flow_moons": {"name": "normalizing_flow"},
    "flow_spiral": {"name": "normalizing_flow", "target": "spiral", "layers": 6},
    "gaussian_process_16": {"name": "gaussian_process"},
    "physics_poisson": {"name": "physics_informed"},
    # loops inside the loss
    "pendulum": {"name": "pendulum_policy"},
    "pendulum_long": {"name": "pendulum_policy", "steps": 40, "length": (0.7, 1.5)},
    "optimizer_10": {"name": "optimizer_in_loop"},
    "optimizer_20_ill": {"name": "optimizer_in_loop", "steps": 20, "condition_number": (1.0, 100.0)},
}


def expand(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The spec with a named task replaced by its family and options; options of the spec prevail."""
    named = NAMED.get(spec.get("name", ""))
    return dict(spec) if named is None else {**named, **{k: v for k, v in spec.items() if k != "name"}}


def canonical(value: Any) -> Any:
    """A spec as JSON holds it: lists for tuples."""
    if isinstance(value, Mapping):
        return {key: canonical(item) for key, item in value.items()}
    return [canonical(item) for item in value] if isinstance(value, (tuple, list)) else value
