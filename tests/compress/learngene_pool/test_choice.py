"""Which model to take, and descendants without their pool."""

import copy
import json
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from compress.learngene_pool.models import images, labelled, pool_of, vit
from linmap.compress.learngene_pool import Config, Descendant, LearngenePool, VisionTransformer, choice
from linmap.compress.vision_transformer import DropPath
from linmap.errors import ArtifactError
from typed import of_class, other

POOL = pool_of()
COSTS = [POOL.cost(id) for id in range(57)]
SAME_COSTS = copy.copy(POOL)
SAME_COSTS.cost = lambda id: COSTS[id]  # counted once


# -- evaluation --------------------------------------------------------------------------------------------------------


def test_accuracies_are_those_of_each_configuration_alone():
    pool, data = pool_of(), labelled(50)
    pool.members[0].train()
    before = [module.training for module in pool.modules()]
    table = pool.evaluate(data, batch_size=16)
    assert [module.training for module in pool.modules()] == before
    assert list(table.columns) == ["id", "params", "macs", "accuracy"]
    assert list(table["id"]) == list(range(57))
    pool.eval()
    x, y = data.tensors
    with torch.no_grad():
        expected = [(pool(x, config=id).argmax(-1) == y).double().mean().item() for id in range(57)]
    assert list(table["accuracy"]) == pytest.approx(expected)
    assert pool.accuracy == dict(enumerate(table["accuracy"]))
    assert list(table["macs"]) == [cost.macs for cost in COSTS]


def test_some_ids_alone_are_evaluated_and_kept():
    pool = pool_of()
    assert list(pool.evaluate(labelled(), ids=[5, 2])["id"]) == [5, 2]
    pool.evaluate(labelled(), ids=[7])
    assert set(pool.accuracy) == {5, 2, 7}


def test_the_blocks_of_the_front_run_once_a_batch():
    pool, runs = pool_of(), []
    pool.members[0].get_submodule("blocks.0").register_forward_hook(lambda m, i, o: runs.append(len(i[0])))
    pool.evaluate(labelled(20), batch_size=10)
    assert runs == [10, 10]


# -- the frontier ------------------------------------------------------------------------------------------------------


@given(st.dictionaries(st.integers(0, 56), st.sampled_from([0.1, 0.2, 0.5, 0.7]), max_size=20))
def test_the_frontier_is_what_nothing_dominates(accuracy):
    pool = copy.copy(POOL)
    pool.accuracy = accuracy

    def dominates(a: int, b: int) -> bool:
        no_worse = COSTS[a].macs <= COSTS[b].macs and accuracy[a] >= accuracy[b]
        better = COSTS[a].macs < COSTS[b].macs or accuracy[a] > accuracy[b]
        return no_worse and (better or a < b)

    kept = [b for b in accuracy if not any(dominates(a, b) for a in accuracy if a != b)]
    assert pool.frontier() == sorted(kept, key=lambda id: COSTS[id].macs)


# -- building ----------------------------------------------------------------------------------------------------------


def id_of(pool: LearngenePool, built: Descendant) -> int:
    return pool.configs.index(built.config)


@given(st.lists(st.integers(13_000, 60_000), min_size=2, max_size=6), st.sampled_from(["params", "macs"]))
def test_a_larger_budget_never_gives_fewer_macs(budgets, kind):
    least = min(getattr(cost, kind) for cost in COSTS)
    found = []
    for budget in sorted(budget for budget in budgets if budget >= least):
        limits = {"max_params": None, "max_macs": None, "max_latency_ms": None, f"max_{kind}": budget}
        chosen = COSTS[choice.choose(SAME_COSTS, None, limits, "macs", None)]
        assert getattr(chosen, kind) <= budget
        found.append(chosen.macs)
        assert found[-1] == max(cost.macs for cost in COSTS if getattr(cost, kind) <= budget)
    assert found == sorted(found)


def test_the_best_recorded_accuracy_under_the_budget():
    pool = copy.copy(POOL)
    budget = int(np.median([cost.macs for cost in COSTS]))
    fitting = [id for id in range(57) if COSTS[id].macs <= budget]
    beyond = next(id for id in range(57) if COSTS[id].macs > budget)
    pool.accuracy = {fitting[0]: 0.5, fitting[1]: 0.8, fitting[2]: 0.8, beyond: 0.9}
    expected = min((fitting[1], fitting[2]), key=lambda id: COSTS[id].macs)
    assert id_of(pool, pool.build(max_macs=budget, share=True)) == expected
    assert id_of(pool, pool.build(share=True)) == beyond
    pool.accuracy = {beyond: 0.9}
    most = max(COSTS[id].macs for id in fitting)
    assert pool.build(max_macs=budget, share=True).cost.macs == most


