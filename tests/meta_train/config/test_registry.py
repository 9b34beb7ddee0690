"""Factories' signatures as schemas: what is accepted, what is refused, and in which words."""

import functools
import json
from typing import Annotated, Literal, NamedTuple

import pytest
from annotated_types import Ge, Gt, Interval, Len

from meta_train.config.registry import build, check, fill, options_model
from meta_train.errors import ConfigError, Problem, nearest


class Range(NamedTuple):
    low: float
    high: float = 1.0


UNIT = Range(0.0)


def widget(
    system,
    *,
    size: Annotated[int, Ge(1)],
    rate: Annotated[float, Gt(0)] | None = 0.5,
    shape: tuple[int, ...] = (1, 2),
    kind: Literal["round", "square"] = "round",
    flag: bool = False,
    share: Annotated[float, Interval(ge=0, lt=1)] = 0.0,
    scale: float | tuple[float, float] = 1.0,
    bounds: Range = UNIT,
    steps: dict[int, float] | None = None,
    pair: Annotated[tuple[int, ...], Len(1, 2)] = (3,),
):
    """A widget."""
    if size == 13:
        raise ValueError("size must not be unlucky, got 13")
    if size == 14:
        raise ValueError("this system has no room for 14")
    given = locals()
    return given


REGISTRY = {"widget": widget, "gadget": functools.partial(widget, size=2)}


def lines(spec, registry=REGISTRY):
    return [str(problem) for problem in check(registry, spec, "thing")]


def test_a_spec_becomes_keyword_arguments_with_the_factory_s_own_defaults():
    spec = {"name": "widget", "size": 3, "shape": [4], "bounds": {"low": 2}, "steps": {10: 0.1}}
    made = build(REGISTRY, spec, "the system")
    assert made["system"] == "the system"
    assert made["size"] == 3 and made["rate"] == 0.5 and made["kind"] == "round"
    assert made["shape"] == (4,) and made["bounds"] == Range(2.0, 1.0) and made["steps"] == {10: 0.1}


def test_a_partial_is_a_factory_with_other_defaults():
    assert build(REGISTRY, {"name": "gadget"}, None)["size"] == 2
    assert build(REGISTRY, {"name": "gadget", "size": 5}, None)["size"] == 5


def test_filling_in_defaults_gives_plain_values_and_is_idempotent():
    spec, problems = fill(REGISTRY, {"name": "widget", "size": 3, "bounds": [1, 2], "steps": {1: 2}})
    assert not problems
    assert json.loads(json.dumps(spec)) == spec
    assert list(spec)[:2] == ["name", "size"] and spec["rate"] == 0.5 and spec["shape"] == [1, 2]
    assert fill(REGISTRY, spec) == (spec, [])
    assert build(REGISTRY, spec, None)["bounds"] == Range(1.0, 2.0)


def test_filling_in_a_wrong_spec_keeps_what_is_wrong_and_fills_in_the_rest():
    spec, problems = fill(REGISTRY, {"name": "widget", "kind": "oval"})
    assert {problem.key for problem in problems} == {"size", "kind"}
    assert spec["kind"] == "oval" and spec["rate"] == 0.5 and "size" not in spec


def test_parameters_that_are_not_keyword_only_are_no_options():
    assert "system" not in options_model(widget).model_fields
    assert lines({"name": "widget", "size": 1, "system": 3})[0].startswith("thing.system: unknown option")


@pytest.mark.parametrize(
    ("option", "value", "line"),
    [
        ("size", 0, "must be >= 1 (value 0)"),
        ("size", 2.5, "must be a whole number (value 2.5)"),
        ("size", 100.0, "must be a whole number (value 100.0); write 100"),
        ("size", "3", 'must be a whole number (value "3")'),
        ("size", True, "must be a whole number (value true)"),
        ("rate", 0, "must be > 0 (value 0)"),
        ("rate", "fast", 'must be a number or null (value "fast")'),
        ("rate", True, "must be a number or null (value true)"),
        ("rate", float("inf"), "must be a finite number (value Infinity)"),
        ("share", 1, "must be < 1 (value 1)"),
        ("share", float("nan"), "must be a finite number (value NaN)"),
        ("flag", "yes", 'must be true or false (value "yes")'),
        ("flag", 1, "must be true or false (value 1)"),
        ("kind", "squar", 'must be one of round, square (value "squar"); did you mean square?'),
        ("shape", 3, "must be a list (value 3)"),
        ("scale", "big", 'must be a number or a list (value "big")'),
        ("bounds", 3, "must be a list or a mapping (value 3)"),
        ("steps", 3, "must be a mapping or null (value 3)"),
        ("pair", [], "must be a list of at least 1 (value [])"),
        ("pair", [1, 2, 3], "must be a list of at most 2 (value [1, 2, 3])"),
    ],
)
def test_a_value_of_the_wrong_type_or_out_of_range_is_refused_in_one_line(option, value, line):
    (found,) = lines({"name": "widget", "size": 1} | {option: value})
    assert found == f"thing.{option}: {line}"


