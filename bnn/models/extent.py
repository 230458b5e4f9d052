"""Which windows fit an input: small images and tables get smaller ones, so that all models build.

Rows and columns are decided one by one: a spectrogram of one row is convolved along its frames.
"""

from dataclasses import dataclass

Extent = tuple[int, int]
"""(height, width)."""

_HALVED_FROM = 4
_STEM_POOLED_FROM = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """Window of a convolution, each as (height, width), and the extent of what comes out."""

    kernel: Extent
    """Taps."""
    stride: Extent
    """1 or 2; an average or max-pool of this window and stride has the same output extent."""
    padding: Extent
    """Added on every side."""
    output: Extent
    """Extent of the output."""

    @property
    def keeps_extent(self) -> bool:
        """Whether nothing is halved."""
        return self.stride == (1, 1)


def keep_extent(extent: Extent, size: int = 3) -> Window:
    """Window of at most ``size`` taps with stride 1, padded so that the extent stays.

    Parameters
    ----------
    extent
        Of the input.
    size
        Odd. An axis shorter than that gets the largest odd window that it can hold.
    """
    kernel = (_odd_within(extent[0], size), _odd_within(extent[1], size))
    return Window(
        kernel=kernel, stride=(1, 1), padding=(kernel[0] // 2, kernel[1] // 2), output=extent
    )


def halve_extent(extent: Extent, size: int = 3) -> Window:
    """Window with stride 2 along each axis of 4 or more, as :func:`keep_extent` along the others.

    An extent n becomes n // 2, that of a pool by 2. For odd n the last row of the padded input
    would be one row too many, so one row less is added on every side. ``size`` is 3 or more.
    """
    kept = keep_extent(extent, size)
    halves = [n >= _HALVED_FROM for n in extent]
    stride = [2 if half else 1 for half in halves]
    padding = [p - (n % 2) * half for p, n, half in zip(kept.padding, extent, halves, strict=True)]
    return Window(
        kernel=kept.kernel,
        stride=(stride[0], stride[1]),
        padding=(padding[0], padding[1]),
        output=(extent[0] // stride[0], extent[1] // stride[1]),
    )


def stem_pool(extent: Extent) -> int:
    """Max-pool after the first convolution: 2 if both sides are 16 or more, else 1.

    Binary layers at full resolution cost four times as much and are fed by few channels.
    """
    return 2 if min(extent) >= _STEM_POOLED_FROM else 1


def _odd_within(extent: int, size: int) -> int:
    largest = min(extent, size)
    return largest - 1 + largest % 2
