"""Counts the lines of training code: the examples' subclasses beside those of Keras's examples.

Counted are the lines of the classes that train, without blank lines, comments and docstrings; not
the networks, the data and the pictures. The other side are the `keras.Model` subclasses in a
checkout of github.com/keras-team/keras-io, which is given by its folder:

    git clone --depth 1 https://github.com/keras-team/keras-io
    python count_lines.py keras-io
"""

import argparse
import ast
import io
import pathlib
import tokenize

HERE = pathlib.Path(__file__).parent
# Example, the class that trains in it, Keras's example, the class there. `None`: there is none.
PAIRS = [
    ("dcgan_mnist", None, "generative/dcgan_overriding_train_step", "GAN"),
    ("conditional_gan", None, "generative/conditional_gan", "ConditionalGAN"),
    ("wgan_gp", "WGANGP", "generative/wgan_gp", "WGAN"),
    ("cyclegan", "CycleGAN", "generative/cyclegan", "CycleGan"),
    ("vae", "VAE", "generative/vae", "VAE"),
    ("distillation", "Distiller", "vision/knowledge_distillation", "Distiller"),
    ("adversarial_training", "AdversarialTrainer", None, None),
]


def lines_of(path, name):
    """Returns how many lines of code class `name` in the file `path` has."""
    text = path.read_text()
    (node,) = (n for n in ast.parse(text).body if isinstance(n, ast.ClassDef) and n.name == name)
    docstrings = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.Expr) and isinstance(getattr(inner.value, "value", None), str):
            docstrings.update(range(inner.lineno, inner.end_lineno + 1))
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    coded = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skipped:
            coded.update(range(token.start[0], token.end[0] + 1))
    return len(coded & set(range(node.lineno, node.end_lineno + 1)) - docstrings)


def main():
    """Prints a row for each example."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("keras_io", type=pathlib.Path, help="the folder of a checkout of keras-io")
    folder = parser.parse_args().keras_io / "examples"
    print("| example | subclass here | subclass in Keras's examples |")
    print("| --- | --- | --- |")
    for example, name, theirs, their_name in PAIRS:
        ours = f"{lines_of(HERE / f'{example}.py', name)} lines" if name else "none needed"
        other = (
            f"{lines_of(folder / f'{theirs}.py', their_name)} lines" if theirs else "there is none"
        )
        print(f"| `{example}.py` | {ours} | {other} |")


if __name__ == "__main__":
    main()
