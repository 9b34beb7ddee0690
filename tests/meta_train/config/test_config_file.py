"""YAML as we read it, and overrides from the command line."""

import pytest
import yaml

from meta_train.config.file import dump, override, parse, read
from meta_train.errors import ConfigError


def keep_all(path, name):
    return None


def test_only_true_and_false_are_booleans():
    assert parse("[true, False, yes, no, on, off, y]") == [True, False, "yes", "no", "on", "off", "y"]


def test_numbers_are_what_they_look_like():
    assert parse("[1e-2, 1e3, .5, 3., -4, +2, 1_000, 0]") == [0.01, 1000.0, 0.5, 3.0, -4, 2, 1000, 0]
    assert [type(x) for x in parse("[1e3, 1_000]")] == [float, int]
    assert parse("[010, 1:30, 2020-01-01, 0x10]") == ["010", "1:30", "2020-01-01", "0x10"]
    assert parse("[~, null, '']") == [None, None, ""]
    infinite, negative, nan = parse("[.inf, -.Inf, .nan]")
    assert infinite == float("inf") and negative == float("-inf") and nan != nan


@pytest.mark.parametrize("read_back", [parse, yaml.safe_load])
def test_what_we_write_every_yaml_reader_reads_alike(read_back):
    value = {
        "a": ["yes", "1e-2", "010", "1:30", "", "null", "~", "2020-01-01", "é: #"],
        "b": 1e-05,
        "c": None,
    }
    value |= {"d": {"e": [True, 1, 1.0, 1e22], "f": {}, "g": []}}
    assert read_back(dump(value)) == value


def refusal(tmp_path, content):
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        read(path)
    (problem,) = error.value.problems
    assert str(problem).startswith(f"{path}: ") and "\n" not in str(problem)
    return str(problem).removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "is empty"),
        (b"# only a comment\n", "is empty"),
        (b"- 1\n", "must be a mapping (key: value) (value [1])"),
        (b"a: 1\nb: 2\na: 3\n", "is not valid YAML: line 3, column 1: a is given twice"),
        (b"a: {b: 1, b: 2}\n", "is not valid YAML: line 1, column 11: b is given twice"),
        (b"a: [1, 2\n", "is not valid YAML: line 2, column 1: expected ',' or ']', but got '<stream end>'"),
        (b"a: 1\n---\nb: 2\n", "is not valid YAML: line 2, column 1: but found another document"),
        (b"[1]: 2\n", "is not valid YAML: line 1, column 1: a key must be text"),
        (b"a: &x [*x]\n", "is not valid YAML: line 1, column 4: the value contains itself"),
        (b"a: \xff\n", "is not UTF-8 text (byte 3)"),
    ],
)
def test_a_file_that_is_no_config_is_refused_in_one_line(tmp_path, content, line):
    assert refusal(tmp_path, content) == line


def test_no_object_is_ever_constructed_from_a_file(tmp_path):
    assert refusal(tmp_path, b"a: !!python/object/apply:os.getcwd []\n") == (
        "is not valid YAML: line 1, column 4: the tag tag:yaml.org,2002:python/object/apply:os.getcwd "
        "is not allowed here"
    )


BOMB = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefg", "bcdefgh", strict=True)
)


CHAIN = "a0: &a0 []\n" + "\n".join(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 900))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a: !!bool maybe", '"maybe" is not of the type bool'),
        ("a: !!timestamp abc", None),
        ("a: !!map [1]", "the tag tag:yaml.org,2002:map is not allowed here"),
        ("a: !!map x", '"x" is not of the type map'),
        ("a: !!set {x}", "the tag tag:yaml.org,2002:set is not allowed here"),
        ("a: !!int x", '"x" is not of the type int'),
        ("a: !!float x", '"x" is not of the type float'),
        ("a: !!null x", '"x" is not of the type null'),
        ("a: " + "9" * 5000, "the number has more than 100 digits"),
        ("a: " + "[" * 10_000, "it is nested more than 50 deep"),
        ("a: " + "[" * 60 + "]" * 60, "it is nested more than 50 deep"),
        (
            "a0: &a0 []\n" + "\n".join(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 900)),
            "nested more than 50 deep",
        ),
        ("a: {x: &x [*x]}", "the value contains itself"),
        ("<<: 3", "<< must be followed by mappings"),
        ("a: *b", "found undefined alias 'b'"),
        (BOMB, "it has more than 10,000 values"),
        ("\n".join(f"k{i}: 1" for i in range(2_000)), "there are more than 1,000 entries"),
        ("\n".join(f"k{i}: 1" for i in range(9_000)), "it has more than 10,000 values"),
        ("\n".join(f"k{i}: 1" for i in range(60_000)), "it is longer than 250,000 bytes"),
        ("%YAML 3.x\n---\na: 1", "expected a digit, but found 'x'"),
        ("a: \x00", "unacceptable character #x0000"),
    ],
)
def test_no_tag_bomb_or_size_gets_past_the_reader(tmp_path, content, words):
    if words is None:
        (tmp_path / "x.yaml").write_text(content)
        assert read(tmp_path / "x.yaml") == {"a": "abc"}
        return
    assert words in refusal(tmp_path, content.encode())
    value = content.removeprefix("a: ")
    if value != content and content != BOMB:
        (problem,) = override({}, [f"a={value}"], keep_all)[1]
        assert str(problem).startswith("command line: a: the value is not valid YAML: ")
        assert words in str(problem) and "\n" not in str(problem)


