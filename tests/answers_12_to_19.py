"""Right answers in unusual styles, and wrong ones, to the exercises of notebooks 12 to 19."""

import os
import shutil
from collections import Counter
from functools import lru_cache
from math import log, tanh

import numpy as np

from tfgpt.checks.notebook_18 import DAY, after_kill, atomic_write, mix


def killed_writes(write):
    """Make the answer to "atomic write" from a function that writes a file."""
    return lambda *case: after_kill(write, *case)


def write_in_place(path, pieces):
    path.write_bytes(b"".join(pieces))


def write_pieces_in_place(path, pieces):
    with open(path, "wb") as file:
        file.writelines(pieces)
        file.flush()
        os.fsync(file.fileno())


def write_without_sync(path, pieces):
    part = path.with_suffix(".part")
    part.write_bytes(b"".join(pieces))
    part.replace(path)


def write_without_flush(path, pieces):
    part = path.with_suffix(".part")
    with open(part, "wb") as file:
        file.writelines(pieces)
        os.fsync(file.fileno())
    part.replace(path)


def remove_first(path, pieces):
    path.unlink(missing_ok=True)
    atomic_write(path, pieces)


def with_every_weight_of_the_second_matrix(x, expand, bias, contract, devices):
    whole = np.maximum(x @ expand + bias, 0) @ contract
    return np.stack([whole / devices] * devices)


def head_by_blocks(c_attn, num_heads, head):
    """Another style: the kernel as (D, 3, H, K)."""
    width = len(c_attn)
    return np.moveaxis(c_attn.reshape(width, 3, num_heads, -1)[:, :, head], 1, 0)


def head_by_columns(c_attn, num_heads, head, part=0):
    D, K = len(c_attn), len(c_attn) // num_heads  # noqa: N806
    return [c_attn[:, i * D + head * K + part : i * D + head * K + part + K] for i in range(3)]


def split_by_heads(c_attn, num_heads, head):
    """Take query, key and value of a head for neighbours."""
    return np.split(np.split(c_attn, num_heads, axis=1)[head], 3, axis=1)


def gelu(x, factor=0.044715, root=(2 / np.pi) ** 0.5):
    inner = root * x * (1 + factor * x * x)
    return x * (1 - 1 / (np.exp(np.clip(2 * inner, -500, 500)) + 1))


def gelu_by_loop(x):
    flat = [0.5 * v * (1 + tanh(0.7978845608 * (v + 0.044715 * v * v * v))) for v in x.ravel()]
    return np.array(flat).reshape(x.shape)


def gpt2(V, T, L, D, norms=2, positions=1):
    return D * (V + positions * T) + L * (12 * D * D + (9 + 2 * norms) * D) + 2 * D


def pool_by_loop(hidden, real):
    return [
        np.mean([h for h, r in zip(rows, marks, strict=True) if r], axis=0)
        for rows, marks in zip(hidden, real, strict=True)
    ]


def pool_by_einsum(hidden, real):
    return np.einsum("btd,bt->bd", hidden, real / real.sum(1, keepdims=True))


def f1_of_classes(matrix, average=np.mean):
    scores = []
    for c in range(len(matrix)):
        precision = matrix[c, c] / max(matrix[:, c].sum(), 1)
        recall = matrix[c, c] / max(matrix[c].sum(), 1)
        scores.append(2 * precision * recall / ((precision + recall) or 1))
    return average(scores)


def rates_by_loop(rate, decay, layers):
    rates = [rate]
    for _ in range(layers + 1):
        rates.insert(0, rates[0] * decay)
    return rates


def f1_of_spans(real, found, parts=3):
    right = sum(span[:parts] in [other[:parts] for other in real] for span in found)
    precision, recall = right / len(found), right / len(real)
    return 2 * precision * recall / (precision + recall) if right else 0


def lora(x, w, a, b, alpha, rank=None):
    rank = len(b) if rank is None else rank
    return np.einsum("ni,io->no", x, w + a @ b * (alpha / rank))


def lora_share(L, D, r, V, T, kernels=2, whole=True):
    own = L * kernels * 2 * D * r
    base = gpt2(V, T, L, D)
    return own / (own + base if whole else base)


