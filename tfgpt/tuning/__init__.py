"""Fine-tuning with few weights (LoRA, adapters, prefixes ...), with rules, and in private."""

from tfgpt.tuning.adalora import AdaLoRA, BudgetAdamW
from tfgpt.tuning.adapters import Adapters, adapt, find_dense_layers
from tfgpt.tuning.bottleneck import IA3, Bottleneck
from tfgpt.tuning.files import load_adapters, save_adapters
from tfgpt.tuning.lora import LoRA
from tfgpt.tuning.peft_files import load_peft, save_peft
from tfgpt.tuning.private import make_private_step, poisson_batches, privacy_spent
from tfgpt.tuning.rates import GradualUnfreezing, LayerwiseAdamW, freeze_all_but_last
from tfgpt.tuning.unlikelihood import RuleLoss, unlikelihood_loss
from tfgpt.tuning.virtual_tokens import PrefixTuning, PromptTuning, VirtualTokens

__all__ = [
    "IA3",
    "AdaLoRA",
    "Adapters",
    "Bottleneck",
    "BudgetAdamW",
    "GradualUnfreezing",
    "LayerwiseAdamW",
    "LoRA",
    "PrefixTuning",
    "PromptTuning",
    "RuleLoss",
    "VirtualTokens",
    "adapt",
    "find_dense_layers",
    "freeze_all_but_last",
    "load_adapters",
    "load_peft",
    "make_private_step",
    "poisson_batches",
    "privacy_spent",
    "save_adapters",
    "save_peft",
    "unlikelihood_loss",
]
