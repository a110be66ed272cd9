"""The commands about images: train-vision, caption, ask."""


def add_commands(commands):
    """Describe the commands."""
    train = commands.add_parser(
        "train-vision", help="train a GPT that sees, on emoji or your images"
    )
    train.add_argument(
        "--data", help="table of images and captions, .tsv or .jsonl; default: emoji"
    )
    train.add_argument("--out", default="runs/vision", help="folder for all results")
    train.add_argument("--steps", type=int, help="steps of captions and questions")
    train.add_argument("--contrast-steps", type=int, help="steps of images against captions")
    train.add_argument("--way", help="prefix (patches are tokens) or cross (cross-attention)")
    train.add_argument("--seed", type=int, default=0, help="seed of weights and batches")
    train.add_argument("--base", help="go on with this model: emoji, or a folder with a model")
    train.add_argument("--resume", action="store_true", help="go on with the run in --out")
    train.set_defaults(run=run_train_vision)

    caption = commands.add_parser("caption", help="say what an image shows")
    caption.add_argument("image", help="PNG, JPEG or WebP file")
    caption.add_argument("--language", default="en", help="en, zh, de, fr or es")
    add_common(caption)
    caption.set_defaults(run=run_caption)

    ask = commands.add_parser("ask", help="ask about an image, or about two")
    ask.add_argument("images", nargs="+", metavar="image", help="one or two image files")
    ask.add_argument("question", help='such as "What is the main colour?"')
    add_common(ask)
    ask.set_defaults(run=run_ask)


def add_common(parser):
    """Describe the options of caption and ask."""
    parser.add_argument("--model", default="emoji", help="emoji, or OUT/model of train-vision")
    parser.add_argument("--attention", help="draw where each word looks: .png, .svg or .html")


def run_train_vision(options):
    """Train and score, with the options of `tfgpt train-vision`."""
    from dataclasses import replace

    from tfgpt.tasks.vision import VisionSettings, train_vision

    asked = {name: getattr(options, name) for name in ("steps", "contrast_steps", "way")}
    settings = replace(
        VisionSettings(), **{name: value for name, value in asked.items() if value is not None}
    )
    train_vision(options.out, settings, options.seed, options.data, options.base, options.resume)


def run_caption(options):
    """Print a caption, with the options of `tfgpt caption`."""
    from tfgpt.vision.questions import caption_question

    answer([options.image], caption_question(options.language), options)


def run_ask(options):
    """Print an answer, with the options of `tfgpt ask`."""
    if len(options.images) > 2:
        raise ValueError(f"ask needs one or two images, got {len(options.images)}.")
    from tfgpt.vision.questions import check_question

    answer(options.images, check_question(options.question), options)


def answer(images, question, options):
    """Print what a model answers; draw where it looked if asked."""
    from tfgpt.vision.looking import look
    from tfgpt.vision.reading import read_image
    from tfgpt.vision.vision_model import VisionModel

    prompt = [*map(read_image, images), f" {question} "]
    model = VisionModel.load(options.model)
    text = model.generate(prompt)
    print(text)
    if options.attention:
        looks = look(model, prompt, text)
        show = looks.view if options.attention.endswith(".html") else looks.plot
        show(question, save=options.attention)
        print(f"Where each token looked is in {options.attention}.")
