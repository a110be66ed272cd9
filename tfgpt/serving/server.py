"""An HTTP server for a text model, in the form of OpenAI's: completions, chat, streams, a page.

POST /v1/completions, POST /v1/chat/completions, GET /v1/models, GET /healthz, and a page for
the browser at /. `tfgpt serve` starts it.
"""

import asyncio
import contextlib
import hmac
import os
import socket
import sys
from importlib import resources

from tfgpt.serving.answering import Answer, event, to_bytes
from tfgpt.serving.asking import Limits, WireError, read_ask, read_json
from tfgpt.serving.batching import Batcher, Job
from tfgpt.serving.screening import screened
from tfgpt.serving.served import Served

BACKLOG = 1024  # connections that the system accepts while the server is busy
LOOPBACK = ("127.0.0.1", "::1", "localhost")
# The page asks nobody but this server, and nobody may put it into a frame.
PAGE_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Where a part of the body may still be on its way, the connection ends.
HEADERS = {
    401: {"WWW-Authenticate": "Bearer"},
    408: {"Connection": "close"},
    413: {"Connection": "close"},
    429: {"Retry-After": "1"},
    503: {"Retry-After": "1", "Connection": "close"},
}
SENTENCES = {404: "There is nothing at {path}.", 405: "{path} does not take the method {method}."}


def serve(
    text_model,
    name,
    host="127.0.0.1",
    port=8000,
    api_key=None,
    limits=None,
    constraint=None,
    output_filter=None,
):
    """Serve a model until SIGTERM or Ctrl-C; requests under way are finished then.

    Args:
        text_model: LanguageModel, a fine-tuned model that writes, or a LiteModel.
        name: str, what clients call the model.
        host: str, the address to listen on: by default only this machine is answered.
        port: int; 0: any that is free.
        api_key: str, what clients must send; None: nothing.
        limits: Limits; None: the default ones.
        constraint: Constraint of all texts, such as BannedPhrases; None: all are allowed.
        output_filter: OutputFilter that reads each text before it is sent, a stream too, which
            then comes in one piece; None: texts are sent as they are written.

    Raises:
        ImportError: if starlette or uvicorn is missing.
        OSError: if the port is taken.
        ValueError: if the model does not write text, the key is empty, or there is no such port.
    """
    from tfgpt.signals import termination_as_interrupt

    app = make_app(text_model, name, limits, api_key, constraint, output_filter)
    with listen(host, port) as listener:
        app.state.served.warm_up()
        address = f"[{host}]" if ":" in host else host
        url = f"http://{address}:{listener.getsockname()[1]}"
        print(f"{name} is served at {url} and {url}/v1; Ctrl-C ends it.", flush=True)
        if host not in LOOPBACK and not api_key:
            print("Anybody who reaches this address may use it: set --api-key.", file=sys.stderr)
        # The signal that ended the server comes again after it.
        with contextlib.suppress(KeyboardInterrupt), termination_as_interrupt():
            make_server(app).run(sockets=[listener])


