import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks.data import batches, datasets
from tasks.families.image_mlp import image_mlp

KEY = jax.random.key(3)


def test_the_default_network_has_2410_parameters():
    family = image_mlp()
    params = jax.eval_shape(family.task(family.sample(KEY)).init, KEY)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 2410


def test_minibatches_hold_real_rows_of_the_chosen_data_set_and_reach_all_of_them():
    stack = datasets.stack(("digits[:20]", "teacher:1[:100]"))
    train = stack.data["train"]
    draw = jax.jit(lambda i, key: batches.minibatch(train, i, key, 600))
    for i, rows in enumerate((16, 80)):
        x, y = draw(i, KEY)
        labelled = {(row.tobytes(), int(label)) for row, label in zip(np.asarray(x), y, strict=True)}
        real = {
            (row.tobytes(), int(label))
            for row, label in zip(np.asarray(train["x"][i, :rows]), train["y"][i], strict=False)
        }
        # 600 draws miss one of 80 rows with probability below 80 (79/80)^600 = 0.04; the key is fixed.
        assert labelled == real


def test_permuted_labels_are_a_permutation_and_rename_the_classes():
    plain, permuted = image_mlp(), image_mlp(permute_labels=True)
    cfgs = jax.vmap(permuted.sample)(jax.random.split(KEY, 8))
    np.testing.assert_array_equal(np.sort(cfgs["labels"], axis=1), np.tile(np.arange(10), (8, 1)))
    assert len({tuple(map(int, row)) for row in cfgs["labels"]}) == 8
    cfg = jax.tree.map(lambda leaf: leaf[0], cfgs)
    params = plain.task(cfg).init(KEY)
    # Renaming the classes is the same as permuting the outputs of the last layer.
    renamed = {**params, "linear_1": jax.tree.map(lambda leaf: leaf[..., cfg["labels"]], params["linear_1"])}
    identity = {**cfg, "labels": jnp.arange(10)}
    data = plain.data["train"]
    np.testing.assert_allclose(
        permuted.task(cfg).loss(params, KEY, data), plain.task(identity).loss(renamed, KEY, data), rtol=1e-6
    )


def test_the_loss_at_zero_parameters_is_the_log_of_the_classes_that_the_data_set_has(tmp_path):
    rng = np.random.RandomState(0)
    for name, classes in (("two", 2), ("five", 5)):
        np.savez(tmp_path / f"{name}.npz", x=rng.standard_normal((50, 3)), y=np.arange(50) % classes)
    names = (f"npz:{tmp_path}/two.npz", f"npz:{tmp_path}/five.npz")
    family = image_mlp(datasets=names, permute_labels=True, hidden=(4,))
    cfg = family.sample(KEY)
    for index, classes in enumerate((2, 5)):
        task = family.task({**cfg, "dataset": jnp.asarray(index)})
        params = jax.tree.map(jnp.zeros_like, task.init(KEY))
        np.testing.assert_allclose(task.loss(params, KEY, family.data["train"]), np.log(classes), rtol=1e-6)


def test_the_initial_scale_multiplies_the_matrices_and_is_drawn_per_task():
    fixed, drawn = image_mlp(initial_scale=2.0), image_mlp(initial_scale=(0.5, 4.0))
    plain = image_mlp().task(image_mlp().sample(KEY)).init(KEY)
    double = fixed.task(fixed.sample(KEY)).init(KEY)
    np.testing.assert_array_equal(double["linear_0"]["w"], 2 * plain["linear_0"]["w"])
    scales = jax.vmap(drawn.sample)(jax.random.split(KEY, 200))["scale"]
    assert scales.min() >= 0.5 and scales.max() <= 4.0 and scales.max() > 3 and scales.min() < 0.7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"initial_scale": (2.0, 1.0)}, "^initial_scale: "),
        ({"datasets": ("diabetes",)}, "^datasets: .*regression"),
        ({"datasets": ()}, "^datasets: .*at least one"),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        image_mlp(**options)


def test_squared_error_of_uniform_probabilities_is_known():
    family = image_mlp(loss="squared")
    task = family.task(family.sample(KEY))
    params = jax.tree.map(jnp.zeros_like, task.init(KEY))
    expected = (0.9**2 + 9 * 0.1**2) / 10
    np.testing.assert_allclose(task.loss(params, KEY, family.data["train"]), expected, rtol=1e-5)
