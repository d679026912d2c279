"""Function Compute as it is: nothing here knows what this service wants of it."""
