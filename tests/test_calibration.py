"""Room calibration: what is read, who goes where, and that inputs equal torchvision's."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from edgeprune.calibration import batches, images, input_spec, load, preprocess_image, splits
from edgeprune.calibration.arrays import Array, read_npz
from edgeprune.calibration.assemble import (
    AS_THEY_ARE,
    CANDIDATES,
    LEAST_PER_CLASS,
    MOST_PER_CLASS,
    enough_per_class,
)
from edgeprune.calibration.description import describe
from edgeprune.calibration.listing import digest_file
from edgeprune.calibration.pixels import output_size, preprocess_floats
from edgeprune.calibration.splits import Shares, divide
from edgeprune.errors import ConfigError, DataError
from edgeprune.records import CalibrationSet, Floats, Preprocess, Sample, Split

REPO = Path(__file__).parent.parent
SHARED = REPO.parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data beside the checkout")

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def noise(width: int, height: int, seed: int = 0, channels: int = 3) -> Image.Image:
    """Return an image with smooth and rough parts."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 200, height * width * channels).reshape(height, width, channels)
    pixels = (ramp + rng.integers(0, 56, ramp.shape)).astype(np.uint8)
    return Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)


def image_folder(root: Path, counts: dict[str, int], size: int = 6) -> Path:
    """Write that many different images into each class folder."""
    for number, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for index in range(count):
            noise(size, size, seed=1000 * number + index).save(root / name / f"{index:03}.png")
    return root


def samples_of(labels: list[int], prefix: str = "") -> list[Sample]:
    return [
        Sample(source=f"{prefix}{i}", label=label, digest=f"{prefix}{i}d") for i, label in enumerate(labels)
    ]


def digests(data: CalibrationSet) -> dict[Split, list[str]]:
    return {split: [sample.digest for sample in data.samples[split]] for split in Split}


# --- pixels: equal to torchvision -----------------------------------------------------------------


def by_torchvision(image: Image.Image, preprocess: Preprocess) -> Floats:
    """The oracle: torchvision's v1 transforms, as its image folders and weights use them."""
    steps: list[Callable[[object], object]] = []
    if preprocess.color == "gray":
        steps.append(transforms.Grayscale())
    if preprocess.resize is not None:
        size = preprocess.resize[0] if len(preprocess.resize) == 1 else list(preprocess.resize)
        steps.append(transforms.Resize(size, InterpolationMode(preprocess.interpolation)))
    if preprocess.crop is not None:
        steps.append(transforms.CenterCrop(preprocess.crop))
    steps += [transforms.ToTensor(), transforms.Normalize(preprocess.mean, preprocess.std)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about palettes with transparency
        rgb = image.convert("RGB")
    output: Floats = transforms.Compose(steps)(rgb).numpy()
    return np.rot90(output, preprocess.rotate // 90, axes=(1, 2))


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    """Return the image in another mode; `P+` has a transparent colour."""
    if mode == "RGBA":
        image.putalpha(noise(*image.size, channels=1))
        return image
    if mode == "P+":
        image = image.convert("P")
        image.info["transparency"] = bytes(range(256))
        return image
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "LA", "RGBA", "P", "P+", "CMYK", "YCbCr"])
@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess(mean=MEAN, std=STD),
        Preprocess(resize=(24,), crop=(20, 20), mean=MEAN, std=STD),
        Preprocess(resize=(25,), crop=(22, 17), interpolation="bicubic", mean=MEAN, std=STD),
        Preprocess(resize=(19, 30), interpolation="nearest"),
        Preprocess(color="gray", resize=(40, 31), mean=(0.5,), std=(0.25,)),
        Preprocess(crop=(60, 21), rotate=180, mean=(0.5,), std=(0.5,)),
        Preprocess(resize=(12,), rotate=90),
        Preprocess(resize=(12,), rotate=270),
    ],
    ids=["plain", "shorter-side", "bicubic", "height-width", "gray", "padded", "turned-left", "turned-right"],
)
def test_inputs_equal_torchvision(mode: str, preprocess: Preprocess) -> None:
    for size in [(33, 47), (48, 31), (40, 40)]:
        image = in_mode(noise(*size), mode)
        ours = preprocess_image(image, preprocess)
        assert ours.dtype == np.float32
        assert ours.shape[1:] == output_size(size[1], size[0], preprocess)
        np.testing.assert_allclose(ours, by_torchvision(image, preprocess), atol=1e-5, rtol=0)


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    resize=st.none() | st.tuples(st.integers(1, 40)) | st.tuples(st.integers(1, 40), st.integers(1, 40)),
    crop=st.none() | st.tuples(st.integers(1, 60), st.integers(1, 60)),
    interpolation=st.sampled_from(["nearest", "bilinear", "bicubic"]),
)
def test_every_size_equals_torchvision(size, resize, crop, interpolation):  # type: ignore[no-untyped-def]
    preprocess = Preprocess(resize=resize, crop=crop, interpolation=interpolation)
    image = noise(*size)
    ours = preprocess_image(image, preprocess)
    assert ours.shape[1:] == output_size(size[1], size[0], preprocess)
    np.testing.assert_allclose(ours, by_torchvision(image, preprocess), atol=1e-5, rtol=0)


