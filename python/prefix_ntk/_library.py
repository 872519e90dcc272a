"""The shared object, its structures and what its status codes mean."""

import ctypes
import os
import pathlib

import numpy as np

SIZE, DOUBLE, FLOAT, INT, VOID = ctypes.c_size_t, ctypes.c_double, ctypes.c_float, ctypes.c_int, ctypes.c_void_p
STRIDE = ctypes.c_ssize_t
DEFAULT_SEED = 20240614

EDOM, ERANGE, EINVAL, ENOMEM, EOVRFLW, EBADLEN, EUNSUP, EMAXITER = 1, 2, 4, 8, 16, 19, 23, 11


class Shape(ctypes.Structure):
    """struct attn_shape"""

    _fields_ = [(name, SIZE) for name in ("batch", "heads", "kv_heads", "len_q", "len_k", "head_dim")] + [
        ("causal", INT),
        ("key_lengths", VOID),
    ]


class View(ctypes.Structure):
    """struct attn_in and struct attn_out"""

    _fields_ = [("data", VOID)] + [(name, STRIDE) for name in ("batch", "head", "row")]


class Failure(ctypes.Structure):
    """struct attn_failure"""

    _fields_ = [(name, SIZE) for name in ("batch", "head", "row")]


class Prefix(ctypes.Structure):
    """struct attn_prefix"""

    _fields_ = [("len", SIZE), ("k", View), ("v", View), ("packed", VOID)]


class ExactGrads(ctypes.Structure):
    """struct attn_exact_grads"""

    _fields_ = [(name, View) for name in ("q", "k", "v", "prefix_k", "prefix_v")]


class Summary(ctypes.Structure):
    """struct attn_summary"""

    _fields_ = [("map", VOID), ("heads", SIZE), ("Z", View), ("k", View)]


class NtkGrads(ctypes.Structure):
    """struct attn_ntk_grads"""

    _fields_ = [(name, View) for name in ("q", "k", "v", "Z", "kvec")]


class FeatureSpec(ctypes.Structure):
    """struct feature_spec"""

    _fields_ = [("family", INT), ("order", SIZE)]


class GslMatrix(ctypes.Structure):
    _fields_ = [("size1", SIZE), ("size2", SIZE), ("tda", SIZE), ("data", VOID), ("block", VOID), ("owner", INT)]


class GslVector(ctypes.Structure):
    _fields_ = [("size", SIZE), ("stride", SIZE), ("data", VOID), ("block", VOID), ("owner", INT)]


class SolveReport(ctypes.Structure):
    """struct ntk_solve_report"""

    _fields_ = [("size", SIZE), ("rank", SIZE), ("rcond", DOUBLE)]


def find_library():
    """The path of the shared object: PREFIX_NTK_LIBRARY, or the one beside this file, or that of the source tree."""
    given = os.environ.get("PREFIX_NTK_LIBRARY")
    if given:
        return given
    here = pathlib.Path(__file__).resolve().parent
    build = pathlib.Path(os.environ.get("BUILD", "build"))
    for path in (here / "libprefix_ntk.so", here.parents[1] / build / "lib" / "libprefix_ntk.so"):
        if path.exists():
            return str(path)
    raise ImportError(
        "prefix_ntk: libprefix_ntk.so is not here: run `make`, then `pip install ./python`, or name the "
        "file in PREFIX_NTK_LIBRARY"
    )


def load():
    path = find_library()
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        raise ImportError(f"prefix_ntk: {path} cannot be loaded ({error}); it needs GSL and OpenBLAS") from None
    P = ctypes.POINTER
    matrix, vector, view, shape = P(GslMatrix), P(GslVector), View, P(Shape)
    tail = [VOID, SIZE, INT]  # workspace, its bytes, threads
    prototypes = {
        "attn_exact_forward": (INT, [shape, FLOAT, view, view, view, P(Prefix), view, VOID] + tail + [P(Failure)]),
        "attn_exact_backward": (
            INT,
            [shape, FLOAT, view, view, view, P(Prefix), view, VOID, view, P(ExactGrads)] + tail,
        ),
        "attn_ntk_forward": (INT, [shape, FLOAT, view, view, view, P(Summary), view, VOID] + tail + [P(Failure)]),
        "attn_ntk_backward": (INT, [shape, FLOAT, view, view, view, P(Summary), view, VOID, view, P(NtkGrads)] + tail),
        "attn_packed_alloc": (VOID, [SIZE, SIZE, SIZE, SIZE, INT]),
        "attn_packed_free": (None, [VOID]),
        "attn_packed_bytes": (SIZE, [VOID]),
        "attn_packed_set": (INT, [VOID, view, view, INT]),
        "feature_spec_parse": (INT, [ctypes.c_char_p, P(FeatureSpec)]),
        "feature_needs_bound": (INT, [P(FeatureSpec)]),
        "feature_strerror": (ctypes.c_char_p, [INT]),
        "feature_map_alloc": (INT, [P(FeatureSpec), SIZE, DOUBLE, ctypes.c_uint64, VOID, P(VOID)]),
        "feature_map_free": (None, [VOID]),
        "feature_dim": (SIZE, [VOID]),
        "feature_is_explicit": (INT, [VOID]),
        "feature_forward_f32": (INT, [VOID, INT, SIZE, VOID, SIZE, VOID, SIZE, VOID, INT, VOID]),
        "feature_forward_f64": (INT, [VOID, INT, SIZE, VOID, SIZE, VOID, SIZE, VOID, INT, VOID]),
        "attn_fold_alloc": (INT, [VOID, SIZE, P(VOID)]),
        "attn_fold_free": (None, [VOID]),
        "attn_fold_reset": (None, [VOID]),
        "attn_fold_add_f32": (INT, [VOID, SIZE, VOID, SIZE, VOID, SIZE, INT, VOID]),
        "attn_fold_add_f64": (INT, [VOID, SIZE, VOID, SIZE, VOID, SIZE, INT, VOID]),
        "attn_fold_read_f32": (INT, [VOID, VOID, VOID, P(DOUBLE)]),
        "attn_fold_read_f64": (INT, [VOID, VOID, VOID, P(DOUBLE)]),
        "prefix_draw": (INT, [ctypes.c_uint64, ctypes.c_uint64, INT, DOUBLE, matrix, vector, INT]),
        "prefix_model_forward": (INT, [matrix, vector, matrix, matrix, INT]),
        "ntk_gram": (INT, [matrix, vector, matrix, INT, matrix, INT]),
        "ntk_limit": (INT, [matrix, matrix, DOUBLE, INT, INT, matrix]),
        "ntk_error_constant": (INT, [matrix, DOUBLE, INT, INT, P(DOUBLE), P(DOUBLE)]),
        "ntk_eigenvalues": (INT, [matrix, vector]),
        "ntk_predict": (INT, [matrix, matrix, matrix, DOUBLE, INT, INT, matrix, matrix, matrix, P(SolveReport)]),
    }
    for name, (result, arguments) in prototypes.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    # Codes come back instead of GSL's default, which ends the process; one BLAS thread inside the library's own.
    library.gsl_set_error_handler_off.restype = VOID
    library.gsl_set_error_handler_off()
    if hasattr(library, "openblas_set_num_threads"):
        library.openblas_set_num_threads(INT(1))
    return library


