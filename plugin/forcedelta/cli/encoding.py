"""Output to terminals and pipes whose encoding is not UTF-8."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Sequence

_READABLE = {
    "Å": "A", "→": "->", "±": "+/-", "·": "*", "×": "x", "²": "^2", "³": "^3", "⁻": "-", "¹": "1",
    "≤": "<=", "≥": ">=", "−": "-", "–": "-", "—": "-", "…": "...", "°": " deg", "µ": "u", "μ": "u",
    "Δ": "Delta ", "ε": "epsilon", "ω": "omega", "“": '"', "”": '"', "‘": "'", "’": "'", "•": "*",
    "─": "-", "│": "|", "┃": "|", **dict.fromkeys("┌┐└┘├┤┬┴┼╭╮╰╯", "+"),
}  # fmt: skip
_HANDLER = "forcedelta.readable"


def write_readably(arguments: Sequence[str]) -> None:
    """Replace characters that the encoding of the standard streams lacks.

    The replacement is a readable ASCII equivalent if one is defined, otherwise a JSON escape.

    Args:
        arguments: of the command line; with ``--json`` all are escaped, which is lossless.
    """
    known = {} if "--json" in arguments else _READABLE

    def replace(error: UnicodeError) -> tuple[str, int]:
        if not isinstance(error, UnicodeEncodeError):
            raise error
        missing = error.object[error.start : error.end]
        return "".join(known.get(one) or _escaped(one) for one in missing), error.end

    codecs.register_error(_HANDLER, replace)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a program may have replaced the stream
            stream.reconfigure(errors=_HANDLER)


def can_write(text: str) -> bool:
    """Whether standard output can encode these characters."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def _escaped(character: str) -> str:
    """One ``\\uXXXX``, or two beyond the first 65,536 characters."""
    pairs = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{pairs[k : k + 2].hex()}" for k in range(0, len(pairs), 2))