def test_bgr_takes_mean_and_std_in_the_order_of_the_network() -> None:
    image = noise(9, 7)
    bgr = preprocess_image(image, Preprocess(color="bgr", mean=MEAN[::-1], std=STD[::-1]))
    np.testing.assert_allclose(bgr[::-1], by_torchvision(image, Preprocess(mean=MEAN, std=STD)), atol=1e-5)


def test_16_bit_images_look_like_their_8_bit_version() -> None:
    image = noise(20, 15, channels=1)
    deep = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    assert deep.mode == "I;16"
    preprocess = Preprocess(resize=(8,), crop=(8, 8))
    np.testing.assert_array_equal(preprocess_image(deep, preprocess), preprocess_image(image, preprocess))


def test_floats_take_the_way_of_bytes_without_rounding() -> None:
    image = noise(31, 26)
    bytes_way = Preprocess(resize=(20,), crop=(18, 18), rotate=180, mean=MEAN, std=STD)
    floats = np.asarray(image, dtype=np.float32) / np.float32(255)
    ours = preprocess_floats(floats, replace(bytes_way, scale=1.0))
    half_a_level = 0.51 / 255 / min(STD)
    np.testing.assert_allclose(ours, preprocess_image(image, bytes_way), atol=2 * half_a_level)
    gray = preprocess_floats(floats, Preprocess(color="gray", scale=1.0))
    np.testing.assert_allclose(gray, preprocess_image(image, Preprocess(color="gray")), atol=1 / 255)


# --- splits -----------------------------------------------------------------------------------------

SHARES = Shares(per_class=None, validation_share=0.2, evaluation_limit=None, seed=0)


@settings(max_examples=50, deadline=None)
@given(
    labels=st.lists(st.integers(0, 4), min_size=6, max_size=60),
    shared=st.integers(0, 3),
    seed=st.integers(0, 9),
    own=st.booleans(),
    random=st.randoms(use_true_random=False),
)
def test_splits_are_disjoint_whatever_the_order(labels, shared, seed, own, random):  # type: ignore[no-untyped-def]
    pool = samples_of(labels, "a")
    evaluation = (samples_of([0, 1, 2], "b") + pool[:shared]) if own else None
    shares = replace(SHARES, seed=seed)
    parts, _ = divide(pool, evaluation, shares, where="x")
    shuffled = random.sample(pool, len(pool))
    assert divide(shuffled, evaluation and evaluation[::-1], shares, where="x")[0] == parts
    found = Counter(sample.digest for split in Split for sample in parts[split])
    assert set(found.values()) == {1}
    assert found.keys() == {sample.digest for sample in [*pool, *(evaluation or [])]}


def test_another_seed_gives_other_splits() -> None:
    pool = samples_of([0, 1] * 50)
    assert (
        divide(pool, None, SHARES, where="x")[0] != divide(pool, None, replace(SHARES, seed=1), where="x")[0]
    )


def test_every_prefix_of_a_split_is_balanced() -> None:
    parts, _ = divide(samples_of([0] * 40 + [1] * 40 + [2] * 80), None, SHARES, where="x")
    assert [len(parts[split]) for split in Split] == [64, 16, 80]
    assert Counter(sample.label for sample in parts[Split.EVALUATION][:20]) == {0: 5, 1: 5, 2: 10}
    assert Counter(sample.label for sample in parts[Split.VALIDATION]) == {0: 4, 1: 4, 2: 8}


def test_a_share_holds_over_classes_of_one_image() -> None:
    parts, _ = divide(samples_of(list(range(500))), samples_of([0], "e"), SHARES, where="x")
    assert [len(parts[split]) for split in Split] == [400, 100, 1]
    assert 20 < sum(sample.label < 250 for sample in parts[Split.VALIDATION]) < 80


