"""WHAT: one module a stage. Each opens its inputs, calls the core and writes its artifact."""
