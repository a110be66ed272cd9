"""The learner's own GPT: parts that passed their check, kept in one file to read and run.

`use` keeps a part, `mine` finds it again in a later notebook, and what is not built yet
is tfgpt's version.
"""

import ast
import inspect
import io
import linecache
import re

import numpy as np

from tfgpt.checks.hints_zh import HINTS_ZH
from tfgpt.checks.record import my_path, write_beside
from tfgpt.checks.registry import EXERCISES, check, find_empty_case, find_exercise

PARTS_FILE = "my_gpt.py"
WEIGHTS_FILE = "my_gpt.npz"
ASKED = {  # difficulty, minutes, what to know
    "en": "Difficulty {} of 5, {} minutes. Know: {}.",
    "zh": "难度 {}（最高 5），约 {} 分钟。需要知道：{}。",
}
HEADER = '''"""My GPT: the parts that I built in the course, in the order of the ladder.

A part comes into this file when its check passes, and is replaced when it passes again.
Parts that are not built yet are tfgpt's.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import ops

import tfgpt
from tfgpt.checks import tfgpt_version
from tfgpt.masks import MaskedLayer
'''
MARK = re.compile(
    r"^# ---- ([^\n:]+): mine ----\n(.*?)(?=^# ---- [^\n:]+: (?:mine|not built yet) ----\n|\Z)",
    re.MULTILINE | re.DOTALL,
)


def ladder():
    """List the exercises that build the GPT, from the first to the last: name -> Exercise."""
    return {name: exercise for name, exercise in EXERCISES.items() if exercise.build}


def find_build(name):
    """Return an exercise of the ladder; raise if there is none of that name."""
    if name not in ladder():
        raise KeyError(f"name must be one of {', '.join(ladder())}, got {name!r}.")
    return find_exercise(name)


def hint(name, step=1, language="en"):
    """Print a hint for a part of the ladder; the first one begins with what it asks for.

    Args:
        name: str, "attention head" for example.
        step: int, 1: the idea; 2: almost the line.
        language: str, "en" or "zh", Chinese.

    Raises:
        KeyError: if the ladder has no part of that name.
        ValueError: if step is neither 1 nor 2, or if there are no hints in that language.
    """
    build = find_build(name).build
    if step not in (1, 2):
        raise ValueError(f"step must be 1 or 2, got {step!r}.")
    if language not in ("en", "zh"):
        raise ValueError(f'language must be "en" or "zh", got {language!r}.')
    know, *hints = HINTS_ZH[name] if language == "zh" else (build.know, *build.hints)
    if step == 1:
        print(ASKED[language].format(build.difficulty, build.minutes, know))
    print(hints[step - 1])


def tfgpt_version(name):
    """Return tfgpt's version of a part: it takes the place of the learner's.

    Args:
        name: str, "block" for example.

    Returns:
        function or class of the same signature.

    Raises:
        KeyError: if the ladder has no part of that name.
    """
    return find_build(name).reference


def use(name, answer):
    """Check a part and choose the version that the notebook goes on with.

    Args:
        name: str, "block" for example.
        answer: function or class of the learner.

    Returns:
        the learner's version if it is right, and then it is kept in `my_gpt.py`; tfgpt's
        version if the exercise is still empty.

    Raises:
        KeyError: if the ladder has no part of that name.
        AssertionError: if a result is wrong.
    """
    part = find_build(name).build.part
    if not check(name, answer):
        print(f"The notebook goes on with tfgpt's version of {part}.")
        return tfgpt_version(name)
    print(f"The notebook goes on with your {part}.", keep(name, answer))
    return answer


