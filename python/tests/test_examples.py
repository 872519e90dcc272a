import doctest
import importlib
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


if __name__ == "__main__":
    unittest.main()
