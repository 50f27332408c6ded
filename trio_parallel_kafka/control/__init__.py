"""The control plane: what talks to Kafka, and decides."""
