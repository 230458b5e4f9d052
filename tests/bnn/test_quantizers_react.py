import pytest
import torch

from bnn.quantizers import RPReLU, RSign, approx_sign, ste_sign
from kernels import Purpose, normal


def normals(*shape: int) -> torch.Tensor:
    values = normal(6, Purpose.DIAGNOSTICS, torch.Size(shape).numel())
    return torch.from_numpy(values).double().reshape(shape)


def test_rsign_starts_as_approx_sign() -> None:
    x = normals(2, 3, 4, 5)
    assert torch.equal(RSign(3)(x), approx_sign(x))


def test_rsign_shifts_each_channel() -> None:
    module = RSign(2)
    with torch.no_grad():
        module.shift.copy_(torch.tensor([0.5, -0.5]))
    x = torch.tensor([[-0.5, 0.5], [-0.75, 0.25], [0.0, 0.0]], requires_grad=True)
    y = module(x)
    assert y.tolist() == [[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]]
    factor = torch.tensor([[1.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
    gradients = torch.autograd.grad(y, (x, module.shift), factor)
    assert gradients[0].tolist() == [[2.0, 2.0], [3.0, 4.5], [4.0, 5.0]]
    assert gradients[1].tolist() == [9.0, 11.5]


def test_rsign_takes_another_pseudo_gradient() -> None:
    x = torch.tensor([[0.75]], requires_grad=True)
    (gradient,) = torch.autograd.grad(RSign(1, ste_sign)(x), x)
    assert gradient.tolist() == [[1.0]]


def test_rprelu_starts_as_prelu_and_is_the_identity_at_slope_one() -> None:
    x = normals(2, 3, 4, 5)
    module = RPReLU(3).double()
    assert torch.equal(module(x), torch.where(x > 0, x, 0.25 * x))
    with torch.no_grad():
        module.slope.fill_(1.0)
    assert torch.equal(module(x), x)


def test_rprelu_values() -> None:
    module = RPReLU(2)
    with torch.no_grad():
        module.shift_in.copy_(torch.tensor([1.0, -1.0]))
        module.slope.copy_(torch.tensor([0.5, 0.25]))
        module.shift_out.copy_(torch.tensor([10.0, 20.0]))
    x = torch.tensor([[-3.0, -3.0], [-1.0, 1.0], [2.0, 2.0]])
    assert module(x).tolist() == [[9.0, 19.0], [10.0, 20.0], [13.0, 21.0]]


def test_rprelu_gradient_is_its_derivative() -> None:
    module = RPReLU(3).double()
    with torch.no_grad():
        module.shift_in.copy_(torch.tensor([0.3, -0.2, 0.1]))
        module.shift_out.copy_(torch.tensor([1.0, 2.0, 3.0]))
    x = normals(2, 3, 4)
    kinks = -module.shift_in.detach().view(3, 1)
    assert float((x - kinks).abs().min()) > 1e-3  # none within a step of the differences
    x.requires_grad_()

    def function(x, shift_in, slope, shift_out):
        parameters = {"shift_in": shift_in, "slope": slope, "shift_out": shift_out}
        return torch.func.functional_call(module, parameters, (x,))

    assert torch.autograd.gradcheck(function, (x, *module.parameters()))


@pytest.mark.parametrize("module", [RSign(3), RPReLU(3)])
def test_channels_are_checked_and_dtype_kept(module) -> None:
    assert module(torch.zeros(2, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16
    for shape in ((2, 4), (3,)):
        with pytest.raises(ValueError, match=r"x: expected shape \(N, 3, ...\), got"):
            module(torch.zeros(shape))
