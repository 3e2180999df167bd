"""What transformers does with an exported model: generation, pipelines, training, adapters."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, Trainer, TrainingArguments, pipeline

from models import generate
from models.export.folder import exported_model
from models.export.tokenizer import exported
from storage import load_run
from tests.export.conftest import Reopen, opened, tokens_of
from tests.models.conftest import VOCAB

PATTERNS = {
    "softmax": {"attention": "softmax"},
    "windows": {"attention": "swat*1,softpick*1", "window": "5*1,none*1", "value_embeddings": "every"},
    "slopes": {"attention": "softpick*1,softmax*1", "position": "alibi"},
    "states": {"attention": "soft_lowrank*1,ssmax*1", "position": "none"},
}
every_pattern = pytest.mark.parametrize("changes", PATTERNS.values(), ids=PATTERNS.keys())
GREEDY = {"max_new_tokens": 24, "do_sample": False}


@every_pattern
def test_a_cache_changes_nothing(reopen: Reopen, changes: dict) -> None:
    network, model = reopen(**changes)
    prompt = tokens_of(VOCAB, 2, 9)
    cached = model.generate(prompt, **GREEDY)
    assert torch.equal(cached, model.generate(prompt, use_cache=False, **GREEDY))
    assert torch.equal(cached, generate(network, prompt, 24, temperature=0))
    beams = [model.generate(prompt, num_beams=3, use_cache=use, **GREEDY) for use in (True, False)]
    assert torch.equal(*beams)


@every_pattern
def test_padding_on_either_side_changes_nothing(reopen: Reopen, changes: dict) -> None:
    _, model = reopen(**changes)
    short, long = tokens_of(VOCAB, 1, 6), tokens_of(VOCAB, 1, 13)
    nothing, left = torch.zeros(1, 7, dtype=torch.long), torch.ones(2, 13, dtype=torch.long)
    left[0, :7] = 0
    right = left.flip(1)
    batch = torch.cat([torch.cat([nothing, short], 1), long])
    grown = model.generate(batch, attention_mask=left, **GREEDY)
    for row, alone, start in ((0, short, 7), (1, long, 0)):
        assert torch.equal(grown[row, start:], model.generate(alone, **GREEDY)[0])
    with torch.no_grad():
        found = model(torch.cat([torch.cat([short, nothing], 1), long]), attention_mask=right).logits
        torch.testing.assert_close(found[0, :6], model(short).logits[0])
        found_left = model(batch, attention_mask=left).logits
        torch.testing.assert_close(found_left[0, 7:], model(short).logits[0])
    assert bool(found.isfinite().all())


def test_packed_texts_do_not_see_each_other(reopen: Reopen) -> None:
    _, model = reopen(attention="softpick*1,swat*1")
    one, two = tokens_of(VOCAB, 1, 7), tokens_of(VOCAB, 1, 11)
    positions = torch.cat([torch.arange(7), torch.arange(11)])[None]
    with torch.no_grad():
        packed = model(torch.cat([one, two], 1), position_ids=positions).logits
        torch.testing.assert_close(packed[:, :7], model(one).logits)
        torch.testing.assert_close(packed[:, 7:], model(two).logits)


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({"inputs_embeds": torch.zeros(1, 4, 32)}, "takes no inputs_embeds"),
        ({"output_attentions": True}, "takes no output_attentions"),
        ({"position_ids": torch.tensor([[0, 1, 3, 4]])}, "position_ids must go up by one"),
        ({"attention_mask": torch.ones(1, 1, 4, 4)}, r"attention_mask must be \[batch"),
        ({"attention_mask": torch.tensor([[1, 1, 2, 2]])}, "mark packed texts by position_ids"),
        ({"past_key_values": [1]}, "past_key_values must be what this model gave back"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(reopen: Reopen, asked: dict, complaint: str) -> None:
    _, model = reopen()
    with pytest.raises(ValueError, match=complaint):
        model(tokens_of(VOCAB, 1, 4), **asked)


def test_states_and_loss_are_those_of_transformers(reopen: Reopen) -> None:
    network, model = reopen(attention="softpick")
    tokens = tokens_of(VOCAB, 2, 9)
    with torch.no_grad():
        found = model(tokens, labels=tokens, output_hidden_states=True)
        wanted = network(tokens[:, :-1], targets=tokens[:, 1:].contiguous()).mean()
        assert len(found.hidden_states) == 3
        assert torch.equal(found.hidden_states[-1], network.hidden(tokens))
        assert torch.equal(found.hidden_states[0], network.embedding(tokens))
        assert model(tokens, logits_to_keep=1).logits.shape == (2, 1, VOCAB)
    torch.testing.assert_close(found.loss.double(), wanted.double(), rtol=1e-6, atol=1e-6)


def test_a_pipeline_writes_what_this_project_writes(folder: Path, run: Path) -> None:
    mine, tokenizer = load_run(run), AutoTokenizer.from_pretrained(folder)
    write = pipeline("text-generation", model=opened(folder), tokenizer=tokenizer)
    prompts = ["the queen", "of night and gentle morning the king"]
    for prompt, ((found,),) in zip(
        prompts,
        ([each] for each in write(prompts, batch_size=2, max_new_tokens=12, do_sample=False)),
        strict=True,
    ):
        ids = torch.tensor([mine.tokenizer.encode(prompt, bos=True)])
        assert found["generated_text"] == mine.tokenizer.decode(
            generate(mine.model, ids, 12, temperature=0)[0]
        )


def test_it_never_writes_what_has_no_piece(folder: Path, run: Path) -> None:
    model = opened(folder)
    model.network.embedding.weight.data[320:] *= 100
    assert int(model.generate(torch.tensor([[1, 5, 6]]), max_new_tokens=20, do_sample=True).max()) < 320


@pytest.mark.slow
def test_trainer_and_adapters_train_it(folder: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    rows = [{"input_ids": row, "labels": row} for row in tokens_of(320, 16, 24)]

    def losses(model: torch.nn.Module, name: str, **options: object) -> list[float]:
        arguments = TrainingArguments(
            str(tmp_path / name),
            max_steps=6,
            per_device_train_batch_size=8,
            learning_rate=1e-2,
            logging_steps=1,
            report_to=[],
            save_strategy="no",
            use_cpu=True,
            seed=0,
            disable_tqdm=True,
            **options,
        )
        trainer = Trainer(model=model, args=arguments, train_dataset=rows)
        trainer.train()
        trainer.save_model(str(tmp_path / name / "saved"))
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    model = opened(folder)
    plain = losses(model, "plain")
    assert plain[-1] < plain[0] - 0.5
    again = opened(tmp_path / "plain" / "saved")
    with torch.no_grad():
        assert torch.equal(
            again(rows[0]["input_ids"][None]).logits, model.eval()(rows[0]["input_ids"][None]).logits
        )
    assert losses(opened(folder), "recomputed", gradient_checkpointing=True) == pytest.approx(plain, rel=1e-5)

    lora = peft.get_peft_model(
        opened(folder), peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    adapted = losses(lora, "lora")
    assert adapted[-1] < adapted[0] - 0.05
    loaded = peft.PeftModel.from_pretrained(opened(folder), str(tmp_path / "lora" / "saved"))
    merged = loaded.merge_and_unload()
    prompt = rows[0]["input_ids"][None]
    with torch.no_grad():
        torch.testing.assert_close(
            merged.eval()(prompt).logits, lora.eval()(prompt).logits, rtol=1e-4, atol=1e-4
        )


def test_padding_behind_a_text_without_any_is_refused(reopen: Reopen) -> None:
    _, model = reopen()
    with torch.no_grad():
        begun = model(tokens_of(VOCAB, 1, 4), use_cache=True).past_key_values
        with pytest.raises(ValueError, match="give documents for every call"):
            model(
                tokens_of(VOCAB, 1, 2),
                past_key_values=begun,
                attention_mask=torch.tensor([[1, 1, 1, 1, 0, 1]]),
            )


@pytest.mark.parametrize("ends", [True, False])
def test_documents_end_where_that_was_learned(run: Path, ends: bool) -> None:
    trained = replace(load_run(run), config={"train": {"document_end": ends}})
    model, tokenizer = exported_model(trained), exported(trained.tokenizer, 128, ends)
    eos = trained.tokenizer.bos if ends else None
    assert (model.generation_config.eos_token_id, tokenizer.eos_token_id) == (eos, eos)
    assert (model.generation_config.pad_token_id, tokenizer.pad_token_id) == (0, 0)
