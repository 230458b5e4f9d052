from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from PIL import Image

from flows.pictures import PICTURES, draw_pictures, mosaic

FILES = ["confusion.png", "curves.png", "samples.png", "filters.png", "completions.png"]


def pixels(file: Path) -> np.ndarray[Any, Any]:
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB"), dtype=np.int64)


def test_every_picture_is_drawn_twice_with_the_same_bytes(
    sample_result: dict[str, Any], sample_arrays: dict[str, Any], tmp_path: Path
) -> None:
    drawn = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        drawn.append(draw_pictures(sample_result, sample_arrays, tmp_path / name))
    assert drawn[0] == drawn[1]
    assert [picture.file for picture in drawn[0]] == FILES == [f"{name}.png" for name in PICTURES]
    for file in FILES:
        first = (tmp_path / "first" / file).read_bytes()
        assert first == (tmp_path / "second" / file).read_bytes()
        assert b"matplotlib" not in first
    with Image.open(tmp_path / "first" / "confusion.png") as picture:
        assert picture.size == (1080, 930)  # 7.2 x 6.2 inches at 150 dots per inch
    assert "64 of 256 hidden units" in drawn[0][3].caption


def test_drawing_leaves_global_settings_alone(
    sample_result: dict[str, Any], sample_arrays: dict[str, Any], tmp_path: Path
) -> None:
    before = dict(matplotlib.rcParams)
    draw_pictures(sample_result, sample_arrays, tmp_path)
    assert dict(matplotlib.rcParams) == before


def test_samples_are_shown_as_they_are(tmp_path: Path) -> None:
    images = np.zeros((2, 8, 8), dtype=np.float32)
    images[1, :, 4:] = 1
    draw_pictures({}, {"rbm_samples": images}, tmp_path)
    shown = pixels(tmp_path / "samples.png")
    scale = shown.shape[1] // 17  # two tiles of 8 pixels and a gap of one
    assert shown.shape[1] == 17 * scale
    centres = shown[4 * scale, scale // 2 :: scale, 0]
    assert centres.tolist() == [0] * 8 + [255] + [0] * 4 + [255] * 4


def test_filters_are_red_where_positive_and_blue_where_negative(tmp_path: Path) -> None:
    weights = np.ones((1, 4, 4), dtype=np.float32)
    weights[0, :, :2] = -1
    draw_pictures({}, {"rbm_filters": weights}, tmp_path)
    shown = pixels(tmp_path / "filters.png")
    height, width, _ = shown.shape
    red, _, blue = shown[height // 4, 3 * width // 4]
    assert red > blue + 50
    red, _, blue = shown[height // 4, width // 4]
    assert blue > red + 50


def test_filters_of_zeros_are_drawn(tmp_path: Path) -> None:
    draw_pictures({}, {"rbm_filters": np.zeros((3, 4, 4), dtype=np.float32)}, tmp_path)
    assert (tmp_path / "filters.png").is_file()


@pytest.mark.parametrize("shape", [(5, 8, 8), (16, 28, 28), (5, 1, 20), (1, 1, 64)])
def test_completions_show_hidden_pixels_in_blue(tmp_path: Path, shape: tuple[int, ...]) -> None:
    original = np.full(shape, 0.5, dtype=np.float32)
    masked = original.copy()
    masked[..., shape[2] // 2 :] = np.nan
    arrays = {
        "completion_original": original,
        "completion_masked": masked,
        "completion_completed": original,
    }
    (picture,) = draw_pictures({}, arrays, tmp_path)
    assert picture.file == "completions.png"
    colours, counts = np.unique(
        pixels(tmp_path / picture.file).reshape(-1, 3), axis=0, return_counts=True
    )
    areas = {tuple(colour): n for colour, n in zip(colours.tolist(), counts.tolist(), strict=True)}
    # Of three equal sheets one is hidden by half: a sixth of all pixels, a fifth of the grey.
    share = areas[0x8F, 0xB8, 0xDE] / max(n for (r, g, b), n in areas.items() if r == g == b < 200)
    assert share == pytest.approx(0.2, abs=0.03)


def test_missing_data_are_not_drawn(tmp_path: Path) -> None:
    assert draw_pictures({}, {}, tmp_path) == ()
    masked = {"completion_masked": np.zeros((1, 2, 2), dtype=np.float32)}
    assert draw_pictures({}, masked, tmp_path) == ()
    assert list(tmp_path.iterdir()) == []


def test_confusion_comes_from_the_record_without_arrays(
    sample_result: dict[str, Any], sample_arrays: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "record").mkdir()
    draw_pictures(sample_result, {}, tmp_path / "record")
    draw_pictures(sample_result, {"confusion": sample_arrays["confusion"]}, tmp_path)
    record = (tmp_path / "record" / "confusion.png").read_bytes()
    assert record == (tmp_path / "confusion.png").read_bytes()


def test_wrong_shape_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"rbm_samples: expected shape \(n, H, W\), got \(3, 4\)"):
        draw_pictures({}, {"rbm_samples": np.zeros((3, 4))}, tmp_path)


def test_mosaic_places_images_row_by_row() -> None:
    sheet = mosaic(np.arange(1.0, 4)[:, None, None] * np.ones((3, 1, 2)), n_columns=2)
    nan = np.nan
    expected = [[1, 1, nan, 2, 2], [nan] * 5, [3, 3, nan, nan, nan]]
    np.testing.assert_array_equal(sheet, expected)
