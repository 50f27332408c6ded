"""The producing plane: records on their way to the broker, and what it says of them."""
