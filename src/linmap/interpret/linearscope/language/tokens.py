"""Tokens of a text as people can read them: what each stands for, and how it is shown without doing harm.

Tokenizers are duck-typed after Transformers': called with a text they give `input_ids`; `decode` and
`convert_ids_to_tokens` turn ids back.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from linmap.errors import ArgumentError, ArgumentTypeError, OutOfRangeError

WORD_START, CONTINUED = "▁", "##"
"""Marks of SentencePiece for a space, and of WordPiece for a piece that goes on."""
CIRCLE = "◌"
"""What a combining character stands on where nothing is before it."""
RIGHT_TO_LEFT = ("R", "AL", "RLE", "RLO", "RLI")
ISOLATE, END = "\u2068", "\u2069"
"""Around a piece whose direction shall not touch what stands beside it (first strong isolate)."""
INVISIBLE = ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp")
"""Categories that show nothing, or move what stands around them (the controls of writing direction are Cf)."""


@dataclass(frozen=True)
class Token:
    """One token of a vocabulary.

    Attributes
    ----------
    id
        In the vocabulary.
    text
        What it stands for, spaces and line breaks included; bytes that are no whole character as replacement
        characters.
    shown
        The same, safe to print: nothing in it is invisible or changes the direction of what follows; bytes that are no
        whole character are written in hexadecimal.
    special
        Whether it is one of the tokenizer's own marks.
    """

    id: int
    text: str
    shown: str
    special: bool = False

    @property
    def plain(self) -> str:
        """The token in a sentence, without the space around it."""
        return self.shown.strip() or self.word

    @property
    def word(self) -> str:
        """The token as an item of a list, where a space in front must be seen: "␣Paris"."""
        return self.shown.replace(" ", "␣") or "(nothing)"


def tokens_of(ids: Sequence[int], tokenizer: Any) -> list[Token]:
    """Every id as a `Token`."""
    ids = [int(i) for i in ids]
    pieces = tokenizer.convert_ids_to_tokens(ids)
    special = set(getattr(tokenizer, "all_special_ids", ()))
    return [_token(i, piece, tokenizer, i in special) for i, piece in zip(ids, pieces, strict=True)]


def _token(number: int, piece: str | None, tokenizer: Any, special: bool) -> Token:
    if piece is None:  # the model's vocabulary may have more rows than the tokenizer has entries
        return Token(number, "", f"⟨{number}⟩", special)
    if special:
        return Token(number, piece, visible(piece), True)
    text = str(tokenizer.decode([number]))
    raw = _bytes(piece)
    if raw is not None and raw.decode("utf-8", "replace") == text:  # else "é" is itself, not the byte 0xE9
        return Token(number, text, _visible_bytes(raw))
    if piece.startswith(WORD_START) and not text.startswith(" "):
        text = " " + text  # which decoders strip at the start of a text
    if piece.startswith(CONTINUED):
        text = piece.removeprefix(CONTINUED)
    return Token(number, text, visible(text))


def _bytes(piece: str) -> bytes | None:
    """The bytes of a piece, if it is one of a byte-level vocabulary; None if it cannot be."""
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):  # SentencePiece's way back to bytes
        return bytes.fromhex(piece[3:5])
    alphabet = _byte_of()
    if all(character in alphabet for character in piece) and not piece.isascii():
        return bytes(alphabet[character] for character in piece)
    return None


@cache
def _byte_of() -> dict[str, int]:
    """The alphabet of byte-level vocabularies (Radford et al., 2019): a printable character for every byte.

    Bytes that are printable in Latin-1 stand for themselves, the others for the characters from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


def _visible_bytes(raw: bytes) -> str:
    """Whole characters as they are, the other bytes as ⟨E282⟩."""
    shown, rest = "", raw
    while rest:
        try:
            return shown + visible(rest.decode())
        except UnicodeDecodeError as error:
            odd = rest[error.start : error.end]
            shown += visible(rest[: error.start].decode()) + f"⟨{odd.hex().upper()}⟩"
            rest = rest[error.end :]
    return shown.replace("⟩⟨", "")


