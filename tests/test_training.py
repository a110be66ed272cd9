"""Tests of tfgpt.training: one step, the loop around it, precision and evaluation."""

import itertools
import math
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfgpt import GPT, Transformer, train_step
from tfgpt.losses import MaskedLoss, masked_accuracy, masked_loss
from tfgpt.machine import devices
from tfgpt.schedules import WarmupLinearDecay, WarmupSchedule
from tfgpt.train_step import prepare
from tfgpt.training import evaluate, make_evaluation_step, train

pytestmark = pytest.mark.requires_tensorflow

VOCAB, LENGTH = 11, 8
SLOW = pytest.mark.slow


def make_train_step(*arguments, jit_compile=False, **options):
    """Make a step that is compiled only in tests of compiling: it takes seconds."""
    return train_step.make_train_step(*arguments, jit_compile=jit_compile, **options)


def small_gpt(seed=0, **options):
    keras.utils.set_random_seed(seed)
    settings = {"num_layers": 1, "d_model": 16, "num_heads": 2, **options}
    return GPT(VOCAB, LENGTH, **settings)


def bigram(seed=0, scale=1.0):
    """Make the smallest model, a table of logits, where the loop is the subject."""
    keras.utils.set_random_seed(seed)
    table = keras.layers.Embedding(
        VOCAB, VOCAB, embeddings_initializer=keras.initializers.RandomNormal(stddev=scale)
    )
    return keras.Sequential([keras.Input((None,), dtype="int32"), table])


def make_batch(seed=0, rows=4, length=LENGTH, low=1):
    token_ids = np.random.default_rng(seed).integers(low, VOCAB, (rows, length + 1))
    return token_ids[:, :-1].astype("int32"), token_ids[:, 1:].astype("int32")


def weights_of(model):
    return [np.array(weight) for weight in model.get_weights()]


def largest_difference(first, second):
    return max(np.abs(a - b).max() for a, b in zip(first, second, strict=True))


def inner(optimizer):
    return getattr(optimizer, "inner_optimizer", optimizer)


# One step


def test_a_step_equals_the_step_written_by_hand():
    """Same weights after 3 steps, within 1e-6."""
    model, twin = small_gpt(dropout=0.0), small_gpt(dropout=0.0)
    step = make_train_step(model, keras.optimizers.Adam(0.01), clip_norm=0.5)
    optimizer = keras.optimizers.Adam(0.01)
    for seed in range(3):
        inputs, targets = make_batch(seed)
        result = step((inputs, targets))
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, twin(inputs))
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, twin.trainable_variables)
        gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
        norm = math.sqrt(sum(float(tf.reduce_sum(gradient**2)) for gradient in gradients))
        factor = min(1.0, 0.5 / norm)
        optimizer.apply([gradient * factor for gradient in gradients], twin.trainable_variables)
        assert float(result["loss"]) == pytest.approx(float(loss), abs=1e-5)
        assert float(result["gradient_norm"]) == pytest.approx(norm, rel=1e-4)
    assert largest_difference(weights_of(model), weights_of(twin)) < 1e-6


def test_an_untrained_model_has_a_loss_of_ln_v():
    result = make_train_step(small_gpt(), keras.optimizers.SGD(0.0))(make_batch())
    assert float(result["loss"]) == pytest.approx(math.log(VOCAB), abs=0.05)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_50_batches_of_every_integer_type_need_one_trace(jit_compile):
    step = make_train_step(bigram(), keras.optimizers.Adam(), jit_compile=jit_compile)
    kinds = [
        lambda ids: ids.astype("int64"),
        lambda ids: ids.astype("int32"),
        lambda ids: ids.tolist(),
        lambda ids: tf.constant(ids, tf.int64),
        lambda ids: tf.constant(ids, tf.int32),
    ]
    for seed in range(50):
        inputs, targets = make_batch(seed)
        kind = kinds[seed % len(kinds)]
        step((kind(inputs), kind(targets)))
    assert step.experimental_get_tracing_count() == 1


def test_all_lengths_share_one_program_from_the_second_on():
    step = make_train_step(bigram(), keras.optimizers.Adam())
    for length in (8, 7, 6, 5, 4, 8, 7):
        step(make_batch(length=length))
    assert step.experimental_get_tracing_count() == 2


def test_the_loss_falls():
    step = make_train_step(small_gpt(), keras.optimizers.Adam(0.01))
    losses = [float(step(make_batch())["loss"]) for _ in range(20)]
    assert losses[-1] < 0.8 * losses[0]


def test_one_batch_is_learned_by_heart():
    step = make_train_step(small_gpt(), keras.optimizers.Adam(0.01))
    inputs, _ = make_batch(rows=2)
    # All targets can be known: the two rows have different first tokens.
    inputs[:, 0] = [1, 2]
    targets = np.roll(inputs, -1, axis=1)
    for _ in range(250):
        result = step((inputs, targets))
    assert float(result["loss"]) < 0.05
    assert float(result["accuracy"]) == 1.0


