import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from linmap.errors import Stopped
from linmap.interpret.householder_projector import FineTuning, HouseholderProjector, finetune, project_layers
from linmap.interpret.householder_projector.adversaries import Adversaries
from linmap.interpret.householder_projector.discriminator import Discriminator
from typed import gradient_of, other, tensor

pytestmark = pytest.mark.usefixtures("annotations_unchecked")
QUICK = FineTuning(objective="both", steps=4, batch_size=4, warmup=1, r1_every=2, lr=0.01)


class Generator(nn.Module):
    """Codes of 5 to RGB of 8 x 8."""

    latent_dim = 5

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.main = nn.Sequential(
            nn.ConvTranspose2d(5, 6, 4, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.ConvTranspose2d(6, 3, 4, 2, 1),
            nn.Tanh(),
        )

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.main(z[..., None, None])


def swapped(rank: int = 3) -> tuple[Generator, Generator]:
    """The generator with a projector, and as it was."""
    plain = Generator()
    for weight in plain.parameters():
        nn.init.normal_(weight, std=0.3)
    with torch.no_grad():
        tensor(plain.main[0].weight).mul_(torch.tensor([3.0, 2, 1, 0.5, 0.2])[:, None, None, None])
    normalisation: Any = plain.main[1]
    normalisation.momentum = None
    plain(torch.randn(256, 5))  # statistics of its batch normalisation
    plain.eval()
    new = copy.deepcopy(plain)
    project_layers(new, ["main.0"], rank)
    return new, plain


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a | b)


def replaced(**changes: object) -> FineTuning:
    return FineTuning(**{**vars(QUICK), **changes})


def images(n: int = 9) -> torch.Tensor:
    return torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_without_images_the_generator_learns_from_the_one_that_was_and_no_global_state_changes():
    for objective in ("auto", "adversarial"):
        student, teacher = swapped()
        before, taught, state = weights(student), weights(teacher), torch.get_rng_state()
        history = finetune(student, teacher, settings=replaced(objective=objective))
        assert history.epochs[-1].step == 4
        assert not same(before, weights(student))
        assert same(taught, weights(teacher))
        assert torch.equal(state, torch.get_rng_state())
        assert all(weight.requires_grad for weight in [*student.parameters(), *teacher.parameters()])
        assert not student.training
        layer = student.main[0]
        assert isinstance(layer, HouseholderProjector)
        assert layer.orthogonality_error() < 1e-5


def test_matching_brings_the_generator_nearer_to_the_one_that_was():
    student, teacher = swapped(5)
    z = torch.randn(200, 5, generator=torch.Generator().manual_seed(3))
    before = (student(z) - teacher(z)).abs().mean()
    finetune(student, teacher, settings=replaced(objective="matching", steps=25, batch_size=16, average=0.8))
    assert (student(z) - teacher(z)).abs().mean() < 0.5 * before


def test_images_are_learnt_from_in_either_form_and_only_what_is_asked_is_trained():
    student, _ = swapped()
    pixels = (images() * 127.5 + 127.5).round().byte()
    twin = copy.deepcopy(student)
    finetune(student, images=pixels, settings=replaced(objective="auto", trained="projectors", flip=True))
    finetune(
        twin, images=pixels.float() / 127.5 - 1, settings=replaced(objective="auto", trained="projectors", flip=True)
    )
    assert same(weights(student), weights(twin))
    fresh = weights(swapped()[0])
    changed = {name for name, value in student.named_parameters() if not torch.equal(value, fresh[name])}
    assert changed == {"main.0.U", "main.0.V"}


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch):
    whole, teacher = swapped()
    finetune(whole, teacher, settings=QUICK)
    parts, _ = swapped()
    after_step = Adversaries.after_step

    def stopping(self: Adversaries, *given: Any) -> None:
        after_step(self, *given)
        if int(self.steps) == 3:
            raise KeyboardInterrupt

    settings = replaced(checkpoint_every=2)
    monkeypatch.setattr(Adversaries, "after_step", stopping)
    with pytest.raises((KeyboardInterrupt, Stopped)):
        finetune(parts, teacher, settings=settings, out=tmp_path)
    monkeypatch.setattr(Adversaries, "after_step", after_step)
    again, _ = swapped()
    finetune(again, teacher, settings=settings, out=tmp_path, resume=True)
    assert same(weights(again), weights(whole))


