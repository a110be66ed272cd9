"""Text to token ids and back: single characters, and byte-pair pieces.

Tokenizers that `train` makes keep id 0 for padding, so that losses and masks can ignore it.
"""

import abc
import functools
import hashlib
import json
import re
import tempfile
from pathlib import Path

import numpy as np

from tfgpt.validation import check_positive, check_rate

PAD_TOKEN = "<pad>"
START_TOKEN = "<start>"
END_TOKEN = "<end>"
# What other files call them. GPT-2 has one token for start and end, and no padding.
SPECIAL_NAMES = {
    "pad_id": (PAD_TOKEN, "[PAD]", "<|pad|>"),
    "start_id": (START_TOKEN, "<s>", "<|startoftext|>", "<|begin_of_text|>", "<|endoftext|>"),
    "end_id": (END_TOKEN, "</s>", "<|end_of_text|>", "<|endoftext|>"),
}
TWO_FILES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))

# How GPT-2 cuts text before merging: contractions, words, numbers and signs, each
# with the space before it. White space beyond that stays single, which GPT-2 does
# not do: TensorFlow's regular expressions cannot look ahead.
PIECES = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s"
# Before the first white space after a word or a sign both ways of cutting begin a new piece,
# whatever follows; so they do before a sign after a Chinese character, for texts without white
# space. So a long text is encoded in parts, which takes little memory. What precedes is looked
# at last: five times faster.
SAFE_CUT = re.compile(
    r"[ \n\t，。、！？；：](?<=[\w!-~，。、！？；：][ \n\t]|[一-龥][，。、！？；：])"
)
PART = 2**18  # characters
SURROGATE = re.compile("[\ud800-\udfff]")


class Tokenizer(abc.ABC):
    """What both tokenizers offer."""

    @property
    @abc.abstractmethod
    def vocab_size(self):
        """Number of ids, special tokens included."""

    @abc.abstractmethod
    def encode(self, text):
        """Turn text into ids; none of them is a special token.

        Args:
            text: str.

        Returns:
            int32 numpy array (number of tokens,).

        Raises:
            TypeError: if `text` is no str.
            ValueError: if `text` has half a character (a lone surrogate) or, for a
                CharTokenizer, a character that is not in the vocabulary.
        """

    @abc.abstractmethod
    def decode(self, token_ids):
        """Turn ids into text; special tokens become nothing.

        Args:
            token_ids: int array or list (T,).

        Returns:
            str; bytes that are no complete character show as U+FFFD.

        Raises:
            ValueError: if an id is outside the vocabulary.
        """

    @abc.abstractmethod
    def id_to_token(self, token_id):
        """Return the readable text of one id, for labels in figures.

        Args:
            token_id: int in [0, vocab_size).

        Returns:
            str: the piece as text, or its bytes as "<E6><98>" if they are only a
            part of a character; the name of a special token, such as "<pad>".

        Raises:
            ValueError: if the id is outside the vocabulary.
        """

    @abc.abstractmethod
    def token_bytes(self, token_id):
        """Return the UTF-8 bytes that one id adds to a text; maybe a part of a character.

        Args:
            token_id: int in [0, vocab_size).

        Returns:
            bytes, none for a special token.

        Raises:
            ValueError: if the id is outside the vocabulary.
        """

    @abc.abstractmethod
    def save(self, path):
        """Write the tokenizer as JSON; `load_tokenizer` reads it.

        Args:
            path: file to write.
        """

    def encode_batch(self, texts):
        """Turn texts into ids.

        Args:
            texts: iterable of str.

        Returns:
            list of int32 numpy arrays, one per text; `pack_tokens` makes one array of them.

        Raises:
            as `encode`.
        """
        return [self.encode(text) for text in texts]

    def decode_batch(self, rows):
        """Turn the ids of many texts into text.

        Args:
            rows: int array (B, T), list of int arrays or lists (T,), or tf.RaggedTensor.

        Returns:
            list of str.

        Raises:
            ValueError: if an id is outside the vocabulary.
        """
        return [self.decode(row) for row in rows]


