"""Writing about images: what makes `tfgpt.generate` and `tfgpt.stream` take a VisionGPT.

Shape letters: B batch, T length of a prompt, N images of a text, C room of the cache.
"""

import numpy as np
from keras import ops

from tfgpt.compilation import store_of
from tfgpt.generation.decoding import generate
from tfgpt.generation.streaming import stream
from tfgpt.validation import check_positive


class WithImages:
    """A VisionGPT with the prompts and images of a batch: a model for `tfgpt.generate`.

    Images and prompts enter through the caches, so that one compiled program serves all.

    Args:
        model: VisionGPT.
        prompts: list of B int arrays (T,), with image_id where images stand.
        images: float array (B, N, H, W, 3), values in [0, 1].
        shares_programs: bool, use programs that other images compiled. A search makes its
            caches inside of its program, which therefore is of these images only.
    """

    def __init__(self, model, prompts, images, shares_programs):
        self.model, self.prompts, self.images = model, prompts, images
        self.variables, self.compute_dtype = model.variables, model.compute_dtype
        self.vocab_size, self.pad_id = model.vocab_size, model.pad_id
        self.context_length, self.d_model = model.context_length, model.d_model
        self.decode, self.logits = model.decode, model.logits
        if shares_programs:
            self.program_store = store_of(model)

    def make_caches(self, batch_size, length):
        """Make the caches of these prompts, of `batch_size / B` rows each; room for C tokens."""
        token_ids = np.full((len(self.prompts), length), -1, dtype="int32")
        for row, prompt in zip(token_ids, self.prompts, strict=True):
            row[: len(prompt)] = prompt
        times = batch_size // len(self.prompts)
        rows = (np.repeat(array, times, axis=0) for array in (token_ids, self.images))
        return self.model.make_caches(*map(ops.convert_to_tensor, rows))


def generate_ids(model, prompts, images, max_new_tokens, **settings):
    """Continue prompts with images in them; `tfgpt.generate` for a VisionGPT.

    Args:
        model: VisionGPT.
        prompts: list of B int arrays (T,), with image_id where images stand.
        images: float array (B, N, H, W, 3), values in [0, 1]; a text that shows fewer than N
            images uses the first ones.
        max_new_tokens: int >= 1, M; T + M <= context_length.
        **settings: further arguments of `tfgpt.generate`. A strategy compiles anew for each
            call.

    Returns:
        list of B int32 arrays (T + M,), prompt included.

    Raises:
        ValueError: if a text does not fit the context or shows more images than it is given,
            or as `tfgpt.generate`.
    """
    prompts = [np.asarray(prompt, dtype="int32") for prompt in prompts]
    check_prompts(model, prompts, images, max_new_tokens)
    if settings.get("strategy") is None:
        looking = WithImages(model, prompts, images, shares_programs=True)
        return list(generate(looking, prompts, max_new_tokens, **settings))
    rows = [None] * len(prompts)
    lengths = np.array([len(prompt) for prompt in prompts])
    for length in np.unique(lengths):  # a search takes prompts of one length
        places = np.flatnonzero(lengths == length)
        chosen = [prompts[place] for place in places]
        looking = WithImages(model, chosen, images[places], shares_programs=False)
        found = generate(looking, chosen, max_new_tokens, **settings)
        for place, row in zip(places, found, strict=True):
            rows[place] = row
    return rows


def stream_ids(model, tokenizer, prompt, images, max_new_tokens, **settings):
    """Continue one prompt piece by piece; `tfgpt.stream` for a VisionGPT.

    Args:
        model: VisionGPT.
        tokenizer: its tokenizer.
        prompt: int array (T,), with image_id where images stand.
        images: float array (N, H, W, 3), values in [0, 1].
        max_new_tokens: int >= 1.
        **settings: further arguments of `tfgpt.stream`.

    Returns:
        generator of str.

    Raises:
        as `generate_ids`.
    """
    prompt, images = np.asarray(prompt, dtype="int32"), np.asarray(images)[None]
    check_prompts(model, [prompt], images, max_new_tokens)
    looking = WithImages(model, [prompt], images, shares_programs=True)
    return stream(looking, tokenizer, prompt, max_new_tokens, **settings)


def check_prompts(model, prompts, images, max_new_tokens):
    """Raise unless prompts, images and new tokens fit the model."""
    check_positive("max_new_tokens", max_new_tokens)
    if len(images) != len(prompts):
        raise ValueError(f"images must have a row per prompt, {len(prompts)}, got {len(images)}.")
    longest = max(len(prompt) for prompt in prompts)
    if longest + max_new_tokens > model.context_length:
        raise ValueError(
            "prompts, images included, and max_new_tokens must fit "
            f"context_length={model.context_length}, got {longest} + {max_new_tokens} tokens."
        )
    for prompt, shown in zip(prompts, images, strict=True):
        model.check_ids({"token_ids": prompt[None], "images": shown[None]})
