"""Files of other codebases become artefacts that give the updates recorded from the codebases themselves.

golden/checkpoints holds files written by the original code (random weights), and the parameters after each of
three updates that it made with them.
"""

import inspect
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import optax
import pytest

import learned_opt
from learned_opt import importers
from learned_opt.importers import ImportProblem, SettingProblem, gin_text
from learned_opt.importers.flax_msgpack import decode, flatten
from meta_train.cli import main as cli

FILES = Path(__file__).parent / "golden" / "checkpoints"
RECORDED = {
    kind: json.loads((FILES / f"trajectories_{kind}.json").read_text(encoding="utf-8"))
    for kind in ("jax", "torch")
}
OFFSETS = {"momentum_decays": [0.1, 0.2, 0.3], "rms_decays": [0.0], "adafactor_decays": [0.0, 0.1, 0.0]}

# folder or recorded name -> (framework of the recording, source, settings beside the recorded constructor's)
CASES = {
    "lo_adafac_mlp": ("jax", "lo_adafac_mlp", {}),
    "lo_mlp": ("jax", "lo_mlp", {}),
    "lo_rnn_mlp": ("jax", "lo_rnn_mlp", {}),
    "lo_velo_small": ("jax", "lo_velo_small", {}),
    "celo": ("jax", "celo", {"optimizer": "celo"}),
    # Recorded from `scale_by_celo2` alone, without the Adam that celo2 has for some paths.
    "celo2": ("jax", "celo2", {"optimizer": "celo2", "learning_rate": 0.01, "regex_1d": ""}),
    "pylo_meta_mlp": ("torch", "pylo_meta_mlp", {"optimizer": "AdafacLO"}),
    "pylo_elo": ("torch", "pylo_elo/elo_theta.safetensors", {"optimizer": "ELO"}),
    "pylo_velo": ("torch", "pylo_velo_rnn", {"mlp": str(FILES / "pylo_velo_mlp")}),
    "pylo_celo2": ("torch", "pylo_celo2", {"optimizer": "CELO2"}),
    "pylo_elo_celo2": ("torch", "pylo_elo_celo2/celo2_theta.safetensors", {"optimizer": "ELO_CELO2"}),
}


def arrays(tree):
    return jax.tree.map(np.float32, tree, is_leaf=lambda x: isinstance(x, list))


def stacked(trees):
    return jax.tree.map(lambda *x: np.stack(x), *map(arrays, trees))


def leaves(tree):
    return {
        jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }


def distance(a, b):
    return max(float(np.abs(a[k] - b[k]).max()) for k in a.keys() | b.keys())


@pytest.mark.parametrize("case", CASES)
def test_an_imported_optimizer_follows_the_originals_trajectory(case, tmp_path):
    framework, source, settings = CASES[case]
    recorded = RECORDED[framework]["checkpoints"][case]
    constructor = dict(recorded.get("settings", {}))
    num_steps = constructor.pop("num_steps", recorded.get("num_steps"))
    importers.convert(FILES / source, tmp_path / "lo", **settings, **constructor)
    tx = optax.with_extra_args_support(learned_opt.load(tmp_path / "lo", num_steps=num_steps))

    @jax.jit
    def train(params, grads, losses):
        def step(carry, inputs):
            params, state = carry
            updates, state = tx.update(inputs[0], state, params, value=inputs[1])
            params = optax.apply_updates(params, updates)
            return (params, state), params

        return jax.lax.scan(step, (params, tx.init(params)), (grads, losses))[1]

    inputs = RECORDED[framework]["inputs"]
    start, expected = arrays(inputs["params"]), stacked(recorded["trajectory"])
    got = train(start, stacked(inputs["grads"]), np.float32(inputs["loss"]))
    for t in range(len(recorded["trajectory"])):
        at_t, expected_t = ({k: x[t] for k, x in leaves(tree).items()} for tree in (got, expected))
        moved = distance(expected_t, leaves(start))
        assert moved > 1e-5
        assert distance(at_t, expected_t) < min(2e-5 * max(1, moved), 1e-3 * moved)


