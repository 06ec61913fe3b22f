"""See how good a run is: a page, comparisons of runs, and a model card."""
