# %% [markdown]
# # What truncation does
#
# An estimator that looks at K steps of an inner problem credits a loss only to what theta did in these K
# steps. This tutorial shows, on a problem with one meta-parameter, where that leads TBPTT and truncated ES,
# why PES does not go there, and what PES pays for it. At the end is a plot with a slider for K.
#
# ## A problem in which haste is punished
#
# SGD trains two parameters. One lies in a steep direction whose gradient is noisy; the other one lies far
# out in a flat direction. theta is the logarithm of the learning rate. A low rate settles the noise at
# once, and a high rate is needed to get along the flat direction within T = 200 steps. This is the
# short-horizon bias of Wu et al. (2018).
#
# All that an estimator sees of a problem is an `UnrolledSystem`: how an inner problem begins, and what one
# step does.

# %%
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from meta_train.core.outer import make_outer_step
from meta_train.core.system import UnrolledSystem
from meta_train.estimators import ESTIMATORS

T, CURVATURE, NOISE = 200, jnp.array([1.0, 0.01]), jnp.array([1.0, 0.0])


def init(theta, key):
    return jnp.array([0.0, 10.0]), jnp.int32(T)


def step(theta, params, key, data):
    gradient = CURVATURE * params + NOISE * jax.random.normal(key, (2,))
    params = params - jnp.exp(theta) * gradient
    return params, 0.5 * jnp.sum(CURVATURE * params**2)


system = UnrolledSystem(init, step, length_multiple=T, max_length=T)

# %% [markdown]
# ## The objective, and what a window sees of it
#
# The objective is the mean loss over the T steps. Here it is as a function of theta. Each of the other
# lines is what the first K steps alone would prefer.

# %% tags=["parameters"]
WINDOWS = [1, 5, 20, 50, 200]  # K
GRID, PARTICLES, OUTER_STEPS, SEEDS = 25, 64, 400, 4

# %% alt="The mean loss over T steps and over shorter horizons, against theta"
thetas = jnp.linspace(-5.0, -0.2, 121)


def losses(theta, key):
    params, _ = init(theta, key)
    return jax.lax.scan(lambda s, k: step(theta, s, k, ()), params, jax.random.split(key, T))[1]


keys = jax.random.split(jax.random.key(0), 256)
curves = jax.jit(jax.vmap(lambda theta: jax.vmap(partial(losses, theta))(keys).mean(0)))(thetas)
best = float(thetas[curves.mean(1).argmin()])
for horizon in (5, 20, 50, 200):
    plt.plot(
        thetas, curves[:, :horizon].mean(1), label=f"the first {horizon} steps", lw=3 if horizon == T else 1
    )
plt.axvline(best, color="0.5", lw=0.8, ls=":")
plt.xlabel("theta, the log of the learning rate")
plt.ylabel("mean loss")
plt.legend()
plt.show()
print(f"best theta: {best:.2f}, a learning rate of {np.exp(best):.2f}")

# %% [markdown]
# ## The gradients of three estimators
#
# `tbptt` differentiates through the window. `truncated_es` perturbs theta in the window. `pes` perturbs
# theta in every window and credits the loss to all perturbations since the inner problem began. We hold
# theta fixed at each point of a grid, let the particles run through several inner problems, and average
# over all windows.

# %%
NAMES = ("tbptt", "truncated_es", "pes")
SIGMA = 0.05


def estimator(name, window):
    extra = {} if name == "tbptt" else {"sigma": SIGMA}
    return ESTIMATORS[name](system, num_particles=PARTICLES, truncation_length=window, **extra)


