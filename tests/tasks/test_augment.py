import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tasks
from tasks.augment import AUGMENTATIONS, augment
from tasks.data import batches
from tasks.families.image_mlp import image_mlp
from tasks.families.quadratic import quadratic

KEY = jax.random.key(11)
OTHER = jax.random.key(12)


def plain_and(spec, family=None):
    family = family or image_mlp(datasets=("digits[:300]",), hidden=(4,), batch_size=16)
    changed = augment(family, [spec])
    cfg = changed.sample(KEY)
    inner = cfg["cfg"] if isinstance(cfg, dict) and "cfg" in cfg else cfg
    return family, family.task(inner), changed.task(cfg), cfg


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_augmentation_keeps_the_contract_under_jit_and_vmap(name):
    family = image_mlp(datasets=("digits[:300]",), hidden=(4,), batch_size=16)
    changed = augment(family, [{"name": name}])
    tasks.check_family(changed, name)

    @jax.jit
    @jax.vmap
    def one(key):
        task = changed.task(changed.sample(key))
        return jax.value_and_grad(task.loss)(task.init(key), key, changed.data["train"])

    losses, grads = one(jax.random.split(KEY, 3))
    assert len(set(losses.tolist())) == 3
    assert all(np.isfinite(np.asarray(leaf, np.float32)).all() for leaf in [losses, *jax.tree.leaves(grads)])


@pytest.mark.parametrize("level", ["global", "tensor", "parameter"])
def test_reparameterisation_changes_units_but_not_the_function(level):
    spec = {"name": "reparameterise", "level": level, "low": 0.01, "high": 100.0}
    family, plain, changed, _ = plain_and(spec)
    params, inner, data = plain.init(OTHER), changed.init(OTHER), family.data["train"]
    scale = jax.tree.map(lambda p, q: np.where(q == 0, 1, p / np.where(q == 0, 1, q)), params, inner)
    np.testing.assert_allclose(changed.loss(inner, KEY, data), plain.loss(params, KEY, data), rtol=1e-5)
    # The chain rule: a gradient is multiplied by the scale that its parameter was divided by.
    before, after = jax.grad(plain.loss)(params, KEY, data), jax.grad(changed.loss)(inner, KEY, data)
    for layer in ("linear_0", "linear_1"):
        np.testing.assert_allclose(
            after[layer]["w"], scale[layer]["w"] * before[layer]["w"], rtol=1e-3, atol=1e-7
        )
    values = [np.unique(np.round(np.log(scale[layer]["w"]), 3)) for layer in ("linear_0", "linear_1")]
    counts = [len(v) for v in values]
    assert np.abs(np.concatenate(values)).max() <= np.log(100) + 0.001
    if level == "parameter":
        assert min(counts) > 20
    else:
        assert counts == [1, 1] and (values[0] == values[1]).all() == (level == "global")


def test_bfloat16_params_give_nearly_the_same_f32_loss():
    family, plain, changed, _ = plain_and({"name": "bfloat16"})
    params = changed.init(OTHER)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}
    data = family.data["train"]
    np.testing.assert_allclose(
        changed.loss(params, KEY, data), plain.loss(plain.init(OTHER), KEY, data), rtol=0.01
    )


def test_averaged_batches_have_the_mean_loss_and_less_variance():
    family, plain, changed, _ = plain_and({"name": "average_batches", "count": 16})
    params, data = plain.init(OTHER), family.data["train"]
    keys = jax.random.split(KEY, 16)
    expected = jax.vmap(plain.loss, (None, 0, None))(params, keys, data).mean()
    np.testing.assert_allclose(changed.loss(params, KEY, data), expected, rtol=1e-6)


def test_a_reduced_batch_repeats_its_first_rows():
    data = image_mlp().data["train"]
    full, _ = batches.minibatch(data, 0, KEY, 16)
    few, _ = batches.minibatch({**data, batches.BATCH_FRACTION: 0.2}, 0, KEY, 16)
    np.testing.assert_array_equal(few, full[jnp.arange(16) % 3])
    one, _ = batches.minibatch({**data, batches.BATCH_FRACTION: 0.001}, 0, KEY, 16)
    np.testing.assert_array_equal(one, jnp.broadcast_to(full[:1], full.shape))
    tokens = tasks.make({"name": "mlp_lm"}).data["train"]
    windows = batches.windows({**tokens, batches.BATCH_FRACTION: 0.5}, 0, KEY, 8, 5)
    np.testing.assert_array_equal(windows[:4], windows[4:])


