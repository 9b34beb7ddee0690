"""The spectral optimizer: Muon and Adam with a learned schedule; its step sizes transfer over width."""

from typing import Annotated, Any, Literal, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
from annotated_types import Ge, Gt

from learned_opt.architectures.blocks import adam_direction
from learned_opt.architectures.features import (
    FRACTIONS,
    LARGE,
    TIMESCALES,
    Decays,
    Tensor,
    accumulate,
    fraction_embedding,
    init_accumulators,
    make_tensor,
    time_embedding,
)
from learned_opt.architectures.network import dense, dummy_tensor, fan_in, per_parameter_mlp, tree_like
from learned_opt.architectures.options import checked, path_matcher
from learned_opt.architectures.orthogonal import (
    equalised,
    kinds,
    mean_square_of_outputs,
    orthogonalised,
    spectral_scale,
)
from learned_opt.architectures.transformation import transformation
from learned_opt.base import LearnedOptimizer

EMBEDDINGS = r"embed|position|\bw[tp]e\b"
MOMENTUM, FAST, RMS = 0.95, 0.7, 0.99  # decays
WARMUP = 0.05  # of the training
USUAL = 500  # steps of a training, at which the input log T is 0
TIMES = len(TIMESCALES) + len(FRACTIONS) + 1
SIGNALS = 4
INPUTS = ("grad", "momentum", "rms_grad", "adam", "param")
GROUPS = ("matrices", "vectors")


class SpectralState(NamedTuple):
    """State of the optimizer.

    Attributes:
      count: i32[], the number of updates so far.
      acc: for each leaf of the parameters, its Accumulators; those that nothing reads are None.
      outputs: for each leaf, the running mean square of each output's orthogonalised steps, f32[outputs];
        None where it is not kept.
      signals: f32[M, 2], for each of M leaves running means of the squared norm of its gradient, and of
        the cosine between its gradient and the momentum before it.
    """

    count: jax.Array
    acc: Any
    outputs: Any
    signals: jax.Array


