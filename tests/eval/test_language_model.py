"""The adapter beside lm-eval's own class for Hugging Face models, over all that a task can ask."""

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lm_eval")
transformers = pytest.importorskip("transformers")

from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from tokenizers import ByteLevelBPETokenizer  # noqa: E402
from tokenizers.processors import TemplateProcessing  # noqa: E402

from common.errors import InputError  # noqa: E402
from eval.language_model import HarnessModel  # noqa: E402
from eval.subject import open_subject  # noqa: E402
from eval.subjects.base import Subject  # noqa: E402
from models import ModelError  # noqa: E402

VOCABULARY, POSITIONS = 384, 48
CONFIGS = {
    # Its tokenizer puts nothing before a text.
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": POSITIONS},
    # Its tokenizer begins every text with <s>.
    "llama": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": POSITIONS,
    },
}


@pytest.fixture(scope="module", params=CONFIGS)
def folder(request: pytest.FixtureRequest, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    kind = request.param
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        [path.read_text() for path in corpus.iterdir()], VOCABULARY, special_tokens=["<s>"]
    )
    if kind == "llama":
        bpe._tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, bos_token="<s>", eos_token="<s>", pad_token="<s>"
    )
    config = transformers.AutoConfig.for_model(
        kind,
        vocab_size=len(tokenizer),
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        **CONFIGS[kind],
    )
    path = tmp_path_factory.mktemp("hub") / f"tiny-{kind}"
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    return HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=3)


@pytest.fixture(scope="module")
def subject(folder: Path) -> Subject:
    return open_subject(folder)


@pytest.fixture(scope="module")
def ours(subject: Subject) -> HarnessModel:
    return HarnessModel(subject)


def ask(model: Any, kind: str, asked: list[tuple[Any, ...]]) -> Any:
    # lm-eval adds stop strings to the lists of a request.
    requests = [
        Instance(kind, {}, tuple(dict(part) if isinstance(part, dict) else part for part in each), index)
        for index, each in enumerate(asked)
    ]
    return getattr(model, kind)(requests, disable_tqdm=True)


PAIRS = [
    ("the queen", " speaks of night"),
    ("the queen ", "speaks"),
    ("the queen\n\n", "speaks\n"),
    ("", "night and morning"),
    ("", " gentle"),
    ("Ünï 漢字 🙂", " crown 王"),
    ("<s>the queen", " speaks"),
    ("of night,\nand", " gentle Rome to the king"),
    ("the", " "),
    ("a" * 9, " b\tc  d"),
]
LONG = "the queen speaks of night and gentle morning " * 9


def test_likelihoods_are_those_of_lm_eval(ours: HarnessModel, theirs: Any) -> None:
    random.seed(1)
    words = LONG.split()
    pairs = PAIRS + [
        (" ".join(random.sample(words, 4)), " " + " ".join(random.sample(words, 3))) for _ in range(20)
    ]
    expected, got = (ask(model, "loglikelihood", pairs) for model in (theirs, ours))
    for pair, (value, greedy), (right, right_greedy) in zip(pairs, got, expected, strict=True):
        assert value == pytest.approx(right, abs=1e-4), pair
        assert greedy == right_greedy, pair
    assert ours.max_length == theirs.max_length == POSITIONS
    assert ours.prefix_token_id == theirs.prefix_token_id
    assert ours.eot_token_id == theirs.eot_token_id


def test_a_long_context_keeps_the_beginning_that_lm_eval_cuts(
    ours: HarnessModel, theirs: Any, subject: Subject
) -> None:
    text = LONG.rstrip()
    ((right, _),) = ask(theirs, "loglikelihood", [(text, " crown")])
    ((value, _),) = ask(ours, "loglikelihood", [(text, " crown")])
    if not ours.begin:
        assert value == pytest.approx(right, abs=1e-4)
        return
    assert abs(value - right) > 1e-3
    target = subject.encode(" crown")
    context = subject.encode(text + " crown")[: -len(target)]
    kept = [*ours.begin, *context[-(POSITIONS - len(target)) :], *target]
    losses = subject.losses(torch.tensor([kept]))[0, -len(target) :]
    assert value == pytest.approx(-float(losses.double().sum()), abs=1e-4)


def test_rolling_likelihoods_leave_out_the_token_that_begins(
    ours: HarnessModel, theirs: Any, subject: Subject
) -> None:
    for text in ("the queen speaks", "night", LONG):
        (right,), (value,) = (ask(model, "loglikelihood_rolling", [(text,)]) for model in (theirs, ours))
        if not ours.begin:
            assert value == pytest.approx(right, abs=1e-3)
        elif text is not LONG:
            # lm-eval puts its own token before the tokenizer's, and scores the latter along with the text.
            one, two = (torch.tensor([[subject.bos] * count + subject.encode(text)]) for count in (1, 2))
            assert value == pytest.approx(-float(subject.losses(one).double().sum()), abs=1e-3)
            assert right == pytest.approx(-float(subject.losses(two).double().sum()), abs=1e-3)


GENERATION: list[dict[str, Any]] = [
    {},
    {"until": "e"},
    {"until": ["\n", "th"], "max_gen_toks": 12},
    {"max_new_tokens": 5},
    {"max_tokens": 6, "until": []},
    {"max_completion_tokens": 7, "max_gen_toks": 3},
    {"do_sample": False, "temperature": 0.0, "max_gen_toks": 9},
    {"do_sample": False, "temperature": 0.7, "max_gen_toks": 9},
    {"temperature": 0, "max_gen_toks": 4},
    {"temperature": 1.0, "top_k": 1, "max_gen_toks": 8},
    {"do_sample": True, "temperature": 0.5, "top_k": 1, "max_gen_toks": 8},
    {"num_beams": 2, "max_gen_toks": 8},
    {"repetition_penalty": 1.3, "max_gen_toks": 8},
]


