"""Masked patches: an image encoder learns to paint what was taken away.

Shape letters: B batch, H and W pixels, S vectors of an image, Q pixels along a side of the
square behind a vector.
"""

import keras
from keras import ops

from tfgpt.masks import serialize_policy
from tfgpt.validation import check_rate
from tfgpt.vision.encoder import ImageEncoder
from tfgpt.vision.patches import patchify, unpatchify

GREY = 0.5  # what a masked pixel becomes


@keras.saving.register_keras_serializable("tfgpt")
class MaskedPatches(keras.Model):
    """Train an image encoder on images alone: squares are made grey, and painted again.

    A new part of the squares is masked in each call. `compile(optimizer)` and `fit` train
    with the mean squared error of the pixels in masked squares; afterwards `encoder` is used
    alone. `training=True` turns on dropout.

    Call: model(images (B, H, W, 3)).

    Args:
        encoder: ImageEncoder without a class token.
        share: float in [0, 1), of the squares that are masked; the default is SimMIM's.

    Returns:
        painted squares (B, S, Q Q 3), and which of them were masked, bool (B, S).

    Raises:
        TypeError: if the encoder is of another class.
        ValueError: if it has a class token, or share is outside its range.

    Example:
        >>> encoder = ImageEncoder(8, patch_size=4, num_layers=1, d_model=8, num_heads=2)
        >>> painted, masked = MaskedPatches(encoder)(ops.ones((2, 8, 8, 3)))
        >>> tuple(painted.shape), tuple(masked.shape)
        ((2, 4, 48), (2, 4))

    Source: Xie et al., "SimMIM" (2022), section 3.
    """

    def __init__(self, encoder, share=0.6, **kwargs):
        super().__init__(**kwargs)
        if isinstance(encoder, dict):  # from a config
            encoder = keras.saving.deserialize_keras_object(encoder)
        if not isinstance(encoder, ImageEncoder):
            raise TypeError(f"encoder must be of class ImageEncoder, got {type(encoder).__name__}.")
        if encoder.class_token:
            raise ValueError("encoder must have no class token, got class_token=True.")
        self.encoder, self.share = encoder, check_rate("share", share)
        self.square = encoder.image_size // round(encoder.num_patches**0.5)  # Q
        self.paint = keras.layers.Dense(3 * self.square**2, name="paint")
        self.seeds = keras.random.SeedGenerator()
        self.build()

    def build(self, images_shape=None):
        if self.built:
            return
        self.paint.build((None, None, self.encoder.d_model))
        self.built = True

    def call(self, images, training=None):
        squares = patchify(images, self.square)  # (B, H, W, 3) -> (B, S, Q Q 3)
        shape = (ops.shape(images)[0], self.encoder.num_patches)
        masked = keras.random.uniform(shape, seed=self.seeds) < self.share  # (B, S)
        hidden = ops.where(ops.expand_dims(masked, -1), GREY, squares)
        size = self.encoder.image_size
        seen = self.encoder(unpatchify(hidden, self.square, size, size), training=training)
        return self.paint(seen), masked  # (B, S, D) -> (B, S, Q Q 3)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Average the squared error over the pixels of masked squares, for `fit`."""
        painted, masked = y_pred
        errors = ops.mean((painted - patchify(x, self.square)) ** 2, axis=-1)  # (B, S)
        weights = ops.cast(masked, errors.dtype)
        return ops.sum(errors * weights) / ops.maximum(ops.sum(weights), 1)

    def get_config(self):
        return {
            **super().get_config(),
            "dtype": serialize_policy(self),
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "share": self.share,
        }
