"""What an importer cannot read, or may not guess, is refused in one line that names it."""

import os
import pickle
import shutil
import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import msgpack
import numpy as np
import pytest
import safetensors.numpy

from learned_opt import ArtefactError, importers
from learned_opt.importers import ImportProblem, gin_text

FILES = Path(__file__).parent / "golden" / "checkpoints"
OFFSETS = {"momentum_decays": [0.1, 0.2, 0.3], "rms_decays": [0.0], "adafactor_decays": [0.0, 0.1, 0.0]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run_train.lopt = @HyperV2()\nnonsense", "not a line of gin: 'nonsense'"),
        ("Adam.learning_rate = 1", "does not bind run_train.lopt to a class"),
        ("run_train.lopt = @Shampoo()", "the architecture Shampoo is not supported, only LearnableSGD"),
        (
            "run_train.lopt = @HyperV2()\nHyperV2.exp_mult = __import__('os')",
            "HyperV2.exp_mult is no literal",
        ),
        ("run_train.lopt = @HyperV2()\nHyperV2.exp_mult = %M", "is the macro %M, which is not bound"),
        ("run_train.lopt = @HyperV2()\nHyperV2.mix_layers = False", "mix_layers = False is not supported"),
        ("run_train.lopt = @HyperV2()\nHyperV2.new_flag = 1", "HyperV2 with new_flag = 1 is not supported"),
        ("run_train.lopt = @HyperV2()\nHyperV2.exp_mult = 'a'", "exp_mult = 'a': must be a finite number"),
        ("run_train.lopt = @HyperV2()\nHyperV2.step_mult = -1.0", "step_mult is -1.0, must be > 0"),
        ("run_train.lopt = @HyperV2()\nHyperV2.initial_rms_decays = (0.5,)", r"only \(0.999,\)"),
    ],
)
def test_a_gin_file_that_is_not_supported_is_refused_by_name(text, message, tmp_path):
    shutil.copytree(FILES / "lo_velo_small", tmp_path / "c")
    (tmp_path / "c" / "config.gin").write_text(text)
    with pytest.raises(ArtefactError, match=message) as error:
        importers.read(tmp_path / "c")
    assert "\n" not in str(error.value)


def test_a_bracket_in_a_comment_or_a_text_ends_nothing(tmp_path):
    """Every binding after it was once dropped."""
    shutil.copytree(FILES / "lo_velo_small", tmp_path / "c")
    gin = tmp_path / "c" / "config.gin"
    text = "x.note = 'an open ( bracket'\nx.size = 12  # it was 4 :(\n"
    gin.write_text(text + gin.read_text() + "HyperV2.step_mult = 0.1\nHyperV2.exp_mult = 0.2  # [\n")
    found = importers.read(tmp_path / "c")
    assert (found.options["step_mult"], found.options["exp_mult"]) == (0.1, 0.2)


@pytest.mark.parametrize(
    "rest", ["HyperV2.exp_mult = (1,\nHyperV2.step_mult = 0.1\n", "x.y = '''abc\n", "x.y = [1)]"]
)
def test_a_bracket_or_a_text_that_is_not_closed_is_refused(rest, tmp_path):
    shutil.copytree(FILES / "lo_velo_small", tmp_path / "c")
    with open(tmp_path / "c" / "config.gin", "a") as file:
        file.write(rest)
    with pytest.raises(ArtefactError, match="config.gin") as error:
        importers.read(tmp_path / "c")
    assert "\n" not in str(error.value)


def test_a_large_gin_file_is_read_in_time_linear_in_its_size():
    """Quadratic time would be about 20 minutes for the values, and 3.6 GB for the scopes."""
    lines = [f"scope/x.a{i} = [1,\n  2,\n  ({i})]  # (" for i in range(50_000)]
    scope = "a/" * 60_000
    bindings = gin_text.parse("\n".join([*lines, f"m.y = @{scope}x()"]), "f")
    assert bindings.of("x", "scope/inner")["a49999"] == [1, 2, 49_999]
    reference = bindings.of("m")["y"]
    assert bindings.of("x", reference.scope) == {}


@pytest.mark.parametrize(
    ("layers", "message"), [(10**9, "num_hidden is 1000000000, must be <= 64"), (3, "has 2 at")]
)
@pytest.mark.parametrize("case", ["lo_mlp", "lo_adafac_mlp", "lo_rnn_mlp"])
def test_a_number_of_layers_that_the_weights_do_not_have_is_refused_before_anything_is_built(
    case, layers, message, tmp_path
):
    shutil.copytree(FILES / case, tmp_path / "c")
    name = {"lo_mlp": "MLPLOpt", "lo_adafac_mlp": "AdafacMLPLOpt", "lo_rnn_mlp": "RNNMLPLOpt"}[case]
    option = "hidden_layer" if case == "lo_rnn_mlp" else "hidden_layers"
    with open(tmp_path / "c" / "config.gin", "a") as file:
        file.write(f"\n{name}.{option} = {layers}\n")
    with pytest.raises(ArtefactError, match=message) as error:
        importers.read(tmp_path / "c")
    assert "config.gin" in str(error.value)


