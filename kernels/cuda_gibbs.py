"""Half-steps of Gibbs sampling on CUDA: packed states of one layer in, those of the other out.

Draws are addressed as in :mod:`rbm.samplers.gibbs`, so that the states are those of the CPU: the
same bits where the sums are exact (integer weights), and otherwise wherever the uniform is not
within rounding of the probability. The kernels are ``cuda/gibbs.cu``.
"""

from functools import partial
from typing import Final, Literal

import torch
from torch import Tensor

from kernels.cuda_launch import Launcher
from kernels.cuda_packing import check_words, unpack, words_of
from kernels.cuda_sampling import bernoulli
from kernels.philox import Purpose, check_address

Path = Literal["fused", "product"]

FUSED_INPUTS: Final = {(8, 0): 2048, (9, 0): 4096}
"""Compute capability -> most inputs of the fused kernel. All states of 128 rows lie in shared
memory: of 2048 inputs 33 KB, of 4096 66 KB, and 41 KB of weights beside, twice on a multiprocessor
(164 KB on sm_80, 228 KB on sm_90). Beyond, a matrix product and a sampler. Not measured."""
_FUSED_INPUTS: Final = 2048
_MULTIPROCESSORS: Final = {(8, 0): 108, (9, 0): 132}
_STAGES: Final = 4
_PITCH_UNIT: Final = 8  # bfloat16 of one 16-byte copy


