"""What PyTorch expects of an optimizer: state dicts, groups, schedulers, scalers: `pytest -m torch`."""

import copy
import io
import itertools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import learned_opt
from learned_opt import learnable_adam, spectral, velo

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch
T = 200
X = torch.linspace(-1, 1, 12).reshape(4, 3)


def optimizer(*args, **kwargs):
    import learned_opt.torch

    return learned_opt.torch.Optimizer(*args, **kwargs)


def network():
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))


def train(model, opt, steps, hook=lambda step: None):
    for step in range(steps):
        opt.zero_grad()
        loss = ((model(X) - 0.5) ** 2).mean() * (1 + 0.1 * step)
        loss.backward()
        opt.step(loss=loss)
        hook(step)
    return [p.detach().clone() for p in model.parameters()]


def assert_same(these, those):
    for x, y in zip(these, those, strict=True):
        assert torch.equal(x, y)


def pair(lopt):
    return lopt, jax.jit(lopt.init)(jax.random.key(0))


RULES = {
    "pretrained": ("pretrained:general", {"num_steps": T}),
    "with the loss": (pair(velo(lstm_hidden=8, bank=2)), {"num_steps": T}),
    "narrow": (pair(learnable_adam(initial_lr=0.01, state_dtype="bfloat16")), {}),
    "with a key": (optax.chain(optax.add_noise(0.1, 0.5, jax.random.key(3)), optax.sgd(0.1)), {}),
}


@pytest.mark.parametrize("name", RULES)
def test_a_state_dict_that_went_through_a_file_continues_in_all_bits(name):
    which, options = RULES[name]
    model, other = network(), network()
    opt = optimizer(model.named_parameters(), which, **options)
    train(model, opt, 3)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "opt": opt.state_dict()}, file)
    expected = train(model, opt, 3)
    file.seek(0)
    content = torch.load(file, weights_only=True)
    other.load_state_dict(content["model"])
    second = optimizer(other.named_parameters(), which, **options)
    second.load_state_dict(content["opt"])
    assert_same(train(other, second, 3), expected)


def test_the_state_that_was_saved_does_not_change_when_training_goes_on():
    model = network()
    opt = optimizer(model, optax.adam(0.1))
    train(model, opt, 1)
    saved = opt.state_dict()
    before = copy.deepcopy(saved["state"]["learned_opt"]["cohorts"][0]["state"])
    train(model, opt, 2)
    assert_same(saved["state"]["learned_opt"]["cohorts"][0]["state"], before)