def bottleneck(y, down, up, residual=True, relu=True):
    hidden = y @ down
    hidden = np.where(hidden > 0, hidden, 0) if relu else hidden
    return hidden @ up + (y if residual else 0)


def hide_by_loop(ids, chosen, kind, others, mask_id, first=0.8, second=0.9):
    read = list(ids)
    for i in np.flatnonzero(chosen):
        read[i] = mask_id if kind[i] < first else others[i] if kind[i] < second else ids[i]
    return read


def words_by_loop(chosen, starts):
    hidden, begin = np.zeros(len(chosen), bool), 0
    for place in [*range(1, len(chosen)), len(chosen)]:
        if place == len(chosen) or starts[place]:
            hidden[begin:place] = any(chosen[begin:place])
            begin = place
    return hidden


def words_by_split(chosen, starts):
    words = np.split(chosen, np.flatnonzero(starts)[1:])
    return np.concatenate([np.full(len(word), word.any()) for word in words])


def fill_by_loop(ids, logits, mask_id):
    return [
        max((v for v in range(len(row)) if v != mask_id), key=lambda v, row=row: row[v])
        if i == mask_id
        else i
        for i, row in zip(ids, logits, strict=True)
    ]


def fill_by_sorting(ids, logits, mask_id):
    order = np.argsort(-logits, axis=-1)
    best = np.where(order[:, 0] == mask_id, order[:, 1], order[:, 0])
    filled = ids.copy()
    filled[ids == mask_id] = best[ids == mask_id]
    return filled


def targets_by_loop(ids, answer):
    return [t if a else -100 for t, a in zip(ids[1:], answer[1:], strict=True)]


def targets_by_fill(ids, answer):
    targets = np.full(len(ids) - 1, -100)
    targets[answer[1:]] = ids[1:][answer[1:]]
    return targets


def f1_of_words(answer, guess, counted=True):
    answer, guess = (Counter(x.split()) if counted else set(x.split()) for x in (answer, guess))
    size = lambda x: x.total() if counted else len(x)  # noqa: E731
    return 2 * size(answer & guess) / (size(answer) + size(guess))


def f1_by_removing(answer, guess):
    left, right = answer.split(), 0
    for word in guess.split():
        if word in left:
            left.remove(word)
            right += 1
    precision, recall = right / len(guess.split()), right / len(answer.split())
    return 2 / (1 / precision + 1 / recall) if right else 0.0


def lcs_by_recursion(a, b):
    @lru_cache
    def best(i, j):
        if i == len(a) or j == len(b):
            return 0
        return 1 + best(i + 1, j + 1) if a[i] == b[j] else max(best(i + 1, j), best(i, j + 1))

    return best(0, 0)


def lcs_by_one_row(a, b):
    row = [0] * (len(b) + 1)
    for first in a:
        old = row[:]
        for j, second in enumerate(b):
            row[j + 1] = old[j] + 1 if first == second else max(row[j], old[j + 1])
    return row[-1]


def common_run(a, b):
    """Count a run of neighbours, not a subsequence."""
    size = min(len(a), len(b))
    return max(
        (n for n in range(size + 1) for i in range(len(a)) if a[i : i + n] == b[i : i + n]),
        default=0,
    )


def transfer_by_loop(matrix, tasks=None):
    last = len(matrix) - 1
    changes = [matrix[last][task] - matrix[task][task] for task in range(tasks or last)]
    return sum(changes) / len(changes)


def distillation(old, new, heat, both=True):
    def log_softmax(z):
        return z - np.logaddexp.reduce(z)

    target = np.exp(log_softmax(old / heat))
    return -target @ log_softmax(new / (heat if both else 1))


def distillation_by_loop(old, new, heat):
    old, new = (np.exp(np.array(z) / heat) for z in (old, new))
    pairs = zip(old / sum(old), new / sum(new), strict=True)
    return -sum(p * log(q) for p, q in pairs)


def kernel_gradient(x, logits, label, power=2, sign=-1):
    p = np.exp(logits) / np.exp(logits).sum()
    error = [(c == label) + sign * p[c] for c in range(len(p))]
    return np.array([[(xi * e) ** power for e in error] for xi in x])