def visible(text: str) -> str:
    """A text in which everything is seen: controls and unassigned characters by their numbers, marks on a circle.

    A space stays a space, a line break becomes "⏎" and a tab "⇥".
    """
    shown = []
    for place, character in enumerate(text):
        category = unicodedata.category(character)
        if character in "\n\t":
            shown.append("⏎" if character == "\n" else "⇥")
        elif category in INVISIBLE:
            shown.append(f"⟨U+{ord(character):04X}⟩")
        elif category.startswith("M") and (place == 0 or not text[place - 1].isalnum()):
            before = text[place - 1] if place else ""
            shown.append(character if before and unicodedata.category(before).startswith("M") else CIRCLE + character)
        elif category == "Zs" and character != " ":
            shown.append(" ")
        else:
            shown.append(character)
    return "".join(shown)


def direction(text: str) -> str:
    """The direction in which a text is written, "ltr" or "rtl", by most of its letters."""
    kinds = [unicodedata.bidirectional(character) for character in text]
    return "rtl" if sum(kind in RIGHT_TO_LEFT for kind in kinds) > kinds.count("L") else "ltr"


def quoted(token: Token) -> str:
    """A token in a sentence: in quotation marks, and set off where it is written from right to left."""
    turned = any(unicodedata.bidirectional(character) in RIGHT_TO_LEFT for character in token.word)
    return f"“{ISOLATE}{token.word}{END}”" if turned else f"“{token.word}”"


def text_ids(text: str, tokenizer: Any) -> list[int]:
    """The tokens of a prompt, with what the tokenizer itself puts in front of a text, and nothing behind it.

    Raises
    ------
    ArgumentTypeError
        If `text` is no text.
    ArgumentError
        If it has no tokens.
    """
    if not isinstance(text, str):
        raise ArgumentTypeError(
            f"text must be a str, got {type(text).__name__}; write a chat with tokenizer.apply_chat_template(messages, "
            "tokenize=False, add_generation_prompt=True)."
        )
    if isinstance(tokenizer, str) or not hasattr(tokenizer, "convert_ids_to_tokens"):
        raise ArgumentTypeError(
            f"tokenizer must be the model's, got {type(tokenizer).__name__}; AutoTokenizer.from_pretrained(folder) "
            "loads it."
        )
    first = list(tokenizer("")["input_ids"][:1])
    bos = getattr(tokenizer, "bos_token_id", None)
    ids = _plain_ids(text, tokenizer)
    if first and first == [bos] and ids[:1] != first:
        ids = [*first, *ids]
    if not ids:
        raise ArgumentError("text is empty: it has no tokens, and there is nothing to read.")
    return ids


def _plain_ids(text: str, tokenizer: Any) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def target_id(target: int | str, tokenizer: Any, vocabulary: int, context: str = "") -> int:
    """The id of a token that is named by its id or by its text.

    Parameters
    ----------
    target
        An id, or the text of one token, a space in front included: " Paris" goes on with a new word, "Paris" does not.
    tokenizer
        Duck-typed after Transformers'.
    vocabulary
        How many logits the model has.
    context
        The text that comes before, by which some tokenizers cut what follows.

    Raises
    ------
    ArgumentError
        If the text is empty or several tokens: nothing is cut off silently.
    OutOfRangeError
        If there is no such id.
    """
    if isinstance(target, str):
        return _id_of_text(target, tokenizer, context)
    if isinstance(target, bool) or not isinstance(target, int):
        raise ArgumentTypeError(f"a token is an id or a text, got {type(target).__name__}.")
    if not 0 <= target < vocabulary:
        raise OutOfRangeError(f"token id {target} is out of range: the model has {vocabulary} logits.")
    return target


def _id_of_text(target: str, tokenizer: Any, context: str) -> int:
    ids = _plain_ids(target, tokenizer)
    if len(ids) > 1 and context:  # SentencePiece puts a space of its own in front of a text that stands alone
        before, after = _plain_ids(context, tokenizer), _plain_ids(context + target, tokenizer)
        if after[: len(before)] == before and len(after) == len(before) + 1:
            return after[-1]
    if len(ids) == 1:
        return ids[0]
    if not ids:
        raise ArgumentError(f"target={target!r} has no tokens; name one, such as ' Paris'.")
    pieces = [token.text for token in tokens_of(ids, tokenizer)]
    raise ArgumentError(
        f"target={target!r} is {len(ids)} tokens ({', '.join(map(repr, pieces))}), and a logit belongs to one; take "
        f"the first, target={pieces[0]!r}, or put the others' beginning into the text."
    )
