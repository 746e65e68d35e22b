// Rows prepared for a bilinear metric, as a matrix: what a mixture of layers is made of.
#pragma once

#include "b2m/types.h"

namespace b2m {

/// out = factor * z, z being the rows of x minus `center` (x.columns doubles, or null), prepared: as they are (dot), divided by their
/// norms (cosine), or that after subtracting their means (correlation). Zero rows stay zero.
void scaled_rows(const Matrix& x, const double* center, Metric metric, double factor, const Matrix& out, int threads);

/// From the gradient of `out` to that of x, written to dx. Returns that of factor: the sum of gradient * z.
double scaled_rows_backward(const Matrix& gradient, const Matrix& x, const double* center, Metric metric, double factor,
                            const Matrix& dx, int threads);

}  // namespace b2m
