"""A server in a thread, and a model that needs no time: what the tests of serving share."""

import contextlib
import itertools
import threading
import time

from tfgpt import CharTokenizer
from tfgpt.serving.asking import Limits
from tfgpt.serving.server import listen, make_app, make_server

LETTERS = "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ.,:!?\n明月光"


class Parrot:
    """Says its prompt again and again, a letter at a time, while its gate is open."""

    context_length, room, batch_size = 40, None, 16

    def __init__(self, chats=False, pause=0.0):
        self.pause = pause  # seconds for each letter
        self.tokenizer = CharTokenizer.train(LETTERS)
        self.gate = threading.Event()
        self.gate.set()
        if chats:
            self.task, self.facts = "chat", {"max_new_tokens": 12}

    def prompt_ids(self, messages):
        return self.tokenizer.encode(messages[-1]["content"])

    def stream(self, *arguments):
        """Not used by the server: what has it writes text."""

    def write_together(self, wishes, **rules):
        return [
            self.gated(itertools.islice(itertools.cycle(ids.tolist()), wish.max_new_tokens))
            for wish in wishes
            for ids in wish.prompts
        ]

    def gated(self, token_ids):
        for token_id in token_ids:
            self.gate.wait()
            time.sleep(self.pause)
            yield token_id


@contextlib.contextmanager
def running(text_model, api_key=None, constraint=None, output_filter=None, **limits):
    """Serve a model as "mine"; give the address of the server and its app."""
    app = make_app(text_model, "mine", Limits(**limits), api_key, constraint, output_filter)
    app.state.server = server = make_server(app)
    with listen("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        wait_for(lambda: server.started)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", app
        finally:
            server.should_exit = True
            thread.join()


def wait_for(condition, seconds=30):
    """Wait until a condition holds; fail if it never does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)
