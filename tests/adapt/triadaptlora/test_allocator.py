"""Traces of growth against a plain replay of the rules, the budget, exact resume, and wrong use."""

import copy
import json
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel, get_peft_model
from torch.utils.data import TensorDataset

from adapt.triadaptlora.problem import Net, adapted, batch, config_of, configured, train, trainable
from linmap.adapt import RankAllocator, TriAdaptLinear, TriAdaptLoraConfig
from linmap.training import TrainingConfig
from linmap.training import train as run
from typed import present


def replay(norms_of_c, config, n_layers, limits, ranks):
    """Steps 1 to 3 of the method in plain Python: a generator that is sent (step, {name: ||C||_F}) and gives ranks."""
    target = config.target_total_rank or config.reference_rank * n_layers
    before = {name: norm / ranks[name] for name, norm in norms_of_c.items()}
    while True:
        step, norms_of_c = yield dict(ranks)
        total = sum(ranks.values())
        if total >= target or step <= config.init_warmup or step % config.incre_interval:
            continue
        now = {name: norm / ranks[name] for name, norm in norms_of_c.items()}
        score = {name: now[name] - before[name] for name in now}
        before = now
        m = min(1, (step - config.init_warmup) / (config.total_step - config.init_warmup))
        left = target - total
        n = math.floor(left * m) if config.growth == "linear" else math.floor(math.exp(m * math.log(left)) + 1e-9)
        n = min(max(n, 1), n_layers)
        free = sorted(name for name in ranks if ranks[name] < limits[name])
        for name in sorted(free, key=lambda name: -score[name])[:n]:
            added = min(config.add_rank, limits[name] - ranks[name], target - sum(ranks.values()))
            ranks[name] += added


def core_norms(allocator):
    found = {}
    for name, adapter in allocator.adapters.items():
        R = adapter.rank
        L, U = (getattr(adapter.map, key).detach().numpy()[:R, :R] for key in ("lower", "upper"))
        found[name] = float(np.linalg.norm(np.tril(L) + np.triu(U)))
    return found


@pytest.mark.parametrize("growth", ["linear", "nonlinear"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scaling": "rank", "grow_init": "paper"},
        {"init_warmup": 3, "incre_interval": 2, "total_step": 20, "incre_rank_num": 2},
        {"r_max": 4, "reference_rank": 4, "incre_rank_num": 3},
        {"storage": "append", "target_total_rank": 9, "init_c": "identity"},
    ],
)
def test_the_ranks_are_those_of_a_plain_replay_at_every_step(options, growth):
    model, allocator = adapted(growth=growth, **options)
    limits = {name: adapter.limit for name, adapter in allocator.adapters.items()}
    rule = replay(core_norms(allocator), allocator.config, 4, limits, dict(allocator.ranks()))
    assert next(rule) == allocator.ranks()
    optimizer = torch.optim.SGD(trainable(model), lr=0.5)
    for step in range(1, present(allocator.config.total_step) + 4):
        x, y = batch(step)
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
        norms = core_norms(allocator)
        event = allocator.step(step, optimizer)
        assert rule.send((step, norms)) == allocator.ranks(), step
        if event is not None:
            assert event.ranks == allocator.ranks()
            assert event is allocator.history[-1]
    assert sum(allocator.ranks().values()) == allocator.target


def test_the_history_alone_is_enough_for_a_replay():
    model, allocator = adapted()
    start = allocator.ranks()
    train(model, allocator, torch.optim.Adam(trainable(model), lr=0.01), range(1, 13))
    ranks, previous = start, None
    for event in json.loads(json.dumps(allocator.state_dict()))["history"]:
        if previous is not None:
            for name, score in event["scores"].items():
                assert score == pytest.approx(event["norms"][name] - previous["norms"][name], abs=1e-15)
        m = event["step"] / 12
        left = 12 - sum(ranks.values())
        n = min(max(math.floor(left * m), 1), 4)
        chosen = sorted(event["scores"], key=lambda name: (-event["scores"][name], name))[:n]
        assert (event["n"], event["threshold"]) == (n, event["scores"][chosen[-1]])
        assert event["ranks"] == {name: rank + (name in chosen) for name, rank in ranks.items()}
        ranks, previous = event["ranks"], event
    assert sum(ranks.values()) == 12