def feistel(places, bits, keys, swap=True, mask=True):
    size = 2**bits
    left, right = np.divmod(places, size)
    for key in keys:
        mixed = mix(right, key)
        new = np.bitwise_xor(left, mixed % size if mask else mixed)
        left, right = (right, new) if swap else (new, right)
    return left * size + right


def feistel_by_loop(places, bits, keys):
    return [int(feistel(np.array([place]), bits, keys)[0]) for place in places]


def write_with_copy(path, pieces):
    """A right way in another style: collect first, and move the file with shutil."""
    data, part = b"".join(pieces), path.parent / "new"
    with part.open("wb", buffering=0) as file:
        file.write(data)
        os.fsync(file.fileno())
    shutil.move(part, path)


def write_with_descriptor(path, pieces):
    """A right way in another style: the functions of os."""
    descriptor = os.open(f"{path}~", os.O_WRONLY | os.O_CREAT)
    for piece in pieces:
        os.write(descriptor, piece)
    os.fsync(descriptor)
    os.close(descriptor)
    os.rename(f"{path}~", path)


def place_by_loop(steps, sizes, examples):
    read = sum(step * size for step, size in zip(steps, sizes, strict=True))
    passes = 0
    while read >= examples:
        read, passes = read - examples, passes + 1
    return passes, read


def outputs_by_slices(x, expand, bias, contract, devices, where="inside"):
    width = expand.shape[1] // devices
    found = []
    for d in range(devices):
        part = slice(d * width, (d + 1) * width)
        hidden = x @ expand[:, part] + (bias[part] if where == "inside" else 0)
        found.append(np.where(hidden > 0, hidden, 0) @ contract[part])
    return found


def outputs_by_einsum(x, expand, bias, contract, devices):
    hidden = np.maximum(x @ expand + bias, 0).reshape(len(x), devices, -1)
    return np.einsum("tdi,dij->dtj", hidden, contract.reshape(devices, -1, contract.shape[1]))


def budget_by_search(flops, A, alpha, B, beta):
    """Another style: try all sizes, coarsely and then finely."""
    total, low, high = np.log10(flops / 6), 0.0, np.log10(flops / 6)
    for _ in range(6):
        sizes = np.linspace(low, high, 2001)
        losses = A * 10 ** (-alpha * sizes) + B * 10 ** (-beta * (total - sizes))
        best = losses.argmin()
        low, high = sizes[max(best - 1, 0)], sizes[min(best + 1, 2000)]
    return [sizes[best], total - sizes[best]]


def budget(flops, A, alpha, B, beta, ratio=None, share=None):
    ratio = alpha * A / (beta * B) if ratio is None else ratio
    share = beta / (alpha + beta) if share is None else share
    size = ratio ** (1 / (alpha + beta)) * (flops / 6) ** share
    return np.log10([size, flops / 6 / size])


def scales_by_loop(x, bits):
    return [[max(map(abs, row)) / (2 ** (bits - 1) - 1) or 1.0] for row in x]


def scales_by_range(x, bits, top=None, zeros=1.0, axis=1):
    largest = np.maximum(x.max(axis, keepdims=True), -x.min(axis, keepdims=True))
    scales = largest / ((1 << bits - 1) - 1 if top is None else top)
    return np.where(largest > 0, scales, zeros)


def product_by_einsum(x, q, scales, token_scales=None, kind="int64"):
    token_scales = scales_by_range(x, 8) if token_scales is None else token_scales
    with np.errstate(invalid="ignore", divide="ignore"):
        p = np.rint(x / token_scales).astype(kind)
    return np.einsum("tc,rc->tr", p, q.astype(kind)) * token_scales * np.ravel(scales)


def product_by_floats(x, q, scales):
    token_scales = np.array(scales_by_loop(x, 8))
    return np.round(x / token_scales) @ q.T.astype(float) * (token_scales @ scales.T)


def pack_by_loop(numbers, low_first=True, shift=4):
    numbers = [int(number) & 15 for number in numbers] + [0] * (len(numbers) % 2)
    pairs = zip(numbers[::2], numbers[1::2], strict=True)
    return [a | b << shift if low_first else b | a << shift for a, b in pairs]


