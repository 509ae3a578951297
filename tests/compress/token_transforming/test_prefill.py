"""`compress_prefill`: shortened prompts against passes written out by hand, while decoding too."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from linmap.compress.token_transforming import TokenTransform, compress_prefill, compressed

N, SINK, RECENT, M = 30, 2, 4, 14
PRUNE = TokenTransform(select="importance", assign="prune")
SOFT = TokenTransform(tau=0.1)


def decoder(kind: str = "Llama", **changes: Any) -> Any:
    import transformers as t

    sizes = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 200, "head_dim": 8}
    torch.manual_seed(0)
    config = getattr(t, f"{kind}Config")(**sizes | heads | {"pad_token_id": 0, "eos_token_id": None} | changes)
    model = getattr(t, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    return model


def prompt(batch: int = 2, n: int = N, seed: int = 1) -> Tensor:
    return torch.randint(3, 60, (batch, n), generator=torch.Generator().manual_seed(seed))


def shorten(model: Any, transform: TokenTransform | None = None, **changes: Any) -> Any:
    return compress_prefill(model, **{"M": M, "sink": SINK, "recent": RECENT, "transform": transform} | changes)


def by_hand(model: Any, ids: Tensor, layer: int, transform: Any) -> Tensor:
    """Logits of a pass in which the first N tokens become M after one layer's attention, and the others follow them."""
    core = model.model
    n = ids.shape[1]
    x, positions = core.embed_tokens(ids), torch.arange(n).unsqueeze(0)
    rotary = core.rotary_emb(x, position_ids=positions)
    causal = torch.full((n, n), torch.finfo(x.dtype).min).triu(1)[None, None]
    for block in core.layers[:layer]:
        x = block(x, attention_mask=causal, position_embeddings=rotary)
    block = core.layers[layer]
    x = x + block.self_attn(block.input_layernorm(x), rotary, causal)[0]
    x = torch.cat([transform.matrix() @ x[:, :N], x[:, N:]], 1)
    x = x + block.mlp(block.post_attention_layernorm(x))
    places = torch.cat([transform.centres, torch.arange(N, n).expand(len(ids), -1)], 1)
    rotary = core.rotary_emb(x, position_ids=places)
    logs = torch.cat([transform.mass_out.log(), torch.zeros(len(ids), n - N)], 1)
    later = places.unsqueeze(1) > places.unsqueeze(2)
    bias = logs.unsqueeze(1).masked_fill(later, torch.finfo(x.dtype).min).unsqueeze(1)
    for block in core.layers[layer + 1 :]:
        x = block(x, attention_mask=bias, position_embeddings=rotary)
    return model.lm_head(core.norm(x))


@pytest.mark.parametrize("kind", ["Llama", "Qwen3", "Mistral"])
@pytest.mark.parametrize("transform", [None, PRUNE, SOFT])
@pytest.mark.parametrize("layer", [0, 2])
def test_prompt_and_steps_are_what_the_method_says(kind: str, transform: Any, layer: int) -> None:
    model = decoder(kind, **({"sliding_window": None} if kind == "Mistral" else {}))
    ids = prompt()
    further = [prompt(n=1, seed=5), prompt(n=3, seed=6), prompt(n=1, seed=7)]
    with torch.no_grad(), shorten(model, transform, layer=layer) as handle:
        output = model(ids, use_cache=True)
        T = handle.transforms[layer]
        cache = output.past_key_values
        assert [cache.get_seq_length(i) for i in range(4)] == [N if i <= layer else M for i in range(4)]
        logits = [output.logits]
        for tokens in further:
            logits.append(model(tokens, past_key_values=cache).logits)
        handle.remove()
        want = by_hand(model, torch.cat([ids, *further], 1), layer, T)
    torch.testing.assert_close(torch.cat(logits, 1), want, atol=2e-4, rtol=1e-4)
    edges = torch.cat([torch.arange(SINK), torch.arange(N - RECENT, N)])
    assert bool((T.P[:, [*range(SINK), *range(M - RECENT, M)]][:, :, edges] == torch.eye(len(edges))).all())
    assert torch.equal(T.centres.sort(1).values, T.centres)
    if transform is SOFT:
        torch.testing.assert_close(handle.mass.sum(1), torch.full((2,), float(N)))


def test_importance_is_the_last_tokens_attention() -> None:
    model = decoder(attn_implementation="eager")
    with torch.no_grad():
        attention = model(prompt(), output_attentions=True).attentions[1].mean(1)[:, -1]
        with shorten(model, PRUNE, layer=1) as handle:
            model(prompt())
            centres = handle.transforms[1].centres
    inner = attention[:, SINK : N - RECENT].topk(M - SINK - RECENT).indices.sort(1).values + SINK
    assert torch.equal(centres[:, SINK : M - RECENT], inner)


def test_short_prompts_and_removed_handles_leave_the_model_as_it_is() -> None:
    model = decoder()
    attributes = {name: module.__dict__.keys() for name, module in model.named_modules()}
    ids = prompt()
    with torch.no_grad():
        before = model(ids).logits
        budgets: tuple[dict[str, Any], ...] = ({"M": N}, {"M": 200}, {"M": None, "keep": 1.0})
        for budget in budgets:
            with shorten(model, **budget) as handle:
                assert torch.equal(model(ids).logits, before)
                assert handle.schedule(N) == {}
        with shorten(model) as handle:
            assert torch.equal(model(ids[:, :M]).logits, model(ids[:, :M]).logits)
            assert model(ids).logits.shape[1] == M
            assert compressed(model) is handle
        assert torch.equal(model(ids).logits, before)
    assert all(module.__dict__.keys() == attributes[name] for name, module in model.named_modules())


