"""Adapters: the base stays as it is, the values are the formula's, and all of it can be used."""

import json

import keras
import numpy as np
import pytest
from keras import ops

from tfgpt import GPT, MaskedLoss, generate
from tfgpt.tuning import (
    IA3,
    AdaLoRA,
    Bottleneck,
    GradualUnfreezing,
    LayerwiseAdamW,
    LoRA,
    PrefixTuning,
    PromptTuning,
    adapt,
    freeze_all_but_last,
    load_adapters,
    load_peft,
    save_adapters,
    save_peft,
)

ALL = "attention|feed_forward"
KINDS = [
    LoRA(rank=2),
    LoRA(rank=3, alpha=7.0, dropout=0.2, layers=ALL),
    LoRA(rank=2, dora=True),
    AdaLoRA(rank=3, target_rank=2),
    Bottleneck(size=4),
    IA3(),
    PrefixTuning(length=3, hidden=8),
    PrefixTuning(length=2, hidden=None),
    PromptTuning(length=3),
]
MERGEABLE = [kind for kind in KINDS if isinstance(kind, (LoRA, AdaLoRA, IA3))]


def make_gpt(**options):
    sizes = {"vocab_size": 17, "context_length": 16, "num_layers": 2, "d_model": 16}
    return GPT(**{**sizes, "num_heads": 2, **options})


def values(model):
    return [ops.convert_to_numpy(weight).copy() for weight in model.weights]


def logits(model, token_ids):
    return ops.convert_to_numpy(model(np.asarray(token_ids)))


def shake(adapters, rng):
    """Give the adapters weights that change the model."""
    for weight in adapters.weights.values():
        weight.assign(weight + rng.normal(0, 0.3, weight.shape))


def batch(rng, rows=8, length=10):
    ids = rng.integers(1, 17, (rows, length + 1))
    return ids[:, :-1], ids[:, 1:]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_training_changes_the_adapters_and_no_bit_of_the_base(kind, rng):
    base = make_gpt()
    before = values(base)
    adapters = adapt(base, kind)
    model = adapters.model
    start = [ops.convert_to_numpy(weight).copy() for weight in adapters.weights.values()]
    assert len(model.trainable_weights) == len(adapters.weights)
    optimizer = keras.optimizers.Adam(0.01)
    if isinstance(kind, AdaLoRA):
        optimizer = kind.make_optimizer(adapters, steps=4, learning_rate=0.01)
    model.compile(optimizer, MaskedLoss(pad_id=None))
    inputs, targets = batch(rng)
    losses = model.fit(inputs, targets, batch_size=4, epochs=2, verbose=0).history["loss"]
    assert losses[1] < losses[0]
    moved = zip(start, adapters.weights.values(), strict=True)
    assert any(np.abs(old - ops.convert_to_numpy(new)).max() > 1e-4 for old, new in moved)
    adapters.detach()
    for old, new in zip(before, values(base), strict=True):
        np.testing.assert_array_equal(old, new)
    assert all(weight.trainable for weight in base.weights)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_base_without_its_adapters_computes_what_it_did(kind, rng):
    base = make_gpt()
    ids = rng.integers(0, 17, (2, 6))
    before = logits(base, ids)
    adapters = adapt(base, kind)
    shake(adapters, rng)
    adapted = logits(adapters.model, ids)
    assert np.abs(adapted - before).max() > 1e-3
    np.testing.assert_array_equal(logits(adapters.detach().base, ids), before)
    np.testing.assert_array_equal(logits(adapters.attach().model, ids), adapted)


