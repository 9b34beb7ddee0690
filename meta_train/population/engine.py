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
    """The compiled functions of a population of M members; leaves of `members` are [M, ...]."""

    init: Callable[[jax.Array, Any], Member]  # `(key, hypers) -> members`
    # `(members, hypers, key, round i32[], data) -> (members, scores f32[M, E])`, one round; the given members
    # are donated. Member m draws from `fold_in(fold_in(key, m), round)`, not from the stream of its source,
    # so that clones differ even where nothing is explored
    train: Callable[[Member, Any, jax.Array, Any, Any], tuple[Member, jax.Array]]
    # `(members, source i32[M]) -> members`, donated; the parts that are copied
    gather: Callable[[Member, Any], Member]
    test: Callable[[Member, Any], dict[str, jax.Array]]  # `(members, data) -> {name: f32[M]}`
    mesh: Mesh  # the devices that hold the members
    copy: Copy  # the parts that `gather` copies


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
    trainer = mesh_lib.divided(trainer, mesh.shape[mesh_lib.PARTICLES])
    slots = np.arange(num_members, dtype=np.int32)
    rows: Any = PartitionSpec(mesh_lib.MEMBERS)
    everywhere: Any = PartitionSpec()
    placed = mesh_lib.specs(trainer)
    options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None

    def init(key, hypers):
        def one(slot, hypers):
            return trainer.init(jax.random.fold_in(key, slot), hypers)

        return mesh_lib.constrain(jax.tree.map(_strong, jax.vmap(one)(slots, hypers)), mesh, placed)

    train = jax.shard_map(
        _train_local(trainer, rhythm, chunk),
        mesh=mesh,
        in_specs=(rows, placed, rows, everywhere, everywhere, everywhere),
        out_specs=(placed, everywhere),
        check_vma=False,
    )
    gather = jax.shard_map(
        _gather_local(trainer, copy, mesh.shape[mesh_lib.MEMBERS]),
        mesh=mesh,
        in_specs=(rows, placed, rows),
        out_specs=placed,
        check_vma=False,
    )
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


def _train_local(trainer: Trainer, rhythm: Rhythm, chunk: int | None) -> Callable[..., Any]:
    """A round of the members of one device; the scores are those of all devices."""

    def one(slot, member, hypers, key, number, data):
        def step(member, key):
            return trainer.step(member, hypers, key, data), None

        def stretch(member, keys):
            member, _ = jax.lax.scan(step, member, keys)
            return member, jnp.asarray(trainer.score(member, data), jnp.float32)

        key = jax.random.fold_in(jax.random.fold_in(key, slot), number)
        keys = jax.random.split(key, rhythm.round_steps).reshape(rhythm.evaluations, rhythm.eval_every)
        return jax.lax.scan(stretch, member, keys)

    def local(slots, members, hypers, key, number, data):
        def each(xs):
            slot, member, hypers = xs
            return one(slot, member, hypers, key, number, data)

        xs = (slots, members, hypers)
        if chunk is None or chunk >= slots.shape[0]:
            members, scores = jax.vmap(each)(xs)
        else:
            members, scores = jax.lax.map(each, xs, batch_size=chunk)
        return members, jax.lax.all_gather(scores, mesh_lib.MEMBERS, tiled=True)

    return local


def _gather_local(trainer: Trainer, copy: Copy, num_devices: int) -> Callable[..., Member]:
    """Copies between members, seen from one device."""

    def local(slots, members, source):
        taken = mesh_lib.take_rows(members, source, slots, num_devices)
        inner = taken.inner
        if not copy.inner and jax.tree.leaves(inner):
            # A member with new weights keeps its own inner part, restarted where the trainer can do that.
            again = jax.vmap(trainer.restart)(members.inner)
            inner = jax.tree.map(
                lambda a, b: jnp.where(mesh_lib.along(source != slots, a), a, b), again, members.inner
            )
        return Member(
            taken.weights if copy.weights else members.weights,
            taken.opt_state if copy.opt_state else members.opt_state,
            inner,
        )

    return local


def _strong(x):
    """Drops the weak type that would make the second round compile again."""
    return x if jnp.issubdtype(x.dtype, jax.dtypes.extended) else jax.lax.convert_element_type(x, x.dtype)


def to_device(space: Space, hypers: Hypers) -> dict[str, np.ndarray]:
    """Hypers as trainers receive them: f32[M], i32[M] for whole numbers."""
    return {name: v.astype(np.int32 if space[name].whole else np.float32) for name, v in hypers.items()}
