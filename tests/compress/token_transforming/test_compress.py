"""`compress` on models of every family: what it leaves alone, what it computes, and what stands around the encoder."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.tiny_encoders import IMAGES, MLP, SIZES, TEXT, VISION, WORDS, inputs_of, spread, tiny, tiny_timm
from linmap.compress.encoders import find_encoder
from linmap.compress.token_transforming import TokenTransform, compress, compressed
from linmap.compress.vision_transformer import VisionTransformer
from typed import gradient_of, present

STAGES = (0.6, (0, 1))
FAMILIES = [*VISION, *TEXT, "timm", "timm_average", "ours"]


def model_of(name: str) -> tuple[Any, dict[str, Tensor]]:
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    if name.startswith("timm"):
        return tiny_timm(global_pool="avg" if name == "timm_average" else "token"), {"x": images}
    if name == "ours":
        model = VisionTransformer(16, 4, 3, 5, 32, 3, 4, generator=torch.Generator().manual_seed(0))
        return spread(model, 8.0).eval(), {"x": images}
    return tiny(name), inputs_of(name)


def tensor(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.last_hidden_state


@pytest.mark.parametrize("name", FAMILIES)
def test_nothing_changes_where_nothing_is_merged_and_after_removal(name: str) -> None:
    model, inputs = model_of(name)
    keys, kind = list(model.state_dict()), type(model)
    before = tensor(model(**inputs))
    attributes = {path: dict(module.__dict__) for path, module in model.named_modules()}
    n = 60
    budgets: tuple[dict[str, Any], ...] = (
        {"keep": 1.0},
        {"r": 0},
        {"schedule": {}},
        {"schedule": {1: n}},
        {"stages": (1.0, (0, 2))},
    )
    for budget in budgets:
        with compress(model, **budget) as handle:
            assert torch.equal(tensor(model(**inputs)), before)
            assert handle.transforms == {}
            assert torch.equal(handle.mass, torch.ones_like(handle.mass))
            assert (type(model), list(model.state_dict())) == (kind, keys)
    restores = [None, "end"] if name in TEXT else [None, "end", "block"]
    for restore in restores:
        with compress(model, stages=STAGES, restore=restore):
            assert not torch.equal(tensor(model(**inputs)).flatten()[:5], before.flatten()[:5])
            assert (type(model), list(model.state_dict())) == (kind, keys)
        assert torch.equal(tensor(model(**inputs)), before)
    for path, module in model.named_modules():
        assert module.__dict__.keys() == attributes[path].keys()
        assert not module._forward_pre_hooks
        assert not module._forward_hooks


def heads_of(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def by_hand(model: Any, x: Tensor, schedule: dict[int, int], settings: TokenTransform) -> tuple[Tensor, Tensor, list]:
    """A compressed pass through a ViT of timm's form or ours, with attention written out."""
    mass = torch.ones(x.shape[:2])
    transforms = []
    for layer, block in enumerate(model.blocks):
        attention = block.attn
        qkv = attention.qkv(block.norm1(x)).unflatten(-1, (3, -1))
        q, k, v = (heads_of(part, attention.num_heads) for part in qkv.unbind(-2))
        if hasattr(attention, "q_norm"):
            q, k = attention.q_norm(q), attention.k_norm(k)
        A = (q @ k.mT * attention.scale + mass.log()[:, None, None]).softmax(-1)
        y = attention.proj((A @ v).transpose(1, 2).flatten(2))
        x = x + (block.ls1(y) if hasattr(block, "ls1") else y)
        if layer in schedule:
            transform = settings.build(x, M=schedule[layer], importance=A.mean(1)[:, 0], mass=mass, k=k.mean(1))
            x, mass = transform.matrix() @ x, transform.mass_out
            transforms.append(transform)
        y = block.mlp(block.norm2(x))
        x = x + (block.ls2(y) if hasattr(block, "ls2") else y)
    return model.norm(x), mass, transforms


