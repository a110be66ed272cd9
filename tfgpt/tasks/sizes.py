"""The sizes of a GPT, and the arithmetic that they alone decide: weights and operations.

Shape letters: L layers, D model width, H heads, F inner width, T context length, V vocabulary.
"""

import re
from dataclasses import dataclass, replace

from tfgpt.pretrained.gpt2 import SIZES as GPT2_SIZES
from tfgpt.validation import check_choice, check_positive

UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
POSITIONS = ("learned", "sinusoidal", "rotary")
NEAR = 0.05  # a published shape is taken if its number of weights differs by less


@dataclass(frozen=True)
class Sizes:
    """The sizes of one GPT.

    Args:
        num_layers: int, L.
        d_model: int, D, a multiple of num_heads.
        num_heads: int, H.
        vocab_size: int, V.
        context_length: int, T.
        dff: int, F; None: 4 D.
        positions: "learned", "sinusoidal" or "rotary".
        tie_embeddings: bool.
        use_bias: bool.
        name: str, where the shape comes from.
        known_parameters: int, the number of weights of a model of another form, such as
            Llama; None: count those of a tfgpt.GPT.

    Raises:
        ValueError: if a size is no integer >= 1, or d_model is no multiple of num_heads.

    Example:
        >>> gpt2 = Sizes(12, 768, 12, vocab_size=50257, context_length=1024)
        >>> gpt2.parameters
        124439808
    """

    num_layers: int
    d_model: int
    num_heads: int
    vocab_size: int
    context_length: int
    dff: int | None = None
    positions: str = "learned"
    tie_embeddings: bool = True
    use_bias: bool = True
    name: str = "given sizes"
    known_parameters: int | None = None

    def __post_init__(self):
        for name in ("num_layers", "d_model", "num_heads", "vocab_size", "context_length"):
            check_positive(name, getattr(self, name))
        if self.d_model % self.num_heads:
            raise ValueError(
                f"d_model must be a multiple of num_heads={self.num_heads}, got {self.d_model}."
            )
        check_choice("positions", self.positions, POSITIONS)
        object.__setattr__(self, "dff", self.dff or 4 * self.d_model)

    @property
    def layer_parameters(self):
        """The weights of one block: attention 4 D^2, feed-forward 2 D F, biases, two norms."""
        width, inner = self.d_model, self.dff
        biases = 4 * width + inner + width if self.use_bias else 0
        return 4 * width**2 + 2 * width * inner + biases + 4 * width

    @property
    def position_parameters(self):
        """The weights of the position table."""
        return self.context_length * self.d_model if self.positions == "learned" else 0

    @property
    def parameters(self):
        """The exact number of weights of tfgpt.GPT(...) with these sizes."""
        if self.known_parameters:
            return self.known_parameters
        tables = (1 if self.tie_embeddings else 2) * self.vocab_size * self.d_model
        blocks = self.num_layers * self.layer_parameters
        return blocks + 2 * self.d_model + tables + self.position_parameters

    @property
    def multiplied_parameters(self):
        """N: the weights that each token is multiplied with; tables are only looked up.

        The output product counts, and so a tied table counts once.
        """
        lookup = 0 if self.tie_embeddings else self.vocab_size * self.d_model
        return self.parameters - self.position_parameters - lookup

    @property
    def flops_per_token(self):
        """Count the operations of a training step for one token: 6 N + 12 L D T.

        2 N forward, 4 N backward; attention multiplies each query with T keys and T values.
        Nothing is taken off for the causal mask: tfgpt computes all T x T scores, and the
        convention for MFU counts them. Half of them, 6 L D T, would do.

        Source: Kaplan et al., "Scaling Laws for Neural Language Models" (2020), section 2.1;
        Chowdhery et al., "PaLM" (2022), appendix B.
        """
        attention = 12 * self.num_layers * self.d_model * self.context_length
        return 6 * self.multiplied_parameters + attention