def pad(inputs, targets, columns, rows):
    fill = ((0, rows), (0, columns))
    return np.pad(inputs, fill), np.pad(targets, fill)


def test_padding_changes_neither_loss_nor_accuracy_nor_gradients():
    """Gradients through one SGD step: weights within 1e-6."""
    inputs, targets = make_batch(length=5)
    model, twin = small_gpt(pad_id=0), small_gpt(pad_id=0)
    plain = make_train_step(model, keras.optimizers.SGD(1.0))((inputs, targets))
    padded = make_train_step(twin, keras.optimizers.SGD(1.0))(pad(inputs, targets, 3, 2))
    for name in ("loss", "accuracy", "gradient_norm"):
        assert float(padded[name]) == pytest.approx(float(plain[name]), abs=1e-5)
    assert float(plain["tokens"]) == float(padded["tokens"]) == 20
    assert largest_difference(weights_of(model), weights_of(twin)) < 1e-6


def test_the_padding_id_is_a_knob():
    inputs, targets = make_batch(low=0)
    targets[:, :4] = 0
    tokens = {
        pad_id: float(
            make_train_step(bigram(), keras.optimizers.SGD(0.0), pad_id=pad_id)(
                (inputs, np.where(targets == 0, 0 if pad_id is None else pad_id, targets))
            )["tokens"]
        )
        for pad_id in (None, 0, -100)
    }
    real = np.count_nonzero(targets)
    assert tokens == {None: 32, 0: real, -100: real}


def test_a_batch_of_padding_alone_changes_nothing():
    model = bigram()
    before = weights_of(model)
    result = make_train_step(model, keras.optimizers.SGD(1.0))(
        (np.ones((2, 4), "int32"), np.zeros((2, 4), "int32"))
    )
    assert float(result["loss"]) == float(result["gradient_norm"]) == 0.0
    assert largest_difference(before, weights_of(model)) == 0.0


def test_clipping_limits_the_update_and_the_norm_is_reported_before_it():
    """SGD with rate 1 moves the weights by the clipped gradient: norm 0.01 within 1 %."""
    norms = {}
    for clip_norm in (0.01, None):
        model = bigram()
        before = weights_of(model)
        step = make_train_step(model, keras.optimizers.SGD(1.0), clip_norm=clip_norm)
        norms[clip_norm] = float(step(make_batch())["gradient_norm"])
        moved = [new - old for new, old in zip(weights_of(model), before, strict=True)]
        length = math.sqrt(sum(float((part**2).sum()) for part in moved))
        expected = clip_norm or norms[clip_norm]
        assert length == pytest.approx(expected, rel=0.01)
    assert norms[0.01] == pytest.approx(norms[None], rel=1e-5)
    assert norms[0.01] > 0.02


def test_xla_takes_the_same_steps():
    """Weights after 3 steps within 1e-4: sums are taken in another order."""
    models = [bigram(), bigram()]
    for model, jit_compile in zip(models, (False, True), strict=True):
        step = make_train_step(model, keras.optimizers.SGD(0.1), jit_compile=jit_compile)
        results = [float(step(make_batch(seed))["loss"]) for seed in range(3)]
        assert np.isfinite(results).all()
    assert largest_difference(weights_of(models[0]), weights_of(models[1])) < 1e-4


def test_label_smoothing_is_used():
    plain, smooth = (
        float(
            make_train_step(bigram(), keras.optimizers.SGD(0.0), label_smoothing=smoothing)(
                make_batch()
            )["loss"]
        )
        for smoothing in (0.0, 0.2)
    )
    inputs, targets = make_batch()
    expected = float(masked_loss(targets, bigram()(inputs), label_smoothing=0.2))
    assert smooth == pytest.approx(expected, abs=1e-5)
    assert smooth != pytest.approx(plain, abs=1e-5)


def test_dropout_acts_in_a_training_step_and_not_in_evaluation():
    model = small_gpt(dropout=0.5)
    step = make_train_step(model, keras.optimizers.SGD(0.0))
    assert float(step(make_batch())["loss"]) != float(step(make_batch())["loss"])
    measure = make_evaluation_step(model)
    assert float(measure(make_batch())["loss"]) == float(measure(make_batch())["loss"])


@pytest.mark.slow
def test_the_articles_transformer_trains_with_the_same_step():
    model = Transformer(
        num_layers=1,
        d_model=16,
        num_heads=2,
        dff=32,
        source_vocab_size=VOCAB,
        target_vocab_size=VOCAB,
        max_length=LENGTH,
    )
    source, (inputs, targets) = make_batch(1)[0], make_batch()
    batch = {"source": source, "target": inputs}, targets
    model(batch[0])
    step = make_train_step(model, keras.optimizers.Adam(0.01))
    losses = [float(step(batch)["loss"]) for _ in range(15)]
    assert losses[-1] < 0.9 * losses[0]
    with pytest.raises(ValueError, match=r"targets must be in .*11\), got 11"):
        step((batch[0], np.full_like(targets, VOCAB)))


# Errors


