"""A number depends on its analysis, on what that imports, and of mechanisms only on those of the run."""

from pathlib import Path

import pytest

from eval import catalogue, provenance
from eval.analyses import activations
from eval.analysis import evaluate
from eval.catalogue import get
from eval.subject import open_subject
from tests.eval.conftest import RunMaker

pytestmark = pytest.mark.slow
SETTINGS = activations.Settings(sequences=3)


def edit(file: Path) -> None:
    """Add a statement to a source."""
    statements = {".py": "EDITED = 1", ".h": "static int edited = 1;", ".yaml": "edited: 1"}
    file.write_text(f"{file.read_text()}\n{statements[file.suffix]}\n")


@pytest.mark.parametrize(
    ("deep", "computed"),
    [
        ("attention/__init__.py", True),
        ("attention/mechanisms/softmax.py", True),
        ("attention/mechanisms/softpick.py", False),
        ("attention/kernels/cpu/rows.h", True),
        ("models/rope.py", True),
        ("eval/subjects/huggingface.py", True),
        ("eval/report/page.py", False),
        ("eval/analyses/sinks.py", False),
    ],
)
def test_an_edit_far_below_makes_it_computed_again(
    make_run: RunMaker, tmp_path: Path, copied: Path, deep: str, computed: bool
) -> None:
    path, item = make_run("fresh", folder=tmp_path), get("activations")
    assert not evaluate(item, open_subject(path), SETTINGS).reused
    assert evaluate(item, open_subject(path), SETTINGS).reused
    edit(copied / deep)
    assert evaluate(item, open_subject(path), SETTINGS).reused is not computed


def test_the_code_of_an_analysis_is_what_it_builds_on_and_no_more(copied: Path) -> None:
    known = catalogue.every()

    def hashes() -> dict[str, str]:
        return {name: provenance.code(analysis.module) for name, analysis in known.items()}

    before = hashes()

    def changed_by(file: str) -> set[str]:
        nonlocal before
        edit(copied / file)
        earlier, before = before, hashes()
        return {name for name, code in before.items() if code != earlier[name]}

    for file in ("language_model.py", "lm_tasks/build.py", "lm_tasks/cloze.yaml"):
        assert changed_by(f"eval/{file}") == {"harness"}
    assert changed_by("eval/quantization/gptq.py") == {"quantize"}
    assert changed_by("eval/analyses/sinks.py") == {"sinks"}
    assert changed_by("eval/display.py") == changed_by("eval/drawing/style.py") == set()
    assert changed_by("data/corpora/synthetic.py") >= {"synthetic"}
    assert changed_by("eval/subjects/run.py") == set(known)


def test_a_mechanism_counts_with_its_base(copied: Path) -> None:
    def hashed(name: str) -> object:
        return provenance.protocol("eval.analyses.sinks", [f"attention.mechanisms.{name}"])["parts"]

    before = {name: hashed(name) for name in ("lssar", "lssa", "softpick")}
    edit(copied / "attention" / "mechanisms" / "lssa.py")
    assert {name for name, known in before.items() if hashed(name) != known} == {"lssar", "lssa"}


def test_a_post_op_counts_where_a_model_has_it(make_run: RunMaker, copied: Path) -> None:
    plain, gated = (open_subject(make_run(f"gate-{gate}", gate=gate)) for gate in ("none", "headwise"))

    def hashed() -> list[object]:
        return [provenance.protocol("eval.analyses.sinks", subject.made_of) for subject in (plain, gated)]

    before = hashed()
    edit(copied / "models" / "postops" / "gate.py")
    assert [one == other for one, other in zip(hashed(), before, strict=True)] == [True, False]


def test_an_mlp_and_a_norm_count_where_a_model_has_them(make_run: RunMaker, copied: Path) -> None:
    plain, other = (open_subject(make_run(f"mlp-{mlp}", mlp=mlp)) for mlp in ("swiglu", "relu_squared"))

    def hashed() -> list[object]:
        return [provenance.protocol("eval.analyses.sinks", subject.made_of) for subject in (plain, other)]

    def same(file: str) -> list[bool]:
        before = hashed()
        edit(copied / "models" / file)
        return [one == two for one, two in zip(hashed(), before, strict=True)]

    assert same("mlps/relu_squared.py") == [True, False]
    assert same("norms/rms.py") == [False, False]
    assert same("norms/single_scale.py") == [True, True]


def test_a_mechanism_that_is_added_outdates_nothing(copied: Path) -> None:
    def protocols() -> list[object]:
        return [
            provenance.protocol(analysis.module, ["attention.mechanisms.softmax"])
            for analysis in catalogue.every().values()
        ]

    before = protocols()
    (copied / "attention" / "mechanisms" / "mine.py").write_text("class Mine:\n    pass\n")
    assert protocols() == before


def test_libraries_count_where_they_are_imported() -> None:
    def libraries(name: str) -> set[str]:
        return provenance.versions(get(name).module).keys() & {"lm_eval", "hqq"}

    assert [libraries(name) for name in ("sinks", "harness", "quantize")] == [set(), {"lm_eval"}, {"hqq"}]


def test_sources_are_read_once_where_many_runs_are_compared(monkeypatch):
    asked = []
    monkeypatch.setattr(provenance, "files", lambda modules, parts=False: asked.append(modules) or set())
    before = provenance.protocol("eval.analyses.sinks", ["attention.mechanisms.softmax"])
    each = len(asked)
    with provenance.read_once():
        for _ in range(3):
            assert provenance.protocol("eval.analyses.sinks", ["attention.mechanisms.softmax"]) == before
    assert len(asked) == 2 * each
    provenance.protocol("eval.analyses.sinks", ["attention.mechanisms.softmax"])
    assert len(asked) == 3 * each