def test_per_class_and_limit_are_kept() -> None:
    shares = replace(SHARES, per_class=10, evaluation_limit=7)
    parts, _ = divide(
        samples_of([0] * 30 + [1] * 30 + [2] * 4), samples_of([0, 1] * 9, "e"), shares, where="x"
    )
    calibration, validation, evaluation = (parts[split] for split in Split)
    assert Counter(sample.label for sample in calibration) == {0: 8, 1: 8, 2: 3}
    assert len(validation) == 64 - len(calibration), "all that calibration has no use for"
    assert len(evaluation) == 7


def test_validation_gets_what_calibration_has_no_use_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "ENOUGH_VALIDATION", 26)
    pool, evaluation = samples_of([0] * 50 + [1] * 50), samples_of([0, 1], "e")

    def sizes(per_class: int = 20, validation_share: float = 0.2) -> list[int]:
        shares = replace(SHARES, per_class=per_class, validation_share=validation_share)
        parts, _ = divide(pool, evaluation, shares, where="x")
        validation = Counter(sample.label for sample in parts[Split.VALIDATION])
        assert validation[0] == validation[1]
        return [len(parts[split]) for split in Split]

    assert sizes() == [32, 32, 2], "as many as for calibration, where there are more images"
    assert sizes(per_class=10) == [16, 26, 2], "or as many as are enough"
    assert sizes(per_class=45) == [72, 28, 2], "all that are left"
    assert sizes(per_class=60) == [80, 20, 2]
    assert sizes(validation_share=0) == [40, 0, 2], "none, where none were wanted"
    assert sizes(validation_share=0.75) == [10, 30, 2], "never fewer than the share"


