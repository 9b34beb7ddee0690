# %% [markdown]
# # Populations
#
# A population trains many members in one program and changes their hyperparameters while they train. This
# tutorial writes a trainer of a few lines, searches its learning rate by random search, PBT and FIRE PBT,
# and takes the winner's schedule out of the history.
#
# ## A trainer
#
# A trainer is three pure functions for *one* member: how it begins, one step, and its fitness, which is
# maximised. Here SGD trains 16 parameters in steep directions, whose gradients are noisy, and 16 in flat
# ones. A high learning rate is needed to get along the flat directions, and a low one at the very end, to
# settle the noise. Whoever lowers the rate early looks better at once, and loses in the end.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from meta_train.population import (
    CONTROLLERS,
    SCALES,
    Member,
    Rhythm,
    Setting,
    Trainer,
    evolve,
    population,
    winner,
)

DIM = 16
CURVATURE = jnp.repeat(jnp.array([1.0, 0.002]), DIM)
START = jnp.repeat(jnp.array([0.0, (2 / (0.002 * DIM)) ** 0.5]), DIM)  # a loss of 1
NOISE = jnp.repeat(jnp.array([(2.0 / DIM) ** 0.5, 0.0]), DIM)


def step(member, hypers, key, data):
    gradient = CURVATURE * member.weights + NOISE * jax.random.normal(key, (2 * DIM,))
    return member._replace(weights=member.weights - hypers["rate"] * gradient)


trainer = Trainer(
    init=lambda key, hypers: Member(START),
    step=step,
    score=lambda member, data: -jnp.log(0.5 * jnp.sum(CURVATURE * member.weights**2)),
    hypers=("rate",),
)

# %% [markdown]
# ## What is searched, and when
#
# The rate lies between 0.001 and 1, on a logarithmic scale. A round has 50 steps and an evaluation after
# every 10; between two rounds the controller decides which member copies which, and explores.

# %% tags=["parameters"]
ROUNDS, SEEDS = 60, 3

# %%
space = {"rate": SCALES["log"](bounds=(0.001, 1.0))}
rhythm = Rhythm(round_steps=50, eval_every=10)
setting = Setting(space, rhythm)
controllers = {
    "random search": CONTROLLERS["random_search"](setting, num_members=22),
    "PBT": CONTROLLERS["pbt"](setting, num_members=22),
    "FIRE PBT": CONTROLLERS["fire_pbt"](setting, subpopulations=(8, 8), evaluators=(6,)),
}

# %% [markdown]
# ## Three methods, 22 members each
#
# `population` checks the parts and compiles one round for all members. `evolve` runs all rounds in memory:
# it returns the last stage, and a record of every round with the fitness and the hyperparameters of all
# members.

# %%
runs = {}
compiled = population(trainer, controllers["PBT"], space, rhythm)
for name, controller in controllers.items():
    for seed in range(SEEDS):
        _, runs[name, seed] = evolve(compiled._replace(controller=controller, seed=seed), ROUNDS)

for name, controller in controllers.items():
    losses = [np.exp(-winner(controller, runs[name, seed]).fitness[-1]) for seed in range(SEEDS)]
    print(f"{name:14} final loss of the winner: " + "  ".join(f"{loss:.3f}" for loss in losses))

# %% [markdown]
# ## What happened
#
# Each thin line is a member of the first seed. PBT copies whoever is best after a round, so that all rates
# fall early, and the flat directions are never crossed. FIRE PBT ranks a part of its members by how fast
# they *improve*, and these keep a high rate.

# %% alt="Loss and learning rate of every member, for random search, PBT and FIRE PBT"
steps = rhythm.round_steps * np.arange(1, ROUNDS + 1)
figure, axes = plt.subplots(2, 3, sharex=True, sharey="row", figsize=(8, 4.6))
for column, name in enumerate(controllers):
    records = runs[name, 0]
    axes[0, column].semilogy(steps, np.exp([-r.fitness for r in records]), color="#0072B2", lw=0.6, alpha=0.6)
    axes[1, column].semilogy(steps, [r.hypers["rate"] for r in records], color="#D55E00", lw=0.6, alpha=0.6)
    axes[0, column].set_title(name)
    axes[1, column].set_xlabel("steps")
axes[0, 0].set_ylabel("loss")
axes[1, 0].set_ylabel("learning rate")
plt.show()

# %% [markdown]
# ## The winner's schedule
#
# Weights are copied from member to member, so that the winner's weights were trained with the rates of all
# the members that held them. `winner` follows them back. This schedule is the result of a population: train
# with it from scratch, with new seeds, before you believe it (`meta-train replay` does so for a run on
# disk).

# %% alt="The learning rate that the winner's weights were trained with, for three methods"
for name, controller in controllers.items():
    schedule = winner(controller, runs[name, 0])
    plt.step(steps, schedule.hypers["rate"], label=name)
plt.yscale("log")
plt.xlabel("steps")
plt.ylabel("learning rate")
plt.legend()
plt.show()


# %%
def replay(rates, seed):
    """The final loss of one training from scratch with a schedule, one rate for each round."""

    def one(member, inputs):
        rate, key = inputs
        return step(member, {"rate": rate}, key, None), None

    keys = jax.random.split(jax.random.key(1000 + seed), len(rates))
    member, _ = jax.lax.scan(one, Member(START), (rates, keys))
    return jnp.exp(-trainer.score(member, None))


for name, controller in controllers.items():
    rates = jnp.repeat(jnp.asarray(winner(controller, runs[name, 0]).hypers["rate"]), rhythm.round_steps)
    losses = jax.vmap(replay, (None, 0))(rates, jnp.arange(20))
    print(f"{name:14} replayed with 20 new seeds: mean loss {losses.mean():.3f}")

# %% [markdown]
# ## Where to go from here
#
# * [Populations](../population.md): the config of a population, its methods and which to use when, devices.
# * A population of *meta-trainings* searches the outer learning rate, sigma and the weights of tasks:
#   [Outer learning rate and sigma](../reproductions/meta_population.md).
# * [A schedule for a real network](../reproductions/schedule_population.md), and [a problem on which FIRE
#   PBT loses](../reproductions/lasting_damage.md).
