"""Train a translator on pairs of texts, and score it beside trivial baselines.

Everything a training makes goes into one folder: checkpoint, history.csv, loss.png,
translator (config, weights, tokenizer), scores.txt, translations.tsv, attention.html.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from tfgpt.data.pairs import (
    encode_pairs,
    load_pairs,
    pair_batches,
    pair_windows,
    short_pairs,
    split_pairs,
)
from tfgpt.losses import perplexity
from tfgpt.tasks.recipe import train_task
from tfgpt.tasks.scores import check_language, format_scores, score_translations
from tfgpt.tasks.translator import Translator
from tfgpt.tokenizers import BPETokenizer
from tfgpt.training import evaluate
from tfgpt.transformer import Transformer
from tfgpt.validation import check_positive

# The language of the targets chooses the stemmer of METEOR.
TARGET_LANGUAGES = {"verses_en-es": "spanish"}


@dataclass(frozen=True)
class TranslationSettings:
    """Sizes of a translator and of its training.

    Args:
        num_layers: int, L layers in the encoder and L in the decoder.
        d_model: int, D.
        num_heads: int, H.
        dropout: float in [0, 1).
        vocab_size: int >= 259, byte-pair tokens for both languages together.
        buckets: ascending lengths; the last one is the longest text, in tokens.
        batch_tokens: int, tokens of a batch on each side.
        steps: int, training steps.
        label_smoothing: float in [0, 1).
    """

    num_layers: int = 3
    d_model: int = 160
    num_heads: int = 4
    dropout: float = 0.3
    vocab_size: int = 4000
    buckets: tuple = (24, 32, 40, 64)
    batch_tokens: int = 2048
    steps: int = 4000
    label_smoothing: float = 0.1


# About 0.2 s per step on two CPU cores.
SMALL = TranslationSettings(num_layers=2, d_model=96, vocab_size=2000, dropout=0.1, steps=500)


def train_translation(
    corpus="verses_en-es",
    target_file=None,
    run_dir="runs/translation",
    settings=None,
    seed=0,
    resume=False,
    language=None,
):
    """Train a translator, write it, and score it on chapters it has never seen.

    Args:
        corpus: a bundled corpus, a TSV file, or a file of sources; see `load_pairs`.
        target_file: file of translations, if corpus is a file of sources.
        run_dir: folder to write to; an earlier run there is kept beside it.
        settings: TranslationSettings; None: the default sizes.
        seed: int >= 0, seeds initial weights, dropout and the order of batches.
        resume: bool, go on from the last checkpoint in run_dir.
        language: str, the language of the targets, such as "spanish": the stemmer of
            METEOR; None: known for a bundled corpus, else "english".

    Returns:
        Translator, and the dict of scores that `score_translations` returns.

    Raises:
        FileNotFoundError: if there is no such corpus.
        ValueError: if the corpus is unusable or an argument is outside its range.
    """
    settings = settings or TranslationSettings()
    language = language or TARGET_LANGUAGES.get(corpus, "english")
    check_language(language)  # before an hour of training
    check_positive("steps", settings.steps)
    training, validation, test = split_pairs(load_pairs(corpus, target_file))
    folder = Path(run_dir)
    translator, history = fit_translator(
        training, validation, settings, seed, folder, resume, title=str(corpus)
    )
    translator.save(folder / "translator")
    # What is measured is what was written: weights rounded to float16.
    translator = Translator.load(folder / "translator")
    return translator, write_scores(translator, test, training, language, folder)


def fit_translator(training, validation, settings, seed=0, run_dir=None, resume=False, title=None):
    """Train tokenizer and model on pairs.

    Args:
        training: Pairs; tokenizer and model see nothing else.
        validation: Pairs, for the held-out loss.
        settings: TranslationSettings.
        seed: int >= 0.
        run_dir: folder for history and checkpoints, or None.
        resume: bool, go on from the last checkpoint in run_dir.
        title: str, of the figure of the history.

    Returns:
        Translator, and the history that `train` returns.

    Raises:
        ValueError: if no pair is short enough, or an argument is outside its range.
    """
    texts = [f" {text}" for text in training.sources + training.targets]
    tokenizer = BPETokenizer.train(texts, settings.vocab_size)
    max_length = settings.buckets[-1]
    encoded, held_out = (
        encode_pairs(short_pairs(part, tokenizer, max_length), tokenizer)
        for part in (training, validation)
    )
    shapes = settings.buckets, settings.batch_tokens
    print(f"{len(training):,} pairs, {tokenizer.vocab_size:,} tokens. The first pair:")
    print(f"    {training.sources[0]}\n    {training.targets[0]}")
    model, history = train_task(
        lambda: make_model(settings, tokenizer.vocab_size),
        run_dir,
        settings.steps,
        pair_batches(encoded, *shapes, seed),
        seed=seed,
        resume=resume,
        facts={"settings": asdict(settings)},
        title=title,
        validation_data=pair_windows(held_out, *shapes),
        label_smoothing=settings.label_smoothing,
        tokenizer=tokenizer,
    )
    return Translator(model, tokenizer), history


def make_model(settings, vocab_size):
    """Make the untrained Transformer of these settings."""
    return Transformer(
        settings.num_layers,
        settings.d_model,
        settings.num_heads,
        4 * settings.d_model,
        vocab_size,
        vocab_size,
        max_length=settings.buckets[-1],
        dropout=settings.dropout,
        norm_first=True,
        tie_embeddings=True,
    )


def write_scores(translator, test, training, language, folder):
    """Translate the test pairs; write and print scores, examples and one alignment.

    Args:
        translator: Translator.
        test: Pairs of chapters that it has never seen.
        training: Pairs, for the most frequent sentence.
        language: str, of the targets.
        folder: Path to write to.

    Returns:
        dict of scores, as `score_translations` returns it.
    """
    test = short_pairs(test, translator.tokenizer, translator.max_length)
    hypotheses = translator.translate(test.sources)
    scores = score_translations(
        hypotheses, test.targets, test.sources, training.targets, language=language
    )
    table = "\n".join((loss_line(translator, test), format_scores(scores)))
    (folder / "scores.txt").write_text(table + "\n", encoding="utf-8")
    rows = zip(test.sources, hypotheses, test.targets, strict=True)
    lines = ["\t".join(row) for row in (("source", "translation", "reference"), *rows)]
    (folder / "translations.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    translator.align(test.sources[0]).view(test.sources[0], save=folder / "attention.html")
    for line in lines[1:4]:
        print("\n".join(("", *line.split("\t"))))
    print(f"\n{table}\nEverything is in {folder}.")
    return scores


def loss_line(translator, test):
    """Say in one line how surprised the model is by the reference translations."""
    windows = pair_windows(encode_pairs(test, translator.tokenizer), [translator.max_length], 2048)
    loss = evaluate(translator.model, windows)["loss"]
    return (
        f"{len(test):,} test pairs of unseen chapters: loss {loss:.3f} nats per token, "
        f"perplexity {perplexity(loss):.2f}"
    )
