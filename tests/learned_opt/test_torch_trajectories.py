"""A PyTorch model moves as in JAX: `pytest -m torch`.

Gradients are the same function of the parameters on both sides, computed by NumPy, so that what differs is
what the optimizers did.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import learned_opt
from learned_opt import LEARNED_OPTIMIZERS, LearnedOptimizer

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch
T = 10
SMALL = {"velo": {"lstm_hidden": 8, "bank": 2}, "celo": {"lstm_hidden": 8}, "rnn_mlp": {"lstm_hidden": 8}}
EVERY = pytest.mark.parametrize("name", LEARNED_OPTIMIZERS)


def optimizer(*args, **kwargs):
    import learned_opt.torch

    return learned_opt.torch.Optimizer(*args, **kwargs)


class Model(torch.nn.Module):
    """A linear layer, a convolution, an embedding, a scalar."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(3, 5)
        self.conv = torch.nn.Conv2d(2, 4, (3, 2))
        self.embed = torch.nn.Embedding(6, 3)
        self.scale = torch.nn.Parameter(torch.tensor(0.7))


# The axes of a parameter in the convention of Haiku, whose weights end with the outputs.
HAIKU = {"linear.weight": (1, 0), "conv.weight": (2, 3, 1, 0)}


def haiku(model):
    """The same parameters as a tree, in Haiku's layout."""
    tree = {}
    for name, p in model.named_parameters():
        module, _, leaf = name.rpartition(".")
        array = p.detach().numpy().copy()
        place = tree.setdefault(module, {}) if module else tree
        place[leaf] = jnp.array(array.transpose(HAIKU.get(name, range(array.ndim))))
    return tree


def gradient(x, step):
    return np.sin(np.float32(3) * np.asarray(x) + np.float32(step)).astype(np.float32)


def loss_at(step):
    return np.float32(2.0 / (1 + step))


def train_in_jax(tx, params, steps=T):
    state, update = tx.init(params), jax.jit(tx.update)
    for step in range(steps):
        grads = jax.tree.map(lambda p, step=step: gradient(p, step), params)
        updates, state = update(grads, state, params, value=loss_at(step))
        params = optax.apply_updates(params, updates)
    return params


def train_in_torch(opt, params, steps=T):
    for step in range(steps):
        for p in params:
            p.grad = torch.tensor(gradient(p.detach().float(), step)).to(p.dtype)
        opt.step(loss=loss_at(step))


def assert_equal_to(expected, model, atol=1e-6):
    found = haiku(model)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=atol)


@EVERY
def test_the_trajectory_is_that_in_jax_to_1e_6_and_the_update_is_compiled_once(name):
    lopt = LEARNED_OPTIMIZERS[name](**SMALL.get(name, {}))
    leaves, tree = jax.tree.flatten(jax.jit(lopt.init)(jax.random.key(0)))
    theta = tree.unflatten([x + 0.01 * jnp.cos(jnp.arange(x.size)).reshape(x.shape) for x in leaves])
    traces = []

    def build(theta, num_steps):
        tx = lopt.build(theta, num_steps)

        def update(*args, **extra):
            traces.append(1)
            return tx.update(*args, **extra)

        return optax.GradientTransformationExtraArgs(tx.init, update)

    model = Model()
    start = haiku(model)
    counting = LearnedOptimizer(lopt.init, build, lopt.needs, lopt.trained)
    train_in_torch(optimizer(model, (counting, theta), num_steps=T), list(model.parameters()))
    assert len(traces) == 1
    moved = [jnp.abs(x - y).max() for x, y in zip(*map(jax.tree.leaves, (start, haiku(model))), strict=True)]
    assert min(moved) > 1e-6
    assert_equal_to(train_in_jax(lopt.build(theta, T), start), model)


def test_a_trained_optimizer_is_that_of_load_with_its_options():
    options = {"num_steps": 100, "weight_decay": 0.2, "schedule": None}
    model = Model()
    expected = train_in_jax(
        learned_opt.load("pretrained:general", learning_rate=0.5, **options), haiku(model)
    )
    opt = optimizer(model, "pretrained:general", learning_rate=0.5, **options)
    train_in_torch(opt, list(model.parameters()))
    assert_equal_to(expected, model)


