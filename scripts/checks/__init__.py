"""The rules of scripts/lint, one module a subject; none needs anything but Python's own library."""