@pytest.mark.parametrize("kind", [k for k in KINDS if isinstance(k, (LoRA, AdaLoRA))], ids=str)
def test_an_adapted_model_begins_as_its_base(kind, rng):
    base = make_gpt()
    ids = rng.integers(0, 17, (2, 6))
    before = logits(base, ids)
    np.testing.assert_allclose(logits(adapt(base, kind).model, ids), before, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_generation_through_the_cache_is_greedy_choice_of_full_passes(kind, positions, rng):
    adapters = adapt(make_gpt(positions=positions, pad_id=0), kind)
    shake(adapters, rng)
    model, text = adapters.model, [3, 5, 7]
    for _ in range(6):
        scores = logits(model, [text])[0, -1]
        scores[0] = -np.inf  # padding
        text = [*text, int(scores.argmax())]
    assert generate(model, [text[:3]], 6, temperature=0)[0].tolist() == text


@pytest.mark.parametrize("kind", [PrefixTuning(length=3), PromptTuning(length=3)], ids=str)
def test_padding_behind_virtual_tokens_changes_nothing(kind, rng):
    adapters = adapt(make_gpt(pad_id=0), kind)
    shake(adapters, rng)
    alone = logits(adapters.model, [[4, 5, 6]])
    padded = logits(adapters.model, [[4, 5, 6, 0, 0]])
    np.testing.assert_allclose(padded[:, :3], alone, atol=1e-5)
    left = logits(adapters.model, [[0, 0, 4, 5, 6]])
    np.testing.assert_allclose(left[:, 2:], alone, atol=1e-5)


def test_lora_is_its_formula_and_what_keras_computes(rng):
    base = make_gpt()
    ids = rng.integers(0, 17, (2, 6))
    adapters = adapt(base, LoRA(rank=3, alpha=6.0, layers="query$"))
    shake(adapters, rng)
    found = logits(base, ids)
    weights = {name: ops.convert_to_numpy(w) for name, w in adapters.weights.items()}
    adapters.detach()
    for index in range(2):
        path = f"decoder_{index}/self_attention/query"
        dense = base.decoder_layers[index].self_attention.query_projection
        dense.enable_lora(3, lora_alpha=6.0)
        dense.lora_kernel_a.assign(weights[f"{path}/a"])
        dense.lora_kernel_b.assign(weights[f"{path}/b"])
    np.testing.assert_allclose(found, logits(base, ids), atol=1e-5)


def test_dora_gives_each_column_its_length(rng):
    dense = keras.layers.Dense(5, name="query")
    model = keras.Sequential([keras.Input((4,)), dense])
    adapters = adapt(model, LoRA(rank=2, layers="query", dora=True))
    shake(adapters, rng)
    (layer,) = adapters.layers.values()
    kernel, a, b, m, bias = (
        ops.convert_to_numpy(w)
        for w in (dense.kernel, layer.a, layer.b, layer.magnitude, dense.bias)
    )
    x = rng.normal(size=(3, 4)).astype("float32")
    direction = kernel + 2 * a @ b
    expected = x @ (m * direction / np.linalg.norm(direction, axis=0)) + bias
    np.testing.assert_allclose(ops.convert_to_numpy(model(x)), expected, atol=1e-5)


def test_an_adapter_stands_before_the_activation_of_its_layer(rng):
    dense = keras.layers.Dense(5, activation="relu", name="hidden")
    model = keras.Sequential([keras.Input((4,)), dense])
    adapters = adapt(model, LoRA(rank=2, layers="hidden"))
    shake(adapters, rng)
    (layer,) = adapters.layers.values()
    kernel, a, b = (ops.convert_to_numpy(w) for w in (dense.kernel, layer.a, layer.b))
    x = rng.normal(size=(3, 4)).astype("float32")
    expected = np.maximum(x @ (kernel + 2 * a @ b), 0)
    np.testing.assert_allclose(ops.convert_to_numpy(model(x)), expected, atol=1e-5)


@pytest.mark.parametrize("kind", MERGEABLE, ids=str)
def test_merged_kernels_compute_the_same_and_come_back_bit_for_bit(kind, rng):
    base = make_gpt()
    ids = rng.integers(0, 17, (2, 6))
    before = values(base)
    adapters = adapt(base, kind)
    shake(adapters, rng)
    adapted = logits(base, ids)
    adapters.merge()
    assert len(base.weights) == len(before)
    np.testing.assert_allclose(logits(base, ids), adapted, atol=1e-4)
    with pytest.raises(ValueError, match="must not be merged twice"):
        adapters.merge()
    with pytest.raises(ValueError, match="unmerge them first"):
        adapters.attach()
    np.testing.assert_array_equal(logits(adapters.unmerge().model, ids), adapted)
    adapters.detach()
    for old, new in zip(before, values(base), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("kind", [Bottleneck(), PrefixTuning(), PromptTuning()], ids=str)
def test_what_is_no_product_cannot_be_merged(kind):
    with pytest.raises(ValueError, match="cannot be merged"):
        adapt(make_gpt(context_length=32), kind).merge()


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_saved_adapters_come_back_and_refuse_another_base(kind, tmp_path, rng):
    base = make_gpt()
    ids = rng.integers(0, 17, (2, 6))
    adapters = adapt(base, kind)
    shake(adapters, rng)
    expected = logits(adapters.model, ids)
    save_adapters(adapters, tmp_path)
    adapters.detach()
    np.testing.assert_array_equal(logits(load_adapters(base, tmp_path).model, ids), expected)
    with pytest.raises(ValueError, match="must be the base of the adapters"):
        load_adapters(make_gpt(), tmp_path)


def test_several_adapters_are_kept_and_switched_on_one_base(rng):
    base = make_gpt()
    ids = rng.integers(0, 17, (2, 6))
    results = {}
    sets = {}
    for name in ("first", "second"):
        sets[name] = adapt(base, LoRA(rank=2))
        shake(sets[name], rng)
        results[name] = logits(base, ids)
        sets[name].detach()
    assert sets["first"].base_hash == sets["second"].base_hash
    for name in ("first", "second", "first"):
        sets[name].attach()
        np.testing.assert_array_equal(logits(base, ids), results[name])
        sets[name].detach()
    # Different layers may have adapters at the same time.
    sets["first"].attach()
    with pytest.raises(ValueError, match="one adapter at a time"):
        sets["second"].attach()
    adapt(base, Bottleneck(size=2))


def test_damaged_files_are_named(tmp_path):
    base = make_gpt()
    adapters = adapt(base, LoRA(rank=2))
    save_adapters(adapters, tmp_path)
    adapters.detach()
    with pytest.raises(FileNotFoundError, match=r"without adapter\.json"):
        load_adapters(base, tmp_path / "other")
    config = json.loads((tmp_path / "adapter.json").read_text())
    config["settings"]["rank"] = 3
    (tmp_path / "adapter.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"query/a \(16, 2\) instead of \(16, 3\)"):
        load_adapters(base, tmp_path)
    assert len(base.trainable_weights) == len(base.weights)
    config["kind"] = "os.system"
    (tmp_path / "adapter.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="undamaged adapters"):
        load_adapters(base, tmp_path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LoRA(rank=0), "rank must be an integer >= 1, got 0"),
        (lambda: LoRA(alpha=-1.0), "alpha must be > 0"),
        (lambda: LoRA(dropout=1.0), "dropout must be"),
        (lambda: AdaLoRA(rank=4, target_rank=5), "target_rank must be at most rank=4"),
        (lambda: Bottleneck(size=0), "size must be an integer >= 1"),
        (lambda: PrefixTuning(length=0), "length must be an integer >= 1"),
        (lambda: adapt(make_gpt(), LoRA(layers="no_such")), r"there are: decoder_\*/feed_forward"),
        (lambda: adapt(make_gpt(), LoRA(layers="(")), "must be a regular expression"),
        (lambda: adapt(make_gpt(), PromptTuning(length=16)), "below context_length=16"),
        (lambda: adapt(keras.Sequential([keras.layers.Dense(2)]), LoRA()), "must be built"),
        (lambda: LayerwiseAdamW(2, decay=1.5), r"decay must be in \(0, 1\]"),
        (lambda: freeze_all_but_last(make_gpt(), 3, 2), "at most num_layers=2"),
    ],
)
def test_wrong_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.one_backend
@pytest.mark.slow
def test_lora_on_an_int8_base_learns_and_the_base_stays_integers(rng):
    base = make_gpt()
    base.quantize("int8")
    adapters = adapt(base, LoRA(rank=4, layers=ALL))
    kernel = base.decoder_layers[0].self_attention.query_projection._kernel
    before = ops.convert_to_numpy(kernel).copy()
    base.compile(keras.optimizers.Adam(0.02), MaskedLoss(pad_id=None))
    inputs, targets = batch(rng)
    losses = base.fit(inputs, targets, batch_size=8, epochs=20, verbose=0).history["loss"]
    assert losses[-1] < losses[0] - 0.1
    assert before.dtype == np.int8
    np.testing.assert_array_equal(before, ops.convert_to_numpy(kernel))
    with pytest.raises(ValueError, match="must not be quantized to merge"):
        adapters.merge()


@pytest.mark.slow
def test_adalora_keeps_its_budget_and_spends_it_where_it_matters(rng):
    kind = AdaLoRA(rank=4, target_rank=2, layers="(query|value)$")
    adapters = adapt(make_gpt(), kind)
    steps = 12
    optimizer = kind.make_optimizer(adapters, steps, learning_rate=0.01)
    adapters.model.compile(optimizer, MaskedLoss(pad_id=None))
    inputs, targets = batch(rng)

    def used():
        numbers = [ops.convert_to_numpy(layer.e) for layer in adapters.layers.values()]
        return int(sum((e != 0).sum() for e in numbers))

    adapters.model.fit(inputs, targets, batch_size=8, epochs=1, verbose=0)
    assert used() == 4 * 4  # four layers of rank 4
    adapters.model.fit(inputs, targets, batch_size=8, epochs=steps - 1, verbose=0)
    assert used() == 4 * 2


@pytest.mark.one_backend
def test_adalora_counts_its_distance_from_orthogonality_in_training_only(rng):
    adapters = adapt(make_gpt(), AdaLoRA(rank=2, target_rank=2, orthogonality=1.0))
    inputs, _ = batch(rng, rows=1)
    adapters.model(inputs, training=True)
    expected = 0.0
    for layer in adapters.layers.values():
        p, q = ops.convert_to_numpy(layer.p), ops.convert_to_numpy(layer.q)
        expected += ((p.T @ p - np.eye(2)) ** 2).sum() + ((q @ q.T - np.eye(2)) ** 2).sum()
    assert float(sum(adapters.model.losses)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.one_backend
@pytest.mark.slow
def test_rates_fall_with_the_depth_and_frozen_depths_stay(rng):
    model = make_gpt()
    optimizer = LayerwiseAdamW(2, decay=0.5, learning_rate=0.01, weight_decay=0.1)
    model.compile(optimizer, MaskedLoss(pad_id=None))
    inputs, targets = batch(rng)
    before = values(model)
    callback = GradualUnfreezing(first=1)
    model.fit(inputs, targets, batch_size=8, epochs=1, verbose=0, callbacks=[callback])
    moved = {
        weight.path: np.abs(old - new).max()
        for weight, old, new in zip(model.weights, before, values(model), strict=True)
    }
    assert {path for path, size in moved.items() if size} == {
        path for path in moved if "final_norm" in path
    }
    rate = {path: float(optimizer.factor(w)) for path, w in ((w.path, w) for w in model.weights)}
    optimizer.unfrozen.assign(4)
    rates = sorted({round(float(optimizer.factor(w)), 4) for w in model.weights})
    assert rates == [0.125, 0.25, 0.5, 1.0]
    assert len(rate) == len(model.weights)
    model.fit(inputs, targets, batch_size=8, epochs=1, verbose=0)
    assert all(np.abs(old - new).max() > 0 for old, new in zip(before, values(model), strict=True))
    with pytest.raises(TypeError, match="needs a LayerwiseAdamW"):
        model.compile("adam", MaskedLoss(pad_id=None))
        model.fit(inputs, targets, verbose=0, callbacks=[GradualUnfreezing()])


def test_the_last_layers_alone_are_trained():
    model = make_gpt()
    freeze_all_but_last(model, 1, 2)
    trained = {weight.path.split("/")[1] for weight in model.trainable_weights}
    assert trained == {"decoder_1", "final_norm"}


@pytest.mark.slow
@pytest.mark.requires_tensorflow
@pytest.mark.parametrize("kind", [LoRA(rank=2), PrefixTuning(length=2)], ids=str)
def test_adapters_train_in_the_own_loop_and_go_on_bit_for_bit(kind, tmp_path, rng):
    from tfgpt import set_seed, train

    batches = [batch(rng, rows=2) for _ in range(4)]

    def run(folder, steps, resume=False):
        set_seed(0)
        adapters = adapt(make_gpt(dropout=0.1), kind)
        train(
            adapters.model,
            batches,
            steps,
            keras.optimizers.Adam(0.01),
            pad_id=None,
            run_dir=tmp_path / folder,
            resume=resume,
            progress=False,
        )
        return [ops.convert_to_numpy(weight) for weight in adapters.weights.values()]

    whole = run("whole", 6)
    run("parts", 3)
    for expected, found in zip(whole, run("parts", 6, resume=True), strict=True):
        np.testing.assert_array_equal(expected, found)


@pytest.mark.one_backend
@pytest.mark.slow
def test_in_fit_every_depth_learns_and_gradual_unfreezing_begins_at_the_head(rng):
    ids = rng.integers(1, 17, (4, 9))
    for callbacks, learns in (([], True), ([GradualUnfreezing()], False)):
        model = make_gpt()
        before = values(model)
        model.compile(LayerwiseAdamW(2, 0.5, learning_rate=1e-2), MaskedLoss(), jit_compile=False)
        model.fit(ids[:, :-1], ids[:, 1:], callbacks=callbacks, verbose=0)
        changed = {
            weight.path: not np.array_equal(weight, value)
            for weight, value in zip(model.weights, before, strict=True)
        }
        blocks = [path for path in changed if "/decoder_" in path and "key/bias" not in path]
        assert all(changed[path] == learns for path in blocks), changed
        assert all(moved for path, moved in changed.items() if "final_norm" in path)


# Files of peft; test_parity.py compares with peft itself


def adapted_gpt(settings, rng):
    """Return a GPT with random adapters of these settings, and them."""
    model = make_gpt()
    adapters = adapt(model, settings)
    shake(adapters, rng)
    return model, adapters


@pytest.mark.parametrize("layers", ["attention/(query|value)$", "attention|expand", "contract"])
def test_lora_goes_through_the_files_of_peft(layers, tmp_path, rng):
    ids = batch(rng)[0]
    model, adapters = adapted_gpt(LoRA(rank=2, alpha=3.0, layers=layers), rng)
    expected = logits(model, ids)
    save_peft(adapters, tmp_path, base="me/small")
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "LORA"
    adapters.detach()
    again = load_peft(model, tmp_path)
    np.testing.assert_allclose(logits(model, ids), expected, atol=1e-5)
    save_peft(again, tmp_path / "again")
    again.detach()
    load_peft(model, tmp_path / "again")
    np.testing.assert_allclose(logits(model, ids), expected, atol=1e-5)


def test_adapters_that_peft_does_not_have_are_refused(tmp_path, rng):
    for settings in (LoRA(rank=2, dora=True), AdaLoRA(rank=2, target_rank=1), PromptTuning(2)):
        with pytest.raises(ValueError, match="must be a plain LoRA"):
            save_peft(adapted_gpt(settings, rng)[1], tmp_path)
    assert not list(tmp_path.iterdir())


def test_damaged_files_of_peft_are_refused(tmp_path, rng):
    from safetensors.numpy import load_file, save_file

    model, adapters = adapted_gpt(LoRA(rank=2), rng)
    with pytest.raises(FileNotFoundError, match="pickled adapters are not read"):
        load_peft(model, tmp_path)
    save_peft(adapters, tmp_path)
    adapters.detach()
    config, weights = tmp_path / "adapter_config.json", tmp_path / "adapter_model.safetensors"
    tensors, text = load_file(weights), config.read_text()
    name = next(name for name in sorted(tensors) if name.endswith("lora_A.weight"))
    for change, message in (
        ({name: tensors[name][:, :3]}, "must fit the model"),
        ({name: np.full_like(tensors[name], np.nan)}, "must be finite"),
        ({"other.weight": tensors[name]}, "got the tensor 'other.weight'"),
    ):
        save_file({**tensors, **change}, weights)
        with pytest.raises(ValueError, match=message):
            load_peft(model, tmp_path)
        assert len(model.trainable_weights) == len(model.weights)
    save_file(tensors, weights)
    for changes, message in (({"r": 0}, "undamaged"), ({"bias": "all"}, "bias='all'")):
        config.write_text(json.dumps({**json.loads(text), **changes}))
        with pytest.raises(ValueError, match=message):
            load_peft(model, tmp_path)