def test_scores_follow_the_norm_of_c_and_the_rank():
    _, allocator = adapted(init_rank=2)
    assert set(allocator.scores().values()) == {0.0}
    adapter = allocator.adapters["layer1"]
    norm = core_norms(allocator)["layer1"]
    with torch.no_grad():
        adapter.map.lower.mul_(3)
        adapter.map.upper.mul_(3)
    scores = allocator.scores()
    assert scores["layer1"] == pytest.approx(2 * norm / 2, rel=1e-12)
    assert [scores[name] for name in ("layer0", "layer2", "layer3")] == [0, 0, 0]


@given(
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(0, 3),
    st.sampled_from(["linear", "nonlinear"]),
    st.sampled_from(["prealloc", "append"]),
)
def test_the_budget_is_spent_and_never_passed(n_layers, reference, add, interval, warmup, growth, storage):
    config = configured(
        reference_rank=reference,
        incre_rank_num=add,
        incre_interval=interval,
        init_warmup=warmup,
        growth=growth,
        total_step=warmup + 10,
        storage=storage,
    )
    model = torch.nn.Sequential(
        *(TriAdaptLinear(torch.nn.Linear(6, 6), reference_rank=reference, storage=storage) for _ in range(n_layers))
    )
    allocator = RankAllocator(model, config)
    total = n_layers
    for step in range(1, warmup + interval * n_layers * reference + 1):
        allocator.step(step)
        grown = sum(allocator.ranks().values())
        assert total <= grown <= reference * n_layers
        total = grown
    assert total == reference * n_layers


def test_the_order_of_registration_does_not_decide_who_grows():
    traces = []
    for names in (["layer0", "layer1", "layer2", "layer3"], ["layer3", "layer1", "layer0", "layer2"]):
        net = Net(widths=(6, 6, 6, 6, 6))
        reordered = torch.nn.Module()
        for name in names:
            setattr(reordered, name, getattr(net, name))
        torch.manual_seed(0)
        config = configured()
        allocator = RankAllocator(get_peft_model(reordered, config), config)
        for adapter in allocator.adapters.values():  # alike, so that all scores are ties
            adapter.map.lower.data.fill_(0.02)
            adapter.map.upper.data.fill_(0.02)
        allocator._norms = allocator._normalised_norms()
        traces.append([allocator.step(step) and allocator.ranks() for step in range(1, 8)])
    assert traces[0] == traces[1]
    assert traces[0][0] == {"layer0": 2, "layer1": 1, "layer2": 1, "layer3": 1}


def test_growth_beyond_the_room_makes_room_for_weights_and_moments():
    outputs = []
    for r_max in (12, None):
        torch.manual_seed(0)
        net = Net(widths=(12, 12, 12, 12, 12))
        config = configured(reference_rank=3, target_total_rank=40, incre_rank_num=4, total_step=8, r_max=r_max)
        model = get_peft_model(net.double(), config)
        allocator = RankAllocator(model, config)
        optimizer = torch.optim.AdamW(trainable(model), lr=0.01)
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=12)
        parameters = trainable(model)
        for step in range(1, 13):
            x, y = batch(step, n_in=12, n_out=12)
            optimizer.zero_grad()
            loss = (model(x) - y).square().mean()
            loss.backward()
            optimizer.step()
            scheduler.step()
            allocator.step(step, optimizer)
        assert all(a is b for a, b in zip(parameters, trainable(model), strict=True))
        assert max(allocator.ranks().values()) > 8
        outputs.append(model(x))
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-12, atol=1e-12)


def test_a_state_goes_on_where_it_was_taken():
    model, allocator = adapted()
    optimizer = torch.optim.AdamW(trainable(model), lr=0.02)
    train(model, allocator, optimizer, range(1, 6))
    saved = json.loads(json.dumps(allocator.state_dict()))
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    moments = copy.deepcopy(optimizer.state_dict())
    train(model, allocator, optimizer, range(6, 14))

    for weights_first in (True, False):
        again, other = adapted(seed=1)
        if weights_first:
            again.load_state_dict(weights)
        other.load_state_dict(saved)
        again.load_state_dict(weights)
        optimizer = torch.optim.AdamW(trainable(again), lr=0.02)
        optimizer.load_state_dict(copy.deepcopy(moments))
        train(again, other, optimizer, range(6, 14))
        assert other.state_dict() == allocator.state_dict()
        for (name, ours), theirs in zip(again.state_dict().items(), model.state_dict().values(), strict=True):
            assert torch.equal(ours, theirs), name
        assert config_of(again).rank_pattern == allocator.ranks()


