"""Tokens as they are shown: bytes, spaces, marks of other vocabularies, and what would do harm."""

import pytest

from linmap.interpret.linearscope.language.tokens import Token, direction, quoted, target_id, tokens_of, visible
from recipes.finetuning.tiny import language_tokenizer


class Pieces:
    """A vocabulary of given pieces, each with what it decodes to."""

    all_special_ids = (0,)
    bos_token_id = None

    def __init__(self, pieces: dict[str, str]) -> None:
        self.pieces, self.texts = list(pieces), list(pieces.values())

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str | None]:
        return [self.pieces[i] if i < len(self.pieces) else None for i in ids]

    def decode(self, ids: list[int]) -> str:
        return "".join(self.texts[i] for i in ids)

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        """SentencePiece's way: a space of its own in front."""
        marked = "▁" + text.replace(" ", "▁")
        found = []
        while marked:
            best = max((piece for piece in self.pieces if marked.startswith(piece)), key=len)
            found.append(self.pieces.index(best))
            marked = marked[len(best) :]
        return {"input_ids": found}


SENTENCE = Pieces(
    {"</s>": "</s>", "▁": "", "▁Paris": "Paris", "is": "is", "é": "é", "<0xE2>": "�", "▁in": "in", "P": "P"}
)


def test_bytes_that_are_no_character_are_written_in_hexadecimal():
    tokenizer = language_tokenizer()
    ids = tokenizer("aé ")["input_ids"]
    assert [token.shown for token in tokens_of(ids, tokenizer)] == ["a", "⟨C3⟩", "⟨A9⟩", " "]
    assert tokens_of(ids, tokenizer)[-1].word == "␣"


def test_marks_of_sentencepiece_and_wordpiece_are_spaces_and_nothing():
    shown = {token.id: token for token in tokens_of(range(9), SENTENCE)}
    assert [shown[i].text for i in (1, 2, 3, 4)] == [" ", " Paris", "is", "é"]
    assert shown[5].shown == "⟨E2⟩"
    assert shown[0].special
    assert shown[8].shown == "⟨8⟩"  # of a vocabulary that is padded
    assert tokens_of([0], Pieces({"x": "x"}))[0].text == "x"
    assert tokens_of([1], Pieces({"[CLS]": "[CLS]", "##ing": "ing"}))[0].text == "ing"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\t", "a⏎b⇥"),
        ("\u202eabc", "⟨U+202E⟩abc"),
        ("\u200b\x00", "⟨U+200B⟩⟨U+0000⟩"),
        ("\u0301", "◌\u0301"),
        ("e\u0301", "e\u0301"),
        ("שלום", "שלום"),
        ("\u00a0x", " x"),
        ("\ue000", "⟨U+E000⟩"),
    ],
)
def test_nothing_invisible_or_turning_is_printed(text: str, shown: str):
    assert visible(text) == shown


def test_the_direction_of_a_text_is_that_of_most_letters():
    assert [direction(text) for text in ("שלום a", "a שלום bcdef", "12!")] == ["rtl", "ltr", "ltr"]
    assert quoted(Token(1, " של", " של")) == "“\u2068␣של\u2069”"
    assert quoted(Token(1, "a", "a")) == "“a”"


@pytest.mark.usefixtures("annotations_unchecked")
def test_a_target_is_one_token_in_its_place():
    assert target_id(" Paris", SENTENCE, 8, "in") == 2
    with pytest.raises(ValueError, match=r"'Paris is' is 3 tokens"):
        target_id("Paris is", SENTENCE, 8)
    with pytest.raises(ValueError, match=r"target='' has no tokens"):
        target_id("", language_tokenizer(), 258)
    with pytest.raises(IndexError, match="token id -1"):
        target_id(-1, SENTENCE, 8)
    with pytest.raises(TypeError, match="got float"):
        target_id(1.0, SENTENCE, 8)  # pyright: ignore[reportArgumentType]
