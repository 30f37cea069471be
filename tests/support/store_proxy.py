"""A proxy before an object store, which counts requests, delays them and makes them fail.

It reads whole requests of HTTP/1.1 and forwards each on a connection of its own, so that a fault
can be aimed at a method and a part of a path.
"""

import asyncio
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote

from tests.support.google_dialect import CONDITION, GoogleDialect

Kind = Literal["cut", "busy", "lost", "hang", "without_conditions", "without_if_match"]
_IGNORED: dict[str, tuple[bytes, ...]] = {
    "without_conditions": (b"if-none-match", b"if-match", CONDITION),
    "without_if_match": (b"if-match",),
}
_ESCAPED = re.compile("%2F|%5F|%2D|%2E")
CHUNK = 64 << 10


@dataclass
class Fault:
    """What happens to requests of a method whose path contains a text."""

    kind: Kind
    """`cut`: end the connection after `after_bytes` of the answer's body. `busy`: answer 503 and
    leave the server alone. `lost`: let the server do it, then end the connection without an answer.
    `hang`: let the server do it, and never answer. `without_conditions`: remove If-None-Match and
    If-Match, as a store that ignores them. `without_if_match`: remove the second alone."""
    method: str = ""
    """Empty for all methods."""
    text: str = ""
    times: int = 1
    after_bytes: int = 0
    hits: int = 0


@dataclass(frozen=True)
class Request:
    """One request as the server got it, or would have got it."""

    method: str
    """GET, PUT, HEAD, DELETE, POST, or LIST for a GET that lists."""
    path: str


