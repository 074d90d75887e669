"""The structure of a JSON text, measured before a parser sees it: how deep it nests, how many values it may have."""

from dataclasses import dataclass
from itertools import accumulate
from typing import Final

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_NOT_STRUCTURE: Final = bytes(set(range(256)) - set(b"[]{},"))
_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
"""From brackets to steps of depth: 1, or -1 as a signed byte."""


def without_byte_order_mark(text: bytes) -> bytes:
    """The text after the mark that some clients put before it; RFC 8259, section 8.1, allows parsers to skip it."""
    return text.removeprefix(_BYTE_ORDER_MARK)


@dataclass(frozen=True, slots=True)
class Structure:
    """What stands outside the strings of a text: its brackets in their order, and the number of its commas."""

    brackets: bytes
    commas: int

    @classmethod
    def of(cls, text: bytes) -> "Structure":
        """Measure a text of any kind; only functions of C look at each of its bytes."""
        without_escapes = text.replace(b"\\\\", b"").replace(b'\\"', b"")
        outside_strings = b"".join(without_escapes.split(b'"')[::2])
        structure = outside_strings.translate(None, _NOT_STRUCTURE)
        brackets = structure.translate(None, b",")
        return cls(brackets, len(structure) - len(brackets))

    @property
    def opened(self) -> int:
        """How many lists and objects begin."""
        return self.brackets.count(b"[") + self.brackets.count(b"{")

    @property
    def values(self) -> int:
        """How many values the outermost list or object has in it, on all levels; empty lists and objects count twice.

        Each value but the first of its list or object has a comma before it.
        """
        return self.commas + self.opened

    def is_deeper_than(self, most: int) -> bool:
        """Whether lists and objects are nested deeper, as far as a parser gets: no further than all could be closed."""
        steps = memoryview(self.brackets[: 2 * self.opened].translate(_STEPS)).cast("b")
        return max(accumulate(steps), default=0) > most
