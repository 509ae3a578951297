import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from studies.hippo.listops import (
    DIGITS,
    END,
    OPERATORS,
    UNKNOWN,
    VOCABULARY,
    as_text,
    evaluate,
    generate_listops,
    one_hot,
    pad_tokens,
    split_listops,
    tokenise,
)

SMALL = {"min_length": 10, "max_length": 128}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("[MIN 4 2 9 ]", 2),
        ("[MAX 4 2 9 ]", 9),
        ("[MED 4 2 9 ]", 4),
        ("[MED 1 2 ]", 1),  # the median 1.5 is cut
        ("[MED 9 0 3 8 ]", 5),
        ("[SM 9 8 7 ]", 4),
        ("[MAX 2 9 [MIN 4 7 ] 0 ]", 9),
        ("[SM [MED 5 5 6 6 ] [MAX [MIN 8 3 ] 1 ] 9 ]", 7),
    ],
)
def test_trees_worked_out_by_hand(text: str, value: int) -> None:
    assert evaluate(text.split()) == value
    assert evaluate(tokenise(text)) == value
    nested = " ".join(f"( {word} )" for word in text.split())
    assert as_text(tokenise(nested)) == text


def test_the_vocabulary_has_fifteen_tokens_and_three_marks() -> None:
    assert len(set(VOCABULARY)) == len(VOCABULARY) == 18
    assert VOCABULARY[tokenise("what")[0]] == "<unk>"
    assert tokenise("[MIN what ]")[1] == UNKNOWN


@given(st.integers(0, 2**31), st.integers(4, 8), st.integers(4, 6))
def test_every_tree_evaluates_to_its_label_and_has_the_right_length(seed: int, args: int, depth: int) -> None:
    data = generate_listops(20, **SMALL, max_depth=depth, max_args=args, seed=seed)
    for tokens, label in zip(data.tokens, data.labels, strict=True):
        words = as_text(tokens).split()
        assert evaluate(words) == label
        operators = sum(word in OPERATORS for word in words)
        assert 10 < sum(word in DIGITS for word in words) + 2 * operators < 128
        assert words.count("]") == operators
        deepest, most = shape(words)
        assert deepest <= depth
        assert 2 <= most <= args
    assert len({tokens.tobytes() for tokens in data.tokens}) == 20


def shape(words: list[str]) -> tuple[int, int]:
    """Depth of the deepest node (the root has 1) and the largest number of arguments, which is two or more."""
    open_, deepest, most = [0], 0, 0
    for word in words:
        if word == "]":
            arguments = open_.pop()
            assert arguments >= 2
            most = max(most, arguments)
        else:
            open_[-1] += 1
            deepest = max(deepest, len(open_))
            if word in OPERATORS:
                open_.append(0)
    return deepest, most


def test_nodes_are_drawn_with_the_probabilities_of_the_rules() -> None:
    """Trees of depth 2, where the length fixes nothing: a root with n digits; n, operators and digits are uniform."""
    data = generate_listops(3000, min_length=3, max_length=100, max_depth=2, seed=1)
    arguments = np.array([len(tokens) - 2 for tokens in data.tokens])
    first = np.array([VOCABULARY[tokens[0]] for tokens in data.tokens])
    long = arguments >= 5  # short ones are rarer, since trees are distinct
    assert set(arguments) == set(range(2, 11))
    for found, expected in (
        (np.bincount(arguments[long])[5:] / long.sum(), 1 / 6),
        (np.unique_counts(first[long]).counts / long.sum(), 1 / 4),
        (np.bincount(np.concatenate([t[1:-1] for t in data.tokens])) / (arguments.sum()), None),
    ):
        found = found[found > 0]
        np.testing.assert_allclose(found, expected or 1 / len(found), atol=0.03)


def test_the_paper_setting() -> None:
    data = generate_listops(300, seed=3)
    lengths = np.array([len(tokens) for tokens in data.tokens])
    assert lengths.min() > 500
    assert lengths.max() < 2000
    assert all(evaluate(tokens) == label for tokens, label in zip(data.tokens, data.labels, strict=True))
    assert 0.1 < data.majority < 0.25


def test_the_seed_says_all() -> None:
    one, same, other = (generate_listops(50, **SMALL, seed=seed) for seed in (5, 5, 6))
    assert [t.tolist() for t in one.tokens] == [t.tolist() for t in same.tokens]
    assert [t.tolist() for t in one.tokens] != [t.tolist() for t in other.tokens]


def test_splits_are_disjoint_and_whole() -> None:
    data = generate_listops(100, **SMALL)
    parts = split_listops(data, validation=20, test=10)
    assert [len(part) for part in parts] == [70, 20, 10]
    assert len({tokens.tobytes() for part in parts for tokens in part.tokens}) == 100
    with pytest.raises(ValueError, match="leave nothing of 100 trees"):
        split_listops(data)


def test_padding_keeps_each_sequence_and_marks_its_end() -> None:
    data = generate_listops(10, **SMALL)
    padded, lengths = pad_tokens(data.tokens, max_length=30)
    assert padded.shape[1] == int(lengths.max()) <= 30
    for row, length, tokens in zip(padded, lengths, data.tokens, strict=True):
        assert row[:length].tolist() == [*tokens, END][:30]
        assert not row[length:].any()
    series = one_hot(data.tokens, max_length=30)
    assert [len(s) for s in series] == lengths.tolist()
    np.testing.assert_array_equal(series[3].argmax(1), padded[3, : lengths[3]])


def test_what_is_no_tree_is_refused() -> None:
    for text, message in (
        ("[MIN 1 2", "1 operators are open"),
        ("1 2", "not one whole tree"),
        ("]", "closes an operator without arguments"),
        ("[MIN ]", "closes an operator without arguments"),
        ("[MIN 1 + ]", "'\\+' is no part of a tree"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(text.split())


def test_settings_out_of_range() -> None:
    with pytest.raises(ValueError, match="samples must be at least 1"):
        generate_listops(0)
    with pytest.raises(ValueError, match="no length lies between"):
        generate_listops(1, min_length=5, max_length=6)
    with pytest.raises(ValueError, match="must be at least 2, got 1 and 10"):
        generate_listops(1, max_depth=1)
    with pytest.raises(ValueError, match="brought none with 100 < length < 200 beyond 0"):
        generate_listops(1, min_length=100, max_length=200, max_depth=2)
    with pytest.raises(ValueError, match="ask for fewer than 11"):
        generate_listops(11, min_length=0, max_length=2, max_depth=2)
