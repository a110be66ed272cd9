"""What tests of images share."""


def vit_weights(arrays, num_layers):
    """Name the weights of Hugging Face's ViT as an ImageEncoder has them.

    Args:
        arrays: dict from their names to arrays.
        num_layers: int.
    """

    def array(name):
        value = arrays[name]
        is_kernel = name.endswith("weight") and value.ndim == 2
        return value.T if is_kernel else value

    kernel = array("embeddings.patch_embeddings.projection.weight")  # (D, 3, P, P)
    weights = {
        "projection/kernel": kernel.transpose(2, 3, 1, 0).reshape(-1, kernel.shape[0]),
        "projection/bias": array("embeddings.patch_embeddings.projection.bias"),
        "class_vector": array("embeddings.cls_token"),
        "position_table": array("embeddings.position_embeddings"),
        "final_norm/gamma": array("layernorm.weight"),
        "final_norm/beta": array("layernorm.bias"),
    }
    ours = {
        **{f"self_attention/{name}": f"attention.{name[0]}_proj" for name in ("query", "key")},
        "self_attention/value": "attention.v_proj",
        "self_attention/output": "attention.o_proj",
        "feed_forward/expand": "mlp.fc1",
        "feed_forward/contract": "mlp.fc2",
    }
    norms = {"self_attention_norm": "layernorm_before", "feed_forward_norm": "layernorm_after"}
    for index in range(num_layers):
        for name, theirs in ours.items():
            weights[f"layer_{index}/{name}/kernel"] = array(f"layers.{index}.{theirs}.weight")
            weights[f"layer_{index}/{name}/bias"] = array(f"layers.{index}.{theirs}.bias")
        for name, theirs in norms.items():
            weights[f"layer_{index}/{name}/gamma"] = array(f"layers.{index}.{theirs}.weight")
            weights[f"layer_{index}/{name}/beta"] = array(f"layers.{index}.{theirs}.bias")
    return weights
