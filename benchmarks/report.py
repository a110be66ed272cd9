"""Write results: tables for the terminal, a dict for the JSON file, and the targets."""

from dataclasses import asdict

from benchmarks.comparisons import TARGETS
from benchmarks.runner import best_of_ours, fastest, paired_ratio

UNITS = {"limits": "ms per 10^9", "import": "ms", "train": "ms/step", "decode": "ms/token"}


def find_limits(results_by_name):
    """Return the machine's limits: 10^9 operations or bytes per second, by contender name."""
    return {
        result.name: 1000 / result.median_ms
        for result in results_by_name.get("limits", [])
        if result.is_ok
    }


def share_of_limit(comparison, result, limits):
    """Return what share of the machine's limit a contender reaches; None if unknown.

    Training: its operations per second, of those of a large matmul of its precision.
    Decoding at batch 1: its tokens per second, of those that reading all weights allows.
    """
    if comparison.kind == "train":
        limit = limits.get(f"matmul {result.precision}")
        return limit and comparison.size.step_flops / (result.median_ms / 1000) / 1e9 / limit
    if comparison.kind == "decode" and comparison.options["batch"] == 1:
        limit = limits.get("memory reads")
        tokens = 1000 / result.median_ms
        return limit and tokens * comparison.size.token_bytes(result.precision) / 1e9 / limit
    return None


def table(comparison, results, limits):
    """Write a comparison as lines of text."""
    rows = [header(comparison.kind)]
    rows += [row(comparison, result, results, limits) for result in results if result.is_ok]
    lines = align(rows) if len(rows) > 1 else []
    for result in results:
        if not result.is_ok:
            message = result.message.replace("\n", "\n    ")
            lines.append(f"{result.name}: {result.status}: {message}")
    return [comparison.name, *(f"  {line}" for line in lines)]


def header(kind):
    """Return the titles of the columns."""
    if kind == "limits":
        return ["", "10^9 operations or bytes per s"]
    titles = ["", UNITS[kind], "tfgpt's best / this"]
    if kind == "decode":
        titles += ["tokens/s"]
    titles += ["first call s", "peak MB"]
    if kind in ("train", "decode"):
        titles += ["of limit"]
    return [*titles, "loss"] if kind == "train" else titles


def row(comparison, result, results, limits):
    """Return the cells of one contender."""
    if comparison.kind == "limits":
        return [result.name, f"{1000 / result.median_ms:.1f}"]
    ours = best_of_ours(results)
    ratio = f"{paired_ratio(ours, result):.2f}" if ours else "-"
    cells = [result.name, f"{result.median_ms:,.2f}", ratio]
    if comparison.kind == "decode":
        cells += [f"{1000 * comparison.options['batch'] / result.median_ms:,.0f}"]
    peak = result.last["peak_mb"]
    cells += [f"{result.first['first_call_s']:.1f}", "-" if peak is None else f"{peak:,.0f}"]
    if comparison.kind in ("train", "decode"):
        share = share_of_limit(comparison, result, limits)
        cells += ["-" if share is None else f"{100 * share:.0f} %"]
    if comparison.kind == "train":
        cells += [f"{result.first['first_loss']:.2f} to {result.last['loss']:.2f}"]
    return cells


def align(rows):
    """Write rows of cells as lines: the first column to the left, the others to the right."""
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return [
        "  ".join([cells[0].ljust(widths[0]), *map(str.rjust, cells[1:], widths[1:])])
        for cells in rows
    ]


def check_target(target, results, comparison=None, limits=None):
    """Compare a target with the results of its comparison.

    Args:
        target: Target.
        results: list of Result.
        comparison: Comparison and the machine's limits, for a target with `is_limit`.
        limits: what `find_limits` returns.

    Returns:
        dict of the target, "value", "ours" and "peer" (names of contenders) and
        "verdict": "met, the aim too", "met", "missed" or "not measured".
    """
    ours = best_of_ours(results, target.precision)
    peer = fastest(result for result in results if result.is_ok and result.name in target.peers)
    value = None
    if target.is_limit:
        share = ours and share_of_limit(comparison, ours, limits)
        value = share and 1 / share
    elif not target.peers and ours:
        ours = min(
            (result for result in results if result.is_ok and result.contender.is_ours),
            key=lambda result: result.first["first_call_s"],
        )
        value = ours.first["first_call_s"]
    elif ours and peer:
        value = paired_ratio(ours, peer)
    return {
        **asdict(target),
        "ours": ours and ours.name,
        "peer": peer and peer.name,
        "value": value,
        "verdict": verdict(target, value),
    }


def verdict(target, value):
    """Say in words whether a value is small enough."""
    if value is None:
        return "not measured"
    if value <= target.aim:
        return "met, the aim too"
    return "met" if value <= target.must else "missed"


def check_targets(results_by_name, comparisons):
    """Check all targets whose comparisons were run."""
    by_name, limits = {each.name: each for each in comparisons}, find_limits(results_by_name)
    return [
        check_target(target, results_by_name[target.comparison], by_name[target.comparison], limits)
        for target in TARGETS
        if target.comparison in results_by_name
    ]


def target_table(checked):
    """Write the checked targets as lines of text."""
    rows = [["target", "must", "aim", "value", "verdict", "tfgpt setting", "peer"]]
    for target in checked:
        value = "-" if target["value"] is None else f"{target['value']:.2f}"
        numbers = f"{target['must']:.2f}", f"{target['aim']:.2f}", value
        rows.append(
            [
                target["name"],
                *numbers,
                target["verdict"],
                target["ours"] or "-",
                target["peer"] or "-",
            ]
        )
    return align(rows)


def as_dict(comparison, results, limits):
    """Put a comparison into a dict for the JSON file."""
    return {
        "name": comparison.name,
        "kind": comparison.kind,
        "unit": UNITS[comparison.kind],
        "size": asdict(comparison.size) if comparison.size else None,
        "options": comparison.options,
        "contenders": [result_as_dict(comparison, result, results, limits) for result in results],
    }


def result_as_dict(comparison, result, results, limits):
    """Put one contender into a dict; what was not measured is left out."""
    start = {
        "name": result.name,
        "library": result.contender.library,
        "options": result.contender.options,
        "status": result.status,
        "message": result.message,
    }
    if not result.is_ok:
        return start
    ours = best_of_ours(results)
    return {
        **start,
        "times_ms": result.times,
        "median_ms": result.median_ms,
        "ratio_of_tfgpts_best": ours and paired_ratio(ours, result),
        "share_of_limit": share_of_limit(comparison, result, limits),
        "first_call_s": result.first["first_call_s"],
        "peak_mb": result.last["peak_mb"],
        "weights": result.first["weights"],
        "first_loss": result.first["first_loss"],
        "last_loss": result.last["loss"],
        "versions": result.first["versions"],
    }
