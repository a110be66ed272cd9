"""VisionGPT: a GPT that reads images between words, in two ways.

"prefix" (LLaVA): each patch becomes a token. "cross" (Flamingo): text looks at the patches
through gated cross-attention before every block of the GPT.

Shape letters: B batch, T length, N images of a text, S vectors of an image, D model width of
the GPT, V vocabulary, C room of the cache.
"""

import keras
import numpy as np
from keras import ops

from tfgpt.gpt import GPT
from tfgpt.masks import causal_mask, serialize_policy
from tfgpt.validation import check_choice, check_integer
from tfgpt.vision.cross_attention import GatedCrossAttention
from tfgpt.vision.encoder import ImageEncoder

WAYS = ("prefix", "cross")


@keras.saving.register_keras_serializable("tfgpt")
class VisionGPT(keras.Model):
    """Predict the next token of texts with images in them.

    Where an image stands, `token_ids` has the id `image_id`: once for each of its S vectors
    ("prefix"), or once ("cross"). The k-th of these places of a row shows the k-th vector of
    its images. The causal mask is built in, so a token sees the images before it only; padding is
    hidden if the GPT has a pad_id. A text
    may show fewer images than it is given; the others are not seen. `image_id` is never
    written: its logit is -inf.

    Call: model({"token_ids": int (B, T), "images": float (B, N, H, W, 3)},
    return_attention_weights=False).

    Args:
        encoder: ImageEncoder, also a trained one.
        gpt: GPT, also a trained one.
        image_id: int in [0, V), an id that no text has, such as a tokenizer's start_id; not
            the GPT's pad_id.
        way: "prefix" or "cross".

    Returns:
        logits, float32 (B, T, V); with return_attention_weights=True also a dict with
        "encoder/0": float32 (B N, heads, S, S), "decoder/0/self": float32 (B, heads, T, T) and,
        with way="cross", "decoder/0/cross": float32 (B, heads, T, N S).

    Raises:
        TypeError: if encoder or gpt is of another class.
        ValueError: if an argument is outside its range, a text shows more images than it is
            given, or the input is longer than context_length.

    Example:
        >>> encoder = ImageEncoder(8, patch_size=4, num_layers=1, d_model=8, num_heads=2)
        >>> gpt = GPT(10, context_length=8, num_layers=1, d_model=8, num_heads=2)
        >>> model = VisionGPT(encoder, gpt, image_id=1)
        >>> token_ids, images = np.array([[1, 1, 1, 1, 5, 6]]), np.ones((1, 1, 8, 8, 3))
        >>> tuple(model({"token_ids": token_ids, "images": images}).shape)
        (1, 6, 10)

    Source: Liu et al., "Visual Instruction Tuning" (LLaVA, 2023), section 4.1; Alayrac et al.,
    "Flamingo" (2022), section 2.
    """

    def __init__(self, encoder, gpt, image_id, way="prefix", **kwargs):
        super().__init__(**kwargs)
        encoder, gpt = (
            keras.saving.deserialize_keras_object(part) if isinstance(part, dict) else part
            for part in (encoder, gpt)  # a dict comes from a config
        )
        for name, part, kind in (("encoder", encoder, ImageEncoder), ("gpt", gpt, GPT)):
            if not isinstance(part, kind):
                raise TypeError(
                    f"{name} must be of class {kind.__name__}, got {type(part).__name__}."
                )
        check_choice("way", way, WAYS)
        self.image_id = check_integer("image_id", image_id, minimum=0)
        if image_id >= gpt.vocab_size or image_id == gpt.pad_id:
            raise ValueError(
                f"image_id must be below vocab_size={gpt.vocab_size} and not the "
                f"pad_id={gpt.pad_id}, got {image_id}."
            )
        # Keras would round float placeholders of ids to half precision.
        self.autocast = False
        self.encoder, self.gpt, self.way = encoder, gpt, way
        self.vocab_size, self.pad_id = gpt.vocab_size, gpt.pad_id
        self.context_length, self.d_model = gpt.context_length, gpt.d_model
        self.image_vectors = encoder.num_patches + int(encoder.class_token)  # S
        self.tokens_per_image = self.image_vectors if way == "prefix" else 1
        self.expand = keras.layers.Dense(gpt.d_model, activation="gelu", name="expand")
        self.project = keras.layers.Dense(gpt.d_model, name="project")
        if way == "cross":
            self.cross_layers = [
                GatedCrossAttention(
                    gpt.d_model, gpt.num_heads, gpt.dff, gpt.dropout, name=f"cross_{index}"
                )
                for index in range(gpt.num_layers)
            ]
        self.build()

    def build(self, inputs_shape=None):
        if self.built:
            return
        self.expand.build((None, None, self.encoder.d_model))
        self.project.build((None, None, self.d_model))
        for layer in self.cross_layers if self.way == "cross" else ():
            layer.build((None, None, self.d_model), (None, None, self.d_model))
        self.built = True

    def call(self, inputs, return_attention_weights=False, training=None):
        token_ids = inputs["token_ids"]
        visual = self.see(inputs["images"], return_attention_weights, training)
        visual, weights = visual if return_attention_weights else (visual, {})
        x = self.embed(token_ids, image_places(token_ids, self.image_id), visual, 0, training)
        mask = self.gpt.own_mask(token_ids)
        if self.way == "prefix":
            x = self.gpt.hidden(x, mask, return_attention_weights, training)
            x, found = x if return_attention_weights else (x, {})
        else:
            seen = images_seen(token_ids, self.image_id)
            x, found = self.cross_hidden(x, visual, mask, seen, return_attention_weights, training)
        logits = self.logits(x)  # (B, T, D) -> (B, T, V)
        return (logits, weights | found) if return_attention_weights else logits

    def see(self, images, return_attention_weights=False, training=None):
        """Turn the images of each text into vectors as wide as the GPT.

        Args:
            images: float tensor (B, N, H, W, 3), values in [0, 1].
            return_attention_weights: bool.
            training: bool, turn on dropout.

        Returns:
            float tensor (B, N S, D); with return_attention_weights=True also a dict
            {"encoder/0": float32 (B N, heads, S, S), ...}.
        """
        batch, side = ops.shape(images)[0], self.encoder.image_size
        flat = ops.reshape(images, (-1, side, side, 3))  # (B, N, H, W, 3) -> (B N, H, W, 3)
        asked = {"return_attention_weights": return_attention_weights}
        vectors = self.encoder(flat, **asked, training=training)
        vectors, weights = vectors if return_attention_weights else (vectors, {})
        vectors = self.project(self.expand(vectors))  # (B N, S, D)
        visual = ops.reshape(vectors, (batch, -1, self.d_model))  # (B, N S, D)
        return (visual, weights) if return_attention_weights else visual

    def embed(self, token_ids, places, visual, start, training=None):
        """Embed words, and put image vectors in their places.

        Args:
            token_ids: int tensor (B, T).
            places: int tensor (B, T), which vector stands at each place; -1: a word.
            visual: float tensor (B, N S, D).
            start: int scalar, the position of the first token.
            training: bool, turn on dropout.

        Returns:
            float tensor (B, T, D).
        """
        x = self.gpt.embed(token_ids, start, training)
        if self.way == "cross":
            return x
        rows = ops.expand_dims(ops.maximum(places, 0), -1)  # (B, T) -> (B, T, 1)
        shown = ops.take_along_axis(visual, rows, axis=1)  # (B, N S, D) -> (B, T, D)
        return ops.where(ops.expand_dims(places, -1) >= 0, ops.cast(shown, x.dtype), x)

    def cross_hidden(self, x, visual, mask, seen, asked, training):
        """Pass (B, T, D) through the blocks, each behind a look at the images."""
        cross_mask, weights = self.cross_mask(seen, ops.shape(visual)[1]), {}
        pairs = zip(self.cross_layers, self.gpt.decoder_layers, strict=True)
        for index, (look, layer) in enumerate(pairs):
            x = look(x, visual, cross_mask, return_attention_weights=asked, training=training)
            if asked:
                x, weights[f"decoder/{index}/cross"] = x
            x = layer(x, mask=mask, return_attention_weights=asked, training=training)
            if asked:
                x, found = x
                weights[f"decoder/{index}/self"] = found["self"]
        return self.gpt.final_norm(x), weights

    def cross_mask(self, seen, count):
        """Let a text look at the images before: seen (B, T) -> bool (B, 1, T, N S)."""
        image_of = ops.arange(count, dtype="int32") // self.image_vectors  # (N S,)
        return ops.expand_dims(image_of < ops.expand_dims(seen, -1), 1)

    def logits(self, hidden):
        """Score every token: (B, T, D) -> float32 (B, T, V), -inf for the image_id."""
        is_image = np.arange(self.vocab_size) == self.image_id
        return ops.where(is_image, -np.inf, self.gpt.logits(hidden))

    def make_caches(self, token_ids, images):
        """Make the memory of `decode` for texts that begin with these tokens.

        Args:
            token_ids: int tensor (B, C): the prompts, then any ids but image_id.
            images: float tensor (B, N, H, W, 3).

        Returns:
            dict of tensors whose first size is B: empty keys and values, and the images.
        """
        batch, room = token_ids.shape
        visual = self.see(images)
        caches = {"text": self.gpt.make_caches(batch, room)}
        if self.way == "prefix":
            places = image_places(token_ids, self.image_id)
            return {**caches, "visual": visual, "places": places}
        memory = tuple(layer.memory(visual) for layer in self.cross_layers)
        return {**caches, "memory": memory, "seen": images_seen(token_ids, self.image_id)}

    def decode(self, token_ids, caches, start):
        """Run new tokens only; the result equals the same positions of a full pass.

        Args:
            token_ids: int tensor (B, T), of the texts or images at these places.
            caches: what `make_caches` or the last `decode` returned.
            start: int scalar, the position of the first of them; start + T <= C.

        Returns:
            hidden states (B, T, D) for `logits`, and the caches with the new tokens.
        """
        steps = start + ops.arange(token_ids.shape[1], dtype="int32")
        if self.way == "prefix":
            places = ops.take(caches["places"], steps, axis=1)
            x = self.embed(token_ids, places, caches["visual"], start)
            hidden, text = self.gpt.decode(x, caches["text"], start)
            return hidden, {**caches, "text": text}
        seen = ops.take(caches["seen"], steps, axis=1)
        cross_mask = self.cross_mask(seen, caches["memory"][0][0].shape[2])
        mask = causal_mask(token_ids.shape[1], caches["text"][0][0].shape[2], offset=start)
        x, text = self.gpt.embed(token_ids, start), []
        blocks = zip(self.cross_layers, caches["memory"], strict=True)
        blocks = zip(blocks, self.gpt.decoder_layers, caches["text"], strict=True)
        for (look, memory), layer, cache in blocks:
            x = look.decode(x, memory, cross_mask)
            x, cache = layer.decode(x, cache, start, mask)
            text.append(cache)
        return self.gpt.final_norm(x), {**caches, "text": tuple(text)}

    def check_ids(self, inputs):
        """Raise unless ids, length and images are in range; for use before a compiled step."""
        self.gpt.check_ids(inputs["token_ids"])
        images = inputs["images"]
        if len(images.shape) != 5:
            raise ValueError(f"images must have shape (B, N, H, W, 3), got {images.shape}.")
        shown = (np.asarray(inputs["token_ids"]) == self.image_id).sum(axis=1)
        most = images.shape[1] * self.tokens_per_image
        if (shown > most).any():
            raise ValueError(
                f"token_ids must have image_id={self.image_id} at most {most} times in a row for "
                f"{images.shape[1]} image(s), got {shown.max()}."
            )

    def compute_output_spec(self, inputs, return_attention_weights=False, training=None):
        token_ids = inputs["token_ids"]
        batch, length = token_ids.shape
        logits = keras.KerasTensor((batch, length, self.vocab_size), dtype="float32")
        if not return_attention_weights:
            return logits
        count, weights = inputs["images"].shape[1] * self.image_vectors, {}

        def describe(name, *shape):
            weights[name] = keras.KerasTensor(shape, dtype="float32")

        size = self.image_vectors
        for index in range(self.encoder.num_layers):
            describe(f"encoder/{index}", None, self.encoder.num_heads, size, size)
        for index in range(self.gpt.num_layers):
            if self.way == "cross":
                describe(f"decoder/{index}/cross", batch, self.gpt.num_heads, length, count)
            describe(f"decoder/{index}/self", batch, self.gpt.num_heads, length, length)
        return logits, weights

    def get_config(self):
        return {
            **super().get_config(),
            "dtype": serialize_policy(self),
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "gpt": keras.saving.serialize_keras_object(self.gpt),
            "image_id": self.image_id,
            "way": self.way,
        }


def image_places(token_ids, image_id):
    """Number the places of images in each row, -1 for words: int32 (B, T).

    Example:
        >>> image_places(np.array([[7, 1, 1, 8, 1]]), image_id=1).numpy().tolist()
        [[-1, 0, 1, -1, 2]]
    """
    is_image = ops.equal(token_ids, image_id)
    count = ops.cumsum(ops.cast(is_image, "int32"), axis=1)
    return ops.where(is_image, count - 1, -1)


def images_seen(token_ids, image_id):
    """Count the images up to each place, itself included, where each has one: int32 (B, T)."""
    return ops.cumsum(ops.cast(ops.equal(token_ids, image_id), "int32"), axis=1)
