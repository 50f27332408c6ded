"""The execution plane: what runs handlers."""
