"""Channel names and patterns, against a second reading of the rules that goes segment by segment."""

from calltag.core.bayeux.channels import is_meta, is_name, is_pattern, is_service, matches
from fuzz.target import Target

WORDS = [b"/", b"*", b"**", b"\n", b"/meta", b"/service", b"/v2", b"/me", b"/calls", b" ", b"\xc3\xa4", b"%", b"a"]
SEEDS = [
    b"/v2/me/calls\n/v2/me/calls",
    b"/v2/*\n/v2/me",
    b"/v2/**\n/v2/me/calls",
    b"/**\n/a",
    b"/*\n/meta/connect",
    b"/v2/" + b"x" * 300 + b"\n/a",
]


def one_input(data: bytes) -> None:
    """A text is a name, a pattern or neither; a pattern covers what its segments say."""
    pattern, _, channel = data.decode(errors="replace").partition("\n")
    assert not (is_name(pattern) and is_pattern(pattern))
    assert is_name(pattern) or is_pattern(pattern) or not _well_formed(pattern)
    for text in (pattern, channel):
        assert not (is_meta(text) and is_service(text))
    if is_name(channel) and (is_name(pattern) or is_pattern(pattern)):
        assert matches(pattern, channel) == _covers(pattern.split("/"), channel.split("/"))


def _well_formed(text: str) -> bool:
    """By the grammar of the specification, which is narrower than what is taken."""
    inner = text.removesuffix("/**") if text.endswith("/**") else text.removesuffix("/*")
    plain = inner.replace("/", "").translate({ord(mark): None for mark in "-_!~()$@"})
    written = not plain or (plain.isascii() and plain.isalnum())
    return text.startswith("/") and len(text) <= 256 and written and "//" not in text and inner[-1:] != "/"


def _covers(pattern: list[str], channel: list[str]) -> bool:
    *beginning, last = pattern
    if last == "**":
        return channel[: len(beginning)] == beginning and len(channel) > len(beginning)
    if last == "*":
        return channel[: len(beginning)] == beginning and len(channel) == len(pattern)
    return pattern == channel


TARGET = Target("channels", one_input, SEEDS, WORDS, max_bytes=600)
