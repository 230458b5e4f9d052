"""What a lowering is given beside its module and arguments."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from bnn.lowering.program import Program
from bnn.lowering.values import Label, Value, as_stream, float_range

_MARGIN: Final = 2.0**31 - 2.0**16
"""Bound of accumulators over a stream, with room for the rounding of its bounds."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Context:
    """The program, the node being lowered, and the network's binary point."""

    program: Program
    label: Label
    """Layer and node of the traced network."""
    point: int
    """Binary digits after the point of residual streams."""

    @property
    def name(self) -> str:
        """Layer: the module's path, or the node's name."""
        return self.label.name

    def value(self, value: Value) -> Value:
        """``value`` as the output of this layer."""
        return value.labelled(self.label)

    def stream(self, value: Value) -> Value:
        """Int32 tensor at the network's point."""
        return as_stream(self.program, value, self.point)

    def stream_for(self, value: Value, factor: float) -> tuple[Value, int]:
        """Int32 tensor whose greatest magnitude times ``factor`` is a sum that fits int32.

        Parameters
        ----------
        value
            Input of a layer with int8 weights.
        factor
            Largest sum of weights' magnitudes of an output, plus that of its bias.

        Returns
        -------
        tuple
            The stream and its point, the network's or a coarser one.
        """
        greatest = max(float_range(self.program, value), 2.0**-self.point)
        room = np.log2(_MARGIN / max(factor, 1.0) / greatest)
        # One unit of rounding more than the float bound: half a digit covers it.
        point = min(self.point, int(np.floor(room - 0.5)))
        if point < 0:
            raise ValueError(
                f"{self.name}: expected accumulators that fit int32, got values up to "
                f"{greatest:.3g} times weights up to {factor:.3g}; normalise before this layer"
            )
        return as_stream(self.program, value, point), point