def test_a_large_data_set_gives_a_walk_that_ends(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (2 * (MOST_PER_CLASS + 20), 4, 4), dtype=np.uint8)
    labels = np.arange(len(pixels)) % 2
    path = write_npz(tmp_path, train_x=pixels, train_y=labels, test_x=pixels[:2] // 2, test_y=labels[:2])
    chosen = [load(path).samples[split] for split in (Split.CALIBRATION, Split.VALIDATION)]
    assert list(map(len, chosen)) == [96, 64], "60 a class, and as validation the 40 left over as well"
    more = [load(path, calibration_per_class=1000).samples[split] for split in list(Split)[:2]]
    assert sum(map(len, more)) == len(pixels)
    assert enough_per_class(1000) == LEAST_PER_CLASS


def test_copies_are_left_out_and_said(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "d", {"train/cat": 5, "train/dog": 5, "test/cat": 2, "test/dog": 2})
    train, test = root / "train", root / "test"
    (train / "cat" / "seen.png").write_bytes((test / "dog" / "000.png").read_bytes())
    (train / "dog" / "twice.png").write_bytes((train / "dog" / "000.png").read_bytes())
    (train / "dog" / "torn.png").write_bytes((train / "cat" / "001.png").read_bytes())
    data = load(str(root))
    assert [len(data.samples[split]) for split in Split] == [7, 2, 4]
    for word in ("1 of 13 calibration images left out", "copies of others", "have different labels"):
        assert any(word in note for note in data.notes), word
    assert not any("seen" in sample.source for split in Split for sample in data.samples[split])


def test_nothing_left_for_calibration_is_an_error(tmp_path: Path) -> None:
    image_folder(tmp_path / "d", {"cat": 3, "dog": 3})
    toml = write_toml(tmp_path, '[calibration]\nsource = "d"\n[evaluation]\nsource = "d"\n')
    with pytest.raises(DataError, match=r"no images are left for calibration.*evaluation images"):
        load(toml)


def test_the_digest_follows_the_content(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "d", {"cat": 6, "dog": 6})
    before = load(str(root))
    assert load(str(root)) == before
    assert load(str(root), seed=1).digest != before.digest
    assert load(str(root), overrides={"rotate": 180}).digest != before.digest
    for file in sorted(root.rglob("*.png")):
        file.rename(file.with_name(f"{99 - int(file.stem)}.png"))
    assert load(str(root)).digest == before.digest
    noise(6, 6, seed=77).save(root / "cat" / "98.png")
    assert load(str(root)).digest != before.digest


def test_a_large_folder_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = image_folder(tmp_path / "d", {"train/cat": 30, "train/dog": 30, "test/cat": 1, "test/dog": 1})
    read: list[Path] = []

    def digest(path: Path) -> str:
        read.append(path)
        return digest_file(path)

    monkeypatch.setattr("edgeprune.calibration.assemble.digest_file", digest)
    data = load(str(root), calibration_per_class=2)
    assert len(read) == 2 * 2 * CANDIDATES + 2
    assert [len(data.samples[split]) for split in Split] == [3, 2 * 2 * CANDIDATES - 3, 2]


# --- sources ----------------------------------------------------------------------------------------


def write_toml(folder: Path, text: str) -> str:
    path = folder / "data.toml"
    path.write_text(text)
    return str(path)


def write_npz(folder: Path, **arrays: object) -> str:
    path = folder / "data.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return str(path)


def test_a_folder_gives_classes_and_skips_what_is_no_image(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "pets", {"cat": 8, "dog": 8})
    (root / "cat" / ".DS_Store").write_bytes(b"x")
    (root / "dog" / "notes.txt").write_text("x")
    (root / ".cache").mkdir()
    (root / "dog" / ".thumbnails").mkdir()
    noise(3, 3).save(root / "dog" / ".thumbnails" / "small.png")
    data = load(str(root))
    assert (data.name, data.classes) == ("pets", ("cat", "dog"))
    assert [len(data.samples[split]) for split in Split] == [6, 2, 8]
    assert any("2 files that are no images of a class were skipped" in note for note in data.notes)
    for sample in data.samples[Split.CALIBRATION]:
        assert Path(sample.source).parent.name == data.classes[sample.label]


def test_folders_named_by_numbers_keep_torchvisions_order(tmp_path: Path) -> None:
    data = load(str(image_folder(tmp_path / "d", {"2": 2, "10": 2})))
    assert data.classes == ("10", "2")
    assert any("torchvision's order" in note for note in data.notes)


def test_a_csv_with_and_without_header_and_with_names(tmp_path: Path) -> None:
    image_folder(tmp_path / "d", {"a": 4, "b": 4})
    rows = [f"d/{name}/{index:03}.png" for name in "ab" for index in range(4)]
    numbers = tmp_path / "numbers.csv"
    numbers.write_text("path,label\n" + "".join(f"{row},{row[2] == 'b':d}\n" for row in rows))
    names = tmp_path / "names.csv"
    names.write_text("\n".join(f"{row}, {row[2]}" for row in rows) + "\n\n")
    assert load(str(numbers)).classes == ("0", "1")
    assert load(str(names)).classes == ("a", "b")
    assert load(str(names)).samples == load(str(numbers)).samples


def test_a_class_answers_to_its_key(tmp_path: Path) -> None:
    image_folder(tmp_path / "d", {"n02": 2, "n01": 2})
    (tmp_path / "classes.txt").write_text("n01 great shark\nn02 tench\nn03 crane\n")
    toml = write_toml(tmp_path, 'classes_file = "classes.txt"\n[calibration]\nsource = "d"\n')
    data = load(toml)
    assert data.classes == ("n01 great shark", "n02 tench", "n03 crane")
    assert {sample.label for split in Split for sample in data.samples[split]} == {0, 1}
    assert any("1 of 3 classes have no evaluation image (n03 crane)" in note for note in data.notes)


PIXELS = np.stack([np.asarray(noise(8, 7, seed)) for seed in range(12)])
LABELS = np.arange(12) % 3


@pytest.mark.parametrize("layout", ["NHWC", "NCHW", "RGBA", "float RGBA"])
def test_layouts_of_npz_images_give_the_same_inputs(tmp_path: Path, layout: str) -> None:
    match layout:
        case "NCHW":
            pixels = PIXELS.transpose(0, 3, 1, 2)
        case "RGBA":
            pixels = np.concatenate([PIXELS, PIXELS[..., :1]], axis=3)
        case "float RGBA":
            pixels = np.concatenate([PIXELS, PIXELS[..., :1]], axis=3) / 255
        case _:
            pixels = PIXELS
    data = load(write_npz(tmp_path, x=pixels, y=LABELS))
    assert input_spec(data).shape == (3, 7, 8)
    for sample, ours in zip(data.samples[Split.EVALUATION], images(data, Split.EVALUATION), strict=True):
        index = int(sample.source.rpartition("::")[2])
        assert sample.label == LABELS[index]
        np.testing.assert_allclose(ours, PIXELS[index].transpose(2, 0, 1) / 255, atol=1e-6)


def test_gray_npz_images_stay_gray_unless_the_network_says_otherwise(tmp_path: Path) -> None:
    path = write_npz(tmp_path, x=PIXELS[..., 0], y=LABELS)
    assert input_spec(load(path)).shape == (1, 7, 8)
    assert input_spec(load(path, default=Preprocess())).shape == (3, 7, 8)


def test_float_npz_images_are_not_scaled_unless_asked(tmp_path: Path) -> None:
    path = write_npz(tmp_path, x=PIXELS / 255.0, y=LABELS)
    data = load(path, default=Preprocess(mean=MEAN, std=STD))
    assert data.preprocess.scale == 1.0
    assert images(data, Split.CALIBRATION).max() > 1.5
    assert load(path, overrides={"scale": 0.5}).preprocess.scale == 0.5


def test_unknown_scaling_is_said(tmp_path: Path) -> None:
    path = write_npz(tmp_path, x=PIXELS, y=LABELS)
    assert AS_THEY_ARE in load(path).notes
    assert AS_THEY_ARE in load(path, overrides={"rotate": 180}).notes
    assert AS_THEY_ARE not in load(path, default=Preprocess()).notes
    assert AS_THEY_ARE not in load(path, overrides={"mean": MEAN, "std": STD}).notes
    floats = write_npz(tmp_path, x=PIXELS / 255.0, y=LABELS)
    assert AS_THEY_ARE not in load(floats).notes


def test_npz_arrays_are_found_by_their_names(tmp_path: Path) -> None:
    path = write_npz(
        tmp_path,
        train_images=PIXELS[:6],
        train_labels=LABELS[:6, None],
        val_images=PIXELS[6:8],
        val_labels=LABELS[6:8, None],
        test_images=PIXELS[8:],
        test_labels=LABELS[8:, None],
        classes=np.array(["a", "b", "c"]),
    )
    data = load(path)
    assert data.classes == ("a", "b", "c")
    assert {s.source.split("::")[1] for s in data.samples[Split.EVALUATION]} == {"test_images"}
    assert {s.source.split("::")[1] for s in data.samples[Split.CALIBRATION]} == {"train_images"}
    assert [len(data.samples[split]) for split in Split] == [5, 1, 4]


# --- inputs -----------------------------------------------------------------------------------------


def test_batches_follow_the_split_and_the_last_is_short(tmp_path: Path) -> None:
    data = load(str(image_folder(tmp_path / "d", {"cat": 7, "dog": 7})))
    parts = list(batches(data, Split.EVALUATION, size=3))
    assert [inputs.shape for inputs, _ in parts] == [(3, 3, 6, 6), (3, 3, 6, 6), (1, 3, 6, 6)]
    labels = np.concatenate([labels for _, labels in parts])
    assert labels.dtype == np.int64
    assert labels.tolist() == [sample.label for sample in data.samples[Split.EVALUATION]]
    whole = images(data, Split.EVALUATION)
    np.testing.assert_array_equal(whole, np.concatenate([inputs for inputs, _ in parts]))
    np.testing.assert_array_equal(images(data, Split.EVALUATION, [4, 1]), whole[[4, 1]])


def test_an_npz_is_read_once_per_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load(write_npz(tmp_path, x=PIXELS, y=LABELS))
    opened: list[Path] = []

    def read(path: Path, names: Sequence[str]) -> dict[str, Array]:
        opened.append(path)
        return read_npz(path, names)

    monkeypatch.setattr("edgeprune.calibration.inputs.read_npz", read)
    assert len(list(batches(data, Split.EVALUATION, size=1))) == 6
    assert len(opened) == 1


def test_images_of_different_shapes_are_named(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "d", {"cat": 4, "dog": 4})
    noise(9, 6).save(root / "dog" / "wide.png")
    data = load(str(root))
    with pytest.raises(DataError, match=r"wide\.png.*\(6, 9\).*set `crop` or `resize`"):
        input_spec(data)
    with pytest.raises(DataError, match=r"set `crop` or `resize`"):
        for split in Split:
            list(batches(data, split, size=9))
    assert input_spec(load(str(root), overrides={"crop": [5, 4], "rotate": 90})).shape == (3, 4, 5)


# --- preprocessing settings -------------------------------------------------------------------------

OWN = Preprocess(resize=(256,), crop=(224, 224), interpolation="bicubic", mean=MEAN, std=STD)


@pytest.mark.parametrize(
    ("described", "flags", "expected"),
    [
        ("", {}, OWN),
        ("rotate = 180", {}, replace(OWN, rotate=180)),
        ("crop = 192", {}, replace(OWN, resize=None, crop=(192, 192))),
        ("mean = 0.5\nstd = 0.5", {}, replace(OWN, mean=(0.5,), std=(0.5,))),
        ("scale = 1", {}, replace(OWN, scale=1.0, mean=(0.0,), std=(1.0,))),
        ("", {"crop": [160, 128]}, replace(OWN, crop=(160, 128))),
        ("crop = [192]", {"crop": 64, "resize": []}, replace(OWN, resize=None, crop=(64, 64))),
        (
            'color = "gray"\nmean = 0\nstd = 1',
            {"color": "bgr"},
            replace(OWN, color="bgr", mean=(0,), std=(1,)),
        ),
    ],
)
def test_flags_beat_the_description_beats_the_network(
    tmp_path: Path, described: str, flags: dict[str, object], expected: Preprocess
) -> None:
    write_npz(tmp_path, x=PIXELS, y=LABELS)
    toml = write_toml(tmp_path, f'[calibration]\nsource = "data.npz"\n[preprocess]\n{described}\n')
    assert load(toml, default=OWN, overrides=flags).preprocess == expected


def test_a_wrong_flag_is_a_config_error(tmp_path: Path) -> None:
    path = write_npz(tmp_path, x=PIXELS, y=LABELS)
    with pytest.raises(ConfigError, match="unknown key `rotat`; did you mean: rotate"):
        load(path, overrides={"rotat": 180})
    with pytest.raises(ConfigError, match="0 calibration images per class"):
        load(path, calibration_per_class=0)


# --- bad input: one line, what and where ------------------------------------------------------------

SOURCE = '[calibration]\nsource = "data.npz"\n'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[calibration\n", "cannot be read as TOML"),
        ("name = 'x'\n", "`calibration` is missing"),
        ("calibration = 'x'\n", "`calibration` is a table"),
        ("[calibration]\nper_class = 3\n", "`calibration.source` is missing"),
        ('nam = "x"\n' + SOURCE, "unknown key `nam`; did you mean: name?"),
        (SOURCE + "per_clas = 3\n", "unknown key `calibration.per_clas`; did you mean: per_class?"),
        (SOURCE + "per_class = 0\n", "calibration.per_class = 0"),
        (SOURCE + "validation_share = 1.0\n", "calibration.validation_share = 1.0"),
        (SOURCE + 'images = "x"\n', "give both `images` and `labels`"),
        (SOURCE + 'images = "x"\nlabels = "z"\n', "has no array `z`; it has x, y"),
        (SOURCE + '[evaluation]\nsource = "no.csv"\n', "no evaluation images at"),
        (SOURCE + '[evaluation]\nsource = "."\nper_class = 3\n', "unknown key `evaluation.per_class`"),
        ('classes_file = "no.txt"\n' + SOURCE, "no.txt cannot be read"),
        ('classes_file = "no.txt"\nclasses = ["a"]\n' + SOURCE, "not both"),
        ("classes = []\n" + SOURCE, "class names are empty"),
        ('classes = ["a", "b"]\n' + SOURCE, "label 2 is out of range: 2 classes have the labels 0 to 1"),
        (SOURCE + "[preprocess]\ncrp = 3\n", "[preprocess]: unknown key `crp`; did you mean: crop?"),
        (SOURCE + '[preprocess]\ncolor = "grey"\n', "[preprocess]: color = 'grey'"),
        (SOURCE + "[preprocess]\nrotate = 45\n", "[preprocess]: rotate = 45"),
        (SOURCE + "[preprocess]\ncrop = 0\n", "crop = [0, 0]"),
        (SOURCE + "[preprocess]\nresize = [1, 2, 3]\n", "resize = [1, 2, 3]"),
        (SOURCE + "[preprocess]\nmean = [1, 2]\n", "mean has 2 values"),
        (SOURCE + "[preprocess]\nstd = 0\n", "must not be 0"),
        (SOURCE + "[preprocess]\nmean = nan\n", "finite"),
    ],
)
def test_a_wrong_description_names_file_and_key(tmp_path: Path, text: str, problem: str) -> None:
    write_npz(tmp_path, x=PIXELS, y=LABELS)
    with pytest.raises(DataError) as caught:
        load(write_toml(tmp_path, text))
    assert problem in str(caught.value)
    assert "data." in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ("", "holds no images"),
        ("path,label\n", "holds no images"),
        ("a.png,0\nb.png\n", "data.csv:2: `b.png` has no label"),
        ("a.png,0\nc.png,1\n", "data.csv:2: no such image"),
        ("a.png,0\nb.png,-1\n", "data.csv:2: label -1 is out of range"),
        ("a.png,0\nb.png,999999999\n", "data.csv:2: label 999999999 is no class number"),
        ("a.png,cat\nb.png,7\n", "no images are left"),
    ],
)
def test_a_wrong_csv_names_the_line(tmp_path: Path, rows: str, problem: str) -> None:
    noise(4, 4, 0).save(tmp_path / "a.png")
    noise(4, 4, 0).save(tmp_path / "b.png")
    (tmp_path / "data.csv").write_text(rows)
    with pytest.raises(DataError) as caught:
        load(str(tmp_path / "data.csv"))
    assert problem in str(caught.value)


