"""What the ops are compared with: every baseline in one place, written as well as torch allows.

Rows are divided by their norms (cosine similarity) unless a name says otherwise. Losses are
differentiable in their first arguments, and mean the same as the op of that name. The classes below
are the honest bar: what a careful user of plain torch can write without a compiler.
"""

from __future__ import annotations

import math
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

# Rows of a chunk and sides of a tile. From 64 to 1024 rows the times differ by less than a fifth;
# these are the fastest for N = 4096, D = 128: a chunk of scores stays in the caches.
CHUNK = 256
TILE = 512

EPSILON = 1e-5  # of the atanh comparison, as in the op


# --------------------------------------------------------------------------------------------------
# InfoNCE
# --------------------------------------------------------------------------------------------------
def eager_info_nce(query: Tensor, key: Tensor, scale: Tensor) -> Tensor:
    """Everybody's code: the matrix of logits and two cross entropies."""
    logits = scale * F.normalize(query) @ F.normalize(key).T
    labels = torch.arange(len(query))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def half_info_nce(query: Tensor, key: Tensor, scale: Tensor) -> Tensor:
    """The same with a product of half precision, as under autocast; cross entropies in float32."""
    q, k = (F.normalize(rows.float()).to(rows.dtype) for rows in (query, key))
    logits = scale * (q @ k.T).float()
    labels = torch.arange(len(query))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def library_info_nce(query: Tensor, key: Tensor, scale: Tensor) -> Tensor:
    """torch's own chunked linear_cross_entropy (torch >= 2.13), once for each direction.

    It works out the gradient during the forward pass, so its forward alone is timed with gradients
    switched off.
    """
    q, k = scale * F.normalize(query), F.normalize(key)
    labels = torch.arange(len(query))
    options = torch.nn.LinearCrossEntropyOptions()
    loss: Tensor = F.linear_cross_entropy(q, k, labels, options=options)
    return (loss + F.linear_cross_entropy(k, q, labels, options=options)) / 2


