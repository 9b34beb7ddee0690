"""The spectral optimizer: Muon and Adam with a learned schedule; its step sizes transfer over width."""

import math
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
from annotated_types import Ge, Gt

from learned_opt.architectures.blocks import adam_direction
from learned_opt.architectures.features import (
    LARGE,
    Decays,
    accumulate,
    init_accumulators,
    make_tensor,
)
from learned_opt.architectures.learned_rate import (
    GROUPS,
    SIGNALS,
    TIMES,
    Signals,
    group_of,
    init_signals,
    learned_rates,
    log_steps,
    noise_signals,
    observed,
    width_inputs,
)
from learned_opt.architectures.network import dense, dummy_tensor, fan_in, per_parameter_mlp, tree_like
from learned_opt.architectures.options import checked, path_matcher
from learned_opt.architectures.orthogonal import (
    Kind,
    equalised,
    kinds,
    mean_square_of_outputs,
    orthogonalised,
    spectral_scale,
)
from learned_opt.architectures.transformation import transformation
from learned_opt.base import LearnedOptimizer

EMBEDDINGS = r"embed|position|\bw[tp]e\b"
MOMENTUM, FAST, RMS, OUTPUTS = 0.95, 0.7, 0.99, 0.95  # decays
DECAYS = 6.0  # the learned logarithm of the weight decay is clipped to this and its negative
INPUTS = ("grad", "momentum", "rms_grad", "adam", "param")


