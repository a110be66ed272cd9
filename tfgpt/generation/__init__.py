"""Writing with a model: samplers, searches, the cached decoding loop, streaming. Notebook 10."""

from tfgpt.generation.beam import BeamSearch, beam_search
from tfgpt.generation.contrastive import ContrastiveSearch
from tfgpt.generation.decoding import generate, next_token_probabilities
from tfgpt.generation.speculative import SpeculativeDecoding, speculative_generate
from tfgpt.generation.streaming import stream

__all__ = [
    "BeamSearch",
    "ContrastiveSearch",
    "SpeculativeDecoding",
    "beam_search",
    "generate",
    "next_token_probabilities",
    "speculative_generate",
    "stream",
]