class CharTokenizer(Tokenizer):
    """One token per character; id 0 is padding.

    Args:
        characters: iterable of distinct single characters; ids follow their order.

    Raises:
        ValueError: if there is none, or one is repeated, longer than a character or only
            half of one (a surrogate).

    Example:
        >>> tokenizer = CharTokenizer.train("床前明月光")
        >>> tokenizer.decode(tokenizer.encode("明月"))
        '明月'
    """

    pad_id = 0

    def __init__(self, characters):
        self.tokens = [PAD_TOKEN, *characters]
        for token in self.tokens[1:]:
            if not isinstance(token, str) or len(token) != 1 or SURROGATE.match(token):
                raise ValueError(f"characters must be distinct single characters, got {token!r}.")
        if len(set(self.tokens)) != len(self.tokens) or len(self.tokens) == 1:
            raise ValueError(
                "characters must be distinct single characters, at least one, "
                f"got {self.tokens[1:11]!r}."
            )
        self.ids = {token: index for index, token in enumerate(self.tokens) if index}
        # The same by code point; 0 for unknown ones, the last place for all above.
        codes = [ord(token) for token in self.ids]
        self.id_of_code = np.zeros(max(codes) + 2, dtype="int32")
        self.id_of_code[codes] = np.arange(1, len(self.tokens))

    @classmethod
    def train(cls, text):
        """Build a tokenizer that knows every character of `text`.

        Args:
            text: str, not empty.

        Returns:
            CharTokenizer, ids in code point order.

        Raises:
            TypeError: if `text` is no str.
            ValueError: if `text` is empty.
        """
        text = as_text(text)
        if not text:
            raise ValueError("text must not be empty.")
        return cls(sorted(set(text)))

    @property
    def vocab_size(self):
        return len(self.tokens)

    def encode(self, text):
        text = as_text(text)
        token_ids = np.empty(len(text), dtype="int32")
        for start in range(0, len(text), PART):
            part = text[start : start + PART].encode("utf-32-le")  # four bytes per character
            codes = np.minimum(np.frombuffer(part, "<u4"), len(self.id_of_code) - 1)
            token_ids[start : start + PART] = self.id_of_code[codes]
        unknown = np.flatnonzero(token_ids == 0)
        if len(unknown):
            place = int(unknown[0])
            raise ValueError(
                f"text must hold known characters only, got {text[place]!r} "
                f"(U+{ord(text[place]):04X}) at position {place}; "
                f"the vocabulary has {self.vocab_size - 1} characters."
            )
        return token_ids

    def encode_batch(self, texts):
        texts = [as_text(text) for text in texts]
        joined = self.encode("".join(texts))  # many short texts take as long as one
        return np.split(joined, np.cumsum([len(text) for text in texts])[:-1]) if texts else []

    def decode(self, token_ids):
        return "".join(self.id_to_token(index) for index in id_list(token_ids) if index)

    def id_to_token(self, token_id):
        check_id(token_id, self.vocab_size)
        return self.tokens[token_id]

    def token_bytes(self, token_id):
        return self.id_to_token(token_id).encode() if token_id else b""

    def save(self, path):
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
            FileNotFoundError: if there is no such file.
            ValueError: if the file is no saved CharTokenizer.
        """
        try:
            return cls(json.loads(Path(path).read_text(encoding="utf-8"))["characters"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:  # JSON errors too
            raise ValueError(f"path must be a saved CharTokenizer, got {str(path)!r}.") from error


class BPETokenizer(Tokenizer):
    """Byte-pair pieces: frequent words are one token, any text can be encoded.

    Starts from the 256 bytes, so no character is unknown. Trained with the
    `tokenizers` library on the byte-level scheme of GPT-2, but runs of white space
    are not merged. Ids: 0 "<pad>", 1 "<start>", 2 "<end>", then bytes, then merged
    pieces. The text "<end>" is encoded like any other: put `end_id` where you
    want the token.

    Files of others are read too, if they hold byte-level pairs (GPT-2's vocab.json and
    merges.txt, a tokenizer.json): pad_id, start_id and end_id are then those of the
    file, None where it has no such token. GPT-2: None, 50256, 50256.

    Args:
        library_tokenizer: a byte-level `tokenizers.Tokenizer`; use `train`, `load` or
            `from_files`.

    Raises:
        ValueError: if it is not byte-level, changes the text before it is cut, or has gaps
            in its ids.

    Example:
        >>> tokenizer = BPETokenizer.train(["明月 moon " * 50], vocab_size=280)
        >>> tokenizer.decode(tokenizer.encode("moon 🌕 明月"))
        'moon 🌕 明月'

    Source: Sennrich et al., "Neural Machine Translation of Rare Words with Subword
    Units" (2016); byte-level form: GPT-2 (2019), section 2.2.
    """

    pad_id, start_id, end_id = 0, 1, 2  # of all that `train` makes

    def __init__(self, library_tokenizer):
        content = json.loads(library_tokenizer.to_str())
        check_byte_level(content)
        self.library_tokenizer = library_tokenizer
        # A user who types "<pad>" or "<end>" must not pad or end the text.
        library_tokenizer.encode_special_tokens = True
        # A file may ask for one length of all texts.
        library_tokenizer.no_truncation()
        library_tokenizer.no_padding()
        # Whole words beside the pairs; the special ones are nothing in a text.
        self.added = {token["id"]: token["content"] for token in content["added_tokens"]}
        self.special_ids = {t["id"] for t in content["added_tokens"] if t["special"]}
        ids = {self.added[token_id]: token_id for token_id in self.special_ids}
        for attribute, names in SPECIAL_NAMES.items():
            setattr(self, attribute, next((ids[name] for name in names if name in ids), None))
        # A word beside the pairs may lie across a cut.
        self.can_cut = cuts_at_white_space(content) and self.special_ids == self.added.keys()

    def __setstate__(self, state):
        # The library forgets its settings when it is pickled or copied.
        self.__init__(state["library_tokenizer"])

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
            TypeError: if a text is no str.
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
        texts = [as_text(text) for text in ([texts] if isinstance(texts, (str, bytes)) else texts)]
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

    @classmethod
    def from_files(cls, vocab, merges):
        """Read GPT-2's two files, or others of their kind.

        Text is cut as GPT-2 does it, runs of white space included. "<|endoftext|>" and
        other names of `SPECIAL_NAMES` become special tokens if the vocabulary has them.

        Args:
            vocab: path of vocab.json, {piece: id}.
            merges: path of merges.txt, one pair per line.

        Returns:
            BPETokenizer.

        Raises:
            FileNotFoundError: if a file is missing.
            ValueError: if a file is damaged or the two do not fit together.
        """
        import tokenizers

        for path in (vocab, merges):
            Path(path).open().close()  # the library's error would not name the file
        try:
            model = tokenizers.models.BPE.from_file(str(vocab), str(merges))
            tokenizer = tokenizers.Tokenizer(model)
            tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
            tokenizer.decoder = tokenizers.decoders.ByteLevel()
            names = dict.fromkeys(name for names in SPECIAL_NAMES.values() for name in names)
            known = [name for name in names if tokenizer.token_to_id(name) is not None]
            tokenizer.add_special_tokens(known)
            return cls(tokenizer)
        except Exception as error:  # the library raises plain Exception
            raise ValueError(
                "vocab and merges must be a byte-level vocab.json and its merges.txt, got "
                f"{str(vocab)!r} and {str(merges)!r}: {error}"
            ) from error

    @property
    def vocab_size(self):
        return self.library_tokenizer.get_vocab_size()

    def encode(self, text):
        text = as_text(text)
        parts = text_parts(text) if self.can_cut else [text]
        encode = functools.partial(self.library_tokenizer.encode, add_special_tokens=False)
        return np.concatenate([np.array(encode(part).ids, dtype="int32") for part in parts])

    def encode_batch(self, texts):
        texts = [as_text(text) for text in texts]
        parts = [list(text_parts(text)) if self.can_cut else [text] for text in texts]
        flat = [part for some in parts for part in some]
        # On all cores at once.
        found = self.library_tokenizer.encode_batch_fast(flat, add_special_tokens=False)
        rows = iter(np.array(encoding.ids, dtype="int32") for encoding in found)
        return [np.concatenate([next(rows) for _ in some]) for some in parts]

    def split_at_random(self, token_ids, share, seed=0):
        """Write the same text in smaller pieces: some tokens become two shorter ones.

        The two are drawn among all that have the same bytes together, and may be split again.
        A model that reads a small text many times learns less of it by heart when its pieces
        differ.

        Args:
            token_ids: int array (N,), what `encode` returned.
            share: float in [0, 1), how many of the tokens that can be split are; 0: none.
            seed: int >= 0, or list of them.

        Returns:
            int32 numpy array (M,), M >= N, of the same text.

        Raises:
            ValueError: if share is outside [0, 1).

        Example:
            >>> tokenizer = BPETokenizer.train(["moon " * 50], vocab_size=263)
            >>> whole = tokenizer.encode("moon moon moon")
            >>> pieces = tokenizer.split_at_random(whole, share=0.5)
            >>> len(pieces) > len(whole), tokenizer.decode(pieces)
            (True, 'moon moon moon')

        Source: the idea of Provilkov et al., "BPE-Dropout" (2020), from the whole tokens down.
        """
        check_rate("share", share)
        random = np.random.default_rng(seed)
        pairs, counts = self.ways_to_split()
        token_ids = np.asarray(token_ids, dtype="int32")
        may_split = np.ones(len(token_ids), dtype=bool)
        while may_split.any():
            drawn = random.random(len(token_ids)) < share
            split = may_split & drawn & (counts[token_ids] > 0)
            chosen = token_ids[split]
            way = random.integers(counts[chosen])
            first = np.flatnonzero(split) + np.arange(len(chosen))  # where there is room for two
            token_ids = np.repeat(token_ids, 1 + split)
            token_ids[first], token_ids[first + 1] = pairs[chosen, way].T
            may_split = np.repeat(split, 1 + split)
        return token_ids

    def ways_to_split(self):
        """Return all pairs with the bytes of each id, int32 (V, W, 2), and their number, (V,)."""
        pieces = [self.token_bytes(token_id) for token_id in range(self.vocab_size)]
        ids = {piece: token_id for token_id, piece in enumerate(pieces)}
        cuts = [[(piece[:k], piece[k:]) for k in range(1, len(piece))] for piece in pieces]
        ways = [[(ids[a], ids[b]) for a, b in some if a in ids and b in ids] for some in cuts]
        counts = np.array([len(some) for some in ways])
        pairs = np.zeros((len(ways), max(counts.max(), 1), 2), dtype="int32")
        for token_id, some in enumerate(ways):
            pairs[token_id, : len(some)] = np.reshape(some, (-1, 2))
        return pairs, counts

    def decode(self, token_ids):
        token_ids = id_list(token_ids)
        for token_id in {min(token_ids), max(token_ids)} if token_ids else ():
            check_id(token_id, self.vocab_size)
        return self.library_tokenizer.decode(token_ids, skip_special_tokens=True)

    def id_to_token(self, token_id):
        if token_id in self.added:
            return self.added[token_id]
        piece = self.token_bytes(token_id)
        try:
            return piece.decode()
        except UnicodeDecodeError:
            return "".join(f"<{byte:02X}>" for byte in piece)

    def token_bytes(self, token_id):
        check_id(token_id, self.vocab_size)
        if token_id in self.added:
            return b"" if token_id in self.special_ids else self.added[token_id].encode()
        values = byte_values()
        token = self.library_tokenizer.id_to_token(token_id)
        return bytes(values[character] for character in token)

    def save(self, path):
        content = self.library_tokenizer.to_str(pretty=True)
        Path(path).write_text(content, encoding="utf-8")

    @classmethod
    def load(cls, path):
        """Read a tokenizer that `save` wrote, or another byte-level one.

        Args:
            path: file to read, a tokenizer.json; or a folder with one, or with GPT-2's two
                files: vocab.json and merges.txt, or encoder.json and vocab.bpe.

        Returns:
            BPETokenizer with the same ids.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is no tokenizer of byte-level pairs.
        """
        import tokenizers

        path = Path(path)
        if path.is_dir() and not (path / "tokenizer.json").exists():
            for names in TWO_FILES:
                if all((path / name).is_file() for name in names):
                    return cls.from_files(*(path / name for name in names))
        path = path / "tokenizer.json" if path.is_dir() else path
        content = path.read_bytes()
        try:
            return cls(tokenizers.Tokenizer.from_buffer(content))
        except Exception as error:  # the library raises plain Exception
            raise ValueError(
                f"path must be a saved BPETokenizer, got {str(path)!r}: {error}"
            ) from error

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


def tokenizer_hash(tokenizer):
    """Return a digest of the file that a tokenizer writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        tokenizer.save(path)
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def as_text(text):
    """Return a str; decode UTF-8 bytes, as NumPy and tf.data have them; raise for the rest."""
    text = text.numpy() if hasattr(text, "numpy") else text
    if isinstance(text, bytes):
        try:
            text = text.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"text must be UTF-8, got {text[:20]!r}.") from error
    if not isinstance(text, str):
        raise TypeError(f"text must be a str, got {type(text).__name__}.")
    half = None if text.isascii() else SURROGATE.search(text)
    if half:
        raise ValueError(
            f"text must hold whole characters, got the lone surrogate U+{ord(half[0]):04X} at "
            f"position {half.start()}: read or decode it as UTF-8 again."
        )
    return text