def test_padding_on_the_left_and_the_rest_of_the_batch_change_nothing() -> None:
    model = decoder()
    ids = prompt()
    mask = torch.ones_like(ids)
    mask[0, :7] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    for transform in (PRUNE, SOFT):
        with torch.no_grad(), shorten(model, transform) as handle:
            output = model(ids, attention_mask=mask, position_ids=positions)
            together, mass = output.logits[:, -1], handle.mass
            alone = model(ids[:1, 7:]).logits[:, -1]
            torch.testing.assert_close(together[:1], alone, atol=1e-4, rtol=1e-4)
            if transform is SOFT:
                torch.testing.assert_close(mass.sum(1), torch.tensor([N - 7.0, float(N)]))
            generated = model.generate(ids, attention_mask=mask, max_new_tokens=5, do_sample=False)[:, N:]
            short = model.generate(ids[:1, 7:], max_new_tokens=5, do_sample=False)[:, N - 7 :]
            assert torch.equal(generated[:1], short)


def test_prompts_shorter_than_the_budget_in_a_padded_batch() -> None:
    model = decoder()
    ids, mask = prompt(), torch.ones(2, N, dtype=torch.int64)
    mask[0, :20] = 0
    with torch.no_grad(), shorten(model, PRUNE) as handle:
        logits = model(ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)).logits
        assert float(handle.mass[0].sum()) == pytest.approx(10)
        assert int((handle.mass[0] > 0).sum()) == 10
        alone = model(ids[:1, 20:]).logits
    torch.testing.assert_close(logits[:1, -1], alone[:, -1], atol=1e-4, rtol=1e-4)


def test_generate_is_the_loop_over_steps_and_beams_do_not_mix_samples() -> None:
    model = decoder()
    ids = prompt()
    options = {"max_new_tokens": 6, "do_sample": False}
    with torch.no_grad(), shorten(model, SOFT):
        got = model.generate(ids, **options)
        output = model(ids, use_cache=True)
        steps = [output.logits[:, -1:].argmax(-1)]
        for _ in range(5):
            output = model(steps[-1], past_key_values=output.past_key_values)
            steps.append(output.logits[:, -1:].argmax(-1))
        assert torch.equal(got[:, N:], torch.cat(steps, 1))
        beams = model.generate(ids, num_beams=3, **options)
        for sample in range(2):
            own = model.generate(ids[sample : sample + 1], num_beams=3, **options)
            assert torch.equal(beams[sample : sample + 1, : own.shape[1]], own)


def test_caches_can_be_reordered_and_copied() -> None:
    model = decoder()
    ids, step = prompt(), prompt(n=1, seed=9)
    with torch.no_grad(), shorten(model, SOFT):
        cache = model(ids, use_cache=True).past_key_values
        twin = copy.deepcopy(cache)
        want = model(step, past_key_values=cache).logits
        twin.reorder_cache(torch.tensor([1, 0]))
        got = model(step.flip(0), past_key_values=twin).logits
        torch.testing.assert_close(got.flip(0), want, atol=1e-5, rtol=1e-5)
        twin.crop(-(N - 3))
        with pytest.raises(ValueError, match="cache was changed"):
            model(step, past_key_values=twin)


def test_what_reads_the_prompt_is_refused() -> None:
    import transformers as t

    model = decoder()
    ids = prompt()
    with torch.no_grad(), shorten(model):
        with pytest.raises(ValueError, match=r"labels cannot be used .* 30 tokens .* 14"):
            model(ids, labels=ids)
        model(ids[:, :M], labels=ids[:, :M])
        with pytest.raises(ValueError, match="logits_to_keep"):
            model(ids, logits_to_keep=RECENT + 1)
        mask = torch.ones_like(ids)
        mask[0, -1] = 0
        with pytest.raises(ValueError, match="pad on the left"):
            model(ids, attention_mask=mask)
        with pytest.raises(ValueError, match="DynamicCache"):
            model(ids, past_key_values=t.StaticCache(config=model.config, max_cache_len=64))
        with pytest.raises(ValueError, match="already"):
            shorten(model)
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"M": 6}, "M = 6 leaves no candidate"),
        ({"keep": 0.5}, "exactly one of M and keep"),
        ({"M": None}, "exactly one of M and keep"),
        ({"M": None, "keep": 1.5}, "keep must lie"),
        ({"layer": 4}, "layer = 4 .* depth 4"),
        ({"sink": -1}, "sink must be a whole number of at least 0"),
    )
    for wrong, message in cases:
        with pytest.raises(ValueError, match=message):
            shorten(model, **wrong)
    with pytest.raises(TypeError, match="not recognised"):
        compress_prefill(nn.Linear(3, 3), M=50)
    classifier = t.LlamaForSequenceClassification(model.config)
    with pytest.raises(TypeError, match="reads the prompt's tokens by their places"):
        shorten(classifier)
    with pytest.raises(TypeError, match="sliding windows"):
        shorten(decoder("Mistral", sliding_window=16))
    with pytest.raises(TypeError, match="model_type 'gemma'"):
        shorten(decoder("Gemma"))


def test_eager_attention_and_bfloat16() -> None:
    model = decoder()
    with torch.no_grad(), shorten(model, SOFT):
        want = model(prompt()).logits
        model.set_attn_implementation("eager")
        torch.testing.assert_close(model(prompt()).logits, want, atol=1e-4, rtol=1e-4)
        assert model.bfloat16()(prompt()).logits.dtype == torch.bfloat16


def test_gradients_flow() -> None:
    model = decoder()
    with shorten(model, SOFT):
        model(prompt()).logits[:, -1].square().sum().backward()
    assert float(model.model.layers[0].self_attn.v_proj.weight.grad.abs().sum()) > 0
