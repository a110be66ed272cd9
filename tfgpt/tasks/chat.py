"""A chat in the terminal with a model that was fine-tuned on dialogues."""

import sys

from tfgpt.tasks.finetuned import Writer

HELP = "/reset forgets the dialogue, /system TEXT says how to answer, /quit ends; Ctrl-C stops \
an answer."


def chat(model, temperature=0.0, seed=None, read=input):
    """Answer what is typed, piece by piece, until the input ends.

    Args:
        model: Writer, or LiteModel of the file of one. One that was not fine-tuned on dialogues
            answers each line alone.
        temperature: float >= 0; 0: always the likeliest token.
        seed: int, for a temperature above 0; None: another one each time.
        read: function from a prompt to a line, such as `input`.

    Raises:
        ValueError: if the model does not write.
    """
    answer_to = model.stream if isinstance(model, Writer) else getattr(model, "answer", None)
    if answer_to is None or model.task is None:
        raise ValueError(f"model must write answers to chat, got the task {model.task!r}.")
    print(HELP, file=sys.stderr)
    messages = []
    while True:
        try:
            line = read("you: ").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if line == "/quit":
            return
        if line == "/reset":
            messages = []
        elif line.startswith("/system"):
            text = line.removeprefix("/system").strip()
            messages = [{"role": "system", "content": text}] if text else []
        elif line.startswith("/"):
            print(HELP, file=sys.stderr)
        elif line:
            messages.append({"role": "user", "content": line})
            prompt = messages if model.task == "chat" else line
            answer = say(answer_to(prompt, temperature=temperature, seed=seed))
            messages.append({"role": "assistant", "content": answer})


def say(pieces):
    """Print an answer as it is written, up to Ctrl-C; return it."""
    answer = ""
    print("model: ", end="", flush=True)
    try:
        for piece in pieces:
            answer += piece
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        print(" (stopped)", end="")
    print()
    return answer
