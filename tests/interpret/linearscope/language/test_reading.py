"""What a reading of a text says, against the model itself and against other ways to the same figures."""

from typing import Any

import pytest
import torch
import transformers

from interpret.linearscope.language.models import FAMILIES, SIZES, TEXT, decoder, read
from linmap.errors import ArgumentError, ArgumentTypeError, OutOfRangeError
from linmap.interpret.linearscope import LinearScope, bias_split
from linmap.interpret.linearscope.language.lens import unembedded
from recipes.finetuning.tiny import language_tokenizer

EPSILON = 1e-6
"""Llama's norms compute in float32 whatever the model's precision."""
IDS = torch.tensor([language_tokenizer()(TEXT)["input_ids"]])


@pytest.mark.parametrize("family", FAMILIES)
def test_contributions_add_up_at_the_input_and_behind_every_block(family: str):
    reading = read(family)
    logits = reading.model(IDS).logits[0, -1]
    target, against = int(logits.argmax()), 77
    for layer in (None, 0, 1, 3):
        found = reading.contributions(target, against, layer)
        assert found.value == pytest.approx(float(logits[target] - logits[against]), rel=EPSILON)
        assert float(found.values.sum()) + found.residual == pytest.approx(found.value, rel=EPSILON)
    assert found.values[:-1].abs().max() < 1e-12  # behind the last block only the last position counts
    one, other = (reading.contributions(token) for token in (target, against))
    both = reading.contributions(target, against).values
    torch.testing.assert_close(one.values - other.values, both, rtol=EPSILON, atol=EPSILON)


@pytest.mark.parametrize(("family", "blocks"), [("llama", "model.layers"), ("gpt2", "transformer.h")])
def test_the_stream_adds_what_a_map_that_begins_at_its_block_says(family: str, blocks: str):
    reading = read(family)
    values, residuals = reading.layer_contributions(65)
    for layer in (1, 2):
        part = LinearScope(reading.model, from_=f"{blocks}.{layer}").at(IDS, logits_to_keep=1)
        torch.testing.assert_close(values[layer], part.votes(65).sum(-1), rtol=EPSILON, atol=EPSILON)
        assert float(residuals[layer]) == pytest.approx(float(part.residual.flatten()[65]), abs=EPSILON)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_softmax_full_adds_up_too_and_has_no_carried_lens(attention: str):
    model = decoder(attn_implementation=attention)
    reading = LinearScope(model, softmax="full").text(TEXT, language_tokenizer())
    for layer in (None, 0, 1, 3):  # masked scores are minus infinity and add nothing
        found = reading.contributions(65, layer=layer)
        assert float(found.values.sum()) + found.residual == pytest.approx(found.value, rel=EPSILON)
    terms = sum(term.contribution for term in bias_split(reading.interp, 65))
    assert terms == pytest.approx(reading.contributions(65).residual, rel=EPSILON)
    with pytest.raises(ArgumentError, match="use softmax='value'"):
        reading.lens(2)


def test_the_mixing_is_the_models_own_attention():
    reading = read()
    model: Any = reading.model
    model.set_attn_implementation("eager")
    whole = model(IDS, output_attentions=True)
    own = torch.stack([layer[0] for layer in whole.attentions])
    torch.testing.assert_close(reading.mixing(), own, rtol=EPSILON, atol=EPSILON)
    rollout = reading.rollout()
    torch.testing.assert_close(rollout.sum(1), torch.ones_like(rollout[0]))
    assert rollout.triu(1).abs().max() == 0


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_both_lenses_end_in_the_models_answer(family: str):
    reading = read(family)
    lens = reading.lens(4)
    probabilities, ids = reading.model(IDS).logits[0, -4:].softmax(-1).max(-1)
    assert lens.positions == [4, 5, 6, 7]
    for found in (lens.logit, lens.carried):
        assert found.ids.shape == (4, 4)
        assert found.ids[-1].tolist() == ids.tolist()
        torch.testing.assert_close(found.probabilities[-1], probabilities.float())


@pytest.mark.parametrize(
    ("model_class", "config_class", "scales"),
    [
        ("CohereForCausalLM", "CohereConfig", {"logit_scale": 0.3}),
        ("GraniteForCausalLM", "GraniteConfig", {"logits_scaling": 3.0}),
        ("Gemma2ForCausalLM", "Gemma2Config", {"final_logit_softcapping": 0.05}),
    ],
)
def test_scales_of_the_logits_are_those_of_the_family(model_class: str, config_class: str, scales: dict[str, float]):
    torch.manual_seed(0)
    config = getattr(transformers, config_class)(**SIZES, **scales, use_cache=False)
    model = getattr(transformers, model_class)(config).eval()
    hidden = model.model(IDS).last_hidden_state
    torch.testing.assert_close(unembedded(model, hidden), model(IDS).logits)
    assert not torch.allclose(model.lm_head(hidden), model(IDS).logits, rtol=0.1, atol=0)


