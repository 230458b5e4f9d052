"""The five packages come from one place, and a stranger in their place is named."""

from pathlib import Path

import pytest

import bnn
import kernels
import rbm
from kernels.origin import check_origin


def test_the_rooms_share_one_parent() -> None:
    parents = {Path(str(room.__file__)).parents[1] for room in (kernels, bnn, rbm)}
    assert len(parents) == 1
    assert Path(str(kernels.__file__)).with_name("layout.py").is_file()
    for room in ("workers", "flows"):
        assert (parents.copy().pop() / room / "__init__.py").is_file()


def test_a_stranger_is_refused(tmp_path: Path) -> None:
    package = tmp_path / "kernels"
    package.mkdir()
    for room in ("bnn", "rbm", "workers", "flows"):
        (tmp_path / room).mkdir()
    with pytest.raises(ImportError, match="another distribution is in the way"):
        check_origin(package)
    (package / "layout.py").touch()
    check_origin(package)
    (tmp_path / "rbm").rmdir()
    with pytest.raises(ImportError, match="expected bitspin's package beside"):
        check_origin(package)