def test_a_state_of_other_parameters_or_of_another_optimizer_is_refused_and_changes_nothing():
    model, wide = network(), torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Linear(5, 2))
    opt = optimizer(model, optax.adam(0.1), learning_rate=0.5)
    start = train(model, opt, 1)
    others = optimizer(wide, optax.adam(0.1), learning_rate=0.25)
    wide(X).sum().backward()
    others.step()
    for foreign, message in [
        (others.state_dict(), "not of this optimizer on these parameters"),
        (torch.optim.Adam(model.parameters(), lr=0.1).state_dict(), "not one of learned_opt.torch, format 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            opt.load_state_dict(foreign)
        assert opt.param_groups[0]["lr"] == 0.5
    twin = network()
    twin_opt = optimizer(twin, optax.adam(0.1), learning_rate=0.5)
    assert_same(train(twin, twin_opt, 1), start)
    assert_same(train(model, opt, 2), train(twin, twin_opt, 2))


def test_the_rate_of_a_group_is_relative_and_a_scheduler_of_torch_moves_it():
    models = [network() for _ in range(3)]
    starts = [p.detach().clone() for p in models[0].parameters()]
    full = optimizer(models[0], optax.sgd(0.1))
    half = optimizer(
        [{"params": models[1][0].parameters()}, {"params": models[1][2].parameters(), "lr": 0.5}],
        optax.sgd(0.1),
    )
    ones, halves = train(models[0], full, 1), train(models[1], half, 1)
    assert_same(halves[:2], ones[:2])
    for start, one, other in zip(starts[2:], ones[2:], halves[2:], strict=True):
        torch.testing.assert_close(other - start, 0.5 * (one - start))
    opt = optimizer(models[2], "pretrained:general", schedule=None)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=4)
    weight, seen = models[2][0].weight, []

    def hook(step):
        scheduler.step()
        seen.append(weight.detach().clone())

    train(models[2], opt, 5, hook)
    moved = [float((after - before).abs().max()) for before, after in itertools.pairwise([starts[0], *seen])]
    assert opt.param_groups[0]["initial_lr"] == 1
    assert moved[4] == 0 and moved[3] < 0.5 * moved[0]  # at the end of the cosine the rate is 0


def test_groups_with_different_weight_decays_share_their_statistics_and_the_computation():
    """As one optimizer without decay, whose steps then decay: the rate is 0.03 at a constant schedule."""
    plain, decayed = network(), network()
    options = {"num_steps": T, "schedule": None}
    groups = [
        {"params": [p for n, p in decayed.named_parameters() if n.endswith("weight")], "weight_decay": 0.5},
        {"params": [p for n, p in decayed.named_parameters() if n.endswith("bias")], "weight_decay": 0.0},
    ]
    start = {n: p.detach().clone() for n, p in plain.named_parameters()}
    train(plain, optimizer(plain, "pretrained:general", weight_decay=0.0, **options), 1)
    opt = optimizer(groups, "pretrained:general", model=decayed, **options)
    train(decayed, opt, 1)
    rate = learned_opt.read("pretrained:general").options["learning_rate"]
    for (name, p), q in zip(decayed.named_parameters(), plain.parameters(), strict=True):
        decay = 0.5 if name.endswith("weight") else 0.0
        torch.testing.assert_close(p, q - rate * decay * start[name], rtol=0, atol=1e-6)
    assert len(opt.state_dict()["state"]["learned_opt"]["cohorts"]) == 1


def test_a_scaler_of_mixed_precision_skips_steps_and_the_state_does_not_advance():
    model, twin = network(), network()
    opt, twin_opt = (optimizer(m, "pretrained:general", num_steps=T) for m in (model, twin))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for step in range(3):
        opt.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = ((model(X) - 0.5) ** 2).mean()
        scaler.scale(loss * (torch.inf if step == 1 else 1)).backward()
        scaler.step(opt, loss=loss)
        scaler.update()
    assert opt.state_dict()["state"]["learned_opt"]["steps"] == 2 and scaler.get_scale() == 512
    for _ in range(2):
        twin_opt.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = ((twin(X) - 0.5) ** 2).mean()
        loss.backward()
        twin_opt.step()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-3)  # the scale changes bfloat16's rounding


def test_a_closure_computes_the_loss_and_step_returns_it():
    models = [network(), network()]
    lopt = pair(velo(lstm_hidden=8, bank=2))
    by_closure, by_loss = (optimizer(model, lopt, num_steps=T) for model in models)
    for step in range(3):

        def closure(step=step):
            by_closure.zero_grad()
            loss = ((models[0](X) - 0.5) ** 2).mean() * (1 + 0.1 * step)
            loss.backward()
            return loss

        assert by_closure.step(closure).requires_grad
    assert_same(list(models[0].parameters()), train(models[1], by_loss, 3))
    with pytest.raises(ValueError, match="a closure or loss=..., not both"):
        by_closure.step(closure, loss=1.0)
    with pytest.raises(ValueError, match=r"needs the training loss: call step\(loss=loss\)"):
        by_loss.step()
    with pytest.raises(ValueError, match=r"the loss has the shape \[3\], must be one number"):
        by_loss.step(loss=torch.ones(3))


