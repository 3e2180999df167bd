"""Whatever a caller gives, the answer is right or an AttentionError of one line."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import attention
from attention import AttentionError, Phase, RecurrentState, attend, get
from attention.core.inputs import example
from attention.kernels import dispatch
from attention.kernels.kernel import obstacle
from tests.attention.conftest import REPRESENTATIVES

Q = torch.randn(1, 5, 2, 4, generator=torch.Generator().manual_seed(0))
SEED = torch.tensor(3)


def refused(call, words):
    with pytest.raises(AttentionError) as caught:
        call()
    message = str(caught.value)
    assert words in message
    assert "\n" not in message
    assert len(message) < 300


@pytest.mark.parametrize("window", [2.5, math.nan, math.inf, "3", True, 0, -1, [1], torch.tensor(2)], ids=str)
def test_a_window_is_a_whole_number_of_keys(window):
    refused(lambda: attend(Q, Q, Q, "softmax", window=window), "window must be")
    refused(lambda: attention.row_stats(Q, Q, "softmax", window=window), "window must be")


@pytest.mark.parametrize("window", [10**20, 2**63, 10**400, np.int64(7)], ids=lambda x: str(x)[:9])
@pytest.mark.parametrize("kernel", ["cpu", "tiled", "sdpa", "dense"])
def test_a_window_beyond_the_text_is_no_window(window, kernel):
    torch.testing.assert_close(
        attend(Q, Q, Q, "softmax", window=window, kernel=kernel), attend(Q, Q, Q, "softmax", kernel="dense")
    )


@pytest.mark.parametrize("scale", [math.nan, math.inf, 1e39, 10**400, "1", True, 1j, torch.tensor(1.0)])
def test_a_scale_is_a_number_that_float32_holds(scale):
    refused(lambda: attend(Q, Q, Q, "softmax", scale=scale), "scale must be a finite number")


def test_a_scale_that_a_temperature_makes_infinite_is_refused():
    refused(lambda: attend(Q, Q, Q, get("gumbel_softmax", temperature=1e-300)), "which float32 cannot hold")


@pytest.mark.parametrize(
    ("documents", "words"),
    [
        ([[0] * 5], "documents must be a tensor"),
        (np.zeros((1, 5), int), "documents must be a tensor"),
        (torch.zeros(1, 5), "documents must be integers"),
        (torch.zeros(1, 5, dtype=torch.bool), "documents must be integers"),
        (torch.zeros(1, 5, dtype=torch.complex64), "documents must be integers"),
        (torch.zeros(5, dtype=torch.long), "documents must be integers [batch, 5]"),
        (torch.zeros(2, 5, dtype=torch.long), "documents hold 2 sequences"),
        (torch.zeros(1, 5, dtype=torch.long, device="meta"), "documents is on meta, the query on cpu"),
        (torch.zeros(1, 5, dtype=torch.long).to_sparse(), "documents must be a dense tensor"),
    ],
)
def test_documents_are_integers_beside_the_tensors(documents, words):
    refused(lambda: attend(Q, Q, Q, "softmax", documents=documents), words)
    state = RecurrentState()
    with torch.no_grad():
        refused(lambda: attend(Q, Q, Q, "simrf", documents=documents, state=state), words)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.zeros(7), "must be floating [2]"),
        (torch.zeros(()), "must be floating [2], got torch.float32 []"),
        (torch.zeros(1), "must be floating [2], got torch.float32 [1]"),
        (torch.zeros(2).long(), "got torch.int64 [2]"),
        (torch.zeros(2, device="meta"), "is on meta, the query on cpu"),
        ([0.1, 0.1], "must be a tensor"),
        (None, "must be a tensor"),
    ],
)
def test_parameters_have_their_shape_type_and_device(value, words):
    refused(lambda: attend(Q, Q, Q, "ssmax", params={"length_scale": value}), words)
    refused(lambda: attention.weights(Q, Q, "ssmax", params={"length_scale": value}), words)


@pytest.mark.parametrize("params", [[1], "abc", 5, {5: torch.zeros(2)}], ids=str)
def test_parameters_are_named_tensors(params):
    refused(lambda: attend(Q, Q, Q, "ssmax", params=params), "param")


@pytest.mark.parametrize(
    "phase",
    [
        None,
        5,
        Phase,
        Phase(1, 0.5, SEED),
        Phase(True, 2.0, SEED),
        Phase(True, math.nan, SEED),
        Phase(True, "0", SEED),
        Phase(True, 0.5, 3),
        Phase(True, 0.5, torch.zeros(1, dtype=torch.long)),
        Phase(True, 0.5, torch.tensor(0.5)),
        Phase(True, 0.5, SEED, -1),
        Phase(True, 0.5, SEED, 2.5),
        Phase(True, 0.5, SEED, True),
        Phase(True, 0.5, SEED, 10**20),
        Phase(True, 0.5, SEED, torch.zeros(2, dtype=torch.long)),
        Phase(True, 0.5, SEED, torch.tensor(0.5)),
        Phase(True, 0.5, torch.zeros((), dtype=torch.long, device="meta")),
    ],
    ids=str,
)
def test_a_moment_is_checked(phase):
    refused(lambda: attend(Q, Q, Q, "gumbel_softmax", phase=phase), "phase")


@pytest.mark.parametrize("wrong", [5, None, ["softmax"], b"softmax", {}, type(get("softmax"))], ids=str)
def test_names_are_words(wrong):
    refused(lambda: attend(Q, Q, Q, wrong), "mechanism must be a name")
    refused(lambda: get(wrong), "mechanism must be a name")
    refused(lambda: attend(Q, Q, Q, "softmax", kernel=wrong), "kernel must be a kernel's name")
    refused(lambda: attend(Q, Q, Q, "softmax", causal=wrong), "causal must be True or False")


@pytest.mark.parametrize(
    "wrong", [5, [0.5], ["0"], "01", [True], [[0]], [10**30], slice("a"), slice(0, 5, 0)]
)
def test_rows_and_heads_are_whole_numbers(wrong):
    refused(lambda: attention.weights(Q, Q, "softmax", rows=wrong), "row")
    refused(lambda: attention.weights(Q, Q, "softmax", heads=wrong), "head")


def test_rows_may_be_any_sequence():
    whole = attention.weights(Q, Q, "softmax")
    for rows in ([1, -1], torch.tensor([1, 4]), np.array([1, 4]), range(1, 5, 3), slice(1, 5, 3)):
        assert torch.equal(attention.weights(Q, Q, "softmax", rows=rows), whole[:, :, [1, 4]])
    assert torch.equal(attention.weights(Q, Q, "softmax", rows=slice(None, None, -1)), whole.flip(2))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda x: None, "must be a tensor"),
        (lambda x: x.numpy(), "must be a tensor"),
        (lambda x: x.tolist(), "must be a tensor"),
        (lambda x: x.to_sparse(), "must be a dense tensor, got a sparse_coo one"),
        (lambda x: x.to_mkldnn(), "must be a dense tensor"),
        (
            lambda x: torch.nested.nested_tensor(list(x), layout=torch.jagged),
            "must be a dense tensor, got a nested",
        ),
        (lambda x: torch.quantize_per_tensor(x, 1.0, 0, torch.qint8), "must be a floating type"),
        (lambda x: x.cfloat(), "must be a floating type"),
        (lambda x: x.to(torch.float8_e4m3fn), "must be a floating type"),
        (lambda x: x.bool(), "must be a floating type"),
        (lambda x: x[:, :, :0], "head"),
        (lambda x: x[..., :0], ""),
        (lambda x: x[0], "must be [batch, length, heads, head_dim]"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*quantize_per_tensor:UserWarning")
@pytest.mark.filterwarnings("ignore:.*deprecated:UserWarning")
def test_tensors_are_plain_numbers(make, words):
    wrong = make(Q)
    for call in (
        lambda: attend(wrong, Q, Q, "softmax"),
        lambda: attend(Q, wrong, Q, "softmax"),
        lambda: attention.weights(wrong, wrong, "softmax"),
        lambda: attention.row_stats(wrong, wrong, "softmax"),
        lambda: attention.entropy(wrong, wrong),
    ):
        refused(call, words)


@pytest.mark.parametrize("name", ["query", "key", "value"])
def test_tensors_share_a_device(name):
    tensors = dict.fromkeys(("query", "key", "value"), Q) | {name: Q.to("meta")}
    refused(lambda: attend(**tensors, mechanism="softmax"), "give all on one device")


@pytest.mark.parametrize("name", attention.names())
def test_tensors_without_data_give_shapes_and_gradients(name):
    query = torch.randn(2, 5, 4, 4, device="meta", requires_grad=True)
    key, value = (torch.randn(2, 7, 2, width, device="meta", requires_grad=True) for width in (4, 3))
    documents = torch.zeros(2, 7, dtype=torch.long, device="meta")
    for mask in ({}, {"documents": documents}):
        out = attend(query, key, value, name, **mask)
        assert (out.shape, out.device.type, out.dtype) == ((2, 5, 4, 3), "meta", torch.float32)
        gradients = torch.autograd.grad(out.sum(), (query, key, value))
        assert [x.shape for x in gradients] == [x.shape for x in (query, key, value)]
        assert attention.weights(query, key, name, **mask).shape == (2, 4, 5, 7)
        assert attention.row_stats(query, key, name, **mask).key_mass.shape == (2, 4, 7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "sizes", [(0, 5, 5, 4), (2, 0, 5, 4), (2, 0, 0, 4), (0, 0, 0, 0), (2, 5, 5, 0)], ids=str
)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in REPRESENTATIVES else pytest.mark.slow)
        for name in attention.names()
    ],
)
def test_nothing_to_compute_is_a_right_answer(name, sizes, dtype):
    """No batch, no queries, no width of values: an empty output whose gradients are zero, on every kernel."""
    batch, queries, keys, width = sizes
    mechanism = get(name)
    tensors = [
        torch.randn(*shape, dtype=dtype, requires_grad=True)
        for shape in ((batch, queries, 4, 8), (batch, keys, 2, 8), (batch, keys, 2, width))
    ]
    params = {key: value.requires_grad_() for key, value in mechanism.initial_values(4, 8).items()}
    documents = torch.zeros(batch, keys, dtype=torch.long)
    leaves = [*tensors, *params.values()]
    served = 0
    for kernel in dispatch.KERNELS:
        for mask in ({}, {"documents": documents}):
            if obstacle(dispatch.KERNELS[kernel], example(mechanism, dtype=dtype, head_dim=8)):
                continue
            out = attend(*tensors, mechanism, params=params, kernel=kernel, **mask)
            served += 1
            assert out.shape == (batch, queries, 4, width)
            gradients = torch.autograd.grad(out.sum(), leaves)
            assert [x.shape for x in gradients] == [x.shape for x in leaves]
            assert not any(x.any() for x in gradients)
    assert served >= 4
    query, key, _ = tensors
    assert attention.weights(query, key, mechanism).shape == (batch, 4, queries, keys)
    if not batch * queries:
        stats = attention.row_stats(query, key, mechanism, documents=documents)
        assert stats.mass.shape == (batch, 4, queries)
        assert not stats.key_mass.any()
        assert not stats.audience.any()


def test_the_entropy_of_nothing_is_empty():
    for query, key in ((Q[:0], Q[:0]), (Q[:, :0], Q), (Q.to("meta"), Q.to("meta"))):
        found = attention.entropy(query.requires_grad_(), key)
        assert found.shape == (*query.shape[:2], 2)
        assert torch.autograd.grad(found.sum(), query)[0].shape == query.shape


OPTIONS = [
    ("lssar", "power", "abc"),
    ("lssar", "power", math.nan),
    ("lssar", "power", math.inf),
    ("lssar", "power", True),
    ("lssar", "power", 10**400),
    ("lssar", "power", 10**20),
    ("lssar", "epsilon", None),
    ("lssar", "epsilon", -1),
    ("lssa", "epsilon", -1e-8),
    ("softpick", "epsilon", -1),
    ("scalable_softpick", "epsilon", -1),
    ("relu_softmax", "epsilon", -1),
    ("weighted_softpick", "epsilon", -1),
    ("swat", "bias", math.nan),
    ("swat", "window", 1.5),
    ("swat", "window", "512"),
    ("swat", "slopes", 3),
    ("swat", "slopes", ["balanced"]),
    ("simrf", "seed", 10**20),
    ("simrf", "chunk", 16.0),
    ("simrf", "features", 2**40),
    ("soft_lowrank", "summaries", 2**40),
    ("gaussian", "normalise", 1),
    ("gaussian", "normalise", "false"),
    ("sa_softmax", "version", "2"),
    ("sigmoid", "length", math.inf),
    ("gumbel_softmax", "temperature", torch.tensor(1.0)),
]


@pytest.mark.parametrize(("name", "option", "value"), OPTIONS, ids=lambda x: str(x)[:12])
def test_an_option_has_the_type_of_its_field(name, option, value):
    refused(lambda: get(name, **{option: value}), option)


def test_whole_numbers_serve_as_numbers():
    for name, option in (("lssar", "power"), ("swat", "bias"), ("lssar", "epsilon")):
        whole, real = (attend(Q, Q, Q, get(name, **{option: x}), kernel="tiled") for x in (2, 2.0))
        torch.testing.assert_close(whole, real)


@pytest.mark.parametrize(
    ("name", "option", "number"),
    [
        ("lssar", "epsilon", np.float64(1e-8)),
        ("lssar", "power", np.float32(2)),
        ("simrf", "seed", np.int64(3)),
    ],
)
def test_numbers_of_numpy_are_kept_as_those_of_python(name, option, number):
    made = get(name, **{option: number})
    assert repr(made) == repr(get(name, **{option: number.item()}))


@pytest.mark.parametrize("n_head", [0, -1, 2.5, True, "4"])
def test_alibi_has_slopes_for_a_number_of_heads(n_head):
    refused(lambda: attention.alibi(n_head), "n_head must be a whole number from 1 on")


@pytest.mark.parametrize("kernel", ["chunked", "dense"])
@pytest.mark.parametrize("mechanism", ["simrf", "soft_lowrank"])
def test_a_chunk_beyond_the_text_costs_nothing(mechanism, kernel):
    whole, huge = get(mechanism, chunk=64), get(mechanism, chunk=2**40)
    torch.testing.assert_close(attend(Q, Q, Q, huge, kernel=kernel), attend(Q, Q, Q, whole, kernel="dense"))
    state = RecurrentState()
    with torch.no_grad():
        parts = [attend(x, x, x, huge, state=state) for x in (Q[:, :3], Q[:, 3:3], Q[:, 3:])]
    torch.testing.assert_close(torch.cat(parts, 1), attend(Q, Q, Q, whole, kernel="dense"))


def test_a_refused_call_leaves_a_memory_as_it_was():
    state = RecurrentState()
    documents = torch.zeros(1, 3, dtype=torch.long)
    with torch.no_grad():
        attend(Q[:, :3], Q[:, :3], Q[:, :3], "simrf", documents=documents, state=state)
        before = vars(state.copy())
        part, more = Q[:, 3:], documents[:, :2] + 1
        for call, words in (
            (lambda: attend(part, part, part, "simrf", state=state), "documents for every call"),
            (lambda: attend(part, part, part, "simrf", documents=more, window=3, state=state), "no window"),
            (lambda: attend(part, part, part, "simrf", documents=more, scale=-1.0, state=state), "scale"),
            (
                lambda: attend(part, part, part, get("simrf", seed=1), documents=more, state=state),
                "was begun by",
            ),
            (lambda: attend(*[part.double()] * 3, "simrf", documents=more, state=state), "torch.float64"),
            (lambda: attend(*[part[..., :3]] * 3, "simrf", documents=more, state=state), "holds a key of"),
            (
                lambda: attend(part, part, part, "simrf", documents=more, state=state, kernel="x"),
                "unknown kernel",
            ),
            (lambda: attend(part, part, part, "simrf", documents=more, state={}), "attention.RecurrentState"),
        ):
            refused(call, words)
            assert vars(state.copy()) == before
        out = attend(part, part, part, "simrf", documents=more, state=state)
    ids = torch.cat([documents, more], 1)
    torch.testing.assert_close(out, attend(Q, Q, Q, "simrf", documents=ids, kernel="dense")[:, 3:])


def test_documents_of_bytes_go_through_a_memory():
    state, documents = RecurrentState(), torch.tensor([[0, 0, 1, 1, 1]], dtype=torch.uint8)
    with torch.no_grad():
        parts = [
            attend(*[Q[:, part]] * 3, "simrf", documents=documents[:, part], state=state)
            for part in (slice(0, 2), slice(2, 5))
        ]
    whole = attend(Q, Q, Q, "simrf", documents=documents, kernel="dense")
    torch.testing.assert_close(torch.cat(parts, 1), whole)


@pytest.mark.parametrize("kernel", ["cpu", "tiled", "dense"])
def test_odd_layouts_are_read_as_they_are(kernel):
    generator = torch.Generator().manual_seed(1)
    conjugate = torch.view_as_complex(torch.randn(1, 5, 2, 4, 2, generator=generator)).conj().imag
    for odd in (
        Q[:, :1, :1].expand(1, 5, 2, 4),
        Q[..., :1].expand(1, 5, 2, 4),
        Q.transpose(1, 2).contiguous().transpose(1, 2),
        torch.randn(1, 5, 2, 8, generator=generator)[..., ::2],
        conjugate,
        torch.nn.Parameter(Q),
    ):
        plain = odd.detach().clone().contiguous().double()
        torch.testing.assert_close(
            attend(odd, odd, odd, "softpick", kernel=kernel).double(),
            attend(plain, plain, plain, "softpick", kernel="dense"),
            rtol=1e-5,
            atol=1e-6,
        )


@pytest.mark.slow
def test_the_checks_are_traced_away():
    """One graph, and no new one for another scale of the phase's progress than tracing without checks makes."""
    documents = torch.tensor([[0, 0, 0, 1, 1]])

    @torch.compile(backend="eager", fullgraph=True)
    def call(query, phase):
        return attend(query, query, query, "softpick", window=3, documents=documents, scale=0.5, phase=phase)

    plain = attend(Q, Q, Q, "softpick", window=3, documents=documents, scale=0.5, kernel="dense")
    phase = Phase(True, 0.5, SEED)
    torch.testing.assert_close(call(Q, phase), plain)
    torch.testing.assert_close(call(Q, replace(phase, progress=0.25)), plain)
    torch.testing.assert_close(
        torch.compile(
            lambda x: attend(x, x, x, "ssmax", params={"length_scale": torch.ones(2)}),
            backend="eager",
            fullgraph=True,
        )(Q),
        attend(Q, Q, Q, "ssmax", params={"length_scale": torch.ones(2)}, kernel="dense"),
    )


def test_an_exported_call_keeps_working():
    class Call(torch.nn.Module):
        def forward(self, query):
            return attend(query, query, query, "softpick")

    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(Call(), (Q.repeat(2, 1, 1, 1),), dynamic_shapes=({0: batch},)).module()
    torch.testing.assert_close(program(Q.repeat(3, 1, 1, 1)), attend(*[Q.repeat(3, 1, 1, 1)] * 3, "softpick"))


def test_long_names_are_cut():
    for call in (
        lambda: get("x" * 5000),
        lambda: get("lssar", **{"x" * 5000: 1}),
        lambda: attend(Q, Q, Q, "softmax", kernel="x" * 5000),
        lambda: attend(Q, Q, Q, "ssmax", params={"x" * 5000: Q}),
    ):
        with pytest.raises(AttentionError, match=r"'x{57}\.\.\.'"):
            call()