def test_no_two_of_a_hundred_seeds_draw_the_same_pieces():
    model, allocator = adapted()
    seeds = set()
    for seed in range(100):
        torch.manual_seed(seed)
        seeds.add(RankAllocator(model, allocator.config).state_dict()["seed"])
    assert len(seeds) == 100


@pytest.mark.parametrize("storage", ["prealloc", "append"])
def test_a_killed_training_resumes_to_the_same_weights(storage, tmp_path):
    data = TensorDataset(*batch(0))

    def loss(model, samples):
        return (model(samples[0]) - samples[1]).square().mean()

    def trained(out, stop=None, resume=False, seed=0):
        model, allocator = adapted(seed=seed, storage=storage)
        config = TrainingConfig(epochs=6, batch_size=8, lr=0.02, optimizer="adamw", schedule="linear")

        def kill(model, step):
            if step == stop:
                raise RuntimeError("killed")

        run(model, loss, data, config=config, out=out, resume=resume, callbacks=[allocator, kill],
            validate=lambda model: float(loss(model, data.tensors)))  # fmt: skip
        return model, allocator

    whole, allocator = trained(tmp_path / "whole")
    with pytest.raises(RuntimeError, match="killed"):
        trained(tmp_path / "killed", stop=7)
    model, resumed = trained(tmp_path / "killed", resume=True)
    assert resumed.state_dict() == allocator.state_dict()
    assert sum(resumed.ranks().values()) == 12
    for (name, ours), theirs in zip(model.state_dict().items(), whole.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


def test_the_best_weights_come_back_with_the_rank_that_they_had(tmp_path):
    """Also where a layer has outgrown its room since."""
    torch.manual_seed(0)
    config = configured(target_total_rank=40, incre_rank_num=4, total_step=16, incre_interval=4)
    model = get_peft_model(Net(widths=(12, 12, 12, 12, 12)), config)
    allocator = RankAllocator(model, config)
    values, ranks = iter([0.0, 1.0, 2.0, 3.0]), []

    def validate(model):
        ranks.append(allocator.ranks())
        return next(values)

    run(
        model,
        lambda model, samples: (model(samples[0]) - samples[1]).square().mean(),
        TensorDataset(*batch(0, torch.float32, 12, 12)),
        validate=validate,
        callbacks=[allocator],
        config=TrainingConfig(epochs=4, batch_size=4),
    )
    assert allocator.ranks() == ranks[0]
    assert max(ranks[-1].values()) > 8 > max(ranks[0].values())
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(Net(widths=(12, 12, 12, 12, 12)), tmp_path)
    assert config_of(again).rank_pattern == ranks[0]


def test_the_history_is_written_as_json(tmp_path):
    model, allocator = adapted()
    train(model, allocator, torch.optim.Adam(trainable(model)), range(1, 5))
    allocator.save_history(tmp_path / "history.json")
    rows = json.loads((tmp_path / "history.json").read_text())
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[-1]["ranks"] == allocator.ranks()
    assert {"scores", "threshold", "norms", "n", "grown"} <= rows[0].keys()


def test_scores_keep_no_graph_alive():
    _, allocator = adapted()
    assert all(isinstance(score, float) for score in allocator.scores().values())


# -- wrong use ---------------------------------------------------------------------------------------------------------


def test_total_step_is_needed_to_grow():
    with pytest.raises(ValueError, match="total_step is missing"):
        adapted(total_step=None)
    adapted(total_step=None, growth="none")


def test_a_budget_below_the_start_warns_with_both_numbers():
    with pytest.warns(UserWarning, match=r"budget of 7 ranks is below init_rank \* layers = 8"):
        _, allocator = adapted(target_total_rank=7, init_rank=2)
    assert allocator.step(1) is None


def test_a_budget_that_the_layers_cannot_hold_is_refused():
    with pytest.raises(ValueError, match=r"budget of 12 ranks .* 4 layers can have 8 at most \(r_max = 2\)"):
        adapted(r_max=2)


def test_steps_that_go_back_want_the_state():
    model, allocator = adapted()
    train(model, allocator, torch.optim.Adam(trainable(model)), range(1, 5))
    with pytest.raises(ValueError, match=r"global_step went back from 4 to 3; .*load_state_dict"):
        allocator.step(3)
    with pytest.raises(ValueError, match="from 1; got 0"):
        allocator.step(0)
    assert allocator.step(4) is None  # the same step again


def test_growth_before_any_optimiser_step_is_refused():
    model, allocator = adapted()
    with pytest.raises(ValueError, match="called before any optimiser step"):
        allocator.step(1, torch.optim.Adam(trainable(model)))


def test_growth_goes_on_from_a_state_before_the_next_optimiser_step():
    model, allocator = adapted()
    train(model, allocator, torch.optim.AdamW(trainable(model), lr=0.02), range(1, 4))
    again, other = adapted()
    other.load_state_dict(allocator.state_dict())
    other.step(4, torch.optim.AdamW(trainable(again), lr=0.02))
    assert other.state_dict()["step"] == 4


def test_a_norm_that_is_not_finite_names_its_layer_and_stops_growth():
    _, allocator = adapted()
    allocator.step(1)
    allocator.adapters["layer2"].map.lower.data[0, 0] = float("nan")
    ranks = allocator.ranks()
    with pytest.warns(RuntimeWarning, match="growth stops at step 2: the norm of C in layer2 is nan"):
        assert allocator.step(2) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert allocator.step(3) is None
    assert allocator.ranks() == ranks
    json.dumps(allocator.state_dict(), allow_nan=False)


def test_a_model_or_a_state_without_the_layers_is_refused():
    model, allocator = adapted()
    with pytest.raises(ValueError, match="no layer with a TriAdaptLoRA adapter named 'other'"):
        RankAllocator(model, allocator.config, "other")
    state = allocator.state_dict()
    state["ranks"] = {"elsewhere": 1}
    with pytest.raises(ValueError, match="of other layers; these are only in one: elsewhere"):
        allocator.load_state_dict(state)
    state["ranks"] = {**allocator.ranks()}
    train(model, allocator, torch.optim.Adam(trainable(model)), range(1, 5))
    with pytest.raises(ValueError, match="saved adapter has other ranks"):
        allocator.load_state_dict(state)


def test_appended_pieces_need_the_optimiser():
    model, allocator = adapted(storage="append")
    optimizer = torch.optim.Adam(trainable(model), lr=0.01, weight_decay=0.1)
    train(model, allocator, optimizer, range(1, 13))
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in trainable(model)}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.1}
    assert isinstance(allocator.config, TriAdaptLoraConfig)


