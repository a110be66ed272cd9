"""Requests as OpenAI's clients send them, checked: JSON in, an Ask out.

Every wrong request gets one sentence, in the form {"error": {"message", "type", ...}}.
"""

import json
import math
from dataclasses import dataclass, field

MOST_STOPS = 4
LONGEST_STOP = 200  # characters
LARGEST_SEED = 2**63 - 1
SHOWN = 80  # characters of a wrong value that an error shows
# What these ask for is what happens without them; other values are refused.
WITHOUT_EFFECT = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (),
    "echo": (False,),
    "suffix": (),
    "best_of": (1,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "reasoning_effort": (),
}
# What describes the sender or the storage of a request changes no answer.
IGNORED = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
ROLES = ("system", "developer", "user", "assistant")


class WireError(Exception):
    """A request that is refused.

    Args:
        message: str, one sentence.
        status: int, of HTTP.
        param: str, the key of the request that is wrong, or None.
        code: str, a word for programs, or None.
    """

    def __init__(self, message, status=400, param=None, code=None):
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def body(self):
        """Return the body of the answer."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = "rate_limit_error" if self.status == 429 else kind
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": error}


@dataclass(frozen=True)
class Limits:
    """What a server takes.

    Args:
        body_bytes: int, of a request's body.
        body_seconds: float, until the body has come.
        head_seconds: float, until the head of a request has come, from the beginning of its
            connection or the end of the answer before.
        connections: int, open at once; more are told to come later.
        prompt_tokens: int, of a prompt; None: the model's context.
        new_tokens: int, max_tokens at most.
        rows: int, texts that are written at once, of one request or several.
        waiting: int, requests that wait.
        drain_seconds: int, for requests under way when the server is told to end.
    """

    body_bytes: int = 2**20
    body_seconds: float = 10.0
    head_seconds: float = 10.0
    connections: int = 512
    prompt_tokens: int | None = None
    new_tokens: int = 1024
    rows: int = 16
    waiting: int = 64
    drain_seconds: int = 60


@dataclass(frozen=True)
class Ask:
    """What one request asks for.

    Args:
        prompts: list of str; or a list with one list of messages {"role", "content"}.
        max_new_tokens: int >= 1, or None.
        temperature, top_p, seed: as in `tfgpt.generate`.
        num_samples: int >= 1, texts for each prompt.
        stop_strings: list of str.
        streams: bool, the text is sent as it is written.
        sends_usage: bool, the end of a stream counts the tokens.
    """

    prompts: list
    max_new_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    num_samples: int = 1
    stop_strings: list = field(default_factory=list)
    streams: bool = False
    sends_usage: bool = False


def read_json(body):
    """Read the body of a request: a JSON object without NaN and infinity.

    Example:
        >>> read_json(b'{"n": 1}')
        {'n': 1}
    """

    def refuse(name):
        raise ValueError(f"{name} is no number of JSON")

    try:
        content = json.loads(body.decode("utf-8"), parse_constant=refuse)
    except UnicodeDecodeError as error:
        raise WireError(f"The body must be UTF-8, got another byte at {error.start}.") from error
    except RecursionError as error:
        raise WireError("The body must be JSON that is not nested so deeply.") from error
    except ValueError as error:
        raise WireError(f"The body must be JSON: {str(error)[:SHOWN]}.") from error
    if not isinstance(content, dict):
        raise WireError(f"The body must be a JSON object, got {shown(content)}.")
    return content


def read_ask(content, limits, model_name, is_chat):
    """Turn a request into an Ask; raise WireError unless every key is right.

    Args:
        content: dict, the JSON of the request.
        limits: Limits.
        model_name: str, the only model that is here.
        is_chat: bool, it has messages and no prompt.

    Returns:
        Ask.

    Example:
        >>> read_ask({"prompt": "a", "temperature": 0}, Limits(), "mine", is_chat=False).prompts
        ['a']
        >>> read_ask({"prompt": "a", "temperature": 9}, Limits(), "mine", is_chat=False)
        Traceback (most recent call last):
        tfgpt.serving.asking.WireError: temperature must be a number in [0, 2], got 9.
    """
    values = {name: value for name, value in content.items() if value is not None}
    model = values.pop("model", model_name)
    if model != model_name:
        message = f"model must be {model_name!r}, the only one here, got {shown(model)}."
        raise WireError(message, 404, "model", "model_not_found")
    read_prompts = read_messages if is_chat else read_texts
    ask = Ask(
        prompts=read_prompts(values.pop("messages" if is_chat else "prompt", None)),
        max_new_tokens=read_length(values, limits, is_chat),
        temperature=read_number(values, "temperature", 1.0, "in [0, 2]", lambda x: 0 <= x <= 2),
        top_p=read_number(values, "top_p", 1.0, "in (0, 1]", lambda x: 0 < x <= 1),
        seed=read_integer(values, "seed", None, 0, LARGEST_SEED),
        num_samples=read_integer(values, "n", 1, 1, limits.rows),
        stop_strings=read_stops(values.pop("stop", [])),
        streams=read_flag(values, "stream"),
        sends_usage=read_stream_options(values.pop("stream_options", {})),
    )
    rows = len(ask.prompts) * ask.num_samples
    if rows > limits.rows:
        message = f"n times the number of prompts must be at most {limits.rows}, got {rows}."
        raise WireError(message, param="n")
    check_rest(values)
    return ask


def check_rest(values):
    """Raise unless keys that nobody has read have no effect."""
    for name, value in values.items():
        if name in IGNORED or any(
            same(value, harmless) for harmless in WITHOUT_EFFECT.get(name, ())
        ):
            continue
        reason = "is not supported" if name in WITHOUT_EFFECT else "is not known"
        message = f"{shown(name)} {reason} here, got {shown(value)}: leave it out."
        raise WireError(message, param=name[:SHOWN])


def same(value, other):
    """Say whether two values of JSON are equal; true is not 1."""
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def read_texts(value):
    """Return the prompts of a completion as a list of str."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
        raise WireError(
            f"prompt must be a text or a list of texts, got {shown(value)}.", 400, "prompt"
        )
    return texts


