"""The micro-benchmarks compute what they say, with the instructions that they say."""

import pytest

from kernels.bench_gpu_probes import PROBES, WARPGROUP, is_available, prepare_copy, prepare_probe
from kernels.cuda_compile import ARCHITECTURES, machine_code

INSTRUCTIONS = {
    "mma b1": "BMMA.168256.AND.POPC",
    "wgmma b1": "BGMMA.64x256x256.AND.POPC",
    "mma s8": "IMMA.16832.S8.S8",
    "wgmma s8": "IGMMA.64x256x32.S8.S8",
    "mma bf16": "HMMA.16816.F32.BF16",
    "wgmma bf16": "HGMMA.64x256x16.F32.BF16",
    "popc": "POPC",
}
CAPABILITIES = {"sm_80": (8, 0), "sm_90a": (9, 0), "sm_100": (10, 0)}


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_yields_what_it_must(name, make_launcher):
    launcher = make_launcher((9, 0))
    if not is_available(name, launcher.capability):
        pytest.skip(f"no {PROBES[name].title} on {launcher.capability}")
    probe = prepare_probe(launcher, name, n_blocks=1, n_loops=2)
    with pytest.raises(RuntimeError, match="not what they must be"):
        probe.check()
    probe.run()
    probe.check()


@pytest.mark.parametrize("n_bytes", [0, 16, 16 * 255, 16 * 1023, 16 * 1025])
def test_a_copy_is_the_same(n_bytes, launcher):
    probe = prepare_copy(launcher, n_bytes)
    assert probe.amount == 2 * n_bytes
    probe.run()
    probe.check()


def test_what_a_probe_counts(make_launcher):
    launcher = make_launcher((9, 0))
    if launcher.capability != (9, 0):
        pytest.skip("the products of a warpgroup are Hopper's")
    amounts = {name: prepare_probe(launcher, name, n_blocks=3, n_loops=5).amount for name in PROBES}
    warps, groups = 3 * 8 * 5, 3 * 2 * 5
    assert amounts == {
        "mma b1": warps * 8 * 2 * 16 * 8 * 256,
        "wgmma b1": groups * 4 * 2 * 64 * 256 * 256,
        "mma s8": warps * 8 * 2 * 16 * 8 * 32,
        "wgmma s8": groups * 4 * 2 * 64 * 256 * 32,
        "mma bf16": warps * 8 * 2 * 16 * 8 * 16,
        "wgmma bf16": groups * 4 * 2 * 64 * 256 * 16,
        "popc": 3 * 256 * 5 * 16 * 2 * 32,
    }


def test_a_probe_that_a_device_lacks_is_an_error(make_launcher):
    launcher = make_launcher((8, 0))
    if is_available("wgmma b1", launcher.capability):
        pytest.skip("this device has it")
    with pytest.raises(ValueError, match="expected a device that has wgmma"):
        prepare_probe(launcher, "wgmma b1", n_blocks=1, n_loops=1)
    with pytest.raises(ValueError, match="multiple of 16"):
        prepare_copy(launcher, 20)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_probes_are_made_of_their_instruction(architecture):
    code = machine_code("probes", architecture) | machine_code("probes_wgmma", architecture)
    for name, probe in PROBES.items():
        is_there = is_available(name, CAPABILITIES[architecture])
        assert (probe.kernel in code) == is_there, name
        if not is_there:
            continue
        kernel = code[probe.kernel]
        assert kernel.count(INSTRUCTIONS[name]) >= probe.maker.n_products
        assert kernel.count("CALL") == 0
        assert kernel.stack_bytes == 0
        assert kernel.n_registers <= (232 if probe.maker is WARPGROUP else 64)
    assert code["probe_copy"].count("LDG.E.128") == code["probe_copy"].count("STG.E.128") == 4
