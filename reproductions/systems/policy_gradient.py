"""A policy-gradient method as a population's trainer: PPO with a Gaussian policy of one hidden layer."""

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from annotated_types import Ge

from meta_train.population.base import Member, Trainer
from reproductions.systems.environments import Environment

Count = Annotated[int, Ge(1)]
CLIP, TRACE, VALUE_COST, MAX_NORM = 0.2, 0.95, 0.5, 1.0


class Actors(NamedTuple):
    """Where the episodes of a member are."""

    states: Any  # of the environment, leaves [E, ...]
    t: jax.Array  # i32[], steps taken in the episode; the same for all of them


class Batch(NamedTuple):
    """A window of L steps of E episodes."""

    seen: jax.Array  # f32[L, E, n]
    actions: jax.Array  # f32[L, E]
    log_probs: jax.Array  # f32[L, E], of the policy that acted
    advantages: jax.Array  # f32[L, E], normalised
    targets: jax.Array  # f32[L, E], of the values


def policy_gradient(
    environment: Environment,
    *,
    hidden: Count = 32,
    num_actors: Count = 16,
    window: Count = 25,
    epochs: Count = 4,
    episodes: Count = 8,
    test_episodes: Count = 64,
) -> Trainer:
    """PPO (Schulman et al. 2017): one step of training is one window and several passes over it.

    Hypers: `learning_rate` of Adam, `entropy_cost`. Fitness is the return of whole episodes with the mean
    action, from the same starts always; the test is the same from other starts.

    Args:
      environment: what is controlled; a window divides the length of its episodes.
      hidden: tanh units of the policy, and of the value.
      num_actors: E, episodes that run side by side.
      window: L, steps of a window; episodes restart between windows.
      epochs: passes over a window, each one gradient of the whole batch.
      episodes: of the fitness.
      test_episodes: of the test.

    Raises:
      ValueError: a window that does not divide the episodes.

    Source: Schulman et al., "Proximal Policy Optimization Algorithms", 2017.
    Differs from it in: no minibatches; one hidden layer each; rewards times (1 - discount) / scale, which
      makes values weighted means of scaled rewards.
    """
    if environment.length % window:
        raise ValueError(f"window must divide an episode of {environment.length} steps, got {window}")

    def init(key, hypers):
        key_weights, key_states = jax.random.split(key)
        states = _reset(environment, key_states, num_actors)
        weights = _init(key_weights, jax.vmap(environment.observe)(states).shape[1], hidden)
        return Member(weights, _optimizer(hypers).init(weights), Actors(states, jnp.int32(0)))

    def step(member, hypers, key, data):
        key_reset, key_act = jax.random.split(key)
        fresh = jax.tree.map(
            lambda a, b: jnp.where(member.inner.t >= environment.length, a, b),
            Actors(_reset(environment, key_reset, num_actors), jnp.int32(0)),
            member.inner,
        )
        actors, batch = _act(environment, member.weights, fresh, key_act, window)

        def pass_over(carry, _):
            weights, opt_state = carry
            grads = jax.grad(ppo_loss)(weights, batch, hypers["entropy_cost"])
            updates, opt_state = _optimizer(hypers).update(grads, opt_state, weights)
            return (optax.apply_updates(weights, updates), opt_state), None

        begin = (member.weights, member.opt_state)
        (weights, opt_state), _ = jax.lax.scan(pass_over, begin, length=epochs)
        return Member(weights, opt_state, actors)

    return Trainer(
        init,
        step,
        lambda member, data: _mean_return(environment, member.weights, episodes, 1),
        hypers=("learning_rate", "entropy_cost"),
        required=("learning_rate", "entropy_cost"),
        test=lambda member, data: {"return": _mean_return(environment, member.weights, test_episodes, 2)},
    )


def _optimizer(hypers):
    adam = optax.adam(hypers["learning_rate"])
    return optax.chain(optax.clip_by_global_norm(MAX_NORM), adam)


def _reset(environment, key, n):
    return jax.vmap(environment.reset)(jax.random.split(key, n))


def _mean_return(environment, weights, n, seed):
    """f32[]: of n whole episodes with the mean action, from the starts that the seed names."""

    def move(states, _):
        means = _mean(weights, jax.vmap(environment.observe)(states))
        return jax.vmap(environment.step)(states, means)

    starts = _reset(environment, jax.random.key(seed), n)
    return jax.lax.scan(move, starts, length=environment.length)[1].sum(0).mean()


