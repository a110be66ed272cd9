"""Right answers in unusual styles, and wrong ones, to the exercises of notebooks 20 and 21."""

import numpy as np


def cut_by_loop(images, size, columns_first=False):
    """Another style: each patch is cut out by its corner."""
    _, height, width, _ = images.shape
    corners = [(y, x) for y in range(0, height, size) for x in range(0, width, size)]
    if columns_first:
        corners.sort(key=lambda corner: corner[::-1])
    cut = [images[:, y : y + size, x : x + size].reshape(len(images), -1) for y, x in corners]
    return np.stack(cut, axis=1)


def channels_first(images, size):
    """Puts the channel before row and column of a patch."""
    patches = cut_by_einsum(images, size)
    cells = patches.reshape(*patches.shape[:2], size, size, -1)
    return np.moveaxis(cells, -1, 2).reshape(patches.shape)


def cut_by_einsum(images, size):
    batch, height, width, channels = images.shape
    cells = images.reshape(batch, height // size, size, width // size, size, channels)
    return np.einsum("bhpwqc->bhwpqc", cells).reshape(batch, -1, size * size * channels)


def project_by_loop(images, kernel, bias, positions):
    """Another style: a convolution, place by place."""
    size = len(kernel)
    patches = cut_by_loop(images, size)
    vectors = [
        np.tensordot(patch.reshape(-1, *kernel.shape[:3]), kernel, axes=3) + bias
        for patch in patches.swapaxes(0, 1)
    ]
    return np.stack(vectors, axis=1) + positions[None]


def project_by_einsum(images, kernel, bias, positions):
    size = len(kernel)
    batch, height, width, channels = images.shape
    cells = images.reshape(batch, height // size, size, width // size, size, channels)
    vectors = np.einsum("bhpwqc,pqcd->bhwd", cells, kernel)
    return vectors.reshape(batch, -1, len(bias)) + (bias + positions)


def splice_by_loop(words, token_ids, visual, image_id, first=0):
    """Another style: word after word."""
    vectors = iter(visual[first:])
    return np.array(
        [
            next(vectors) if token == image_id else word
            for word, token in zip(words, token_ids, strict=True)
        ]
    )


def splice_by_count(words, token_ids, visual, image_id):
    is_image = np.equal(token_ids, image_id)
    places = np.maximum(np.cumsum(is_image) - 1, 0)
    return np.where(is_image[:, None], visual[places], words)


def contrast(images, texts, scale, normalised=True, columns=True, safe=True, rows=True):
    """The loss in parts that can be left out."""
    if normalised:
        images, texts = (x / np.sqrt((x**2).sum(axis=1, keepdims=True)) for x in (images, texts))
    scores = np.asarray(scale * images @ texts.T, "float32")
    losses = []
    for table in [scores] * rows + [scores.T] * columns:
        shift = table.max() if safe else 0.0
        with np.errstate(over="ignore"):
            sums = np.exp((table - shift).astype("float64" if safe else "float32")).sum(axis=1)
        losses.append(np.mean(np.log(sums) + shift - np.diagonal(table)))
    return np.mean(losses)


def contrast_by_logaddexp(images, texts, scale):
    unit = [x / np.linalg.norm(x, axis=1)[:, None] for x in (images, texts)]
    scores = scale * np.einsum("ie,je->ij", *unit)
    both = np.logaddexp.reduce(scores, axis=1) + np.logaddexp.reduce(scores, axis=0)
    return np.mean(both) / 2 - np.trace(scores) / len(scores)


def recall_by_sort(scores, count):
    """Another style: the rank of the own key, counted from 0."""
    ranks = [
        sum(score >= row[place] for score in np.delete(row, place))
        for place, row in enumerate(scores)
    ]
    return sum(rank < count for rank in ranks) / len(ranks)


def names_by_loop(images, names):
    """Another style: cosines one by one."""

    def cosine(a, b):
        return np.dot(a, b) / np.sqrt(np.dot(a, a) * np.dot(b, b))

    return np.array([np.argmax([cosine(image, name) for name in names]) for image in images])


def rollout_by_recursion(weights, stay=0.5):
    """Another style: the last layer times the rest."""
    own = stay * np.eye(weights.shape[-1]) + (1 - stay) * weights[-1]
    return own if len(weights) == 1 else own @ rollout_by_recursion(weights[:-1], stay)


def delete_by_mask(image, places, size, colour=1.0, columns=None):
    """Another style: a table of patches, made as large as the image."""
    rows, own_columns = (side // size for side in image.shape[:2])
    gone = np.zeros(rows * own_columns, bool)
    gone[list(places)] = True
    shape = (rows, columns or own_columns)
    mask = np.kron(gone.reshape(shape), np.ones((size, size))).astype(bool)
    return np.where(mask[..., None], colour, image)


def delete_by_rows(image, places, size):
    """Divides by the number of rows."""
    image = image.copy()
    for place in places:
        row, column = divmod(place, image.shape[0] // size)
        image[row * size : (row + 1) * size, column * size : (column + 1) * size] = 1.0
    return image


RIGHT = [
    ("patchify", cut_by_loop),
    ("patchify", cut_by_einsum),
    ("patch vectors", project_by_loop),
    (
        "patch vectors",
        lambda x, k, b, p: cut_by_einsum(x, len(k)) @ np.vstack([*np.vstack(k)]) + b + p,
    ),
    ("splice", splice_by_loop),
    ("splice", splice_by_count),
    ("contrastive loss", contrast),
    ("contrastive loss", contrast_by_logaddexp),
    ("recall", recall_by_sort),
    ("recall", lambda s, k: ((s >= s.diagonal()[:, None]).sum(1) < k + 1).mean()),
    ("zero shot", names_by_loop),
    ("zero shot", lambda x, n: np.argmax(x @ (n.T / np.hypot.reduce(n, axis=1)), axis=-1)),
    ("rollout", rollout_by_recursion),
    (
        "rollout",
        lambda w: np.linalg.multi_dot([*((w + np.eye(w.shape[1])) / 2)[::-1], np.eye(w.shape[1])]),
    ),
    ("delete patches", delete_by_mask),
    ("delete patches", lambda x, places, size: delete_by_mask(x, tuple(places), size, 1)),
]

WRONG = [
    ("patchify", lambda x, p: x.reshape(len(x), -1, p * p * x.shape[-1]), "one grey image"),
    ("patchify", lambda x, p: cut_by_loop(x, p, columns_first=True), "one grey image"),
    (
        "patchify",
        lambda x, p: cut_by_loop(x, p).reshape(-1, p * p * x.shape[-1]),
        "one grey image: the shape",
    ),
    ("patchify", channels_first, "two images in colour"),
    ("patch vectors", lambda x, k, b, p: project_by_loop(x, k, b, 0 * p), "with a bias"),
    ("patch vectors", lambda x, k, b, p: project_by_loop(x, k, 0 * b, p), "with a bias"),
    (
        "patch vectors",
        lambda x, k, b, p: project_by_loop(x, k.swapaxes(0, 1), b, p),
        "four patches",
    ),
    ("splice", lambda words, ids, visual, image: words, "an image between words"),
    ("splice", lambda *x: splice_by_loop(*x[:2], x[2][::-1], x[3]), "an image between words"),
    (
        "splice",
        lambda words, ids, visual, image: np.where((ids == image)[:, None], visual[0], words),
        "an image between words",
    ),
    (
        "splice",
        lambda words, ids, visual, image: splice_by_count(words, ids, visual[::-1], image),
        "an image between words",
    ),
    ("contrastive loss", lambda *x: contrast(*x, normalised=False), "three pairs"),
    ("contrastive loss", lambda *x: contrast(*x, columns=False), "three pairs|rows and columns"),
    ("contrastive loss", lambda *x: contrast(*x, safe=False), "edge case: a scale of 1,000"),
    ("contrastive loss", lambda a, b, scale: contrast(a, b, 1 / scale), "three pairs"),
    ("recall", lambda s, k: np.mean(s.argmax(1) == np.arange(len(s))), "among the best two|edge"),
    ("recall", lambda s, k: np.mean((s > s.diagonal()[:, None]).sum(1) < k), "edge case: all"),
    ("recall", lambda s, k: recall_by_sort(s.T, k), "the best of three|among the best"),
    ("zero shot", lambda x, n: (x @ n.T).argmax(1), "a long vector"),
    ("zero shot", lambda x, n: (x @ n.T).argmax(0), "two names"),
    ("zero shot", lambda x, n: 1 - names_by_loop(x, n), "two names"),
    ("rollout", lambda w: rollout_by_recursion(w, stay=0.0), "two layers"),
    ("rollout", lambda w: rollout_by_recursion(w[::-1]), "two layers"),
    ("rollout", lambda w: w.mean(0), "two layers"),
    ("delete patches", lambda *x: delete_by_mask(*x, colour=0.0), "two of four"),
    ("delete patches", delete_by_rows, "wider than high"),
    ("delete patches", lambda x, places, p: x, "two of four"),
]
