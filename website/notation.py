"""Formulas as the files of mechanisms write them, typeset as MathML, which a browser shows without a script or a font.

    w_ij = relu(e^{s_ij} - 1) / (sum_k |e^{s_ik} - 1| + epsilon),        s = q . k / sqrt(d)

- `_x` and `^x` take a word, a number or what stands in braces; `sum_k` and `max_j` carry their index below.
- A product is written side by side. What stands before `/` in a product is the numerator, what stands behind it the
  denominator; brackets around either of them go.
- Greek letters are spelt or not; a longer word is a function before a bracket, and text elsewhere.
- Two spaces or more part a formula from a condition or a remark beside it.
"""

import re
from html import escape

LETTERS = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "zeta": "ζ", "eta": "η", "theta": "θ",
    "kappa": "κ", "lambda": "λ", "mu": "μ", "phi": "φ", "rho": "ρ", "sigma": "σ", "tau": "τ", "psi": "ψ", "omega": "ω",
}  # fmt: skip
OPERATORS = {
    "=": "=", ">=": "≥", "<=": "≤", "≥": "≥", "≤": "≤", ">": ">", "<": "<", "!=": "≠",
    "+": "+", "-": "−", "−": "−", ",": ",", ";": ";", ":": ":", "|": "|",
}  # fmt: skip
"""What ends a product."""

CONNECTIVES = {"where", "for", "if", "else", "or", "and", "such", "that"}
"""Words that end one, too."""

FUNCTIONS = {"exp", "ln", "log", "cos", "max", "min"}
OPEN = {"(": ")", "[": "]", "{": "}"}
RAISED, LOWERED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "₀₁₂₃₄₅₆₇₈₉"
DIGITS = str.maketrans(RAISED + LOWERED, "0123456789−0123456789")

TOKEN = re.compile(
    rf"""\s*(?P<token>
        \d+(\.\d+)? | [A-Za-z]+('[a-z]+)? | "[^"]*" | >= | <= | != | [{LOWERED}]+ | [{RAISED}]+ | \S
    )""",
    re.VERBOSE,
)
COLUMN = re.compile(r"\s{2,}")
REMARK = re.compile(r"(?P<formula>.*=.*?), (?P<remark>[^=()]*[A-Za-z]{2,}(?:'[a-z]+)? [a-z]{2,}[^=()]*)")
"""A formula with words behind its last comma."""


class NotationError(ValueError):
    """A formula cannot be read."""


def is_formula(block: str) -> bool:
    """Whether every line of an indented block states an equation; others are tables of words."""
    return all("=" in line for line in block.splitlines() if line.strip())


def typeset(block: str) -> str:
    """A block of formulas as HTML on one line: a row per line, its conditions and remarks beside it.

    Raises:
        NotationError: brackets that do not match; the message shows the line.
    """
    rows = []
    for line in filter(str.strip, block.splitlines()):
        cells = (_cell(cell.rstrip(",")) for cell in COLUMN.split(line.strip()))
        rows.append(f'<div class="formula-row">{"".join(cells)}</div>')
    return f'<div class="formula">{"".join(rows)}</div>'


def _cell(text: str) -> str:
    if match := REMARK.fullmatch(text):
        return f"{display(match['formula'])}<span>{escape(match['remark'])}</span>"
    words = re.search(r"[A-Za-z]{2,}", text) and not re.search(r"[=_^]", text)
    return f"<span>{escape(text)}</span>" if words else display(text)


def display(formula: str) -> str:
    """One formula on a line of its own, as MathML."""
    return f'<math display="block">{_Reader(formula).read()}</math>'


def inline(formula: str) -> str:
    """One formula within a line of text, as MathML; its columns may stand on lines of their own."""
    parts = (_Reader(part).read() for part in COLUMN.split(formula.strip()))
    return " ".join(f'<math displaystyle="true">{part}</math>' for part in parts)


