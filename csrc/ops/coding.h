// Intervals of integers, by which data are encoded.
#pragma once

#include "view.h"

namespace bfn {

// `given` has cells or, if `find`, numbers of [0, 2^24). The results are cells, and the starts and frequencies of their
// intervals.
struct Coded {
  int64_t count;
  bool find;
  View given;
  int64_t *cell, *start, *frequency;
};

// Cells of width `step` around the means of normals. `offset` is the distance from the first mean to the lower end of
// cell 0. A null view `weight` or `edge` means that the probabilities of the normals do not come from it.
struct LatticeIntervals {
  Coded coded;
  int64_t cells, components, shift;
  const int64_t* table;
  View offset, step, weight, edge, width;
};

// Rows of probabilities, `classes` of them for each number that is given.
struct ClassIntervals {
  Coded coded;
  int64_t classes;
  const int64_t* weights;
};

void lattice_intervals(const LatticeIntervals& op);
void class_intervals(const ClassIntervals& op);

}  // namespace bfn