@pytest.mark.parametrize("jit_compile", [False, True])
def test_ids_outside_the_vocabulary_are_refused_before_the_step(jit_compile):
    model = small_gpt()
    step = make_train_step(model, keras.optimizers.SGD(1.0), jit_compile=jit_compile)
    measure = make_evaluation_step(model, jit_compile=jit_compile)
    step(make_batch())
    before = weights_of(model)
    for wrong, part in itertools.product((VOCAB, -1), ("token_ids", "targets")):
        inputs, targets = make_batch()
        (inputs if part == "token_ids" else targets)[0, -1] = wrong
        for function in (step, measure):
            with pytest.raises(ValueError, match=rf"{part} must be in .*\[0, 11\), got {wrong}"):
                function((inputs, targets))
    assert largest_difference(before, weights_of(model)) == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip_norm": 0}, "clip_norm must be > 0"),
        ({"clip_norm": float("nan")}, "clip_norm must be > 0"),
        ({"mixed_precision": "float8"}, "mixed_precision must be one of"),
    ],
)
def test_step_options_outside_their_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_train_step(bigram(), keras.optimizers.SGD(), **options)


def test_label_smoothing_outside_its_range_is_refused():
    step = make_train_step(bigram(), keras.optimizers.SGD(), label_smoothing=1.0)
    with pytest.raises(ValueError, match="label_smoothing must be in"):
        step(make_batch())


def test_a_model_that_is_not_built_is_refused():
    model = keras.Sequential([keras.layers.Embedding(4, 4), keras.layers.Dense(4)])
    with pytest.raises(ValueError, match="model must be built"):
        make_train_step(model, keras.optimizers.SGD())


@pytest.mark.parametrize("batch", [np.ones((2, 4), "int32")[:1], 5, ([[1]], [[1]], [[1]])])
def test_a_batch_that_is_no_pair_is_refused(batch):
    with pytest.raises(ValueError, match=r"batch must be a pair \(inputs, targets\)"):
        make_train_step(bigram(), keras.optimizers.SGD())(batch)


# Precision


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("how", ["argument", "policy"])
def test_half_precision_learns_with_float32_weights(precision, how):
    if how == "policy":
        model = small_gpt(dtype=f"mixed_{precision}")
        step = make_train_step(model, keras.optimizers.Adam(0.01))
    else:
        model = small_gpt()
        step = make_train_step(model, keras.optimizers.Adam(0.01), mixed_precision=precision)
    assert {weight.dtype for weight in model.trainable_variables} == {"float32"}
    assert model.decoder_layers[0].compute_dtype == precision
    is_scaled = isinstance(step.optimizer, keras.optimizers.LossScaleOptimizer)
    assert is_scaled == (precision == "float16")
    losses = [float(step(make_batch())["loss"]) for _ in range(20)]
    assert losses[0] == pytest.approx(math.log(VOCAB), abs=0.05)
    assert losses[-1] < 0.8 * losses[0]


def test_half_precision_really_computes_in_half_precision():
    """Losses differ from float32, by less than 0.02."""
    losses = {}
    inputs, targets = make_batch()
    for precision in (None, "bfloat16", "float16"):
        model = small_gpt(d_model=32)
        for weight in model.trainable_variables:
            weight.assign(weight * 5)
        prepare(model, keras.optimizers.SGD(), precision)
        losses[precision] = float(masked_loss(targets, model(inputs)))
    for precision in ("bfloat16", "float16"):
        assert 0 < abs(losses[precision] - losses[None]) < 0.02


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_infinite_gradient_halves_the_scale_and_leaves_the_weights(jit_compile):
    """A weight of 1e30 becomes inf in float16: the gradients are not finite."""
    model = small_gpt()
    step = make_train_step(
        model, keras.optimizers.Adam(0.01), mixed_precision="float16", jit_compile=jit_compile
    )
    scale = step.optimizer.dynamic_scale
    norm = float(step(make_batch())["gradient_norm"])
    assert np.isfinite(norm)
    start = float(scale)
    kernel = model.decoder_layers[0].trainable_variables[0]
    good = np.array(kernel)
    kernel.assign(np.full_like(good, 1e30))
    before, iterations = weights_of(model), int(inner(step.optimizer).iterations)
    for halvings in (1, 2):
        result = step(make_batch())
        assert not np.isfinite(float(result["gradient_norm"]))
        assert float(scale) == start / 2**halvings
    assert largest_difference(before, weights_of(model)) == 0.0
    assert int(inner(step.optimizer).iterations) == iterations
    kernel.assign(good)
    step(make_batch())
    assert largest_difference(before, weights_of(model)) > 0.0
    assert step.experimental_get_tracing_count() == 1


def test_the_loss_scale_is_read_in_every_step_and_not_baked_into_the_trace():
    """The reported norm stays the same; a huge scale overflows float16 at once."""
    step = make_train_step(small_gpt(), keras.optimizers.SGD(0.0), mixed_precision="float16")
    scale = step.optimizer.dynamic_scale
    norms = []
    for value in (2.0**10, 2.0**12):
        scale.assign(value)
        norms.append(float(step(make_batch())["gradient_norm"]))
    assert norms[0] == pytest.approx(norms[1], rel=0.01)
    scale.assign(2.0**60)
    assert not np.isfinite(float(step(make_batch())["gradient_norm"]))
    assert float(scale) == 2.0**59
    assert step.experimental_get_tracing_count() == 1


