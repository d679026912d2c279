"""What builds, checks, pushes and tries the GPU image (`Dockerfile` at the top). Nothing here runs in the service.

bake.py and prove_sm75.py run inside the build, before any package is there: the standard library only.
"""
