"""What all trainings of tasks share: seed, optimizer, folder, history figure."""

from pathlib import Path

from tfgpt.plotting import plot_history
from tfgpt.run_folder import set_aside
from tfgpt.schedules import make_muon
from tfgpt.training import set_seed, train


def train_task(
    make_model, run_dir, steps, batches, *, seed, resume, facts, title, rates=(), **options
):
    """Seed, make a model, train it with Muon, and draw its history.

    An earlier run in run_dir is kept beside it, unless this one goes on with it.

    Args:
        make_model: function without arguments, returns the model.
        run_dir: folder for everything, or None.
        steps: int >= 1, training steps.
        batches: training data, see `train`.
        seed: int >= 0, of weights and dropout.
        resume: bool, go on from the last checkpoint in run_dir.
        facts: dict of what belongs to this run, see `train`.
        title: str, of the figure.
        rates: the two rates of `make_muon`, if they are not its default.
        **options: further arguments of `train`.

    Returns:
        the model, and the history that `train` returns.
    """
    set_seed(seed)
    model = make_model()
    print(
        f"{model.count_params():,} weights; {steps:,} steps. The first step compiles the model "
        "and takes some seconds. Ctrl-C stops early and keeps the work so far."
    )
    if run_dir is not None and not resume:
        set_aside(Path(run_dir))
    history = train(
        model,
        batches,
        steps,
        make_muon(steps, *rates),
        run_dir=run_dir,
        resume=resume,
        facts={"seed": seed, **facts},
        validate_all_at_end=True,
        **options,
    )
    if history and run_dir is not None:
        plot_history(history, title=title, save=Path(run_dir) / "loss.png")
    return model, history