def test_weights_that_do_not_fit_the_config_are_refused_by_their_first_path(tmp_path):
    shutil.copytree(FILES / "lo_mlp", tmp_path / "c")
    gin = (tmp_path / "c" / "config.gin").read_text().replace("hidden_size = 16", "hidden_size = 8")
    (tmp_path / "c" / "config.gin").write_text(gin)
    with pytest.raises(ArtefactError, match="hidden_size = 8, but .*params has 16 at mlp/~/linear_0.b"):
        importers.read(tmp_path / "c")


@pytest.mark.parametrize(
    ("source", "settings", "message"),
    [
        ("celo", {}, "does not say optimizer: pass optimizer=..., one of celo, celo_phase1"),
        ("celo", {"optimizer": "velo_s"}, "optimizer is 'velo_s', must be one of celo, celo_phase1"),
        (
            "celo2",
            {"optimizer": "celo2"},
            r"does not say learning_rate or regex_1d: pass learning_rate=\.\.\.",
        ),
        ("pylo_meta_mlp", {}, "does not say optimizer: .* one of AdafacLO, MuLO, ELO"),
        (
            "pylo_meta_mlp",
            {"optimizer": "AdafacLO", "lr": 1.0},
            "does not say momentum_decays or rms_decays or adafactor_decays: pass",
        ),
        (
            "pylo_meta_mlp",
            {"optimizer": "MuLO", "lr": 1.0, **OFFSETS},
            r"does not say hidden_weights or base_width: pass hidden_weights=\.\.\., base_width=\.\.\.",
        ),
        ("pylo_meta_mlp", {"optimizer": "ELO", "lr": 0.1}, "does not say weight_decay"),
        (
            "pylo_meta_mlp",
            {"optimizer": "AdafacLO", "lr": 1.0, **OFFSETS, "weight_decay": 0.1},
            r"weight_decay = 0.1 is not supported, only 0.0; chain optax.scale\(1 - lr \* weight_decay\)",
        ),
        ("pylo_velo_rnn", {"lr": 1.0}, r"is VeLORNN, a half of VeLO: pass mlp=\.\.\., where VeLOMLP lies"),
        ("pylo_velo_mlp", {"lr": 1.0, "rnn": str(FILES / "pylo_celo2")}, "is CELO2MLP, not VeLORNN"),
        ("pylo_celo2", {"optimizer": "CELO2", "lr": 0, "weight_decay": 0}, "learning_rate is 0, must be > 0"),
        ("lo_mlp/nothing", {}, "cannot be read: No such file"),
        (".", {}, "should hold one file of meta-parameters, but holds none of model.safetensors"),
    ],
)
def test_what_a_source_does_not_say_is_asked_for_by_name(source, settings, message):
    with pytest.raises(ArtefactError, match=message) as error:
        importers.read(FILES / source, **settings)
    assert "\n" not in str(error.value)


def test_a_config_json_that_contradicts_the_weights_is_refused(tmp_path):
    shutil.copytree(FILES / "pylo_meta_mlp", tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text('{"hidden_size": 16, "hidden_layers": 1, "input_size": 39}')
    with pytest.raises(ImportProblem, match="says hidden_size = 16, but .* has 32"):
        importers.read(tmp_path / "m", optimizer="ELO")
    (tmp_path / "m" / "config.json").write_text("[")
    with pytest.raises(ImportProblem, match="config.json is damaged or foreign: not JSON"):
        importers.read(tmp_path / "m", optimizer="ELO")


def extension(code, payload):
    return msgpack.packb({"a": msgpack.ExtType(code, payload)})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93\x01\x02",
        b"PK\x03\x04 a zip file",
        b"\x91" * 5000 + b"\x01",
        extension(1, msgpack.packb(((2, 2), "float32", b"\0" * 12))),
        extension(1, msgpack.packb(((-1,), "float32", b"\0" * 12))),
        extension(1, msgpack.packb(((2**62,), "float32", b""))),
        extension(1, msgpack.packb(((1,), "object", b"\0" * 8))),
        extension(1, msgpack.packb(((1,), "no such type", b"\0" * 8))),
        extension(1, msgpack.packb("short")),
        extension(2, msgpack.packb((1.0, 2.0))),
        msgpack.packb({"a": msgpack.Timestamp(1)}),
        msgpack.packb({"__msgpack_chunked_array__": True, "shape": {"0": 2}}),
        msgpack.packb({"params": {"w": "text"}, "gen_id": "", "step": 0}),
        msgpack.packb({"w": [1, 2]}),
        msgpack.packb(3),
        b"\x81\xa1a" + b"\x91" * 600 + b"\x01",
        b"\x81\xa1a" * 600 + b"\x01",
        extension(1, msgpack.packb(((1,), "float32", np.float32(np.nan).tobytes()))),
        extension(1, msgpack.packb(((1,), "float64", np.float64(1e300).tobytes()))),
        struct.pack(">BI", 0xDD, 2**32 - 1),  # an array of 4 billion entries, of which none follows
    ],
)
def test_a_hostile_or_damaged_msgpack_file_is_refused_in_one_line(content, tmp_path):
    (tmp_path / "theta.state").write_bytes(content)
    with pytest.raises(ArtefactError) as error:
        importers.read(tmp_path, optimizer="MLPLOpt")
    assert "theta.state" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("value", "dtype"), [(np.nan, np.float32), (1e300, np.float64)])
