"""Which estimator, K, sigma and how many particles: on systems with known gradients, and by command line."""

import io
import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest

from meta_train.cli import main as cli
from meta_train.config import load as config_lib
from meta_train.diagnose.diagnose import Diagnosis, Reference
from meta_train.diagnose.gradient_statistics import Row, compare, measure, z_score
from meta_train.diagnose.plan import plan
from meta_train.diagnose.report import choose, closing_line, draw, print_table, to_json
from meta_train.estimators import nres, pes, tbptt, truncated_es
from meta_train.estimators.noise import Noise
from meta_train.testing.toys import accumulator, vector_linear_quadratic

SAMPLES = 4096
CONFIG = """
outer_steps: 2
tasks: [{name: quadratic, dim: 3}]
learned_optimizer: {name: learnable_adam}
inner: {unroll_length: 20}
estimator: {name: nres, num_particles: 4, truncation_length: 5, sigma: 0.1}
outer_optimizer: {name: adam, learning_rate: 0.01}
"""


def measured(toy, factory, window, seed, num_samples=SAMPLES, **options):
    length = toy.system.max_length
    return measure(
        factory(toy.system, num_particles=1, truncation_length=window, **options),
        toy.theta,
        (),
        jax.random.key(seed),
        num_samples=num_samples,
        num_windows=length // window,
        burn_in=length // window,
    )


@pytest.fixture(scope="module")
def scalar():
    """Gradients of `s <- s + theta`, loss s, T = 20: 10.5 is right, 3 is truncated at K = 5."""
    toy = accumulator()
    reference = measured(toy, nres, 20, 0, sigma=0.1)
    rows = {
        f.__name__: compare(measured(toy, f, 5, i, sigma=0.1), reference, estimator=f.__name__)
        for i, f in enumerate((truncated_es, pes, nres), 1)
    }
    return reference, rows


def test_the_reference_has_the_known_gradient_and_variance(scalar):
    """g = G eps^2: tr Cov is 2 G^2. N = 4096: s.e. 2.2 % and 7.7 %; tolerance 4 s.e., false alarm 6e-5."""
    reference, _ = scalar
    assert reference.groups.mean() == pytest.approx(10.5, rel=0.09)
    row = compare(reference, reference, estimator="nres")
    assert row.variance == pytest.approx(2 * 10.5**2, rel=0.31)
    assert row.n_crit == pytest.approx(2.0, rel=0.35)
    # A chain measures one window of 20 steps of a pair: 40 inner steps.
    assert row.snr_per_step == pytest.approx(1 / row.n_crit / 40)
    assert row.snr_per_second > 0 and row.diverged == 0


def test_the_bias_of_truncated_es_is_found_and_has_its_known_size(scalar):
    """Bias 1 - 3 / 10.5. N = 4096: s.e. of both means 2 %; tolerance 4 of them."""
    row = scalar[1]["truncated_es"]
    assert row.z > 10
    assert row.bias == pytest.approx(1 - 3 / 10.5, abs=0.06)
    assert row.cosine == pytest.approx(1.0)  # one number: the bias is in its length


@pytest.mark.parametrize("name", ["pes", "nres"])
def test_no_bias_is_found_in_an_unbiased_estimator(scalar, name):
    """|z| < 4 with 31 degrees of freedom, N = 4096: false alarm 4e-4."""
    assert abs(scalar[1][name].z) < 4
    assert scalar[1][name].bias < 0.15


@pytest.mark.parametrize(("name", "variance"), [("pes", 320.25), ("nres", 314.25)])
def test_the_variance_of_a_window_is_the_known_one(scalar, name, variance):
    """The mean over the 4 phases of E g^2, less 10.5^2. N = 4096: s.e. 7 %; tolerance 4 s.e."""
    row = scalar[1][name]
    assert row.variance == pytest.approx(variance, rel=0.28)
    assert row.n_crit == pytest.approx(variance / 10.5**2, rel=0.3)


