"""Structure of a JSON text, measured before parsing: its depth and the number of its values."""

from dataclasses import dataclass
from itertools import accumulate
from typing import Final

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_NOT_STRUCTURE: Final = bytes(set(range(256)) - set(b"[]{},"))
_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
"""Maps brackets to changes of depth: 1, or -1 as a signed byte."""


def without_byte_order_mark(text: bytes) -> bytes:
    """Return the text without the mark that some clients send; RFC 8259, section 8.1, allows parsers to skip it."""
    return text.removeprefix(_BYTE_ORDER_MARK)


@dataclass(frozen=True, slots=True)
class Structure:
    """Brackets outside strings, in order, and the number of commas outside strings."""

    brackets: bytes
    commas: int

    @classmethod
    def of(cls, text: bytes) -> "Structure":
        """Measure any text, valid or not; only C functions iterate over its bytes."""
        without_escapes = text.replace(b"\\\\", b"").replace(b'\\"', b"")
        outside_strings = b"".join(without_escapes.split(b'"')[::2])
        structure = outside_strings.translate(None, _NOT_STRUCTURE)
        brackets = structure.translate(None, b",")
        return cls(brackets, len(structure) - len(brackets))

    @property
    def opened(self) -> int:
        """Number of lists and objects that begin."""
        return self.brackets.count(b"[") + self.brackets.count(b"{")

    @property
    def values(self) -> int:
        """Number of values in the outermost list or object, on all levels; empty lists and objects count twice.

        Each value except the first of its list or object has a comma before it.
        """
        return self.commas + self.opened

    def is_deeper_than(self, most: int) -> bool:
        """Return whether nesting exceeds `most` within the part a parser reads: up to where all could be closed."""
        steps = memoryview(self.brackets[: 2 * self.opened].translate(_STEPS)).cast("b")
        return max(accumulate(steps), default=0) > most