def pack_by_weights(numbers):
    padded = np.pad(numbers, (0, -len(numbers) % 2)).reshape(-1, 2)
    return np.where(padded < 0, padded + 16, padded) @ [1, 16]


def latency_by_loop(events):
    first, last, count = None, None, 0
    for seconds, line in events:
        if line[:7] == "data: {":
            first, last, count = seconds if first is None else first, seconds, count + 1
    return first, (last - first) / (count - 1) if count > 1 else 0


def latency_by_differences(events, prefix="data: {", nothing=0.0):
    times = np.array([seconds for seconds, line in events if line.startswith(prefix)])
    return times[0], np.diff(times).mean() if len(times) > 1 else nothing


RIGHT = [
    ("head kernels", head_by_blocks),
    ("head kernels", head_by_columns),
    ("gelu by tanh", gelu),
    ("gelu by tanh", gelu_by_loop),
    ("gpt2 parameters", gpt2),
    ("gpt2 parameters", lambda V, T, L, D: D * (V + T + 2 + L * (12 * D + 13))),
    ("mean pooling", pool_by_loop),
    ("mean pooling", pool_by_einsum),
    ("macro f1", f1_of_classes),
    (
        "macro f1",
        lambda m: sum(2 * m[c, c] / (m[c].sum() + m[:, c].sum()) for c in range(len(m))) / len(m),
    ),
    ("layer rates", rates_by_loop),
    ("layer rates", lambda rate, decay, L: [rate * decay**n for n in reversed(range(L + 2))]),
    ("entity f1", f1_of_spans),
    ("entity f1", lambda real, found: 2 * len({*real} & {*found}) / len([*real, *found])),
    ("lora", lora),
    ("lora", lambda x, w, a, b, alpha: x @ w + (alpha * x @ a / b.shape[0]) @ b),
    ("merged kernel", lambda w, a, b, alpha: w + np.einsum("ir,ro->io", a, b) * alpha / len(b)),
    (
        "merged kernel",
        lambda w, a, b, alpha: (
            w + sum(np.outer(a[:, r], b[r]) for r in range(len(b))) * alpha / len(b)
        ),
    ),
    ("lora share", lora_share),
    ("lora share", lambda L, D, r, V, T: 1 / (1 + gpt2(V, T, L, D) / (4 * L * D * r))),
    ("bottleneck", bottleneck),
    ("bottleneck", lambda y, down, up: np.add(y, (abs(y @ down) + y @ down) / 2 @ up)),
    ("hide tokens", hide_by_loop),
    ("hide tokens", lambda i, c, k, o, m: np.select([~c, k < 0.8, k < 0.9], [i, m, o], i)),
    ("whole words", words_by_loop),
    ("whole words", words_by_split),
    ("fill gaps", fill_by_loop),
    ("fill gaps", fill_by_sorting),
    ("answer targets", targets_by_loop),
    ("answer targets", targets_by_fill),
    ("token f1", f1_of_words),
    ("token f1", f1_by_removing),
    ("longest common subsequence", lcs_by_recursion),
    ("longest common subsequence", lcs_by_one_row),
    ("backward transfer", transfer_by_loop),
    ("backward transfer", lambda m: (m[-1].sum() - np.trace(m)) / (len(m) - 1)),
    ("elastic penalty", lambda w, old, f, s: sum((f * (w - old) ** 2).ravel()) * s * 0.5),
    ("elastic penalty", lambda w, old, f, s: 0.5 * s * np.vdot(w - old, f * (w - old))),
    ("fisher of softmax", kernel_gradient),
    ("fisher of softmax", lambda x, z, y: np.outer(x**2, kernel_gradient([1.0], z, y)[0])),
    ("distillation", distillation),
    ("distillation", distillation_by_loop),
    ("place in the data", place_by_loop),
    (
        "place in the data",
        lambda s, b, n: [sum(np.multiply(s, b)) // n, sum(np.multiply(s, b)) % n],
    ),
    ("feistel", feistel),
    ("feistel", feistel_by_loop),
    ("atomic write", killed_writes(write_with_copy)),
    ("atomic write", killed_writes(write_with_descriptor)),
    ("loss of replicas", lambda z, n: np.average(z, weights=n) if any(n) else 0.0),
    (
        "loss of replicas",
        lambda z, n: sum(a * b for a, b in zip(z, n, strict=True)) / (sum(n) or 1),
    ),
    ("split feed-forward", outputs_by_slices),
    ("split feed-forward", outputs_by_einsum),
    (
        "training bytes",
        lambda n, mixed, devices: sum([4, 4, 8]) * n / devices + (2 * n if mixed else 0),
    ),
    (
        "training bytes",
        lambda n, mixed, devices: (16 + (2 * devices if mixed else 0)) * n / devices,
    ),
    (
        "training days",
        lambda n, tokens, devices, peak, mfu: n * tokens / devices / peak / mfu / 14400,
    ),
    (
        "training days",
        lambda n, tokens, d, p, m: np.exp(
            np.log([6 * n, tokens, 1 / d, 1 / p, 1 / m, 1 / DAY]).sum()
        ),
    ),
    ("compute budget", budget),
    ("compute budget", budget_by_search),
    ("row scales", scales_by_loop),
    ("row scales", scales_by_range),
    ("integer product", product_by_einsum),
    ("integer product", product_by_floats),
    ("two numbers in a byte", pack_by_loop),
    ("two numbers in a byte", pack_by_weights),
    ("latency", latency_by_loop),
    ("latency", latency_by_differences),
]

WRONG = [
    (
        "place in the data",
        lambda steps, sizes, examples: divmod(sum(steps) * sizes[0], examples),
        "two batch sizes: .*Count examples, not steps",
    ),
    (
        "feistel",
        lambda places, bits, keys: places[::-1],
        r"one round: .*left \^ \(mix",
    ),
    ("atomic write", killed_writes(write_in_place), "no kill: .*os.fsync"),
    ("atomic write", killed_writes(write_without_sync), "no kill: .*os.fsync"),
    ("atomic write", killed_writes(write_without_flush), "no kill: .*file.flush"),
    ("atomic write", killed_writes(remove_first), "no kill: .*before os.replace"),
    ("atomic write", killed_writes(write_pieces_in_place), "no kill: .*before os.replace"),
    (
        "loss of replicas",
        lambda losses, tokens: np.mean(losses),
        "uneven padding: the value is 3.0, expected 2.5",
    ),
    (
        "split feed-forward",
        with_every_weight_of_the_second_matrix,
        "two devices: .*first half of the columns",
    ),
    (
        "training bytes",
        lambda weights, mixed, devices: weights * (16 - 2 * mixed) / devices,
        "mixed precision: .*The float32 weights stay",
    ),
    (
        "training days",
        lambda weights, tokens, devices, peak, mfu: 2 * weights * tokens / peak / 86400,
        "one device: .*6 N D",
    ),
    (
        "compute budget",
        lambda flops, A, alpha, B, beta: [np.log10(flops / 6) / 2] * 2,
        "data matter more: .*alpha A",
    ),
    ("head kernels", split_by_heads, "the second of two heads"),
    ("head kernels", lambda w, H, h: head_by_columns(w, H, 0), "the second of two heads"),
    ("head kernels", lambda w, H, h: head_by_blocks(w, H, h)[::-1], "edge case: one head"),
    ("gelu by tanh", lambda x: np.maximum(x, 0), "numbers around 0"),
    ("gelu by tanh", lambda x: gelu(x, factor=0.0), "numbers around 0"),
    ("gelu by tanh", lambda x: gelu(x, root=2 / np.pi), "numbers around 0"),
    ("gpt2 parameters", lambda *sizes: gpt2(*sizes, norms=0), "edge case: one block"),
    ("gpt2 parameters", lambda *sizes: gpt2(*sizes, positions=0), "edge case: one block"),
    ("gpt2 parameters", lambda V, T, L, D: gpt2(2 * V, T, L, D), "edge case: one block"),
    ("mean pooling", lambda h, real: h.mean(1), "one padded text"),
    ("mean pooling", lambda h, real: (h * real[..., None]).mean(1), "one padded text"),
    ("mean pooling", lambda h, real: (h * real[..., None]).sum(1) / real.sum(1).max(), "edge case"),
    ("macro f1", lambda m: np.trace(m) / m.sum(), "two classes|edge case"),
    ("macro f1", lambda m: np.mean(np.diag(m) / m.sum(1)), "two classes|edge case"),
    ("macro f1", lambda m: f1_of_classes(m, average=max), "two classes"),
    ("layer rates", lambda rate, decay, L: rates_by_loop(rate, decay, L)[::-1], "two blocks"),
    (
        "layer rates",
        lambda rate, decay, L: rates_by_loop(rate, decay, L - 1),
        "two blocks: the shape",
    ),
    ("layer rates", lambda rate, decay, L: rates_by_loop(rate * decay, decay, L), "two blocks"),
    ("entity f1", lambda real, found: len({*real} & {*found}) / len(real) * 0.9, "one of two"),
    ("entity f1", lambda real, found: f1_of_spans(real, found, parts=2), "edge case: another kind"),
    ("entity f1", lambda real, found: len({*real} & {*found}), "one of two"),
    ("lora", lambda *x: lora(*x, rank=1), "rank 2"),
    ("lora", lambda x, w, a, b, alpha: lora(x, w, a, b, 2.0), "another alpha"),
    ("lora", lambda x, w, a, b, alpha: lora(x, 0 * w, a, b, alpha), "rank 2"),
    ("merged kernel", lambda w, a, b, alpha: w + alpha * a @ b, "rank 2"),
    ("merged kernel", lambda w, a, b, alpha: alpha / len(b) * a @ b, "rank 2"),
    ("merged kernel", lambda w, a, b, alpha: w - alpha / len(b) * a @ b, "rank 2"),
    ("lora share", lambda *x: lora_share(*x, kernels=1), "edge case: a small model"),
    ("lora share", lambda *x: lora_share(*x, whole=False), "edge case: a small model"),
    ("lora share", lambda L, D, r, V, T: lora_share(L, D, 2 * r, V, T), "edge case"),
    ("bottleneck", lambda *x: bottleneck(*x, residual=False), "one row"),
    ("bottleneck", lambda *x: bottleneck(*x, relu=False), "one row"),
    ("bottleneck", lambda y, down, up: bottleneck(y, -down, up), "one row"),
    ("hide tokens", lambda *x: hide_by_loop(*x, first=1.0), "one of each kind"),
    ("hide tokens", lambda i, c, k, o, m: hide_by_loop(i, c | True, k, o, m), "one of each kind"),
    ("hide tokens", lambda *x: hide_by_loop(*x, first=0.80001), "edge case: the borders"),
    ("whole words", lambda chosen, starts: chosen, "one token of a word"),
    ("whole words", lambda chosen, starts: chosen | starts.astype(bool), "one token of a word"),
    ("whole words", lambda chosen, starts: chosen | np.roll(chosen, 1), "one token of a word"),
    (
        "fill gaps",
        lambda ids, z, mask: np.where(ids == mask, z.argmax(-1), ids),
        "one gap",
    ),
    ("fill gaps", lambda ids, z, mask: z[:, :mask].argmax(-1), "one gap"),
    ("fill gaps", lambda ids, z, mask: ids, "one gap"),
    ("answer targets", lambda ids, a: np.where(a, ids, -100)[:-1], "a question and its answer"),
    ("answer targets", lambda ids, a: np.where(a[:-1], ids[1:], -100), "a question and its answer"),
    ("answer targets", lambda ids, a: np.where(a[1:], ids[1:], 0), "a question and its answer"),
    ("token f1", lambda a, g: f1_of_words(a, g, counted=False), "a word twice"),
    ("token f1", lambda a, g: float(a == g), "one word of two"),
    (
        "token f1",
        lambda a, g: sum(w in a.split() for w in g.split()) / len(g.split()),
        "one word of two",
    ),
    ("longest common subsequence", lambda a, b: len(set(a) & set(b)), "another order"),
    ("longest common subsequence", common_run, "a gap"),
    ("longest common subsequence", lambda a, b: max(len(a), len(b)), "a gap"),
    ("backward transfer", lambda m: np.mean(m[-1] - np.diag(m)), "forgetting"),
    ("backward transfer", lambda m: -transfer_by_loop(m), "forgetting"),
    ("backward transfer", lambda m: np.mean(m[-1, :-1]), "forgetting"),
    ("elastic penalty", lambda w, old, f, s: s * np.sum(f * (w - old) ** 2), "two weights"),
    ("elastic penalty", lambda w, old, f, s: s / 2 * np.sum((w - old) ** 2), "two weights"),
    ("elastic penalty", lambda w, old, f, s: s / 2 * np.mean(f * (w - old) ** 2), "two weights"),
    ("fisher of softmax", lambda *x: kernel_gradient(*x, power=1), "two classes"),
    ("fisher of softmax", lambda *x: kernel_gradient(*x, sign=1), "two classes"),
    ("fisher of softmax", lambda *x: kernel_gradient(*x).T, "two classes|edge case"),
    ("fisher of softmax", lambda x, z, y: kernel_gradient(x, z, 0), "edge case: the last class"),
    ("distillation", lambda *x: -distillation(*x), "edge case: the same"),
    ("distillation", lambda *x: distillation(*x, both=False), "a temperature"),
    ("distillation", lambda old, new, heat: distillation(old, new, 1.0), "a temperature"),
    ("place in the data", lambda s, b, n: [0, np.dot(s, b)], "one batch size"),
    ("place in the data", lambda s, b, n: np.divmod(np.dot(s, b), n)[::-1], "one batch size"),
    ("feistel", lambda *x: feistel(*x, swap=False), "one round"),
    ("feistel", lambda *x: feistel(*x, mask=False), "one round"),
    ("loss of replicas", lambda z, n: np.sum(z), "equal tokens"),
    ("loss of replicas", lambda z, n: np.dot(z, n) / np.float64(sum(n) or np.nan), "edge case"),
    ("split feed-forward", lambda *x: outputs_by_slices(*x, where="outside"), "two devices"),
    ("split feed-forward", lambda *x: outputs_by_slices(*x)[::-1], "two devices"),
    ("training bytes", lambda n, mixed, devices: n * 16 / devices, "mixed precision"),
    ("training bytes", lambda n, mixed, devices: n * (16 + 2 * mixed) / devices, "shared"),
    ("training days", lambda n, tokens, d, p, m: 6 * n * tokens / (d * p * DAY), "half its peak"),
    ("training days", lambda n, tokens, d, p, m: 6 * n * tokens / (p * m * DAY), "edge case"),
    ("compute budget", lambda *x: budget(*x, ratio=1.0), "data matter more"),
    ("compute budget", lambda *x: budget(*x, share=0.5), "edge case: another exponent"),
    ("compute budget", lambda *x: budget(*x)[::-1], "data matter more"),
    ("row scales", lambda x, bits: x.max(1, keepdims=True) / (2 ** (bits - 1) - 1), "two rows"),
    ("row scales", lambda x, bits: scales_by_range(x, bits, top=2 ** (bits - 1)), "two rows"),
    (
        "row scales",
        lambda x, bits: scales_by_range(x, bits, zeros=0.0),
        "edge case: a row of zeros",
    ),
    (
        "row scales",
        lambda x, bits: scales_by_range(x, bits, axis=0),
        "two rows in 8 bits: the shape",
    ),
    ("integer product", lambda *x: product_by_einsum(*x, kind="int16"), "sums that do not fit"),
    (
        "integer product",
        lambda x, q, s: product_by_einsum(x, q, s, abs(x).max() / 127),
        "two tokens",
    ),
    ("integer product", lambda x, q, s: product_by_einsum(x, q, 0 * s + 1), "two tokens"),
    ("two numbers in a byte", lambda n: pack_by_loop(n, low_first=False), "two numbers"),
    ("two numbers in a byte", lambda n: pack_by_loop(n, shift=3), "two numbers"),
    ("two numbers in a byte", lambda n: pack_by_loop(n[: len(n) // 2 * 2]), "edge case: an odd"),
    ("latency", lambda events: latency_by_differences(events, "data: "), "other lines between"),
    ("latency", lambda events: latency_by_differences(events, nothing=np.nan), "edge case: one"),
    ("latency", lambda events: latency_by_differences(events)[::-1], "three tokens"),
]
