"""The tutorials of docs/tutorials run as notebooks, with small parameters; their pages show what was run."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import jupytext
import pytest
from nbclient.exceptions import CellExecutionError

from docs.run_tutorials import FOLDER, page, read, run

ROOT = Path(__file__).parents[1]
# name -> what is assigned after the cell of parameters, and what must hold at the end.
SMALL = {
    "use": (
        "NUM_STEPS = 100",
        "assert runs['pretrained:general'][0][-10:].mean() < runs['Adam, 0.0001'][0][-10:].mean() / 2\n"
        "assert float(jnp.abs(updates['b1']).max()) == 0 and accuracy > 0.5",
    ),
    "meta_train_one": (
        "OVERRIDES = ['outer_steps=40', 'inner.unroll_length=20', 'evaluation.num_seeds=1',\n"
        "    'evaluation.tasks=[{name: image_mlp, hidden: [8], datasets: [\"teacher:9\"]}]',\n"
        "    'tasks.0.hidden=[8]', 'tasks.1.hidden=[8]']\n"
        "RIVALS, HORIZONS = ['adam'], [20]",
        "assert result.outer_steps == 40 and len(result.metrics['digits/loss']) == 4\n"
        "assert evaluation.cells and Path('runs/mine/evaluation.json').is_file()\n"
        "assert float(loss) < float(jnp.mean(y**2)) / 2",
    ),
    "own_parts": (
        "PARTICLES, FULL_CHECK = 20_000, False\nOVERRIDES = ['outer_steps=60']",
        # One estimate's std is 3 or less of 20,000 particles: |z| < 4 with 12 estimates.
        "assert abs(np.mean(grads[4:]) - 10.5) < 0.4, grads\n"
        "assert result.metrics['loss'][-4:].mean() < result.metrics['loss'][:4].mean() - 0.5",
    ),
    "truncation": (
        "WINDOWS, GRID, PARTICLES, OUTER_STEPS, SEEDS = [1, 20, 200], 9, 32, 150, 2",
        "ends = {name: paths[name, 20][:, -1].mean() for name in NAMES}\n"
        "assert ends['tbptt'] < -2.7 and ends['truncated_es'] < -2.7, ends\n"
        "assert ends['pes'] > -1.8, ends\n"
        "assert all(abs(paths[name, 200][:, -1].mean() - best) < 0.4 for name in NAMES)",
    ),
    "populations": (
        "ROUNDS, SEEDS = 60, 1",
        "final = {name: winner(c, runs[name, 0]).fitness[-1] for name, c in controllers.items()}\n"
        "assert final['FIRE PBT'] > final['PBT'] + 0.3, final",
    ),
}


LONG = ("meta_train_one", "truncation")  # over 20 s of processor time each
MARKED = [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in SMALL]


@pytest.mark.parametrize("name", MARKED)
def test_the_tutorial_runs_from_top_to_bottom_and_shows_what_it_says(name):
    parameters, checks = SMALL[name]
    run(read(name), parameters=parameters, checks=checks)


def test_every_tutorial_is_run_with_parameters_that_it_has():
    assert set(SMALL) == {path.stem for path in FOLDER.glob("*.py")}
    for name, (parameters, _) in SMALL.items():
        (cell,) = [cell for cell in read(name).cells if "parameters" in cell.metadata.get("tags", [])]
        assert names(parameters) == names(cell.source), name


def names(code):
    """The names that a cell assigns to."""
    stored = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)]
    return {node.id for node in stored if isinstance(node.ctx, ast.Store)}


def test_a_check_that_does_not_hold_and_a_cell_that_raises_are_noticed():
    notebook = jupytext.reads("# %% tags=['parameters']\nx = 1", fmt="py:percent")
    run(notebook, parameters="x = 2", checks="assert x == 2")
    with pytest.raises(CellExecutionError, match="AssertionError"):
        run(notebook, checks="assert x == 2")


def test_a_page_has_the_text_the_code_and_the_outputs_of_its_notebook():
    notebook = jupytext.reads(
        "# %% [markdown]\n# # Title\n# %% alt='A line'\nprint(1)\nprint(2)\n3", fmt="py:percent"
    )
    printed = [{"output_type": "stream", "name": "stdout", "text": text} for text in ("1\n", "2\n")]
    shown = {"output_type": "display_data", "data": {"image/png": "AAAA"}, "metadata": {}}
    drawn = {"application/vnd.plotly.v1+json": {"data": [{"y": [1.23456]}], "layout": {"template": {}}}}
    plot = {"output_type": "display_data", "data": drawn, "metadata": {}}
    notebook.cells[1].outputs = [*map(notebook.__class__, (*printed, shown, plot))]
    files = page(notebook, "it")
    text = files["it.md"].decode()
    assert text.startswith("# Title\n") and "```python\nprint(1)\nprint(2)\n3\n```" in text
    assert "```text\n1\n2\n```" in text and "![A line](it_1.png)" in text and 'data-plot="it_2"' in text
    assert files["it_2.js"] == b'plots["it_2"] = {"data":[{"y":[1.235]}],"layout":{}};\n'


@pytest.mark.parametrize("name", SMALL)
def test_the_page_shows_the_text_and_the_code_that_are_run_and_its_pictures_are_there(name):
    """If not: make tutorials."""
    text = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    place = 0
    for cell in read(name).cells:
        found = text.find(cell.source, place)
        assert found >= 0, cell.source
        place = found + len(cell.source)
    plots = re.findall(r'data-plot="(\w+)"', text)
    assert re.search(r"\]\(\w+\.png\)", text), "a tutorial has a picture"
    for plot in plots:
        assert (FOLDER / f"{plot}.js").read_text(encoding="utf-8").startswith(f'plots["{plot}"] = {{')


def test_the_page_on_es_and_pes_shows_functions_that_exist():
    from docs.site_hooks import SOURCE, source

    text = (ROOT / "docs/es-and-pes.md").read_text(encoding="utf-8")
    marked = SOURCE.findall(text)
    assert len(marked) == 3
    for file, function in marked:
        assert source(file, function).startswith(f"```python\ndef {function}(")


@pytest.mark.slow
def test_the_site_builds_strictly_and_loads_nothing_from_the_network(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = [file for file in sorted(tmp_path.rglob("*.html")) if file.name != "404.html"]  # for a server
    assert len(pages) > 50 and (tmp_path / "search/search_index.js").is_file()
    for file in pages:
        html = file.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|iframe|source)\b[^>]*?\bsrc(?:set)?="?([^"\s>]+)', html)
        loaded += re.findall(r'<link rel="?(?:stylesheet|icon|preload)"? href="?([^"\s>]+)', html)
        assert loaded and not [link for link in loaded if "//" in link], file
        for link in loaded:
            assert link.startswith("data:") or (file.parent / link.split("#")[0].split("?")[0]).exists(), link
