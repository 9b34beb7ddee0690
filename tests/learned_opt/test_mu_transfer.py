"""muLO on mu-parameterised tasks: steps change the hidden layers' outputs alike at all widths."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt.architectures import mulo
from tasks.augment import scale_loss
from tasks.families.teacher_mlp import teacher_mlp
from tasks.mu import mu_parameterised

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def normalised_gradient_descent(lopt):
    """A theta whose step is the gradient over its root mean square: o_0 = relu(g) - relu(-g)."""
    theta = jax.tree.map(
        lambda x: np.zeros(x.shape, np.float32), jax.eval_shape(lopt.init, jax.random.key(0))
    )
    layers = theta["nn"]["~"]
    layers["w0"][0, :2] = layers["w2"][:2, 0] = 1, -1
    layers["w1"][0, 0] = layers["w1"][1, 1] = 1
    return theta


def layer_changes(width, hidden_weights):
    """How far two steps move what the hidden layers of an MLP put out, root mean square, f32[2]."""
    family = teacher_mlp(features=16, classes=4, hidden=(width, width), batch_size=32)
    family = scale_loss(family, factor=1e4)  # gradients far above the 1e-5 of the normalisation
    family = mu_parameterised(family, output_layer=r"^linear_2\.", output_mult=32.0)
    lopt = mulo(hidden=4, step_mult=0.01, hidden_weights=hidden_weights, hidden_lr_mult=32.0)
    theta = normalised_gradient_descent(lopt)
    x = jax.random.normal(jax.random.key(5), (64, 16))

    def outputs(params):
        h = [x @ params["linear_0"]["w"] + params["linear_0"]["b"]]
        h.append(jax.nn.relu(h[0]) @ params["linear_1"]["w"] + params["linear_1"]["b"])
        return h

    def run(key):
        task = family.task(family.sample(jax.random.fold_in(key, 1)))
        before = params = task.init(key)
        tx = lopt.build(theta, None)
        state = tx.init(params)

        def step(carry, i):
            params, state = carry
            grads = jax.grad(task.loss)(params, jax.random.key(i), ())
            updates, state = tx.update(grads, state, params)
            return (jax.tree.map(jnp.add, params, updates), state), None

        # Two steps: at the first, the zeros of the output layer hide the gradient of the others.
        (params, _), _ = jax.lax.scan(step, (params, state), jnp.arange(2))
        changes = [b - a for a, b in zip(outputs(before), outputs(params), strict=True)]
        return jnp.stack([jnp.sqrt(jnp.mean(jnp.square(c))) for c in changes])

    return np.mean(jit(jax.vmap(run))(jax.random.split(jax.random.key(7), 32)), 0)


@pytest.mark.slow
def test_the_change_of_the_hidden_layers_outputs_does_not_depend_on_the_width():
    narrow, wide = (layer_changes(width, r"^linear_1\.w") for width in (32, 128))
    assert (wide / narrow < 2).all() and (wide / narrow > 0.5).all(), (narrow, wide)
    # Without the multiplier (which is 1 at width 32) the hidden layer changes as much more as it is wider.
    plain = layer_changes(128, r"^$")[1] / narrow[1]
    assert plain > 2.5 * (wide / narrow)[1], plain


def test_the_initial_network_is_mups():
    params = jit(lambda key: _family(r"^linear_2\.").task(SAMPLE).init(key))(jax.random.key(0))
    assert not np.any(params["linear_2"]["w"])
    # Standard errors: 2,048 and 16,384 numbers, 1.6 % and 0.6 %; 128 biases, 6 %: all within 4 of them.
    np.testing.assert_allclose(jnp.std(params["linear_0"]["w"]), 16**-0.5, rtol=0.064)
    np.testing.assert_allclose(jnp.std(params["linear_1"]["w"]), 128**-0.5, rtol=0.024)
    np.testing.assert_allclose(jnp.std(params["linear_1"]["b"]), 1.0, rtol=0.25)


def test_an_output_layer_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="output_layer: .*linear_7.* is found in no matrix of linear_0.b"):
        _family(r"^linear_7\.")


def _family(output_layer):
    return mu_parameterised(teacher_mlp(features=16, hidden=(128, 128)), output_layer=output_layer)


SAMPLE = teacher_mlp(features=16, hidden=(128, 128)).sample(jax.random.key(0))
