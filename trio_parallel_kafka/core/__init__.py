"""The pure core: synchronous state machines without Trio, client, clock or logging."""
