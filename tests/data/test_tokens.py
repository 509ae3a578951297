from pathlib import Path
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from linmap.data.text import TextRecord
from linmap.data.tokens import (
    UNLEARNT,
    ClassificationData,
    Document,
    LanguageData,
    cut,
    document_of,
    packed,
    padded,
    prompt_tokens,
)
from linmap.errors import DataError
from recipes.finetuning.tiny import encoder_tokenizer, language_tokenizer, llama

BOS, EOS = 0, 1


def ids(text: str) -> list[int]:
    return language_tokenizer()(text)["input_ids"]


def record(text: str, answer: str | None = None) -> TextRecord:
    return TextRecord("f, line 1", {}, text, answer)


def chat(*turns: tuple[str, str]) -> TextRecord:
    return TextRecord("f, line 1", {}, messages=tuple({"role": role, "content": content} for role, content in turns))


# -- which tokens are learnt -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bos", [False, True])
def test_of_prompt_and_completion_only_the_completion_and_its_end_are_learnt(bos: bool) -> None:
    tokenizer = language_tokenizer(bos=bos)
    document = document_of(record("ab", "cd"), tokenizer)
    start = [BOS] if bos else []
    assert document.ids == [*start, *ids("ab"), *ids("cd"), EOS]
    assert document.labels == [UNLEARNT] * len([*start, *ids("ab")]) + [*ids("cd"), EOS]
    assert prompt_tokens(record("ab"), tokenizer) == [*start, *ids("ab")]


def test_of_a_text_all_tokens_but_the_first_are_learnt() -> None:
    document = document_of(record("abc"), language_tokenizer())
    assert document.ids == [*ids("abc"), EOS]
    assert document.labels == [UNLEARNT, *ids("bc"), EOS]
    with_start = document_of(record("abc"), language_tokenizer(bos=True))
    assert with_start.labels == [UNLEARNT, *ids("abc"), EOS]


def test_of_a_chat_the_answers_are_learnt() -> None:
    record = chat(("system", "s"), ("user", "u"), ("assistant", "a"), ("user", "v"), ("assistant", "bb"))
    document = document_of(record, language_tokenizer())
    written = [("[system]s[user]u[assistant]", 0), ("a</s>", 1), ("[user]v[assistant]", 0), ("bb</s>", 1)]
    expected = [(token, learnt) for text, learnt in written for token in ids(text)]
    assert document.ids == [token for token, _ in expected]
    assert document.labels == [token if learnt else UNLEARNT for token, learnt in expected]
    assert EOS in ids("a</s>")  # the template's own end
    prompt = chat(("system", "s"), ("user", "u"))
    assert prompt_tokens(prompt, language_tokenizer()) == ids("[system]s[user]u[assistant]")


def test_chats_need_a_template_that_only_adds() -> None:
    record = chat(("user", "u"), ("assistant", "a"), ("user", "v"), ("assistant", "b"))
    with pytest.raises(DataError, match="no chat template"):
        document_of(record, language_tokenizer(chat=False))
    tokenizer = language_tokenizer()
    tokenizer.chat_template = f"{{{{ messages | length }}}}{tokenizer.chat_template}"
    with pytest.raises(DataError, match="rewrites earlier turns"):
        document_of(record, tokenizer)
    tokenizer.chat_template = "{{ raise_exception('no systems') }}"
    with pytest.raises(DataError, match=r"line 1, field \"messages\": .*no systems"):
        document_of(record, tokenizer)


# -- cutting and packing -----------------------------------------------------------------------------------------------


@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from(["left", "right"]))
def test_a_cut_document_is_a_part_whose_first_token_is_not_learnt(
    n: int, length: int, side: Literal["left", "right"]
) -> None:
    whole = Document(list(range(n)), [UNLEARNT, *range(1, n)])
    part = cut(whole, length, side)
    expected = whole.ids[-length:] if side == "left" else whole.ids[:length]
    assert part == (expected, [UNLEARNT, *expected[1:]])


@given(st.lists(st.integers(1, 20), max_size=40), st.integers(20, 50))
def test_packing_keeps_every_item_and_no_row_is_too_long(lengths: list[int], capacity: int) -> None:
    rows = packed(lengths, capacity)
    assert sorted(item for row in rows for item in row) == list(range(len(lengths)))
    assert all(sum(lengths[item] for item in row) <= capacity for row in rows)
    loads = sorted(sum(lengths[item] for item in row) for row in rows)
    assert len(rows) < 2 or loads[0] + loads[1] > capacity  # no two rows fit into one


def test_packing_fills_the_fullest_row_with_room() -> None:
    assert packed([3, 5, 4, 3, 2, 7], 8) == [[0, 1], [2, 3], [4], [5]]


