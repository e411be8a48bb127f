"""The shared-prefix pass equals the plain one: values and gradients, every trap that would be silent."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GptOssConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen3Config,
    Qwen3NextConfig,
)

from components.errors import InputError, WorkError
from components.language_models import attention_kernels, shared_attention, shared_prefix
from components.language_models.attention_kernels import FLASH_CPU, PLAIN, Kernel
from components.language_models.shared_attention import Segments
from components.language_models.shared_prefix import (
    Group,
    check_sharing,
    score_groups,
    score_padded,
    sharing_obstacle,
)

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.2,
}
LLAMA = LlamaConfig(**SIZES)
QWEN3 = Qwen3Config(**SIZES)  # normalises queries and keys
MISTRAL = MistralConfig(**SIZES, sliding_window=6)


def tokens(count: int) -> list[int]:
    choose = random.Random(count * 7919 + 1)
    return [choose.randrange(97) for _ in range(count)]


GROUPS = [  # ragged, single-token and empty completions; a one-token prompt; a group without tokens to score
    Group(tokens(9), [tokens(5), tokens(1), [], tokens(12)]),
    Group(tokens(14), [tokens(3), tokens(4)]),
    Group(tokens(1), [tokens(6)]),
    Group(tokens(4), [[]]),
    Group(tokens(20), [tokens(2), tokens(8), tokens(30)]),
]
ONE_PASS, MANY_PASSES = 1000, 52


def make_model(
    config: PretrainedConfig, dtype: torch.dtype = torch.float64, adapter: bool = True, seed: int = 0, **load: Any
) -> Any:
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(config), **load)
    if adapter:
        model = get_peft_model(model, LoraConfig(target_modules="all-linear", r=4, lora_alpha=8))
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.1)
    return model.to(dtype)


def score(function: Callable[..., Any], model: Any, budget: int, groups: list[Group] = GROUPS) -> list[Tensor]:
    """Log-probabilities, entropies and the adapter's gradients of a loss that tells all tokens apart."""
    model.zero_grad()
    logps, entropies = [], []
    for scores in function(model, groups, 0.7, token_budget=budget):
        places = torch.arange(scores.start, scores.start + len(scores.log_probability))
        (scores.log_probability * torch.sin(places + 1.0)).sum().backward()
        logps.append(scores.log_probability.detach())
        entropies.append(scores.entropy)
    gradients = [weight.grad.flatten() for weight in model.parameters() if weight.requires_grad]
    return [torch.cat(logps), torch.cat(entropies), torch.cat(gradients)]


def assert_equal(ours: list[Tensor], reference: list[Tensor], nats: float, gradient: float) -> None:
    assert (ours[0] - reference[0]).abs().max() < nats
    assert (ours[1] - reference[1]).abs().max() < nats
    assert (ours[2] - reference[2]).norm() < gradient * reference[2].norm()


@pytest.mark.parametrize("config", [LLAMA, QWEN3], ids=["llama", "qwen3"])
@pytest.mark.parametrize("budget", [ONE_PASS, MANY_PASSES])
def test_equals_one_plain_sequence_at_a_time(config: PretrainedConfig, budget: int) -> None:
    """Against a forward pass per completion, unpadded, in float64 (norms inside the models are float32)."""
    model = make_model(config)
    logps, entropies = [], []
    for group in GROUPS:
        for completion in group.completions:
            logits = model(input_ids=torch.tensor([group.prompt + completion])).logits[0] / 0.7
            table = logits[len(group.prompt) - 1 : len(group.prompt) + len(completion) - 1].log_softmax(-1)
            logps.append(table[range(len(completion)), completion])
            entropies.append(-(table.exp() * table).sum(-1).detach())
    logp = torch.cat(logps)
    (logp * torch.sin(torch.arange(len(logp)) + 1.0)).sum().backward()
    gradients = [weight.grad.flatten() for weight in model.parameters() if weight.requires_grad]
    truth = [logp.detach(), torch.cat(entropies), torch.cat(gradients)]

    assert_equal(score(score_groups, model, budget), truth, nats=1e-12, gradient=1e-6)
    assert_equal(score(score_padded, model, budget), truth, nats=1e-12, gradient=1e-6)


def noise(dtype: torch.dtype, device: str = "cpu", config: PretrainedConfig = QWEN3) -> Tensor:
    """Errors of the shared pass over those of the padded one: log-probabilities, entropies, gradients.

    The truth is the padded pass with the same weights in float64; errors are root mean squares over four models.
    Whatever a machine rounds, and in whichever order it adds, enters both passes alike.
    """
    squares = torch.zeros(2, 3, dtype=torch.float64)
    for seed in range(4):
        model = make_model(config, dtype, seed=seed).to(device)
        truth = score(score_padded, copy.deepcopy(model).double(), ONE_PASS)
        for row, function in zip(squares, (score_groups, score_padded), strict=True):
            found = score(function, model, ONE_PASS)
            row += torch.stack([(a.double() - b).square().mean().cpu() for a, b in zip(found, truth, strict=True)])
    return (squares[0] / squares[1]).sqrt()


