"""An interactive view of attention: arrays and tokens in, one HTML page out.

The page needs no network and no library, so it works from disk, in a notebook and
behind a firewall. Nothing here knows a model: any weights in [0, 1] will do.
"""

import base64
import html
import json
import re
import zlib
from importlib import resources
from pathlib import Path

import numpy as np
from keras import ops

from tfgpt.plotting.figures import check_labels, label_text
from tfgpt.validation import check_choice, check_positive

# The whole page is held in the browser's memory: 64 million weights are 64 MB.
MAX_WEIGHTS = 64_000_000
# Softmax in float32 may give slightly more than 1.
ROUNDING = 1e-5
FRAME_HEIGHT = 640  # pixels of a notebook cell


def view_attention(
    weights, query_tokens, key_tokens=None, title=None, save=None, max_tokens=512, bits=8
):
    """Make an interactive page: lines, matrix and overview of attention weights.

    As the last line of a notebook cell it is shown there; `save` writes a file
    for any browser. Weights are rounded to steps of 1/255 (largest error 1/510,
    smaller weights vanish), with bits=16 to steps of 1/65535.

    Args:
        weights: float array (H, T, S) or (1, H, T, S), values in [0, 1], or a dict
            from name to such arrays, as the models return for one sequence:
            "encoder/0", "decoder/0/self", "decoder/0/cross"; or as
            `tfgpt.interpret.activations` does.
        query_tokens: list of T labels; or a dict {"encoder": source tokens,
            "decoder": target tokens} for the names of an encoder-decoder.
        key_tokens: list of S labels; default: query_tokens.
        title: str above the page, or None.
        save: path of an .html file to write, or None.
        max_tokens: int >= 1, the longest axis that is accepted.
        bits: 8 or 16, the precision of a weight in the page.

    Returns:
        AttentionView.

    Raises:
        ValueError: if a shape is wrong or empty, a label count differs from its
            axis, a weight is NaN or outside [0, 1], or the page would be too large.

    Example:
        >>> page = view_attention(np.eye(2)[None], ["I", "am"], title="Each to itself")
        >>> page
        AttentionView('Each to itself', layers=1): shown by notebooks; save(path) for a browser
    """
    check_positive("max_tokens", max_tokens)
    check_choice("bits", bits, (8, 16))
    arrays = check_arrays(weights if isinstance(weights, dict) else {"attention": weights})
    axes, layers = {}, []
    for name, array in arrays.items():
        query, key = choose_axes(name, query_tokens, key_tokens)
        for (axis, label, tokens), size in zip((query, key), array.shape[1:], strict=True):
            axes[axis] = check_axis(name, label, tokens, size, max_tokens)
        group, label = describe(name)
        layers.append(
            {"group": group, "label": label, "heads": len(array), "query": query[0], "key": key[0]}
        )
    view = AttentionView(
        {
            "title": label_text(title or ""),
            "bits": bits,
            "axes": axes,
            "layers": layers,
            "weights": pack(arrays.values(), bits),
        }
    )
    if save is not None:
        view.save(save)
    return view


class AttentionView:
    """A page about attention weights; `view_attention` makes it.

    Args:
        content: dict, what the script of the page reads.

    Example:
        >>> page = view_attention(np.eye(2)[None], ["<b>", "am"])
        >>> "<b>" in page.to_html()  # tokens are data, never markup
        False
    """

    template = "viewer.html"

    def __init__(self, content):
        self.content = content

    def to_html(self):
        """Return the page, a str in ASCII that contains all it needs."""
        parts = {
            "title": escape(self.content["title"] or "Attention"),
            "data": to_script_json(self.content),
        }
        file = resources.files("tfgpt.plotting").joinpath(self.template)
        # In one pass: a token "{{title}}" must stay what it is.
        text = file.read_text(encoding="utf-8")
        return re.sub(r"\{\{(title|data)\}\}", lambda match: parts[match[1]], text)

    def save(self, path):
        """Write the page to `path`, usually an .html file, for any browser."""
        Path(path).write_text(self.to_html(), encoding="utf-8")

    def _repr_html_(self):
        # The sandbox gives the page its own origin: it cannot touch the notebook.
        return (
            f'<iframe srcdoc="{escape(self.to_html())}" sandbox="allow-scripts allow-downloads" '
            f'title="{escape(self.content["title"] or "Attention")}" '
            f'style="width: 100%; height: {FRAME_HEIGHT}px; border: 0; resize: vertical"></iframe>'
        )

    def __repr__(self):
        return (
            f"AttentionView({self.content['title']!r}, layers={len(self.content['layers'])}): "
            "shown by notebooks; save(path) for a browser"
        )


