// SPDX-License-Identifier: MIT
// The optimal-transport rows of the table of contents.
#include "bind/launcher.h"
#include "cycle_blocks.h"
#include "node_potentials.h"
#include "sparse_assignment.h"

namespace py = pybind11;

namespace geodesic_fast {
namespace {

ProductTile product_tile(uintptr_t product, int64_t rows, int64_t cols, int64_t stride) {
  if (rows < 0 || cols < 1 || stride < cols) throw std::invalid_argument("layout out of range");
  return {pointer<const float>(product), rows, cols, stride};
}

DenseProblems dense_problems(uintptr_t x, uintptr_t y, bool is_double, int64_t problems, int64_t m, int64_t d,
                             int64_t stride, int64_t steps, uintptr_t work, uintptr_t column,
                             uintptr_t status, uintptr_t u, uintptr_t v, uintptr_t own, uintptr_t assigned,
                             uintptr_t gap) {
  if (problems < 0 || m < 1 || d < 1 || stride < m || stride % kDenseColumns != 0) {
    throw std::invalid_argument("layout out of range");
  }
  return {pointer<const void>(x),
          pointer<const void>(y),
          is_double,
          problems,
          m,
          d,
          stride,
          steps,
          pointer<double>(work),
          pointer<int64_t>(column),
          pointer<int64_t>(status),
          pointer<double>(u),
          pointer<double>(v),
          pointer<double>(own),
          pointer<double>(assigned),
          pointer<double>(gap)};
}

SparseGraph sparse_graph(int64_t rows, int64_t cols, uintptr_t row_start, uintptr_t col, uintptr_t supply,
                         uintptr_t demand) {
  return {rows,
          cols,
          pointer<const int64_t>(row_start),
          pointer<const int32_t>(col),
          pointer<const int32_t>(supply),
          pointer<const int32_t>(demand)};
}

SparseAssignment sparse_assignment(const SparseGraph& graph, uintptr_t cost, uintptr_t u, uintptr_t v,
                                   uintptr_t flow) {
  return {graph, pointer<const double>(cost), pointer<double>(u), pointer<double>(v), pointer<int32_t>(flow)};
}

int most_fixed(const SparseGraph& graph, uintptr_t stay, uintptr_t flow, uintptr_t row_price,
               uintptr_t col_price, double seconds) {
  MostFixed problem{graph,
                    pointer<const int32_t>(stay),
                    pointer<int32_t>(flow),
                    pointer<int32_t>(row_price),
                    pointer<int32_t>(col_price),
                    seconds};
  py::gil_scoped_release release;
  return static_cast<int>(solve_most_fixed(problem));
}

bool ots_lower_potentials(int64_t nodes, uintptr_t start, uintptr_t head, uintptr_t length,
                          uintptr_t potential, int64_t most_looks) {
  const NodePotentials problem{nodes,
                               pointer<const int64_t>(start),
                               pointer<const int32_t>(head),
                               pointer<const double>(length),
                               pointer<double>(potential),
                               most_looks};
  py::gil_scoped_release release;
  return lower_potentials(problem);
}

int64_t ots_cycle_blocks(int64_t rows, int64_t cols, int64_t edges, uintptr_t row, uintptr_t col,
                         uintptr_t block) {
  const CycleBlocks problem{
      rows, cols, edges, pointer<const int64_t>(row), pointer<const int64_t>(col), pointer<int64_t>(block)};
  py::gil_scoped_release release;
  return find_cycle_blocks(problem);
}

}  // namespace

void bind_ots(py::module_& m) {
  py::class_<ProductTile>(m, "ProductTile")
      .def(py::init(&product_tile), py::arg("product"), py::arg("rows"), py::arg("cols"), py::arg("stride"));
  py::class_<DenseProblems>(m, "DenseProblems")
      .def(py::init(&dense_problems), py::arg("x"), py::arg("y"), py::arg("is_double"), py::arg("problems"),
           py::arg("m"), py::arg("d"), py::arg("stride"), py::arg("steps"), py::arg("work"),
           py::arg("column"), py::arg("status"), py::arg("u"), py::arg("v"), py::arg("own"),
           py::arg("assigned"), py::arg("gap"));
  py::class_<SparseGraph>(m, "SparseGraph")
      .def(py::init(&sparse_graph), py::arg("rows"), py::arg("cols"), py::arg("row_start"), py::arg("col"),
           py::arg("supply"), py::arg("demand"));
  py::class_<AssignmentSolver>(m, "AssignmentSolver")
      .def(py::init([](const SparseGraph& graph, uintptr_t cost, uintptr_t u, uintptr_t v, uintptr_t flow) {
             const SparseAssignment problem = sparse_assignment(graph, cost, u, v, flow);
             py::gil_scoped_release release;
             return std::make_unique<AssignmentSolver>(problem);
           }),
           py::arg("graph"), py::arg("cost"), py::arg("u"), py::arg("v"), py::arg("flow"))
      .def("run",
           [](AssignmentSolver& solver, double seconds) {
             py::gil_scoped_release release;
             return static_cast<int>(solver.run(seconds));
           })
      .def_property_readonly("counts", [](const AssignmentSolver& solver) {
        const SparseAssignment& done = solver.problem();
        return py::make_tuple(done.reductions, done.augmentations, done.scanned);
      });
  m.def("most_fixed", &most_fixed);
  m.def("ots_lower_potentials", &ots_lower_potentials);
  m.def("ots_cycle_blocks", &ots_cycle_blocks);
}

}  // namespace geodesic_fast