class SpectralState(NamedTuple):
    """State of the optimizer.

    Attributes:
      count: i32[], the number of updates so far.
      acc: for each leaf of the parameters, its Accumulators; those that nothing reads are None.
      outputs: for each leaf, the running mean square of each output's orthogonalised steps, f32[outputs];
        None where it is not kept.
      signals: what is kept of the gradients of each leaf, see `learned_rate.Signals`.
    """

    count: jax.Array
    acc: Any
    outputs: Any
    signals: Signals


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

    `matrices: p <- p - r (sqrt(max(1, outputs / inputs)) O + decay p)`
    `vectors:  p <- p - r (vector_rate A + decay p)`
    `r = learning_rate * base(t / T) * exp(clip(w @ times + u @ signals + v @ widths))`

    O is the orthogonalised Nesterov momentum of a matrix, as in Muon; the last axis of a tensor is its
    outputs, all others together are its inputs, those of a kernel too. Where there are more outputs than
    inputs, O's columns are equalised: each is divided by the root of its running mean square (.95), as in
    NorMuon. A is Adam's bias-corrected direction (the decay of its squares is .99). The factor
    sqrt(max(1, outputs / inputs)) makes a step change the layer's output by as much at any width, so that
    one learning rate serves networks of all sizes. base rises over the first 5 % of the training and falls
    along a cosine to 0 at its end. At initialisation everything learned is 0: the optimizer is NorMuon with
    AdamW, momentum .95, decay `weight_decay`.
    What is learned, for matrices, for kernels (rank 3 and higher) and for everything else: a schedule that is
    linear in the time t (11 scales), t / T (9 fractions) and log T, and a rate that follows signals of the
    tensor's gradients (`noise_signals`), its own and the means over all tensors. It is clipped, and always
    ends at 0. Besides, the momentum, a factor on the weight decay and how that depends on log T and on t / T,
    and two powers of the width of a matrix, below and above 64.
    With `hidden`, an MLP of that width gives each parameter a correction to the momentum before it is
    orthogonalised, and to A, whose size it leaves as it was: the network chooses a direction, never a size.
    theta (87 meta-parameters at the defaults): `schedule.{matrices,kernels,vectors}` f32[21],
    `signals.{matrices,kernels,vectors}` f32[6], `width` f32[2], `weight_decay` f32[3], `momentum` f32[];
    with `hidden`, `nn/~/{w,b}{0,1}`.

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

    Inputs: the time t, t / T and log T, the width, and three signals of each tensor's gradients; with a
    network, for each parameter, gradient, momenta (.95 and .7), these over Adam's root, and the parameter,
    each of RMS 1 over its tensor.
    Outputs: three schedules, and with `hidden` a direction for each parameter.
    Source: this project, from Muon (Jordan et al. 2024). Differs from it in: the factor of the step (Muon's
    authors have sqrt(max(1, rows / columns)), for weights that are applied from the left, as here), a lower
    momentum and squares for vectors, and everything learned.
    """
    constant = schedule == "constant"
    path_matcher("embeddings", embeddings, "/")  # refuses what is not a regular expression
    rule = _Rule(vector_rate, embedding_rate, embeddings, equalise, bool(hidden))

    def network(tensors, shared):
        layers = [dense(fan_in(INPUTS, tensors, shared), hidden, "0"), dense(hidden, 1, "1", scale=0.0)]
        return per_parameter_mlp(INPUTS, tensors, layers, shared, fused_from=fused_from)

    net = hk.without_apply_rng(hk.transform(network))

    def init(key):
        theta: dict[str, Any] = {
            "schedule": {group: jnp.zeros(TIMES) for group in GROUPS},
            "signals": {group: jnp.zeros(SIGNALS) for group in GROUPS},
            "momentum": jnp.zeros([]),
            "width": jnp.zeros(2),
            "weight_decay": jnp.zeros(3),
        }
        if hidden:
            theta["nn"] = net.init(key, [dummy_tensor(rule.decays("matrix"))], jnp.zeros([1, SIGNALS]))
        return theta

    def build(theta, num_steps=None):
        horizon = None if constant else num_steps
        momentum = jax.nn.sigmoid(math.log(MOMENTUM / (1 - MOMENTUM)) + theta["momentum"])

        def update(grads, state, params, value):
            del value
            which = kinds(params, embeddings)
            decays = [rule.decays(kind, momentum) for kind in which]
            tensors, state = _observe(grads, state, params, decays, horizon)
            signals = noise_signals(tensors, state.signals)
            rates, decay = jnp.full(len(tensors), learning_rate), weight_decay
            if not constant:
                groups, widths = _groups_and_widths(tensors, which)
                rates = learning_rate * learned_rates(
                    theta, groups, widths, signals, state.count - 1, num_steps, limit
                )
                of = jnp.stack([jnp.ones([]), log_steps(num_steps), 2 * state.count / num_steps - 1])
                log_decay = theta["weight_decay"] @ of
                decay = weight_decay * jnp.exp(jnp.clip(log_decay, -DECAYS, DECAYS))
            found = _before_orthogonalisation(rule, tensors, which, state.count, momentum)
            if hidden:
                corrections = net.apply(theta["nn"], tensors, signals)
                found = [corrected(d, o[..., 0]) for d, o in zip(found, corrections, strict=True)]
            found, outputs = _directions(rule, found, which, state.outputs)
            steps = [-rate * (d + decay * t.param) for rate, d, t in zip(rates, found, tensors, strict=True)]
            return tree_like(steps, params), state._replace(outputs=outputs)

        init_fn = partial(_init_state, rule=rule)
        needs = ("params",) if constant else ("params", "num_steps")
        return transformation("spectral", init_fn, update, needs=needs, num_steps=num_steps)

    return LearnedOptimizer(init, build, needs=() if constant else ("num_steps",))


class _Rule(NamedTuple):
    """Options of `spectral` that say which tensor is stepped how."""

    vector_rate: float
    embedding_rate: float | None
    embeddings: str
    equalise: bool
    network: bool

    def by_adam(self, kind: Kind) -> bool:
        return kind == "vector" or (kind == "embedding" and self.embedding_rate is not None)

    def decays(self, kind: Kind, momentum: Any = MOMENTUM) -> Decays:
        if self.network:
            return Decays((momentum, FAST), (RMS,))
        return Decays((momentum,), (RMS,) if self.by_adam(kind) else ())

    def equalises(self, kind: Kind, p: jax.Array) -> bool:
        """Those of a matrix with fewer outputs than inputs are equal already."""
        return self.equalise and not self.by_adam(kind) and p.shape[-1] ** 2 > p.size


def _init_state(params: Any, rule: _Rule) -> SpectralState:
    leaves, tree = jax.tree.flatten(params)
    which = kinds(params, rule.embeddings)
    acc, outputs = [], []
    for p, kind in zip(leaves, which, strict=True):
        acc.append(init_accumulators(p, rule.decays(kind)))
        outputs.append(jnp.zeros(p.shape[-1:]) if rule.equalises(kind, p) else None)
    count = jnp.zeros([], jnp.int32)
    return SpectralState(count, tree.unflatten(acc), tree.unflatten(outputs), init_signals(len(leaves)))


def _before_orthogonalisation(rule, tensors, which, count, momentum):
    """Adam's direction, or the Nesterov momentum of a matrix."""
    return [
        adam_direction(t, count, momentum, RMS)
        if rule.by_adam(kind)
        else momentum * t.acc.momentum[..., 0] + (1 - momentum) * t.grad
        for t, kind in zip(tensors, which, strict=True)
    ]


