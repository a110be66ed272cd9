"""The settings of `tfgpt train`: defaults, presets, a TOML file, `--set key=value`.

One table says name, type, default and meaning of each; the command line, the file and the
record of a run are made from it. The help of the command reads it too, so this module needs
the standard library only until values are checked.
"""

import json
import os
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path

FILE = "config.toml"
COUNTS = (
    *("steps", "tokens", "batch_size", "accumulate", "context", "layers", "width", "heads"),
    *("replicas", "warmup_steps", "log_every", "validate_every", "validation_batches"),
    *("patience", "checkpoint_every", "keep_checkpoints", "sample_every", "vocab_size"),
)
RANGES = {
    **dict.fromkeys(("minutes", "learning_rate", "clip_norm"), (0, float("inf"))),
    **{"checkpoint_minutes": (0, float("inf")), "spike": (1, float("inf"))},
    **dict.fromkeys(("held_out", "ema"), (0, 1)),
}
LENGTHS = ("steps", "tokens", "minutes")  # of a training: one of them
PATHS = ("corpus", "validation", "corpora", "tokenizer", "init_from")
NAMED = {"corpus": ("shakespeare", "chinese_poems"), "tokenizer": ("char", "bpe")}
# What `make_train_step` calls it.
COMPILED = {"parts": "parts", "whole": True, "none": False}
# (layers, width, heads, context) of a preset.
PRESETS = {
    "tiny": (4, 96, 4, 128),
    "small": (6, 192, 6, 256),
    "base": (6, 384, 6, 256),
    "gpt2": (12, 768, 12, 1024),
    "gpt2-medium": (24, 1024, 16, 1024),
    "gpt2-large": (36, 1280, 20, 1024),
    "gpt2-xl": (48, 1600, 25, 1024),
}


def setting(default, help):
    """Describe one setting: its default and what it means."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class TrainSettings:
    """Everything that decides what a run of `tfgpt train` computes.

    Each field says in its metadata what it means. None: chosen by the data or another field.

    Raises:
        ValueError: if a value is outside its range or two do not fit together.
        TypeError: if a value has another type.
    """

    corpus: tuple[str, ...] = setting(("shakespeare",), "files, folders or patterns of texts")
    validation: tuple[str, ...] = setting((), "files of your own to measure the loss on")
    field: str | None = setting(None, "name of the text in JSONL, CSV or Parquet")
    encoding: str = setting("utf-8", "of the text files, such as gbk or utf-16")
    separator: str | None = setting(None, "text between two documents of a plain text file")
    held_out: float | None = setting(None, "part of the corpus that the loss is measured on")
    corpora: str | None = setting(None, "folder for encoded texts; by default beside --out")
    tokenizer: str = setting("bpe", "char, bpe, or the folder of a model or tokenizer")
    vocab_size: int | None = setting(None, "pieces that bpe learns; by the size of the corpus")
    init_from: str | None = setting(None, "folder of a model to go on training from")
    preset: str = setting("tiny", f"size of the model: {', '.join(PRESETS)}")
    layers: int | None = setting(None, "blocks, in place of the preset's")
    width: int | None = setting(None, "numbers per token, a multiple of the heads")
    heads: int | None = setting(None, "heads of each block")
    context: int | None = setting(None, "the most tokens that the model reads at once")
    dropout: float = setting(0.0, "share of numbers that are left out while learning")
    steps: int | None = setting(None, "length of the training in steps")
    tokens: int | None = setting(None, "length of the training in tokens")
    minutes: float | None = setting(None, "length of the training in minutes on this machine")
    batch_size: int = setting(16, "texts per step")
    accumulate: int = setting(1, "parts in which a batch is computed, to save memory")
    optimizer: str = setting("muon", "muon, adamw, lion or sgd")
    learning_rate: float | None = setting(None, "the highest; by default of the optimizer")
    schedule: str = setting("linear", "linear, cosine, constant, stable-decay or inverse-root")
    warmup_steps: int = setting(100, "steps until the highest rate")
    weight_decay: float = setting(0.1, "of matrices, not of biases and norms")
    clip_norm: float = setting(1.0, "the largest norm of a gradient")
    ema: float | None = setting(None, "how slowly moving averages of the weights move: 0.999")
    precision: str = setting("float32", "float32, bfloat16 or float16")
    compile: str | None = setting(None, "what XLA compiles: parts, whole or none; by the size")
    replicas: int = setting(1, "devices of this machine that share each batch")
    seed: int = setting(0, "of weights, batches and samples")
    log_every: int = setting(10, "steps between rows of the history")
    validate_every: int = setting(250, "steps between validations")
    validation_batches: int = setting(50, "batches that a validation reads")
    patience: int | None = setting(None, "validations without a lower loss before the end")
    checkpoint_every: int = setting(250, "steps between checkpoints")
    checkpoint_minutes: float | None = setting(10.0, "minutes between checkpoints at most")
    keep_checkpoints: int = setting(2, "how many checkpoints stay")
    keep_best: bool = setting(True, "keep the weights with the lowest loss in OUT/best")
    sample_every: int | None = setting(None, "steps between samples of text")
    prompt: str | None = setting(None, "what samples begin with")
    tensorboard: bool = setting(False, "write OUT/tensorboard: losses, samples, attention")
    on_fault: str = setting("stop", "at a loss that is no number: stop, skip or rollback")
    spike: float | None = setting(None, "a loss so many times the last ones is a fault")
    on_write_error: str = setting("stop", "when the disk is full: stop or continue")

    def __post_init__(self):
        from tfgpt.schedules import OPTIMIZERS, SCHEDULES
        from tfgpt.validation import check_choice, check_integer, check_positive

        for entry in fields(self):
            value = checked_type(entry.name, getattr(self, entry.name), entry.type)
            object.__setattr__(self, entry.name, value)
        check_choice("preset", self.preset, tuple(PRESETS))
        check_choice("on_fault", self.on_fault, ("stop", "skip", "rollback"))
        check_choice("on_write_error", self.on_write_error, ("stop", "continue"))
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("precision", self.precision, ("float32", "bfloat16", "float16"))
        check_choice("compile", self.compile or "none", tuple(COMPILED))
        check_integer("seed", self.seed, minimum=0)
        if self.seed >= 2**32:
            raise ValueError(f"seed must be below 2**32, got {self.seed}.")
        for name in COUNTS:
            if getattr(self, name) is not None:
                check_positive(name, getattr(self, name))
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not low < value < high:
                raise ValueError(f"{name} must be in ({low}, {high}), got {value!r}.")
        for name in ("dropout", "weight_decay"):
            if not 0 <= getattr(self, name) < (1 if name == "dropout" else float("inf")):
                value = getattr(self, name)
                raise ValueError(f"{name} must be >= 0, and dropout < 1, got {value!r}.")
        _, width, heads, _ = self.sizes()
        if self.init_from is None and width % heads:
            raise ValueError(f"width must be a multiple of heads={heads}, got {width}.")
        if self.tokenizer == "char" and self.vocab_size is not None:
            raise ValueError("vocab_size must be left out with characters: each is a token.")
        lengths = [name for name in LENGTHS if getattr(self, name)]
        if len(lengths) > 1:
            raise ValueError(f"the length must be given once, got {' and '.join(lengths)}.")

    def sizes(self):
        """Return (layers, width, heads, context): the preset's, and what was given."""
        given = (self.layers, self.width, self.heads, self.context)
        pairs = zip(given, PRESETS[self.preset], strict=True)
        return tuple(preset if value is None else value for value, preset in pairs)