def test_what_has_no_gradient_is_left_alone_and_may_join_later_with_the_steps_that_are_left():
    frozen, model = torch.nn.Linear(2, 2), network()
    opt = optimizer([*model.parameters(), *frozen.parameters()], "pretrained:general", num_steps=T)
    before = [p.detach().clone() for p in frozen.parameters()]
    train(model, opt, 4)
    assert_same(list(frozen.parameters()), before)
    frozen(X[:, :2]).sum().backward()
    opt.step()  # the gradients of the model are those of its last step
    assert not any(torch.equal(p, q) for p, q in zip(frozen.parameters(), before, strict=True))
    steps = [cohort["num_steps"] for cohort in opt.state_dict()["state"]["learned_opt"]["cohorts"]]
    assert steps == [T, T - 4]
    opt.zero_grad()
    still = [p.detach().clone() for p in [*model.parameters(), *frozen.parameters()]]
    opt.step()
    assert_same(still, [*model.parameters(), *frozen.parameters()])


def test_one_that_misses_a_gradient_is_not_moved_and_the_others_see_it_as_zero():
    model, twin = network(), network()
    opt, twin_opt = (optimizer(m, "pretrained:general", num_steps=T) for m in (model, twin))
    train(model, opt, 2), train(twin, twin_opt, 2)
    before = model[2].bias.detach().clone()
    for m, o in ((model, opt), (twin, twin_opt)):
        o.zero_grad()
        ((m(X) - 0.5) ** 2).mean().backward()
    model[2].bias.grad, twin[2].bias.grad = None, torch.zeros(2)
    opt.step(), twin_opt.step()
    assert torch.equal(model[2].bias, before) and not torch.equal(twin[2].bias, before)
    assert_same(list(model.parameters())[:3], list(twin.parameters())[:3])


def test_a_group_that_is_added_has_options_of_its_own():
    model, more = network(), torch.nn.Linear(2, 2)
    opt = optimizer(model, optax.sgd(0.1))
    train(model, opt, 2)
    opt.add_param_group({"params": more.named_parameters(prefix="more"), "lr": 0.0})
    start = [p.detach().clone() for p in more.parameters()]
    more(X[:, :2]).sum().backward()
    opt.step()
    assert_same(start, more.parameters())
    opt.param_groups[1]["lr"] = 1.0
    opt.step()
    torch.testing.assert_close(more.bias, start[1] - 0.1 * more.bias.grad)


def parameter(*shape, **kwargs):
    return torch.nn.Parameter(torch.zeros(*shape, **kwargs))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optimizer([parameter(2)], 3), "optimizer is a int, must be the name of a trained optimizer"),
        (lambda: optimizer([parameter(2)], "pretrained:general"), "spectral needs num_steps"),
        (lambda: optimizer([parameter(2)], optax.sgd(0.1), num_steps=3), "num_steps is 3, but an optax"),
        (
            lambda: optimizer([parameter(2)], optax.sgd(0.1), schedule=None),
            "schedule is an option of trained",
        ),
        (lambda: optimizer([parameter(2)], optax.sgd(0.1), learning_rate=-1.0), "must be >= 0.*got -1.0"),
        (
            lambda: optimizer([parameter(2)], optax.sgd(0.1), weight_decay=0.1),
            "weight_decay is 0.1, an option",
        ),
        (lambda: optimizer([parameter(2)], optax.sgd(0.1), outputs_last="("), "must be a regular expression"),
        (
            lambda: optimizer([parameter(2, dtype=torch.complex64)], optax.sgd(0.1)),
            "is complex64, must be one",
        ),
        (lambda: optimizer([parameter(2, device="meta")], optax.sgd(0.1)), "are on meta, must be on a CPU"),
    ],
)
def test_a_wrong_argument_is_refused_in_one_line(make, message):
    with pytest.raises((TypeError, ValueError), match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_what_cannot_be_stepped_is_refused_before_anything_moves():
    words = torch.nn.Embedding(3, 2, sparse=True)
    model = torch.nn.Sequential(words, torch.nn.Linear(2, 2))
    opt, before = optimizer(model, optax.sgd(0.1)), [p.detach().clone() for p in model.parameters()]
    model(torch.tensor([0, 1])).sum().backward()
    with pytest.raises(ValueError, match=r"shape \[3, 2\] has a sparse gradient, must be dense"):
        opt.step()
    same = [("a", parameter(2)), ("a.b", parameter(2))]
    for _, p in same:
        p.grad = torch.ones(2)
    with pytest.raises(ValueError, match="the name a.b of a parameter is, or continues, that of another one"):
        optimizer(same, optax.sgd(0.1)).step()
    assert_same(before, model.parameters())
    with pytest.raises(TypeError, match="cannot be pickled or copied"):
        copy.deepcopy(opt)


def test_a_refused_group_is_not_added():
    opt = optimizer([parameter(2)], optax.sgd(0.1))
    with pytest.raises(ValueError, match="weight_decay is 1"):
        opt.add_param_group({"params": [parameter(2)], "weight_decay": 1})
    assert len(opt.param_groups) == 1


def test_parameters_and_results_are_handed_over_without_a_copy():
    from learned_opt.torch.views import argument, result

    p = torch.nn.Parameter(torch.zeros(64, 33))
    for x in (p, p.detach().bfloat16(), p.detach().half()):
        assert argument(x).ctypes.data == x.data_ptr()
    taken = jax.device_put(argument(p))
    assert taken.unsafe_buffer_pointer() == p.data_ptr()
    y = jnp.ones((3, 5))
    assert result(y).data_ptr() == y.unsafe_buffer_pointer()


@pytest.mark.parametrize("few", [2**22, 0])
def test_the_steps_are_not_written_over_the_parameters(few, monkeypatch):
    """If there are few, JAX may use up the argument that is their memory, and has to copy it first."""
    import learned_opt.torch

    monkeypatch.setattr(learned_opt.torch.cohort, "FEW", few)
    sizes = [1, 16, 1000, 4096, 300_000]  # some begin at a multiple of 64 bytes, some do not
    base = torch.arange(310_000, dtype=torch.float32)
    params = [torch.nn.Parameter(base[:size].clone()) for size in sizes]
    params += [torch.nn.Parameter(base[1 : 1 + size]) for size in sizes]
    before = [p.detach().clone() for p in params]
    rule = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1))  # it reads the parameters
    opt = optimizer(params, rule, learning_rate=0.0)
    for _ in range(3):
        for p in params:
            p.grad = torch.ones_like(p)
        opt.step()
        assert_same(params, before)
        assert torch.equal(base, torch.arange(310_000, dtype=torch.float32))