def _directions(rule, found, which, outputs):
    """Of each tensor, O scaled, or Adam's direction times its rate; and the outputs' mean squares."""
    matrices = [i for i, kind in enumerate(which) if not rule.by_adam(kind)]
    orthogonal = dict(zip(matrices, orthogonalised([found[i] for i in matrices]), strict=True))
    tree = jax.tree.structure(outputs, is_leaf=lambda x: x is None)
    squares, steps = tree.flatten_up_to(outputs), []
    for i, direction in enumerate(found):
        if i not in orthogonal:
            steps.append((rule.vector_rate if which[i] == "vector" else rule.embedding_rate) * direction)
            continue
        step = orthogonal[i]
        if squares[i] is not None:
            squares[i] = OUTPUTS * squares[i] + (1 - OUTPUTS) * mean_square_of_outputs(step)
            step = equalised(step, squares[i])
        steps.append(spectral_scale(step.shape) * step)
    return steps, tree.unflatten(squares)


def corrected(direction: jax.Array, correction: jax.Array) -> jax.Array:
    """The direction plus a correction in units of its root mean square, which stays as it was."""
    size = jnp.sqrt(jnp.mean(jnp.square(direction)) + 1e-30)
    turned = direction + size * correction
    return turned * size / jnp.sqrt(jnp.mean(jnp.square(turned)) + 1e-30)


def _groups_and_widths(tensors, which):
    """Of each tensor, its index in GROUPS and its inputs of the width."""
    shapes = [t.param.shape for t in tensors]
    vectors = [kind == "vector" for kind in which]
    groups = [group_of(shape, vector) for shape, vector in zip(shapes, vectors, strict=True)]
    return groups, [width_inputs(shape, vector) for shape, vector in zip(shapes, vectors, strict=True)]


def _observe(grads, state, params, decays, num_steps):
    """The tensors, and the state after the gradients."""
    leaves, tree = jax.tree.flatten(params)
    tensors, accs, squares, cosines = [], [], [], []
    old_accs = tree.flatten_up_to(state.acc)
    for g, p, old, d in zip(jax.tree.leaves(grads), leaves, old_accs, decays, strict=True):
        acc = accumulate(old, g, d)
        if g.size >= LARGE:
            acc = jax.lax.optimization_barrier(acc)  # else it is computed again by each of its readers
        g = jnp.atleast_1d(g)
        before, square = old.momentum[..., 0], jnp.sum(jnp.square(g))
        # The floor keeps derivatives finite: before the first update the momentum is 0.
        norms = [jax.lax.rsqrt(jnp.maximum(x, 1e-20)) for x in (square, jnp.sum(jnp.square(before)))]
        squares.append(square)
        cosines.append(jnp.sum(g * before) * norms[0] * norms[1])
        accs.append(acc)
        tensors.append(make_tensor(g, p, acc))
    signals = observed(state.signals, jnp.stack(squares), jnp.stack(cosines), num_steps)
    return tensors, state._replace(count=state.count + 1, acc=tree.unflatten(accs), signals=signals)
