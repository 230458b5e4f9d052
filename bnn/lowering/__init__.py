"""From a trained network to the integer network, node by node.

:func:`integerize` traces the network, :data:`LOWERINGS` says what each layer becomes. A layer with
weights waits for what follows it (:mod:`bnn.lowering.values`), so that convolution, max-pool,
normalisation and sign become one operation.
"""

from bnn.lowering.graph import check_quantizers, trace
from bnn.lowering.table import LOWERINGS
from bnn.lowering.walk import integerize

__all__ = ["LOWERINGS", "check_quantizers", "integerize", "trace"]
