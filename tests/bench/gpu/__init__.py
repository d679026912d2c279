"""A kit for any NVIDIA machine without network: the exact shapes of the production checkpoint, and its ratio to the
card's own limit. Its pure parts are tested without a GPU."""
