// SPDX-License-Identifier: MIT
// The optimal-transport rows of the table of contents; included by module.cpp alone, behind `Place`.
#pragma once

#include "cycle_blocks.h"
#include "node_potentials.h"
#include "ots.h"
#include "sparse_assignment.h"

namespace {

ProductTile product_tile(uintptr_t product, int64_t rows, int64_t cols, int64_t stride) {
  if (rows < 0 || cols < 1 || stride < cols) throw std::invalid_argument("layout out of range");
  return {pointer<const float>(product), rows, cols, stride};
}

void ots_softmin(const ProductTile& tile, uintptr_t b, uintptr_t log_supply, double epsilon, uintptr_t a,
                 uintptr_t col_sum, uintptr_t col_best, const Place& place) {
  const SoftminArgs args{pointer<const float>(b),     pointer<const float>(log_supply),
                         static_cast<float>(epsilon), pointer<float>(a),
                         pointer<float>(col_sum),     pointer<float>(col_best)};
  py::gil_scoped_release release;
  if (place.device < 0) return GEODESIC_FAST_CPU(softmin_pass)(tile, args, place.threads);
  cuda::softmin_pass(tile, args, place.device, pointer<void>(place.stream));
}

void ots_column_best(const ProductTile& tile, uintptr_t a, uintptr_t best, const Place& place) {
  py::gil_scoped_release release;
  if (place.device < 0) {
    return GEODESIC_FAST_CPU(column_best_pass)(tile, pointer<const float>(a), pointer<float>(best),
                                               place.threads);
  }
  cuda::column_best_pass(tile, pointer<const float>(a), pointer<float>(best), place.device,
                         pointer<void>(place.stream));
}

ListArgs list_args(uintptr_t b, uintptr_t q, uintptr_t p, uintptr_t low, double theta, int keep, int limit) {
  if (keep < 0 || keep > kRowParts || limit < 0) throw std::invalid_argument("keep or limit out of range");
  ListArgs args{};
  args.b = pointer<const float>(b);
  args.q = pointer<const float>(q);
  args.p = pointer<const float>(p);
  args.low = pointer<const float>(low);
  args.theta = static_cast<float>(theta);
  args.keep = keep;
  args.limit = limit;
  return args;
}

void ots_list(const ProductTile& tile, ListArgs args, uintptr_t best, uintptr_t start, uintptr_t count,
              uintptr_t columns, int64_t capacity, uintptr_t used, const Place& place) {
  args.best = pointer<float>(best);
  args.start = pointer<int64_t>(start);
  args.count = pointer<int64_t>(count);
  args.columns = pointer<int32_t>(columns);
  args.capacity = capacity;
  args.used = pointer<int64_t>(used);
  py::gil_scoped_release release;
  if (place.device < 0) return GEODESIC_FAST_CPU(list_pass)(tile, args, place.threads);
  cuda::list_pass(tile, args, place.device, pointer<void>(place.stream));
}

void ots_edge_costs(uintptr_t x, uintptr_t y, bool is_double, int64_t x_stride, int64_t y_stride, int64_t d,
                    uintptr_t x_shift, uintptr_t y_shift, uintptr_t row, uintptr_t col, int64_t edges,
                    uintptr_t cost, int threads) {
  const EdgeArgs args{pointer<const void>(x),
                      pointer<const void>(y),
                      is_double,
                      x_stride,
                      y_stride,
                      d,
                      pointer<const double>(x_shift),
                      pointer<const double>(y_shift),
                      pointer<const int64_t>(row),
                      pointer<const int32_t>(col),
                      edges,
                      pointer<double>(cost)};
  py::gil_scoped_release release;
  GEODESIC_FAST_CPU(edge_costs)(args, threads);
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

void ots_dense_costs(const DenseProblems& args, int threads) {
  py::gil_scoped_release release;
  GEODESIC_FAST_CPU(dense_costs)(args, threads);
}

bool ots_dense_assignments(const DenseProblems& args, int threads) {
  py::gil_scoped_release release;
  return GEODESIC_FAST_CPU(dense_assignments)(args, threads);
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

void bind_ots(py::module_& m) {
  py::class_<ProductTile>(m, "ProductTile")
      .def(py::init(&product_tile), py::arg("product"), py::arg("rows"), py::arg("cols"), py::arg("stride"));
  py::class_<ListArgs>(m, "ListArgs")
      .def(py::init(&list_args), py::arg("b"), py::arg("q"), py::arg("p"), py::arg("low"), py::arg("theta"),
           py::arg("keep"), py::arg("limit"));
  m.def("ots_softmin", &ots_softmin);
  m.def("ots_column_best", &ots_column_best);
  m.def("ots_list", &ots_list);
  m.def("ots_edge_costs", &ots_edge_costs);
  py::class_<DenseProblems>(m, "DenseProblems")
      .def(py::init(&dense_problems), py::arg("x"), py::arg("y"), py::arg("is_double"), py::arg("problems"),
           py::arg("m"), py::arg("d"), py::arg("stride"), py::arg("steps"), py::arg("work"),
           py::arg("column"), py::arg("status"), py::arg("u"), py::arg("v"), py::arg("own"),
           py::arg("assigned"), py::arg("gap"));
  m.def("ots_dense_costs", &ots_dense_costs);
  m.def("ots_dense_assignments", &ots_dense_assignments);
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

}  // namespace
