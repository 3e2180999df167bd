"""The scan over chunks: its layout, its memory, and that nothing looks ahead."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import attention
from attention.conformance import cases, make, run
from attention.forms.chunked import Chunked
from attention.kernels.chunked import Layout
from tests.attention.conftest import label

CHUNKED = [mechanism for mechanism in cases() if mechanism.form is Chunked]
mechanisms = pytest.mark.parametrize("mechanism", CHUNKED, ids=label)
ids = st.lists(st.lists(st.integers(-1, 2), min_size=23, max_size=23), min_size=1, max_size=3)


def test_there_are_mechanisms_to_try():
    assert {mechanism.name for mechanism in CHUNKED} >= {"soft_lowrank", "simrf"}


@settings(max_examples=50)
@given(documents=ids, chunk=st.sampled_from([1, 2, 4, 40]), continued=st.booleans())
def test_every_token_has_one_place_in_chunks_that_begin_with_its_document(documents, chunk, continued):
    documents = torch.tensor(documents)
    layout = Layout.of(documents, *documents.shape, chunk, continued=continued)
    flat = documents.flatten()
    assert torch.equal(layout.slot < 0, flat < 0)
    real = (flat >= 0).nonzero()[:, 0]
    assert torch.equal(layout.place.flatten()[layout.slot[real]], real)
    assert int((layout.place >= 0).sum()) == len(real)
    assert layout.active == sorted(layout.active, reverse=True)
    for places in layout.place.tolist():
        kept = [place for place in places if place >= 0]
        assert kept == list(range(kept[0], kept[0] + len(kept))) if kept else continued
        assert places[len(kept) :] == [-1] * (min(chunk, 24) - len(kept))
        assert len({(place // 23, int(flat[place])) for place in kept}) <= 1
        if kept and len(kept) < chunk and (kept[-1] + 1) % 23:
            assert flat[kept[-1] + 1] != flat[kept[-1]]


@mechanisms
@pytest.mark.parametrize("token", [0, 7, 8, 15, 16, 31, 40])
def test_a_token_changes_nothing_before_it(mechanism, token):
    inputs = make(queries=50, head_dim=16).to(torch.float32)
    tensors = [x.detach() for x in inputs.all[:3]]
    before = attention.attend(*tensors, mechanism)
    for tensor in tensors:
        tensor[:, token] *= -3
    after = attention.attend(*tensors, mechanism)
    assert torch.equal(before[:, :token], after[:, :token])
    assert (before[:, token] != after[:, token]).any()
    assert (before[:, -1] != after[:, -1]).any() or getattr(mechanism, "summaries", None)


@st.composite
def texts(draw):
    """Documents int [2, T] with padding anywhere, or None, and where the text is cut."""
    length = draw(st.integers(1, 60))
    runs = st.lists(st.integers(-1, 2), min_size=length, max_size=length).map(
        lambda ids: sorted(ids) if ids[-1] % 2 else ids
    )
    documents = torch.tensor(draw(st.tuples(runs, runs))) if draw(st.booleans()) else None
    cuts = draw(st.lists(st.integers(1, 20), min_size=1, max_size=8))
    return length, documents, cuts


@pytest.mark.slow
@mechanisms
@settings(max_examples=10)
@given(text=texts())
def test_a_text_in_any_parts_equals_the_whole(mechanism, text):
    length, documents, cuts = text
    inputs = make(queries=length, head_dim=4)
    query, key, value = (x.detach() for x in inputs.all[:3])
    whole = attention.attend(query, key, value, mechanism, documents=documents)
    state, parts, start = attention.RecurrentState(), [], 0
    while start < length:
        part = slice(start, min(length, start + cuts[len(parts) % len(cuts)]))
        these = None if documents is None else documents[:, part]
        parts.append(
            attention.attend(
                query[:, part], key[:, part], value[:, part], mechanism, documents=these, state=state
            )
        )
        start = part.stop
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-9)
    assert state.key.shape[1] < mechanism.chunk


def test_a_memory_is_for_one_kind_of_calls():
    inputs = make(queries=6)
    query, key, value = (x.detach() for x in inputs.all[:3])
    state = attention.RecurrentState()
    attention.attend(query, key, value, "simrf", state=state)
    documents = torch.zeros(2, 6, dtype=torch.long)
    with pytest.raises(attention.AttentionError, match="documents for every call on one state, or for none"):
        attention.attend(query, key, value, "simrf", documents=documents, state=state)
    with pytest.raises(attention.AttentionError, match="holds a batch of 2, got one of 1"):
        attention.attend(query[:1], key[:1], value[:1], "simrf", state=state)
    with pytest.raises(attention.AttentionError, match=r"was begun with scale=None, got 0\.5"):
        attention.attend(query, key, value, "simrf", scale=0.5, state=state)
    with pytest.raises(attention.AttentionError, match="carries no gradient"):
        attention.attend(inputs.query, inputs.key, inputs.value, "simrf", state=state)


@mechanisms
def test_row_statistics_do_not_depend_on_the_blocks(mechanism, monkeypatch):
    from attention.kernels import chunked

    inputs = make(queries=45)
    whole = attention.row_stats(inputs.query, inputs.key, mechanism)
    monkeypatch.setattr(chunked, "BUDGET", 7 * 45 * 8)
    parts = attention.row_stats(inputs.query, inputs.key, mechanism)
    for name in ("mass", "entropy", "key_mass", "max_score"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name))


@mechanisms
@pytest.mark.parametrize("queries", [50, 9], ids=["all", "the last queries"])
@pytest.mark.parametrize("apart", [False, True], ids=["one document", "documents"])
def test_chunks_in_portions_of_any_size_give_the_same(mechanism, queries, apart, monkeypatch):
    from attention.kernels import chunked

    inputs = make(queries=queries, keys=50)
    documents = torch.arange(3).repeat_interleave(torch.tensor([3, 30, 17])).repeat(2, 1)
    documents[1, 40:] = -1
    masks = {"documents": documents} if apart else {}
    whole = run(inputs, mechanism, "chunked", **masks)
    weights = inputs.query.shape[2] * mechanism.chunk**2
    for chunks in (1, 2):
        monkeypatch.setattr(chunked, "PORTION", chunks * weights)
        portions = run(inputs, mechanism, "chunked", **masks)
        for name, expected in whole.items():
            torch.testing.assert_close(portions[name], expected, rtol=1e-10, atol=1e-10)
