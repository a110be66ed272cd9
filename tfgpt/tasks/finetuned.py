"""Fine-tuned models: text in; labels, tags or answers out. `load_finetuned` reads them.

On disk: task.json (what the model does), and either the whole model as a bundle, or its
adapters alone beside the name of their base; head.safetensors for labels and tags.
"""

import itertools
import json
from pathlib import Path

import numpy as np
from keras import ops

from tfgpt.bundle import load_bundle, read_config, replaced_file, save_bundle
from tfgpt.data.chat import NEXT_USER, asked_ids
from tfgpt.data.texts import DATA_FOLDER
from tfgpt.generation import generate, stream
from tfgpt.generation.pieces import without_first_space
from tfgpt.generation.text_model import batches, until_stop
from tfgpt.pretrained import load_gpt2
from tfgpt.tasks.base import BASES
from tfgpt.tasks.examples import (
    encode_sentences,
    encode_texts,
    join_tags,
    likeliest_tags,
    padding_id,
    predict_rows,
    rows_per_batch,
)
from tfgpt.tasks.heads import TextClassifier, TokenTagger
from tfgpt.tuning import load_adapters, save_adapters

TASK, HEAD, ADAPTER = "task.json", "head.safetensors", "adapter"
CHUNK = 512  # texts that are read from a stream at once


class FineTuned:
    """What all fine-tuned models share. Use `tfgpt.load_finetuned` to get one.

    Args:
        model: Keras model: a classifier, a tagger, or a GPT that writes.
        tokenizer: tokenizer of the model.
        facts: dict, the content of task.json.
    """

    def __init__(self, model, tokenizer, facts):
        self.model, self.tokenizer, self.facts = model, tokenizer, facts
        self.task, self.labels = facts["task"], facts.get("labels")
        self.gpt = getattr(model, "gpt", model)
        self.end_id = getattr(tokenizer, "end_id", None)
        self.cut = 0  # texts that were longer than the context, so far
        longest = self.gpt.context_length
        self.buckets = sorted({*(size for size in facts["buckets"] if size < longest), longest})

    def predict(self, texts):
        """Predict for one text or many.

        Args:
            texts: str, or list of str; a tagger also takes lists of words, a model for
                chats lists of messages.

        Returns:
            what `predict_many` gives for one text, or a list of it.

        Raises:
            TypeError: if a text is no str.
            ValueError: if a text is empty.
        """
        if isinstance(texts, str):
            return self.predict_many([texts])[0]
        return self.predict_many(list(texts))

    def rows(self, texts):
        """Predict for any number of texts; an empty one has empty cells.

        Args:
            texts: iterable of str; read 512 at a time, so that no file is too long.

        Returns:
            generator of tuples of str, in the order of the texts.
        """
        texts = iter(texts)
        while some := list(itertools.islice(texts, CHUNK)):
            cells = iter(self.cells([text for text in some if text.strip()]))
            for text in some:
                yield next(cells) if text.strip() else ("",) * len(self.columns)

    def logits(self, rows):
        """Compute the logits of rows of ids."""
        pad_id = padding_id(self.tokenizer)
        return predict_rows(self.model, rows, self.buckets, self.facts["batch_size"], pad_id)


class Classifier(FineTuned):
    """A label for each text."""

    columns = ("label", "probability")

    def cells(self, texts):
        """Return (label, its probability) of each text."""
        chances = self.probabilities(texts)
        return [(self.labels[row.argmax()], f"{row.max():.4f}") for row in chances]

    def predict_many(self, texts):
        """Return the likeliest label of each text: list of str."""
        return [self.labels[place] for place in self.probabilities(texts).argmax(axis=1)]

    def probabilities(self, texts):
        """Return the probability of each label of `labels`: float array (N, C)."""
        check_texts(texts)
        if not texts:
            return np.zeros((0, len(self.labels)))
        rows, cut = encode_texts(self.tokenizer, texts, self.gpt.context_length)
        self.cut += cut
        return ops.convert_to_numpy(ops.softmax(np.stack(self.logits(rows)), axis=-1))