class _Reader:
    """Reads one formula from left to right: rows of products, products of factors, factors with their indices."""

    def __init__(self, formula: str) -> None:
        self.formula = formula
        self.tokens = [match["token"] for match in TOKEN.finditer(formula)]
        self.place = 0

    def read(self) -> str:
        content = self._row("")
        if self.place < len(self.tokens):
            raise self._error(f"'{self.tokens[self.place]}' closes nothing")
        return content

    def _row(self, closing: str, *, small: bool = False) -> str:
        """Products and what stands between them, up to a closing bracket, which is left."""
        parts = []
        while (token := self._next()) and token != closing and token not in ")]}":
            if token in OPERATORS and not (token == "|" and closing != "|"):
                parts.append(_operator(OPERATORS[token]))
                self.place += 1
            else:
                parts.append(self._product(closing, small=small))
        return "".join(parts)

    def _product(self, closing: str, *, small: bool) -> str:
        over: list[str] | None = None
        factors: list[str] = []
        while (token := self._next()) and token != closing and token not in ")]}":
            if token in CONNECTIVES and factors:
                break
            if token == "/":
                self.place += 1
                if small or not factors:
                    factors.append(_operator("/"))
                    continue
                over = factors if over is None else [_fraction(over, factors)]
                factors = []
            elif token in OPERATORS and not (token == "|" and closing != "|"):
                break
            else:
                factors.append(self._factor())
        if over is not None and not factors:
            raise self._error("nothing stands below '/'")
        return "".join(factors) if over is None else _fraction(over, factors)

    def _factor(self) -> str:
        token = self._take()
        if token in OPEN or token == "|":
            base = self._bracketed(token)
        elif token in ("sqrt", "√"):
            return f"<msqrt>{_bare(self._factor())}</msqrt>"
        elif token in ("sum", "Σ"):
            return self._with_indices('<mo largeop="true" movablelimits="true">∑</mo>', below=True)
        elif token[0].isdigit():
            indicator = token == "1" and self._next() == "["
            base = "<mn>𝟙</mn>" if indicator else f"<mn>{token}</mn>"
        elif token in (".", "·"):
            return _operator("⋅")
        elif token[0] == '"':
            return f"<mtext>{escape(token)}</mtext>"
        elif token[0].isalpha():
            base = self._word(token)
        else:
            base = _operator(token)
        return self._with_indices(base, below=token in ("max", "min"))

    def _word(self, word: str) -> str:
        if word in LETTERS or len(word) == 1:
            return f"<mi>{LETTERS.get(word, word)}</mi>"
        called = self._next() in ("(", "_", "^")
        if word in FUNCTIONS or called:
            gap = "" if self._next() == "(" else '<mspace width="0.17em"/>'
            return f"<mi>{word}</mi>{gap if not called else ''}"
        behind = self.place > 1 and not _is_text(self.tokens[self.place - 2])
        return f"<mtext>{'&nbsp;' if behind else ''}{word}{'&nbsp;' if self._next() else ''}</mtext>"

    def _bracketed(self, opening: str) -> str:
        closing = OPEN.get(opening, "|")
        content = self._row(closing)
        if self._next() != closing:
            raise self._error(f"'{opening}' is not closed")
        self.place += 1
        left, right = (_entity(sign) for sign in (opening, closing))
        return f'<mrow><mo form="prefix">{left}</mo>{content}<mo form="postfix">{right}</mo></mrow>'

    def _with_indices(self, base: str, *, below: bool = False) -> str:
        low = high = ""
        while token := self._next():
            if token == "_" and not low:
                low = self._index()
            elif token == "^" and not high:
                high = self._index()
            elif token[0] in LOWERED:
                low = f"<mn>{self._take().translate(DIGITS)}</mn>"
            elif token[0] in RAISED:
                high = f"<mn>{self._take().translate(DIGITS)}</mn>"
            elif token in "′'":
                self.place += 1
                high = _operator("′")
            else:
                break
        tag = {(True, True): "msubsup", (True, False): "munder" if below else "msub", (False, True): "msup"}
        wrapped = tag.get((bool(low), bool(high)))
        return f"<{wrapped}><mrow>{base}</mrow>{low}{high}</{wrapped}>" if wrapped else base

    def _index(self) -> str:
        """What follows `_` or `^`."""
        self.place += 1
        token = self._take()
        if token == "{":
            content = self._row("}", small=True)
            if self._next() != "}":
                raise self._error("'{' is not closed")
            self.place += 1
        elif token in "-−":
            content = f"{_operator('−')}<mn>{self._take()}</mn>"
        elif token in LETTERS or not token.isalpha():
            content = f"<mi>{LETTERS.get(token, token)}</mi>"
        elif len(token) <= 2:
            content = "".join(f"<mi>{letter}</mi>" for letter in token)
        else:
            content = f"<mi>{token}</mi>"
        return f"<mrow>{content}</mrow>"

    def _next(self) -> str:
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def _take(self) -> str:
        if not self._next():
            raise self._error("it ends too early")
        self.place += 1
        return self.tokens[self.place - 1]

    def _error(self, what: str) -> NotationError:
        return NotationError(f"the formula '{self.formula.strip()}' cannot be typeset: {what}")


def _is_text(token: str) -> bool:
    return token.isalpha() and len(token) > 1 and token not in LETTERS and token not in FUNCTIONS


def _operator(sign: str) -> str:
    return f"<mo>{_entity(sign)}</mo>"


def _entity(sign: str) -> str:
    """A sign that neither HTML nor a Markdown table takes for its own."""
    return escape(sign).replace("|", "&#124;").replace("*", "&#42;").replace("_", "&#95;")


def _fraction(over: list[str], below: list[str]) -> str:
    numerator, denominator = (
        _bare("".join(part)) if len(part) == 1 else "".join(part) for part in (over, below)
    )
    return f"<mfrac><mrow>{numerator}</mrow><mrow>{denominator}</mrow></mfrac>"


_BRACKETS = re.compile(r'<mrow><mo form="prefix">\(</mo>(.*)<mo form="postfix">\)</mo></mrow>')


def _bare(group: str) -> str:
    """A factor without the round brackets that are all of it."""
    match = _BRACKETS.fullmatch(group)
    return match[1] if match else group
