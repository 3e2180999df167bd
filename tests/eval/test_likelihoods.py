"""The adapter to lm-eval: likelihoods against direct computation, truncation and generation."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch

lm_eval = pytest.importorskip("lm_eval")


from eval import language_model  # noqa: E402
from eval.language_model import HarnessModel  # noqa: E402
from eval.subject import open_subject  # noqa: E402
from eval.subjects.base import Subject  # noqa: E402
from models import ModelError  # noqa: E402
from tests.eval.asking import likelihood, requests  # noqa: E402
from tests.eval.conftest import RunMaker  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture
def subject(run_path: Path) -> Subject:
    return open_subject(run_path)


def test_likelihoods_equal_direct_computation(subject: Subject) -> None:
    pairs = [
        ("the queen", " speaks"),
        ("", "night and morning"),
        ("of night,\nand", " gentle Rome to the king"),
    ]
    got = HarnessModel(subject, 64, bos=True).loglikelihood(
        requests("loglikelihood", pairs), disable_tqdm=True
    )
    for (context, target), (value, _) in zip(pairs, got, strict=True):
        whole = [subject.bos, *subject.encode(context + target)]
        scored = len(whole) - 1 - len(subject.encode(context))
        assert value == pytest.approx(likelihood(subject, whole, scored), abs=1e-4)


def test_without_bos_the_context_stands_alone(subject: Subject) -> None:
    ((value, _),) = HarnessModel(subject, 64, bos=False).loglikelihood(
        requests("loglikelihood", [("the queen", " speaks")]), disable_tqdm=True
    )
    whole = subject.encode("the queen speaks")
    assert value == pytest.approx(
        likelihood(subject, whole, len(whole) - len(subject.encode("the queen"))), abs=1e-4
    )


def test_greedy_is_what_greedy_decoding_gives(subject: Subject) -> None:
    prompt = [subject.bos, *subject.encode("the queen")]
    best = subject.generate(prompt, 2)
    other = [token + 1 for token in best]
    encoded = [(("", ""), prompt, target) for target in (best, other)]
    greedy = [flag for _, flag in HarnessModel(subject, 64, bos=True)._loglikelihood_tokens(encoded)]
    assert greedy == [True, False]


def test_a_long_context_loses_its_beginning_but_not_bos(subject: Subject) -> None:
    context, target = (
        subject.encode("the queen speaks of night and gentle morning " * 5),
        subject.encode("crown"),
    )
    got = HarnessModel(subject, 16, bos=True)._loglikelihood_tokens(
        [(("", ""), [subject.bos, *context], target)]
    )
    kept = [subject.bos, *context[-(16 - len(target)) :], *target]
    assert len(kept) == 17
    assert got[0][0] == pytest.approx(likelihood(subject, kept, len(target)), abs=1e-4)
    with pytest.raises(ModelError, match="cannot be scored within 16 positions"):
        HarnessModel(subject, 16, bos=True)._loglikelihood_tokens([(("", ""), [subject.bos], context)])


@pytest.mark.parametrize("attention", ["softmax", "lssar", "swat", "gaussian"])
def test_batches_of_any_size_agree(make_run: RunMaker, attention: str) -> None:
    run_path = make_run(f"batches-{attention}", attention=attention)
    text = "the queen speaks of night and gentle morning where shadow takes every crown"
    pairs = [(text[:cut], text[cut:]) for cut in range(3, len(text) - 1, 5)]
    random.Random(0).shuffle(pairs)
    one, many = (
        HarnessModel(open_subject(run_path, batch_tokens=size), 64, bos=True).loglikelihood(
            requests("loglikelihood", pairs), disable_tqdm=True
        )
        for size in (1, 4096)
    )
    assert [value for value, _ in one] == pytest.approx([value for value, _ in many], abs=1e-4)
    assert [greedy for _, greedy in one] == [greedy for _, greedy in many]


def test_what_is_asked_twice_is_computed_once_and_only_scored_places_are_read(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []
    inner = subject.logits
    monkeypatch.setattr(
        subject, "logits", lambda tokens, at: (asked.append((len(tokens), len(at[0]))), inner(tokens, at))[1]
    )
    # The last has the tokens of the first, and scores more of them.
    pairs = [
        ("the queen", " speaks"),
        ("the king", " speaks"),
        ("the queen", " speaks"),
        ("the", " queen speaks"),
    ]
    model = HarnessModel(subject, 64)
    got = model.loglikelihood(requests("loglikelihood", pairs), disable_tqdm=True)
    targets = {pair: len(model._encode_pair(*pair)[1]) for pair in pairs}
    assert asked == [(3, sum(targets.values()))]
    assert got[0] == got[2]
    assert got[3][0] < got[0][0]


def test_rolling_likelihood_covers_every_token_once(subject: Subject) -> None:
    text = subject.held_out()[0][:300]
    ids = subject.encode(text)
    (got,) = HarnessModel(subject, 32, bos=True).loglikelihood_rolling(
        requests("loglikelihood_rolling", [(text,)])
    )
    windows = list(
        map(
            lm_eval.utils.make_disjoint_window,
            lm_eval.utils.get_rolling_token_windows(ids, subject.bos, 32, 1),
        )
    )
    assert sum(len(target) for _, target in windows) == len(ids)
    exact = sum(likelihood(subject, context + target, len(target)) for context, target in windows)
    assert got == pytest.approx(exact, abs=1e-3)


def test_generation_stops_where_it_is_told(subject: Subject) -> None:
    model = HarnessModel(subject, 64, bos=True)
    free = model.generate_until(
        requests("generate_until", [("the queen", {"until": [], "max_gen_toks": 12})])
    )[0]
    expected = subject.decode(subject.generate([subject.bos, *subject.encode("the queen")], 12))
    assert free == expected
    middle = free[len(free) // 2]
    stopped = model.generate_until(
        requests("generate_until", [("the queen", {"until": [middle], "max_gen_toks": 12})])
    )
    assert stopped == [free.split(middle)[0]]
    for room in (63, 64):  # one position is the beginning-of-document token's
        with pytest.raises(ModelError, match=f"{room} generated tokens leave no context within 64 positions"):
            model.generate_until(requests("generate_until", [("the", {"max_gen_toks": room})]))


def test_generation_ends_with_the_document_and_writes_pieces_only(make_run: RunMaker) -> None:
    subject: Any = open_subject(make_run("padded", vocab_size=448, tie_embeddings=False))
    head, pieces = subject.network.head.weight, 320
    asked = requests(
        "generate_until",
        [("the queen", {"until": [], "max_gen_toks": 12}), ("of night", {"until": [], "max_gen_toks": 12})],
    )
    with torch.no_grad():
        head[pieces:] *= 50
    free = HarnessModel(subject, 64).generate_until(asked)
    # Had an id of the padding been written, decoding would have refused it.
    assert all(free)
    # The end of the document is by far the likeliest behind the first prompt: one forward pass, and no text.
    prompt = [subject.bos, *subject.encode("the queen")]
    with torch.no_grad():
        head[subject.bos] = 100 * subject.states(torch.tensor([prompt]))[0, -1]
    calls: list[int] = []
    inner = subject.network.hidden
    subject.network.hidden = lambda *given, **options: (calls.append(1), inner(*given, **options))[1]
    assert HarnessModel(subject, 64).generate_until(asked[:1]) == [""]
    assert len(calls) == 1


@pytest.mark.parametrize("attention", ["softmax", "lssar", "swat"])
def test_texts_generated_in_one_batch_are_those_generated_alone(
    make_run: RunMaker, attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = open_subject(make_run(f"generated-{attention}", attention=attention))
    text = "the queen speaks of night and gentle morning where shadow takes every crown"
    prompts = [text[:length] for length in (70, 3, 40, 1, 55)]
    asked = requests("generate_until", [(prompt, {"until": []}) for prompt in prompts])
    sizes = []
    inner = language_model.generate
    monkeypatch.setattr(
        language_model, "generate", lambda *a, **options: (sizes.append(len(a[1])), inner(*a, **options))[1]
    )
    texts = HarnessModel(subject, 64).generate_until(asked)
    assert sizes == [5]
    for prompt, text in zip(prompts, texts, strict=True):
        kept = [subject.bos, *subject.encode(prompt)[-31:]]
        # Half of the positions, since nobody said how many.
        assert text == subject.decode(subject.generate(kept, 32))


def test_the_default_number_of_generated_tokens_fits(subject: Subject) -> None:
    asked = requests("generate_until", [("the queen", {"until": ["\n\n"]})])
    for length in (4, 32, 128):
        assert len(HarnessModel(subject, length).generate_until(asked)) == 1


def test_the_seed_of_torch_decides_what_is_drawn(subject: Subject) -> None:
    drawn = requests(
        "generate_until", [(text, {"do_sample": True, "temperature": 1.0}) for text in ("the", "of")]
    )
    texts = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        texts.append(HarnessModel(subject, 32).generate_until(drawn))
    assert texts[0] == texts[1] != texts[2]
