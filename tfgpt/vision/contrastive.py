"""Contrast: an image and its caption get vectors that are alike (CLIP).

Shape letters: B batch, H and W pixels, T length of a caption, D model width, E width of the
shared vectors.
"""

import math

import keras
import numpy as np
from keras import ops

from tfgpt.masks import padding_mask, serialize_policy
from tfgpt.parts import to_float32
from tfgpt.transformer import Encoder
from tfgpt.validation import check_positive
from tfgpt.vision.encoder import ImageEncoder

FIRST_SCALE = math.log(1 / 0.07)  # the logarithm of the inverse temperature, as in CLIP
LARGEST_SCALE = math.log(100)


def contrastive_loss(image_vectors, text_vectors, scale):
    """Measure how well each image finds its text among those of the batch, and the reverse.

    The vectors are normalised. Each row of the table of cosines, times `scale`, is a
    classification with the diagonal as the right answer, and so is each column; the loss is
    the mean of both cross-entropies. With random vectors it is about ln B.

    Args:
        image_vectors: float tensor (B, E).
        text_vectors: float tensor (B, E).
        scale: float scalar > 0, the inverse temperature.

    Returns:
        float32 scalar, in nats.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> vectors = np.eye(2, dtype="float32")
        >>> round(float(contrastive_loss(vectors, vectors, scale=100.0)), 4)
        0.0

    Source: Radford et al., "Learning Transferable Visual Models From Natural Language
    Supervision" (CLIP, 2021), figure 3.
    """
    if tuple(image_vectors.shape) != tuple(text_vectors.shape):
        raise ValueError(
            "text_vectors must have the shape of image_vectors, got "
            f"{tuple(text_vectors.shape)} and {tuple(image_vectors.shape)}."
        )
    images, texts = unit(image_vectors), unit(text_vectors)
    scores = scale * ops.matmul(images, ops.transpose(texts))  # (B, E) x (E, B) -> (B, B)
    return (cross_entropy(scores) + cross_entropy(ops.transpose(scores))) / 2


def unit(vectors):
    """Give vectors the length 1: (B, E) -> float32 (B, E)."""
    vectors = to_float32(vectors)
    return vectors * ops.rsqrt(ops.maximum(ops.sum(vectors**2, axis=-1, keepdims=True), 1e-12))


def cross_entropy(scores):
    """Average -log of the probability of the diagonal in the rows of scores (B, B)."""
    return ops.mean(ops.logsumexp(scores, axis=-1) - ops.diagonal(scores))


