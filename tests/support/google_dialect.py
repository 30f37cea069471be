"""Google Cloud Storage's XML API, as far as the client uses it, spoken to a server of S3.

No emulator that could be found answers the requests of the client: writes of the XML API with
`x-goog-if-generation-match`, and lists. Google's documentation says how these differ from S3; the
differences are here, and a server of S3 does the rest. This is not Google's own program.
"""

import itertools
from dataclasses import dataclass, field
from urllib.parse import unquote

CONDITION = b"x-goog-if-generation-match"
_NAMES = {b"x-goog-copy-source": b"x-amz-copy-source"}
_META, _AMZ_META = b"x-goog-meta-", b"x-amz-meta-"
_AUTHORIZATION = (
    b"Authorization: AWS4-HMAC-SHA256 Credential=any/20260101/us-east-1/s3/aws4_request, "
    b"SignedHeaders=host, Signature=any"
)
"""What moto accepts, which compares no signatures."""


@dataclass
class GoogleDialect:
    """Changes the heads of requests and answers, which must be handled one after another."""

    generations: dict[str, int] = field(default_factory=dict)
    """The generation of each object that exists, by its path."""
    numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1_700_000))

    def request(self, head: bytes) -> bytes:
        """Return the head of the request for S3."""
        path = _path_of(head)
        first, *lines = head.split(b"\r\n")
        changed = [first]
        for line in lines:
            name, colon, value = line.partition(b":")
            name = name.lower()
            if name == b"authorization":  # a token of Google
                changed.append(_AUTHORIZATION)
                continue
            if name == CONDITION:
                # A stale generation becomes an ETag that nothing has.
                is_current = int(value) == self.generations.get(path, 0)
                if not is_current or int(value) == 0:
                    changed.append(b"If-None-Match: *" if is_current else b'If-Match: "stale"')
                continue
            name = _NAMES.get(name, name.replace(_META, _AMZ_META))
            changed.append(name + colon + value)
        return b"\r\n".join(changed)

    def answer(self, request: bytes, head: bytes) -> bytes:
        """Return the head of Google's answer for the one of S3."""
        method, path = request.split(b" ", 1)[0], _path_of(request)
        is_done = head.split(b" ", 2)[1].startswith(b"2")
        if method == b"DELETE" and self.generations.pop(path, None) is None:
            return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
        # A part of an upload makes no object; the request that completes it does.
        makes = method == b"PUT" and b"partNumber=" not in request.split(b"\r\n", 1)[0]
        completes = method == b"POST" and b"uploadId=" in request.split(b"\r\n", 1)[0]
        if is_done and (makes or completes):
            self.generations[path] = next(self.numbers)
        if b"\r\nx-goog-generation" not in head and path in self.generations:
            line = b"x-goog-generation: %d\r\n\r\n" % self.generations[path]
            head = head[:-2] + line
        return head.replace(_AMZ_META, _META)


def _path_of(head: bytes) -> str:
    """Return the path that the head of a request names, without its query."""
    return unquote(head.split(b" ", 2)[1].decode().partition("?")[0])
