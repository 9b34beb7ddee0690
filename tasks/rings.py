"""Frozen evaluation tasks: never trained on, never changed. A new version gets a new number.

Teacher seeds from RESERVED_SEEDS on belong to evaluation alone.
"""

from collections.abc import Mapping
from typing import Any

VERSION = 1
RESERVED_SEEDS = 9000  # `teacher:SEED` and `markov:SEED` with SEED >= this are for evaluation only

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


def overlap(spec: Mapping[str, Any]) -> str | None:
    """Why a training spec must not be used, in words; None if it touches nothing that is held out."""
    for name in spec.get("datasets", ()):
        kind, _, rest = str(name).partition(":")
        seed = rest.partition("[")[0]
        if kind in ("teacher", "markov") and seed.isdecimal() and int(seed) >= RESERVED_SEEDS:
            return f"data set {name!r} is reserved for evaluation (seeds from {RESERVED_SEEDS} on)"
    plain = _canonical(spec)
    for name, held_out in HELD_OUT.items():
        if plain == _canonical(held_out):
            return f"it is the held-out task {name!r}"
    return None


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _canonical(item) for key, item in value.items()}
    return [_canonical(item) for item in value] if isinstance(value, (tuple, list)) else value
