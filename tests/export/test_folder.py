"""The exported folder: opened from an empty one, its card, the hub, and lm-eval's own class."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from eval.analyses import harness
from eval.analysis import evaluate
from eval.subject import open_subject
from models import ModelError
from models.export import __main__ as command
from models.export import hub
from models.export.folder import export
from storage import load_run
from tests.export.conftest import opened, tokens_of

ROOT = Path(__file__).parents[2]

OPEN = """
import json, sys
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, again = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
prompt = tokenizer("the queen", return_tensors="pt")
written = model.generate(**prompt, max_new_tokens=8, do_sample=False)
model.save_pretrained(again)
AutoModelForCausalLM.from_pretrained(again, trust_remote_code=True)
ours = [name for name in sys.modules if name.partition(".")[0] in ("models", "common", "data", "storage")]
print(json.dumps([ours, written[0].tolist(), model(**prompt).logits[0, -1, :4].tolist()]))
"""

REFUSED = """
import sys
from transformers import AutoModelForCausalLM
try:
    AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=False)
except ValueError as error:
    assert "contains custom code" in str(error), error
else:
    sys.exit("opened without its code")
sys.path.insert(0, sys.argv[2])
import models.huggingface
print(type(AutoModelForCausalLM.from_pretrained(sys.argv[1])).__module__)
"""


def script(code: str, *arguments: str, where: Path) -> str:
    """What a script says, run from a folder in which `attention` is all of this project that is installed."""
    site = where / "site"
    site.mkdir()
    (site / "attention").symlink_to(ROOT / "attention")
    environment = os.environ | {
        "PYTHONPATH": str(site),
        "HF_HOME": str(where / "hf"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    ran = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=where,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()[-1]


@pytest.mark.slow
def test_it_opens_where_only_attention_is_installed(folder: Path, run: Path, tmp_path: Path) -> None:
    ours, written, logits = json.loads(script(OPEN, str(folder), str(tmp_path / "again"), where=tmp_path))
    assert ours == []
    trained = load_run(run)
    prompt = torch.tensor([trained.tokenizer.encode("the queen", bos=True)])
    assert written[: prompt.shape[1]] == prompt[0].tolist()
    with torch.no_grad():
        torch.testing.assert_close(torch.tensor(logits), trained.model(prompt)[0, -1, :4])


@pytest.mark.slow
def test_a_checkout_opens_it_after_one_import(folder: Path, tmp_path: Path) -> None:
    assert script(REFUSED, str(folder), str(ROOT), where=tmp_path) == "models.huggingface"


def test_weights_and_names_are_whole(folder: Path, run: Path) -> None:
    trained = load_run(run).model.state_dict()
    found = opened(folder).network.state_dict()
    assert found.keys() == trained.keys()
    assert all(torch.equal(found[name], trained[name]) for name in trained)
    names = {path.name for path in folder.iterdir()}
    assert {"README.md", "model.safetensors", "tokenizer.json", "config.json"} <= names


def test_nothing_is_overwritten_and_nothing_half_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match="already exists"):
        export(run, tmp_path)
    link = tmp_path / "link"
    link.symlink_to("nowhere")
    with pytest.raises(ModelError, match="already exists"):
        export(run, link)
    link.unlink()
    with pytest.raises(ModelError, match="no checkpoint of step 3"):
        export(run, tmp_path / "new", step=3)
    monkeypatch.setattr("models.export.folder.card", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(run, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_card_has_what_was_measured(run: Path, tmp_path: Path) -> None:
    subject = open_subject(run)
    found = evaluate(
        harness.ANALYSIS, subject, harness.Settings(tasks=("rolling",), samples=4, words=8)
    ).results
    text = (export(run, tmp_path / "measured") / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert front["library_name"] == "transformers"
    assert {"attention-zoo", "swat", "ssmax"} <= set(front["tags"])
    bits = found.tasks["rolling"].metrics["bits_per_byte"].value
    assert f"| rolling bits per byte | {bits:.3f}" in text
    assert "| attention | swat*1,ssmax*1 |" in text
    assert load_run(run).checkpoint in text
    assert "Not measured: activations" in text
    # Paths of the machine that trained are nobody's business.
    assert str(tmp_path.parent) not in text


@pytest.mark.slow
def test_lm_evals_own_class_gives_the_harness_numbers(
    folder: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval")
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    from eval import language_model

    settings = harness.Settings(
        tasks=("cloze", "continuation", "order"), samples=12, words=16, max_length=128
    )
    ours = harness.run(open_subject(run), settings).results
    tokenizer = AutoTokenizer.from_pretrained(folder)
    theirs = HFLM(
        pretrained=opened(folder),
        tokenizer=tokenizer,
        max_length=128,
        batch_size=4,
        device="cpu",
        add_bos_token=True,
    )
    theirs.merged, theirs.begin = 0, [1]
    monkeypatch.setattr(language_model, "HarnessModel", lambda *_: theirs)
    found = harness.run(open_subject(run), settings).results
    for task, wanted in ours.tasks.items():
        for name, metric in wanted.metrics.items():
            assert found.tasks[task].metrics[name].value == pytest.approx(metric.value, rel=1e-4, abs=1e-5), (
                task,
                name,
            )


def test_the_page_shows_what_works(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "export.md").read_text(), re.DOTALL)
    exec(shown[1].replace("exports/micro-softpick", str(folder)), {})
    assert capsys.readouterr().out.startswith("To be, or")


class Hub:
    """A hub that remembers what it was asked."""

    def __init__(self, asked: list[tuple[str, Any]], refusal: Exception | None = None) -> None:
        self.asked, self.refusal = asked, refusal

    def create_repo(self, name: str, **options: Any) -> str:
        self.asked.append((name, options))
        if self.refusal is not None:
            raise self.refusal
        return f"https://hub/{name}"

    def upload_folder(self, *, folder_path: Path, **options: Any) -> None:
        self.asked.append((options["repo_id"], sorted(path.name for path in folder_path.iterdir())))


def test_the_command_writes_and_uploads(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[str, Any]] = []
    monkeypatch.setattr(hub, "HfApi", lambda: Hub(asked))
    arguments = ["export", str(run), str(tmp_path / "out"), "--push", "me/plain", "--private"]
    monkeypatch.setattr(sys, "argv", arguments)
    command.main()
    (name, options), (uploaded, files) = asked
    assert (name, uploaded) == ("me/plain", "me/plain")
    assert options == {"repo_type": "model", "private": True, "exist_ok": True}
    assert {"README.md", "model.safetensors", "modeling_attention_zoo.py", "tokenizer.json"} <= set(files)
    assert capsys.readouterr().out.splitlines()[-1] == "https://hub/me/plain"


def test_the_hubs_refusal_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "HfApi", lambda: Hub([], OSError("no route\nto host")))
    with pytest.raises(ModelError, match=r"did not take .*: no route to host; log in with"):
        hub.push(folder, "me/plain")
    with pytest.raises(ModelError, match="must be USER/NAME"):
        hub.check("plain")


def test_tokens_of_other_shapes(folder: Path) -> None:
    assert opened(folder)(tokens_of(320, 2, 5)).logits.shape == (2, 5, 352)