def test_clipping_under_loss_scaling_equals_clipping_without():
    """A float32 model with and without a loss scale: weights within 1e-6."""
    models = [bigram(), bigram()]
    optimizers = [
        keras.optimizers.SGD(1.0),
        keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0), initial_scale=1024.0),
    ]
    norms = []
    for model, optimizer in zip(models, optimizers, strict=True):
        step = make_train_step(model, optimizer, clip_norm=0.05)
        norms.append([float(step(make_batch(seed))["gradient_norm"]) for seed in range(3)])
    np.testing.assert_allclose(norms[0], norms[1], rtol=1e-4)
    assert min(norms[0]) > 0.05
    assert largest_difference(weights_of(models[0]), weights_of(models[1])) < 1e-6


def test_a_loss_scale_optimizer_is_not_wrapped_twice():
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
    step = make_train_step(bigram(), optimizer, mixed_precision="float16")
    assert step.optimizer is optimizer


# Schedules


def test_the_warmup_schedule_has_the_values_of_equation_3():
    """d_model 4, warmup 4: 4^-0.5 x min(step^-0.5, step x 4^-1.5) = 0.5 x min(..., step / 8)."""
    schedule = WarmupSchedule(d_model=4, warmup_steps=4)
    by_hand = {0: 1 / 16, 1: 1 / 16, 2: 1 / 8, 4: 1 / 4, 16: 1 / 8, 64: 1 / 16}
    for step, rate in by_hand.items():
        assert float(schedule(step)) == pytest.approx(rate, rel=1e-6)
        assert float(schedule(tf.constant(step, tf.int64))) == pytest.approx(rate, rel=1e-6)


def test_the_highest_warmup_rate_is_where_the_docstring_says():
    schedule = WarmupSchedule(d_model=64, warmup_steps=100)
    rates = [float(schedule(step)) for step in range(300)]
    assert int(np.argmax(rates)) == 100
    assert max(rates) == pytest.approx(1 / math.sqrt(64 * 100), rel=1e-6)


@pytest.mark.parametrize("arguments", [(0, 10), (8, 0), (8, 2.5)])
def test_warmup_arguments_below_1_are_refused(arguments):
    with pytest.raises(ValueError, match="must be an integer >= 1"):
        WarmupSchedule(*arguments)


def test_the_warmup_schedule_survives_saving():
    schedule = WarmupSchedule(d_model=16, warmup_steps=10)
    config = keras.optimizers.serialize(keras.optimizers.Adam(schedule))
    loaded = keras.optimizers.deserialize(config)
    optimizer = make_train_step(small_gpt(), loaded).optimizer
    assert float(optimizer.learning_rate) == pytest.approx(float(schedule(0)), rel=1e-6)


def test_the_linear_schedule_rises_to_its_peak_falls_to_zero_and_stays_there():
    schedule = WarmupLinearDecay(1000, peak=0.5, warmup_steps=100)
    rates = [float(schedule(step)) for step in (0, 49, 99, 550, 1000, 1500)]
    # Rising: 0.5 x (0 + 1) / 100. Falling: 0.5 x (1000 - 550) / 900.
    np.testing.assert_allclose(rates, [0.005, 0.25, 0.5, 0.25, 0.0, 0.0], atol=1e-6)


def test_the_linear_schedule_warms_up_for_a_tenth_of_a_short_training():
    assert float(WarmupLinearDecay(50, peak=1.0)(4)) == 1.0
    assert WarmupLinearDecay(50).get_config()["warmup_steps"] == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps must be an integer >= 1, got 0"),
        ({"steps": 10, "peak": 0.0}, "peak must be > 0, got 0.0"),
        ({"steps": 10, "warmup_steps": 0}, "warmup_steps must be an integer >= 1, got 0"),
    ],
)
def test_the_linear_schedule_refuses_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        WarmupLinearDecay(**arguments)


@pytest.mark.parametrize("steps", [1, 2, 5, 100])
def test_the_linear_schedule_works_for_the_shortest_training(steps):
    rates = [float(WarmupLinearDecay(steps)(step)) for step in range(steps)]
    assert np.isfinite(rates).all() and min(rates) > 0


# Evaluation


def test_evaluation_weights_each_token_the_same():
    """Two batches with 32 and 3 real targets, against the loss of all 35, within 1e-5."""
    model = bigram()
    first, (inputs, targets) = make_batch(0), make_batch(1)
    targets = targets.copy()
    targets.reshape(-1)[3:] = 0
    result = evaluate(model, [first, (inputs, targets)])
    all_inputs = np.concatenate([first[0], inputs])
    all_targets = np.concatenate([first[1], targets])
    logits = model(all_inputs)
    assert result["loss"] == pytest.approx(float(masked_loss(all_targets, logits)), abs=1e-5)
    expected = float(masked_accuracy(all_targets, logits))
    assert result["accuracy"] == pytest.approx(expected, abs=1e-6)
    mean_of_batches = np.mean(
        [float(masked_loss(t, model(i))) for i, t in (first, (inputs, targets))]
    )
    assert abs(result["loss"] - mean_of_batches) > 1e-3


