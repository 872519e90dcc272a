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


class Documented(unittest.TestCase):
    def test_every_public_function_has_an_example(self):
        import prefix_ntk

        for name in prefix_ntk.__all__:
            x = getattr(prefix_ntk, name)
            if callable(x) and not (isinstance(x, type) and issubclass(x, Exception)):
                self.assertIn(">>>", x.__doc__, name)

    def test_a_longer_prefix_comes_nearer_to_the_infinite_one(self):
        """Orders of magnitude of one draw: 16 times the length, about a quarter of either distance."""
        path = pathlib.Path(__file__).resolve().parents[1] / "examples" / "infinite_prefix.py"
        spec = importlib.util.spec_from_file_location("infinite_prefix", path)
        example = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(example)
        short, long = example.rows([64, 1024], steps=2000)
        for a, b in zip(short[1:], long[1:]):
            self.assertTrue(0.1 * a < b < 0.6 * a, (a, b))


if __name__ == "__main__":
    unittest.main()
