from typing import TypeAlias, type_check_only

# address, dtype, rows, columns, row stride, column stride (strides in elements)
_Matrix: TypeAlias = tuple[int, int, int, int, int, int]
# threads, precision
_Executor: TypeAlias = tuple[int, int]
# kind, matrix, metric, gamma
_Similarities: TypeAlias = tuple[int, _Matrix, int, float]
# c_shift, t_shift, constant, of_c, of_t
_Coefficients: TypeAlias = tuple[float, float, float, float, float]

METRICS: dict[str, int]
DTYPES: dict[str, int]
LAYOUTS: dict[str, int]
KINDS: dict[str, int]
TRANSFORMS: dict[str, int]
PRECISIONS: dict[str, int]

def pairwise_forward(
    x: _Matrix,
    y: _Matrix | None,
    metric: int,
    gamma: float,
    layout: int,
    out: _Matrix,
    executor: _Executor,
    /,
) -> None: ...
def pairwise_backward(
    x: _Matrix,
    y: _Matrix | None,
    metric: int,
    gamma: float,
    layout: int,
    out_gradient: _Matrix,
    dx: _Matrix | None,
    dy: _Matrix | None,
    executor: _Executor,
    /,
) -> None: ...
def pair_list_forward(
    x: _Matrix,
    i: int,
    j: int,
    pairs: int,
    metric: int,
    gamma: float,
    out: int,
    executor: _Executor,
    /,
) -> None: ...
def pair_list_backward(
    x: _Matrix,
    i: int,
    j: int,
    pairs: int,
    metric: int,
    gamma: float,
    out_gradient: int,
    dx: _Matrix,
    executor: _Executor,
    /,
) -> None: ...
def topk(
    x: _Matrix,
    y: _Matrix | None,
    metric: int,
    gamma: float,
    k: int,
    values: int,
    indices: int,
    executor: _Executor,
    /,
) -> None: ...
def self_scores(
    x: _Matrix, metric: int, gamma: float, out: int, executor: _Executor, /
) -> None: ...
def info_nce_forward(
    query: _Matrix,
    key: _Matrix,
    metric: int,
    logit_scale: float,
    row_label: int,
    column_label: int,
    rows: int,
    columns: int,
    top1: bool,
    executor: _Executor,
    /,
) -> None: ...
def info_nce_backward(
    query: _Matrix,
    key: _Matrix,
    metric: int,
    logit_scale: float,
    row_label: int,
    column_label: int,
    rows: int,
    columns: int,
    row_weight: int,
    column_weight: int,
    label_smoothing: float,
    dquery: _Matrix | None,
    dkey: _Matrix | None,
    executor: _Executor,
    /,
) -> float: ...
def sigmoid_forward(
    query: _Matrix,
    key: _Matrix,
    metric: int,
    logit_scale: float,
    logit_bias: float,
    row_label: int,
    column_label: int,
    row_loss: int,
    executor: _Executor,
    /,
) -> None: ...
def sigmoid_backward(
    query: _Matrix,
    key: _Matrix,
    metric: int,
    logit_scale: float,
    logit_bias: float,
    row_label: int,
    column_label: int,
    row_weight: int,
    dquery: _Matrix | None,
    dkey: _Matrix | None,
    executor: _Executor,
    /,
) -> tuple[float, float]: ...
def add_cross_products(
    a: _Matrix, b: _Matrix | None, sums: int, executor: _Executor, /
) -> None: ...
def sum_of_products(
    a: _Matrix, x: _Matrix, b: _Matrix, y: _Matrix, out: _Matrix, executor: _Executor, /
) -> None: ...
def scaled_rows(
    x: _Matrix,
    center: int,
    metric: int,
    factor: float,
    out: _Matrix,
    executor: _Executor,
    /,
) -> None: ...
def scaled_rows_backward(
    gradient: _Matrix,
    x: _Matrix,
    center: int,
    metric: int,
    factor: float,
    dx: _Matrix,
    executor: _Executor,
    /,
) -> float: ...
def typical_score(of: _Similarities, count: int, executor: _Executor, /) -> float: ...
def pair_moments(
    count: int,
    c: _Similarities,
    t: _Similarities,
    w: _Similarities | None,
    c_shift: float,
    t_shift: float,
    c_row: int,
    t_row: int,
    executor: _Executor,
    /,
) -> tuple[float, float, float, float, float, float]: ...
def mean_squared_difference(
    count: int,
    c: _Similarities,
    t: _Similarities,
    w: _Similarities | None,
    transform: int,
    epsilon: float,
    dc: _Matrix | None,
    executor: _Executor,
    /,
) -> float: ...
def linear_gradient(
    count: int,
    c: _Similarities,
    t: _Similarities,
    w: _Similarities | None,
    coefficients: _Coefficients,
    per_item: int,
    diagonal: int,
    dc: _Matrix,
    executor: _Executor,
    /,
) -> None: ...
def count_inversions(values: int, scratch: int, count: int, /) -> int: ...
def isa_compiled() -> list[str]: ...
def isa_available() -> list[str]: ...
def isa_chosen() -> str: ...
def build_info() -> dict[str, str]: ...