@pytest.mark.parametrize("dataset", [[], [(np.ones((1, 2), "int32"), np.zeros((1, 2), "int32"))]])
def test_evaluation_without_a_real_token_is_refused(dataset):
    with pytest.raises(ValueError, match="at least one target that is not padding"):
        evaluate(bigram(), dataset)


# The loop


def test_training_returns_rows_and_validates():
    batches = [make_batch(seed) for seed in range(3)]
    history = train(
        bigram(),
        batches,
        steps=7,
        optimizer=keras.optimizers.Adam(0.01),
        validation_data=batches[:1],
        validate_every=4,
        log_every=3,
        progress=False,
    )
    assert [row["step"] for row in history] == [3, 4, 6, 7]
    assert [row["val_loss"] is not None for row in history] == [False, True, False, True]
    assert history[-1]["loss"] < history[0]["loss"]
    seconds = [row["seconds"] for row in history]
    assert seconds == sorted(seconds) and seconds[0] > 0
    assert all(row["tokens_per_s"] > 0 for row in history)
    assert list(history[0]) == ["step", "loss", "val_loss", "tokens_per_s", "seconds"]


def test_a_row_holds_the_mean_loss_since_the_last_row():
    batches = [make_batch(seed) for seed in range(4)]
    step = make_train_step(bigram(), keras.optimizers.SGD(0.1))
    losses = [float(step(batch)["loss"]) for batch in batches]
    history = train(bigram(), batches, 4, keras.optimizers.SGD(0.1), log_every=2, progress=False)
    expected = [np.mean(losses[:2]), np.mean(losses[2:])]
    np.testing.assert_allclose([row["loss"] for row in history], expected, atol=1e-5)


def test_validation_is_the_loss_of_the_whole_validation_data():
    model, data = bigram(), [make_batch(1), make_batch(2)]
    history = train(model, [make_batch()], 3, validation_data=data, progress=False)
    assert history[-1]["val_loss"] == pytest.approx(evaluate(model, data)["loss"], abs=1e-5)


@pytest.mark.parametrize("kind", ["list", "tf.data", "function"])
def test_a_finite_dataset_is_repeated(kind):
    batches = [make_batch(seed) for seed in range(2)]
    models = [bigram(), bigram()]
    dataset = {
        "list": lambda: batches,
        "tf.data": lambda: tf.data.Dataset.from_tensor_slices(
            tuple(np.stack(part) for part in zip(*batches, strict=True))
        ),
        "function": lambda: lambda: iter(batches),
    }[kind]()
    train(models[0], dataset, 5, keras.optimizers.SGD(0.1), progress=False)
    unrolled = [batches[index % 2] for index in range(5)]
    train(models[1], unrolled, 5, keras.optimizers.SGD(0.1), progress=False)
    assert largest_difference(weights_of(models[0]), weights_of(models[1])) == 0.0


@pytest.mark.parametrize("kind", ["list", "tf.data"])
def test_an_empty_dataset_is_refused(kind):
    dataset = [] if kind == "list" else tf.data.Dataset.from_tensor_slices(make_batch()).take(0)
    with pytest.raises(ValueError, match="dataset must yield at least one batch"):
        train(bigram(), dataset, 3, progress=False)


@pytest.mark.parametrize("name", ["steps", "validate_every", "log_every", "checkpoint_every"])
@pytest.mark.parametrize("value", [0, -1, 2.5])
def test_counts_below_1_are_refused(name, value):
    arguments = {"steps": 3, name: value}
    with pytest.raises(ValueError, match=f"{name} must be an integer >= 1"):
        train(bigram(), [make_batch()], progress=False, **arguments)


def test_step_options_reach_the_step():
    """Without learning, smoothing alone changes the loss."""
    losses = [
        train(
            bigram(),
            [make_batch()],
            1,
            keras.optimizers.SGD(0.0),
            progress=False,
            label_smoothing=smoothing,
        )[0]["loss"]
        for smoothing in (0.0, 0.5)
    ]
    assert abs(losses[0] - losses[1]) > 1e-6


def test_progress_is_shown_only_when_asked_for(capsys):
    optimizer = keras.optimizers.SGD()
    train(bigram(), [make_batch()], 2, optimizer, progress=False)
    assert capsys.readouterr() == ("", "")
    train(bigram(), [make_batch()], 2, keras.optimizers.SGD())
    shown = capsys.readouterr()
    assert shown.out == ""  # stdout is for results
    assert "step 2 of 2: loss" in shown.err and "\x1b" not in shown.err


