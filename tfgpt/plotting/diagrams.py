"""Diagrams of layers, models and the course. Notebooks 00, 05 and 09 show them.

Models are read from bottom to top, the map of the course from top to bottom. Each has an
alternative text, and its page is white, or black if the style has light text.
"""

from tfgpt.plotting.boxes import (
    BOX,
    BRANCH,
    SUBLAYER,
    add_arrow,
    add_box,
    add_frame,
    add_input,
    add_layer,
    add_line,
    add_note,
    new_diagram,
)
from tfgpt.plotting.figures import add_title_and_save, check_save

# From the name to the sublayers, and whether the norm stands before them.
LAYERS = {
    "encoder layer": (("self-attention", "feed-forward"), False),
    "decoder layer": (("causal self-attention", "cross-attention", "feed-forward"), False),
    "GPT block": (("causal self-attention", "feed-forward"), True),
}
LESSON = (5.6, 1.5)  # width and height of a place on the map, in units


def draw_layers(layers=None, title=None, save=None):
    """Draw layers side by side: the residual stream, the sublayers beside it, the sums.

    Args:
        layers: dict from a name to (list of sublayers, norm_first: bool); None: the encoder
            layer and decoder layer of 2017, and the block of a GPT.
        title: str above the figure, or None.
        save: path to write to (.png, .svg, .pdf), or None.

    Returns:
        matplotlib Figure.

    Raises:
        ValueError: if there is no layer, or one has no sublayer.

    Example:
        >>> figure = draw_layers({"pre-norm": (["self-attention", "feed-forward"], True)})
    """
    check_save(save)
    layers = LAYERS if layers is None else layers
    if not layers or not all(sublayers for sublayers, _ in layers.values()):
        raise ValueError(f"layers must have at least one sublayer each, got {layers!r}.")
    height = 2.3 + SUBLAYER * max(len(sublayers) for sublayers, _ in layers.values())
    figure, axis = new_diagram(6.2 * len(layers), height)
    for number, (name, (sublayers, norm_first)) in enumerate(layers.items()):
        x = 1.2 + 6.2 * number
        axis.text(x + 1.4, 0.2, name, ha="center", weight="bold")
        add_note(axis, x + 0.2, 1.1, "x (B, T, D)")
        top = add_layer(axis, x, 1.4, sublayers, norm_first)
        add_line(axis, x, 0.9, 1.4)
        add_arrow(axis, (x, top), (x, top + 0.7))
        if "cross-attention" in sublayers:
            add_source(axis, x, 1.4 + SUBLAYER * sublayers.index("cross-attention"), norm_first)
    return add_title_and_save(figure, title, save, "; ".join(map(describe, layers.items())))


def add_source(axis, x, y, norm_first):
    """Draw the encoder's output below the cross-attention of a layer."""
    middle, low = x + BRANCH + 1.1, y + (1.5 if norm_first else 0.5)
    add_arrow(axis, (middle, low - 0.5), (middle, low))
    add_note(axis, middle + 0.9, low - 0.75, "keys, values (B, S, D)", ha="right")


def draw_gpt(title=None, save=None):
    """Draw a whole GPT with its shapes, from token ids to probabilities.

    Args:
        title: str above the figure, or None.
        save: path to write to (.png, .svg, .pdf), or None.

    Returns:
        matplotlib Figure.

    Example:
        >>> figure = draw_gpt(title="GPT")
    """
    check_save(save)
    sublayers, norm_first = LAYERS["GPT block"]
    figure, axis = new_diagram(10.5, 14.4)
    x = 3.0
    low = add_input(axis, x, 0.5, "token ids (B, T)", "token table (V, D)", "position table")
    add_note(axis, x + 0.2, low + 0.25, "x (B, T, D)")
    add_frame(axis, x, low + 0.5, SUBLAYER * len(sublayers) + 0.2, "L blocks")
    top = add_layer(axis, x, low + 0.6, sublayers, norm_first)
    add_line(axis, x, low, low + 0.6)
    steps = (
        ("final norm", "norm", "x (B, T, D)"),
        ("token table again", "table", "logits (B, T, V)"),
        ("softmax", "plain", "probability of each next token (B, T, V)"),
    )
    for name, colour, shape in steps:
        add_arrow(axis, (x, top), (x, top + 0.5))
        add_box(axis, x, top + 0.5 + BOX[1] / 2, name, colour)
        add_note(axis, x + 0.2, top + 0.75 + BOX[1], shape)
        top += 0.5 + BOX[1]
    add_arrow(axis, (x, top), (x, top + 0.5))
    alt = f"GPT: token ids (B, T); token table plus position table; L times {block_text()}; "
    alt += "; ".join(f"{name}, which gives {shape}" for name, _, shape in steps)
    return add_title_and_save(figure, title, save, alt)


