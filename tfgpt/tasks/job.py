"""One run of `tfgpt train`, with all values decided: the corpus, the sizes, the steps."""

import hashlib
import itertools
import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import keras
import numpy as np

from tfgpt.bundle import TOKENIZER, load_bundle
from tfgpt.checkpoints import newest_place
from tfgpt.data import find_files
from tfgpt.data.corpus import prepare_corpus
from tfgpt.data.sources import size_of
from tfgpt.data.token_batches import TokenBatches, Tokens, held_out_batches
from tfgpt.generation.text_model import sample_start
from tfgpt.gpt import GPT
from tfgpt.plotting import plot_history
from tfgpt.replicas import scope_of
from tfgpt.run_folder import holds_run, read_run, set_aside
from tfgpt.schedules import RATES, make_optimizer, make_schedule
from tfgpt.tasks.language_model import LanguageModel
from tfgpt.tasks.own_tokenizer import make_tokenizer
from tfgpt.tasks.settings import (
    COMPILED,
    FILE,
    LENGTHS,
    PATHS,
    TrainSettings,
    absolute_paths,
    read_settings,
    write_settings,
)
from tfgpt.tokenizers import load_tokenizer
from tfgpt.training import make_train_step, set_seed, train
from tfgpt.workers import from_chief, is_chief

MANY_PASSES = 20  # over a text: from here on it is learned by heart
DEFAULT_MINUTES = 5.0
SMALL_WIDTH = 128  # up to it XLA for the whole step is faster in float32
TOKENIZER_ADVICE = "Give all of them one tokenizer: --tokenizer FOLDER."
SETTINGS_ADVICE = "Give all of them the same options, or config.toml of the first: --config FILE."


class WriteSettings(keras.callbacks.Callback):
    """Write the settings of a run when its training begins.

    Args:
        path: Path.
        settings: TrainSettings.
    """

    def __init__(self, path, settings):
        super().__init__()
        self.path, self.settings = path, settings

    def on_train_begin(self, logs=None):
        """Write the file."""
        write_settings(self.path, self.settings)