@pytest.mark.slow
def test_keras_fit_reaches_the_same_loss_curve():
    """Same data, same optimizer, no clipping: losses within 1e-4 over 6 steps."""
    batches = [make_batch(seed) for seed in range(6)]
    model, twin = small_gpt(), small_gpt()
    step = make_train_step(model, keras.optimizers.Adam(0.01), clip_norm=None)
    losses = [float(step(batch)["loss"]) for batch in batches]
    twin.compile(keras.optimizers.Adam(0.01), loss=masked_loss, jit_compile=False)
    dataset = tf.data.Dataset.from_tensor_slices(
        tuple(np.stack(part) for part in zip(*batches, strict=True))
    )
    means = []
    record = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: means.append(logs["loss"])
    )
    twin.fit(dataset, verbose=0, shuffle=False, callbacks=[record])
    # Keras reports the mean since the first step.
    np.testing.assert_allclose(means, np.cumsum(losses) / np.arange(1, 7), atol=1e-4)
    assert largest_difference(weights_of(model), weights_of(twin)) < 1e-4


@pytest.mark.slow
def test_a_validation_on_random_data_stays_at_chance():
    """Nothing leaks: random targets cannot be predicted, so the loss stays above ln V."""
    batches = [make_batch(seed, rows=8) for seed in range(20)]
    held_out = [make_batch(seed, rows=16) for seed in range(100, 110)]
    history = train(
        small_gpt(),
        batches,
        60,
        keras.optimizers.Adam(0.01),
        validation_data=held_out,
        progress=False,
    )
    # 10 real ids: ln 10 = 2.303 is the least that an honest model reaches.
    assert history[-1]["val_loss"] > math.log(VOCAB - 1) - 0.02


def copy_batch(rng, rows=32, half=4):
    """Rows "abcd0abcd": the second half can be known, the first half does not count."""
    first = rng.integers(2, VOCAB, (rows, half))
    sequence = np.concatenate([first, np.ones((rows, 1), int), first], axis=1)
    inputs, targets = sequence[:, :-1].astype("int32"), sequence[:, 1:].astype("int32")
    targets[:, :half] = 0
    return inputs, targets


@pytest.mark.slow
def test_the_copy_task_is_solved():
    """More than 99 % of the copied tokens on data never seen."""
    rng = np.random.default_rng(0)
    model = small_gpt(num_layers=2, d_model=32)
    batches = [copy_batch(rng) for _ in range(800)]
    train(
        model,
        batches,
        800,
        keras.optimizers.Adam(WarmupLinearDecay(800, peak=5e-3)),
        jit_compile=True,
        progress=False,
        log_every=800,
    )
    result = evaluate(model, [copy_batch(rng, rows=200)])
    assert result["accuracy"] > 0.99


# Parts of a batch, one after the other


def uneven_batch():
    """Four rows of 8 tokens; the two halves hold 14 and 5 real targets."""
    inputs, targets = make_batch(rows=4)
    targets[1, 6:] = targets[2, 3:] = targets[3, 2:] = 0
    return inputs, targets


@pytest.mark.slow
@pytest.mark.parametrize(
    ("accumulate", "jit_compile"),
    [(2, "parts"), (3, False), pytest.param(4, True, marks=SLOW)],
)
def test_accumulated_gradients_are_those_of_the_whole_batch(accumulate, jit_compile):
    results, models = [], [small_gpt(), small_gpt()]
    for model, parts in zip(models, (1, accumulate), strict=True):
        step = make_train_step(
            model, keras.optimizers.SGD(1.0), accumulate=parts, jit_compile=jit_compile
        )
        results.append([step(uneven_batch()) for _ in range(2)][-1])
    for name, value in results[0].items():
        assert float(results[1][name]) == pytest.approx(float(value), rel=1e-4), name
    assert largest_difference(weights_of(models[0]), weights_of(models[1])) < 1e-5
    start = small_gpt()
    assert largest_difference(weights_of(models[0]), weights_of(start)) > 1e-3


# What `fit` does for a model and an optimizer


class Scale(keras.layers.Layer):
    """Scale what it reads, with every kind of state that a layer of a user may have."""

    def __init__(self, regularized=False, added=False, constrained=False):
        super().__init__()
        self.options = regularized, added, constrained
        self.metric = keras.metrics.Mean(name="mean_input")

    def build(self, shape):
        regularized, _, constrained = self.options
        self.scale = self.add_weight(
            shape=shape[-1:],
            initializer="ones",
            regularizer=keras.regularizers.L2(0.3) if regularized else None,
            constraint=keras.constraints.MaxNorm(0.5) if constrained else None,
        )
        self.running = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x, training=None):
        if self.options[1]:
            self.add_loss(0.1 * keras.ops.mean(keras.ops.square(x)))
        if training:
            self.running.assign(0.9 * self.running + 0.1 * keras.ops.mean(x))
            self.metric.update_state(x)
        return x * self.scale


class Table(keras.layers.Layer):
    """Look up rows by a product: Keras's optimizers treat the gradient of a gather otherwise."""

    def build(self, shape):
        self.table = self.add_weight(shape=(VOCAB, VOCAB))

    def call(self, token_ids):
        return keras.ops.matmul(keras.ops.one_hot(token_ids, VOCAB), self.table)


