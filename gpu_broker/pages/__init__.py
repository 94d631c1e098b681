"""The page for people: the pool for administrators, one's own slices for everybody else."""
