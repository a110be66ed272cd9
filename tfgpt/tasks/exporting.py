"""A trained model in the form that another program needs."""

import tempfile
from pathlib import Path

from tfgpt.bundle import DTYPES, TOKENIZER, checked_path, load_bundle, read_config, save_bundle
from tfgpt.serving.litert_export import LONGEST, check_options, join_parts, save_parts
from tfgpt.serving.onnx_export import check_converter, export_onnx
from tfgpt.serving.saved_model import export_saved_model
from tfgpt.tasks.finetuned import KINDS, TASK, Writer, read_task
from tfgpt.validation import check_choice

# Which options a format knows.
OPTIONS = {
    "bundle": ("dtype",),
    "keras": (),
    "litert": ("quantize", "room", "batch_size"),
    "onnx": (),
    "savedmodel": ("batch_size",),
}
DEFAULTS = {"dtype": "float32", "quantize": None, "room": None, "batch_size": 1}


def export_run(
    folder, out, format="bundle", dtype="float32", *, quantize=None, room=None, batch_size=1
):
    """Write a trained model without its checkpoints.

    Args:
        folder: path of a run or bundle, of a GPT or a translator.
        out: path to write.
        format: "bundle", a folder that `LanguageModel.load` reads; "keras", a file that
            `keras.models.load_model` reads where tfgpt is imported, without the tokenizer;
            "litert", a file that `LiteModel.load`, or `LiteTranslator.load`, reads, without
            TensorFlow; "onnx", a file of the full pass for onnxruntime, without the tokenizer;
            "savedmodel", a folder for TensorFlow Serving, of a GPT only.
        dtype: of a bundle, "float32", "float16" or "bfloat16".
        quantize: of litert, None, "float16" or "int8".
        room: of litert, int, how many tokens a text may have; None: the context.
        batch_size: of litert and savedmodel, int, texts that are written at once.

    Returns:
        Path, what was written.

    Raises:
        FileNotFoundError: if the folder lacks a file.
        ImportError: if what writes the format is not installed.
        ValueError: if an argument is outside its range or not known to the format, or `out`
            exists. All of this is told before the model is loaded.
    """
    check_choice("format", format, tuple(OPTIONS))
    check_choice("dtype", dtype, DTYPES)
    options = {"dtype": dtype, "quantize": quantize, "room": room, "batch_size": batch_size}
    for name, value in options.items():
        if name not in OPTIONS[format] and value != DEFAULTS[name]:
            raise ValueError(f"{name} must not be given with format {format!r}, got {value!r}.")
    out = Path(out)
    if out.exists():
        raise ValueError(f"out must be a new file or folder, got {str(out)!r}, which exists.")
    if format == "keras" and out.suffix != ".keras":
        raise ValueError(f"out must end in .keras, got {str(out)!r}.")
    checked_path(Path(folder), TOKENIZER)
    options = {name: options[name] for name in OPTIONS[format]}
    check_before_loading(folder, format, options)
    if format == "litert":
        write_litert(folder, out, options)
    else:
        write(*load_bundle(folder), out, format, options)
    files = [out] if out.is_file() else [path for path in out.rglob("*") if path.is_file()]
    print(f"{out}: {sum(path.stat().st_size for path in files) / 1e6:,.1f} MB.")
    return out


def check_before_loading(folder, format, options):
    """Raise for what the configuration of a model and the installed libraries say already."""
    content = read_config(folder)
    kind, config = content["class_name"], content["config"]
    if format == "onnx":
        check_converter()
    if format == "litert" and isinstance(config.get(LONGEST.get(kind)), int):
        check_options(kind, config[LONGEST[kind]], **options)


def write_litert(folder, out, options):
    """Write a file for LiteRT; the model has left the memory when the conversion begins."""
    with tempfile.TemporaryDirectory() as programs:
        parts = save_parts(programs, *load_bundle(folder), **options, task=answering_task(folder))
        join_parts(programs, parts, out)


def answering_task(folder):
    """Return what a file must know of a fine-tuned model that answers; None of another."""
    if not (Path(folder) / TASK).is_file():
        return None
    facts = read_task(folder)
    is_writer = KINDS[facts["task"]] is Writer
    return {name: facts[name] for name in ("task", "max_new_tokens")} if is_writer else None


def write(model, tokenizer, out, format, options):
    """Write a model in one of the other formats."""
    if format == "bundle":
        save_bundle(out, model, tokenizer, **options)
    elif format == "onnx":
        export_onnx(model, out)
    elif format == "savedmodel":
        export_saved_model(model, out, **options)
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        model.save(out)