@keras.saving.register_keras_serializable("tfgpt")
class DualEncoder(keras.Model):
    """An image encoder and a text encoder with vectors in one space.

    An image's vector is the mean of its patches, a text's the mean of its tokens without
    padding, each projected without a bias. `training=True` turns on dropout. The inverse
    temperature is learned, at most 100. `compile(optimizer)` and `fit` train with
    `contrastive_loss`; no text should come twice in a batch.

    Call: model({"images": float (B, H, W, 3), "token_ids": int (B, T)}).

    Args:
        image_encoder: ImageEncoder.
        text_encoder: Encoder.
        width: int >= 1, E.
        pad_id: int, the id of padding in texts.

    Returns:
        image vectors and text vectors, float32 (B, E) each, of length 1.

    Raises:
        TypeError: if an encoder is of another class.
        ValueError: if width is below 1.

    Example:
        >>> images = ImageEncoder(8, patch_size=4, num_layers=1, d_model=8, num_heads=2)
        >>> texts = Encoder(1, 8, 2, 16, vocab_size=10, max_length=6)
        >>> model = DualEncoder(images, texts, width=4)
        >>> inputs = {"images": np.ones((2, 8, 8, 3)), "token_ids": np.array([[1, 2], [3, 0]])}
        >>> [tuple(vectors.shape) for vectors in model(inputs)]
        [(2, 4), (2, 4)]

    Source: CLIP, section 2.3 (the mean in place of its class token).
    """

    def __init__(self, image_encoder, text_encoder, width, pad_id=0, **kwargs):
        super().__init__(**kwargs)
        image_encoder, text_encoder = (
            keras.saving.deserialize_keras_object(part) if isinstance(part, dict) else part
            for part in (image_encoder, text_encoder)  # a dict comes from a config
        )
        for name, part, kind in (
            ("image_encoder", image_encoder, ImageEncoder),
            ("text_encoder", text_encoder, Encoder),
        ):
            if not isinstance(part, kind):
                raise TypeError(
                    f"{name} must be of class {kind.__name__}, got {type(part).__name__}."
                )
        # Keras would round float placeholders of ids to half precision.
        self.autocast = False
        self.image_encoder, self.text_encoder = image_encoder, text_encoder
        self.width, self.pad_id = check_positive("width", width), pad_id
        self.image_projection = keras.layers.Dense(self.width, use_bias=False, name="image")
        self.text_projection = keras.layers.Dense(self.width, use_bias=False, name="text")
        self.build()

    def build(self, inputs_shape=None):
        if self.built:
            return
        if not self.text_encoder.built:
            self.text_encoder.build((None, None))
        self.image_projection.build((None, self.image_encoder.d_model))
        self.text_projection.build((None, self.text_encoder.d_model))
        self.log_scale = self.add_weight(
            shape=(), initializer=keras.initializers.Constant(FIRST_SCALE), name="log_scale"
        )
        self.built = True

    def call(self, inputs, training=None):
        images = self.encode_images(inputs["images"], training)
        return images, self.encode_texts(inputs["token_ids"], training)

    def encode_images(self, images, training=None):
        """Return the vectors of images: (B, H, W, 3) -> float32 (B, E), of length 1."""
        patches = self.image_encoder(images, training=training)  # (B, S, D)
        return unit(self.image_projection(ops.mean(patches, axis=1)))

    def encode_texts(self, token_ids, training=None):
        """Return the vectors of texts: (B, T) -> float32 (B, E), of length 1."""
        mask = padding_mask(token_ids, self.pad_id)
        x = self.text_encoder(token_ids, mask=mask, training=training)  # (B, T, D)
        real = ops.cast(ops.not_equal(token_ids, self.pad_id), x.dtype)[..., None]
        mean = ops.sum(x * real, axis=1) / ops.maximum(ops.sum(real, axis=1), 1)
        return unit(self.text_projection(mean))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Compute the contrastive loss of a batch, for `fit`."""
        return contrastive_loss(*y_pred, self.scale())

    def scale(self):
        """Return the inverse temperature, a float32 scalar of at most 100."""
        return ops.exp(ops.minimum(self.log_scale, LARGEST_SCALE))

    def compute_output_spec(self, inputs, training=None):
        shape = (inputs["images"].shape[0], self.width)
        return tuple(keras.KerasTensor(shape, dtype="float32") for _ in ("images", "texts"))

    def get_config(self):
        return {
            **super().get_config(),
            "dtype": serialize_policy(self),
            "image_encoder": keras.saving.serialize_keras_object(self.image_encoder),
            "text_encoder": keras.saving.serialize_keras_object(self.text_encoder),
            "width": self.width,
            "pad_id": self.pad_id,
        }


def recall_at(scores, count):
    """Say which queries have their own key among the `count` best.

    Args:
        scores: float array (N, N): row i holds the scores of query i; its key is number i.
        count: int >= 1.

    Returns:
        bool array (N,). Of keys with equal scores the right one counts as the last.

    Example:
        >>> recall_at(np.array([[0.9, 0.1], [0.8, 0.2]]), 1).tolist()
        [True, False]
    """
    check_positive("count", count)
    scores = np.asarray(scores)
    own = np.diagonal(scores)[:, None]
    return (scores >= own).sum(axis=1) <= count
