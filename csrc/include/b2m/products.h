// Sums over rows and products with small matrices: what comparisons in feature space are made of.
#pragma once

#include "b2m/types.h"

namespace b2m {

/// sums (p, q) += a' b for rows a (n, p) and b (n, q), multiplied and added over these rows in their dtype, float or double. b null: a with
/// itself, of which one triangle is computed; sums are symmetric before and after.
void add_cross_products(const Matrix& a, const Matrix* b, double* sums, int threads);

/// out = a x + b y for a (n, p), x (p, m), b (n, q), y (q, m), out (n, m), all of one dtype, float or double.
void sum_of_products(const Matrix& a, const Matrix& x, const Matrix& b, const Matrix& y, const Matrix& out, int threads);

}  // namespace b2m