@dataclass
class StoreProxy:
    """A running proxy; attributes may be changed at any time."""

    upstream: tuple[str, int]
    latency_s: float = 0.0
    """Added to every request."""
    bytes_per_s: float | None = None
    """For each direction of each connection; None for no limit."""
    one_at_a_time: bool = False
    """Let the server work on one request at a time."""
    dialect: GoogleDialect | None = None
    """Translates what the server speaks; needs `one_at_a_time`."""
    address: str = ""
    requests: list[Request] = field(default_factory=list)
    heads: list[bytes] = field(default_factory=list)
    """The heads of all answers."""
    faults: list[Fault] = field(default_factory=list)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    connections: "set[asyncio.Task[None] | None]" = field(default_factory=set)
    """The loop itself refers to a task that waits only weakly."""

    def fail(self, fault: Fault) -> Fault:
        """Add a fault and return it; it ends after `times` requests."""
        self.faults.append(fault)
        return fault

    def forget(self) -> None:
        """Forget the requests so far, and all faults."""
        self.requests.clear()
        self.faults.clear()

    def counts(self) -> Counter[str]:
        """Return how many requests of each method there were since `forget`; LIST is one."""
        return Counter(request.method for request in self.requests)

    def counts_of(self, text: str) -> Counter[str]:
        """Return the counts of requests whose path contains a text."""
        return Counter(request.method for request in self.requests if text in request.path)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        self.connections.add(asyncio.current_task())
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while await self._one(reader, writer):
                    pass
        finally:
            self.connections.discard(asyncio.current_task())
            with suppress(ConnectionError, asyncio.CancelledError):
                writer.close()
                await writer.wait_closed()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Handle one request; return whether the connection goes on."""
        head = await reader.readuntil(b"\r\n\r\n")
        method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
        # The client writes the paths of Google's objects with more escapes than those of S3.
        place, mark, query = path.partition("?")
        path = f"{_ESCAPED.sub(lambda found: unquote(found[0]), place)}{mark}{query}"
        if b"expect: 100-continue" in head.lower():
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readexactly(_length(head))
        await self._pause(len(body))
        is_list = "list-type=" in path or "comp=list" in path
        named = "LIST" if method == "GET" and is_list else method
        self.requests.append(Request(named, path))
        fault = self._next_fault(named, path)
        if fault is not None and fault.kind == "busy":
            text = b"<Error><Code>SlowDown</Code></Error>"
            writer.write(b"HTTP/1.1 503 Slow Down\r\nContent-Length: %d\r\n\r\n" % len(text))
            writer.write(text)
            await writer.drain()
            return True
        if fault is not None:
            head = _without(head, _IGNORED.get(fault.kind, ()))
        async with self.turn if self.one_at_a_time else nullcontext():
            answer_head, answer = await self._forward(head, body, has_body=method != "HEAD")
        self.heads.append(answer_head)
        return await self._answer(writer, answer_head, answer, fault)

    async def _answer(
        self, writer: asyncio.StreamWriter, head: bytes, body: bytes, fault: Fault | None
    ) -> bool:
        kind = None if fault is None else fault.kind
        if kind == "lost":
            return False
        if kind == "hang":
            await asyncio.sleep(3600)
        if kind == "cut" and fault is not None:
            writer.write(head + body[: fault.after_bytes])
            await writer.drain()
            return False
        writer.write(head)
        for start in range(0, len(body), CHUNK):
            part = body[start : start + CHUNK]
            await self._pause(len(part), latency=False)
            writer.write(part)
            await writer.drain()
        await writer.drain()
        return True

    async def _pause(self, num_bytes: int, *, latency: bool = True) -> None:
        seconds = self.latency_s if latency else 0.0
        if self.bytes_per_s is not None:
            seconds += num_bytes / self.bytes_per_s
        if seconds:
            await asyncio.sleep(seconds)

    def _next_fault(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.hits < fault.times and fault.method in ("", method) and fault.text in path:
                fault.hits += 1
                return fault
        return None

    async def _forward(self, head: bytes, body: bytes, *, has_body: bool) -> tuple[bytes, bytes]:
        """Send a request to the server and return head and body of its answer."""
        if self.dialect is not None:
            asked, head = head, self.dialect.request(head)
            answer_head, answer = await self._exchange(head, body, has_body=has_body)
            return self.dialect.answer(asked, answer_head), answer
        return await self._exchange(head, body, has_body=has_body)

    async def _exchange(self, head: bytes, body: bytes, *, has_body: bool) -> tuple[bytes, bytes]:
        reader, writer = await asyncio.open_connection(*self.upstream)
        try:
            writer.write(head + body)
            await writer.drain()
            answer = await reader.readuntil(b"\r\n\r\n")
            while answer.startswith(b"HTTP/1.1 100"):
                answer = await reader.readuntil(b"\r\n\r\n")
            if not has_body or _status(answer) in (204, 304):
                return answer, b""
            if b"transfer-encoding: chunked" in answer.lower():
                content = await _chunks(reader)
                plain = _without(answer, (b"transfer-encoding",))
                return plain[:-2] + b"Content-Length: %d\r\n\r\n" % len(content), content
            return answer, await reader.readexactly(_length(answer))
        finally:
            writer.close()


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    content = b""
    while True:
        size = int((await reader.readline()).split(b";")[0], 16)
        part = await reader.readexactly(size + 2)
        if size == 0:
            return content
        content += part[:-2]


def _status(head: bytes) -> int:
    return int(head.split(b" ", 2)[1])


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def _without(head: bytes, names: tuple[bytes, ...]) -> bytes:
    lines = head.split(b"\r\n")
    return b"\r\n".join(line for line in lines if line.partition(b":")[0].lower() not in names)


@contextmanager
def store_proxy(host: str, port: int) -> Iterator[StoreProxy]:
    """Run a proxy before a server at 127.0.0.1, in a thread, during the block."""
    proxy = StoreProxy((host, port))
    loop = asyncio.new_event_loop()

    async def start() -> asyncio.Server:
        return await asyncio.start_server(proxy.serve, "127.0.0.1", 0, limit=1 << 20)

    server = loop.run_until_complete(start())
    proxy.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        asyncio.run_coroutine_threadsafe(_end(server), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _end(server: asyncio.Server) -> None:
    server.close()
    # A connection that was accepted just before becomes a task only in the next turn of the loop.
    while True:
        await asyncio.sleep(0.01)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if not others:
            return
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