def test_a_number_that_is_not_finite_in_float32_is_refused_by_file_and_path(value, dtype, tmp_path):
    state = safetensors.numpy.load_file(FILES / "pylo_elo" / "elo_theta.safetensors")
    state["network.output.bias"] = np.full(2, value, dtype)
    safetensors.numpy.save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ArtefactError, match="model.safetensors: at nn.~.b2 is a number that is not finite"):
        importers.read(tmp_path, optimizer="ELO", lr=0.1, weight_decay=0.0)


@pytest.mark.parametrize(
    ("source", "settings"),
    [
        ("pylo_meta_mlp", {"optimizer": "ELO", "lr": 0.1, "weight_decay": 0.0}),
        ("pylo_velo_mlp", {"lr": 0.1, "rnn": str(FILES / "pylo_velo_rnn")}),
        ("pylo_velo_rnn", {"lr": 0.1, "mlp": str(FILES / "pylo_velo_mlp")}),
        ("pylo_celo2", {"optimizer": "CELO2", "lr": 0.1, "weight_decay": 0.0}),
    ],
)
def test_a_tensor_without_axes_is_refused_by_name(source, settings, tmp_path):
    state = safetensors.numpy.load_file(FILES / source / "model.safetensors")
    scratch = [] if source != "pylo_velo_mlp" else [n for n in state if not n.split(".")[0].endswith("_")]
    for name in state.keys() - set(scratch):
        safetensors.numpy.save_file({**state, name: np.ones((), np.float32)}, tmp_path / "model.safetensors")
        with pytest.raises(ArtefactError) as error:
            importers.read(tmp_path, **settings)
        assert "model.safetensors" in str(error.value) and "\n" not in str(error.value)
        assert name.rpartition(".")[0] in str(error.value)


