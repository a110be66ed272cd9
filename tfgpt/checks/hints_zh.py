"""The hints of the ladder in Chinese: what to know, the idea, almost the line."""

HINTS_ZH = {
    "attention": (
        "第 4 到第 8 节",
        "四行：K 是 query.shape[-1]；每个查询与每个键的得分；如果有掩码，"
        "就把掩码为 False 的得分遮住；在最后一个轴上做 softmax。",
        "scores = ops.matmul(query, ops.swapaxes(key, -1, -2)) / K**0.5，然后 "
        "ops.where(mask, scores, -1e9)，然后 ops.softmax(scores, axis=-1)，再与 value 相乘。"
        "返回 output, weights。",
    ),
    "attention head": (
        "第 1 和第 2 节，`keras.layers.Dense`",
        "在 __init__ 里建三个宽度为 head_dim 的 Dense 层。在 call 里先投影，"
        "再用你在笔记本 01 里写的注意力；它还会返回权重。",
        "output, _ = attention(self.query_projection(query), self.key_projection(key), "
        "self.value_projection(key), mask)。",
    ),
    "multi-head attention": (
        "`AttentionHead`、`split_heads`、`merge_heads`",
        "不需要对头循环：注意力可以直接用在 (B, H, T, K) 上。"
        "把三个投影后的数组分成头，做一次注意力，合并，再投影一次。",
        "q = split_heads(self.query_projection(query), self.num_heads)，k 和 v 也一样；"
        "output, _ = attention(q, k, v, mask)；返回 self.output_projection(merge_heads(output))。",
    ),
    "feed-forward": (
        "第 1 节，`keras.layers.Dense`",
        "两个 Dense 层。第一个带激活函数，第二个不带。",
        "在 __init__ 里：self.expand = keras.layers.Dense(dff, activation=activation)，"
        "self.contract = keras.layers.Dense(d_model)。在 call 里：先用一个，再用另一个。",
    ),
    "layer norm": (
        "上面的公式，`ops.mean`、`ops.var`",
        "求最后一个轴的均值和方差，用 keepdims=True，形状才对得上。epsilon 加在方差上，"
        "而不是加在标准差上。",
        "ops.mean 和 ops.var 都用 axis=-1, keepdims=True；然后 self.gain * (x - mean) / "
        "ops.sqrt(variance + self.epsilon) + self.bias。",
    ),
    "block": (
        "第 3 和第 4 节",
        "四个部件，两次相加。每次都把子层对归一化后的 x 算出的结果加到 x 上。"
        "两个归一化层各有自己的权重。",
        "x = x + self.self_attention(self.self_attention_norm(x), mask=mask)，"
        "然后对 feed_forward 同样做一次；它不需要掩码。",
    ),
    "train step": (
        "第 2 节",
        "四行。前向计算和损失都要在 tape 里面。更新在 tape 外面。",
        "with tf.GradientTape() as tape: loss = tfgpt.masked_loss(targets, model(inputs, "
        "training=True))；然后 tape.gradient(loss, variables)，最后 "
        "optimizer.apply(gradients, variables)。",
    ),
    "my gpt": (
        "你的 `Block`、`keras.layers.Embedding`、上面的图",
        "两张嵌入表相加；各个块一个接一个，用同一个因果掩码；一个归一化层；最后与转置后的词元表相乘。",
        "embed：self.token_table(token_ids) + self.position_table(start + "
        "ops.arange(token_ids.shape[1]))。logits：ops.matmul(hidden, "
        "ops.transpose(self.token_table.embeddings))。",
    ),
    "sampler": (
        "练习 1",
        "把各个概率在 0 到 1 的线段上一个挨一个地排开：point 落在哪个词元上，就抽到哪个。"
        "温度为 0 时要单独处理。",
        "p = my_top_p(logits / temperature, top_p)，然后取第一个满足 np.cumsum(p) > point 的位置："
        "np.argmax 能找到它。",
    ),
    "cached decoding": (
        "`MultiHeadAttention`（04）、`MyGPT`（09）",
        "为每个块保留两个数组：键和值，形状是 (1, H, C, K)。"
        "每一步只嵌入新的词元，start 是前面已有多少个词元。"
        "在每个块里，把新的键和值接到旧的后面，新的查询与全部键相遇。",
        "keys = ops.concatenate([keys, new_keys], axis=2)；attention(query, keys, values, "
        "tfgpt.causal_mask(new, total, offset=total - new))；然后 output_projection，相加，"
        "再加上 feed_forward(feed_forward_norm(x))。",
    ),
}
