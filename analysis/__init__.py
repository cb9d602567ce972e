"""WHAT IT SAYS: runs -> one tidy table -> statistics -> figures, LaTeX, HTML report, TensorBoard view."""
