"""Scalable softpick: softpick of scores that grow with the logarithm of the length.

Source: Zuhri, Fuadi, Aji, arXiv 2504.20966 v4, appendix C.

    w_ij = softpick_j(c_h ln(n_i) s_ij),        s = q . k / sqrt(d),        c_h learned

Paper: meant to help softpick, in which every irrelevant key adds up to 1 to the denominator, with length. A negative
result: 25.1 against softpick's 24.4 in Wikitext perplexity at 340M parameters.

Published code: not in the repository that was read. The initial value of c_h is not stated anywhere.

Here: softpick.py's formula and epsilon on ssmax.py's scores; c_h starts at 0.168 as in ssmax.

Beware: what softpick.py says. The first row has ln 1 = 0, so its only score is 0 and its output 0, always.
"""

from dataclasses import dataclass
from typing import ClassVar

from attention.core.registry import register
from attention.mechanisms.softpick import Softpick
from attention.mechanisms.ssmax import LengthScaled


@register
@dataclass(frozen=True)
class ScalableSoftpick(LengthScaled, Softpick):
    """softpick(c ln(n) s), c learned per head."""

    name: ClassVar[str] = "scalable_softpick"
    formula: ClassVar[str] = "relu(exp(s′) − 1) / Σ |exp(s′) − 1|,  s′ = c · ln n · s,  c learned per head"
    paper: ClassVar[str] = "Zuhri et al. 2025, arXiv 2504.20966 v4, appendix C"
