"""A translator: an encoder-decoder with its tokenizer, text in, text out.

On disk it is a bundle (see `tfgpt.bundle`) with float16 weights.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from keras import ops

from tfgpt.bundle import TOKENIZER, check_vocabulary, load_bundle, save_bundle
from tfgpt.data.pairs import PAIR_CORPORA, pad_rows, read_source
from tfgpt.data.texts import DATA_FOLDER
from tfgpt.generation.beam import beam_search
from tfgpt.tokenizers import BPETokenizer
from tfgpt.transformer import Transformer
from tfgpt.validation import check_positive

CHECKPOINTS = PAIR_CORPORA  # a trained translator of each bundled corpus


@dataclass(frozen=True)
class Alignment:
    """What a translator looked at while it read a source and wrote a target.

    Args:
        weights: dict from "encoder/0", "decoder/0/self", "decoder/0/cross" and so on
            to float32 arrays (H, T, S).
        source_tokens: list of S str, the end token last.
        input_tokens: list of T str, what the decoder read, the start token first.
        output_tokens: list of T str, what each row wrote: the next token.
    """

    weights: dict
    source_tokens: list
    input_tokens: list
    output_tokens: list

    def view(self, title=None, save=None):
        """Show the weights in the interactive page; see `tfgpt.viewer.view_attention`.

        Args:
            title: str above the page, or None.
            save: path of an .html file to write, or None.

        Returns:
            AttentionView. Cross-attention comes first. The decoder's rows are the tokens
            that it read.
        """
        from tfgpt.plotting.viewer import view_attention

        tokens = {"encoder": self.source_tokens, "decoder": self.input_tokens}
        rows = "each decoder row writes the token of the next row"
        title = f"{title} ({rows})" if title else rows
        names = sorted(self.weights, key=lambda name: not name.endswith("/cross"))
        weights = {name: self.weights[name] for name in names}
        return view_attention(weights, tokens, title=title, save=save)


class Translator:
    """Translate text with an encoder-decoder and its tokenizer.

    Args:
        model: Transformer.
        tokenizer: BPETokenizer for both languages.

    Raises:
        TypeError: if the model is no Transformer or the tokenizer no BPETokenizer.
        ValueError: if model and tokenizer differ in their number of tokens.

    Example:
        >>> tokenizer = BPETokenizer.train("a b c " * 9, vocab_size=259)
        >>> model = Transformer(1, 8, 2, 16, 259, 259, max_length=12)
        >>> translation = Translator(model, tokenizer).translate("a b")
        >>> isinstance(translation, str)  # untrained, so nonsense
        True

    Source: "Attention Is All You Need", section 3; notebook 07.
    """

    def __init__(self, model, tokenizer):
        if not isinstance(model, Transformer):
            raise TypeError(f"model must be a Transformer, got {type(model).__name__}.")
        if not isinstance(tokenizer, BPETokenizer):
            raise TypeError(f"tokenizer must be a BPETokenizer, got {type(tokenizer).__name__}.")
        check_vocabulary(model, tokenizer)
        self.model = model
        self.tokenizer = tokenizer
        self.max_length = model.stack_settings["max_length"]

    def translate(self, texts, beam_size=4, length_penalty=1.0, batch_size=32):
        """Translate one text or many.

        Texts of any script can be read: an unknown character becomes its bytes.
        Line ends and runs of spaces count as one space. A translation ends at the
        latest after max_length tokens.

        Args:
            texts: str, or list of str.
            beam_size: int >= 1; 1 is greedy decoding.
            length_penalty: float >= 0, see `beam_search`.
            batch_size: int >= 1, texts that are translated at once.

        Returns:
            str for a str, list of str for a list.

        Raises:
            TypeError: if a text is no str.
            ValueError: if a text is empty or longer than the model reads, or an
                argument is outside its range.
        """
        check_positive("batch_size", batch_size)
        if isinstance(texts, str):
            return self.translate([texts], beam_size, length_penalty, 1)[0]
        sources = [self.encode(text, f"texts[{index}]") for index, text in enumerate(texts)]
        # Texts of similar length share a batch, so that little is padded.
        order = sorted(range(len(sources)), key=lambda index: len(sources[index]))
        translations = [""] * len(sources)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = [sources[index] for index in chosen]
            # A full batch, so that the last one needs no program of its own.
            batch += [batch[-1]] * (min(batch_size, len(order)) - len(batch))
            token_ids = self.search(batch, beam_size, length_penalty)
            for index, row in zip(chosen, token_ids, strict=False):
                translations[index] = self.tokenizer.decode(row).strip()
        return translations

    def align(self, source, target=None, beam_size=4, length_penalty=1.0):
        """Read a source and a target once and return all attention weights.

        Args:
            source: str.
            target: str, any translation; None: the translator's own.
            beam_size: int >= 1, for its own translation.
            length_penalty: float >= 0, for its own translation.

        Returns:
            Alignment.

        Raises:
            TypeError: if a text is no str.
            ValueError: if a text is empty or longer than the model reads.
        """
        source_ids = self.encode(source, "source")
        if target is None:
            output_ids = self.search([source_ids], beam_size, length_penalty)[0]
            output_ids = output_ids[output_ids != self.tokenizer.pad_id]
        else:
            output_ids = self.encode(target, "target")
        input_ids = np.append(np.int32(self.tokenizer.start_id), output_ids[:-1])
        inputs = {"source": source_ids[None], "target": input_ids[None]}
        _, weights = self.model(inputs, return_attention_weights=True)
        return Alignment(
            {name: ops.convert_to_numpy(array)[0] for name, array in weights.items()},
            self.labels(source_ids),
            self.labels(input_ids),
            self.labels(output_ids),
        )

    def search(self, sources, beam_size, length_penalty):
        """Translate id arrays of any lengths: list of (S,) -> int32 (B, max_length)."""
        token_ids, _ = beam_search(
            self.model,
            pad_rows(sources, len(sources), max(map(len, sources))),
            self.tokenizer.start_id,
            self.tokenizer.end_id,
            beam_size,
            length_penalty,
        )
        return token_ids[:, 0]

    def labels(self, token_ids):
        """Return the text of each token, for figures."""
        return [self.tokenizer.id_to_token(int(token_id)) for token_id in token_ids]

    def encode(self, text, name):
        """Return the ids of a text with the end token; raise unless the model can read it."""
        return read_source(text, self.tokenizer, self.max_length, name)

    def save(self, folder):
        """Write config.json, weights.safetensors (float16) and tokenizer.json.

        Args:
            folder: path; made if it does not exist.
        """
        save_bundle(folder, self.model, self.tokenizer, dtype="float16")

    @classmethod
    def load(cls, folder):
        """Read a translator that `save` wrote.

        Args:
            folder: path, or the name of a bundled one: "verses_en-es" or
                "verses_kjv-modern".

        Returns:
            Translator; its weights are float32 with the precision of float16.

        Raises:
            FileNotFoundError: if a file is missing.
            ValueError: if a file is damaged or the three do not fit together.
        """
        folder = DATA_FOLDER / "checkpoints" / folder if folder in CHECKPOINTS else Path(folder)
        if not (folder / TOKENIZER).is_file():
            raise FileNotFoundError(
                f"folder must be {', '.join(CHECKPOINTS)} or hold a saved translator, got "
                f"{str(folder)!r} without {TOKENIZER}."
            )
        return cls(*load_bundle(folder, "Transformer"))