def test_what_fits_nothing_is_refused_with_the_least_there_is():
    least = min(cost.macs for cost in COSTS)
    with pytest.raises(ValueError, match=f"max_macs=100: the smallest has {least} MACs"):
        POOL.build(max_macs=100)
    with pytest.raises(ValueError, match=f"the smallest has {min(c.params for c in COSTS)} parameters"):
        POOL.build(max_params=100, max_macs=1e9)
    with pytest.raises(ValueError, match=r"max_latency_ms=1e-06 here: the fastest takes [\d.]+"):
        pool_of((8, 12)).build(max_latency_ms=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"id": 57}, "config id 57"),
        ({"id": 1, "max_macs": 1e9}, "give the id, or budgets"),
        ({"objective": "size"}, "objective='size'"),
        ({"id": 0, "objective": "macs"}, "an id and objective were given"),
        ({"example": torch.zeros(1, 1, 8, 8)}, "example is what max_latency_ms is measured with"),
        ({"max_params": -1}, "max_params=-1"),
    ],
)
def test_bad_arguments_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        POOL.build(**options)


def test_latency_is_measured_and_the_best_that_is_fast_enough_is_taken(monkeypatch):
    pool = copy.copy(POOL)
    pool.accuracy = {0: 0.1, 5: 0.9, 7: 0.8}
    asked = []
    monkeypatch.setattr(choice, "latency_ms", lambda pool, id, x: asked.append(id) or {5: 9.0, 7: 3.0}[id])
    assert id_of(pool, pool.build(max_latency_ms=4, share=True)) == 7
    assert asked == [5, 7]


def test_milliseconds_are_those_of_the_clock():
    class Slow(torch.nn.Module):
        def forward(self, x, config):
            time.sleep(0.02)

    took = choice.latency_ms(other(Slow()), 0, torch.zeros(1))
    assert 19 < took < 60


def test_ids_may_be_numpys():
    pool = pool_of((8, 12))
    best = pool.evaluate(labelled()).sort_values("accuracy")["id"].iloc[-1]
    pool.set_config(best)
    assert type(pool.active) is int
    assert pool.build(best).config == pool.configs[best]
    assert pool.cost(best) == pool.cost(int(best))
    assert torch.equal(pool(images(2), config=best), pool(images(2)))


# -- descendants -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", [0, 2, 4, 12, 30, 56])
def test_a_descendant_is_its_configuration(id, tmp_path):
    pool, x = pool_of(), images(3)
    built = pool.build(id)
    assert built.config == pool.configs[id]
    assert built.cost == pool.cost(id)
    assert not built.training
    expected = pool(x, config=id)
    assert torch.equal(built(x), expected)
    built.save(tmp_path)
    loaded = Descendant.load(tmp_path)
    assert torch.equal(loaded(x), expected)
    assert (loaded.config, loaded.cost) == (built.config, built.cost)
    assert not loaded.training
    assert all(p.requires_grad for p in loaded.parameters())
    assert list(loaded.state_dict()) == list(built.state_dict())
    again = pool_of((8, 12, 16)).build(id)
    again.load_state_dict(built.state_dict())
    assert torch.equal(again(x), expected)


def test_a_copy_is_its_own_and_a_view_is_the_pools():
    pool, x = pool_of(), images(2)
    copied, shared = pool.build(30), pool.build(30, share=True)
    before = copied(x)
    with torch.no_grad():
        for p in pool.parameters():
            p.mul_(1.5)
    assert torch.equal(copied(x), before)
    assert torch.equal(shared(x), pool(x, config=30))
    assert {id(p) for p in shared.parameters()} <= {id(p) for p in pool.parameters()}
    assert not {id(p) for p in copied.parameters()} & {id(p) for p in pool.parameters()}


def test_it_has_positions_of_the_first_and_the_head_of_the_last_member_alone():
    pool = pool_of()
    id = pool.configs.index(Config((0, 2), ((0, 1),), (0,)))
    names = set(pool.build(id).state_dict())
    assert {"embedding.cls_token", "embedding.pos_embed", "norm.weight", "head.weight"} <= names
    tokens = [tuple(value.shape) for name, value in pool.build(id).state_dict().items() if "cls_token" in name]
    assert tokens == [(1, 1, 8)]
    assert pool.build(id).head.weight.shape == (3, 16)
    assert "embedding.head.weight" not in names
    assert not [name for name in names if name.startswith("embedding.blocks")]
    assert pool.members[0].get_parameter("head.weight").shape == (3, 8)  # the pool keeps its own


