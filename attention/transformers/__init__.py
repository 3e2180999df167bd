"""Mechanisms of this package in the models of Hugging Face transformers (an optional dependency).

    import attention.transformers
    attention.transformers.register()
    model = AutoModelForCausalLM.from_pretrained(path, attn_implementation="zoo:auto")
    model.set_attn_implementation("zoo:lssar?power=3")

`zoo:auto` is the model's own formula on the kernels of this package, `zoo:NAME` a mechanism in its place.
"""

from importlib.util import find_spec

if find_spec("transformers") is None:
    raise ModuleNotFoundError(
        "attention.transformers needs the package transformers: pip install 'transformers>=5.23'",
        name="transformers",
    )

from attention.transformers.calls import LayerCall, observed
from attention.transformers.names import AUTO, implementation, mechanism_of
from attention.transformers.seams import register

__all__ = ["AUTO", "LayerCall", "implementation", "mechanism_of", "observed", "register"]
