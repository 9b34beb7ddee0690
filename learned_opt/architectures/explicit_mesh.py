"""Parameters on a mesh with Explicit axes, which is what `jax.make_mesh` makes by default.

There, every operation must say how its result is sharded. The architectures leave that to the compiler.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def on_mesh_of_params(init: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`init(params)`, of which what is on no mesh is replicated over that of the parameters."""

    def placed_init(params):
        mesh, state = _explicit_mesh(params), init(params)
        if mesh is None:
            return state
        replicated = NamedSharding(mesh, PartitionSpec())
        return jax.tree.map(lambda x: x if _axes(x) else jax.sharding.reshard(x, replicated), state)

    return placed_init


def sharded_by_compiler(update: Callable[..., tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
    """`update(grads, state, params, value)`: updates are sharded as the parameters, the state as it was."""

    def auto_update(grads, state, params, value):
        mesh = _explicit_mesh((grads, params))
        if mesh is None:
            return update(grads, state, params, value)
        like = grads if params is None else params
        with jax.sharding.use_abstract_mesh(mesh):
            auto_axes = jax.sharding.auto_axes(out_sharding=(_specs(like), _specs(state)))
            return auto_axes(update)(grads, state, params, value)

    return auto_update


def _explicit_mesh(tree: Any) -> Any:
    meshes = (jax.typeof(x).sharding.mesh for x in jax.tree.leaves(tree))
    return next((mesh for mesh in meshes if AxisType.Explicit in mesh.axis_types), None)


def _axes(x: Any) -> tuple[str, ...]:
    return jax.typeof(x).sharding.mesh.axis_names


def _specs(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.typeof(x).sharding.spec if _axes(x) else PartitionSpec(), tree)