class _ChunkedInfoNCE(torch.autograd.Function):
    """Both directions in one pass over row chunks; a second pass recomputes the logits backward.

    One exponential per logit and pass. Forward: E = exp(l - row maximum) gives the row sums, and,
    rescaled by exp(row maximum - running maximum) in a matrix-vector product, the column sums.
    Backward: the second softmax is the first one times exp(row lse_i - c) exp(c - column lse_j).
    Scratch: two chunks of scores. With `keep` all of E is kept between the passes, N^2 numbers: one
    product and one exponential less.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, keep: bool) -> Tensor:
        n = len(q)
        row_lse, columns, running = q.new_empty(n), q.new_zeros(len(k)), -math.inf
        scores, tops = q.new_empty(n if keep else CHUNK, len(k)), q.new_empty(n)
        for start in range(0, n, CHUNK):
            chunk = slice(start, min(start + CHUNK, n))
            e = torch.mm(q[chunk], k.T, out=scores[chunk if keep else slice(chunk.stop - start)])
            top = torch.amax(e, dim=1, out=tops[chunk])
            e.sub_(top[:, None]).exp_()
            torch.add(top, e.sum(dim=1).log_(), out=row_lse[chunk])
            highest = max(running, float(top.max()))
            columns.mul_(math.exp(running - highest)).addmv_(e.T, torch.exp(top - highest))
            running = highest
        column_lse = columns.log_().add_(running)
        if not bool(column_lse.isfinite().all()):  # a column far below the maximum: the slow way
            column_lse = torch.cat([(c @ q.T).logsumexp(dim=1) for c in k.split(CHUNK)])
        kept = (scores, tops) if keep else (None, None)
        ctx.save_for_backward(q, k, row_lse, column_lse, *kept)
        positives = torch.linalg.vecdot(q, k)
        loss: Tensor = (row_lse.mean() + column_lse.mean()) / 2 - positives.mean()
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        q, k, row_lse, column_lse, kept, tops = ctx.saved_tensors
        n = len(q)
        middle = (row_lse.mean() + column_lse.mean()) / 2
        of_row, of_column = (row_lse - middle).exp_(), (middle - column_lse).exp_()
        # What follows exceeds float32 only where the two softmaxes differ by 1e38.
        scores, other = q.new_empty(CHUNK, len(k)), q.new_empty(CHUNK, len(k))
        q_grad, k_grad = torch.empty_like(q), torch.zeros_like(k)
        for start in range(0, n, CHUNK):
            chunk = slice(start, min(start + CHUNK, n))
            p = scores[: chunk.stop - start]
            if kept is None:
                torch.mm(q[chunk], k.T, out=p).sub_(row_lse[chunk, None]).exp_()
                p.addcmul_(p, torch.mul(of_row[chunk, None], of_column, out=other[: len(p)]))
            else:
                share = (tops - row_lse)[chunk, None].exp_()
                torch.mul(share * of_row[chunk, None], of_column, out=p).add_(share)
                p.mul_(kept[chunk])
            torch.mm(p, k, out=q_grad[chunk])
            k_grad.addmm_(p.T, q[chunk])
        weight = grad / (2 * n)
        return q_grad.sub_(k, alpha=2).mul_(weight), k_grad.sub_(q, alpha=2).mul_(weight), None


def chunked_info_nce(query: Tensor, key: Tensor, scale: Tensor, keep: bool = False) -> Tensor:
    """The best torch alone can do: `_ChunkedInfoNCE` between ordinary differentiable ops.

    keep: the best it can do with the memory of the matrix of scores.
    """
    q, k = scale * F.normalize(query), F.normalize(key)
    loss: Tensor = _ChunkedInfoNCE.apply(q, k, keep)  # type: ignore[no-untyped-call]
    return loss


def matrix_products(query: Tensor, key: Tensor, backward: bool, again: bool) -> Callable[[], None]:
    """No loss, but the matrix products it cannot do without, and nothing else.

    Forward: the scores. Backward: the scores again where the loss must know all of them before it
    knows its gradient, and the two products that give the gradients. By chunks of rows, into
    buffers allocated beforehand.
    """
    q, k = query.detach(), key.detach()
    scores = q.new_empty(CHUNK, len(k))
    q_grad, k_grad = torch.empty_like(q), torch.zeros_like(k)

    def run() -> None:
        if again or not backward:
            for rows in q.split(CHUNK):
                torch.mm(rows, k.T, out=scores[: len(rows)])
        if backward:
            for rows, grads in zip(q.split(CHUNK), q_grad.split(CHUNK), strict=True):
                p = torch.mm(rows, k.T, out=scores[: len(rows)])
                torch.mm(p, k, out=grads)
                k_grad.addmm_(p.T, rows)
            k_grad.zero_()

    return run


# --------------------------------------------------------------------------------------------------
# Sigmoid loss
# --------------------------------------------------------------------------------------------------
def eager_sigmoid(query: Tensor, key: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """The matrix of logits, signs, and logsigmoid."""
    logits = scale * F.normalize(query) @ F.normalize(key).T + bias
    signs = 2 * torch.eye(len(query)) - 1
    return -F.logsigmoid(signs * logits).sum() / len(query)


class _ChunkedSigmoid(torch.autograd.Function):
    """Row chunks, with the gradient worked out in the forward pass: the scores are needed once.

    softplus(-l) = softplus(l) - l on the positives, so no matrix of signs is needed.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
        n = len(q)
        scores = q.new_empty(CHUNK, len(k))
        needed = ctx.needs_input_grad[0]
        q_grad, k_grad, b_grad = torch.empty_like(q), torch.zeros_like(k), q.new_zeros(())
        total: Tensor = -(torch.linalg.vecdot(q, k) + bias).sum()
        for start in range(0, n, CHUNK):
            chunk = slice(start, min(start + CHUNK, n))
            z = torch.addmm(bias, q[chunk], k.T, out=scores[: chunk.stop - start])
            total += F.softplus(z).sum()
            if needed:
                z.sigmoid_()
                b_grad += z.sum()
                torch.mm(z, k, out=q_grad[chunk])
                k_grad.addmm_(z.T, q[chunk])
        ctx.save_for_backward(q_grad.sub_(k), k_grad.sub_(q), b_grad - n)
        return total / n

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        weight = grad / len(ctx.saved_tensors[0])
        return tuple(weight * saved for saved in ctx.saved_tensors)