def test_drop_path_and_the_dtype_survive(tmp_path):
    pool = LearngenePool([vit(8, drop_path=0.4), vit(12, seed=1, drop_path=0.2)]).double()
    built = pool.build(pool.configs.index(Config((0, 1), ((1, 2),), (1,))))
    built.save(tmp_path)
    loaded = Descendant.load(tmp_path)
    rates = [[of_class(DropPath, block.drop_path1).p for block in part.children()] for part in loaded.parts]
    assert rates == [pytest.approx([0.0, 0.2]), pytest.approx([0.2])]
    assert {p.dtype for p in loaded.parameters()} == {torch.float64}
    x = images(2).double()
    assert torch.equal(loaded(x), built(x))


def test_descendants_train():
    built, data = pool_of().build(30), labelled()
    x, y = data.tensors
    optimizer = torch.optim.Adam(built.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        loss = torch.nn.functional.cross_entropy(built(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(p.grad is not None for p in built.parameters())


def test_a_descendant_of_other_models_says_how_to_keep_it(tmp_path):
    from compress.learngene_pool.test_members import TimmLike

    built = LearngenePool([TimmLike(vit()), TimmLike(vit(seed=1))]).build(3)
    with pytest.raises(TypeError, match="state_dict"):
        built.save(tmp_path)


def test_a_damaged_folder_is_refused(tmp_path):
    POOL.build(30).save(tmp_path)
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace('"dim": 8', '"dim": 10'))
    with pytest.raises(ArtifactError, match="is damaged"):
        Descendant.load(tmp_path)


@pytest.mark.slow
def test_onnx_gives_the_same_logits(tmp_path):
    import onnxruntime

    built, x = pool_of().build(40), images(3)
    file = tmp_path / "model.onnx"
    torch.onnx.export(built, (x,), file, input_names=["x"], output_names=["logits"], dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"x": x.numpy()})
    np.testing.assert_allclose(of_class(np.ndarray, found), built(x).detach().numpy(), rtol=1e-4, atol=1e-4)


# -- pools on disk -----------------------------------------------------------------------------------------------------


def test_a_pool_comes_back_as_it_was(tmp_path):
    pool, x = pool_of(kernel=3, share_stitch=False, combos=[(0,), (2,), (0, 2)]), images(2)
    pool.evaluate(labelled(), ids=[0, 3])
    pool.set_config(3)
    pool.save(tmp_path)
    loaded = LearngenePool.load(tmp_path)
    assert loaded.configs == pool.configs
    assert (loaded.active, loaded.accuracy, loaded.options) == (3, pool.accuracy, pool.options)
    assert not loaded.training
    for id in range(len(pool.configs)):
        assert torch.equal(loaded(x, config=id), pool(x, config=id))


def test_a_pool_that_holds_one_model_twice_is_saved(tmp_path):
    model, x = vit(), images(2)
    pool = LearngenePool([model, model]).eval()
    pool.save(tmp_path)
    assert torch.equal(LearngenePool.load(tmp_path)(x, config=4), pool(x, config=4))


def test_given_members_take_the_weights(tmp_path):
    pool, x = pool_of((8, 12)), images(2)
    pool.save(tmp_path)
    members = [vit(8, seed=7), vit(12, seed=8)]
    loaded = LearngenePool.load(tmp_path, members)
    assert loaded.members[0] is members[0]
    assert torch.equal(loaded(x, config=4), pool(x, config=4))


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([vit(8, heads=4), vit(12)], r"4 heads \(num_heads\).*2"),
        ([vit(8), vit(16)], "16 width"),
        ([vit(8, 4), vit(12, 4)], "4 depth"),
        ([vit(8)], "has 2 members, got 1"),
    ],
)
def test_members_of_other_sizes_are_refused(members, words, tmp_path):
    pool_of((8, 12)).save(tmp_path)
    with pytest.raises(ValueError, match=words):
        LearngenePool.load(tmp_path, members)