def _init(key: jax.Array, inputs: int, hidden: int) -> dict[str, Any]:
    keys = jax.random.split(key, 3)

    def layer(key):
        return {"w": jax.random.normal(key, (inputs, hidden)) * 1.5 / inputs**0.5, "b": jnp.zeros(hidden)}

    return {
        "policy": layer(keys[0]) | {"out": 0.1 * jax.random.normal(keys[1], (hidden,)) / hidden**0.5},
        "value": layer(keys[2]) | {"out": jnp.zeros(hidden)},
        "log_std": jnp.zeros([]) - 0.5,
    }


def _mean(weights, seen):
    return jnp.tanh(seen @ weights["policy"]["w"] + weights["policy"]["b"]) @ weights["policy"]["out"]


def _value(weights, seen):
    return jnp.tanh(seen @ weights["value"]["w"] + weights["value"]["b"]) @ weights["value"]["out"]


def log_prob(mean: jax.Array, log_std: jax.Array, action: jax.Array) -> jax.Array:
    """Log density of a normal distribution, elementwise."""
    return -0.5 * jnp.square((action - mean) * jnp.exp(-log_std)) - log_std - 0.5 * jnp.log(2 * jnp.pi)


def entropy(log_std: jax.Array) -> jax.Array:
    """Entropy of a normal distribution, elementwise."""
    return log_std + 0.5 * jnp.log(2 * jnp.pi * jnp.e)


def _act(environment, weights, actors, key, window) -> tuple[Actors, Batch]:
    def move(states, key):
        seen = jax.vmap(environment.observe)(states)
        mean = _mean(weights, seen)
        action = mean + jnp.exp(weights["log_std"]) * jax.random.normal(key, mean.shape)
        states, reward = jax.vmap(environment.step)(states, action)
        return states, (seen, action, log_prob(mean, weights["log_std"], action), reward)

    keys = jax.random.split(key, window)
    states, (seen, actions, log_probs, rewards) = jax.lax.scan(move, actors.states, keys)
    values = _value(weights, jnp.concatenate([seen, jax.vmap(environment.observe)(states)[None]]))
    rewards = rewards * (1 - environment.discount) / environment.scale
    advantages = generalised_advantages(rewards, values, environment.discount, TRACE)
    targets = values[:-1] + advantages
    advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    batch = Batch(seen, actions, log_probs, advantages, targets)
    return Actors(states, actors.t + window), batch


def generalised_advantages(rewards: jax.Array, values: jax.Array, discount: float, trace: float) -> jax.Array:
    """GAE: `A_t = delta_t + discount trace A_{t+1}`, `delta_t = r_t + discount v_{t+1} - v_t`.

    Args:
      rewards: f32[L, ...].
      values: f32[L + 1, ...]; the last one stands for everything after the window.
      discount: per step, in [0, 1].
      trace: lambda, in [0, 1]: 0 for one step's error, 1 for the return minus the value.

    Returns:
      f32[L, ...].

    Source: Schulman et al., "High-Dimensional Continuous Control Using Generalized Advantage Estimation",
      ICLR 2016.
    """
    deltas = rewards + discount * values[1:] - values[:-1]

    def back(later, delta):
        advantage = delta + discount * trace * later
        return advantage, advantage

    return jax.lax.scan(back, jnp.zeros_like(deltas[0]), deltas, reverse=True)[1]


def ppo_loss(weights: dict[str, Any], batch: Batch, entropy_cost: Any) -> jax.Array:
    """f32[]: clipped surrogate, half the squared error of the values, minus the entropy times its cost.

    Its gradient by the policy is that of REINFORCE with a baseline where the policy is the one that acted.
    """
    new = log_prob(_mean(weights, batch.seen), weights["log_std"], batch.actions)
    ratio = jnp.exp(new - batch.log_probs)
    clipped = jnp.clip(ratio, 1 - CLIP, 1 + CLIP)
    gain = jnp.minimum(ratio * batch.advantages, clipped * batch.advantages).mean()
    error = jnp.square(_value(weights, batch.seen) - batch.targets).mean()
    return -gain + VALUE_COST * error - entropy_cost * entropy(weights["log_std"])
