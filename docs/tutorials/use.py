# %% [markdown]
# # Use a learned optimizer in your loop
#
# A trained optimizer is an optax transformation. This tutorial puts one into an ordinary training loop,
# compares it with Adam at several learning rates, and shows the few things in which it is not like Adam.
#
# ## A model and its data
#
# Handwritten digits from scikit-learn, and a network with one hidden layer, in plain JAX. Nothing here is
# particular to learned optimizers.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from sklearn.datasets import load_digits

import learned_opt

images, labels = load_digits(return_X_y=True)
images = jnp.asarray(images / 16.0, jnp.float32)
train, valid = (images[:1200], labels[:1200]), (images[1200:], labels[1200:])


def init(key):
    first, second = jax.random.split(key)
    return {
        "w1": jax.random.normal(first, (64, 128)) / 8.0,
        "b1": jnp.zeros(128),
        "w2": jax.random.normal(second, (128, 10)) / 128**0.5,
        "b2": jnp.zeros(10),
    }


def forward(params, x):
    return jax.nn.relu(x @ params["w1"] + params["b1"]) @ params["w2"] + params["b2"]


def loss_fn(params, x, y):
    return optax.softmax_cross_entropy_with_integer_labels(forward(params, x), y).mean()


# %% [markdown]
# ## The loop
#
# `train_with` is a loop as you would write it for any optax optimizer, on minibatches of 64, with one
# argument more: `value=loss`. Some learned optimizers look at the loss, and `value` is optax's own name for
# it. Adam takes no notice of it once it is wrapped by `optax.with_extra_args_support`.

# %% tags=["parameters"]
NUM_STEPS = 1000


# %%
def train_with(tx, num_steps, seed=0):
    """The training losses, and the accuracy on the validation images at the end."""
    tx = optax.with_extra_args_support(tx)
    params = init(jax.random.key(seed))

    def step(carry, key):
        params, state = carry
        rows = jax.random.randint(key, (64,), 0, len(train[0]))
        loss, grads = jax.value_and_grad(loss_fn)(params, train[0][rows], jnp.asarray(train[1])[rows])
        updates, state = tx.update(grads, state, params, value=loss)
        return (optax.apply_updates(params, updates), state), loss

    keys = jax.random.split(jax.random.key(seed + 1), num_steps)
    (params, _), losses = jax.jit(lambda carry: jax.lax.scan(step, carry, keys))((params, tx.init(params)))
    accuracy = jnp.mean(forward(params, valid[0]).argmax(-1) == valid[1])
    return losses, float(accuracy)


# %% [markdown]
# ## One line
#
# `learned_opt.load` makes the optimizer. `pretrained:general` comes with the package. It wants to know how
# many steps the training will have, because its schedule depends on it, and it needs no learning rate.

# %%
learned = learned_opt.load("pretrained:general", num_steps=NUM_STEPS)
runs = {"pretrained:general": train_with(learned, NUM_STEPS)}
for rate in (1e-4, 1e-3, 1e-2):
    runs[f"Adam, {rate:g}"] = train_with(optax.adam(rate), NUM_STEPS)

for name, (losses, accuracy) in runs.items():
    print(f"{name:20} training loss {losses[-100:].mean():.1e}   validation accuracy {accuracy:.3f}")

# %% alt="Training loss against steps: the learned optimizer and Adam at three learning rates"
window = max(NUM_STEPS // 50, 1)
for name, (losses, _) in runs.items():
    smooth = losses[: len(losses) // window * window].reshape(-1, window).mean(1)
    plt.semilogy(window * jnp.arange(1, len(smooth) + 1), smooth, label=name)
plt.xlabel("steps")
plt.ylabel("training loss")
plt.legend()
plt.show()

# %% [markdown]
# One seed of one task says little. [Evaluation](../evaluation.md) describes a protocol that does: rivals
# that are tuned for each task, several seeds, intervals. [Pretrained optimizers](../pretrained.md) has its
# figures, also those for tasks on which the learned optimizers lose.
#
# ## Its few knobs
#
# The rate is relative to what was learned: 0.5 makes every step half as long. A weight decay replaces the
# learned one, and a schedule of your own replaces the learned one, so that `num_steps` is not needed.

# %%
gentler = learned_opt.load("pretrained:general", num_steps=NUM_STEPS, learning_rate=0.5)
decayed = learned_opt.load(
    "pretrained:general",
    weight_decay=0.1,
    schedule=optax.warmup_cosine_decay_schedule(0.0, 1.0, NUM_STEPS // 10, NUM_STEPS),
)
for name, tx in {"half the rate": gentler, "own decay and schedule": decayed}.items():
    losses, accuracy = train_with(tx, NUM_STEPS)
    print(f"{name:24} training loss {losses[-100:].mean():.1e}   validation accuracy {accuracy:.3f}")

# %% [markdown]
# ## Around it, optax
#
# It can be chained, masked, accumulated and injected like any other transformation. Here it trains the
# matrices, and Adam trains the biases.

# %%
mixed = optax.multi_transform(
    {"learned": learned_opt.load("pretrained:general", num_steps=NUM_STEPS), "adam": optax.adam(1e-3)},
    {"w1": "learned", "w2": "learned", "b1": "adam", "b2": "adam"},
)
losses, accuracy = train_with(optax.chain(optax.clip_by_global_norm(1.0), mixed), NUM_STEPS)
print(f"training loss {losses[-100:].mean():.1e}   validation accuracy {accuracy:.3f}")

# %% [markdown]
# ## A gradient that is not finite costs one step
#
# Where a gradient is infinite or not a number, the step is skipped: its updates are zero, and the state
# stays as it was.

# %%
params = init(jax.random.key(0))
state = learned.init(params)
broken = jax.tree.map(jnp.ones_like, params) | {"b1": jnp.full(128, jnp.nan)}
updates, after = learned.update(broken, state, params)
print("largest update:", max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(updates)))
print("state as before:", jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), state, after)))

# %% [markdown]
# ## Where to go from here
#
# * [Recipes](../recipes.md) has whole loops for Haiku, Flax and Equinox.
# * [Importing](../importing.md) reads optimizers that other codebases published, such as VeLO and Celo.
# * [Meta-train one in five minutes](meta_train_one.md) makes your own.
