"""What test_model_parallel.py starts in processes of their own: JAX with several CPU devices.

`python parallel_runs.py devices CASES` compares layouts on some of its devices with one device;
`python parallel_runs.py worker PORT PROCESS` is one of two processes, with two devices each.
The last line of the output is JSON.
"""

import contextlib
import doctest
import json
import sys
import tempfile

import jax
import keras
import numpy as np

import tfgpt
from tfgpt import model_parallel
from tfgpt.model_parallel import bytes_per_device, parallel

LENGTH = 16


def gpt():
    return tfgpt.GPT(64, LENGTH, num_layers=1, d_model=32, num_heads=4)


def transformer():
    return tfgpt.Transformer(1, 32, 4, 64, 64, 65, max_length=LENGTH, dropout=0.0)


def batches(vocab_size, rows=24):
    """Make ids and next ids: two arrays (rows, T)."""
    ids = np.random.default_rng(1).integers(1, vocab_size, (rows, LENGTH + 1)).astype("int32")
    return ids[:, :-1], ids[:, 1:]


def pairs(rows=24):
    """Make sources and targets with padding at the end, and the next ids."""
    source, _ = batches(64, rows)
    target, labels = batches(65, rows)
    source[::2, -3:], target[::2, -5:], labels[::2, -5:] = 0, 0, 0
    return {"source": source, "target": target}, labels


def randomize(model):
    """Give a model weights that do not depend on how it was made."""
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 0.2, w.shape).astype("float32") for w in model.weights])


def first_step(model, x, y, distribution):
    """Compute logits, loss and gradients of a batch in one program; and its temporary bytes."""

    def loss(weights, others, x, y):
        logits, _ = model.stateless_call(weights, others, x)
        return tfgpt.MaskedLoss()(y, logits), logits

    def place(ids):
        return jax.device_put(ids, distribution.get_data_layout(ids.shape).backend_layout)

    if distribution:
        x, y = jax.tree.map(place, (x, y))
    states = [
        [v.value for v in vs] for vs in (model.trainable_variables, model.non_trainable_variables)
    ]
    step = jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(*states, x, y).compile()
    (value, logits), gradients = step(*states, x, y)
    return {
        "loss": float(value),
        "logits": np.asarray(logits),
        "gradients": [np.asarray(g) for g in gradients],
        "shard": logits.addressable_shards[0].data.shape,
        "temporary": step.memory_analysis().temp_size_in_bytes,
    }


def measure(make, data, distribution=None, writes=False):
    """Make a model under a distribution; return what it computes and holds."""
    x, y = data
    with distribution.scope() if distribution else contextlib.nullcontext():
        model = make()
        randomize(model)
        result = first_step(model, *jax.tree.map(lambda a: a[:8], (x, y)), distribution)
        if writes:
            result["tokens"] = tfgpt.generate(model, x[:1, :4], 6, temperature=0)
        model.compile(keras.optimizers.AdamW(1e-3), loss=tfgpt.MaskedLoss())
        result["fit"] = losses_of_steps(model, x, y)
        result["weight_bytes"] = list(bytes_per_device(model.trainable_variables).values())
        result["slot_bytes"] = list(bytes_per_device(model.optimizer.variables).values())
    return result | {"model": model}


def losses_of_steps(model, x, y):
    """Train for 3 steps of 8 rows with `fit`; return the loss of each step."""
    losses = []
    seen = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda _, logs: losses.append(logs["loss"])
    )
    rows = None if y is None else 8
    model.fit(x, y, batch_size=rows, shuffle=False, verbose=0, callbacks=[seen])
    return [float(loss) for loss in losses]


def difference(first, second):
    """Return the largest difference of two arrays as a part of the largest value."""
    return float(np.abs(np.subtract(first, second)).max() / np.abs(first).max())


def compare(one, many):
    """Describe how a run on many devices differs from that on one."""
    gradients = [np.concatenate([g.ravel() for g in run["gradients"]]) for run in (one, many)]
    return {
        "logits": difference(one["logits"], many["logits"]),
        "loss": difference(one["loss"], many["loss"]),
        "gradients": difference(*gradients),
        "fit": difference(one["fit"], many["fit"]),
        "weight_share": [n / one["weight_bytes"][0] for n in many["weight_bytes"]],
        "weight_bytes": many["weight_bytes"],
        "slot_bytes": many["slot_bytes"],
        "shard": many["shard"],
        "temporary_share": many["temporary"] / one["temporary"],
    }


def split_of(model):
    """Describe the layouts: from the path without the model's name to the axes."""
    return {v.path.split("/", 1)[1]: list(v.value.sharding.spec) for v in model.variables}


def message_of(function, *arguments, **settings):
    """Return the text of the error that a call raises."""
    try:
        function(*arguments, **settings)
    except (ValueError, RuntimeError) as error:
        return str(error)
    return "no error"


def run_devices(cases):
    """Compare layouts, JSON {name: [number of devices, settings]}, with one device."""
    names = keras.distribution.list_devices()
    found = {}
    data = batches(64)
    one = measure(gpt, data, writes=True)
    for name, (count, settings) in json.loads(cases).items():
        many = measure(
            gpt, data, parallel(**settings, devices=names[:count]), "model 2, weights" in name
        )
        found[name] = compare(one, many)
        if "tokens" in many:
            found["same tokens"] = bool(np.array_equal(one["tokens"], many["tokens"]))
            found["split"] = split_of(many["model"])
            found["file"] = file_difference(many["model"])
    both = parallel(model_devices=2, shard_weights=True)
    many = measure(transformer, pairs(), both)
    found["transformer"] = compare(measure(transformer, pairs()), many)
    found["split of the transformer"] = split_of(many["model"])
    found["errors"] = {
        "devices": message_of(parallel, model_devices=3),
        "type": message_of(parallel, sequence_devices=0),
        "rows": message_of(measure, gpt, batches(64, rows=6), both),
    }
    found["doctest failures"] = doctest.testmod(model_parallel, extraglobs={"np": np}).failed
    return found


def file_difference(model):
    """Save a split model, load it on one device, and compare the weights."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_weights(f"{folder}/model.weights.h5")
        whole = gpt()
        whole.load_weights(f"{folder}/model.weights.h5")
    pairs_of_weights = zip(model.get_weights(), whole.get_weights(), strict=True)
    return max(float(np.abs(a - b).max()) for a, b in pairs_of_weights)


def run_worker(port, process):
    """Train as one of two processes, with whole weights and with split weights."""
    import tensorflow as tf

    if port != "alone":
        keras.distribution.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=int(process))
    found = {"devices": jax.device_count(), "processes": jax.process_count()}
    dataset = tf.data.Dataset.from_tensor_slices(batches(64)).batch(8, drop_remainder=True)
    for name, settings in (("data", {}), ("weights", {"shard_weights": True})):
        with parallel(**settings).scope():
            model = gpt()
            randomize(model)
            model.compile(keras.optimizers.AdamW(1e-3), loss=tfgpt.MaskedLoss())
            losses = losses_of_steps(model, dataset, None)
            found[name] = {
                "fit": losses,
                "bytes": list(bytes_per_device(model.trainable_variables).values()),
            }
            if name == "data":
                found["sums"] = [float(np.abs(w).sum()) for w in model.get_weights()]
            else:
                found["reading split weights"] = message_of(model.get_weights)
    return found


if __name__ == "__main__":
    kind, *arguments = sys.argv[1:]
    print(json.dumps(run_devices(*arguments) if kind == "devices" else run_worker(*arguments)))
