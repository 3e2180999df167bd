"""The harness: likelihoods against direct computation, truncation, the offline tasks, and its errors."""

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

lm_eval = pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

from data import DataConfig, TokenizerConfig  # noqa: E402
from eval.analyses import harness  # noqa: E402
from eval.analyses.harness import Settings  # noqa: E402
from eval.lm_tasks import (  # noqa: E402
    adapter,
    build,
    separation,
)
from eval.lm_tasks.adapter import HarnessModel  # noqa: E402
from eval.subjects.opening import open_subject  # noqa: E402
from eval.subjects.subject import Subject  # noqa: E402
from models import ModelError  # noqa: E402
from tests.eval.conftest import RunMaker, untrained_run  # noqa: E402


@pytest.fixture
def subject(run_path: Path) -> Subject:
    return open_subject(run_path)


def requests(kind: str, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(kind, {}, each, index) for index, each in enumerate(arguments)]


def likelihood(subject: Subject, tokens: list[int], scored: int) -> float:
    return -subject.losses(torch.tensor([tokens]))[0, -scored:].double().sum().item()


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
    inner = subject.network.forward
    subject.network.forward = lambda *given, **options: (calls.append(1), inner(*given, **options))[1]
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
    inner = adapter.generate
    monkeypatch.setattr(
        adapter, "generate", lambda *a, **options: (sizes.append(len(a[1])), inner(*a, **options))[1]
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
    drawn = requests(
        "generate_until", [(text, {"do_sample": True, "temperature": 1.0}) for text in ("the", "of", "the")]
    )
    first, _, again = HarnessModel(subject, 32).generate_until(drawn)
    assert first == again


def test_the_offline_tasks_run(subject: Subject) -> None:
    settings = Settings(samples=12, words=16)
    first, second = (harness.run(subject, settings) for _ in range(2))
    assert first == second
    tasks = first["results"]["tasks"]
    assert list(tasks) == list(harness.OFFLINE)
    assert {tasks[name]["samples"] for name in ("cloze", "continuation", "order", "substitution")} == {12}
    assert {name: task["chance"] for name, task in tasks.items()} == {
        "cloze": None,
        "continuation": 0.25,
        "order": 0.5,
        "substitution": 0.5,
        "rolling": None,
    }
    for name, metric in first["results"]["headline"].items():
        assert metric in tasks[name]["metrics"]
    assert 0 <= tasks["continuation"]["metrics"]["acc_mutual_info"]["value"] <= 1
    cloze = tasks["cloze"]["metrics"]
    assert cloze["perplexity"]["higher_is_better"] is False
    assert cloze["perplexity"]["value"] == pytest.approx(math.exp(-cloze["log_likelihood"]["value"]))
    assert cloze["log_likelihood"]["stderr"] > 0
    assert first["protocol"]["positions"] == subject.train_length
    assert first["protocol"]["bos"] is True
    assert set(harness.row(first["results"])) == {
        "cloze log_likelihood",
        "continuation acc_mutual_info",
        "order acc",
        "substitution acc",
        "rolling bits_per_byte",
    }


def test_rolling_bits_per_byte_equal_direct_computation(subject: Subject, tmp_path: Path) -> None:
    settings = Settings(tasks=("rolling",), samples=5, words=8)
    got = harness.run(subject, settings)["results"]["tasks"]["rolling"]["metrics"]["bits_per_byte"]["value"]
    texts = tmp_path / "texts.json"
    texts.write_text(json.dumps(subject.held_out()))
    passages = build.rolling(str(texts), 5, 8)["test"]["text"]
    model = HarnessModel(subject, subject.train_length, bos=True)
    nats = -sum(
        model.loglikelihood_rolling(requests("loglikelihood_rolling", [(text,) for text in passages]))
    )
    total = sum(len(text.encode()) for text in passages)
    assert got == pytest.approx(nats / torch.tensor(2.0).log().item() / total, rel=1e-5)


@pytest.fixture
def texts(tmp_path: Path, subject: Subject) -> str:
    path = tmp_path / "texts.json"
    path.write_text(json.dumps(subject.held_out()))
    return str(path)


def test_cloze_asks_for_a_word_of_the_context(tmp_path: Path) -> None:
    letters = "abcdefghij"
    words = [f"{a}{b}{c}x" for a in letters for b in letters for c in letters]
    words[::7] = ["again"] * len(words[::7])
    words[::9] = ["cat"] * len(words[::9])
    texts = tmp_path / "texts.json"
    texts.write_text(json.dumps([" ".join(words) + "."]))
    samples = build.cloze(str(texts), 30, 16)["test"]
    assert set(samples["word"]) == {" again"}
    assert len(set(samples["context"])) == 30
    assert all("again" in context and context + " again" in " ".join(words) for context in samples["context"])


def test_four_passages_share_their_endings(texts: str, subject: Subject) -> None:
    samples = list(build.continuation(texts, 30, 16)["test"])
    assert len(samples) == 28
    for start in range(0, len(samples), 4):
        group = samples[start : start + 4]
        assert [sample["answer"] for sample in group] == [0, 1, 2, 3]
        assert all(sample["endings"] == group[0]["endings"] for sample in group)
        assert len({*group[0]["endings"]}) == 4
        for sample in group:
            true = sample["context"] + sample["endings"][sample["answer"]]
            assert any(true in text for text in subject.held_out())


def test_word_order_pairs_have_the_same_words_and_tokens(texts: str, subject: Subject) -> None:
    for sample in build.order(texts, 30, 32)["test"]:
        right, wrong = sample["endings"][sample["answer"]], sample["endings"][1 - sample["answer"]]
        assert right != wrong
        assert sorted(right.split()) == sorted(wrong.split())
        tokens = [subject.encode(sample["context"] + ending) for ending in (right, wrong)]
        assert sorted(tokens[0]) == sorted(tokens[1])
        assert any(sample["context"] + right in text for text in subject.held_out())


def test_substitutions_exchange_two_words(texts: str, subject: Subject) -> None:
    samples = list(build.substitution(texts, 30, 32)["test"])
    assert len(samples) == 30
    for sample in samples:
        right, wrong = sample["endings"][sample["answer"]], sample["endings"][1 - sample["answer"]]
        above, below = (sample["context"] + right).split("\n\n")
        assert all(any(passage in text for text in subject.held_out()) for passage in (above, below))
        changed = [
            (mine, other)
            for mine, other in zip(right.split(" "), wrong.split(" "), strict=True)
            if mine != other
        ]
        assert len(changed) == 2
        assert changed[0] == changed[1][::-1]
        tokens = [subject.encode(sample["context"] + ending) for ending in (right, wrong)]
        assert sorted(tokens[0]) == sorted(tokens[1])


def test_a_unigram_model_has_nothing_to_go_by(run_path: Path) -> None:
    blind = separation.unigram(separation.open_run(str(run_path)))
    tasks = harness.run(blind, Settings(samples=60, words=16))["results"]["tasks"]
    # Each ending is right once among four passages, and none is more likely behind a passage.
    assert tasks["continuation"]["metrics"]["acc"]["value"] == 0.25
    assert tasks["continuation"]["metrics"]["acc_mutual_info"]["value"] == 0.25
    assert tasks["cloze"]["metrics"]["acc"]["value"] == 0
    for name in ("order", "substitution"):
        metric = tasks[name]["metrics"]["acc"]
        assert abs(metric["value"] - tasks[name]["chance"]) < 3 * metric["stderr"]
    assert tasks["rolling"]["metrics"]["bits_per_byte"]["value"] < 3


def test_a_model_before_training_is_a_new_one(run_path: Path) -> None:
    # The run of this test was never trained, and its weights were drawn from seed 0.
    run, blank = (separation.open_run(str(run_path)) for _ in range(2))
    blank.network.embedding.weight.zero_()
    tokens = torch.tensor([[1, 2, 3, 4]])
    assert not blank.logits(tokens).any()
    torch.testing.assert_close(separation.untrained(blank, seed=0).logits(tokens), run.logits(tokens))
    assert not torch.allclose(separation.untrained(blank, seed=1).logits(tokens), run.logits(tokens))


def test_lm_eval_takes_the_model(subject: Subject) -> None:
    report = lm_eval.simple_evaluate(
        model=HarnessModel(subject),
        tasks=[
            {
                "task": "local",
                "custom_dataset": lambda **_: {"test": Dataset.from_list([{"text": "the queen speaks of"}])},
                "dataset_path": "",
                "output_type": "loglikelihood_rolling",
                "test_split": "test",
                "doc_to_text": "",
                "doc_to_target": "{{text}}",
                "metric_list": [{"metric": "bits_per_byte"}],
            }
        ],
        task_manager=TaskManager(include_defaults=False),
        num_fewshot=0,
    )
    ids = [subject.bos, *subject.encode("the queen speaks of")]
    bits = -likelihood(subject, ids, len(ids) - 1) / math.log(2) / 19
    assert report["results"]["local"]["bits_per_byte,none"] == pytest.approx(bits, rel=1e-5)


def test_every_filter_of_a_task_has_its_numbers() -> None:
    """As of gsm8k: one metric read strictly and flexibly, from one answer to each of two questions."""
    report = {
        "results": {
            "sums": {
                "alias": "sums",
                "exact_match,strict-match": 0.0,
                "exact_match_stderr,strict-match": 0.0,
                "exact_match,flexible-extract": 0.5,
                "exact_match_stderr,flexible-extract": 0.1,
                "acc,none": 0.25,
                "acc_stderr,none": "N/A",
            }
        },
        "versions": {"sums": 3},
        "higher_is_better": {"sums": {"exact_match": True, "acc": True}},
        "samples": {"sums": [{"doc_id": place, "doc": {"q": place}} for place in (0, 1, 0, 1)]},
    }
    task = harness._task("sums", report)
    assert task["samples"] == 2
    assert task["metrics"] == {
        "exact_match strict-match": {"value": 0.0, "stderr": 0.0, "higher_is_better": True},
        "exact_match flexible-extract": {"value": 0.5, "stderr": 0.1, "higher_is_better": True},
        "acc": {"value": 0.25, "stderr": None, "higher_is_better": True},
    }


def test_a_task_that_cannot_be_downloaded_is_one_line(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unreachable:
        all_tasks = ("arc_easy",)

        def __init__(self, **_: Any) -> None: ...

        def load(self, _: str) -> None:
            raise ConnectionError("Couldn't reach 'allenai/ai2_arc' on the Hub\nand more")

    monkeypatch.setattr("lm_eval.tasks.TaskManager", Unreachable)
    with pytest.raises(ModelError, match=r"arc_easy: Couldn't reach .* need the network$") as caught:
        harness.run(subject, Settings(tasks=("arc_easy",)))
    assert "\n" not in str(caught.value)


def test_tasks_refuse_a_text_that_is_too_short(run_path: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("the queen speaks")
    with pytest.raises(ModelError, match="too short or too plain"):
        harness.run(open_subject(run_path, text=str(short)), Settings(tasks=("cloze",)))


def test_mistakes(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="exceeds the 128 positions"):
        harness.run(subject, Settings(max_length=129))
    monkeypatch.setattr(harness, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install"):
        harness.before(Settings())


def test_only_stock_tasks_need_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    harness.before(Settings(tasks=("cloze", "piqa")))
    assert "HF_HUB_OFFLINE" not in harness.os.environ
    harness.before(Settings())
    assert harness.os.environ["HF_HUB_OFFLINE"] == "1"


def test_a_task_that_the_text_cannot_give_does_not_fail_the_others(tmp_path: Path) -> None:
    draw = random.Random(0)
    names = sorted(
        {"".join(draw.choice("aeioklmnrst") for _ in range(draw.randint(3, 8))) for _ in range(90)}
    )
    (tmp_path / "names.jsonl").write_text("\n".join(json.dumps({"text": name}) for name in names))
    data = DataConfig(
        corpus="jsonl",
        path=str(tmp_path / "names.jsonl"),
        tokenizer=TokenizerConfig(kind="char", vocab_size=300),
    )
    shape = {"n_layer": 1, "n_head": 2, "d_model": 16, "d_ff": 16, "max_length": 64}
    subject = open_subject(untrained_run(tmp_path / "names", data, 32, **shape))
    results = harness.run(subject, Settings())["results"]
    assert list(results["tasks"]) == ["rolling"]
    assert results["tasks"]["rolling"]["samples"] == len(subject.held_out())
    assert set(results["skipped"]) == set(harness.OFFLINE) - {"rolling"}
    assert harness.row(results)["skipped"] == "cloze, continuation, order, substitution"
    # Whole documents, so the definition is theirs: nats of all tokens but BOS over all bytes.
    nats = sum(
        likelihood(subject, [subject.bos, *ids], len(ids)) for ids in map(subject.encode, subject.held_out())
    )
    written = sum(len(name.encode()) for name in subject.held_out())
    bits = results["tasks"]["rolling"]["metrics"]["bits_per_byte"]["value"]
    assert bits == pytest.approx(-nats / written / math.log(2), rel=1e-5)


@pytest.fixture
def own_task(tmp_path: Path) -> Path:
    questions = [
        {"question": "the queen", "choices": [" speaks", " zzz"], "answer": 0},
        {"question": "of night", "choices": [" qqq", " and"], "answer": 1},
    ]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, questions)))
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "mine.yaml").write_text(
        "task: mine\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path}/questions.jsonl}}}}\n"
        "output_type: multiple_choice\ntest_split: test\ndoc_to_text: '{{question}}'\n"
        "doc_to_choice: '{{choices}}'\ndoc_to_target: answer\nmetric_list: [{metric: acc}]\n"
    )
    return folder


