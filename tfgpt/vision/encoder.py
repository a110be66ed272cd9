"""The image encoder: patches, positions and a stack of encoder layers (a Vision Transformer).

Shape letters: B batch, H and W pixels, S patches, D model width, L layers.
"""

import keras
from keras import ops

from tfgpt.layers import EncoderLayer, LayerNorm
from tfgpt.masks import serialize_policy
from tfgpt.validation import check_choice, check_positive, check_rate
from tfgpt.vision.patches import grid_encoding, grid_of, patchify

INITIAL_STDDEV = 0.02  # of a ViT's kernels and tables


@keras.saving.register_keras_serializable("tfgpt")
class ImageEncoder(keras.Model):
    """Turn images into one vector per patch.

    Every patch sees all others: there is no mask. `training=True` turns on dropout. Under a
    mixed dtype policy softmax and norm statistics are float32. Pixels are shifted from
    [0, 1] to [-1, 1] first.

    Call: encoder(images, return_attention_weights=False).

    Args:
        image_size: int, side of the square images in pixels.
        patch_size: int, P; divides image_size, or what a stem leaves of it.
        num_layers: int >= 1, L.
        d_model: int, D, a multiple of num_heads.
        num_heads: int >= 1.
        dff: int, inner width of the feed-forward networks; default: 4 D.
        dropout: float in [0, 1).
        positions: "learned" (a ViT's), or "sinusoidal": one half of the features for the
            row, one for the column.
        class_token: bool, put one learned vector in front, as a ViT has it.
        stem: tuple of ints, filters of 3 x 3 convolutions that come before the patches, each
            with a norm, GELU and a 2 x 2 maximum that halves the image: a few hundred images
            teach more with them. (): none, as in a ViT.
        norm_epsilon: float > 0, added to the variance.

    Returns:
        float tensor (B, S, D), with a class token (B, 1 + S, D); with
        return_attention_weights=True also {"encoder/0": float32 (B, heads, S, S), ...}.

    Raises:
        ValueError: if an argument is outside its range or the images have another size.

    Example:
        >>> encoder = ImageEncoder(32, patch_size=8, num_layers=1, d_model=16, num_heads=2)
        >>> tuple(encoder(np.zeros((1, 32, 32, 3), "float32")).shape)
        (1, 16, 16)

    Source: Dosovitskiy et al., "An Image is Worth 16x16 Words" (2020), section 3.1; the stem:
    Xiao et al., "Early Convolutions Help Transformers See Better" (2021).
    """

    def __init__(
        self,
        image_size,
        patch_size,
        num_layers,
        d_model,
        num_heads,
        dff=None,
        dropout=0.0,
        *,
        positions="learned",
        class_token=False,
        stem=(),
        norm_epsilon=1e-6,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.image_size = check_positive("image_size", image_size)
        self.stem = tuple(check_positive("stem", filters) for filters in stem)
        if image_size % 2 ** len(self.stem):
            raise ValueError(
                f"stem must halve image_size each time, got {len(self.stem)} convolutions for "
                f"{image_size} pixels."
            )
        side = image_size // 2 ** len(self.stem)
        rows, columns = grid_of((None, side, side, 3), patch_size)
        check_choice("positions", positions, ("learned", "sinusoidal"))
        self.patch_size = int(patch_size)
        self.num_patches = rows * columns
        self.num_layers = check_positive("num_layers", num_layers)
        self.d_model = check_positive("d_model", d_model)
        self.num_heads = check_positive("num_heads", num_heads)
        self.dff = 4 * self.d_model if dff is None else check_positive("dff", dff)
        self.dropout = check_rate("dropout", dropout)
        self.positions = positions
        self.class_token = class_token
        self.norm_epsilon = norm_epsilon
        self.convolutions = [
            keras.layers.Conv2D(
                filters, 3, padding="same", dtype=self.dtype_policy, name=f"convolution_{index}"
            )
            for index, filters in enumerate(self.stem)
        ]
        self.convolution_norms = [
            LayerNorm(
                epsilon=norm_epsilon, dtype=self.dtype_policy, name=f"convolution_norm_{index}"
            )
            for index in range(len(self.stem))
        ]
        self.projection = keras.layers.Dense(
            self.d_model, dtype=self.dtype_policy, name="projection"
        )
        if positions == "sinusoidal":
            self.grid = grid_encoding(rows, columns, self.d_model)  # (1, S, D)
        self.encoder_layers = [
            EncoderLayer(
                self.d_model,
                self.num_heads,
                self.dff,
                dropout=self.dropout,
                norm_first=True,
                activation="gelu",
                norm_epsilon=norm_epsilon,
                dtype=self.dtype_policy,
                name=f"layer_{index}",
            )
            for index in range(self.num_layers)
        ]
        self.final_norm = LayerNorm(
            epsilon=norm_epsilon, dtype=self.dtype_policy, name="final_norm"
        )
        self.build((None, image_size, image_size, 3))

    def build(self, images_shape=None):
        if self.built:
            return
        normal = keras.initializers.RandomNormal(stddev=INITIAL_STDDEV)
        channels = 3
        for convolution, norm in zip(self.convolutions, self.convolution_norms, strict=True):
            convolution.build((None, None, None, channels))
            channels = convolution.filters
            norm.build((None, None, None, channels))
        self.projection.build((None, self.num_patches, channels * self.patch_size**2))
        if self.class_token:
            self.class_vector = self.add_weight(
                shape=(1, 1, self.d_model), initializer="zeros", name="class_vector"
            )
        if self.positions == "learned":
            shape = (1, self.num_patches + int(self.class_token), self.d_model)
            self.position_table = self.add_weight(
                shape=shape, initializer=normal, name="position_table"
            )
        for layer in self.encoder_layers:
            layer.build((None, None, self.d_model))
        self.final_norm.build((None, None, self.d_model))

    def call(self, images, return_attention_weights=False, training=None):
        x = self.embed(images)  # (B, H, W, 3) -> (B, S, D)
        weights = {}
        for index, layer in enumerate(self.encoder_layers):
            x = layer(x, return_attention_weights=return_attention_weights, training=training)
            if return_attention_weights:
                x, weights[f"encoder/{index}"] = x
        x = self.final_norm(x)
        return (x, weights) if return_attention_weights else x

    def embed(self, images):
        """Project patches and add positions: (B, H, W, 3) -> (B, S, D), class token first."""
        self.check_images(images)
        x = 2 * ops.cast(images, self.compute_dtype) - 1
        for convolution, norm in zip(self.convolutions, self.convolution_norms, strict=True):
            x = ops.gelu(norm(convolution(x)), approximate=False)
            x = ops.max_pool(x, 2, strides=2)  # (B, H, W, C) -> (B, H/2, W/2, C)
        patches = patchify(x, self.patch_size)
        x = self.projection(patches)  # (B, S, P P C) -> (B, S, D)
        if self.positions == "sinusoidal":
            x = x + ops.cast(self.grid, x.dtype)
        if self.class_token:
            first = ops.cast(self.class_vector, x.dtype) * ops.ones_like(x[:, :1])
            x = ops.concatenate([first, x], axis=1)
        return x + ops.cast(self.position_table, x.dtype) if self.positions == "learned" else x

    def check_images(self, images):
        """Raise unless images are (B, H, W, 3) floats of the right size."""
        wanted = (self.image_size, self.image_size, 3)
        if tuple(images.shape[1:]) != wanted:
            raise ValueError(f"images must have shape (B, {wanted}), got {tuple(images.shape)}.")
        dtype = keras.backend.standardize_dtype(images.dtype)
        if not keras.backend.is_float_dtype(dtype):
            raise TypeError(f"images must be floats in [0, 1], got dtype {dtype}: divide by 255.")

    def compute_output_spec(self, images, return_attention_weights=False, training=None):
        self.check_images(images)
        count = self.num_patches + int(self.class_token)
        x = keras.KerasTensor((images.shape[0], count, self.d_model), dtype=self.compute_dtype)
        shape = (images.shape[0], self.num_heads, count, count)
        names = [f"encoder/{index}" for index in range(self.num_layers)]
        weights = {name: keras.KerasTensor(shape, dtype="float32") for name in names}
        return (x, weights) if return_attention_weights else x

    def get_config(self):
        return {
            **super().get_config(),
            "dtype": serialize_policy(self),
            "image_size": self.image_size,
            "patch_size": self.patch_size,
            "num_layers": self.num_layers,
            "d_model": self.d_model,
            "num_heads": self.num_heads,
            "dff": self.dff,
            "dropout": self.dropout,
            "positions": self.positions,
            "class_token": self.class_token,
            "stem": list(self.stem),
            "norm_epsilon": self.norm_epsilon,
        }
