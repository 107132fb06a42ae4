"""Several processes that make one run: what a process knows of the others, and how samples are divided among them."""