def test_the_same_key_gives_the_same_numbers():
    toy = accumulator()
    first, second = (measured(toy, nres, 5, 3, num_samples=64, sigma=0.1) for _ in range(2))
    np.testing.assert_array_equal(first.groups, second.groups)
    assert first._replace(groups=0, seconds=0) == second._replace(groups=0, seconds=0)


def test_the_cosine_of_a_truncated_gradient_is_the_known_one():
    """8 meta-parameters, random data, TBPTT, K = 5: within 4 standard errors, N = 4096, false alarm 6e-5."""
    toy = vector_linear_quadratic()
    flat = [jax.flatten_util.ravel_pytree(g)[0] for g in (toy.gradient(0.0, 20), toy.truncated(5))]
    truth = float(flat[0] @ flat[1] / np.linalg.norm(flat[0]) / np.linalg.norm(flat[1]))
    row = compare(
        measured(toy, tbptt, 5, 1), measured(toy, nres, 20, 2, sigma=0.1), estimator="tbptt", sigma=None
    )
    assert truth < 0.98
    assert abs(row.cosine - truth) < 4 * row.cosine_error < 0.1
    assert row.z > 4


def test_z_is_standard_normal_without_a_bias_however_the_numbers_hang_together():
    """400 draws: a t with 31 degrees has variance 31 / 29; s.e. of mean 5 %, std 3.7 %; tolerance 4 s.e."""
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(3, 20))
    z = [z_score(rng.normal(size=(64, 3)) @ mix, 1.0) for _ in range(400)]
    assert abs(np.mean(z)) < 0.2
    assert np.std(z) == pytest.approx(1.03, abs=0.15)
    assert z_score(rng.normal(size=(64, 3)) @ mix + 5, 1.0) > 10


def row(name, k=5, sigma=0.1, cosine=0.99, z=0.0, speed=1.0, n_crit=7.2):
    return Row(name, k, sigma, 0.1, cosine, 0.01, z, 1.0, n_crit, speed, speed, 100, 0.5, 0.0)


TOLD = (Reference(0.1, 1.0, 20.0, 1.0),)


def diagnosis(*rows, references=TOLD):
    return Diagnosis(list(rows), list(references), 256, 4, 20, 1.0)


def test_the_choice_has_the_most_signal_per_second_of_what_is_aligned():
    slow, fast, astray = row("nres"), row("pes", speed=5.0), row("truncated_es", cosine=0.3, z=9, speed=50.0)
    assert choose(diagnosis(slow, fast, astray)) is fast
    assert "use pes K=5 sigma=0.1 with 8 particles" in closing_line(diagnosis(slow, fast, astray))


def test_a_choice_with_a_bias_is_named_beside_one_without():
    line = closing_line(diagnosis(row("nres"), row("tbptt", sigma=None, z=12.0, speed=9.0, n_crit=0.3)))
    assert (
        "use tbptt K=5 with 1 particle:" in line
        and "a bias of 0.100, z = 12.0; without" in line
        and "nres K=5 sigma=0.1" in line
    )


def test_the_closing_line_names_a_bias_that_is_not_told_from_noise_and_the_diverged_windows():
    some = row("nres", z=2.2)._replace(bias=0.289, diverged=0.2)
    line = closing_line(diagnosis(some))
    assert "a bias of 0.289 that these samples cannot tell from noise, z = 2.2" in line
    assert line.endswith("warning: 20.0% of its windows have a loss that is not finite")
    assert "warning" not in closing_line(diagnosis(row("nres")))


def test_a_sigma_that_turns_the_gradient_is_not_chosen():
    references = Reference(0.1, 1.0, 20.0, 1.0), Reference(1.0, 1.0, 20.0, 0.2)
    found = diagnosis(row("nres"), row("nres", sigma=1.0, speed=9.0), references=references)
    assert choose(found) is found.rows[0]