lib = load()


class NormaliserError(ArithmeticError):
    """A row whose normaliser D is not positive and finite.

    ``batch``, ``head`` (a query head) and ``row`` name the first one, ``reason`` says why.
    """

    def __init__(self, batch, head, row, reason):
        super().__init__(f"batch {batch}, head {head}, row {row}: {reason}")
        self.batch, self.head, self.row, self.reason = batch, head, row, reason


def check(status, what):
    """Raises the exception of a GSL code; ``what`` is the function's name."""
    if status == 0:
        return
    if status == ENOMEM:
        raise MemoryError(f"{what}: out of memory")
    if status == EOVRFLW:
        raise OverflowError(f"{what}: a number leaves the range of the data type")
    if status == EDOM:
        raise ArithmeticError(f"{what}: an input or a result is not finite, or out of the domain")
    if status == EUNSUP:
        raise ValueError(f"{what}: feature: too many monomials to write out")
    if status in (EINVAL, EBADLEN):
        raise ValueError(f"{what}: arguments that make no sense (code {status})")
    raise ArithmeticError(f"{what}: failed with code {status}")


def num_threads(threads):
    """``threads``, or the number of CPUs this process may run on when None."""
    if threads is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if isinstance(threads, bool) or not isinstance(threads, (int, np.integer)) or threads < 1:
        raise ValueError(f"threads: a positive integer, not {threads!r}")
    return int(threads)


def choice(name, value, names):
    """The place of ``value`` in ``names``."""
    if value not in names:
        raise ValueError(f"{name}: one of {', '.join(names)}, not {value!r}")
    return names.index(value)


def array(name, x, dtypes, ndims):
    """``x`` as an array of a data type of ``dtypes`` with as many axes as ``ndims`` allows, its last axis contiguous.

    Nothing is copied unless the last axis is not contiguous or a number is not aligned.
    """
    x = np.asarray(x)
    if x.dtype not in dtypes:
        raise ValueError(f"{name}: data type {' or '.join(np.dtype(t).name for t in dtypes)}, not {x.dtype}")
    if x.ndim not in ndims:
        raise ValueError(f"{name}: {' or '.join(str(n) for n in ndims)} axes, not shape {x.shape}")
    strided = any(s % x.itemsize for s in x.strides)
    if (x.shape and x.shape[-1] > 1 and x.strides[-1] != x.itemsize) or strided or not x.flags.aligned:
        x = np.ascontiguousarray(x)
    return x


def matrix(name, x, columns=None, rows=None):
    """A float64 matrix with contiguous rows that do not overlap, as gsl_matrix wants them."""
    x = array(name, x, (np.float64,), (2,))
    if 0 in x.shape:
        raise ValueError(f"{name}: empty, shape {x.shape}")
    for axis, size in ((0, rows), (1, columns)):
        if size is not None and x.shape[axis] != size:
            raise ValueError(f"{name}: shape {x.shape}, its axis {axis} should be {size}")
    if x.shape[0] > 1 and x.strides[0] < x.itemsize * x.shape[1]:
        x = np.ascontiguousarray(x)
    return x


def gsl_matrix(x):
    """A gsl_matrix over ``x``, which must outlive it; None stays None."""
    if x is None:
        return None
    row = x.strides[0] // x.itemsize if x.shape[0] > 1 else x.shape[1]
    return GslMatrix(x.shape[0], x.shape[1], row, x.ctypes.data, None, 0)


def gsl_vector(x):
    return GslVector(x.shape[0], 1, x.ctypes.data, None, 0)