def checkpoint(directory, theta, gin, **more):
    """A checkpoint as google/learned_optimization writes it, of `theta` (arrays by path)."""
    directory.mkdir(exist_ok=True)
    content = {"params": nested(theta), "gen_id": "g", "step": 7} | more
    (directory / "params").write_bytes(packed(content))
    if gin is not None:
        (directory / "config.gin").write_text(gin)
    return directory


def nested(theta):
    tree = {}
    for path, leaf in theta.items():
        *parents, last = path.split(".")
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = leaf
    return tree


def packed(tree):
    def extension(x):
        x = np.asarray(x)
        return msgpack.ExtType(1, msgpack.packb((x.shape, x.dtype.name, x.tobytes())))

    return msgpack.packb(tree, default=extension)


def theta_like(name, **options):
    lopt = learned_opt.LEARNED_OPTIMIZERS[name](**options)
    shapes = jax.tree_util.tree_leaves_with_path(jax.eval_shape(lopt.init, jax.random.key(0)))
    rng = np.random.default_rng(0)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): rng.normal(size=x.shape).astype(np.float32)
        for path, x in shapes
    }


def defaults_of(name):
    parameters = inspect.signature(learned_opt.LEARNED_OPTIMIZERS[name]).parameters
    return {option: parameter.default for option, parameter in parameters.items()}


NOMINAL_GIN = """
MLPNomLOpt.nominal_grad_estimator = 'SGDM'
MLPNomLOpt.nominal_controller = True
MLPNomLOpt.aggregate_nom_magnitude = True
MLPNomLOpt.exp_mult = (0.1, 0.2, \\
    0.3)
run_train.lopt = @MLPNomLOpt()
"""
NOMINAL = {
    "nominal_estimator": "SGDM",
    "nominal_controller": True,
    "aggregate_nominal_magnitude": True,
    "exp_mult": (0.1, 0.2, 0.3),
}


@pytest.mark.parametrize(
    ("name", "built", "gin", "options"),
    [
        ("learnable_sgd", {}, "run_train.lopt = @LearnableSGD()", {}),
        ("learnable_sgdm", {}, "run_train.lopt = @LearnableSGDM()", {}),
        ("learnable_adam", {}, "run_train.lopt = @LearnableAdam()", {}),
        ("nn_adam", {}, "NNAdam.output_scale = 0.02\nrun_train.lopt = @NNAdam()", {"output_scale": 0.02}),
        ("mlp_nominal", {}, NOMINAL_GIN, NOMINAL),
        # Nothing is bound: the class's own defaults, which are not the released VeLO's.
        (
            "velo",
            {"lstm_hidden": 128, "bank": 64},
            "run_train.lopt = @hyper_v2.HyperV2()",
            {"lstm_hidden": 128, "bank": 64, "bugged_loss_features": True, "bank_mult": 100.0},
        ),
    ],
)
def test_every_class_of_learned_optimization_is_read_with_its_defaults(name, built, gin, options, tmp_path):
    theta = theta_like(name, **built)
    found = importers.read(checkpoint(tmp_path / "c", theta, gin))
    assert found.name == name and options.items() <= found.options.items()
    defaults = {key: found.options[key] for key in found.options.keys() - options.keys()}
    assert defaults.items() <= defaults_of(name).items()
    assert found.provenance["gen_id"] == "g" and found.provenance["outer_step"] == 7
    read = jax.tree_util.tree_leaves_with_path(found.theta)
    assert len(read) == len(theta)
    for path, leaf in read:
        np.testing.assert_array_equal(leaf, theta[jax.tree_util.keystr(path, simple=True, separator=".")])


def test_the_horizon_and_the_files_are_recorded(tmp_path):
    found = importers.convert(FILES / "lo_velo_small", tmp_path / "lo")
    artefact = learned_opt.read(tmp_path / "lo")
    assert artefact.horizon == [100, 20_000] and found.horizon == (100, 20_000)
    assert artefact.provenance["files_sha256"].keys() == {"lo_velo_small/params", "lo_velo_small/config.gin"}
    assert "HyperV2.param_inits = 8" in artefact.config["gin"]


