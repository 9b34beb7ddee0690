"""What mkdocs does besides rendering the pages of docs/; mkdocs.yml names this file.

A page of the repository reads well where it lies, and its links are those of the repository; a few things are
said otherwise on the site.
"""

import ast
import re
import textwrap
from pathlib import Path

import jupytext
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File
from plotly.offline import get_plotlyjs

ROOT = Path(__file__).parents[1]
PICTURE = re.compile(
    r'<picture>\s*<source media="\(prefers-color-scheme: dark\)" srcset="(?P<dark>[^"]+)">'
    r'\s*<img src="(?P<light>[^"]+)"\s+alt="(?P<alt>[^"]+)">\s*</picture>'
)
SOURCE = re.compile(r"^<!-- source: (\S+\.py) (\w+) -->$", re.MULTILINE)

WIDE = {"index.md": ["navigation"], "es-and-pes.md": ["toc"]}  # pages without one of the side bars


def on_files(files, config):
    """Adds CONTRIBUTING.md, the tutorials as notebooks, and the library that draws the plots."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").replace("](docs/", "](")
    files.append(File.generated(config, "contributing.md", content=text))
    files.append(File.generated(config, "assets/plotly.min.js", content=get_plotlyjs()))
    for path in sorted((ROOT / "docs/tutorials").glob("*.py")):
        notebook = jupytext.writes(jupytext.read(path), fmt="ipynb")
        files.append(File.generated(config, f"tutorials/{path.stem}.ipynb", content=notebook))
    return files


def on_page_markdown(markdown, page, config, files):
    """The text of a page, as it is on the site."""
    page.meta["hide"] = WIDE.get(page.file.src_uri, [])
    markdown = markdown.replace("](../CONTRIBUTING.md)", "](contributing.md)")
    markdown = PICTURE.sub(r"![\g<alt>](\g<light>#only-light)![\g<alt>](\g<dark>#only-dark)", markdown)
    notebook = page.file.src_uri.removesuffix(".md") + ".ipynb"
    if files.get_file_from_path(notebook):
        title, _, rest = markdown.partition("\n")
        link = f"[:material-download: This page as a notebook]({Path(notebook).name}){{ .notebook download }}"
        markdown = f"{title}\n\n{link}\n{rest}"
    return SOURCE.sub(lambda found: source(found[1], found[2]), markdown)


def source(file: str, function: str) -> str:
    """A function as it stands in a file of the project, as a block of code.

    Raises:
      PluginError: there is no such function; mkdocs prints it and stops.
    """
    text = (ROOT / file).read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.name == function:
            lines = text.splitlines()[node.lineno - 1 : node.end_lineno]
            return f"```python\n{textwrap.dedent(chr(10).join(lines))}\n```"
    raise PluginError(f"{file} has no function {function}: a page of docs/ shows it")