def test_an_unknown_class_name_gets_a_suggestion(tmp_path: Path) -> None:
    noise(4, 4).save(tmp_path / "a.png")
    (tmp_path / "data.csv").write_text("a.png,catt\n")
    toml = write_toml(tmp_path, 'classes = ["cat", "dog"]\n[calibration]\nsource = "data.csv"\n')
    with pytest.raises(
        DataError, match=r"data\.csv:1: label `catt` is none of 2 classes; did you mean `cat`"
    ):
        load(toml)


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"x": PIXELS, "y": LABELS.astype(object)}, "cannot be read as .npz"),
        ({"x": PIXELS, "y": LABELS[:5]}, "no single pair of calibration images and labels"),
        ({"x": PIXELS, "y": LABELS, "z": LABELS}, "no single pair"),
        ({"x": PIXELS, "y": LABELS / 2}, "no single pair"),
        ({"x": PIXELS.astype(np.uint16), "y": LABELS}, "x is uint16; save images as uint8"),
        ({"x": PIXELS[..., :2], "y": LABELS}, "images have 1, 3 or 4 channels"),
        ({"x": PIXELS * np.float32(np.nan), "y": LABELS}, "data.npz::x::0: has values that are NaN"),
    ],
)
def test_a_wrong_npz_names_the_array(tmp_path: Path, arrays: dict[str, object], problem: str) -> None:
    with pytest.raises(DataError) as caught:
        load(write_npz(tmp_path, **arrays))
    assert problem in str(caught.value)


