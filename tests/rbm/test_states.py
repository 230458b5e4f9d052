import pytest
import torch

from rbm.states import enumerate_bits, enumerate_spins, state_numbers


def test_site_i_is_bit_i() -> None:
    expected = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert enumerate_bits(3, 0, 5).tolist() == expected


def test_spins_are_plus_one_where_the_bit_is_one() -> None:
    assert enumerate_spins(2).tolist() == [[-1, -1], [1, -1], [-1, 1], [1, 1]]


def test_numbers_invert_enumeration() -> None:
    assert torch.equal(state_numbers(enumerate_bits(6)), torch.arange(64))


def test_bad_values_are_refused() -> None:
    with pytest.raises(ValueError, match="threshold"):
        state_numbers(torch.tensor([[0, 2]]))
    with pytest.raises(ValueError, match="n_sites"):
        enumerate_bits(63)
    with pytest.raises(ValueError, match="62 sites"):
        state_numbers(torch.zeros(1, 63))
