"""What can be asked of the folder of a run: scores, figures, files, a comparison."""

import tempfile
from pathlib import Path

import numpy as np

from tfgpt.bundle import read_config
from tfgpt.data import find_files
from tfgpt.data.corpus import prepare_corpus
from tfgpt.data.token_batches import Tokens, held_out_batches
from tfgpt.history import HISTORY, read_history
from tfgpt.plotting import plot_attention_weights, plot_histories, plot_history
from tfgpt.tasks.language_model import LanguageModel
from tfgpt.tasks.settings import FILE, TrainSettings, read_settings
from tfgpt.training import evaluate

MOST_BATCHES = 1000  # of a long text, spread over it
LABELS = 24  # tokens of a text that attention is drawn on


def evaluate_run(folder, data=None, **reading):
    """Measure how well a trained model predicts texts, and print it.

    Args:
        folder: run folder of `tfgpt train`, or another bundle.
        data: path, pattern or name of texts; None: what the training held out.
        **reading: how the texts are read, see `read_pieces`; by default as in the training.

    Returns:
        dict of floats: "loss" (nats per token), "perplexity", "bits_per_byte", and
        "accuracy" (0 to 1); "tokens" that were measured.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if the texts cannot be read or are too short.
    """
    folder = Path(folder)
    text_model = LanguageModel.load(folder)
    with tempfile.TemporaryDirectory() as place:
        tokens, where = texts_of(folder, text_model.tokenizer, data, place, reading)
        return measure_texts(text_model, tokens, where)


def measure_texts(text_model, tokens, where):
    """Measure a model on tokens, and print it; see `evaluate_run`."""
    context = text_model.model.context_length
    if len(tokens) <= 2:
        raise ValueError(f"data must have more than two tokens, got {len(tokens)}.")
    context = min(context, len(tokens) - 1)
    ignored = -100 if text_model.tokenizer.pad_id is None else text_model.tokenizer.pad_id
    batches = list(held_out_batches(tokens, context, 8, MOST_BATCHES, ignored))
    result = evaluate(text_model.model, batches, pad_id=ignored)
    targets = np.concatenate([targets[targets != ignored] for _, targets in batches])
    bytes_read = text_model.count_bytes(targets)
    scores = {
        **result,
        "perplexity": float(np.exp(result["loss"])),
        "bits_per_byte": result["loss"] * len(targets) / max(bytes_read, 1) / np.log(2),
        "tokens": len(targets),
    }
    print(
        f"{where}: {len(targets):,} of {len(tokens):,} tokens measured\n"
        f"loss            {scores['loss']:.4f} nats per token\n"
        f"perplexity      {scores['perplexity']:.2f}\n"
        f"bits per byte   {scores['bits_per_byte']:.4f}\n"
        f"right tokens    {scores['accuracy']:.1%}"
    )
    return scores


def texts_of(folder, tokenizer, data, place, reading):
    """Return the tokens to measure on, and what they are; `place` is a folder for their files."""
    known = read_settings(folder) if (folder / FILE).exists() else {}
    if data is not None:
        names = ("field", "encoding", "separator")
        reading = {name: known[name] for name in names if name in known} | reading
        corpus = prepare_corpus(find_files(data), tokenizer, place, **reading)
        return Tokens([*corpus.training.segments, *corpus.held_out.segments]), str(data)
    if not known:
        raise ValueError(
            f"evaluate needs --data for {str(folder)!r}, which does not know its texts: "
            f"it has no {FILE}."
        )
    from tfgpt.tasks.job import Job

    job = Job(TrainSettings(**known), folder, resume=True)
    if job.corpus.key != read_config(folder).get("run", {}).get("corpus"):
        raise ValueError(
            "the texts of the training must be as they were, to measure what was held out, got "
            "others: name texts with --data."
        )
    return job.held_out, "held-out texts of the training"


