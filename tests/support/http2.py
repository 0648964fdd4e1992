"""Frames of HTTP/2 by hand (RFC 9113, RFC 7541), for what no client library would send, or not at this rate."""

from collections.abc import Iterator, Sequence

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4
CANCEL = (8).to_bytes(4, "big")
FRAME_BYTES = 9  # before each frame's payload


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return b"%b%c%c%b%b" % (len(payload).to_bytes(3, "big"), kind, flags, stream.to_bytes(4, "big"), payload)


def request_headers(authority: str, path: str, others: Sequence[tuple[str, str]] = ()) -> bytes:
    """A gRPC request's block of headers: literals, none of them to be remembered."""
    parts = [b"\x83\x86\x04", _text(path), b"\x01", _text(authority), b"\x0f\x10", _text("application/grpc")]
    for name, value in (("te", "trailers"), *others):
        parts += [b"\x00", _text(name), _text(value)]
    return b"".join(parts)


def message_data(message: bytes) -> bytes:
    """The DATA of one gRPC message that is not compressed."""
    return b"\x00" + len(message).to_bytes(4, "big") + message


def frames(received: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """The kind, the flags, the stream and the payload of each frame that is whole."""
    at = 0
    while at + FRAME_BYTES <= len(received):
        end = at + FRAME_BYTES + int.from_bytes(received[at : at + 3], "big")
        if end > len(received):
            return
        stream = int.from_bytes(received[at + 5 : at + FRAME_BYTES], "big")
        yield received[at + 3], received[at + 4], stream, received[at + FRAME_BYTES : end]
        at = end


def _text(value: str) -> bytes:
    raw = value.encode()
    if len(raw) < 127:
        return bytes([len(raw)]) + raw
    rest, length = len(raw) - 127, bytearray([127])
    while rest >= 128:
        length.append(rest % 128 + 128)
        rest //= 128
    return bytes([*length, rest]) + raw