def test_tasks_of_ones_own_by_file_folder_and_name(subject: Subject, own_task: Path) -> None:
    found = [
        harness.run(subject, Settings(tasks=tasks, include_path=include))["results"]
        for tasks, include in (
            ((str(own_task / "mine.yaml"),), None),
            ((f"{own_task}/",), None),
            (("mine",), str(own_task)),
        )
    ]
    assert found[0]["tasks"]["mine"]["samples"] == 2
    assert found[0]["headline"] == {"mine": "acc"}
    assert found[0] == found[1] == found[2]
    assert not harness.reusable(Settings(tasks=("mine",), include_path=str(own_task)))
    assert not harness.reusable(Settings(tasks=("mine.yaml",)))
    assert harness.reusable(Settings())


def test_samples_are_written_beside_the_result(subject: Subject, own_task: Path, tmp_path: Path) -> None:
    subject.results = tmp_path / "results"
    harness.run(subject, Settings(tasks=(str(own_task),), log_samples=True))
    lines = (tmp_path / "results" / "harness-samples" / "mine.jsonl").read_text().splitlines()
    assert [json.loads(line)["doc"]["question"] for line in lines] == ["the queen", "of night"]


@pytest.mark.parametrize(
    ("tasks", "include", "reason"),
    [
        (("none.yaml",), None, "no task file or folder none.yaml"),
        (("some/where",), None, "no task file or folder some/where"),
        (("mine",), "nowhere", "--include-path nowhere is not a folder"),
    ],
)
def test_tasks_that_are_not_there_are_named(
    subject: Subject, tasks: tuple[str, ...], include: str | None, reason: str
) -> None:
    with pytest.raises(ModelError, match=reason):
        harness.run(subject, Settings(tasks=tasks, include_path=include))


@pytest.mark.parametrize(
    "content", ["task: [", "just words", "output_type: multiple_choice", "task: x\ndataset_path: json\n"]
)
def test_a_task_file_that_is_none_is_one_line(subject: Subject, tmp_path: Path, content: str) -> None:
    (tmp_path / "bad.yaml").write_text(content)
    with pytest.raises(ModelError, match=r"lm-eval cannot load task .*bad\.yaml"):
        harness.run(subject, Settings(tasks=(str(tmp_path / "bad.yaml"),)))


def test_generation_is_told_how(subject: Subject) -> None:
    with pytest.raises(ModelError, match="--gen-kwargs takes name=value,name=value, not 'hot'"):
        Settings(gen_kwargs="hot")
    assert Settings(gen_kwargs="temperature=0.8,top_k=4").gen_kwargs == "temperature=0.8,top_k=4"
