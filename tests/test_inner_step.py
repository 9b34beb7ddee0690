"""benchmarks/inner_step.py: kinds of operations in a compiled program, and times of nested events."""

import importlib
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest


@pytest.fixture(scope="module")
def inner_step():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
        return importlib.import_module("inner_step")


CASES = {
    "matrix products": lambda x, i: x @ x,
    "random numbers": lambda x, i: jax.random.bits(jax.random.wrap_key_data(i[:2].astype(jnp.uint32)), (8,)),
    "reductions": lambda x, i: jnp.sum(x, 0),
    "gathers and scatters": lambda x, i: x[i],
    "elementwise": lambda x, i: jnp.tanh(x) + x,
    "copies and concatenations": lambda x, i: jnp.concatenate([x, x], 1),
}


@pytest.mark.parametrize("kind", CASES)
def test_instructions_of_a_compiled_program_are_told_by_what_they_compute(inner_step, kind):
    x, i = jnp.ones((64, 64)), jnp.arange(8)
    hlo = jax.jit(CASES[kind]).lower(x, i).compile().as_text()
    kinds = {found for found, part in inner_step.instructions(hlo).values()}
    assert kind in kinds
    assert set(inner_step.KINDS) & kinds <= {kind, "elementwise", "copies and concatenations"}


def test_the_gradient_of_the_inner_problem_is_told_from_the_rest(inner_step):
    def step(x, y):
        return jax.grad(lambda x: jnp.sum(jnp.tanh(x @ y)))(x) @ y.T

    hlo = jax.jit(step).lower(jnp.ones((8, 8)), jnp.ones((8, 8))).compile().as_text()
    products = [part for kind, part in inner_step.instructions(hlo).values() if kind == "matrix products"]
    assert inner_step.GRADIENT in products and inner_step.REMAINDER in products


def test_the_time_of_a_loop_is_its_own_without_its_body(inner_step):
    events = [("body", 2.0, 3.0), ("loop", 0.0, 10.0), ("body", 6.0, 1.0), ("after", 10.0, 4.0)]
    assert inner_step.own_times(events) == {"loop": 6.0, "body": 4.0, "after": 4.0}