def text_parts(text, size=PART):
    """Cut a text into parts of about `size` characters, where a piece ends in any case."""
    start = 0
    while len(text) - start > size and (cut := SAFE_CUT.search(text, start + size)):
        yield text[start : cut.start()]
        start = cut.start()
    yield text[start:]


def check_byte_level(content):
    """Raise unless the JSON of a library tokenizer is byte-level and gives back every text."""
    model, vocab = content["model"], content["model"].get("vocab", {})
    ids = {*dict(vocab).values(), *(token["id"] for token in content["added_tokens"])}
    kinds = {step["type"] for step in steps_of(content["pre_tokenizer"], "pretokenizers")}
    if model["type"] != "BPE" or "ByteLevel" not in kinds or byte_values().keys() - vocab.keys():
        raise ValueError(f"it must hold byte-level pairs, got the model {model['type']}")
    if content["normalizer"] is not None:
        raise ValueError(f"it must not change a text, got {content['normalizer']['type']}")
    if len(ids) != max(ids) + 1:
        raise ValueError(f"it must have all ids below its largest, {max(ids)}, got {len(ids)} ids")


def cuts_at_white_space(content):
    """Tell whether a library tokenizer cuts text as `train` or GPT-2 does: see SAFE_CUT."""
    steps = steps_of(content["pre_tokenizer"], "pretokenizers")
    byte_level = steps[-1]
    if len(steps) == 2:
        return steps[0].get("pattern") == {"Regex": PIECES} and not byte_level["add_prefix_space"]
    return len(steps) == 1 and byte_level["use_regex"] and not byte_level["add_prefix_space"]


def steps_of(part, key):
    """List the steps of a part of a library tokenizer: one, or those of a sequence."""
    return part[key] if key in (part or {}) else [part or {"type": None}]


def id_list(token_ids):
    """Return the ids of one text as a list; raise if they are of a batch, or no integers."""
    token_ids = np.asarray(token_ids)
    if token_ids.ndim != 1:
        raise ValueError(
            f"token_ids must have shape (T,), got {token_ids.shape}: "
            "choose one text of a batch with token_ids[0]."
        )
    if token_ids.size and token_ids.dtype.kind not in "iu":
        raise TypeError(f"token_ids must be integers, got dtype {token_ids.dtype}.")
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
