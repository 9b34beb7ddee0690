"""The artefact: a bitwise round trip, and one clear line for whatever is not an artefact."""

import hashlib
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import learned_opt
from learned_opt import ArtefactError, load, read, save
from learned_opt.artefact.format import CARD, CONFIG, WEIGHTS

NAME, OPTIONS = "residual", {"hidden": 2, "initial_lr": 1e-2}


def write(directory, **changes):
    lopt = learned_opt.LEARNED_OPTIMIZERS[NAME](**OPTIONS)
    arguments = {
        "name": NAME,
        "options": OPTIONS,
        "theta": lopt.init(jax.random.key(3)),
        "horizon": (100, 500),
        "provenance": {"commit": "abc", "loss": np.float32(0.5)},
        "config": {"sigma": 0.02, "families": ["a", "b"]},
        "evaluation": [{"task": "digits", "speed_up": 2.5, "adam": float("inf")}],
    }
    save(directory, **(arguments | changes))
    return arguments | changes


def run(tx, steps=5):
    params = {"w": jnp.linspace(-1, 1, 12).reshape(3, 4), "b": jnp.zeros(4)}
    state = tx.init(params)
    for _ in range(steps):
        updates, state = tx.update(jax.tree.map(lambda p: p - 0.3, params), state, params)
        params = optax.apply_updates(params, updates)
    return params


def edit(directory, change):
    """Rewrites config.json with a digest that fits: what a forger, or another version, could write."""
    from learned_opt.artefact.content import encode, sha256

    content = json.loads((directory / CONFIG).read_text())
    del content["sha256"]
    change(content)
    content["sha256"] = sha256(encode(content))
    (directory / CONFIG).write_bytes(encode(content))


@pytest.fixture
def artefact(tmp_path):
    write(tmp_path / "lo")
    return tmp_path / "lo"


@pytest.mark.parametrize("name", learned_opt.LEARNED_OPTIMIZERS)
def test_theta_makes_the_round_trip_bitwise(name, tmp_path):
    lopt = learned_opt.LEARNED_OPTIMIZERS[name]()
    rng = np.random.default_rng(0)
    like = jax.eval_shape(lopt.init, jax.random.key(1))
    theta = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), like)
    save(tmp_path / "lo", name=name, options={}, theta=theta, horizon=100, provenance={})
    got = read(tmp_path / "lo").theta
    assert jax.tree.structure(got) == jax.tree.structure(theta)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(theta), strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


def test_everything_saved_is_read(tmp_path):
    saved = write(tmp_path / "deep" / "lo")
    artefact = read(tmp_path / "deep" / "lo")
    assert artefact.name == NAME and artefact.options == OPTIONS and artefact.horizon == [100, 500]
    assert artefact.provenance == {"commit": "abc", "loss": 0.5} and artefact.config == saved["config"]
    assert artefact.evaluation == [{"task": "digits", "speed_up": 2.5, "adam": None}]
    assert sorted(os.listdir(tmp_path / "deep" / "lo")) == [CARD, CONFIG, WEIGHTS]
    assert os.listdir(tmp_path / "deep") == ["lo"]


def test_the_loaded_optimizer_gives_the_updates_of_the_saved_one(artefact):
    saved = write(artefact)
    lopt = learned_opt.LEARNED_OPTIMIZERS[NAME](**OPTIONS)
    expected = run(lopt.build(saved["theta"], 20))
    got = run(load(artefact, num_steps=20))
    for k in expected:
        np.testing.assert_array_equal(got[k], expected[k])


def test_a_missing_horizon_is_asked_for_by_name(artefact):
    with pytest.raises(ValueError, match=r"^residual needs num_steps.*100 to 500 steps.*num_steps=\.\.\."):
        load(artefact)
    with pytest.raises(ValueError, match="num_steps must be a whole number >= 1, got 0"):
        load(artefact, num_steps=0)


def test_an_architecture_without_a_horizon_does_not_ask_for_it(tmp_path):
    lopt = learned_opt.learnable_adam()
    theta = lopt.init(jax.random.key(0))
    save(tmp_path / "lo", name="learnable_adam", options={}, theta=theta, horizon=None, provenance={})
    assert float(jnp.abs(run(load(tmp_path / "lo"))["b"]).max()) > 0


@pytest.mark.parametrize("file", [CONFIG, WEIGHTS])
def test_any_flipped_byte_is_refused(artefact, file):
    content = (artefact / file).read_bytes()
    rng = np.random.default_rng(0)
    for position in {0, len(content) - 1, *rng.integers(0, len(content), 60).tolist()}:
        flipped = bytearray(content)
        flipped[position] ^= 1 << int(rng.integers(8))
        (artefact / file).write_bytes(flipped)
        with pytest.raises(ArtefactError) as error:
            read(artefact)
        assert str(artefact) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("file", [CONFIG, WEIGHTS])