def test_gin_scopes_modules_macros_and_continuations_are_read():
    bindings = gin_text.parse(
        "import a.b\n# comment\nWIDTH = 12\nsize/macro.value = (1,\n  2)\n"
        "run_train.lopt = @train/inner/mod.HyperV2()  # which\n"
        "HyperV2.a = 1\nHyperV2.b = %WIDTH\ntrain/HyperV2.a = 2\ntrain/inner/mod.HyperV2.c = %size\n"
        "other/HyperV2.a = 3\nOther.x = [@a(), %b]\nHyperV2.d = \\\n    'text'\n",
        "f",
    )
    assert bindings.of("run_train") == {"lopt": gin_text.Reference("train/inner", "HyperV2")}
    assert bindings.of("HyperV2", "train/inner") == {"a": 2, "b": 12, "c": (1, 2), "d": "text"}
    assert bindings.of("HyperV2") == {"a": 1, "b": 12, "d": "text"}
    with pytest.raises(ImportProblem, match="the value of Other.x is no literal"):
        bindings.of("Other")


def test_without_a_gin_file_the_class_is_asked_for_and_its_arguments_can_be_given(tmp_path):
    shutil.copy(FILES / "lo_mlp" / "params", tmp_path / "params_12000")
    with pytest.raises(
        SettingProblem, match=r"no config.gin next to it.*pass optimizer=\.\.\., one of Learn"
    ):
        importers.read(tmp_path)
    found = importers.read(tmp_path, optimizer="MLPLOpt", hidden_size=16, step_mult=0.02)
    assert found.options == importers.read(FILES / "lo_mlp").options
    gin = FILES / "lo_mlp" / "config.gin"
    assert importers.read(tmp_path, config=gin).options == found.options
    with pytest.raises(SettingProblem, match="MLPLOpt.step_mult is 0.02 already"):
        importers.read(tmp_path, config=gin, step_mult=0.5)


def test_the_names_of_celos_factory_are_read(tmp_path):
    shutil.copy(FILES / "celo2" / "theta.state", tmp_path / "theta_15000.state")  # as its trainer writes it
    found = importers.read(tmp_path, optimizer="celo2base", learning_rate=0.01)
    assert found.options == {"hidden": 8, "learning_rate": 0.01, "weight_decay": 0.0, "orthogonalise": False}
    found = importers.read(tmp_path, optimizer="celo2", learning_rate=0.01, regex_1d="/b$", adam_b2=0.99)
    assert found.options["adam_paths"] == "/b$" and found.options["adam_betas"] == (0.9, 0.99)
    assert found.options["vector_lr_mult"] == 20.0 and found.options["orthogonalise"]


def test_celo_adam_is_read_and_told_from_celo_by_its_tree(tmp_path):
    theta = theta_like("celo_adam", lstm_hidden=8)
    (tmp_path / "theta.state").write_bytes(packed(nested(theta)))
    found = importers.convert(tmp_path, tmp_path / "lo", optimizer="celo_adam", step_mult=0.002)
    assert found.name == "celo_adam" and found.options == {"lstm_hidden": 8, "step_mult": 0.002}
    tx = learned_opt.load(tmp_path / "lo", num_steps=10)
    params = {"w": jnp.ones(3)}
    updates, _ = tx.update(params, tx.init(params), params, value=1.0)
    assert np.isfinite(updates["w"]).all() and np.any(updates["w"])
    with pytest.raises(SettingProblem, match="optimizer is 'celo', must be one of celo_adam$"):
        importers.read(tmp_path, optimizer="celo")


def test_pylos_celo2_hands_its_adam_betas_and_epsilon_on():
    settings = {"optimizer": "CELO2", "lr": 0.1, "weight_decay": 0.0}
    found = importers.read(FILES / "pylo_celo2", adam_betas=[0.8, 0.99], adam_eps=1e-6, **settings)
    assert found.options["adam_betas"] == (0.8, 0.99) and found.options["adam_eps"] == 1e-6
    with pytest.raises(SettingProblem, match="adam_betas is .0.8,., must be a list of 2"):
        importers.read(FILES / "pylo_celo2", adam_betas=[0.8], **settings)


