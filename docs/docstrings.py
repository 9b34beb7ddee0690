"""How docstrings of this project read on the site: paragraphs such as "Bias: none." as items of a list."""

import re

import griffe

NAMES = "Bias|Variance|Cost|Needs|Reduces to|State|Inputs|Outputs|Source|Differs from [A-Za-z ]+"
PARAGRAPH = re.compile(rf"^({NAMES}): (\S.*(?:\n[ ]{{2,}}\S.*)*)", re.MULTILINE)


def listed(text: str) -> str:
    """A docstring whose paragraphs of these names are bullets."""

    def bullet(found):
        return f"\n* **{found[1]}**: " + re.sub(r"\n\s+", "\n  ", found[2])

    return PARAGRAPH.sub(bullet, text)


class Paragraphs(griffe.Extension):
    """Makes these lists before docstrings are parsed."""

    def on_instance(self, *, obj, **kwargs):
        """Every object that has a docstring."""
        if obj.docstring:
            obj.docstring.value = listed(obj.docstring.value)
