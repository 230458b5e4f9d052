"""Plans where activations live: one block of memory, reused by tensors that never live together.

An activation lives from the operation that writes it to the last one that reads it. The input and
the output of the network are the caller's memory. Behind the activations the runtime adds the
working memory of its own convolutions, which is no part of the file (:mod:`kernels.scratch`).
"""

from kernels.errors import ModelFormatError
from kernels.layout import BLOB_ALIGNMENT, align
from kernels.model import MAX_BYTES, Model
from kernels.scratch import model_scratch


def lifetimes(model: Model) -> dict[int, tuple[int, int]]:
    """Tensor number -> (operation that writes it, last operation that reads it)."""
    output = model.ops[-1].out
    lives: dict[int, tuple[int, int]] = {}
    for number, op in enumerate(model.ops):
        for read in op.activations:
            if read in lives:
                lives[read] = (lives[read][0], number)
        if op.out != output:
            lives[op.out] = (number, number)
    return lives


def arena_bytes(model: Model, offsets: dict[int, int]) -> int:
    """Bytes of an arena in which the activations lie at ``offsets``."""
    ends = (align(at + model.tensors[number].n_bytes) for number, at in offsets.items())
    return max(ends, default=0)


def working_bytes(model: Model) -> int:
    """Bytes that the runtime asks of its caller (``bs_arena_bytes``): arena and working memory."""
    return arena_bytes(model, plan_arena(model)) + align(model_scratch(model))


def plan_arena(model: Model) -> dict[int, int]:
    """Choose offsets: biggest tensor first, each at the lowest place that is free while it lives.

    Returns
    -------
    dict
        Tensor number -> byte offset, a multiple of 64.

    Raises
    ------
    ModelFormatError
        If arena and working memory would need 2 GiB or more.
    """
    lives = lifetimes(model)
    offsets: dict[int, int] = {}
    for number in sorted(lives, key=lambda i: (-model.tensors[i].n_bytes, i)):
        together = [i for i in offsets if _overlap(lives[i], lives[number])]
        taken = sorted((offsets[i], align(offsets[i] + model.tensors[i].n_bytes)) for i in together)
        place = 0
        for start, end in taken:
            if place + model.tensors[number].n_bytes <= start:
                break
            place = max(place, end)
        offsets[number] = place
    check_arena(model, offsets, arena_bytes(model, offsets))
    return offsets


def check_arena(
    model: Model, offsets: dict[int, int], n_bytes: int, *, at_least: bool = False
) -> None:
    """Check that the arena has the right size and that tensors living together do not overlap.

    Parameters
    ----------
    model, offsets
        As in :func:`plan_arena`.
    n_bytes
        What the file says.
    at_least
        Accept more: files of version 1.0 count working memory in.

    Raises
    ------
    ModelFormatError
        Names the first tensor that is in the way.
    """
    lives = lifetimes(model)
    expected, scratch = arena_bytes(model, offsets), align(model_scratch(model))
    if n_bytes < expected or (n_bytes > expected and not at_least):
        raise ModelFormatError(f"arena_bytes: expected {expected}, got {n_bytes}")
    if max(n_bytes, expected + scratch) > MAX_BYTES:
        raise ModelFormatError(
            f"arena_bytes: expected at most {MAX_BYTES}, got {n_bytes} and {scratch} to work in; "
            "use a smaller input"
        )
    for number, at in offsets.items():
        end = at + model.tensors[number].n_bytes
        if at % BLOB_ALIGNMENT:
            raise ModelFormatError(
                f"tensors[{number}].arena_off: expected a multiple of {BLOB_ALIGNMENT}, got {at}"
            )
        for other in (i for i in offsets if i < number):
            other_end = offsets[other] + model.tensors[other].n_bytes
            apart = end <= offsets[other] or other_end <= at
            if _overlap(lives[number], lives[other]) and not apart:
                raise ModelFormatError(
                    f"tensors[{number}].arena_off: overlaps tensor {other}, which lives as well"
                )


def _overlap(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a[0] <= b[1] and b[0] <= a[1]