def test_named_arrays_must_be_of_equal_length(tmp_path: Path) -> None:
    write_npz(tmp_path, x=PIXELS, y=LABELS[:5])
    with pytest.raises(DataError, match="12 images in x, but 5 labels in y"):
        load(write_toml(tmp_path, SOURCE + 'images = "x"\nlabels = "y"\n'))


@pytest.mark.parametrize("content", [b"", b"PK no zip", b"\x80\x04]."])
def test_a_file_that_is_no_npz_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"data\.npz: cannot be read"):
        load(str(tmp_path / "data.npz"))


def test_float_and_byte_sources_do_not_mix(tmp_path: Path) -> None:
    write_npz(tmp_path, a=PIXELS, b=LABELS, x=PIXELS[:, :, ::-1] / 255, y=LABELS)
    text = (
        SOURCE + 'images = "a"\nlabels = "b"\n[evaluation]\nsource = "data.npz"\nimages = "x"\nlabels = "y"\n'
    )
    with pytest.raises(DataError, match="one source holds floats and the other one bytes"):
        load(write_toml(tmp_path, text))


def test_missing_data_and_unknown_names(tmp_path: Path) -> None:
    write_toml(tmp_path, SOURCE)
    with pytest.raises(DataError, match="dat: neither a data set nor a file or folder; did you mean data"):
        load("dat", folders=[tmp_path])
    with pytest.raises(DataError, match="neither a data set nor"):
        load("")
    with pytest.raises(DataError, match="no such file or folder"):
        load(str(tmp_path / "no.npz"))
    (tmp_path / "data.txt").write_text("x")
    with pytest.raises(DataError, match=r"data\.txt: give a folder of images"):
        load(str(tmp_path / "data.txt"))


