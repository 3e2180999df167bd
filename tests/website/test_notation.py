"""Formulas as MathML."""

import re
from xml.etree import ElementTree

import pytest

import attention
from attention import notes
from website import mechanisms, notation


def shape(formula: str) -> str:
    """A formula in letters: what is above and below a fraction in braces, indices behind `_` and `^`."""

    def read(node: ElementTree.Element) -> str:
        inner = [read(child) for child in node]
        match node.tag:
            case "mfrac":
                return f"{{{inner[0]}|{inner[1]}}}"
            case "msub" | "munder":
                return f"{inner[0]}_{inner[1]}"
            case "msup":
                return f"{inner[0]}^{inner[1]}"
            case "msubsup":
                return f"{inner[0]}_{inner[1]}^{inner[2]}"
            case "msqrt":
                return f"√{''.join(inner)}"
        return (node.text or "") + "".join(inner)

    markup = re.sub(r"&nbsp;", " ", notation.display(formula))
    return read(ElementTree.fromstring(markup))


@pytest.mark.parametrize(
    ("formula", "seen"),
    [
        ("s = q . k / sqrt(d)", "s={q⋅k|√d}"),
        ("relu(e^{s_ij} - 1) / (sum_k |e^{s_ik} - 1| + epsilon)", "{relu(e^s_ij−1)|∑_k|e^s_ik−1|+ε}"),
        ("a + b c / d e - f", "a+{bc|de}−f"),
        ("exp(−β |q − k|² / 2√d)", "exp(−{β|q−k|^2|2√d})"),
        ("g(s) = s + 1 where s >= 0, 1 / (1 - s) where s < 0", "g(s)=s+1 where s≥0,{1|1−s} where s<0"),
        ("relu(x)^{1 / (alpha - 1)}", "relu(x)^1/(α−1)"),
        ("1[s >= 0] e^s", "𝟙[s≥0]e^s"),
        ("start (end / start)^progress", "start({ end | start })^progress"),
        ("A^-1 kappa(M, K)", "A^−1κ(M,K)"),
        ("m^{-1/2}", "m^−1/2"),
        ("max_j s_ij", "max_js_ij"),
        ("(κ(M, M) + λ)⁻¹", "(κ(M,M)+λ)^−1"),
    ],
)
def test_a_formula_has_its_shape(formula: str, seen: str) -> None:
    assert shape(formula).replace("  ", " ") == seen


def test_conditions_and_remarks_stand_beside_their_formula() -> None:
    row = notation.typeset('w = f(s),        s = q . k\nv = g(s)    not causal, learned per head, see "x"')
    assert row.count('<div class="formula-row">') == 2
    first, second = row.split('<div class="formula-row">')[1:]
    assert first.count("<math") == 2
    assert second.count("<math") == 1
    assert "<span>not causal, learned per head, see &quot;x&quot;</span>" in second


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("w = f(s", "'(' is not closed"),
        ("w = f(s))", "')' closes nothing"),
        ("w = e^{s", "'{' is not closed"),
        ("w = a / ", "nothing stands below '/'"),
        ("w = |s", "'|' is not closed"),
        ("w = s_", "it ends too early"),
    ],
)
def test_brackets_that_do_not_match_are_refused(formula: str, message: str) -> None:
    with pytest.raises(notation.NotationError) as error:
        notation.display(formula)
    assert str(error.value) == f"the formula '{formula.strip()}' cannot be typeset: {message}"


@pytest.mark.parametrize("name", attention.names())
def test_the_formula_of_every_mechanism_is_typeset(name: str) -> None:
    mechanism = attention.get(name)
    opening, _ = notes.docstring(mechanism)
    blocks = [re.sub("^ {4}", "", block, flags=re.MULTILINE) for block in mechanisms.BLOCK.findall(opening)]
    assert any(map(notation.is_formula, blocks))
    for block in filter(notation.is_formula, blocks):
        for math in re.findall(r"<math.*?</math>", notation.typeset(block)):
            ElementTree.fromstring(math.replace("&nbsp;", " "))
    # A line of text, and a cell of a Markdown table.
    assert "|" not in notation.inline(mechanism.formula)
