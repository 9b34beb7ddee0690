"""The public names of `meta_train`: documented, importable, and used together as a notebook would."""

import inspect

import pytest

import learned_opt
import meta_train

TINY = """
tasks: [{name: quadratic, dim: 4}]
learned_optimizer: {name: learnable_sgd}
estimator: {name: pes, num_particles: 2, truncation_length: 2}
inner: {unroll_length: 4}
outer_optimizer: {name: adam, learning_rate: 0.01}
outer_steps: 4
"""


@pytest.mark.parametrize("name", meta_train.__all__)
def test_a_public_name_is_a_documented_function_that_the_module_lists(name):
    found = getattr(meta_train, name)
    assert inspect.isfunction(found) and len(inspect.getdoc(found) or "") > 100
    assert f"  {name}(" in meta_train.__doc__ and name in dir(meta_train)


def test_an_unknown_name_is_an_ordinary_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        getattr(meta_train, "trian")  # noqa: B009


def test_a_run_from_python_trains_and_gives_an_artefact_that_loads(tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)
    config = meta_train.load_config(tmp_path / "tiny.yaml", ["seed=3"])
    result = meta_train.train(config, tmp_path / "run")
    assert result.outer_steps == 4 and config.seed == 3
    trained = meta_train.load_run(tmp_path / "run", pytest.fail)
    assert trained.outer_step == 4
    list(meta_train.export(tmp_path / "run", tmp_path / "optimizer", pytest.fail))
    learned_opt.load(tmp_path / "optimizer", num_steps=4)
