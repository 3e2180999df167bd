"""lm-eval's own command on a run, and lm-eval's own class for Hugging Face models beside the harness."""

import json
import runpy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

lm_eval = pytest.importorskip("lm_eval")
transformers = pytest.importorskip("transformers")

from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.api.model import CachingLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402
from lm_eval.utils import simple_parse_args_string  # noqa: E402
from tokenizers import ByteLevelBPETokenizer  # noqa: E402
from tokenizers.processors import TemplateProcessing  # noqa: E402

from eval.analyses import harness  # noqa: E402
from eval.language_model import HarnessModel  # noqa: E402
from eval.lm_eval import ZooModel  # noqa: E402
from eval.lm_tasks import chosen  # noqa: E402
from eval.subject import open_subject  # noqa: E402
from eval.subjects.base import Subject  # noqa: E402
from models import ModelError  # noqa: E402
from tests.eval.conftest import RunMaker  # noqa: E402
from tests.eval.measuring import measure  # noqa: E402

pytestmark = pytest.mark.slow


def test_the_command_of_lm_eval_takes_a_run_and_tasks_by_name_and_by_path(
    run_path: Path, own_tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text((own_tasks / "mine.yaml").read_text().replace("task: mine", "task: other"))
    told = ["--model", "zoo", "--model_args", f"run={run_path},max_length=64", "--tasks", f"mine,{other}"]
    told += ["--include_path", str(own_tasks), "--log_samples", "--output_path", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["lm_eval", *told])
    # Looking through the thousands of tasks that lm-eval has takes ten seconds.
    manager = partial(TaskManager, include_defaults=False)
    monkeypatch.setattr("lm_eval.tasks.TaskManager", manager)
    with pytest.raises(SystemExit) as exited:
        runpy.run_module("eval.lm_eval", run_name="__main__")
    assert exited.value.code == 0
    (report,) = (tmp_path / "out").rglob("results_*.json")
    found = json.loads(report.read_text())["results"]
    asked = harness.Settings(tasks=("mine",), include_path=str(own_tasks), max_length=64)
    ours = measure(harness, open_subject(run_path), asked)["results"]["tasks"]["mine"]["metrics"]
    assert found["mine"]["acc,none"] == found["other"]["acc,none"] == ours["acc"]["value"]
    (samples,) = (tmp_path / "out").rglob("samples_mine_*.jsonl")
    assert [json.loads(line)["doc"]["question"] for line in samples.read_text().splitlines()] == [
        "the queen",
        "of night",
    ]


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("--tasks mime", "Tasks not found: mime; did you mean mine?"),
        ("--limit 1", "--tasks is missing"),
        ("--tasks mine --num_fewshot text", "argument --num_fewshot/-f: invalid int value: 'text'"),
        ("--tasks mine --log_samples", "Specify --output_path"),
        ("--tasks mine --model_args run", "expected `key=value`, got 'run'"),
        ("--tasks mine --model zooo", "'zooo'"),
        ("--tasks mine --model_args run=nowhere", "nowhere"),
        ("--tasks mine --config nowhere.yaml", "nowhere.yaml"),
        ("--tasks mine --limit 0", "--limit must be above 0"),
        ("--tasks mine --limit nan", "--limit must be above 0"),
        ("--tasks mine --num_fewshot -1", "--num_fewshot must be at least 0"),
        (
            "--tasks mine --use_cache FOLDER/damaged",
            "damaged_rank0.db cannot be used: file is not a database",
        ),
        ("--tasks mine --use_cache FOLDER/folder", "folder_rank0.db cannot be used: unable to open database"),
        ("--config FOLDER/zero.yaml", "--limit must be above 0"),
        ("--config FOLDER/zero.yaml --limit 1", "damaged_rank0.db cannot be used"),
        ("--config FOLDER/zero.yaml --limit 1 --use_cache FOLDER/zero.yaml/x", "x_rank0.db cannot be used"),
        ("--config FOLDER/zero.yaml --limit 1 --num_fewshot -2", "--num_fewshot must be at least 0"),
        ('--tasks mine --model_args run=RUN --samples {"mine":[99]}', "Elements of --samples should be in"),
        ("--tasks mine --model_args run=RUN --apply_chat_template", "tokenizer_name"),
    ],
)
def test_a_slip_is_one_line(
    told: str,
    message: str,
    run_path: Path,
    own_tasks: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
) -> None:
    (tmp_path / "damaged_rank0.db").write_text(
        "no database, but long enough to be taken for the header of one"
    )
    (tmp_path / "folder_rank0.db").mkdir()
    (tmp_path / "zero.yaml").write_text(f"tasks: mine\nlimit: 0\nuse_cache: {tmp_path}/damaged\n")
    told = told.replace("RUN", str(run_path)).replace("FOLDER", str(tmp_path))
    monkeypatch.setattr(
        "sys.argv", ["lm_eval", "--model", "zoo", "--include_path", str(own_tasks), *told.split()]
    )
    monkeypatch.setattr("lm_eval.tasks.TaskManager", partial(TaskManager, include_defaults=False))
    with pytest.raises(SystemExit) as exited:
        runpy.run_module("eval.lm_eval", run_name="__main__")
    errors = capfd.readouterr().err
    assert "Exception in thread" not in errors
    *_, last = errors.splitlines()
    assert last.startswith("error: ")
    assert message in last
    assert exited.value.code == 2


