"""The limits in which one estimator is another, their known biases, and the boundaries of inner problems.

The contract that all of them fulfil is in test_contract.py. Statistical tests as there: fixed keys, |z| < 4.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_train.core import perturb
from meta_train.core.system import Rollout
from meta_train.estimators import CLAIMS, ESTIMATORS
from meta_train.estimators.guided_es import part_of
from meta_train.testing import toys
from meta_train.testing.conformance import compare, sample_gradients
from meta_train.testing.loop import to_host
from meta_train.testing.subject import build
from reproductions.systems.influence_balancing import influence_balancing

pytestmark = pytest.mark.usefixtures("quick_compilation")


def tree_equal(a, b):
    return jax.tree.all(jax.tree.map(lambda x, y: np.array_equal(x, y), to_host(a), to_host(b)))


def tree_close(a, b, rtol=1e-5, atol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


@pytest.mark.parametrize("toy, window", [(toys.accumulator(), 5), (toys.linear_quadratic(), 10)])
@pytest.mark.parametrize("name", [name for name, claim in CLAIMS.items() if not claim.smoothing])
def test_the_bias_of_truncation_is_the_known_one(name, toy, window):
    estimator = build(
        ESTIMATORS[name], toy.system, num_particles=1, truncation_length=window, sigma=0.1, stagger=False
    )
    samples = sample_gradients(
        estimator,
        toy.theta,
        jax.random.key(0),
        num_samples=50_000,
        num_windows=toy.system.max_length // window,
    )
    found = compare(samples, toy.truncated(window))
    assert found.passed, found.detail


# Limits: one method is another.


def trajectory(estimator, theta, windows=6, data=()):
    """Gradients of consecutive windows at a fixed theta."""
    step = jax.jit(estimator.estimate)
    state, grads = jax.jit(estimator.init)(theta, jax.random.key(5)), []
    for i in range(windows):
        estimate, state = step(theta, state, jax.random.key(i), data)
        grads.append(estimate.grad)
    return grads


def make(name, toy, **options):
    return ESTIMATORS[name](toy.system, num_particles=4, sigma=0.1, **options)


@pytest.fixture(scope="module")
def toy():
    return toys.vector_linear_quadratic(unroll_length=4)


def test_gpes_with_noise_period_k_is_pes_bit_by_bit(toy):
    a = trajectory(make("gpes", toy, truncation_length=2, noise_period=2), toy.theta)
    assert tree_equal(a, trajectory(make("pes", toy, truncation_length=2), toy.theta))


def test_gpes_without_a_noise_period_is_nres_bit_by_bit(toy):
    a = trajectory(make("gpes", toy, truncation_length=2, noise_period=None), toy.theta)
    b = trajectory(make("nres", toy, truncation_length=2), toy.theta)
    assert tree_equal(a, b)
    # A period of T keeps the one eps in xi instead of drawing it again.
    tree_close(a, trajectory(make("gpes", toy, truncation_length=2, noise_period=4), toy.theta))


def test_windows_of_a_whole_inner_problem_are_full_es(toy):
    full = trajectory(make("full_es", toy), toy.theta, windows=3)
    for name in ("gpes", "nres", "pes"):
        tree_close(
            full, trajectory(make(name, toy, truncation_length=4, stagger=False), toy.theta, windows=3)
        )


@pytest.mark.parametrize("remat", [True, False])
def test_backpropagation_through_a_whole_inner_problem_is_the_true_gradient(remat):
    toy = influence_balancing(unroll_length=100)
    estimator = ESTIMATORS["tbptt"](
        toy.system, num_particles=2, truncation_length=100, remat=remat, stagger=False
    )
    for grad in trajectory(estimator, toy.theta, windows=2):
        np.testing.assert_allclose(100 * grad, 3571.63, rtol=1e-5)


@pytest.mark.parametrize("window", [1, 10, 50])
def test_influence_balancing_deceives_short_windows(window):
    toy = influence_balancing(unroll_length=100)
    estimator = ESTIMATORS["tbptt"](toy.system, num_particles=1, truncation_length=window, stagger=False)
    mean = np.mean(trajectory(estimator, toy.theta, windows=100 // window))
    np.testing.assert_allclose(100 * mean, {1: -26.0, 10: -177.6, 50: 1008.7}[window], rtol=1e-3)


@pytest.mark.parametrize("name, period, expected", [("pes", 1, 2.048), ("pes", 2, 2.336), ("nres", 4, 2.912)])
def test_the_fingerprints_of_the_smoothing(name, period, expected):
    toy = toys.product()
    assert abs(toy.gradient(0.3, period) - expected) < 1e-9
    window = min(period, 2)
    estimator = ESTIMATORS[name](
        toy.system, num_particles=1, truncation_length=window, sigma=0.3, stagger=False
    )
    samples = sample_gradients(
        estimator, toy.theta, jax.random.key(1), num_samples=50_000, num_windows=4 // window
    )
    found = compare(samples, expected)
    assert found.passed, found.detail


def test_pes_with_an_analytic_window_smooths_all_but_the_running_one():
    # T = 4, K = 2: 2 theta^3 of the second window, 2 theta (theta^2 + sigma^2) of the first.
    toy = toys.product()
    estimator = ESTIMATORS["pes_analytic"](
        toy.system, num_particles=1, truncation_length=2, sigma=0.3, stagger=False
    )
    samples = sample_gradients(estimator, toy.theta, jax.random.key(0), num_samples=50_000, num_windows=2)
    found = compare(samples, 2 * 0.8**3 + 2 * 0.8 * (0.8**2 + 0.3**2))
    assert found.passed, found.detail


@pytest.mark.parametrize("toy, window", [(toys.accumulator(), 5), (toys.linear_quadratic(), 10)])
def test_pathwise_gradients_of_the_running_window_lower_the_variance(toy, window):
    stds = []
    for name in ("pes", "pes_reparam", "pes_analytic"):
        estimator = ESTIMATORS[name](
            toy.system, num_particles=1, truncation_length=window, sigma=0.1, stagger=False
        )
        windows = toy.system.max_length // window
        samples = sample_gradients(
            estimator, toy.theta, jax.random.key(0), num_samples=20_000, num_windows=windows
        )
        stds.append(samples.std())
    assert stds[1] < 0.9 * stds[0] and stds[2] < 0.9 * stds[0]


@pytest.mark.parametrize(
    "name, option", [("bptt", {}), ("rtrl", {"truncation_length": 20}), ("tbptt", {"truncation_length": 100})]
)
def test_exact_derivatives_agree_on_influence_balancing(name, option):
    toy = influence_balancing(unroll_length=100)
    estimator = build(ESTIMATORS[name], toy.system, num_particles=1, stagger=False, **option)
    windows = 100 // option.get("truncation_length", 100)
    np.testing.assert_allclose(100 * np.mean(trajectory(estimator, toy.theta, windows)), 3571.63, rtol=1e-4)


def test_an_influence_matrix_that_does_not_fit_is_refused():
    estimator = ESTIMATORS["rtrl"](influence_balancing().system, max_gib=1e-9)
    with pytest.raises(ValueError, match="^max_gib must be at least .* got 1e-09"):
        estimator.init(jnp.float32(0.5), jax.random.key(0))


def test_keeping_the_square_root_of_the_states_changes_no_gradient():
    toy = influence_balancing(unroll_length=24)
    grads = [
        trajectory(ESTIMATORS["bptt"](toy.system, num_particles=1, remat=remat), toy.theta, 1)[0]
        for remat in (True, "sqrt")
    ]
    np.testing.assert_allclose(*grads, rtol=1e-5)


@pytest.mark.parametrize("option", [{"mean_length": 1.0}, {"exponent": 2.0}])
def test_cut_lengths_out_of_range_are_refused(option):
    with pytest.raises(ValueError, match=f"^{next(iter(option))} must be > "):
        ESTIMATORS["artbp"](toys.product().system, **option)


@pytest.mark.slow
@pytest.mark.parametrize("mean_length, std", [(10, 9.0e3), (30, 3.9e3), (50, 2.9e3)])
def test_random_cuts_have_the_published_variance_on_influence_balancing(mean_length, std):
    # T = 100, summed: 3571.63. The lomax cuts; 4000 samples know a std of a heavy tail to about 10 %.
    toy = influence_balancing(unroll_length=100)
    estimator = ESTIMATORS["artbp"](toy.system, num_particles=1, mean_length=mean_length)
    samples = 100 * sample_gradients(estimator, toy.theta, jax.random.key(0), num_samples=4000, num_windows=1)
    assert abs(samples.mean() - 3571.63) < 4 * samples.std() / np.sqrt(4000)
    np.testing.assert_allclose(samples.std(), std, rtol=0.2)


def test_guided_noise_lies_in_the_span_of_the_surrogates_or_across_it():
    surrogates = jnp.float32([[1e-3, 0, 0, 0, 0, 0], [0, 2e3, 2e3, 0, 0, 0]])
    noise = jax.random.normal(jax.random.key(0), (6,))
    inside = np.asarray(part_of(noise, surrogates, jnp.bool_(True)))
    np.testing.assert_allclose(inside[[0, 3, 4, 5]], [noise[0], 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(inside[1:3], (noise[1] + noise[2]) / 2, rtol=1e-5)
    np.testing.assert_allclose(part_of(noise, surrogates, jnp.bool_(False)), noise - inside, atol=1e-6)


# Boundaries.


def scripted(length, losses):
    """A system whose state tells the loss: `state` before a restart, `losses` after it."""

    def init(theta, key):
        return jnp.asarray(losses, jnp.float32), jnp.int32(length)

    return toys.UnrolledSystem(init, lambda theta, s, key, data: (s, s), length, length)


def test_the_last_loss_of_an_inner_problem_is_credited_to_its_whole_accumulator():
    # xi = 10 of older windows + 1 of this noise, loss difference 1: 5.5. A method that counts the
    # last step as one of the next inner problem returns 0.5.
    estimator = ESTIMATORS["gpes"](
        scripted(2, 0.0), num_particles=1, truncation_length=1, noise_period=2, sigma=1.0, stagger=False
    )
    theta = jnp.float32(0.0)
    state = estimator.init(theta, jax.random.key(0))
    pair = Rollout(
        jnp.float32([[0.5, -0.5]]), jnp.int32([[1, 1]]), jnp.int32([[2, 2]]), jnp.zeros((1, 2), bool)
    )
    state = state._replace(state=state.state._replace(pair=pair, xi=jnp.float32([11.0])))
    estimate, state = estimator.estimate(theta, state, jax.random.key(1), ())
    assert float(estimate.grad) == 5.5 and float(estimate.particles["restarted"][0]) == 0
    # The next window belongs to the next inner problem: nothing of xi is left.
    estimate, state = estimator.estimate(theta, state, jax.random.key(2), ())
    assert float(estimate.grad) == 0.0 and float(estimate.particles["restarted"][0]) == 1
    assert abs(float(state.state.xi[0])) < 6  # one draw of std 1


def test_lengths_drawn_at_random_stay_unbiased():
    # T is 5, 10 or 20: E sum_t t / E T. 40 windows of burn-in are 17 inner problems.
    def init(theta, key):
        return jnp.float32(0.0), jnp.asarray([5, 10, 20], jnp.int32)[jax.random.randint(key, (), 0, 3)]

    system = toys.UnrolledSystem(init, lambda theta, s, key, data: (s + theta, s + theta), 5, 20)
    estimator = ESTIMATORS["pes"](system, num_particles=1, truncation_length=5, sigma=0.1)
    samples = sample_gradients(
        estimator, jnp.float32(0.3), jax.random.key(0), num_samples=50_000, num_windows=4, burn_in=40
    )
    found = compare(samples, (15 + 55 + 210) / (5 + 10 + 20))
    assert found.passed, found.detail


@pytest.mark.parametrize("name", ["pes", "nres", "tbptt", "truncated_es"])
def test_theta_in_the_fresh_state_is_part_of_the_gradient(name):
    def init(theta, key):
        return theta, jnp.int32(4)

    system = toys.UnrolledSystem(init, lambda theta, s, key, data: (s + theta, s + theta), 4, 4)
    estimator = build(ESTIMATORS[name], system, num_particles=1, truncation_length=2, sigma=0.1)
    samples = sample_gradients(
        estimator, jnp.float32(0.3), jax.random.key(0), num_samples=50_000, num_windows=2, burn_in=2
    )
    truncated = 1.5 + 1 / 2  # the fresh state lies in one window of two
    found = compare(samples, truncated if CLAIMS[name].smoothing is None else 3.5)
    assert found.passed, found.detail


@pytest.mark.parametrize("name", ["pes", "nres"])
def test_changing_sigma_during_an_inner_problem_stays_unbiased(name):
    toy = toys.linear_quadratic(unroll_length=20)
    base = ESTIMATORS[name](toy.system, num_particles=1, truncation_length=5, sigma=0.1, stagger=False)

    def estimate(theta, state, key, data):
        sigma = 0.05 * 2.0 ** (state.state.pair.t[:, 0] // 5)  # 0.05, 0.1, 0.2, 0.4
        return base.estimate(theta, state._replace(state=state.state._replace(sigma=sigma)), key, data)

    samples = sample_gradients(
        base._replace(estimate=estimate), toy.theta, jax.random.key(0), num_samples=100_000, num_windows=8
    )
    found = compare(samples, toy.gradient(0, 1))
    assert found.passed, found.detail


def test_without_influence_pes_is_truncated_es_with_more_variance():
    # The state is forgotten every window: xi's old part is pure noise. std of the last of 4 windows:
    # grad = xi * delta / 2, delta = 2 c eps: sqrt(2 + 3) / sqrt(2) = 1.58 times that of the first.
    def step(theta, state, key, data):
        s, t = jnp.where(state.t % 2 == 0, 0.0, state.s) + theta, state.t + 1
        return toys.ToyState(s, t), s

    system = toys.accumulator(unroll_length=8).system._replace(step=step)
    pes = ESTIMATORS["pes"](system, num_particles=1, truncation_length=2, sigma=0.1, stagger=False)
    samples = sample_gradients(pes, jnp.float32(0.3), jax.random.key(0), num_samples=50_000, num_windows=8)
    found = compare(samples, 1.5)
    assert found.passed, found.detail
    first, last = (
        sample_gradients(
            pes, jnp.float32(0.3), jax.random.key(1), num_samples=50_000, num_windows=1, burn_in=b
        ).std()
        for b in (0, 3)
    )
    np.testing.assert_allclose(last / first, np.sqrt(5 / 2), rtol=0.03)


@pytest.mark.parametrize("stagger", [True, False])
def test_staggered_particles_are_uniform_over_the_window_positions(stagger):
    # 2000 particles over 4 positions: 500 +- 19 (std); a bound of 100 is 5 std.
    toy = toys.accumulator(unroll_length=8)
    estimator = ESTIMATORS["nres"](toy.system, num_particles=2000, truncation_length=2, stagger=stagger)
    step = jax.jit(estimator.estimate)
    state = jax.jit(estimator.init)(toy.theta, jax.random.key(0))
    for i in range(9):
        _, state = step(toy.theta, state, jax.random.key(i), ())
        counts = np.bincount(np.asarray(state.state.pair.t[:, 0]) // 2, minlength=5)[1:]
        if i >= 3:
            assert (abs(counts - 500).max() < 100) == stagger


# One particle among many.


@pytest.fixture(scope="module")
def sixteen():
    """16 pairs of NRES in the middle of an inner problem of the accumulator, and one jitted window."""
    system = toys.accumulator(unroll_length=8).system._replace(worst_loss=50.0)
    estimator = ESTIMATORS["nres"](system, num_particles=16, truncation_length=2, sigma=0.1, stagger=False)
    step = jax.jit(estimator.estimate)
    theta = jnp.float32(0.3)
    _, state = step(theta, jax.jit(estimator.init)(theta, jax.random.key(0)), jax.random.key(1), ())
    return theta, state, step


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("half, sign", [(0, 1), (1, -1)])
def test_a_diverged_half_keeps_its_sign_is_counted_and_restarts(sixteen, half, sign, value):
    theta, state, step = sixteen
    healthy, _ = step(theta, state, jax.random.key(2), ())
    pair = state.state.pair
    s = pair.state.s.at[3, half].set(value)
    pair = pair._replace(state=pair.state._replace(s=s))
    estimate, after = step(
        theta, state._replace(state=state.state._replace(pair=pair)), jax.random.key(2), ()
    )
    delta = np.asarray(estimate.particles["delta"])
    assert np.isfinite(estimate.grad) and np.isfinite(estimate.loss)
    assert sign * delta[3] > 40  # 50 is the worst loss
    others = np.arange(16) != 3
    np.testing.assert_array_equal(delta[others], np.asarray(healthy.particles["delta"])[others])
    np.testing.assert_array_equal(estimate.particles["diverged"], ~others)
    estimate, after = step(theta, after, jax.random.key(3), ())
    np.testing.assert_array_equal(estimate.particles["restarted"], ~others)
    assert np.isfinite(after.state.pair.state.s).all() and int(after.state.pair.t[3, 0]) == 2
    assert not estimate.particles["diverged"].any()


def test_permuting_the_particles_permutes_the_answers(sixteen):
    theta, state, step = sixteen
    order = np.random.default_rng(0).permutation(16)
    plain, _ = step(theta, state, jax.random.key(2), ())
    moved = jax.tree.map(lambda x: x[order], state)
    shuffled, _ = step(theta, moved, jax.random.key(2), ())
    np.testing.assert_array_equal(shuffled.particles["delta"], np.asarray(plain.particles["delta"])[order])
    np.testing.assert_allclose(shuffled.grad, plain.grad, rtol=1e-5)


def test_a_gradient_that_is_not_finite_counts_nothing_and_restarts_its_particle():
    # sqrt has an infinite slope at 0, where the loss itself is finite.
    def step(theta, s, key, data):
        s = s + 1
        return s, jnp.sqrt(jnp.where(s == 1, theta - 4.0 * (jax.random.uniform(key) < 0.5), theta))

    system = toys.UnrolledSystem(lambda theta, key: (jnp.float32(0.0), jnp.int32(4)), step, 4, 4)
    estimator = ESTIMATORS["tbptt"](system, num_particles=16, truncation_length=2, stagger=False, remat=False)
    theta = jnp.float32(4.0)
    window = jax.jit(estimator.estimate)
    estimate, state = window(theta, estimator.init(theta, jax.random.key(0)), jax.random.key(1), ())
    bad = np.asarray(estimate.particles["diverged"])
    assert 0 < bad.sum() < 16
    np.testing.assert_allclose(estimate.grad, 0.25 * (1 - bad.mean()), rtol=1e-6)
    estimate, _ = window(theta, state, jax.random.key(2), ())
    np.testing.assert_array_equal(estimate.particles["restarted"], bad)


def test_clipping_bounds_each_pairs_difference():
    toy = toys.accumulator()
    for name in ("pes", "truncated_es"):
        estimator = ESTIMATORS[name](
            toy.system, num_particles=8, truncation_length=5, sigma=1.0, delta_clip=0.25, stagger=False
        )
        estimate, _ = estimator.estimate(
            toy.theta, estimator.init(toy.theta, jax.random.key(0)), jax.random.key(1), ()
        )
        assert float(jnp.abs(estimate.particles["delta"]).max()) == 0.25


def test_the_stacked_pair_is_the_sequential_one_written_out():
    """PES of three windows, each half unrolled by itself in a plain loop."""
    toy, n, k = toys.vector_linear_quadratic(unroll_length=4), 2, 2
    sigma = 0.1
    estimator = ESTIMATORS["pes"](
        toy.system, num_particles=n, truncation_length=k, sigma=sigma, stagger=False
    )
    key_init = jax.random.key(5)
    grads = trajectory(estimator, toy.theta, windows=3)
    step = jax.jit(toy.system.step)
    total = [jax.tree.map(jnp.zeros_like, toy.theta) for _ in range(3)]
    for index in range(n):
        _, episode = jax.random.split(jax.random.fold_in(key_init, index))
        states, xi = [toy.system.init(toy.theta, key_init)[0]] * 2, jax.tree.map(jnp.zeros_like, toy.theta)
        for window in range(3):
            _, fresh, key_unroll = jax.random.split(jax.random.fold_in(jax.random.key(window), index), 3)
            if window == 2:  # T = 4 is over
                episode, xi = fresh, jax.tree.map(jnp.zeros_like, toy.theta)
                states = [toy.system.init(toy.theta, key_init)[0]] * 2
            noise = perturb.gaussian_like(jax.random.fold_in(episode, window % 2), toy.theta)
            xi = jax.tree.map(lambda a, e: a + e / sigma, xi, noise)
            losses = [0.0, 0.0]
            for half, sign in enumerate((1, -1)):
                theta = jax.tree.map(lambda x, e, sign=sign: x + sign * sigma * e, toy.theta, noise)
                for key in jax.random.split(key_unroll, k):
                    states[half], loss = step(theta, states[half], key, ())
                    losses[half] += float(loss) / k
            total[window] = perturb.add_scaled(total[window], (losses[0] - losses[1]) / 2 / n, xi)
    tree_close(grads, total, rtol=1e-4, atol=1e-4)
