"""HTTP/1.1 of uvicorn, with an end for connections on which no request comes."""


def protocol_class(seconds):
    """Make a protocol that closes a connection without the head of a request.

    uvicorn itself waits for ever where nothing is sent, or a byte now and then.

    Args:
        seconds: float, from the beginning of a connection or the end of its last answer.

    Returns:
        class for the `http` of `uvicorn.Config`.
    """
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Impatient(H11Protocol):
        def connection_made(self, transport):
            super().connection_made(transport)
            self.wait_for_head()

        def connection_lost(self, error):
            self.deadline.cancel()
            super().connection_lost(error)

        def on_response_complete(self):
            self.deadline.cancel()
            self.wait_for_head()
            super().on_response_complete()

        def wait_for_head(self):
            self.deadline = self.loop.call_later(seconds, self.close_without_request)

        def close_without_request(self):
            if self.cycle is None or self.cycle.response_complete:
                self.transport.close()

    return Impatient
