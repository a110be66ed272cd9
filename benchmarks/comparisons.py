"""What is compared: the list of comparisons, their contenders, and the targets.

A contender's name begins with its library; names of tfgpt's settings begin with OURS.
"""

from dataclasses import asdict, dataclass, field, replace

from benchmarks.sizes import SIZES, Size

OURS = "tfgpt"
KINDS = ("limits", "import", "train", "decode")
INSTALL = {
    "torch": "torch",
    "hugging_face": "torch transformers",
    "ctranslate2": "ctranslate2 torch transformers",
    "llama_cpp": "llama-cpp-python gguf torch transformers",
    "keras_hub": "keras-hub",
    "litert": "ai-edge-litert",
    "limits": "tensorflow",
}
TORCH_LIBRARIES = ("torch", "hugging_face", "ctranslate2", "llama_cpp")


@dataclass(frozen=True)
class Contender:
    """One setting of one library.

    Args:
        name: str, unique in its comparison.
        library: str; `benchmarks.{library}_worker` measures it.
        options: dict of what its worker reads, with "precision".
        extra: bool, measured with --extras only.
    """

    name: str
    library: str
    options: dict
    extra: bool = False

    @property
    def is_ours(self):
        """Say whether this is a setting of tfgpt."""
        return self.name.startswith(OURS)


@dataclass(frozen=True)
class Comparison:
    """The same work for several contenders.

    Args:
        name: str.
        kind: one of KINDS.
        contenders: tuple of Contender.
        size: Size or None.
        options: dict of what all workers read.
        extra: bool, measured with --extras only.
    """

    name: str
    kind: str
    contenders: tuple[Contender, ...]
    size: Size | None = None
    options: dict = field(default_factory=dict)
    extra: bool = False

    def settings(self, contender):
        """Return the dict that the contender's worker reads."""
        size = {"size": asdict(self.size)} if self.size else {}
        return {"kind": self.kind, **size, **self.options, **contender.options}


@dataclass(frozen=True)
class Target:
    """A goal: tfgpt's best time, divided by that of the best of some peers.

    Args:
        name: str.
        comparison: str, its name.
        must: float, the largest ratio that is good enough.
        aim: float, the ratio that is hoped for.
        peers: names of contenders; none: the goal is the seconds of tfgpt's first call.
        precision: only tfgpt's settings of this precision count; None: all.
        is_limit: bool, the peer is the machine, which does nothing but read the weights.
    """

    name: str
    comparison: str
    must: float
    aim: float
    peers: tuple[str, ...] = ()
    precision: str | None = None
    is_limit: bool = False


EAGER = ("torch eager float32",)
HUGGING_FACE = ("Hugging Face float32",)
CTRANSLATE2 = ("CTranslate2 int8",)
LLAMA_CPP = ("llama.cpp int8",)
KERAS_HUB = {
    precision: (f"KerasHub {precision}", f"KerasHub XLA {precision}")
    for precision in ("float32", "bfloat16")
}
TARGETS = (
    Target("train S vs torch eager", "train S", 1.00, 0.75, EAGER),
    Target("train M vs torch eager float32", "train M", 0.60, 0.48, EAGER),
    Target("train M vs torch.compile bfloat16", "train M", 1.10, 0.95, ("torch.compile bfloat16",)),
    *(
        Target(
            f"train {size} vs KerasHub, {precision}", f"train {size}", 0.60, 0.45, peers, precision
        )
        for size in "SM"
        for precision, peers in KERAS_HUB.items()
    ),
    Target("train T vs torch nn.Transformer", "train T", 0.80, 0.62, EAGER),
    Target("decode S batch 1 vs KerasHub", "decode S, batch 1", 0.50, 0.30, KERAS_HUB["float32"]),
    Target("decode S batch 8 vs KerasHub", "decode S, batch 8", 0.75, 0.60, KERAS_HUB["float32"]),
    Target("decode M batch 1 vs Hugging Face", "decode M, batch 1", 0.15, 0.08, HUGGING_FACE),
    Target("decode G batch 1 vs Hugging Face", "decode G, batch 1", 0.25, 0.18, HUGGING_FACE),
    Target("decode G batch 1 vs CTranslate2", "decode G, batch 1", 0.80, 0.50, CTRANSLATE2),
    Target("decode G batch 1 vs llama.cpp", "decode G, batch 1", 1.20, 0.95, LLAMA_CPP),
    Target("decode G batch 8 vs Hugging Face", "decode G, batch 8", 0.35, 0.20, HUGGING_FACE),
    # 60 % and 80 % of the tokens that reading the weights allows.
    Target("decode G int8 vs reading it", "decode G, batch 1", 1.67, 1.25, (), "int8", True),
    Target("first call on M, seconds", "decode M, batch 1", 8.0, 4.0, (), "bfloat16"),
)


def make_comparisons():
    """List all comparisons in the order in which they run."""
    return [
        limits(),
        imports(),
        train("S", extras=("tfgpt plain", "torch.compile")),
        train("M", extras=("tfgpt plain", "torch.compile float32")),
        train("T", peers=("tfgpt", "torch eager"), extras=("tfgpt plain",)),
        # Many workers of this size at once do not fit into the memory of a small machine.
        train("G", peers=("tfgpt parts", "torch eager"), extra=True),
        *(decode("S", batch) for batch in (1, 8)),
        *(decode("M", batch, extra=batch == 8) for batch in (1, 8)),
        *(decode("G", batch, extras=("Hugging Face bf", "KerasHub")) for batch in (1, 8)),
        *(decode(size, 1, sample=True) for size in "SM"),
    ]


