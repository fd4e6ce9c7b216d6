# For machines with NVIDIA GPUs: docker build -t pcnet-prep . && docker run --rm --gpus all pcnet-prep
FROM nvidia/cuda:12.8.0-runtime-ubuntu24.04

# Triton compiles its launchers when a kernel is first used: it needs a C compiler and Python's headers.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-dev python3-venv gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

COPY pyproject.toml README.md LICENSE NOTICE cli.py /src/
COPY prep /src/prep
COPY pcnet /src/pcnet
# KubeRay submits a RayJob through the dashboard, which ray[default] brings.
RUN python3 -m venv /opt/pcnet \
    && /opt/pcnet/bin/pip install --no-cache-dir '/src[all]' 'ray[default]' \
    && rm -rf /src

# What models leave behind (Hugging Face, torch, vLLM, Triton) goes to /cache, whoever runs the container.
RUN useradd --create-home --uid 10001 pcnet && mkdir --mode 1777 /cache /work
ENV PATH=/opt/pcnet/bin:$PATH HOME=/cache HF_HOME=/cache/huggingface
USER pcnet
VOLUME /cache
WORKDIR /work
CMD ["pcnet-prep", "--help"]
