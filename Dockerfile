# An image of the `wavlm` command, built without a network from a folder of wheels (docs/install.md):
#   pip wheel -c constraints.txt --wheel-dir wheels '.[corpus,hf,sweep]'
#   docker build --network none --tag wavlm .
# The wheels must fit the Python and the processor of the base image.
FROM python:3.11-slim
COPY wheels /wheels
# `pip wheel` has resolved the dependencies, of the extras too: every wheel of the folder is installed, and nothing is looked up.
RUN pip install --no-index --no-deps --no-cache-dir /wheels/*.whl && rm -rf /wheels && pip check
# The container may run as any user (`--user`): nothing is written to a home folder.
ENV WAVLM_CACHE=/work/cache MPLCONFIGDIR=/tmp/matplotlib
RUN mkdir -m 777 /work
WORKDIR /work
ENTRYPOINT ["wavlm"]
CMD ["--help"]