@pytest.mark.parametrize(("given", "found"), [(None, "false"), ("true", "true")])
def test_jax_does_not_reserve_the_gpus_memory_unless_a_user_wants_it(given, found):
    code = "import os, learned_opt.torch; print(os.environ['XLA_PYTHON_CLIENT_PREALLOCATE'])"
    clean = {k: v for k, v in os.environ.items() if k != "XLA_PYTHON_CLIENT_PREALLOCATE"}
    env = clean if given is None else {**clean, "XLA_PYTHON_CLIENT_PREALLOCATE": given}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == found


def test_without_pytorch_one_line_says_what_to_install():
    code = "import sys; sys.modules['torch'] = None; import learned_opt; import learned_opt.torch"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip().endswith("needs PyTorch: pip install 'learned-opt[torch]'")


def test_the_factors_of_a_spectral_step_are_those_of_the_right_axis():
    """A weight [outputs, inputs] = [8, 2] steps twice as far as its transpose: sqrt(8 / 2)."""
    rule = pair(spectral(schedule="constant", weight_decay=0.0, equalise=False))
    sizes = {}
    for shape in ((8, 2), (2, 8)):
        p = torch.nn.Parameter(torch.zeros(shape))
        p.grad = torch.linspace(-1, 1, 16).reshape(8, 2).reshape(8, 2) if shape == (8, 2) else None
        p.grad = p.grad if p.grad is not None else torch.linspace(-1, 1, 16).reshape(8, 2).T.contiguous()
        optimizer([p], rule).step()
        sizes[shape] = float(p.detach().norm())
    np.testing.assert_allclose(sizes[(8, 2)], 2 * sizes[(2, 8)], rtol=1e-5)


def test_a_graph_from_before_a_step_is_refused_after_it():
    model = network()
    opt = optimizer(model, optax.sgd(0.1))
    loss = (model(X) ** 2).sum()
    loss.backward(retain_graph=True)
    opt.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()  # it would use weights that are no longer those of the loss
