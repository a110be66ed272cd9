"""What an encoder knows before: pre-trained in two ways or not at all, frozen or trained.

Shape letters: B batch, T length, V vocabulary.
"""

import numpy as np
from keras import ops

from tfgpt.losses import MaskedLoss
from tfgpt.schedules import make_muon
from tfgpt.tasks.vision import VisionSettings, make_encoder, make_vision_gpt, train_contrast
from tfgpt.tasks.vision_batches import encode_questions, moved, question_batches
from tfgpt.training import set_seed
from tfgpt.vision.masked_patches import MaskedPatches
from tfgpt.vision.questions import questions_about

# The share of the steps in which the encoder is frozen, and how it was trained before.
WAYS = {
    "from nothing": ("none", 0.0),
    "masked patches, frozen": ("masked patches", 1.0),
    "masked patches, then trained": ("masked patches", 0.0),
    "contrast, frozen": ("contrast", 1.0),
    "contrast, then trained": ("contrast", 0.0),
    "contrast, two stages": ("contrast", 0.5),
}
SMALL = VisionSettings(
    contrast_steps=150,
    steps=240,
    stem=(24, 48),
    patch_size=2,
    encoder_layers=2,
    num_layers=1,
    d_model=64,
    context_length=40,
    vocab_size=600,
    cnn_steps=0,
)
POINTS = 8  # of a curve


def compare_pretraining(training, held_out, tokenizer, settings=SMALL, seed=0, kind="group"):
    """Train a GPT that sees with six encoders, and score each while it learns.

    "Two stages" is LLaVA's order: the encoder is frozen in the first half of the steps and
    trained with the GPT in the second. Both pre-trainings have `contrast_steps` steps.

    Args:
        training: Pictures to learn from.
        held_out: Pictures of other families.
        tokenizer: BPETokenizer.
        settings: VisionSettings.
        seed: int >= 0.
        kind: str, the kind of question that is scored.

    Returns:
        dict from the name of a way to a list of (step, share of right answers).
    """
    weights = pretrained_weights(training, tokenizer, settings, seed)
    questions = questions_about(held_out, kind)
    shown = [([question], held_out.images[list(question.places)]) for question in questions]
    asked = encode_questions(shown, tokenizer, settings)
    curves = {}
    for name, (before, frozen) in WAYS.items():
        set_seed(seed)
        encoder = make_encoder(settings)
        if before in weights:
            encoder.set_weights(weights[before])
        model = make_vision_gpt(settings, tokenizer, encoder)
        batches = question_batches(training, tokenizer, settings, seed)
        curves[name] = train_in_stages(model, batches, settings.steps, frozen, asked)
        print(
            f"{name:30s} {curves[name][-1][1]:.1%} right after {settings.steps} steps", flush=True
        )
    return curves


def pretrained_weights(pictures, tokenizer, settings, seed):
    """Pre-train an encoder in both ways: dict from the way to its weights."""
    dual = train_contrast(pictures, tokenizer, settings, seed)
    set_seed(seed)
    painter = MaskedPatches(make_encoder(settings))
    steps = max(settings.contrast_steps, 1)
    painter.compile(make_muon(steps, 0.02, 0.004), jit_compile=False)
    rng = np.random.default_rng(seed)
    for _ in range(settings.contrast_steps):
        places = rng.choice(len(pictures), settings.batch_size, replace=False)
        painter.train_on_batch(np.stack([moved(pictures.images[place], rng) for place in places]))
    encoders = {"contrast": dual.image_encoder, "masked patches": painter.encoder}
    return {name: encoder.get_weights() for name, encoder in encoders.items()}


def train_in_stages(model, batches, steps, frozen, asked):
    """Train with the encoder frozen in a share of the steps: list of (step, score)."""
    points, every = [(0, right_answers(model, *asked))], max(steps // POINTS, 1)
    optimizer = make_muon(steps)
    optimizer.build(model.trainable_variables)
    is_frozen = None
    for step in range(1, steps + 1):
        if is_frozen != (is_frozen := step <= frozen * steps):
            model.encoder.trainable = not is_frozen
            model.compile(optimizer, MaskedLoss(), jit_compile=False)
        model.train_on_batch(*next(batches))
        if step % every == 0:
            points.append((step, right_answers(model, *asked)))
    return points


def right_answers(model, inputs, targets, size=64):
    """Return the share of answers of which each token is the likeliest one."""
    right = []
    for start in range(0, len(targets), size):
        rows = slice(start, start + size)
        logits = model({name: array[rows] for name, array in inputs.items()})
        chosen = ops.convert_to_numpy(ops.argmax(logits, axis=-1))  # (B, T, V) -> (B, T)
        right.append(((chosen == targets[rows]) | (targets[rows] == model.pad_id)).all(axis=1))
    return float(np.concatenate(right).mean())
