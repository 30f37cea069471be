# An image for work pools of containers: docs/how-to/work-pools.md. One image serves CPUs and GPUs: the
# wheels of the lock bring CUDA's libraries with them, about 8 GB. For GPUs the machine needs its
# driver and NVIDIA's container toolkit, and the container has to ask for GPUs.
FROM python:3.11-slim

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1

# Triton compiles a library when it starts its first kernel on a GPU.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

# What changes seldom comes first: this layer is built again only when a lock changes. The client of
# object stores is in the development lock.
WORKDIR /build
COPY requirements.lock requirements-dev.lock ./
RUN pip install --require-hashes --requirement requirements.lock \
    && sed -n '/^obstore==/,/[^\\]$/p' requirements-dev.lock > remote.lock \
    && pip install --require-hashes --no-deps --requirement remote.lock

COPY pyproject.toml README.md LICENSE prefect.yaml ./
COPY configs configs
COPY deepcluster deepcluster
COPY deepcluster_core deepcluster_core
COPY flows flows
COPY stages stages
RUN pip install --no-deps --no-build-isolation . && rm -rf /build

# A user without rights. What it writes, runs in /work and downloads in /scratch, is lost with the
# container unless these are volumes; a run on an object store needs neither.
RUN useradd --uid 1000 --create-home deepcluster && install -d -o deepcluster /work /scratch
USER deepcluster
WORKDIR /work
ENV XDG_CACHE_HOME=/scratch
# Prefect's workers put their own command here.
CMD ["deepcluster", "--help"]
