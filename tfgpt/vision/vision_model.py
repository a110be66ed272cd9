"""A VisionGPT with its tokenizer: images and text in, text out. On disk it is a bundle."""

from pathlib import Path

import numpy as np

from tfgpt.bundle import (
    TOKENIZER,
    WEIGHTS,
    check_own_weights,
    check_size,
    checked_path,
    load_weights,
    read_config,
    write_config,
    write_tokenizer,
    write_weights,
)
from tfgpt.data.texts import DATA_FOLDER
from tfgpt.generation.text_model import until_stop
from tfgpt.gpt import GPT
from tfgpt.tokenizers import load_tokenizer
from tfgpt.vision.encoder import ImageEncoder
from tfgpt.vision.folders import as_picture
from tfgpt.vision.generation import generate_ids, stream_ids
from tfgpt.vision.questions import caption_question, check_question
from tfgpt.vision.vision_gpt import VisionGPT

BUNDLED = "emoji"  # the name of the checkpoint that is part of the repository


class VisionModel:
    """Continue prompts that mix text and images.

    A prompt is a list of str and images in any order, such as
    ["What is this? ", image, " Answer:"]. An image is a path, or an array (H, W, 3), uint8 or
    floats in [0, 1]; it is made to fit on white.

    Args:
        model: VisionGPT.
        tokenizer: tokenizer with an end_id; its start_id may be the model's image_id.

    Raises:
        ValueError: if model and tokenizer differ in their number of tokens or in padding.

    Example:
        >>> from tfgpt import BPETokenizer
        >>> tokenizer = BPETokenizer.train("a b c " * 9, vocab_size=259)
        >>> encoder = ImageEncoder(8, patch_size=4, num_layers=1, d_model=8, num_heads=2)
        >>> gpt = GPT(259, 32, num_layers=1, d_model=8, num_heads=2, pad_id=0)
        >>> model = VisionModel(VisionGPT(encoder, gpt, image_id=1), tokenizer)
        >>> text = model.generate(["a", np.zeros((9, 5, 3), "uint8"), " b"], max_new_tokens=3)
        >>> isinstance(text, str)  # untrained, so nonsense
        True
    """

    def __init__(self, model, tokenizer):
        found = tokenizer.vocab_size, tokenizer.pad_id
        if found != (model.vocab_size, model.pad_id):
            raise ValueError(
                f"tokenizer must have vocab_size={model.vocab_size} and pad_id={model.pad_id}, "
                f"got {found[0]} and {found[1]}."
            )
        self.model, self.tokenizer = model, tokenizer

    def encode(self, prompt):
        """Turn a prompt into ids and images.

        Args:
            prompt: list of str and images.

        Returns:
            token_ids: int32 array (T,), with the model's image_id where images stand.
            images: list of float32 arrays (size, size, 3).

        Raises:
            TypeError: if the prompt is no list.
            ValueError: if the prompt is empty, or an image cannot be read.
        """
        if not isinstance(prompt, (list, tuple)):
            raise TypeError(f"prompt must be a list of texts and images, got {prompt!r:.60}.")
        parts, images = [], []
        for part in prompt:
            if isinstance(part, str):
                parts.append(self.tokenizer.encode(part))
            else:
                images.append(as_picture(part, self.model.encoder.image_size))
                parts.append([self.model.image_id] * self.model.tokens_per_image)
        token_ids = np.concatenate([[], *parts]).astype("int32")
        if not len(token_ids):
            raise ValueError("prompt must have at least one token or image, got none.")
        return token_ids, images

    def generate(self, prompt, max_new_tokens=24, **settings):
        """Continue one prompt, up to the end token.

        Args:
            prompt: list of str and images.
            max_new_tokens: int >= 1.
            **settings: further arguments of `tfgpt.generate`; by default temperature=0, the
                likeliest text.

        Returns:
            str, without the prompt.

        Raises:
            as `encode` and `tfgpt.vision.generate_ids`.
        """
        return self.generate_batch([prompt], max_new_tokens, **settings)[0]

    def generate_batch(self, prompts, max_new_tokens=24, **settings):
        """Continue many prompts at once; see `generate`: list of str, one for each."""
        encoded = [self.encode(prompt) for prompt in prompts]
        rows = generate_ids(
            self.model,
            [token_ids for token_ids, _ in encoded],
            self.stack([images for _, images in encoded]),
            max_new_tokens,
            **self.with_defaults(settings),
        )
        return [
            self.tokenizer.decode(until_stop(row, len(ids), [self.tokenizer.end_id])[len(ids) :])
            for row, (ids, _) in zip(rows, encoded, strict=True)
        ]

    def stream(self, prompt, max_new_tokens=24, **settings):
        """Continue one prompt piece by piece; see `generate`: generator of str."""
        token_ids, images = self.encode(prompt)
        images = self.stack([images])[0]
        settings = self.with_defaults(settings)
        return stream_ids(self.model, self.tokenizer, token_ids, images, max_new_tokens, **settings)

    def caption(self, image, language="en", **settings):
        """Say what an image shows, in "en", "zh", "de", "fr" or "es"."""
        return self.ask(image, caption_question(language), **settings)

    def ask(self, images, question, **settings):
        """Answer a question about an image, or a list of images; raise if there is none."""
        check_question(question)
        images = images if isinstance(images, (list, tuple)) else [images]
        images = [as_picture(image, self.model.encoder.image_size) for image in images]
        return self.generate([*images, f" {question} "], **settings)

    def stack(self, images):
        """Put the images of each prompt into one array, white where there is none.

        Args:
            images: list of B lists of float arrays (H, W, 3).

        Returns:
            float32 array (B, N, H, W, 3), N >= 1.
        """
        size = self.model.encoder.image_size
        most = max(1, *map(len, images))
        stacked = np.ones((len(images), most, size, size, 3), dtype="float32")
        for row, shown in zip(stacked, images, strict=True):
            for place, image in enumerate(shown):
                row[place] = image
        return stacked

    def with_defaults(self, settings):
        """Add the end token, and temperature 0 unless something else chooses the tokens."""
        own = {"stop_token": self.tokenizer.end_id}
        if not {"samplers", "strategy"} & settings.keys():
            own["temperature"] = 0.0
        return {**own, **settings}

    def save(self, folder, dtype="float32", **facts):
        """Write config.json, weights.safetensors and tokenizer.json.

        Args:
            folder: path; made if it does not exist.
            dtype: "float32", "float16" or "bfloat16", of the weights in the file.
            facts: further keys of config.json, what JSON can hold.
        """
        check_own_weights(self.model)
        write_config(folder, self.model, **facts)
        write_tokenizer(Path(folder), self.tokenizer)
        write_weights(folder, self.model, dtype)

    @classmethod
    def load(cls, folder=BUNDLED):
        """Read a vision model that `save` wrote.

        Args:
            folder: path; or "emoji", the bundled model.

        Returns:
            VisionModel.

        Raises:
            FileNotFoundError: if a file is missing.
            ValueError: if a file is damaged or the three do not fit together.
        """
        folder = DATA_FOLDER / "checkpoints" / BUNDLED if folder == BUNDLED else Path(folder)
        path = checked_path(folder, WEIGHTS)
        model = make_model(read_config(folder), folder, path)
        load_weights(model, path)
        return cls(model, load_tokenizer(checked_path(folder, TOKENIZER)))


def make_model(content, folder, weights):
    """Make the untrained VisionGPT of a config.json; only its own classes are made."""
    if content["class_name"] != "VisionGPT":
        raise ValueError(
            f"folder must hold the config of a VisionGPT, got {content['class_name']!r} in "
            f"{str(folder)!r}."
        )
    try:
        config = dict(content["config"])
        for name, kind in (("encoder", ImageEncoder), ("gpt", GPT)):
            check_size(config[name]["config"], weights)
            config[name] = kind.from_config(config[name]["config"])
        return VisionGPT(config["encoder"], config["gpt"], config["image_id"], config["way"])
    except Exception as error:  # anything may stand in a damaged file
        raise ValueError(
            f"folder must hold the config of a VisionGPT, got {str(folder)!r}: {error}"
        ) from error
