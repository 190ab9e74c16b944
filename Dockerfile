# docker build -t harness . && docker run --rm -v "$PWD/out:/out" --user "$(id -u)" --shm-size 1g harness
# For GPUs: FROM pytorch/pytorch (its runtime image, with gcc and python3-dev added), without the line that installs torch,
# and `docker run --gpus all`.
FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
COPY . /src
RUN pip install --no-cache-dir torch --index-url https://download.pytorch.org/whl/cpu \
    && pip install --no-cache-dir "/src[all]"
ENV HOME=/tmp USER=harness
WORKDIR /out
ENTRYPOINT ["python", "-m", "harness"]
CMD ["sweep"]