def test_nothing_is_recommended_where_nothing_is_told():
    noise = diagnosis(row("nres"), references=[Reference(0.1, math.nan, 1.0, 1.0)])
    assert choose(noise) is None and "--samples" in closing_line(noise)
    astray = diagnosis(row("nres", cosine=math.nan, n_crit=math.nan, speed=math.nan))
    assert choose(astray) is None and "nothing keeps" in closing_line(astray)
    assert to_json(astray)["rows"][0]["cosine"] is None and to_json(astray)["choice"] is None
    print_table(astray, text := io.StringIO())
    (line,) = (line for line in text.getvalue().splitlines() if line.startswith("| nres"))
    assert line.split("|")[5].strip() == "-"
    assert draw(astray).startswith(b"\x89PNG")


def test_the_plan_sweeps_what_each_estimator_has():
    config = config_lib.parse(
        {
            "outer_steps": 2,
            "tasks": [{"name": "quadratic"}],
            "learned_optimizer": {"name": "learnable_adam"},
            "inner": {"unroll_length": 100},
            "estimator": {
                "name": "gpes",
                "noise_period": 40,
                "truncation_length": 10,
                "delta_clip": 1.0,
                "noise": {"cohort": 4, "orthogonal": True, "scales": {"log_lr": 2.0}},
            },
            "outer_optimizer": {"learning_rate": 0.01},
        }
    )
    labels = [s.label for s in plan(config)]
    assert len(labels) == len(set(labels)) == 4 * 2 * 3 + 2
    assert {"gpes K=10 sigma=0.0033", "pes K=50 sigma=0.03", "tbptt K=50"} <= set(labels)
    (setting,) = plan(config, ["full_es"], [20], [0.5])
    noise = Noise(scales={"log_lr": 2.0})._asdict()  # of the options of the noise only the scales are kept
    options = {"num_particles": 1, "sigma": 0.5, "delta_clip": 1.0, "noise": noise}
    assert setting.spec == {"name": "full_es", **options}


@pytest.fixture
def in_a_directory_with_a_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(CONFIG)


@pytest.mark.usefixtures("in_a_directory_with_a_config")
def test_diagnose_tells_what_to_use_at_a_runs_theta(capsys):
    assert cli.command(["run", "mine.yaml", "--out", "r"]) == 0
    capsys.readouterr()
    argv = ["diagnose", "mine.yaml", "--run", "r", "--estimators", "truncated_es", "nres", "--sigmas", "0.1"]
    argv += ["--truncation-lengths", "5", "--samples", "200", "--json", "d.json", "--picture", "d.png"]
    assert cli.command(argv) == 0
    printed, figures = capsys.readouterr().out, json.loads(Path("d.json").read_text())
    first, *_, last = printed.splitlines()
    assert first.startswith("the run after 2 outer steps: drift within one inner problem 0.0")
    assert last == figures["closing_line"]
    assert "use " in figures["closing_line"] and figures["theta"] == "last theta of r, outer step 2"
    assert figures["num_samples"] == 256 and figures["num_meta_parameters"] == 4
    assert Path("d.png").read_bytes().startswith(b"\x89PNG")
    truncated, unbiased = figures["rows"]
    # The same seed gives the same figures: no chance in this.
    assert truncated["z"] > 4 and abs(unbiased["z"]) < 4
    assert truncated["state_bytes"] < unbiased["state_bytes"]

    assert cli.command(["diagnose", "mine.yaml", "learned_optimizer.name=learnable_sgdm", "--run", "r"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "does not fit the config's learned optimizer (learnable_sgdm)" in line


@pytest.mark.usefixtures("in_a_directory_with_a_config")
@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--estimators", "pess"], "did you mean pes?"),
        (["--sigmas", "-1"], "estimator.sigma: must be > 0"),
        (["--truncation-lengths", "7"], "truncation_length: must divide every inner length"),
        (["--truncation-lengths", "0"], "truncation_length: must be >= 1"),
        (["--samples", "0"], "--samples: must be >= 1"),
        (["inner.unroll_length={min: 10, max: 30}", "--estimators", "full_es"], "full_es"),
        (["inner.unroll_length={min: 10, max: 30}", "--truncation-lengths", "5", "7"], "unroll_length"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_line(capsys, argv, words):
    assert cli.command(["diagnose", "mine.yaml", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and words in err
