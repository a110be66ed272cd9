"""Fine-tuning: adapters, freezing; losses of preferences, reinforcement, rules; DP-SGD."""

from tfgpt.tuning.adalora import AdaLoRA, BudgetAdamW
from tfgpt.tuning.adapters import Adapters, adapt, find_dense_layers
from tfgpt.tuning.bottleneck import IA3, Bottleneck
from tfgpt.tuning.files import load_adapters, save_adapters
from tfgpt.tuning.lora import LoRA
from tfgpt.tuning.peft_files import load_peft, save_peft
from tfgpt.tuning.policy_gradient import (
    GPTWithValue,
    best_of_n_kl,
    clipped_objective,
    generalised_advantages,
    group_advantages,
    grpo_loss,
    kl_penalty,
    ppo_loss,
    token_rewards,
    value_loss,
)
from tfgpt.tuning.preferences import (
    RewardModel,
    answer_batch,
    answer_log_probs,
    bradley_terry_loss,
    dpo_loss,
    token_log_probs,
)
from tfgpt.tuning.private import make_private_step, poisson_batches, privacy_spent
from tfgpt.tuning.rates import GradualUnfreezing, LayerwiseAdamW, freeze_all_but_last
from tfgpt.tuning.unlikelihood import RuleLoss, unlikelihood_loss
from tfgpt.tuning.virtual_tokens import PrefixTuning, PromptTuning, VirtualTokens

__all__ = [
    "AdaLoRA",
    "Adapters",
    "Bottleneck",
    "BudgetAdamW",
    "GPTWithValue",
    "GradualUnfreezing",
    "IA3",
    "LayerwiseAdamW",
    "LoRA",
    "PrefixTuning",
    "PromptTuning",
    "RewardModel",
    "RuleLoss",
    "VirtualTokens",
    "adapt",
    "answer_batch",
    "answer_log_probs",
    "best_of_n_kl",
    "bradley_terry_loss",
    "clipped_objective",
    "dpo_loss",
    "find_dense_layers",
    "freeze_all_but_last",
    "generalised_advantages",
    "group_advantages",
    "grpo_loss",
    "kl_penalty",
    "load_adapters",
    "load_peft",
    "make_private_step",
    "poisson_batches",
    "ppo_loss",
    "privacy_spent",
    "save_adapters",
    "save_peft",
    "token_log_probs",
    "token_rewards",
    "unlikelihood_loss",
    "value_loss",
]
