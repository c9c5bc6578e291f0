# A runner on one NVIDIA GPU. Built from the root of the repository, and started with GPUs:
#   docker build -f docker/runner-cuda.Dockerfile -t finegrain-runner-cuda .
# The base says which driver it needs (NVIDIA_REQUIRE_CUDA), so that a container does not start over an older one. The CUDA
# libraries themselves come with torch, of the version that it was built for.
FROM node:24.21.0-bookworm-slim@sha256:0e0ff40c39bc087845bfb27465a0df4ea419520094bc35842ff83dd8cbe6f9b6 AS packages
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
COPY docker/scripts/install-packages.sh docker/scripts/prune-packages.sh docker/scripts/
RUN docker/scripts/install-packages.sh

FROM nvidia/cuda:13.0.2-base-ubuntu24.04@sha256:2ab6381d970b211fb93853796dc6707eb8a72575a375c422b17cf4d8b2641701
COPY docker/scripts/install-system.sh docker/scripts/install-python.sh /app/docker/scripts/
WORKDIR /app
RUN docker/scripts/install-system.sh ca-certificates python3 python3-venv tini
COPY runners/requirements.lock runners/requirements-cuda.txt runners/
RUN docker/scripts/install-python.sh cuda /opt/python runners/requirements.lock runners/requirements-cuda.txt
COPY --from=packages /usr/local/bin/node /usr/local/bin/node
COPY --from=packages /app/node_modules node_modules
COPY package.json LICENSE ./
COPY docker/scripts/entrypoint.sh docker/scripts/healthy.mjs docker/scripts/
COPY runners/finegrain_trainer runners/finegrain_trainer
RUN /opt/python/bin/python -m compileall -q runners/finegrain_trainer
COPY src src
RUN node src/build.mjs
ENV NODE_ENV=production \
    FINEGRAIN_DATA_DIR=/var/lib/finegrain \
    FINEGRAIN_PYTHON=/opt/python/bin/python \
    FINEGRAIN_RUNNER_HARDWARE=cuda \
    HOME=/var/lib/finegrain \
    HF_HOME=/var/lib/finegrain/huggingface
USER 10001:10001
VOLUME /var/lib/finegrain
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 \
  CMD ["node", "/app/docker/scripts/healthy.mjs", "runner"]
# tini ends what a trainer leaves behind; the runner itself waits for its trainer's checkpoint
ENTRYPOINT ["/usr/bin/tini", "--", "/app/docker/scripts/entrypoint.sh"]
CMD ["node", "dist/src/main-runner.js"]