def check_arrays(weights, max_tokens=None):
    """Return the weights as float32 arrays (H, T, S), cut; raise unless all are in [0, 1]."""
    if not weights:
        raise ValueError("weights must hold at least one layer, got an empty dict.")
    arrays = {}
    for name, values in weights.items():
        array = ops.convert_to_numpy(values) if ops.is_tensor(values) else np.asarray(values)
        array = array[0] if array.ndim == 4 and len(array) == 1 else array
        where = f"weights[{name!r}]" if name != "attention" else "weights"
        if array.ndim != 3:
            raise ValueError(
                f"{where} must have shape (H, T, S) or (1, H, T, S), got {array.shape}: "
                "choose one sequence of a batch with array[0], add a head axis with array[None]."
            )
        if array.size == 0:
            raise ValueError(
                f"{where} must have at least one head, query and key, got shape {array.shape}."
            )
        array = array[:, :max_tokens, :max_tokens].astype("float32")
        for value in (array.min(), array.max()):  # NaN makes both NaN
            if not -ROUNDING <= value <= 1 + ROUNDING:
                raise ValueError(
                    f"{where} must be in [0, 1], the result of a softmax, got {value:.6g}."
                )
        arrays[str(name)] = array
    total = sum(array.size for array in arrays.values())
    if total > MAX_WEIGHTS:
        raise ValueError(
            f"weights must hold at most {MAX_WEIGHTS:,} values, got {total:,}: "
            "pass a dict with fewer layers, or a shorter sequence."
        )
    return arrays


def choose_axes(name, query_tokens, key_tokens):
    """Find the tokens of one layer, for its queries and for its keys.

    Each is a triple: name of the axis, the argument as an error calls it, tokens.
    """
    if not isinstance(query_tokens, dict):
        query = ("query", "query_tokens", query_tokens)
        return query, query if key_tokens is None else ("key", "key_tokens", key_tokens)
    if key_tokens is not None:
        raise ValueError("key_tokens must be None when query_tokens is a dict: it names both.")
    side = name.split("/")[0]
    sides = (side, "encoder" if name.endswith("/cross") else side)
    for axis in sides:
        if axis not in query_tokens:
            raise ValueError(
                f"query_tokens must have the key {axis!r} for weights[{name!r}], "
                f"got {sorted(map(str, query_tokens))}."
            )
    return tuple((axis, f"query_tokens[{axis!r}]", query_tokens[axis]) for axis in sides)


def check_axis(name, label, tokens, size, max_tokens):
    """Return the tokens as str; raise unless there is one per position, and not too many."""
    hint = ""
    if not label.endswith("]"):
        hint = (
            " Where keys are other tokens, pass key_tokens; for an encoder-decoder pass "
            'query_tokens={"encoder": [...], "decoder": [...]}.'
        )
    tokens = check_labels(label, tokens, size, f" of weights[{name!r}]", hint)
    if size > max_tokens:
        raise ValueError(
            f"{label} must have at most max_tokens={max_tokens} tokens, got {size}: cut the "
            f"sequence, for example weights[:, :{max_tokens}, :{max_tokens}] with the tokens "
            f"[:{max_tokens}], or pass max_tokens={size} and expect a slow page."
        )
    return tokens


def describe(name):
    """Split a layer's name: "decoder/0/cross" -> ("decoder cross", "layer 0").

    The names of `tfgpt.interpret.activations`, with points, are split too.
    """
    parts = re.split("[/.]", name)
    numbers = [part for part in parts if part.isdecimal()]
    words = [part for part in parts if not part.isdecimal()]
    if len(numbers) != 1 or not words:
        return "attention", name
    return " ".join(words), f"layer {numbers[0]}"


def pack(arrays, bits):
    """Round weights to whole numbers of 8 or 16 bits, little-endian; zlib; base64."""
    steps = 2**bits - 1
    compressor = zlib.compressobj(9)
    packed = b"".join(
        compressor.compress(
            np.rint(np.clip(array, 0, 1) * steps).astype(f"<u{bits // 8}").tobytes()
        )
        for array in arrays
    )
    return base64.b64encode(packed + compressor.flush()).decode("ascii")


def to_script_json(content):
    """Write JSON that cannot end a script element: ASCII without `<`, `>` and `&`."""
    text = json.dumps(content, ensure_ascii=True, separators=(",", ":"))
    return re.sub("[<>&]", lambda match: f"\\u{ord(match[0]):04x}", text)


def escape(text):
    """Write text for an element or an attribute, in ASCII."""
    return html.escape(text).encode("ascii", "xmlcharrefreplace").decode("ascii")
