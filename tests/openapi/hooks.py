"""What Schemathesis has to know to ask a server by static/openapi.json: names as the server takes them, and lines of
JSON, which it does not write or read by itself."""

import json
import re

import schemathesis
from hypothesis import strategies as st

# JSON Schema cannot say "form NFC" or "so many bytes"; these are names of all kinds that are fine.
LETTERS = "abcxyzABCXYZ0123456789 -_.,;:!?()[]{}<>|/\\%&=+#~'\"äöüßéñ日本語🙂"
STARTS = "abcxyzABCXYZ0123456789_äöüßé日本語🙂"


def names(longest):
    """Names of at most so many bytes; a letter of these has up to four."""
    rest = st.text(LETTERS, max_size=longest // 4 - 1)
    return st.builds(lambda first, rest: first + rest, st.sampled_from(STARTS), rest)


schemathesis.openapi.format("room-name", names(128) | st.sampled_from(["lobby", "@ann", "@ann+bob", "team-1"]))
schemathesis.openapi.format("user-name", names(128) | st.sampled_from(["ann", "bob"]))
schemathesis.openapi.format("message-id", names(64))
schemathesis.openapi.format("reason", st.text(LETTERS, max_size=16))


@schemathesis.hook
def filter_case(context, case):
    """Any text counts as a violation of a format that was made up here, also a good name. Patterns say what is bad."""
    mutations = getattr(case.meta.phase.data, "mutations", ()) if case.meta else ()
    return not any("format" in mutation.keywords for mutation in mutations)


@schemathesis.serializer("application/x-ndjson")
def lines(ctx, value):
    """A body of lines. What is generated on purpose as no text has no form on the wire, so no body is sent then."""
    return value.encode(errors="surrogatepass") if isinstance(value, str) else b""


@schemathesis.deserializer("application/x-ndjson")
def read_lines(ctx, response):
    """The answer to a batch: each line is a place or a problem with its line; the whole is text."""
    text = response.content.decode()
    for line in text.splitlines():
        told = json.loads(line)
        is_place = set(told) == {"r", "s", "e", "dup"}
        is_problem = {"line", "code", "why", "msg"} <= set(told) and re.fullmatch("[a-z-]+", told["why"])
        assert is_place or is_problem, line
    return text