def chunked_sigmoid(query: Tensor, key: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """The best torch alone can do: `_ChunkedSigmoid`."""
    loss: Tensor = _ChunkedSigmoid.apply(scale * F.normalize(query), F.normalize(key), bias)  # type: ignore[no-untyped-call]
    return loss


# --------------------------------------------------------------------------------------------------
# Representational similarity
# --------------------------------------------------------------------------------------------------
def eager_rsa(features: Tensor, target: Tensor, compare: str) -> Tensor:
    """Both similarity matrices, the triangle above the diagonal of each, and the formula."""
    x, y = F.normalize(features), F.normalize(target)
    c, t = x @ x.T, y @ y.T
    if compare in ("cka", "whitened_cosine"):
        return 1 - F.cosine_similarity(_centred(c).flatten(), _centred(t).flatten(), dim=0)
    if compare == "cka_debiased":
        hsic = [_unbiased_hsic(a, b) for a, b in ((c, t), (c, c), (t, t))]
        return 1 - hsic[0] / (hsic[1] * hsic[2]).sqrt()
    i, j = torch.triu_indices(len(x), len(x), offset=1)
    c, t = c[i, j], t[i, j]
    if compare == "mse":
        return (c - t).square().mean()
    if compare == "atanh":
        fisher = [(torch.log(1 + s + EPSILON) - torch.log(1 - s + EPSILON)) / 2 for s in (c, t)]
        return (fisher[0] - fisher[1]).square().mean()
    if compare == "pearson":
        c, t = c - c.mean(), t - t.mean()
    return 1 - F.cosine_similarity(c, t, dim=0)


def _centred(a: Tensor) -> Tensor:
    return a - a.mean(dim=0) - a.mean(dim=1, keepdim=True) + a.mean()


def _unbiased_hsic(a: Tensor, b: Tensor) -> Tensor:
    """Song et al. 2012, equation 5, without the factor that cancels in the ratio."""
    n = len(a)
    a, b = (m - m.diagonal().diag() for m in (a, b))
    rows = a.sum(dim=0) @ b.sum(dim=0)
    return (a * b).sum() - 2 / (n - 2) * rows + a.sum() * b.sum() / ((n - 1) * (n - 2))


class _TiledDifference(torch.autograd.Function):
    """Tiles on and above the diagonal; the gradient is worked out in the forward pass.

    atanh: F(c) - F(t) takes one logarithm, F'(c) = (1 + e) / ((1 + e)^2 - c^2).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, atanh: bool) -> Tensor:
        n, one = len(x), 1 + EPSILON
        needed = ctx.needs_input_grad[0]
        total, x_grad = x.new_zeros(()), torch.zeros_like(x)
        buffers = x.new_empty(4, TILE * TILE)
        for a in range(0, n, TILE):
            for b in range(a, n, TILE):
                xa, xb, ya, yb = x[a : a + TILE], x[b : b + TILE], y[a : a + TILE], y[b : b + TILE]
                shape = len(xa), len(xb)
                c, t, u, v = (s[: shape[0] * shape[1]].view(shape) for s in buffers)
                torch.mm(xa, xb.T, out=c)
                torch.mm(ya, yb.T, out=t)
                if atanh:
                    # (1 + c + e) (1 - t + e) / ((1 - c + e) (1 + t + e)), two signs changed
                    torch.add(c, one, out=u).mul_(torch.sub(t, one, out=v))
                    t.add_(one).mul_(torch.sub(c, one, out=v))
                    difference = u.div_(t).log_().mul_(0.5)
                else:
                    difference = torch.sub(c, t, out=u)
                if a == b:
                    difference.triu_(1)
                total += torch.dot(difference.view(-1), difference.view(-1))
                if needed:
                    if atanh:
                        difference.div_(c.square_().sub_(one * one)).mul_(-one)
                    x_grad[a : a + TILE].addmm_(difference, xb)
                    x_grad[b : b + TILE].addmm_(difference.T, xa)
        pairs = n * (n - 1) // 2
        ctx.save_for_backward(x_grad.mul_(2 / pairs))
        return total / pairs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad * ctx.saved_tensors[0], None, None


class _TiledCorrelation(torch.autograd.Function):
    """pearson and cka from tiles on and above the diagonal, with one pass over the scores.

    The gradient is a C X + b T X and terms of rank one; a and b are known at the end of the pass,
    so C X and T X are both gathered in it: for targets wider than the features that is less than
    the scores of both sides once more. Sums over rows of scores need no pass: C 1 = X (X'1).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, centred: bool) -> Tensor:
        n = len(x)
        needed = ctx.needs_input_grad[0]
        cc, ct, tt = torch.zeros(3, dtype=torch.float64).unbind()
        cx, tx = torch.zeros_like(x), torch.zeros_like(x)
        buffers = x.new_empty(2, TILE * TILE)
        for a in range(0, n, TILE):
            for b in range(a, n, TILE):
                xa, xb, ya, yb = x[a : a + TILE], x[b : b + TILE], y[a : a + TILE], y[b : b + TILE]
                shape = len(xa), len(xb)
                c, t = (s[: shape[0] * shape[1]].view(shape) for s in buffers)
                torch.mm(xa, xb.T, out=c)
                torch.mm(ya, yb.T, out=t)
                if a == b and not centred:
                    c.fill_diagonal_(0)
                    t.fill_diagonal_(0)
                flat_c, flat_t, times = c.view(-1), t.view(-1), 1 + (a != b)
                cc += times * torch.dot(flat_c, flat_c)
                ct += times * torch.dot(flat_c, flat_t)
                tt += times * torch.dot(flat_t, flat_t)
                if needed:
                    cx[a : a + TILE].addmm_(c, xb)
                    tx[a : a + TILE].addmm_(t, xb)
                    if a != b:
                        cx[b : b + TILE].addmm_(c.T, xa)
                        tx[b : b + TILE].addmm_(t.T, xa)
        sums = x.sum(dim=0)
        rows = torch.stack([x @ sums, y @ y.sum(dim=0)])
        pairs = n * n
        if not centred:  # without the diagonal, whose scores are 1
            pairs, rows = n * (n - 1), rows - 1
        totals = rows.double().sum(dim=1)
        less = -totals.outer(totals) / pairs
        if centred:
            less = -less - 2 / n * (rows @ rows.T).double()
        cc, ct, tt = cc + less[0, 0], ct + less[0, 1], tt + less[1, 1]
        if needed:
            for z, row, total in zip((cx, tx), rows, totals.tolist(), strict=True):
                if centred:
                    z.addr_(row, sums, alpha=-1 / n)
                    z.sub_(z.mean(dim=0))
                else:
                    z.sub_(sums - x, alpha=total / pairs)
            gradient = tx.sub_(cx, alpha=float(ct / cc)).mul_(-2 / float((cc * tt).sqrt()))
            ctx.save_for_backward(gradient)
        return (1 - ct / (cc * tt).sqrt()).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad * ctx.saved_tensors[0], None, None


# Comparisons that a Function over tiles computes pair by pair.
TILED = ("atanh", "mse", "pearson", "cka")


def tiled_rsa(features: Tensor, target: Tensor, compare: str) -> Tensor:
    """The best torch alone can do pair by pair: a Function over tiles above the diagonal."""
    x, y = F.normalize(features), F.normalize(target)
    correlation = compare in {"pearson", "cka"}
    function = _TiledCorrelation if correlation else _TiledDifference
    loss: Tensor = function.apply(x, y, compare in {"atanh", "cka"})  # type: ignore[no-untyped-call]
    return loss


def feature_rsa(features: Tensor, target: Tensor, compare: str) -> Tensor:
    """The best torch alone can do for the rest: sums over pairs from products in feature space.

    sum_ij c_ij t_ij = |X'Y|^2. In float32, where the op uses float64: faster, and less exact where
    centring cancels.
    """
    x, y = F.normalize(features), F.normalize(target)
    n = len(x)
    if compare in ("cka", "whitened_cosine"):
        x, y = x - x.mean(dim=0), y - y.mean(dim=0)
    cc, ct, tt = ((a.T @ b).square().sum() for a, b in ((x, x), (x, y), (y, y)))
    if compare in ("cka", "whitened_cosine"):
        return 1 - ct / (cc * tt).sqrt()
    cc, ct, tt = cc - n, ct - n, tt - n  # every c_ii and t_ii is 1
    if compare == "mse":
        return (cc - 2 * ct + tt) / (n * (n - 1))
    if compare != "cosine":
        # Row sums without the diagonal, centred: 1'C = sum of the rows times X'.
        c_row, t_row = x @ x.sum(dim=0) - 1, y @ y.sum(dim=0) - 1
        c, t = c_row.sum(), t_row.sum()
        if compare == "pearson":
            pairs = n * (n - 1)
            cc, ct, tt = cc - c * c / pairs, ct - c * t / pairs, tt - t * t / pairs
        else:
            per_row, per_total = 2 / (n - 2), 1 / ((n - 1) * (n - 2))
            cc = cc - per_row * (c_row @ c_row) + per_total * c * c
            ct = ct - per_row * (c_row @ t_row) + per_total * c * t
            tt = tt - per_row * (t_row @ t_row) + per_total * t * t
    return 1 - ct / (cc * tt).sqrt()


def rsatoolbox_score(x: Any, y: Any, compare: str) -> Tensor:
    """rsatoolbox: two dissimilarity matrices (1 - correlation, float64 arrays) and `compare`."""
    data: Any = import_module("rsatoolbox.data")
    rdm: Any = import_module("rsatoolbox.rdm")
    method = {"pearson": "corr", "whitened_cosine": "cosine_cov"}.get(compare, compare)
    rdms = [rdm.calc_rdm(data.Dataset(patterns), method="correlation") for patterns in (x, y)]
    return torch.tensor(float(rdm.compare(*rdms, method=method).item()))


# --------------------------------------------------------------------------------------------------
# Similarities
# --------------------------------------------------------------------------------------------------
def eager_pairwise(x: Tensor, metric: str) -> Tensor:
    """Normalise and multiply; torch.corrcoef; torch.cdist."""
    if metric == "cosine":
        z = F.normalize(x)
        return z @ z.T
    return torch.corrcoef(x) if metric == "correlation" else torch.cdist(x, x)


def eager_correlation(x: Tensor) -> Tensor:
    """Centre, normalise and multiply."""
    z = F.normalize(x - x.mean(dim=1, keepdim=True))
    return z @ z.T


def scipy_pdist(x: Any, metric: str) -> Tensor:
    """scipy's pdist (condensed, float64, one thread), turned into the values of the op."""
    from scipy.spatial.distance import pdist

    distances = torch.from_numpy(pdist(x, metric))
    return distances if metric == "euclidean" else distances.neg_().add_(1)


def rsatoolbox_rdm(x: Any) -> Tensor:
    """rsatoolbox's calc_rdm (condensed, float64), turned into correlations."""
    data: Any = import_module("rsatoolbox.data")
    rdm: Any = import_module("rsatoolbox.rdm")
    distances = rdm.calc_rdm(data.Dataset(x), method="correlation").dissimilarities[0]
    return torch.from_numpy(distances).neg().add_(1)


def faiss_topk(x: Any, y: Any, k: int) -> Tensor:
    """faiss: an exact index of inner products of rows divided by their norms."""
    faiss: Any = import_module("faiss")
    faiss.omp_set_num_threads(torch.get_num_threads())
    queries, keys = x.copy(), y.copy()
    faiss.normalize_L2(queries)
    faiss.normalize_L2(keys)
    index = faiss.IndexFlatIP(keys.shape[1])
    index.add(keys)
    return torch.from_numpy(index.search(queries, k)[0])


def eager_pairs(x: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Normalise, gather both rows of every pair, multiply, add."""
    z = F.normalize(x)
    return (z[i] * z[j]).sum(dim=1)


def eager_topk(x: Tensor, y: Tensor, k: int) -> Tensor:
    """The matrix of similarities and torch.topk."""
    return (F.normalize(x) @ F.normalize(y).T).topk(k, dim=1).values


def chunked_topk(x: Tensor, y: Tensor, k: int) -> Tensor:
    """The same by chunks of rows: the memory of one chunk."""
    keys = F.normalize(y).T
    return torch.cat([(rows @ keys).topk(k, dim=1).values for rows in F.normalize(x).split(CHUNK)])
