# The web page on a CPU. For training on a GPU, see docs/how-to/install.md: two build arguments.
FROM python:3.11-slim AS build
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .
COPY constraints.txt /wheels/

FROM python:3.11-slim
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=web,dicom
# The wheel is lent by the first stage, so that no layer keeps a second copy of the weights.
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --index-url "$TORCH_INDEX" "$(grep '^torch==' /wheels/constraints.txt)" \
    && pip install --no-cache-dir -c /wheels/constraints.txt "$(echo /wheels/*.whl)[$EXTRAS]"
# HOME and USER hold for any `docker run --user`, which need not be known inside.
ENV HOME=/tmp USER=tumorlens
USER 1000:1000
WORKDIR /app
EXPOSE 7860
ENTRYPOINT ["tumorlens"]
CMD ["serve", "--checkpoint", "se_resnet18", "--host", "0.0.0.0", "--allowed_host", "localhost"]