def test_mulos_base_width_and_clipping_become_options(tmp_path):
    settings = {"optimizer": "MuLO", "lr": 0.5, **OFFSETS, "hidden_weights": "mid", "base_width": 128}
    found = importers.read(FILES / "pylo_meta_mlp", **settings)
    assert found.name == "mulo" and found.options["hidden_lr_mult"] == 128
    assert found.options["hidden_weights"] == "mid" and found.options["step_mult"] == 0.5 * 0.01
    np.testing.assert_array_equal(found.theta["momentum_decays"], np.float32(OFFSETS["momentum_decays"]))
    elo_celo2 = {"optimizer": "ELO_CELO2", "lr": 0.5, "weight_decay": 0.1}
    assert importers.read(FILES / "pylo_celo2", **elo_celo2).options["clip_norm"] == 1.0


def test_pylos_velo_is_the_same_from_either_half():
    found = importers.read(FILES / "pylo_velo_rnn", mlp=FILES / "pylo_velo_mlp", lr=1.0)
    again = importers.read(FILES / "pylo_velo_mlp", rnn=FILES / "pylo_velo_rnn", lr=1.0)
    assert found.options == again.options
    for a, b in zip(jax.tree.leaves(found.theta), jax.tree.leaves(again.theta), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64", ">f4", "float32"])
def test_arrays_of_every_float_type_and_byte_order_become_float32(dtype):
    values = np.array([[1.5, -0.25, 3.0]])
    array = values.astype(jnp.bfloat16 if dtype == "bfloat16" else dtype)
    payload = msgpack.packb((array.shape, dtype, array.tobytes()))
    tree = decode(msgpack.packb({"a": {"b": msgpack.ExtType(1, payload)}, "c": 2.5}), "f")
    found = flatten(tree, "f")
    assert {x.dtype for x in found.values()} == {np.dtype("=f4")}
    np.testing.assert_array_equal(found["a.b"], values)
    assert found["c"] == 2.5


def test_flaxs_own_files_are_read_numpy_scalars_and_split_arrays_included(monkeypatch):
    from flax import serialization

    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 16)
    tree = {
        "w": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        "s": np.float32(2.5),
        "h": {"x": jnp.ones(2)},
    }
    found = flatten(decode(serialization.msgpack_serialize(tree), "f"), "f")
    np.testing.assert_array_equal(found["w"], tree["w"])
    assert found["s"] == 2.5 and found["h.x"].shape == (2,)


def test_the_command_writes_an_artefact_and_refuses_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.command(["import", str(FILES / "celo"), "optimizer=celo", "step_mult=2e-3", "-o", "lo"]) == 0
    artefact = learned_opt.read("lo")
    assert (
        artefact.name == "celo" and artefact.options["step_mult"] == 2e-3 and artefact.options["phase"] == 2
    )
    card = Path("lo/README.md").read_text(encoding="utf-8")
    assert "celo theta.state" in card and "learned_opt.load(" in card
    capsys.readouterr()
    for words, code in (
        (["celo"], 2),
        (["celo", "optimizer=celo", "step_mult=fast"], 2),
        (["celo", "optimizer"], 2),
        (["nowhere"], 1),
    ):
        assert cli.command(["import", str(FILES / words[0]), *words[1:], "-o", "other"]) == code
        assert capsys.readouterr().err.count("\n") == 1
    assert not Path("other").exists()


def test_reading_a_checkpoint_works_without_flax_and_loads_neither_torch_nor_gin():
    source = str(FILES / "lo_mlp")  # haiku imports flax where it is installed, so it must be made absent
    code = (
        "import sys; sys.modules['flax'] = None; from learned_opt import importers; "
        f"importers.read({source!r}); print(*sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = {module.split(".")[0] for module in out.split()}
    assert "msgpack" in loaded
    assert not loaded & {"torch", "gin", "tensorflow", "huggingface_hub", "meta_train", "tasks"}
