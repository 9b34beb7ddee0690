"""Frozen evaluation tasks: never trained on, never changed. A new version gets a new number.

Seeds of made-up data from RESERVED_SEEDS on, digits from RESERVED_ROWS on and the text `pydoc` from
RESERVED_CHARACTERS on belong to evaluation alone.
"""

from collections.abc import Mapping
from typing import Any

from tasks.data.loaders import RESERVED_ROWS, RESERVED_SEEDS
from tasks.named import canonical

VERSION = 1  # of every ring: a ring that is added changes no other
RESERVED_CHARACTERS = 200_000  # `pydoc` from this character on is for evaluation only

Spec = dict[str, Any]

# The four tasks of the quickstart's comparison: new data and labels for the network that is trained
# on (its rows of digits overlap those of meta-training by half), then two networks of other shapes.
HELD_OUT: dict[str, Spec] = {
    "digits_permuted": {"name": "image_mlp", "datasets": ("digits[597:]",), "permute_labels": True},
    "new_teacher": {"name": "image_mlp", "datasets": ("teacher:9001",)},
    "tanh_64_64": {
        "name": "image_mlp",
        "datasets": ("digits[597:]",),
        "hidden": (64, 64),
        "activation": "tanh",
    },
    "relu_128": {"name": "image_mlp", "datasets": ("teacher:9002",), "hidden": (128,)},
}


DIGITS = ("digits[1200:]",)

# Same family as the usual meta-training tasks: data and labels that it never saw.
RING_A: dict[str, Spec] = {
    "digits_rest": {"name": "image_mlp", "datasets": DIGITS, "permute_labels": True},
    "teacher_a": {"name": "image_mlp", "datasets": ("teacher:9101",)},
    "teacher_b": {"name": "image_mlp", "datasets": ("teacher:9102",)},
    "digits_and_teacher": {
        "name": "image_mlp",
        "datasets": ("digits[1200:]", "teacher:9103[:597]"),
        "permute_labels": True,
    },
}

# Other architectures and objectives.
RING_B: dict[str, Spec] = {
    "mlp_64_64_tanh": {"name": "image_mlp", "datasets": DIGITS, "hidden": (64, 64), "activation": "tanh"},
    "mlp_128": {"name": "image_mlp", "datasets": ("teacher:9201",), "hidden": (128,)},
    "mlp_layer_norm": {
        "name": "image_mlp",
        "datasets": ("teacher:9202",),
        "hidden": (32, 32),
        "norm": "layer",
    },
    "autoencoder": {"name": "image_autoencoder", "datasets": DIGITS, "hidden": (32,), "latent": 16},
    "conv": {"name": "image_conv", "datasets": DIGITS},
    "char_rnn": {"name": "char_rnn", "texts": ("markov:9201",), "core": "vanilla"},
    "batch_8": {"name": "image_mlp", "datasets": ("teacher:9203",), "batch_size": 8},
    "batch_512": {"name": "image_mlp", "datasets": ("teacher:9203",), "batch_size": 512},
    "bfloat16": {"name": "image_mlp", "datasets": ("teacher:9204",), "augment": ({"name": "bfloat16"},)},
}

# Scale: for an accelerator.
RING_C: dict[str, Spec] = {
    "mlp_1024x3": {"name": "image_mlp", "datasets": ("teacher:9301",), "hidden": (1024, 1024, 1024)},
    "resnet": {"name": "image_resnet", "datasets": DIGITS, "channels": (32, 64, 128), "blocks": 2},
    "transformer_128": {
        "name": "transformer_lm",
        "texts": ("markov:9301",),
        "width": 128,
        "depth": 2,
        "heads": 4,
        "length": 64,
        "batch_size": 16,
    },
    **{
        f"width_{width}": {"name": "image_mlp", "datasets": ("teacher:9302",), "hidden": (width, width)}
        for width in (128, 512, 2048, 4096)
    },
}

