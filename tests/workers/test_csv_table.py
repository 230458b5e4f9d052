from pathlib import Path

import pytest

from workers.csv_table import MAX_COLUMNS, read_table
from workers.image_data import DataError


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_values_and_labels_are_read(tmp_path: Path) -> None:
    table = read_table(written(tmp_path, "1,-2.5e3, cat \n 4 ,.5,dog\n"))
    assert table.values.shape == (2, 1, 1, 2)
    assert table.values[:, 0, 0].tolist() == [[1.0, -2500.0], [4.0, 0.5]]
    assert table.labels == ("cat", "dog")


@pytest.mark.parametrize(
    "text",
    [
        "x,y,label\n1,2,a\n3,4,b\n",
        "1,2,a\r\n3,4,b\r\n",
        "\ufeff1,2,a\n\n3,4,b",
        '"x, in mm","y",label\n"1",2,"a"\n3,4,b\n',
        "\n , ,\nx,y,z\n1,2,a\n,,\n3,4,b\n",
    ],
)
def test_headers_quotes_and_blank_lines(tmp_path: Path, text: str) -> None:
    table = read_table(written(tmp_path, text))
    assert table.values[:, 0, 0].tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert table.labels == ("a", "b")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,a\n3,b\n", r"t\.csv line 2: expected 3 columns .*got 2"),
        ("1,2,a\n\n3,4,5,b\n", r"line 3: expected 3 columns .*got 4"),
        ("1,2,a\n3,x,b\n", r"line 2: expected a finite number in column 2, got 'x'"),
        ("x,y,label\n1,2,a\nx,y,label\n", r"line 3: expected a finite number in column 1, got 'x'"),
        ("1,x,a\n3,4,b\n", r"line 1: expected a finite number in column 2, got 'x'"),
        ("1,2,a\n3,,b\n", r"line 2: .*column 2, got ''"),
        ("1,2,a\nnan,2,b\n", r"line 2: .*column 1, got 'nan'"),
        ("1,2,a\n3,1e999,b\n", r"line 2: .*column 2, got '1e999'"),
        ("1,2,a\n1_0,2,b\n", r"line 2: .*column 1, got '1_0'"),
        ("1,2,a\n3,4, \n", r"line 2: expected a label in the last column"),
        ("1;2;a\n", r"line 1: .*got 1 columns; check the separator"),
        ("", r"expected rows of numbers and a label, got none"),
        ("x,y,label\n", r"expected rows of numbers and a label, got none"),
        ('1,2,"a\n3,4,b\n', r"line 2: expected comma-separated values, got unexpected end"),
        (b"1,2,\xff\n", r"expected UTF-8 text, got invalid start byte at byte 4"),
        ("1," * (MAX_COLUMNS + 1) + "a\n", r"line 1: expected 1 to 4096 columns"),
    ],
)
def test_faults_are_named_by_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_table(written(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"t\.csv: expected a readable file, got No such file"):
        read_table(tmp_path / "t.csv")