@checked
def spectral(
    *,
    learning_rate: Annotated[float, Gt(0)] = 0.03,
    vector_rate: Annotated[float, Gt(0)] = 0.3,
    embedding_rate: Annotated[float, Gt(0)] | None = None,
    embeddings: str = EMBEDDINGS,
    weight_decay: Annotated[float, Ge(0)] = 0.01,
    equalise: bool = True,
    schedule: Literal["learned", "constant"] = "learned",
    limit: Annotated[float, Gt(0)] = 3.0,
    hidden: Annotated[int, Ge(0)] = 0,
    fused_from: Annotated[int, Ge(0)] = LARGE,
) -> LearnedOptimizer:
    """Muon and AdamW with a learned schedule, at step sizes that transfer over width.

    `matrices: p <- p - r (sqrt(max(1, outputs / inputs)) O + weight_decay p)`
    `vectors:  p <- p - r (vector_rate A + weight_decay p)`
    `r = learning_rate * base(t / T) * exp(clip(w @ times + u @ signals))`

    O is the orthogonalised Nesterov momentum (.95) of a matrix, as in Muon; the last axis of a tensor is its
    outputs, all others together are its inputs, those of a kernel too. Where there are more outputs than
    inputs, O's columns are equalised: each is divided by the root of its running mean square (.95), as in
    NorMuon. A is Adam's bias-corrected direction
    (.95, .99). The factor sqrt(max(1, outputs / inputs)) makes a step change the layer's output by as much
    at any width, so that one learning rate serves networks of all sizes. base rises over the first 5 % of
    the training and falls along a cosine to 0 at its end. At initialisation w = u = 0: the optimizer is
    NorMuon with AdamW.
    What is learned is a schedule for the matrices and one for everything else, each linear in the time t (11
    scales), t / T (9 fractions) and log T, and linear in signals of the noise that a tensor's gradients have
    (`noise_signals`), its own and the mean over all tensors; it is clipped, and always ends at 0.
    With `hidden`, an MLP of that width gives each parameter a correction to the momentum before it is
    orthogonalised, and to A, whose size it leaves as it was: the network chooses a direction, never a size.
    theta (50 meta-parameters at the defaults): `schedule.{matrices,vectors}` f32[21],
    `signals.{matrices,vectors}` f32[4]; with `hidden`, `nn/~/{w,b}{0,1}`.

    Args:
      learning_rate: r at its peak, at initialisation; > 0.
      vector_rate: Adam's learning rate over r; > 0.
      embedding_rate: the same for embeddings; None steps them as matrices.
      embeddings: regular expression that finds embeddings by their path, case ignored; see `kinds`.
      weight_decay: decoupled, multiplied by r; >= 0.
      equalise: whether the outputs of O are equalised; without it the optimizer is Muon at initialisation.
      schedule: "constant" leaves schedule and signals out, r = learning_rate at every step; then the horizon
        is not needed. For a schedule of your own, chain `optax.scale_by_schedule` after it.
      limit: the learned logarithm of r is at most this, and at least its negative; > 0.
      hidden: width of the hidden layer; 0 for no network.
      fused_from: tensors of at least so many elements pass the network without an array of their features.

    Returns:
      The learned optimizer; it does not look at the loss. State: 4 bytes a parameter for matrices, 8 for
      others; with a network 12 for all.

    Inputs: see above; to the network, gradient, momenta (.95 and .7), both over Adam's root, and parameter,
    each of RMS 1 over its tensor; and the signals of its tensor.
    Outputs: two schedules, and with `hidden` a direction for each parameter.
    Source: this project, from Muon (Jordan et al. 2024). Differs from it in: the factor of the step (Muon's
    authors have sqrt(max(1, rows / columns)), for weights that are applied from the left, as here), a lower
    momentum and squares for vectors, and everything learned.
    """
    constant = schedule == "constant"
    path_matcher("embeddings", embeddings, "/")  # refuses what is not a regular expression

    def decays(kind):
        if hidden:
            return Decays((MOMENTUM, FAST), (RMS,))
        return Decays((MOMENTUM,), (RMS,) if adam_steps(kind) else ())

    def adam_steps(kind):
        return kind == "vector" or (kind == "embedding" and embedding_rate is not None)

    def kept(kind, p):
        """Whether the outputs of a step are equalised: those of a tall matrix are equal already."""
        return equalise and not adam_steps(kind) and p.shape[-1] ** 2 > p.size

    def network(tensors, shared):
        layers = [dense(fan_in(INPUTS, tensors, shared), hidden, "0"), dense(hidden, 1, "1", scale=0.0)]
        return per_parameter_mlp(INPUTS, tensors, layers, shared, fused_from=fused_from)

    net = hk.without_apply_rng(hk.transform(network))

    def init(key):
        theta = {
            "schedule": {group: jnp.zeros(TIMES) for group in GROUPS},
            "signals": {group: jnp.zeros(SIGNALS) for group in GROUPS},
        }
        if hidden:
            theta["nn"] = net.init(key, [dummy_tensor(decays("matrix"))], jnp.zeros([1, SIGNALS]))
        return theta

    def init_state(params):
        leaves, tree = jax.tree.flatten(params)
        which = kinds(params, embeddings)
        acc = [init_accumulators(p, decays(kind)) for p, kind in zip(leaves, which, strict=True)]
        outputs = [
            jnp.zeros(p.shape[-1:]) if kept(kind, p) else None for p, kind in zip(leaves, which, strict=True)
        ]
        count = jnp.zeros([], jnp.int32)
        return SpectralState(count, tree.unflatten(acc), tree.unflatten(outputs), jnp.zeros([len(leaves), 2]))

    def directions(theta, tensors, which, state, signals):
        """Of each tensor, `O` scaled, or `vector_rate A`; and the outputs' mean squares."""
        nesterov = [MOMENTUM * t.acc.momentum[..., 0] + (1 - MOMENTUM) * t.grad for t in tensors]
        found = [
            adam_direction(t, state.count, MOMENTUM, RMS) if adam_steps(kind) else n
            for t, n, kind in zip(tensors, nesterov, which, strict=True)
        ]
        if hidden:
            corrections = net.apply(theta["nn"], tensors, signals)
            found = [corrected(d, o[..., 0]) for d, o in zip(found, corrections, strict=True)]
        matrices = [i for i, kind in enumerate(which) if not adam_steps(kind)]
        orthogonal = dict(zip(matrices, orthogonalised([found[i] for i in matrices]), strict=True))
        tree = jax.tree.structure(state.outputs, is_leaf=lambda x: x is None)
        outputs = tree.flatten_up_to(state.outputs)
        rates = {"vector": vector_rate, "embedding": embedding_rate}
        for i, direction in enumerate(found):
            if i not in orthogonal:
                found[i] = rates[which[i]] * direction
                continue
            step = orthogonal[i]
            if outputs[i] is not None:
                outputs[i] = MOMENTUM * outputs[i] + (1 - MOMENTUM) * mean_square_of_outputs(step)
                step = equalised(step, outputs[i])
            found[i] = spectral_scale(step.shape) * step
        return found, tree.unflatten(outputs)

    def build(theta, num_steps=None):
        def update(grads, state, params, value):
            del value
            which = kinds(params, embeddings)
            tensors, state = _observe(grads, state, params, [decays(kind) for kind in which])
            signals = noise_signals(tensors, state)
            rates = jnp.full(len(tensors), learning_rate)
            if not constant:
                base = learning_rate * warmup_cosine(state.count - 1, num_steps)
                rates = base * _factors(theta, which, signals, state.count, num_steps, limit)
            steps, outputs = directions(theta, tensors, which, state, signals)
            steps = [
                -rate * (d + weight_decay * t.param) for rate, d, t in zip(rates, steps, tensors, strict=True)
            ]
            return tree_like(steps, params), state._replace(outputs=outputs)

        needs = ("params",) if constant else ("params", "num_steps")
        return transformation("spectral", init_state, update, needs=needs, num_steps=num_steps)

    return LearnedOptimizer(init, build, needs=() if constant else ("num_steps",))