def test_pools_of_other_models_need_their_members(tmp_path):
    from compress.learngene_pool.test_members import TimmLike

    pool, x = LearngenePool([TimmLike(vit()), TimmLike(vit(seed=1))]).eval(), images(2)
    pool.save(tmp_path)
    with pytest.raises(ValueError, match="give members"):
        LearngenePool.load(tmp_path)
    loaded = LearngenePool.load(tmp_path, [TimmLike(vit(seed=4)), TimmLike(vit(seed=5))])
    assert torch.equal(loaded(x, config=3), pool(x, config=3))


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(ArtifactError, match="not a saved run"):
        LearngenePool.load(tmp_path)
    POOL.build(3).save(tmp_path)
    with pytest.raises(ArtifactError, match=r"one model of a pool; Descendant\.load reads it"):
        LearngenePool.load(tmp_path)
    POOL.save(tmp_path / "pool")
    with pytest.raises(ArtifactError, match="holds a whole pool"):
        Descendant.load(tmp_path / "pool")
    assert VisionTransformer is type(POOL.members[0])


def edited(folder, *place, to):
    """Change one entry of a saved configuration."""
    path = folder / "config.json"
    header = json.loads(path.read_text())
    at = header["config"]
    for name in place[:-1]:
        at = at[name]
    at[place[-1]] = to
    path.write_text(json.dumps(header))


@pytest.mark.parametrize(
    ("place", "to"),
    [
        (("active",), 77),
        (("accuracy",), {"77": 0.5}),
        (("options", "other"), 3),
        (("sizes",), [1, 2]),
        (("members",), None),
        (("sizes", 0), {"heads": 2}),
        (("sizes", 0, "eps"), 1e-3),
        (("options", "nearest"), True),
    ],
)
def test_edited_pools_are_refused(place, to, tmp_path):
    POOL.save(tmp_path)
    edited(tmp_path, *place, to=to)
    with pytest.raises(ArtifactError):
        LearngenePool.load(tmp_path)


@pytest.mark.parametrize(("name", "to"), [("points", [[9, 9]]), ("members", [0]), ("points", [])])
def test_a_descendant_whose_configuration_was_edited_is_refused(name, to, tmp_path):
    POOL.build(3).save(tmp_path)
    edited(tmp_path, "config", name, to=to)
    with pytest.raises(ArtifactError, match="is damaged"):
        Descendant.load(tmp_path)


def test_heads_that_were_edited_everywhere_are_refused(tmp_path):
    POOL.save(tmp_path)
    edited(tmp_path, "sizes", 0, "heads", to=4)
    edited(tmp_path, "members", 0, "num_heads", to=4)
    with pytest.raises(ArtifactError, match=r"config\.json was edited"):
        LearngenePool.load(tmp_path)


@pytest.mark.parametrize(
    "place",
    [("members", 0, "heads"), ("members", 1, "heads"), ("members", 0, "eps"), ("config", "layers"), ("drop_path", 0)],
)
def test_a_descendant_whose_config_computes_something_else_is_refused(place, tmp_path):
    model = POOL.build(3)
    model.save(tmp_path)
    assert torch.equal(Descendant.load(tmp_path)(images(2)), model(images(2)))
    to = {"heads": 4, "eps": 1e-3, "layers": [1], 0: [0.5]}[place[-1]]
    edited(tmp_path, *place, to=to)
    with pytest.raises(ArtifactError, match=r"config\.json was edited"):
        Descendant.load(tmp_path)


@pytest.mark.parametrize("y", [torch.zeros(4, 1, dtype=torch.long), torch.full((4, 3), 1 / 3)])
def test_accuracy_needs_a_class_for_each_sample(y):
    with pytest.raises(ValueError, match=r"y of the data has shape \(4, "):
        POOL.evaluate(TensorDataset(images(4), y))


def test_logits_that_are_not_finite_find_no_class():
    pool = pool_of((8, 12))
    with torch.no_grad():
        pool.members[0].get_parameter("head.weight").fill_(torch.nan)
    table = pool.evaluate(TensorDataset(images(6), torch.zeros(6, dtype=torch.long)), ids=[0])
    assert table["accuracy"].tolist() == [0.0]


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
def test_onnx_gives_the_logits_of_a_descendant(training, tmp_path):
    import onnxruntime

    model = POOL.build(3).train(training)
    path = model.export(tmp_path / "model.onnx")
    assert model.training == training
    model.eval()
    session = onnxruntime.InferenceSession(path)
    for n in (1, 5):
        found = session.run(None, {"images": images(n).numpy()})[0]
        np.testing.assert_allclose(of_class(np.ndarray, found), model(images(n)).detach(), rtol=1e-4, atol=1e-5)


def test_descendants_of_other_models_need_an_example_to_be_exported(tmp_path):
    from compress.learngene_pool.test_members import TimmLike

    model = LearngenePool([TimmLike(vit()), TimmLike(vit(seed=1))]).build(3)
    with pytest.raises(ValueError, match="give an example of the inputs"):
        model.export(tmp_path / "model.onnx")
