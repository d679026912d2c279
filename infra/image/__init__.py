"""What builds, checks, pushes and tries the GPU image (`Dockerfile` at the top). Nothing here runs in the service.

bake.py (with transfer.py), prove_sm75.py and warm_modelinfo.py are copied into the build one by one and run there by
themselves: the standard library only, and in the last one the vLLM of the image.
"""