@pytest.mark.parametrize("name", ["timm", "ours"])
@pytest.mark.parametrize("settings", [TokenTransform(), TokenTransform(assign="hard", feature="k", tau=0.1)])
def test_a_pass_is_what_the_method_says(name: str, settings: TokenTransform) -> None:
    model, inputs = model_of(name)
    tokens: list[Tensor] = []
    hook = model.blocks[0].register_forward_pre_hook(lambda _, args: tokens.append(args[0]))
    schedule = {0: 12, 2: 7}
    with compress(model, schedule=schedule, transform=settings) as handle:
        got = model.forward_features(inputs["x"])
        restored = handle.restore(got)
        want, mass, transforms = by_hand(model, tokens[0], schedule, settings)
        torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(handle.mass, mass, atol=1e-5, rtol=1e-5)
        assert list(handle.transforms) == [0, 2]
        W = transforms[1].matrix() @ transforms[0].matrix()
        R = transforms[0].P.mT @ transforms[1].P.mT
        torch.testing.assert_close(handle.matrix(), W, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(handle.recovery(), R, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(restored, R @ want, atol=5e-5, rtol=1e-4)
        torch.testing.assert_close(handle.recovery().sum(-1), torch.ones(2, 17))
        torch.testing.assert_close(handle.mass.sum(-1), torch.full((2,), 17.0))
        hard = handle.recovery(hard=True)
        assert torch.equal(hard.argmax(-1), R.argmax(-1))
        torch.testing.assert_close(handle.restore(got, hard=True), hard @ got, atol=1e-5, rtol=1e-5)
        pooled = (mass[:, 1:, None] * want[:, 1:]).sum(1) / mass[:, 1:].sum(1, keepdim=True)
        torch.testing.assert_close(handle.pool(got, skip=1), pooled, atol=2e-5, rtol=1e-4)
    hook.remove()


def test_post_ln_layers_are_transformed_after_the_attentions_norm() -> None:
    model = tiny("bert")
    inputs = inputs_of("bert")
    inputs["attention_mask"][1, 9:] = 0
    schedule, settings = {0: 8, 1: 5}, TokenTransform()
    mass = inputs["attention_mask"].float()
    x = model.embeddings(inputs["input_ids"])
    for layer, block in enumerate(model.encoder.layer):
        own = block.attention.self
        q, k, v = (heads_of(part(x), 4) for part in (own.query, own.key, own.value))
        A = (q @ k.mT * 8**-0.5 + mass.log()[:, None, None]).softmax(-1)
        x = block.attention.output((A @ v).transpose(1, 2).flatten(2), x)
        if layer in schedule:
            received = (mass.unsqueeze(-1) * A.mean(1)).sum(1) / mass.sum(1, keepdim=True)
            transform = settings.build(x, M=schedule[layer], importance=received, mass=mass)
            x, mass = transform.apply(x), transform.mass_out
        x = block.output(block.intermediate(x), x)
    with compress(model, schedule=schedule) as handle:
        torch.testing.assert_close(model(**inputs).last_hidden_state, x, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(handle.mass, mass)


@pytest.mark.parametrize("name", ["vit", "dinov2", "clip", "siglip", "timm"])
def test_blocks_by_themselves(name: str) -> None:
    """x + R (block(W x) - W x), with proportional attention inside, in the one chosen block."""
    model, inputs = model_of(name)
    encoder = find_encoder(model)
    seen: list[tuple[Tensor, Any]] = []
    block = encoder.blocks[1]

    def part(role: str) -> nn.Module:
        return present(encoder.part(block, role))

    hook = block.register_forward_hook(lambda _, args, output: seen.append((args[0], output)))
    with compress(model, schedule={1: 9}, restore="block") as handle:
        model(**inputs)
        (x, got), transform = seen[0], handle.transforms[1]
        with pytest.raises(ValueError, match="restored by itself"):
            handle.matrix()
    hook.remove()
    y = transform.matrix() @ x
    inside = y
    h = part("attention_norm")(y)
    if name == "timm":
        out = block.get_submodule("attn")(h, attn_mask=transform.mass_out.log()[:, None, None])
    else:
        out = part("attention")(h, attention_mask=transform.mass_out.log()[:, None, None])[0]
    for module in encoder.branch_end(block, "after_attention"):
        out = module(out)
    inside = inside + out
    out = part("mlp")(part("mlp_norm")(inside))
    for module in encoder.branch_end(block, "after_mlp"):
        out = module(out)
    want = x + transform.P.mT @ (inside + out - y)
    torch.testing.assert_close(got, want, atol=3e-5, rtol=1e-4)
    projections = part("attention_norm")(x)
    assert transform.shape == (2, 9, projections.shape[1])


def repeated_images(seed: int = 0) -> Tensor:
    """Images of 16 patches, of which 5 differ."""
    generator = torch.Generator().manual_seed(seed)
    patches = torch.randn(5, 3, 4, 4, generator=generator)
    order = torch.tensor([0, 1, 2, 3, 4, 0, 0, 1, 2, 2, 2, 3, 4, 4, 1, 0])
    return patches[order].reshape(1, 4, 4, 3, 4, 4).permute(0, 3, 1, 4, 2, 5).reshape(1, 3, 16, 16)


@pytest.mark.parametrize("name", ["vit", "deit", "dinov2_registers", "clip", "siglip", "timm", "timm_average"])
def test_repeated_tokens_are_merged_exactly(name: str) -> None:
    """Attention, pooling and attention pooling by masses are those over the repeats: oracle 3 on whole models."""
    model, _ = model_of(name)
    model = model.double()
    encoder = find_encoder(model)
    for parameter_name, parameter in model.named_parameters():
        if "pos" in parameter_name and "projection" not in parameter_name:
            nn.init.zeros_(parameter)
    images = repeated_images().double()
    M = max(encoder.prefix_tokens, 1) + 5
    settings = TokenTransform(assign="hard", score="key_norm")
    with torch.no_grad():
        before = model(images)
        with compress(model, schedule={0: M}, transform=settings, restore="end") as handle:
            after = model(images)
            assert handle.transforms[0].shape[1] == M
    if name.startswith("timm"):
        torch.testing.assert_close(after, before, atol=1e-9, rtol=1e-9)
    else:
        torch.testing.assert_close(after.last_hidden_state, before.last_hidden_state, atol=1e-8, rtol=1e-8)
        torch.testing.assert_close(after.pooler_output, before.pooler_output, atol=1e-8, rtol=1e-8)


def test_permuted_patches_give_permuted_outputs() -> None:
    model, _ = model_of("timm")
    tokens = torch.randn(1, 17, 32, generator=torch.Generator().manual_seed(3)).double()
    order = torch.cat([torch.tensor([0]), 1 + torch.randperm(16, generator=torch.Generator().manual_seed(4))])
    model = model.double()
    with compress(model, stages=STAGES) as handle:
        plain = handle.restore(model.blocks(tokens))
        permuted = handle.restore(model.blocks(tokens[:, order]))
    torch.testing.assert_close(permuted, plain[:, order], atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("score", ["received", "cls"])
def test_padding_and_the_rest_of_the_batch_change_nothing(score: Any) -> None:
    model = tiny("bert")
    ids = inputs_of("bert")["input_ids"]
    mask = torch.ones_like(ids)
    mask[1, 10:] = 0
    padded = torch.cat([ids, torch.zeros(2, 4, dtype=ids.dtype)], 1)
    settings = TokenTransform(score=score)
    with torch.no_grad(), compress(model, schedule={0: 9, 2: 6}, transform=settings) as handle:
        alone = model(input_ids=ids[1:, :10]).last_hidden_state
        pooled = handle.pool(alone)
        together = model(input_ids=padded, attention_mask=torch.cat([mask, torch.zeros(2, 4, dtype=ids.dtype)], 1))
        torch.testing.assert_close(together.last_hidden_state[1:], alone, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(handle.pool(together.last_hidden_state)[1:], pooled, atol=1e-5, rtol=1e-5)
        assert torch.equal(handle.mass.sum(1).round(), torch.tensor([14.0, 10.0]))


def test_short_sentences_get_outputs_of_mass_zero() -> None:
    model = tiny("bert")
    inputs = inputs_of("bert")
    inputs["attention_mask"][0, 3:] = 0
    with torch.no_grad(), compress(model, schedule={0: 6}) as handle:
        assert bool(model(**inputs).last_hidden_state.isfinite().all())
        assert int((handle.mass[0] == 0).sum()) == 3
        assert float(handle.mass[0].sum()) == pytest.approx(3)


@pytest.mark.parametrize("name", ["vit", "dinov2", "clip", "siglip", "bert"])
def test_eager_attention_and_attentions_and_hidden_states(name: str) -> None:
    model, inputs = model_of(name)
    with torch.no_grad(), compress(model, stages=STAGES) as handle:
        fused = model(**inputs).last_hidden_state
        model.set_attn_implementation("eager")
        output = model(**inputs, output_attentions=True, output_hidden_states=True)
        torch.testing.assert_close(output.last_hidden_state, fused, atol=3e-5, rtol=1e-4)
        counts = [handle.transforms[0].shape[2], *(t.shape[1] for t in handle.transforms.values())]
        assert [a.shape[-1] for a in output.attentions] == [*counts]
        assert [h.shape[1] for h in output.hidden_states] == [*counts, counts[-1]]
        taps = [handle.restore(h) for h in output.hidden_states]
        handle.remove()
        model.set_attn_implementation("sdpa")
        with compress(model, stages=STAGES, restore="end"):
            restored = model(**inputs, output_hidden_states=True, return_dict=False)
    for tap, state in zip(taps, restored[-1], strict=True):
        torch.testing.assert_close(state, tap, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", ["Dinov2Backbone", "Dinov2WithRegistersBackbone"])
def test_backbones_give_whole_maps(name: str) -> None:
    import transformers as t

    config = getattr(t, name.replace("Backbone", "Config"))(**SIZES, **IMAGES, out_features=["stage1", "stage3"])
    torch.manual_seed(0)
    model = spread(getattr(t, name)(config)).eval()
    images = inputs_of("dinov2")["pixel_values"]
    with torch.no_grad(), compress(model, stages=STAGES) as handle:
        maps = model(images).feature_maps
        assert [m.shape for m in maps] == [(2, 32, 4, 4)] * 2
        assert len(handle.transforms) == 2


def test_heads_over_all_tokens_see_the_mean_by_masses() -> None:
    import transformers as t

    torch.manual_seed(0)
    dinov2 = spread(t.Dinov2ForImageClassification(t.Dinov2Config(**SIZES, **IMAGES))).eval()
    vision = SIZES | IMAGES | MLP
    siglip = spread(t.SiglipForImageClassification(t.SiglipConfig(vision_config=vision))).eval()
    clip = spread(t.CLIPForImageClassification(t.CLIPConfig(vision_config=vision))).eval()
    images = inputs_of("vit")["pixel_values"]
    for transform in (TokenTransform(), TokenTransform(assign="prune")):
        for model, inner, skip in ((dinov2, "dinov2", 1), (siglip, "vision_model", 0), (clip, "vision_model", 1)):
            with torch.no_grad(), compress(getattr(model, inner), stages=STAGES, transform=transform) as handle:
                tokens = getattr(model, inner)(images).last_hidden_state
                mean = handle.pool(tokens, skip=skip)
            read = torch.cat([tokens[:, 0], mean], 1) if inner == "dinov2" else mean
            with torch.no_grad(), compress(model, stages=STAGES, transform=transform):
                expected = model.get_submodule("classifier")(read)
                torch.testing.assert_close(model(images).logits, expected, atol=2e-5, rtol=1e-4)


def test_models_that_predict_for_each_token_get_all_of_them() -> None:
    import transformers as t

    torch.manual_seed(0)
    model = spread(t.BertForTokenClassification(t.BertConfig(**SIZES, **MLP, **WORDS))).eval()
    inputs = inputs_of("bert")
    with torch.no_grad(), compress(model, stages=STAGES):
        output = model(**inputs, labels=torch.zeros_like(inputs["input_ids"]))
        assert output.logits.shape == (2, 14, 2)
    with pytest.raises(ValueError, match=r"reads all tokens .* compress the encoder itself \(model.bert\)"):
        compress(model, stages=STAGES, transform=TokenTransform(assign="prune"))
    with torch.no_grad(), compress(model, stages=STAGES, transform=TokenTransform(assign="prune"), pruned="nearest"):
        assert model(**inputs).logits.shape == (2, 14, 2)


class Pooling(nn.Module):
    """SentenceTransformers' mean pooling, as far as it is read."""

    pooling_mode = "mean"
    include_prompt = True

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        mask = features["attention_mask"].unsqueeze(-1).float()
        pooled = (features["token_embeddings"] * mask).sum(1) / mask.sum(1)
        return features | {"sentence_embedding": pooled}


class Sentences(nn.Module):
    def __init__(self, pooling: nn.Module) -> None:
        super().__init__()
        self.bert, self.pooling = tiny("bert"), pooling

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        tokens = self.bert(**features).last_hidden_state
        return self.pooling(features | {"token_embeddings": tokens})["sentence_embedding"]


@pytest.mark.parametrize("transform", [TokenTransform(), TokenTransform(assign="prune")])
@pytest.mark.parametrize("real", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_sentence_embeddings_are_means_by_masses(transform: TokenTransform, real: bool) -> None:
    pooling: nn.Module = Pooling()
    if real:
        from sentence_transformers.sentence_transformer.modules import Pooling as RealPooling

        pooling = RealPooling(32)
    model = Sentences(pooling)
    inputs = inputs_of("bert")
    inputs["attention_mask"][1, 9:] = 0
    with torch.no_grad(), compress(model.bert, stages=STAGES, transform=transform) as handle:
        want = handle.pool(model.bert(**inputs).last_hidden_state)
    with torch.no_grad(), compress(model, stages=STAGES, transform=transform):
        torch.testing.assert_close(model(inputs), want, atol=1e-5, rtol=1e-5)


def test_pruned_tokens_are_restored_from_the_nearest() -> None:
    model, inputs = model_of("dinov2")
    prune = TokenTransform(assign="prune")
    with torch.no_grad(), compress(model, schedule={1: 8}, transform=prune, restore="end", pruned="nearest") as handle:
        restored = model(**inputs).last_hidden_state
        transform = handle.transforms[1]
    with torch.no_grad(), compress(model, schedule={1: 8}, transform=prune):
        kept = model(**inputs).last_hidden_state
    assert transform.nearest is not None
    torch.testing.assert_close(restored, kept.gather(1, transform.nearest.unsqueeze(-1).expand(-1, -1, 32)))


@pytest.mark.parametrize("name", ["vit", "timm", "bert"])
def test_gradients_flow_and_training_is_told(name: str) -> None:
    model, inputs = model_of(name)
    model.train()
    with pytest.warns(UserWarning, match="training mode"):
        handle = compress(model, stages=STAGES)
    tensor(model(**inputs)).square().sum().backward()
    encoder = handle.encoder
    for block in (encoder.blocks[0], encoder.blocks[-1]):
        value = present(encoder.part(block, "qkv" if name == "timm" else "value"))
        assert float(gradient_of(value.get_parameter("weight")).abs().sum()) > 0
    handle.remove()


@pytest.mark.parametrize("name", ["vit", "bert", "siglip", "timm"])
@pytest.mark.parametrize("restore", [None, "end"])
def test_autocast_and_other_types(name: str, restore: Any) -> None:
    model, inputs = model_of(name)
    with torch.no_grad(), compress(model, stages=STAGES, restore=restore) as handle:
        full = tensor(model(**inputs)).float()
        with torch.autocast("cpu", torch.bfloat16):
            tensor(model(**inputs))
        assert handle.mass.dtype == torch.float32
        half = {key: value.bfloat16() if value.is_floating_point() else value for key, value in inputs.items()}
        low = tensor(model.bfloat16()(**half))
        assert low.dtype == torch.bfloat16
        assert low.shape == full.shape
        assert handle.transforms[0].P.dtype == torch.float32


@pytest.mark.parametrize("name", ["dinov2", "bert", "timm"])
def test_copies_are_compressed_and_can_be_undone(name: str, tmp_path: Any) -> None:
    model, inputs = model_of(name)
    with torch.no_grad():
        before = tensor(model(**inputs))
        handle = compress(model, stages=STAGES)
        fewer = tensor(model(**inputs))
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(tensor(twin(**inputs)), fewer)
            own = compressed(twin)
            assert own is not None
            assert own is not handle
            own.remove()
            assert torch.equal(tensor(twin(**inputs)), before)
        assert compressed(model) is handle
        assert torch.equal(tensor(model(**inputs)), fewer)
        if name != "timm":
            model.save_pretrained(tmp_path)
            assert torch.equal(tensor(type(model).from_pretrained(tmp_path)(**inputs)), before)


def test_threads_do_not_meet() -> None:
    model, _ = model_of("timm")
    images = [torch.randn(b, 3, 16, 16, generator=torch.Generator().manual_seed(b)) for b in range(1, 9)]
    with torch.no_grad(), compress(model, stages=STAGES):
        alone = [model(x) for x in images]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda x: model(x.clone()), images * 3))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(alone * 3, together, strict=True))


def test_inference_mode_and_other_sizes_of_input() -> None:
    model = tiny("dinov2")
    with torch.inference_mode(), compress(model, stages=STAGES, restore="end") as handle:
        for side in (8, 16, 20, 4):
            n = 1 + (side // 4) ** 2
            assert model(torch.randn(1, 3, side, side)).last_hidden_state.shape[1] == n
            assert handle.mass.shape[1] == min([n, *handle.schedule(n).values()])


def test_signatures_stay_for_trainers_and_pipelines() -> None:
    import inspect

    model = tiny("bert")
    before = inspect.signature(model.forward)
    with compress(model, keep=0.7):
        assert inspect.signature(model.forward) == before


@pytest.mark.parametrize("score", ["auto", "received", "key_norm", "value_norm"])
@pytest.mark.parametrize("select", ["informative", "importance", "bipartite", "energy", "random"])
def test_every_way_runs_on_every_kind_of_block(score: Any, select: Any) -> None:
    transform = TokenTransform(select=select, score=score, assign="hard")
    for name in ("vit", "timm", "bert"):
        model, inputs = model_of(name)
        with torch.no_grad(), compress(model, schedule={0: 10, 1: 7}, transform=transform) as handle:
            assert tensor(model(**inputs)).isfinite().all()
            assert handle.mass.shape[1] == 7
            assert bool(torch.isclose(handle.mass.sum(1), torch.tensor(14.0 if name == "bert" else 17.0)).all())


def test_scores_of_the_users_own() -> None:
    shapes = []

    def score(q: Tensor, k: Tensor, v: Tensor, mass: Tensor) -> Tensor:
        shapes.append((q.shape, k.shape, v.shape, mass.shape))
        return k.mean((1, 3))

    for name in ("vit", "timm", "bert"):
        model, inputs = model_of(name)
        with torch.no_grad(), compress(model, schedule={1: 7}, transform=TokenTransform(score=score)):
            model(**inputs)
    assert [shape[0] for shape in shapes] == [(2, 4, 17, 8), (2, 4, 17, 8), (2, 4, 14, 8)]
    assert all(s[0] == s[1] == s[2] and s[3] == (2, s[0][2]) for s in shapes)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ours", "dinov2", "bert"])
@pytest.mark.parametrize("restore", [None, "end"])
@pytest.mark.usefixtures("annotations_unchecked")
def test_compiles_to_one_graph(name: str, restore: Any) -> None:
    model, inputs = model_of(name)
    graphs = []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    with torch.no_grad(), compress(model, stages=STAGES, restore=restore) as handle:
        want = tensor(model(**inputs))
        P = handle.transforms[1].P
        got = tensor(torch.compile(model, fullgraph=True, backend=backend)(**inputs))
        assert len(graphs) == 1
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(handle.transforms[1].P, P, atol=1e-5, rtol=1e-5)
