"""The entropy of softmax rows, streamed and differentiable.

    H_i = -sum_j p_ij ln p_ij = ln Z_i - sum_j p_ij s_ij

The mean score is the query's product with the mean key, which is softmax attention with keys in place of values, so
that one mixing gives both terms and nothing of size T x T is needed.
"""

from collections.abc import Mapping

from torch import Tensor

from attention.arguments import exactly
from attention.errors import AttentionError
from attention.kernels import dispatch
from attention.kernels.kernel import widened
from attention.kernels.problem import pose
from attention.kernels.vendor import is_softmax
from attention.mechanism import Mechanism, Mixture, Scores
from attention.registry import get


def row_entropy(scores: Scores, mean_key: Mixture) -> Tensor:
    """H [B, T, H] in nats of scores without biases, from their mixing of keys."""
    assert mean_key.log_mass is not None
    return mean_key.log_mass - scores.scale * (scores.query * mean_key.out).sum(-1)


def entropy(
    query: Tensor,
    key: Tensor,
    mechanism: str | Mechanism = "softmax",
    *,
    causal: bool = True,
    window: int | None = None,
    documents: Tensor | None = None,
    scale: float | None = None,
    params: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """The entropy of each row in nats, float32 at least, [B, T, H], with gradients; 0 where a row sees nothing.

    Arguments as for `attend`; the fastest kernel that gives masses is taken.

    Raises:
        AttentionError: as for `attend`, or the mechanism is not softmax of scores without biases.
    """
    mechanism = get(mechanism)
    with exactly(query):
        problem = widened(pose(query, key, key, mechanism, causal, window, documents, scale, params))
        scores = problem.scores
        biased = any(x is not None for x in (scores.query_bias, scores.key_bias, scores.slope, scores.noise))
        if biased or not is_softmax(mechanism):
            raise AttentionError(
                f"{mechanism.name} is not softmax of scores without biases, whose entropy alone has a gradient; "
                "row_stats has the entropy of any mechanism without one"
            )
        if problem.vacant:
            return problem.blank().sum(-1)
        run = next(
            kernel.run_with_mass
            for kernel in dispatch.KERNELS.values()
            if kernel.run_with_mass is not None and kernel.refuses(problem) is None
        )
        return row_entropy(scores, Mixture(*run(problem)))
