"""What is wrong with a deployment and can be seen before it: s.yaml, the environment, the RAM policies.

An error is refused by Function Compute, or works and is not what was meant; a warning is a choice worth a second look.
"""
