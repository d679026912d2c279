# The GPU image: vLLM on CUDA, the model's weights and the service. Built by `make image`; linux/amd64 only.
#
# Size (gate: infra/image/size.py, 15 GB compressed): what the numbers are made of is said there.
# Layers, from rarely to often changed: system, Python packages, weights, warm caches, code. A new version of the code
# pushes well under 1 MB: COPY --link makes a layer's digest independent of the layers below it. A build without any cache
# pushes no more: the same content is the same layer. So every file in it is of one time, whole folders of / are copied (one
# made on the way would be of now), and logs and caches with times inside are emptied (what is deleted leaves a mark of now).
#
# Docker 23 or newer: the first whose own BuildKit knows COPY --link. Hence no `# syntax=` line: it would have every
# build fetch another parser from Docker Hub, which mainland China and closed networks do not reach.

# Python 3.12.15 on Debian 12. The digest is the multi-platform index that Docker Hub served for
# python:3.12-slim-bookworm on 2026-10-02; several public repositories record the same one, for example
# "Docker Hub registry API, HEAD /v2/library/python/manifests/3.12-slim-bookworm, 2026-10-02".
# Newer: `docker buildx imagetools inspect python:3.12-slim-bookworm`. A mirror: --build-arg PYTHON_IMAGE=...
ARG PYTHON_IMAGE=python:3.12.15-slim-bookworm@sha256:54c85f3c47607a77f32adec749d3c81d1348bf25833671f512b26a9b6d778cb3

# cu130 (FC's documented driver 580.95.05 is CUDA 13.0's own) or cu129 (a driver 525-579, or hibernation trouble).
ARG CUDA=cu130

# The time of every file, as in infra/image/bake.py.
ARG FILE_TIME=2026-01-01T00:00:00Z


FROM ${PYTHON_IMAGE} AS venv
ARG PIP_INDEX_URL
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH


FROM venv AS packages-cu130
COPY code/requirements/cuda.txt /tmp/
ARG FILE_TIME
# Compiled, so that no start does. unchecked-hash: the interpreter looks neither at the sources' times nor into the sources. By
# one process, for what Python writes depends on what it has compiled before. Some files are for other versions of Python and do
# not compile. All in one instruction: a change of times in the next one would double the layer.
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --no-compile --no-deps --require-hashes -r /tmp/cuda.txt \
    && { python -m compileall -qf --invalidation-mode unchecked-hash /opt/venv/lib || true; } \
    && find /opt -exec touch -hd ${FILE_TIME} {} +


# Not locked: the CUDA 12.9 wheels of vLLM live on an index of their own. 0.29.0 is the newest that is reported to run
# on Turing cards (two public ports for the T10); 0.30.0 and 0.31.0 for cu129 are broken as published.
FROM venv AS packages-cu129
COPY code/requirements/cuda.in code/requirements/cuda.overrides.txt /tmp/
ARG FILE_TIME
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=cache,target=/root/.cache/uv \
    pip install uv==0.13.9 \
    && sed 's/^vllm==.*/vllm==0.29.0+cu129\ntorch==2.13.0+cu129/' /tmp/cuda.in > /tmp/cu129.in \
    && UV_LINK_MODE=copy uv pip install --python /opt/venv/bin/python \
       -r /tmp/cu129.in --overrides /tmp/cuda.overrides.txt \
       --extra-index-url https://wheels.vllm.ai/0.29.0/cu129 \
       --extra-index-url https://download.pytorch.org/whl/cu129 --index-strategy unsafe-best-match \
    && pip uninstall -y uv \
    && { python -m compileall -qf --invalidation-mode unchecked-hash /opt/venv/lib || true; } \
    && find /opt -exec touch -hd ${FILE_TIME} {} +


# One of the two stages above.
# hadolint ignore=DL3006
FROM packages-${CUDA} AS packages
COPY infra/image/prove_sm75.py /tmp/
# A wheel without code for the T4 would start, load the weights for a minute and then fail; fail here instead.
RUN python /tmp/prove_sm75.py


