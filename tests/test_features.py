"""The guides of bnn: every name exists, every row of larq is there, every block runs."""

import importlib
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn

from bnn import layers
from bnn.layers import BinaryLayer
from bnn.layers.recurrent import RecurrentCell
from bnn.lowering import LOWERINGS

DOCS = Path(__file__).parents[1] / "docs"
GUIDE = (DOCS / "bnn.md").read_text()
FEATURES = (DOCS / "features.md").read_text()
NAME = re.compile(r"`((?:bnn|kernels|torch)(?:\.\w+)+)")

LARQ = (
    "QuantDense QuantConv1D QuantConv2D QuantConv3D QuantDepthwiseConv2D QuantSeparableConv1D "
    "QuantSeparableConv2D QuantConv2DTranspose QuantConv3DTranspose QuantLocallyConnected1D "
    "QuantLocallyConnected2D pad_values NoOp SteSign ApproxSign SteHeaviside SwishSign "
    "MagnitudeAwareSign SteTern DoReFa optimizers.CaseOptimizer optimizers.Bop "
    "constraints.WeightClip activations.hard_tanh activations.leaky_tanh "
    "callbacks.HyperparameterScheduler metrics.FlipRatio context.quantized_scope "
    "context.metrics_scope math.sign math.heaviside BinaryAlexNet XNORNet DoReFaNet "
    "BinaryResNetE18 BiRealNet BinaryDenseNet28 MeliusNet22 RealToBinaryNet QuickNetSmall"
).split()


def exists(name: str) -> bool:
    """Whether ``name`` is a module, or an attribute or a field of what is one."""
    parts = name.split(".")
    for n_module in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:n_module]))
        except ModuleNotFoundError:
            continue
        for part in parts[n_module:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


@pytest.mark.parametrize("text", [GUIDE, FEATURES], ids=["bnn.md", "features.md"])
def test_every_name_can_be_imported(text: str) -> None:
    names = sorted(set(NAME.findall(text)))
    assert len(names) > 30
    assert [name for name in names if not exists(name)] == []
    assert not exists("bnn.layers.BinaryConv3d")
    assert not exists("bnn.nothing")


@pytest.mark.parametrize("name", LARQ)
def test_every_row_of_larq_is_there_with_an_answer(name: str) -> None:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in FEATURES.splitlines()
        if re.match(rf"\| {re.escape(name)}\b", line)
    ]
    assert len(rows) == 1
    assert len(rows[0]) == 4
    assert all(rows[0])


def test_the_guide_names_the_layers_without_an_integer_form() -> None:
    listed = re.search(r"and of these layers:\n(.*?)\.\n", GUIDE, flags=re.DOTALL)
    assert listed is not None
    binary = [
        name
        for name in layers.__all__
        if isinstance(kind := getattr(layers, name), type)
        and issubclass(kind, BinaryLayer | RecurrentCell)
        and kind is not BinaryLayer
        and kind not in LOWERINGS
    ]
    assert issubclass(layers.BinaryLSTMCell, nn.Module)
    assert sorted(re.findall(r"bnn\.layers\.(\w+)", listed[1])) == sorted(binary)


@pytest.fixture(scope="module")
def guide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, object]]:
    """Names after all blocks of the guide but those that need the package onnx."""
    namespace: dict[str, object] = {}
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("guide")
        patch.chdir(folder)
        patch.setenv("BITSPIN_HOME", str(folder))
        for block in blocks(with_onnx=False):
            exec(compile(block, "docs/bnn.md", "exec"), namespace)
        yield namespace


def blocks(*, with_onnx: bool) -> list[str]:
    found = re.findall(r"```python\n(.*?)```", GUIDE, flags=re.DOTALL)
    return [block for block in found if ("onnx" in block) == with_onnx]


def test_the_blocks_of_the_guide_run(guide: dict[str, object]) -> None:
    assert len(blocks(with_onnx=False)) == 13
    assert Path("digits.bspn").is_file()
    assert {"net", "integer_net", "own", "mixed", "codes", "recipe"} <= set(guide)


def test_the_block_about_onnx_runs(guide: dict[str, object]) -> None:
    if importlib.util.find_spec("onnx") is None:
        pytest.skip("the package onnx is missing")
    (block,) = blocks(with_onnx=True)
    exec(compile(block, "docs/bnn.md", "exec"), guide)
    assert Path("digits.onnx").stat().st_size > 1000


@pytest.mark.parametrize("name", ["bnn.md", "features.md"])
def test_the_guides_link_to_files_that_exist(name: str) -> None:
    for target in re.findall(r"\]\(([\w/-]+\.\w+)", (DOCS / name).read_text()):
        assert (DOCS / target).is_file(), target
