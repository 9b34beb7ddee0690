"""What `describe` says, read from signatures and docstrings."""

from typing import Annotated, Literal

import pytest
from annotated_types import Ge, Gt, Interval, MinLen

from meta_train.cli.describe import Option, describe, describe_model, range_in_words, render, type_in_words
from meta_train.config.load import RunConfig
from meta_train.errors import ConfigError


def gadget(
    system,
    *,
    size: Annotated[int, Ge(1)],
    share: Annotated[float, Interval(ge=0, lt=1)] = 0.5,
    kind: Literal["round", "square"] | None = None,
    low: float = 0.0,
    high: float = 1.0,
):
    """A gadget in five words.

    It does something: quickly.

    Args:
      system: what it works on.
      size: how large it is, in steps,
        on two lines: really.
      share: of the cake.
      low, high: bounds.

    Returns:
      A gadget.
    """


def test_a_description_holds_summary_text_and_every_option():
    found = describe({"gadget": gadget}, "gadget")
    assert found.summary == "A gadget in five words."
    assert found.text == "It does something: quickly.\n\nReturns:\n  A gadget."
    assert found.options == (
        Option(
            "size", "whole number", ">= 1", "required", "how large it is, in steps, on two lines: really."
        ),
        Option("share", "number", ">= 0 and < 1", "0.5", "of the cake."),
        Option("kind", "one of round, square or null", "", "null", ""),
        Option("low", "number", "", "0.0", "bounds."),
        Option("high", "number", "", "1.0", "bounds."),
    )


def test_a_description_renders_as_plain_text():
    assert render(describe({"gadget": gadget}, "gadget")) == (
        "gadget: A gadget in five words.\n\nIt does something: quickly.\n\n"
        "Returns:\n  A gadget.\n\nOptions:\n"
        "  size: whole number, >= 1, required\n      how large it is, in steps, on two lines: really.\n"
        "  share: number, >= 0 and < 1, default 0.5\n      of the cake.\n"
        "  kind: one of round, square or null, default null\n"
        "  low: number, default 0.0\n      bounds.\n"
        "  high: number, default 1.0\n      bounds.\n"
    )


def test_a_factory_without_options_or_docstring_has_a_description():
    assert render(describe({"f": lambda: None}, "f")) == "f\n"


@pytest.mark.parametrize(
    ("kind", "words", "allowed"),
    [
        (bool, "true or false", ""),
        (tuple[Annotated[int, Ge(1)], ...], "list, each whole number", "each >= 1"),
        (tuple[int, str], "list of 2: whole number, text", ""),
        (Annotated[tuple[int, ...], MinLen(1)], "list, each whole number", "length >= 1"),
        (Annotated[float, Gt(0)] | None, "number or null", "> 0"),
        (dict[int, float], "mapping of whole number to number", ""),
    ],
)
def test_types_and_ranges_have_plain_words(kind, words, allowed):
    assert (type_in_words(kind), range_in_words(kind)) == (words, allowed)


def test_an_unknown_name_comes_with_the_nearest_one():
    with pytest.raises(ConfigError) as error:
        describe({"gadget": gadget}, "gagdet")
    assert str(error.value) == 'unknown name (value "gagdet"); did you mean gadget? allowed: gadget'


def test_every_key_of_the_config_is_documented():
    options = describe_model(RunConfig, "config").options
    assert [option.name for option in options if not option.help] == []
    names = [option.name for option in options]
    assert {"seed", "tasks.N.weight", "inner.unroll_length.max", "logging.wandb.mode"} <= set(names)
    assert len(names) == len(set(names))
