"""The scaling law: which loss a size and a number of tokens give, fitted to small runs.

A sweep of small models is recorded by `python -m benchmarks.scaling`.
"""

from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import numpy as np

from tfgpt.validation import check_integer

CONSTANTS = ("E", "A", "alpha", "B", "beta")
# Exponents from which the search starts; the other constants follow from each pair.
FIRST_EXPONENTS = (0.1, 0.2, 0.35, 0.6, 1.0, 1.6)
STARTS = 2  # the best pairs, which L-BFGS improves
# Limits of the logarithms of E, A, alpha, B, beta, with sizes divided by their mean.
LIMITS = ((-9, 5), (-9, 5), (-4, 1.5), (-9, 5), (-4, 1.5))
# Errors of more than 1 % count less. Hoffmann et al. take 0.1 % for some 400 runs; a fit to
# a dozen runs would then go through five of them exactly.
HUBER_DELTA = 1e-2


@dataclass(frozen=True)
class ScalingLaw:
    """Say which loss a size and a number of tokens give: E + A / N^alpha + B / D^beta.

    Args:
        E: float, the loss that no size and no data go below.
        A: float, with alpha: what a small model loses.
        alpha: float > 0.
        B: float, with beta: what few tokens lose.
        beta: float > 0.
        resampled: tuple of ScalingLaw, the same fit to resampled data; () without intervals.
        residuals: tuple of floats, log(measured loss / fitted loss) of each run, widened by
            sqrt(runs / (runs - 5)): five constants take up a part of the noise.

    Example:
        >>> law = ScalingLaw(E=1.0, A=8.0, alpha=0.5, B=27.0, beta=1 / 3)
        >>> f"{law.loss(64, 27_000):.1f}"
        '2.9'

    Source: Hoffmann et al., "Training Compute-Optimal Large Language Models" (2022),
    section 3.3 and appendix D.
    """

    E: float
    A: float
    alpha: float
    B: float
    beta: float
    resampled: tuple = field(default=(), repr=False, compare=False)
    residuals: tuple = field(default=(), repr=False, compare=False)

    def loss(self, parameters, tokens):
        """Return the loss of N parameters after D tokens.

        Args:
            parameters: float > 0 or array, N, counted as for the fit.
            tokens: float > 0 or array, D.

        Returns:
            float or array, nats per token if the fitted losses were.
        """
        parameters, tokens = np.asarray(parameters, float), np.asarray(tokens, float)
        return self.E + self.A / parameters**self.alpha + self.B / tokens**self.beta

    def interval(self, name, confidence=0.95):
        """Return between which two values a constant lies.

        Args:
            name: "E", "A", "alpha", "B" or "beta".
            confidence: float in (0, 1).

        Returns:
            (low, high), percentiles of the resampled fits.

        Raises:
            ValueError: if the law was not resampled.
        """
        self.check_resampled()
        return percentiles([getattr(law, name) for law in self.resampled], confidence)

    def predict(self, parameters, tokens, confidence=0.95):
        """Return the loss of one further run, and between which two values it will be measured.

        The interval holds both doubts: about the law, and about a single run.

        Args:
            parameters: float > 0, N.
            tokens: float > 0, D.
            confidence: float in (0, 1).

        Returns:
            loss, (low, high).

        Raises:
            ValueError: if the law was not resampled.
        """
        self.check_resampled()
        curves = [law.loss(parameters, tokens) for law in self.resampled]
        runs = np.outer(curves, np.exp(self.residuals))  # (S,) x (R,) -> (S, R)
        return float(self.loss(parameters, tokens)), percentiles(runs, confidence)

    def best_size(self, flops):
        """Return the parameters and tokens that reach the lowest loss with 6 N D = flops.

        Args:
            flops: float > 0, floating point operations of the whole training.

        Returns:
            (parameters, tokens), floats.

        Raises:
            ValueError: if flops is not positive.

        Example:
            >>> parameters, tokens = ScalingLaw(1.0, 8.0, 0.5, 8.0, 0.5).best_size(6e12)
            >>> f"{parameters:.0f} {tokens:.0f}"
            '1000000 1000000'

        Source: Hoffmann et al. (2022), equation 4.
        """
        if not flops > 0:
            raise ValueError(f"flops must be > 0, got {flops!r}.")
        total = self.alpha + self.beta
        ratio = (self.alpha * self.A / (self.beta * self.B)) ** (1 / total)
        share = (flops / 6) ** (self.beta / total)
        return float(ratio * share), float(flops / 6 / (ratio * share))

    def check_resampled(self):
        """Raise unless there are resampled fits."""
        if not self.resampled:
            raise ValueError("law must be fitted with resamples >= 1 to have intervals, got none.")


