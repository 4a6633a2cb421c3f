# The versions of requirements.txt, on the Python of the shipped runs: their text is the documentation of that Python.
#   docker build -t ctadam .
#   docker run --rm ctadam                     derive every figure and verdict from the shipped runs, and compare
#   docker run --rm ctadam make reproduce      retrain everything at laptop scale
FROM python:3.11.7-slim-bookworm

RUN apt-get update \
    && apt-get install -y --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /ctadam
COPY . .
# The checkout belongs to another user outside the container, and git would refuse it.
RUN git config --system --add safe.directory /ctadam \
    && PIP_NO_CACHE_DIR=1 make environment
ENV PATH=/ctadam/.venv/bin:$PATH

CMD ["make", "cached"]