def plot_run(folder, prompt=None):
    """Draw loss.png and attention.png into the folder of a run.

    Args:
        folder: path.
        prompt: str that the attention is drawn on; None: the last sample.

    Returns:
        list of the paths.

    Raises:
        FileNotFoundError: if the folder holds no run.
        ValueError: if the prompt has no token.
    """
    folder = Path(folder)
    text_model = LanguageModel.load(folder)
    history = read_history(folder / HISTORY)
    paths = []
    if history:
        paths.append(folder / "loss.png")
        plot_history(history, title=f"loss of {folder.name}", save=paths[-1])
    sample = folder / "sample.txt"
    if prompt is None and sample.exists():
        prompt = sample.read_text(encoding="utf-8").strip()
    model, tokenizer = text_model.model, text_model.tokenizer
    if prompt:
        token_ids = tokenizer.encode(prompt)[: min(LABELS, model.context_length)]
        _, weights = model(token_ids[None], return_attention_weights=True)
        name = list(weights)[-1]
        paths.append(folder / "attention.png")
        labels = [tokenizer.id_to_token(int(token_id)) for token_id in token_ids]
        plot_attention_weights(weights[name][0], labels, title=name, save=paths[-1])
    print("Drawn: " + ", ".join(map(str, paths)) if paths else "There is nothing to draw yet.")
    return paths


def compare_runs(folders, save=None):
    """Put the settings that differ and the losses of runs side by side.

    Args:
        folders: list of at least two paths.
        save: path of a figure with all curves, or None.

    Returns:
        str, a table.

    Raises:
        ValueError: if there are fewer than two, or one holds no history.
    """
    folders = [Path(folder) for folder in folders]
    if len(folders) < 2:
        raise ValueError(f"compare needs at least two runs, got {len(folders)}.")
    histories = [read_history(folder / HISTORY) for folder in folders]
    for folder, history in zip(folders, histories, strict=True):
        if not history:
            raise ValueError(f"compare needs runs with a {HISTORY}, got {str(folder)!r}.")
    columns = [facts_of(folder) for folder in folders]
    names = {name for column in columns for name in column}
    rows = [
        (name, *(str(column.get(name, "")) for column in columns))
        for name in sorted(names)
        if len({str(column.get(name)) for column in columns}) > 1
    ]
    rows += [
        (name, *(measure(history) for history in histories)) for name, measure in MEASURES.items()
    ]
    if save is not None:
        labels = [str(folder) for folder in folders]
        plot_histories(dict(zip(labels, histories, strict=True)), save=save)
    names = [folder.name for folder in folders]
    heads = names if len(set(names)) == len(names) else list(map(str, folders))
    return table([("", *heads), *rows])


def facts_of(folder):
    """Return what is known of a run: its settings, and the sizes of its model."""
    config = {
        name: value
        for name, value in read_config(folder)["config"].items()
        if isinstance(value, (int, float, str, bool)) and name != "name"
    }
    known = read_settings(folder) if (folder / FILE).exists() else {}
    known.pop("steps", None)  # those that were done are measured
    return config | {
        name: " ".join(value) if isinstance(value, list) else value for name, value in known.items()
    }


def lowest(history):
    """Write the lowest held-out loss and its step."""
    measured = [row for row in history if row["val_loss"] is not None]
    if not measured:
        return "not measured"
    row = min(measured, key=lambda row: row["val_loss"])
    return f"{row['val_loss']:.4f} at {row['step']:,}"


MEASURES = {
    "steps": lambda history: f"{history[-1]['step']:,}",
    "last loss": lambda history: f"{history[-1]['loss']:.4f}",
    "lowest held-out loss": lowest,
    "tokens per second": lambda history: f"{np.median([r['tokens_per_s'] for r in history]):,.0f}",
    "seconds": lambda history: f"{history[-1]['seconds']:,.0f}",
}


def table(rows):
    """Write rows of cells in columns.

    Example:
        >>> print(table([("", "a"), ("steps", "10")]))
               a
        steps  10
    """
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)