@pytest.mark.slow
@pytest.mark.parametrize("options", GENERATION, ids=str)
def test_texts_are_those_of_lm_eval(ours: HarnessModel, theirs: Any, options: dict[str, Any]) -> None:
    if not any(limit in options for limit in ("max_gen_toks", "max_new_tokens", "max_tokens")):
        options = {**options, "max_gen_toks": 10}  # lm-eval's 256 are more than these models have positions
    for context in ("the queen", "of night and", "<s>gentle"):
        right, got = (ask(model, "generate_until", [(context, options)]) for model in (theirs, ours))
        assert got == right, context


def test_a_long_prompt_loses_its_beginning(ours: HarnessModel, theirs: Any) -> None:
    right, got = (
        ask(model, "generate_until", [(LONG, {"max_gen_toks": 8, "until": ["zzz"]})])
        for model in (theirs, ours)
    )
    assert (got == right) == (not ours.begin)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"do_sample": True}, "temperature above 0"),
        ({"max_gen_toks": 0}, "0 generated tokens"),
        ({"max_gen_toks": POSITIONS}, "leave no context"),
        ({"max_length": 1, "max_gen_toks": 4}, "max_length leaves no room"),
        ({"no_such_option": 1}, "no_such_option"),
        ({"max_gen_toks": "many"}, "max_gen_toks must be an integer, got 'many'"),
        ({"max_gen_toks": 4, "until": 5}, "until must be a text or a list, got 5"),
        ({"max_gen_toks": 4, "until": ["e", None]}, r"until.1 must be a text, got None"),
        ({"max_gen_toks": 4, "do_sample": "no"}, "do_sample must be true or false, got 'no'"),
        ({"max_gen_toks": 4, "temperature": "hot"}, "temperature must be a number, got 'hot'"),
        ({"max_gen_toks": 4, "temperature": 1.0, "top_k": 2.5}, "top_k must be an integer, got 2.5"),
    ],
)
def test_what_cannot_be_generated_is_refused(
    ours: HarnessModel, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        ask(ours, "generate_until", [("the queen", options)])


def test_runs_name_the_options_that_they_do_not_know(run_path: Path) -> None:
    model = HarnessModel(open_subject(run_path))
    with pytest.raises(ModelError, match="cannot generate with 'num_beams'"):
        ask(model, "generate_until", [("the queen", {"num_beams": 2, "max_gen_toks": 4})])
    greedy, drawn = (
        ask(model, "generate_until", [("the queen", {"max_gen_toks": 8, **options})])
        for options in ({}, {"temperature": 2.0, "top_k": 1})
    )
    assert greedy == drawn


def test_a_repeated_request_is_drawn_anew(run_path: Path, folder: Path) -> None:
    request = ("the queen", {"temperature": 2.0, "max_gen_toks": 12})
    for path in (run_path, folder):
        model = HarnessModel(open_subject(path))
        torch.manual_seed(0)
        first, second = ask(model, "generate_until", [request, request])
        assert first != second
        torch.manual_seed(0)
        assert ask(model, "generate_until", [request, request]) == [first, second]


def merging(subject: Subject) -> list[tuple[str, list[str]]]:
    """Contexts whose last token a continuation changes, each with that continuation and another one."""
    found = []
    for word in ("the", "and", "night", "gentle", "morning", "queen", "speaks", "shadow"):
        for cut in range(1, len(word)):
            context, rest = f"of {word[:cut]}", word[cut:]
            before = subject.encode(context)
            if subject.encode(context + rest)[: len(before)] != before:
                found.append((context, [rest, "zq"]))
    return found


def test_a_continuation_joined_to_its_context_is_scored_by_itself(subject: Subject) -> None:
    model = HarnessModel(subject)
    cases = merging(subject)
    assert len(cases) > 5
    for context, choices in cases:
        got = ask(model, "loglikelihood", [(context, choice) for choice in choices])
        assert all(value < 0 for value, _ in got), context
        assert sum(math.exp(value) for value, _ in got) <= 1 + 1e-6
        own = subject.encode(choices[0])
        sequence = [*(model.begin), *subject.encode(context), *own]
        expected = -float(subject.losses(torch.tensor([sequence]))[0, -len(own) :].double().sum())
        assert got[0][0] == pytest.approx(expected, abs=1e-4)
    assert model.merged >= len(cases)


def test_nothing_is_not_certain(ours: HarnessModel) -> None:
    for context in ("", "the queen"):
        with pytest.raises(ModelError, match="how likely an empty text is"):
            ask(ours, "loglikelihood", [(context, "")])
    with pytest.raises(ModelError, match="no token of"):
        ours._loglikelihood_tokens([(("a", "b"), [1, 2], [])])


def test_white_space_alone_is_a_context(ours: HarnessModel, subject: Subject) -> None:
    ((value, _),) = ask(ours, "loglikelihood", [("  \n", "night")])
    target = subject.encode("  \nnight")
    sequence = [*(ours.begin or [ours.prefix_token_id]), *target]
    losses = subject.losses(torch.tensor([sequence]))[0, -len(target) :]
    assert value == pytest.approx(-float(losses.double().sum()), abs=1e-4)
