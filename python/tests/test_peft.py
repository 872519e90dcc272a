import contextlib
import io
import json
import os
import pathlib
import struct
import tempfile
import unittest

import numpy as np

from prefix_ntk import peft
from tests import reference as ref


class Folder(unittest.TestCase):
    def setUp(self):
        self.temporary = tempfile.TemporaryDirectory()
        self.addCleanup(self.temporary.cleanup)
        self.folder = pathlib.Path(self.temporary.name)


class Safetensors(Folder):
    def test_round_trip(self):
        rng = np.random.default_rng(1)
        tensors = {
            "a.b": rng.normal(size=(3, 5)).astype(np.float32),
            "half": rng.normal(size=7).astype(np.float16),
            "n": np.arange(6, dtype=np.int64).reshape(2, 3),
            "none": np.zeros((0, 4), np.float32),
            "scalar": np.array(0.7),
        }
        peft.write_safetensors(self.folder / "x", tensors, {"format": "pt"})
        got = peft.read_safetensors(self.folder / "x")
        self.assertEqual(set(got), set(tensors))
        for name in tensors:
            self.assertEqual(got[name].dtype, tensors[name].dtype)
            np.testing.assert_array_equal(got[name], tensors[name])
        self.assertEqual(os.listdir(self.folder), ["x"])

    def file(self, header, body=b"", length=None):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        path = self.folder / "y"
        path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + body)
        return path

    def test_bfloat16(self):
        path = self.file(
            {"w": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}, struct.pack("<HH", 0x3F80, 0xC040)
        )
        np.testing.assert_array_equal(peft.read_safetensors(path)["w"], np.array([1.0, -3.0], np.float32))

    def test_damage_is_refused(self):
        entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
        for header, body, length in (
            (b"{", b"", None),
            (b"[]", b"", None),
            ({"w": entry}, b"", None),
            ({"w": entry}, b"\0" * 9, None),
            ({}, b"", 1 << 60),
            ({"w": {**entry, "shape": [3]}}, b"\0" * 8, None),
            ({"w": {**entry, "dtype": "F8"}}, b"\0" * 8, None),
            ({"w": {**entry, "data_offsets": [4, 12]}}, b"\0" * 12, None),
            ({"w": {**entry, "shape": [-2]}}, b"\0" * 8, None),
            ({"w": entry, "v": entry}, b"\0" * 8, None),
            ({"w": {"dtype": "F32"}}, b"", None),
            ({"w": 3}, b"", None),
        ):
            with self.subTest(header=header), self.assertRaisesRegex(ValueError, "y: "):
                peft.read_safetensors(self.file(header, body, length))
        (self.folder / "y").write_bytes(b"\1\0")
        with self.assertRaisesRegex(ValueError, "y: "):
            peft.read_safetensors(self.folder / "y")


class Adapters(Folder):
    def test_prefix_layout(self):
        """Column: ((layer * 2 + value) * heads + head) * head_dim + c, as past_key_values are cut from the matrix."""
        layers, heads, m, d = 3, 2, 5, 4
        x = np.random.default_rng(2).normal(size=(m, layers * 2 * heads * d)).astype(np.float32)
        peft._write(
            self.folder / "a",
            {
                "peft_type": "PREFIX_TUNING",
                "num_virtual_tokens": m,
                "num_layers": layers,
                "num_attention_heads": heads,
                "token_dim": heads * d,
            },
            {"prompt_embeddings": x},
        )
        config, k, v = peft.read_prefix(self.folder / "a")
        self.assertEqual(config["token_dim"], 8)
        for layer, head, r, c in np.ndindex(layers, heads, m, d):
            self.assertEqual(k[layer, head, r, c], x[r, (layer * 2 * heads + head) * d + c])
            self.assertEqual(v[layer, head, r, c], x[r, ((layer * 2 + 1) * heads + head) * d + c])
        peft.write_prefix(self.folder / "b", k, v)
        np.testing.assert_array_equal(peft.read_safetensors(self.folder / "b" / peft.WEIGHTS)["prompt_embeddings"], x)

    def test_prefix_refusals(self):
        k = np.ones((2, 1, 3, 4), np.float32)
        peft.write_prefix(self.folder, k, k)
        good = json.loads((self.folder / peft.CONFIG).read_text())
        for change in (
            {"num_virtual_tokens": 4},
            {"num_layers": 0},
            {"token_dim": "4"},
            {"peft_type": "LORA"},
            {"num_attention_heads": 3},
        ):
            (self.folder / peft.CONFIG).write_text(json.dumps({**good, **change}))
            with self.subTest(change=change), self.assertRaisesRegex(ValueError, "adapter_"):
                peft.read_prefix(self.folder)
        (self.folder / peft.CONFIG).write_text("{")
        with self.assertRaisesRegex(ValueError, "not JSON"):
            peft.read_prefix(self.folder)

    def test_lora(self):
        rng = np.random.default_rng(3)
        layers = {
            f"enc.{i}.query": (rng.normal(size=(4, 6)).astype(np.float32), rng.normal(size=(5, 4)).astype(np.float32))
            for i in range(2)
        }
        peft.write_lora(self.folder, layers, 6, use_rslora=True, alpha_pattern={"1.query": 3})
        config, got = peft.read_lora(self.folder)
        self.assertEqual((config["r"], sorted(got)), (4, sorted(layers)))
        self.assertEqual([got[f"enc.{i}.query"][2] for i in range(2)], [3.0, 1.5])
        for name, (A, B) in layers.items():
            np.testing.assert_array_equal(got[name][0], A)
            np.testing.assert_array_equal(got[name][1], B)

    def test_conversion(self):
        rng = np.random.default_rng(4)
        k, v = rng.normal(0, 0.4, (2, 2, 3, 60, 4)).astype(np.float32)
        peft.write_prefix(self.folder / "a", k, v)
        np.save(self.folder / "q.npy", rng.normal(0, 0.4, (2, 6, 9, 4)).astype(np.float32))
        text = io.StringIO()
        with contextlib.redirect_stdout(text):
            code = peft.main(
                [
                    str(self.folder / "a"),
                    "--queries",
                    str(self.folder / "q.npy"),
                    "--features",
                    "elu1,taylor:1",
                    "--out",
                    str(self.folder / "s"),
                ]
            )
        self.assertEqual(code, 0)
        self.assertEqual(len(text.getvalue().splitlines()), 3)
        config, layers = peft.read_summary(self.folder / "s")
        own = config["prefix_ntk"]
        self.assertEqual((own["feature"], own["positions"], sorted(layers)), ("taylor:1", 60, [0, 1]))
        for layer, (Z, kvec) in layers.items():
            want_Z, want_kvec = ref.fold(k[layer, 2], v[layer, 2], own["feature"])
            ref.assert_close(self, Z[2], want_Z, 60 * ref.ATOL_SINGLE)
            ref.assert_close(self, kvec[2], want_kvec, 60 * ref.ATOL_SINGLE)
            self.assertEqual(text.getvalue().split("\n")[1 + layer].split()[-2:], ["5760", str(Z.nbytes + kvec.nbytes)])
            self.assertTrue(0.0 < own["errors"][layer] < 0.5)

    def test_conversion_refuses(self):
        with contextlib.redirect_stderr(io.StringIO()) as text:
            self.assertEqual(
                peft.main([str(self.folder / "none"), "--queries", "q.npy", "--out", str(self.folder / "s")]), 3
            )
        self.assertIn("adapter_config.json", text.getvalue())


if __name__ == "__main__":
    unittest.main()
