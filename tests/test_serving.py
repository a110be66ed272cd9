"""The server: answers, limits, hostile requests; its page in a real browser.

The tests need `pip install tfgpt[serve-tests]`; those of the page Chromium and
`pip install playwright` too.
"""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import numpy as np
import pytest

pytest.importorskip("uvicorn", reason="needs uvicorn: pip install 'tfgpt[serve-tests]'")
pytest.importorskip("starlette", reason="needs starlette: pip install 'tfgpt[serve-tests]'")
httpx = pytest.importorskip("httpx", reason="needs httpx: pip install 'tfgpt[serve-tests]'")

from serving_helpers import Parrot, running, wait_for  # noqa: E402

from tfgpt import GPT, BPETokenizer, CharTokenizer, LanguageModel, export_litert  # noqa: E402
from tfgpt.cli.serving import load_served, read_key  # noqa: E402
from tfgpt.safety import Grammar, OutputFilter  # noqa: E402
from tfgpt.serving.asking import Ask, Limits, WireError, read_ask, read_json  # noqa: E402
from tfgpt.serving.batching import Job, choose_jobs  # noqa: E402
from tfgpt.serving.lite_model import LiteModel  # noqa: E402
from tfgpt.serving.served import Served  # noqa: E402
from tfgpt.serving.server import listen, make_app  # noqa: E402
from tfgpt.tasks.exporting import export_run  # noqa: E402
from tfgpt.tasks.finetuned import save_finetuned  # noqa: E402

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def url():
    """The address of a server with a parrot."""
    with running(Parrot(), body_bytes=20_000, body_seconds=1.0, new_tokens=100) as (address, _):
        yield address


def post(url, body, path="/v1/completions", **options):
    """Send a request of JSON."""
    return httpx.post(url + path, json=body, timeout=30, **options)


def error_of(response):
    """Return the error of an answer; all its keys are there, in one sentence."""
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and "\n" not in error["message"]
    return error


def events_of(lines):
    """Read the events of a stream, which ends with [DONE]."""
    data = [line.removeprefix("data: ") for line in lines if line]
    assert data.pop() == "[DONE]"
    return [json.loads(text) for text in data]


# Answers ------------------------------------------------------------------------------


def test_a_completion_has_the_text_its_reason_and_the_tokens(url):
    content = post(url, {"model": "mine", "prompt": "abc", "max_tokens": 7}).json()
    assert content["object"] == "text_completion" and content["model"] == "mine"
    choice = {"index": 0, "text": "abcabca", "logprobs": None, "finish_reason": "length"}
    assert content["choices"] == [choice]
    assert content["usage"] == {"prompt_tokens": 3, "completion_tokens": 7, "total_tokens": 10}


def test_every_prompt_gets_n_texts_in_order(url):
    body = {"prompt": ["ab", "xyz"], "n": 2, "max_tokens": 3, "seed": 1}
    choices = post(url, body).json()["choices"]
    assert [(c["index"], c["text"]) for c in choices] == [
        (0, "aba"),
        (1, "aba"),
        (2, "xyz"),
        (3, "xyz"),
    ]


def test_a_stop_string_ends_the_text(url):
    choice = post(url, {"prompt": "abcd", "stop": ["c", "zz"], "max_tokens": 9}).json()["choices"][
        0
    ]
    assert (choice["text"], choice["finish_reason"]) == ("ab", "stop")


