# %% [markdown]
# # Your own task and estimator
#
# A task family, an estimator or a learned optimizer of your own is one function in a file of your own. This
# tutorial writes a family of tasks and an estimator, checks both, and meta-trains with them by their names,
# without touching the installed package.
#
# ## A family of tasks
#
# A `Task` has two functions: initial parameters, and a loss whose key picks the minibatch. A `TaskFamily`
# draws tasks of the same shapes. The keyword-only parameters of the function are its options in a config.
# Here the task is to fit a line, and every task of the family has another slope.

# %%
import inspect
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import meta_train
import tasks
from meta_train.core import perturb
from meta_train.core.estimator import OneParticle, from_particle
from meta_train.core.system import UnrolledSystem, begin_window, check_truncation, finished, start, unroll
from tasks import Task, TaskFamily


# %%
def line_fit(*, batch_size: int = 16, noise: float = 0.1):
    """Fit a line whose slope is drawn with the task, from noisy points that are drawn at every step."""

    def task(slope):
        def init(key):
            return {"w": jax.random.normal(key), "b": jnp.zeros([])}

        def loss(params, key, data):
            key_x, key_noise = jax.random.split(key)
            x = jax.random.normal(key_x, (batch_size,))
            y = slope * x + noise * jax.random.normal(key_noise, (batch_size,))
            return jnp.mean((params["w"] * x + params["b"] - y) ** 2)

        return Task(init, loss)

    return TaskFamily(sample=jax.random.normal, task=task, data={"train": (), "valid": ()})


# %% [markdown]
# `check_family` takes a family at its word: shapes, finite losses, the same loss for the same key, and so
# on. It raises if something is wrong.

# %%
tasks.check_family(line_fit())

# %% [markdown]
# ## An estimator
#
# An estimator sees an `UnrolledSystem`, not a task. Its rule is written for one particle, and
# `from_particle` makes N of them and averages. This one is PES with one perturbed rollout and one that is
# not perturbed, in place of an antithetic pair: `xi <- xi + eps / sigma^2; grad = xi * mean(L(theta + eps)
# - L(theta))`.


# %%
def forward_pes(
    system, *, num_particles: int = 16, truncation_length: int = 10, sigma: float = 0.01, stagger: bool = True
):
    """Persistent evolution strategies with a one-sided difference."""
    check_truncation(system, truncation_length)

    def init_one(theta, key):
        rollout = start(system, theta, key, stagger=truncation_length if stagger else None)
        return rollout, rollout, perturb.zeros_like(theta)

    def estimate_one(theta, state, key, data):
        moved, still, xi = state
        key_restart, key_eps, key_unroll = jax.random.split(key, 3)
        restarted = finished(moved) | finished(still)
        noise = perturb.gaussian_like(key_eps, theta)
        xi = perturb.where(restarted, perturb.zeros_like(theta), xi)
        xi = perturb.add_scaled(xi, 1 / sigma, noise)

        def window(theta, rollout):  # both see the same keys
            rollout = begin_window(system, theta, rollout, restarted, key_restart)
            return unroll(system, theta, rollout, key_unroll, data, truncation_length)

        moved, losses = window(perturb.add_scaled(theta, sigma, noise), moved)
        still, base = window(theta, still)
        delta = (losses - base).mean()
        one = OneParticle(
            direction=xi,
            weight=delta,
            loss=base.mean(),
            delta=delta,
            restarted=restarted,
            diverged=moved.diverged | still.diverged,
            sigma=sigma,
        )
        return one, (moved, still, xi)

    return from_particle(init_one, estimate_one, num_particles, 2 * truncation_length)


# %% [markdown]
# ## Is it right?
#
# First on a system whose gradient is known: `s <- s + theta`, and s is the loss. Over T = 20 steps the
# gradient of the mean loss is (T + 1) / 2 = 10.5; within windows of 5 steps it would be 3.

# %% tags=["parameters"]
PARTICLES, FULL_CHECK = 50_000, True
OVERRIDES = []

