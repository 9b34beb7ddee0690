"""Every Python block of the README runs, and does what the text around it says."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import learned_opt
from meta_train.cli import main as cli
from meta_train.core.system import UnrolledSystem
from tasks import check_family

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(marker):
    """The one Python block that contains `marker`, executed: its names."""
    found = [code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if marker in code]
    assert len(found) == 1, marker
    names = {}
    exec(compile(found[0], f"README: {marker}", "exec"), names)
    return names


def test_the_optax_example_trains_with_an_exported_optimizer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lopt = learned_opt.residual()
    theta = lopt.init(jax.random.key(0))
    Path("runs/quickstart").mkdir(parents=True)
    learned_opt.save(
        "runs/quickstart/optimizer", name="residual", options={}, theta=theta, horizon=200, provenance={}
    )
    names = block("learned_opt.load")
    begin = names["loss_fn"](jnp.zeros(8), names["x"], names["y"])
    assert names["loss"] < begin / 1.5


def test_the_estimator_example_is_unbiased_where_a_window_is_the_whole_problem():
    # s <- s + theta, L = s, T = 4: the gradient of the mean loss is 2.5, and one estimate's std over
    # 20,000 particles is 2.5 sqrt(2 / 20,000) = 0.025. |z| < 4 fails by chance once in 16,000 keys.
    system = UnrolledSystem(
        lambda theta, key: (jnp.zeros([]), 4), lambda theta, s, key, data: (s + theta, s + theta), 4, 4
    )
    estimator = block("def forward_es")["forward_es"](
        system, num_particles=20_000, truncation_length=4, sigma=0.1
    )
    theta = jnp.float32(0.3)
    state = estimator.init(theta, jax.random.key(0))
    estimate, _ = jax.jit(estimator.estimate)(theta, state, jax.random.key(1), ())
    np.testing.assert_allclose(estimate.grad, 2.5, atol=4 * 0.025)


def test_the_task_example_is_a_valid_family():
    family = block("def line_fit")["line_fit"]()
    check_family(family)
    task = family.task(family.sample(jax.random.key(0)))
    loss = task.loss(task.init(jax.random.key(1)), jax.random.key(2), ())
    assert jnp.isfinite(loss)


def commands():
    for code in re.findall(r"```bash\n(.*?)```", README, re.DOTALL):
        for line in code.splitlines():
            if line.startswith("meta-train"):
                yield line.split("#")[0].split()[1:]


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_every_command_of_the_readme_parses(words):
    assert cli.parser().parse_args(words).command


def test_the_make_targets_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"(?:`|^)make ([a-z-]+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