def read_messages(value):
    """Return the messages of a chat as the one prompt of a list."""
    if not isinstance(value, list) or not value:
        raise WireError(
            f"messages must be a list of messages, got {shown(value)}.", 400, "messages"
        )
    messages = [read_message(message, place) for place, message in enumerate(value)]
    if messages[-1]["role"] != "user":
        role = messages[-1]["role"]
        raise WireError(f"messages must end with the user's turn, got {role!r}.", 400, "messages")
    return [messages]


def read_message(message, place):
    """Return one message as {"role", "content"}, both str."""
    name = f"messages[{place}]"
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        rule = "must have a role: system, user or assistant"
        raise WireError(f"{name} {rule}, got {shown(message)}.", 400, "messages")
    content = message.get("content")
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else None for part in content]
        content = "".join(parts) if all(isinstance(part, str) for part in parts) else None
    if not isinstance(content, str):
        raise WireError(
            f"{name} must have a text as content, got {shown(message)}.", 400, "messages"
        )
    role = "system" if message["role"] == "developer" else message["role"]
    return {"role": role, "content": content}


def read_length(values, limits, is_chat):
    """Return max_tokens, or None; max_completion_tokens is the same for a chat."""
    length = read_integer(values, "max_tokens", None, 1, limits.new_tokens)
    if is_chat:
        length = read_integer(values, "max_completion_tokens", length, 1, limits.new_tokens)
    return length


def read_number(values, name, default, rule, fits):
    """Return a number; raise unless it fits the rule."""
    value = values.pop(name, default)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not (isinstance(value, int) or math.isfinite(value)) or not fits(value):
        raise WireError(f"{name} must be a number {rule}, got {shown(value)}.", 400, name)
    return float(value)


def read_integer(values, name, default, low, high):
    """Return an integer in [low, high], or the default."""
    value = values.pop(name, default)
    if value is default:
        return value
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        rule = f"must be an integer in [{low}, {high}]"
        raise WireError(f"{name} {rule}, got {shown(value)}.", 400, name)
    return value


def read_flag(values, name):
    """Return true or false; false if it is not given."""
    value = values.pop(name, False)
    if not isinstance(value, bool):
        raise WireError(f"{name} must be true or false, got {shown(value)}.", 400, name)
    return value


def read_stops(value):
    """Return the stop strings as a list."""
    stops = [value] if isinstance(value, str) else value
    is_right = isinstance(stops, list) and len(stops) <= MOST_STOPS
    if not is_right or not all(isinstance(s, str) and 0 < len(s) <= LONGEST_STOP for s in stops):
        rule = f"must be a text of 1 to {LONGEST_STOP} characters or at most {MOST_STOPS} of them"
        raise WireError(f"stop {rule}, got {shown(value)}.", 400, "stop")
    return stops


def read_stream_options(value):
    """Say whether the end of a stream counts the tokens."""
    if not isinstance(value, dict) or not set(value) <= {"include_usage", "include_obfuscation"}:
        rule = "must be an object with include_usage"
        raise WireError(f"stream_options {rule}, got {shown(value)}.", 400, "stream_options")
    return read_flag(dict(value), "include_usage")


def shown(value):
    """Write a wrong value for an error: in ASCII, not too long.

    Example:
        >>> shown("x" * 1000) == "'" + "x" * 79 + "..."
        True
    """
    try:
        text = ascii(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits; deep lists
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."