def limits():
    """Compare nothing: measure what the machine can do."""
    contenders = [
        Contender(f"matmul {precision}", "limits", {"operation": "matmul", "precision": precision})
        for precision in ("float32", "bfloat16")
    ]
    memory = Contender("memory reads", "limits", {"operation": "read", "precision": "float32"})
    return Comparison("limits", "limits", (*contenders, memory))


def imports():
    """Compare `import tfgpt` with the imports that it needs anyway."""
    needed = Contender(
        "tensorflow, keras", "import", {"modules": "tensorflow, keras", "precision": ""}
    )
    ours = Contender(
        f"{OURS} after these", "import", {"modules": "tensorflow, keras, tfgpt", "precision": ""}
    )
    return Comparison("import", "import", (ours, needed))


def train(size, peers=("",), extras=(), extra=False):
    """Compare training steps of a size.

    Args:
        size: str, its name.
        peers: only contenders whose names begin with one of these.
        extras: contenders whose names begin with one of these need --extras.
        extra: bool, all need --extras.
    """
    settings = [
        ("tfgpt plain", "tfgpt", {"jit_compile": False}),
        ("tfgpt XLA", "tfgpt", {"jit_compile": True}),
        ("tfgpt parts", "tfgpt", {"jit_compile": "parts"}),
        ("torch eager", "torch", {"compile": False}),
        ("torch.compile", "torch", {"compile": True}),
        ("KerasHub", "keras_hub", {"jit_compile": False}),
        ("KerasHub XLA", "keras_hub", {"jit_compile": True}),
    ]
    contenders = (
        Contender(f"{name} {precision}", library, {**options, "precision": precision})
        for name, library, options in settings
        for precision in ("float32", "bfloat16")
    )
    chosen = (contender for contender in contenders if contender.name.startswith(peers))
    return Comparison(
        f"train {size}", "train", mark_extras(chosen, extras), SIZES[size], extra=extra
    )


def decode(size, batch, sample=False, extras=("Hugging Face bf",), extra=False):
    """Compare generation: greedy, or with `sample` at temperature 1.

    Args:
        size: str, its name.
        batch: int, the number of prompts.
        sample: bool, draw tokens; only with float32 and the faster setting of a peer.
        extras: contenders whose names begin with one of these need --extras.
        extra: bool, all need --extras.
    """
    contenders = [
        Contender("tfgpt float32", "tfgpt", {"precision": "float32"}),
        Contender("tfgpt bfloat16", "tfgpt", {"precision": "bfloat16"}),
        Contender("tfgpt LiteRT float32", "litert", {"precision": "float32"}),
        Contender("tfgpt LiteRT int8", "litert", {"precision": "int8"}),
        Contender("Hugging Face float32", "hugging_face", {"precision": "float32"}),
        Contender("Hugging Face bfloat16", "hugging_face", {"precision": "bfloat16"}),
        Contender("CTranslate2 int8", "ctranslate2", {"precision": "int8"}),
        Contender("llama.cpp int8", "llama_cpp", {"precision": "int8"}),
        Contender("KerasHub float32", "keras_hub", {"precision": "float32", "jit_compile": False}),
        Contender(
            "KerasHub XLA float32", "keras_hub", {"precision": "float32", "jit_compile": True}
        ),
    ]
    if sample:
        faster = ("tfgpt float32", "tfgpt LiteRT int8", *HUGGING_FACE, "KerasHub XLA float32")
        contenders = [contender for contender in contenders if contender.name in faster]
    if batch > 1:  # its worker writes one text
        contenders = [contender for contender in contenders if contender.library != "llama_cpp"]
    prompt = 16
    options = {
        "batch": batch,
        "prompt": prompt,
        "new_tokens": min(200, SIZES[size].length - prompt),
        "sample": sample,
    }
    name = f"decode {size}, batch {batch}{', sampling' if sample else ''}"
    return Comparison(name, "decode", mark_extras(contenders, extras), SIZES[size], options, extra)


def mark_extras(contenders, starts):
    """Mark the contenders whose names begin with one of `starts` as extra."""
    return tuple(
        replace(contender, extra=contender.name.startswith(tuple(starts)))
        for contender in contenders
    )


def select(comparisons, kinds, sizes, only=(), extras=False):
    """Choose comparisons and contenders.

    Args:
        comparisons: list of Comparison.
        kinds: some of KINDS.
        sizes: names of sizes; comparisons without a size are always meant.
        only: contenders whose "comparison: contender" holds one of these; empty: all.
        extras: bool, also what is marked as extra.

    Returns:
        list of Comparison, without those that have no contender left.
    """
    chosen = []
    for comparison in comparisons:
        contenders = tuple(
            contender
            for contender in comparison.contenders
            if (extras or not contender.extra) and is_named(comparison, contender, only)
        )
        fits = comparison.kind in kinds and (
            comparison.size is None or comparison.size.name in sizes
        )
        if fits and contenders and (extras or not comparison.extra):
            chosen.append(replace(comparison, contenders=contenders))
    return chosen


def is_named(comparison, contender, only):
    """Say whether "comparison: contender" holds one of the texts; True for no texts."""
    label = f"{comparison.name}: {contender.name}"
    return not only or any(text in label for text in only)