class Tagger(FineTuned):
    """A BIO tag for each word."""

    columns = ("tags",)

    def cells(self, texts):
        """Return the tags of each sentence, with spaces between them."""
        return [(" ".join(tags),) for tags in self.tags([text.split() for text in texts])]

    def predict_many(self, texts):
        """Return [(word, tag), ...] for each sentence, a str or a list of words."""
        sentences = [text.split() if isinstance(text, str) else list(text) for text in texts]
        for number, words in enumerate(sentences):
            check_texts(words)
            if not words:
                raise ValueError(f"texts must not be empty, got {texts[number]!r} at {number}.")
        tags = self.tags(sentences)
        pairs = zip(sentences, tags, strict=True)
        return [list(zip(words, own, strict=True)) for words, own in pairs]

    def tags(self, sentences):
        """Return the tags of lists of words: list of lists of str."""
        if not sentences:
            return []
        length = self.gpt.context_length
        pieces, divided = encode_sentences(self.tokenizer, sentences, length)
        self.cut += divided
        logits = self.logits([piece.token_ids for piece in pieces])
        scores = np.array(self.facts["tag_scores"])
        found = [
            [self.labels[tag] for tag in likeliest_tags(row[piece.places], scores)]
            for piece, row in zip(pieces, logits, strict=True)
        ]
        return join_tags(pieces, found, sentences)


class Writer(FineTuned):
    """An answer to each prompt: for questions, texts to be summarised, and chats."""

    columns = ("answer",)

    def cells(self, texts):
        """Return the answer to each prompt."""
        return [(answer,) for answer in self.predict_many(texts)]

    def predict_many(self, texts):
        """Return the answer to each prompt: list of str; always the likeliest tokens."""
        prompts = [self.prompt_ids(text) for text in texts]
        answers, new_tokens = [], self.facts["max_new_tokens"]
        size = rows_per_batch(len(prompts), self.facts["batch_size"])
        for some in batches(prompts, size):
            filled = some + [some[0]] * (size - len(some))
            rows = generate(self.model, filled, new_tokens, temperature=0, stop_token=self.end_id)
            stops = [] if self.end_id is None else [self.end_id]
            for prompt, row in zip(some, rows, strict=False):
                new = until_stop(np.asarray(row), len(prompt), stops)[len(prompt) :]
                answers.append(self.tokenizer.decode(new).split(NEXT_USER)[0].strip())
        return answers

    def stream(self, text, **settings):
        """Answer one prompt or chat piece by piece.

        Args:
            text: str, or list of messages {"role", "content"}.
            **settings: further arguments of `tfgpt.stream`, such as temperature.

        Returns:
            generator of str.
        """
        settings = {
            "temperature": 0,
            "stop_token": self.end_id,
            "stop_strings": [NEXT_USER],
            **settings,
        }
        new = self.facts["max_new_tokens"]
        pieces = stream(self.model, self.tokenizer, self.prompt_ids(text), new, **settings)
        yield from without_first_space(pieces)

    def prompt_ids(self, text):
        """Write a prompt as the model has learned it; a long one loses its beginning.

        Where a question or a text is too long, its beginning goes; of a chat the first turns.
        """
        if isinstance(text, str):
            check_texts([text])
        token_ids = asked_ids(self.tokenizer, self.task, text)
        room = self.gpt.context_length - self.facts["max_new_tokens"]
        self.cut += len(token_ids) > room
        return np.array(token_ids[-room:], "int32")


KINDS = {
    "classify": Classifier,
    "tag": Tagger,
    "qa": Writer,
    "summarise": Writer,
    "chat": Writer,
    "lm": Writer,
}


def load_base(name):
    """Load the model that a fine-tuning begins with.

    Args:
        name: "base_en" or "base_zh", which are bundled; the folder of a bundle, such as a
            run folder; or what `tfgpt.pretrained.load_gpt2` takes: "gpt2", a folder.

    Returns:
        GPT and its tokenizer.

    Raises:
        FileNotFoundError: if there is no such model.
        ValueError: if it has no tokenizer, or a file is damaged.
    """
    folder = DATA_FOLDER / "checkpoints" / name if name in BASES else Path(name)
    if is_bundle(folder):
        gpt, tokenizer = load_bundle(folder, "GPT")
    else:
        gpt, tokenizer = load_gpt2(name)
    if tokenizer is None:
        raise ValueError(f"base must have a tokenizer, got {str(name)!r} without one.")
    if tokenizer.pad_id is None and getattr(tokenizer, "end_id", None) is None:
        raise ValueError(f"base must have a padding or end token, got {str(name)!r} with neither.")
    return gpt, tokenizer


def is_bundle(folder):
    """Say whether a folder has the config.json of a bundle."""
    try:
        return bool(read_config(folder))
    except (FileNotFoundError, ValueError):
        return False


