"""The multiscale loss against a plain computation, record by record, in float64."""

from __future__ import annotations

import pytest
import torch

from components.function_calls.prompt import build_prompt, render_turn
from components.language_models.adapters import attach_adapter
from components.language_models.base_models import resolve_model
from components.language_models.model_directory import load_model
from components.language_models.tokens import decode_turn, encode_prompt, encode_turn, end_of_turn_ids
from components.settings import AdapterSettings, SftWarmupSettings
from components.sft_warmup import loss
from components.sft_warmup.dataset import Example
from components.sft_warmup.loss import batch_loss


@pytest.fixture
def loaded(tiny_model):
    return load_model(resolve_model(tiny_model), device="cpu")


@pytest.fixture
def batch(loaded, make_records):
    """Five records of different lengths, one of them without a thought."""
    examples = []
    for number, record in enumerate(make_records(5)):
        prompt = build_prompt(record.messages, record.tools)
        thought = None if number == 3 else (record.cot or "") * (number + 1)
        turn = encode_turn(loaded.tokenizer, render_turn(thought, record.answers, record.response, prompt.names))
        examples.append(Example(encode_prompt(loaded.tokenizer, prompt), turn.ids, turn.thought_mask))
    return examples


@pytest.fixture
def model(loaded):
    model = attach_adapter(loaded.model, AdapterSettings(rank=4, alpha=8), seed=0).double()
    generator = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data = torch.randn(weight.shape, generator=generator, dtype=torch.float64) * 0.05
    return model.train()


def _plain_loss(model, batch, thought_weight):
    """Each record alone, unpadded, over the full logits; then the two means of the paper's formula."""
    thought, result = [], []
    for example in batch:
        ids = torch.tensor([example.prompt + example.turn])
        log_probabilities = model(input_ids=ids).logits[0].log_softmax(-1)
        for place, is_thought in enumerate(example.thought_mask, start=len(example.prompt)):
            (thought if is_thought else result).append(-log_probabilities[place - 1, ids[0, place]])
    if thought_weight is None:
        return torch.stack(thought + result).mean()
    return thought_weight * torch.stack(thought).mean() + (1 - thought_weight) * torch.stack(result).mean()


def _gradient(model):
    gradient = torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.requires_grad])
    model.zero_grad()
    return gradient


@pytest.fixture(params=["packed", "padded"])
def way(request, monkeypatch):
    """Both ways through the model: packed where attention can be shared, padded elsewhere."""
    if request.param == "padded":
        monkeypatch.setattr(loss, "sharing_obstacle", lambda model: "told so by the test")
    return request.param


@pytest.mark.parametrize("thought_weight", [0.0, 0.7, 1.0, None])
def test_loss_and_gradient_equal_the_plain_ones_for_any_micro_batch_size(model, batch, thought_weight, way):
    expected = _plain_loss(model, batch, thought_weight)
    expected.backward()
    expected_gradient = _gradient(model)
    assert expected_gradient.norm() > 0.01
    for size in (1, 2, 3, 5, 8):
        config = SftWarmupSettings(
            micro_batch_size=size,
            loss="cross_entropy" if thought_weight is None else "multiscale",
            thought_weight=thought_weight or 0.0,
        )
        losses = batch_loss(model, batch, config, padding=0, backward=torch.Tensor.backward)
        assert losses["loss"] == pytest.approx(expected.item(), rel=1e-9)
        assert (_gradient(model) - expected_gradient).norm() < 1e-8 * expected_gradient.norm()


def test_the_two_parts_are_the_means_of_their_segments(model, batch):
    losses = batch_loss(model, batch, SftWarmupSettings(), padding=0)
    assert losses["loss_think"] == pytest.approx(_plain_loss(model, batch, 1.0).item(), rel=1e-9)
    assert losses["loss_result"] == pytest.approx(_plain_loss(model, batch, 0.0).item(), rel=1e-9)


def test_the_thought_ends_at_its_tag_and_the_result_is_newline_answer_and_end_of_turn(loaded, batch):
    for example in batch:
        cut = sum(example.thought_mask)
        assert example.thought_mask == [True] * cut + [False] * (len(example.turn) - cut)
        assert decode_turn(loaded.tokenizer, example.turn[:cut]).endswith("</think>")
        assert decode_turn(loaded.tokenizer, example.turn[cut:]).startswith("\n")
        assert example.turn[-1] in end_of_turn_ids(loaded.tokenizer)


def test_the_head_sees_only_the_turns(model, batch, way):
    rows = []
    head = model.get_base_model().lm_head
    head.register_forward_hook(lambda module, inputs, output: rows.append(output.shape[:-1].numel()))
    batch_loss(model, batch, SftWarmupSettings(micro_batch_size=1), padding=0)
    assert rows == [len(example.turn) + (way == "padded") for example in batch]


def test_a_packed_row_has_no_padding_and_the_common_beginning_once(model, batch):
    widths = []
    embedding = model.get_base_model().get_input_embeddings()
    embedding.register_forward_hook(lambda module, inputs, output: widths.append(output.shape[:-1].numel()))
    batch_loss(model, batch, SftWarmupSettings(micro_batch_size=5), padding=0)
    tokens = [example.prompt + example.turn[:-1] for example in batch]
    shared = next(place for place, column in enumerate(zip(*tokens, strict=False)) if len(set(column)) > 1)
    assert shared > 20 and widths == [sum(map(len, tokens)) - 4 * shared]


def test_equal_records_and_whole_prompts_in_common_are_no_trouble(model, batch):
    other_turn = Example(batch[0].prompt, batch[1].turn, batch[1].thought_mask)
    twice = [batch[0], batch[0], other_turn]
    losses = batch_loss(model, twice, SftWarmupSettings(micro_batch_size=3), padding=0)
    assert losses["loss"] == pytest.approx(_plain_loss(model, twice, 0.7).item(), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_records_without_a_common_first_token_are_no_trouble(model, batch, dtype):
    model = model.to(dtype)  # float32 takes the way that divides by the size of an empty product
    others = [Example([number, *example.prompt[1:]], example.turn, example.thought_mask) for number, example in
              enumerate(batch)]  # fmt: skip
    expected = _plain_loss(model, others, 0.7)
    expected.backward()
    expected_gradient = _gradient(model)
    losses = batch_loss(model, others, SftWarmupSettings(micro_batch_size=5), padding=0, backward=torch.Tensor.backward)
    assert losses["loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert (_gradient(model) - expected_gradient).norm() < 1e-4 * expected_gradient.norm()


def test_the_padding_token_does_not_matter(model, batch, way):
    config = SftWarmupSettings(micro_batch_size=5)
    assert batch_loss(model, batch, config, padding=0) == batch_loss(model, batch, config, padding=17)


def test_a_bfloat16_base_comes_close_and_trains_a_float32_adapter(tiny_model, batch):
    losses = {}
    for dtype in ("float32", "bfloat16"):
        model = attach_adapter(
            load_model(resolve_model(tiny_model), dtype, "cpu").model, AdapterSettings(rank=4, alpha=8), seed=0
        )
        losses[dtype] = batch_loss(model, batch, SftWarmupSettings(), 0, backward=torch.Tensor.backward)["loss"]
        gradients = [weight.grad for weight in model.parameters() if weight.requires_grad]
        assert {gradient.dtype for gradient in gradients} == {torch.float32}
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.01)
    assert losses["bfloat16"] != losses["float32"]