def checked_type(name, value, kind):
    """Return a value as the type of its field; raise if it has another one."""
    kinds = [part.strip() for part in getattr(kind, "__name__", str(kind)).split("|")]
    if value is None and "None" in kinds:
        return None
    if kinds[0].startswith("tuple"):
        values = [value] if isinstance(value, str) else value
        if isinstance(values, (list, tuple)) and all(isinstance(v, str) for v in values):
            return tuple(values)
    elif kinds[0] == "float" and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    elif type(value).__name__ == kinds[0]:
        return value
    raise TypeError(f"{name} must be of type {' or '.join(kinds)}, got {value!r}.")


def read_settings(path):
    """Read settings from a TOML file.

    Args:
        path: file, or the folder of a run.

    Returns:
        dict of the settings that stand in it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no TOML, or names an unknown setting.
    """
    path = Path(path) / FILE if Path(path).is_dir() else Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"config must be a TOML file or the folder of a run, got {str(path)!r}."
        )
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"config must be a TOML file, got {str(path)!r}: {error}.") from error
    check_names(content, str(path))
    return content


def check_names(values, where):
    """Raise if a name is that of no setting; propose the nearest."""
    import difflib

    names = [entry.name for entry in fields(TrainSettings)]
    for name in values:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f": did you mean {near[0]}?" if near else f": they are {', '.join(names)}."
            raise ValueError(f"{where} must hold known settings, got {name!r}{hint}")


def absolute_paths(values):
    """Return settings whose paths are whole; the names of what is bundled stay.

    Args:
        values: dict of settings.

    Returns:
        dict of those of them that hold paths.
    """

    def absolute(name, item):
        is_path = isinstance(item, str) and item and item not in NAMED.get(name, ())
        return os.path.abspath(os.path.expanduser(item)) if is_path else item

    found = {name: values[name] for name in PATHS if name in values}
    for name, value in found.items():
        is_list = isinstance(value, (list, tuple))
        found[name] = [absolute(name, x) for x in value] if is_list else absolute(name, value)
    return found


def parse_assignments(assignments):
    """Read `key=value` texts, with values as in TOML; a text needs no quotes.

    Example:
        >>> parse_assignments(["steps=200", "optimizer=adamw", "keep_best=false"])
        {'steps': 200, 'optimizer': 'adamw', 'keep_best': False}
    """
    values = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(f"--set needs key=value, got {assignment!r}.")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        values[name.strip().replace("-", "_")] = value
    check_names(values, "--set")
    return values


def write_settings(path, settings):
    """Write all settings that have a value as TOML, each with its meaning.

    Args:
        path: file.
        settings: TrainSettings.
    """
    from tfgpt.bundle import replaced_file

    lines = ["# Repeat this run: tfgpt train --config FILE --out FOLDER"]
    for entry in fields(settings):
        value = getattr(settings, entry.name)
        lines.append(f"\n# {entry.metadata['help']}")
        # TOML writes these values as JSON does, but for the delete character.
        text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        lines.append(f"# {entry.name} =" if value is None else f"{entry.name} = {text}")
    with replaced_file(Path(path)) as part:
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")
