"""The hub's addresses, one module a family."""