AS_RIGHT = 2.0  # 0.9 to 1.2 under every instruction set, with and without oneDNN; the faults below 27 to 42


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_equals_padded_in_training_types(dtype: torch.dtype) -> None:
    assert (noise(dtype) < AS_RIGHT).all()


def positions_one_late(layout: Any) -> Any:
    completion = torch.arange(len(layout.positions)) >= layout.segments.prompt_tokens
    return replace(layout, positions=layout.positions + completion)


def no_mask_between_completions(layout: Any) -> Any:
    def length(part: slice) -> int:
        return part.stop - part.start

    lengths = [(length(group.prompt), [length(group.completions)]) for group in layout.segments.groups]
    return replace(layout, segments=Segments.of(lengths, layout.tokens.device))


@pytest.mark.parametrize("fault", [positions_one_late, no_mask_between_completions])
def test_faults_stand_out_of_the_noise_of_bfloat16(
    fault: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    layout_of = shared_prefix._Layout.of
    monkeypatch.setattr(shared_prefix._Layout, "of", lambda *given: fault(layout_of(*given)))
    assert (noise(torch.bfloat16) > 2 * AS_RIGHT).all()


def test_equals_padded_with_gradient_checkpointing() -> None:
    """A checkpointed layer runs again in backward, after the packed pass: it must meet the same attention."""
    model = make_model(LLAMA)
    plain = score(score_groups, model, MANY_PASSES)
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable()
    model.train()
    assert_equal(score(score_groups, model, MANY_PASSES), plain, nats=1e-12, gradient=1e-7)


def test_a_model_loaded_with_eager_attention_is_scored_right() -> None:
    """Eager attention would add a boolean mask to the scores and be wrong by 0.1 nats without an error."""
    eager = make_model(LLAMA, attn_implementation="eager")
    truth = score(score_padded, make_model(LLAMA), ONE_PASS)
    assert_equal(score(score_groups, eager, ONE_PASS), truth, nats=1e-12, gradient=1e-6)


def test_restarted_positions_are_not_taken_for_packed_sequences() -> None:
    """transformers cuts a row where positions restart; completions would lose their prompt, 0.3 nats wrong."""
    model = make_model(LLAMA)
    group = Group(tokens(9), [tokens(5), tokens(6)])
    other = Group(tokens(10), group.completions)
    one, two = (
        torch.cat([s.log_probability for s in score_groups(model, [g], 1.0, token_budget=100)]) for g in (group, other)
    )
    assert ((one - two).abs() > 1e-3).all()  # every token sees the prompt


def test_completions_see_neither_each_other_nor_other_prompts() -> None:
    model = make_model(LLAMA)
    changed = [Group(tokens(11), [tokens(7)]), Group(GROUPS[1].prompt, [GROUPS[1].completions[0], tokens(9)])]
    before = next(score_groups(model, GROUPS[:2], 1.0, token_budget=1000))
    after = next(score_groups(model, changed, 1.0, token_budget=1000))
    torch.testing.assert_close(after.log_probability[7:10], before.log_probability[18:21], rtol=0, atol=1e-13)


def test_passes_cover_every_token_once_and_in_order() -> None:
    model = make_model(LLAMA)
    with torch.no_grad():
        for function in (score_groups, score_padded):
            passes = list(function(model, GROUPS, 1.0, token_budget=MANY_PASSES))
            assert len(passes) > 2
            assert [part for scores in passes for part in scores.completions] == [
                (index, number) for index, group in enumerate(GROUPS) for number in range(len(group.completions))
            ]
            place = 0
            for scores in passes:
                assert scores.start == place
                assert scores.lengths == [len(GROUPS[i].completions[n]) for i, n in scores.completions]
                assert len(scores.log_probability) == len(scores.entropy) == sum(scores.lengths)
                place += sum(scores.lengths)
            assert all(scores.unique_tokens <= MANY_PASSES for scores in passes)


def test_a_prompt_is_computed_once_per_pass() -> None:
    model = make_model(LLAMA)
    group = Group(tokens(40), [tokens(10)] * 8)
    (scores,) = score_groups(model, [group], 1.0, token_budget=1000)
    assert scores.unique_tokens == 40 + 8 * 9  # the last token of a completion predicts nothing


def test_the_reference_is_the_model_without_its_adapter() -> None:
    model = make_model(LLAMA)
    with torch.no_grad(), model.disable_adapter():
        shared, padded = (next(f(model, GROUPS, 1.0, token_budget=2000)) for f in (score_groups, score_padded))
    adapted = next(score_groups(model, GROUPS, 1.0, token_budget=2000))
    torch.testing.assert_close(shared.log_probability, padded.log_probability, rtol=0, atol=1e-12)
    assert (adapted.log_probability - shared.log_probability).abs().max() > 0.01
    assert not shared.log_probability.requires_grad


def test_a_completion_that_does_not_fit_names_the_setting() -> None:
    with pytest.raises(InputError, match=r"unique_tokens_per_pass.*20 tokens with a completion of 30 does not fit 49"):
        list(score_groups(make_model(LLAMA), GROUPS, 1.0, token_budget=49))


TINY_GPT_OSS = {**SIZES, "num_local_experts": 2, "num_experts_per_tok": 1}
TINY_NEXT = {
    **SIZES, "linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16, "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "word"),
    [
        (MISTRAL, "sliding"),
        (Gemma2Config(**SIZES, sliding_window=6, query_pre_attn_scalar=8), "sliding"),
        (GptOssConfig(**TINY_GPT_OSS), "sliding"),
        (Qwen3NextConfig(**TINY_NEXT), "linear_attention"),
    ],
    ids=lambda value: getattr(value, "model_type", value),
)
def test_architectures_that_cannot_share_are_named(config: PretrainedConfig, word: str) -> None:
    assert word in (sharing_obstacle(make_model(config, adapter=False)) or "")