def percentiles(values, confidence):
    """Return the two values that `confidence` of all lie between, in the middle."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence!r}.")
    outside = 50 * (1 - confidence)
    low, high = np.percentile(values, [outside, 100 - outside])
    return float(low), float(high)


def fit_scaling_law(parameters, tokens, losses, resamples=200, seed=0):
    """Fit loss = E + A / N^alpha + B / D^beta to runs of several sizes and lengths.

    Differences of log losses count by Huber's function, so that a run that went wrong does
    not bend the law. L-BFGS starts from the best of a grid of exponents. The intervals come
    from fits to the fitted losses with resampled residuals. With a dozen runs those of the
    constants are a little too narrow; those of `predict` hold what they say.

    Args:
        parameters: float array (R,), > 0, N of each run; at least 3 different values.
        tokens: float array (R,), > 0, D of each run; at least 3 different values.
        losses: float array (R,), > 0, held-out losses at the end of the runs, each with a
            learning rate that ended with its own tokens.
        resamples: int >= 0, how many further fits give the intervals; 0: no intervals.
        seed: int >= 0, of the resampling.

    Returns:
        ScalingLaw.

    Raises:
        ValueError: if the lengths differ, a value is not positive and finite, or the runs
            are too few: the law has five constants.
        ImportError: if SciPy is not installed.

    Example:
        >>> size, tokens = np.meshgrid([1e4, 1e5, 1e6], [1e5, 4e5, 16e5])
        >>> losses = 1.5 + 20 / size**0.4 + 50 / tokens**0.5
        >>> law = fit_scaling_law(size.ravel(), tokens.ravel(), losses.ravel(), resamples=0)
        >>> [round(x, 2) for x in (law.E, law.A, law.alpha, law.B, law.beta)]
        [1.5, 20.0, 0.4, 50.0, 0.5]

    Source: Hoffmann et al. (2022), section 3.3; Besiroglu et al., "Chinchilla Scaling: A
    replication attempt" (2024): a search that ends early gives wrong constants.
    """
    parameters, tokens, losses = check_runs(parameters, tokens, losses)
    check_integer("resamples", resamples, minimum=0)
    with one_thread():
        law = search_constants(parameters, tokens, losses)
        fitted = law.loss(parameters, tokens)
        runs = len(losses)
        residuals = np.log(losses / fitted) * np.sqrt(runs / (runs - len(CONSTANTS)))
        random = np.random.default_rng(seed)
        resampled = [
            search_constants(parameters, tokens, fitted * np.exp(random.choice(residuals, runs)))
            for _ in range(resamples)
        ]
    return replace(law, resampled=tuple(resampled), residuals=tuple(residuals.tolist()))


def check_runs(parameters, tokens, losses):
    """Return the three arrays as floats; raise unless five constants can be fitted to them."""
    given = {"parameters": parameters, "tokens": tokens, "losses": losses}
    arrays = {name: np.asarray(values, float) for name, values in given.items()}
    shapes = {values.shape for values in arrays.values()}
    if len(shapes) > 1 or len(arrays["losses"].shape) != 1:
        found = ", ".join(str(values.shape) for values in arrays.values())
        raise ValueError(f"parameters, tokens and losses must have one shape (R,), got {found}.")
    for name, values in arrays.items():
        wrong = values[~(np.isfinite(values) & (values > 0))]
        if wrong.size:
            raise ValueError(f"{name} must be > 0 and finite, got {wrong[0]}.")
    for name in ("parameters", "tokens"):
        different = len(np.unique(arrays[name]))
        if different < 3:
            raise ValueError(
                f"{name} must have at least 3 different values, got {different}: add runs."
            )
    if len(arrays["losses"]) <= len(CONSTANTS):
        raise ValueError(
            f"losses must be of more than {len(CONSTANTS)} runs, got {len(arrays['losses'])}: "
            "the law has five constants."
        )
    return tuple(arrays.values())


def search_constants(parameters, tokens, losses):
    """Return the ScalingLaw, without intervals, that is nearest to the losses."""
    optimize = import_scipy()
    # Divided by the mean size, A and alpha no longer depend on each other.
    log_means = np.log(parameters).mean(), np.log(tokens).mean()
    log_sizes = np.log(parameters) - log_means[0], np.log(tokens) - log_means[1]
    ends = [
        optimize.minimize(
            huber_and_gradient,
            start,
            args=(*log_sizes, np.log(losses)),
            jac=True,
            method="L-BFGS-B",
            bounds=LIMITS,
            options={"maxiter": 5000, "maxfun": 10000, "ftol": 1e-13, "gtol": 1e-9},
        )
        for start in first_constants(*log_sizes, losses)
    ]
    best = min(ends, key=lambda end: end.fun)
    e, a, alpha, b, beta = (float(x) for x in np.exp(best.x))
    a, b = a * np.exp(alpha * log_means[0]), b * np.exp(beta * log_means[1])
    return ScalingLaw(e, float(a), alpha, float(b), beta)


def first_constants(log_parameters, log_tokens, losses):
    """Return the logarithms of the best starts of a grid of exponents.

    With both exponents given, E, A and B are a linear problem with positive solutions.

    Args:
        log_parameters: float array (R,), divided by their mean.
        log_tokens: float array (R,), divided by their mean.
        losses: float array (R,).

    Returns:
        list of arrays (5,): log of E, A, alpha, B, beta.
    """
    optimize = import_scipy()
    found = []
    for alpha in FIRST_EXPONENTS:
        for beta in FIRST_EXPONENTS:
            terms = np.exp([0 * losses, -alpha * log_parameters, -beta * log_tokens])
            # Relative errors, as those of log losses.
            (e, a, b), error = optimize.nnls((terms / losses).T, np.ones_like(losses))
            found.append((error, np.log(np.maximum([e, a, alpha, b, beta], 1e-3))))
    return [start for _, start in sorted(found, key=lambda pair: pair[0])[:STARTS]]


def huber_and_gradient(logs, log_parameters, log_tokens, log_losses):
    """Return the sum of Huber's function of the errors, and its gradient for the five logs."""
    e, a, alpha, b, beta = np.exp(logs)
    size_term = a * np.exp(-alpha * log_parameters)  # (R,)
    token_term = b * np.exp(-beta * log_tokens)
    fitted = e + size_term + token_term
    errors = np.log(fitted) - log_losses
    small = np.minimum(np.abs(errors), HUBER_DELTA)
    # In units of HUBER_DELTA, so that the search does not take it for nothing.
    value = np.sum(small * (np.abs(errors) - small / 2)) / HUBER_DELTA
    slopes = np.clip(errors / HUBER_DELTA, -1, 1) / fitted
    changes = np.stack(  # (5, R)
        [
            np.full_like(fitted, e),
            size_term,
            -alpha * log_parameters * size_term,
            token_term,
            -beta * log_tokens * token_term,
        ]
    )
    return value, changes @ slopes


def import_scipy():
    """Import SciPy's optimizers, which come with scikit-learn."""
    try:
        from scipy import optimize
    except ImportError as error:
        raise ImportError("fit_scaling_law needs SciPy: pip install 'tfgpt[finetune]'.") from error
    return optimize


def one_thread():
    """Keep linear algebra in one thread: for matrices this small, threads only wait.

    Beside other programs that makes a fit some twenty times faster.
    """
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:  # comes with scikit-learn, not with SciPy alone
        return nullcontext()
    return threadpool_limits(1)