def test_names_are_found_in_the_first_folder(tmp_path: Path) -> None:
    for name in ("mine", "shipped"):
        (tmp_path / name).mkdir()
        write_npz(tmp_path / name, x=PIXELS, y=LABELS)
        write_toml(tmp_path / name, f'name = "{name}"\n' + SOURCE)
    assert load("data", folders=[tmp_path / "no", tmp_path / "mine", tmp_path / "shipped"]).name == "mine"


def test_folders_without_images_are_named(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "d", {"cat": 2})
    (root / "dog").mkdir()
    with pytest.raises(DataError, match="dog: class folder without images"):
        load(str(root))
    noise(4, 4).save(tmp_path / "loose.png")
    (tmp_path / "flat").mkdir()
    (tmp_path / "loose.png").rename(tmp_path / "flat" / "loose.png")
    with pytest.raises(DataError, match="put each class into a sub-folder"):
        load(str(tmp_path / "flat"))


def half(file: Path) -> bytes:
    return file.read_bytes()[: file.stat().st_size // 2]


@pytest.mark.parametrize("kind", ["text.png", "empty.jpg", "half.png", "half.jpg", "half.gif"])
def test_images_that_do_not_decode_are_named(tmp_path: Path, kind: str) -> None:
    root = image_folder(tmp_path / "d", {"cat": 1, "dog": 1})
    bad = root / "dog" / kind
    noise(40, 40).save(bad)
    bad.write_bytes({"text": b"no image", "empty": b"", "half": half(bad)}[bad.stem])
    data = load(str(root), overrides={"crop": 8})
    with pytest.raises(DataError) as caught:
        for split in Split:
            if data.samples[split]:
                images(data, split)
    assert f"{bad}: cannot be decoded (" in str(caught.value)


def test_absurd_sizes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = image_folder(tmp_path / "d", {"cat": 1, "dog": 1}, size=30)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 800)
    with pytest.raises(DataError, match=r"000\.png: has more than 800 pixels"):
        input_spec(load(str(root)))
    monkeypatch.undo()
    noise(20_000, 1).save(root / "cat" / "line.png")
    data = load(str(root), overrides={"resize": 256, "crop": 224})
    with pytest.raises(DataError, match=r"line\.png: 20000x1 pixels with the shorter side resized to 256"):
        images(data, next(s for s in Split for x in data.samples[s] if "line" in x.source))
    with pytest.raises(DataError, match=r"line\.png: 20000x1 pixels"):
        input_spec(replace(data, preprocess=Preprocess(resize=(256,))))


