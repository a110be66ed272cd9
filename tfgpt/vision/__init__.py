"""Images in, text out: read, cut into patches, encoded, and shown to a GPT."""

from tfgpt.vision.contrastive import DualEncoder, contrastive_loss, recall_at
from tfgpt.vision.cross_attention import GatedCrossAttention
from tfgpt.vision.emoji import LANGUAGES, Pictures, family, load_emoji, split_pictures
from tfgpt.vision.encoder import ImageEncoder
from tfgpt.vision.folders import (
    ImageTable,
    as_picture,
    load_image_table,
    load_pictures,
    stream_images,
)
from tfgpt.vision.generation import generate_ids, stream_ids
from tfgpt.vision.looking import Looks, deletion_curve, look
from tfgpt.vision.masked_patches import MaskedPatches
from tfgpt.vision.patches import grid_encoding, patchify, unpatchify
from tfgpt.vision.questions import QUESTIONS, Question, colour_lead, main_colour, questions_about
from tfgpt.vision.reading import read_image
from tfgpt.vision.vision_gpt import VisionGPT
from tfgpt.vision.vision_model import VisionModel

__all__ = [
    "DualEncoder",
    "GatedCrossAttention",
    "ImageEncoder",
    "ImageTable",
    "LANGUAGES",
    "Looks",
    "MaskedPatches",
    "Pictures",
    "QUESTIONS",
    "Question",
    "VisionGPT",
    "VisionModel",
    "as_picture",
    "colour_lead",
    "contrastive_loss",
    "deletion_curve",
    "family",
    "generate_ids",
    "grid_encoding",
    "load_emoji",
    "load_image_table",
    "load_pictures",
    "look",
    "main_colour",
    "patchify",
    "questions_about",
    "read_image",
    "recall_at",
    "split_pictures",
    "stream_ids",
    "stream_images",
    "unpatchify",
]
