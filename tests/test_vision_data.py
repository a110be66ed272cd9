"""Pictures: what is bundled, how it is divided, and image files of every kind."""

import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tfgpt.vision import (
    LANGUAGES,
    as_picture,
    family,
    load_emoji,
    load_image_table,
    read_image,
    split_pictures,
    stream_images,
)

RED = (255, 0, 0)


@pytest.fixture(scope="module")
def emoji():
    return load_emoji()


def saved(path, image, **options):
    """Write an image and return its path."""
    image.save(path, **options)
    return path


# The bundled emoji


def test_every_emoji_has_a_picture_a_group_and_five_captions(emoji):
    assert emoji.images.shape == (1907, 32, 32, 3) and emoji.images.dtype == "float32"
    assert emoji.images.min() >= 0 and emoji.images.max() == 1
    assert (emoji.images < 0.9).any(axis=(1, 2, 3)).mean() > 0.99  # none is empty white
    assert len(set(emoji.groups)) == 10
    assert all(len(emoji.captions[language]) == 1907 for language in LANGUAGES)
    assert all(caption for language in LANGUAGES for caption in emoji.captions[language])
    place = emoji.captions["en"].index("red heart")
    middle = emoji.images[place, 12:18, 12:18].mean(axis=(0, 1))
    assert middle[0] > 0.8 and middle[1] < 0.4 and middle[2] < 0.4


def test_no_family_is_in_two_parts(emoji):
    for seed in range(5):
        parts = split_pictures(emoji, seed)
        assert sum(map(len, parts)) == len(emoji)
        families = [set(part.families) for part in parts]
        assert not families[0] & families[1]
        assert not families[0] & families[2]
        assert not families[1] & families[2]
        assert min(map(len, parts)) > 80


def test_genders_skin_tones_and_flags_are_one_family():
    variants = [
        {"man farmer", "woman farmer", "farmer"},
        {"light skin tone", "dark skin tone", "man: red hair"},
        {"flag: Oman", "flag: Togo"},
        {"red heart", "blue heart"},
        {"one o’clock", "one-thirty"},
        {"snowman", "snowman without snow"},
        {"person: beard", "man: beard", "old woman"},
    ]
    for captions in variants:
        assert len({family(caption) for caption in captions}) == 1, captions
    assert len({family(caption) for caption in ("dog", "cat", "red apple", "farmer")}) == 4


def test_the_split_depends_on_the_seed_only(emoji):
    first, again, other = (split_pictures(emoji, seed)[2] for seed in (0, 0, 1))
    assert first.captions == again.captions != other.captions
    with pytest.raises(ValueError, match="seed must be an integer >= 0, got -1"):
        split_pictures(emoji, -1)
    with pytest.raises(ValueError, match="at least 10 small families, got 1"):
        split_pictures(emoji.take([0, 0]))


# Image files


def test_png_jpeg_and_webp_of_every_mode_become_rgb(tmp_path):
    colour = Image.new("RGB", (6, 4), RED)
    files = [
        saved(tmp_path / "rgb.png", colour),
        saved(tmp_path / "palette.png", colour.quantize(2)),
        saved(tmp_path / "rgb.webp", colour, lossless=True),
        saved(tmp_path / "alpha.webp", colour.convert("RGBA"), lossless=True),
        saved(tmp_path / "rgb.jpg", colour, quality=95),
        saved(tmp_path / "cmyk.jpg", colour.convert("CMYK"), quality=95),
    ]
    for path in files:
        pixels = read_image(path)
        assert pixels.shape == (4, 6, 3) and pixels.dtype == "uint8", path
        np.testing.assert_allclose(pixels, np.broadcast_to(RED, (4, 6, 3)), atol=6)
    for mode, value in (("L", 128), ("I;16", 128 * 257), ("1", 1), ("LA", (128, 255))):
        pixels = read_image(saved(tmp_path / "grey.png", Image.new(mode, (3, 2), value)))
        assert np.unique(pixels).tolist() == [255 if mode == "1" else 128], mode