def test_pixels_without_a_range_are_refused() -> None:
    with pytest.raises(DataError, match="mode F"):
        preprocess_image(Image.new("F", (4, 4)), Preprocess())


def test_warnings_of_pillow_do_not_reach_the_user(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "d", {"cat": 1, "dog": 1})
    in_mode(noise(6, 6), "P+").save(root / "cat" / "000.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load(str(root))
        assert sum(len(images(data, split)) for split in Split if data.samples[split]) == 2


# --- what ships, and real data ----------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((REPO / "calibration").glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_descriptions_are_right(path: Path) -> None:
    description = describe(path.stem, [path.parent])
    assert (description.path, description.name) == (path, path.stem)


@needs_shared
@pytest.mark.parametrize(
    ("name", "counts", "shape"),
    [
        ("cifar10_shared", [800, 2000, 4000], (3, 32, 32)),
        ("cifar10_shared_own_std", [800, 2000, 4000], (3, 32, 32)),
        ("imagenet_shared", [400, 100, 1000], (3, 224, 224)),
        ("imagenet_shared_rotated", [400, 100, 1000], (3, 224, 224)),
    ],
)
def test_real_data_load(name: str, counts: list[int], shape: tuple[int, int, int]) -> None:
    data = load(str(REPO / "tests" / "data" / f"{name}.toml"))
    assert [len(data.samples[split]) for split in Split] == counts
    found = Counter(digest for part in digests(data).values() for digest in set(part))
    assert set(found.values()) == {1}
    assert input_spec(data).shape == shape
    inputs, labels = next(batches(data, Split.VALIDATION, size=20))
    assert inputs.shape == (20, *shape)
    assert labels.max() < len(data.classes)
    assert abs(float(inputs.mean())) < 1


@needs_shared
def test_real_images_equal_torchvision() -> None:
    data = load(str(REPO / "tests" / "data" / "imagenet_shared_rotated.toml"))
    preprocess = replace(data.preprocess, resize=(232,), mean=MEAN, std=STD)
    for sample in data.samples[Split.CALIBRATION][:8]:
        with Image.open(sample.source) as image:
            ours = preprocess_image(image, preprocess)
            np.testing.assert_allclose(ours, by_torchvision(image, preprocess), atol=1e-5, rtol=0)
