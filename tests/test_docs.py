"""The README and the pages of docs/: their code runs, their commands parse, what they refer to exists."""

import re
import subprocess
from pathlib import Path
from urllib.parse import unquote

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import learned_opt
from meta_train.cli import main as cli
from meta_train.cli.new import source
from meta_train.config import outer_optimizer
from meta_train.config.own import refuse_signature
from meta_train.core.system import UnrolledSystem
from meta_train.estimators import CLAIMS
from tasks import check_family

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES}
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
# A code block that is not executed has this comment above it, with the reason.
NOT_EXECUTED = re.compile(r"<!-- not executed: \S.*? -->\n+$")
RECIPES = "docs/recipes.md"  # executed by tests/learned_opt/test_recipes.py, all of it
TUTORIALS = "docs/tutorials/"  # executed by tests/test_tutorials.py, all of them


def blocks(text, language):
    """The code blocks of a page in one language: what stands before each, and its code."""
    for found in re.finditer(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        yield text[: found.start()], found[1]


def block(page, marker, **names):
    """The one Python block of a page that contains `marker`, executed after `names`: its names."""
    found = [code for _, code in blocks(TEXTS[page], "python") if marker in code]
    assert len(found) == 1, marker
    exec(compile(found[0], f"{page}: {marker}", "exec"), names)
    return names


def test_the_three_lines_of_the_readme_take_a_step_with_a_pretrained_optimizer():
    params = {"w": jnp.ones(3)}
    loss, grads = jax.value_and_grad(lambda p: jnp.sum(p["w"] ** 2))(params)
    names = block("README.md", "pretrained:", learned_opt=learned_opt, params=params, grads=grads, loss=loss)
    moved = params["w"] + names["updates"]["w"]
    assert jnp.sum(moved**2) < loss


def test_the_optax_example_trains_with_an_exported_optimizer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lopt = learned_opt.residual()
    theta = lopt.init(jax.random.key(0))
    Path("runs/quickstart").mkdir(parents=True)
    learned_opt.save(
        "runs/quickstart/optimizer", name="residual", options={}, theta=theta, horizon=200, provenance={}
    )
    names = block("docs/getting-started.md", "learned_opt.load")
    begin = names["loss_fn"](jnp.zeros(8), names["x"], names["y"])
    assert names["loss"] < begin / 1.5


def test_the_estimator_example_is_unbiased_where_a_window_is_the_whole_problem():
    # s <- s + theta, L = s, T = 4: the gradient of the mean loss is 2.5, and one estimate's std over
    # 20,000 particles is 2.5 sqrt(2 / 20,000) = 0.025. |z| < 4 fails by chance once in 16,000 keys.
    system = UnrolledSystem(
        lambda theta, key: (jnp.zeros([]), 4), lambda theta, s, key, data: (s + theta, s + theta), 4, 4
    )
    forward_es = block("docs/extending.md", "def forward_es")["forward_es"]
    estimator = forward_es(system, num_particles=20_000, truncation_length=4, sigma=0.1)
    theta = jnp.float32(0.3)
    state = estimator.init(theta, jax.random.key(0))
    estimate, _ = jax.jit(estimator.estimate)(theta, state, jax.random.key(1), ())
    np.testing.assert_allclose(estimate.grad, 2.5, atol=4 * 0.025)


def test_the_task_example_is_a_valid_family():
    family = block("docs/extending.md", "def line_fit")["line_fit"]()
    check_family(family)
    task = family.task(family.sample(jax.random.key(0)))
    loss = task.loss(task.init(jax.random.key(1)), jax.random.key(2), ())
    assert jnp.isfinite(loss)


def test_the_files_on_extending_are_what_new_writes():
    names = {"estimator": "forward_es", "task": "line_fit", "optimizer": "sign_descent"}
    for kind, name in names.items():
        assert f"```python\n{source(kind, name)}```" in TEXTS["docs/extending.md"]


def test_the_optimizer_example_descends():
    lopt = block("docs/extending.md", "def sign_descent")["sign_descent"](initial_lr=0.1)
    params = {"w": jnp.ones(3)}
    tx = lopt.build(lopt.init(jax.random.key(0)))
    updates, _ = tx.update(params, tx.init(params), params)
    np.testing.assert_allclose(updates["w"], -0.1, rtol=1e-5)


def test_the_outer_optimizer_example_is_one_that_a_config_may_name():
    factory = block("docs/extending.md", "def clipped_sgd")["clipped_sgd"]
    refuse_signature(factory, outer_optimizer.optimizers().kind, "clipped_sgd")
    tx = factory(10, learning_rate=0.5)
    updates, _ = tx.update(jnp.float32(3), tx.init(jnp.float32(0)))
    assert float(updates) == -0.5


def test_the_population_example_prints_the_winners_rates(capsys):
    names = block("docs/population.md", "evolve(population(")
    rates = names["winner"](names["controller"], names["records"]).hypers["rate"]
    assert rates.shape == (10,) and names["stage"].round == 10 and capsys.readouterr().out


def test_the_example_of_the_python_page_trains_draws_and_exports(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = block("docs/from-python.md", "meta_train.train(config)")
    assert names["result"].best_score is not None and names["result"].metrics["loss"].shape == (6,)
    assert len(names["figure"].axes) == 3 and "learned_opt.load('optimizer'" in names["lines"][1]
    assert [path.name for path in tmp_path.iterdir()] == ["optimizer"]


# Every block that a test of this file executes.
EXECUTED = {
    ("README.md", "pretrained:"),
    ("docs/getting-started.md", "learned_opt.load"),
    ("docs/extending.md", "def forward_es"),
    ("docs/extending.md", "def line_fit"),
    ("docs/extending.md", "def sign_descent"),
    ("docs/extending.md", "def clipped_sgd"),
    ("docs/population.md", "evolve(population("),
    ("docs/from-python.md", "meta_train.train(config)"),
}


@pytest.mark.parametrize("page", [page for page in TEXTS if not page.startswith((RECIPES, TUTORIALS))])
def test_every_python_block_is_executed_or_says_why_not(page):
    for before, code in blocks(TEXTS[page], "python"):
        executed = any(page == where and marker in code for where, marker in EXECUTED)
        assert executed or NOT_EXECUTED.search(before), code


def commands():
    """(where, its words) of every `meta-train` command in a code block of a page or a config's header."""
    for where, text in TEXTS.items():
        for _, code in blocks(text, "[a-z]*"):
            yield from ((where, line) for line in code.replace("\\\n", " ").splitlines())
    for file in CONFIGS:
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.startswith("#   "):
                yield str(file.relative_to(ROOT)), line.strip("# ")


COMMANDS = [
    (where, words.split())
    for where, line in commands()
    for words in re.split(r"&&|;", line.split("  #")[0].split(" # ")[0])
    if words.strip().startswith("meta-train ")
]


@pytest.mark.parametrize(("where", "words"), COMMANDS, ids=lambda x: x if isinstance(x, str) else " ".join(x))
def test_every_command_of_a_page_parses(where, words):
    words = [word.strip("\"'") for word in words[1:]]
    assert cli.parser().parse_args(words).command, where


def test_a_command_that_does_not_parse_is_noticed():
    assert len(COMMANDS) > 25
    with pytest.raises(SystemExit):
        cli.parser().parse_args(["evalute", "runs/mine"])


@pytest.mark.parametrize("page", TEXTS)
def test_the_make_targets_of_a_page_exist(page):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"(?:`|^)make ([a-z0-9_-]+)", TEXTS[page], re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_make_help_lists_every_target():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (targets,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    # A make around the tests would print its folder.
    command = ["make", "--silent", "--no-print-directory", "help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert [line.split()[1] for line in done.stdout.splitlines()] == re.findall(
        r"^([a-z0-9_-]+):", makefile, re.MULTILINE
    )
    assert set(targets.split()) == {line.split()[1] for line in done.stdout.splitlines()}


@pytest.mark.parametrize("page", TEXTS)
def test_the_programs_of_a_page_exist(page):
    for module in re.findall(r"python -m (reproductions\.\w+)", TEXTS[page]):
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").exists(), module
    for file in re.findall(r"python ((?:benchmarks|docs)/\w+\.py)", TEXTS[page]):
        assert (ROOT / file).exists(), file


def anchors(text):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", TEXTS)
def test_the_links_and_pictures_of_a_page_lead_somewhere(page):
    text = TEXTS[page]
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|srcset)="([^"]+)"', text)
    for link in links:
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), link


