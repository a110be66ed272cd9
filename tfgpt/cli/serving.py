"""The command that serves a model over HTTP."""

import os
from pathlib import Path

# Name of the option, key of the limits, meaning; the value is an integer.
LIMITS = (
    ("max-tokens", "new_tokens", "most new tokens of a text"),
    ("max-prompt", "prompt_tokens", "most tokens of a prompt; by default the model's context"),
    ("max-body", "body_bytes", "most bytes of a request"),
    ("batch", "rows", "most texts that are written at once"),
    ("queue", "waiting", "most requests that wait; more are refused with 429"),
    ("connections", "connections", "most connections at once; more are refused with 503"),
    ("drain", "drain_seconds", "seconds for requests under way after SIGTERM or Ctrl-C"),
)


def add_serve(commands):
    """Describe `tfgpt serve`."""
    serve = commands.add_parser(
        "serve",
        help="answer OpenAI's clients and a browser with a model",
        description="Serve a model over HTTP: /v1/completions, /v1/chat/completions of a model "
        "that was fine-tuned on dialogues, streams, and a page for the browser.",
    )
    serve.add_argument("--model", required=True, help="folder that train or finetune wrote")
    serve.add_argument("--name", help="what clients call it; by default the name of the folder")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (this machine)")
    serve.add_argument("--port", type=int, default=8000, help="0: any free one (8000)")
    serve.add_argument(
        "--api-key",
        help="what clients must send; or TFGPT_API_KEY, which no list of processes shows",
    )
    serve.add_argument(
        "--ban", action="append", help="never write this, in any case; may come again"
    )
    for option, _, meaning in LIMITS:
        serve.add_argument(f"--{option}", type=int, help=meaning)
    serve.set_defaults(run=run_serve)


def run_serve(options):
    """Serve a model, with the options of `tfgpt serve`."""
    if os.path.isfile(options.model):
        os.environ["TFGPT_LITE"] = "1"  # `import tfgpt` loads no Keras then
    from tfgpt.serving.asking import Limits
    from tfgpt.serving.server import serve
    from tfgpt.validation import check_positive

    given = {option: getattr(options, option.replace("-", "_")) for option, _, _ in LIMITS}
    limits = {
        key: check_positive(f"--{option}", given[option])
        for option, key, _ in LIMITS
        if given[option] is not None
    }
    api_key = read_key(options.api_key)
    text_model = load_served(options.model)
    serve(
        text_model,
        options.name or Path(options.model).resolve().stem,
        options.host,
        options.port,
        api_key,
        Limits(**limits),
        banned_phrases(options.ban, text_model.tokenizer),
    )


def read_key(given):
    """Return what clients must send, or None; a blank key, of an unset variable, is refused."""
    name, key = "--api-key", given
    if given is None:
        name, key = "TFGPT_API_KEY", os.environ.get("TFGPT_API_KEY")
    if key is not None and not key.strip():
        raise ValueError(f"{name} must have a character, got {key!r}: without it, none is asked.")
    return key


def banned_phrases(phrases, tokenizer):
    """Make the constraint of the option --ban; None without it."""
    if not phrases:
        return None
    from tfgpt.safety.banned import BannedPhrases

    return BannedPhrases(phrases, tokenizer, ignore_case=True)


def load_served(path):
    """Read what writes text: a file of `export`, a fine-tuned model, or a run or bundle."""
    path = Path(path)
    if path.is_file():
        from tfgpt.serving.lite_model import LiteModel

        return LiteModel.load(path)
    from tfgpt.tasks.finetuned import TASK, load_finetuned
    from tfgpt.tasks.language_model import LanguageModel

    return load_finetuned(path) if (path / TASK).is_file() else LanguageModel.load(path)