def warmup_cosine(count: Any, num_steps: Any) -> jax.Array:
    """f32[] in [0, 1]: rises linearly over the first 5 % of the steps, then falls along a cosine to 0 at T.

    Args:
      count: i32[], updates so far, 0 at the first, whose rate is one step up.
      num_steps: T.
    """
    rise = jnp.maximum(1.0, jnp.round(WARMUP * jnp.asarray(num_steps, jnp.float32)))
    done = jnp.clip((count + 1 - rise) / jnp.maximum(num_steps + 1 - rise, 1.0), 0.0, 1.0)
    return jnp.minimum((count + 1) / rise, 1.0) * 0.5 * (1 + jnp.cos(jnp.pi * done))


def noise_signals(tensors: list[Tensor], state: SpectralState) -> jax.Array:
    """f32[M, 4]: two signals of each tensor's noise, and the means of both over all tensors.

    The first is 1 plus the logarithm of the momentum's norm over the gradients' root mean squared norm: 1
    where all gradients agree, -.8 where there is only noise. The second is the running mean of the cosine
    between a gradient and the momentum before it, which is negative where steps overshoot.
    """
    momenta = jnp.stack([jnp.sum(jnp.square(t.acc.momentum[..., 0])) for t in tensors])
    own = jnp.stack(
        [1 + 0.5 * jnp.log((momenta + 1e-20) / (state.signals[:, 0] + 1e-20)), state.signals[:, 1]], -1
    )
    return jnp.concatenate([own, jnp.broadcast_to(jnp.mean(own, 0), own.shape)], -1)


def corrected(direction: jax.Array, correction: jax.Array) -> jax.Array:
    """The direction plus a correction in units of its root mean square, which stays as it was."""
    size = jnp.sqrt(jnp.mean(jnp.square(direction)) + 1e-30)
    turned = direction + size * correction
    return turned * size / jnp.sqrt(jnp.mean(jnp.square(turned)) + 1e-30)


def _factors(theta, which, signals, count, num_steps, limit):
    """f32[M]: exp of what the schedule says of each tensor."""
    log_t = jnp.log(jnp.asarray(num_steps, jnp.float32) / USUAL)[None]
    times = jnp.concatenate([time_embedding(count), fraction_embedding(count, num_steps), log_t])
    level = {group: theta["schedule"][group] @ times + signals @ theta["signals"][group] for group in GROUPS}
    vectors = jnp.array([kind == "vector" for kind in which])
    return jnp.exp(jnp.clip(jnp.where(vectors, level["vectors"], level["matrices"]), -limit, limit))


def _observe(grads, state, params, decays):
    """The tensors, and the state after the gradients."""
    leaves, tree = jax.tree.flatten(params)
    tensors, accs, signals = [], [], []
    old_accs = tree.flatten_up_to(state.acc)
    for g, p, old, d, seen in zip(
        jax.tree.leaves(grads), leaves, old_accs, decays, state.signals, strict=True
    ):
        acc = accumulate(old, g, d)
        if g.size >= LARGE:
            acc = jax.lax.optimization_barrier(acc)  # else it is computed again by each of its readers
        g = jnp.atleast_1d(g)
        before, square = old.momentum[..., 0], jnp.sum(jnp.square(g))
        norms = jax.lax.rsqrt(square + 1e-30) * jax.lax.rsqrt(jnp.sum(jnp.square(before)) + 1e-30)
        new = jnp.stack([square, jnp.sum(g * before) * norms])
        signals.append(MOMENTUM * seen + (1 - MOMENTUM) * new)
        accs.append(acc)
        tensors.append(make_tensor(g, p, acc))
    state = state._replace(count=state.count + 1, acc=tree.unflatten(accs), signals=jnp.stack(signals))
    return tensors, state
