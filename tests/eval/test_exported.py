"""An exported run as a subject: measured as what it is, with the numbers of the run."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from eval.analyses import harness, lengths, quantize, sinks
from eval.quantization.activations import quantized_activations
from eval.subject import open_subject
from eval.subjects.base import Subject
from models import ModelError
from tests.eval.conftest import RunMaker
from tests.eval.measuring import measure

pytestmark = pytest.mark.slow

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def pair(
    make_run: RunMaker, corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Subject, Subject]:
    from models.export.folder import export

    run = make_run("mixed", attention="softpick*1,ssmax*1", gate="headwise")
    folder = export(run, tmp_path_factory.mktemp("exports") / "mixed")
    text = str(corpus / "00.txt")
    return open_subject(run, text=text), open_subject(folder, text=text)


def test_an_export_is_traced_as_its_mechanisms(pair: tuple[Subject, Subject]) -> None:
    run, export = pair
    assert export.label == run.label == "softpick*1,ssmax*1"
    assert export.mechanisms == run.mechanisms
    assert export.coverage == run.coverage
    assert export.coverage.followed_by == "gate"
    ids = run.encode("the queen speaks")
    assert (export.encode("the queen speaks"), export.bos, export.begin) == (ids, run.bos, [run.bos])
    tokens = torch.tensor([[run.bos, *ids]])
    assert torch.equal(export.logits(tokens), run.logits(tokens))
    assert export.generate(tokens[0].tolist(), 8) == run.generate(tokens[0].tolist(), 8)


def test_a_tokenizer_of_another_model_is_refused_where_it_shows(
    pair: tuple[Subject, Subject], tmp_path: Path
) -> None:
    shutil.copytree(pair[1].path, tmp_path / "export")
    file = tmp_path / "export" / "tokenizer.json"
    content = json.loads(file.read_text())
    size = pair[1].vocab_size
    content["model"]["vocab"]["é"] = size
    file.write_text(json.dumps(content))
    other = open_subject(tmp_path / "export")
    assert other.encode("the queen") == pair[1].encode("the queen")
    with pytest.raises(ModelError, match=f"export gives id {size}, and the model has {size}"):
        other.encode("é")
    file.write_text("{}")
    with pytest.raises(ModelError, match="its tokenizer: KeyError"):
        open_subject(tmp_path / "export")


def test_the_analyses_give_the_numbers_of_the_run(pair: tuple[Subject, Subject]) -> None:
    asked = [
        (sinks, sinks.Settings(lengths=(16,), train_length=False, sequences=3)),
        (lengths, lengths.Settings(tokens=128, train_length=64, multiples=(1, 2))),
        (quantize, quantize.Settings(methods=("rtn", "cache"), bits=(3,), length=16, sequences=2)),
        (harness, harness.Settings(tasks=("order", "rolling"), samples=5, words=8, max_length=64)),
    ]
    for analysis, settings in asked:
        one, other = (measure(analysis, subject, settings)["results"] for subject in pair)
        for sizes in (one, other):
            sizes.get("full_precision", {}).pop("bytes", None)  # of other files
            for score in sizes.get("bits", {}).values():
                score.pop("bytes")
        assert one == other, analysis.__name__
    with quantized_activations(pair[1], 8):
        assert pair[1].logits(torch.zeros(1, 4, dtype=torch.long)).isfinite().all()


def test_a_model_type_of_ours_is_no_way_to_have_code_run(
    pair: tuple[Subject, Subject], tmp_path: Path
) -> None:
    import shutil

    folder = shutil.copytree(pair[1].path, tmp_path / "copy")
    mark = tmp_path / "ran"
    for file in folder.glob("*.py"):
        file.write_text(
            f"from pathlib import Path\nPath({str(mark)!r}).write_text('ran')\n" + file.read_text()
        )
    open_subject(folder)
    assert not mark.exists()
    (folder / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["evil.Tokenizer", null]}}')
    with pytest.raises(ModelError, match="asks for code of its own"):
        open_subject(folder)
