"""Fuzzes the reader and the runtime: ``python tests/kernels/fuzz/run.py COUNT [--seed SEED]``.

Builds ``fuzz.c`` and the sources of the library with gcc under AddressSanitizer and UBSan, and lets
it damage models in which all operations occur. Exit code 0 means: no finding.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from graphs import STEPS, Graph, every_operation

from kernels import DType, Model, write_model
from kernels.build import SOURCES
from kernels.panels import Layout

HERE = Path(__file__).resolve().parent
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
GOLDEN = sorted(HERE.parent.glob("golden_1_*.hex"))


def seed_models() -> list[Model]:
    """Models with every operation, and random ones."""
    inputs = (DType.U8, DType.I8, DType.BITS, DType.I32)
    models = [every_operation(dtype, seed=seed) for dtype in inputs for seed in (0, 1)]
    rng = np.random.default_rng(0)
    for seed in range(32):
        image = (int(rng.integers(1, 6)), int(rng.integers(1, 6)), int(rng.choice([1, 6, 33, 64])))
        graph = Graph(inputs[seed % 4], image, seed)
        models.append(graph.grow(rng.choice(list(STEPS), rng.integers(1, 6))).model())
    return models


def build(folder: Path) -> Path:
    """Compile the fuzzer."""
    sources = [str(HERE / "fuzz.c"), *sorted(map(str, SOURCES.glob("*.c")))]
    flags = ["-O1", "-g", "-std=c99", "-D_GNU_SOURCE", f"-I{SOURCES}", *SANITIZERS]
    subprocess.run(["gcc", *flags, *sources, "-o", str(folder / "fuzz")], check=True)
    return folder / "fuzz"


def fuzz(count: int, seed: int) -> subprocess.CompletedProcess[str]:
    """Run ``count`` damaged inputs; the output says how many were accepted."""
    with tempfile.TemporaryDirectory(prefix="bitspin-fuzz-") as name:
        folder = Path(name)
        files = [write_model(m, layout) for m in seed_models() for layout in Layout]
        files += [bytes.fromhex(path.read_text()) for path in GOLDEN]
        paths = [folder / f"{i}.bspn" for i in range(len(files))]
        for path, file in zip(paths, files, strict=True):
            path.write_bytes(file)
        command = [str(build(folder)), str(seed), str(count), *map(str, paths)]
        return subprocess.run(command, capture_output=True, text=True, check=False)


def main() -> int:
    """Parse the arguments, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if shutil.which("gcc") is None:
        print("gcc is missing: apt-get install gcc", file=sys.stderr)
        return 2
    done = fuzz(arguments.count, arguments.seed)
    print(done.stdout, done.stderr[-4000:], sep="", end="")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