@pytest.mark.parametrize("storage", ["prealloc", "append"])
@pytest.mark.parametrize("groups", [1, 2])
def test_any_scheduler_goes_on_through_growth(storage, groups):
    for scheduler in (
        lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda done: 1 / (done + 1)),
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, [0.1] * groups, 12),
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 12),
    ):
        model, allocator = adapted(storage=storage)
        parameters = trainable(model)
        cuts = [parameters[:5], parameters[5:]] if groups == 2 else [parameters]
        optimizer = torch.optim.AdamW([{"params": cut} for cut in cuts], lr=0.01)
        schedule = scheduler(optimizer)
        for step in range(1, 12):
            train(model, allocator, optimizer, [step])
            schedule.step()
        assert sum(allocator.ranks().values()) > len(allocator.ranks())
        assert len(optimizer.param_groups) == groups
        rates = {group["lr"] for group in optimizer.param_groups}
        assert rates == set(schedule.get_last_lr())


def test_grown_pieces_stand_in_the_optimiser_in_the_order_of_the_model():
    """By which an optimiser's state is saved and loaded."""
    model, allocator = adapted(storage="append")
    optimizer = torch.optim.AdamW(trainable(model), lr=0.01)
    train(model, allocator, optimizer, range(1, 10))
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in trainable(model)]
