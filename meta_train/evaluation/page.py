"""One HTML page that needs nothing else: style inside, pictures as data URIs."""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

from meta_train.evaluation import tables
from meta_train.evaluation.compare import COMPARISONS

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1600px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; }
td.good { background: #009e7318; } td.bad { background: #e69f0018; }
td.lost { background: #d55e0030; }
img { max-width: 100%; height: auto; background: white; border-radius: 4px; }
.big { font-size: 1.3rem; } pre { overflow-x: auto; font-size: .8rem; }
"""
PROTOCOL = """
All optimizers train the same tasks from the same initial parameters on the same minibatches. Every setting
(learning rate, weight decay, step factor, best rival) is chosen on tuning seeds and measured on other seeds.
Over Adam: the steps that Adam needs to reach the optimizer's final smoothed loss, over the optimizer's
steps, within 0.05 and 20; where rivals are tuned, Adam's rate is chosen again for every step.
To best's loss: the steps that the best rival trained for, over those after which the optimizer has the
rival's final loss; where it never has, the steps that the rival needs for the optimizer's least loss, over
the steps it trained for. A training that diverges on any seed counts 0.05, and a loss ratio of 1000. Colours
are those of each number.
Intervals: 95 %, bootstrap over tasks and seeds. Ratios below 1 and speeds above 1 are good.
"""


def evaluation_page(doc: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """The page of one evaluation.

    Args:
      doc: from `document`.
      pictures: caption -> PNG.
    """
    doc = dict(doc)
    up = doc["speed_up"]
    legend = [f"{name}: {title}" for name, title in COMPARISONS.items() if name in doc["scores"]["all"]]
    return page(
        f"Evaluation of {doc.get('name', 'an optimizer')}",
        f"<p class='big'>Step speed-up over tuned Adam: <b>{up['mean']:.2f}x</b> "
        f"[{up['low']:.2f}, {up['high']:.2f}], worst {up['worst']:.2f}x</p>",
        f"<p class='big'>{html.escape(tables.best_rivals(doc))}</p>",
        "<h2>Comparisons</h2>",
        *(grid(found) for found in (tables.scores(doc), *tables.others(doc))),
        items(legend),
        "<h2>Tasks</h2>",
        grid(tables.losses(doc)),
        grid(tables.speeds(doc)),
        items(tables.notes(doc)),
        "<h2>Best rates</h2>",
        grid(tables.rates(doc)),
        *(
            f"<h2>{html.escape(caption)}</h2>{image(content, caption)}"
            for caption, content in pictures.items()
        ),
        "<h2>How it was measured</h2>",
        f"<p>{PROTOCOL}</p>",
        details(doc),
    )


def page(title: str, *parts: str) -> str:
    """A whole document of parts that are HTML already."""
    title = html.escape(title)
    head = f"<meta charset='utf-8'><meta name='viewport' content='width=device-width'><title>{title}</title>"
    body = "\n".join((f"<h1>{title}</h1>", *parts))
    head = f"<head>{head}<style>{STYLE}</style></head>"
    return f"<!doctype html>\n<html lang='en'>{head}\n<body>{body}</body></html>\n"


def grid(found: tables.Grid) -> str:
    """A table; each text has the colour of its mark."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in found.head)
    cells = (
        [f"<td class='{mark}'>{html.escape(text)}</td>" for text, mark in zip(row, marks, strict=True)]
        for row, marks in zip(found.rows, found.marks, strict=True)
    )
    rows = "\n".join(f"<tr>{''.join(row)}</tr>" for row in cells)
    return f"<div class='wide'><table><thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table></div>"


def items(lines: Sequence[str]) -> str:
    """A list."""
    return f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in lines)}</ul>"


def image(content: bytes, caption: str) -> str:
    """A PNG inside the page."""
    data = base64.b64encode(content).decode()
    return f"<img alt='{html.escape(caption, quote=True)}' src='data:image/png;base64,{data}'>"


def details(doc: Mapping[str, Any]) -> str:
    """What was evaluated, with which settings and versions."""
    what = {
        k: v for k, v in doc.items() if isinstance(v, (str, int, float)) or k in ("settings", "environment")
    }
    text = html.escape(json.dumps(what, indent=1))
    return f"<details><summary>Settings and versions</summary><pre>{text}</pre></details>"