def mine(*names):
    """Take parts from `my_gpt.py` where it has them, else tfgpt's; say which.

    Args:
        *names: str, parts of the ladder.

    Returns:
        list of functions and classes; for one name, the part itself.

    Raises:
        KeyError: if the ladder has no part of that name.
    """
    exercises = [find_build(name) for name in names]
    built, problem = load_parts()
    chosen = []
    for name, exercise in zip(names, exercises, strict=True):
        part, source = exercise.build.part, "tfgpt's version"
        version = tfgpt_version(name)
        if name in built:
            fault = find_fault(name, built[name])
            source = f"your version, from {PARTS_FILE}" if not fault else f"{source}: {fault}"
            version = version if fault else built[name]
        elif problem:
            source = f"{source}: {problem}"
        print(f"{part}: {source}")
        chosen.append(version)
    return chosen if len(names) > 1 else chosen[0]


def keep(name, answer):
    """Write a part into `my_gpt.py` if it is right there too; say in one sentence what happened."""
    _, problem = load_parts()
    if problem:
        return f"It is not kept: {problem} Mend the file or delete it."
    try:
        source = source_of(answer, find_build(name).build.part)
        text, fault = render_with_helpers(name, source, function_of(answer).__globals__)
    except (OSError, TypeError, AttributeError, SyntaxError):
        return "It is not kept: its source cannot be read here."
    if fault:
        return f"It is not kept: {fault} Put all that it needs into the same cell."
    return f"It is kept in {PARTS_FILE}." if write_beside(PARTS_FILE, text) else ""


def render_with_helpers(name, source, names):
    """Render `my_gpt.py` with a part and the helpers that it needs: the text, a fault or None."""
    added = set()
    while True:
        text = render_parts({**read_parts(), name: source})
        try:
            built = run_parts(text)
            found = find_empty_case(name, built[find_build(name).build.part])
            return text, find_broken(name, built) if found is None else "it is empty there."
        except NameError as error:
            helper = definition_of(error.name, names.get(error.name))
            if helper is None or error.name in added:
                return text, describe(error)
            added.add(error.name)
            source = f"{helper}\n\n{source}"
        except Exception as error:  # of the learner's code
            return text, describe(error)


def find_broken(name, built):
    """Say which other part no longer passes: a helper of the same name can break it."""
    for other in read_parts().keys() - {name}:
        part = find_build(other).build.part
        fault = find_fault(other, built[part])
        if fault:
            return f"{part} of {PARTS_FILE} would no longer pass ({fault})."
    return None


def definition_of(name, value):
    """Write the lines that define a helper of another cell; None of a value."""
    if inspect.ismodule(value):
        return f"import {value.__name__} as {name}\n"
    if not (inspect.isfunction(value) or inspect.isclass(value)):
        return None
    if value.__module__ == "__main__":
        return source_of(value, name)
    return f"from {value.__module__} import {value.__name__} as {name}\n"


def function_of(answer):
    """Return a function, or one of a class: it knows where its source is."""
    if not inspect.isclass(answer):
        return inspect.unwrap(answer)
    functions = [member for member in vars(answer).values() if inspect.isfunction(member)]
    if not functions:
        raise TypeError(f"{answer.__name__} has no function of its own.")
    return functions[0]


def source_of(answer, part):
    """Read the source of an answer: all that its cell defines, or the answer itself in a file."""
    code = function_of(answer).__code__
    lines, _ = inspect.findsource(code)
    entry = linecache.cache.get(code.co_filename)
    in_a_cell = entry is not None and len(entry) > 1 and entry[1] is None
    source = definitions("".join(lines)) if in_a_cell else inspect.getsource(answer)
    name = answer.__name__
    return source if name == part else f"{source}\n\n{part} = {name}\n"


def definitions(cell):
    """Keep the imports, functions, classes and constants of a cell; drop what it runs."""
    kept = []
    for node in ast.parse(cell).body:
        is_constant = isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        kinds = ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef
        if is_constant or isinstance(node, kinds):
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
            kept.append("\n".join(cell.splitlines()[first - 1 : node.end_lineno]))
    return "\n\n\n".join(kept) + "\n"