# %%
counter = UnrolledSystem(
    lambda theta, key: (jnp.zeros([]), jnp.int32(20)),
    lambda theta, s, key, data: (s + theta, s + theta),
    20,
    20,
)
estimator = forward_pes(counter, num_particles=PARTICLES, truncation_length=5, sigma=0.1)
state = estimator.init(jnp.float32(0.3), jax.random.key(0))
estimate, grads = jax.jit(estimator.estimate), []
for number in range(12):
    found, state = estimate(jnp.float32(0.3), state, jax.random.key(number), ())
    grads.append(float(found.grad))
print(f"mean of the last 8 windows: {np.mean(grads[4:]):.2f}")

# %% [markdown]
# Then `check_estimator`: about twenty checks on systems with closed-form gradients, of the mean, of
# restarts, of randomness, of the outer loop. `smoothing="window"` is what PES claims: its mean is the
# gradient smoothed by independent noise in every window. It takes some minutes.

# %%
if FULL_CHECK:
    checks = meta_train.check_estimator(forward_pes, smoothing="window")
    for name, check in checks.items():
        print("passed" if check.passed else "FAILED", name, f"({check.detail})" if not check.passed else "")

# %% [markdown]
# Two checks did not pass, both for their standard error (s.e.), which must be under 1 %; their means agree
# with the truth (|z| is about 1). A one-sided difference is noisier than an antithetic pair, so these
# checks need more than the usual 50,000 samples: `num_samples=100_000`. A wrong estimator looks different:
# a first version of this function always staggered its particles, so that the checks could not begin with
# inner problems of full length, and their |z| was 16 to 99.
#
# ## Into a file, and into a config
#
# A config names a piece of your own as `FILE.py:FACTORY`, relative to the config, or
# `PACKAGE.MODULE:FACTORY`. We write what we have into `mine.py`. In a project of yours it would be there
# already.

# %%
HEAD = """import jax
import jax.numpy as jnp

from meta_train.core import perturb
from meta_train.core.estimator import OneParticle, from_particle
from meta_train.core.system import begin_window, check_truncation, finished, start, unroll
from tasks import Task, TaskFamily


"""
CONFIG = """
outer_steps: 300
tasks: [{name: "mine.py:line_fit", batch_size: 8}]
learned_optimizer: {name: learnable_sgd, initial_lr: 0.01}
inner: {unroll_length: 40}
estimator: {name: "mine.py:forward_pes", num_particles: 32, truncation_length: 10, sigma: 0.1}
outer_optimizer: {name: adam, learning_rate: 0.03}
logging: {every: 5}
"""
Path("mine.py").write_text(HEAD + inspect.getsource(line_fit) + "\n\n" + inspect.getsource(forward_pes))
Path("mine.yaml").write_text(CONFIG)
config = meta_train.load_config("mine.yaml", OVERRIDES)

# %% [markdown]
# Options of your factories are validated like those of any other: a wrong one is refused in a line.

# %%
try:
    meta_train.load_config("mine.yaml", ["tasks.0.batch_size=many"])
except Exception as error:
    print(error)

# %% [markdown]
# ## Train
#
# Without a directory a run keeps everything in memory. With one, it records the digest of `mine.py`: a
# resumed run, an evaluation and an export find your file again, and say so if it has changed.

# %% alt="Mean loss of the inner trainings against outer steps"
result = meta_train.train(config, None)
plt.plot(result.metrics["step"], result.metrics["loss"])
plt.xlabel("outer steps")
plt.ylabel("mean log loss of a window")
plt.show()
print({name: round(float(value), 3) for name, value in result.theta.items()})

# %% [markdown]
# ## Where to go from here
#
# * [Extending](../extending.md): learned optimizers, outer optimizers and population trainers of your own,
#   installed packages, and what a config that runs code means for trust.
# * [Checking an estimator](../check_estimator.md): what the checks see and what they cannot see.
# * `meta-train new estimator NAME` writes such a file and its test, and `meta-train check
#   mine.py:forward_pes --smoothing window` is the check from the command line.
# * [What truncation does](truncation.md), with three of the estimators that come with the package.