# The files that a run or an example writes, and those of a reader.
WRITTEN = re.compile(r"^(?:runs|optimizer|RUN|DIR|SHARED)/|^my\.yaml$|^(?:config|theta)\.")


@pytest.mark.parametrize("page", TEXTS)
def test_a_block_of_code_begins_on_a_line_of_its_own(page):
    assert not re.findall(r"^```\w+ .*$", TEXTS[page], re.MULTILINE)


@pytest.mark.parametrize("page", TEXTS)
def test_the_files_that_a_page_names_exist(page):
    for name in re.findall(r"`([\w./-]+/[\w.-]+\.(?:py|md|yaml|json|csv|png|svg))`", TEXTS[page]):
        if not WRITTEN.search(name):
            assert (ROOT / name).exists() or ((ROOT / page).parent / name).exists(), name


def test_every_page_is_reached_from_the_overview():
    reached, todo = set(), ["docs/index.md"]
    while todo:
        page = todo.pop()
        if page in TEXTS and page not in reached:
            reached.add(page)
            for link in re.findall(r"\]\(([^)\s#]+\.md)", TEXTS[page]):
                todo.append(str(((ROOT / page).parent / link).resolve().relative_to(ROOT.resolve())))
    assert set(TEXTS) - reached <= {"README.md"}


def test_the_short_table_of_estimators_names_every_one():
    for name in CLAIMS:
        assert f"`{name}`" in TEXTS["docs/choosing-an-estimator.md"], name


def test_the_readme_is_short_and_has_the_two_commands():
    lines = TEXTS["README.md"].splitlines()
    assert len(lines) <= 125
    assert any(line.startswith("make quickstart") for line in lines)
    assert any(line.startswith("make test") for line in lines)


def test_the_drawing_shows_windows_that_no_restart_cuts():
    """Each of its windows follows the one before it, or is the first one of a new inner problem."""
    from docs.make_windows_drawing import OUTER_STEPS, K, N, T, time_lines

    lines = time_lines()
    assert len(lines) == N and all(len(line) == OUTER_STEPS for line in lines)
    for line in lines:
        assert line[0].first == 0
        for before, after in zip(line, line[1:], strict=False):
            if after.problem == before.problem:
                assert after.first == before.first + K
            else:
                assert after.first == 0 and (before.problem == 0 or before.first == T - K)
    assert len({tuple(window.first for window in line) for line in lines}) == N  # staggered
