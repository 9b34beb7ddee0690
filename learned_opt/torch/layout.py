"""From the conventions of PyTorch to those of the rules: which axis of a weight is its outputs, and its path.

The rules are written for weights whose last axis is the outputs: [inputs, outputs], [height, width, inputs,
outputs]. PyTorch has the outputs first: [outputs, inputs], [outputs, inputs, height, width].
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch  # pyright: ignore[reportMissingImports] - optional
from torch import nn  # pyright: ignore[reportMissingImports] - optional

OUTPUTS_LAST = (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.RMSNorm)
INPUTS_FIRST = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
OUTPUTS_FIRST = (
    nn.Linear,
    nn.Bilinear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.MultiheadAttention,
)

Axes = tuple[int, ...]


def owners(model: nn.Module) -> dict[int, tuple[str, nn.Module]]:
    """For each parameter, by its id: its name, and the module that holds it, the first one if several do."""
    found: dict[int, tuple[str, nn.Module]] = {}
    for prefix, module in model.named_modules():
        for name, p in module.named_parameters(recurse=False):
            found.setdefault(id(p), (f"{prefix}.{name}" if prefix else name, module))
    return found


def axes(p: torch.Tensor, name: str, owner: nn.Module | None, outputs_last: str) -> Axes:
    """The order in which a rule sees the axes of a parameter.

    Args:
      p: the parameter.
      name: of it.
      owner: the module that holds it, None if not known.
      outputs_last: regular expression, searched in the name, case ignored; counts where the type of the owner
        says nothing: such a tensor is seen as it is.
    """
    n = p.ndim
    if n < 2 or isinstance(owner, OUTPUTS_LAST):
        return tuple(range(n))
    if isinstance(owner, INPUTS_FIRST):
        return (*range(2, n), 0, 1)
    if not isinstance(owner, OUTPUTS_FIRST) and re.search(outputs_last, name, re.IGNORECASE):
        return tuple(range(n))
    return (*range(2, n), 1, 0)


def inverse(order: Axes) -> Axes:
    """The order that undoes an order."""
    return tuple(order.index(i) for i in range(len(order)))


def tree_of(names: Sequence[str]) -> Any:
    """The index of each name, in nested dicts: "block.0.weight" is tree["block"]["0"]["weight"].

    Raises:
      ValueError: one name continues another, or they are not different.
    """
    tree: dict[str, Any] = {}
    for i, name in enumerate(names):
        *folders, last = name.split(".")
        place: Any = tree
        for folder in folders:
            place = place.setdefault(folder, {}) if isinstance(place, dict) else place
        if not isinstance(place, dict) or last in place:
            raise ValueError(f"the name {name} of a parameter is, or continues, that of another one")
        place[last] = i
    return tree


def names_of(groups: Sequence[Mapping[str, Any]], known: Mapping[int, tuple[str, Any]]) -> Iterator[str]:
    """The name of each parameter: that in the model, or the one that was given, or its position."""
    position = 0
    for group in groups:
        for i, p in enumerate(group["params"]):
            given = group["param_names"][i] if "param_names" in group else str(position)
            yield known[id(p)][0] if id(p) in known else given
            position += 1
