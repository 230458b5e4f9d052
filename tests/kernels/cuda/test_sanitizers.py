"""Every kernel on every ragged size, watched: AddressSanitizer and UndefinedBehaviorSanitizer, races.

The tests of all families run once more, in one process each: under the sanitizers in every order of
threads, under the checker of races, which does not depend on it, in forward order.
"""

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kernels.cuda_shim import build_shim, sanitizer_environment
from kernels.cuda_source import cuda_source, source_names
from kernels.errors import BackendUnavailable

FOLDER = Path(__file__).parent
OWN = ("test_sanitizers.py", "test_races.py", "test_shim.py", "test_compile.py")
ORDERS = {"sanitizers": "forward or reverse or random", "races": "forward"}
"""What watches -> the cases that it sees, by name."""

PLANTED = (
    ((62, 24, 1), None),
    ((63, 0, 1), "heap-buffer-overflow"),
    ((-1, 0, 1), "heap-buffer-overflow"),
    ((0, 25, 1), "heap-buffer-overflow"),
    ((0, 0, 32), "shift exponent 32 is too large"),
)
"""Element of a tensor that is read, of shared memory that is written, bits to shift by -> report."""

_REACH = """
import os, sys, torch
from kernels.cuda_shim import ShimLauncher
from kernels.cuda_source import source_of_text
text = '''
#include "device.cuh"
KERNEL(32, 1) reach(const u32 *x, u32 *y, i32 read, i32 shared, i32 shift)
{
    u32 *memory = (u32 *)shared_memory();
    if (threadIdx.x == 5) memory[shared] = x[read] << shift;
    if (threadIdx.x == 5) y[0] = memory[shared];
}
'''
x, y = torch.zeros(63, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
launcher, source = ShimLauncher(checker="sanitizers"), source_of_text("reach", text)
for case in eval(sys.argv[1]):
    if os.fork() == 0:
        launcher.launch(source, "reach", 1, x, y, *case, shared_bytes=100)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.wait()[1])
    print("status", status, file=sys.stderr, flush=True)
"""


def environment(checker: str) -> dict[str, str]:
    try:
        return dict(os.environ) | (sanitizer_environment() if checker == "sanitizers" else {})
    except BackendUnavailable as reason:
        pytest.skip(str(reason))


def files() -> list[Path]:
    return [path for path in sorted(FOLDER.glob("test_*.py")) if path.name not in OWN]


@pytest.mark.slow
@pytest.mark.parametrize("checker", ORDERS)
def test_every_family_is_clean(checker, tmp_path):
    variables = environment(checker)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda name: build_shim(cuda_source(name), checker), source_names()))
    variables["BITSPIN_SHIM_CHECKER"] = checker
    report = tmp_path / "report.xml"
    options = ("-q", "-s", "-x", "-p", "no:cacheprovider", "--junit-xml", report)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            *options,
            "-k",
            ORDERS[checker],
            "-m",
            "not gpu",
            *files(),
        ],
        env=variables,
        cwd=FOLDER.parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[:8000]
    passed = {
        case.attrib["classname"].rpartition(".")[2]
        for case in ElementTree.parse(report).iter("testcase")
        if len(case) == 0
    }
    launches = re.compile(r"^def test_\w+\([^)]*\b(launcher|make_launcher|on)\b", re.MULTILINE)
    families = {path.stem for path in files() if launches.search(path.read_text())}
    assert families
    assert families <= passed


def test_the_sanitizers_report_what_is_planted():
    """One element past a tensor or past the shared memory, and a shift by all bits."""
    cases = [case for case, _ in PLANTED]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _REACH, repr(cases)],
        env=environment("sanitizers"),
        cwd=FOLDER.parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    reports = re.findall(r"(.*?)^status (-?\d+)\n", done.stderr, re.MULTILINE | re.DOTALL)
    for (report, status), (_, expected) in zip(reports, PLANTED, strict=True):
        assert (status == "0") == (expected is None)
        assert (expected or "") in report
        assert expected is None or "reach" in report