# The kernels, in builds that have them; what goes in and out: csrc/include/b2m/cuda.h.
cuda: _Kernels

# device, stream
_Stream: TypeAlias = tuple[int, int]
# address, arithmetic, count, depth, parts
_Rows: TypeAlias = tuple[int, int, int, int, int]
# begin, end
_Band: TypeAlias = tuple[int, int]
# address, dtype, stride
_Weights: TypeAlias = tuple[int, int, int]
# query, key, products, addresses of the logit scale and of both labels
_Contrastive: TypeAlias = tuple[_Rows, _Rows, int, int, int, int, int]
# x, y, products, metric, gamma
_Scores: TypeAlias = tuple[_Rows, _Rows, int, int, float]
# rows, products, metric, gamma, address and stride of stored scores
_Side: TypeAlias = tuple[_Rows, int, int, float, int, int]
# count, c, t, weights
_Pairs: TypeAlias = tuple[int, _Side, _Side, _Side]

@type_check_only
class _Kernels:
    TILE: int
    DEPTH_STEP: int
    ARITHMETICS: dict[str, int]

    def prepare_rows(
        self,
        x: _Matrix,
        metric: int,
        center: int,
        rows: _Rows,
        inverse_norm: int,
        stream: _Stream,
        /,
    ) -> None: ...
    def finish_rows(
        self,
        gradient: _Matrix,
        x: _Matrix,
        metric: int,
        center: int,
        inverse_norm: int,
        factor: int,
        dx: _Matrix,
        stream: _Stream,
        /,
    ) -> None: ...
    def softmax_statistics(
        self,
        problem: _Contrastive,
        band: _Band,
        maxima: bool,
        row_state: int,
        column_state: int,
        row_partials: int,
        column_partials: int,
        stream: _Stream,
        /,
    ) -> None: ...
    def softmax_weights(
        self,
        problem: _Contrastive,
        band: _Band,
        row_side: int,
        column_side: int,
        weights: _Weights,
        scale_partials: int,
        stream: _Stream,
        /,
    ) -> None: ...
    def sigmoid_losses(
        self,
        problem: _Contrastive,
        logit_bias: int,
        band: _Band,
        row_loss: int,
        row_partials: int,
        stream: _Stream,
        /,
    ) -> None: ...
    def sigmoid_weights(
        self,
        problem: _Contrastive,
        logit_bias: int,
        band: _Band,
        row_weight: int,
        weights: _Weights,
        partials: int,
        stream: _Stream,
        /,
    ) -> None: ...
    def pairwise_scores(
        self, problem: _Scores, condensed: bool, band: _Band, out: _Matrix, stream: _Stream, /
    ) -> None: ...
    def pairwise_weights(
        self,
        problem: _Scores,
        condensed: bool,
        band: _Band,
        out_gradient: _Matrix,
        weights: _Weights,
        stream: _Stream,
        /,
    ) -> None: ...
    def squared_difference(
        self,
        problem: _Pairs,
        band: _Band,
        transform: int,
        epsilon: float,
        partials: int,
        stream: _Stream,
        /,
    ) -> None: ...
    def difference_weights(
        self,
        problem: _Pairs,
        band: _Band,
        transform: int,
        epsilon: float,
        weights: _Weights,
        partials: int,
        stream: _Stream,
        /,
    ) -> None: ...
    def pair_moments(
        self,
        problem: _Pairs,
        band: _Band,
        shifts: int,
        partials: int,
        c_row: int,
        t_row: int,
        row_workspace: int,
        stream: _Stream,
        /,
    ) -> None: ...
    def linear_weights(
        self,
        problem: _Pairs,
        band: _Band,
        coefficients: int,
        per_item: int,
        weights: _Weights,
        stream: _Stream,
        /,
    ) -> None: ...
    def architectures(self, /) -> str: ...
    def main_loop(self, device: int, /) -> str: ...
