"""Against SciPy's rotations and the homogeneous matrices."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from linmap.maps import Rigid
from linmap.maps.rigid import nearest_rotation, rotation_from_frame
from typed import present


def drawn(dim=3, seed=0, batch_shape=()):
    return Rigid(dim, batch_shape=batch_shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(st.integers(1, 6), st.integers(0, 1000))
def test_rotations_are_proper_in_any_dimension(dim, seed):
    R = drawn(dim, seed, batch_shape=(3,)).rotation.detach()
    torch.testing.assert_close(R.mT @ R, torch.eye(dim, dtype=torch.float64).expand(3, -1, -1), atol=1e-12, rtol=0)
    torch.testing.assert_close(torch.linalg.det(R), torch.ones(3, dtype=torch.float64))


@given(st.integers(0, 1000))
def test_the_frame_of_a_rotation_gives_it_back_and_scipy_agrees(seed):
    R = Rotation.from_quat(np.random.default_rng(seed).standard_normal(4))
    frame = torch.from_numpy(R.as_matrix()[:, :2].T.copy())  # the first two columns, as rows
    stretched = frame * torch.tensor([[2.0], [0.5]]) + torch.tensor([[0.0], [3.0]]) * frame[:1]
    for six in (frame, stretched):  # Gram-Schmidt forgets lengths and the first vector's share in the second
        np.testing.assert_allclose(rotation_from_frame(six), R.as_matrix(), atol=1e-12)
    point = draw(3, seed=seed)
    motion = Rigid.from_matrix(torch.block_diag(torch.from_numpy(R.as_matrix()), torch.ones(1, 1).double()))
    np.testing.assert_allclose(motion.act(point).detach(), R.apply(point), atol=1e-12)


def test_the_plane_turns_as_cosine_and_sine_say():
    frame = torch.tensor([[0.6, 0.8]], dtype=torch.float64)
    torch.testing.assert_close(rotation_from_frame(frame), torch.tensor([[0.6, -0.8], [0.8, 0.6]]).double())


def test_starts_as_the_identity_and_at_random_with_a_generator():
    for dim in (1, 2, 3, 5):
        assert torch.equal(Rigid(dim).matrix(), torch.eye(dim + 1))
    assert not torch.equal(drawn().matrix(), torch.eye(4).double())


@given(st.integers(1, 5))
def test_act_is_the_homogeneous_product(dim):
    motion, points = drawn(dim), draw(7, dim)
    homogeneous = torch.cat([points, torch.ones(7, 1).double()], dim=-1)
    torch.testing.assert_close(motion(homogeneous)[:, :-1], motion.act(points))
    torch.testing.assert_close(motion.act(points[0]), motion.act(points)[0])
    torch.testing.assert_close(motion.inverse().act(motion.act(points)), points)
    torch.testing.assert_close(motion.inverse().act(points[0]), motion.inverse().act(points)[0])
    direction = torch.cat([points, torch.zeros(7, 1).double()], dim=-1)
    torch.testing.assert_close(motion(direction)[:, :-1], points @ motion.rotation.T)


def test_motions_preserve_distances_and_orientation():
    points = draw(6, 3)
    moved = drawn().act(points)
    torch.testing.assert_close(torch.cdist(moved, moved), torch.cdist(points, points))
    volume = [torch.linalg.det(p[1:4] - p[:1]) for p in (points, moved)]
    torch.testing.assert_close(volume[1], volume[0])


def test_a_batch_moves_each_cloud_its_own_way():
    motions, clouds = drawn(batch_shape=(4,)), draw(4, 6, 3)
    moved = motions.act(clouds)
    for R, t, cloud, result in zip(motions.rotation, motions.translation, clouds, moved, strict=True):
        torch.testing.assert_close(result, cloud @ R.T + t)


def test_motions_compose_as_their_matrices_do():
    a, b = drawn(seed=1), drawn(seed=2)
    points = torch.cat([draw(5, 3), torch.ones(5, 1).double()], dim=-1)
    product = Rigid.from_matrix((a @ b).matrix().detach())
    assert present(product.residual) < 1e-12
    torch.testing.assert_close(product.act(points[:, :3]), a.act(b.act(points[:, :3])))
    torch.testing.assert_close((a @ b)(points), product(points))


@given(st.integers(0, 1000))
def test_the_nearest_rotation_is_scipy_s(seed):
    """max tr(R^T A) is the Wahba problem that `Rotation.align_vectors` solves."""
    A = draw(3, 3, seed=seed)  # of negative determinant half the time
    expected = Rotation.align_vectors(A.numpy().T, np.eye(3))[0].as_matrix()
    np.testing.assert_allclose(nearest_rotation(A), expected, atol=1e-6)


def test_from_matrix_never_reflects():
    mirror = torch.diag(torch.tensor([1.0, 1.0, -1.0, 1.0]))
    found = Rigid.from_matrix(mirror)
    assert float(torch.linalg.det(found.matrix().detach())) == pytest.approx(1)
    assert present(found.residual) > 0.5


def test_gradients_reach_every_direction_at_the_identity():
    """Where angles and rotation vectors have their special points, the frame has none."""
    motion = Rigid(3, dtype=torch.float64)
    J = torch.autograd.functional.jacobian(rotation_from_frame, motion.frame.detach()).reshape(9, 6)
    assert torch.linalg.matrix_rank(J) == 3


def test_volume_is_kept():
    assert float(drawn().logabsdet()) == 0


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize("dim", [0, -1, 3.0, True])
def test_bad_dimensions_are_refused(dim):
    with pytest.raises(ValueError, match="dim must be a positive integer"):
        Rigid(dim)


def test_from_matrix_needs_a_homogeneous_matrix():
    for M in (torch.ones(3, 4), torch.ones(1, 1)):
        with pytest.raises(ValueError, match="square homogeneous matrix of size dim \\+ 1"):
            Rigid.from_matrix(M)


def test_points_on_a_grid_move_as_points_do():
    motion = Rigid(2, generator=torch.Generator().manual_seed(0))
    pixels = torch.arange(12).view(6, 2)
    for act in (motion.act, motion.inverse().act):
        torch.testing.assert_close(act(pixels), act(pixels.float()))
