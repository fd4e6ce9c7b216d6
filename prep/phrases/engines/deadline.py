"""Connections for requests that have to end within a time."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterable

import httpcore


class Timed(httpcore.NetworkBackend):
    """Connections that end when the request of this thread has to: ``start`` sets the time.

    A request has ``seconds``, from the connection to the last byte.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._plain = httpcore.SyncBackend()
        self._request = threading.local()

    def start(self) -> None:
        """Begin the request of this thread."""
        self._request.end, self._request.heard = time.monotonic() + self._seconds, False

    def heard(self) -> bool:
        """Whether a byte of the response has arrived."""
        return bool(self._request.heard)

    def hear(self, data: bytes) -> bytes:
        """``data``, which arrived for the request of this thread."""
        self._request.heard = self._request.heard or bool(data)
        return data

    def left(self) -> float:
        """The seconds left for the request; at least a moment, as 0 would mean no limit."""
        end: float = self._request.end
        return max(1e-3, end - time.monotonic())

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """A connection whose reads and writes end with the request of this thread."""
        stream = self._plain.connect_tcp(host, port, self.left(), local_address, socket_options)
        return _Stream(stream, self)


class _Stream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream, time: Timed) -> None:
        self._stream, self._time = stream, time

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._time.hear(self._stream.read(max_bytes, self._time.left()))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._time.left())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, self._time.left()), self._time)

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)
