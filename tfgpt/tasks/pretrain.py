"""Train a GPT on texts of your own, from files to a model that writes: `tfgpt train`."""

from pathlib import Path

from tfgpt.plotting import plot_rates
from tfgpt.rate_finder import find_learning_rate
from tfgpt.schedules import RATES, make_optimizer
from tfgpt.tasks.job import Job, mirrored, step_options
from tfgpt.tasks.settings import (
    FILE,
    LENGTHS,
    TrainSettings,
    absolute_paths,
    read_settings,
)
from tfgpt.workers import is_chief, strategy_of_environment


def pretrain(given, out, *, resume=False, dry_run=False):
    """Train a GPT on texts of your own.

    The folder `out` is a bundle, see `tfgpt.bundle`, with config.toml (all settings), the
    checkpoints, history.csv, history.jsonl, loss.png and sample.txt.

    Args:
        given: dict of settings, see `TrainSettings`; what is left out has its default.
        out: folder for all results.
        resume: bool, go on with the run in `out`, with its settings and those of `given`.
        dry_run: bool, say what would be done and train nothing.

    Returns:
        list of dicts, the history of the training; None after a dry run.

    Raises:
        ValueError: if a setting is wrong, a text cannot be used, or `out` holds another run.
        FileNotFoundError: if there is no such text.
    """
    out = Path(out)
    if resume and not (out / FILE).exists() and "corpus" not in given:
        raise ValueError(
            f"out must be the folder of a run to go on with, got {str(out)!r}, which holds none: "
            "name another one, or begin with --corpus."
        )
    resume = resume and (out / FILE).exists()
    settings = settings_to_go_on(out, given) if resume else TrainSettings(**given)
    strategy = strategy_of_environment() or mirrored(settings.replicas)
    job = Job(settings, out, resume, strategy)
    if is_chief():
        print(job.describe())
    if dry_run:
        from tfgpt.tasks.forecast import forecast

        found = forecast(job)
        if is_chief():
            print(found)
        return None
    for warning in job.warnings() if is_chief() else ():
        print(f"Note: {warning}")
    return job.train()


def find_rate(given, out):
    """Look for a learning rate with the settings of a training; draw rate.png into `out`.

    Args:
        given, out: as for `pretrain`.

    Returns:
        RateSearch.

    Raises:
        as `pretrain`.
    """
    out = Path(out)
    settings = TrainSettings(**{"steps": 1000, **given})
    job = Job(settings, out)
    settings = job.settings
    high = 30 * RATES[settings.optimizer]
    found = find_learning_rate(
        *(job.make_model(settings), job.batches(settings)),
        make_optimizer(settings.optimizer, high, settings.weight_decay),
        low=high / 3000,
        high=high,
        steps=150,
        **step_options(settings, job),
    )
    out.mkdir(parents=True, exist_ok=True)
    plot_rates(found.rates, found.losses, found.best, save=out / "rate.png")
    print(f"--learning-rate {found.best:.2g} is a rate to begin with; see {out / 'rate.png'}.")
    return found


def settings_to_go_on(out, given):
    """Return the settings of a run with those that are given now; raise if one must stay."""
    known = read_settings(out)
    known, given = ({**values, **absolute_paths(values)} for values in (known, given))
    for name in ("tokenizer", "preset", "vocab_size", "init_from"):
        if name in given and given[name] != known.get(name):
            raise ValueError(
                f"{name} must stay as it was to go on with {str(out)!r}, {known.get(name)!r}, "
                f"got {given[name]!r}."
            )
    if given.keys() & set(LENGTHS):  # one length takes the place of another
        known = {name: value for name, value in known.items() if name not in LENGTHS}
    return TrainSettings(**{**known, **given})
