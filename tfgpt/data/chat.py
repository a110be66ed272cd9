"""Prompts and dialogues as token ids, and which of them the loss counts.

A model that answers is trained on whole texts, but on the loss of the answers only: what the
user wrote is given. Each answer ends with the tokenizer's end token, so the model learns to
stop.
"""

import numpy as np

NAMES = {"system": "System: ", "user": "User: ", "assistant": "Assistant: "}
# Where a model of dialogues would go on with words of the user.
NEXT_USER = "\nUser:"
# What stands before and after the prompt of a task; the answer follows after a space.
TEMPLATES = {
    "qa": ("Question: ", "\nAnswer:"),
    "summarise": ("", "\nSummary:"),
    "answer": ("", "\n"),
}


def dialogue_parts(messages):
    """Cut a dialogue into (text, whether it is an answer).

    Args:
        messages: list of {"role": "system", "user" or "assistant", "content": str}.

    Returns:
        list of (str, bool); each answer begins after "Assistant:", with its space.

    Example:
        >>> dialogue_parts([{"role": "user", "content": "Hi."},
        ...                 {"role": "assistant", "content": "Hello."}])
        [('User: Hi.\\nAssistant:', False), (' Hello.', True)]
    """
    parts, text = [], ""
    for place, message in enumerate(messages):
        text += ("\n" if place else "") + NAMES[message["role"]].rstrip()
        if message["role"] == "assistant":
            parts += [(text, False), (f" {message['content']}", True)]
            text = ""
        else:
            text += f" {message['content']}"
    return parts + ([(text, False)] if text else [])


def prompt_parts(task, prompt, answer=None):
    """Cut a prompt and its answer into (text, whether it is the answer).

    Example:
        >>> prompt_parts("qa", "Capital of Algeria?", "Algiers")
        [('Question: Capital of Algeria?\\nAnswer:', False), (' Algiers', True)]
    """
    before, after = TEMPLATES[task]
    parts = [(f"{before}{prompt}{after}", False)]
    return parts if answer is None else [*parts, (f" {answer}", True)]


def encode_parts(tokenizer, parts):
    """Turn parts into token ids and mark the answers.

    Args:
        tokenizer: tokenizer with an end_id.
        parts: list of (text, whether it is an answer).

    Returns:
        int32 array (T,), and bool array (T,), True for the tokens of answers and the end
        token behind each.

    Raises:
        ValueError: if the tokenizer has no end token.
    """
    if getattr(tokenizer, "end_id", None) is None:
        raise ValueError("tokenizer must have an end token to end an answer, got none.")
    token_ids, is_answer = [], []
    for text, counts in parts:
        new = [*tokenizer.encode(text).tolist(), *([tokenizer.end_id] if counts else [])]
        token_ids += new
        is_answer += [counts] * len(new)
    return np.array(token_ids, dtype="int32"), np.array(is_answer, dtype=bool)


def start_ids(tokenizer):
    """Return what stands before each text: the end token, if the tokenizer has one."""
    end_id = getattr(tokenizer, "end_id", None)
    return [] if end_id is None else [end_id]


def asked_ids(tokenizer, task, text):
    """Write a prompt as a model that was fine-tuned on a task has learned it: list of int.

    Args:
        tokenizer: tokenizer with an end_id, except for the task "lm".
        task: "qa", "summarise", "chat" or "lm".
        text: str, or of a chat a list of messages {"role", "content"}.

    Raises:
        ValueError: if a chat ends with the assistant's turn, or there is no end token.
    """
    if task == "lm":  # characters, too, which have no end token
        return [*start_ids(tokenizer), *tokenizer.encode(text).tolist()]
    token_ids, _ = encode_parts(tokenizer, asked_parts(task, text))
    return [*start_ids(tokenizer), *token_ids.tolist()]


def asked_parts(task, text):
    """Return the parts of a prompt, up to where the answer begins."""
    if task != "chat":
        return prompt_parts(task, text)
    messages = [{"role": "user", "content": text}] if isinstance(text, str) else list(text)
    if messages[-1]["role"] == "assistant":
        raise ValueError("messages must end with the user's turn, got the assistant's.")
    parts = dialogue_parts([*messages, {"role": "assistant", "content": ""}])
    return parts[:-1]  # without the empty answer


def join_parts(parts):
    """Write parts as one text, for a model that reads texts only."""
    return "".join(text for text, _ in parts)