def test_a_stream_brings_the_same_text_piece_by_piece(url):
    body = {"prompt": "月a", "max_tokens": 5, "stream": True}
    body["stream_options"] = {"include_usage": True}
    with httpx.stream("POST", url + "/v1/completions", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        *pieces, usage = events_of(response.iter_lines())
    texts = [piece["choices"][0]["text"] for piece in pieces]
    assert texts == ["月", "a", "月", "a", "月", ""]
    reasons = [piece["choices"][0]["finish_reason"] for piece in pieces]
    assert reasons == [None] * 5 + ["length"]
    assert usage["choices"] == [] and usage["usage"]["completion_tokens"] == 5


def test_a_filter_reads_each_text_before_it_is_sent():
    """Whole and as a stream; a filter that fails lets nothing pass."""

    def count_x(texts):
        return [1 / 0 if "y" in text else text.count("x") for text in texts]

    with running(Parrot(), output_filter=OutputFilter(count_x, 2, "No.")) as (url, _):
        body = {"prompt": ["xa", "xb", "xxc"], "max_tokens": 4}
        choices = post(url, body).json()["choices"]
        found = [(c["text"], c["finish_reason"]) for c in choices]
        assert found == [("xaxa", "length"), ("xbxb", "length"), ("No.", "content_filter")]
        body = {"prompt": "xxc", "max_tokens": 4, "stream": True}
        with httpx.stream("POST", url + "/v1/completions", json=body) as response:
            choices = [piece["choices"][0] for piece in events_of(response.iter_lines())]
        found = [(c["text"], c["finish_reason"]) for c in choices]
        assert found == [("No.", None), ("", "content_filter")]
        response = post(url, {"prompt": "y", "max_tokens": 1})
        assert response.status_code == 500
        assert error_of(response)["message"].startswith("The filter failed: ZeroDivisionError")


def test_keys_without_effect_are_taken(url):
    harmless = {"user": "me", "frequency_penalty": 0.0, "logit_bias": {}, "logprobs": None}
    assert post(url, {"prompt": "a", "max_tokens": 1, **harmless}).status_code == 200


def test_health_models_and_page_are_answered(url):
    health = httpx.get(url + "/healthz").json()
    facts = {"status": "ok", "model": "mine", "chat": False, "needs_key": False}
    assert health == facts | {"max_tokens": 100, "room": None}
    assert [model["id"] for model in httpx.get(url + "/v1/models").json()["data"]] == ["mine"]


def test_the_page_asks_this_server_only(url):
    response = httpx.get(url)
    page = response.text
    assert page.isascii() and not re.search(r"https?:|//cdn|@import|url\(|src=", page)
    assert response.headers["content-security-policy"].startswith("default-src 'none';")
    assert "innerHTML" not in page


# Requests that are read ----------------------------------------------------------------


def test_every_key_of_a_request_is_read():
    body = {"prompt": "a", "max_tokens": 3, "temperature": 0, "top_p": 0.5, "seed": 4, "n": 2}
    ask = read_ask({**body, "stop": "x", "stream": True}, Limits(), "mine", is_chat=False)
    assert (ask.prompts, ask.max_new_tokens, ask.num_samples) == (["a"], 3, 2)
    assert (ask.temperature, ask.top_p, ask.seed) == (0.0, 0.5, 4)
    assert ask.stop_strings == ["x"] and ask.streams and not ask.sends_usage


def test_messages_may_have_parts():
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    messages = [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": parts}]
    ask = read_ask({"messages": messages, "max_completion_tokens": 5}, Limits(), "m", is_chat=True)
    system, user = ask.prompts[0]
    assert system == {"role": "system", "content": "Be kind."} and user["content"] == "Hello"
    assert ask.max_new_tokens == 5


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"model": "gpt-4"}, "model", "model must be 'mine', the only one here, got 'gpt-4'"),
        ({"prompt": None}, "prompt", "prompt must be a text or a list of texts, got None"),
        ({"prompt": [1, 2]}, "prompt", r"a list of texts, got \[1, 2\]"),
        ({"prompt": []}, "prompt", r"a list of texts, got \[\]"),
        ({"max_tokens": 0}, "max_tokens", r"must be an integer in \[1, 1024\], got 0"),
        ({"max_tokens": 1025}, "max_tokens", r"must be an integer in \[1, 1024\], got 1025"),
        ({"max_tokens": 2.0}, "max_tokens", "got 2.0"),
        ({"max_tokens": True}, "max_tokens", "got True"),
        ({"temperature": -0.1}, "temperature", r"must be a number in \[0, 2\], got -0.1"),
        ({"temperature": float("inf")}, "temperature", "got inf"),
        ({"temperature": 10**400}, "temperature", "got 1000"),
        ({"temperature": "1"}, "temperature", "got '1'"),
        ({"top_p": 0}, "top_p", r"must be a number in \(0, 1\], got 0"),
        ({"seed": -1}, "seed", "must be an integer in .0, 9223372036854775807., got -1"),
        ({"n": 17}, "n", r"must be an integer in \[1, 16\], got 17"),
        ({"n": 9, "prompt": ["a", "b"]}, "n", "n times the number of prompts .* 16, got 18"),
        ({"stop": [""]}, "stop", "stop must be a text of 1 to 200 characters"),
        ({"stop": ["a"] * 5}, "stop", "at most 4 of them"),
        ({"stream": 1}, "stream", "stream must be true or false, got 1"),
        ({"stream_options": []}, "stream_options", "must be an object with include_usage"),
        ({"echo": True}, "echo", "'echo' is not supported here, got True: leave it out"),
        ({"logprobs": 0}, "logprobs", "'logprobs' is not supported here"),
        ({"tempratur": 1}, "tempratur", "'tempratur' is not known here, got 1: leave it out"),
    ],
)
def test_a_wrong_key_is_named(change, param, message):
    with pytest.raises(WireError, match=message) as caught:
        read_ask({"prompt": "a", **change}, Limits(), "mine", is_chat=False)
    assert caught.value.param == param
    assert caught.value.status == (404 if param == "model" else 400)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("Hi", "messages must be a list of messages, got 'Hi'"),
        ([], r"must be a list of messages, got \[\]"),
        ([{"role": "poet", "content": "Hi"}], r"messages\[0\] must have a role: system, user or a"),
        ([{"role": ["user"], "content": "Hi"}], r"messages\[0\] must have a role"),
        ([{"role": "user"}], r"messages\[0\] must have a text as content"),
        ([{"role": "user", "content": [{"image_url": "x"}]}], "must have a text as content"),
        ([{"role": "assistant", "content": "Hi"}], "must end with the user's turn, got 'assistant"),
    ],
)
def test_wrong_messages_are_named(messages, message):
    with pytest.raises(WireError, match=message):
        read_ask({"messages": messages}, Limits(), "mine", is_chat=True)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "The body must be JSON: Expecting value"),
        (b'{"prompt": "a"', "The body must be JSON"),
        (b'{"temperature": NaN}', "NaN is no number of JSON"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "The body must be JSON"),
        (b'{"prompt": "\xff"}', "The body must be UTF-8, got another byte at 12"),
        (b"[" * 100_000, "must be JSON that is not nested so deeply"),
        (b"3", "The body must be a JSON object, got 3"),
    ],
)
def test_what_is_no_json_object_is_refused(body, message):
    with pytest.raises(WireError, match=message):
        read_json(body)


# Limits ------------------------------------------------------------------------------


def test_wrong_paths_methods_and_types_get_a_sentence(url):
    answers = {
        httpx.get(url + "/v1/completions"): (405, "does not take the method GET"),
        httpx.get(url + "/nothing"): (404, "There is nothing at '/nothing'"),
        httpx.get(url + "/%2e%2e/%2e%2e/etc/passwd"): (404, "There is nothing at"),
        httpx.post(url + "/v1/completions", content="{}"): (415, "must be application/json"),
        post(url, {"messages": []}, "/v1/chat/completions"): (400, "not fine-tuned on dialogues"),
    }
    for response, (status, message) in answers.items():
        assert response.status_code == status and message in error_of(response)["message"]


