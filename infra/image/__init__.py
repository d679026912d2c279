"""What builds, checks, pushes and tries the GPU image (`Dockerfile` at the top). Nothing here runs in the service.

bake.py, prove_sm75.py and warm_modelinfo.py run inside the build, by themselves: the standard library only, and in
the last one the vLLM of the image. So does the service's own engine/outline.py, once.
"""
