"""Opening handshake and first frames, which the Autobahn cases leave out. Raw sockets, standard library only.

Each case is a function that takes an address and raises `Wrong` with what it saw. `run` gives (name, what is wrong
or None) for each; `OSError` in every case means that nobody listens there.
"""
import base64
import hashlib
import os
import socket
import struct
import urllib.parse

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
TIMEOUT_S = 5


class Wrong(Exception):
    """The server did something else than it must."""


class Visit:
    """One connection: sends an upgrade request and reads what comes back."""

    def __init__(self, url):
        parts = urllib.parse.urlsplit(url)
        self.socket = socket.create_connection((parts.hostname, parts.port or 80), TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.stream = self.socket.makefile("rb")
        self.key = base64.b64encode(os.urandom(16)).decode()
        target = (parts.path or "/") + ("?" + parts.query if parts.query else "")
        self.first_line = f"GET {target} HTTP/1.1"
        self.fields = {"Host": parts.netloc, "Upgrade": "websocket", "Connection": "Upgrade",
                       "Sec-WebSocket-Key": self.key, "Sec-WebSocket-Version": "13"}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stream.close()
        self.socket.close()

    def request(self):
        lines = [self.first_line, *(f"{name}: {value}" for name, value in self.fields.items())]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def answer(self):
        """Status code and the header fields, names in lower case."""
        first = self.stream.readline().split()
        if len(first) < 2:
            raise Wrong("no answer to the upgrade request")
        fields = {}
        while line := self.stream.readline().strip():
            name, _, value = line.decode("latin-1").partition(":")
            fields[name.strip().lower()] = value.strip()
        return int(first[1]), fields

    def upgrade(self):
        self.socket.sendall(self.request())
        return self.expect_upgraded()

    def expect_upgraded(self):
        status, fields = self.answer()
        if status != 101:
            raise Wrong(f"status {status} instead of 101")
        return fields

    def frame(self):
        """Opcode and payload of the next frame that is no ping or pong."""
        while True:
            first, length = self.stream.read(2)
            if length >= 126:
                width = 2 if length == 126 else 8
                length = int.from_bytes(self.stream.read(width), "big")
            payload = self.stream.read(length)
            if first & 15 not in (9, 10):
                return first & 15, payload

    def expect(self, opcode, payload):
        try:
            got = self.frame()
        except ValueError:
            raise Wrong("the connection ended instead") from None
        if got[0] != opcode or not got[1].startswith(payload):
            raise Wrong(f"opcode {got[0]} with {got[1][:40]!r} instead of {opcode} with {payload!r}")


def masked(opcode, payload):
    """A whole client frame of at most 125 bytes."""
    mask = os.urandom(4)
    return bytes([0x80 | opcode, 0x80 | len(payload)]) + mask + bytes(b ^ mask[n % 4] for n, b in enumerate(payload))


def byte_by_byte(visit, data):
    for byte in data:
        visit.socket.sendall(bytes([byte]))


def the_accept_value_belongs_to_the_key(visit):
    want = base64.b64encode(hashlib.sha1(visit.key.encode() + GUID).digest()).decode()
    got = visit.upgrade().get("sec-websocket-accept")
    if got != want:
        raise Wrong(f"accept value {got!r} instead of {want!r}")


def nothing_is_agreed_on_that_was_not_offered(visit):
    fields = visit.upgrade()
    for name in ("sec-websocket-protocol", "sec-websocket-extensions"):
        if name in fields:
            raise Wrong(f"{name}: {fields[name]}")


def refused(visit):
    visit.socket.sendall(visit.request())
    status, _ = visit.answer()
    if not 400 <= status < 500:
        raise Wrong(f"status {status} instead of 4xx")


def an_unknown_version_is_refused(visit):
    visit.fields["Sec-WebSocket-Version"] = "12"
    refused(visit)


def a_request_without_a_key_is_refused(visit):
    del visit.fields["Sec-WebSocket-Key"]
    refused(visit)


def a_key_that_is_not_16_bytes_is_refused(visit):
    visit.fields["Sec-WebSocket-Key"] = base64.b64encode(b"short").decode()
    refused(visit)


def letter_case_and_lists_in_the_header_do_not_matter(visit):
    visit.fields = {name.upper(): value for name, value in visit.fields.items()}
    visit.fields.update({"UPGRADE": "WebSocket", "CONNECTION": "keep-alive, uPGRADE"})
    visit.upgrade()


def a_frame_in_the_same_packet_as_the_handshake_is_heard(visit):
    visit.socket.sendall(visit.request() + masked(1, b"early"))
    visit.expect_upgraded()
    visit.expect(1, b"early")


def handshake_and_frame_may_come_byte_by_byte(visit):
    byte_by_byte(visit, visit.request())
    visit.expect_upgraded()
    byte_by_byte(visit, masked(1, "κόσμε".encode()))
    visit.expect(1, "κόσμε".encode())


def fails_with_1002(visit, data):
    visit.upgrade()
    visit.socket.sendall(data)
    visit.expect(8, struct.pack("!H", 1002))


def a_frame_without_a_mask_is_a_protocol_error(visit):
    fails_with_1002(visit, b"\x81\x04bare")


def a_length_with_its_highest_bit_set_is_a_protocol_error(visit):
    fails_with_1002(visit, b"\x81\xff" + b"\xff" * 8 + b"mask")


def a_length_in_more_bytes_than_it_needs_is_a_protocol_error(visit):
    fails_with_1002(visit, b"\x81\xfe\x00\x05" + b"\0" * 4 + b"hello")


def nothing_is_said_after_the_close_frame(visit):
    visit.upgrade()
    visit.socket.sendall(masked(8, struct.pack("!H", 1000)) + masked(1, b"late"))
    visit.expect(8, b"")
    try:
        rest = visit.stream.read(1)
    except ConnectionError:
        return  # a reset is an end too: the late frame was not read
    except TimeoutError:
        raise Wrong("the connection stays open after the close frame") from None
    if rest:
        raise Wrong(f"{rest!r} after the close frame")


CASES = [the_accept_value_belongs_to_the_key, nothing_is_agreed_on_that_was_not_offered, an_unknown_version_is_refused,
         a_request_without_a_key_is_refused, a_key_that_is_not_16_bytes_is_refused,
         letter_case_and_lists_in_the_header_do_not_matter, a_frame_in_the_same_packet_as_the_handshake_is_heard,
         handshake_and_frame_may_come_byte_by_byte, a_frame_without_a_mask_is_a_protocol_error,
         a_length_with_its_highest_bit_set_is_a_protocol_error,
         a_length_in_more_bytes_than_it_needs_is_a_protocol_error, nothing_is_said_after_the_close_frame]


def run(url):
    """All cases, each on a connection of its own: a list of (name, what is wrong or None)."""
    seen = []
    for case in CASES:
        wrong = None
        try:
            with Visit(url) as visit:
                case(visit)
        except (Wrong, OSError) as error:
            wrong = f"{type(error).__name__}: {error}" if isinstance(error, OSError) else str(error)
        seen.append((case.__name__.replace("_", " "), wrong))
    return seen
