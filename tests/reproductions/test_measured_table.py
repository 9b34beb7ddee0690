"""The measurements behind the table of estimators, the implicit gradients and the evolution strategies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_train.estimators import ESTIMATORS
from reproductions import evolution, implicit, table_1
from reproductions.costs import Size, program, slope, value
from reproductions.operations import operations
from reproductions.systems.mlp_schedule import mlp_schedule
from reproductions.systems.ridge import ridge_data
from reproductions.worth import worth


def test_operations_of_a_loop_count_as_often_as_it_runs():
    def loop(w, s):
        return jax.lax.scan(lambda s, _: (jnp.tanh(w @ s), None), s, None, length=7)[0].sum()

    w, s = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((16, 16), (16,)))
    assert operations(loop, w, s) == 7 * (2 * 16 * 16 + 16) + 16
    gradient = operations(jax.grad(loop), w, s)
    assert 7 * 2 * 3 * 16 * 16 <= gradient < 7 * (2 * 3 * 16 * 16 + 20 * 16 + 2 * 16 * 16)


def test_without_loops_the_count_is_that_of_the_compiler():
    def function(a, b):
        return jnp.sin(a @ b) * 2.0 + 1.0

    a, b = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((8, 32), (32, 64)))
    compiled = jax.jit(function).lower(a, b).compile().cost_analysis()
    assert operations(function, a, b) == pytest.approx(
        compiled["flops"] + compiled.get("transcendentals", 0), rel=0.05
    )


def test_a_loop_of_unknown_length_is_refused():
    with pytest.raises(ValueError, match="^a while loop has no known length"):
        operations(lambda x: jax.lax.while_loop(lambda x: x < 3, lambda x: x + 1, x), jnp.float32(0))


def test_exponents_are_those_of_a_power():
    sizes = [Size(K=n) for n in (4, 16, 64)]
    values = [value("N*K**2*S", size) for size in sizes]
    np.testing.assert_allclose(slope(sizes, "K", values), (2, 0), atol=1e-12)


def test_every_estimator_has_its_row():
    assert set(table_1.ROWS) == set(ESTIMATORS)


def test_a_window_costs_in_proportion_to_its_steps_and_backpropagation_remembers_them():
    axes = {"K": [Size(K=n, S=128) for n in (8, 32)]}
    memory = {}
    for name in ("tbptt", "pes"):
        found = table_1.exponents(name, axes, {})["K"]
        assert found["operations"][0] == pytest.approx(1, abs=0.05)
        memory[name] = found["bytes"][0]
    assert memory["tbptt"] > max(0.5, memory["pes"] + 0.2)


def test_time_has_an_exponent_for_every_round_and_what_an_estimator_costs_is_shown():
    axes = {"N": [Size(N=n, S=32, T=16, K=8) for n in (2, 4)]}
    found = {"nres": {"exponents": table_1.exponents("nres", axes, {}, 2), "ms": [1.2, 2.4, 3.6]}}
    exponent, error = found["nres"]["exponents"]["N"]["ms"]
    assert np.isfinite(exponent) and error > 0
    worth = {"ratio": 1.0, "error": 0.01, "z": 0.0, "four": 0.25, "rounded": 0.98, "rounded error": 0.02}
    found["nres"] |= {"worth": worth, "operations": 2e6, "bytes": 2048.0}
    lines = table_1.summary(found)
    assert lines["compute of nres"] == "N K F | 1.00 (1.00)"
    assert lines["worth of nres"] == "yes | 1.000 +- 0.010, z = 0.0 | yes | 0.250 | yes | 0.980 +- 0.020"
    assert lines["cost of nres"] == "2 | 2 | 2, 1 to 4"


def test_reparameterisation_is_that_of_whole_inner_problems_as_in_the_table():
    (one, of_one), (two, of_two) = (program("reparam", Size(T=t, S=32)) for t in (16, 32))
    one, two = operations(one, *of_one), operations(two, *of_two)
    assert two == pytest.approx(2 * one, rel=0.05)


def test_what_a_gradient_is_worth():
    """T = 8, K = 2, 2000 means of four particles."""
    pes, tbptt = worth("pes", 2000), worth("tbptt", 10)
    assert abs(pes["z"]) < 4 and pes["error"] < 0.1
    assert pes["four"] == pytest.approx(0.25, abs=0.06)
    assert pes["rounded"] == pytest.approx(1, abs=0.3)
    assert abs(tbptt["z"]) > 4 and np.isnan(tbptt["four"]) and tbptt["rounded"] == 0


def test_the_exact_gradient_of_the_penalties_is_that_of_differences():
    data, at = ridge_data(), np.linspace(-1, 2, 10)
    found, steps = implicit.exact_gradient(data, at), 1e-4 * np.eye(10)
    differences = [(implicit.exact(data, at + e)[0] - implicit.exact(data, at - e)[0]) / 2e-4 for e in steps]
    np.testing.assert_allclose(found, differences, rtol=1e-5, atol=1e-6)
    best = implicit.best_error(data)
    assert best < min(implicit.error(data, np.full(10, x)) for x in np.linspace(-4, 6, 11))


def test_implicit_gradients_get_exact_as_the_model_trains_and_one_step_does_not():
    found = implicit.gradient_errors([0, 1], (1, 200), ("one step", "GMRES"))
    assert np.max(found["GMRES"][1]) < 1e-3 < np.min(found["GMRES"][0])
    assert np.min(found["one step"][1]) > 0.3


def test_evolution_strategies_leave_the_plain_of_the_toy_regression():
    """2488 at the start; 160 trainings of 100 steps."""
    case = evolution.CASES["toy regression"]._replace(budget=16_000)
    found = evolution.compare(case, "CMA-ES", [0, 1])
    assert np.asarray(found["objective"])[:, 0] == pytest.approx(2487.8, abs=0.5)
    assert np.asarray(found["objective"])[:, -1].max() < 1500


def test_an_evolution_strategy_improves_a_schedule_and_every_seed_has_its_curve():
    """20 trainings of a small network, 40 steps each; the seeds are trained two at a time."""
    make = lambda: mlp_schedule(hidden=(4,), batch_size=4, unroll_length=40)  # noqa: E731
    case = evolution.CASES["learning-rate schedule"]._replace(make=make, budget=6400, episodes=1)
    found = np.asarray(evolution.compare(case, "SNES", [0, 1, 2])["objective"])
    assert found.shape == (3, evolution.RECORDS + 1)
    assert (found[:, -1] < found[:, 0]).all()
