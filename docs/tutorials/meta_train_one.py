# %% [markdown]
# # Meta-train one in five minutes
#
# This tutorial meta-trains a small learned optimizer, looks at how that went, compares the result with a
# tuned Adam on tasks that it has not seen, and writes it as an artefact that drops into an optax loop. All
# of it is Python; each step has a command of `meta-train` as well.
#
# ## What to train
#
# A run is described by a config. The optimizer is `residual` with 439 meta-parameters: at initialisation it
# is Adam, and it learns a schedule and corrections for each parameter. Its inner problems are small
# networks that classify handwritten digits, and data that other random networks labelled.

# %%
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import learned_opt
import meta_train

CONFIG = """
outer_steps: 1500
tasks:
  - {name: image_mlp, label: digits, hidden: [32], datasets: ["digits[:1200]"]}
  - {name: image_mlp, label: teachers, hidden: [32], datasets: ["teacher:1", "teacher:2", "teacher:3"]}
learned_optimizer: {name: residual, hidden: 8}
inner:
  unroll_length: {min: 100, max: 300}      # T, the steps of an inner training
  objective: {loss: train, offset: 0.002}  # the mean of log(loss + offset) over these steps
estimator: {name: nres, num_particles: 4, truncation_length: 20, sigma: 0.02, delta_clip: 1.0}
outer_optimizer:
  {name: adam, learning_rate: {schedule: cosine, init_value: 0.003, alpha: 0.02}, clip_norm: 1.0, ema: 0.99}
evaluation: {tasks: held_out, horizons: [200], num_seeds: 3}
logging: {every: 10}
"""

# %% [markdown]
# `load_config` reads it, with overrides if you like, and reports every mistake in it before anything
# compiles.

# %% tags=["parameters"]
OVERRIDES = []  # "seed=1", "estimator.sigma=0.01"
RIVALS = ["adam", "adam_cosine"]
HORIZONS = [200]

# %%
Path("mine.yaml").write_text(CONFIG)
config = meta_train.load_config("mine.yaml", OVERRIDES)

# %% [markdown]
# ## Train
#
# The run's directory holds its config, its checkpoints and its metrics. After an interruption,
# `train(config, directory, resume=True)` continues in the same bits.

# %%
directory = Path("runs/mine")
result = meta_train.train(config, directory)
print(f"{result.outer_steps} outer steps in {result.seconds:.0f} s")
print(f"the first after {result.start_seconds:.0f} s")

# %% [markdown]
# ## Look at it
#
# `result.metrics` has one array for each metric, with a number for every tenth outer step, as
# `metrics.jsonl` in the directory has it. The losses are noisy, because each outer step sees other windows
# of other tasks; their average falls. The signal-to-noise ratio of the outer gradient says whether more
# particles would help.


# %% alt="Meta-loss of both families and the signal-to-noise ratio of the outer gradient, against outer steps"
def smooth(values, n=20):
    return np.convolve(values, np.ones(n) / n, "valid") if len(values) >= n else values


figure, (left, right) = plt.subplots(1, 2)
for family in ("digits", "teachers"):
    left.plot(smooth(result.metrics[f"{family}/loss"]), label=family)
    right.plot(smooth(result.metrics[f"{family}/snr"]), label=family)
left.set(xlabel="outer steps / 10", ylabel="mean log loss of a window")
right.set(xlabel="outer steps / 10", ylabel="SNR of the gradient")
left.legend()
plt.show()

# %% [markdown]
# ## Is it better than Adam?
#
# The evaluation trains held-out tasks with the new optimizer, and with rivals whose learning rate is tuned
# for each of these tasks, on other seeds. It prints a table, returns the figures, and writes them as JSON,
# CSV, pictures and an HTML page into the run's directory. *Speed-up* is the number of steps that Adam needs
# to reach the learned optimizer's final loss, over the learned optimizer's steps.

# %%
evaluation = meta_train.evaluate(str(directory), options={"rivals": RIVALS, "horizons": HORIZONS})

# %% [markdown]
# What to expect: [the quickstart](../getting-started.md), which trains another rule on two somewhat wider
# families, takes one to two minutes on two idle cores and reaches a speed-up of 2.7 to 2.9. These figures are
# about small networks and the training loss. [Evaluation](../evaluation.md)
# describes the protocol, and [Pretrained optimizers](../pretrained.md) has what longer meta-training
# reached.
#
# ## Use it
#
# The artefact is a directory with the meta-parameters, the options of the architecture, and a card that
# says where it comes from and how well it did.

# %%
for line in meta_train.export(directory, Path("runs/mine/optimizer")):
    print(line)

# %%
tx = learned_opt.load("runs/mine/optimizer", num_steps=200)
x = jax.random.normal(jax.random.key(0), (64, 8))
y = jnp.sin(x @ jnp.linspace(-1.0, 1.0, 8))


def loss_fn(params):
    return jnp.mean((jnp.tanh(x @ params["w"]) @ params["v"] - y) ** 2)


@jax.jit
def step(params, state):
    loss, grads = jax.value_and_grad(loss_fn)(params)
    updates, state = tx.update(grads, state, params, value=loss)
    return optax.apply_updates(params, updates), state, loss


params = {"w": jax.random.normal(jax.random.key(1), (8, 16)) / 3, "v": jnp.zeros(16)}
state = tx.init(params)
for number in range(200):
    params, state, loss = step(params, state)
    if number % 50 == 0 or number == 199:
        print(f"step {number:3}: loss {loss:.4f}")

# %% [markdown]
# ## The same on the command line
#
# ```bash
# meta-train run mine.yaml --out runs/mine
# meta-train evaluate runs/mine
# meta-train export runs/mine --out runs/mine/optimizer
# ```
#
# ## Where to go from here
#
# * `meta_train.diagnose_config(config)` measures which estimator, K and sigma suit your tasks, and how many
#   particles. [Choosing an estimator](../choosing-an-estimator.md) explains the choices.
# * More kinds of tasks make an optimizer that generalises: [what was
#   measured](../what-makes-it-generalise.md).
# * [Your own task and estimator](own_parts.md).
