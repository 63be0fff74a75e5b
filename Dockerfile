# One image for all that docker-compose.yml runs of hpo: schema, dashboard and coordinator.
#
# On Linux pip installs PyTorch with the libraries for NVIDIA GPUs, several gigabytes. For an image
# without them, build with the address of PyTorch's index of CPU wheels, which pytorch.org names:
#   docker compose build --build-arg PIP_EXTRA_INDEX_URL=…
FROM python:3.11-slim

ARG PIP_EXTRA_INDEX_URL=
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1

WORKDIR /opt/hpo
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY hpo hpo
COPY objectives objectives
COPY storage storage
RUN pip install --constraint constraints.txt '.[demo]'

# What a study leaves besides its database goes to /study/runs, a volume. It has to belong to this
# user in the image already: a new volume takes its owner from there.
RUN useradd --uid 1000 --create-home hpo \
    && install --directory --owner hpo /study /study/runs /home/hpo/.cache
USER hpo
WORKDIR /study
ENTRYPOINT ["python", "-m", "hpo.run"]