def test_transparent_places_show_the_background(tmp_path):
    path = saved(tmp_path / "clear.png", Image.new("RGBA", (2, 2), (0, 0, 0, 0)))
    assert read_image(path)[0, 0].tolist() == [255, 255, 255]
    assert read_image(path, background=(1, 2, 3))[0, 0].tolist() == [1, 2, 3]
    half = saved(tmp_path / "half.png", Image.new("RGBA", (2, 2), (0, 0, 0, 128)))
    assert read_image(half)[0, 0].tolist() == [127, 127, 127]
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([255, 0, 0])
    path = saved(tmp_path / "palette.png", palette, transparency=0)
    assert read_image(path)[0, 0].tolist() == [255, 255, 255]
    with pytest.raises(ValueError, match="background must be three integers in .0, 255., got 7"):
        read_image(path, background=7)


def test_a_picture_is_turned_as_its_exif_data_say(tmp_path):
    image = Image.new("RGB", (20, 10), (255, 255, 255))
    image.paste((0, 0, 0), (0, 0, 10, 10))  # the left half is black
    exif = Image.Exif()
    exif[0x0112] = 6  # show it turned by 90 degrees, clockwise
    pixels = read_image(saved(tmp_path / "turned.jpg", image, exif=exif, quality=95))
    assert pixels.shape == (20, 10, 3)
    assert pixels[:8].mean() < 20 and pixels[12:].mean() > 235


def test_a_picture_of_any_shape_fits_into_a_square(tmp_path):
    for size in ((1, 1), (200, 10), (10, 200), (32, 32), (7, 5)):
        path = saved(tmp_path / "picture.png", Image.new("RGB", size, RED))
        pixels = read_image(path, 32, background=(0, 0, 255))
        assert pixels.shape == (32, 32, 3)
        assert pixels[16, 16].tolist() == list(RED)
    wide = saved(tmp_path / "wide.png", Image.new("RGB", (200, 10), RED))
    assert read_image(wide, 32)[0, 0].tolist() == [255, 255, 255]
    with pytest.raises(ValueError, match="size must be an integer >= 1, got 0"):
        read_image(wide, 0)