def padded_weights(weights: Tensor, out: Tensor | None = None) -> Tensor:
    """Weights as the kernels read them: bfloat16, rows filled up with zeros to 16 bytes.

    Parameters
    ----------
    weights
        Shape (n_visible, n_hidden), float32 or bfloat16.
    out
        Where to write, what an earlier call with that shape returned; allocated by default.

    Returns
    -------
    Tensor
        Shape (n_visible, n_hidden rounded up to 8), bfloat16.
    """
    n_visible, n_hidden = weights.shape
    pitch = -(-n_hidden // _PITCH_UNIT) * _PITCH_UNIT
    if out is None:
        out = weights.new_zeros((n_visible, pitch), dtype=torch.bfloat16)
    out[:, :n_hidden] = weights
    return out


def half_step(
    launcher: Launcher,
    states: Tensor,
    n_in: int,
    weights: Tensor,
    bias: Tensor,
    *,
    transposed: bool,
    seed: int,
    purpose: Purpose,
    step: int,
    index: int = 0,
    row_begin: int = 0,
    counter: Tensor | None = None,
    probabilities: Tensor | None = None,
    fields: Tensor | None = None,
    out: Tensor | None = None,
    path: Path | None = None,
    tile: int | None = None,
) -> Tensor:
    r"""Draw one layer given the other.

    .. math:: y_j = 1 \text{ if } u_j < \sigma(b_j + \sum_i x_i W_{ij}) \text{ else } 0

    Parameters
    ----------
    launcher
        Where to run; all tensors are there.
    states
        x, shape (rows, ceil(n_in / 32)), int32 words, contiguous.
    n_in
        Units given: n_visible, or n_hidden if ``transposed``.
    weights
        W, shape (n_visible, n_hidden), bfloat16, or what :func:`padded_weights` returns, which
        saves a copy where n_hidden is no multiple of 8.
    bias
        b, shape (n_out,), float32: of the units that are drawn.
    transposed
        Whether hidden units are given and visible ones drawn, :math:`W^\top` instead of W.
    seed, purpose, step, index
        The stream, as in :func:`kernels.random_words`.
    row_begin
        Global number of the first row.
    counter
        One int32 word on the device that is added to ``step``; None adds nothing.
    probabilities
        Where to write :math:`\sigma`, shape (rows, n_out), float32 or bfloat16; None writes none.
    fields
        Where to write its arguments, shape (rows, n_out), float32.
    out
        Where to write the states, shape (rows, ceil(n_out / 32)), int32; allocated by default.
    path
        ``"fused"``, or ``"product"``: matrix product, then sampler. By default
        :data:`FUSED_INPUTS` decides.
    tile
        Rows and columns of a block of the fused kernel, 128 or 64; by default 64 where there would
        be fewer blocks than multiprocessors.

    Returns
    -------
    Tensor
        y, shape (rows, ceil(n_out / 32)), int32 words.

    Raises
    ------
    TypeError, ValueError
        If shapes or dtypes do not fit together, or a number does not fit in its part of the
        counter.
    """
    check_words("states", states, n_in)
    check_address(seed, rows=row_begin, step=step, index=index)
    n_rows, n_out = states.shape[0], bias.shape[0]
    weights = _fitting_weights(weights, *((n_out, n_in) if transposed else (n_in, n_out)))
    if out is None:
        out = states.new_empty((n_rows, words_of(n_out)))
    _check("bias", bias, (n_out,), torch.float32)
    _check("out", out, (n_rows, words_of(n_out)), torch.int32)
    for name, tensor, dtypes in (
        ("probabilities", probabilities, (torch.float32, torch.bfloat16)),
        ("fields", fields, (torch.float32,)),
    ):
        if tensor is not None:
            _check(name, tensor, (n_rows, n_out), *dtypes)
    if path is None:
        path = "fused" if is_fused(launcher, n_in) else "product"
    if path == "product":
        field = _fields(launcher, states, n_in, weights, bias, transposed)
        words = bernoulli(
            *(launcher, field),
            seed=seed,
            purpose=purpose,
            step=step,
            index=index,
            row_begin=row_begin,
            counter=counter,
        )
        out.copy_(words)
        if fields is not None:
            fields.copy_(field)
        if probabilities is not None:
            probabilities.copy_(torch.sigmoid(field))
        return out
    tile = tile or _tile(launcher, n_rows, n_out)
    pitch = weights.shape[1]
    kernel = f"gibbs_transposed_{tile}" if transposed else f"gibbs_{tile}"
    bf16 = probabilities is not None and probabilities.dtype == torch.bfloat16
    launcher.launch(
        *("gibbs", kernel, (-(-n_rows // tile), -(-n_out // tile))),
        *(states, n_rows, n_in, n_out, weights, pitch, bias),
        *(seed, int(purpose), index, step, counter, row_begin, out),
        *(probabilities if bf16 else None, None if bf16 else probabilities, fields),
        shared_bytes=_shared_bytes(tile, n_in, transposed),
    )
    return out


def is_fused(launcher: Launcher, n_in: int) -> bool:
    """Whether :func:`half_step` is one kernel for ``n_in`` inputs by default."""
    return n_in <= FUSED_INPUTS.get(launcher.capability, _FUSED_INPUTS)


def advance(launcher: Launcher, counter: Tensor, by: int = 1) -> None:
    """Add ``by`` to a counter of steps, an int32 word on the device, after what was launched."""
    launcher.launch("gibbs", "advance_counter", 1, counter, by)


def _fields(
    launcher: Launcher,
    states: Tensor,
    n_in: int,
    weights: Tensor,
    bias: Tensor,
    transposed: bool,
) -> Tensor:
    matrix = weights[:, :n_in].T if transposed else weights[:, : bias.shape[0]]
    fields = _float32_product(unpack(launcher, states, n_in, torch.bfloat16), matrix)
    return fields.add_(bias)


def _float32_product(a: Tensor, b: Tensor) -> Tensor:
    """A product of bfloat16 matrices that is not rounded to bfloat16."""
    if a.device.type == "cuda":
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()


def _tile(launcher: Launcher, n_rows: int, n_out: int) -> int:
    blocks = -(-n_rows // 128) * -(-n_out // 128)
    return 128 if blocks >= _MULTIPROCESSORS.get(launcher.capability, 132) else 64


def _shared_bytes(tile: int, n_in: int, transposed: bool) -> int:
    """Four stages of weights and the states of the block, laid out as in ``gibbs.cuh``."""
    stage = tile * (64 + 16) if transposed else 32 * (2 * tile + 16)
    return _STAGES * stage + 4 * tile * (words_of(n_in) | 1)


def _fitting_weights(weights: Tensor, n_visible: int, n_hidden: int) -> Tensor:
    """The weights, filled up if they are not."""
    if weights.dtype != torch.bfloat16:
        raise TypeError(f"weights: expected bfloat16, got {weights.dtype}; use padded_weights()")
    pitch = -(-n_hidden // _PITCH_UNIT) * _PITCH_UNIT
    if weights.shape == (n_visible, pitch) and weights.data_ptr() % 16 == 0:
        return weights
    if weights.shape != (n_visible, n_hidden):
        raise ValueError(
            f"weights: expected shape {(n_visible, n_hidden)} for these states and bias, "
            f"got {tuple(weights.shape)}"
        )
    return padded_weights(weights)


def _check(name: str, tensor: Tensor, shape: tuple[int, ...], *dtypes: torch.dtype) -> None:
    if tensor.dtype not in dtypes or tuple(tensor.shape) != shape:
        raise ValueError(
            f"{name}: expected {' or '.join(map(str, dtypes))} of shape {shape}, "
            f"got {tensor.dtype} of shape {tuple(tensor.shape)}"
        )


class GibbsChain:
    """Chains of v given h, h given v, ... whose states never leave the device, nor their bits.

    A GPU replays a run as one CUDA graph from its second time on: what a launch costs, some
    microseconds, is what a small layer takes. The states are the same with and without.

    Parameters
    ----------
    launcher
        Where to run.
    weights, visible_bias, hidden_bias
        W, shape (n_visible, n_hidden), float32 or bfloat16, and the biases, float32. They are
        copied, W rounded to bfloat16; :meth:`load` replaces them.
    n_chains
        Chains.
    seed
        64-bit.
    row_begin
        Global number of the first chain.
    probabilities
        Whether the last sweep of a run keeps p(h | v) in ``hidden_probabilities``.

    Attributes
    ----------
    launcher, n_visible, n_hidden
        As given.
    visible, hidden
        Current states, shapes (n_chains, ceil(n_visible / 32)) and (n_chains, ceil(n_hidden / 32)),
        int32 words. Read them; every run writes them anew.
    hidden_probabilities
        Shape (n_chains, n_hidden), bfloat16, or None.
    """

    def __init__(
        self,
        launcher: Launcher,
        weights: Tensor,
        visible_bias: Tensor,
        hidden_bias: Tensor,
        n_chains: int,
        *,
        seed: int,
        row_begin: int = 0,
        probabilities: bool = False,
    ) -> None:
        self.n_visible, self.n_hidden = weights.shape
        self.launcher, self._seed, self._row_begin = launcher, seed, row_begin
        self._weights = padded_weights(weights)
        self._visible_bias, self._hidden_bias = visible_bias.clone(), hidden_bias.clone()
        new_words = partial(torch.zeros, dtype=torch.int32, device=launcher.device)
        self.visible = new_words((n_chains, words_of(self.n_visible)))
        self.hidden = new_words((n_chains, words_of(self.n_hidden)))
        self.hidden_probabilities = (
            weights.new_zeros((n_chains, self.n_hidden), dtype=torch.bfloat16)
            if probabilities
            else None
        )
        self._counter = new_words(1)
        self._sweep = 0
        self._graphs: dict[int, torch.cuda.CUDAGraph | None] = {}
        self._has_graph = launcher.device.type == "cuda"

    @property
    def sweep(self) -> int:
        """Number of the next sweep."""
        return self._sweep

    def load(self, weights: Tensor, visible_bias: Tensor, hidden_bias: Tensor) -> None:
        """Go on with other parameters of the same shapes."""
        padded_weights(weights, self._weights)
        self._visible_bias.copy_(visible_bias)
        self._hidden_bias.copy_(hidden_bias)

    def start(self, visible: Tensor, *, sweep: int = 0) -> None:
        """Start from visible states, shape as ``visible``; the hidden ones are drawn given them.

        The draw has the number ``sweep``, the next sweep ``sweep + 1``.
        """
        self.visible.copy_(visible)
        self._go_to(sweep)
        self._draw_hidden(0, keep=True)
        self._go_to(sweep + 1)

    def resume(self, hidden: Tensor, *, sweep: int) -> None:
        """Go on from hidden states, shape as ``hidden``; the next sweep has number ``sweep``."""
        self.hidden.copy_(hidden)
        self._go_to(sweep)

    def probabilities_of(self, visible: Tensor) -> Tensor:
        """P(h | v) of states that are not those of the chains.

        Parameters
        ----------
        visible
            Shape (rows, ceil(n_visible / 32)), int32 words.

        Returns
        -------
        Tensor
            Shape (rows, n_hidden), bfloat16.
        """
        probabilities = self._weights.new_empty((len(visible), self.n_hidden))
        half_step(
            *(self.launcher, visible, self.n_visible, self._weights, self._hidden_bias),
            transposed=False,
            seed=self._seed,
            purpose=Purpose.GIBBS_HIDDEN,
            step=0,
            probabilities=probabilities,
        )
        return probabilities

    def run(self, n_sweeps: int, *, graph: bool | None = None) -> None:
        """Do sweeps: v given h, then h given v.

        Parameters
        ----------
        n_sweeps
            How many.
        graph
            Whether to replay a CUDA graph; by default where there can be one, and not the first
            time, which compiles the kernels.

        Raises
        ------
        ValueError
            If a graph is asked for where there is none.
        """
        if graph and not self._has_graph:
            raise ValueError(f"graph: expected a CUDA device, got {self.launcher.device}; use None")
        if graph is None:
            graph = self._has_graph and n_sweeps in self._graphs
        if graph:
            self._replay(n_sweeps)
        else:
            self._graphs.setdefault(n_sweeps, None)
            self._sweeps(n_sweeps)
        self._sweep += n_sweeps

    def _replay(self, n_sweeps: int) -> None:
        captured = self._graphs.get(n_sweeps)
        if captured is None:
            is_first = n_sweeps not in self._graphs
            if is_first:  # nothing can be loaded in a capture, neither kernels nor cuBLAS
                self._sweeps(n_sweeps)
            captured = self._graphs[n_sweeps] = self._capture(n_sweeps)
            if is_first:
                return
        captured.replay()

    def _capture(self, n_sweeps: int) -> torch.cuda.CUDAGraph:
        captured, device = torch.cuda.CUDAGraph(), self.launcher.device
        with torch.cuda.device(device):
            stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            with torch.cuda.graph(captured, stream=stream, capture_error_mode="thread_local"):
                self._sweeps(n_sweeps)
        return captured

    def _sweeps(self, n_sweeps: int) -> None:
        for i in range(n_sweeps):
            half_step(
                *(self.launcher, self.hidden, self.n_hidden),
                *(self._weights, self._visible_bias),
                transposed=True,
                seed=self._seed,
                purpose=Purpose.GIBBS_VISIBLE,
                step=i,
                row_begin=self._row_begin,
                counter=self._counter,
                out=self.visible,
            )
            self._draw_hidden(i, keep=i + 1 == n_sweeps)
        advance(self.launcher, self._counter, n_sweeps)

    def _draw_hidden(self, i: int, *, keep: bool) -> None:
        half_step(
            *(self.launcher, self.visible, self.n_visible),
            *(self._weights, self._hidden_bias),
            transposed=False,
            seed=self._seed,
            purpose=Purpose.GIBBS_HIDDEN,
            step=i,
            row_begin=self._row_begin,
            counter=self._counter,
            probabilities=self.hidden_probabilities if keep else None,
            out=self.hidden,
        )

    def _go_to(self, sweep: int) -> None:
        check_address(self._seed, rows=self._row_begin, step=sweep, index=0)
        self._sweep = sweep
        self._counter.fill_(sweep - (sweep >> 31 << 32))