def draw_transformer(title=None, save=None):
    """Draw the encoder-decoder of 2017: each decoder layer reads the encoder's output.

    Args:
        title: str above the figure, or None.
        save: path to write to (.png, .svg, .pdf), or None.

    Returns:
        matplotlib Figure.

    Example:
        >>> figure = draw_transformer(title="Encoder-decoder")
    """
    check_save(save)
    figure, axis = new_diagram(17.2, 15.9)
    encoder, decoder = 2.2, 11.2
    tops = []
    for x, name, side in (
        (encoder, "encoder layer", "source"),
        (decoder, "decoder layer", "target"),
    ):
        sublayers, norm_first = LAYERS[name]
        shape = "(B, S)" if side == "source" else "(B, T)"
        low = add_input(axis, x, 0.5, f"{side} ids {shape}", f"{side} table", "positions")
        add_frame(axis, x, low + 0.3, SUBLAYER * len(sublayers) + 0.4, f"L {name}s")
        tops.append(add_layer(axis, x, low + 0.4, sublayers, norm_first))
        add_line(axis, x, low, low + 0.4)
    top, cross = tops[0] + 0.7, low + 0.4 + SUBLAYER + 0.85
    left = decoder + BRANCH - BOX[0] / 2
    add_arrow(axis, (encoder, tops[0]), (encoder, top), (8.6, top), (8.6, cross), (left, cross))
    add_note(axis, encoder + 0.3, top + 0.3, "encoder output (B, S, D): keys and values")
    add_arrow(axis, (decoder, tops[1]), (decoder, tops[1] + 0.6))
    add_box(axis, decoder, tops[1] + 0.95, "output kernel (D, V)", "table")
    add_arrow(axis, (decoder, tops[1] + 1.3), (decoder, tops[1] + 1.9))
    add_note(axis, decoder + 0.2, tops[1] + 1.6, "logits (B, T, V)")
    layers = "; ".join(
        describe((name, LAYERS[name])) for name in ("encoder layer", "decoder layer")
    )
    alt = f"Encoder-decoder: {layers}; the encoder output gives keys and values to each "
    return add_title_and_save(figure, title, save, alt + "cross-attention")


def draw_course(needs, title=None, save=None):
    """Draw which lesson needs which: arrows lead from a lesson to those that build on it.

    Args:
        needs: dict from a lesson to the list of lessons that come before it, in order.
        title: str above the figure, or None.
        save: path to write to (.png, .svg, .pdf), or None.

    Returns:
        matplotlib Figure.

    Raises:
        ValueError: if a lesson needs one that does not stand before it.

    Example:
        >>> figure = draw_course({"00": [], "01": ["00"], "02": ["00", "01"]})
    """
    check_save(save)
    rows = lesson_rows(needs)
    width = LESSON[0] * max(map(len, rows))
    figure, axis = new_diagram(width, LESSON[1] * len(rows))
    places = {}
    for number, row in enumerate(rows):
        row = sorted(row, key=lambda name: mean_place(needs[name], places))
        for column, name in enumerate(row):
            x = width * (column + 0.5) / len(row)
            if len(row) == 1 and needs[name]:
                x = mean_place(direct_needs(name, needs), places)
            places[name] = x, LESSON[1] * (len(rows) - number - 0.5)
    for name, (x, y) in places.items():
        for other in direct_needs(name, needs):
            add_arrow(axis, places[other], (x, y + BOX[1] / 2))
        add_box(axis, x, y, name, "attention", width=LESSON[0] - 0.6)
    alt = "; ".join(f"{name} needs {', '.join(needs[name]) or 'nothing'}" for name in needs)
    return add_title_and_save(figure, title, save, alt)


def lesson_rows(needs):
    """Group lessons by the longest way to them from a lesson that needs nothing."""
    depths = {}
    for name, before in needs.items():
        if not set(before) <= set(depths):
            raise ValueError(f"{name!r} must need lessons before it only, got {before!r}.")
        depths[name] = 1 + max((depths[other] for other in before), default=-1)
    rows = [[] for _ in range(1 + max(depths.values(), default=0))]
    for name, depth in depths.items():
        rows[depth].append(name)
    return rows


def direct_needs(name, needs):
    """Leave out the lessons that another needed lesson needs already."""
    return [
        one
        for one in needs[name]
        if not any(one in all_needs(other, needs) for other in needs[name])
    ]


def all_needs(name, needs):
    """Return all lessons that come before one."""
    before = set(needs[name])
    return before.union(*(all_needs(other, needs) for other in before))


def mean_place(names, places):
    """Return the mean x of lessons, so that arrows cross seldom."""
    return sum(places[name][0] for name in names) / max(len(names), 1)


def describe(layer):
    """Say in words what is drawn of a layer, from its name, sublayers and place of the norm."""
    name, (sublayers, norm_first) = layer
    form = "x + {}(norm(x))" if norm_first else "norm(x + {}(x))"
    return f"{name}: " + ", then ".join(form.format(sublayer) for sublayer in sublayers)


def block_text():
    """Say in words what is in the block of a GPT."""
    return describe(("a block", LAYERS["GPT block"]))
