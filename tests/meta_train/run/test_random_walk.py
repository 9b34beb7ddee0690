"""A run that does not learn is recognised from its metrics, and one that learns is left in peace."""

import math

import pytest

import meta_train
from meta_train.run.metrics import Writer, jsonl_writer, read_jsonl
from meta_train.run.random_walk import Progress, advice, assess, summary, watch
from meta_train.run.train import Display


def rows(n):
    """n rows of ten outer steps each, with the metrics of two families."""
    families = {"a/snr": 0.1, "b/snr": 0.3, "a/theta_drift": 1.0}
    return [{"step": 10 * i + 9, "grad_norm": 1.0, "b/theta_drift": i} | families for i in range(n)]


def test_the_figures_are_those_of_the_second_half_of_the_run():
    found = assess(rows(8), has_sigma=True)
    # Rows 4 to 7 end after step 40 of 80: drift (1 + i) / 2, and 4 rows x 10 steps x 0.2.
    assert found.outer_steps == 80
    assert found.drift == pytest.approx((2.5 + 3.0 + 3.5 + 4.0) / 4)
    assert found.accumulated_snr == pytest.approx(8.0)
    assert math.isnan(found.score)


def test_an_estimator_without_a_sigma_has_no_drift():
    assert math.isnan(assess(rows(8), has_sigma=False).drift)


def test_a_run_without_rows_is_not_judged():
    assert advice(assess([], has_sigma=True), 4) is None


def test_the_newest_scores_are_compared_with_those_of_the_initial_theta():
    scored = [
        {"step": s, "held_out/score": value, "held_out/initial_score": 0.5}
        for s, value in [(9, 0.7), (79, 0.4)]
    ]
    found = assess([*rows(8), *scored], has_sigma=True)
    assert (found.score, found.initial_score) == (0.4, 0.5)


NOT_SCORED = {"score": math.nan, "initial_score": math.nan}
GOOD = Progress(1000, 1.0, 8.0, -0.2, 0.1, -1.0, -0.5)


@pytest.mark.parametrize(
    ("change", "said", "not_said"),
    [
        ({"drift": 3.1}, ["3.1 sigma", "learning_rate", "sigma by 2"], ["num_particles", "no better"]),
        (
            {"score": 0.1},
            ["at the start (+0.100 now, +0.100", "tasks closer"],
            ["learning_rate"],
        ),
        ({"score": 0.2, "accumulated_snr": 0.3}, ["num_particles to 16 (now 4)"], ["learning_rate"]),
        ({"score": 0.2, "accumulated_snr": -2.0}, ["num_particles to 64 (now 4)"], ["learning_rate"]),
        ({"drift": 9.0, "accumulated_snr": 0.6}, ["9.0 sigma", "num_particles to 8"], ["no better"]),
    ],
)
def test_the_advice_names_what_is_wrong_and_what_to_change(change, said, not_said):
    line = advice(GOOD._replace(**change), 4)
    assert line.startswith("after 1000 outer steps, ") and "\n" not in line
    assert all(text in line for text in said) and not any(text in line for text in not_said)


@pytest.mark.parametrize("change", [{}, {"accumulated_snr": 0.1}, NOT_SCORED])
def test_a_run_that_improves_and_drifts_little_gets_no_advice(change):
    assert advice(GOOD._replace(**change), 4) is None


def test_the_summary_leaves_out_what_was_not_measured():
    assert "training score -1.000 (initial theta -0.500)" in summary(GOOD)
    assert "score" not in summary(GOOD._replace(**NOT_SCORED, training_score=math.nan))
    assert "drift" not in summary(GOOD._replace(drift=math.nan))


def test_the_hook_looks_at_powers_of_two_and_at_the_end(tmp_path):
    writer = jsonl_writer(tmp_path / "metrics.jsonl")
    looked, said = [], []

    def write(step, row):
        looked.append(step + 1)
        assert set(row) == {"progress/theta_drift", "progress/accumulated_snr"}

    hook = watch(
        lambda: read_jsonl(tmp_path / "metrics.jsonl"),
        Writer(write, lambda: None),
        last=600,
        steps_per_call=10,
        num_particles=2,
        has_sigma=True,
        warn=said.append,
    )
    for row in rows(60):
        writer.write(row.pop("step"), row)
    for step in range(10, 601, 10):
        hook(step, None, None)
    writer.close()
    assert looked == [130, 260, 520, 600]
    assert len(said) == 4 and all("sigma within one inner problem" in line for line in said)


CONFIG = """
tasks: [{name: quadratic, dim: 4, noise: 0.1}]
learned_optimizer: {name: learnable_sgd}
estimator: {name: nres, num_particles: 2, truncation_length: 4, sigma: 0.01}
inner: {unroll_length: 20}
outer_optimizer: {name: adam, learning_rate: RATE}
outer_steps: 128
selection: {every: 64, horizons: [20], num_seeds: 1, tasks: [{name: quadratic, dim: 3}]}
logging: {every: 8}
"""


@pytest.mark.parametrize(("rate", "walks"), [(1e-4, False), (0.05, True)])
def test_a_run_with_too_large_an_outer_rate_is_told_so_while_it_runs(tmp_path, rate, walks):
    (tmp_path / "c.yaml").write_text(CONFIG.replace("RATE", str(rate)))
    warned = []
    config = meta_train.load_config(tmp_path / "c.yaml")
    meta_train.train(config, tmp_path / "run", display=Display(warn=warned.append))
    written = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    (row,) = [row for row in written if "progress/theta_drift" in row]
    assert (row["progress/theta_drift"] > 3) == walks
    assert any("sigma within one inner problem" in line for line in warned) == walks
    scored = [row for row in written if "held_out/score" in row]
    assert len({row["held_out/initial_score"] for row in scored}) == 1
    assert scored[0]["held_out/initial_training_score"] != scored[-1]["held_out/training_score"]