def test_label_noise_replaces_the_stated_share_of_labels_by_real_classes():
    data = image_mlp().data["train"]
    _, clean = batches.minibatch(data, 0, KEY, 20000)
    _, noisy = batches.minibatch({**data, batches.LABEL_NOISE: 0.3}, 0, KEY, 20000)
    # Nine in ten replacements change the label: 0.27, N = 20000, standard error 0.0031; |z| < 5 at a
    # fixed key, false alarm for a new key 6e-7.
    assert abs(float((clean != noisy).mean()) - 0.27) < 5 * 0.0031
    assert set(np.unique(noisy)) == set(range(10))


def test_a_scaled_loss_is_the_loss_times_its_factor():
    family, plain, changed, cfg = plain_and({"name": "scale_loss", "factor": (10.0, 20.0)})
    params, data = plain.init(OTHER), family.data["train"]
    assert 10 <= cfg["factor"] <= 20
    np.testing.assert_allclose(
        changed.loss(params, KEY, data), cfg["factor"] * plain.loss(params, KEY, data), rtol=1e-6
    )


def gradients(spec, keys):
    """Changed and plain gradients of a noiseless quadratic, at many keys."""
    _, plain, changed, _ = plain_and(spec, quadratic(dim=40))
    params = plain.init(OTHER)
    value, many = jax.vmap(jax.value_and_grad(changed.loss), (None, 0, None))(params, keys, ())
    np.testing.assert_allclose(value, np.full(len(keys), plain.loss(params, KEY, ())), rtol=1e-6)
    return np.asarray(many), np.asarray(jax.grad(plain.loss)(params, KEY, ()))


def test_gradient_noise_is_unbiased_with_the_stated_relative_deviation():
    noisy, clean = gradients({"name": "gradient_noise", "relative": 0.5}, jax.random.split(KEY, 10000))
    std = 0.5 * np.sqrt(np.mean(clean**2))
    # N = 10000 draws of 40 numbers: |z| < 5.5 for each, false alarm for a new key 40 * 4e-8.
    np.testing.assert_allclose(noisy.mean(0), clean, atol=5.5 * std / 100)
    np.testing.assert_allclose((noisy - clean).std(), std, rtol=0.01)


def test_gradient_subsampling_is_unbiased_and_drops_the_stated_share():
    kept, clean = gradients({"name": "gradient_subsampling", "keep": 0.25}, jax.random.split(KEY, 10000))
    # An entry is g / 0.25 or 0: deviation g sqrt(3). |z| < 5.5 on 40 numbers, as above.
    assert (np.abs(kept.mean(0) - clean) <= 5.5 * np.abs(clean) * 3**0.5 / 100 + 1e-9).all()
    assert abs((kept != 0).mean() - 0.25) < 5 * (0.25 * 0.75 / 400000) ** 0.5


def test_a_normalised_gradient_keeps_only_its_direction():
    unit, clean = gradients({"name": "normalised_gradient"}, KEY[None])
    np.testing.assert_allclose(unit[0], clean / np.linalg.norm(clean), rtol=1e-5)


def test_augmentations_compose_in_order():
    family = image_mlp(datasets=("digits[:300]",), hidden=(4,), batch_size=16)
    both = augment(family, [{"name": "scale_loss", "factor": 3.0}, {"name": "normalised_gradient"}])
    task = both.task(both.sample(KEY))
    grads = jax.grad(task.loss)(task.init(OTHER), KEY, both.data["train"])
    norm = np.sqrt(sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(grads)))
    np.testing.assert_allclose(norm, 1.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "reparameterise", "low": 2.0, "high": 1.0}, "^high: 1.0 must be at least low"),
        ({"name": "reduced_batch", "fraction": 1.5}, "^fraction: 1.5 must be at most 1"),
        ({"name": "reduced_batch"}, "^fraction: the family draws its own data"),
        ({"name": "label_noise"}, "^label_noise: the family has no class labels"),
        ({"name": "scale_loss", "factor": (2.0, 1.0)}, "^factor: "),
    ],
)
def test_an_augmentation_that_does_not_fit_is_refused_by_name(spec, message):
    with pytest.raises(ValueError, match=message):
        augment(quadratic(), [spec])
