"""One module per method: its `Options`, and `run(problem, key, session, options)`."""
