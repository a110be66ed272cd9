"""Module names of earlier versions: `from tfgpt.samplers import TopK` still works."""

import importlib
import importlib.util
import sys

FORMER_PATHS = {
    "tfgpt.attention_plots": "tfgpt.plotting.attention",
    "tfgpt.contrastive": "tfgpt.generation.contrastive",
    "tfgpt.demo": "tfgpt.tasks.demo",
    "tfgpt.device_checks": "tfgpt.machine.device_checks",
    "tfgpt.devices": "tfgpt.machine.devices",
    "tfgpt.diagnosis": "tfgpt.machine.diagnosis",
    "tfgpt.figures": "tfgpt.plotting.figures",
    "tfgpt.pairs": "tfgpt.data.pairs",
    "tfgpt.request": "tfgpt.generation.request",
    "tfgpt.samplers": "tfgpt.generation.samplers",
    "tfgpt.scores": "tfgpt.tasks.scores",
    "tfgpt.search": "tfgpt.generation.beam",
    "tfgpt.speculative": "tfgpt.generation.speculative",
    "tfgpt.streaming": "tfgpt.generation.streaming",
    "tfgpt.translation": "tfgpt.tasks.translation",
    "tfgpt.translator": "tfgpt.tasks.translator",
    "tfgpt.viewer": "tfgpt.plotting.viewer",
}


class FormerPaths:
    """Give the module that has a former name another one: it is loaded once, under both."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        """Answer for the names of the table."""
        if name in FORMER_PATHS:
            return importlib.util.spec_from_loader(name, FormerPaths)
        return None

    @staticmethod
    def create_module(spec):
        """Let Python make an empty module, which nobody will see."""
        return None

    @staticmethod
    def exec_module(module):
        """Put the real module in the place of the empty one."""
        name = module.__spec__.name
        sys.modules[name] = importlib.import_module(FORMER_PATHS[name])


def install():
    """Make the former names importable."""
    if FormerPaths not in sys.meta_path:
        sys.meta_path.append(FormerPaths)