def gpt3(name, num_layers, d_model, num_heads):
    """Make one of GPT-3's shapes."""
    return Sizes(num_layers, d_model, num_heads, 50257, 2048, name=f"GPT-3 {name}")


# GPT-2: Radford et al. (2019), table 2. GPT-3: Brown et al. (2020), table 2.1, with two
# numbers that do not divide there repaired: 1.3B has 16 heads, 13B is 5,120 wide.
PUBLISHED_SHAPES = (
    *(
        Sizes(
            **{key: value for key, value in sizes.items() if key != "activation"},
            name=name.replace("gpt2", "GPT-2"),
        )
        for name, sizes in GPT2_SIZES.items()
    ),
    gpt3("125M", 12, 768, 12),
    gpt3("350M", 24, 1024, 16),
    gpt3("760M", 24, 1536, 16),
    gpt3("1.3B", 24, 2048, 16),
    gpt3("2.7B", 32, 2560, 32),
    gpt3("6.7B", 32, 4096, 32),
    gpt3("13B", 40, 5120, 40),
    gpt3("175B", 96, 12288, 96),
)


def parse_count(name, text):
    """Read a count such as "124M", "1.5B", "300e9" or 1000.

    Args:
        name: str, the argument's name in the message.
        text: str or number.

    Returns:
        int >= 1.

    Raises:
        ValueError: if the text is no such count.

    Example:
        >>> parse_count("params", "1.5B")
        1500000000
    """
    match = re.fullmatch(r"([0-9.]+(?:e[+]?[0-9]+)?)([KMBT]?)", str(text).strip().replace(",", ""))
    try:
        count = round(float(match[1]) * UNITS[match[2]])
    except (TypeError, ValueError, OverflowError):
        count = 0
    if count < 1:
        raise ValueError(
            f'{name} must be a count such as "124M", "1.5B" or 1000, got {text!r}: the units are '
            "K, M, B and T."
        )
    return count


def choose_sizes(params, vocab_size=None, context_length=None):
    """Choose a shape with about a number of weights.

    A published shape within 5 % is taken. Otherwise the nearest shape by this rule: D is a
    multiple of 64, D / L is from 32 to 128, as in GPT-3's table, and a head is 64 wide, 128
    from D = 4,096 on. Small models have small vocabularies: 256 below 5 million weights,
    8,192 below 50 million, then 50,257.

    Args:
        params: int or str, such as "124M".
        vocab_size: int; None: that of the shape.
        context_length: int; None: that of the shape; 256 below 50 million weights, then 1,024.

    Returns:
        Sizes.

    Raises:
        ValueError: if `params` is no count.

    Example:
        >>> choose_sizes("175B").name
        'GPT-3 175B'
    """
    wanted = parse_count("params", params)
    own = {"vocab_size": vocab_size, "context_length": context_length}
    own = {key: value for key, value in own.items() if value is not None}

    def distance(sizes):
        return abs(sizes.parameters - wanted)

    best = min(PUBLISHED_SHAPES, key=distance)
    if distance(best) <= NEAR * wanted:
        return replace(best, **own)
    vocab = next(v for limit, v in ((5e6, 256), (5e7, 8192), (1e15, 50257)) if wanted < limit)
    defaults = {"vocab_size": vocab, "context_length": 256 if wanted < 5e7 else 1024, **own}
    shapes = (
        shape_of_width(width, wanted, defaults)
        for width in (*range(64, 4096, 64), *range(4096, 32768, 128))
    )
    return min(shapes, key=distance)


def shape_of_width(width, wanted, defaults):
    """Return the shape of one width whose number of weights is nearest."""
    one = Sizes(1, width, width // (64 if width < 4096 else 128), **defaults, name="nearest shape")
    layers = round((wanted - one.parameters) / one.layer_parameters) + 1
    return replace(one, num_layers=min(max(layers, -(-width // 128)), width // 32))