@pytest.mark.parametrize("config", [LLAMA, QWEN3, LlamaConfig(**SIZES, sliding_window=None)])
def test_plain_causal_models_can_share(config: PretrainedConfig) -> None:
    assert sharing_obstacle(make_model(config)) is None


def test_dropout_in_the_adapter_cannot_be_shared() -> None:
    model = get_peft_model(
        AutoModelForCausalLM.from_config(LLAMA), LoraConfig(target_modules="all-linear", r=4, lora_dropout=0.1)
    )
    assert "dropout" in (sharing_obstacle(model) or "")


def test_check_passes_for_a_model_that_shares_and_stops_one_that_does_not() -> None:
    assert check_sharing(make_model(LLAMA, torch.float32), GROUPS, token_budget=2000) < 1e-5
    assert check_sharing(make_model(LLAMA, torch.bfloat16), GROUPS, token_budget=2000) < 0.02
    with pytest.raises(WorkError, match="differ by"):
        check_sharing(make_model(MISTRAL, torch.float32), GROUPS, token_budget=2000)


def test_check_looks_at_the_first_tokens_one_padded_row_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sizes = make_model(LLAMA, torch.float32), []
    whole = shared_prefix._score_rows

    def score_rows(model: Any, rows: Any, *rest: Any) -> Any:
        sizes.append([len(completion) for _, completion in rows])
        return whole(model, rows, *rest)

    monkeypatch.setattr(shared_prefix, "_score_rows", score_rows)
    check_sharing(model, [Group(tokens(9), [tokens(300), tokens(2)])], token_budget=2000)
    assert sizes == [[shared_prefix.CHECKED_TOKENS], [2]]


def test_hidden_states_wider_than_the_head_are_scored() -> None:
    """As autocast gives them on a GPU where the last module is a LayerNorm."""
    model = make_model(LLAMA, torch.bfloat16)
    model.get_base_model().model.norm.register_forward_hook(lambda module, given, output: output.float())
    with torch.autocast("cpu", torch.bfloat16):
        assert check_sharing(model, GROUPS, token_budget=2000) < 0.02


def test_a_trained_head_is_scored_by_the_plain_form() -> None:
    model = make_model(LLAMA, adapter=False)  # every weight is trained
    assert_equal(score(score_groups, model, ONE_PASS), score(score_padded, model, ONE_PASS), nats=1e-12, gradient=1e-6)


LENGTHS = [(7, [3, 0, 9]), (5, []), (1, [1]), (12, [4, 4, 4])]


