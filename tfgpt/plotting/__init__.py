"""Figures and the interactive page: arrays and tokens in. Nothing here knows a model."""

from tfgpt.plotting.attention import plot_attention_overview, plot_attention_weights
from tfgpt.plotting.basics import (
    plot_histories,
    plot_history,
    plot_mask,
    plot_positional_encoding,
    plot_rates,
    plot_schedule,
)
from tfgpt.plotting.classification import (
    plot_accuracy_matrix,
    plot_calibration,
    plot_confusion,
)
from tfgpt.plotting.diagrams import draw_course, draw_gpt, draw_layers, draw_transformer
from tfgpt.plotting.image_viewer import PatchView, view_patch_weights
from tfgpt.plotting.images import plot_deletion, plot_patch_weights, plot_right_answers
from tfgpt.plotting.inside import plot_induction, plot_lens, plot_patching
from tfgpt.plotting.scaling import plot_best_rates, plot_scaling_law
from tfgpt.plotting.viewer import AttentionView, view_attention

__all__ = [
    "AttentionView",
    "PatchView",
    "draw_course",
    "draw_gpt",
    "draw_layers",
    "draw_transformer",
    "plot_accuracy_matrix",
    "plot_attention_overview",
    "plot_attention_weights",
    "plot_best_rates",
    "plot_calibration",
    "plot_confusion",
    "plot_deletion",
    "plot_histories",
    "plot_history",
    "plot_induction",
    "plot_lens",
    "plot_mask",
    "plot_patch_weights",
    "plot_patching",
    "plot_positional_encoding",
    "plot_rates",
    "plot_right_answers",
    "plot_scaling_law",
    "plot_schedule",
    "view_attention",
    "view_patch_weights",
]
