import numpy as np
import torch

from bnn.optimizers import Adam

N_STEPS = 5
# A dozen float32 roundings per step of values below 0.02.
TOLERANCE = 1e-7


def test_equals_algorithm_1_in_float64() -> None:
    beta_1, beta_2, eps, rate = 0.9, 0.999, 1e-8, 0.01
    m, v, parameter = np.zeros(7), np.zeros(7), np.linspace(-1, 1, 7)
    ours, adam = torch.from_numpy(parameter.astype(np.float32)), Adam(7)
    start = parameter.copy()
    for t in range(1, N_STEPS + 1):
        gradient = np.cos(np.arange(7.0) * t) * 10.0 ** np.arange(-3, 4)
        m = beta_1 * m + (1 - beta_1) * gradient
        v = beta_2 * v + (1 - beta_2) * gradient**2
        m_hat, v_hat = m / (1 - beta_1**t), v / (1 - beta_2**t)
        parameter = parameter - rate * m_hat / (np.sqrt(v_hat) + eps)
        ours += adam.change(torch.from_numpy(gradient.astype(np.float32)), t - 1, rate)
    np.testing.assert_allclose(ours.numpy() - start, parameter - start, atol=10 * TOLERANCE)
    assert np.abs(parameter - start).min() > 100 * TOLERANCE