def test_arguments_of_the_model_are_read_strictly(run_path: Path) -> None:
    model = ZooModel(str(run_path), step=10, bos=False, batch_size=4)
    assert (model.subject.step, model.begin, model.max_length) == (10, [], model.subject.train_length)
    with pytest.raises(ModelError, match="no argument 'max_lenght'; did you mean 'max_length'"):
        ZooModel(str(run_path), max_lenght=64)
    with pytest.raises(ModelError, match="needs --model_args run=RUN"):
        ZooModel()
    for told, message in (
        ("bos=no", "bos must be true or false or null, got 'no'"),
        ("max_length=abc", "max_length must be an integer or null, got 'abc'"),
        ("max_length=2.5", "max_length must be an integer or null, got 2.5"),
        ("batch_tokens=x", "batch_tokens must be an integer, got 'x'"),
    ):
        with pytest.raises(ModelError, match=message):
            ZooModel(**simple_parse_args_string(f"run={run_path},{told}"))


def test_a_cache_of_answers_serves_the_model_that_gave_them_alone(
    run_path: Path, make_run: RunMaker, tmp_path: Path
) -> None:
    request = Instance("loglikelihood", {}, ("the king", " of night"), 0)

    def asked(subject: Subject, **settings: Any) -> list[tuple[float, bool]]:
        model = CachingLM(HarnessModel(subject, **settings), str(tmp_path / "answers.db"))
        return model.loglikelihood([request])

    subject = open_subject(run_path)
    assert asked(subject) == asked(subject) == HarnessModel(subject).loglikelihood([request])
    with pytest.raises(ModelError, match=r"answers\.db holds answers of another model"):
        asked(open_subject(make_run("another", init_std=0.2)))
    with pytest.raises(ModelError, match="or of other settings"):
        asked(subject, bos=False)


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def folder(request: pytest.FixtureRequest, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tokenizer puts nothing before a text (GPT-2's kind), and one whose tokenizer does (Llama's)."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator([path.read_text() for path in corpus.iterdir()], 384, special_tokens=["<s>"])
    if request.param == "llama":
        bpe._tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, bos_token="<s>", eos_token="<s>", pad_token="<s>"
    )
    shape: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32}
    shape |= {"intermediate_size": 48, "max_position_embeddings": 256, "initializer_range": 0.3}
    shape |= {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    if request.param == "gpt2":
        shape |= {"n_layer": 2, "n_head": 4, "n_embd": 32, "n_positions": 256}
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("hub") / f"tiny-{request.param}"
    config = transformers.AutoConfig.for_model(request.param, **shape)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def test_the_class_of_lm_eval_gives_the_numbers_of_the_harness(
    folder: Path, corpus: Path, tmp_path: Path
) -> None:
    subject = open_subject(folder, text=str(corpus), results=tmp_path)
    ours = measure(harness, subject, harness.Settings(samples=20, words=16))["results"]["tasks"]
    texts = tmp_path / "texts.json"
    texts.write_text(json.dumps(subject.held_out()))
    metadata = {"texts": str(texts), "samples": 20, "words": 16}
    manager, tasks, _ = chosen.load(tuple(harness.OFFLINE), tuple(harness.OFFLINE), None, metadata)
    theirs = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(folder), "dtype": "float32"},
        device="cpu",
        batch_size=4,
        tasks=tasks,
        task_manager=manager,
        num_fewshot=0,
        bootstrap_iters=0,
    )["results"]
    # A rolling text is scored with the token that its tokenizer puts before it, by lm-eval's class alone.
    alike = [task for task in harness.OFFLINE if task != "rolling" or "gpt2" in folder.name]
    for task in alike:
        for metric, number in ours[task]["metrics"].items():
            assert theirs[task][f"{metric},none"] == pytest.approx(number["value"], rel=1e-4), (task, metric)
