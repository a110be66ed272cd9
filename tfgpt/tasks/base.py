"""Base models: small GPTs that have read all bundled texts of one language.

They stand in for GPT-2 where nothing can be downloaded: `tfgpt finetune` starts from them.
What the fine-tuning tasks hold out for validation and test is never read here.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tfgpt.bundle import save_bundle
from tfgpt.data import load_pairs, load_text, random_batches, window_batches
from tfgpt.data.chat import dialogue_parts, join_parts, prompt_parts
from tfgpt.data.labelled import load_answers, load_dialogues, load_labelled, split_examples
from tfgpt.gpt import GPT
from tfgpt.tasks.recipe import train_task
from tfgpt.tokenizers import BPETokenizer
from tfgpt.validation import check_choice, check_positive

BASES = ("base_en", "base_zh")
HELD_OUT_EVERY = 50  # one document of so many is held out, for the loss that is reported
SPEECHES = 20  # of a play, neighbours, make one document


@dataclass(frozen=True)
class BaseSettings:
    """Sizes of a base model, chosen for minutes on two CPU cores and 6 MB in 16 bits.

    Args:
        steps: int, training steps.
        vocab_size: int, V, byte pairs and special tokens.
        context_length: int, T.
        batch_size: int, B.
        num_layers: int, L.
        d_model: int, D.
        num_heads: int, H.
    """

    steps: int = 1200
    vocab_size: int = 5000
    context_length: int = 256
    batch_size: int = 16
    num_layers: int = 4
    d_model: int = 192
    num_heads: int = 6


SETTINGS = {"base_en": BaseSettings(), "base_zh": BaseSettings(steps=800)}


def pretrain_base(name="base_en", run_dir=None, steps=None, seed=0, resume=False):
    """Train a base model and write its bundle, `run_dir`/base.

    Args:
        name: "base_en" (Shakespeare, verses, definitions, package descriptions, dialogues,
            quiz) or "base_zh" (poems, reviews, dialogues).
        run_dir: folder to write to; None: runs/ and the name.
        steps: int >= 1, training steps; None: those of SETTINGS.
        seed: int >= 0, of weights and batches.
        resume: bool, go on from the last checkpoint in run_dir.

    Returns:
        list of dicts, the history of the training.

    Raises:
        ValueError: if an argument is outside its range.
    """
    check_choice("name", name, BASES)
    settings = SETTINGS[name]
    steps = check_positive("steps", settings.steps if steps is None else steps)
    folder = Path(run_dir or f"runs/{name}")
    training, held_out = split_documents(documents_of(name))
    tokenizer = BPETokenizer.train(training, settings.vocab_size)
    token_ids, held_out_ids = (join_ids(tokenizer, part) for part in (training, held_out))
    size = sum(len(text.encode()) for text in held_out) / len(held_out_ids)
    print(
        f"{len(training):,} documents, {len(token_ids):,} tokens, {size:.2f} bytes per token; "
        f"held out {len(held_out):,} documents, {len(held_out_ids):,} tokens."
    )
    sizes = settings.context_length, settings.batch_size
    model, history = train_task(
        lambda: GPT(
            tokenizer.vocab_size,
            settings.context_length,
            settings.num_layers,
            settings.d_model,
            settings.num_heads,
            positions="rotary",
            pad_id=tokenizer.pad_id,
        ),
        folder,
        steps,
        random_batches(token_ids, *sizes, seed=seed),
        seed=seed,
        resume=resume,
        facts={"settings": asdict(settings)},
        title=name,
        validation_data=window_batches(held_out_ids, *sizes),
        validate_every=250,
        tokenizer=tokenizer,
        mixed_precision="bfloat16",
    )
    loss = history[-1]["val_loss"]
    facts = {
        "name": name,
        "tokens": len(token_ids),
        "steps": steps,
        "seconds": round(history[-1]["seconds"]),
        "held_out_loss": loss,
        "held_out_bits_per_byte": None if loss is None else loss / size / np.log(2),
    }
    plain = GPT.from_config({**model.get_config(), "dtype": "float32"})
    plain.set_weights(model.get_weights())
    save_bundle(folder / "base", plain, tokenizer, "float16", base=facts)
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    return history


def documents_of(name):
    """List the texts that a base model reads, without what the tasks hold out."""
    if name == "base_zh":
        poems = [poem.strip() for poem in load_text("chinese_poems").split("\n\n")]
        return [*poems, *training_texts("reviews_zh"), *dialogue_texts("chinese")]
    plays = load_text("shakespeare")
    plays = plays[: len(plays) * 9 // 10]  # the demo holds out the rest
    verses = load_pairs("verses_kjv-modern")
    chapters = {}
    for old, modern, chapter in zip(verses.sources, verses.targets, verses.groups, strict=True):
        for version, verse in (("old", old), ("modern", modern)):
            chapters.setdefault((chapter, version), []).append(verse)
    return [
        *groups_of(plays.split("\n\n"), SPEECHES, "\n\n"),
        *("\n".join(verses) for verses in chapters.values()),
        *training_texts("definitions"),
        *answer_texts("summaries", "summarise"),
        *answer_texts("quiz", "qa"),
        *dialogue_texts("english"),
    ]


def groups_of(texts, size, separator):
    """Join each `size` neighbouring texts to one."""
    return [separator.join(texts[i : i + size]) for i in range(0, len(texts), size)]


def training_texts(source):
    """List the texts of the training part of a bundled classification."""
    return split_examples(load_labelled(source))[0].texts


def answer_texts(source, task):
    """Write prompts with their answers, of the training part, in the form of their task."""
    examples = split_examples(load_answers(source))[0]
    rows = zip(examples.texts, examples.labels, strict=True)
    return [join_parts(prompt_parts(task, *row)) for row in rows]


def dialogue_texts(language):
    """Write the dialogues of the training part in the form of a chat."""
    examples = split_examples(load_dialogues("dialogues", language))[0]
    return [join_parts(dialogue_parts(messages)) for messages in examples.labels]


def split_documents(documents):
    """Hold out every fiftieth document for the loss."""
    held_out = documents[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]
    training = [text for place, text in enumerate(documents, 1) if place % HELD_OUT_EVERY]
    return training, held_out


def join_ids(tokenizer, documents):
    """Encode documents one after the other, each with an end token: int32 array (N,)."""
    ends = [tokenizer.end_id]
    rows = [ids for text in documents for ids in (tokenizer.encode(text), ends)]
    return np.concatenate(rows).astype("int32")
