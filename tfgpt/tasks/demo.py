"""The demo: train a small character GPT on a text, then look at what it learned.

Everything it makes goes into one folder: the model (config.json, weights.safetensors,
tokenizer.json), checkpoint, history.csv, loss.png, attention.png and sample.txt.
"""

from dataclasses import dataclass
from pathlib import Path

from tfgpt.data import load_text, random_batches, split_held_out, window_batches
from tfgpt.generation import generate
from tfgpt.generation.text_model import sample_start
from tfgpt.gpt import GPT
from tfgpt.losses import perplexity
from tfgpt.plotting import plot_attention_weights
from tfgpt.tasks.recipe import train_task
from tfgpt.tokenizers import CharTokenizer
from tfgpt.validation import check_positive


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
    """

    steps: int = 1700
    context_length: int = 128
    batch_size: int = 16
    num_layers: int = 4
    d_model: int = 96
    num_heads: int = 4


SETTINGS = DemoSettings()
# A vocabulary of thousands of characters makes the last layer, and so each step, slower.
LARGE_VOCABULARY = 1000
LARGE_VOCABULARY_SETTINGS = DemoSettings(steps=900, context_length=64)


def run_demo(corpus="shakespeare", run_dir="runs/demo", steps=None, seed=0, resume=False):
    """Train a GPT on a corpus, write figures and a sample, print what happened.

    Args:
        corpus: name of a bundled corpus or path of a UTF-8 text file.
        run_dir: folder to write to.
        steps: int >= 1, training steps; None: chosen by the size of the vocabulary.
        seed: int >= 0, seeds initial weights, batches and the sample.
        resume: bool, go on from the last checkpoint in run_dir.

    Returns:
        list of dicts, the history of the training.

    Raises:
        FileNotFoundError: if there is no such corpus.
        ValueError: if the text is unusable or an argument is outside its range.
    """
    text = load_text(corpus)
    tokenizer = CharTokenizer.train(text)
    large = tokenizer.vocab_size > LARGE_VOCABULARY
    settings = LARGE_VOCABULARY_SETTINGS if large else SETTINGS
    steps = settings.steps if steps is None else steps
    check_positive("steps", steps)
    training_ids, held_out_ids = split_held_out(tokenizer.encode(text))
    if len(held_out_ids) <= settings.context_length:
        raise ValueError(
            f"corpus must have more than {10 * settings.context_length + 5:,} characters, so that "
            f"its held-out tenth fills a context of {settings.context_length}, got {len(text):,}."
        )
    sizes = settings.context_length, settings.batch_size
    batches = random_batches(training_ids, *sizes, seed=seed)
    held_out = window_batches(held_out_ids, *sizes)

    print(f"{len(text):,} characters, {tokenizer.vocab_size - 1:,} different ones.")
    model, history = train_task(
        lambda: GPT(
            tokenizer.vocab_size,
            settings.context_length,
            settings.num_layers,
            settings.d_model,
            settings.num_heads,
            positions="rotary",
        ),
        run_dir,
        steps,
        batches,
        seed=seed,
        resume=resume,
        facts={"corpus": str(corpus), "batch_size": settings.batch_size},
        title="loss of the demo",
        validation_data=held_out,
        tokenizer=tokenizer,
        jit_compile=True,
    )
    write_results(Path(run_dir), model, tokenizer, history, held_out_ids, seed)
    return history


def write_results(folder, model, tokenizer, history, held_out_ids, seed):
    """Write figures and sample, and print sample and losses."""
    token_ids = held_out_ids[: min(24, model.context_length)]
    _, weights = model(token_ids[None], return_attention_weights=True)
    last_layer = f"decoder/{model.num_layers - 1}/self"
    plot_attention_weights(
        weights[last_layer][0],
        [tokenizer.id_to_token(int(token_id)) for token_id in token_ids],
        title=last_layer,
        save=folder / "attention.png",
    )

    sample = sample_text(model, tokenizer, num_tokens=500, temperature=0.8, seed=seed)
    (folder / "sample.txt").write_text(sample, encoding="utf-8")
    print(f"\n{sample}\n")
    print(summary(history))
    print(f"Everything is in {folder}: " + ", ".join(sorted(p.name for p in folder.iterdir())))


def sample_text(model, tokenizer, prompt=None, num_tokens=500, **sampling):
    """Generate text from a character GPT.

    Args:
        model: GPT.
        tokenizer: tokenizer of the model.
        prompt: str; None: start after a line end, which is not shown.
        num_tokens: int >= 1, tokens to generate.
        **sampling: further arguments of `generate`.

    Returns:
        str, the prompt and its continuation.
    """
    start = sample_start(tokenizer, prompt)
    token_ids = generate(model, tokenizer.encode(start), num_tokens, **sampling)[0]
    return tokenizer.decode(token_ids if prompt else token_ids[len(start) :])


def summary(history):
    """Say in one line what a training reached.

    Args:
        history: list of dicts as `train` returns it.

    Returns:
        str.
    """
    measured = [row for row in history if row["val_loss"] is not None]
    if not measured:
        return "No held-out loss was measured: the training ended too early."
    row = measured[-1]
    return (
        f"Step {row['step']:,}, {row['seconds']:.0f} s: held-out loss {row['val_loss']:.3f} nats "
        f"per character, perplexity {float(perplexity(row['val_loss'])):.2f}."
    )
