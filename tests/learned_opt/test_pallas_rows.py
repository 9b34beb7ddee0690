"""The Pallas kernels, interpreted, against the plain path."""

import jax
import jax.numpy as jnp
import numpy as np

from learned_opt.architectures import adafac_mlp, pallas_rows
from learned_opt.architectures.adafac_mlp import FEATURES
from learned_opt.architectures.features import OVER_ALL, Decays, init_state, observe
from learned_opt.architectures.network import per_parameter_mlp

DECAYS = Decays(momentum=(0.9, 0.99, 0.999), rms=(0.999,), factored=(0.9, 0.99, 0.999))
LEVEL = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def numbers(shape, phase=0.0):
    return jnp.sin(1.3 * jnp.arange(np.prod(shape)) + phase).reshape(shape)


def test_the_kernels_give_what_the_plain_path_gives_also_where_tiles_hang_over_the_edge(monkeypatch):
    monkeypatch.setattr(pallas_rows, "TILE", (4, 8))
    params = {"w": numbers((7, 13))}
    sizes = [28, 4, 4, 2]
    layers = [
        (0.5 * numbers(s, i), numbers(s[1:])) for i, s in enumerate(zip(sizes, sizes[1:], strict=False))
    ]

    def run(layers):
        grads = jax.tree.map(lambda p: jnp.cos(3 * p), params)
        tensors, _ = observe(grads, init_state(params, DECAYS), params, DECAYS)
        plain = per_parameter_mlp(FEATURES, tensors, layers)[0]
        return plain, pallas_rows.fused_mlp(FEATURES, tensors[0], layers, OVER_ALL, interpret=True)

    plain, kernels = jax.jit(run, compiler_options=LEVEL)(layers)
    np.testing.assert_allclose(kernels, plain, rtol=1e-5, atol=1e-5)


def test_adafac_mlp_takes_them_when_asked_to(monkeypatch):
    taken = []

    def fused(features, tensor, layers, norm):
        taken.append(tensor.grad.shape)
        return jnp.zeros((*tensor.grad.shape, 2))

    monkeypatch.setattr(pallas_rows, "fused_mlp", fused)
    lopt, params = adafac_mlp(kernel="pallas", fused_from=0), {"w": jnp.zeros((3, 4))}
    jax.eval_shape(
        lambda key: lopt.build(lopt.init(key), None).update(
            params, lopt.build(lopt.init(key), None).init(params), params
        ),
        jax.random.key(0),
    )
    assert (3, 4) in taken
