"""Text to token ids and back: single characters, and byte-pair pieces.

Both keep id 0 for padding, so that losses and masks can ignore it.
"""

import functools
import json
from pathlib import Path

import numpy as np

from tfgpt.validation import check_positive

PAD_TOKEN = "<pad>"
START_TOKEN = "<start>"
END_TOKEN = "<end>"

# How GPT-2 cuts text before merging: contractions, words, numbers and signs, each
# with the space before it. White space beyond that stays single, which GPT-2 does
# not do: TensorFlow's regular expressions cannot look ahead.
PIECES = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s"


class CharTokenizer:
    """One token per character; id 0 is padding.

    Args:
        characters: iterable of distinct single characters; ids follow their order.

    Raises:
        ValueError: if there is none, or one is repeated or longer than a character.

    Example:
        >>> tokenizer = CharTokenizer.train("床前明月光")
        >>> tokenizer.decode(tokenizer.encode("明月"))
        '明月'
    """

    pad_id = 0

    def __init__(self, characters):
        self.tokens = [PAD_TOKEN, *characters]
        wrong = [token for token in self.tokens[1:] if len(token) != 1]
        if wrong or len(set(self.tokens)) != len(self.tokens) or len(self.tokens) == 1:
            raise ValueError(
                "characters must be distinct single characters, at least one, "
                f"got {list(characters)[:10]!r}."
            )
        self.ids = {token: index for index, token in enumerate(self.tokens) if index}

    @classmethod
    def train(cls, text):
        """Build a tokenizer that knows every character of `text`.

        Args:
            text: str, not empty.

        Returns:
            CharTokenizer, ids in code point order.

        Raises:
            ValueError: if `text` is empty.
        """
        if not text:
            raise ValueError("text must not be empty.")
        return cls(sorted(set(text)))

    @property
    def vocab_size(self):
        """Number of ids, padding included."""
        return len(self.tokens)

    def encode(self, text):
        """Turn text into ids.

        Args:
            text: str.

        Returns:
            int32 numpy array (number of characters,).

        Raises:
            ValueError: if a character is not in the vocabulary.
        """
        try:
            return np.array([self.ids[character] for character in text], dtype="int32")
        except KeyError as error:
            character = error.args[0]
            raise ValueError(
                f"text must hold known characters only, got {character!r} "
                f"(U+{ord(character):04X}) at position {text.index(character)}; "
                f"the vocabulary has {self.vocab_size - 1} characters."
            ) from None

    def decode(self, token_ids):
        """Turn ids into text; padding becomes nothing.

        Args:
            token_ids: int array or list (T,).

        Returns:
            str.

        Raises:
            ValueError: if an id is outside the vocabulary.
        """
        return "".join(self.id_to_token(index) for index in id_list(token_ids) if index)

    def id_to_token(self, token_id):
        """Return the text of one id.

        Args:
            token_id: int in [0, vocab_size).

        Returns:
            str, one character, or "<pad>" for 0.

        Raises:
            ValueError: if the id is outside the vocabulary.
        """
        check_id(token_id, self.vocab_size)
        return self.tokens[token_id]

    def token_bytes(self, token_id):
        """Return the UTF-8 bytes that one id adds to a text.

        Args:
            token_id: int in [0, vocab_size).

        Returns:
            bytes, none for padding.

        Raises:
            ValueError: if the id is outside the vocabulary.
        """
        return self.id_to_token(token_id).encode() if token_id else b""

    def save(self, path):
        """Write the vocabulary as UTF-8 JSON.

        Args:
            path: file to write.
        """
        content = {"type": "CharTokenizer", "characters": "".join(self.tokens[1:])}
        Path(path).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, path):
        """Read a vocabulary that `save` wrote.

        Args:
            path: file to read.

        Returns:
            CharTokenizer with the same ids.

        Raises:
            ValueError: if the file is no saved CharTokenizer.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls(content["characters"])
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"path must be a saved CharTokenizer, got {str(path)!r}.") from error


class BPETokenizer:
    """Byte-pair pieces: frequent words are one token, any text can be encoded.

    Starts from the 256 bytes, so no character is unknown. Trained with the
    `tokenizers` library on the byte-level scheme of GPT-2, but runs of white space
    are not merged. Ids: 0 "<pad>", 1 "<start>", 2 "<end>", then bytes, then merged
    pieces. The text "<end>" is encoded like any other: put `end_id` where you
    want the token.

    Args:
        library_tokenizer: a byte-level `tokenizers.Tokenizer`; use `train` or `load`.

    Example:
        >>> tokenizer = BPETokenizer.train(["明月 moon " * 50], vocab_size=280)
        >>> tokenizer.decode(tokenizer.encode("moon 🌕 明月"))
        'moon 🌕 明月'

    Source: Sennrich et al., "Neural Machine Translation of Rare Words with Subword
    Units" (2016); byte-level form: GPT-2 (2019), section 2.2.
    """

    pad_id, start_id, end_id = 0, 1, 2

    def __init__(self, library_tokenizer):
        self.library_tokenizer = library_tokenizer
        # A user who types "<pad>" or "<end>" must not pad or end the text.
        self.library_tokenizer.encode_special_tokens = True

    def __setstate__(self, state):
        # The library forgets the setting when it is pickled or copied.
        self.__init__(**state)

    @classmethod
    def train(cls, texts, vocab_size):
        """Learn merges from texts.

        Args:
            texts: str, or iterable of str.
            vocab_size: int >= 259 (3 special tokens and 256 bytes). Fewer ids
                result if the texts have too few pairs to merge.

        Returns:
            BPETokenizer.

        Raises:
            ValueError: if vocab_size is below 259 or the texts are empty.
        """
        import tokenizers
        from tokenizers import pre_tokenizers

        special = [PAD_TOKEN, START_TOKEN, END_TOKEN]
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        check_positive("vocab_size", vocab_size)
        if vocab_size < len(special) + len(alphabet):
            raise ValueError(
                f"vocab_size must be >= {len(special) + len(alphabet)} "
                f"(special tokens and bytes), got {vocab_size}."
            )
        texts = [texts] if isinstance(texts, str) else list(texts)
        if not any(texts):
            raise ValueError("texts must not be empty.")
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(tokenizers.Regex(PIECES), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        tokenizer.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=special,
            initial_alphabet=alphabet,
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer)

    @property
    def vocab_size(self):
        """Number of ids, special tokens included."""
        return self.library_tokenizer.get_vocab_size()

    def encode(self, text):
        """Turn text into ids; none of them is a special token.

        Args:
            text: str.

        Returns:
            int32 numpy array (number of pieces,).
        """
        return np.array(self.library_tokenizer.encode(text).ids, dtype="int32")

    def decode(self, token_ids):
        """Turn ids into text; special tokens become nothing.

        Args:
            token_ids: int array or list (T,).

        Returns:
            str; bytes that are no complete character show as U+FFFD.

        Raises:
            ValueError: if an id is outside the vocabulary.
        """
        token_ids = id_list(token_ids)
        for token_id in token_ids:
            check_id(token_id, self.vocab_size)
        return self.library_tokenizer.decode(token_ids, skip_special_tokens=True)

    def id_to_token(self, token_id):
        """Return the readable text of one id, for labels in figures.

        Args:
            token_id: int in [0, vocab_size).

        Returns:
            str: the piece as text, or its bytes as "<E6><98>" if they are only a
            part of a character.

        Raises:
            ValueError: if the id is outside the vocabulary.
        """
        check_id(token_id, self.vocab_size)
        token = self.library_tokenizer.id_to_token(token_id)
        if token_id <= self.end_id:
            return token
        text = self.library_tokenizer.decode([token_id])
        if "\ufffd" not in text:
            return text
        return "".join(f"<{byte:02X}>" for byte in self.token_bytes(token_id))

    def token_bytes(self, token_id):
        """Return the bytes that one id adds to a text; they may be a part of a character.

        Args:
            token_id: int in [0, vocab_size).

        Returns:
            bytes, none for a special token.

        Raises:
            ValueError: if the id is outside the vocabulary.
        """
        if not self.decode([token_id]):  # a special token
            return b""
        values = byte_values()
        token = self.library_tokenizer.id_to_token(token_id)
        return bytes(values[character] for character in token)

    def save(self, path):
        """Write the tokenizer as JSON, in the format of the `tokenizers` library.

        Args:
            path: file to write.
        """
        self.library_tokenizer.save(str(path))

    @classmethod
    def load(cls, path):
        """Read a tokenizer that `save` wrote.

        Args:
            path: file to read.

        Returns:
            BPETokenizer with the same ids.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is no saved tokenizer.
        """
        import tokenizers

        content = Path(path).read_bytes()
        try:
            return cls(tokenizers.Tokenizer.from_buffer(content))
        except Exception as error:  # the library raises plain Exception
            raise ValueError(f"path must be a saved BPETokenizer, got {str(path)!r}.") from error

    def to_keras_nlp(self):
        """Make the same tokenizer as a Keras layer, for tf.data and export.

        A tokenizer made by `train` and its layer give the same ids, except that
        the layer drops what follows a NUL character, drops U+096C (a Devanagari
        digit), and may cut an apostrophe otherwise after rare white space
        (vertical tab, U+0085, U+1680, U+2000 and its like).

        Returns:
            keras_nlp BytePairTokenizer: string tensor in, ragged int ids out.

        Raises:
            ImportError: if keras_nlp is not installed.
        """
        import keras_nlp

        model = json.loads(self.library_tokenizer.to_str())["model"]
        return keras_nlp.tokenizers.BytePairTokenizer(
            vocabulary=model["vocab"],
            merges=[" ".join(pair) for pair in model["merges"]],
            # Outside a graph the layer would cut text as Llama 3 does.
            _allow_python_workflow=False,
        )


def load_tokenizer(path):
    """Read a tokenizer of either class.

    Args:
        path: file that `CharTokenizer.save` or `BPETokenizer.save` wrote.

    Returns:
        CharTokenizer or BPETokenizer, as the file says.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is no saved tokenizer.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # UTF-8 and JSON errors too
        raise ValueError(f"path must be a saved tokenizer, got {str(path)!r}.") from error
    is_char = isinstance(content, dict) and content.get("type") == "CharTokenizer"
    return (CharTokenizer if is_char else BPETokenizer).load(path)


def id_list(token_ids):
    """Return the ids of one text as a list; raise if they are of a batch."""
    token_ids = np.asarray(token_ids)
    if token_ids.ndim != 1:
        raise ValueError(
            f"token_ids must have shape (T,), got {token_ids.shape}: "
            "choose one text of a batch with token_ids[0]."
        )
    return token_ids.tolist()


def check_id(token_id, vocab_size):
    """Raise unless the id is a row of the vocabulary."""
    if not 0 <= token_id < vocab_size:
        raise ValueError(f"token_id must be in [0, {vocab_size}), got {token_id}.")


@functools.cache
def byte_values():
    """Map each character of the byte-level alphabet to its byte.

    The scheme shows printable bytes as themselves and the others, in order, as
    the characters from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(0x100 + index): byte for index, byte in enumerate(others)}
