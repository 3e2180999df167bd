"""Softmax kernels that others wrote: PyTorch's scaled_dot_product_attention and the flash-attn package.

Both serve every mechanism whose traced formula is that of softmax and whose scores have no biases. `sdpa` is exercised
by the tests on whatever device they run. `flash` needs a GPU and has never been run by this project: only the arguments
of its calls are tested.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from attention.core.formula import Function, Step, formula_of, untraceable
from attention.core.inputs import AttentionInputs
from attention.core.machine import version_of
from attention.core.mechanism import Mechanism
from attention.core.modes import TRANSFORMED, first_order
from attention.forms.composite import Mixture
from attention.kernels.kernel import Kernel
from attention.kernels.proof import sources

SOFTMAX = (
    Function("terms", ("score", "pivot"), (Step("sub", (0, 1)), Step("exp", (2,))), (3, 3)),
    Function("derivatives", ("score", "pivot", "numerator"), (), (2, 2)),
    Function("offset", ("pivot",), (), (0.0,)),
)
"""The functions of softmax: e^{score - pivot} for both terms, its own derivative, nothing added to the denominator."""

FLASH_DTYPES = (torch.float16, torch.bfloat16)
FLASH_HEAD_DIM = 256


def sdpa_attend(inputs: AttentionInputs) -> Tensor:
    """Outputs [B, T, H, Dv] by torch's fastest softmax kernel for the device."""
    scores, visible = inputs.scores, inputs.visible
    query, key, value = first_order("kernel 'sdpa'", scores.query, scores.key, inputs.value)
    queries = scores.query.shape[1]
    unlimited = visible.window is None and visible.documents is None and not visible.chosen
    sees_all = unlimited and (not visible.causal or queries == 1)
    triangular = _settled(unlimited and not sees_all and queries == visible.keys)
    mask = None
    if not (sees_all or triangular):
        # A row that sees nothing would be 0/0 in some of torch's kernels: it looks at everything and is zeroed below.
        mask = (visible.mask() | (visible.count == 0)[..., None])[:, None]
    out = scaled_dot_product_attention(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        attn_mask=mask,
        is_causal=triangular,
        scale=scores.scale,
        enable_gqa=_settled(scores.key.shape[2] != scores.query.shape[2]),
    ).transpose(1, 2)
    if visible.documents is not None or visible.chosen:
        out = out.masked_fill((visible.count == 0)[..., None, None], 0)
    return out


def flash_attend(inputs: AttentionInputs) -> Tensor:
    """Outputs [B, T, H, Dv] by flash-attn; packed documents go through its kernel for sequences of varying length."""
    from flash_attn import flash_attn_func, flash_attn_varlen_func

    scores, visible = inputs.scores, inputs.visible
    query, key, value = first_order("kernel 'flash'", scores.query, scores.key, inputs.value)
    left = -1 if visible.window is None else visible.window - 1
    masks = {"causal": visible.causal, "window_size": (left, 0 if visible.causal else left)}
    if visible.documents is None:
        return flash_attn_func(query, key, value, softmax_scale=scores.scale, **masks)
    edges, longest = document_edges(visible.documents)
    out = flash_attn_varlen_func(
        query.flatten(0, 1),
        key.flatten(0, 1),
        value.flatten(0, 1),
        cu_seqlens_q=edges,
        cu_seqlens_k=edges,
        max_seqlen_q=longest,
        max_seqlen_k=longest,
        softmax_scale=scores.scale,
        **masks,
    )
    return out.view_as(scores.query).masked_fill((visible.documents < 0)[..., None, None], 0)


def _settled(comparison: bool) -> bool:
    """A comparison as a truth value: of sizes that a compiler leaves open it is a symbol, which SDPA does not take."""
    if comparison:  # noqa: SIM103
        return True
    return False


def document_edges(documents: Tensor) -> tuple[Tensor, int]:
    """Return the begin of each run of equal ids in the flattened [B, S], its length, int32, and the longest length."""
    starts = torch.ones_like(documents, dtype=torch.bool)
    starts[:, 1:] = documents[:, 1:] != documents[:, :-1]
    edges = pad(starts.flatten().nonzero()[:, 0], (0, 1), value=documents.numel())
    return edges.int(), int(edges.diff().max())


def _not_softmax(inputs: AttentionInputs) -> str | None:
    scores = inputs.scores
    reason = untraceable(inputs.mechanism)
    if reason is not None:
        return reason
    if not is_softmax(inputs.mechanism):
        return "it computes softmax only"
    if not (scores.query_bias is None and scores.key_bias is None and scores.slope is None):
        return "it takes no biases of scores"
    if scores.noise is not None:
        return "it adds no noise to scores"
    return None


@torch.compiler.assume_constant_result
def is_softmax(mechanism: Mechanism) -> bool:
    """Whether weights are softmax, of whatever scores."""
    return _has_functions_of_softmax(mechanism)


@cache
def _has_functions_of_softmax(mechanism: Mechanism) -> bool:
    return formula_of(mechanism).functions == SOFTMAX


@torch.compiler.assume_constant_result
def _has_flash() -> bool:
    return find_spec("flash_attn") is not None


class Sdpa(Kernel):
    """PyTorch's scaled_dot_product_attention."""

    name = "sdpa"
    summary = "torch's softmax; a window or documents cost a mask of T x S booleans"
    rank = 70
    modes = frozenset({TRANSFORMED})

    def refuses(self, inputs: AttentionInputs) -> str | None:
        """Whatever is not softmax of scaled dot products: larger scores lose more digits in it than in the formula."""
        reason = _not_softmax(inputs)
        if reason is None and type(inputs.mechanism).scores is not Mechanism.scores:
            return "it is too coarse for scores other than the scaled dot product"
        return reason

    def run(self, inputs: AttentionInputs, *, with_mass: bool = False) -> Mixture:
        """Outputs."""
        return Mixture(sdpa_attend(inputs), None)


class Flash(Kernel):
    """The flash-attn package."""

    name = "flash"
    summary = "flash-attn's softmax on CUDA in half precision; never run here"
    rank = 10

    def refuses(self, inputs: AttentionInputs) -> str | None:
        """Also whatever flash-attn has no kernel for, and a machine without it."""
        query, visible = inputs.scores.query, inputs.visible
        reason = _not_softmax(inputs)
        if reason is not None:
            return reason
        if query.device.type != "cuda":
            return f"it runs on CUDA, not on {query.device.type}"
        if query.dtype not in FLASH_DTYPES:
            return f"it takes float16 and bfloat16, not {str(query.dtype).removeprefix('torch.')}"
        if max(query.shape[-1], inputs.value.shape[-1]) > FLASH_HEAD_DIM:
            return f"it takes head dimensions up to {FLASH_HEAD_DIM}"
        if query.shape[-1] != inputs.value.shape[-1]:
            return "it takes values as wide as keys only"
        if visible.chosen:
            return "it takes documents, not intervals"
        if visible.documents is not None and query.shape[1] != visible.keys:
            return "it takes documents without a cache only"
        return None if _has_flash() else "flash-attn is not installed: pip install -e '.[flash]'"

    def code(self, mechanism: Mechanism) -> str:
        """The package's version, and this file."""
        return f"flash-attn {version_of('flash-attn')}, {sources(Path(__file__))}"

    def run(self, inputs: AttentionInputs, *, with_mass: bool = False) -> Mixture:
        """Outputs."""
        return Mixture(flash_attend(inputs), None)


SDPA, FLASH = Sdpa(), Flash()
