// The Python module: nothing is decided here. Its functions are in cpu.cpp and cuda.cpp.
#include <map>
#include <string>

#include "b2m/pairwise.h"
#include "b2m/rsa.h"
#include "bindings/arguments.h"
#include "cpu/dispatch.h"

namespace py = pybind11;
using namespace pybind11::literals;

namespace {

template <class Enumeration>
int code(Enumeration value) {
  return static_cast<int>(value);
}

std::map<std::string, std::string> build_info() {
  return {{"version", B2M_VERSION}, {"compiler", B2M_COMPILER}, {"openmp", B2M_OPENMP}, {"cuda", B2M_CUDA}};
}

}  // namespace

PYBIND11_MODULE(_C, m, py::mod_gil_not_used()) {
  b2m::bindings::register_cpu(m);
  b2m::bindings::register_cuda(m);
  // The codes of the enumerations, so that Python does not write them down a second time.
  m.attr("METRICS") =
      py::dict("dot"_a = code(b2m::Metric::dot), "cosine"_a = code(b2m::Metric::cosine),
               "correlation"_a = code(b2m::Metric::correlation), "sqeuclidean"_a = code(b2m::Metric::sqeuclidean),
               "euclidean"_a = code(b2m::Metric::euclidean), "rbf"_a = code(b2m::Metric::rbf));
  m.attr("DTYPES") = py::dict("float64"_a = code(b2m::DType::float64), "float32"_a = code(b2m::DType::float32),
                              "bfloat16"_a = code(b2m::DType::bfloat16), "float16"_a = code(b2m::DType::float16));
  m.attr("LAYOUTS") = py::dict("full"_a = code(b2m::Layout::full), "condensed"_a = code(b2m::Layout::condensed));
  m.attr("KINDS") =
      py::dict("patterns"_a = code(b2m::Similarities::Kind::patterns), "matrix"_a = code(b2m::Similarities::Kind::matrix),
               "condensed"_a = code(b2m::Similarities::Kind::condensed));
  m.attr("TRANSFORMS") = py::dict("identity"_a = code(b2m::Transform::identity), "atanh"_a = code(b2m::Transform::atanh));
  m.attr("PRECISIONS") = py::dict("highest"_a = code(b2m::Precision::highest), "high"_a = code(b2m::Precision::high),
                                  "medium"_a = code(b2m::Precision::medium));
  m.def("isa_compiled", &b2m::compiled_levels);
  m.def("isa_available", &b2m::available_levels);
  m.def("isa_chosen", [] { return std::string(b2m::chosen_level().name); });
  m.def("build_info", &build_info);
}