def test_escape_codes_of_a_file_reach_neither_the_message_nor_the_card(tmp_path):
    red = "\x1b[31m"
    state = safetensors.numpy.load_file(FILES / "pylo_elo" / "elo_theta.safetensors")
    safetensors.numpy.save_file({**state, f"a{red}": np.arange(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ArtefactError) as error:
        importers.read(tmp_path, optimizer="ELO", lr=0.1, weight_decay=0.0)
    assert str(error.value).isprintable()
    tree = msgpack.unpackb((FILES / "lo_mlp" / "params").read_bytes(), strict_map_key=False)
    home = tmp_path / f"c{red}"
    home.mkdir()
    (home / "params").write_bytes(msgpack.packb({**tree, "gen_id": f"x{red}"}))
    shutil.copy(FILES / "lo_mlp" / "config.gin", home)
    found = importers.convert(home, tmp_path / "lo")
    assert found.provenance["gen_id"] == "x?[31m"
    assert "\x1b" not in (tmp_path / "lo" / "README.md").read_text(encoding="utf-8")


def test_a_regular_expression_that_is_none_is_refused_when_it_is_given():
    settings = {"optimizer": "MuLO", "lr": 1.0, **OFFSETS, "hidden_weights": "(", "base_width": 128.0}
    with pytest.raises(ImportProblem, match=r"hidden_weights is '\(', must be a regular expression"):
        importers.read(FILES / "pylo_meta_mlp", **settings)


def test_a_fifo_is_refused_instead_of_being_waited_for(tmp_path):
    os.mkfifo(tmp_path / "theta.state")
    with pytest.raises(ImportProblem, match="cannot be read: it is not a regular file"):
        importers.read(tmp_path, optimizer="celo")
    (tmp_path / "theta.state").unlink()
    shutil.copy(FILES / "lo_mlp" / "params", tmp_path)
    os.mkfifo(tmp_path / "config.gin")
    with pytest.raises(ImportProblem, match="config.gin cannot be read: it is not a regular file"):
        importers.read(tmp_path)


def test_the_files_of_a_directory_without_meta_parameters_are_named(tmp_path):
    for name in ("a.txt", "b.bin.txt"):
        (tmp_path / name).touch()
    with pytest.raises(ImportProblem, match="holds none of .*; it holds a.txt, b.bin.txt$"):
        importers.read(tmp_path)
    for step in (5000, 10000):
        shutil.copy(FILES / "celo" / "theta.state", tmp_path / f"theta_{step}.state")
    with pytest.raises(ImportProblem, match="holds several: name one of theta_10000.state, theta_5000.state"):
        importers.read(tmp_path, optimizer="celo")


@pytest.mark.parametrize("case", ["lo_mlp/params", "celo/theta.state", "pylo_celo2/model.safetensors"])
def test_a_truncated_file_is_refused_in_one_line(case, tmp_path):
    file = tmp_path / Path(case).name
    content = (FILES / case).read_bytes()
    for size in (0, 7, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:size])
        with pytest.raises(ArtefactError) as error:
            importers.read(file, optimizer="celo")
        assert file.name in str(error.value) and "\n" not in str(error.value)


class Tensor:
    """As much of torch's as a state dict shows."""

    def __init__(self, values, floating=True):
        self.values, self.dtype, self.is_floating_point = values, "torch.int64", lambda: floating

    def detach(self):
        return self

    def to(self, dtype):
        return Tensor(np.asarray(self.values, dtype))

    def numpy(self):
        return self.values


def test_a_torch_file_is_read_by_weights_only_or_refused_in_one_line(monkeypatch):
    """torch is large and needed for nothing else: here it is played; test_torch_files.py has the real one."""
    file = FILES / "pylo_elo" / "elo_theta.pt"
    state = safetensors.numpy.load_file(FILES / "pylo_elo" / "elo_theta.safetensors")
    settings = {"optimizer": "ELO", "lr": 0.1, "weight_decay": 0.0}
    said = []

    def load(content, *, map_location, weights_only):
        assert weights_only is True and content.read() == file.read_bytes()
        if isinstance(said[-1], Exception):
            raise said[-1]
        return said[-1]

    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(load=load, Tensor=Tensor, float32=np.float32))
    said.append({name: Tensor(x.astype(np.float64)) for name, x in state.items()})
    found = importers.read(file, **settings)
    np.testing.assert_array_equal(found.theta["nn"]["~"]["w0"], state["network.input.weight"].T)
    for answer, message in (
        (
            pickle.UnpicklingError("Weights only load failed.\nMore."),
            "is not unpickled: Weights only load failed",
        ),
        (EOFError(), "is damaged, or holds more than tensors and is not unpickled: EOFError"),
        (IndexError("pop from empty list"), "is not unpickled: pop from empty list"),
        ([Tensor(np.ones(2))], "is not a state dict"),
        ({"model": state}, "is not a state dict"),
        ({"network.input.weight": Tensor(np.ones(2), floating=False)}, "is of torch.int64, not of floating"),
    ):
        said.append(answer)
        with pytest.raises(ImportProblem, match=message) as error:
            importers.read(file, **settings)
        assert "\n" not in str(error.value)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(
        ImportProblem, match="reading it needs `pip install torch`; or save its state dict with"
    ):
        importers.read(file, **settings)


def test_foreign_and_bfloat16_tensors(tmp_path):
    file = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({"x": np.ones(2, np.float32)}, file)
    with pytest.raises(ImportProblem, match="holds none of PyLO's networks .MetaMLP, VeLOMLP"):
        importers.read(tmp_path)
    state = safetensors.numpy.load_file(FILES / "pylo_celo2" / "model.safetensors")
    safetensors.numpy.save_file({k: v.astype(jnp.bfloat16) for k, v in state.items()}, file)
    found = importers.read(tmp_path, optimizer="CELO2", lr=0.1, weight_decay=0.0)
    expected = state["b0"].astype(jnp.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(found.theta["ff_mod_stack"]["~"]["b0"], expected)
    safetensors.numpy.save_file({k: v for k, v in state.items() if k != "b0"}, file)
    with pytest.raises(ImportProblem, match="lacks b0"):
        importers.read(tmp_path, optimizer="CELO2", lr=0.1, weight_decay=0.0)
    safetensors.numpy.save_file({**state, "b0": np.arange(8)}, file)
    with pytest.raises(ImportProblem, match="b0 is of I64, not of floating-point numbers"):
        importers.read(tmp_path, optimizer="CELO2", lr=0.1, weight_decay=0.0)
