"""Images in, text out: read, cut into patches, encoded, and shown to a GPT."""

from tfgpt.vision.emoji import LANGUAGES, Pictures, family, load_emoji, split_pictures
from tfgpt.vision.folders import ImageTable, as_picture, load_image_table, stream_images
from tfgpt.vision.reading import read_image

__all__ = [
    "LANGUAGES",
    "ImageTable",
    "Pictures",
    "as_picture",
    "family",
    "load_emoji",
    "load_image_table",
    "read_image",
    "split_pictures",
    "stream_images",
]