def test_prompts_have_a_limit_of_tokens_and_known_characters(url):
    error = error_of(post(url, {"prompt": "a" * 41}))
    assert error["message"] == "prompt must have between 1 and 40 tokens, got 41."
    assert error["code"] == "context_length_exceeded" and error["param"] == "prompt"
    assert "got 0" in error_of(post(url, {"prompt": ""}))["message"]
    unknown = error_of(post(url, {"prompt": "ab😀"}))
    assert "known characters only" in unknown["message"] and unknown["param"] == "prompt"
    assert post(url, {"prompt": "a" * 40, "max_tokens": 1}).status_code == 200


def test_a_body_has_a_limit_of_bytes_with_and_without_a_length(url):
    def chunks():
        for _ in range(50):
            yield b" " * 1000

    headers = {"Content-Type": "application/json"}
    for content in (b" " * 20_001, chunks()):
        response = httpx.post(url + "/v1/completions", content=content, headers=headers)
        assert response.status_code == 413
        assert error_of(response)["message"] == "The body must have at most 20000 bytes."


def connect(url):
    """Open a plain connection to a server."""
    place = urlsplit(url)
    return socket.create_connection((place.hostname, place.port), timeout=20)


HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def test_a_body_that_does_not_come_is_refused(url):
    with connect(url) as connection:
        connection.sendall(HEAD + b'Content-Length: 100\r\n\r\n{"prompt"')
        answer = b"".join(iter(lambda: connection.recv(10_000), b""))  # until it is closed
    assert b" 408 " in answer.split(b"\r\n")[0] and b"must come within 1 seconds" in answer


def test_a_key_is_asked_for_where_the_model_is_used():
    with running(Parrot(), api_key="schlüssel") as (url, _):
        body = {"prompt": "a", "max_tokens": 1}
        for given in ("", "Bearer", "Bearer schlussel", "Basic schlüssel", "schlüssel"):
            response = post(url, body, headers={"Authorization": given.encode()})
            assert response.status_code == 401 and error_of(response)["code"] == "invalid_api_key"
        key = {"Authorization": "Bearer schlüssel".encode()}
        assert post(url, body, headers=key).status_code == 200
        assert httpx.get(url + "/v1/models").status_code == 401
        assert httpx.get(url + "/healthz").json()["needs_key"] is True
        assert httpx.get(url).status_code == 200


def test_blanks_around_a_key_are_no_part_of_it():
    """Not those of Unicode: the last byte of this letter is one of them."""
    with running(Parrot(), api_key=" voilà\n") as (url, _):
        for given in ("Bearer voilà", "Bearer   voilà"):
            response = post(url, {"prompt": "a"}, headers={"Authorization": given.encode()})
            assert response.status_code == 200


@pytest.mark.parametrize("sent", [b"", b"GET / HT"], ids=["nothing", "half a line"])
def test_a_connection_on_which_no_request_comes_is_closed(sent):
    with running(Parrot(), head_seconds=0.2) as (url, _), connect(url) as connection:
        connection.sendall(sent)
        assert connection.recv(100) == b""


def test_a_connection_with_requests_may_last_until_the_last_is_answered():
    """A byte after an answer is not another request; a long text is not too late."""
    parrot = Parrot()
    with running(parrot, head_seconds=0.2) as (url, app), connect(url) as connection:
        content = b'{"prompt": "a", "max_tokens": 2}'
        parrot.gate.clear()
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(content) + content)
        wait_for(lambda: app.state.batcher.batches == 1)
        (opened,) = app.state.connections
        wait_for(lambda: opened.deadline.when() < opened.loop.time())
        parrot.gate.set()
        answer = b""
        while not answer.endswith(b"}}"):
            answer += connection.recv(10_000)
        assert b" 200 " in answer.split(b"\r\n")[0]
        connection.sendall(b"G")
        assert connection.recv(100) == b""


def test_more_connections_than_there_may_be_are_told_to_come_later():
    with running(Parrot(), connections=1) as (url, app):
        body = {"prompt": "a", "max_tokens": 1}
        assert post(url, body).status_code == 200
        with connect(url):
            wait_for(lambda: len(app.state.connections) == 1)
            response = post(url, body)
            assert response.status_code == 503 and response.headers["retry-after"] == "1"
            assert error_of(response)["message"] == "2 connections are open: try again later."
            assert httpx.get(url + "/healthz").status_code == 200
        wait_for(lambda: not app.state.connections)
        assert post(url, body).status_code == 200


def test_a_full_queue_refuses_and_clients_that_leave_make_room():
    parrot = Parrot()
    with running(parrot, rows=1, waiting=1) as (url, app), ThreadPoolExecutor(4) as pool:
        batcher, body = app.state.batcher, {"prompt": "ab", "max_tokens": 4}
        parrot.gate.clear()
        first = pool.submit(post, url, body)
        wait_for(lambda: batcher.batches == 1)
        with connect(url) as leaver:
            content = json.dumps(body).encode()
            leaver.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(content) + content)
            wait_for(lambda: len(batcher.waiting) == 1)
            refused = post(url, body)
            assert refused.status_code == 429 and refused.headers["retry-after"] == "1"
            assert "1 requests are waiting" in error_of(refused)["message"]
        wait_for(lambda: all(job.is_gone for job in batcher.waiting))
        last = pool.submit(post, url, body)
        wait_for(lambda: [job.is_gone for job in batcher.waiting] == [False])
        parrot.gate.set()
        for answer in (first, last):
            assert answer.result().json()["choices"][0]["text"] == "abab"


