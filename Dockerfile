# clipsieve with everything it needs, for every engine (docs/clusters.md):
#
#   docker build --tag clipsieve .                      the command line, Dask workers, Beam worker pools
#   docker build --tag clipsieve-beam --target beam .   Beam's boot program as entry point: Dataflow, Flink
#
# --build-arg EXTRAS=dask,gcs                           other extras of setup.py
# --build-arg MODEL=ViT-B-32 --build-arg PRETRAINED=laion2b_s34b_b79k
#                                                       weights as a layer; else mount them at /opt/weights
# --build-arg PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
#                                                       torch without CUDA, for machines without GPUs
#
# torch brings the CUDA libraries that it was built with: no CUDA image is needed, only the driver.

# Its boot program must be of the Beam and Python versions below, which are those of constraints.txt.
FROM apache/beam_python3.11_sdk:2.77.0 AS boot


FROM python:3.11.14-slim-bookworm AS build
ARG PIP_EXTRA_INDEX_URL
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/clipsieve
ENV PATH=/opt/clipsieve/bin:$PATH
WORKDIR /build

# Requirements first, with a package that is still empty: this layer stays when only code changes.
COPY setup.py pyproject.toml constraints.txt LICENSE ./
ARG EXTRAS=dask,s3
RUN mkdir -p src/clipsieve schemas transforms pipelines \
    && pip install --constraint constraints.txt ".[$EXTRAS]" \
    && rm -rf build src

COPY schemas schemas
COPY transforms transforms
COPY pipelines pipelines
COPY src src
RUN pip install --no-deps --force-reinstall .


FROM python:3.11.14-slim-bookworm AS runtime
RUN useradd --no-log-init --create-home --uid 10001 clipsieve \
    && mkdir /opt/weights \
    && chown 10001 /opt/weights
COPY --from=build /opt/clipsieve /opt/clipsieve
# The driver's libraries are under /usr/local/nvidia on Google's machines.  Beam would otherwise make
# a virtual environment of its own at each start, without what is installed here.
ENV PATH=/opt/clipsieve/bin:/usr/local/nvidia/bin:$PATH \
    LD_LIBRARY_PATH=/usr/local/nvidia/lib64 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    HF_HOME=/opt/weights \
    PYTHONUNBUFFERED=1 \
    RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1
WORKDIR /home/clipsieve
# Kubernetes can tell only of a number that it is not root.
USER 10001
ARG MODEL
ARG PRETRAINED
# The command that looks at a model also fetches it.
RUN if [ -n "$MODEL" ]; then \
        clipsieve doctor --device cpu --model "$MODEL" ${PRETRAINED:+--pretrained "$PRETRAINED"}; \
    fi


FROM runtime AS beam
COPY --from=boot /opt/apache/beam /opt/apache/beam
# Dataflow was reported to need root, since it mounts folders that only root can write to:
# --build-arg RUN_AS=root
ARG RUN_AS=10001
USER $RUN_AS
ENTRYPOINT ["/opt/apache/beam/boot"]


# The last stage is built when none is named.  It has no entry point: its command is any program.
FROM runtime AS clipsieve
CMD ["clipsieve", "--help"]