def test_each_loss_reaches_its_own_network():
    student, teacher = swapped()
    critic = Discriminator(3, 8, 8, features=4)
    options = {"matching": 1.0, "r1": 1.0, "r1_every": 1, "average": 0.9}
    both = Adversaries(student, critic, teacher, None, objective="adversarial", warmup=0, **options)
    z = torch.randn(4, 5)
    both(z, None).backward()
    found = [gradient_of(weight).clone() for weight in [*student.parameters(), *critic.parameters()]]
    both.zero_grad()
    drawn, real = student(z), teacher(z).detach()
    nn.functional.softplus(-critic(drawn)).mean().backward()
    of_student = [gradient_of(weight).clone() for weight in student.parameters()]
    both.zero_grad()
    real.requires_grad_()
    (slope,) = torch.autograd.grad(critic(real).sum(), real, create_graph=True)
    penalty = slope.square().flatten(1).sum(1).mean() / 2
    told = nn.functional.softplus(critic(drawn.detach())).mean() + nn.functional.softplus(-critic(real)).mean()
    (told + penalty).backward()
    of_critic = [torch.zeros_like(w) if w.grad is None else w.grad.clone() for w in critic.parameters()]
    torch.testing.assert_close(found, of_student + of_critic)


def test_the_average_moves_by_its_decay():
    student, teacher = swapped()
    both = Adversaries(
        student, None, None, teacher, objective="matching", warmup=0, matching=1.0, r1=0.0, r1_every=1, average=0.5
    )
    start = [weight.detach().clone() for weight in student.parameters()]
    with torch.no_grad():
        for weight in student.parameters():
            weight += 1
    for _ in range(20):
        both.after_step()
    decays = [min(0.5, (1 + step) / (10 + step)) for step in range(1, 21)]
    both.take_average()
    left = math.prod(decays)
    torch.testing.assert_close(list(student.parameters()), [weight + 1 - left for weight in start])


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 24), (2, 33, 20)])
def test_a_discriminator_is_built_to_the_images(shape):
    critic = Discriminator(*shape, features=4)
    assert critic(torch.randn(7, *shape)).shape == (7,)
    same_images = torch.randn(1, *shape).expand(4, *shape)
    assert critic(same_images).std() < 1e-4


def test_what_cannot_be_trained_is_refused():
    student, teacher = swapped()
    for call, message in (
        (lambda: finetune(student), "nothing to learn from"),
        (lambda: finetune(student, images=images(), settings=replaced(objective="both")), "needs teacher"),
        (lambda: finetune(student, teacher, images(), settings=replaced(objective="matching")), "does not look at"),
        (lambda: finetune(student, images=images()[:, :, :4]), r"shape \(N, 3, 8, 8\)"),
        (lambda: finetune(student, images=2 * images()), r"\[-1, 1\]"),
        (lambda: finetune(student, images=images() * math.nan), r"\[-1, 1\]"),
        (lambda: finetune(teacher, teacher, settings=replaced(trained="projectors")), "project_layers"),
        (lambda: Discriminator(3, 7, 20), "at least 8 x 8"),
        (lambda: replaced(objective="best"), "objective"),
        (lambda: replaced(average=1.0), "average"),
        (lambda: replaced(r1=-1.0), "r1"),
        (lambda: replaced(r1_every=0), "r1_every"),
        (lambda: replaced(lr=0.0), "lr"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="latent_dim"):
        finetune(other(nn.Linear(2, 2)), teacher)
    with pytest.raises(TypeError, match="images must be a tensor"):
        finetune(student, images=images().long())
