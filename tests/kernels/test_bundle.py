"""The folder that export writes: the same bytes each time, and programs that give the runtime's scores."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kernels import DType, Model, Runtime, read_model, write_model
from kernels.build import build_library
from kernels.bundle import layout_of, write_bundle
from kernels.errors import ModelFormatError
from kernels.native import encode_images
from kernels.panels import Layout
from kernels.targets import TARGETS, host_target

WARNINGS = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O1")


@pytest.fixture(scope="module")
def model(make_network: Callable[..., Model]) -> bytes:
    network = make_network()
    metadata = {"labels": ["shirt", "ß", *map(str, range(8))], "output_scale": 0.25}
    return write_model(Model(network.ops, network.tensors, metadata))


def scores_of(model: bytes, image: bytes) -> list[int]:
    dims = read_model(model).tensors[0].dims
    pixels = np.frombuffer(image, np.uint8).reshape(1, *dims)
    return [int(score) for score in Runtime(model)(pixels)[0]]


def make_image(model: bytes, seed: int) -> bytes:
    tensor = read_model(model).tensors[0]
    return np.random.default_rng(seed).integers(0, 256, tensor.dims, dtype=np.uint8).tobytes()


def printed(scores: list[int]) -> str:
    best = scores.index(max(scores))
    return "".join(f"{i} {s}{' *' if i == best else ''}\n" for i, s in enumerate(scores))


@pytest.mark.arm
@pytest.mark.parametrize("target", TARGETS)
def test_two_exports_give_equal_bytes_and_sums(target: str, model: bytes, tmp_path: Path) -> None:
    names = write_bundle(model, target, tmp_path / "a")
    assert write_bundle(model, target, tmp_path / "b" / "deeper") == names
    assert set(names) == {path.name for path in (tmp_path / "a").iterdir()}
    for name in names:
        content = (tmp_path / "a" / name).read_bytes()
        assert content == (tmp_path / "b" / "deeper" / name).read_bytes()
    lines = (tmp_path / "a" / "SHA256SUMS").read_text().splitlines()
    sums = {name: digest for digest, name in (line.split("  ") for line in lines)}
    assert set(sums) == set(names) - {"SHA256SUMS"}
    for name, digest in sums.items():
        assert hashlib.sha256((tmp_path / "a" / name).read_bytes()).hexdigest() == digest
    row = TARGETS[target]
    assert {"bitspin.h", "model.bspn", "README.txt", row.library} <= set(names)
    assert (row.archive in names) == ("example.c" in names) == (target != "wasm32")
    assert ("Bitspin.swift" in names) == (target in ("aarch64-ios", "aarch64-macos"))
    assert ("Bitspin.java" in names) == target.endswith(("linux", "android"))


@pytest.mark.parametrize(
    ("target", "layout"),
    [
        ("x86_64-linux", Layout.LANES),
        ("aarch64-ios", Layout.VECTORS),
        ("armv7-linux", Layout.VECTORS),
        ("wasm32", Layout.ROWS),
    ],
)
def test_the_model_is_packed_for_the_target(target: str, layout: Layout) -> None:
    assert layout_of(target) is layout


@pytest.mark.arm
def test_every_target_has_the_same_logical_model(model: bytes, tmp_path: Path) -> None:
    files = {}
    for target in TARGETS:
        write_bundle(model, target, tmp_path / target)
        files[target] = (tmp_path / target / "model.bspn").read_bytes()
    digests = {read_model(file).metadata["logical_digest"] for file in files.values()}
    assert digests == {read_model(model).metadata["logical_digest"]}
    assert files["x86_64-linux"] != files["aarch64-linux"] != files["wasm32"]
    assert files["aarch64-android"] == files["aarch64-linux"]
    read_me = (tmp_path / "wasm32" / "README.txt").read_text()
    assert digests.pop() in read_me
    assert "0: shirt, 1: ß" in read_me
    assert "$" not in read_me


def test_a_damaged_model_writes_nothing(model: bytes, tmp_path: Path) -> None:
    damaged = bytearray(model)
    damaged[100] ^= 1
    with pytest.raises(ModelFormatError):
        write_bundle(bytes(damaged), "x86_64-linux", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unknown_target_lists_the_known_ones(model: bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="target: expected one of x86_64-linux"):
        write_bundle(model, "toaster", tmp_path)


def check_programs(folder: Path, compiler: list[str], run: list[str], model: bytes) -> None:
    """Compile and run both programs and compare what they print with the runtime here."""
    for program in ("example", "benchmark"):
        command = [*compiler, *WARNINGS, f"{program}.c", "libbitspin.a", "-o", program]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*run, str(folder / arguments[0]), *arguments[1:]]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True)

    for seed in (1, 2):
        image = make_image(model, seed)
        (folder / "image.raw").write_bytes(image)
        done = call("example", "model.bspn", "image.raw")
        assert (done.returncode, done.stdout) == (0, printed(scores_of(model, image)))
    done = call("benchmark", "model.bspn", "5", "1")
    assert done.returncode == 0
    first, second = done.stdout.splitlines()
    assert first.startswith(f"model {(folder / 'model.bspn').stat().st_size} bytes, input 117 ")
    words = second.split()
    assert words[0] == "min"
    assert words[3] == "median"
    assert second.endswith("us per image, 5 runs")
    assert 0 < float(words[1]) <= float(words[4])
    (folder / "image.raw").write_bytes(b"short")
    for arguments, said in (
        (("example", "model.bspn", "image.raw"), "image.raw: not the size of one input"),
        (("example", "nothing", "image.raw"), "nothing: cannot be read"),
        (("example",), "usage: example model.bspn image.raw"),
        (("benchmark", "model.bspn", "0"), "usage: benchmark"),
        (("benchmark", "bitspin.h"), "bitspin.h: "),
    ):
        done = call(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(said)


def test_the_programs_give_the_runtimes_scores_here(model: bytes, tmp_path: Path) -> None:
    compiler = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    if compiler is None or host_target() is None:
        pytest.skip("a C compiler with a C library is missing: apt-get install gcc libc6-dev")
    write_bundle(model, str(host_target()), tmp_path)
    check_programs(tmp_path, [compiler], [], model)


@pytest.mark.arm
@pytest.mark.parametrize(
    ("target", "compiler", "emulator", "libraries"),
    [
        ("aarch64-linux", "aarch64-linux-gnu-gcc", ["qemu-aarch64", "-cpu", "cortex-a53"], "/usr/aarch64-linux-gnu"),
        ("aarch64-android", "aarch64-linux-gnu-gcc", ["qemu-aarch64"], "/usr/aarch64-linux-gnu"),
        ("armv7-linux", "arm-linux-gnueabihf-gcc", ["qemu-arm"], "/usr/arm-linux-gnueabihf"),
    ],
)  # fmt: skip
def test_the_programs_give_the_same_scores_on_arm(
    target: str, compiler: str, emulator: list[str], libraries: str, model: bytes, tmp_path: Path
) -> None:
    for name, package in ((compiler, "gcc-" + compiler[:-4]), (emulator[0], "qemu-user")):
        if shutil.which(name) is None:
            pytest.skip(f"{name} is missing: apt-get install {package}")
    write_bundle(model, target, tmp_path)
    check_programs(tmp_path, [compiler], [*emulator, "-L", libraries], model)


@pytest.mark.arm
def test_a_web_page_gets_the_same_scores(model: bytes, tmp_path: Path) -> None:
    if shutil.which("node") is None:
        pytest.skip("node is missing: apt-get install nodejs")
    write_bundle(model, "wasm32", tmp_path)
    image = make_image(model, 3)
    (tmp_path / "image.raw").write_bytes(image)
    command = ["node", "example.mjs", "model.bspn", "image.raw"]
    done = subprocess.run([*command, "3"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *lines, times = done.stdout.splitlines(keepends=True)
    assert "".join(lines) == printed(scores_of(model, image))
    assert times.endswith("3 runs\n")
    damaged = bytearray(model)
    damaged[64] ^= 0xFF
    (tmp_path / "model.bspn").write_bytes(damaged)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "checksum" in done.stderr
    assert done.stderr.count("\n") == 1


def test_cmake_builds_the_programs(model: bytes, tmp_path: Path) -> None:
    if shutil.which("cmake") is None or shutil.which("cc") is None or host_target() is None:
        pytest.skip("cmake or a C compiler is missing: apt-get install cmake gcc")
    write_bundle(model, str(host_target()), tmp_path)
    for command in (["cmake", "-S", ".", "-B", "build"], ["cmake", "--build", "build"]):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "build" / "example").is_file()
    assert (tmp_path / "build" / "benchmark").is_file()


_CALL_JAVA = """
import java.nio.file.*;
import org.bitspin.Bitspin;
public class Call {
    public static void main(String[] paths) throws Exception {
        try (Bitspin model = new Bitspin(Path.of(paths[0]))) {
            for (int score : model.run(Files.readAllBytes(Path.of(paths[1]))))
                System.out.println(score);
            try { model.run(new byte[3]); }
            catch (IllegalArgumentException error) { System.out.println(error.getMessage()); }
        }
        try { new Bitspin(Path.of(paths[1])); }
        catch (IllegalArgumentException error) { System.out.println("refused"); }
    }
}
"""


def test_the_java_wrapper_gives_the_same_scores(model: bytes, tmp_path: Path) -> None:
    javac = shutil.which("javac")
    headers = Path(javac).resolve().parents[1] / "include" if javac else None
    if headers is None or not (headers / "jni.h").is_file() or shutil.which("cc") is None:
        pytest.skip("javac, jni.h or cc is missing: apt-get install default-jdk-headless gcc")
    if host_target() is None or sys.platform != "linux":
        pytest.skip("the wrapper is built for Linux here")
    write_bundle(model, str(host_target()), tmp_path)
    image = make_image(model, 4)
    (tmp_path / "image.raw").write_bytes(image)
    (tmp_path / "Call.java").write_text(_CALL_JAVA)
    include = [f"-I{headers}", f"-I{headers / 'linux'}"]
    for command in (
        ["cc", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", *include, "bitspin_jni.c", "libbitspin.a", "-o", "libbitspin_jni.so"],
        ["javac", "-d", "classes", "Bitspin.java", "Call.java"],
        ["java", "-Djava.library.path=.", "-cp", "classes", "Call", "model.bspn", "image.raw"],
    ):  # fmt: skip
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    expected = [str(score) for score in scores_of(model, image)]
    assert done.stdout.splitlines() == [*expected, "not the size of one input", "refused"]


def test_bits_are_described_as_the_runtime_takes_them(
    make_model: Callable[..., Model], tmp_path: Path
) -> None:
    from kernels import OpCode

    bits = write_model(make_model(OpCode.CONV_B1, image=(3, 4, 40)))
    tensor = read_model(bits).tensors[0]
    assert tensor.dtype is DType.BITS
    write_bundle(bits, "x86_64-linux", tmp_path)
    read_me = (tmp_path / "README.txt").read_text()
    n_bytes = encode_images(tensor, np.zeros((1, *tensor.dims), np.uint8)).nbytes
    assert "3 x 4 x 40 bits (height, width, channels)" in read_me
    assert f"spare bits zero: {n_bytes} bytes" in read_me
    assert "Classes: 0: a, 1: ß" in read_me


def test_a_table_is_described_with_its_ranges(
    make_model: Callable[..., Model], tmp_path: Path
) -> None:
    table = make_model(image=(1, 1, 2), kernel=(1, 1))
    ranges = {"column_ranges": [[0.0, 1.5], [-2.0, 2.0]]}
    write_bundle(write_model(Model(table.ops, table.tensors, ranges)), "wasm32", tmp_path)
    said = "1 x 1 x 2 (height, width, channels) of u8: 2 bytes; a byte per column, 0 to 255"
    read_me = (tmp_path / "README.txt").read_text()
    assert said in read_me
    assert "for 0.0 to 1.5, -2.0 to 2.0\n" in read_me


def test_the_library_is_the_one_that_is_tested(model: bytes, tmp_path: Path) -> None:
    write_bundle(model, str(host_target()), tmp_path)
    row = TARGETS[str(host_target())]
    assert (tmp_path / row.library).read_bytes() == build_library("host").read_bytes()
