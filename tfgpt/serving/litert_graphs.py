"""What an exported file computes: the programs of a GPT and of a translator.

They get the caches as inputs and return the new keys and values only, so that nothing is
copied. A program is a function of tensors by name, with the shapes of its inputs. Shape
letters: B batch, T length, R room of the caches, D model width, H heads, K head width.
"""

from keras import ops

from tfgpt.attention import attention_scores, weighted_sum


def gpt_programs(model, batch, room, chunk):
    """Return the programs of a GPT: "prefill" reads a chunk of a prompt, "decode" one token.

    Args:
        model: GPT.
        batch: int, B.
        room: int, R.
        chunk: int, the T of "prefill".

    Returns:
        dict from names to pairs: a function, and the dict of the shapes of its inputs.
    """

    def make(length, with_logits):
        def program(x, bias, position=None, **caches):
            hidden, new = read_tokens(model, x, pairs_of("cache", caches), bias, position)
            outputs = named_pairs("new_cache", new)
            return {**outputs, "logits": model.logits(hidden)[:, -1]} if with_logits else outputs

        shapes = {"x": (batch, length, model.d_model), "bias": (batch, 1, length, room + length)}
        if model.positions == "rotary":
            shapes["position"] = (batch, 1)
        cache = (batch, model.num_heads, room, model.d_model // model.num_heads)
        return program, shapes | named_pairs("cache", [(cache, cache)] * model.num_layers)

    return {"decode": make(1, True), "prefill": make(chunk, False)}


def translator_programs(model, room):
    """Return the programs of an encoder-decoder for one text.

    "encode" turns the embedded source into the keys and values of each cross-attention;
    is_token is 1 where it is no padding. "decode" reads one token of the target.

    Args:
        model: Transformer.
        room: int, R, of source and target.

    Returns:
        as `gpt_programs`.
    """
    decoder = model.decoder

    def encode(x, is_token):
        output = model.encoder.hidden(x, mask=is_token > 0)  # (1, R, D)
        return named_pairs("memory", decoder.make_memories(output))

    def decode(x, bias, source_bias, **pairs):
        caches, memories = pairs_of("cache", pairs), pairs_of("memory", pairs)
        hidden, new = read_target(decoder, x, caches, bias, memories, source_bias)
        return {**named_pairs("new_cache", new), "logits": model.logits(hidden)[:, -1]}

    width, heads = decoder.d_model, decoder.layers[0].num_heads
    pairs = [((1, heads, room, width // heads),) * 2] * decoder.num_layers
    source = {"x": (1, room, width), "is_token": (1, 1, 1, room)}
    token = {"x": (1, 1, width), "bias": (1, 1, 1, room + 1), "source_bias": (1, 1, 1, room)}
    token |= named_pairs("cache", pairs) | named_pairs("memory", pairs)
    return {"decode": (decode, token), "encode": (encode, source)}


def named_pairs(kind, pairs):
    """Name the keys and values of all layers: list of L pairs -> dict of 2 L."""
    return {
        f"{kind}_{part}_{index:03}": x
        for index, pair in enumerate(pairs)
        for part, x in zip(("keys", "values"), pair, strict=True)
    }


def pairs_of(kind, tensors):
    """Find the keys and values of all layers again: the reverse of `named_pairs`."""
    keys = sorted(name for name in tensors if name.startswith(f"{kind}_keys"))
    return [(tensors[name], tensors[name.replace("keys", "values")]) for name in keys]


def read_tokens(model, x, caches, bias, position):
    """Run new tokens through all blocks.

    Args:
        model: GPT.
        x: float32 tensor (B, T, D), their embeddings.
        caches: list of L pairs, keys and values of earlier tokens (B, H, R, K).
        bias: float32 tensor (B, 1, T, R + T), 0 where a token may attend and -1e9 elsewhere.
        position: int32 tensor (B, 1), the place of the first token; None: not rotary.

    Returns:
        hidden states (B, T, D), and the list of L new pairs (B, H, T, K).
    """
    added = []
    for layer, cache in zip(model.decoder_layers, caches, strict=True):

        def attend(x, attention=layer.self_attention, cache=cache):
            return attend_beside(attention, x, cache, bias, position)

        x, new = layer.residual(x, layer.self_attention_norm, attend, training=False)
        x = layer.add_feed_forward(x, training=False)
        added.append(new)
    return model.final_norm(x), added


def read_target(decoder, x, caches, bias, memories, source_bias):
    """Run new tokens of a target through a decoder.

    Args:
        decoder: Decoder.
        x: float32 tensor (B, T, D), their embeddings.
        caches: list of L pairs, keys and values of earlier tokens (B, H, R, K).
        bias: float32 tensor (B, 1, T, R + T), 0 where a token may attend and -1e9 elsewhere.
        memories: list of L pairs, keys and values of the source (B, H, R, K).
        source_bias: float32 tensor (B, 1, 1, R), -1e9 at its padding.

    Returns:
        hidden states (B, T, D), and the list of L new pairs (B, H, T, K).
    """
    added = []
    for layer, cache, memory in zip(decoder.layers, caches, memories, strict=True):

        def attend(x, attention=layer.self_attention, cache=cache):
            return attend_beside(attention, x, cache, bias, None)

        def attend_to_source(x, attention=layer.encoder_attention, memory=memory):
            query = attention.split_heads(attention.query_projection, x)  # (B, H, T, K)
            weights = ops.softmax(scores_of(query, memory[0]) + source_bias, axis=-1)
            heads = average(weights, memory[1])
            return attention.output_projection(attention.merge_heads(heads)), None

        x, new = layer.residual(x, layer.self_attention_norm, attend, training=False)
        x, _ = layer.residual(x, layer.encoder_attention_norm, attend_to_source, training=False)
        x = layer.add_feed_forward(x, training=False)
        added.append(new)
    return decoder.last_norm(x), added


def attend_beside(attention, x, cache, bias, position):
    """Attend to a cache and to the new tokens beside it, which are not written into it.

    The result is that of `MultiHeadAttention.decode`. Joining scores in place of keys and
    values copies T x R numbers in place of R x K.
    """
    query, key, value = attention.project(x, x, x, 0 if position is None else position)
    keys, values = cache
    scores = [scores_of(query, keys), scores_of(query, key)]
    weights = ops.softmax(ops.concatenate(scores, axis=-1) + bias, axis=-1)  # (B, H, T, R + T)
    room = keys.shape[2]
    heads = average(weights[..., :room], values) + average(weights[..., room:], value)
    return attention.output_projection(attention.merge_heads(heads)), (key, value)


def scores_of(query, keys):
    """Compute query keys^T / sqrt(K): (B, H, T, K) and (B, H, S, K) -> (B, H, T, S).

    For a single query a matrix product would cost less than the copy of all keys that the
    interpreter makes before it: products number by number take three quarters of the time.
    """
    if query.shape[2] > 1:
        return attention_scores(query, keys)
    scores = ops.sum(query * query.shape[-1] ** -0.5 * keys, axis=-1)  # (B, H, S)
    return ops.expand_dims(scores, axis=2)


def average(weights, values):
    """Average values with weights: (B, H, T, S) and (B, H, S, K) -> (B, H, T, K)."""
    if weights.shape[2] > 1:
        return weighted_sum(weights, values)
    return ops.sum(ops.swapaxes(weights, 2, 3) * values, axis=2, keepdims=True)