def test_a_client_that_leaves_a_stream_frees_the_writer():
    """The first text has more letters than could be written in the time of the test."""
    with running(Parrot(), rows=1, new_tokens=10**9) as (url, app):
        body = {"prompt": "a", "max_tokens": 10**9, "stream": True}
        with httpx.stream("POST", url + "/v1/completions", json=body, timeout=30) as response:
            next(response.iter_lines())
        answer = post(url, {"prompt": "b", "max_tokens": 2}).json()
        assert answer["choices"][0]["text"] == "bb" and app.state.batcher.batches == 2


def test_what_arrives_together_is_one_batch():
    parrot = Parrot()
    with running(parrot, rows=8) as (url, app), ThreadPoolExecutor(8) as pool:
        parrot.gate.clear()
        bodies = [{"prompt": letter * 3, "max_tokens": 5} for letter in "abcdef"]
        answers = [pool.submit(post, url, bodies[0])]
        wait_for(lambda: app.state.batcher.batches == 1)
        answers += [pool.submit(post, url, body) for body in bodies[1:]]
        wait_for(lambda: len(app.state.batcher.waiting) == 5)
        parrot.gate.set()
        texts = [answer.result().json()["choices"][0]["text"] for answer in answers]
        assert texts == [letter * 5 for letter in "abcdef"]
        assert app.state.batcher.batches == 2


class Span:
    """A job of which only its size counts."""

    def __init__(self, start, end, rows=1):
        self.start, self.end, self.rows_of_ids = start, end, [None] * rows


def test_a_batch_takes_what_costs_it_less_than_alone():
    first, near, far = Span(10, 30), Span(20, 40), Span(500, 520)
    # Steps: 20; with `near` 30 in place of 40; with `far` 510 in place of 40.
    assert choose_jobs([first, far, near], 4) == [first, near]
    assert choose_jobs([first, Span(10, 30, rows=4), near], 4) == [first, near]
    assert choose_jobs([Span(10, 30, rows=5), near], 4) != []
    assert choose_jobs([], 4) == []


def test_a_failure_of_the_model_is_told_and_the_next_request_answered():
    class Broken(Parrot):
        def gated(self, token_ids):
            for token_id in token_ids:
                if token_id == self.tokenizer.ids["x"]:
                    raise RuntimeError("no x")
                yield token_id

    with running(Broken()) as (url, _):
        response = post(url, {"prompt": "ax", "max_tokens": 3})
        assert response.status_code == 500
        assert error_of(response)["message"] == "The model failed: RuntimeError: no x"
        body = {"prompt": "ax", "max_tokens": 3, "stream": True}
        *_, last = post(url, body).text.strip().split("\n\n")
        assert json.loads(last.removeprefix("data: "))["error"]["type"] == "server_error"
        assert post(url, {"prompt": "a", "max_tokens": 1}).status_code == 200


def test_a_model_without_texts_and_an_empty_key_are_refused():
    with pytest.raises(ValueError, match="must write text to be served, got the task 'classify'"):
        make_app(SimpleNamespace(task="classify"), "mine")
    with pytest.raises(ValueError, match="must have a tokenizer to be served"):
        make_app(SimpleNamespace(stream=None, tokenizer=None), "mine")
    with pytest.raises(ValueError, match="api_key must have a character, got ' '"):
        make_app(Parrot(), "mine", api_key=" ")


def test_a_blank_key_of_the_environment_is_refused(monkeypatch):
    monkeypatch.setenv("TFGPT_API_KEY", "")
    with pytest.raises(ValueError, match="TFGPT_API_KEY must have a character, got ''"):
        read_key(None)
    assert read_key("mine") == "mine"
    monkeypatch.delenv("TFGPT_API_KEY")
    assert read_key(None) is None


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ImportError, match=r'pip install "tfgpt\[serve\]"'):
        make_app(Parrot(), "mine")


# Files of `export` ----------------------------------------------------------------------


class Circle:
    """The program of a file: the next token of its tokenizer follows, from the last to token 1."""

    def __init__(self, tokenizer, **facts):
        self.size = tokenizer.vocab_size
        sizes = {"context_length": 40, "room": 40, "batch_size": 2, "pad_id": 0, "task": None}
        self.facts = SimpleNamespace(vocab_size=self.size, **{**sizes, **facts})
        self.calls = []

    def next_logits(self, texts):
        self.calls.append(len(texts))
        logits = np.zeros((len(texts), self.size), "float32")
        for row, text in enumerate(texts):
            logits[row, text[-1] % (self.size - 1) + 1] = 99
        return logits


def circle(letters="abcdefghij", **facts):
    """A model of a file without LiteRT."""
    tokenizer = CharTokenizer(letters)
    return LiteModel(Circle(tokenizer, **facts), tokenizer)


@pytest.mark.parametrize(("batch_size", "calls"), [(1, [1] * 10), (2, [2] * 5)])
def test_a_file_writes_as_many_rows_at_once_as_it_has(batch_size, calls):
    lite = circle(batch_size=batch_size)
    with running(lite) as (url, _):
        body = {"prompt": ["a", "cde"], "max_tokens": 5, "stream": True, "temperature": 0}
        with httpx.stream("POST", url + "/v1/completions", json=body) as response:
            choices = [event["choices"][0] for event in events_of(response.iter_lines())]
    pieces = [(choice["index"], choice["text"]) for choice in choices if choice["text"]]
    expected = [*enumerate("bf"), *enumerate("cg"), *enumerate("dh"), *enumerate("ei")]
    expected += [*enumerate("fj")]
    assert pieces == (expected if batch_size == 2 else sorted(expected, key=lambda p: p[0]))
    assert lite.program.calls == calls


