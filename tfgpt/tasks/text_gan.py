"""A text GAN: SeqGAN by policy gradient on a small language that is known. Notebook 27.

A generator writes sentences, a discriminator tells them from real ones, and the generator is
rewarded for being taken for real. Because the language is known, quality and diversity are
measured, not guessed. Shape letters: B sentences, T length without the start token, V words.
"""

from collections import Counter

import keras
import numpy as np
from keras import ops

from tfgpt.generation import generate
from tfgpt.tasks.reinforcement import GRPO, Reinforcement, sample_answers
from tfgpt.train_step import make_loss_step
from tfgpt.tuning.preferences import log_sigmoid
from tfgpt.validation import check_integer, check_positive

START = 0  # the token before each sentence; no word


class KnownLanguage:
    """Sentences of one length, each word drawn by the two words before it.

    After each pair of words only `choices` words may follow, with fixed probabilities: so each
    sentence has a known probability, and most sentences are wrong.

    Args:
        num_words: int >= 2, V; words are 1 to V.
        length: int >= 1, T.
        choices: int, 1 to V, how many words may follow.
        seed: int >= 0.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> language = KnownLanguage(num_words=6, length=5, choices=2)
        >>> sentences = language.sample(100, seed=0)
        >>> sentences.shape, language.is_valid(sentences).all()
        ((100, 5), np.True_)
    """

    def __init__(self, num_words, length, choices, seed=0):
        self.num_words = check_integer("num_words", num_words, minimum=2)
        self.length = check_positive("length", length)
        if check_positive("choices", choices) > num_words:
            raise ValueError(f"choices must be at most num_words={num_words}, got {choices}.")
        rng = np.random.default_rng(seed)
        size = num_words + 1
        # table[a, b, w]: the probability of the word w after the words a, b.
        self.table = np.zeros((size, size, size))
        for row in self.table.reshape(-1, size):
            row[1 + rng.permutation(num_words)[:choices]] = rng.dirichlet(np.full(choices, 2.0))

    def sample(self, count, seed):
        """Draw sentences: int32 array (count, T)."""
        rng = np.random.default_rng(seed)
        words = np.full((count, 2 + self.length), START, dtype="int32")
        for t in range(2, 2 + self.length):
            chances = self.table[words[:, t - 2], words[:, t - 1]].cumsum(axis=1)  # (B, V + 1)
            words[:, t] = np.argmax(rng.random((count, 1)) < chances, axis=1)
        return words[:, 2:]

    def log_probs(self, sentences):
        """Compute ln p of sentences (B, T) in nats: float array (B,); -inf for wrong ones."""
        words = np.pad(sentences, ((0, 0), (2, 0)), constant_values=START)
        chances = self.table[words[:, :-2], words[:, 1:-1], words[:, 2:]]  # (B, T)
        with np.errstate(divide="ignore"):
            return np.log(chances).sum(axis=1)

    def is_valid(self, sentences):
        """Say which sentences (B, T) the language has: bool array (B,)."""
        return np.isfinite(self.log_probs(sentences))


def distinct(sentences, n=4):
    """Compute the share of different runs of n words among all runs, 0 to 1.

    Args:
        sentences: int array (B, T), T >= n.
        n: int >= 1.

    Returns:
        float.

    Example:
        >>> distinct(np.array([[1, 2, 3], [1, 2, 3]]), n=2)
        0.5

    Source: Li et al., "A Diversity-Promoting Objective Function for Neural Conversation
    Models" (2016), section 5.
    """
    runs = runs_of(sentences, n)
    return len(set(runs)) / len(runs)


def run_entropy(sentences, n=4):
    """Compute the entropy of the runs of n words, in nats: how evenly they are used.

    Args:
        sentences: int array (B, T), T >= n.
        n: int >= 1.

    Returns:
        float; 0 if there is one run only.

    Example:
        >>> round(run_entropy(np.array([[1, 2], [3, 4]]), n=2), 3)  # ln 2
        0.693
    """
    counts = np.array(list(Counter(runs_of(sentences, n)).values()), dtype=float)
    shares = counts / counts.sum()
    return float(-np.sum(shares * np.log(shares)))


def runs_of(sentences, n):
    """List the runs of n words in sentences (B, T): tuples."""
    sentences = np.asarray(sentences)
    if not 1 <= n <= sentences.shape[1]:
        raise ValueError(f"n must be in [1, T] = [1, {sentences.shape[1]}], got {n!r}.")
    windows = np.lib.stride_tricks.sliding_window_view(sentences, n, axis=1)
    return list(map(tuple, windows.reshape(-1, n).tolist()))


