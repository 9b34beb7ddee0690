"""What can be evaluated and on what; and the command, from its arguments to its files."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

import learned_opt
from meta_train.cli import main as cli
from meta_train.cli.learned_rivals import learned_rival
from meta_train.cli.sources import (
    _trained_on,
    held_out,
    make_settings,
    open_source,
    tasks_and_settings,
)
from meta_train.config.load import load
from meta_train.errors import ConfigError
from meta_train.evaluation.protocol import STANDARD, Settings
from meta_train.run.experiment import held_out_families
from tasks.rings import RINGS

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def artefact(directory):
    lopt = learned_opt.LEARNED_OPTIMIZERS["learnable_adam"]()
    learned_opt.save(
        directory,
        name="learnable_adam",
        options={},
        theta=jax.device_get(lopt.init(jax.random.key(0))),
        horizon=(100, 500),
        provenance={"made": "by a test"},
    )


def refused(capsys, *argv, code=2):
    """What a command that is refused prints to stderr; it must write nothing."""
    before = sorted(Path().rglob("*"))
    assert cli.command([*argv]) == code
    assert sorted(Path().rglob("*")) == before
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1
    return err


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["evaluate", "nowhere"], 1, "nowhere is not the directory of a run"),
        (["evaluate", "pretrained:nothing"], 1, "nothing"),
        (["evaluate", "optax:addam"], 2, "did you mean adam"),
        (["evaluate", "optax:adam@x"], 2, "must be a number, got 'x'"),
        (["evaluate", "optax:adam@-1"], 2, "must be > 0 and finite, got -1"),
        (["evaluate", "optax:adam", "--tasks", "A+D"], 2, "no such ring or task"),
        (["evaluate", "optax:adam", "--tasks", "lm_1e55"], 2, "did you mean lm_1e5"),
        (["evaluate", "optax:adam", "--rivals", "adam@x"], 2, "must be a number, got 'x'"),
        (["evaluate", "optax:adam", "--rates", "0"], 2, "rates must be >= 1, got 0"),
        (["evaluate", "optax:adam", "--rivals", "./nothing"], 1, "nothing"),
        (["evaluate", "optax:adam", "--horizons", "10"], 2, "horizons must be >= final_steps (20), got 10"),
        (["evaluate", "optax:adam", "--num-seeds", "0"], 2, "num_seeds must be >= 1, got 0"),
        (["evaluate", "optax:adam", "--rivals", "addam"], 2, "did you mean adam"),
        (["evaluate", "optax:adam", "--trials", "0"], 2, "trials must be >= 1, got 0"),
        (["leaderboard", "nowhere"], 1, "nowhere holds no evaluation"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line_and_nothing_is_written(capsys, argv, code, words):
    assert words in refused(capsys, *argv, code=code)


def test_a_damaged_artefact_is_refused(capsys):
    artefact("broken")
    Path("broken/theta.safetensors").write_bytes(b"x")
    assert "damaged" in refused(capsys, "evaluate", "broken", code=1)


def test_rings_are_joined_by_plus_and_each_task_knows_its_own():
    found = held_out("A+sanity")
    assert list(found) == [*RINGS["A"], *RINGS["sanity"]]
    assert found["teacher_a"].ring == "A" and found["rosenbrock"].ring == "sanity"
    with pytest.raises(ConfigError, match="no such ring"):
        held_out("")


def test_no_two_rings_share_a_label():
    labels = [label for ring in RINGS.values() for label in ring]
    assert len(labels) == len(set(labels))


def test_optimizers_of_optax_take_a_schedule_and_a_rate():
    source = open_source("optax:sgdm_warmup_cosine@0.1")
    contestant = source.contestant(Settings())
    assert contestant.values[contestant.default] == pytest.approx(0.1) and len(contestant.values) == 12
    assert contestant.program == "sgdm" and source.out == Path(
        "runs/evaluations/optax_sgdm_warmup_cosine@0.1"
    )
    assert open_source("optax:adam").contestant(Settings()).default is None


def test_settings_sort_the_horizons_and_tune_on_as_many_seeds():
    found = make_settings(horizons=[500, 50, 50], num_seeds=2, rivals=None)
    assert found.horizons == (50, 500) and found.num_tuning_seeds == 2


def test_an_artefact_is_known_by_its_file_and_brings_its_horizon():
    artefact("mine")
    source = open_source("mine")
    assert source.name == "mine" and source.what["trained_for"] == "100 to 500 steps"
    contestant = source.contestant(Settings(trials=4))
    assert contestant.values == (0.25, 0.5, 1.0, 2.0) and contestant.default == 2
    assert contestant.told == () and contestant.constant  # it takes no notice of the horizon
    jax.tree.map(np.testing.assert_array_equal, contestant.shared, learned_opt.read("mine").theta)
    tasks, settings, about = tasks_and_settings(source, None, {"trials": 2})
    assert {task.ring for task in tasks.values()} == {"A", "B"} and about["tasks"] == "A+B"
    assert settings.trials == 2 and settings.rivals == STANDARD


def test_the_command_evaluates_and_ranks_an_artefact_and_an_optimizer_of_optax(capsys, monkeypatch):
    artefact("mine")
    monkeypatch.setitem(RINGS, "sanity", {"quadratic_10": RINGS["sanity"]["quadratic_10"]})
    common = ["--tasks", "sanity", "--horizons", "20", "--num-seeds", "1", "--rivals", "adam"]
    assert cli.command(["evaluate", "mine", *common, "--trials", "2", "--out", "a", "--json", "f.json"]) == 0
    assert "speed-up" in capsys.readouterr().out
    figures = json.loads(Path("f.json").read_text())
    assert figures["source"] == "mine" and figures["provenance"] == {"made": "by a test"}
    assert figures["rings_version"] == 1 and set(figures["scores"]["all"]) >= {"equal_budget"}
    assert {path.name for path in Path("a").iterdir()} >= {"evaluation.html", "evaluation.csv"}
    assert cli.command(["evaluate", "optax:adam", *common, "--out", "b"]) == 0
    tuned = json.loads(Path("b/evaluation.json").read_text())
    # Its setting of the third comparison is Adam's own choice: it is Adam, on the same seeds.
    for cell in tuned["cells"]:
        outcome = cell["outcomes"]["equal_budget"]
        assert outcome["loss_ratio"]["adam"] == pytest.approx(1, rel=1e-3)
    capsys.readouterr()
    Path("f.json").rename("a/evaluation.json")
    assert cli.command(["leaderboard", "a", "b", "--out", "board"]) == 0
    assert "optax:adam" in capsys.readouterr().out and Path("board/leaderboard.html").is_file()


def test_artefacts_of_two_runs_have_names_of_their_own():
    artefact("runs/a/optimizer")
    source = open_source("./runs/a/optimizer/")
    assert source.name == "a_optimizer" and source.out == Path("runs/evaluations/a_optimizer")


def test_an_artefact_named_like_a_rival_is_not_run_by_its_program():
    artefact("adam")
    assert (
        open_source("adam").contestant(Settings()).program
        != open_source("optax:adam").contestant(Settings()).program
    )


def test_tasks_of_a_ring_and_named_tasks_can_be_asked_for_by_their_names():
    found = held_out("lm_1e4+wine_mlp+sanity")
    assert list(found) == ["lm_1e4", "wine_mlp", *RINGS["sanity"]]
    assert [found[name].ring for name in ("lm_1e4", "wine_mlp", "rosenbrock")] == ["L", "", "sanity"]
    assert set(found["lm_1e4"].family.data) == {"train", "valid", "test"}


def test_the_ladder_has_horizons_of_its_own_and_an_archive_no_longer_than_they_are():
    source = open_source("optax:adam")
    tasks, settings, _ = tasks_and_settings(source, "L", {})
    assert list(tasks) == list(RINGS["L"]) and settings.horizons == (500, 2000)
    assert settings.archive_steps == 2000 and settings.num_tuning_seeds == 1
    _, settings, _ = tasks_and_settings(source, "L", {"horizons": [500], "num_tuning_seeds": 2})
    assert settings.archive_steps == 500 and settings.num_tuning_seeds == 2
    _, settings, _ = tasks_and_settings(source, "A+L", {})
    assert settings.horizons == (200, 500)


def test_a_run_is_evaluated_under_the_names_of_its_tasks_and_training_tasks_are_named():
    config = load(
        ROOT / "configs" / "quickstart.yaml",
        [
            "tasks=[{name: digits_softmax}, {name: wine_mlp}]",
            "evaluation.tasks=[{name: digits_softmax}, {name: iris_softmax}, {name: tabular_mlp, l2: 0.5}]",
        ],
    )
    assert list(held_out_families(config)) == [
        "digits_softmax",
        "iris_softmax",
        "tabular_mlp",
    ]
    assert _trained_on(config) == ["digits_softmax is not held out: the optimizer was trained on it"]


CELO = ROOT / "tests" / "learned_opt" / "golden" / "checkpoints" / "celo"


def test_published_weights_are_a_rival_that_takes_part_as_it_is(capsys, monkeypatch):
    """Weights of Celo of a tiny size, as a file of its code base holds them."""
    file = Path("published") / "theta.state"
    file.parent.mkdir()
    file.write_bytes((CELO / "theta.state").read_bytes())
    rival = learned_rival(f"{file}?optimizer=celo")
    assert (
        rival.learned
        and rival.values == (1.0,)
        and rival.told == ()
        and rival.name.endswith("optimizer=celo")
    )
    assert learned_rival("adam") is None
    assert "optimizer" in refused(capsys, "evaluate", "optax:adam", "--rivals", str(file))
    monkeypatch.setitem(RINGS, "sanity", {"quadratic_10": RINGS["sanity"]["quadratic_10"]})
    argv = ["evaluate", "optax:adam@0.01", "--tasks", "sanity", "--horizons", "20", "--num-seeds", "1"]
    argv += ["--rates", "2", "--trials", "1", "--out", "a", "--rivals", f"{file}?optimizer=celo"]
    assert cli.command([*argv]) == 0
    capsys.readouterr()
    doc = json.loads(Path("a/evaluation.json").read_text())
    assert doc["learned_rivals"] == [f"{file}?optimizer=celo"]
    (cell,) = doc["cells"]
    assert cell["loss"][f"{file}?optimizer=celo"][0] > 0 and doc["settings"]["rivals"] == ["adam"]
    assert cell["outcomes"]["per_task_tuned"]["loss_ratio"]["best_untuned"] > 0
