"""Fine-tuning with few weights: LoRA, AdaLoRA, bottlenecks, IA3, prefixes, prompts, freezing."""

from tfgpt.tuning.adalora import AdaLoRA, BudgetAdamW
from tfgpt.tuning.adapters import Adapters, adapt, find_dense_layers
from tfgpt.tuning.bottleneck import IA3, Bottleneck
from tfgpt.tuning.files import load_adapters, save_adapters
from tfgpt.tuning.lora import LoRA
from tfgpt.tuning.peft_files import load_peft, save_peft
from tfgpt.tuning.rates import GradualUnfreezing, LayerwiseAdamW, freeze_all_but_last
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
    "VirtualTokens",
    "adapt",
    "find_dense_layers",
    "freeze_all_but_last",
    "load_adapters",
    "load_peft",
    "save_adapters",
    "save_peft",
]