def write_sentences(model, count, length, temperature=1.0, seed=0):
    """Let a generator write sentences: int32 array (count, T).

    Args:
        model: GPT with the words 1 to V and the start token.
        count: int >= 1.
        length: int >= 1, T.
        temperature: float > 0.
        seed: int.
    """
    rows = generate(
        *(model, [[START]], length), temperature=temperature, num_samples=count, seed=seed
    )
    return rows[:, 1:]


class TextGAN:
    """A generator and a discriminator that learn against each other.

    The reward of a sentence is ln D(sentence), the discriminator's log-probability that it is
    real; each word gets the reward of the whole sentence, less the mean of the batch. (SeqGAN
    completes each beginning several times instead; for short sentences that is the same
    gradient with less noise.)

    Args:
        generator: GPT, best trained on real sentences before.
        discriminator: Keras model, see `make_discriminator`.
        length: int >= 1, T.
        batch_size: int >= 2, B, sentences of a step.
        generator_optimizer: Keras optimizer, or its name.
        discriminator_optimizer: Keras optimizer, or its name.

    Source: Yu et al., "SeqGAN: Sequence Generative Adversarial Nets with Policy Gradient"
    (2017), section 2.
    """

    def __init__(
        self,
        generator,
        discriminator,
        length,
        batch_size=64,
        generator_optimizer="adam",
        discriminator_optimizer="adam",
    ):
        self.generator, self.discriminator = generator, discriminator
        self.length, self.batch_size = length, batch_size
        method = GRPO(beta=0.0, scale=False, penalty="reward")
        self.play = Reinforcement(
            *(generator, method, length), group_size=batch_size, optimizer=generator_optimizer
        )
        self.learn = make_loss_step(discriminator, discriminator_optimizer, discriminator_loss)

    def reward(self, prompts, answers):
        """Compute ln D of sentences: float32 array (B,)."""
        logits = self.discriminator(with_start(np.stack(answers)), training=False)[:, 0]
        return ops.convert_to_numpy(log_sigmoid(logits))

    def discriminate(self, real, seed):
        """Teach the discriminator one batch of real sentences (B, T), and as many of its own.

        Returns:
            dict of floats: "loss", "accuracy" (0.5: it cannot tell them apart).
        """
        rows = sample_answers(
            self.generator, [[START]], self.length, group_size=len(real), seed=seed
        )
        batch = {"real": with_start(real), "written": rows["token_ids"]}
        return {name: float(value) for name, value in self.learn(batch).items()}

    def step(self, real, seed, discriminator_steps=1):
        """Let both learn once.

        Args:
            real: int array (N, T), real sentences to draw from, N >= B.
            seed: int >= 0.
            discriminator_steps: int >= 1, batches of the discriminator.

        Returns:
            dict of floats: "reward", "accuracy" of the discriminator.
        """
        rng = np.random.default_rng(seed)
        played = self.play.step([[START]], self.reward, int(rng.integers(2**31)))
        for _ in range(check_positive("discriminator_steps", discriminator_steps)):
            chosen = real[rng.choice(len(real), self.batch_size, replace=False)]
            result = self.discriminate(chosen, int(rng.integers(2**31)))
        return {"reward": played["reward"], "accuracy": result["accuracy"]}


def make_discriminator(num_words, width=3, filters=128):
    """Make a discriminator: does a sentence have a run of words that real ones do not have?

    Args:
        num_words: int, V.
        width: int >= 1, the length of the runs that a filter sees.
        filters: int >= 1.

    Returns:
        Keras model, built: sentences with the start token, int (B, T + 1) -> logits (B, 1).

    Source: Kim, "Convolutional Neural Networks for Sentence Classification" (2014), as SeqGAN
    takes it.
    """
    model = keras.Sequential(
        [
            keras.layers.Embedding(num_words + 1, 32),
            keras.layers.Conv1D(filters, width, activation="relu"),
            keras.layers.GlobalMaxPooling1D(),
            keras.layers.Dense(1),
        ],
        name="discriminator",
    )
    model.build((None, None))
    return model


def discriminator_loss(model, batch):
    """Compute the cross-entropy of telling real from written: a function for `make_loss_step`."""
    logits = model(ops.concatenate([batch["real"], batch["written"]]), training=True)[:, 0]
    count = ops.shape(batch["real"])[0]
    real, written = logits[:count], logits[count:]
    losses = ops.concatenate([-log_sigmoid(real), -log_sigmoid(-written)])
    is_right = ops.concatenate([real > 0, written < 0])
    return {"loss": ops.mean(losses), "accuracy": ops.mean(ops.cast(is_right, "float32"))}


def with_start(sentences):
    """Put the start token before sentences: (B, T) -> int32 (B, T + 1)."""
    return np.pad(sentences, ((0, 0), (1, 0)), constant_values=START).astype("int32")