def test_tokens_of_a_file_are_counted_where_a_character_takes_several():
    """月 is three bytes; a text of six tokens ends by its length after two characters."""
    tokenizer = BPETokenizer.train("a", vocab_size=259)
    lite = LiteModel(Circle(tokenizer), tokenizer)
    moon = tokenizer.encode("月").tolist()

    def next_logits(texts):
        logits = np.zeros((len(texts), 259), "float32")
        for row, text in enumerate(texts):
            logits[row, moon[(len(text) - 1) % 3]] = 99
        return logits

    lite.program.next_logits = next_logits
    with running(lite) as (url, _):
        for length, text in ((6, "月月"), (4, "月\ufffd")):
            content = post(url, {"prompt": "a", "max_tokens": length, "temperature": 0}).json()
            assert content["choices"][0]["text"] == text
            assert content["choices"][0]["finish_reason"] == "length"
            assert content["usage"]["completion_tokens"] == length
        body = {"prompt": "a", "max_tokens": 6, "temperature": 0, "stop": "月月"}
        content = post(url, body).json()
        assert (content["choices"][0]["text"], content["usage"]["completion_tokens"]) == ("", 6)
        assert content["choices"][0]["finish_reason"] == "stop"


def test_the_room_of_a_file_limits_what_is_asked_before_a_stream_begins():
    with running(circle(room=12)) as (url, _):
        health = httpx.get(url + "/healthz").json()
        assert (health["max_tokens"], health["room"]) == (11, 12)
        error = error_of(post(url, {"prompt": "abcd", "max_tokens": 9, "stream": True}))
        assert error["message"].endswith("must be at most 12 together, got 4 + 9.")
        assert (error["param"], error["code"]) == ("max_tokens", "context_length_exceeded")
        assert (
            "in [1, 11], got 12"
            in error_of(post(url, {"prompt": "a", "max_tokens": 12}))["message"]
        )
        assert "between 1 and 11 tokens" in error_of(post(url, {"prompt": "a" * 12}))["message"]
        usage = post(url, {"prompt": "abcd"}).json()["usage"]
        assert usage["completion_tokens"] == 8  # the default of 16 does not fit
    with running(circle()) as (url, _):  # slides
        assert httpx.get(url + "/healthz").json()["room"] is None
        body = {"prompt": "ab", "max_tokens": 60}
        assert post(url, body).json()["usage"]["completion_tokens"] == 60


def test_a_file_that_gives_no_numbers_is_the_fault_of_the_server():
    lite = circle()
    lite.program.next_logits = lambda texts: np.full((len(texts), lite.vocab_size), np.nan)
    with running(lite) as (url, _):
        response = post(url, {"prompt": "a"})
        assert response.status_code == 500 and "finite logits" in error_of(response)["message"]


def test_a_request_that_the_constraint_does_not_allow_fails_alone():
    tokenizer = CharTokenizer("abcdefghij")
    grammar = Grammar.from_regex("bc", tokenizer, stop_token=tokenizer.ids["j"])
    lite = LiteModel(Circle(tokenizer), tokenizer)
    with running(lite, constraint=grammar) as (url, app):
        response = post(url, {"prompt": "a", "max_tokens": 1})
        assert response.status_code == 400 and app.state.batcher.batches == 0
        assert "max_new_tokens must be at least 2" in error_of(response)["message"]
        choice = post(url, {"prompt": "a", "max_tokens": 3}).json()["choices"][0]
        assert (choice["text"], choice["finish_reason"]) == ("bc", "stop")


# The end of the server ------------------------------------------------------------------


def test_what_waits_when_the_server_is_told_to_end_is_still_written():
    parrot = Parrot()
    with ThreadPoolExecutor(2) as pool, running(parrot, rows=1) as (url, app):
        parrot.gate.clear()
        answers = [pool.submit(post, url, {"prompt": "ab", "max_tokens": 4})]
        wait_for(lambda: app.state.batcher.batches == 1)
        answers += [pool.submit(post, url, {"prompt": "cd", "max_tokens": 4})]
        wait_for(lambda: len(app.state.batcher.waiting) == 1)
        app.state.server.should_exit = True
        parrot.gate.set()
        texts = [answer.result().json()["choices"][0]["text"] for answer in answers]
    assert texts == ["abab", "cdcd"]


@pytest.mark.slow
def test_texts_that_take_longer_than_the_drain_are_told_that_the_server_ends():
    parrot = Parrot()
    with ThreadPoolExecutor(2) as pool:
        with running(parrot, drain_seconds=1) as (url, app):
            parrot.gate.clear()
            body = {"prompt": "ab", "max_tokens": 4}
            whole = pool.submit(post, url, body)
            stream = pool.submit(post, url, {**body, "stream": True})
            wait_for(lambda: app.state.batcher.batches == 1)
            wait_for(lambda: len(app.state.connections) == 2)
        parrot.gate.set()
        message = "The server ends: ask again later."
        assert (whole.result().status_code, error_of(whole.result())["message"]) == (503, message)
        assert message in stream.result().text and "[DONE]" not in stream.result().text
    app.state.batcher.thread.join(10)
    assert not app.state.batcher.thread.is_alive()


# Hostile requests ------------------------------------------------------------------------

STRANGE = [
    *(None, True, [], {}, "", " ", "x" * 5000, "\ud800", "\x00", "明" * 50, "../../etc/passwd"),
    *(-1, 0, 10**30, -(10**4000), 1e308, -1e-320, float("nan"), float("inf")),
    *([[]], [None], [1, "a"], {"a": {}}, [{"role": "user"}], ["a"] * 1000),
]
KEYS = ["prompt", "messages", "model", "max_tokens", "temperature", "top_p", "n", "seed", "stop"]
KEYS += ["stream", "stream_options", "logprobs", "tools", "\ud800", "constructor", ""]