def test_the_logit_lens_is_norm_and_unembedding_of_the_hidden_states():
    reading = read()
    model: Any = reading.model
    hidden = model(IDS, output_hidden_states=True).hidden_states
    for level in range(3):
        logits = model.lm_head(model.model.norm(hidden[level][0, -2:]))
        assert reading.lens(2).logit.ids[level].tolist() == logits.argmax(-1).tolist()


@pytest.mark.parametrize(("family", "blocks"), [("llama", "model.layers"), ("gpt2", "transformer.h")])
def test_the_carried_lens_is_the_diagonal_of_the_frozen_rest(family: str, blocks: str):
    reading = read(family)
    lens = reading.lens(len(reading.tokens))
    part = LinearScope(reading.model, from_=f"{blocks}.1").at(IDS)
    for position in (0, 5):
        alone = torch.zeros_like(part.input)
        alone[0, position] = part.input[0, position]
        logits = part(alone)[0, position]  # of a causal model: nothing comes back from later positions
        others = part.residual[0, position] - _own_residual(part, position)
        probability, token = (logits - others).softmax(0).max(0)
        assert int(lens.carried.ids[1, position]) == int(token)
        assert float(lens.carried.probabilities[1, position]) == pytest.approx(float(probability), rel=1e-4)


def _own_residual(part: Any, position: int) -> torch.Tensor:
    """What the biases of the blocks behind add at a position that sees itself alone."""
    if position == 0:
        return part.residual[0, 0]
    tape, own = part.tape(), {}
    values = {tape.start: torch.zeros_like(part.input)}
    for step in tape.steps:
        inputs = tuple(values[number] for number in step.inputs)
        values[step.output] = step(inputs, True)
        if step.place.name == "bmm":
            mixed = torch.stack([step((_only(inputs[0], q),), False)[:, q] for q in range(inputs[0].shape[1])], 1)
            values[step.output] = own[step.output] = mixed
    return values[tape.end][0, position]


def _only(values: torch.Tensor, position: int) -> torch.Tensor:
    kept = torch.zeros_like(values)
    kept[:, position] = values[:, position]
    return kept


def test_directions_are_the_singular_vectors_of_a_tokens_operator_in_words():
    reading = read()
    last, width = len(reading.tokens) - 1, 16
    model: Any = reading.model
    hidden = LinearScope(model, to="model.norm").at(IDS)
    F = hidden.dense().reshape(last + 1, width, last + 1, width)
    for position in range(last + 1):  # their signs, as they come, are of both kinds
        _, S, _ = torch.linalg.svd(F[last, :, position])
        for gain, found in zip(S, reading.directions(position, k=2, words=3), strict=False):
            assert found.gain == pytest.approx(float(gain), rel=1e-6)
            v, u = found.input[position], found.output
            torch.testing.assert_close(F[last, :, position] @ v, found.gain * u, rtol=1e-5, atol=1e-8)
            assert found.strength == pytest.approx(float(v @ hidden.input[0, position]))
            assert found.strength >= 0
            written = model.lm_head.weight @ u
            assert [token.id for token in found.writes] == written.topk(3).indices.tolist()
            read_by = model.model.embed_tokens.weight @ v
            assert [token.id for token in found.reads_against] == (-read_by).topk(3).indices.tolist()
    together = reading.directions(None, k=1)[0]
    assert together.gain == pytest.approx(float(torch.linalg.matrix_norm(F[last].flatten(1), 2)), rel=1e-6)
    assert float(together.by_token.sum()) == pytest.approx(1)


def test_predictions_and_targets():
    reading = read()
    best = reading.predictions(3)
    logits = reading.model(IDS).logits[0, -1]
    assert [p.token.id for p in best] == logits.topk(3).indices.tolist()
    assert best[0].probability == pytest.approx(float(logits.softmax(0).max()))
    assert reading.contributions().target == best[0].token == reading.token()
    assert reading.token("A").id == reading.token(reading.token("A").id).id
    with pytest.raises(ArgumentError, match=r"target=' Paris' is 6 tokens \(' ', 'P', .*take the first, target=' '"):
        reading.contributions(" Paris")
    with pytest.raises(ArgumentError, match="are the same token"):
        reading.contributions("A", "A")
    with pytest.raises(OutOfRangeError, match="token id 258"):
        reading.contributions(258)
    with pytest.raises(OutOfRangeError, match="layer 4 is out of range: the stream has layers 0 to 3"):
        reading.contributions(layer=4)
    with pytest.raises(OutOfRangeError, match="the text has 8 tokens"):
        reading.directions(8)


