"""Every bad argument is refused by an error that names it, says what it was and what was expected."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch

from b2m_fast import ops
from ops_helpers import DTYPES, case, randoms

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

X = randoms(1, 6, 4, dtype=torch.float32)
Y = randoms(2, 5, 4, dtype=torch.float32)
Z = randoms(3, 6, 3, dtype=torch.float32)
SQUARE = X @ X.T
PAIRS = torch.rand(15)
INDEX = torch.tensor([0, 1])
LEAF = X.clone().requires_grad_()
READ_ONLY = np.zeros((6, 6), dtype=np.float32)
READ_ONLY.flags.writeable = False

Case = tuple[str, tuple[Any, ...], dict[str, Any], type[Exception], str]

# What every function checks of its first matrix, and of its second.
FIRST = {
    "pairwise_similarity": ("x", ()),
    "pair_similarity": ("x", (INDEX, INDEX)),
    "topk_similarity": ("x", ()),
    "info_nce": ("query", (X,)),
    "sigmoid_contrastive": ("query", (X,)),
    "rsa_penalty": ("features", (X,)),
    "rsa_score": ("x", (X,)),
}
BAD_MATRICES: list[tuple[Any, type[Exception], str]] = [
    (None, TypeError, "NoneType"),
    (torch.zeros(6, 4, dtype=torch.int64), TypeError, "int64.*expected float64"),
    (torch.zeros(6, 4, dtype=torch.complex64), TypeError, "complex64"),
    (X.to_sparse(), TypeError, "layout.*sparse.*dense"),
    (torch.zeros(2, 3, 4), ValueError, r"\(2, 3, 4\).*expected"),
    (torch.zeros(6, 0), ValueError, r"\(6, 0\).*at least one column"),
]
SECOND = {
    "pairwise_similarity": "y",
    "topk_similarity": "y",
    "info_nce": "key",
    "sigmoid_contrastive": "key",
}
BAD_OTHERS: list[tuple[Any, type[Exception], str]] = [
    ([[1.0]], TypeError, "{} is a list"),
    (torch.zeros(6, 4, dtype=torch.int32), TypeError, "{} has dtype torch.int32; expected float64"),
    (torch.zeros(4), ValueError, r"{} has shape \(4,\)"),
    (Z, ValueError, r"\(6, 4\) and {} has shape \(6, 3\); expected the same number of columns"),
    (X.double(), TypeError, "float32 and {} has dtype torch.float64; expected the same"),
]
FIRST_CASES: list[Case] = [
    (op, (bad, *rest), {}, error, f"{name} .*{says}")
    for op, (name, rest) in FIRST.items()
    for bad, error, says in BAD_MATRICES
    if not (op == "rsa_penalty" and bad is None)
]
SECOND_CASES: list[Case] = [
    (op, (X, bad), {}, error, says.replace("{}", name))
    for op, name in SECOND.items()
    for bad, error, says in BAD_OTHERS
]
METRIC_CASES: list[Case] = [
    (op, (X, *rest), {"metric": "manhattan"}, ValueError, "metric is 'manhattan'.*'cosine'")
    for op, (_, rest) in FIRST.items()
]

SCORES: list[Case] = [
    ("pairwise_similarity", (X,), {"gamma": 0.5}, ValueError, "gamma is 0.5.*'cosine'.*'rbf'"),
    ("pairwise_similarity", (X,), {"metric": "rbf", "gamma": -1.0}, ValueError, "gamma is -1"),
    ("pairwise_similarity", (X,), {"metric": "rbf", "gamma": "a"}, TypeError, "gamma is a str"),
    ("pairwise_similarity", (X, Y), {"condensed": True}, ValueError, "condensed=True.*y was given"),
    ("pairwise_similarity", (X,), {"out": [1.0]}, TypeError, "out is a list"),
    ("pairwise_similarity", (X,), {"out": X[:2]}, ValueError, r"out .*\(2, 4\).*\(6, 6\)"),
    ("pairwise_similarity", (X,), {"out": READ_ONLY}, ValueError, "out is a read-only"),
    ("pairwise_similarity", (X[:4],), {"out": X[:4]}, ValueError, "out shares memory with x"),
    ("pairwise_similarity", (X[:4], Y[:4]), {"out": Y[:4]}, ValueError, "out shares memory with y"),
    ("pairwise_similarity", (LEAF,), {"out": torch.zeros(6, 6)}, ValueError, "out= .*gradient"),
    (
        "pairwise_similarity",
        (X,),
        {"out": torch.zeros(6, 6, dtype=torch.int64)},
        TypeError,
        "out .*int64",
    ),
    (
        "pairwise_similarity",
        (X,),
        {"out": torch.zeros(6, 1).expand(6, 6)},
        ValueError,
        "out .*share memory",
    ),
    ("pair_similarity", (X, [0], INDEX), {}, TypeError, "i is a list"),
    ("pair_similarity", (X, INDEX, [0]), {}, TypeError, "j is a list"),
    ("pair_similarity", (X, INDEX.float(), INDEX), {}, TypeError, "i .*float32.*integers"),
    ("pair_similarity", (X, INDEX[None], INDEX), {}, ValueError, r"i .*\(1, 2\)"),
    ("pair_similarity", (X, INDEX, INDEX[:1]), {}, ValueError, r"j .*\(1,\).*\(2,\)"),
    ("pair_similarity", (X, INDEX, INDEX + 5), {}, IndexError, "j holds .*6.*0 to 5.*6 rows"),
    ("pair_similarity", (X, INDEX - 1, INDEX), {}, IndexError, "i holds .*-1.*0 to 5"),
    ("topk_similarity", (X,), {"k": 0}, ValueError, "k is 0.*1 to 5"),
    ("topk_similarity", (X,), {"k": 6}, ValueError, "k is 6.*1 to 5"),
    ("topk_similarity", (X, Y), {"k": 6}, ValueError, "k is 6.*1 to 5"),
    ("topk_similarity", (X,), {"k": 1.0}, TypeError, "k is a float"),
    ("topk_similarity", (X,), {"k": True}, TypeError, "k is a bool"),
]

NO_BILINEAR: list[Case] = [
    (op, (X, X), {"metric": "euclidean"}, ValueError, "metric is 'euclidean'.*'cosine'")
    for op in ("info_nce", "sigmoid_contrastive")
]
LOSSES: list[Case] = [
    ("info_nce", (X, X), options, error, says)
    for options, error, says in cast(
        "list[tuple[dict[str, Any], type[Exception], str]]",
        [
            (
                {"temperature": 0.1, "logit_scale": 10.0},
                ValueError,
                "temperature and logit_scale are both given",
            ),
            ({"temperature": 0.0}, ValueError, "temperature is 0.0.*above 0"),
            ({"temperature": -1}, ValueError, "temperature is -1"),
            ({"temperature": float("nan")}, ValueError, "temperature is nan"),
            ({"temperature": "cold"}, TypeError, "temperature is a str"),
            ({"temperature": True}, TypeError, "temperature is a bool"),
            ({"temperature": torch.ones(2)}, ValueError, r"temperature .*\(2,\).*scalar"),
            ({"logit_scale": torch.tensor(3)}, TypeError, "logit_scale .*int64"),
            ({"logit_scale": None, "label_smoothing": 1.5}, ValueError, "label_smoothing is 1.5"),
            ({"label_smoothing": -0.1}, ValueError, "label_smoothing is -0.1"),
            ({"labels": [0] * 6}, TypeError, "labels is a list"),
            ({"labels": torch.zeros(6)}, TypeError, "labels .*float32.*integers"),
            ({"labels": torch.zeros(5, dtype=torch.int64)}, ValueError, r"labels .*\(5,\).*\(6,\)"),
            ({"key_labels": torch.zeros(5, dtype=torch.int64)}, ValueError, r"key_labels .*\(5,\)"),
            ({"weights": torch.ones(5)}, ValueError, r"weights .*\(5,\).*\(6,\)"),
            ({"weights": [1.0] * 6}, TypeError, "weights is a list"),
            ({"key_weights": torch.ones(5)}, ValueError, r"key_weights .*\(5,\).*\(6,\)"),
            (
                {"key_weights": torch.ones(6), "symmetric": False},
                ValueError,
                "key_weights .*symmetric=False",
            ),
            ({"extra_keys": Z}, ValueError, r"extra_keys .*\(6, 3\).*columns"),
            ({"extra_keys": X.double()}, TypeError, "extra_keys .*float64"),
            ({"extra_keys": X[0]}, ValueError, r"extra_keys .*\(4,\)"),
            ({"reduction": "avg"}, ValueError, "reduction is 'avg'.*'mean'"),
        ],
    )
]
LOSSES += [
    (
        "info_nce",
        (X, Y),
        {"labels": torch.arange(6)},
        ValueError,
        "labels without key_labels.*6 queries and 5",
    ),
    ("info_nce", (X, Y), {"reduction": "none"}, ValueError, "reduction='none'.*5 and 6"),
    ("sigmoid_contrastive", (X, X), {"logit_scale": "a"}, TypeError, "logit_scale is a str"),
    ("sigmoid_contrastive", (X, X), {"logit_bias": PAIRS}, ValueError, r"logit_bias .*\(15,\)"),
    ("sigmoid_contrastive", (X, X), {"reduction": 3}, ValueError, "reduction is 3"),
    ("sigmoid_contrastive", (X, X), {"weights": torch.ones(7)}, ValueError, r"weights .*\(7,\)"),
    ("sigmoid_contrastive", (X, Y), {"labels": torch.arange(6)}, ValueError, "labels without"),
]

RSA: list[Case] = [
    ("rsa_penalty", arguments, options, error, says)
    for arguments, options, error, says in cast(
        "list[tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]]",
        [
            ((X, X), {"compare": "spearman"}, ValueError, "compare is 'spearman'.*'atanh'"),
            ((X, X), {"target_metric": "l2"}, ValueError, "target_metric is 'l2'"),
            ((X, X), {"target_kind": "rdm"}, ValueError, "target_kind is 'rdm'.*'responses'"),
            ((X, X), {"form": "fast"}, ValueError, "form is 'fast'.*'auto'"),
            ((X, X), {"form": "feature"}, ValueError, "form='feature'.*'atanh'"),
            (
                (X, SQUARE),
                {"compare": "cka", "form": "feature", "target_kind": "similarity"},
                ValueError,
                "form='feature'",
            ),
            ((X, [1.0]), {}, TypeError, "target is a list"),
            ((X, X.long()), {}, TypeError, "target .*int64"),
            ((X, np.array(["a"])), {}, TypeError, "target"),
            ((X, X[None]), {}, ValueError, r"target .*\(1, 6, 4\)"),
            ((X, Y), {}, ValueError, "target has 5 rows and features has 6"),
            ((X, PAIRS[:14]), {}, ValueError, "target has 14 entries.*15"),
            ((X, X), {"target_kind": "similarity"}, ValueError, r"target .*\(6, 4\).*square"),
            ((X, LEAF), {}, ValueError, "target requires a gradient"),
            ((X, PAIRS), {"target_center": True}, ValueError, "target .*centre"),
            ((X, X), {"center": 1}, TypeError, "center is a int"),
            ((X, X), {"center": torch.zeros(3)}, ValueError, r"center .*\(3,\).*\(4,\)"),
            ((X, X), {"center": [torch.zeros(4)]}, TypeError, "center is a list"),
            ((X, X), {"target_center": torch.zeros(3)}, ValueError, r"target_center .*\(3,\)"),
            ((X, X), {"gamma": 1.0}, ValueError, "gamma .*'rbf'"),
            ((X, X), {"epsilon": 0.0}, ValueError, "epsilon is 0.0.*at least"),
            ((X, X), {"layer_weights": torch.ones(1)}, ValueError, "layer_weights .*one tensor"),
            (([], X), {}, ValueError, "features is an empty list"),
            (([X, 3], X), {}, TypeError, r"features\[1\] is a int"),
            (([X, Y], X), {}, ValueError, r"features\[1\] .*\(5, 4\).*same number of rows"),
            (([X, X], X), {"metric": "rbf"}, ValueError, "metric is 'rbf'.*list of layers"),
            (([X, X], X), {"center": [torch.zeros(4)]}, ValueError, "center has 1 entries.*2"),
            (
                ([X, X], X),
                {"layer_weights": torch.ones(3)},
                ValueError,
                r"layer_weights .*\(3,\).*\(2,\)",
            ),
            ((None, X), {}, TypeError, "features is a NoneType"),
            ((X, X), {"pair_weights": torch.ones(6, 5)}, ValueError, r"pair_weights .*\(6, 5\)"),
            ((X, X), {"pair_weights": torch.ones(14)}, ValueError, r"pair_weights .*\(14,\).*15"),
            (
                (X, X),
                {"pair_weights": torch.ones(15, requires_grad=True)},
                ValueError,
                "pair_weights require",
            ),
            (
                (X, X),
                {"pair_weights": torch.ones(15), "compare": "cka"},
                ValueError,
                "pair_weights .*'cka'",
            ),
            (
                (X, X),
                {"compare": "cka", "metric": "euclidean"},
                ValueError,
                "'cka'.*'euclidean'.*whitened_cosine",
            ),
            (
                (X, X),
                {"compare": "cka", "target_metric": "sqeuclidean"},
                ValueError,
                "'cka'.*'sqeuclidean'",
            ),
            ((X[:3], X[:3]), {"compare": "cka_debiased"}, ValueError, "at least 4 rows; got 3"),
        ],
    )
]
RSA += [
    ("rsa_score", arguments, options, error, says)
    for arguments, options, error, says in cast(
        "list[tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]]",
        [
            ((X, X), {"compare": "kendal"}, ValueError, "compare is 'kendal'.*'kendall'"),
            ((X, X), {"y_metric": "l2"}, ValueError, "y_metric is 'l2'"),
            ((X, X), {"x_kind": "rdm"}, ValueError, "x_kind is 'rdm'"),
            ((X, X), {"y_kind": "rdm"}, ValueError, "y_kind is 'rdm'"),
            ((X, "y"), {}, TypeError, "y is a str"),
            ((X, Y), {}, ValueError, "y has 5 rows and x has 6"),
            ((PAIRS[:14], X), {}, ValueError, "x has 14 entries"),
            ((X, X), {"y_center": "yes"}, TypeError, "y_center is a str"),
            (
                (X, X),
                {"compare": "spearman", "pair_weights": PAIRS},
                ValueError,
                "pair_weights .*'spearman'",
            ),
            (
                (X, X),
                {"compare": "tau-a", "form": "feature"},
                ValueError,
                "form='feature'.*'tau-a'",
            ),
        ],
    )
]

CASES = [*FIRST_CASES, *SECOND_CASES, *METRIC_CASES, *SCORES, *NO_BILINEAR, *LOSSES, *RSA]


@pytest.mark.parametrize("op", FIRST)
def test_message(op: str) -> None:
    """Every error has the promised type, and its message the argument, its value and the remedy."""
    assert sum(name == op for name, *_ in CASES) >= len(BAD_MATRICES) - 1
    for name, arguments, options, error, says in CASES:
        if name != op:
            continue
        with case(says=says), pytest.raises(error, match=f"(?s){says}") as caught:
            getattr(ops, op)(*arguments, **options)
        with case(says=says):
            assert type(caught.value) is error


def test_other_devices() -> None:
    """A tensor elsewhere is refused by name, wherever it is passed."""
    away = X.to("meta")
    calls: dict[str, Callable[[], Any]] = {
        "x": lambda: ops.pairwise_similarity(away),
        "y": lambda: ops.pairwise_similarity(X, away),
        "key": lambda: ops.info_nce(X, away),
        "labels": lambda: ops.info_nce(X, X, labels=torch.arange(6, device="meta")),
        "weights": lambda: ops.info_nce(X, X, weights=torch.ones(6, device="meta")),
        "target": lambda: ops.rsa_penalty(X, away),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match=f"{name} is on device meta.*expected (cpu|one of)"):
            call()


def test_read_only_memory_map(tmp_path: Path) -> None:
    """Reading from a read-only map works without a warning; writing to one is refused."""
    np.save(tmp_path / "a.npy", SQUARE.numpy())
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert ops.rsa_score(mapped, X, x_kind="similarity").isfinite()
    with pytest.raises(ValueError, match="out is a read-only array"):
        ops.pairwise_similarity(X, out=mapped)


def test_out_of_every_kind() -> None:
    """Any float dtype and any strides can be written to, and nothing beside the result is."""
    expected = ops.pairwise_similarity(X.double(), Y.double())
    for dtype in DTYPES:
        around = torch.full((20, 20), 7.0, dtype=dtype)
        for out in (around[3:15:2, 4:14:2], around[3:13:2, 4:16:2].T):
            around.fill_(7)
            with case(dtype=dtype, strides=out.stride()):
                assert ops.pairwise_similarity(X.double(), Y.double(), out=out) is out
                assert torch.equal(out, expected.to(dtype))
                assert int((around != 7).sum()) == 30
