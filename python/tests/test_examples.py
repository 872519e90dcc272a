import doctest
import importlib
import importlib.util
import pathlib
import unittest

MODULES = ("_attention", "_features", "ntk", "peft", "torch")


def load_tests(loader, tests, pattern):
    for name in MODULES:
        try:
            tests.addTests(doctest.DocTestSuite(importlib.import_module(f"prefix_ntk.{name}")))
        except ImportError:
            if name != "torch":
                raise
    return tests


def load(name):
    """An example as a module."""
    path = pathlib.Path(__file__).resolve().parents[1] / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    return example


class Documented(unittest.TestCase):
    def test_every_public_function_has_an_example(self):
        import prefix_ntk

        for name in prefix_ntk.__all__:
            x = getattr(prefix_ntk, name)
            if callable(x) and not (isinstance(x, type) and issubclass(x, Exception)):
                self.assertIn(">>>", x.__doc__, name)

    def test_heads_learn(self):
        """Tokens of two classes, told apart by the sign of one coordinate: every head learns them."""
        try:
            import torch
        except ImportError:
            self.skipTest("PyTorch is not installed")
        example = load("finetune_head")
        torch.manual_seed(7)
        labels = torch.arange(60) % 2
        lengths = 3 + torch.arange(60) % 4
        tokens = 0.3 * torch.randn(60, example.HEADS, 6, example.WIDTH // example.HEADS)
        tokens[:, 0, :, 0] += 2.0 * labels[:, None] - 1.0
        tokens *= (torch.arange(6) < lengths[:, None])[:, None, :, None]
        for name, attention in example.heads():
            with self.subTest(name):
                head = example.Head(attention)
                losses = example.train(head, tokens, lengths, labels, steps=40, seed=1)
                self.assertLess(losses[-1], 0.5 * losses[0])
                self.assertGreater(example.accuracy(head, tokens, lengths, labels), 0.9)

    def test_a_longer_prefix_comes_nearer_to_the_infinite_one(self):
        """Orders of magnitude of one draw: 16 times the length, about a quarter of either distance."""
        example = load("infinite_prefix")
        short, long = example.rows([64, 1024], steps=2000)
        for a, b in zip(short[1:], long[1:]):
            self.assertTrue(0.1 * a < b < 0.6 * a, (a, b))


if __name__ == "__main__":
    unittest.main()
