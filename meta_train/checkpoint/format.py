"""A pytree as named host arrays and a list of what they are, and back, bit for bit: no files, no Orbax."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from meta_train.errors import CheckpointError

_SCALARS = {bool: np.bool_, int: np.int64, float: np.float64}


class Leaf(NamedTuple):
    """What a checkpoint knows of one leaf of the state."""

    path: str  # its place in the tree, as `jax.tree_util.keystr` writes it
    dtype: str  # "float32", ...; "key<fry>" for typed PRNG keys; "int", "float", "bool" for Python's
    shape: tuple[int, ...]  # of the leaf (of the key array, not of its key data)
    impl: str = ""  # the PRNG's name, for typed keys; "" otherwise

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


def _describe(path: str, leaf: Any) -> Leaf:
    if type(leaf) in _SCALARS:
        return Leaf(path, type(leaf).__name__, ())
    dtype = getattr(leaf, "dtype", None)
    is_key = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if dtype is None or not (is_key or any(jnp.issubdtype(dtype, kind) for kind in (np.bool_, np.number))):
        kind = type(leaf).__name__ if dtype is None else f"{dtype} array"
        raise CheckpointError(f"state{path} is a {kind}; a checkpoint holds numbers, arrays of them and keys")
    # An abstract key cannot say its implementation; the saved one's is known.
    impl = str(jax.random.key_impl(leaf)) if is_key and isinstance(leaf, jax.Array) else ""
    return Leaf(path, str(dtype), tuple(leaf.shape), impl)


def describe(tree: Any) -> list[tuple[Leaf, Any]]:
    """Every leaf of a tree (arrays, abstract arrays, numbers), described, in flattening order."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [(_describe(jax.tree_util.keystr(path), leaf), leaf) for path, leaf in leaves]


def to_store(tree: Any) -> tuple[list[Leaf], list[Any]]:
    """What is to be written of a state.

    Returns:
      The leaves, and their arrays in the same order, key data for typed keys: copies on the host, which
      share memory with nothing. But where a leaf is split over several processes, none of which has all
      of it, those that are arrays of all processes come as they are.

    Raises:
      CheckpointError: a leaf is neither an array, nor a key, nor a number that 64 bits hold.
    """
    described = describe(tree)
    leaves = [leaf for leaf, _ in described]
    arrays = [jax.random.key_data(value) if leaf.impl else value for leaf, value in described]
    if any(is_split(array) for array in arrays):
        kept = [isinstance(a, jax.Array) and not a.is_fully_addressable for a in arrays]
    else:
        kept = [False] * len(arrays)
    here = jax.device_get([a for a, keep in zip(arrays, kept, strict=True) if not keep])  # all at once
    try:
        copies = iter([np.array(a, _SCALARS.get(type(a)), order="C") for a in here])
    except OverflowError as error:
        raise CheckpointError(f"a Python int of the state needs more than 64 bits: {error}") from None
    return leaves, [a if keep else next(copies) for a, keep in zip(arrays, kept, strict=True)]


def is_split(array: Any) -> bool:
    """Whether it is an array of which no process has everything."""
    return isinstance(array, jax.Array) and not (array.is_fully_addressable or array.is_fully_replicated)


def pack(arrays: list[Any]) -> dict[str, Any]:
    """The arrays under the names that they are stored by; zero-size ones need no storing."""
    return {_stored_name(i): array for i, array in enumerate(arrays) if array.size}


def shardings(leaves: list[Leaf], target: Any) -> list[tuple[str, Leaf, Any]]:
    """The stored arrays: name, leaf, and over which devices the target spreads it (None: over none)."""
    likes = {leaf.path: like for leaf, like in describe(target)}
    named = [(_stored_name(i), leaf) for i, leaf in enumerate(leaves) if np.prod(stored_shape(leaf))]
    return [(name, leaf, _spread(leaf, likes[leaf.path])) for name, leaf in named]


def _spread(leaf: Leaf, like: Any) -> Any:
    sharding = getattr(like, "sharding", None)
    if sharding is None or len(sharding.device_set) == 1:
        return None
    # Key data have one axis more than the keys, which a named sharding leaves whole.
    return sharding if isinstance(sharding, NamedSharding) or not leaf.impl else None


def stored_shape(leaf: Leaf) -> tuple[int, ...]:
    """Of the array that holds a leaf: key data for keys."""
    return (*leaf.shape, *_key_size(leaf.impl))


def _stored_name(index: int) -> str:
    return f"{index:05d}"


def check_fit(leaves: list[Leaf], target: Any) -> None:
    """Refuses a target whose leaves are not those of the checkpoint (CheckpointError names the first)."""
    saved = {leaf.path: leaf for leaf in leaves}
    wanted = {leaf.path: leaf for leaf, _ in describe(target)}
    for path, leaf in wanted.items():
        if path not in saved:
            raise CheckpointError(f"state{path} ({leaf}) is not in the checkpoint")
        if saved[path][1:3] != leaf[1:3]:
            raise CheckpointError(f"state{path} is {saved[path]} in the checkpoint, {leaf} in this run")
    for path, leaf in saved.items():
        if path not in wanted:
            raise CheckpointError(f"state{path} ({leaf}) is in the checkpoint, not in this run")


def unpack(leaves: list[Leaf], stored: dict[str, Any], target: Any) -> Any:
    """The saved tree, with the structure, the kinds of leaves and the shardings of `target`, which fits."""
    saved = {leaf.path: (leaf, stored.get(_stored_name(i))) for i, leaf in enumerate(leaves)}
    paths, treedef = jax.tree_util.tree_flatten_with_path(target)
    restored = [_place(*saved[jax.tree_util.keystr(path)], like=like) for path, like in paths]
    return jax.tree_util.tree_unflatten(treedef, restored)


def _place(leaf: Leaf, array: Any, *, like: Any) -> Any:
    """One saved leaf as `like` is: number, NumPy array, or jax array with its sharding."""
    if array is None:  # zero-size
        array = np.zeros(stored_shape(leaf), np.uint32 if leaf.impl else like.dtype)
    if type(like) in _SCALARS:
        return type(like)(array[()])
    if isinstance(like, np.generic):
        return array[()]
    if isinstance(like, np.ndarray):
        return array
    placed = array if isinstance(array, jax.Array) else _to_device(array, like)
    return jax.random.wrap_key_data(placed, impl=leaf.impl) if leaf.impl else placed


def _key_size(impl: str) -> tuple[int, ...]:
    return jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0, impl=impl))).shape if impl else ()


def _to_device(array: np.ndarray, like: Any) -> jax.Array:
    sharding = like.sharding
    if sharding is None or (isinstance(like, jax.Array) and not like.committed):
        return jax.device_put(array)  # uncommitted, as the target: it must not pin a later jit
    if sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