# A ladder of sizes. The number in a name is that of the parameters. Every task has a test split too: text,
# and deformed digits, that neither training nor validation sees.
TEXT: Spec = {
    "name": "transformer_lm",
    "texts": ("pydoc[200000:420000]",),
    "test": {"texts": ("pydoc[420000:460000]",)},
    "length": 64,
    "batch_size": 16,  # 1,024 characters a step
}
IMAGES: Spec = {
    "datasets": ("deformed:9401[:15040]",),
    "test": {"datasets": ("deformed:9401[15040:]",)},
    "batch_size": 64,
}
MLP: Spec = {"name": "image_mlp", **IMAGES}
RESNET: Spec = {"name": "image_resnet", **IMAGES}

RING_L: dict[str, Spec] = {
    "lm_1e4": {**TEXT, "width": 16, "depth": 3, "heads": 2},
    "lm_1e5": {**TEXT, "width": 64, "depth": 3, "heads": 4},
    "lm_1e6": {**TEXT, "width": 192, "depth": 3, "heads": 6},
    "resnet_1e5": {**RESNET, "channels": (16, 32, 64), "batch_size": 32},
    "wide_mlp_1e4": {**MLP, "hidden": (34, 34)},
    "wide_mlp_1e5": {**MLP, "hidden": (208, 208)},
    "wide_mlp_1e6": {**MLP, "hidden": (880, 880)},
    "deep_mlp_2e4": {**MLP, "hidden": (32,) * 16, "activation": "tanh"},
}

# The next two rungs, for an accelerator.
RING_XL: dict[str, Spec] = {
    "lm_1e7": {**TEXT, "width": 512, "depth": 5, "heads": 8, "length": 256, "batch_size": 32},
    "lm_1e8": {**TEXT, "width": 1280, "depth": 8, "heads": 16, "length": 256, "batch_size": 64},
    "resnet_1e7": {**RESNET, "channels": (64, 128, 256, 512), "blocks": 2, "batch_size": 256},
    "wide_mlp_1e7": {**MLP, "hidden": (3000, 3000), "batch_size": 256},
    "wide_mlp_1e8": {**MLP, "hidden": (7000, 7000, 7000), "batch_size": 1024},
}
HORIZONS = {"L": (500, 2000), "XL": (500, 2000)}  # of rings that have their own

# Known answers: the minimum is 0, or 0 on average.
SANITY: dict[str, Spec] = {
    "quadratic_10": {"name": "quadratic", "dim": 10, "condition_number": 1000.0},
    "quadratic_100": {"name": "quadratic", "dim": 100, "condition_number": 1000.0},
    "quadratic_noisy": {"name": "quadratic", "dim": 10, "condition_number": 10.0, "noise": 0.1},
    "rosenbrock": {"name": "classic_function", "function": "rosenbrock", "dim": 2},
}

RINGS: dict[str, dict[str, Spec]] = {
    "held_out": HELD_OUT,
    "A": RING_A,
    "B": RING_B,
    "C": RING_C,
    "L": RING_L,
    "XL": RING_XL,
    "sanity": SANITY,
}


FREE = {"digits": RESERVED_ROWS, "pydoc": RESERVED_CHARACTERS}  # how much of each may be trained on


def overlap(spec: Mapping[str, Any]) -> str | None:
    """Why a training spec must not be used, in words; None if it touches nothing that is held out.

    Architectures may be trained on; data that are reserved, and the very tasks of a ring, may not.
    """
    for name in (*spec.get("datasets", ()), *spec.get("texts", ())):
        base, _, rows = str(name).partition("[")
        kind, _, seed = base.partition(":")
        if kind in ("teacher", "markov", "deformed") and seed.isdecimal() and int(seed) >= RESERVED_SEEDS:
            return f"{name!r} is reserved for evaluation (seeds from {RESERVED_SEEDS} on)"
        stop = rows.rstrip("]").partition(":")[2]
        free = FREE.get(base)
        if free is not None and (not stop.isdecimal() or int(stop) > free):
            return f"{name!r} holds rows reserved for evaluation; use '{base}[:{free}]'"
    plain = canonical(spec)
    for ring, members in RINGS.items():
        for name, held_out in members.items():
            if plain == canonical(held_out):
                return f"it is task {name!r} of evaluation ring {ring!r}"
    return None