@pytest.mark.usefixtures("annotations_unchecked")
def test_what_is_no_text_or_no_decoder_is_refused():
    tokenizer, model = language_tokenizer(bos=True), decoder()
    with pytest.raises(ArgumentError, match="65 tokens, and the model 64 positions"):
        LinearScope(model).text("a" * 64, tokenizer)  # one more is the beginning that the tokenizer puts in front
    with pytest.raises(ArgumentError, match="there is nothing to read"):
        LinearScope(model).text("", language_tokenizer())
    with pytest.raises(ArgumentTypeError, match="apply_chat_template"):
        LinearScope(model).text([{"role": "user"}], tokenizer)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ArgumentError, match="mode='record'"):
        LinearScope(model, mode="parallel").text("a", tokenizer)
    with pytest.raises(ArgumentTypeError, match="says no next token"):
        LinearScope(torch.nn.Linear(2, 2).eval()).text("a", tokenizer)


def test_a_text_is_read_from_its_embeddings_to_the_logits():
    model, tokenizer = decoder(), language_tokenizer()
    for scope in (LinearScope(model, to="model.layers.0"), LinearScope(model, from_="model.layers.1")):
        with pytest.raises(ArgumentError, match=r"(from_|to)='model.layers.*leave (from_|to) out"):
            scope.text(TEXT, tokenizer)
    for wrong in (None, "gpt2"):
        with pytest.raises(ArgumentTypeError, match="tokenizer must be the model's"):
            LinearScope(model).text(TEXT, wrong)
    with pytest.raises(OutOfRangeError, match="token id 258, and the model has embeddings for 0 to 257"):
        LinearScope(model).at(torch.tensor([[3, 258]]))
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ArgumentError, match="autocast on the CPU is too coarse"):
        LinearScope(model).text(TEXT, tokenizer)
    with pytest.raises(ArgumentError, match=r"bfloat16 on the CPU is too coarse .* use model.float\(\)"):
        LinearScope(model.bfloat16()).text(TEXT, tokenizer)


@pytest.mark.parametrize("words", [0, 259])
def test_words_that_the_vocabulary_does_not_have_are_refused(words: int):
    with pytest.raises(ArgumentError, match=f"words={words} must be between 1 and the 258"):
        read().directions(-1, k=1, words=words)


ADAPTERS: dict[str, dict[str, Any]] = {
    "both embeddings": {"target_modules": ["embed_tokens", "lm_head", "up_proj"], "lora_dropout": 0.1},
    "whole embeddings": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
}


@pytest.mark.parametrize("kind", ADAPTERS)
def test_an_adapter_counts_as_part_of_the_matrix_that_it_adapts(kind: str):
    peft = pytest.importorskip("peft")
    base = decoder(num_hidden_layers=1)
    adapted = peft.get_peft_model(base, peft.LoraConfig(r=2, **ADAPTERS[kind])).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for name, weight in adapted.named_parameters():
        if "lora" in name or "modules_to_save" in name:
            weight.add_(torch.randn(weight.shape, generator=generator, dtype=weight.dtype) / 4)
    found = _figures(LinearScope(adapted).text(TEXT, language_tokenizer()))
    merged = _figures(LinearScope(adapted.merge_and_unload()).text(TEXT, language_tokenizer()))
    torch.testing.assert_close(found[:-1], merged[:-1], rtol=1e-5, atol=1e-5)
    assert found[-1] == merged[-1]


def _figures(reading: Any) -> list[Any]:
    """Contributions, the residual, and the words of a direction."""
    found, direction = reading.contributions(65, 77), reading.directions(-1, k=1, words=3)[0]
    words = [token.id for token in (*direction.writes, *direction.reads)]
    return [found.values.detach(), torch.tensor(found.residual).double(), words]


def test_models_that_say_no_next_token_are_refused():
    config = transformers.BertConfig(
        vocab_size=258, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24
    )
    with pytest.raises(ArgumentTypeError, match="BertForMaskedLM looks at later tokens too"):
        LinearScope(transformers.BertForMaskedLM(config).eval()).text(TEXT, language_tokenizer())
    model = decoder(num_hidden_layers=1)
    model.model.norm.weight[0] = torch.nan
    with pytest.raises(ArgumentError, match="LlamaForCausalLM answers NaN at this input"):
        LinearScope(model).text(TEXT, language_tokenizer())