parts = st.lists(st.integers(2, 250), min_size=1, max_size=8)
pairs = st.lists(st.tuples(parts, parts), min_size=1, max_size=8)
documents = pairs.map(lambda pairs: [Document(p + c, [UNLEARNT] * len(p) + c) for p, c in pairs])


@torch.no_grad()
def token_losses(model: torch.nn.Module, data: LanguageData) -> list[tuple[int, float]]:
    """Every learnt token with its loss, by one forward pass over all rows."""
    batch = data.__getitems__(list(range(len(data))))
    positions = {"position_ids": batch["position_ids"]} if data.packing else {}
    logits = model(input_ids=batch["input_ids"], use_cache=False, **positions).logits[:, :-1]
    labels = batch["labels"][:, 1:]
    losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=UNLEARNT, reduction="none")
    learnt = labels.flatten() != UNLEARNT
    return sorted(zip(labels.flatten()[learnt].tolist(), losses[learnt].tolist(), strict=True))


@given(documents)
def test_packed_documents_have_the_token_losses_that_they_have_alone(documents: list[Document]) -> None:
    model = llama().eval()
    alone = token_losses(model, LanguageData(documents, 24))
    together = token_losses(model, LanguageData(documents, 24, packing=True))
    assert [token for token, _ in together] == [token for token, _ in alone]
    torch.testing.assert_close([x for _, x in together], [x for _, x in alone], rtol=1e-4, atol=1e-5)


@given(documents, st.booleans())
def test_batches_hold_the_documents_and_weigh_every_token_alike(documents: list[Document], packing: bool) -> None:
    data = LanguageData(documents, 24, packing=packing)
    learnt = sum(label != UNLEARNT for document in documents for label in document.labels)
    assert data.counts.learnt_tokens == learnt
    seen, divided = 0, 0.0
    for index in range(len(data)):
        batch = data[index]
        assert batch["input_ids"].shape == batch["labels"].shape
        kept = batch["labels"] != UNLEARNT
        assert torch.equal(batch["labels"][kept], batch["input_ids"][kept])
        assert torch.equal(batch["keep"] + 1, kept.any(0).nonzero()[:, 0])
        seen, divided = seen + int(kept.sum()), divided + batch["divisor"]
    assert seen == learnt
    assert divided == pytest.approx(learnt)
    everything = data.__getitems__(list(range(len(data))))
    assert everything["divisor"] == pytest.approx(learnt)


def test_counts_tell_what_was_cut_and_what_was_left_out() -> None:
    documents = [
        Document([5, 6, 7], [UNLEARNT, 6, 7]),
        Document([5] * 4, [UNLEARNT] * 3 + [5]),
        Document([5] * 6, [UNLEARNT] * 2 + [5] * 4),
    ]
    counts = LanguageData(documents, 3).counts
    assert (counts.records, counts.rows, counts.truncated, counts.dropped, counts.learnt_tokens) == (3, 2, 2, 1, 3)
    counts = LanguageData(documents, 3, truncation="left").counts
    assert (counts.truncated, counts.dropped, counts.learnt_tokens) == (2, 0, 2 + 1 + 2)
    with pytest.raises(DataError, match="none of the 1 records has a token to learn within max_length=3"):
        LanguageData(documents[1:2], 3)


def test_rows_are_filled_up_on_either_side() -> None:
    assert padded([[1, 2], [3]], 3, 9).tolist() == [[1, 2, 9], [3, 9, 9]]
    assert padded([[1, 2], [3]], 3, 9, side="left").tolist() == [[9, 1, 2], [9, 9, 3]]


# -- classification ----------------------------------------------------------------------------------------------------


def test_classified_texts_wear_their_special_tokens_also_when_cut(tmp_path: Path) -> None:
    tokenizer = encoder_tokenizer()
    records = [record("abc", "y"), record("abcdefgh", "x"), record("", None)]
    data = ClassificationData(records, tokenizer, ["x", "y"], max_length=5)
    batch = data.__getitems__([0, 1, 2])
    cls, sep, a, pad = 1, 2, tokenizer("a")["input_ids"][1], 0
    assert batch["input_ids"].tolist() == [
        [cls, a, a + 1, a + 2, sep],
        [cls, a, a + 1, a + 2, sep],
        [cls, sep, pad, pad, pad],
    ]
    assert batch["attention_mask"].sum(1).tolist() == [5, 5, 2]
    assert batch["labels"].tolist() == [1, 0, UNLEARNT]
    assert (data.counts.records, data.counts.truncated) == (3, 1)
    left = ClassificationData(records[1:2], tokenizer, ["x", "y"], max_length=5, truncation="left")
    assert left[0]["input_ids"].tolist() == [[cls, a + 5, a + 6, a + 7, sep]]
