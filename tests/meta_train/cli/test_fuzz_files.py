"""Damaged, foreign and hostile files: each is one line that names it, within seconds and a bound of memory.

There is a reader for every kind of file that comes from somewhere else. The cases are drawn with fixed keys,
2,000 for the files of this project and 1,000 for those of others. A case damages one copy of an intact file
(flipped bits, cut, repeated, one value of a JSON text replaced), or replaces it by a hostile one (deep
nesting, huge numbers, wrong types, a sparse file of terabytes, a FIFO, a device, a directory). The readers
run in this process, one case after the other.
"""

import importlib.util
import json
import os
import random
import resource
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import pytest

import learned_opt
from learned_opt import importers
from learned_opt.artefact.content import CONFIG, WEIGHTS, encode, sha256
from learned_opt.artefact.reading import FileError
from meta_train.checkpoint.checkpoints import Checkpoints
from meta_train.config import load as config_lib
from meta_train.errors import CheckpointError, ConfigError, MetricsError, RunError
from meta_train.evaluation import document
from meta_train.population import lineage
from meta_train.population.rounds import Record
from meta_train.run.metrics import jsonl_writer, read_jsonl
from tasks.data import datasets, text
from tests.meta_train.evaluation.test_report import cell, make_doc

pytestmark = pytest.mark.slow

CASES, MEGABYTES = {"ours": 2000, "foreign": 1000}, 300
SECONDS, WAIT = 5, 60  # of one case: of the processor, and in all
REFUSALS = (FileError, CheckpointError, ConfigError, MetricsError, RunError)
PUBLISHED = Path(__file__).parents[2] / "learned_opt" / "golden" / "checkpoints"
STATE = {"a": np.arange(6.0), "n": 3}
YAML = """
outer_steps: 10
tasks: [{name: quadratic, dim: 3}]
learned_optimizer: {name: learnable_adam}
inner: {unroll_length: 10}
estimator: {name: pes, num_particles: 4, truncation_length: 5, sigma: 0.1}
outer_optimizer: {learning_rate: 0.01}
"""


def restore(directory):
    lines = []
    with Checkpoints(directory, warn=lines.append) as checkpoints:
        try:
            checkpoints.restore(STATE)
        finally:
            assert all(map(is_line, lines)), lines


def importing(**settings):
    return lambda path: importers.read(path, **settings)


def reading(load):
    """Of data: an option of a task, whose errors are ValueErrors that begin with the option's name."""

    def read(path):
        try:
            load(path)
        except ValueError as error:
            assert type(error) is ValueError and str(error).startswith(("datasets: ", "texts: ")), repr(error)
            raise FileError(str(error)) from error

    return read


# Directory -> (the file that is damaged, how it is read).
OURS = {
    "artefact_config": (CONFIG, lambda path: learned_opt.read(path.parent)),
    "artefact_weights": (WEIGHTS, lambda path: learned_opt.read(path.parent)),
    "checkpoint": ("1/manifest.json", lambda path: restore(path.parents[1])),
    "metrics": ("metrics.jsonl", read_jsonl),
    "lineage": ("lineage.jsonl", lambda path: lineage.read(path.parent)),
    "evaluation": ("evaluation.json", document.read),
    "config": ("config.yaml", config_lib.load),
}
DECAYS = {"momentum_decays": (0.1, 0.2, 0.3), "rms_decays": (0.1,), "adafactor_decays": (0.1, 0.2, 0.3)}
FOREIGN = {
    "lo_mlp": ("params", importing()),
    "lo_rnn_mlp": ("params", importing()),
    "lo_adafac_mlp": ("config.gin", lambda path: importers.read(path.parent)),
    "lo_velo_small": ("config.gin", lambda path: importers.read(path.parent)),
    "celo": ("theta.state", importing(optimizer="celo")),
    "pylo_meta_mlp": ("model.safetensors", importing(optimizer="AdafacLO", lr=1.0, **DECAYS)),
    "pylo_celo2": (
        "config.json",
        lambda path: importers.read(path.parent, optimizer="CELO2", lr=0.01, weight_decay=0.1),
    ),
    "npz": ("data.npz", reading(lambda path: datasets.load(f"npz:{path}"))),
    "text": ("text.txt", reading(lambda path: text.load_text(f"file:{path}"))),
}
if importlib.util.find_spec("torch"):
    FOREIGN["pylo_elo"] = ("elo_theta.pt", importing(optimizer="ELO", lr=0.05, weight_decay=0.0))
READERS = OURS | FOREIGN


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    root = tmp_path_factory.mktemp("intact")
    lopt = learned_opt.residual(hidden=2)
    arguments = {
        "options": {"hidden": 2},
        "horizon": (1, 9),
        "provenance": {"a": 1},
        "config": {"b": [1, 2.5]},
    }
    for name in ("artefact_config", "artefact_weights"):
        theta = lopt.init(jax.random.key(0))
        learned_opt.save(root / name, name="residual", theta=theta, **arguments)
    with Checkpoints(root / "checkpoint") as checkpoints:
        checkpoints.save(1, STATE, {"config": "x"})
    for name in ("metrics", "lineage", "evaluation", "config", "npz", "text"):
        (root / name).mkdir()
    writer = jsonl_writer(root / "metrics" / "metrics.jsonl")
    for step in range(20):
        writer.write(step, {"loss": 1 / (step + 1), "bad": float("nan")})
    writer.close()
    writer = jsonl_writer(root / "lineage" / lineage.LINEAGE)
    for number in range(8):
        scores, hypers = np.ones((4, 2)), {"rate": np.arange(4.0)}
        record = Record(number, number + 1, hypers, scores, scores[:, 0] / 3, np.arange(4), [{"slot": 1}])
        writer.write(number, lineage.to_row(record))
    writer.close()
    (root / "evaluation" / "evaluation.json").write_text(document.to_json(make_doc(cell("digits", 20))))
    (root / "config" / "config.yaml").write_text(YAML)
    for name in FOREIGN.keys() - {"npz", "text"}:
        shutil.copytree(PUBLISHED / name, root / name)
    np.savez(root / "npz" / "data.npz", x=np.ones((20, 3), np.float32), y=np.arange(20) % 3)
    (root / "text" / "text.txt").write_text("a text of letters\n" * 50)
    for name, (file, read) in READERS.items():
        read(root / name / file)
    return root