def scaled_bigram(frozen=False, **options):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((None,), dtype="int32"), Table(), Scale(**options)])
    model.layers[0].trainable = not frozen
    return model


MOVING = {"use_ema": True, "ema_momentum": 0.5}
EXTRAS = {
    "nothing": ({}, {}),
    "regularizer": ({"regularized": True}, {}),
    "add_loss": ({"added": True}, {}),
    "constraint": ({"constrained": True}, {}),
    "frozen layer": ({"frozen": True}, {}),
    "moving average": ({}, MOVING),
    "moving average, written back": ({}, {**MOVING, "ema_overwrite_frequency": 2}),
    "clipnorm": ({}, {"clipnorm": 0.01}),
    "clipvalue": ({}, {"clipvalue": 0.001}),
    "global_clipnorm": ({}, {"global_clipnorm": 0.01}),
    "accumulation": ({}, {"gradient_accumulation_steps": 2}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EXTRAS)
def test_training_does_for_model_and_optimizer_what_fit_does(name):
    """Loss, weights, states of layers and their metrics after 3 steps, within 1e-6."""
    model_options, optimizer_options = EXTRAS[name]
    batches = [make_batch(seed) for seed in range(3)]
    inputs, targets = (np.concatenate(x) for x in zip(*batches, strict=True))
    fitted, trained = scaled_bigram(**model_options), scaled_bigram(**model_options)
    optimizers = [keras.optimizers.Adam(0.1, **optimizer_options) for _ in range(2)]
    fitted.compile(optimizers[0], loss=MaskedLoss())
    rows = fitted.fit(inputs, targets, batch_size=4, shuffle=False, verbose=0).history
    options = {"clip_norm": None, "jit_compile": False, "progress": False}
    history = train(trained, batches, 3, optimizers[1], **options)
    assert history[-1]["loss"] == pytest.approx(rows["loss"][0], rel=1e-5)
    assert largest_difference(weights_of(trained), weights_of(fitted)) < 1e-6
    metrics = [float(model.layers[1].metric.result()) for model in (trained, fitted)]
    assert metrics[0] == pytest.approx(metrics[1], abs=1e-6)
    assert (trained.layers[0].trainable_weights == []) == (name == "frozen layer")


@pytest.mark.parametrize("jit_compile", ["parts", True])
def test_a_compiled_step_has_the_losses_of_layers_and_the_averages_too(jit_compile):
    def learned(jit_compile):
        model = scaled_bigram(regularized=True, added=True)
        optimizer = keras.optimizers.Adam(0.1, **MOVING)
        step = make_train_step(model, optimizer, jit_compile=jit_compile)
        losses = [float(step(make_batch())["loss"]) for _ in range(2)]
        optimizer.finalize_variable_values(model.trainable_variables)
        return [np.array(losses), *weights_of(model)]

    assert largest_difference(learned(jit_compile), learned(False)) < 1e-5


def test_a_regularizer_counts_once_however_many_parts_a_batch_has():
    whole, parts = (
        make_train_step(scaled_bigram(regularized=True), "sgd", accumulate=n)(uneven_batch())
        for n in (1, 4)
    )
    assert float(parts["loss"]) == pytest.approx(float(whole["loss"]), rel=1e-6)


def test_the_padding_of_a_model_is_the_padding_of_its_training():
    model = small_gpt(pad_id=3)
    assert make_train_step(model, "sgd").pad_id == 3
    assert make_train_step(model, "sgd", pad_id=3).pad_id == 3
    assert make_train_step(small_gpt(), "sgd").pad_id == 0
    assert make_train_step(small_gpt(), "sgd", pad_id=None).pad_id is None
    for pad_id in (0, None):
        message = f"pad_id must be that of the model, 3, or -100, got {pad_id}"
        with pytest.raises(ValueError, match=message):
            make_train_step(model, "sgd", pad_id=pad_id)
        with pytest.raises(ValueError, match=message):
            evaluate(model, [make_batch()], pad_id=pad_id)


def test_targets_of_minus_100_do_not_count_for_a_model_with_padding_too():
    model = small_gpt(pad_id=3)
    inputs, targets = make_batch()
    targets = np.where(np.arange(targets.shape[1]) < 2, targets, -100)
    found = evaluate(model, [(inputs, targets)], pad_id=-100)
    expected = masked_loss(targets[:, :2], model(inputs)[:, :2], pad_id=None)
    assert found["loss"] == pytest.approx(float(expected), rel=1e-5)
    step = make_train_step(model, "sgd", pad_id=-100)
    assert float(step((inputs, targets))["tokens"]) == targets.shape[0] * 2


@pytest.mark.parametrize("pad_id", [VOCAB, 99, -5, "x", 1.5, True])
def test_a_pad_id_that_is_no_token_is_refused(pad_id):
    with pytest.raises(ValueError, match="pad_id must be an integer >= 0 below vocab_size=11"):
        make_train_step(small_gpt(), "sgd", pad_id=pad_id)


@pytest.mark.slow
def test_mixed_precision_leaves_quantized_layers_alone():
    model = small_gpt()
    model.quantize("int8")
    expand = model.decoder_layers[0].feed_forward.expand
    expand.enable_lora(2)
    policy = expand.dtype_policy
    step = make_train_step(model, keras.optimizers.SGD(0.1), mixed_precision="bfloat16")
    before = np.array(expand.lora_kernel_b)
    step(make_batch())
    assert expand.dtype_policy == policy
    assert (np.array(expand.lora_kernel_b) != before).any()


@pytest.mark.slow
def test_many_batch_lengths_give_the_losses_of_the_plain_step():
    """From the fifth shape on nothing new is compiled."""
    parts, plain = (make_train_step(bigram(), "sgd", jit_compile=mode) for mode in ("parts", False))
    for length in range(1, 15):
        batch = make_batch(length=length)
        assert float(parts(batch)["loss"]) == pytest.approx(float(plain(batch)["loss"]), rel=1e-5)
    assert parts.experimental_get_tracing_count() <= train_step.MOST_SHAPES + 2


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int64"])
def test_batches_of_every_integer_type_share_a_trace(dtype):
    step = make_train_step(small_gpt(), keras.optimizers.SGD(0.0))
    expected = step(make_batch())["loss"]
    assert float(step([x.astype(dtype) for x in make_batch()])["loss"]) == float(expected)
    assert step.experimental_get_tracing_count() == 1


class WithUnusedWeight(keras.Model):
    """A Transformer and a weight that no output depends on."""

    def __init__(self):
        super().__init__()
        self.transformer = Transformer(1, 8, 2, 16, VOCAB, VOCAB, max_length=8, dropout=0.0)
        self.unused = self.add_weight(shape=(3,), initializer="ones", name="unused")

    def call(self, inputs, training=None):
        return self.transformer(inputs, training=training)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_accumulated_batches_can_be_dicts_and_leave_unused_weights_alone():
    def make(accumulate):
        keras.utils.set_random_seed(0)
        model = WithUnusedWeight()
        model({"source": np.ones((1, 8), "int32"), "target": np.ones((1, 8), "int32")})
        step = make_train_step(model, keras.optimizers.AdamW(0.01), accumulate=accumulate)
        inputs, targets = uneven_batch()
        result = step(({"source": inputs, "target": inputs}, targets))
        np.testing.assert_array_equal(model.unused, [1, 1, 1])
        return float(result["loss"]), weights_of(model)

    whole, parts = make(1), make(2)
    assert parts[0] == pytest.approx(whole[0], rel=1e-5)
    assert largest_difference(parts[1], whole[1]) < 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulate": 0}, "accumulate must be an integer >= 1, got 0"),
        ({"jit_compile": "all"}, "jit_compile must be"),
    ],
)
def test_wrong_parts_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_train_step(bigram(), "sgd", **options)(uneven_batch())


