"""The device side of a population: one jit(vmap) that trains all members, one gather that copies them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from meta_train.population import mesh as mesh_lib
from meta_train.population.base import Member, Rhythm, Trainer
from meta_train.population.space import Hypers, Space


class Copy(NamedTuple):
    """Which parts of a member are copied when it is overwritten."""

    weights: bool = True
    opt_state: bool = True
    inner: bool = True


class Engine(NamedTuple):
    """The compiled functions of a population of M members; leaves of `members` are [M, ...].

    Attributes:
      init: `(key, hypers) -> members`.
      train: `(members, hypers, key, round i32[], data) -> (members, scores f32[M, E])`, one round; the
        members given are donated. Member m draws from `fold_in(fold_in(key, m), round)`, never from its
        source's stream: clones part even where nothing is explored.
      gather: `(members, source i32[M]) -> members`, donated; the parts that are copied.
      test: `(members, data) -> {name: f32[M]}`.
      mesh: that the members are on.
      copy: the parts that `gather` copies.
    """

    init: Callable[[jax.Array, Any], Member]
    train: Callable[[Member, Any, jax.Array, Any, Any], tuple[Member, jax.Array]]
    gather: Callable[[Member, Any], Member]
    test: Callable[[Member, Any], dict[str, jax.Array]]
    mesh: Mesh
    copy: Copy


def engine(
    trainer: Trainer,
    num_members: int,
    rhythm: Rhythm,
    *,
    copy: Copy = Copy(),  # noqa: B008 (immutable)
    mesh: Mesh | None = None,
    chunk: int | None = None,
) -> Engine:
    """Vectorises a trainer over its members.

    Args:
      trainer: what is trained.
      num_members: M.
      rhythm: of the rounds.
      copy: what `gather` copies.
      mesh: of `member_mesh`, devices that the members and their particles are split over; None for one.
      chunk: members trained at once on each device, when memory is short; None for all of them.

    Raises:
      ValueError: particles that the mesh's devices do not divide.
    """
    mesh = mesh_lib.member_mesh(1, num_members) if mesh is None else mesh
    num_devices = mesh.shape[mesh_lib.MEMBERS]
    trainer = mesh_lib.divided(trainer, mesh.shape[mesh_lib.PARTICLES])
    slots = np.arange(num_members, dtype=np.int32)
    rows: Any = PartitionSpec(mesh_lib.MEMBERS)
    everywhere: Any = PartitionSpec()
    placed = mesh_lib.specs(trainer)
    options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None

    def init_one(slot, hypers, key):
        return trainer.init(jax.random.fold_in(key, slot), hypers)

    def train_one(slot, member, hypers, key, number, data):
        def step(member, key):
            return trainer.step(member, hypers, key, data), None

        def stretch(member, keys):
            member, _ = jax.lax.scan(step, member, keys)
            return member, jnp.asarray(trainer.score(member, data), jnp.float32)

        key = jax.random.fold_in(jax.random.fold_in(key, slot), number)
        keys = jax.random.split(key, rhythm.round_steps).reshape(rhythm.evaluations, rhythm.eval_every)
        return jax.lax.scan(stretch, member, keys)

    def train_local(slots, members, hypers, key, number, data):
        def one(xs):
            slot, member, hypers = xs
            return train_one(slot, member, hypers, key, number, data)

        xs = (slots, members, hypers)
        if chunk is None or chunk >= slots.shape[0]:
            members, scores = jax.vmap(one)(xs)
        else:
            members, scores = jax.lax.map(one, xs, batch_size=chunk)
        return members, jax.lax.all_gather(scores, mesh_lib.MEMBERS, tiled=True)

    train = jax.shard_map(
        train_local,
        mesh=mesh,
        in_specs=(rows, placed, rows, everywhere, everywhere, everywhere),
        out_specs=(placed, everywhere),
        check_vma=False,
    )

    def gather_local(slots, members, source):
        taken = mesh_lib.take_rows(members, source, slots, num_devices)
        if copy.inner or not jax.tree.leaves(members.inner):
            inner = taken.inner
        else:  # a member with new weights goes on with its own inner part, begun anew where that is possible
            again = jax.vmap(trainer.restart)(members.inner)
            moved = source != slots
            inner = jax.tree.map(
                lambda a, b: jnp.where(moved.reshape(-1, *(1,) * (a.ndim - 1)), a, b), again, members.inner
            )
        return Member(
            taken.weights if copy.weights else members.weights,
            taken.opt_state if copy.opt_state else members.opt_state,
            inner,
        )

    gather = jax.shard_map(
        gather_local, mesh=mesh, in_specs=(rows, placed, rows), out_specs=placed, check_vma=False
    )

    def init(key, hypers):
        members = jax.vmap(init_one, (0, 0, None))(slots, hypers, key)
        return mesh_lib.constrain(jax.tree.map(_strong, members), mesh, placed)

    return Engine(
        jax.jit(init, compiler_options=options),
        jax.jit(
            lambda m, h, k, n, d: train(slots, m, h, k, n, d), donate_argnums=0, compiler_options=options
        ),
        jax.jit(lambda m, source: gather(slots, m, source), donate_argnums=0),
        jax.jit(jax.vmap(trainer.test, (0, None)), out_shardings=NamedSharding(mesh, everywhere)),
        mesh,
        copy,
    )


def _strong(x):
    """Drops the weak type that would make the second round compile again."""
    return x if jnp.issubdtype(x.dtype, jax.dtypes.extended) else jax.lax.convert_element_type(x, x.dtype)


def to_device(space: Space, hypers: Hypers) -> dict[str, np.ndarray]:
    """Hypers as trainers receive them: f32[M], i32[M] for whole numbers."""
    return {name: v.astype(np.int32 if space[name].whole else np.float32) for name, v in hypers.items()}