@pytest.mark.parametrize("kept", [0, 0.5])
def test_a_truncated_file_is_refused(artefact, file, kept):
    content = (artefact / file).read_bytes()
    (artefact / file).write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ArtefactError, match=file):
        read(artefact)


@pytest.mark.parametrize("file", [CONFIG, WEIGHTS])
def test_a_missing_file_is_named(artefact, file):
    (artefact / file).unlink()
    with pytest.raises(ArtefactError, match=f"{file} cannot be read: No such file"):
        read(artefact)


@pytest.mark.parametrize("content", ["[1, 2]", '{"architectures": ["Llama"]}', "{}", "\x80abc"])
def test_a_foreign_config_is_refused(artefact, content):
    (artefact / CONFIG).write_text(content)
    with pytest.raises(ArtefactError, match="config.json is"):
        read(artefact)


def test_a_newer_format_is_refused(artefact):
    edit(artefact, lambda content: content.update(format_version=2))
    with pytest.raises(ArtefactError, match="format version 2, this learned_opt reads up to 1"):
        read(artefact)


def test_an_unknown_architecture_and_unknown_options_are_refused(artefact):
    edit(artefact, lambda content: content.update(options={"hiden": 4}))
    with pytest.raises(ArtefactError, match="residual does not take the options.*hiden"):
        read(artefact)
    edit(artefact, lambda content: content.update(architecture="adamw"))
    with pytest.raises(ArtefactError, match="unknown architecture 'adamw'; known: learnable_sgd"):
        read(artefact)


def test_weights_of_another_shape_are_refused_by_their_first_path(artefact):
    edit(artefact, lambda content: content["options"].update(hidden=3))
    with pytest.raises(ArtefactError, match=r"at nn\.~\.b0: expected float32\[3\], got float32\[2\]"):
        read(artefact)


def test_a_foreign_theta_is_not_saved(tmp_path):
    lopt = learned_opt.residual(**OPTIONS)
    theta = lopt.init(jax.random.key(0))
    with pytest.raises(ArtefactError, match=r"at nn\.~\.b0: expected float32\[2\], got nothing"):
        write(tmp_path / "lo", theta={"schedule": theta["schedule"]})
    with pytest.raises(ArtefactError, match="theta is not finite at schedule"):
        write(tmp_path / "lo", theta=theta | {"schedule": theta["schedule"].at[3].set(jnp.nan)})
    assert not (tmp_path / "lo").exists()


def test_saving_again_replaces_an_artefact_and_nothing_else(artefact):
    theta = learned_opt.residual(**OPTIONS).init(jax.random.key(9))
    write(artefact, theta=theta)
    np.testing.assert_array_equal(read(artefact).theta["nn"]["~"]["w0"], theta["nn"]["~"]["w0"])
    (artefact / "thesis.tex").write_text("years of work")
    with pytest.raises(ArtefactError, match="will not be overwritten: thesis.tex"):
        write(artefact)
    assert (artefact / "thesis.tex").read_text() == "years of work"


def test_what_the_hub_leaves_is_replaced_only_beside_an_artefact(artefact, tmp_path):
    for directory in (artefact, tmp_path / "home"):
        (directory / ".cache" / "huggingface").mkdir(parents=True)
        (directory / ".gitattributes").write_text("")
    write(artefact)
    assert sorted(os.listdir(artefact)) == [CARD, CONFIG, WEIGHTS]
    with pytest.raises(ArtefactError, match="will not be overwritten: .cache in it"):
        write(tmp_path / "home")
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / CARD).write_text("years of work")
    with pytest.raises(ArtefactError, match="will not be overwritten: README.md in it"):
        write(tmp_path / "project")


def test_the_current_directory_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (".", "../" + tmp_path.name):
        with pytest.raises(ArtefactError, match="is the current directory: write the artefact to another"):
            write(name)
    write("lo/")
    assert read("lo").name == NAME


def test_a_transposed_view_makes_the_round_trip(tmp_path):
    theta = jax.tree.map(np.asarray, learned_opt.residual(**OPTIONS).init(jax.random.key(3)))
    theta["nn"]["~"]["w0"] = np.asfortranarray(theta["nn"]["~"]["w0"])
    write(tmp_path / "lo", theta=theta)
    np.testing.assert_array_equal(read(tmp_path / "lo").theta["nn"]["~"]["w0"], theta["nn"]["~"]["w0"])