def read_parts():
    """Read the learner's parts of `my_gpt.py`: dict from name to source; {} without a file."""
    try:
        text = my_path(PARTS_FILE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    return {name: source.strip("\n") + "\n" for name, source in MARK.findall(text)}


def render_parts(kept):
    """Write the text of `my_gpt.py`: the learner's parts, and tfgpt's for the others."""
    texts = [HEADER]
    for name, exercise in ladder().items():
        if name in kept:
            texts.append(f"# ---- {name}: mine ----\n\n{kept[name]}")
        else:
            line = f'{exercise.build.part} = tfgpt_version("{name}")\n'
            texts.append(f"# ---- {name}: not built yet ----\n\n{line}")
    return "\n\n".join(texts)


def run_parts(text):
    """Run the text of `my_gpt.py` and return what it defines."""
    names = {"__name__": "my_gpt"}
    # The source of its functions is found by their file's name: tracing looks for it.
    linecache.cache[PARTS_FILE] = (len(text), 0.0, text.splitlines(keepends=True), PARTS_FILE)
    exec(compile(text, PARTS_FILE, "exec"), names)
    return names


def load_parts():
    """Load the learner's parts: dict from name to function or class, and what is wrong or None."""
    try:
        text = my_path(PARTS_FILE).read_text(encoding="utf-8")
        names = run_parts(text)
        return {name: names[ladder()[name].build.part] for name in read_parts()}, None
    except FileNotFoundError:
        return {}, None
    except Exception as error:  # of the learner's file
        return {}, f"{PARTS_FILE} cannot be used. {describe(error)}"


def find_fault(name, answer):
    """Return None if a part passes its check, else one sentence that says what is wrong."""
    try:
        return None if find_empty_case(name, answer) is None else "it is empty."
    except Exception as error:  # of the learner's code
        return describe(error)


def describe(error):
    """Say in one line what an error is."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"


def keep_weights(model, **sizes):
    """Keep the weights of the learner's trained GPT in `my_gpt.npz`, for a later notebook.

    Args:
        model: built Keras model.
        **sizes: int, the arguments that the model was made with.
    """
    file = io.BytesIO()
    np.savez(file, *model.get_weights(), **sizes)
    if write_beside(WEIGHTS_FILE, file.getvalue()):
        print(f"The weights are kept in {WEIGHTS_FILE}.")


def load_trained(make, instead):
    """Make the learner's GPT with the weights of `my_gpt.npz`; say where they are from.

    Args:
        make: class, the learner's GPT or tfgpt's.
        instead: tfgpt.GPT with learned positions: its sizes and weights are taken if there
            is no file, or if it does not fit.

    Returns:
        Keras model.
    """
    names = "vocab_size", "context_length", "num_layers", "d_model", "num_heads"
    problem = "is not here"
    try:
        with np.load(my_path(WEIGHTS_FILE)) as file:
            sizes = {name: int(file[name]) for name in names}
            model = make_with_weights(make, sizes, [file[name] for name in weight_names(file)])
        print(f"Your GPT, with the weights of your own training in {WEIGHTS_FILE}.")
        return model
    except FileNotFoundError:
        pass
    except Exception as error:  # a damaged file, or one of another GPT: many kinds
        problem = f"does not fit ({type(error).__name__})"
    print(f"{WEIGHTS_FILE} {problem}: the GPT gets the weights of this notebook's model.")
    sizes = {name: getattr(instead, name) for name in names}
    return make_with_weights(make, sizes, instead.get_weights())


def weight_names(file):
    """List the names that numpy gave to the weights: arr_0, arr_1, ..."""
    return [f"arr_{index}" for index in range(sum(name.startswith("arr_") for name in file))]


def make_with_weights(make, sizes, weights):
    """Make a GPT and set its weights."""
    model = make(**sizes)
    model(np.zeros((1, 2), "int32"))  # the first call makes the weights; one key makes a warning
    model.set_weights(weights)
    return model