class Job:
    """One run of `tfgpt train`: the texts, the tokenizer, the sizes, all values decided.

    Args:
        settings: TrainSettings.
        out: Path, the folder of the run.
        resume: bool, go on with the run in `out`.
        strategy: tf.distribute strategy, or None.
    """

    def __init__(self, settings, out, resume=False, strategy=None):
        corpora = Path(settings.corpora or out.parent / "corpora")
        self.out, self.resume, self.strategy = out, resume, strategy
        self.files = find_files(list(settings.corpus))
        self.reading = {
            "field": settings.field,
            "encoding": settings.encoding,
            "separator": settings.separator,
        }
        self.start = None if settings.init_from is None else load_start(settings.init_from)
        self.tokenizer = self.find_tokenizer(settings, corpora)
        settings = decided(settings, self.files, self.tokenizer, self.start)
        self.corpus = prepare_corpus(
            self.files, self.tokenizer, corpora, held_out=settings.held_out, **self.reading
        )
        self.training, self.held_out = self.corpus.training, self.corpus.held_out
        if settings.validation:
            files = validation_files(settings.validation)
            own = prepare_corpus(files, self.tokenizer, corpora, **self.reading)
            self.training = Tokens([*self.training.segments, *self.held_out.segments])
            self.held_out = Tokens([*own.training.segments, *own.held_out.segments])
        self.check_lengths(settings)
        check_same_everywhere(strategy, self.corpus.key, "texts and tokenizer", TOKENIZER_ADVICE)
        check_same_everywhere(strategy, digest_of_settings(settings), "settings", SETTINGS_ADVICE)
        settings, self.plan = self.with_steps(settings)
        # The first process may go on in a folder that the others do not have.
        self.settings = located(replace(settings, steps=int(from_chief(strategy, settings.steps))))

    def find_tokenizer(self, settings, corpora):
        """Return the tokenizer of the run so far, of the model to go on from, or a new one."""
        if self.resume and (self.out / TOKENIZER).exists():
            return load_tokenizer(self.out / TOKENIZER)
        if self.start is not None:
            return self.start[1]
        kind, size = settings.tokenizer, settings.vocab_size
        return make_tokenizer(kind, size, self.files, self.reading, keep_in=corpora)

    def check_lengths(self, settings):
        """Raise unless both parts of the corpus fill a context."""
        part = "validation" if settings.validation else "held-out part of the corpus"
        for name, tokens in (("corpus", self.training), (part, self.held_out)):
            if len(tokens) <= settings.context:
                raise ValueError(
                    f"the {name} must have more than context={settings.context} tokens, got "
                    f"{len(tokens):,}: use more text or a shorter --context"
                    + (", or another --held-out." if name != "validation" else ".")
                )

    def with_steps(self, settings):
        """Return settings with the length in steps, and the plan: see `steps_to_go_on`.

        The length is as given, by tokens, or by a measurement.
        """
        per_step = settings.batch_size * settings.context
        is_measured = settings.minutes or (settings.steps is None and settings.tokens is None)
        if is_measured and self.strategy is not None:
            raise ValueError(
                "--steps or --tokens must be given for several devices or processes: each "
                "would measure other --minutes."
            )
        if is_measured:
            settings = self.with_minutes(settings)
        if self.resume:
            steps, plan = steps_to_go_on(self.out, settings, per_step)
        else:
            steps = settings.steps or -(-settings.tokens // per_step)
            plan = {"steps": steps, "tokens": steps * per_step}
        return replace(settings, steps=steps, tokens=None, minutes=None), plan

    def with_minutes(self, settings):
        """Return settings with the steps that a time is enough for, behind those that are done."""
        minutes = settings.minutes or DEFAULT_MINUTES
        print("Measuring the speed of a step, to know how many there are in the time.")
        seconds = self.measure_step(replace(settings, steps=1000, minutes=None))
        done = newest_place(self.out / "checkpoint")[0] if self.resume else 0
        return replace(settings, steps=done + max(round(60 * minutes / seconds), 1), minutes=None)

    def measure_step(self, settings):
        """Return the seconds of a step, the median of some after the first two."""
        with scope_of(self.strategy):
            model, optimizer = self.make_model(settings), optimizer_of(settings)
        step = make_train_step(model, optimizer, **step_options(settings, self))
        times = []
        for batch in itertools.islice(self.batches(settings).batches_from(0), 12):
            begin = time.perf_counter()
            float(step(batch)["loss"])
            times.append(time.perf_counter() - begin)
            if sum(times) > 30 and len(times) > 3:
                break
        return float(np.median(times[2:]))

    def make_model(self, settings):
        """Make the untrained model, or the one to go on from."""
        set_seed(settings.seed)
        shape = (settings.layers, settings.width, settings.heads)
        if self.start is not None:
            config = {**self.start[0].get_config(), "dropout": settings.dropout}
            model = GPT.from_config(config)
            model.set_weights(self.start[0].get_weights())
            return model
        if settings.preset.startswith("gpt2"):
            from tfgpt.pretrained.gpt2 import gelu_tanh

            own = {"activation": gelu_tanh}
        else:
            own = {"positions": "rotary"}
        pad_id = self.tokenizer.pad_id
        return GPT(
            *(self.tokenizer.vocab_size, settings.context, *shape),
            dropout=settings.dropout,
            pad_id=pad_id,
            **own,
        )

    def batches(self, settings):
        """Make the training data."""
        return TokenBatches(
            *(self.training, settings.context, settings.batch_size, settings.seed),
            name=self.corpus.key,
        )

    def validation(self, batches):
        """Make the held-out data: at most so many batches, spread over the held-out text."""
        settings = self.settings
        return held_out_batches(
            *(self.held_out, settings.context, settings.batch_size, batches),
            ignored_id=self.ignored_id(),
        )

    def ignored_id(self):
        """Return the target id that does not count: padding, or what no token has."""
        return -100 if self.tokenizer.pad_id is None else self.tokenizer.pad_id

    def passes(self):
        """Return how many times the training text is read."""
        settings = self.settings
        return settings.steps * settings.batch_size * settings.context / len(self.training)

    def warnings(self):
        """List what the person should know before."""
        passes, notes = self.passes(), []
        if passes > MANY_PASSES:
            notes.append(
                f"the text is read {passes:,.0f} times, and will be learned by heart: take more "
                "text, a smaller model, fewer --steps, --dropout 0.1 or --patience 3."
            )
        return notes

    def describe(self):
        """Say in two lines what will be learned from."""
        size = self.corpus.text_bytes / (len(self.corpus.training) + len(self.corpus.held_out))
        settings = self.settings
        return (
            f"{self.corpus.documents:,} documents, {len(self.training):,} tokens to learn from, "
            f"{len(self.held_out):,} held out; {self.tokenizer.vocab_size:,} different ones, "
            f"{size:.2f} bytes each.\n"
            f"{settings.layers} blocks of width {settings.width} with {settings.heads} heads, "
            f"context {settings.context}; {settings.steps:,} steps of "
            f"{settings.batch_size * settings.context:,} tokens, {self.passes():,.1f} passes."
        )

    def train(self):
        """Train, write everything, and say what was reached."""
        settings = self.settings
        with scope_of(self.strategy):
            model, optimizer = self.make_model(settings), optimizer_of(settings)
        if is_chief():
            self.open_folder(model)
        history = train(
            *(model, self.batches(settings), settings.steps, optimizer),
            validation_data=lambda: self.validation(settings.validation_batches),
            validate_every=settings.validate_every,
            validation_batches=None,
            patience=settings.patience,
            log_every=settings.log_every,
            run_dir=self.out,
            checkpoint_every=settings.checkpoint_every,
            checkpoint_minutes=settings.checkpoint_minutes,
            keep_checkpoints=settings.keep_checkpoints,
            keep_best=settings.keep_best,
            on_write_error=settings.on_write_error,
            on_fault=settings.on_fault,
            spike=settings.spike,
            resume=self.resume,
            tokenizer=self.tokenizer,
            facts={"corpus": self.corpus.key, "seed": settings.seed, "plan": self.plan},
            callbacks=self.callbacks(model),
            **step_options(settings, self),
        )
        if is_chief():
            self.write_results(history)
        return history

    def open_folder(self, model):
        """Keep an earlier run aside, and say how large the model is."""
        print(
            f"{model.count_params():,} weights. The first step compiles the model and takes some "
            "seconds. Ctrl-C stops early and keeps the work so far."
        )
        if not self.resume and holds_run(self.out):
            set_aside(self.out)

    def callbacks(self, model):
        """Make the callbacks that were asked for, in the first of several processes."""
        from tfgpt.callbacks import SampleText, TensorBoardLog

        if not is_chief():
            return []
        # The settings are written when the run has accepted them.
        settings, found = self.settings, [WriteSettings(self.out / FILE, self.settings)]
        prompt = sample_start(self.tokenizer, settings.prompt)
        if settings.sample_every is not None:
            path = self.out / "samples.txt"
            found.append(SampleText(self.tokenizer, prompt, settings.sample_every, path))
        if settings.tensorboard:
            folder = self.out / "tensorboard"
            found.append(TensorBoardLog(folder, self.tokenizer, prompt, settings.log_every))
        return found

    def write_results(self, history):
        """Write the figure and a sample, and print the sample and the loss."""
        plot_history(history, title=f"loss of {self.out.name}", save=self.out / "loss.png")
        prompt = sample_start(self.tokenizer, self.settings.prompt)
        text_model = LanguageModel.load(self.out)
        sample = text_model.generate(
            *(prompt, min(200, 2 * text_model.model.context_length)),
            temperature=0.8,
            seed=self.settings.seed,
        )
        (self.out / "sample.txt").write_text(sample, encoding="utf-8")
        print(f"\n{sample.strip()}\n")
        targets = [targets for _, targets in self.validation(self.settings.validation_batches)]
        token_ids = np.concatenate([part[part != self.ignored_id()] for part in targets])
        bytes_per_token = text_model.count_bytes(token_ids) / len(token_ids)
        print(summary(history, bytes_per_token))
        print(f"Go on writing: tfgpt generate {self.out} --prompt TEXT")


def summary(history, bytes_per_token):
    """Say what a training reached; the bytes are those of the held-out tokens."""
    measured = [row for row in history if row["val_loss"] is not None]
    if not measured:
        return "No held-out loss was measured: the training ended too early."
    row = min(measured, key=lambda row: row["val_loss"])
    bits = row["val_loss"] / bytes_per_token / np.log(2)
    return (
        f"Lowest held-out loss {row['val_loss']:.3f} nats per token at step {row['step']:,}: "
        f"perplexity {np.exp(row['val_loss']):.2f}, {bits:.3f} bits per byte; "
        f"{history[-1]['seconds']:.0f} s in all."
    )


def optimizer_of(settings):
    """Make the optimizer with its schedule."""
    rate = make_schedule(
        settings.schedule, settings.steps, settings.learning_rate, settings.warmup_steps
    )
    return make_optimizer(settings.optimizer, rate, settings.weight_decay, settings.ema)


def step_options(settings, job):
    """Return what `make_train_step` is told beside model and optimizer."""
    options = {
        "pad_id": job.ignored_id(),
        "clip_norm": settings.clip_norm,
        "jit_compile": COMPILED[settings.compile],
    }
    if settings.precision != "float32":
        options["mixed_precision"] = settings.precision
    if settings.accumulate > 1:
        options["accumulate"] = settings.accumulate
    return options


def check_same_everywhere(strategy, key, what, advice):
    """Raise unless all processes of a training have the same hexadecimal key."""
    number = int(key[:12], 16)
    if from_chief(strategy, number) != number:
        raise ValueError(
            f"every process must have the same {what}, got others than the first process has: "
            f"{key}. {advice}"
        )


def digest_of_settings(settings):
    """Return a digest of what every process must be told alike: not its files, not the length."""
    own = (*PATHS, *LENGTHS)
    content = {name: value for name, value in asdict(settings).items() if name not in own}
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def located(settings):
    """Return settings whose paths are whole: they hold in another folder too."""
    return replace(settings, **absolute_paths(asdict(settings)))


def mirrored(replicas):
    """Make the strategy of several devices of this machine, None for one.

    Without GPUs the devices are parts of the CPU: it computes the same, no faster.
    """
    if replicas == 1:
        return None
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        if len(gpus) < replicas:
            raise ValueError(f"replicas must be at most {len(gpus)}, the GPUs, got {replicas}.")
        return tf.distribute.MirroredStrategy([f"GPU:{number}" for number in range(replicas)])
    try:
        cpu = tf.config.list_physical_devices("CPU")[0]
        parts = [tf.config.LogicalDeviceConfiguration()] * replicas
        tf.config.set_logical_device_configuration(cpu, parts)
    except RuntimeError as error:
        raise ValueError(
            "replicas must be 1 on a CPU that is in use already: start a new program."
        ) from error
    return tf.distribute.MirroredStrategy([f"CPU:{number}" for number in range(replicas)])


def validation_files(items):
    """List the files of an own validation text."""
    try:
        return find_files(list(items))
    except (ValueError, OSError) as error:
        raise type(error)(str(error).replace("corpus must", "validation must", 1)) from error


def load_start(folder):
    """Read the model to go on from: a bundle, as `load_bundle` reads it."""
    model, tokenizer = load_bundle(folder, "GPT")
    if tokenizer is None:
        raise ValueError(f"init_from must hold a tokenizer, got {str(folder)!r} without one.")
    return model, tokenizer


def decided(settings, files, tokenizer, start):
    """Return settings with a value for what was left open."""
    layers, width, heads, context = settings.sizes()
    if start is not None:
        model = start[0]
        found = (model.num_layers, model.d_model, model.num_heads, model.context_length)
        for name, size in zip(("layers", "width", "heads", "context"), found, strict=True):
            if getattr(settings, name) not in (None, size):
                raise ValueError(
                    f"{name} must be that of init_from, {size}, got {getattr(settings, name)}."
                )
        layers, width, heads, context = found
    size = sum(size_of(file) for file in files)
    # A tenth of a small text; of a large one a hundredth measures well enough.
    held_out = 0.1 if size < 10e6 else 0.01
    return replace(
        settings,
        layers=layers,
        width=width,
        heads=heads,
        context=context,
        vocab_size=None if settings.tokenizer == "char" else tokenizer.vocab_size,
        held_out=held_out if settings.held_out is None else settings.held_out,
        learning_rate=settings.learning_rate or rate_of(settings),
        compile=settings.compile or compiled_part(width, settings.precision),
    )


def compiled_part(width, precision):
    """Return what XLA should compile: all of a small model in float32, else the parts."""
    return "whole" if width <= SMALL_WIDTH and precision == "float32" else "parts"


def rate_of(settings):
    """Return the highest learning rate of an optimizer, if none was given."""
    is_large = settings.preset.startswith("gpt2") and settings.optimizer == "adamw"
    return 6e-4 if is_large else RATES[settings.optimizer]


def steps_to_go_on(out, settings, per_step):
    """Return the step at which a run ends that goes on, maybe with another batch size.

    The tokens that were planned are read, from the place in the data on. Steps as planned mean
    these tokens too, so that the same command can go on again and again.

    Returns:
        the step, and the plan: dict {"steps": as they were asked for, "tokens": to read}.
    """
    before = TrainSettings(**read_settings(out))
    per_step_before = before.batch_size * before.context
    plan = {"steps": before.steps, "tokens": before.steps * per_step_before}
    plan = (read_run(out) or {"run": {}})["run"].get("plan", plan)
    step, place = newest_place(out / "checkpoint")
    done = place * settings.context
    if settings.tokens is None and settings.steps not in (before.steps, plan["steps"]):
        if settings.steps < step:
            raise ValueError(
                f"steps must be at least {step}, which are done, got {settings.steps}."
            )
        tokens = done + (settings.steps - step) * per_step
        return settings.steps, {"steps": settings.steps, "tokens": tokens}
    if settings.steps == before.steps and per_step == per_step_before:
        return before.steps, plan
    tokens = settings.tokens or plan["tokens"]
    steps = step + max(-(-(tokens - done) // per_step), 0)
    return steps, plan if settings.tokens is None else {"steps": steps, "tokens": tokens}
