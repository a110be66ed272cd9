"""llama.cpp: the GPT-2 of Hugging Face in a GGUF file, with weights in 8 bits (Q8_0)."""

import tempfile
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
import torch

from benchmarks.hugging_face_worker import make_model
from benchmarks.runner import count_cores
from benchmarks.sizes import Size
from benchmarks.worker import Job, repeat

# Names in a block of Hugging Face -> names in a GGUF file.
PARTS = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


def make_job(settings):
    """Make the job that the settings describe; see `benchmarks.comparisons`."""
    size = Size(**settings["size"])
    prompt = size.prompt(1, settings["prompt"])[0].tolist()
    new_tokens = settings["new_tokens"]
    model = load(size, len(prompt) + new_tokens)

    def call():
        model.reset()
        ids = prompt
        for _ in range(new_tokens):
            model.eval(ids)
            logits = llama_cpp.llama_get_logits(model.ctx)
            ids = [int(np.ctypeslib.as_array(logits, (size.vocab_size,)).argmax())]
        return model.n_tokens + 1

    def finish(length):
        if length != len(prompt) + new_tokens:
            raise RuntimeError(f"{new_tokens} new tokens must be written, got {length} in all")

    return Job(repeat(call, finish), ("llama-cpp-python",), size.weights, units=new_tokens)


def load(size, length):
    """Write the untrained model into a file and load it with one thread per core."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        write_gguf(make_model(size).eval(), size, path)
        return llama_cpp.Llama(
            str(path),
            n_ctx=length,
            n_threads=count_cores(),
            n_threads_batch=count_cores(),
            use_mmap=False,
            verbose=False,
        )


def write_gguf(model, size, path):
    """Write matrices in 8 bits, 32 numbers with one scale; the rest in float32."""
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_context_length(size.length)
    writer.add_embedding_length(size.d_model)
    writer.add_feed_forward_length(4 * size.d_model)
    writer.add_block_count(size.num_layers)
    writer.add_head_count(size.num_heads)
    writer.add_layer_norm_eps(model.config.layer_norm_epsilon)
    writer.add_vocab_size(size.vocab_size)
    writer.add_tokenizer_model("none")  # ids in, logits out
    for name, array in tensors_of(model).items():
        is_matrix = name.endswith(".weight") and array.ndim == 2 and "position" not in name
        kind = gguf.GGMLQuantizationType[("F32", "Q8_0")[is_matrix]]
        writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensors_of(model):
    """Name the weights as a GGUF file does; matrices are (out, in)."""
    weights = {name: value.detach().numpy() for name, value in model.transformer.named_parameters()}
    tensors = {
        "token_embd.weight": weights["wte.weight"],
        "position_embd.weight": weights["wpe.weight"],
        "output_norm.weight": weights["ln_f.weight"],
        "output_norm.bias": weights["ln_f.bias"],
        "output.weight": weights["wte.weight"],
    }
    for index in range(model.config.n_layer):
        for theirs, name in PARTS.items():
            for kind in ("weight", "bias"):
                array = weights[f"h.{index}.{theirs}.{kind}"]
                tensors[f"blk.{index}.{name}.{kind}"] = array.T if array.ndim == 2 else array
    return {name: np.ascontiguousarray(array, "float32") for name, array in tensors.items()}