HOSTILE = [
    *(b"[" * 10**6, b'{"a":' * 10**5, b"- " * 10**5, b"{a: " * 10**4, b"", b"\x00" * 1000, b"\xff\xfe" * 100),
    *(b"1" * 10**5, b"1e" + b"9" * 1000, b"NaN", b"null", b"[]", b"{}", b'"x"', b"true", b"\xef\xbb\xbf{}"),
    *(b"&a [" + b"*a, " * 1000 + b"]", b"a: &b [*b]", b"!!python/object/apply:os.system [true]"),
    *(b"!!binary x", b"!!timestamp abc", b"a: " + b"x" * 10**6, b'{"step": 1e999}\n', b'{"step": -1}\n{}\n'),
    (2**60).to_bytes(8, "little") + b"{}",  # a safetensors header of an exabyte
    (100).to_bytes(8, "little") + b"[" * 100,
]
VALUES = [None, True, -1, 10**8, 10**30, 1e308, "", "x" * 10**5, "a\x1b[31m\nb", [], {}, [[[[1]]]], {"a": {}}]


def flipped(content, rng):
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 3, 20])):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def forged(content, rng):
    """A JSON file with one value replaced, at any depth, and digests that fit."""
    try:
        value = json.loads(content)
    except ValueError:
        return flipped(content, rng)
    node = value
    while isinstance(node, dict | list) and node:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = rng.choice(keys)
        if rng.random() < 0.4 or not isinstance(node[key], dict | list) or not node[key]:
            node[key] = rng.choice(VALUES)
            break
        node = node[key]
    if "theta_sha256" in value:
        value["sha256"] = sha256(encode({k: v for k, v in value.items() if k != "sha256"}))
        return encode(value)
    if "leaves" in value:
        body = {k: v for k, v in value.items() if k != "sha256"}
        value["sha256"] = sha256(json.dumps(body, sort_keys=True).encode())
    return json.dumps(value).encode()


def damage(path, rng):
    """Puts a damaged or hostile file in the place of an intact one; says what it did."""
    content, kind = (
        path.read_bytes(),
        rng.choice(["flip", "flip", "cut", "repeat", "forge", "forge", "hostile"]),
    )
    if rng.random() < 0.05:
        kind = rng.choice(["fifo", "device", "directory", "sparse", "missing"])
        path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "directory":
        path.mkdir()
    elif kind == "sparse":
        with open(path, "wb") as file:
            file.truncate(2**42)
    elif kind != "missing":
        start = rng.randrange(len(content))
        changed = {
            "flip": lambda: flipped(content, rng),
            "cut": lambda: content[:start],
            "repeat": lambda: content[:start] + content,
            "forge": lambda: forged(content, rng),
            "hostile": lambda: rng.choice(HOSTILE),
        }[kind]()
        path.write_bytes(changed)
    return kind


def is_line(text):
    """Whether this is one printable line of a sensible length."""
    return 0 < len(str(text)) < 2500 and str(text).isprintable()


def refusal_of(read, path):
    """None where the file is accepted; else whether the refusal is printable lines, one of which names it."""
    try:
        read(path)
    except REFUSALS as error:
        lines = error.problems if isinstance(error, ConfigError) else [error]
        named = any(str(part) in str(error) for part in (path, path.parent, path.parents[1]))
        return all(map(is_line, lines)) and named
    return None


@pytest.mark.parametrize("kind", CASES)
def test_no_file_can_cause_a_trace_a_hang_or_an_exhausted_memory(kind, intact, tmp_path):
    rng, refused, wrong = random.Random(0), 0, []
    names = list(OURS if kind == "ours" else FOREIGN)

    def too_slow(*_):
        raise AssertionError("a case took too long")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Processor time, as the machine may be busy; and real time, for what waits and computes nothing.
    limits = {signal.SIGPROF: (signal.ITIMER_PROF, SECONDS), signal.SIGALRM: (signal.ITIMER_REAL, WAIT)}
    handlers = {number: signal.signal(number, too_slow) for number in limits}
    try:
        for case in range(CASES[kind]):
            name = rng.choice(names)
            file, read = READERS[name]
            directory = shutil.copytree(intact / name, tmp_path / str(case))
            done = f"case {case}: {damage(directory / file, rng)} of {name}: "
            for limit in limits.values():
                signal.setitimer(*limit)
            try:
                found = refusal_of(read, directory / file)
                refused += found is not None
                if found is False:
                    wrong.append(f"{done} not lines that name it")
            except BaseException as error:
                wrong.append(f"{done} {type(error).__name__} {str(error)[:200]!r}")
            finally:
                for timer, _ in limits.values():
                    signal.setitimer(timer, 0)
            shutil.rmtree(directory)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{refused} of {CASES[kind]} refused, {grown:.0f} MB")
    assert not wrong, "\n".join(wrong)
    assert refused > CASES[kind] // 2
    assert grown < MEGABYTES