def bomb():
    """Make a PNG of a few bytes that says it has 40,000 x 40,000 pixels."""

    def chunk(kind, content):
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def picture_bytes(form, **options):
    """Write a picture with much detail in memory."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype="uint8")
    memory = io.BytesIO()
    Image.fromarray(noise).save(memory, form, **options)
    return memory.getvalue()


def animation(form):
    """Write two frames in memory."""
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    memory = io.BytesIO()
    frames[0].save(memory, form, save_all=True, append_images=frames[1:])
    return memory.getvalue()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (bomb, "at most 67,108,864 pixels, got .*1600000000|at most 67,108,864 pixels"),
        (lambda: picture_bytes("PNG")[:2000], "image must be undamaged, got .*picture"),
        (lambda: picture_bytes("JPEG")[:800], "image must be undamaged, got .*picture"),
        (lambda: picture_bytes("WEBP")[:300], "image must be undamaged, got .*picture"),
        (lambda: b"", "image must be a PNG, JPEG or WebP file, got .*picture"),
        (lambda: b"%PDF-1.4", "image must be a PNG, JPEG or WebP file, got .*picture"),
        (lambda: picture_bytes("BMP"), "image must be a PNG, JPEG or WebP file, got .*picture"),
        (lambda: picture_bytes("GIF"), "image must be a PNG, JPEG or WebP file, got .*picture"),
        (lambda: animation("WEBP"), "image must be one picture, got .* with 2 frames"),
        (lambda: animation("PNG"), "image must be one picture, got .* with 2 frames"),
    ],
    ids=["bomb", "cut png", "cut jpeg", "cut webp", "empty", "pdf", "bmp", "gif", "webp", "apng"],
)
def test_hostile_files_get_one_clear_sentence(make, message, tmp_path):
    (tmp_path / "picture").write_bytes(make())
    with pytest.raises(ValueError, match=message):
        read_image(tmp_path / "picture", 32)


def test_bytes_at_random_never_give_another_error(rng, tmp_path):
    whole = [picture_bytes(form) for form in ("PNG", "JPEG", "WEBP")]
    for number in range(60):
        content = bytearray(whole[number % 3])
        for place in rng.integers(0, len(content), 20):
            content[place] = rng.integers(256)
        (tmp_path / "picture").write_bytes(content)
        try:
            assert read_image(tmp_path / "picture", 16).shape == (16, 16, 3)
        except ValueError as error:
            assert "image must be" in str(error)


def test_a_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match="image must be a file that exists, got 'no.png'"):
        read_image("no.png")


def test_arrays_are_pictures_too(tmp_path):
    pixels = np.zeros((16, 32, 3), "uint8")
    assert as_picture(pixels, 32).shape == (32, 32, 3)
    assert as_picture(pixels, 32)[0, 0].tolist() == [1, 1, 1]
    floats = np.full((32, 32, 3), 0.123, "float32")
    np.testing.assert_array_equal(as_picture(floats, 32), floats)
    path = saved(tmp_path / "red.png", Image.new("RGB", (9, 9), RED))
    assert as_picture(path, 8)[0, 0].tolist() == [1, 0, 0]
    for image, error, message in (
        (np.zeros((4, 4)), ValueError, r"image must have shape \(H, W, 3\), got \(4, 4\)"),
        (np.zeros((4, 4, 3), int), TypeError, "image must be uint8, or floats"),
        (np.full((4, 4, 3), 2.0), ValueError, r"values in \[0, 1\], got 2.0 to 2.0"),
        (np.full((4, 4, 3), np.nan), ValueError, r"values in \[0, 1\], got nan"),
    ):
        with pytest.raises(error, match=message):
            as_picture(image, 8)


# Folders


@pytest.mark.parametrize("suffix", [".tsv", ".jsonl"])
def test_a_table_names_images_and_their_texts(suffix, tmp_path):
    for name in ("a.png", "b c.jpg"):
        saved(tmp_path / name, Image.new("RGB", (40, 20), RED))
    rows = [("a.png", "eine Blume"), ("b c.jpg", "明月")]
    table = tmp_path / f"table{suffix}"
    if suffix == ".tsv":
        lines = ["image\ttext", *("\t".join(row) for row in rows)]
    else:
        lines = [json.dumps({"image": image, "text": text}) for image, text in rows]
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = load_image_table(table)
    assert found.texts == ["eine Blume", "明月"]
    assert [path.name for path in found.paths] == ["a.png", "b c.jpg"]
    (batch,) = stream_images(found.paths, 16, batch_size=8)
    assert batch.shape == (2, 16, 16, 3) and batch.dtype == "float32"
    assert batch[0, 8, 8].numpy().tolist() == [1, 0, 0]


def test_images_are_read_only_when_they_are_needed(tmp_path):
    path = saved(tmp_path / "a.png", Image.new("RGB", (8, 8), RED))
    batches = iter(stream_images([path] * 50 + ["missing.png"], 8, batch_size=1))
    assert next(batches).shape == (1, 8, 8, 3)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "a,b", "data must be a .tsv file"),
        ("t.tsv", "a.png only", "got 'a.png only' on line 1"),
        ("t.tsv", "image\ttext", "data must have rows"),
        ("t.tsv", "no.png\ttext", "image must be a file that exists, got 'no.png' on line 1"),
        ("t.tsv", "../t.tsv\ttext", "must lie in the folder of its table, got '../t.tsv'"),
        ("t.tsv", "/etc/passwd\ttext", "must lie in the folder of its table"),
        ("t.jsonl", '{"image": "a.png"}', "on line 1"),
        ("t.jsonl", "[1]", "on line 1"),
    ],
)
def test_a_wrong_table_is_refused_with_its_line(name, content, message, tmp_path):
    path = tmp_path / "inner" / name
    path.parent.mkdir()
    path.write_text(content, encoding="utf-8")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_image_table(path)
