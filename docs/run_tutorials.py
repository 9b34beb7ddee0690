"""The tutorials of docs/tutorials: notebooks as Python files, run, and written as pages with outputs.

`python docs/run_tutorials.py [NAME ...]` runs docs/tutorials/NAME.py in a Jupyter kernel of its own and
writes NAME.md, its pictures (NAME_1.png, ...) and the data of its interactive plots (NAME_2.js).
tests/test_tutorials.py runs the same files with small parameters.
"""

import base64
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

FOLDER = Path(__file__).parent / "tutorials"
PLOT = "application/vnd.plotly.v1+json"
# Not shown: how pictures look, and that an interactive plot is stored as data.
SETUP = """\
import os
from matplotlib import pyplot
from matplotlib_inline.backend_inline import set_matplotlib_formats
set_matplotlib_formats("png")
pyplot.rcParams.update({"figure.figsize": (8, 3.4), "figure.dpi": 110, "axes.grid": True, "grid.alpha": 0.25,
    "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "figure.autolayout": True})
os.environ["PLOTLY_RENDERER"] = "plotly_mimetype"
"""


def read(name: str) -> Any:
    """The notebook docs/tutorials/NAME.py, not run."""
    return jupytext.read(FOLDER / f"{name}.py")


def run(notebook: Any, *, parameters: str = "", checks: str = "", timeout: int = 3600) -> Any:
    """A copy of the notebook, run from top to bottom in a kernel and an empty directory of its own.

    Args:
      notebook: as `read` returns it.
      parameters: code that runs after the cell that is tagged "parameters".
      checks: code that runs at the end.
      timeout: seconds that a cell may take.

    Raises:
      CellExecutionError: with the traceback of the cell that raised.
    """
    notebook = nbformat.from_dict(json.loads(json.dumps(notebook)))
    hidden = {"metadata": {"tags": ["hidden"]}}
    cells = [nbformat.v4.new_code_cell(SETUP, **hidden)]
    for cell in notebook.cells:
        cells.append(cell)
        if parameters and "parameters" in cell.metadata.get("tags", []):
            cells.append(nbformat.v4.new_code_cell(parameters, **hidden))
    if checks:
        cells.append(nbformat.v4.new_code_cell(checks, **hidden))
    notebook.cells = cells
    with tempfile.TemporaryDirectory() as directory:
        NotebookClient(
            notebook,
            timeout=timeout,
            kernel_name="python3",
            resources={"metadata": {"path": directory}},
            config=Config({"KernelManager": {"transport": "ipc", "ip": f"{directory}/.kernel"}}),
        ).execute()
    return notebook


def page(notebook: Any, name: str) -> dict[str, bytes]:
    """File name -> content: the page of a notebook that was run, its pictures and its plots."""
    parts, files = [f"<!-- `make tutorials` makes this page of docs/tutorials/{name}.py. -->"], {}
    for cell in notebook.cells:
        if "hidden" in cell.metadata.get("tags", []):
            continue
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        for output in joined(cell.outputs):
            data, file = output.get("data", {}), f"{name}_{len(files) + 1}"
            if output.output_type == "stream":
                parts.append(f"```text\n{output.text.rstrip()}\n```")
            elif PLOT in data:
                text = json.dumps(rounded(data[PLOT]), separators=(",", ":"))
                files[f"{file}.js"] = f'plots["{file}"] = {text};\n'.encode()
                parts.append(f'<div class="plot" data-plot="{file}"></div>')
            elif "image/png" in data:
                files[f"{file}.png"] = base64.b64decode(data["image/png"])
                parts.append(f"![{cell.metadata['alt']}]({file}.png)")
            elif output.output_type == "execute_result":  # what is only displayed is a progress bar
                parts.append(f"```text\n{data['text/plain'].rstrip()}\n```")
    title = parts.pop(1)  # the first cell, whose first line is the title
    return {f"{name}.md": "\n\n".join([title, *parts]).encode() + b"\n"} | files


def joined(outputs: list[Any]) -> list[Any]:
    """Outputs, what was printed by one cell in one piece."""
    printed = "".join(one.text for one in outputs if one.output_type == "stream" and one.name == "stdout")
    others = [one for one in outputs if one.output_type != "stream"]
    return [*([nbformat.v4.new_output("stream", text=printed)] if printed else []), *others]


def rounded(tree: Any) -> Any:
    """A JSON tree with numbers of four digits, and without the template: plots.js sets the colours."""
    if isinstance(tree, dict):
        return {key: rounded(value) for key, value in tree.items() if key != "template"}
    if isinstance(tree, list):
        return [rounded(value) for value in tree]
    return float(f"{tree:.4g}") if isinstance(tree, float) else tree


def main(names: list[str]) -> None:
    """Runs the named tutorials, or all of them, and writes their pages."""
    for name in names or sorted(path.stem for path in FOLDER.glob("*.py")):
        files = page(run(read(name)), name)
        for old in (*FOLDER.glob(f"{name}_[0-9]*.png"), *FOLDER.glob(f"{name}_[0-9]*.js")):
            old.unlink()
        for file, content in files.items():
            (FOLDER / file).write_bytes(content)
        print(f"{name}: {', '.join(files)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