def hostile_body(rng):
    """Write a body that is wrong in one of many ways, or hardly."""
    sys.set_int_max_str_digits(0)
    content = {"prompt": "a", "max_tokens": 2}
    content |= {rng.choice(KEYS): rng.choice(STRANGE) for _ in range(rng.randint(1, 4))}
    body = json.dumps(content).encode()
    sys.set_int_max_str_digits(4300)
    damage = rng.randint(0, 5)
    if damage == 0:
        return body[: rng.randrange(len(body))]
    if damage == 1:
        place = rng.randrange(len(body))
        return body[:place] + rng.randbytes(3) + body[place:]
    if damage == 2:
        return rng.choice([b"[", b'{"a":', b"[{}"]) * rng.randint(1, 6000)
    return body


def test_hundreds_of_hostile_bodies_leave_it_serving(url):
    rng = random.Random(0)
    statuses = set()
    with httpx.Client(base_url=url, timeout=30) as client:
        for _ in range(600):
            path = rng.choice(["/v1/completions", "/v1/completions", "/v1/chat/completions"])
            kind = rng.choice(["application/json"] * 9 + ["text/plain"])
            headers = {"Content-Type": kind, "Authorization": rng.choice(["", "Bearer", "\x7f"])}
            response = client.post(path, content=hostile_body(rng), headers=headers)
            statuses.add(response.status_code)
            if response.status_code != 200:
                error_of(response)
    assert statuses == {200, 400, 404, 413, 415}
    assert post(url, {"prompt": "ab", "max_tokens": 4}).json()["choices"][0]["text"] == "abab"


