"""Refuses a broken task family before anything compiles."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tasks.base import Task, TaskFamily

SPLITS = ("train", "valid")


def check_family(family: Any, label: str = "task family") -> None:
    """Raises a one-line ValueError that begins with `label` if `family` breaks its contract.

    Checked by abstract evaluation, on the data as it stands: nothing is compiled.

    Args:
      family: what a factory returned.
      label: the name that the messages use.

    Raises:
      ValueError: not a TaskFamily; a split that is missing or unlike "train"; NaN or infinity in
        the data; `sample`, `task`, `init` or `loss` that cannot be called as documented;
        parameters that are not float arrays; a loss that is not a scalar f32.
    """
    if not isinstance(family, TaskFamily):
        raise ValueError(f"{label}: must be a TaskFamily, got {type(family).__name__}")
    _check_data(family.data, label)
    key = jax.eval_shape(lambda: jax.random.key(0))
    cfg = _shapes(label, "sample(key)", family.sample, key)
    params = _shapes(label, "task(cfg).init(key)", lambda c, k: _task(family, c).init(k), cfg, key)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not leaves:
        raise ValueError(f"{label}: init returned no parameters")
    for path, leaf in leaves:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"{label}: parameter {jax.tree_util.keystr(path)} must be float, got {leaf.dtype}"
            )
    for split in _splits(family.data):
        loss = _shapes(
            label,
            f"task(cfg).loss(params, key, data[{split!r}])",
            lambda c, p, k, d: _task(family, c).loss(p, k, d),
            *(cfg, params, key, family.data[split]),
        )
        if not isinstance(loss, jax.ShapeDtypeStruct) or loss.shape != () or loss.dtype != jnp.float32:
            raise ValueError(f"{label}: loss must be a scalar f32, got {_describe(loss)}")


def _splits(data: dict[str, Any]) -> tuple[str, ...]:
    return (*SPLITS, "test") if "test" in data else SPLITS


def _task(family: TaskFamily, cfg: Any) -> Task:
    task = family.task(cfg)
    if not isinstance(task, Task):
        raise TypeError(f"task(cfg) must be a Task, got {type(task).__name__}")
    return task


def _check_data(data: Any, label: str) -> None:
    if not isinstance(data, dict):
        raise ValueError(f"{label}: data must be a dict of splits, got {type(data).__name__}")
    for split in _splits(data):
        if split not in data:
            raise ValueError(f"{label}: no split {split!r} in the data, there are: {sorted(data)}")
        if jax.tree.structure(data[split]) != jax.tree.structure(data["train"]):
            raise ValueError(f"{label}: split {split!r} of the data has not the structure of 'train'")
        for path, leaf in jax.tree_util.tree_leaves_with_path(data[split]):
            if not isinstance(leaf, (jax.Array, np.ndarray)):
                raise ValueError(
                    f"{label}: data must be arrays, {split}{jax.tree_util.keystr(path)} is {leaf!r:.40}"
                )
            if (
                jnp.issubdtype(leaf.dtype, jnp.floating)
                and not np.isfinite(np.asarray(leaf, np.float32)).all()
            ):
                raise ValueError(f"{label}: NaN or infinity in data {split}{jax.tree_util.keystr(path)}")


def _shapes(label: str, call: str, function: Any, *args: Any) -> Any:
    try:
        return jax.eval_shape(function, *args)
    except Exception as error:  # whatever a user's function raises, the message must name the family
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{label}: {call} failed: {first}") from error


def _describe(tree: Any) -> str:
    leaves = jax.tree.leaves(tree)
    if len(leaves) == 1 and isinstance(tree, jax.ShapeDtypeStruct):
        return f"{leaves[0].dtype}{list(leaves[0].shape)}"
    return f"{len(leaves)} arrays"
