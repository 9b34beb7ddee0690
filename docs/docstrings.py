"""How docstrings of this project read on the site: paragraphs such as "Bias: none." as items of a list."""

import re

import griffe

SECTIONS = {"Args", "Attributes", "Returns", "Raises", "Warns", "Example", "Examples", "Yields"}
PARAGRAPH = re.compile(r"^([A-Z][A-Za-z ]{2,24}): (\S.*(?:\n[ ]{2,}\S.*)*)", re.MULTILINE)


def listed(text: str) -> str:
    """A docstring whose one-line sections that the Google style does not know are bullets."""

    def bullet(found):
        if found[1] in SECTIONS:
            return found[0]
        return f"\n* **{found[1]}**: " + re.sub(r"\n\s+", "\n  ", found[2])

    return PARAGRAPH.sub(bullet, text)


class Paragraphs(griffe.Extension):
    """Makes these lists before docstrings are parsed."""

    def on_instance(self, *, obj, **kwargs):
        """Every object that has a docstring."""
        if obj.docstring:
            obj.docstring.value = listed(obj.docstring.value)
