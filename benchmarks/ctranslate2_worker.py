"""CTranslate2: the GPT-2 of Hugging Face, converted, with weights in 8 bits."""

import tempfile

import ctranslate2
from ctranslate2.converters.transformers import GPT2Loader

from benchmarks.hugging_face_worker import make_model
from benchmarks.runner import count_cores
from benchmarks.sizes import Size
from benchmarks.worker import Job, repeat


def make_job(settings):
    """Make the job that the settings describe; see `benchmarks.comparisons`."""
    size = Size(**settings["size"])
    generator = load(size, settings["precision"])
    ids = size.prompt(settings["batch"], settings["prompt"]).tolist()
    prompts = [[f"t{token}" for token in row] for row in ids]
    new_tokens = settings["new_tokens"]

    def call():
        return generator.generate_batch(
            prompts,
            max_length=new_tokens,
            min_length=new_tokens,
            sampling_topk=0 if settings["sample"] else 1,
            include_prompt_in_result=False,
        )

    def finish(results):
        lengths = {len(result.sequences_ids[0]) for result in results}
        if lengths != {new_tokens}:
            raise RuntimeError(f"{new_tokens} new tokens must be written, got {lengths}")

    return Job(repeat(call, finish), ("ctranslate2",), size.weights, units=new_tokens)


def load(size, precision):
    """Convert the untrained model and load it with one thread per core."""
    spec = GPT2Loader().get_model_spec(make_model(size).eval())
    spec.register_vocabulary([f"t{token}" for token in range(size.vocab_size)])
    spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = "t0"
    spec.validate()
    spec.optimize(quantization=precision)
    with tempfile.TemporaryDirectory() as folder:
        spec.save(folder)
        return ctranslate2.Generator(folder, compute_type=precision, intra_threads=count_cores())
