"""What diagrams are made of: boxes, arrows, sums, and a layer with its residual stream."""

from tfgpt.plotting.figures import is_dark, new_figure

# The colour of a box on a white page, and on a black one.
COLOURS = {
    "attention": ("#a5d8ff", "#1864ab"),
    "cross-attention": ("#b2f2bb", "#2b6e3a"),
    "feed-forward": ("#ffd8a8", "#a14a06"),
    "norm": ("#e9ecef", "#495057"),
    "table": ("#eebefa", "#862e9c"),
    "plain": ("#ffffff", "#000000"),
}
INCH = 0.42  # inches of one unit of a diagram
BOX = (3.2, 0.7)  # width and height of a box, in units
SUBLAYER = 3.2  # height of a sublayer with its sum and norm, in units
BRANCH = 2.6  # from the residual stream to the middle of a sublayer, in units


def new_diagram(width, height):
    """Make a figure of `width` x `height` units without axes; y grows upwards."""
    figure, axes = new_figure(1, 1, size=(INCH * width, INCH * height))
    axis = axes[0, 0]
    axis.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    axis.axis("off")
    figure.get_layout_engine().set(w_pad=0, h_pad=0)
    return figure, axis


def ink():
    """Return the colour of lines and letters on the page."""
    return "white" if is_dark() else "black"


def add_box(axis, x, y, text, colour="plain", width=BOX[0]):
    """Draw a box with rounded corners around the point (x, y)."""
    from matplotlib.patches import FancyBboxPatch

    corner = x - width / 2, y - BOX[1] / 2
    style = {"boxstyle": "round,pad=0,rounding_size=0.15", "edgecolor": ink(), "linewidth": 0.8}
    fill = COLOURS[colour][is_dark()]
    axis.add_patch(FancyBboxPatch(corner, width, BOX[1], facecolor=fill, zorder=2, **style))
    axis.text(x, y, text, ha="center", va="center", fontsize=8, color=ink(), zorder=4)


def add_arrow(axis, *points):
    """Draw a line through the points that ends in an arrow."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path

    style = {"arrowstyle": "-|>", "mutation_scale": 8, "shrinkA": 0, "shrinkB": 0}
    axis.add_patch(FancyArrowPatch(path=Path(points), color=ink(), fill=False, zorder=1, **style))


def add_line(axis, x, y, end):
    """Draw the residual stream at x between two heights."""
    axis.plot([x, x], [y, end], color=ink(), linewidth=1, zorder=1)


def add_sum(axis, x, y):
    """Draw a plus in a circle."""
    from matplotlib.patches import Circle

    fill = COLOURS["plain"][is_dark()]
    axis.add_patch(Circle((x, y), 0.25, facecolor=fill, edgecolor=ink(), zorder=3))
    axis.text(x, y, "+", ha="center", va="center", color=ink(), zorder=4)


def add_note(axis, x, y, text, ha="left"):
    """Write a shape or a name without a box."""
    axis.text(x, y, text, ha=ha, va="center", fontsize=8, color=ink(), zorder=4)


def add_frame(axis, x, y, height, text):
    """Draw a dashed frame around a layer whose stream is at x; say how often it is there."""
    from matplotlib.patches import Rectangle

    style = {"fill": False, "edgecolor": ink(), "linestyle": "--", "linewidth": 0.8}
    right = x + BRANCH + BOX[0] / 2 + 0.2
    axis.add_patch(Rectangle((x - 1.8, y), right - x + 1.8, height, **style))
    add_note(axis, right - 0.2, y + height - 0.35, text, ha="right")


def add_input(axis, x, y, ids, tokens, positions):
    """Draw token ids, the two tables and their sum; return the height of the sum."""
    add_box(axis, x, y, ids)
    add_arrow(axis, (x, y + BOX[1] / 2), (x, y + 1.2 - BOX[1] / 2))
    add_box(axis, x, y + 1.2, tokens, "table")
    add_arrow(axis, (x, y + 1.2 + BOX[1] / 2), (x, y + 2.15))
    right = x + BRANCH + 1.2
    add_box(axis, right, y + 1.2, positions, "table")
    add_arrow(axis, (right, y + 1.2 + BOX[1] / 2), (right, y + 2.4), (x + 0.25, y + 2.4))
    add_sum(axis, x, y + 2.4)
    return y + 2.65


def add_layer(axis, x, y, sublayers, norm_first):
    """Draw the sublayers of a layer, from y upwards; return the height of its output."""
    for sublayer in sublayers:
        draw = add_pre_norm if norm_first else add_post_norm
        draw(axis, x, y, sublayer)
        y += SUBLAYER
    return y


def add_pre_norm(axis, x, y, sublayer):
    """Draw x + sublayer(norm(x)): the norm stands on the branch."""
    branch, total = x + BRANCH, y + 2.75
    add_arrow(axis, (x, y), (x, total - 0.25))
    add_arrow(axis, (x, y + 0.25), (branch, y + 0.25), (branch, y + 0.55))
    add_box(axis, branch, y + 0.9, "norm", "norm")
    add_arrow(axis, (branch, y + 1.25), (branch, y + 1.5))
    add_sublayer(axis, branch, y + 1.85, sublayer)
    add_arrow(axis, (branch, y + 2.2), (branch, total), (x + 0.25, total))
    add_sum(axis, x, total)
    add_line(axis, x, total + 0.25, y + SUBLAYER)


def add_post_norm(axis, x, y, sublayer):
    """Draw norm(x + sublayer(x)): the norm stands on the stream."""
    branch, total = x + BRANCH, y + 1.65
    add_arrow(axis, (x, y), (x, total - 0.25))
    add_arrow(axis, (x, y + 0.25), (branch, y + 0.25), (branch, y + 0.5))
    add_sublayer(axis, branch, y + 0.85, sublayer)
    add_arrow(axis, (branch, y + 1.2), (branch, total), (x + 0.25, total))
    add_sum(axis, x, total)
    add_arrow(axis, (x, total + 0.25), (x, y + 2.15))
    add_box(axis, x, y + 2.5, "norm", "norm", width=1.6)
    add_line(axis, x, y + 2.85, y + SUBLAYER)


def add_sublayer(axis, x, y, sublayer):
    """Draw the box of a sublayer in the colour of its kind."""
    add_box(axis, x, y, sublayer, sublayer if sublayer in COLOURS else "attention")