def test_an_entry_of_a_list_or_mapping_is_named_by_its_place():
    assert lines({"name": "widget", "size": 1, "shape": [1, "x"]}) == [
        'thing.shape.1: must be a whole number (value "x")'
    ]
    assert lines({"name": "widget", "size": 1, "bounds": {"low": 0, "hgh": 2}}) == [
        "thing.bounds.hgh: unknown option (value 2); did you mean high? allowed: high, low"
    ]
    assert lines({"name": "widget", "size": 1, "scale": [1.0, "x"]}) == [
        'thing.scale.1: must be a number (value "x")'
    ]


def test_a_list_with_a_wrong_entry_is_not_also_called_too_short():
    assert lines({"name": "widget", "size": 1, "pair": ["x"]}) == [
        'thing.pair.0: must be a whole number (value "x")'
    ]


def test_every_problem_of_a_spec_is_reported_at_once():
    found = lines({"name": "widget", "siez": 3, "rate": -1, "kind": 3})
    assert found == [
        "thing.size: is required, but not given",
        "thing.rate: must be > 0 (value -1)",
        "thing.kind: must be one of round, square (value 3)",
        "thing.siez: unknown option (value 3); did you mean size? allowed: bounds, flag, kind, pair, rate, "
        "scale, shape, share, size, steps",
    ]


def test_an_unknown_name_comes_with_the_nearest_one():
    assert lines({"name": "wigdet"}) == [
        'thing.name: unknown name (value "wigdet"); did you mean widget? allowed: gadget, widget'
    ]
    assert lines({"name": 3}) == ["thing.name: unknown name (value 3); allowed: gadget, widget"]
    assert lines({"size": 3}) == ["thing.name: is required, but not given; allowed: gadget, widget"]
    assert lines("widget") == [
        'thing: must be a mapping {name: ..., and options} (value "widget"); write {name: widget}'
    ]
    assert lines(None) == ["thing: must be a mapping {name: ..., and options} (value null)"]


def test_a_part_of_a_long_name_finds_it():
    assert nearest("cosin", ["cosine_decay_schedule", "linear_schedule"]).startswith(
        "did you mean cosine_decay_schedule?"
    )


def test_what_the_factory_refuses_becomes_a_problem_of_the_option_that_its_message_begins_with():
    with pytest.raises(ConfigError) as error:
        build(REGISTRY, {"name": "widget", "size": 13}, None, where="thing")
    assert str(error.value) == "thing.size: must not be unlucky, got 13"
    with pytest.raises(ConfigError) as error:
        build(REGISTRY, {"name": "widget", "size": 14}, None, where="thing")
    assert str(error.value) == "thing: this system has no room for 14"


def test_build_refuses_what_check_refuses_before_it_calls_anything():
    calls = []

    def factory(*, size: int):
        calls.append(size)

    with pytest.raises(ConfigError) as error:
        build({"f": factory}, {"name": "f", "size": "big", "colour": 1})
    assert len(error.value.problems) == 2 and calls == []


def test_a_spec_inside_a_spec_reports_under_its_own_key():
    def outer(*, inner: dict[str, object]):
        return build(REGISTRY, inner, None, where="inner")

    with pytest.raises(ConfigError) as error:
        build({"outer": outer}, {"name": "outer", "inner": {"name": "widget", "size": 0}}, where="thing")
    assert str(error.value) == "thing.inner.size: must be >= 1 (value 0)"


def test_an_option_without_a_type_is_a_bug_of_the_factory_not_of_the_config():
    def untyped(*, size=3):
        return size

    with pytest.raises(TypeError, match="untyped: option size has no type"):
        check({"f": untyped}, {"name": "f"})


def test_a_default_that_its_own_type_refuses_is_found():
    def wrong(*, size: Annotated[int, Ge(1)] = 0):
        return size

    assert [str(p) for p in check({"f": wrong}, {"name": "f"})] == ["size: must be >= 1 (value 0)"]


def test_a_problem_is_one_line_whatever_it_holds():
    problem = Problem("a.b", "is\n  wrong", {"x": "y" * 500}, "did you\nmean c?", "configs/x.yaml")
    text = str(problem)
    assert text.startswith("configs/x.yaml: a.b: is wrong (value {") and text.endswith("; did you mean c?")
    assert "\n" not in text and len(text) < 150
