"""Images in, text out: read, cut into patches, encoded, and shown to a GPT."""

from tfgpt.vision.contrastive import DualEncoder, contrastive_loss, recall_at
from tfgpt.vision.cross_attention import GatedCrossAttention
from tfgpt.vision.emoji import LANGUAGES, Pictures, family, load_emoji, split_pictures
from tfgpt.vision.encoder import ImageEncoder
from tfgpt.vision.folders import ImageTable, as_picture, load_image_table, stream_images
from tfgpt.vision.generation import generate_ids, stream_ids
from tfgpt.vision.looking import Looks, deletion_curve, look
from tfgpt.vision.patches import grid_encoding, patchify, unpatchify
from tfgpt.vision.questions import QUESTIONS, Question, main_colour, questions_about
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
    "Pictures",
    "QUESTIONS",
    "Question",
    "VisionGPT",
    "VisionModel",
    "as_picture",
    "contrastive_loss",
    "deletion_curve",
    "family",
    "generate_ids",
    "grid_encoding",
    "load_emoji",
    "load_image_table",
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
