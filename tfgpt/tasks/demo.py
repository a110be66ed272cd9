"""The demo: train a small GPT on a text, then look at what it learned.

Everything it makes goes into one folder: the model (config.json, weights.safetensors,
tokenizer.json), checkpoint, history.csv, loss.png, attention.png and sample.txt.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfgpt.data import load_text, random_batches, split_held_out, window_batches
from tfgpt.generation import generate
from tfgpt.generation.text_model import sample_start
from tfgpt.gpt import GPT
from tfgpt.losses import perplexity
from tfgpt.plotting import plot_attention_weights
from tfgpt.tasks.recipe import train_task
from tfgpt.tokenizers import BPETokenizer, CharTokenizer
from tfgpt.validation import check_choice, check_positive

TOKENIZERS = ("bpe", "char")
VOCAB_SIZE = 1024  # byte pairs and special tokens
# A shorter text has few pairs that are frequent.
PAIRS_FROM = 100_000  # characters
# A text with more is Chinese or the like: a character is a word or a part of one already.
MANY_CHARACTERS = 1000
SAMPLE_LENGTH = 500  # characters
SPLIT_COPIES = 8  # of the training part, each split otherwise
SPLIT_STEPS = 0.6  # of all steps; then the pieces are whole, as in every text that is read later


@dataclass(frozen=True)
class DemoSettings:
    """Sizes of the demo, chosen for about three minutes on two CPU cores.

    Args:
        steps: int, training steps.
        context_length: int, T.
        batch_size: int, B.
        num_layers: int, L.
        d_model: int, D.
        num_heads: int, H.
        noise: float in [0, 1), see `random_batches`.
        split: float in [0, 1), the share of byte pairs that are split at random in the first
            part of the training; see `BPETokenizer.split_at_random`.
    """

    steps: int
    context_length: int = 128
    batch_size: int = 16
    num_layers: int = 4
    d_model: int = 96
    num_heads: int = 4
    noise: float = 0.0
    split: float = 0.0


SETTINGS = {
    "bpe": DemoSettings(steps=1700, noise=0.05, split=0.13),
    "char": DemoSettings(steps=1700),
    # Thousands of tokens make the last layer, and so each step, slower.
    "many": DemoSettings(steps=900, context_length=64),
}


def run_demo(
    corpus="shakespeare", run_dir="runs/demo", steps=None, seed=0, resume=False, tokenizer=None
):
    """Train a GPT on a corpus, write figures and a sample, print what happened.

    Args:
        corpus: name of a bundled corpus or path of a UTF-8 text file.
        run_dir: folder to write to.
        steps: int >= 1, training steps; None: chosen by the tokens.
        seed: int >= 0, seeds initial weights, batches and the sample.
        resume: bool, go on from the last checkpoint in run_dir.
        tokenizer: "bpe", byte pairs learned from the training part of the text; "char", one
            token per character; None: "bpe", but "char" for a text of fewer than 100,000
            characters or of more than 1,000 different ones, as Chinese has.

    Returns:
        list of dicts, the history of the training: losses in nats per token.

    Raises:
        FileNotFoundError: if there is no such corpus.
        ValueError: if the text is unusable or an argument is outside its range.
    """
    text = load_text(corpus)
    kind = choose_tokenizer(text) if tokenizer is None else tokenizer
    check_choice("tokenizer", kind, TOKENIZERS)
    settings = SETTINGS["many" if kind == "char" and has_many_characters(text) else kind]
    steps = check_positive("steps", settings.steps if steps is None else steps)
    check_length(text, settings.context_length)
    training_text, held_out_text = split_held_out(text)
    learned = (
        CharTokenizer.train(text)
        if kind == "char"
        else BPETokenizer.train(training_text, VOCAB_SIZE)
    )
    training_ids, held_out_ids = learned.encode(training_text), learned.encode(held_out_text)
    check_tokens(training_ids, settings.context_length)

    tokens_per_character = len(held_out_ids) / len(held_out_text)
    print(
        f"{len(text):,} characters, {len(set(text)):,} different ones; {learned.vocab_size:,} "
        f"tokens, {1 / tokens_per_character:.2f} characters each ({kind})."
    )
    model, history = train_task(
        lambda: GPT(
            learned.vocab_size,
            settings.context_length,
            settings.num_layers,
            settings.d_model,
            settings.num_heads,
            positions="rotary",
        ),
        run_dir,
        steps,
        training_batches(learned, training_ids, settings, steps, seed),
        seed=seed,
        resume=resume,
        facts={"corpus": str(corpus), "batch_size": settings.batch_size},
        title="loss of the demo",
        validation_data=held_out_batches(training_ids, held_out_ids, settings),
        tokenizer=learned,
        jit_compile=True,
    )
    folder = Path(run_dir)
    write_results(folder, model, learned, held_out_ids, tokens_per_character, seed)
    print(summary(history, tokens_per_character))
    print(f"Everything is in {folder}: " + ", ".join(sorted(p.name for p in folder.iterdir())))
    return history


def choose_tokenizer(text):
    """Choose byte pairs, or characters for a text that is short or has many of them; say why."""
    if has_many_characters(text):
        print(f"More than {MANY_CHARACTERS:,} different characters: each of them is a token.")
        return "char"
    if len(text) < PAIRS_FROM:
        print(f"Fewer than {PAIRS_FROM:,} characters are too few for byte pairs: each is a token.")
        return "char"
    return "bpe"


def has_many_characters(text):
    """Say whether a text has so many different characters as Chinese has."""
    return len(set(text)) > MANY_CHARACTERS


def check_length(text, context_length):
    """Raise unless the held-out tenth of a text has more characters than a context."""
    if round(0.1 * len(text)) <= context_length:
        raise ValueError(
            f"corpus must have more than {10 * context_length + 5:,} characters, so that "
            f"its held-out tenth fills a context of {context_length}, got {len(text):,}."
        )


def check_tokens(training_ids, context_length):
    """Raise unless the training part of a text has more tokens than a context."""
    if len(training_ids) <= context_length:
        raise ValueError(
            f"corpus must give more than {context_length} byte pairs for training, got "
            f"{len(training_ids)}: it repeats itself; use the tokenizer char, or another text."
        )


def training_batches(tokenizer, training_ids, settings, steps, seed):
    """Draw random windows; in the first steps of a text whose byte pairs are split at random."""
    sizes = settings.context_length, settings.batch_size
    whole = random_batches(training_ids, *sizes, seed, settings.noise)
    if not settings.split:
        return whole
    copies = [
        tokenizer.split_at_random(training_ids, settings.split, seed=[seed, copy])
        for copy in range(SPLIT_COPIES)
    ]
    split = random_batches(np.concatenate(copies), *sizes, seed, settings.noise)
    return split.take(round(SPLIT_STEPS * steps)).concatenate(whole)


def held_out_batches(training_ids, held_out_ids, settings):
    """Cut a held-out text into windows that score each of its tokens once, the first one too.

    The first follows the last token of the training part. The last window is filled with
    padding, id 0, which does not count.
    """
    token_ids = np.concatenate([training_ids[-1:], held_out_ids])
    filled = np.pad(token_ids, (0, -len(held_out_ids) % settings.context_length))
    return window_batches(filled, settings.context_length, settings.batch_size)


def write_results(folder, model, tokenizer, held_out_ids, tokens_per_character, seed):
    """Write the figure of attention and a sample, and print the sample."""
    token_ids = held_out_ids[: min(24, model.context_length)]
    _, weights = model(token_ids[None], return_attention_weights=True)
    last_layer = f"decoder/{model.num_layers - 1}/self"
    plot_attention_weights(
        weights[last_layer][0],
        [tokenizer.id_to_token(int(token_id)) for token_id in token_ids],
        title=last_layer,
        save=folder / "attention.png",
    )
    num_tokens = max(round(SAMPLE_LENGTH * tokens_per_character), 1)
    sample = sample_text(model, tokenizer, num_tokens=num_tokens, temperature=0.8, seed=seed)
    (folder / "sample.txt").write_text(sample, encoding="utf-8")
    print(f"\n{sample}\n")


def sample_text(model, tokenizer, prompt=None, num_tokens=500, **sampling):
    """Generate text from a GPT.

    Args:
        model: GPT.
        tokenizer: tokenizer of the model.
        prompt: str; None: start after a line end, which is not shown.
        num_tokens: int >= 1, tokens to generate.
        **sampling: further arguments of `generate`.

    Returns:
        str, the prompt and its continuation.
    """
    start = tokenizer.encode(sample_start(tokenizer, prompt))
    token_ids = generate(model, start, num_tokens, **sampling)[0]
    return tokenizer.decode(token_ids if prompt else token_ids[len(start) :])


def summary(history, tokens_per_character):
    """Say in one line what a training reached, in a unit that all tokenizers share.

    Args:
        history: list of dicts as `train` returns it, losses in nats per token.
        tokens_per_character: float > 0, of the held-out text.

    Returns:
        str.

    Example:
        >>> row = {"step": 9, "val_loss": 3.0, "seconds": 7.0}
        >>> print(summary([row], tokens_per_character=0.5))  # doctest: +NORMALIZE_WHITESPACE
        Step 9, 7 s: held-out loss 1.500 nats per character (3.000 per token), perplexity
        4.48 per character.
    """
    measured = [row for row in history if row["val_loss"] is not None]
    if not measured:
        return "No held-out loss was measured: the training ended too early."
    row = measured[-1]
    loss = row["val_loss"] * tokens_per_character
    return (
        f"Step {row['step']:,}, {row['seconds']:.0f} s: held-out loss {loss:.3f} nats per "
        f"character ({row['val_loss']:.3f} per token), perplexity {float(perplexity(loss)):.2f} "
        "per character."
    )
