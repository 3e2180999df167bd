"""The entropy of softmax rows, streamed and differentiable.

    H_i = -sum_j p_ij ln p_ij = ln Z_i - sum_j p_ij s_ij

The mean score is the query's product with the mean key, which is softmax attention with keys in place of values, so
that one mixing gives both terms and nothing of size T x T is needed.
"""

from typing import Unpack

from torch import Tensor

from attention.core.arguments import exactly
from attention.core.call import CallOptions, CallSpec
from attention.core.errors import AttentionError
from attention.core.inputs import prepare
from attention.core.mechanism import Mechanism
from attention.core.registry import get


def entropy(
    query: Tensor, key: Tensor, mechanism: str | Mechanism = "softmax", **options: Unpack[CallOptions]
) -> Tensor:
    """The entropy of each row in nats, float32 at least, [B, T, H], with gradients; 0 where a row sees nothing.

    Arguments as for `attend`; the fastest kernel that gives masses is taken.

    Raises:
        AttentionError: as for `attend`, or the mechanism is not softmax of scores without biases.
    """
    from attention.kernels import dispatch
    from attention.kernels.kernel import widened
    from attention.kernels.vendor import is_softmax

    mechanism = get(mechanism)
    with exactly(query):
        inputs = widened(prepare(query, key, key, mechanism, CallSpec(**options)))
        scores = inputs.scores
        biased = any(x is not None for x in (scores.query_bias, scores.key_bias, scores.slope, scores.noise))
        if biased or not is_softmax(inputs.mechanism):
            raise AttentionError(
                f"{mechanism.name} is not softmax of scores without biases, whose entropy alone has a gradient; "
                "row_stats has the entropy of any mechanism without one"
            )
        if inputs.vacant:
            return inputs.blank().sum(-1)
        kernels = (kernel for kernel in dispatch.KERNELS.values() if kernel.gives_mass)
        kernel = next(kernel for kernel in kernels if dispatch.serves(kernel, inputs, aloud=True))
        mean_key, log_mass = kernel.run(inputs, with_mass=True)
        assert log_mass is not None
        return log_mass - scores.scale * (scores.query * mean_key).sum(-1)
