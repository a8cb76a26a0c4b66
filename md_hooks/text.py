"""Safe text for terminals: input of users and files may contain anything, even escape codes."""

from __future__ import annotations

import unicodedata

_LONGEST_WORD = 300
_UNSAFE = ("Cc", "Cs", "Zl", "Zp")
"""Unicode categories: control characters, lone surrogates, separators of lines and paragraphs."""
_REORDERING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c")


def printable(text: object, keep: str = "\n") -> str:
    r"""Text in which no character moves the cursor, changes colours or reorders what is shown.

    Control characters, escape codes among them, line separators, marks of writing direction and
    bytes that are not UTF-8 become ``\uXXXX``, as in JSON.

    Args:
        text: anything; its ``str``.
        keep: control characters that stay.
    """
    whole = str(text)
    if whole.isascii() and whole.isprintable():
        return whole
    return "".join(
        f"\\u{ord(character):04x}"
        if character not in keep
        and (unicodedata.category(character) in _UNSAFE or character in _REORDERING)
        else character
        for character in whole
    )


def one_line(text: object) -> str:
    """Printable text without line breaks, very long words cut in the middle."""
    words = str(text).split()
    return printable(" ".join(map(shortened, words)), keep="")


def shortened(word: str, longest: int = _LONGEST_WORD) -> str:
    """A word, or its beginning and end if it is too long to read."""
    if len(word) <= longest:
        return word
    half = longest // 3
    return f"{word[:half]}...{word[-half:]} ({len(word)} characters)"