def test_an_override_with_thousands_of_dots_is_refused_at_once():
    (problem,) = override({}, [".".join("a" * 5000) + "=1"], keep_all)[1]
    assert problem.message == "must have at most 50 parts" and len(str(problem)) < 200


def test_a_missing_file_and_a_directory_are_named(tmp_path):
    with pytest.raises(ConfigError) as error:
        read(tmp_path / "none.yaml")
    assert str(error.value) == f"{tmp_path / 'none.yaml'}: cannot be read: No such file or directory"
    with pytest.raises(ConfigError) as error:
        read(tmp_path)
    assert str(error.value) == f"{tmp_path}: cannot be read: Is a directory"


def test_anchors_and_merges_still_work():
    assert parse("a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}") == {"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}}


def test_overrides_reach_into_mappings_and_lists():
    raw = {"a": {"b": 1}, "tasks": [{"x": 1}, {"x": 2}]}
    new, problems = override(raw, ["a.b=2.5", "tasks.1.x=[3, 4]", "new.deep.key=yes", "a.c="], keep_all)
    assert not problems
    assert new == {
        "a": {"b": 2.5, "c": None},
        "tasks": [{"x": 1}, {"x": [3, 4]}],
        "new": {"deep": {"key": "yes"}},
    }
    assert raw == {"a": {"b": 1}, "tasks": [{"x": 1}, {"x": 2}]}


def test_an_override_finds_a_key_that_has_dots_itself():
    raw = {"hypers": {"weight.mlp": {"low": 1}, "weight": {"conv": 2}}, "tasks": [{"a.b": 1}]}
    new, problems = override(
        raw, ["hypers.weight.mlp.low=2", "hypers.weight.conv=3", "tasks.0.a.b=4", "hypers.x.y=5"], keep_all
    )
    assert not problems
    assert new["hypers"] == {"weight.mlp": {"low": 2}, "weight": {"conv": 3}, "x": {"y": 5}}
    assert new["tasks"] == [{"a.b": 4}]


def test_the_value_of_an_override_may_hold_an_equals_sign():
    assert override({}, ["a=b=c"], keep_all)[0] == {"a": "b=c"}


def test_overrides_that_cannot_be_set_are_all_reported():
    raw = {"a": 3, "tasks": [{}]}
    problems = override(raw, ["a", "=1", "a..b=1", "a.b=1", "tasks.1.x=1", "tasks.x=1", "a=["], keep_all)[1]
    assert [str(problem) for problem in problems] == [
        "command line: a: must be key=value, with dots in the key",
        "command line: =1: must be key=value, with dots in the key",
        "command line: a..b=1: must be key=value, with dots in the key",
        str(problems[3]),
        "command line: a.b: a is 3, which has no keys",
        "command line: tasks.1.x: tasks has 1 entries, numbered from 0; there is no 1",
        "command line: tasks.x: tasks has 1 entries, numbered from 0; there is no x",
    ]
    assert str(problems[3]).startswith("command line: a: the value is not valid YAML: line 1, ")


def test_a_new_name_drops_what_it_does_not_know_but_no_other_override_whatever_the_order():
    def keep(path, name):
        return ["name", "both"] if (path, name) == (("thing",), "new") else None

    raw = {"thing": {"name": "old", "both": 1, "gone": 2}, "person": {"name": "x", "age": 3}}
    for overrides in (["thing.name=new", "thing.mine=5"], ["thing.mine=5", "thing.name=new"]):
        new, problems = override(raw, [*overrides, "person.name=y"], keep)
        assert not problems
        assert new == {"thing": {"name": "new", "both": 1, "mine": 5}, "person": {"name": "y", "age": 3}}


def test_the_same_name_again_drops_nothing():
    raw = {"thing": {"name": "old", "gone": 2}}
    assert override(raw, ["thing.name=old"], lambda path, name: ["name"])[0] == raw