def test_a_linear_network_with_autograd_trains_as_in_haikus_layout():
    """Here each side computes its gradients itself."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2))
    x = torch.randn(32, 4)
    y = torch.sin(x[:, :2])
    params = {
        n: {k: jnp.array(p.detach().numpy().T) for k, p in model[int(n)].named_parameters()} for n in "02"
    }

    def loss_fn(p):
        h = jnp.tanh(x.numpy() @ p["0"]["weight"] + p["0"]["bias"])
        return jnp.mean((h @ p["2"]["weight"] + p["2"]["bias"] - y.numpy()) ** 2)

    tx = learned_opt.load("pretrained:general", num_steps=100)
    state, first = tx.init(params), loss_fn(params)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(jax.grad(loss_fn)(params), state, params)
        return optax.apply_updates(params, updates), state

    opt = optimizer(model.parameters(), "pretrained:general", num_steps=100)
    for _ in range(10):  # later the rounding of the two libraries' gradients has grown
        params, state = step(params, state)
        opt.zero_grad()
        loss = ((model(x) - y) ** 2).mean()
        loss.backward()
        opt.step()
    assert loss.item() < 0.9 * float(first)
    for n in "02":
        for k, p in model[int(n)].named_parameters():
            np.testing.assert_allclose(p.detach().numpy().T, params[n][k], rtol=0, atol=1e-4)


def test_an_optax_transformation_runs_too_even_if_its_state_holds_the_parameters():
    tx = optax.contrib.schedule_free(optax.sgd(0.1), learning_rate=0.1)
    model = Model()
    expected = train_in_jax(optax.with_extra_args_support(tx), haiku(model))
    train_in_torch(optimizer(model, tx), list(model.parameters()))
    assert_equal_to(expected, model)


@pytest.mark.parametrize(("dtype", "atol"), [("float64", 5e-6), ("bfloat16", 0.02), ("float16", 5e-3)])
def test_parameters_in_another_precision_move_as_those_in_float32(dtype, atol):
    """Their dtype stays. float32 rounds to 2^-24 of the value and bfloat16 to 2^-8, ten times; gradients
    magnify that."""
    model = Model()
    expected = train_in_jax(learned_opt.load("pretrained:general", num_steps=100), haiku(model))
    model.to(getattr(torch, dtype))
    train_in_torch(optimizer(model, "pretrained:general", num_steps=100), list(model.parameters()))
    assert {p.dtype for p in model.parameters()} == {getattr(torch, dtype)}
    assert_equal_to(expected, model.float(), atol)


def test_parameters_in_another_memory_layout_move_as_contiguous_ones():
    """Channels last, a view that is transposed, a piece of a buffer that begins at 4 bytes."""
    start = [
        torch.linspace(-1, 1, 24).reshape(2, 3, 2, 2),
        torch.linspace(0, 1, 6).reshape(2, 3),
        torch.ones(5),
    ]
    odd = [
        start[0].clone().to(memory_format=torch.channels_last),
        start[1].T.contiguous().T,
        torch.ones(6)[1:],
    ]
    assert not odd[0].is_contiguous() and not odd[1].is_contiguous() and odd[2].data_ptr() % 16
    for tensors in (start, odd):
        strides = [x.stride() for x in tensors]
        train_in_torch(optimizer(tensors, "pretrained:general", num_steps=100), tensors)
        assert [x.stride() for x in tensors] == strides
    for x, y in zip(start, odd, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-6)


def test_the_axes_that_a_rule_sees_end_with_the_outputs():
    from learned_opt.torch.layout import axes, inverse, owners

    nn = torch.nn
    layers = {
        "linear": (nn.Linear(3, 5), [3, 5]),
        "embed_proj": (nn.Linear(3, 5), [3, 5]),  # a linear layer, whatever its name is
        "conv": (nn.Conv2d(2, 4, (3, 5)), [3, 5, 2, 4]),
        "line": (nn.Conv1d(2, 4, 3), [3, 2, 4]),
        "up": (nn.ConvTranspose2d(2, 4, (3, 5)), [3, 5, 2, 4]),
        "words": (nn.Embedding(7, 3), [7, 3]),
        "norm": (nn.LayerNorm((4, 3)), [4, 3]),
        "gru": (nn.GRU(3, 2), [3, 6]),
        "attend": (nn.MultiheadAttention(4, 2), [4, 12]),
    }
    model = nn.ModuleDict({name: layer for name, (layer, _) in layers.items()})
    model["tied"] = nn.Linear(3, 7, bias=False)
    model["tied"].weight = model["words"].weight
    model.register_parameter("position", nn.Parameter(torch.zeros(9, 4)))
    model.register_parameter("mixer", nn.Parameter(torch.zeros(2, 4)))
    known = owners(model)
    seen = {}
    for p in model.parameters():
        name, owner = known[id(p)]
        order = axes(p, name, owner, "position")
        seen[name] = list(p.permute(order).shape)
        assert p.permute(order).permute(inverse(order)).shape == p.shape
    for name, (_, shape) in layers.items():
        first = next(key for key in seen if key.startswith(name + "."))
        assert seen[first] == shape, first
    assert seen["position"] == [9, 4] and seen["mixer"] == [4, 2] and "tied.weight" not in seen
    assert axes(model["words"].weight, "words.weight", None, "words") == (
        0,
        1,
    )  # of a model that is not known
    assert axes(model["words"].weight, "3", None, "words") == (1, 0)
