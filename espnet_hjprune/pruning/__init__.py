"""Hard-concrete gates, cost model, sparsity constraint, discretisation and slicing."""
