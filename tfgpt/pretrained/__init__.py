"""Weights of others: GPT-2 from Hugging Face and KerasHub, in and out."""

from tfgpt.pretrained.gpt2 import SIZES, load_gpt2, save_gpt2

__all__ = ["SIZES", "load_gpt2", "save_gpt2"]