def test_a_save_that_fails_half_way_leaves_the_old_artefact(artefact, monkeypatch):
    before = (artefact / WEIGHTS).read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArtefactError, match="lo cannot be written: No space left on device"):
        write(artefact, theta=learned_opt.residual(**OPTIONS).init(jax.random.key(9)))
    monkeypatch.undo()
    assert (artefact / WEIGHTS).read_bytes() == before and read(artefact).name == NAME
    assert os.listdir(artefact.parent) == ["lo"]


def test_a_config_of_someone_else_is_not_replaced(tmp_path):
    for content in ('{"architectures": ["Llama"]}', "not JSON", "[" * 100_000):
        (tmp_path / CONFIG).write_text(content)
        with pytest.raises(ArtefactError, match="overwritten: config.json in it is not of an artefact"):
            write(tmp_path)
        assert (tmp_path / CONFIG).read_text() == content
    (tmp_path / CONFIG).unlink()
    (tmp_path / WEIGHTS).write_text("of another program")
    with pytest.raises(ArtefactError, match="will not be overwritten: theta.safetensors"):
        write(tmp_path)
    assert (tmp_path / WEIGHTS).read_text() == "of another program"


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    for out, message in (
        (tmp_path / "file", "is not a directory"),
        (tmp_path / "file" / "lo", "cannot be written: Not a directory"),
        (tmp_path / ("n" * 300), "cannot be written: File name too long"),
    ):
        with pytest.raises(ArtefactError, match=message):
            write(out)


# What a forger, or a defect, could put into config.json with a digest that fits.
FORGED = {
    "horizon": [0, True, [1], [1, 2, 3], ["a", "b"], "100", {}],
    "options": [None, [], "hidden=2", {"hidden": {}}, {"hidden": -1}, {"hidden": 10**8}, {"hidden": 10**30}],
    "theta": [None, [], {}, {"nn": 3}, {"schedule": {"shape": [], "dtype": "float32"}}],
    "theta_sha256": [None, 5, "", []],
    "architecture": [None, 3, [], {}, "a\x1b[31m\nb"],
    "provenance": [None, [], "x"],
    "format_version": [10**30],
}


@pytest.mark.parametrize("field", FORGED)
def test_a_forged_config_is_one_line(artefact, field):
    before = (artefact / CONFIG).read_bytes()
    for value in FORGED[field]:
        edit(artefact, lambda content, value=value: content.update({field: value}))
        with pytest.raises(ArtefactError) as error:
            read(artefact)
        assert str(error.value).isprintable() and str(artefact) in str(error.value) or field in "architecture"
        (artefact / CONFIG).write_bytes(before)
        if field == "horizon":  # may be missing: it is not recorded then
            continue
        edit(artefact, lambda content: content.pop(field) if field != "format_version" else content.clear())
        with pytest.raises(ArtefactError):
            read(artefact)
        (artefact / CONFIG).write_bytes(before)


def test_a_depth_that_the_weights_do_not_have_is_refused_before_a_network_is_traced(tmp_path):
    theta = learned_opt.per_param_mlp().init(jax.random.key(0))
    save(tmp_path / "lo", name="per_param_mlp", options={}, theta=theta, horizon=None, provenance={})
    edit(tmp_path / "lo", lambda content: content["options"].update(num_hidden=10**8))
    with pytest.raises(ArtefactError, match="option num_hidden is 100000000, the weights allow at most 100"):
        read(tmp_path / "lo")


def test_weights_that_are_not_finite_are_refused(artefact):
    import safetensors.numpy

    arrays = dict(safetensors.numpy.load_file(artefact / WEIGHTS))
    arrays["schedule"] = np.full_like(arrays["schedule"], np.nan)
    weights = safetensors.numpy.save(arrays)
    (artefact / WEIGHTS).write_bytes(weights)
    digest = hashlib.sha256(weights).hexdigest()
    edit(artefact, lambda content: content.update(theta_sha256=digest))
    with pytest.raises(ArtefactError, match="theta.safetensors is not finite at schedule"):
        read(artefact)


@pytest.mark.parametrize("file", [CONFIG, WEIGHTS])
def test_a_fifo_or_a_device_is_refused_and_not_waited_for(artefact, file):
    (artefact / file).unlink()
    os.mkfifo(artefact / file)
    with pytest.raises(ArtefactError, match=f"{file} cannot be read: it is not a regular file"):
        read(artefact)
    (artefact / file).unlink()
    (artefact / file).symlink_to("/dev/zero")
    with pytest.raises(ArtefactError, match=f"{file} cannot be read: it is not a regular file"):
        read(artefact)
