"""n is the number of keys a query sees, in every mechanism: neither neighbours in a row nor padding change outputs."""

import pytest
import torch

from attention import get, names
from attention.forms.chunked import Chunked
from models import left_pad

MECHANISMS = [(name, options) for name in names() for options in ({}, *get(name).variants)]
NAMES = [f"{name} {options}" if options else name for name, options in MECHANISMS]

pytestmark = [pytest.mark.slow, pytest.mark.parametrize(("name", "options"), MECHANISMS, ids=NAMES)]


def attending(build, name, options):
    mechanism = get(name, **options)
    # Random features and fixed landmarks are not functions of distance alone, which is all that rotations keep.
    position = "none" if mechanism.form is Chunked else "rope"
    return build(attention=name, attention_options={name: options}, position=position)


@torch.no_grad()
def test_packed_documents_give_what_they_give_alone(build, tokens, name, options):
    model = attending(build, name, options)
    sizes = [1, 2, 3, 4, 13, 17]
    documents = torch.repeat_interleave(torch.arange(6), torch.tensor(sizes)).expand(2, -1)
    packed = model(tokens, documents=documents)
    for part, output in zip(tokens.split(sizes, 1), packed.split(sizes, 1), strict=True):
        torch.testing.assert_close(output, model(part), rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_padding_gives_what_its_absence_gives(build, tokens, name, options):
    model = attending(build, name, options)
    prompts = [tokens[0, :23].tolist(), tokens[1, :5].tolist()]
    padded, documents = left_pad(prompts)
    output = model(padded, documents=documents)
    for row, prompt in enumerate(prompts):
        alone = model(torch.tensor([prompt]))
        torch.testing.assert_close(output[row : row + 1, -len(prompt) :], alone, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_what_stands_in_padding_is_never_seen(build, tokens, name, options):
    model = attending(build, name, options)
    documents = torch.tensor([[-1] * 6 + [0] * 9 + [-1] * 5 + [1] * 14 + [-1] * 6]).expand(2, -1)
    padding = documents[0] < 0
    before = model(tokens, documents=documents)[:, ~padding]
    generator = torch.Generator().manual_seed(2)
    shuffled = tokens.clone()
    places = padding.nonzero()[:, 0]
    shuffled[:, places] = tokens[:, places[torch.randperm(len(places), generator=generator)]]
    assert not torch.equal(shuffled, tokens)
    torch.testing.assert_close(model(shuffled, documents=documents)[:, ~padding], before, rtol=0, atol=0)