def dense_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The definition: one softmax per token over what it may see, from an explicit mask."""
    owner, place = [], []  # (group, completion or -1 for the prompt) and place of each token of the row
    for group, (prompt, _) in enumerate(LENGTHS):
        owner += [(group, -1)] * prompt
        place += range(prompt)
    for group, (_, completions) in enumerate(LENGTHS):
        for number, length in enumerate(completions):
            owner += [(group, number)] * length
            place += range(length)
    size = len(owner)
    sees = torch.tensor(
        [
            [
                (owner[q] == owner[k] and place[k] <= place[q]) or (owner[k] == (owner[q][0], -1) != owner[q])
                for k in range(size)
            ]
            for q in range(size)
        ]
    )
    repeats = query.shape[1] // key.shape[1]
    key, value = (states.repeat_interleave(repeats, 1) for states in (key, value))
    scores = (query @ key.mT * 0.3).masked_fill(~sees, -torch.inf)
    return scores.softmax(-1) @ value


def varlen_by_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for the CUDA kernels: the same contract, segment by segment in plain products."""

    def segments(query: Tensor, key: Tensor, value: Tensor, queries: Any, keys: Any) -> Any:
        edges = zip(queries.edges[:-1], queries.edges[1:], keys.edges[:-1], keys.edges[1:], strict=True)
        for a, b, c, d in edges:
            wide = [
                s[c:d].transpose(0, 1)[None].repeat_interleave(query.shape[1] // s.shape[1], 1) for s in (key, value)
            ]
            yield slice(a, b), slice(c, d), query[a:b].transpose(0, 1)[None], *wide

    def forward(query: Tensor, key: Tensor, value: Tensor, queries: Any, keys: Any, causal: bool, scale: float) -> Any:
        out, lse = torch.empty_like(query), query.new_empty(query.shape[1], len(query))
        for span, _, q, k, v in segments(query, key, value, queries, keys):
            part, part_lse = PLAIN.forward(q, k, v, causal, scale)
            out[span], lse[:, span] = part[0].transpose(0, 1), part_lse[0]
        return out, lse

    def backward(
        grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, queries: Any, keys: Any,
        causal: bool, scale: float,
    ) -> Any:  # fmt: skip
        grads = torch.zeros_like(query), torch.zeros_like(key), torch.zeros_like(value)
        for span, seen, q, k, v in segments(query, key, value, queries, keys):
            lines = (states[span].transpose(0, 1)[None] for states in (grad, out))
            of_q, of_k, of_v = PLAIN.backward(next(lines), q, k, v, next(lines), lse[None, :, span], causal, scale)
            grads[0][span] += of_q[0].transpose(0, 1)
            for target, wide in ((grads[1], of_k), (grads[2], of_v)):
                target[seen] += wide[0].unflatten(0, (key.shape[1], -1)).sum(1).transpose(0, 1)
        return grads

    monkeypatch.setattr(shared_attention, "varlen_forward", forward)
    monkeypatch.setattr(shared_attention, "varlen_backward", backward)


@pytest.mark.parametrize("kernel", [FLASH_CPU, PLAIN, None], ids=["flash_cpu", "plain", "varlen"])
def test_attention_over_segments_is_one_softmax(kernel: Kernel | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two kernels merged by log-sum-exp, and their backwards fed the merged pair, are exact in float64."""
    monkeypatch.setattr(shared_attention, "kernel_for", lambda states: kernel)
    if kernel is None:
        varlen_by_loops(monkeypatch)
    size = sum(prompt + sum(completions) for prompt, completions in LENGTHS)
    generator = torch.Generator().manual_seed(0)
    query, key, value, upstream = (
        torch.randn(1, heads, size, 8, generator=generator, dtype=torch.float64) for heads in (6, 2, 2, 6)
    )
    inputs = [states.requires_grad_() for states in (query, key, value)]

    ours = Segments.of(LENGTHS, query.device).attend(0, *inputs, 0.3)
    gradients = torch.autograd.grad(ours, inputs, upstream)
    truth = dense_attention(*inputs)
    true_gradients = torch.autograd.grad(truth, inputs, upstream)

    torch.testing.assert_close(ours, truth, rtol=0, atol=1e-13)
    for gradient, true in zip(gradients, true_gradients, strict=True):
        torch.testing.assert_close(gradient, true, rtol=0, atol=1e-12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: the varlen kernels themselves did not run")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equals_padded_on_cuda(dtype: torch.dtype) -> None:
    assert attention_kernels.kernel_for(torch.empty(0, dtype=dtype, device="cuda")) is (
        PLAIN if dtype == torch.float32 else None
    )
    assert (noise(dtype, "cuda", Qwen3Config(**{**SIZES, "head_dim": 64})) < AS_RIGHT).all()


def test_repeats_its_gradients_to_the_bit_on_several_threads():
    """The end of a prompt predicts the first token of every completion: a sum in which threads must not meet."""
    model = make_model(LlamaConfig(**(SIZES | {"hidden_size": 256, "num_hidden_layers": 1})), torch.float32)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [Group(tokens(9), [tokens(12)] * 64)]
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        (scores,) = score_groups(model, groups, 1.0, token_budget=ONE_PASS)
        loss = (scores.log_probability * torch.linspace(-1, 1, len(scores.log_probability))).sum()
        found = {
            b"".join(grad.numpy().tobytes() for grad in torch.autograd.grad(loss, weights, retain_graph=True))
            for _ in range(150)
        }
    finally:
        torch.set_num_threads(threads)
    assert len(found) == 1
