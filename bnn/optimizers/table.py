"""Optimizers of binary weights by name; one more is a file of this folder and a line here."""

from collections.abc import Callable
from functools import partial

from torch.optim.optimizer import ParamsT

from bnn.optimizers.bop import Bop
from bnn.optimizers.bop_2nd_order import Bop2ndOrder
from bnn.optimizers.flipping import FlipOptimizer

OPTIMIZERS: dict[str, Callable[[ParamsT], FlipOptimizer]] = {
    "bop": Bop,
    "bop_2nd_order": Bop2ndOrder,
    "bop_2nd_order_unbiased": partial(Bop2ndOrder, unbiased=True),
}