def test_where_xla_fails_training_goes_on_without_it(monkeypatch):
    def fail():
        raise tf.errors.InternalError(None, None, "no ptxas")

    monkeypatch.setattr(devices, "run_xla", fail)
    devices.xla_works.cache_clear()
    try:
        with pytest.warns(UserWarning, match="XLA failed on this machine.*no ptxas"):
            step = train_step.make_train_step(small_gpt(), "sgd")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            train_step.make_train_step(small_gpt(), "sgd")  # says it once
        monkeypatch.setattr(train_step, "replaced", fail)
        assert float(step(make_batch())["loss"]) == pytest.approx(math.log(VOCAB), abs=0.05)
    finally:
        devices.xla_works.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, "parts", pytest.param(True, marks=SLOW)])
def test_rematerialised_blocks_learn_the_same_in_less_memory(jit_compile):
    models = [small_gpt(num_layers=2, remat=remat) for remat in (False, True)]
    for model in models:
        step = make_train_step(model, keras.optimizers.SGD(1.0), jit_compile=jit_compile)
        for _ in range(2):
            result = step(make_batch())
        assert float(result["loss"]) < math.log(VOCAB)
    assert largest_difference(*map(weights_of, models)) < 1e-5


@pytest.mark.slow
def test_a_rematerialised_block_runs_again_for_its_gradient():
    def count_products(remat):
        model = small_gpt(num_layers=2, remat=remat)

        @tf.function
        def gradients(token_ids):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(model(token_ids, training=True) ** 2)
            return [tf.convert_to_tensor(g) for g in tape.gradient(loss, model.trainable_variables)]

        graph = gradients.get_concrete_function(tf.zeros((2, LENGTH), tf.int32)).graph
        return sum(operation.type == "MatMul" for operation in graph.get_operations())

    # Each of the 2 blocks has 6 products that are no batched ones.
    assert count_products(remat=True) >= count_products(remat=False) + 2 * 6


def test_rematerialisation_with_dropout_is_refused():
    with pytest.raises(ValueError, match=r"remat needs dropout=0, got dropout=0\.1"):
        small_gpt(dropout=0.1, remat=True)
    assert small_gpt(remat=True).get_config()["remat"] is True
