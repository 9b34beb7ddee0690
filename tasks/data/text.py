"""Named texts as token arrays, and stacks of them on the device. Nothing here needs a network."""

import difflib
import functools
import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from tasks.data.files import open_regular

BYTE_VOCABULARY = 97  # 0: any other byte, 1: newline, 2..96: the bytes 32..126
MARKOV_SYMBOLS = 16
MARKOV_LENGTH = 2**16
MOST_BYTES = 2**32  # of a file of text
VALID_FRACTION = 0.1  # the end of a text


class Text(NamedTuple):
    """A text in host memory."""

    tokens: np.ndarray  # u8[length]
    vocabulary: int  # tokens are below this
    source: str  # where the text came from, with a hash


def load_text(name: str) -> Text:
    """The text called `name`; cached, so its array must not be written to.

    Names: pydoc (the reference documentation that comes with Python, 0.6 to 0.8 MB of English and
    code, which differs between Python versions: `source` says which and gives the sha256);
    markov:SEED (65,536 symbols from a random order-2 Markov chain over 16 symbols); file:PATH (the
    bytes of a file); tfds:NAME?options (see `tasks.data.tfds`); hf:PATH?options (see
    `tasks.data.hf`). Each with an optional slice: "pydoc[:100000]".

    Raises:
      ValueError: unknown name, impossible slice, file that cannot be read.
    """
    match = re.fullmatch(r"(.+?)(?:\[(\d*):(\d*)\])?", name)
    if match is None:
        raise ValueError(f"texts: {name!r} is not a name; write NAME or NAME[start:stop]")
    base, start, stop = match.groups()
    whole = _load(base)
    first, last = int(start or 0), int(stop or len(whole.tokens))
    if not 0 <= first < last <= len(whole.tokens):
        raise ValueError(f"texts: {name!r} asks for tokens {first} to {last}, there are {len(whole.tokens)}")
    return whole._replace(tokens=whole.tokens[first:last])


class TextStack(NamedTuple):
    """Texts padded to equal length and stacked."""

    # {"train": arrays, "valid": arrays}, `arrays` being tokens u8[D, L] and length i32[D]
    data: dict[str, dict[str, jax.Array]]
    vocabulary: int  # the largest of the texts'


def stack_texts(names: Sequence[str], window: int) -> TextStack:
    """Loads, splits (the last tenth is "valid") and stacks texts.

    Raises:
      ValueError: no name, or a text whose validation part is shorter than `window` tokens.
    """
    if not names:
        raise ValueError("texts: needs at least one name, got none")
    texts = [load_text(name) for name in names]
    for name, text in zip(names, texts, strict=True):
        if len(text.tokens) * VALID_FRACTION < window + 1:
            raise ValueError(
                f"texts: {name!r} has {len(text.tokens)} tokens, windows of {window} need {10 * (window + 1)}"
            )
    cuts = [int(len(text.tokens) * (1 - VALID_FRACTION)) for text in texts]
    parts = {
        "train": [text.tokens[:cut] for text, cut in zip(texts, cuts, strict=True)],
        "valid": [text.tokens[cut:] for text, cut in zip(texts, cuts, strict=True)],
    }
    data = {split: _pad(arrays) for split, arrays in parts.items()}
    return TextStack(data, max(text.vocabulary for text in texts))


def _pad(arrays: list[np.ndarray]) -> dict[str, jax.Array]:
    lengths = np.array([len(a) for a in arrays], np.int32)
    tokens = np.zeros((len(arrays), lengths.max()), np.uint8)
    for row, a in zip(tokens, arrays, strict=True):
        row[: len(a)] = a
    return jax.device_put({"tokens": tokens, "length": lengths})


@functools.lru_cache(maxsize=16)
def _load(base: str) -> Text:
    kind, _, argument = base.partition(":")
    if base == "pydoc":
        text = _pydoc()
    elif kind == "markov" and argument:
        text = _markov(argument)
    elif kind == "file" and argument:
        try:
            with open_regular(argument, most=MOST_BYTES) as file:
                text = _from_bytes(file.read(), f"file {argument}")
        except OSError as error:
            raise ValueError(f"texts: cannot read {argument!r}: {error.strerror}") from error
    elif kind == "tfds" and argument:
        from tasks.data import tfds as tfds_data

        text = _from_bytes(*tfds_data.read_text(argument))
    elif kind == "hf" and argument:
        from tasks.data import hf as hf_data

        text = _from_bytes(*hf_data.read_text(argument))
    else:
        near = difflib.get_close_matches(kind, ("pydoc", "markov", "file", "tfds", "hf"), n=1)
        hint = f"; did you mean {near[0]}?" if near and near[0] != kind else ""
        raise ValueError(
            f"texts: unknown text {base!r}{hint} (allowed: pydoc, markov:SEED, file:PATH, tfds:NAME, hf:PATH)"
        )
    text.tokens.setflags(write=False)
    return text


def _pydoc() -> Text:
    try:
        from pydoc_data import topics  # 0.8 MB that only language models need
    except ImportError as error:
        raise ValueError("texts: this Python has no pydoc_data, from which 'pydoc' is read") from error
    joined = "\n".join(topics.topics[name] for name in sorted(topics.topics))
    return _from_bytes(joined.encode(), "documentation in Python's pydoc_data.topics")


def _from_bytes(content: bytes, source: str) -> Text:
    table = np.zeros(256, np.uint8)
    table[10] = 1
    table[32:127] = np.arange(2, BYTE_VOCABULARY)
    digest = hashlib.sha256(content).hexdigest()
    return Text(table[np.frombuffer(content, np.uint8)], BYTE_VOCABULARY, f"{source}, sha256 {digest[:16]}")


def _markov(argument: str) -> Text:
    if not argument.isdecimal() or int(argument) >= 2**32:
        raise ValueError(f"texts: seed of 'markov:{argument}' must be an integer in 0..4294967295")
    draw = np.random.RandomState(int(argument))  # its stream is frozen by numpy's promise
    n = MARKOV_SYMBOLS
    transitions = draw.dirichlet(np.full(n, 0.1), size=(n, n)).cumsum(-1)
    uniform = draw.random_sample(MARKOV_LENGTH)
    tokens = np.zeros(MARKOV_LENGTH, np.uint8)
    a = b = 0
    for i, u in enumerate(uniform):
        a, b = b, min(int(np.searchsorted(transitions[a, b], u)), n - 1)
        tokens[i] = b
    return Text(tokens, n, f"random order-2 Markov chain, seed {argument}")