def load_finetuned(folder, base=None):
    """Read a model that `tfgpt finetune` wrote.

    Args:
        folder: path, the --out of the command.
        base: the base of adapters, if it is not where it was; see `load_base`.

    Returns:
        Classifier, Tagger or Writer; each has `predict(texts)`.

    Raises:
        FileNotFoundError: if a file or the base is missing.
        ValueError: if a file is damaged, or the base is another one.

    Example:
        >>> import tempfile
        >>> from tfgpt import BPETokenizer, GPT
        >>> tokenizer = BPETokenizer.train("good bad", vocab_size=259)
        >>> gpt = GPT(259, 16, num_layers=1, d_model=8, num_heads=2, pad_id=0)
        >>> facts = {"task": "classify", "labels": ["bad", "good"], "pooling": "mean",
        ...          "buckets": [8], "batch_size": 2, "method": "full", "base": "none"}
        >>> folder = tempfile.mkdtemp()
        >>> save_finetuned(folder, make_task_model(gpt, tokenizer, facts), tokenizer, facts)
        >>> load_finetuned(folder).predict("good") in ("bad", "good")  # untrained
        True
    """
    folder = Path(folder)
    facts = read_task(folder)
    if (folder / ADAPTER).is_dir():
        gpt, tokenizer = load_base(base or facts["base"])
        gpt = load_adapters(gpt, folder / ADAPTER).model
    else:
        gpt, tokenizer = load_bundle(folder, "GPT")
    model = make_task_model(gpt, tokenizer, facts)
    if model is not gpt:
        load_head(model, folder / HEAD)
    return KINDS[facts["task"]](model, tokenizer, facts)


def make_task_model(gpt, tokenizer, facts, dropout=0.0):
    """Put a head for a task on a GPT; a task that writes needs none."""
    if facts["task"] == "classify":
        pad_id = padding_id(tokenizer)
        return TextClassifier(gpt, len(facts["labels"]), pad_id, facts["pooling"], dropout)
    if facts["task"] == "tag":
        return TokenTagger(gpt, len(facts["labels"]), dropout)
    return gpt


def save_finetuned(folder, model, tokenizer, facts, adapters=None):
    """Write a fine-tuned model; see `load_finetuned`.

    Args:
        folder: path; made if it does not exist.
        model: TextClassifier, TokenTagger or GPT.
        tokenizer: tokenizer of the model.
        facts: dict with task, labels, pooling, buckets, batch_size, method and base.
        adapters: Adapters or VirtualTokens: only they are written, not their base.

    Raises:
        ValueError: if a weight is NaN or infinite.
    """
    from safetensors.numpy import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    gpt = getattr(model, "gpt", model)
    if adapters is None:
        save_bundle(folder, gpt, tokenizer)
    else:
        save_adapters(adapters, folder / ADAPTER)
    if model is not gpt:
        arrays = {name: ops.convert_to_numpy(w) for name, w in head_weights(model).items()}
        with replaced_file(folder / HEAD) as path:
            save_file(arrays, path)
    with replaced_file(folder / TASK) as path:  # last: with it the folder is whole
        path.write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")


def read_task(folder):
    """Read task.json; raise if it is missing or damaged."""
    path = Path(folder) / TASK
    if not path.is_file():
        raise FileNotFoundError(
            f"folder must hold a fine-tuned model, got {str(folder)!r} without {TASK}."
        )
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        if facts["task"] in KINDS and all(isinstance(size, int) for size in facts["buckets"]):
            return facts
        raise ValueError(f"the task {facts['task']!r} is not known")
    except (ValueError, KeyError, TypeError, RecursionError) as error:  # JSON errors too
        raise ValueError(f"folder must hold an undamaged {TASK}, got {str(path)!r}.") from error


def head_weights(model):
    """Map "kernel", "bias" and, of a norm, "gamma" and "beta" to what stands on the GPT."""
    own = {id(weight) for weight in model.gpt.weights}
    weights = [weight for weight in model.weights if id(weight) not in own]
    return {weight.path.rpartition("/")[2]: weight for weight in weights}


def load_head(model, path):
    """Fill what stands on a GPT; raise unless names, shapes and numbers are right."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    weights = head_weights(model)
    try:
        arrays = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"folder must hold an undamaged head, got {str(path)!r}.") from error
    expected = {name: tuple(weight.shape) for name, weight in weights.items()}
    found = {name: array.shape for name, array in arrays.items()}
    if expected != found or not all(np.isfinite(array).all() for array in arrays.values()):
        raise ValueError(f"head must have finite weights {expected}, got {found} in {str(path)!r}.")
    for name, weight in weights.items():
        weight.assign(arrays[name])


def check_texts(texts):
    """Raise unless all texts are str with something in them."""
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts must be str, got {type(text).__name__} at {place}.")
        if not text.strip():
            raise ValueError(f"texts must not be empty, got {text!r} at {place}.")
