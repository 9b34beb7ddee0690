"""Hyperparameters: what is drawn, how it is explored, where it ends."""

import numpy as np
import pytest

from meta_train.config.registry import build
from meta_train.errors import ConfigError
from meta_train.population.space import EXPLORES, SCALES, choice, explore, integer, linear, log, sample


def rng(seed=0):
    return np.random.default_rng(seed)


def test_a_log_parameter_is_drawn_log_uniformly_in_its_initial_range():
    h = log(bounds=(1e-4, 1.0), initial=(1e-3, 1e-1))
    drawn = h.draw(rng(), 4000)
    assert drawn.min() >= 1e-3 and drawn.max() <= 1e-1
    # Half of 4000 lies below the geometric mean; 4 standard errors are 126 (false alarms: 6e-5).
    assert abs((drawn < 1e-2).sum() - 2000) < 127


def test_initial_range_and_bounds_are_apart():
    space = {"rate": log(bounds=(1e-3, 1.0), initial=(0.1, 0.2))}
    hypers = sample(space, rng(), 50)
    for i in range(40):
        hypers = explore(space, rng(i + 1), hypers, np.arange(50))
    assert hypers["rate"].min() < 0.1 and hypers["rate"].max() > 0.2


@pytest.mark.parametrize("rule", [*EXPLORES])
@pytest.mark.parametrize(
    "options",
    [
        {"name": "log", "bounds": [0.01, 3.0]},
        {"name": "linear", "bounds": [0.0, 2.0], "initial": [0.5, 0.6]},
        {"name": "integer", "bounds": [1, 9]},
        {"name": "choice", "values": [0.25, 1.0, 2.0]},
    ],
    ids=lambda options: options["name"],
)
def test_ten_thousand_explorations_never_leave_the_bounds(options, rule):
    spec = {"name": rule} | ({"std": 0.5} if rule in ("gaussian", "log_normal") else {})
    discrete = options["name"] == "choice"
    refused = rule not in ("neighbour", "resample", "keep") if discrete else False
    refused |= rule == "neighbour" and options["name"] in ("log", "linear")
    if refused:
        with pytest.raises(ConfigError, match="explore"):
            build(SCALES, options | {"explore": spec})
        return
    h = build(SCALES, options | {"explore": spec})
    low, high = (0.25, 2.0) if discrete else options["bounds"]
    hypers, generator = sample({"h": h}, rng(), 10), rng(1)
    for _ in range(1000):
        hypers = explore({"h": h}, generator, hypers, np.arange(10))
        assert hypers["h"].min() >= low and hypers["h"].max() <= high
        assert not discrete or set(hypers["h"]) <= {0.25, 1.0, 2.0}
        assert not h.whole or (hypers["h"] == np.rint(hypers["h"])).all()


def test_only_the_named_members_explore_and_each_hyperparameter_on_its_own():
    space = {
        "a": log(bounds=(1e-9, 1e9), initial=(1.0, 1.0)),
        "b": linear(bounds=(0.0, 1e9), initial=(1.0, 1.0)),
    }
    after = explore(space, rng(), sample(space, rng(), 40), np.arange(20))
    assert (after["a"][20:] == 1).all() and (after["a"][:20] != 1).all()
    assert set(after["a"][:20]) == {0.5, 0.8, 1.25, 2.0} == set(after["b"][:20])
    assert (after["a"][:20] != after["b"][:20]).any()


def test_resampling_happens_with_its_probability():
    h = linear(bounds=(0.0, 1.0), explore={"name": "resample", "probability": 0.25})
    after = explore({"h": h}, rng(), {"h": np.full(4000, 2.0)}, np.arange(4000))["h"]
    # 1000 of 4000; the standard deviation is 27, 4 of them are 110 (false alarms: 6e-5). 2.0 is clipped to 1.
    assert abs((after < 1).sum() - 1000) < 110


def test_whole_numbers_and_choices_move_by_one():
    h = integer(bounds=(1, 5), given=(2,))
    assert set(h.legal(h.explore(rng(), np.full(50, 2.0), h))) == {1.0, 3.0}
    h = integer(bounds=(1, 100), explore={"name": "factors", "factors": (0.8, 1.25)})
    assert set(h.legal(h.explore(rng(), np.full(50, 2.0), h))) == {1.0, 3.0}  # a factor never stands still
    h = choice(values=(0.0, 0.5, 4.0))
    assert set(h.explore(rng(), np.full(50, 4.0), h)) == {0.5}
    assert set(h.explore(rng(), np.full(50, 0.5), h)) == {0.0, 4.0}


def test_a_whole_number_leaves_0_where_exploring_multiplies():
    for rule in ({"name": "factors"}, {"name": "log_normal", "std": 0.5}):
        h = integer(bounds=(0, 10), explore=rule)
        assert set(h.legal(h.explore(rng(), np.zeros(50), h))) >= {0.0, 1.0}
        assert set(h.legal(h.explore(rng(), np.full(50, 1.0), h))) >= {0.0, 2.0}


def test_the_neighbour_of_an_end_is_the_only_one_there_is():
    h = integer(bounds=(1, 5))
    assert set(h.legal(h.explore(rng(), np.full(50, 1.0), h))) == {2.0}
    assert set(h.legal(h.explore(rng(), np.full(50, 5.0), h))) == {4.0}


def test_given_values_are_dealt_in_turn():
    assert linear(bounds=(0.0, 1.0), given=(1.0, 0.0)).draw(rng(), 5).tolist() == [1, 0, 1, 0, 1]
    assert choice(values=(1.0, 2.0), given=(2.0,)).draw(rng(), 2).tolist() == [2, 2]


@pytest.mark.parametrize(
    ("factory", "options", "message"),
    [
        (log, {"bounds": (1.0, 0.1)}, r"^bounds must ascend, got \[1.0, 0.1\]$"),
        (
            log,
            {"bounds": (0.1, 1.0), "initial": (0.01, 1.0)},
            "^initial must ascend and lie inside the bounds",
        ),
        (linear, {"bounds": (0.0, 1.0), "given": (2.0,)}, "^given must lie inside the bounds"),
        (linear, {"bounds": (-1.0, 1.0)}, "^bounds must not be negative where exploring multiplies"),
        (
            integer,
            {"bounds": (-2, 3), "explore": {"name": "factors"}},
            r"^bounds must not be negative where exploring multiplies, got \[-2, 3\]$",
        ),
        (choice, {"values": (2.0, 1.0)}, "^values must ascend"),
        (choice, {"values": (1.0, 2.0), "given": (3.0,)}, "^given must be among the values"),
    ],
)
def test_what_cannot_be_a_range_is_refused(factory, options, message):
    with pytest.raises(ValueError, match=message):
        factory(**options)
