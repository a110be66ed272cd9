"""Where a GPT looks while it writes about an image, and whether that picture is true.

Shape letters: A tokens of the answer, T tokens of prompt and answer, N images, S patches of an
image in G rows and G columns.
"""

from dataclasses import dataclass

import numpy as np
from keras import ops

from tfgpt.rollout import attention_rollout, follow
from tfgpt.validation import check_choice, check_order

METHODS = ("attention", "rollout")
WHITE = 1.0  # what a deleted patch becomes


@dataclass(frozen=True)
class Looks:
    """How much each token of an answer looked at each patch.

    Args:
        words: list of A str, the tokens of the answer.
        weights: float32 array (A, N, G, G); those of a token sum to 1.
        images: float32 array (N, H, W, 3).
    """

    words: list
    weights: np.ndarray
    images: np.ndarray

    def plot(self, title=None, save=None):
        """Draw the patches over the images, a column per token; a matplotlib Figure."""
        from tfgpt.plotting.images import plot_patch_weights

        return plot_patch_weights(self.images, self.weights, self.words, title, save)

    def view(self, title=None, save=None):
        """Make an interactive page where each token shows the patches; a PatchView."""
        from tfgpt.plotting.image_viewer import view_patch_weights

        return view_patch_weights(self.images, self.weights, self.words, title, save)


def look(model, prompt, answer=None, method="attention"):
    """Measure how much each token of an answer looks at each patch when it is chosen.

    Args:
        model: VisionModel.
        prompt: list of str and images, at least one image.
        answer: str; None: the model's own.
        method: "attention": the mean of all layers and heads; "rollout": attention followed
            from layer to layer down to the patches, half of each layer's input staying where
            it is.

    Returns:
        Looks.

    Raises:
        ValueError: if the prompt has no image, the answer no token, or the method is unknown.

    Source: rollout: Abnar and Zuidema, "Quantifying Attention Flow in Transformers" (2020).
    """
    check_choice("method", method, METHODS)
    token_ids, images = model.encode(prompt)
    if not images:
        raise ValueError("prompt must have an image, got texts only.")
    answer_ids = model.tokenizer.encode(model.generate(prompt) if answer is None else answer)
    if not len(answer_ids):
        raise ValueError(f"answer must have a token, got {answer!r}.")
    whole = np.concatenate([token_ids, answer_ids]).astype("int32")[None]  # (1, T)
    inputs = {"token_ids": whole, "images": model.stack([images])}
    _, weights = model.model(inputs, return_attention_weights=True)
    means = {name: ops.convert_to_numpy(w).mean(axis=1) for name, w in weights.items()}
    follow = attention_to_images if method == "attention" else rollout_to_images
    table = follow(model.model, means, whole[0])  # (T, N S)
    # The token before a token chooses it.
    rows = table[len(token_ids) - 1 : -1]
    rows = rows.reshape(len(answer_ids), len(images), -1)[..., -model.model.encoder.num_patches :]
    rows = rows / rows.sum(axis=(1, 2), keepdims=True)
    side = int(round(rows.shape[-1] ** 0.5))
    words = [model.tokenizer.id_to_token(int(token_id)) for token_id in answer_ids]
    shape = (len(answer_ids), len(images), side, side)
    return Looks(words, rows.reshape(shape).astype("float32"), np.stack(images))


def attention_to_images(model, means, token_ids):
    """Average the attention of all layers to image vectors: float (T, N S)."""
    layers = range(model.gpt.num_layers)
    if model.way == "cross":
        return np.mean([means[f"decoder/{index}/cross"][0] for index in layers], axis=0)
    table = np.mean([means[f"decoder/{index}/self"][0] for index in layers], axis=0)
    return table[:, token_ids == model.image_id]


def rollout_to_images(model, means, token_ids):
    """Follow attention through the GPT, then through the encoder: float (T, N S)."""
    layers = [means[f"decoder/{index}/self"][0] for index in range(model.gpt.num_layers)]
    if model.way == "prefix":
        flow = attention_rollout(layers)[:, token_ids == model.image_id]  # (T, N S)
    else:
        flow = np.zeros_like(means["decoder/0/cross"][0])
        for index, weights in enumerate(layers):
            flow = follow(weights, flow + means[f"decoder/{index}/cross"][0])
    encoder = range(model.encoder.num_layers)
    below = attention_rollout([means[f"encoder/{index}"] for index in encoder])  # (N, S, S)
    flow = flow.reshape(len(token_ids), len(below), -1)
    return np.einsum("tns,nsp->tnp", flow, below).reshape(len(token_ids), -1)


def deletion_curve(model, image, question, answer, order):
    """Delete patches of an image one after the other and watch the answer become less likely.

    If a picture of attention is true, deleting the patches with the largest weights first
    lowers the probability faster than deleting them in any other order.

    Args:
        model: VisionModel.
        image: float array (H, W, 3) of the model's size.
        question: str.
        answer: str.
        order: int array (S,), the patches, row by row, in the order of their deletion.

    Returns:
        float array (S + 1,), the probability of the answer without 0, 1, ..., S patches.

    Raises:
        ValueError: if order does not hold every patch once.
    """
    count = model.model.encoder.num_patches
    order = check_order(order, count)
    prompt, shown = model.encode([image, f" {question} "])
    answer_ids = np.append(model.tokenizer.encode(answer), model.tokenizer.end_id)
    images = np.stack([without_patches(shown[0], order[:k], count) for k in range(count + 1)])
    whole = np.concatenate([prompt, answer_ids]).astype("int32")
    token_ids = np.repeat(whole[None, :-1], count + 1, axis=0)
    logits = model.model({"token_ids": token_ids, "images": images[:, None]})
    logits = logits[:, len(prompt) - 1 :]  # (S + 1, A, V)
    chosen = ops.take_along_axis(logits, answer_ids.astype("int32")[None, :, None], axis=-1)
    log_probability = ops.sum(chosen[..., 0] - ops.logsumexp(logits, axis=-1), axis=-1)
    return np.exp(ops.convert_to_numpy(log_probability).astype("float64"))


def without_patches(image, places, count):
    """Make patches of an image white: float (H, W, 3) -> (H, W, 3).

    Args:
        image: float array (H, W, 3).
        places: int array, patches counted row by row.
        count: int, S, of all patches.
    """
    image, side = image.copy(), round(count**0.5)
    size = image.shape[0] // side
    for place in places:
        row, column = divmod(int(place), side)
        image[row * size : (row + 1) * size, column * size : (column + 1) * size] = WHITE
    return image