def field(name, window):
    """Mean and standard deviation over outer steps of the estimate, at every theta of the grid."""
    rule = estimator(name, window)

    def at(theta, key):
        def one(state, key):
            estimate, state = rule.estimate(theta, state, key, ())
            return state, estimate.grad

        key, key_init = jax.random.split(key)
        _, grads = jax.lax.scan(one, rule.init(theta, key_init), jax.random.split(key, 4 * T // window))
        grads = grads[T // window :]  # the first inner problems are staggered
        return grads.mean(), grads.std()

    grid = jnp.linspace(-4.5, -0.5, GRID)
    return grid, *jax.jit(jax.vmap(at, (0, None)))(grid, jax.random.key(1))


fields = {(name, window): field(name, window) for name in NAMES for window in WINDOWS}

# %% [markdown]
# An estimator stops where its mean gradient is zero. With K = T all three stop at the best theta. With
# short windows, TBPTT and truncated ES see that a lower rate makes the *next* few losses lower, at every
# place of the inner problem, and miss that it makes all later ones higher.

# %% alt="Mean gradient against theta for three estimators, for windows of 5 and of 200 steps"
COLOURS = {"tbptt": "#D55E00", "truncated_es": "#CC79A7", "pes": "#0072B2"}
figure, axes = plt.subplots(1, 2, sharey=True)
for axis, window in zip(axes, (WINDOWS[1], WINDOWS[-1]), strict=True):
    for name in NAMES:
        grid, mean, _ = fields[name, window]
        axis.plot(grid, mean, color=COLOURS[name], label=name, ls="--" if name == "tbptt" else "-")
    axis.axhline(0, color="0.5", lw=0.8)
    axis.axvline(best, color="0.5", lw=0.8, ls=":")
    axis.set(title=f"K = {window}", xlabel="theta", ylim=(-0.3, 0.3))
axes[0].set_ylabel("mean gradient")
axes[0].legend()
plt.show()

# %% [markdown]
# ## Where outer training ends
#
# Now theta moves, by Adam. Every estimator begins at the same theta, and an outer step is one window of
# every particle, so that the same number of outer steps costs K times as many inner steps.


# %%
def train(name, window, start=-2.5):
    """theta along outer training, f32[SEEDS, OUTER_STEPS + 1]."""
    outer = make_outer_step(lambda key: jnp.float32(start), estimator(name, window), optax.adam(0.02))

    def run(seed):
        def call(state, _):
            return outer.step(state, ())[0], state.theta

        state, path = jax.lax.scan(call, outer.init(jax.random.key(seed)), None, OUTER_STEPS)
        return jnp.append(path, state.theta)

    return np.asarray(jax.jit(jax.vmap(run))(jnp.arange(SEEDS)))


paths = {(name, window): train(name, window) for name in NAMES for window in WINDOWS}
print(f"best theta {best:.2f}; theta after {OUTER_STEPS} outer steps, mean of {SEEDS} seeds:")
print("K".rjust(5), *(name.rjust(14) for name in NAMES))
for window in WINDOWS:
    print(f"{window:5}", *(f"{paths[name, window][:, -1].mean():14.2f}" for name in NAMES))

# %% [markdown]
# ## All of it, with a slider
#
# Left: the mean gradient, and one standard deviation of a single estimate with 64 particles. Right: theta
# in outer training, one line a seed. Move the slider to change K. A click on a name in the legend hides an
# estimator.


# %%
def traces(window):
    """The lines of one K: for each estimator a band, its mean gradient, and the path of every seed."""
    for name in NAMES:
        grid, mean, std = (np.asarray(x) for x in fields[name, window])
        look = {"line": {"color": COLOURS[name]}, "legendgroup": name, "name": name}
        band = {"x": np.append(grid, grid[::-1]), "y": np.append(mean + std, (mean - std)[::-1])}
        fill = {"fill": "toself", "opacity": 0.2, "showlegend": False, "hoverinfo": "skip", "mode": "none"}
        yield 1, go.Scatter(**band, **fill, legendgroup=name, fillcolor=COLOURS[name])
        yield 1, go.Scatter(x=grid, y=mean, mode="lines", **look)
        for path in paths[name, window]:
            yield 2, go.Scatter(y=path[::5], dx=5, mode="lines", opacity=0.6, showlegend=False, **look)


figure = make_subplots(1, 2, subplot_titles=("gradient against theta", "theta against outer steps"))
for column, trace in traces(WINDOWS[0]):
    figure.add_trace(trace, 1, column)
figure.frames = [
    go.Frame(name=str(window), data=[trace for _, trace in traces(window)]) for window in WINDOWS
]
jump = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}}
steps = [{"label": str(k), "method": "animate", "args": [[str(k)], jump]} for k in WINDOWS]
figure.update_layout(
    height=440,
    margin={"l": 40, "r": 10, "t": 40, "b": 20},
    legend={"orientation": "h", "y": 1.18},
    sliders=[{"steps": steps, "currentvalue": {"prefix": "K = "}, "pad": {"t": 30}}],
)
figure.update_yaxes(range=[-0.4, 0.4], col=1)
figure.update_yaxes(range=[-4.5, -0.5], col=2)
dotted = {"type": "line", "line": {"dash": "dot", "width": 1, "color": "gray"}}
figure.add_shape(**dotted, x0=best, x1=best, y0=0, y1=1, xref="x", yref="y domain")
figure.add_shape(**dotted, x0=0, x1=1, y0=best, y1=best, xref="x2 domain", yref="y2")
figure.show()

# %% [markdown]
# ## What it costs PES
#
# PES is right at every K, and its noise is larger where K is small: it credits a loss to the sum of T / K
# independent perturbations, of which each explains a part. NRES, which keeps one perturbation for a whole
# inner problem, does not pay this price.

# %% alt="Standard deviation of one estimate at the best theta, against K"
nearest = int(jnp.abs(fields["pes", WINDOWS[0]][0] - best).argmin())
for name in NAMES:
    plt.loglog(WINDOWS, [fields[name, k][2][nearest] for k in WINDOWS], "o-", color=COLOURS[name], label=name)
nres = [field("nres", k)[2][nearest] for k in WINDOWS]
plt.loglog(WINDOWS, nres, "s:", color="0.5", label="nres")
plt.xlabel("K")
plt.ylabel("std of one estimate")
plt.legend()
plt.show()

# %% [markdown]
# ## Where to go from here
#
# * [ES and PES side by side](../es-and-pes.md): the lines in which the two algorithms differ.
# * [Choosing an estimator](../choosing-an-estimator.md), and `meta-train diagnose`, which measures bias and
#   noise on tasks of your own.
# * [Influence balancing](../reproductions/influence_balancing.md): a problem in which truncated gradients
#   have the wrong sign everywhere.