def listen(host, port):
    """Open the socket of a server; raise OSError if the port is taken."""
    if not 0 <= port <= 65535:
        raise ValueError(f"port must be in [0, 65535], got {port}.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio sends small pieces at once (TCP_NODELAY).
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":  # elsewhere it would share a port that is taken
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise OSError(f"{host} port {port} cannot be listened on: {error.strerror}.") from error
    return listener


def make_server(app):
    """Make the uvicorn server of an app."""
    import uvicorn

    from tfgpt.serving.protocol import protocol_class

    limits = app.state.served.limits
    config = uvicorn.Config(
        app,
        http=protocol_class(limits.head_seconds),
        ws="none",
        lifespan="on",
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=limits.drain_seconds,
    )
    server = uvicorn.Server(config)
    app.state.connections = server.server_state.connections
    return server


def make_app(text_model, name, limits=None, api_key=None, constraint=None, output_filter=None):
    """Make the ASGI app of a model; see `serve`.

    Returns:
        Starlette, whose `state` has `served`, `batcher` and `connections`, the open ones.
    """
    try:
        import uvicorn  # noqa: F401
        from starlette.applications import Starlette
        from starlette.exceptions import HTTPException
        from starlette.requests import ClientDisconnect
        from starlette.routing import Route
    except ImportError as error:
        message = 'serve needs starlette and uvicorn: pip install "tfgpt[serve]".'
        raise ImportError(message) from error
    if api_key is not None and not api_key.strip():
        raise ValueError(f"api_key must have a character, got {api_key!r}.")
    served = Served(text_model, name, limits or Limits(), constraint)
    batcher = Batcher(served)

    @contextlib.asynccontextmanager
    async def lifespan(app):
        batcher.thread.start()
        yield
        batcher.close()

    app = Starlette(
        routes=[
            Route("/", show_page),
            Route("/healthz", show_health),
            Route("/v1/models", list_models),
            Route("/v1/completions", complete, methods=["POST"]),
            Route("/v1/chat/completions", complete_chat, methods=["POST"]),
        ],
        exception_handlers={
            WireError: refuse,
            HTTPException: refuse_path,
            ClientDisconnect: forget,
            Exception: report_failure,
        },
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.served, app.state.batcher = served, batcher
    app.state.output_filter = output_filter
    app.state.connections = set()
    app.state.api_key = None if api_key is None else api_key.strip().encode()
    return app


def respond(content, status=200, headers=None):
    """Make an answer of JSON."""
    from starlette.responses import Response

    return Response(to_bytes(content), status, headers, "application/json")


async def refuse(request, error):
    """Answer what was refused; who waits in vain may come again in a second."""
    return respond(error.body(), error.status, HEADERS.get(error.status))


async def refuse_path(request, error):
    """Answer a path or a method that does not exist."""
    words = SENTENCES.get(error.status_code, "{path} was refused.")
    message = words.format(path=ascii(request.url.path[:100]), method=request.method[:20])
    return respond(WireError(message, error.status_code).body(), error.status_code, error.headers)


async def forget(request, error):
    """Answer a client that went away before its request was whole: it will not hear it."""
    return respond({}, 400)


async def report_failure(request, error):
    """Answer after an error of ours, which the log shows."""
    return respond(WireError("The server failed; its log says how.", 500).body(), 500)


async def show_page(request):
    """Send the page for the browser."""
    from starlette.responses import Response

    page = resources.files("tfgpt.serving").joinpath("page.html").read_bytes()
    headers = {"Content-Security-Policy": PAGE_POLICY, "X-Content-Type-Options": "nosniff"}
    return Response(page, headers=headers, media_type="text/html; charset=utf-8")


async def show_health(request):
    """Say that the server lives, and what the page must know."""
    served = request.app.state.served
    facts = {"model": served.name, "chat": served.can_chat, "room": served.room}
    facts |= {"max_tokens": served.limits.new_tokens}
    return respond({"status": "ok", **facts, "needs_key": request.app.state.api_key is not None})


async def list_models(request):
    """List the only model, as OpenAI's clients ask for it."""
    check_key(request)
    name = request.app.state.served.name
    model = {"id": name, "object": "model", "created": 0, "owned_by": "tfgpt"}
    return respond({"object": "list", "data": [model]})


async def complete(request):
    """Continue a text."""
    return await answer(request, is_chat=False)


async def complete_chat(request):
    """Continue a dialogue."""
    return await answer(request, is_chat=True)


async def answer(request, is_chat):
    """Read a request, queue it, and answer it whole or as a stream."""
    from starlette.responses import StreamingResponse

    check_connections(request)
    check_key(request)
    served, batcher = request.app.state.served, request.app.state.batcher
    content = read_json(await read_body(request, served.limits))
    if is_chat and not served.can_chat:
        message = "This model was not fine-tuned on dialogues: use /v1/completions."
        raise WireError(message, 400, code="no_chat")
    ask = read_ask(content, served.limits, served.name, is_chat)
    # Beside the other requests: a megabyte takes a while to encode.
    job = await asyncio.to_thread(Job, ask, served, asyncio.get_running_loop())
    batcher.submit(job)
    watcher = asyncio.create_task(watch(request, job))
    form = Answer(served.name, is_chat)
    output_filter = request.app.state.output_filter
    pieces = job.pieces() if output_filter is None else screened(job.pieces(), output_filter)
    if ask.streams:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        events = stream_events(job, pieces, form, watcher)
        return StreamingResponse(events, headers=headers, media_type="text/event-stream")
    return await whole_answer(job, pieces, form, watcher)


async def whole_answer(job, pieces, form, watcher):
    """Wait for all texts of a job and answer them."""
    try:
        texts, reasons = [""] * len(job.rows_of_ids), [None] * len(job.rows_of_ids)
        async for row, piece, reason in pieces:
            texts[row] += piece
            reasons[row] = reason
        return respond(form.whole(texts, reasons, job.usage()))
    finally:
        watcher.cancel()
        job.leave()


async def stream_events(job, pieces, form, watcher):
    """Yield the events of a stream; an error after its beginning is an event too."""
    try:
        if form.is_chat:
            for row in range(len(job.rows_of_ids)):
                yield event(form.chunk(row, is_first=True))
        async for row, piece, reason in pieces:
            yield event(form.chunk(row, piece, reason))
        if job.ask.sends_usage:
            yield event(form.usage_chunk(job.usage()))
        yield b"data: [DONE]\n\n"
    except WireError as error:
        yield event(error.body())
    finally:
        watcher.cancel()
        job.leave()


async def watch(request, job):
    """Give a job's place up when its client goes away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    job.leave()


def check_connections(request):
    """Raise if more connections are open than the server takes."""
    state = request.app.state
    if len(state.connections) > state.served.limits.connections:
        message = f"{len(state.connections)} connections are open: try again later."
        raise WireError(message, 503, code="too_many_connections")


def check_key(request):
    """Raise unless the request has the server's key; every wrong one takes equally long."""
    key = request.app.state.api_key
    if key is None:
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    # Blanks of HTTP only: the last byte of "à" in UTF-8 would be one of Python's.
    is_right = hmac.compare_digest(given.strip(" \t").encode("latin-1", "replace"), key)
    if scheme.lower() != "bearer" or not is_right:
        raise WireError("The API key is missing or wrong.", 401, code="invalid_api_key")


async def read_body(request, limits):
    """Read a body of JSON; raise WireError if it is too large, too slow or something else."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        message = f"The Content-Type must be application/json, got {ascii(kind[:60])}."
        raise WireError(message, 415)
    chunks, size = [], 0
    too_large = WireError(f"The body must have at most {limits.body_bytes} bytes.", 413)
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length[:20]) > limits.body_bytes:
        raise too_large
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limits.body_bytes:
                    raise too_large
                chunks.append(chunk)
    except TimeoutError as error:
        message = f"The body must come within {limits.body_seconds:g} seconds."
        raise WireError(message, 408) from error
    return b"".join(chunks)
