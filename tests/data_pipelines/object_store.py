"""A real HTTP server with range requests, started by the tests, that can be slow, fail, and end bodies early."""

import dataclasses
import gzip
import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

Fault = Literal["", "503", "reset", "short", "ignore range", "compress"]
"""`compress`: as many servers do, the whole file by gzip where a client takes that, ranges or not."""


@dataclasses.dataclass
class Request:
    method: str
    path: str
    start: int
    end: int


class ObjectStore:
    """Serves `root` at `url`; `fault(number of the request, request)` says what goes wrong with it."""

    def __init__(self, root: Path):
        self.root, self.latency_seconds = root, 0.0
        self.fault: Callable[[int, Request], Fault] = lambda number, request: ""
        self.requests: list[Request] = []
        self.connections: set[tuple] = set()
        self.most_at_once = self._now = 0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def reads(self) -> list[Request]:
        """Ranges of shards."""
        return [request for request in self.requests if request.method == "GET" and ".tfrecord" in request.path]

    def begin(self, request: Request, client: tuple) -> Fault:
        with self._lock:
            self.requests.append(request)
            self.connections.add(client)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            fault = self.fault(len(self.requests), request)
        time.sleep(self.latency_seconds)
        return fault

    def end(self) -> None:
        with self._lock:
            self._now -= 1

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        store = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_HEAD(self) -> None:
                self._answer(with_body=False)

            def do_GET(self) -> None:
                self._answer(with_body=True)

            def _answer(self, *, with_body: bool) -> None:
                file = store.root / self.path.lstrip("/")
                size = file.stat().st_size if file.is_file() else 0
                asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
                start, end = (int(asked[1]), min(int(asked[2]) + 1, size)) if asked else (0, size)
                fault = store.begin(Request(self.command, self.path, start, end), self.client_address)
                try:
                    self._send(file, start, end, fault, is_range=asked is not None, with_body=with_body)
                finally:
                    store.end()

            def _send(self, file: Path, start: int, end: int, fault: Fault, *, is_range: bool, with_body: bool) -> None:
                if fault == "503" or not file.is_file():
                    self.send_response(503 if fault else 404)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                if fault == "reset":
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.connection.close()
                    self.close_connection = True
                    return
                is_compressed = fault == "compress" and "gzip" in self.headers.get("Accept-Encoding", "")
                if fault == "ignore range" or is_compressed:
                    start, end, is_range = 0, file.stat().st_size, False
                body = file.read_bytes()[start:end]
                self.send_response(206 if is_range else 200)
                if is_compressed:
                    body = gzip.compress(body)
                    self.send_header("Content-Encoding", "gzip")
                self.send_header("Content-Length", str(len(body)))
                self.send_header("ETag", f'"{file.stat().st_mtime_ns}-{file.stat().st_size}"')
                if is_range:
                    self.send_header("Content-Range", f"bytes {start}-{end - 1}/{file.stat().st_size}")
                self.end_headers()
                if with_body:
                    self.wfile.write(body[: len(body) // 2] if fault == "short" else body)
                    if fault == "short":
                        self.wfile.flush()
                        self.connection.shutdown(socket.SHUT_RDWR)
                        self.close_connection = True

            def log_message(self, *_) -> None:
                pass

        return Handler
