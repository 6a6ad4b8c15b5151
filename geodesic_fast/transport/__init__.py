# SPDX-License-Identifier: MIT
"""How the optimal assignment of m points is found, and proved.

The cost of x_i and y_j is |x_i - y_j|^2. Less a term of the row and one of the column, which change no
assignment, it is -2 <x_i, y_j>: all that looks at all m^2 pairs looks at products of matrices, tile by
tile.

1. `points`, `units`, `equal_points`: equal points become one, with as many units; shifts and powers of two
   keep digits and range. `planner` chooses between products that are stored and tiles that are computed
   anew.
2. `identity`: do the points stay with their own? A sweep over all pairs turns column potentials b into the
   least that allow it; where nothing changes, they prove it.
3. `potentials`: else a few Sinkhorn iterations, at temperatures that fall, give potentials near the optimal
   duals, and the pairs of least slack: about 24 a row and 8 a column.
4. `sparse_assignment`: shortest augmenting paths make an exact optimum of those pairs, with duals u and v.
5. `pricing`: an optimum of all pairs has u_i + v_j <= c_ij for each. Float32 products rule out what is
   further from that than they can err; the rest is looked at in float64. Pairs that are violated join the
   graph: 4 again.
6. `proof`, `block_costs`: where duals leave several optima open, or none beyond their rounding, ties are
   settled block by block, if need be in whole numbers, for the optimum that lets most points stay.
7. `interval`: where the time ends before, duals and the best assignment known still bound the score.

`solve` is this in order. `duals` translates between the scales of 3, of 4 to 6, and of the caller;
`rounding` derives what each number may be off by; `passes` are the kernels; `products` makes the tiles and
watches the clock. Problems of a few hundred points go to `dense_assignment`, all pairs and many problems at
once.
"""