FROM ${PYTHON_IMAGE} AS weights
# huggingface or modelscope; the checksums in weights.json make both the same. HF_ENDPOINT: a mirror's address.
ARG MODEL_SOURCE=huggingface
ARG HF_ENDPOINT
ARG MODELSCOPE_ENDPOINT
WORKDIR /bake
COPY infra/image/bake.py infra/image/transfer.py infra/image/weights.json infra/image/
# The cache outlives a failed build: the next one goes on where this one stopped.
RUN --mount=type=cache,id=chatbot-llm-weights,target=/var/cache/weights,sharing=locked \
    python -m infra.image.bake fetch --source "${MODEL_SOURCE}" --to /var/cache/weights --install /models


# What this build's vLLM notes of the models, which are only looked at, not copied; and what is not in it of the kernels and
# memory profile of a real T4, when `make local-test` has left them there (else only a README).
FROM packages AS warm
ENV VLLM_CACHE_ROOT=/warm/opt/warm/vllm
COPY infra/image/warm/ /kept/
COPY infra/image/warm_modelinfo.py /tmp/
ARG FILE_TIME
RUN --mount=type=bind,from=weights,source=/models,target=/models \
    python /tmp/warm_modelinfo.py /models \
    && cp -rn /kept/. /warm/opt/warm \
    && find /warm -exec touch -hd ${FILE_TIME} {} +


FROM ${PYTHON_IMAGE} AS code
COPY code/chatbot_llm /app/code/chatbot_llm
COPY code/gunicorn.conf.py /app/code/
ARG FILE_TIME
RUN python -m compileall -q --invalidation-mode unchecked-hash /app/code \
    && find /app -exec touch -hd ${FILE_TIME} {} +


FROM ${PYTHON_IMAGE}
# Triton compiles a launcher with gcc when a kernel is not in its cache.
ARG FILE_TIME
# The lists go by another way than rm: what the base already has of that folder stays.
# hadolint ignore=DL3009
RUN touch /before \
    && apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && find /var/lib/apt/lists -type f ! -name lock -delete \
    && find /var/log /var/cache/apt /var/cache/ldconfig -type f -exec truncate -s 0 {} + \
    && find /etc /usr /var /tmp /run -xdev -newer /before ! -path /etc/hosts ! -path /etc/resolv.conf \
       -exec touch -hd ${FILE_TIME} {} + \
    && rm /before

COPY --link --from=packages /opt /opt
COPY --link --from=weights /models /models
COPY --link --from=warm /warm /
COPY --link --from=code /app /app

# No LD_LIBRARY_PATH: the packages find their CUDA libraries by themselves, and libcuda is the host driver's alone.
# The NVIDIA_ pair is what the container runtime reads; a base that is not NVIDIA's must say it itself.
# What else vLLM reads from the environment is set, with its reasons, in code/chatbot_llm/engine/profiles.py.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app/code \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    HF_HUB_OFFLINE=1 \
    TRANSFORMERS_OFFLINE=1 \
    VLLM_CACHE_ROOT=/opt/warm/vllm \
    TRITON_CACHE_DIR=/opt/warm/triton \
    CHATBOT_PROFILE=t4 \
    CHATBOT_MODEL_DIR=/models

# Root, on purpose: FC's page on hibernating GPU instances asks for it. It is root with little to do: the service writes
# below /opt/warm and /tmp only, and `make local-test` runs it without capabilities and without new privileges.
WORKDIR /app
# `make push` knows by the revision that a tag is there already.
ARG VERSION=unversioned
ARG REVISION=unknown
LABEL org.opencontainers.image.title=chatbot-llm \
      org.opencontainers.image.version=${VERSION} \
      org.opencontainers.image.revision=${REVISION}
EXPOSE 8000

# No shell, so SIGTERM reaches the service. No CMD: what follows the image's name, and customContainerConfig.command on
# FC, are vLLM serve flags; without any, the profile's stand.
ENTRYPOINT ["python", "-m", "chatbot_llm"]