def test_hundreds_of_hostile_connections_leave_it_serving(url):
    """What is no HTTP, half of it, other methods and paths; some go away, some stay open."""
    rng = random.Random(1)
    lines = [
        *(b"", b"\r\n\r\n", b"GET", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/9.9\r\n\r\n"),
        HEAD + b"Content-Length: -5\r\n\r\n{}",
        HEAD + b"Content-Length: 99999999999999999999\r\n\r\n{}",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzzz\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n{}",
        HEAD + b"Expect: 100-continue\r\nContent-Length: 10\r\n\r\n",
        HEAD + b"X: " + b"y" * 200_000,
        b"GET /../../../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /%00%ff%2e%2e/ HTTP/1.1\r\nHost: \xff\r\n\r\n",
        *(m + b" /v1/completions HTTP/1.1\r\nHost: x\r\n\r\n" for m in (b"BREW", b"PUT", b"TRACE")),
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ]
    still_open = []
    for _ in range(400):
        connection = connect(url)
        try:
            sent = rng.choice(lines)
            connection.sendall(sent[: rng.randint(0, len(sent))] if rng.random() < 0.3 else sent)
        except OSError:  # refused while it was sent
            pass
        if rng.random() < 0.2:
            still_open.append(connection)
        else:
            connection.close()
    assert post(url, {"prompt": "ab", "max_tokens": 4}).json()["choices"][0]["text"] == "abab"
    for connection in still_open:
        connection.close()


def test_a_file_of_the_machine_is_never_answered(url):
    with connect(url) as connection:
        connection.sendall(b"GET /../../../../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 404 " in connection.recv(1000).split(b"\r\n")[0]


def test_a_port_that_cannot_be_used_is_named():
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(OSError, match=f"127.0.0.1 port {port} cannot be listened on: Address"):
            listen("127.0.0.1", port)
    with pytest.raises(ValueError, match=r"port must be in \[0, 65535\], got 65536"):
        listen("127.0.0.1", 65536)


# Real clients and models --------------------------------------------------------------


def openai_client(url, **options):
    """Return the client of the openai library, pointed at a server."""
    openai = pytest.importorskip("openai", reason="needs pip install 'tfgpt[serve-tests]'")
    return openai.OpenAI(base_url=url + "/v1", max_retries=0, **{"api_key": "none", **options})


def test_the_openai_client_completes_streams_and_lists(url):
    client = openai_client(url)
    assert [model.id for model in client.models.list()] == ["mine"]
    whole = client.completions.create(model="mine", prompt="abc", max_tokens=5, n=2, stop="zz")
    assert [choice.text for choice in whole.choices] == ["abcab"] * 2
    assert whole.usage.total_tokens == 13 and whole.choices[0].finish_reason == "length"
    stream = client.completions.create(model="mine", prompt="ab", max_tokens=3, stream=True)
    assert [chunk.choices[0].text for chunk in stream] == ["a", "b", "a", ""]


def test_the_openai_client_chats():
    with running(Parrot(chats=True)) as (url, _):
        client = openai_client(url)
        messages = [{"role": "system", "content": "Be."}, {"role": "user", "content": "Hello!"}]
        whole = client.chat.completions.create(model="mine", messages=messages)
        message = whole.choices[0].message
        assert (message.role, message.content) == ("assistant", "Hello!Hello!")
        stream = client.chat.completions.create(
            model="mine",
            messages=messages,
            max_completion_tokens=3,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(stream)
        assert chunks[0].choices[0].delta.role == "assistant"
        assert [c.choices[0].delta.content for c in chunks[1:4]] == ["H", "e", "l"]
        assert chunks[4].choices[0].finish_reason == "length"
        assert chunks[5].usage.completion_tokens == 3 and chunks[5].object.endswith("chunk")


def test_the_openai_client_gets_its_own_errors(url):
    import openai

    client = openai_client(url)
    with pytest.raises(openai.BadRequestError, match="max_tokens must be an integer") as caught:
        client.completions.create(model="mine", prompt="a", max_tokens=101)
    assert caught.value.param == "max_tokens"
    with pytest.raises(openai.NotFoundError, match="model must be 'mine'") as caught:
        client.completions.create(model="gpt-9", prompt="a")
    assert caught.value.code == "model_not_found"
    with running(Parrot(), api_key="secret") as (locked, _):
        with pytest.raises(openai.AuthenticationError, match="API key is missing or wrong"):
            openai_client(locked).completions.create(model="mine", prompt="a")
        client = openai_client(locked, api_key="secret")
        assert client.completions.create(model="mine", prompt="a", max_tokens=1).choices


@pytest.fixture(scope="module")
def language_model():
    """An untrained GPT whose context is shorter than its texts."""
    tokenizer = CharTokenizer.train("abcdefghij .\n月")
    sizes = {"context_length": 24, "num_layers": 1, "d_model": 16, "num_heads": 2}
    return LanguageModel(GPT(tokenizer.vocab_size, **sizes, pad_id=0), tokenizer)


@pytest.mark.slow
@pytest.mark.requires_tensorflow
@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_file_writes_what_each_request_gets_alone_and_reads_each_prompt_once(
    language_model, tmp_path, batch_size
):
    """Three clients at once, one with two texts, one with a stream."""
    pytest.importorskip("ai_edge_litert", reason="needs pip install 'tfgpt[litert]'")
    path = tmp_path / "mine.tflite"
    export_litert(language_model.model, language_model.tokenizer, path, batch_size=batch_size)
    lite, read = load_served(path), []
    asked = [
        {"prompt": "abc", "max_tokens": 12, "temperature": 0},
        {"prompt": "a b c d", "max_tokens": 9, "temperature": 1.5, "seed": 4, "n": 2},
        {"prompt": "月f", "max_tokens": 20, "temperature": 0.7, "top_p": 0.8, "seed": 3},
    ]
    alone = []
    for body in asked:
        settings = {"num_samples": body.get("n", 1), "seed": body.get("seed")}
        settings |= {"temperature": body["temperature"], "top_p": body.get("top_p")}
        texts = lite.generate([body["prompt"]], body["max_tokens"], **settings)[0]
        alone.append([texts] if isinstance(texts, str) else texts)
    read_chunk = lite.program.read_chunk
    lite.program.read_chunk = lambda *texts: read.append(texts) or read_chunk(*texts)
    with running(lite) as (url, _), ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(post, url, {**body, "stream": body is asked[2]}) for body in asked]
        *whole, stream = [answer.result() for answer in answers]
    found = [[choice["text"] for choice in answer.json()["choices"]] for answer in whole]
    events = events_of(stream.text.split("\n\n"))
    found.append(["".join(event["choices"][0]["text"] for event in events)])
    for texts, body, expected in zip(found, asked, alone, strict=True):
        assert [body["prompt"] + text for text in texts] == expected
    assert len(events) == 21 and events[-1]["choices"][0]["finish_reason"] == "length"
    assert len(read) == 4 if batch_size == 1 else 2 <= len(read) <= 3


def test_a_request_that_the_constraint_does_not_allow_joins_no_batch_of_a_gpt(language_model):
    tokenizer = language_model.tokenizer
    grammar = Grammar.from_regex("abc", tokenizer, stop_token=tokenizer.ids["j"])
    served = Served(language_model, "mine", Limits(), grammar)
    with pytest.raises(WireError, match="max_new_tokens must be at least 3, .* got 2") as caught:
        Job(Ask(["a"], max_new_tokens=2), served, None)
    assert caught.value.status == 400
    assert Job(Ask(["a"], max_new_tokens=3), served, None).wish.max_new_tokens == 3


@pytest.mark.slow
def test_requests_of_one_batch_get_what_each_gets_alone(language_model):
    """Other prompts, lengths, temperatures, p, seeds and numbers of texts, beyond the context."""
    asked = [
        ("abc", 12, {"temperature": 0}),
        ("月", 20, {"temperature": 0.7, "top_p": 0.8, "seed": 3}),
        ("a b c d e", 9, {"temperature": 1.5, "seed": 4, "num_samples": 2}),
        ("月", 20, {"temperature": 0.7, "top_p": 0.8, "seed": 3}),
    ]
    alone = [language_model.generate(prompt, n, **settings) for prompt, n, settings in asked]
    bodies = []
    for prompt, n, settings in asked:
        settings = {"n" if k == "num_samples" else k: v for k, v in settings.items()}
        bodies.append({"prompt": prompt, "max_tokens": n, **settings})
    with (
        running(language_model, rows=8, new_tokens=50_000) as (url, app),
        ThreadPoolExecutor(4) as pool,
    ):
        first = {"prompt": "a", "max_tokens": 50_000, "stream": True}
        with httpx.stream("POST", url + "/v1/completions", json=first, timeout=60) as response:
            lines = response.iter_lines()  # as long as it lives, the stream is open
            next(lines)
            answers = [pool.submit(post, url, body) for body in bodies]
            wait_for(lambda: len(app.state.batcher.waiting) == 4)
        found = [[c["text"] for c in answer.result().json()["choices"]] for answer in answers]
        assert app.state.batcher.batches == 2
    for texts, (prompt, _, _), expected in zip(found, asked, alone, strict=True):
        expected = [expected] if isinstance(expected, str) else expected
        assert [prompt + text for text in texts] == expected


@pytest.mark.slow
def test_a_chat_answers_what_the_fine_tuned_model_answers(tmp_path):
    tokenizer = BPETokenizer.train("User: Hello.\nAssistant: Good day. " * 5, vocab_size=270)
    gpt = GPT(tokenizer.vocab_size, 48, num_layers=1, d_model=16, num_heads=2, pad_id=0)
    facts = {"task": "chat", "labels": None, "buckets": [32], "batch_size": 1, "base": "none"}
    facts |= {"method": "full", "max_new_tokens": 12}
    save_finetuned(tmp_path, gpt, tokenizer, facts)
    writer = load_served(tmp_path)
    dialogue = [{"role": "user", "content": "Hello. " * 9}]  # longer than the context
    with running(writer, rows=1) as (url, _):
        body = {"messages": dialogue, "temperature": 0}
        content = post(url, body, "/v1/chat/completions").json()
    assert content["choices"][0]["message"]["content"].strip() == writer.predict([dialogue])[0]
    assert content["usage"]["prompt_tokens"] == 36
    pytest.importorskip("ai_edge_litert", reason="needs pip install 'tfgpt[litert]'")
    with pytest.raises(ValueError, match="more than the max_new_tokens=12 of the .* got 12"):
        export_run(tmp_path, tmp_path / "small.tflite", "litert", room=12)
    lite = load_served(export_run(tmp_path, tmp_path / "chat.tflite", "litert"))
    assert "".join(lite.answer(dialogue)).strip() == writer.predict([dialogue])[0]
    with running(lite) as (url, _):
        assert post(url, body, "/v1/chat/completions").json()["choices"] == content["choices"]


@pytest.mark.slow
def test_sigterm_lets_a_text_under_way_end(language_model, tmp_path):
    language_model.save(tmp_path / "mine")
    command = [sys.executable, "-m", "tfgpt", "serve", "--model", str(tmp_path / "mine")]
    process = subprocess.Popen(
        [*command, "--port", "0", "--batch", "1", "--max-tokens", "3000"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TFGPT_API_KEY": "secret"},
    )
    try:
        line = process.stdout.readline()
        (url,) = re.findall(r"^mine is served at (http://127.0.0.1:\d+) and ", line)
        body = {"prompt": "a", "max_tokens": 60, "stream": True}
        headers = {"Authorization": "Bearer secret"}
        with httpx.stream(
            "POST", url + "/v1/completions", json=body, headers=headers, timeout=60
        ) as response:
            lines = response.iter_lines()
            first = next(lines)
            process.send_signal(signal.SIGTERM)
            events = events_of([first, *lines])
        assert len(events) == 61 and events[-1]["choices"][0]["finish_reason"] == "length"
        assert process.wait(timeout=60) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(url + "/healthz")
    finally:
        process.kill()


# The page, in a browser -----------------------------------------------------------------


@pytest.fixture
def open_page(browser):
    """Open the page of a server; at the end: no error in it, no request to anybody else."""
    contexts, errors, requests = [], [], []

    def open_(url):
        context = browser.new_context(viewport={"width": 1000, "height": 700})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(url)
        page.locator("body[aria-busy=false]").wait_for()
        return page

    yield open_
    for context in contexts:
        context.close()
    assert errors == []
    assert [url for url in requests if not url.startswith("http://127.0.0.1:")] == []


@pytest.fixture
def expect(browser):
    from playwright.sync_api import expect

    return expect


@pytest.mark.slow
def test_the_page_streams_a_text_with_its_settings(open_page, expect):
    parrot = Parrot()
    asked = []
    write = parrot.write_together
    parrot.write_together = lambda wishes, **rules: asked.extend(wishes) or write(wishes)
    with running(parrot) as (url, _):
        page = open_page(url)
        expect(page).to_have_title("mine")
        page.get_by_label("Temperature").fill("0.5")
        page.get_by_label("Top-p").fill("0.9")
        page.get_by_label("Tokens").fill("6")
        page.get_by_label("Prompt").fill("a月")
        page.get_by_role("button", name="Write").click()
        expect(page.locator(".written")).to_have_text("a月a月a月")
        expect(page.locator("#status")).to_contain_text("so many tokens were asked for")
        assert (asked[-1].temperature, asked[-1].top_p) == (0.5, 0.9)


@pytest.mark.slow
def test_the_page_says_that_a_filter_refused_and_knows_the_room(open_page, expect):
    with running(circle(room=12), output_filter=OutputFilter(lambda t: [9], 2, "No.")) as (url, _):
        page = open_page(url)
        expect(page.get_by_label("Tokens")).to_have_value("6")
        page.get_by_label("Prompt").fill("a")
        page.get_by_role("button", name="Write").click()
        expect(page.locator(".written")).to_have_text("No.")
        expect(page.locator("#status")).to_contain_text("a filter refused the text")


@pytest.mark.slow
def test_the_page_stops_a_text_and_shows_errors(open_page, expect):
    with running(Parrot(pause=0.005), rows=1, new_tokens=10**9) as (url, _):
        page = open_page(url)
        page.get_by_label("Tokens").fill("100000000")
        page.get_by_label("Prompt").fill("ab")
        page.get_by_label("Prompt").press("Enter")
        expect(page.locator(".written")).to_contain_text("abab")
        page.get_by_role("button", name="Stop").click()
        expect(page.locator("#status")).to_have_text("Stopped.")
        page.get_by_label("Prompt").fill("<b>")
        page.get_by_role("button", name="Write").click()
        expect(page.locator("#status.wrong")).to_contain_text("got '<' (U+003C)")
        page.get_by_label("Tokens").fill("3")
        page.get_by_label("Prompt").fill("c")
        page.get_by_role("button", name="Write").click()
        expect(page.locator(".written")).to_have_text("ccc")  # the writer was free again


@pytest.mark.slow
def test_the_page_keeps_a_dialogue_and_sends_the_key(open_page, expect):
    with running(Parrot(chats=True), api_key="secret") as (url, _):
        page = open_page(url)
        page.get_by_label("Tokens").fill("5")
        page.get_by_label("Message").fill("Hello")
        page.get_by_role("button", name="Write").click()
        expect(page.locator("#status.wrong")).to_contain_text("key is missing or wrong")
        page.get_by_role("button", name="Clear").click()
        page.get_by_label("API key").fill("secret")
        for message in ("Hello", "Good."):
            page.get_by_label("Message").fill(message)
            page.get_by_role("button", name="Write").click()
            expect(page.locator(".written").last).to_have_text(message)
        expect(page.locator("#text p")).to_have_text(["Hello", "Hello", "Good.", "Good."])
