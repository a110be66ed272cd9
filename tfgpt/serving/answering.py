"""Answers in the form that OpenAI's clients read: whole, or as server-sent events."""

import json
import time
import uuid


class Answer:
    """The answer to one request, whole or in chunks, as OpenAI's clients read it.

    Args:
        model_name: str.
        is_chat: bool, messages in place of texts.
    """

    def __init__(self, model_name, is_chat):
        self.is_chat = is_chat
        word = "chatcmpl" if is_chat else "cmpl"
        self.head = {
            "id": f"{word}-{uuid.uuid4().hex}",
            "object": "chat.completion" if is_chat else "text_completion",
            "created": int(time.time()),
            "model": model_name,
        }

    def whole(self, texts, reasons, usage):
        """Return the body of an answer: one choice per text."""
        choices = []
        for place, (text, reason) in enumerate(zip(texts, reasons, strict=True)):
            message = {"role": "assistant", "content": text, "refusal": None}
            content = {"message": message} if self.is_chat else {"text": text}
            choices.append({"index": place, **content, "logprobs": None, "finish_reason": reason})
        return {**self.head, "choices": choices, "usage": usage}

    def chunk(self, place, text="", reason=None, is_first=False):
        """Return one event of a stream: a piece of the text of one choice, or its end."""
        delta = {"role": "assistant"} if is_first else {}
        delta |= {"content": text} if text or is_first else {}
        content = {"delta": delta} if self.is_chat else {"text": text}
        choice = {"index": place, **content, "logprobs": None, "finish_reason": reason}
        return {**self.chunk_head(), "choices": [choice]}

    def usage_chunk(self, usage):
        """Return the event that counts the tokens, the last one."""
        return {**self.chunk_head(), "choices": [], "usage": usage}

    def chunk_head(self):
        """Return what all events of a stream begin with."""
        return self.head | ({"object": "chat.completion.chunk"} if self.is_chat else {})


def to_bytes(content):
    """Write JSON in UTF-8; half a surrogate pair becomes a question mark."""
    return json.dumps(content, ensure_ascii=False).encode("utf-8", "replace")


def event(content):
    """Write one server-sent event."""
    return b"data: " + to_bytes(content) + b"\n\n"
